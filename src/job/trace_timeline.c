/* trace_timeline.c - a trace as a picture. See trace_parts.h.
 *
 * Chrome's trace event format, in microseconds: one process a rank and in it one lane a slot, on
 * which a turn encloses its steps ("X", complete events); messages on their way as bars of their
 * own ("b" and "e", async events) from the end of the scatter to the arrival of the last byte;
 * arrows ("s" and "f", flows) from a scatter to the gather that took it. Colours are names of
 * chrome://tracing's palette; Perfetto chooses its own.
 *
 * Sends and receives are paired by walking both ranks' spans side by side: all walk one list of
 * turns, so the gathers of a rank are, in order, some of the scatters of its peer, with the same
 * slot, step, slice and lane. Arrivals carry no such place, since they come while something else is
 * done; but of one slot and lane only one message is on its way, so the last one before a gather
 * ended is the one it took. Rejected: an id in every message, which would cost bytes on the wire
 * for a picture.
 *
 * The spans of the model ranks and of one attention rank are held at a time.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "graph.h"
#include "json_text.h"
#include "log.h"
#include "schedule.h"
#include "trace_parts.h"
#include "wire.h"

/* The spans of one rank. */
struct spans {
    int rank;
    size_t n;
    const struct span *span;
};

struct timeline {
    struct replacement place; /* borrowed */
    struct trace_head head;
    FILE *file;
    struct spans *model; /* (model_ranks), owned; those there are */
    int n_models;
    int64_t n_ids; /* of flows and of messages on their way */
};

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
    [SPAN_REPLAY] = {"compute", "thread_state_running"},
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

/* ---- events -----------------------------------------------------------------------------------
 */

