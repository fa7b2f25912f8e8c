/* trace_table.c - the tables of a trace and what is derived of them. See trace_parts.h.
 *
 * One description of the columns serves the HDF5 file, both ways, and the CSV. Turns are not
 * recorded: they are what the spans of one slice of a slot's step come to.
 */
#include <stdlib.h>

#include "graph.h"
#include "schedule.h"
#include "trace_parts.h"
#include "wire.h"

#define LENGTH(array) (sizeof(array) / sizeof(array)[0])
#define COLUMN(row, member, title, unit_, type_)                                                   \
    {                                                                                              \
        .name = title, .unit = unit_, .type = type_, .offset = offsetof(struct row, member),       \
        .n_bytes = sizeof(((struct row *)0)->member)                                               \
    }

static const struct trace_column span_columns[] = {
    COLUMN(span, begin_ns, "begin", "ns", TRACE_INT64),
    COLUMN(span, end_ns, "end", "ns", TRACE_INT64),
    COLUMN(span, n_bytes, "bytes", "bytes", TRACE_INT64),
    COLUMN(span, step, "step", "index", TRACE_INT32),
    COLUMN(span, slice, "slice", "index", TRACE_INT16),
    COLUMN(span, slot, "slot", "index", TRACE_INT16),
    COLUMN(span, peer, "peer", "rank", TRACE_INT16),
    COLUMN(span, kind, "kind", "name", TRACE_KIND),
    COLUMN(span, label, "label", "name", TRACE_LABEL),
    COLUMN(span, lane, "lane", "index", TRACE_INT16),
};
static const struct trace_column step_columns[] = {
    COLUMN(step_span, begin_ns, "begin", "ns", TRACE_INT64),
    COLUMN(step_span, end_ns, "end", "ns", TRACE_INT64),
    COLUMN(step_span, step, "step", "index", TRACE_INT32),
    COLUMN(step_span, slot, "slot", "index", TRACE_INT32),
    COLUMN(step_span, n_rows, "rows", "rows", TRACE_INT32),
    COLUMN(step_span, n_sequences, "sequences", "sequences", TRACE_INT32),
    COLUMN(step_span, n_pages_used, "pages_used", "KV pages", TRACE_INT32),
    COLUMN(step_span, n_prompt_rows, "prompt_rows", "rows", TRACE_INT32),
    COLUMN(step_span, n_decode_rows, "decode_rows", "rows", TRACE_INT32),
    COLUMN(step_span, n_recomputed_rows, "recomputed_rows", "rows", TRACE_INT32),
};
static const struct trace_column energy_columns[] = {
    COLUMN(trace_energy, at_ns, "at", "ns", TRACE_INT64),
    COLUMN(trace_energy, energy_uj, "energy", "uJ", TRACE_INT64),
    COLUMN(trace_energy, package, "package", "index", TRACE_INT32),
};
static const struct trace_column turn_columns[] = {
    COLUMN(trace_turn, begin_ns, "begin", "ns", TRACE_INT64),
    COLUMN(trace_turn, end_ns, "end", "ns", TRACE_INT64),
    COLUMN(trace_turn, busy_ns, "busy", "ns", TRACE_INT64),
    COLUMN(trace_turn, wait_ns, "wait", "ns", TRACE_INT64),
    COLUMN(trace_turn, sent_bytes, "sent", "bytes", TRACE_INT64),
    COLUMN(trace_turn, received_bytes, "received", "bytes", TRACE_INT64),
    COLUMN(trace_turn, step, "step", "index", TRACE_INT32),
    COLUMN(trace_turn, slice, "slice", "index", TRACE_INT32),
    COLUMN(trace_turn, slot, "slot", "index", TRACE_INT32),
};

const struct trace_table trace_tables[TRACE_TABLES] = {
    [TRACE_SPANS] = {"spans", sizeof(struct span), LENGTH(span_columns), span_columns},
    [TRACE_STEPS] = {"steps", sizeof(struct step_span), LENGTH(step_columns), step_columns},
    [TRACE_ENERGY] = {"energy", sizeof(struct trace_energy), LENGTH(energy_columns),
                      energy_columns},
    [TRACE_TURNS] = {"turns", sizeof(struct trace_turn), LENGTH(turn_columns), turn_columns},
};

/* ---- numbers and names ------------------------------------------------------------------------
 */

enum { NO_LABEL = OPS + MESSAGES };
_Static_assert((int)NO_LABEL < (int)TRACE_LABELS && (int)SPAN_KINDS < (int)TRACE_LABELS, "names");

const char *trace_kind_name(int64_t number) {
    return number >= 0 && number < SPAN_KINDS ? clock_span_name((enum span_kind)number) : NULL;
}

const char *trace_label_name(int64_t number) {
    if (number < 0 || number > NO_LABEL) return NULL;
    if (number == NO_LABEL) return "none";
    return number < OPS ? op_name((enum op)number) : message_name((enum message)(number - OPS));
}

static bool has_operator(const struct span *span) {
    return span->kind == SPAN_COMPUTE || span->kind == SPAN_SAMPLE;
}

/* The columns of a label stand in struct span, behind that of its kind. */
static int64_t label_of(const struct span *span) {
    if (has_operator(span)) return span->label;
    return span->kind == SPAN_ARRIVED ? OPS + span->label : NO_LABEL;
}

