/* The table of options is sound, and the man pages and help texts say what it says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h> /* needs those above */

#include "../src/job/options_table.h"

static const struct option_row *rows;
static size_t n_rows;

static void names_and_letters_are_unique_in_a_command(void **state) {
    (void)state;
    for (size_t a = 0; a < n_rows; a++) {
        for (size_t b = a + 1; b < n_rows; b++) {
            if (!(rows[a].commands & rows[b].commands)) continue;
            assert_string_not_equal(rows[a].name, rows[b].name);
            if (rows[a].letter) assert_int_not_equal(rows[a].letter, rows[b].letter);
        }
    }
}

static void rows_are_complete(void **state) {
    (void)state;
    for (size_t index = 0; index < n_rows; index++) {
        const struct option_row *row = &rows[index];
        size_t n_bytes = strlen(row->name);
        bool takes_none = row->kind == OPTION_FLAG || row->kind == OPTION_CONSTANT;
        bool numeric =
            row->kind == OPTION_INT || row->kind == OPTION_COUNT || row->kind == OPTION_REAL;
        bool sound = strspn(row->name, "abcdefghijklmnopqrstuvwxyz-") == n_bytes && n_bytes > 1 &&
                     row->commands && (row->argument == NULL) == takes_none;
        if (row->unbuilt) {
            sound = sound && row->target == NO_TARGET && !row->initial && !row->help;
        } else {
            sound = sound && row->help && strlen(row->help) < 200;
            sound = sound && (!row->initial || !row->derived);
            sound = sound && (row->kind != OPTION_CHOICE || row->choice);
            sound = sound && (!numeric || row->least < row->most);
            sound = sound && (row->built_most == 0 || row->beyond);
            sound = sound && (row->target != NO_TARGET || row->kind == OPTION_CHOICE ||
                              row->kind == OPTION_PARTITION || row->kind == OPTION_FILES);
        }
        if (index > 0) sound = sound && row->group >= rows[index - 1].group;
        if (!sound) fail_msg("row of --%s", row->name);
    }
}

/* Names of other programs lead to one option, and are none of ours. */
static void suggestions_are_unambiguous(void **state) {
    (void)state;
    char seen[4096] = " ";
    for (size_t index = 0; index < n_rows; index++) {
        if (!rows[index].also) continue;
        char also[256];
        snprintf(also, sizeof also, "%s", rows[index].also);
        for (char *rest = also, *name; (name = strsep(&rest, " "));) {
            char padded[128];
            snprintf(padded, sizeof padded, " %s ", name);
            assert_null(strstr(seen, padded));
            assert_null(options_find(name, strlen(name), COMMAND_GENERATE));
            strcat(seen, padded + 1);
        }
    }
}

/* ---- the man pages ---- */

/* The first word of a command names its page. */
static bool same_page(enum command a, enum command b) {
    size_t n_bytes = strcspn(command_name(a), " ");
    return n_bytes == strcspn(command_name(b), " ") &&
           memcmp(command_name(a), command_name(b), n_bytes) == 0;
}

/* Whether one of the commands on the page of `command` has the option. */
static bool page_has(enum command command, const char *name, size_t n_bytes) {
    for (int other = 0; other < COMMANDS; other++) {
        if (same_page((enum command)other, command) &&
            options_find(name, n_bytes, (enum command)other))
            return true;
    }
    return false;
}

static char *read_page(enum command command) {
    char path[512];
    const char *name = command_name(command);
    snprintf(path, sizeof path, TESTS_DIR "/../docs/man/lamina-%.*s.1", (int)strcspn(name, " "),
             name);
    FILE *file = fopen(path, "r");
    if (!file) fail_msg("cannot open %s", path);
    size_t capacity = 1 << 20;
    char *page = calloc(1, capacity);
    size_t n_bytes = fread(page, 1, capacity - 1, file);
    assert_true(n_bytes > 0 && n_bytes < capacity - 1);
    fclose(file);
    return page;
}

/* A line of roff as plain text: fonts and quoting dropped, \- as -. */
static void unmark(char *out, size_t size, const char *line) {
    size_t at = 0;
    for (; *line && *line != '\n' && at + 1 < size; line++) {
        if (line[0] == '\\' && line[1] == 'f' && line[2]) {
            line += 2;
        } else if (line[0] != '\\') {
            out[at++] = *line;
        }
    }
    out[at] = 0;
}

