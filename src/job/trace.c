/* trace.c - recorded spans as a timeline file. See trace.h.
 *
 * Chrome's trace event format, in microseconds from the first span of the run on the leader's
 * clock: one process a rank and in it one lane a slot, on which a turn encloses its steps ("X",
 * complete events); messages on their way as bars of their own ("b" and "e", async events) from the
 * end of the scatter to the arrival of the last byte; arrows ("s" and "f", flows) from a scatter to
 * the gather that took it. Colours are names of chrome://tracing's palette; Perfetto chooses its
 * own.
 *
 * Sends and receives are paired by walking both ranks' spans side by side: all walk one list of
 * turns, so the gathers of a rank are, in order, some of the scatters of its peer, with the same
 * slot, step and slice. Arrivals carry no such place (they come while something else is done); the
 * k-th from a peer is that of the k-th gather. Rejected: an id in every message, which would cost
 * bytes on the wire for a picture.
 *
 * The leader holds the spans of the model ranks and of one attention rank at a time.
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
#include "json_text.h"
#include "log.h"
#include "version.h"
#include "wire.h"

/* What a rank tells of its records before it sends them. */
struct record {
    int64_t n_spans, n_dropped, clock_offset_ns, first_ns;
    int32_t role, head_index, owner;
    char host[64];
};

/* The spans of one rank, on the leader's clock. */
struct spans {
    int rank;
    size_t n;
    struct span *span;
};

struct timeline {
    const struct topology *topology;
    FILE *file;
    int64_t origin_ns;
    int64_t n_ids; /* of flows and of messages on their way */
};

static const double SECONDS_TO_COLLECT = 600;
/* Threads of a process: before the loop, slot 0, slot 1... Processes and threads count from 1:
 * number 0 of both is the kernel's idle one to Perfetto. */
enum { FIRST_PROCESS = 1, LANE_START = 1, LANE_SLOT = 2 };

/* ---- names and colours ------------------------------------------------------------------------
 */

static const struct {
    const char *category, *colour;
} look[SPAN_KINDS] = {
    [SPAN_COMPUTE] = {"compute", "thread_state_running"},
    [SPAN_SCATTER_Q] = {"wire", "rail_response"},
    [SPAN_SCATTER_KV] = {"wire", "rail_response"},
    [SPAN_GATHER_OUT] = {"wait", "thread_state_iowait"},
    [SPAN_GATHER_Q] = {"wait", "thread_state_iowait"},
    [SPAN_GATHER_KV] = {"wait", "thread_state_iowait"},
    [SPAN_ATTEND] = {"attention", "rail_animation"},
    [SPAN_APPEND] = {"attention", "rail_load"},
    [SPAN_REPLY] = {"wire", "rail_response"},
    [SPAN_SAMPLE] = {"compute", "thread_state_runnable"},
    [SPAN_HEADER] = {"wait", "thread_state_sleeping"},
    [SPAN_BOOKS] = {"books", "generic_work"},
    [SPAN_ARRIVED] = {"wire", "rail_response"},
    [SPAN_LOAD] = {"start", "startup"},
    [SPAN_START] = {"start", "grey"},
};

/* An attention rank attends twice a message pair with --q-first on: right behind Q, and behind KV.
 */
static const char *span_name(const struct span *span, enum span_kind before) {
    if (span->kind == SPAN_COMPUTE) return op_name((enum op)span->label);
    if (span->kind == SPAN_ATTEND && before == SPAN_GATHER_Q) return "attend cached";
    if (span->kind == SPAN_ATTEND && before == SPAN_APPEND) return "attend newest";
    return clock_span_name((enum span_kind)span->kind);
}

static int process_of(int rank) {
    return FIRST_PROCESS + rank;
}

static int lane_of(const struct span *span) {
    return span->slot < 0 ? LANE_START : LANE_SLOT + span->slot;
}

/* ---- collecting -------------------------------------------------------------------------------
 */