static void set_label(struct span *span, int64_t number) {
    if (number == NO_LABEL) number = 0;
    span->label = (uint8_t)(span->kind == SPAN_ARRIVED ? number - OPS : number);
}

int64_t trace_get(const struct trace_column *column, const void *row) {
    const char *at = (const char *)row + column->offset;
    if (column->type == TRACE_LABEL) return label_of(row);
    switch (column->n_bytes) {
    case 1: return *(const uint8_t *)at;
    case 2: return *(const int16_t *)at;
    case 4: return *(const int32_t *)at;
    default: return *(const int64_t *)at;
    }
}

void trace_set(const struct trace_column *column, void *row, int64_t number) {
    char *at = (char *)row + column->offset;
    if (column->type == TRACE_LABEL) {
        set_label(row, number);
        return;
    }
    switch (column->n_bytes) {
    case 1: *(uint8_t *)at = (uint8_t)number; break;
    case 2: *(int16_t *)at = (int16_t)number; break;
    case 4: *(int32_t *)at = (int32_t)number; break;
    default: *(int64_t *)at = number;
    }
}

/* Times and bytes are numbers that a double holds: 104 days of nanoseconds. */
static bool is_measure(int64_t number) {
    return number > -(INT64_C(1) << 53) && number < INT64_C(1) << 53;
}

static bool is_span_sound(const struct span *span) {
    return span->kind < SPAN_KINDS && (!has_operator(span) || span->label < OPS) &&
           (span->kind != SPAN_ARRIVED || span->label < MESSAGES) && span->slot >= -1 &&
           span->slot < SCHEDULE_MAX_SLOTS && span->step >= -1 && span->step < INT32_MAX - 1 &&
           is_measure(span->begin_ns) && is_measure(span->end_ns) && is_measure(span->n_bytes) &&
           span->begin_ns <= span->end_ns && span->n_bytes >= 0;
}

bool trace_rank_sound(const struct trace_rank *rank) {
    bool good = is_measure(rank->head.n_missing) && rank->head.n_missing >= 0;
    for (size_t at = 0; good && at < rank->n_spans; at++)
        good = is_span_sound(&rank->span[at]);
    for (size_t at = 0; good && at < rank->n_steps; at++) {
        const struct step_span *step = &rank->step[at];
        good = is_measure(step->begin_ns) && is_measure(step->end_ns) &&
               step->begin_ns <= step->end_ns;
    }
    for (size_t at = 0; good && at < rank->n_energy; at++)
        good = is_measure(rank->energy[at].at_ns) && is_measure(rank->energy[at].energy_uj);
    return good;
}

/* ---- a rank's part ----------------------------------------------------------------------------
 */

void trace_rank_close(struct trace_rank *rank) {
    free(rank->span);
    free(rank->step);
    free(rank->energy);
    *rank = (struct trace_rank){0};
}

/* A message comes before the turn that takes it: those of the first step, in the step before. */
bool trace_wants(const struct trace_head *head, const struct span *span) {
    int early = span->kind == SPAN_ARRIVED;
    return span->step < 0 || ((early || !span->empty) && span->step <= head->last_step &&
                              span->step >= head->first_step - early);
}

void trace_rank_choose(struct trace_rank *rank, const struct trace_head *head) {
    size_t n = 0;
    for (size_t at = 0; at < rank->n_spans; at++) {
        if (trace_wants(head, &rank->span[at])) rank->span[n++] = rank->span[at];
    }
    rank->n_spans = n;
}

bool trace_is_wait(enum span_kind kind) {
    return kind == SPAN_GATHER_OUT || kind == SPAN_GATHER_Q || kind == SPAN_GATHER_KV ||
           kind == SPAN_HEADER;
}

static bool is_sent(enum span_kind kind) {
    return kind == SPAN_SCATTER_Q || kind == SPAN_SCATTER_KV || kind == SPAN_REPLY;
}

static void add_to_turn(struct trace_turn *turn, const struct span *span) {
    int64_t ns = span->end_ns - span->begin_ns;
    bool waits = trace_is_wait((enum span_kind)span->kind);
    turn->end_ns = span->end_ns;
    *(waits ? &turn->wait_ns : &turn->busy_ns) += ns;
    turn->sent_bytes += is_sent((enum span_kind)span->kind) ? span->n_bytes : 0;
    turn->received_bytes += waits ? span->n_bytes : 0;
}

struct trace_turn *trace_turns(const struct trace_rank *rank, size_t *n) {
    struct trace_turn *turns = check_alloc(rank->n_spans, sizeof *turns), *turn = NULL;
    *n = 0;
    for (size_t at = 0; at < rank->n_spans; at++) {
        const struct span *span = &rank->span[at];
        if (span->kind == SPAN_ARRIVED || span->slot < 0) continue;
        if (!turn || turn->slot != span->slot || turn->step != span->step ||
            turn->slice != span->slice) {
            turn = &turns[(*n)++];
            *turn = (struct trace_turn){.begin_ns = span->begin_ns,
                                        .step = span->step,
                                        .slice = span->slice,
                                        .slot = span->slot};
        }
        add_to_turn(turn, span);
    }
    return turns;
}
