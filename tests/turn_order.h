/* turn_order.h - the operations a rank issues over a run, listed from the schedule by the rules of
 * docs/design.md section 4. test_schedule.c plays these lists; mpi_3_order.c compares them with
 * decode. */
#ifndef LAMINA_TURN_ORDER_H
#define LAMINA_TURN_ORDER_H

#include <stdbool.h>

#include "schedule.h"
#include "wire.h"

enum operation_kind { OPERATION_COMPUTE, OPERATION_SEND, OPERATION_RECEIVE };

struct turn_operation {
    enum operation_kind kind;
    enum message message;
    int slot, step, gap;
    int peer;   /* of a message: rank, 0 is the model rank */
    int weight; /* of a compute: slices' worth (the head counts as part of the next first slice) */
};

enum { MAX_OPERATIONS = 8192 };

struct turn_order {
    int n_slots, n_gaps, n_steps, n_attention;
    bool mirrored; /* replies are issued where the model rank gathers them */
};

static inline int turn_order_put(struct turn_operation *list, int n, enum operation_kind kind,
                                 enum message message, const struct turn *turn, int gap, int peer) {
    list[n] = (struct turn_operation){
        kind, message, turn->slot, turn->step, gap, peer, kind == OPERATION_COMPUTE};
    return n + 1;
}

static inline int turn_order_model(const struct turn_order *order, const struct turn *turn,
                                   struct turn_operation *list, int n) {
    bool scatters = turn->slice < order->n_gaps;
    for (int peer = 1; turn->slice > 0 && peer <= order->n_attention; peer++)
        n = turn_order_put(list, n, OPERATION_RECEIVE, MESSAGE_OUT, turn, turn->slice - 1, peer);
    n = turn_order_put(list, n, OPERATION_COMPUTE, MESSAGE_STEP, turn, turn->slice, 0);
    list[n - 1].weight = scatters;
    for (int peer = 1; scatters && peer <= order->n_attention; peer++)
        n = turn_order_put(list, n, OPERATION_SEND, MESSAGE_Q, turn, turn->slice, peer);
    for (int peer = 1; scatters && peer <= order->n_attention; peer++)
        n = turn_order_put(list, n, OPERATION_SEND, MESSAGE_KV, turn, turn->slice, peer);
    return n;
}

static inline int turn_order_attention(const struct turn_order *order, const struct turn *turn,
                                       struct turn_operation *list, int n) {
    if (order->mirrored && turn->slice > 0)
        n = turn_order_put(list, n, OPERATION_SEND, MESSAGE_OUT, turn, turn->slice - 1, 0);
    if (turn->slice == order->n_gaps) return n;
    n = turn_order_put(list, n, OPERATION_RECEIVE, MESSAGE_Q, turn, turn->slice, 0);
    n = turn_order_put(list, n, OPERATION_RECEIVE, MESSAGE_KV, turn, turn->slice, 0);
    n = turn_order_put(list, n, OPERATION_COMPUTE, MESSAGE_STEP, turn, turn->slice, 0);
    if (!order->mirrored)
        n = turn_order_put(list, n, OPERATION_SEND, MESSAGE_OUT, turn, turn->slice, 0);
    return n;
}

/* Operations of `rank` (0: the model rank) over n_steps of every slot; returns how many. */
static inline int turn_order_list(const struct turn_order *order, int rank,
                                  struct turn_operation *list) {
    struct schedule schedule;
    struct turn turn;
    int n = 0;
    schedule_open(&schedule, order->n_slots, order->n_gaps);
    for (int slot = 0; slot < order->n_slots; slot++)
        schedule_stop(&schedule, slot, order->n_steps - 1);
    while (n < MAX_OPERATIONS - 64 && schedule_next(&schedule, &turn)) {
        n = rank == 0 ? turn_order_model(order, &turn, list, n)
                      : turn_order_attention(order, &turn, list, n);
    }
    return n;
}

#endif