static struct record own_record(const struct topology *topology) {
    size_t n_spans, n_dropped;
    const struct span *span = clock_spans(&n_spans, &n_dropped);
    struct record record = {.n_spans = (int64_t)n_spans,
                            .n_dropped = (int64_t)n_dropped,
                            .clock_offset_ns = topology->clock_offset_ns,
                            .first_ns = INT64_MAX,
                            .role = (int32_t)topology->role,
                            .head_index = topology->head_index,
                            .owner = topology->owner};
    for (size_t at = 0; at < n_spans; at++) { /* a span is recorded when it ends */
        if (span[at].begin_ns < record.first_ns) record.first_ns = span[at].begin_ns;
    }
    if (n_spans) record.first_ns += topology->clock_offset_ns;
    snprintf(record.host, sizeof record.host, "%s", topology->host);
    return record;
}

/* Point to point, the leader with one rank; others pass by. */
static struct spans take_spans(const struct topology *topology, const struct record *record,
                               int rank) {
    struct spans spans = {.rank = rank};
    bool sends = topology->rank == rank;
    if (!topology->leader && !sends) return spans;
    size_t n_own, n_dropped;
    const struct span *own = clock_spans(&n_own, &n_dropped);
    spans.n = sends ? n_own : (size_t)record[rank].n_spans;
    spans.span = check_alloc(spans.n, sizeof *spans.span);
    if (sends && n_own) memcpy(spans.span, own, n_own * sizeof *own);
    topology_send_to_leader(topology, rank, spans.span, spans.n * sizeof *spans.span,
                            "collection of the timeline", SECONDS_TO_COLLECT);
    for (size_t at = 0; topology->leader && at < spans.n; at++) {
        spans.span[at].begin_ns += record[rank].clock_offset_ns;
        spans.span[at].end_ns += record[rank].clock_offset_ns;
    }
    return spans;
}

/* ---- events -----------------------------------------------------------------------------------
 */

static double us(const struct timeline *timeline, int64_t ns) {
    return (double)(ns - timeline->origin_ns) * 1e-3;
}

static void write_name(struct timeline *timeline, const char *kind, int rank, int lane,
                       const char *name) {
    struct json_text text = {0};
    json_text_string(&text, name, strlen(name));
    fprintf(timeline->file,
            "{\"ph\":\"M\",\"name\":\"%s_name\",\"pid\":%d,\"tid\":%d,\"args\":{\"name\":%s}},\n"
            "{\"ph\":\"M\",\"name\":\"%s_sort_index\",\"pid\":%d,\"tid\":%d,\"args\":{"
            "\"sort_index\":%d}},\n",
            kind, process_of(rank), lane, text.text, kind, process_of(rank), lane,
            strcmp(kind, "process") == 0 ? rank : lane);
    free(text.text);
}

static void write_names(struct timeline *timeline, const struct record *record,
                        const struct spans *spans) {
    const struct layout *layout = &timeline->topology->layout;
    char name[192];
    int n_slots = 0;
    int n =
        snprintf(name, sizeof name, "rank %d %s", spans->rank, role_name((enum role)record->role));
    if (record->role == ROLE_ATTENTION)
        n += snprintf(name + n, sizeof name - (size_t)n, " (head share %d of %d, owner %d of %d)",
                      record->head_index, layout->heads, record->owner, layout->sequences);
    snprintf(name + n, sizeof name - (size_t)n, ", %s", record->host);
    write_name(timeline, "process", spans->rank, LANE_START, name);
    for (size_t at = 0; at < spans->n; at++)
        n_slots = spans->span[at].slot >= n_slots ? spans->span[at].slot + 1 : n_slots;
    write_name(timeline, "thread", spans->rank, LANE_START, "start");
    for (int slot = 0; slot < n_slots; slot++) {
        snprintf(name, sizeof name, "slot %d", slot);
        write_name(timeline, "thread", spans->rank, LANE_SLOT + slot, name);
    }
}

