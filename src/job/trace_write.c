/* trace_write.c - behind the loop: from the journals of all ranks to the files. See trace.h.
 *
 * Every rank reads its journal back, whose checksums tell what the disk made of it, and sends it to
 * the leader by MPI, one rank after the other; the leader gives each to the writers of the files
 * and lets it go. Rejected: the leader reading the journals as files, which asks for a file system
 * that all ranks share.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"
#include "trace.h"
#include "trace_parts.h"

static const double SECONDS_TO_COLLECT = 600;

/* What a rank tells of its journal, before its records. */
struct account {
    struct trace_rank_head head;
    int64_t n_spans, n_steps, n_energy;
    char trouble[256]; /* "" when all is there */
};

/* End the journal and read it back. */
static void settle(struct trace *trace, struct trace_rank *rank, struct account *account) {
    struct journal_head head;
    struct fault fault = {0};
    char *trouble = account->trouble;
    size_t size = sizeof account->trouble;
    *rank = (struct trace_rank){.head = trace->head.rank};
    bool ended = trace_end(trace);
    if (trace->fd < 0) {
        snprintf(trouble, size, "%s", strerror(trace->open_error));
    } else if (!ended) {
        snprintf(trouble, size, "a write does not end");
    } else {
        if (trace->write_error) snprintf(trouble, size, "%s", strerror(trace->write_error));
        if (!journal_read(trace->path, &head, rank, &fault)) {
            snprintf(trouble, size, "%.255s", fault.text);
            rank->head = trace->head.rank;
        }
    }
    rank->head.n_missing = trace->serial - (int64_t)(rank->n_spans + rank->n_steps);
    account->head = rank->head;
    account->n_spans = (int64_t)rank->n_spans;
    account->n_steps = (int64_t)rank->n_steps;
    account->n_energy = (int64_t)rank->n_energy;
}

/* Point to point, a rank with the leader; others pass by. On the leader the rank's part, to be
 * closed. */
static struct trace_rank bring(const struct trace *trace, const struct account *account, int number,
                               struct trace_rank *own) {
    const struct topology *topology = trace->topology;
    struct trace_rank rank = {.head = account->head,
                              .n_spans = (size_t)account->n_spans,
                              .n_steps = (size_t)account->n_steps,
                              .n_energy = (size_t)account->n_energy};
    if (number == topology->rank) {
        rank = *own;
        *own = (struct trace_rank){0};
    } else {
        rank.span = check_alloc(rank.n_spans, sizeof *rank.span);
        rank.step = check_alloc(rank.n_steps, sizeof *rank.step);
        rank.energy = check_alloc(rank.n_energy, sizeof *rank.energy);
    }
    topology_send_to_leader(topology, number, rank.span, rank.n_spans * sizeof *rank.span,
                            "collection of the trace", SECONDS_TO_COLLECT);
    topology_send_to_leader(topology, number, rank.step, rank.n_steps * sizeof *rank.step,
                            "collection of the trace", SECONDS_TO_COLLECT);
    topology_send_to_leader(topology, number, rank.energy, rank.n_energy * sizeof *rank.energy,
                            "collection of the trace", SECONDS_TO_COLLECT);
    return rank;
}

/* The files the leader writes; NULL where one is not asked for or has failed. */
struct files {
    struct trace_hdf5_writer *hdf5;
    struct timeline *timeline;
    struct fault trace_hdf5_fault, timeline_fault;
};

static void begin_files(struct files *files, const struct trace *trace) {
    const struct trace_head *head = &trace->head.trace;
    if (trace->file.path)
        files->hdf5 = trace_hdf5_begin(&trace->file, head, &files->trace_hdf5_fault);
    if (trace->timeline.path)
        files->timeline = timeline_begin(&trace->timeline, head, &files->timeline_fault);
}

