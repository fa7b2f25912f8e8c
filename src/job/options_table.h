/* options_table.h - the rows behind options.h, for the options_*.c files and their test only. */
#ifndef LAMINA_OPTIONS_TABLE_H
#define LAMINA_OPTIONS_TABLE_H

#include <stdbool.h>
#include <stddef.h>

#include "options.h"

enum option_group {
    GROUP_FILES,
    GROUP_MEASURE,
    GROUP_TEXT,
    GROUP_SAMPLING,
    GROUP_LAYOUT,
    GROUP_MEMORY,
    GROUP_CHECKPOINT,
    GROUP_TALK,
    OPTION_GROUPS
};

/* How a value is read, and the type it is stored as. */
enum option_kind {
    OPTION_FLAG,      /* no value; stores `constant` as bool */
    OPTION_CONSTANT,  /* no value; stores `constant` as int */
    OPTION_TEXT,      /* const char *, borrowed from argv */
    OPTION_FILES,     /* one or more words: input, n_inputs */
    OPTION_INT,       /* int in least..most */
    OPTION_COUNT,     /* int64_t in least..most */
    OPTION_SEED,      /* uint64_t */
    OPTION_REAL,      /* float in least..most */
    OPTION_SIZE,      /* int64_t, bytes */
    OPTION_DURATION,  /* double, seconds, above 0; or the one word of `choice` */
    OPTION_SWITCH,    /* on|off, bool */
    OPTION_CHOICE,    /* one word of `choice`, int */
    OPTION_PARTITION, /* heads, sequences */
    OPTION_STEPS,     /* struct step_range */
    OPTION_LIST,      /* struct number_list, each in least..most */
    OPTION_SIZES,     /* the same of sizes in bytes */
};

/* A word an option may be given. With `unbuilt` it is refused by name. */
struct option_choice {
    const char *word;
    int value;
    const char *unbuilt;
};

enum { NO_TARGET = -1 }; /* the value is checked and then dropped: only one is built yet */

enum { /* bits of option_row.commands */
       FOR_GENERATE = 1 << COMMAND_GENERATE,
       FOR_SLICES = 1 << COMMAND_SLICES,
       FOR_INSPECT = 1 << COMMAND_INSPECT,
       FOR_BENCH_STEP = 1 << COMMAND_BENCH_STEP,
       FOR_BENCH_ATTENTION = 1 << COMMAND_BENCH_ATTENTION,
       FOR_BENCH_WIRE = 1 << COMMAND_BENCH_WIRE,
};

struct option_row {
    const char *name; /* without the dashes; several rows may share one if their commands differ */
    char letter;      /* 0: none */
    enum option_group group;
    unsigned commands;
    enum option_kind kind;
    const char *argument; /* name of the value in help; NULL for those that take none */
    int target;           /* offsetof(struct options, ...) or NO_TARGET */
    double least, most;   /* OPTION_INT, OPTION_COUNT, OPTION_REAL, OPTION_LIST, OPTION_SIZES */
    bool above_least;     /* OPTION_REAL: `least` itself is not allowed */
    int constant;         /* OPTION_FLAG, OPTION_CONSTANT */
    const struct option_choice *choice; /* ends with a NULL word */
    const char *initial; /* the default, in the option's own syntax; NULL: false, NULL or -1 */
    const char *derived; /* what stands in help when there is no `initial`; NULL: nothing */
    const char *needs;   /* options without which it would do nothing, space-separated; of
                            "trace|timeline" either is enough */
    const char *help;
    const char *also;       /* names other programs give it, for suggestions; space-separated */
    const char *unbuilt;    /* what it is to do ("split ..."): the option is refused by name */
    double built_most;      /* OPTION_INT: larger values are refused by name; 0: no such bound */
    const char *beyond;     /* what larger values (OPTION_CHOICE: other words) are to do */
};

/* All rows; *n of them. Rows of a group stand together, in the order of help. */
const struct option_row *options_rows(size_t *n);

/* Title of a group in help. */
const char *options_group_title(enum option_group group);

/* A command: a built one has its `enum command` as index; the others are refused by name. The first
 * word of its name is that of its man page. */
struct command_row {
    const char *name;    /* one word or two */
    const char *usage;   /* behind "lamina NAME" */
    const char *summary; /* one line */
    const char *unbuilt; /* what it is to do, or NULL */
};
const struct command_row *options_commands(size_t *n);
/* How many words behind argv[0] are the row's name: all of them, or 0. */
int options_match_command(const struct command_row *row, int argc, char **argv);

/* The row of `name` that `command` takes, or NULL. */
const struct option_row *options_find(const char *name, size_t n_bytes, enum command command);

/* Store `value` (NULL for those that take none) where the row says, or refuse it. Not for
 * OPTION_FILES and rows that are `unbuilt`. */
bool options_read(struct options *options, const struct option_row *row, const char *value,
                  struct fault *fault);

/* Refusals; all return false. `n_bytes` of `word`, with its dashes, are the unknown name. */
bool options_refuse_command(int argc, char **argv, struct fault *fault);
bool options_refuse_unknown(const char *word, size_t n_bytes, enum command command,
                            struct fault *fault);
bool options_refuse_unbuilt(const struct option_row *row, const char *value, const char *unbuilt,
                            struct fault *fault);

/* A word of argv, fit to stand in a message. */
struct option_quoted {
    char text[128];
};
struct option_quoted options_quote(const char *text);

#endif