static void write_span(struct timeline *timeline, int rank, const struct span *span,
                       enum span_kind before) {
    fprintf(timeline->file,
            "{\"ph\":\"X\",\"name\":\"%s\",\"cat\":\"%s\",\"cname\":\"%s\",\"pid\":%d,\"tid\":%d,"
            "\"ts\":%.3f,\"dur\":%.3f",
            span_name(span, before), look[span->kind].category, look[span->kind].colour,
            process_of(rank), lane_of(span), us(timeline, span->begin_ns),
            (double)(span->end_ns - span->begin_ns) * 1e-3);
    if (span->n_bytes > 0)
        fprintf(timeline->file, ",\"args\":{\"bytes\":%lld}", (long long)span->n_bytes);
    fprintf(timeline->file, "},\n");
}

static bool same_turn(const struct span *a, const struct span *b) {
    return a->slot == b->slot && a->step == b->step && a->slice == b->slice;
}

/* The spans first..end-1 are one turn's: a bar around them. */
static void write_turn(struct timeline *timeline, int rank, const struct span *first,
                       const struct span *last) {
    if (first->slot < 0) return;
    fprintf(timeline->file,
            "{\"ph\":\"X\",\"name\":\"step %d slice %d\",\"cat\":\"turn\",\"pid\":%d,\"tid\":%d,"
            "\"ts\":%.3f,\"dur\":%.3f,\"args\":{\"slot\":%d,\"step\":%d,\"slice\":%d}},\n",
            first->step, first->slice, process_of(rank), lane_of(first),
            us(timeline, first->begin_ns), (double)(last->end_ns - first->begin_ns) * 1e-3,
            first->slot, first->step, first->slice);
}

static void write_rank(struct timeline *timeline, const struct spans *spans) {
    for (size_t at = 0, end; at < spans->n; at = end) {
        const struct span *first = &spans->span[at], *last = NULL;
        enum span_kind before = SPAN_KINDS;
        for (end = at; end < spans->n && same_turn(&spans->span[end], first); end++) {
            if (spans->span[end].kind == SPAN_ARRIVED) continue;
            if (!last) first = &spans->span[end];
            last = &spans->span[end];
        }
        if (!last) continue; /* nothing but arrivals */
        write_turn(timeline, spans->rank, first, last);
        for (size_t step = at; step < end; step++) {
            if (spans->span[step].kind == SPAN_ARRIVED) continue;
            write_span(timeline, spans->rank, &spans->span[step], before);
            before = (enum span_kind)spans->span[step].kind;
        }
    }
}

/* ---- messages: who sent what was taken --------------------------------------------------------
 */

/* One kind of message between two ranks: the spans that send it and those that take it. */
struct route {
    enum message message;
    const struct spans *from, *to;
    enum span_kind sends, takes;
    int slices, steps; /* a message is taken in so many slices and steps after it was sent */
};

static const struct span *next_of(const struct spans *spans, size_t *at, enum span_kind kind) {
    while (*at < spans->n) {
        const struct span *span = &spans->span[(*at)++];
        if (span->kind == kind) return span;
    }
    return NULL;
}

/* The next arrival of the route's message from its sender. */
static const struct span *next_arrival(const struct route *route, size_t *at) {
    const struct span *span;
    while ((span = next_of(route->to, at, SPAN_ARRIVED))) {
        if (span->label == route->message && span->peer == route->from->rank) return span;
    }
    return NULL;
}

/* A header is sent in the last slice of a step and taken in the first of the next. */
static bool is_taken_by(const struct route *route, const struct span *sent,
                        const struct span *taken) {
    if (sent->slot != taken->slot || sent->step + route->steps != taken->step) return false;
    return route->message == MESSAGE_STEP || sent->slice + route->slices == taken->slice;
}

