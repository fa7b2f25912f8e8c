/* options_suggest.c - commands, and words that are no command or option: what was meant instead.
 *
 * A suggestion is, in this order: the option of ours that another program calls so, the option of
 * another command, one that begins so, the one fewest edits away. See options.h.
 */
#include <string.h>

#include "options_table.h"

/* Edits (change, insert, drop, swap of neighbours) that turn a into b; more than 31 bytes count as
 * far away. */
static size_t distance(const char *a, size_t n_a, const char *b) {
    enum { MOST = 31 };
    size_t n_b = strlen(b);
    if (n_a > MOST || n_b > MOST) return MOST;
    size_t edits[MOST + 1][MOST + 1];
    for (size_t row = 0; row <= n_a; row++) {
        for (size_t column = 0; column <= n_b; column++) {
            if (row == 0 || column == 0) {
                edits[row][column] = row + column;
                continue;
            }
            size_t least = edits[row - 1][column - 1] + (a[row - 1] != b[column - 1]);
            if (edits[row - 1][column] + 1 < least) least = edits[row - 1][column] + 1;
            if (edits[row][column - 1] + 1 < least) least = edits[row][column - 1] + 1;
            bool swapped =
                row > 1 && column > 1 && a[row - 1] == b[column - 2] && a[row - 2] == b[column - 1];
            if (swapped && edits[row - 2][column - 2] + 1 < least)
                least = edits[row - 2][column - 2] + 1;
            edits[row][column] = least;
        }
    }
    return edits[n_a][n_b];
}

static bool in_words(const char *words, const char *name, size_t n_bytes) {
    while (words && *words) {
        size_t length = strcspn(words, " ");
        if (length == n_bytes && !memcmp(words, name, n_bytes)) return true;
        words += length + (words[length] == ' ');
    }
    return false;
}

/* The option of `command` that someone who typed `name` most likely meant, or NULL. */
static const struct option_row *find_nearest(const char *name, size_t n_bytes,
                                             enum command command) {
    size_t n_rows, nearest_edits = n_bytes > 5 ? n_bytes / 3 : 1; /* more is guessing */
    const struct option_row *row = options_rows(&n_rows), *nearest = NULL, *begun = NULL;
    for (const struct option_row *end = row + n_rows; row < end; row++) {
        if (!(row->commands & 1u << command)) continue;
        if (in_words(row->also, name, n_bytes)) return row;
        size_t edits = distance(name, n_bytes, row->name);
        if (edits < nearest_edits || (edits == nearest_edits && !nearest)) {
            nearest = row;
            nearest_edits = edits;
        }
        if (!begun && n_bytes > 1 && !strncmp(row->name, name, n_bytes)) begun = row;
    }
    return begun ? begun : nearest;
}

/* "step, attention, wire" of bench: the second words of the commands whose first is `word`. */
static void list_second_words(const char *word, char *out, size_t size) {
    size_t n, n_bytes = strlen(word);
    const struct command_row *row = options_commands(&n);
    *out = 0;
    for (size_t index = 0; index < n; index++) {
        const char *name = row[index].name;
        if (row[index].unbuilt || strncmp(name, word, n_bytes) || name[n_bytes] != ' ') continue;
        size_t length = strlen(out);
        snprintf(out + length, size - length, "%s%s", length ? ", " : "", name + n_bytes + 1);
    }
}

bool options_refuse_command(int argc, char **argv, struct fault *fault) {
    size_t n, nearest = 0, nearest_edits = SIZE_MAX;
    const struct command_row *row = options_commands(&n);
    const char *word = argv[1];
    for (size_t index = 0; index < n; index++) {
        if (row[index].unbuilt && options_match_command(&row[index], argc, argv))
            return fault_user(fault, "lamina %s is not built yet; it is to %s", row[index].name,
                              row[index].unbuilt);
        size_t edits = distance(word, strlen(word), row[index].name);
        if (edits < nearest_edits) {
            nearest = index;
            nearest_edits = edits;
        }
    }
    char second[128];
    list_second_words(word, second, sizeof second);
    if (*second && argc > 2)
        return fault_user(fault, "unknown command %s %s; there are: %s", word,
                          options_quote(argv[2]).text, second);
    if (*second) return fault_user(fault, "lamina %s needs one word more: %s", word, second);
    if (nearest_edits <= 2)
        return fault_user(fault, "unknown command %s; did you mean lamina %s?",
                          options_quote(word).text, row[nearest].name);
    return fault_user(fault, "unknown command %s; lamina --help lists the commands",
                      options_quote(word).text);
}

bool options_refuse_unknown(const char *word, size_t n_bytes, enum command command,
                            struct fault *fault) {
    struct option_quoted typed;
    log_escape(typed.text, sizeof typed.text, word, n_bytes);
    size_t n_dashes = strspn(word, "-"), n_name = n_bytes - n_dashes;
    char name[64] = ""; /* --max_tokens is meant as --max-tokens */
    for (size_t at = 0; at < n_name && at + 1 < sizeof name; at++)
        name[at] = word[n_dashes + at] == '_' ? '-' : word[n_dashes + at];
    if (n_name >= sizeof name) n_name = sizeof name - 1;
    for (int other = 0; other < COMMANDS; other++) {
        if (word[1] == '-' && options_find(name, n_name, (enum command)other))
            return fault_user(fault, "%s is an option of lamina %s, not of lamina %s", typed.text,
                              command_name((enum command)other), command_name(command));
    }
    const struct option_row *nearest = find_nearest(name, n_name, command);
    if (nearest && n_name > 1)
        return fault_user(fault, "unknown option %s; did you mean --%s?", typed.text,
                          nearest->name);
    return fault_user(fault, "unknown option %s; lamina %s --help lists the options", typed.text,
                      command_name(command));
}
