/* options.h - the command line and the environment: one struct, one table.
 *
 * Every option of every command is one row of a table (src/job/options_table.c): name, letter,
 * group, argument, default, help, which commands take it, where it goes. Defaults, help texts and
 * refusals all come from the table. Options whose part is not built yet are rows too, refused by
 * name. Sizes are `512M`, `40G` (powers of 1024), durations `90`, `90s`, `10m`, `1h30m`,
 * `D-HH:MM:SS`, lists `1,8,32` and `512-8192*2`.
 */
#ifndef LAMINA_OPTIONS_H
#define LAMINA_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "check.h"
#include "log.h"

enum command {
    COMMAND_GENERATE,
    COMMAND_SLICES,
    COMMAND_INSPECT,
    COMMAND_BENCH_STEP,
    COMMAND_BENCH_ATTENTION,
    COMMAND_BENCH_WIRE,
    COMMANDS
};

enum role_wish { ROLE_WISH_AUTO, ROLE_WISH_MODEL, ROLE_WISH_ATTENTION };
enum kv_type { KV_F32, KV_F16, KV_BF16 };
enum output_order { OUTPUT_COMPLETION, OUTPUT_INPUT };
enum input_order { ORDER_INPUT, ORDER_LONGEST };
enum device_wish { DEVICE_WISH_AUTO, DEVICE_WISH_CPU, DEVICE_WISH_CUDA };
enum wire_wish { WIRE_WISH_AUTO, WIRE_WISH_MPI, WIRE_WISH_NCCL, WIRE_WISH_DEVICE };
enum checkpoint_kv_wish { CHECKPOINT_KV_AUTO, CHECKPOINT_KV_ALWAYS, CHECKPOINT_KV_NEVER };
enum restore_wish { RESTORE_AUTO, RESTORE_KV, RESTORE_RECOMPUTE };
enum { TIME_LIMIT_AUTO = 0 };
enum isa_wish { ISA_WISH_AUTO, ISA_WISH_PLAIN, ISA_WISH_AVX2, ISA_WISH_AVX512 };

/* Steps of a slot, both included; `last` INT32_MAX: to the last one. */
struct step_range {
    int32_t first, last;
};

enum sheet_format { SHEET_TABLE, SHEET_CSV, SHEET_JSON, SHEET_JSONL };

/* What `1,8,32` and `512-8192*2` stand for, in the order typed. */
enum { LIST_MOST = 64 };
struct number_list {
    int n;
    int64_t value[LIST_MOST]; /* 0 from n on */
};

/* "f32", "f16", "bf16". */
const char *kv_type_name(enum kv_type type);

/* Everything typed. Strings are borrowed from argv, which must outlive this. -1 and NULL mean "not
 * given: derive it". */
struct options {
    enum command command;
    char *typed; /* the words behind the program's name, escaped; owned here */

    /* files */
    const char *model;        /* -m; for inspect and slices also the operand; file or shape:... */
    const char *const *input; /* -i, (n_inputs), or inspect's further operands; the array is owned
                                 here, its words are argv's */
    int n_inputs;
    const char *output; /* -o; "-" is stdout */
    const char *errors; /* --errors: failed requests go here */
    bool resume, overwrite, retry_failed, strict;
    enum output_order output_order;
    enum input_order order;

    /* measurement, of benches */
    struct number_list batch;  /* sequences of a slot */
    struct number_list length; /* tokens in the cache of each */
    int ragged;                /* lengths from 1/N to N times these besides; 1: none */
    struct number_list sizes;  /* bytes of a block */
    struct number_list fan;    /* blocks of a message */
    int repeat, warmup;
    enum sheet_format format;
    int64_t footprint;                 /* bytes walked through before any is read again */
    int n_heads, n_kv_heads, head_dim; /* -1: the model's, or Llama 3 8B's */

    /* text and sampling defaults (a request's body comes first) */
    bool chat;                 /* plain prompts become user messages */
    const char *system;        /* system message for --chat */
    const char *chat_template; /* name of a recognised template, instead of the file's */
    float temperature, top_p, min_p;
    int top_k;
    float presence_penalty, frequency_penalty, repetition_penalty;
    int max_tokens; /* -1: the rest of the context */
    int min_tokens;
    bool ignore_eos;
    uint64_t seed;

    /* layout */
    int model_ranks, attention_ranks; /* -1: derived */
    enum role_wish role;
    int heads, sequences; /* --partition; -1: derived */
    int slots;            /* 1 or 2; -1: derived */
    int threads;          /* -1: derived */
    enum kv_type kv_type;
    bool q_first;
    double deadline_s;
    enum isa_wish isa; /* --cpu-isa */
    enum device_wish model_device, attention_device;
    enum wire_wish wire;
    bool wire_progress; /* --wire-progress: drive messages while computing */
    bool no_cache;      /* neither read nor write environment.cache_folder */

