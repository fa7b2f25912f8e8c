/* decode.c - the story: one list of turns, and each rank's half of every turn.
 *
 * Rules that make it correct (docs/design.md section 4):
 *   1. One list of turns pairs every send with its receive; tags only check it.
 *   2. Every message has one place in the list: Q, KV and OUT of a turn, the header at a step's
 * first.
 *   3. The reply is the acknowledgement: OUT from a peer frees the Q and KV sent to it.
 *   4. Nothing in the loop allocates, reads the environment, or waits on the host, but for taking a
 * header that is already here, and the MPI wire by nature.
 *   5. Values are ready when sealed: a scatter waits for the value's seal, not for later compute.
 * Both roles stand in this file, so that every send faces its receive.
 */
#include "decode.h"

#include <stdlib.h>

#include "check.h"
#include "clock.h"
#include "memory.h"

struct decode {
    struct decode_options options;
    struct schedule schedule;
    struct memory memory;
    struct slot *slot[SCHEDULE_MAX_SLOTS];     /* that have begun and not stopped; else NULL */
    struct step_span step[SCHEDULE_MAX_SLOTS]; /* their current steps */
    bool walked;                               /* the list has been walked to its end before */
    bool in_run, replayed; /* turns stand in a run, which the device makes by itself */
};

/* Whether runs go from turn to turn, messages in them; else they go from message to message. */
static bool runs_have_messages(const struct decode *d) {
    return !d->options.wire || d->options.wire_ops->in_runs;
}

static struct attend_shape shape_of(const struct decode *d, int layer) {
    const struct service *service = d->options.service;
    return (struct attend_shape){layer, d->memory.n_heads, d->memory.n_kv_heads, service->head_dim,
                                 service->scale};
}

/* ---- a turn on a model rank -------------------------------------------------------------------
 */

/* Colocated: the attention node runs here, on KV rounded exactly as it would have been sent. */
static void attend_here(struct decode *d, const struct slot *slot, int at) {
    const struct decode_options *o = &d->options;
    const struct node *node = &o->program->graph->node[at];
    const struct arena *arena = &d->memory.arena[slot->rows.slot];
    o->device_ops->attend(o->device, &slot->rows, &d->memory.cache,
                          shape_of(d, node->as.attention.layer), ATTEND_WHOLE,
                          memory_value(o, arena, node->input[0]), memory_value(o, arena, at));
}

static bool is_message(const struct step *step) {
    return step->kind == STEP_GATHER_OUT || step->kind == STEP_SCATTER_Q ||
           step->kind == STEP_SCATTER_KV;
}

/* One step, or those that are fused with it too. Returns how many. */
static int compute_step(struct decode *d, struct slot *slot, const struct slice *slice, int at,
                        int64_t *now) {
    const struct step *step = &slice->step[at];
    enum op op = d->options.program->graph->node[step->node].op;
    if (step->kind == STEP_ATTEND) {
        attend_here(d, slot, step->node);
        *now = clock_span(SPAN_ATTEND, 0, 0, *now);
        return 1;
    }
    int n = execute_steps(&d->options, &d->memory, &slot->rows, slice, at);
    *now = clock_span(op == OP_SAMPLE ? SPAN_SAMPLE : SPAN_COMPUTE, (int)op, 0, *now);
    return n;
}

/* Everything from step `first` to the next message, which may be a run. Returns the step behind it.
 */
static int compute(struct decode *d, struct slot *slot, const struct slice *slice, int first,
                   int name, int64_t *now) {
    const struct decode_options *o = &d->options;
    int end = first;
    while (end < slice->n_steps && !is_message(&slice->step[end]))
        end++;
    bool is_run = !runs_have_messages(d);
    if (is_run && o->device_ops->replay(o->device, 1u << slot->rows.slot, name)) {
        *now = clock_span(SPAN_REPLAY, 0, 0, *now);
        return end;
    }
    for (int at = first; at < end;)
        at += compute_step(d, slot, slice, at, now);
    if (is_run) o->device_ops->recorded(o->device);
    return end;
}