static void write_flight(struct timeline *timeline, const struct route *route,
                         const struct span *sent, const struct span *arrival) {
    const char *name = message_name(route->message);
    int64_t begin = sent->end_ns < arrival->begin_ns ? sent->end_ns : arrival->begin_ns;
    long long id = (long long)timeline->n_ids++;
    fprintf(timeline->file,
            "{\"ph\":\"b\",\"cat\":\"message\",\"name\":\"%s\",\"id\":%lld,\"pid\":%d,\"tid\":%d,"
            "\"ts\":%.3f,\"args\":{\"from\":%d,\"slot\":%d,\"step\":%d,\"slice\":%d,\"bytes\":%lld}"
            "},\n"
            "{\"ph\":\"e\",\"cat\":\"message\",\"name\":\"%s\",\"id\":%lld,\"pid\":%d,\"tid\":%d,"
            "\"ts\":%.3f},\n",
            name, id, process_of(route->to->rank), LANE_START, us(timeline, begin),
            route->from->rank, sent->slot, sent->step, sent->slice, (long long)arrival->n_bytes,
            name, id, process_of(route->to->rank), LANE_START, us(timeline, arrival->begin_ns));
}

/* From the end of one bar to the end of the other, a nanosecond inside, by which viewers know which
 * bars are meant. A scatter to many may end after the first has its message. */
static void write_arrow(struct timeline *timeline, const struct route *route,
                        const struct span *sent, const struct span *taken) {
    const char *name = message_name(route->message);
    int64_t end = taken->end_ns > taken->begin_ns ? taken->end_ns - 1 : taken->end_ns;
    int64_t begin = sent->end_ns - 1 < end ? sent->end_ns - 1 : end;
    if (begin < sent->begin_ns) begin = sent->begin_ns;
    long long id = (long long)timeline->n_ids++;
    fprintf(timeline->file,
            "{\"ph\":\"s\",\"cat\":\"message\",\"name\":\"%s\",\"id\":%lld,\"pid\":%d,\"tid\":%d,"
            "\"ts\":%.3f},\n"
            "{\"ph\":\"f\",\"bp\":\"e\",\"cat\":\"message\",\"name\":\"%s\",\"id\":%lld,\"pid\":%d,"
            "\"tid\":%d,\"ts\":%.3f},\n",
            name, id, process_of(route->from->rank), lane_of(sent), us(timeline, begin), name, id,
            process_of(route->to->rank), lane_of(taken), us(timeline, end));
}

/* Gathers are a subsequence of scatters where the receiver gathers from one peer (Q, KV, STEP);
 * scatters are one of gathers where it gathers from many at once (OUT). */
static void write_route(struct timeline *timeline, const struct route *route) {
    bool many = route->message == MESSAGE_OUT;
    const struct spans *few_side = many ? route->from : route->to;
    const struct spans *all_side = many ? route->to : route->from;
    enum span_kind few_kind = many ? route->sends : route->takes;
    enum span_kind all_kind = many ? route->takes : route->sends;
    size_t at_few = 0, at_all = 0, at_arrival = 0;
    const struct span *few, *all;
    while ((few = next_of(few_side, &at_few, few_kind))) {
        const struct span *arrival = next_arrival(route, &at_arrival);
        size_t at = at_all;
        while ((all = next_of(all_side, &at, all_kind))) {
            if (is_taken_by(route, many ? few : all, many ? all : few)) break;
        }
        if (!all) continue; /* not recorded any more, or sent before the loop */
        at_all = at;
        const struct span *sent = many ? few : all, *taken = many ? all : few;
        if (arrival) write_flight(timeline, route, sent, arrival);
        write_arrow(timeline, route, sent, taken);
    }
}

static void write_messages(struct timeline *timeline, const struct spans *model,
                           const struct spans *attention) {
    struct route route[] = {
        {MESSAGE_Q, model, attention, SPAN_SCATTER_Q, SPAN_GATHER_Q, 0, 0},
        {MESSAGE_KV, model, attention, SPAN_SCATTER_KV, SPAN_GATHER_KV, 0, 0},
        {MESSAGE_OUT, attention, model, SPAN_REPLY, SPAN_GATHER_OUT, 1, 0},
        {MESSAGE_STEP, model, attention, SPAN_BOOKS, SPAN_HEADER, 0, 1},
    };
    for (size_t at = 0; at < sizeof route / sizeof *route; at++)
        write_route(timeline, &route[at]);
}

