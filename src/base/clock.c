/* clock.c - the monotonic clock, deadlines and the recorder of spans. See clock.h. */
#include "clock.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "check.h"

static struct {
    struct span *span;
    size_t n_spans, capacity, n_dropped;
    struct span_totals totals;
    int slot, step, slice;
} recorder;

int64_t clock_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

struct deadline clock_deadline(double seconds) {
    return (struct deadline){clock_now_ns() + (int64_t)(seconds * 1e9)};
}

bool clock_expired(struct deadline deadline) {
    return clock_now_ns() > deadline.at_ns;
}

const char *clock_span_name(enum span_kind kind) {
    static const char *const name[SPAN_KINDS] = {
        [SPAN_COMPUTE] = "compute",       [SPAN_SCATTER_Q] = "scatter Q",
        [SPAN_SCATTER_KV] = "scatter KV", [SPAN_GATHER_OUT] = "gather OUT",
        [SPAN_GATHER_Q] = "gather Q",     [SPAN_GATHER_KV] = "gather KV",
        [SPAN_ATTEND] = "attend",         [SPAN_APPEND] = "append KV",
        [SPAN_REPLY] = "scatter OUT",     [SPAN_SAMPLE] = "sample",
        [SPAN_HEADER] = "take header",    [SPAN_BOOKS] = "books",
        [SPAN_ARRIVED] = "arrived",
    };
    return name[kind];
}

void clock_record_open(size_t n_spans) {
    memset(&recorder, 0, sizeof recorder);
    recorder.capacity = n_spans;
    if (n_spans) recorder.span = check_alloc(n_spans, sizeof *recorder.span);
}

void clock_record_close(void) {
    free(recorder.span);
    memset(&recorder, 0, sizeof recorder);
}

void clock_place(int slot, int step, int slice) {
    recorder.slot = slot;
    recorder.step = step;
    recorder.slice = slice;
}

int64_t clock_span(enum span_kind kind, int label, int peer, int64_t n_bytes, int64_t begin_ns) {
    int64_t now = clock_now_ns();
    recorder.totals.n_spans[kind] += 1;
    recorder.totals.busy_ns[kind] += now - begin_ns;
    recorder.totals.n_bytes[kind] += n_bytes;
    if (recorder.n_spans < recorder.capacity) {
        recorder.span[recorder.n_spans++] = (struct span){
            .begin_ns = begin_ns,
            .end_ns = now,
            .n_bytes = n_bytes,
            .step = recorder.step,
            .slice = (int16_t)recorder.slice,
            .slot = (int16_t)recorder.slot,
            .peer = (int16_t)peer,
            .kind = (uint8_t)kind,
            .label = (uint8_t)label,
        };
    } else {
        recorder.n_dropped += 1;
    }
    return now;
}

const struct span_totals *clock_totals(void) {
    return &recorder.totals;
}

const struct span *clock_spans(size_t *n_spans, size_t *n_dropped) {
    *n_spans = recorder.n_spans;
    *n_dropped = recorder.n_dropped;
    return recorder.span;
}