    /* memory and batch */
    int64_t kv_memory; /* bytes per attention rank; -1: derived */
    int64_t kv_tokens; /* tokens per group; -1: derived */
    int max_batch;     /* sequences per slot; -1: derived */
    int max_rows;      /* rows per slot and step; -1: derived */
    int context;       /* tokens; -1: the model's */

    /* checkpoint */
    const char *checkpoint; /* --checkpoint DIR */
    double checkpoint_interval_s;
    enum checkpoint_kv_wish checkpoint_kv;
    enum restore_wish restore;
    bool keep_checkpoint;
    double time_limit_s;      /* -1: none; TIME_LIMIT_AUTO: Slurm's */
    double time_limit_lead_s; /* the stop comes this long before it */

    /* talk */
    enum log_level log_level;
    bool log_json;
    double progress_interval_s; /* -1: 5 s for a minute, then 60 s */
    const char *status;         /* --status FILE */
    const char *timeline;       /* --timeline FILE.json */
    const char *trace;          /* --trace FILE.h5 */
    const char *csv;            /* inspect --csv DIR */
    struct step_range trace_steps;
    bool dry_run;
    bool dot; /* slices --dot */
};

/* Fill *options with the defaults of the table, as if `lamina COMMAND` had been typed alone. */
void options_defaults(struct options *options, enum command command);

/* Parse argv (argv[1] is the command). False with a fault for anything unknown, malformed, out of
 * range, contradictory or not built yet; then *options holds nothing to close. What depends on the
 * world's size or on files is checked by topology and by those that open them. `--help` and
 * `--version` are handled by the caller through options_wants. */
bool options_parse(struct options *options, int argc, char **argv, struct fault *fault);
void options_close(struct options *options);

/* What main prints instead of running anything; `command` is set with OPTIONS_COMMAND_HELP. */
enum options_wish { OPTIONS_RUN, OPTIONS_HELP, OPTIONS_COMMAND_HELP, OPTIONS_VERSION };
enum options_wish options_wants(int argc, char **argv, enum command *command);

/* Help texts, generated from the table: all commands, or one command with its options in groups. */
void options_print_help(FILE *out);
void options_print_command_help(enum command command, FILE *out);

const char *command_name(enum command command);

/* How many words behind argv[0] name a command that is built ("bench step" is two); 0: they name
 * none. */
int command_find(int argc, char **argv, enum command *command);

/* A hash over all that must be equal on every rank of a job: every option but --role, however it
 * was spelled, and the build (version and commit). argv must be one that options_parse takes. */
uint64_t options_hash(int argc, char **argv);

/* What the environment says; NULL or -1 when it does not. The only place that reads it. */
struct environment {
    int omp_threads;         /* OMP_NUM_THREADS */
    int slurm_cpus_per_task; /* SLURM_CPUS_PER_TASK */
    int slurm_tasks;         /* SLURM_NTASKS */
    int slurm_het_tasks;     /* of all parts of a heterogeneous job; -1: it is none */
    const char *slurm_job;   /* SLURM_JOB_ID, digits; lives as long as the environment */
    int64_t slurm_end_time;  /* SLURM_JOB_END_TIME, seconds since 1970 */
    int64_t slurm_mem_node_bytes, slurm_mem_cpu_bytes; /* SLURM_MEM_PER_NODE, SLURM_MEM_PER_CPU */
    bool launched;                                     /* by mpirun, srun or another launcher */
    int launcher_size;       /* ranks the launcher started, before MPI_Init can tell */
    int launcher_rank;       /* this one among them */
    char cache_folder[1024]; /* lamina's, under XDG_CACHE_HOME or HOME; "": none. It may not be
                                there */
};
void environment_read(struct environment *environment);

/* Parsers of values, shared with job files. The whole text must be the value; false leaves *out
 * untouched. parse_real takes decimal numbers only (no inf, nan or hexadecimal). */
bool parse_size(const char *text, int64_t *bytes);
bool parse_duration(const char *text, double *seconds);
#define DURATION_MOST_S (10 * 366 * 86400.0) /* ten years, which fit into nanoseconds */
bool parse_int(const char *text, int64_t least, int64_t most, int64_t *out);
bool parse_real(const char *text, double least, double most, double *out);
/* Numbers and ranges, separated by commas: `8`, `1-8` (every one), `0-100+25`, `512-8192*2`; every
 * number within least..most and written as parse_size takes it when `sizes`, else in digits; at
 * most LIST_MOST. */
bool parse_list(const char *text, bool sizes, int64_t least, int64_t most, struct number_list *out);

#endif