/* The line under the .TP that opens the entry of an option, as plain text; false when none is. */
static bool find_entry(const char *page, const char *name, char *entry, size_t size) {
    char dashed[64];
    snprintf(dashed, sizeof dashed, "--%s", name);
    for (const char *tag = page; (tag = strstr(tag, "\n.TP\n"));) {
        tag += strlen("\n.TP\n");
        unmark(entry, size, tag);
        const char *found = strstr(entry, dashed);
        char behind = found ? found[strlen(dashed)] : 'x';
        if (found && (behind == 0 || behind == ' ')) return true;
    }
    return false;
}

static void every_option_stands_in_its_page(void **state) {
    (void)state;
    for (int command = 0; command < COMMANDS; command++) {
        char *page = read_page((enum command)command);
        for (size_t index = 0; index < n_rows; index++) {
            const struct option_row *row = &rows[index];
            if (!(row->commands & 1u << command)) continue;
            char entry[256], expected[128];
            snprintf(expected, sizeof expected, "%s%c%s--%s%s%s", row->letter ? "-" : "",
                     row->letter ? row->letter : ' ', row->letter ? ", " : "", row->name,
                     row->argument ? " " : "", row->argument ? row->argument : "");
            if (!find_entry(page, row->name, entry, sizeof entry))
                fail_msg("lamina-%s.1 has no entry for --%s", command_name((enum command)command),
                         row->name);
            assert_string_equal(entry, expected + (row->letter ? 0 : 1));
        }
        free(page);
    }
}

static void every_entry_is_an_option(void **state) {
    (void)state;
    for (int command = 0; command < COMMANDS; command++) {
        char *page = read_page((enum command)command);
        for (const char *tag = page; (tag = strstr(tag, "\n.TP\n"));) {
            char entry[256];
            tag += strlen("\n.TP\n");
            unmark(entry, sizeof entry, tag);
            const char *name = strstr(entry, "--");
            if (!name || strstr(entry, "--help")) continue;
            name += 2;
            if (!page_has((enum command)command, name, strcspn(name, " ")))
                fail_msg("lamina-%s.1 has an entry for --%s", command_name((enum command)command),
                         name);
        }
        free(page);
    }
}

/* Add text as roff wants it: dashes are marked. */
static void mark(char *out, const char *text) {
    for (; *text; text++)
        strcat(out, *text == '-' ? "\\-" : (char[]){*text, 0});
}

/* A default of the table stands in brackets at the end of its entry. */
static void defaults_stand_in_the_page(void **state) {
    (void)state;
    for (int command = 0; command < COMMANDS; command++) {
        char *page = read_page((enum command)command);
        for (size_t index = 0; index < n_rows; index++) {
            const struct option_row *row = &rows[index];
            if (!(row->commands & 1u << command) || !row->initial) continue;
            char expected[128] = "Default: ", tag[256] = "\\-\\-";
            mark(tag, row->name);
            mark(expected, row->initial);
            strcat(expected, ".");
            const char *entry = strstr(page, tag);
            while (entry && strncmp(entry + strlen(tag), "\\fR", 3) != 0)
                entry = strstr(entry + 1, tag);
            assert_non_null(entry);
            const char *end = strstr(entry, "\n.TP\n");
            const char *section = strstr(entry, "\n.S");
            if (!end || (section && section < end)) end = section;
            const char *found = strstr(entry, expected);
            if (!found || found > end)
                fail_msg("lamina-%s.1, --%s: \"%s\" not found", command_name((enum command)command),
                         row->name, expected);
        }
        free(page);
    }
}

/* ---- help ---- */

static void help_shows_every_option_in_narrow_lines(void **state) {
    (void)state;
    for (int command = 0; command < COMMANDS; command++) {
        char *text = NULL;
        size_t n_bytes = 0;
        FILE *out = open_memstream(&text, &n_bytes);
        options_print_command_help((enum command)command, out);
        fclose(out);
        for (size_t index = 0; index < n_rows; index++) {
            char dashed[64];
            snprintf(dashed, sizeof dashed, "--%s", rows[index].name);
            if (rows[index].commands & 1u << command) assert_non_null(strstr(text, dashed));
        }
        for (char *rest = text, *line; (line = strsep(&rest, "\n"));) {
            size_t length = strlen(line);
            if (length > 92 || (length && line[length - 1] == ' ')) fail_msg("%s", line);
        }
        free(text);
    }
}

int main(void) {
    rows = options_rows(&n_rows);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_and_letters_are_unique_in_a_command),
        cmocka_unit_test(rows_are_complete),
        cmocka_unit_test(suggestions_are_unambiguous),
        cmocka_unit_test(every_option_stands_in_its_page),
        cmocka_unit_test(every_entry_is_an_option),
        cmocka_unit_test(defaults_stand_in_the_page),
        cmocka_unit_test(help_shows_every_option_in_narrow_lines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
