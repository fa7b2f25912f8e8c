/* trace_parts.h - what the files of the trace share: private to src/job/trace*.
 *
 * A trace is a head and, for each rank, three tables: spans, steps, energy. One rank is in memory
 * at a time: what reads (journals, an HDF5 file) gives them in rising order, and what writes takes
 * them so. Times are nanoseconds on the leader's clock since the earliest rank began.
 */
#ifndef LAMINA_TRACE_PARTS_H
#define LAMINA_TRACE_PARTS_H

#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "check.h"
#include "clock.h"
#include "replacement.h"
#include "topology.h"
#include "trace.h"

/* Of the HDF5 file and the journals. Another major number is another meaning of what was there
 * before; a minor one adds. The order of enum span_kind, op and message is part of the journals';
 * the HDF5 file has their names. */
enum { TRACE_MAJOR = 1, TRACE_MINOR = 0 };

/* ---- the model --------------------------------------------------------------------------------
 */

/* What is said of the whole run. Strings are terminated. */
struct trace_head {
    char uuid[40];
    char created[32];     /* RFC 3339, UTC, of time 0 */
    char creator[96];     /* program, version, commit */
    char model[256];      /* name in the model file */
    char fingerprint[40]; /* of the model file */
    char config[4096];    /* a JSON object */
    int32_t n_ranks, model_ranks, attention_ranks, heads, sequences;
    int32_t first_step, last_step; /* of each slot, of which spans were asked for */
};

/* Energy of one package of processors, or of a GPU, since the first reading. */
struct trace_energy {
    int64_t at_ns, energy_uj;
    int32_t package;
};

/* What is said of a rank. */
struct trace_rank_head {
    int32_t rank, role, head_index, owner; /* role: enum role */
    char host[64];
    char energy_source[160]; /* what was read, or why nothing was */
    int64_t clock_offset_ns; /* added to this rank's clock */
    int64_t n_missing;       /* records dropped, lost or damaged */
    int32_t complete;        /* 1: its journal came to its end */
};

/* A rank's part, owned. */
struct trace_rank {
    struct trace_rank_head head;
    size_t n_spans, n_steps, n_energy;
    struct span *span;      /* in the order in which they ended */
    struct step_span *step; /* likewise */
    struct trace_energy *energy;
};
void trace_rank_close(struct trace_rank *rank);

/* Leave only the spans of these steps, as the recorder does. */
bool trace_wants(const struct trace_head *head, const struct span *span);
void trace_rank_choose(struct trace_rank *rank, const struct trace_head *head);

/* A rank waits in spans of this kind for another. */
bool trace_is_wait(enum span_kind kind);

/* What the spans of one slice of a slot's step come to. */
struct trace_turn {
    int64_t begin_ns, end_ns, busy_ns, wait_ns, sent_bytes, received_bytes;
    int32_t step, slice, slot;
};
/* (*n) of them, to be freed. */
struct trace_turn *trace_turns(const struct trace_rank *rank, size_t *n);

/* ---- tables as columns: one description for HDF5 and CSV --------------------------------------
 */

enum trace_type { TRACE_INT8, TRACE_INT16, TRACE_INT32, TRACE_INT64, TRACE_KIND, TRACE_LABEL };
struct trace_column {
    const char *name, *unit;
    enum trace_type type;
    size_t offset; /* in the row's struct */
    size_t n_bytes;
};
struct trace_table {
    const char *name;
    size_t row_bytes;
    int n_columns;
    const struct trace_column *column;
};
enum { TRACE_SPANS, TRACE_STEPS, TRACE_ENERGY, TRACE_TURNS, TRACE_TABLES };
extern const struct trace_table trace_tables[TRACE_TABLES];

int64_t trace_get(const struct trace_column *column, const void *row);
void trace_set(const struct trace_column *column, void *row, int64_t number);

/* Names of numbers of TRACE_KIND and TRACE_LABEL, NULL for a number that has none. Labels are
 * operators, then messages, then "none". */
enum { TRACE_LABELS = 64 };
const char *trace_kind_name(int64_t number);
const char *trace_label_name(int64_t number);

/* Spans and steps from a file hold only what there can be. */
bool trace_rank_sound(const struct trace_rank *rank);

/* ---- energy: trace_energy.c -------------------------------------------------------------------
 */

enum { TRACE_PACKAGES = 16 };
struct energy {
    int n;                     /* the device's counter is the last */
    int fd[TRACE_PACKAGES];    /* -1: the device's */
    struct trace_meter device; /* read_uj NULL: none */
    int64_t last_uj[TRACE_PACKAGES], range_uj[TRACE_PACKAGES], sum_uj[TRACE_PACKAGES];
};
/* The packages whose counters can be read; `root` stands before /sys (tests). `source` says which,
 * or why there are none. Zero-initialise. */