/* ---- the file ---------------------------------------------------------------------------------
 */

static void write_head(struct timeline *timeline) {
    const struct layout *layout = &timeline->topology->layout;
    fprintf(timeline->file,
            "{\"displayTimeUnit\":\"ms\",\"otherData\":{\"program\":\"lamina %s\",\"build\":\"%s\","
            "\"model_ranks\":%d,\"attention_ranks\":%d,\"heads\":%d,\"sequences\":%d},"
            "\"traceEvents\":[\n",
            LAMINA_VERSION, LAMINA_COMMIT, layout->model_ranks, layout->attention_ranks,
            layout->heads, layout->sequences);
}

/* The list needs a last element without a comma behind it. */
static bool write_tail(struct timeline *timeline) {
    fprintf(timeline->file,
            "{\"ph\":\"M\",\"name\":\"process_labels\",\"pid\":%d,\"args\":{"
            "\"labels\":\"leader\"}}\n]}\n",
            process_of(0));
    return fflush(timeline->file) == 0 && !ferror(timeline->file);
}

/* Collective; only the leader has a file. */
static void write_events(struct timeline *timeline, const struct record *record) {
    const struct topology *topology = timeline->topology;
    int a = topology->layout.model_ranks;
    struct spans *model = check_alloc((size_t)a, sizeof *model);
    for (int rank = 0; rank < topology->n_ranks; rank++) {
        struct spans spans = take_spans(topology, record, rank);
        if (rank < a) model[rank] = spans;
        if (timeline->file) {
            write_names(timeline, &record[rank], &spans);
            write_rank(timeline, &spans);
            for (int peer = 0; rank >= a && peer < a; peer++)
                write_messages(timeline, &model[peer], &spans);
        }
        if (rank >= a) free(spans.span);
    }
    for (int rank = 0; rank < a; rank++)
        free(model[rank].span);
    free(model);
}

static void say_written(const struct record *record, int n_ranks, const char *path) {
    int64_t n_dropped = 0;
    char shown[512];
    log_escape(shown, sizeof shown, path, strlen(path));
    for (int rank = 0; rank < n_ranks; rank++)
        n_dropped += record[rank].n_dropped;
    log_note("timeline: %s, to be opened in Perfetto (ui.perfetto.dev) or chrome://tracing", shown);
    if (n_dropped > 0)
        log_warning("timeline %s holds the first %d spans of each rank; %lld came later", shown,
                    TRACE_SPANS, (long long)n_dropped);
}

void trace_write_timeline(const struct topology *topology, const struct replacement *file) {
    size_t n_ranks = (size_t)topology->n_ranks;
    struct timeline timeline = {.topology = topology, .origin_ns = INT64_MAX};
    struct record mine = own_record(topology), *record = check_alloc(n_ranks, sizeof *record);
    topology_collect(topology, &mine, sizeof mine, record, "collection of the timeline",
                     SECONDS_TO_COLLECT);
    for (size_t rank = 0; topology->leader && rank < n_ranks; rank++) {
        if (record[rank].first_ns < timeline.origin_ns) timeline.origin_ns = record[rank].first_ns;
    }
    int fd = topology->leader ? replacement_begin(file) : -1;
    if (fd >= 0) timeline.file = fdopen(fd, "w");
    if (timeline.file) write_head(&timeline);
    write_events(&timeline, record);
    if (topology->leader) {
        bool good = timeline.file && write_tail(&timeline);
        if (timeline.file) good = fclose(timeline.file) == 0 && good;
        if (fd >= 0) good = replacement_end(file, timeline.file ? -1 : fd, good);
        if (!good) {
            char shown[512];
            int error = errno;
            log_error("--timeline %s: %s",
                      log_escape(shown, sizeof shown, file->path, strlen(file->path)),
                      strerror(error));
        } else {
            say_written(record, topology->n_ranks, file->path);
        }
    }
    free(record);
}