/* A message of `step`: OUT comes, or Q or KV goes. */
static void exchange(struct decode *d, const struct turn *turn, const struct slice *slice,
                     const struct step *step, int64_t *now) {
    const struct decode_options *o = &d->options;
    const struct node *node = &o->program->graph->node[step->node];
    const struct arena *arena = &d->memory.arena[turn->slot];
    struct address address = {.slot = turn->slot, .layer = node->as.attention.layer};
    struct value value;
    size_t n_bytes;
    switch (step->kind) {
    case STEP_GATHER_OUT:
        address.message = MESSAGE_OUT;
        address.lane = memory_lane_of(slice - 1, step->node);
        value = memory_value(o, arena, step->node);
        n_bytes = o->wire_ops->gather(o->wire, address, &value);
        *now = clock_message(SPAN_GATHER_OUT, address.lane, -1, (int64_t)n_bytes, *now);
        break;
    case STEP_SCATTER_Q:
        address.message = MESSAGE_Q;
        address.lane = memory_lane_of(slice, step->node);
        value = memory_value(o, arena, node->input[0]);
        o->device_ops->seal(o->device, &value);
        n_bytes = o->wire_ops->scatter(o->wire, address, &value);
        *now = clock_message(SPAN_SCATTER_Q, address.lane, -1, (int64_t)n_bytes, *now);
        break;
    case STEP_SCATTER_KV:
        address.message = MESSAGE_KV;
        address.lane = memory_lane_of(slice, step->node);
        value = memory_lane(&d->memory, turn->slot, address.lane)->kv;
        o->device_ops->seal(o->device, &value);
        n_bytes = o->wire_ops->scatter(o->wire, address, &value);
        *now = clock_message(SPAN_SCATTER_KV, address.lane, -1, (int64_t)n_bytes, *now);
        break;
    default: REQUIRE(false, "step %d is no message", (int)step->kind);
    }
}

static void run_slice(struct decode *d, struct slot *slot, const struct turn *turn) {
    const struct slice *slice = &d->options.program->slice[turn->slice];
    enum { MOST_STEPS = 1 << 12 }; /* of a slice: names of runs differ over the whole program */
    if (slot->rows.n_rows == 0) return;
    REQUIRE(slice->n_steps < MOST_STEPS, "%d steps in a slice", slice->n_steps);
    int64_t now = clock_now_ns();
    for (int at = 0; at < slice->n_steps;) {
        if (is_message(&slice->step[at])) {
            exchange(d, turn, slice, &slice->step[at++], &now);
        } else {
            at = compute(d, slot, slice, at, turn->slice * MOST_STEPS + at, &now);
        }
    }
}

/* ---- the same turn on an attention rank -------------------------------------------------------
 */

static void reply(struct decode *d, const struct slot *slot, const struct exchange *exchange) {
    const struct decode_options *o = &d->options;
    struct address address = {MESSAGE_OUT, slot->rows.slot, exchange->layer, exchange->lane};
    struct value out = memory_lane(&d->memory, slot->rows.slot, exchange->lane)->out;
    int64_t begin = clock_now_ns();
    o->device_ops->seal(o->device, &out);
    size_t n_bytes = o->wire_ops->scatter(o->wire, address, &out);
    clock_message(SPAN_REPLY, exchange->lane, 0, (int64_t)n_bytes, begin);
}

