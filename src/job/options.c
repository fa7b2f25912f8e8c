/* options.c - argv to struct options, by the table. See options.h.
 *
 * One walk over argv: `--name value`, `--name=value`, `-x value`, `-xvalue`; `--` ends options. The
 * table decides what an option is and where its value goes; this file knows no single
 * option, save in check_together, where options contradict each other. Names are taken whole: a
 * shortened name that works today would break a job script when a longer one is added, and
 * getopt_long offers no way to say "not built yet", "not for this command" or "did you mean".
 *
 * What needs more than argv (world size, files, memory) is checked by those who know it.
 */
#include "options.h"

#include <stdlib.h>
#include <string.h>

#include "options_table.h"

/* argv on its way into *options. */
struct walk {
    struct options *options;
    struct fault *fault;
    int argc, at; /* argv[at] is looked at next */
    char **argv;
    int n_inputs;
    const char **input; /* (argc) */
    bool *given;        /* (rows of the table) */
};

/* ---- the walk ---- */

/* A word that is meant as an option where a value could stand; "-" and "-1" are values. */
static bool looks_like_option(const char *word) {
    return word[0] == '-' && (word[1] == '-' || (word[1] >= 'a' && word[1] <= 'z'));
}

/* -i takes all words up to the next option. */
static bool take_files(struct walk *walk, const struct option_row *row, const char *attached) {
    int n_before = walk->n_inputs;
    if (attached) {
        walk->input[walk->n_inputs++] = attached;
    } else {
        while (walk->at < walk->argc && !looks_like_option(walk->argv[walk->at]))
            walk->input[walk->n_inputs++] = walk->argv[walk->at++];
    }
    for (int index = n_before; index < walk->n_inputs; index++) {
        if (!*walk->input[index])
            return fault_user(walk->fault, "--%s was given an empty file name", row->name);
    }
    if (walk->n_inputs > n_before) return true;
    return fault_user(walk->fault, "--%s needs a value: --%s %s", row->name, row->name,
                      row->argument);
}

/* An option with what was written into the same word behind it, or NULL. */
static bool take_option(struct walk *walk, const struct option_row *row, const char *attached) {
    size_t n_rows;
    walk->given[row - options_rows(&n_rows)] = true;
    if (row->unbuilt) return options_refuse_unbuilt(row, NULL, row->unbuilt, walk->fault);
    if (row->kind == OPTION_FILES) return take_files(walk, row, attached);
    if (!row->argument) {
        if (attached)
            return fault_user(walk->fault, "--%s takes no value, found %s", row->name,
                              options_quote(attached).text);
        return options_read(walk->options, row, NULL, walk->fault);
    }
    if (attached) return options_read(walk->options, row, attached, walk->fault);
    if (walk->at >= walk->argc)
        return fault_user(walk->fault, "--%s needs a value: --%s %s", row->name, row->name,
                          row->argument);
    const char *value = walk->argv[walk->at];
    if (looks_like_option(value))
        return fault_user(walk->fault,
                          "--%s needs a value: --%s %s; found %s (if that is the value, write "
                          "--%s=%s)",
                          row->name, row->name, row->argument, options_quote(value).text, row->name,
                          options_quote(value).text);
    walk->at += 1;
    return options_read(walk->options, row, value, walk->fault);
}

static bool take_long(struct walk *walk, const char *word) {
    const char *name = word + 2;
    size_t n_bytes = strcspn(name, "=");
    const struct option_row *row = options_find(name, n_bytes, walk->options->command);
    if (!row) return options_refuse_unknown(word, n_bytes + 2, walk->options->command, walk->fault);
    return take_option(walk, row, name[n_bytes] ? name + n_bytes + 1 : NULL);
}

static bool take_letter(struct walk *walk, const char *word) {
    size_t n_rows;
    const struct option_row *row = options_rows(&n_rows), *end = row + n_rows;
    while (row < end && !(row->letter == word[1] && row->commands & 1u << walk->options->command))
        row++;
    /* "-resume" is a long option with one dash, not -r with a value */
    bool attached = word[2] != 0;
    if (row == end || (attached && !row->argument))
        return options_refuse_unknown(word, strcspn(word, "="), walk->options->command,
                                      walk->fault);
    if (attached && options_find(word + 1, strcspn(word + 1, "="), walk->options->command))
        return fault_user(walk->fault, "unknown option %s; did you mean -%s?",
                          options_quote(word).text, options_quote(word).text);
    return take_option(walk, row, attached ? word + 2 + (word[2] == '=') : NULL);
}