static void put_files(struct files *files, const struct trace_rank *rank) {
    if (files->hdf5) trace_hdf5_put(files->hdf5, rank, &files->trace_hdf5_fault);
    if (files->timeline) timeline_put(files->timeline, rank);
}

static void end_files(struct files *files) {
    if (files->hdf5) trace_hdf5_end(files->hdf5, &files->trace_hdf5_fault);
    if (files->timeline) timeline_end(files->timeline, &files->timeline_fault);
}

static void say_written(const struct trace *trace, const struct account *account,
                        const struct files *files) {
    const struct trace_head *head = &trace->head.trace;
    char shown[512];
    int64_t n_missing = 0;
    int first = -1;
    for (int rank = 0; rank < head->n_ranks; rank++) {
        n_missing += account[rank].head.n_missing;
        if (first < 0 && account[rank].trouble[0]) first = rank;
    }
    const char *steps = "of every step";
    char range[64];
    snprintf(range, sizeof range, "of steps %d to %d (--trace-steps)", head->first_step,
             head->last_step);
    if (head->first_step > 0 || head->last_step < INT32_MAX) steps = range;
    if (trace->file.path && !files->trace_hdf5_fault.kind)
        log_note("trace: %s, spans %s; lamina inspect shows it",
                 log_escape(shown, sizeof shown, trace->file.path, strlen(trace->file.path)),
                 steps);
    if (trace->timeline.path && !files->timeline_fault.kind)
        log_note(
            "timeline: %s, %s, to be opened in Perfetto (ui.perfetto.dev) or "
            "chrome://tracing",
            log_escape(shown, sizeof shown, trace->timeline.path, strlen(trace->timeline.path)),
            steps);
    if (first >= 0) {
        log_warning("the records of rank %d%s could not all be kept: %s; %lld are missing", first,
                    head->n_ranks > 1 ? ", and perhaps others," : "", account[first].trouble,
                    (long long)n_missing);
    } else if (n_missing > 0) {
        log_warning("%lld records are missing in the trace: a disk was slower than decode",
                    (long long)n_missing);
    }
}

/* One line, whatever failed. */
static void say_failed(const struct trace *trace, const struct files *files) {
    const struct fault *fault =
        files->trace_hdf5_fault.kind ? &files->trace_hdf5_fault : &files->timeline_fault;
    char shown[512];
    log_escape(shown, sizeof shown, trace->path, strlen(trace->path));
    if (trace->fd < 0) {
        log_warning("%s", fault->text);
    } else {
        log_warning("%s; the records stay in %s%s: lamina inspect JOURNAL... reads them",
                    fault->text, shown,
                    trace->head.trace.n_ranks > 1 ? " and its like of the other ranks" : "");
    }
}

void trace_write(struct trace *trace) {
    if (!trace) return;
    const struct topology *topology = trace->topology;
    struct trace_rank own;
    struct account mine = {0}, *all;
    struct files files = {0};
    all = check_alloc((size_t)topology->n_ranks, sizeof *all);
    settle(trace, &own, &mine);
    topology_collect(topology, &mine, sizeof mine, all, "end of the journals", SECONDS_TO_COLLECT);
    if (topology->leader) begin_files(&files, trace);
    for (int number = 0; number < topology->n_ranks; number++) {
        if (!topology->leader && number != topology->rank) continue;
        struct trace_rank rank =
            bring(trace, topology->leader ? &all[number] : &mine, number, &own);
        if (topology->leader) put_files(&files, &rank);
        trace_rank_close(&rank);
    }
    if (topology->leader) end_files(&files);
    int32_t failed = files.trace_hdf5_fault.kind || files.timeline_fault.kind;
    if (topology->leader && failed) say_failed(trace, &files);
    if (topology->leader && !failed) say_written(trace, all, &files);
    topology_broadcast(topology, &failed, sizeof failed, "writing of the trace",
                       SECONDS_TO_COLLECT);
    trace->kept = failed;
    free(all);
}
