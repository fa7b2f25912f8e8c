/* turn_order.h - the operations a rank issues over a run, listed from the schedule by the rules of
 * docs/design.md section 4. test_schedule.c plays these lists; mpi_3_order.c compares them with
 * decode.
 *
 * Of a run the lists need to know only what its headers say of peers: which attention ranks have
 * rows in each step of each slot, and when a slot's last header comes, which has none. */
#ifndef LAMINA_TURN_ORDER_H
#define LAMINA_TURN_ORDER_H

#include <stdbool.h>

#include "schedule.h"
#include "wire.h"

enum operation_kind { OPERATION_COMPUTE, OPERATION_SEND, OPERATION_RECEIVE };

struct turn_operation {
    enum operation_kind kind;
    enum message message;
    int slot, step, gap, lane;
    int peer;   /* of a message: rank, 0 is the model rank and leader */
    int weight; /* of a compute: slices' worth (the head counts as part of the next first slice) */
};

enum { MAX_OPERATIONS = 8192, MAX_STEPS = 16 };

struct turn_order {
    int n_slots, n_gaps, n_attention;
    int n_lanes;                     /* attention nodes of a gap */
    int n_steps[SCHEDULE_MAX_SLOTS]; /* before the last header */
    /* attention ranks with rows in a step, the first in bit 0 */
    unsigned peers[SCHEDULE_MAX_SLOTS][MAX_STEPS];
    bool mirrored; /* replies are issued where the model rank gathers them */
};

/* All slots have `n_steps` steps, and all attention ranks rows in each. */
static inline struct turn_order turn_order_full(int n_slots, int n_gaps, int n_steps,
                                                int n_attention, bool mirrored) {
    struct turn_order order = {.n_slots = n_slots,
                               .n_gaps = n_gaps,
                               .n_attention = n_attention,
                               .n_lanes = 1,
                               .mirrored = mirrored};
    for (int slot = 0; slot < n_slots; slot++) {
        order.n_steps[slot] = n_steps;
        for (int step = 0; step < n_steps; step++)
            order.peers[slot][step] = (1u << n_attention) - 1;
    }
    return order;
}

/* A list that grows. */
struct turn_list {
    const struct turn_order *order;
    struct turn_operation *operation; /* (MAX_OPERATIONS) */
    int n;
};

static inline void turn_list_put(struct turn_list *list, struct turn_operation operation) {
    REQUIRE(list->n < MAX_OPERATIONS, "more than %d operations", MAX_OPERATIONS);
    operation.weight = operation.kind == OPERATION_COMPUTE && operation.gap < list->order->n_gaps;
    list->operation[list->n++] = operation;
}

/* A message with each of `peers`, as one call of the wire issues them. */
static inline void turn_list_fan(struct turn_list *list, struct turn_operation operation,
                                 unsigned peers) {
    for (operation.peer = 1; peers; peers >>= 1, operation.peer++)
        if (peers & 1) turn_list_put(list, operation);
}

static inline void turn_list_model(struct turn_list *list, const struct turn *turn,
                                   unsigned peers) {
    int n_lanes = list->order->n_lanes;
    struct turn_operation at = {.slot = turn->slot, .step = turn->step, .gap = turn->slice - 1};
    if (!peers) return;
    at.kind = OPERATION_RECEIVE;
    at.message = MESSAGE_OUT;
    for (at.lane = 0; turn->slice > 0 && at.lane < n_lanes; at.lane++)
        turn_list_fan(list, at, peers);
    turn_list_put(list, (struct turn_operation){.kind = OPERATION_COMPUTE,
                                                .slot = turn->slot,
                                                .step = turn->step,
                                                .gap = turn->slice});
    at.kind = OPERATION_SEND;
    at.gap = turn->slice;
    for (at.lane = 0; turn->slice < list->order->n_gaps && at.lane < n_lanes; at.lane++) {
        at.message = MESSAGE_Q;
        turn_list_fan(list, at, peers);
        at.message = MESSAGE_KV;
        turn_list_fan(list, at, peers);
    }
}

static inline void turn_list_attention(struct turn_list *list, const struct turn *turn) {
    const struct turn_order *order = list->order;
    struct turn_operation out = {.kind = OPERATION_SEND,
                                 .message = MESSAGE_OUT,
                                 .slot = turn->slot,
                                 .step = turn->step,
                                 .gap = turn->slice - 1};
    for (; order->mirrored && turn->slice > 0 && out.lane < order->n_lanes; out.lane++)
        turn_list_put(list, out);
    out.gap = turn->slice;
    for (out.lane = 0; turn->slice < order->n_gaps && out.lane < order->n_lanes; out.lane++) {
        struct turn_operation in = out;
        in.kind = OPERATION_RECEIVE;
        in.message = MESSAGE_Q;
        turn_list_put(list, in);
        in.message = MESSAGE_KV;
        turn_list_put(list, in);
        in.kind = OPERATION_COMPUTE;
        in.message = MESSAGE_STEP; /* of none */
        turn_list_put(list, in);
        if (!order->mirrored) turn_list_put(list, out);
    }
}

/* The header of a step: from the leader to all, or taken. */
static inline void turn_list_header(struct turn_list *list, int rank, int slot, int step) {
    struct turn_operation header = {.message = MESSAGE_STEP, .slot = slot, .step = step, .gap = -1};
    header.kind = rank == 0 ? OPERATION_SEND : OPERATION_RECEIVE;
    if (rank == 0) {
        turn_list_fan(list, header, (1u << list->order->n_attention) - 1);
    } else {
        turn_list_put(list, header);
    }
}

/* Operations of `rank` (0: the model rank) over the run; returns how many. */
static inline int turn_order_list(const struct turn_order *order, int rank,
                                  struct turn_operation *operation) {
    struct turn_list list = {.order = order, .operation = operation};
    struct schedule schedule;
    struct turn turn;
    schedule_open(&schedule, order->n_slots, order->n_gaps);
    for (int slot = 0; rank == 0 && slot < order->n_slots; slot++)
        turn_list_header(&list, rank, slot, 0);
    while (schedule_next(&schedule, &turn)) {
        bool last = turn.step == order->n_steps[turn.slot];
        unsigned peers = last ? 0 : order->peers[turn.slot][turn.step];
        if (rank > 0 && turn.slice == 0) turn_list_header(&list, rank, turn.slot, turn.step);
        if (last) schedule_stop(&schedule, turn.slot, turn.step);
        if (rank == 0) {
            turn_list_model(&list, &turn, peers);
        } else if (peers >> (rank - 1) & 1) {
            turn_list_attention(&list, &turn);
        }
        if (rank == 0 && turn.slice == order->n_gaps && !last)
            turn_list_header(&list, rank, turn.slot, turn.step + 1);
    }
    return list.n;
}

#endif