static double us(int64_t ns) {
    return (double)ns * 1e-3;
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

static void write_names(struct timeline *timeline, const struct trace_rank *rank) {
    const struct trace_rank_head *head = &rank->head;
    char name[256];
    int n_slots = 0;
    int n = snprintf(name, sizeof name, "rank %d %s", head->rank, role_name((enum role)head->role));
    if (head->role == ROLE_ATTENTION)
        n +=
            snprintf(name + n, sizeof name - (size_t)n, " (head share %d of %d, owner %d of %d)",
                     head->head_index, timeline->head.heads, head->owner, timeline->head.sequences);
    snprintf(name + n, sizeof name - (size_t)n, ", %s", head->host);
    write_name(timeline, "process", head->rank, LANE_START, name);
    for (size_t at = 0; at < rank->n_spans; at++)
        n_slots = rank->span[at].slot >= n_slots ? rank->span[at].slot + 1 : n_slots;
    write_name(timeline, "thread", head->rank, LANE_START, "start");
    for (int slot = 0; slot < n_slots; slot++) {
        snprintf(name, sizeof name, "slot %d", slot);
        write_name(timeline, "thread", head->rank, LANE_SLOT + slot, name);
    }
}

static void write_span(struct timeline *timeline, int rank, const struct span *span,
                       enum span_kind before) {
    fprintf(timeline->file,
            "{\"ph\":\"X\",\"name\":\"%s\",\"cat\":\"%s\",\"cname\":\"%s\",\"pid\":%d,\"tid\":%d,"
            "\"ts\":%.3f,\"dur\":%.3f",
            span_name(span, before), look[span->kind].category, look[span->kind].colour,
            process_of(rank), lane_of(span), us(span->begin_ns),
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
            first->step, first->slice, process_of(rank), lane_of(first), us(first->begin_ns),
            (double)(last->end_ns - first->begin_ns) * 1e-3, first->slot, first->step,
            first->slice);
}

/* The spans at..end-1 of a turn, arrivals among them. */
static void write_one_turn(struct timeline *timeline, const struct trace_rank *rank, size_t at,
                           size_t end) {
    const struct span *first = NULL, *last = NULL;
    enum span_kind before = SPAN_KINDS;
    for (size_t step = at; step < end; step++) {
        if (rank->span[step].kind == SPAN_ARRIVED) continue;
        if (!first) first = &rank->span[step];
        last = &rank->span[step];
    }
    if (!last) return; /* nothing but arrivals */
    write_turn(timeline, rank->head.rank, first, last);
    for (size_t step = at; step < end; step++) {
        if (rank->span[step].kind == SPAN_ARRIVED) continue;
        write_span(timeline, rank->head.rank, &rank->span[step], before);
        before = (enum span_kind)rank->span[step].kind;
    }
}

static void write_rank(struct timeline *timeline, const struct trace_rank *rank) {
    for (size_t at = 0, end; at < rank->n_spans; at = end) {
        const struct span *first = NULL; /* that is of a turn */
        for (end = at; end < rank->n_spans; end++) {
            if (rank->span[end].kind == SPAN_ARRIVED) continue;
            if (!first) first = &rank->span[end];
            if (!same_turn(&rank->span[end], first)) break;
        }
        write_one_turn(timeline, rank, at, end);
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

/* Arrivals of a route, walked along with what takes them. */
struct arrivals {
    size_t at;
    const struct span *last[SCHEDULE_MAX_SLOTS][UINT8_MAX + 1]; /* of a slot and lane, not taken */
};

static const struct span *take_arrival(const struct route *route, struct arrivals *arrivals,
                                       const struct span *taken) {
    const struct spans *to = route->to;
    for (; arrivals->at < to->n; arrivals->at++) {
        const struct span *span = &to->span[arrivals->at];
        if (span->kind != SPAN_ARRIVED || span->label != route->message ||
            span->peer != route->from->rank || span->slot < 0)
            continue;
        if (span->begin_ns > taken->end_ns) break;
        arrivals->last[span->slot][span->lane] = span;
    }
    const struct span *arrival = arrivals->last[taken->slot][taken->lane];
    arrivals->last[taken->slot][taken->lane] = NULL;
    return arrival;
}

/* A header is sent in the last slice of a step and taken in the first of the next. */
static bool is_taken_by(const struct route *route, const struct span *sent,
                        const struct span *taken) {
    if (sent->slot != taken->slot || sent->step + route->steps != taken->step) return false;
    return route->message == MESSAGE_STEP ||
           (sent->slice + route->slices == taken->slice && sent->lane == taken->lane);
}

/* No span of `all` from here on is the other end of `few`: they have come to a later turn of its
 * slot. */
static bool has_passed(const struct span *all, const struct span *few) {
    return all->slot == few->slot &&
           (all->step > few->step + 1 || (all->step == few->step && all->slice > few->slice + 1));
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
            name, id, process_of(route->to->rank), LANE_START, us(begin), route->from->rank,
            sent->slot, sent->step, sent->slice, (long long)arrival->n_bytes, name, id,
            process_of(route->to->rank), LANE_START, us(arrival->begin_ns));
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
            name, id, process_of(route->from->rank), lane_of(sent), us(begin), name, id,
            process_of(route->to->rank), lane_of(taken), us(end));
}

/* Gathers are a subsequence of scatters where the receiver gathers from one peer (Q, KV, STEP);
 * scatters are one of gathers where it gathers from many at once (OUT). */
static void write_route(struct timeline *timeline, const struct route *route) {
    bool many = route->message == MESSAGE_OUT;
    const struct spans *few_side = many ? route->from : route->to;
    const struct spans *all_side = many ? route->to : route->from;
    enum span_kind few_kind = many ? route->sends : route->takes;
    enum span_kind all_kind = many ? route->takes : route->sends;
    struct arrivals *arrivals = check_alloc(1, sizeof *arrivals);
    size_t at_few = 0, at_all = 0;
    const struct span *few, *all;
    while ((few = next_of(few_side, &at_few, few_kind))) {
        size_t at = at_all;
        if (few->slot < 0) continue;
        while ((all = next_of(all_side, &at, all_kind))) {
            if (is_taken_by(route, many ? few : all, many ? all : few)) break;
            if (has_passed(all, few)) {
                all = NULL;
                break;
            }
        }
        if (!all) continue; /* not recorded, or sent before the loop */
        at_all = at;
        const struct span *sent = many ? few : all, *taken = many ? all : few;
        const struct span *arrival = take_arrival(route, arrivals, taken);
        if (arrival) write_flight(timeline, route, sent, arrival);
        write_arrow(timeline, route, sent, taken);
    }
    free(arrivals);
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
    const struct trace_head *head = &timeline->head;
    struct json_text text = {0};
    json_text_string(&text, head->creator, strlen(head->creator));
    fprintf(timeline->file,
            "{\"displayTimeUnit\":\"ms\",\"otherData\":{\"program\":%s,\"created\":\"%s\","
            "\"model_ranks\":%d,\"attention_ranks\":%d,\"heads\":%d,\"sequences\":%d},"
            "\"traceEvents\":[\n",
            text.text, head->created, head->model_ranks, head->attention_ranks, head->heads,
            head->sequences);
    free(text.text);
}

static bool file_fault(const struct replacement *place, struct fault *fault) {
    char shown[512];
    int error = errno;
    log_escape(shown, sizeof shown, place->path, strlen(place->path));
    return fault_world(fault, "--timeline %s: %s", shown, strerror(error));
}

struct timeline *timeline_begin(const struct replacement *place, const struct trace_head *head,
                                struct fault *fault) {
    int fd = replacement_begin(place);
    FILE *file = fd >= 0 ? fdopen(fd, "w") : NULL;
    if (!file) {
        if (fd >= 0) replacement_end(place, fd, false);
        file_fault(place, fault);
        return NULL;
    }
    struct timeline *timeline = check_alloc(1, sizeof *timeline);
    timeline->place = *place;
    timeline->head = *head;
    timeline->file = file;
    timeline->model = check_alloc((size_t)head->n_ranks, sizeof *timeline->model);
    write_head(timeline);
    return timeline;
}

void timeline_put(struct timeline *timeline, const struct trace_rank *rank) {
    struct spans spans = {rank->head.rank, rank->n_spans, rank->span};
    write_names(timeline, rank);
    write_rank(timeline, rank);
    if (rank->head.role == ROLE_MODEL && timeline->n_models < timeline->head.n_ranks) {
        struct span *kept = check_alloc(spans.n, sizeof *kept);
        if (spans.n) memcpy(kept, spans.span, spans.n * sizeof *kept);
        spans.span = kept;
        timeline->model[timeline->n_models++] = spans;
        return;
    }
    for (int peer = 0; peer < timeline->n_models; peer++)
        write_messages(timeline, &timeline->model[peer], &spans);
}

/* The list needs a last element without a comma behind it. */
bool timeline_end(struct timeline *timeline, struct fault *fault) {
    fprintf(timeline->file,
            "{\"ph\":\"M\",\"name\":\"process_labels\",\"pid\":%d,\"args\":{"
            "\"labels\":\"leader\"}}\n]}\n",
            process_of(0));
    bool good = fflush(timeline->file) == 0 && !ferror(timeline->file);
    good = fclose(timeline->file) == 0 && good;
    good = replacement_end(&timeline->place, -1, good) || file_fault(&timeline->place, fault);
    for (int model = 0; model < timeline->n_models; model++)
        free((void *)timeline->model[model].span);
    free(timeline->model);
    free(timeline);
    return good;
}