/* Q has come: fold the cache. K and V have come: append them, go on with the fold, answer. */
static void serve_exchange(struct decode *d, const struct slot *slot,
                           const struct exchange *exchange) {
    const struct decode_options *o = &d->options;
    struct lane *lane = memory_lane(&d->memory, slot->rows.slot, exchange->lane);
    struct attend_shape shape = shape_of(d, exchange->layer);
    struct address address = {exchange->is_kv ? MESSAGE_KV : MESSAGE_Q, slot->rows.slot,
                              exchange->layer, exchange->lane};
    int64_t now = clock_now_ns();
    if (!exchange->is_kv) {
        size_t n_bytes = o->wire_ops->gather(o->wire, address, &lane->q);
        now = clock_message(SPAN_GATHER_Q, exchange->lane, 0, (int64_t)n_bytes, now);
        if (!o->q_first) return;
        o->device_ops->attend(o->device, &slot->rows, &d->memory.cache, shape, ATTEND_CACHED,
                              lane->q, lane->out);
        clock_span(SPAN_ATTEND, 0, 0, now);
        return;
    }
    size_t n_bytes = o->wire_ops->gather(o->wire, address, &lane->kv);
    now = clock_message(SPAN_GATHER_KV, exchange->lane, 0, (int64_t)n_bytes, now);
    o->device_ops->append_kv(o->device, &slot->rows, &d->memory.cache, exchange->layer, lane->kv);
    now = clock_span(SPAN_APPEND, 0, 0, now);
    o->device_ops->attend(o->device, &slot->rows, &d->memory.cache, shape,
                          o->q_first ? ATTEND_REST : ATTEND_WHOLE, lane->q, lane->out);
    clock_span(SPAN_ATTEND, 0, 0, now);
}

/* On a wire with a total order the reply is issued at the turn where the model rank gathers it,
 * which is the next slice's; elsewhere at once. (Unbuffered sends on one lane would deadlock
 * otherwise.) */
static void serve_slice(struct decode *d, struct slot *slot, const struct turn *turn) {
    const struct service *service = d->options.service;
    bool mirrored = d->options.wire_ops->total_order;
    if (slot->rows.n_rows == 0) return;
    for (int at = 0; mirrored && at < service->n_exchanges; at++) {
        if (service->exchange[at].gap == turn->slice - 1 && service->exchange[at].is_kv)
            reply(d, slot, &service->exchange[at]);
    }
    for (int at = 0; at < service->n_exchanges; at++) {
        const struct exchange *exchange = &service->exchange[at];
        if (exchange->gap != turn->slice) continue;
        serve_exchange(d, slot, exchange);
        if (exchange->is_kv && !mirrored) reply(d, slot, exchange);
    }
}

/* ---- the list ---------------------------------------------------------------------------------
 */

/* Takes the header that is already here: who is in the step, and where. */
static void begin_step(struct decode *d, const struct turn *turn) {
    const struct decode_options *o = &d->options;
    int64_t begin = clock_now_ns();
    check_place(turn->slot, turn->slice);
    struct slot *slot = d->slot[turn->slot] = batch_begin(o->batch, turn->slot);
    if (slot->rows.n_rows > 0) {
        o->device_ops->begin(o->device, &slot->rows);
        if (o->wire) o->wire_ops->begin(o->wire, turn->slot, turn->step, slot->fan);
    }
    if (slot->last) schedule_stop(&d->schedule, turn->slot, turn->step);
    d->step[turn->slot] = batch_step_span(o->batch, turn->slot);
    d->step[turn->slot].begin_ns = begin;
    clock_place(turn->slot, turn->step, turn->slice, slot->rows.n_rows);
    clock_message(SPAN_HEADER, 0, 0, 0, begin);
}

/* Completes the tokens of the step before. */
static void end_step(struct decode *d, const struct turn *turn) {
    int64_t begin = clock_now_ns();
    batch_end(d->options.batch, turn->slot);
    clock_span(SPAN_BOOKS, 0, 0, begin);
    if (d->step[turn->slot].n_rows > 0) clock_step(d->step[turn->slot]);
    if (d->slot[turn->slot]->last) d->slot[turn->slot] = NULL;
}

/* The turns up to the next begin or end of a step are a run, which the device may know. */
static void begin_run(struct decode *d, const struct turn *turn) {
    const struct decode_options *o = &d->options;
    int64_t begin = clock_now_ns();
    unsigned slots = 0;
    for (int slot = 0; slot < d->schedule.n_slots; slot++) {
        if (d->slot[slot] && d->slot[slot]->rows.n_rows > 0) slots |= 1u << slot;
    }
    if (slots == 0 || !runs_have_messages(d)) return;
    d->in_run = true;
    d->replayed = o->device_ops->replay(o->device, slots, schedule_run(&d->schedule, turn));
    if (d->replayed) clock_span(SPAN_REPLAY, 0, 0, begin);
}