static bool take_operand(struct walk *walk, const char *word) {
    struct options *options = walk->options;
    bool generate = options->command == COMMAND_GENERATE;
    if (options->command != COMMAND_SLICES && options->command != COMMAND_INSPECT)
        return fault_user(walk->fault, "unexpected %s: it belongs to no option%s",
                          options_quote(word).text,
                          generate ? " (requests are given with -i FILE)" : "");
    if (options->model && options->command == COMMAND_INSPECT) { /* journals come in numbers */
        walk->input[walk->n_inputs++] = word;
        return true;
    }
    if (options->model)
        return fault_user(walk->fault, "unexpected %s: lamina %s takes one file, and %s is it",
                          options_quote(word).text, command_name(options->command),
                          options_quote(options->model).text);
    return options_read(options, options_find("model", strlen("model"), options->command), word,
                        walk->fault);
}

/* ---- options that would do nothing ---- */

/* One of the names in "trace|timeline", the first word of `names`, was given. */
static bool has_one(const struct walk *walk, const char *names) {
    size_t n_rows;
    const struct option_row *rows = options_rows(&n_rows);
    for (;; names++) {
        size_t n_bytes = strcspn(names, "| ");
        const struct option_row *row = options_find(names, n_bytes, walk->options->command);
        REQUIRE(row, "an option needs --%.*s, and there is none", (int)n_bytes, names);
        if (walk->given[row - rows]) return true;
        names += n_bytes;
        if (*names != '|') return false;
    }
}

static bool refuse_lone(const struct option_row *row, const char *names, struct fault *fault) {
    size_t n_bytes = strcspn(names, "| ");
    const char *other = names[n_bytes] == '|' ? names + n_bytes + 1 : "";
    return fault_user(
        fault, "--%s does nothing without --%.*s%s%.*s: leave it out, or give that too", row->name,
        (int)n_bytes, names, *other ? " or --" : "", (int)strcspn(other, " "), other);
}

static bool check_needs(const struct walk *walk, struct fault *fault) {
    size_t n_rows;
    const struct option_row *rows = options_rows(&n_rows);
    for (size_t at = 0; at < n_rows; at++) {
        const char *names = walk->given[at] ? rows[at].needs : NULL;
        while (names) {
            if (!has_one(walk, names)) return refuse_lone(&rows[at], names, fault);
            names = strchr(names, ' ');
            if (names) names++;
        }
    }
    return true;
}

/* ---- options that contradict each other ---- */

static bool check_files(const struct options *options, struct fault *fault) {
    int n_stdin = 0;
    for (int index = 0; index < options->n_inputs; index++)
        n_stdin += !strcmp(options->input[index], "-");
    bool to_stdout = options->output && !strcmp(options->output, "-");
    if (options->n_inputs == 0)
        return fault_user(fault, "no requests: give -i FILE (- is standard input)");
    if (!options->output && !options->dry_run)
        return fault_user(fault, "no place for answers: give -o FILE (- is standard output), or "
                                 "--dry-run to only check");
    if (n_stdin > 1)
        return fault_user(
            fault, "standard input (-) is given %d times with -i; it can be read once", n_stdin);
    if (options->resume && options->overwrite)
        return fault_user(fault, "--resume keeps the answers that are there and --overwrite drops "
                                 "them: give one of the two");
    if (options->resume && (n_stdin || to_stdout))
        return fault_user(fault, "--resume needs files: standard %s cannot be read again",
                          n_stdin ? "input" : "output");
    return true;
}

static bool check_footprint(const struct options *options, struct fault *fault) {
    return options->footprint >= 1 << 20 ||
           fault_user(fault, "--footprint %lld is less than 1M: it is to be larger than caches",
                      (long long)options->footprint);
}

static bool check_heads(const struct options *options, struct fault *fault) {
    bool typed = options->n_heads >= 0 || options->n_kv_heads >= 0 || options->head_dim >= 0;
    if (options->model && typed)
        return fault_user(fault, "-m gives the heads of a model, and --heads, --kv-heads and "
                                 "--head-dim are heads without one: give one or the other");
    return true;
}

static bool check_lengths(const struct options *options, struct fault *fault) {
    for (int at = 0; at < options->length.n; at++) {
        int64_t length = options->length.value[at];
        if (length < options->ragged || length * options->ragged > 1000000000)
            return fault_user(fault,
                              "--ragged %d: sequences of --length %lld would have from %lld/%d to "
                              "%lld tokens; 1 to 1000000000 are possible",
                              options->ragged, (long long)length, (long long)length,
                              options->ragged, (long long)(length * options->ragged));
    }
    return true;
}

