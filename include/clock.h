/* clock.h - how lamina measures: a monotonic clock, deadlines, and the record of spans.
 *
 * A span is something one rank did between two moments: a step kind of a slice, a wait for a
 * message. Spans feed the totals of the closing summary always, and, while somebody listens, they
 * are handed on one by one, and with them what each step was made of.
 */
#ifndef LAMINA_CLOCK_H
#define LAMINA_CLOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Nanoseconds of the monotonic clock; comparable within a host, and across hosts after adding the
 * offset that topology measures. */
int64_t clock_now_ns(void);

/* Nanoseconds that the calling thread has spent on a processor. */
int64_t clock_thread_ns(void);

/* The time of day, RFC 3339 in UTC ("2026-01-31T12:00:00Z"). */
void clock_stamp(char text[32]);

/* A moment after which a wait gives up. */
struct deadline {
    int64_t at_ns;
};
struct deadline clock_deadline(double seconds);
bool clock_expired(struct deadline deadline);

/* What a span was spent on. Names in clock_span_name. */
enum span_kind {
    SPAN_COMPUTE,    /* operators of a slice on a model rank */
    SPAN_SCATTER_Q,  /* handing Q to the wire */
    SPAN_SCATTER_KV, /* rounding and handing K and V to the wire */
    SPAN_GATHER_OUT, /* waiting for the attention output */
    SPAN_GATHER_Q,   /* waiting for Q on an attention rank */
    SPAN_GATHER_KV,  /* waiting for K and V on an attention rank */
    SPAN_ATTEND,     /* folding the cache */
    SPAN_APPEND,     /* writing K and V into the cache */
    SPAN_REPLY,      /* handing OUT to the wire */
    SPAN_SAMPLE,     /* choosing tokens */
    SPAN_HEADER,     /* waiting for the step header */
    SPAN_BOOKS,      /* the leader's accounting and forming of headers */
    SPAN_ARRIVED,    /* a message's last byte came; begin = end */
    SPAN_LOAD,       /* before the loop: reading weights */
    SPAN_START,      /* before the loop: all else */
    SPAN_REPLAY,     /* a run that the device replayed: operators, and messages on some wires */
    SPAN_KINDS
};
const char *clock_span_name(enum span_kind kind);

struct span {
    int64_t begin_ns, end_ns;
    int64_t n_bytes; /* payload, 0 where there is none */
    int32_t step;    /* -1 before the loop; of SPAN_ARRIVED: where this rank stood meanwhile */
    int16_t slice;   /* likewise */
    int16_t slot;    /* -1 before the loop; of SPAN_ARRIVED: the message's */
    int16_t peer;    /* rank in the group, -1 where there is none */
    uint8_t kind;    /* enum span_kind */
    uint8_t label;   /* operator within SPAN_COMPUTE (enum op), message of SPAN_ARRIVED, else 0 */
    uint8_t lane;    /* of messages: which attention node of its gap */
    uint8_t empty;   /* 1: of a turn in which this rank has no rows */
};

/* A slot's step on one rank, from the taking of its header to the end of its last slice, when that
 * is not empty. */
struct step_span {
    int64_t begin_ns, end_ns;
    int32_t step, slot;
    int32_t n_rows, n_sequences; /* this rank's: all on a model rank, else those of its owner */
    int32_t n_pages_used;        /* this rank's; the leader's are those of all owners */
    int32_t n_prompt_rows, n_decode_rows, n_recomputed_rows; /* -1 but on the leader */
};

/* Totals since clock_record_open, always kept. */
enum { SPAN_LABELS = 8 }; /* SPAN_ARRIVED is counted by label too; larger labels are not */
struct span_totals {
    int64_t n_spans[SPAN_KINDS];
    int64_t busy_ns[SPAN_KINDS];
    int64_t n_bytes[SPAN_KINDS];
    int64_t n_arrived[SPAN_LABELS];
    int64_t arrived_bytes[SPAN_LABELS];
};

/* Who is handed every span and step, on the thread that records and in the middle of the loop: it
 * may neither allocate nor wait. */
struct clock_listener {
    void (*take_span)(void *argument, const struct span *span);
    void (*take_step)(void *argument, const struct step_span *step);
    void *argument;
};

/* Begin to count. One recorder a process, used by one thread. */
void clock_record_open(void);
void clock_record_close(void);

/* Hand on what is recorded from now on; NULL: to nobody. */
void clock_listen(const struct clock_listener *listener);

/* Note where decode stands; spans recorded afterwards carry it. Slot -1 is outside the loop, where
 * a recorder starts. `n_rows`: this rank's in that turn. */
void clock_place(int slot, int step, int slice, int n_rows);

/* Record a span of `kind` from `begin_ns` to now. Return now, for the span behind it. clock_message
 * is for those that hand a message to the wire or take one. */
int64_t clock_span(enum span_kind kind, int label, int64_t n_bytes, int64_t begin_ns);
int64_t clock_message(enum span_kind kind, int lane, int peer, int64_t n_bytes, int64_t begin_ns);

/* The last byte of a message (enum message) of `slot` has come; from a wire that the host does not
 * drive: it has been asked for. */
void clock_arrived(int message, int slot, int lane, int peer, int64_t n_bytes);

/* Messages of a run that the device replayed, handed over (a scatter of `kind`) or taken: in the
 * totals alone, for nobody saw when. */
void clock_count(enum span_kind kind, int64_t n_bytes);
void clock_count_arrived(int message, int n_blocks, int64_t n_bytes);

/* Hand on a step that ends now. */
void clock_step(struct step_span step);

/* A view, valid until clock_record_close. */
const struct span_totals *clock_totals(void);

/* How many durations of each length: percentiles without keeping the samples. 64 bins of equal
 * width an octave, so that a sample is known to 1/128 of its value (exactly below 128 ns), from 0
 * to the largest int64_t. Zero-initialise. */
enum { HISTOGRAM_BINS = 58 * 64 };
struct histogram {
    int64_t n, sum_ns;
    int64_t least_ns, most_ns; /* when n > 0 */
    uint32_t bin[HISTOGRAM_BINS];
};

/* Count one sample; negative ones count as 0. */
void histogram_add(struct histogram *histogram, int64_t ns);

/* The `percent` percentile in ns, interpolated linearly between the two samples it falls between
 * (numpy's default), within 1/128 of the true one; 0 when there are no samples. */
double histogram_percentile(const struct histogram *histogram, double percent);

/* The mean in ns, exact; 0 when there are no samples. */
double histogram_mean(const struct histogram *histogram);

#endif
