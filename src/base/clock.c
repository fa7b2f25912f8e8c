/* clock.c - the monotonic clock, deadlines and the recorder of spans. See clock.h. */
#include "clock.h"

#include <string.h>
#include <time.h>

static struct {
    struct clock_listener listener; /* zeroed: nobody */
    struct span_totals totals;
    int slot, step, slice;
    bool empty;
} recorder;

static int64_t read_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int64_t clock_now_ns(void) {
    return read_ns(CLOCK_MONOTONIC);
}

int64_t clock_thread_ns(void) {
    return read_ns(CLOCK_THREAD_CPUTIME_ID);
}

void clock_stamp(char text[32]) {
    time_t now = time(NULL);
    struct tm utc;
    strftime(text, 32, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
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
        [SPAN_ARRIVED] = "arrived",       [SPAN_LOAD] = "load weights",
        [SPAN_START] = "start",           [SPAN_REPLAY] = "replay",
    };
    return name[kind];
}

void clock_record_open(void) {
    memset(&recorder, 0, sizeof recorder);
    clock_place(-1, -1, -1, -1);
}

void clock_record_close(void) {
    memset(&recorder, 0, sizeof recorder);
}

void clock_listen(const struct clock_listener *listener) {
    recorder.listener = listener ? *listener : (struct clock_listener){0};
}

void clock_place(int slot, int step, int slice, int n_rows) {
    recorder.slot = slot;
    recorder.step = step;
    recorder.slice = slice;
    recorder.empty = n_rows == 0;
}

/* Count a span and hand it on, with what the caller has not filled in. */
static int64_t record(struct span span) {
    struct span_totals *totals = &recorder.totals;
    totals->n_spans[span.kind] += 1;
    totals->busy_ns[span.kind] += span.end_ns - span.begin_ns;
    totals->n_bytes[span.kind] += span.n_bytes;
    if (!recorder.listener.take_span) return span.end_ns;
    span.step = recorder.step;
    span.slice = (int16_t)recorder.slice;
    span.empty = recorder.empty;
    recorder.listener.take_span(recorder.listener.argument, &span);
    return span.end_ns;
}

int64_t clock_span(enum span_kind kind, int label, int64_t n_bytes, int64_t begin_ns) {
    return record((struct span){.begin_ns = begin_ns,
                                .end_ns = clock_now_ns(),
                                .n_bytes = n_bytes,
                                .slot = (int16_t)recorder.slot,
                                .peer = -1,
                                .kind = (uint8_t)kind,
                                .label = (uint8_t)label});
}

int64_t clock_message(enum span_kind kind, int lane, int peer, int64_t n_bytes, int64_t begin_ns) {
    return record((struct span){.begin_ns = begin_ns,
                                .end_ns = clock_now_ns(),
                                .n_bytes = n_bytes,
                                .slot = (int16_t)recorder.slot,
                                .peer = (int16_t)peer,
                                .kind = (uint8_t)kind,
                                .lane = (uint8_t)lane});
}

void clock_arrived(int message, int slot, int lane, int peer, int64_t n_bytes) {
    int64_t now = clock_now_ns();
    if (message < SPAN_LABELS) {
        recorder.totals.n_arrived[message] += 1;
        recorder.totals.arrived_bytes[message] += n_bytes;
    }
    record((struct span){.begin_ns = now,
                         .end_ns = now,
                         .n_bytes = n_bytes,
                         .slot = (int16_t)slot,
                         .peer = (int16_t)peer,
                         .kind = SPAN_ARRIVED,
                         .label = (uint8_t)message,
                         .lane = (uint8_t)lane});
}

void clock_count(enum span_kind kind, int64_t n_bytes) {
    recorder.totals.n_spans[kind] += 1;
    recorder.totals.n_bytes[kind] += n_bytes;
}

void clock_count_arrived(int message, int n_blocks, int64_t n_bytes) {
    clock_count(SPAN_ARRIVED, n_bytes);
    recorder.totals.n_arrived[message] += n_blocks;
    recorder.totals.arrived_bytes[message] += n_bytes;
}

void clock_step(struct step_span step) {
    if (!recorder.listener.take_step) return;
    step.end_ns = clock_now_ns();
    recorder.listener.take_step(recorder.listener.argument, &step);
}

const struct span_totals *clock_totals(void) {
    return &recorder.totals;
}

/* ---- histograms -------------------------------------------------------------------------------
 * Bin of v: v itself below 64; else, with 2^e <= v < 2^(e+1), 64 (e - 6) + v >> (e - 6), whose
 * second term is in 64..127. Width 2^(e-6), so the middle is off by 2^(e-7) <= v / 128 at most.
 */

static int bin_of(int64_t ns) {
    if (ns < 64) return (int)ns;
    int shift = 63 - __builtin_clzll((unsigned long long)ns) - 6;
    return 64 * shift + (int)(ns >> shift);
}

/* The middle of a bin, by which its samples are known. */
static double bin_ns(int bin) {
    if (bin < 128) return bin;
    int shift = bin / 64 - 1;
    double width = (double)(INT64_C(1) << shift);
    return width * (bin - 64 * shift) + (width - 1) / 2;
}

void histogram_add(struct histogram *histogram, int64_t ns) {
    if (ns < 0) ns = 0;
    if (histogram->n == 0 || ns < histogram->least_ns) histogram->least_ns = ns;
    if (ns > histogram->most_ns) histogram->most_ns = ns;
    histogram->n += 1;
    histogram->sum_ns += ns;
    histogram->bin[bin_of(ns)] += 1;
}

/* The sample of rank `rank` (from 0) in rising order. */
static double sample_at(const struct histogram *histogram, int64_t rank) {
    if (rank <= 0) return (double)histogram->least_ns;
    if (rank >= histogram->n - 1) return (double)histogram->most_ns;
    int bin = 0;
    for (int64_t n_below = histogram->bin[0]; n_below <= rank;)
        n_below += histogram->bin[++bin];
    double ns = bin_ns(bin);
    if (ns < (double)histogram->least_ns) return (double)histogram->least_ns;
    return ns < (double)histogram->most_ns ? ns : (double)histogram->most_ns;
}

double histogram_percentile(const struct histogram *histogram, double percent) {
    if (histogram->n == 0) return 0;
    double rank = percent / 100 * (double)(histogram->n - 1);
    int64_t below = (int64_t)rank;
    double ns = sample_at(histogram, below);
    return ns +
           (rank - (double)below) * (sample_at(histogram, below + (rank > (double)below)) - ns);
}

double histogram_mean(const struct histogram *histogram) {
    return histogram->n ? (double)histogram->sum_ns / (double)histogram->n : 0;
}