static bool check_sizes(const struct options *options, struct fault *fault) {
    for (int at = 0; at < options->sizes.n; at++) {
        if (options->sizes.value[at] % 16 != 0)
            return fault_user(fault, "--sizes: %lld is not a multiple of 16",
                              (long long)options->sizes.value[at]);
    }
    return true;
}

static bool check_together(const struct options *options, struct fault *fault) {
    const char *name = command_name(options->command);
    if (options->command == COMMAND_BENCH_ATTENTION)
        return check_heads(options, fault) && check_lengths(options, fault) &&
               check_footprint(options, fault);
    if (options->command == COMMAND_BENCH_WIRE) return check_sizes(options, fault);
    bool operand = options->command == COMMAND_SLICES || options->command == COMMAND_INSPECT;
    if (!options->model)
        return fault_user(fault, "no model: give lamina %s %sFILE", name, operand ? "" : "-m ");
    if (options->command == COMMAND_BENCH_STEP) return check_footprint(options, fault);
    if (options->command != COMMAND_GENERATE) return true;
    if (!check_files(options, fault)) return false;
    if (options->time_limit_s > 0 && options->time_limit_s <= options->time_limit_lead_s)
        return fault_user(fault,
                          "--time-limit: %g s are not longer than --time-limit-lead, %g s: "
                          "the job would stop at once",
                          options->time_limit_s, options->time_limit_lead_s);
    if (options->max_tokens >= 0 && options->min_tokens > options->max_tokens)
        return fault_user(fault, "--min-tokens %d is more than --max-tokens %d",
                          options->min_tokens, options->max_tokens);
    return true;
}

/* ---- all of it ---- */

void options_defaults(struct options *options, enum command command) {
    *options = (struct options){.command = command};
    struct fault fault = {0};
    size_t n_rows;
    const struct option_row *row = options_rows(&n_rows);
    for (const struct option_row *end = row + n_rows; row < end; row++) {
        void *target = (char *)options + row->target;
        const struct option_row *own = options_find(row->name, strlen(row->name), command);
        if (own && own != row) continue; /* another command's option of the same name */
        if (row->initial) {
            REQUIRE(options_read(options, row, row->initial, &fault), "default of --%s: %s",
                    row->name, fault.text);
        } else if (row->target != NO_TARGET) {
            if (row->kind == OPTION_INT) *(int *)target = -1;
            if (row->kind == OPTION_COUNT || row->kind == OPTION_SIZE) *(int64_t *)target = -1;
            if (row->kind == OPTION_DURATION) *(double *)target = -1;
        }
    }
}

/* The words behind the program's name, as they would be typed again; to be freed. */
static char *join_words(int argc, char **argv) {
    size_t size = 16, length = 0;
    for (int at = 1; at < argc; at++)
        size += 4 * strlen(argv[at]) + 3;
    char *typed = check_alloc(size, 1);
    for (int at = 1; at < argc; at++) {
        bool quoted = !*argv[at] || strpbrk(argv[at], " \t\"'*?$&;()<>|") != NULL;
        if (at > 1) typed[length++] = ' ';
        if (quoted) typed[length++] = '\'';
        log_escape(typed + length, size - length, argv[at], strlen(argv[at]));
        length += strlen(typed + length);
        if (quoted) typed[length++] = '\'';
    }
    return typed;
}

bool options_parse(struct options *options, int argc, char **argv, struct fault *fault) {
    *options = (struct options){0};
    if (argc < 2) return fault_user(fault, "no command; lamina --help lists the commands");
    enum command command;
    int n_words = command_find(argc, argv, &command);
    if (n_words == 0) return options_refuse_command(argc, argv, fault);
    options_defaults(options, command);
    size_t n_rows;
    options_rows(&n_rows);
    struct walk walk = {options, fault, argc, 1 + n_words, argv, 0, NULL, NULL};
    walk.input = check_alloc((size_t)argc, sizeof *walk.input);
    walk.given = check_alloc(n_rows, sizeof *walk.given);
    bool good = true, only_operands = false;
    while (good && walk.at < argc) {
        const char *word = argv[walk.at++];
        if (only_operands || word[0] != '-' || !word[1]) {
            good = take_operand(&walk, word);
        } else if (!strcmp(word, "--")) {
            only_operands = true;
        } else {
            good = word[1] == '-' ? take_long(&walk, word) : take_letter(&walk, word);
        }
    }
    options->input = walk.input;
    options->n_inputs = walk.n_inputs;
    options->typed = join_words(argc, argv);
    good = good && check_together(options, fault) && check_needs(&walk, fault);
    free(walk.given);
    if (!good) options_close(options);
    return good;
}

void options_close(struct options *options) {
    free((void *)options->input);
    free(options->typed);
    *options = (struct options){0};
}
