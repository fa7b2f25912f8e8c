/* options_help.c - help texts, printed from the table, and what asks for them. See options.h. */
#include <string.h>

#include "options_table.h"

enum { NAME_COLUMNS = 30, LINE_COLUMNS = 92 };

/* `text` from the cursor on, wrapped at blanks, later lines indented. */
static void print_wrapped(const char *text, FILE *out) {
    for (int column = NAME_COLUMNS; *text;) {
        int length = (int)strcspn(text, " ");
        bool wraps = column + 1 + length > LINE_COLUMNS;
        if (wraps) {
            fprintf(out, "\n%*s", NAME_COLUMNS, "");
            column = NAME_COLUMNS;
        } else if (column > NAME_COLUMNS) {
            fputc(' ', out);
            column += 1;
        }
        fprintf(out, "%.*s", length, text);
        column += length;
        text += length + (text[length] == ' ');
    }
    fputc('\n', out);
}

static void print_row(const struct option_row *row, FILE *out) {
    char name[64], text[512];
    char letter[] = {row->letter ? '-' : ' ', row->letter ? row->letter : ' ',
                     row->letter ? ',' : ' ', 0};
    int width = snprintf(name, sizeof name, "  %s --%s%s%s", letter, row->name,
                         row->argument ? " " : "", row->argument ? row->argument : "");
    const char *initial = row->initial ? row->initial : row->derived;
    snprintf(text, sizeof text, "%s%s%s%s", row->help, initial ? " [" : "", initial ? initial : "",
             initial ? "]" : "");
    fprintf(out, "%s", name);
    if (width + 2 > NAME_COLUMNS) {
        fputc('\n', out);
        width = 0;
    }
    fprintf(out, "%*s", NAME_COLUMNS - width, "");
    print_wrapped(text, out);
}

static void print_unbuilt(enum command command, FILE *out) {
    size_t n_rows;
    const struct option_row *row = options_rows(&n_rows);
    char text[1024] = "";
    for (const struct option_row *end = row + n_rows; row < end; row++) {
        if (!(row->commands & 1u << command) || !row->unbuilt) continue;
        size_t n_bytes = strlen(text);
        snprintf(text + n_bytes, sizeof text - n_bytes, "%s--%s", n_bytes ? ", " : "", row->name);
    }
    if (!*text) return;
    fprintf(out, "\nNot built yet, and refused:%*s", NAME_COLUMNS - 27, "");
    print_wrapped(text, out);
}

void options_print_command_help(enum command command, FILE *out) {
    size_t n_commands, n_rows;
    const struct command_row *about = &options_commands(&n_commands)[command];
    const struct option_row *rows = options_rows(&n_rows);
    fprintf(out, "lamina %s: %s\nUsage: lamina %s %s\n", about->name, about->summary, about->name,
            about->usage);
    for (enum option_group group = 0; group < OPTION_GROUPS; group++) {
        bool titled = false;
        for (const struct option_row *row = rows; row < rows + n_rows; row++) {
            if (row->group != group || row->unbuilt || !(row->commands & 1u << command)) continue;
            if (!titled) fprintf(out, "\n%s:\n", options_group_title(group));
            titled = true;
            print_row(row, out);
        }
    }
    print_unbuilt(command, out);
    fprintf(out,
            "\nDefaults stand in brackets. Sizes: 512M, 40G (powers of 1024). Durations: 90, 90s, "
            "10m,\n1h30m, D-HH:MM:SS. More: man lamina-%.*s\n",
            (int)strcspn(about->name, " "), about->name);
}

void options_print_help(FILE *out) {
    size_t n;
    int listed = 0;
    const struct command_row *row = options_commands(&n);
    fprintf(out, "lamina: batch LLM decoding on model ranks and attention ranks\n"
                 "Usage: [mpirun -n N] lamina COMMAND [OPTION...]\n\n");
    for (size_t index = 0; index < n; index++) {
        if (!row[index].unbuilt)
            fprintf(out, "  lamina %-17s%s\n", row[index].name, row[index].summary);
    }
    fprintf(out, "\nlamina COMMAND --help shows the options of a command, lamina --version the "
                 "versions of\nlamina and of what it was built with. Not built yet:");
    for (size_t index = 0; index < n; index++) {
        if (row[index].unbuilt) fprintf(out, "%s %s", listed++ ? "," : "", row[index].name);
    }
    fprintf(out, ". More: man lamina\n");
}

static bool is_help(const char *word) {
    return !strcmp(word, "--help") || !strcmp(word, "-h");
}

enum options_wish options_wants(int argc, char **argv, enum command *command) {
    if (argc < 2) return OPTIONS_RUN; /* options_parse says what is missing */
    if (is_help(argv[1])) return OPTIONS_HELP;
    if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V") || !strcmp(argv[1], "version"))
        return OPTIONS_VERSION;
    if (!strcmp(argv[1], "help")) {
        if (argc == 2) return OPTIONS_HELP;
        return command_find(argc - 1, argv + 1, command) ? OPTIONS_COMMAND_HELP : OPTIONS_HELP;
    }
    int n_words = command_find(argc, argv, command);
    if (n_words == 0) return argc > 2 && is_help(argv[2]) ? OPTIONS_HELP : OPTIONS_RUN;
    for (int at = 1 + n_words; at < argc && strcmp(argv[at], "--") != 0; at++) {
        if (is_help(argv[at])) return OPTIONS_COMMAND_HELP;
    }
    return OPTIONS_RUN;
}