void energy_open(struct energy *energy, const char *root, char *source, size_t size);
/* The device's counter besides, where it can be read; adds a word to `source`. */
void energy_open_device(struct energy *energy, const struct trace_meter *meter, char *source,
                        size_t size);
void energy_close(struct energy *energy);
/* What the packages and the device used since they were opened. */
void energy_read(struct energy *energy);

/* ---- journals: trace_journal.c ----------------------------------------------------------------
 */

enum record_type { RECORD_SPAN = 1, RECORD_STEP, RECORD_ENERGY, RECORD_END };

/* As in the ring and in the file. */
struct record {
    uint32_t checksum; /* of the rest and of its place in the file */
    uint8_t type;
    uint8_t unused[3];
    int64_t serial; /* of spans and steps, dropped ones counted; of others, the next one's */
    union {
        struct span span;
        struct step_span step;
        struct trace_energy energy;
    } as;
};
_Static_assert(sizeof(struct record) == 64, "a record of other size");

struct journal_head {
    char magic[16];
    int32_t major, minor, n_kinds, n_labels;
    int64_t origin_ns; /* on the leader's clock */
    struct trace_head trace;
    struct trace_rank_head rank;
};

/* Make it, with its head. A descriptor, or -1 with errno. */
int journal_make(const char *path, const struct journal_head *head);
/* Give `n` records their checksums, the first being number `at` of the file. */
void journal_seal(struct record *record, size_t n, int64_t at);
/* Read the head, which names the run and the rank. */
bool journal_read_head(const char *path, struct journal_head *head, struct fault *fault);
/* Read all; what is torn at the end is cut off and what is damaged left out, with a warning. */
bool journal_read(const char *path, struct journal_head *head, struct trace_rank *rank,
                  struct fault *fault);

/* ---- a run's recorder: trace.c, which opens it, and trace_write.c, which reads its journal ------
 */

struct trace {
    const struct topology *topology;
    struct journal_head head;
    struct replacement file, timeline; /* the leader's; zeroed: not asked for */
    char path[PATH_MAX + 64];          /* of the journal */
    int fd;                            /* -1: there is none */
    int open_error;                    /* why, by errno */
    pthread_t thread;
    bool running; /* the thread */
    bool kept;    /* the journal: what was to be made of it failed */
    struct energy energy;
    /* decode's */
    int64_t serial;
    struct record *ring; /* (RING_RECORDS) */
    _Atomic uint64_t put, taken;
    _Atomic bool ending;
    /* the thread's */
    int64_t n_written; /* records */
    int write_error;   /* errno, since when nothing is written */
};

/* Let nobody hear more and end the journal. False when a write to it does not end: then the thread
 * is left behind with what it uses. */
bool trace_end(struct trace *trace);

/* ---- HDF5: trace_hdf5.c, trace_hdf5_read.c ----------------------------------------------------
 */

struct trace_hdf5_writer;
/* A new file, to be put into its place by trace_hdf5_end. NULL with a fault. */
struct trace_hdf5_writer *trace_hdf5_begin(const struct replacement *place,
                                           const struct trace_head *head, struct fault *fault);
bool trace_hdf5_put(struct trace_hdf5_writer *writer, const struct trace_rank *rank,
                    struct fault *fault);
/* Close it, make it durable and put it into its place, or with a fault take it away. */
bool trace_hdf5_end(struct trace_hdf5_writer *writer, struct fault *fault);

struct trace_hdf5_reader;
struct trace_hdf5_reader *trace_hdf5_open(const char *path, struct trace_head *head,
                                          struct fault *fault);
bool trace_hdf5_get(struct trace_hdf5_reader *reader, int rank, struct trace_rank *out,
                    struct fault *fault);
void trace_hdf5_close(struct trace_hdf5_reader *reader);

/* ---- what is made of a trace ------------------------------------------------------------------
 */

struct timeline;
/* `path`'s new file, to be put in its place by timeline_end. NULL with a fault. */
struct timeline *timeline_begin(const struct replacement *place, const struct trace_head *head,
                                struct fault *fault);
void timeline_put(struct timeline *timeline, const struct trace_rank *rank);
bool timeline_end(struct timeline *timeline, struct fault *fault);

struct csv;
struct csv *csv_begin(const char *folder, struct fault *fault);
void csv_put(struct csv *csv, const struct trace_rank *rank);
bool csv_end(struct csv *csv, struct fault *fault);

struct summary;
struct summary *summary_begin(const struct trace_head *head);
void summary_put(struct summary *summary, const struct trace_rank *rank);
/* To standard output. */
void summary_end(struct summary *summary);

#endif
