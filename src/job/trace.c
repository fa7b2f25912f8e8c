/* trace.c - recorded spans as a timeline file. See trace.h.
 *
 * Ranks send their records as they are; the leader moves them to its clock and writes one event a
 * span. The format is Chrome's trace event JSON ("X" complete events, "i" instants, "M" names), in
 * microseconds from the first span of the run.
 */
#include "trace.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "clock.h"
#include "graph.h"
#include "log.h"
#include "wire.h"

/* What a rank tells of its records before it sends them. */
struct batch_of_spans {
    int64_t n_spans, n_dropped, clock_offset_ns;
    int32_t role;
    char host[64];
};

enum { LANE_WORK = 0, LANE_ARRIVALS = 1 };
static const double SECONDS_TO_COLLECT = 600;

static const char *span_name(const struct span *span) {
    if (span->kind == SPAN_COMPUTE) return op_name((enum op)span->label);
    if (span->kind == SPAN_ARRIVED) return message_name((enum message)span->label);
    return clock_span_name((enum span_kind)span->kind);
}

static void write_names(FILE *file, int rank, const struct batch_of_spans *batch) {
    static const char *const lane[] = {
        [LANE_WORK] = "work and waits", [LANE_ARRIVALS] = "messages that came"};
    fprintf(file,
            "{\"ph\":\"M\",\"name\":\"process_name\",\"pid\":%d,\"args\":{\"name\":\"rank %d %s, "
            "%s\"}},\n",
            rank, rank, role_name((enum role)batch->role), batch->host);
    for (int tid = 0; tid < 2; tid++)
        fprintf(file,
                "{\"ph\":\"M\",\"name\":\"thread_name\",\"pid\":%d,\"tid\":%d,\"args\":{\"name\":"
                "\"%s\"}},\n",
                rank, tid, lane[tid]);
}

static void write_span(FILE *file, int rank, const struct span *span, int64_t origin_ns) {
    bool arrival = span->kind == SPAN_ARRIVED;
    fprintf(file, "{\"ph\":\"%s\",\"name\":\"%s\",\"pid\":%d,\"tid\":%d,\"ts\":%.3f",
            arrival ? "i" : "X", span_name(span), rank, arrival ? LANE_ARRIVALS : LANE_WORK,
            (double)(span->begin_ns - origin_ns) * 1e-3);
    if (arrival) {
        fprintf(file, ",\"s\":\"t\"");
    } else {
        fprintf(file, ",\"dur\":%.3f", (double)(span->end_ns - span->begin_ns) * 1e-3);
    }
    fprintf(file, ",\"args\":{\"slot\":%d,\"step\":%d,\"slice\":%d", span->slot, span->step,
            span->slice);
    if (span->peer >= 0) fprintf(file, ",\"peer\":%d", span->peer);
    if (span->n_bytes > 0) fprintf(file, ",\"bytes\":%lld", (long long)span->n_bytes);
    fprintf(file, "}},\n");
}

/* The spans of every rank, in rank order; (n_ranks) of pointers to release. */
static struct span **collect(const struct topology *topology, struct batch_of_spans *batch) {
    struct batch_of_spans mine = {.clock_offset_ns = topology->clock_offset_ns,
                                  .role = (int32_t)topology->role};
    size_t n_spans, n_dropped;
    const struct span *own = clock_spans(&n_spans, &n_dropped);
    mine.n_spans = (int64_t)n_spans;
    mine.n_dropped = (int64_t)n_dropped;
    memcpy(mine.host, topology->host, sizeof mine.host);
    topology_collect(topology, &mine, sizeof mine, batch, "collection of the timeline",
                     SECONDS_TO_COLLECT);
    struct span **spans = check_alloc((size_t)topology->n_ranks, sizeof *spans);
    for (int rank = 0; rank < topology->n_ranks; rank++) {
        bool sends = topology->rank == rank;
        if (!topology->leader && !sends) continue;
        size_t n = sends ? n_spans : (size_t)batch[rank].n_spans;
        spans[rank] = check_alloc(n, sizeof **spans);
        if (sends) memcpy(spans[rank], own, n * sizeof *own);
        topology_send_to_leader(topology, rank, spans[rank], n * sizeof *own,
                                "collection of the timeline", SECONDS_TO_COLLECT);
        for (size_t at = 0; at < n; at++) {
            spans[rank][at].begin_ns += batch[rank].clock_offset_ns;
            spans[rank][at].end_ns += batch[rank].clock_offset_ns;
        }
    }
    return spans;
}

static int64_t first_moment(struct span *const *spans, const struct batch_of_spans *batch,
                            int n_ranks) {
    int64_t first = INT64_MAX;
    for (int rank = 0; rank < n_ranks; rank++) {
        for (int64_t at = 0; at < batch[rank].n_spans; at++) {
            if (spans[rank][at].begin_ns < first) first = spans[rank][at].begin_ns;
        }
    }
    return first;
}

static bool write_file(const char *path, struct span *const *spans,
                       const struct batch_of_spans *batch, int n_ranks) {
    FILE *file = fopen(path, "w");
    if (!file) return false;
    int64_t origin_ns = first_moment(spans, batch, n_ranks);
    fprintf(file, "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n");
    for (int rank = 0; rank < n_ranks; rank++) {
        write_names(file, rank, &batch[rank]);
        for (int64_t at = 0; at < batch[rank].n_spans; at++)
            write_span(file, rank, &spans[rank][at], origin_ns);
    }
    /* the list needs a last element without a comma behind it */
    fprintf(file, "{\"ph\":\"M\",\"name\":\"process_labels\",\"pid\":0,\"args\":{\"labels\":"
                  "\"leader\"}}\n]}\n");
    bool good = !ferror(file) && fflush(file) == 0 && fsync(fileno(file)) == 0;
    return fclose(file) == 0 && good;
}

void trace_write_timeline(const struct topology *topology, const struct replacement *target) {
    int n_ranks = topology->n_ranks;
    struct batch_of_spans *batch = check_alloc((size_t)n_ranks, sizeof *batch);
    struct span **spans = collect(topology, batch);
    if (topology->leader) {
        char temporary[4200];
        int64_t n_dropped = 0;
        for (int rank = 0; rank < n_ranks; rank++)
            n_dropped += batch[rank].n_dropped;
        const char *path = target->path;
        snprintf(temporary, sizeof temporary, "%s", target->temporary);
        if (!write_file(temporary, spans, batch, n_ranks) || rename(temporary, path) != 0) {
            log_error("timeline %s: %s", path, strerror(errno));
            unlink(temporary);
        } else if (n_dropped > 0) {
            log_warning("timeline %s holds the first %d spans of each rank; %lld came later", path,
                        TRACE_SPANS, (long long)n_dropped);
        }
    }
    for (int rank = 0; rank < n_ranks; rank++)
        free(spans[rank]);
    free(spans);
    free(batch);
}