static void end_run(struct decode *d) {
    if (d->in_run && !d->replayed) d->options.device_ops->recorded(d->options.device);
    d->in_run = d->replayed = false;
}

/* A message of a run that was replayed: on such wires values cross as they are. */
static void count_message(const struct slot *slot, enum message message, enum element element,
                          enum span_kind kind, bool comes) {
    const struct fan *fan = &slot->fan[message];
    size_t n_bytes = 0;
    for (int at = 0; at < fan->n_blocks; at++)
        n_bytes += block_bytes(&fan->block[at], element);
    clock_count(kind, (int64_t)n_bytes);
    if (comes) clock_count_arrived((int)message, fan->n_blocks, (int64_t)n_bytes);
}

static void count_turn(const struct decode *d, const struct slot *slot, const struct turn *turn) {
    const struct service *service = d->options.service;
    bool serves = d->options.topology->role == ROLE_ATTENTION;
    if (slot->rows.n_rows == 0 || !d->options.wire) return;
    for (int at = 0; at < service->n_exchanges; at++) {
        const struct exchange *exchange = &service->exchange[at];
        const struct lane *lane = memory_lane(&d->memory, turn->slot, exchange->lane);
        if (exchange->gap == turn->slice && exchange->is_kv)
            count_message(slot, MESSAGE_KV, lane->kv.element,
                          serves ? SPAN_GATHER_KV : SPAN_SCATTER_KV, serves);
        if (exchange->gap == turn->slice && !exchange->is_kv)
            count_message(slot, MESSAGE_Q, d->options.device_ops->activation,
                          serves ? SPAN_GATHER_Q : SPAN_SCATTER_Q, serves);
        if (exchange->gap == turn->slice - !serves && exchange->is_kv)
            count_message(slot, MESSAGE_OUT, d->options.device_ops->activation,
                          serves ? SPAN_REPLY : SPAN_GATHER_OUT, !serves);
    }
}

static void take_turn(struct decode *d, const struct turn *turn) {
    struct slot *slot = d->slot[turn->slot];
    check_place(turn->slot, turn->slice);
    clock_place(turn->slot, turn->step, turn->slice, slot->rows.n_rows);
    if (d->replayed) {
        count_turn(d, slot, turn);
        return;
    }
    if (d->options.topology->role == ROLE_ATTENTION) {
        serve_slice(d, slot, turn);
    } else {
        run_slice(d, slot, turn);
    }
}

void decode_run(struct decode *d) {
    const struct decode_options *o = &d->options;
    struct turn turn;
    if (d->walked) schedule_go_on(&d->schedule);
    d->walked = true;
    batch_start(o->batch, d->schedule.step);
    check_forbid_alloc(true);
    while (schedule_next(&d->schedule, &turn)) {
        if (turn.slice == 0) {
            end_run(d);
            begin_step(d, &turn);
            begin_run(d, &turn);
        }
        take_turn(d, &turn);
        if (turn.slice == o->service->n_gaps) {
            end_run(d);
            end_step(d, &turn);
        }
    }
    check_place(-1, -1);
    check_forbid_alloc(false);
    if (o->wire) o->wire_ops->drain(o->wire);
}

void decode_open(struct decode **opened, const struct decode_options *options) {
    struct decode *d = check_alloc(1, sizeof *d);
    d->options = *options;
    schedule_open(&d->schedule, options->limits->n_slots, options->service->n_gaps);
    memory_open(&d->memory, options);
    *opened = d;
}

const struct kv_cache *decode_cache(const struct decode *d) {
    return &d->memory.cache;
}

void decode_fill_cache(struct decode *d, uint64_t seed, int n_threads) {
    memory_fill_cache(&d->memory, &d->options, seed, n_threads);
}

void decode_close(struct decode *d) {
    if (!d) return;
    memory_close(&d->memory, &d->options);
    free(d);
}
