/* trace.h - what every rank did and when, kept during a run and written when it ends.
 *
 * Each rank keeps records of fixed size in a journal of its own (trace_journal.h says what is in
 * it), which survives the death of the process; at the end of a run the leader makes of all
 * journals the files that were asked for: HDF5 (--trace), a timeline for Perfetto (--timeline).
 * `lamina inspect` makes the same of journals that a killed run left.
 *
 * Steps, with their batch sizes, are recorded from the first to the last; spans only of the steps
 * asked for (--trace-steps), since a token makes thousands of them. Turns without rows are left
 * out. Decode hands records to a buffer and never waits: a thread writes them out, and what finds
 * no room is dropped and counted.
 */
#ifndef LAMINA_TRACE_H
#define LAMINA_TRACE_H

#include "options.h"
#include "topology.h"

struct trace;

/* A counter of energy beside those of the host's processors, of the device that this rank uses. */
struct trace_meter {
    const char *id; /* the same for all ranks that use the device; "" where it is the host's */
    int64_t (*read_uj)(
        int index); /* microjoules, -1: cannot be read; asked on a thread of its own */
    int index;
};

/* What is to be recorded; the strings are the leader's and borrowed for the call. */
struct trace_options {
    const struct options *options; /* trace, timeline, trace_steps; and whatever else it names */
    const struct topology *topology;
    int64_t begin_ns;              /* when this rank began, on its clock */
    const char *model;             /* what the file says it is */
    const char *model_fingerprint; /* 32 hex digits */
    const char *config;            /* a JSON object: what else a reader has to know */
    struct trace_meter meter;      /* every rank's own */
};

/* Collective, once the layout is known: begin a journal on every rank and listen to the clock. NULL
 * when neither --trace nor --timeline was asked for. On the leader a user's fault for a file that
 * cannot be made or is one of the run's own; then too all ranks must close it. A journal that
 * cannot be made is no fault: trace_write says so. */
void trace_open(struct trace **trace, const struct trace_options *options, struct fault *fault);

/* Collective, behind the loop: write what was asked for, say so, and take the journals away. What
 * fails is said in one line and is no reason to end the run otherwise; the journals stay then. */
void trace_write(struct trace *trace);

/* Local. Without trace_write before it, of a run that never began: the journal is taken away. */
void trace_close(struct trace *trace);

/* Before anything is made: can --trace be written, and is it a file of its own? */
bool trace_check(const struct options *options, struct fault *fault);

/* `lamina inspect`: whether the file is one of ours by its first bytes, trace or journal. */
bool trace_is_file(const char *path);

/* Print what a trace (one file) or journals (of one run) hold, or with options->timeline, csv and
 * output write these instead. False with a fault. */
bool trace_inspect(const struct options *options, struct fault *fault);

#endif
