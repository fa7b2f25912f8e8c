/* mpi_3_order.c - decode issues exactly the operations of tests/turn_order.h, in that order, on
 * every rank: the lists that test_schedule.c proves free of deadlock are the lists that run.
 *
 * Wire and device are wrapped and write down what they are asked for; headers, which go over a wire
 * of their own, are left out of both lists. Of the model rank's work in a turn the first operator
 * stands for all; that K and V are computed behind SCATTER_Q is counted apart. With total_order the
 * replies come a turn later, over a wire that does not need it: same bits, other order.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "make_gguf.h"
#include "rig.h"
#include "turn_order.h"

enum { CONTEXT = 256, MAX_SEQUENCES = 4 };

static int rank, n_bad;

/* ---- what is asked of wire and device ---------------------------------------------------------
 */

static struct {
    struct turn_operation *list; /* (MAX_OPERATIONS) */
    int n;
    int step[SCHEDULE_MAX_SLOTS]; /* of each slot, by the first message or operator of a step */
    struct turn place;            /* of the model rank's operators */
    int n_behind_q;               /* products computed between a slot's Q and its KV */
    struct fan fan[SCHEDULE_MAX_SLOTS][MESSAGES]; /* of the slots' steps */
} seen;

static void put(struct turn_operation operation) {
    if (seen.n < MAX_OPERATIONS) seen.list[seen.n++] = operation;
}

static void begin(struct wire *wire, int slot, int step, const struct fan *fan) {
    memcpy(seen.fan[slot], fan, sizeof seen.fan[slot]);
    wire_mpi.begin(wire, slot, step, fan);
}

static void put_messages(enum operation_kind kind, struct address address) {
    const struct fan *fan = &seen.fan[address.slot][address.message];
    for (int at = 0; at < fan->n_blocks; at++)
        put((struct turn_operation){.kind = kind,
                                    .message = address.message,
                                    .slot = address.slot,
                                    .step = seen.step[address.slot],
                                    .gap = address.layer, /* of these models */
                                    .peer = fan->block[at].peer});
}

static size_t scatter(struct wire *wire, struct address address, const struct value *value) {
    put_messages(OPERATION_SEND, address);
    return wire_mpi.scatter(wire, address, value);
}

static size_t gather(struct wire *wire, struct address address, const struct value *value) {
    if (address.message == MESSAGE_Q && address.layer == 0) seen.step[address.slot] += 1;
    put_messages(OPERATION_RECEIVE, address);
    size_t n_bytes = wire_mpi.gather(wire, address, value);
    if (address.message == MESSAGE_OUT)
        seen.place = (struct turn){address.slot, seen.step[address.slot], address.layer + 1};
    return n_bytes;
}

static void embed(struct device *device, const struct rows *rows, struct value out,
                  const struct weight *table) {
    seen.step[rows->slot] += 1;
    seen.place = (struct turn){rows->slot, rows->step, 0};
    device_cpu.embed(device, rows, out, table);
}

static void matmul(struct device *device, int n_rows, struct value out, struct value x,
                   const struct weight *weight, const struct weight *bias) {
    const struct turn_operation *last = seen.n ? &seen.list[seen.n - 1] : NULL;
    struct turn_operation own = {.kind = OPERATION_COMPUTE,
                                 .slot = seen.place.slot,
                                 .step = seen.place.step,
                                 .gap = seen.place.slice};
    bool here = last && last->slot == own.slot && last->step == own.step && last->gap == own.gap;
    bool behind_q = here && last->kind == OPERATION_SEND && last->message == MESSAGE_Q;
    seen.n_behind_q += behind_q;
    if (!behind_q && !(here && last->kind == OPERATION_COMPUTE)) put(own);
    device_cpu.matmul(device, n_rows, out, x, weight, bias);
}

static void attend(struct device *device, const struct rows *rows, const struct kv_cache *cache,
                   struct attend_shape shape, enum attend_part part, struct value q,
                   struct value out) {
    if (part != ATTEND_CACHED)
        put((struct turn_operation){
            .kind = OPERATION_COMPUTE, .slot = rows->slot, .step = rows->step, .gap = shape.layer});
    device_cpu.attend(device, rows, cache, shape, part, q, out);
}

/* ---- comparison -------------------------------------------------------------------------------
 */

static void print_operation(const char *name, const struct turn_operation *operation) {
    static const char *const kind[] = {"compute", "send", "receive"};
    printf("    %s: %s %s, slot %d, step %d, gap %d, peer %d\n", name, kind[operation->kind],
           operation->kind == OPERATION_COMPUTE ? "" : message_name(operation->message),
           operation->slot, operation->step, operation->gap, operation->peer);
}

/* The operations of this rank but for headers. */
static int list_expected(const struct turn_order *order, struct turn_operation *list) {
    int n = turn_order_list(order, rank, list), n_kept = 0;
    for (int at = 0; at < n; at++) {
        if (list[at].kind == OPERATION_COMPUTE || list[at].message != MESSAGE_STEP)
            list[n_kept++] = list[at];
    }
    return n_kept;
}

/* Steps of all slots in which anybody has rows. */
static int count_steps(const struct turn_order *order) {
    int n = 0;
    for (int slot = 0; slot < order->n_slots; slot++)
        for (int step = 0; step < order->n_steps[slot]; step++)
            n += order->peers[slot][step] != 0;
    return n;
}

static bool same(const struct turn_operation *a, const struct turn_operation *b) {
    return a->kind == b->kind && a->message == b->message && a->slot == b->slot &&
           a->step == b->step && a->gap == b->gap && a->peer == b->peer;
}

static void compare(const struct turn_order *order, const char *name) {
    static struct turn_operation expected[MAX_OPERATIONS];
    int n = list_expected(order, expected), at = 0;
    while (at < n && at < seen.n && same(&seen.list[at], &expected[at]))
        at++;
    if (at < n || at < seen.n) {
        n_bad += 1;
        printf("FAILED %s: rank %d: operation %d of %d, %d expected\n", name, rank, at, seen.n, n);
        if (at < seen.n) print_operation("issued", &seen.list[at]);
        if (at < n) print_operation("expected", &expected[at]);
    } else if (rank == 0) {
        printf("%s: %d operations in order on rank 0\n", name, n);
    }
    /* K and V of every gap are products behind its Q */
    if (rank == 0 && seen.n_behind_q < 2 * count_steps(order) * order->n_gaps) {
        n_bad += 1;
        printf("FAILED %s: Q did not leave before K and V were computed\n", name);
    }
}

/* ---- runs -------------------------------------------------------------------------------------
 */

struct trial {
    int heads, sequences;
    int n_prompt, max_rows;
    int max_new[MAX_SEQUENCES]; /* tokens of each sequence */
    int n_sequences;            /* at most one a slot and owner; 0: as many */
};

static void open_list(struct rig_list *list, const struct trial *trial, int vocabulary) {
    struct rig_wish wish[MAX_SEQUENCES];
    for (int at = 0; at < MAX_SEQUENCES; at++) {
        wish[at] = (struct rig_wish){.n_prompt = trial->n_prompt,
                                     .max_new = trial->max_new[at],
                                     .text = 1 + (uint64_t)at,
                                     .sampling = rig_greedy()};
        wish[at].sampling.n_logprobs = 3;
    }
    rig_list_open(list, wish, MAX_SEQUENCES, vocabulary);
}

/* What the leader makes of a trial: slots share the sequences evenly, the first ones to the first
 * slot; owners take turns. A sequence has rows in as many steps as its prompt has chunks and it has
 * tokens, less one for the chunk that gives the first. */
static struct turn_order order_of(const struct trial *trial, int n_slots, int n_sequences,
                                  int n_gaps, bool total_order) {
    int n_chunks = (trial->n_prompt + trial->max_rows - 1) / trial->max_rows;
    struct turn_order order =
        turn_order_full(n_slots, n_gaps, 0, trial->heads * trial->sequences, total_order);
    int in_slot = (n_sequences + n_slots - 1) / n_slots;
    for (int at = 0; at < n_sequences; at++) {
        int slot = at / in_slot, owner = at % trial->sequences;
        int n_steps = n_chunks + trial->max_new[at] - 1;
        unsigned peers = ((1u << trial->heads) - 1) << owner * trial->heads;
        for (int step = 0; step < n_steps; step++)
            order.peers[slot][step] |= peers;
        if (n_steps > order.n_steps[slot]) order.n_steps[slot] = n_steps;
    }
    return order;
}

static void run_trial(const struct rig_group *group, const struct trial *trial, int n_slots,
                      bool total_order, struct rig_list *list) {
    struct device_ops device_ops = device_cpu;
    struct wire_ops wire_ops = wire_mpi;
    device_ops.embed = embed;
    device_ops.matmul = matmul;
    device_ops.attend = attend;
    wire_ops.begin = begin;
    wire_ops.scatter = scatter;
    wire_ops.gather = gather;
    wire_ops.total_order = total_order;
    struct rig_case what = {.kv_type = KV_F16,
                            .n_threads = 1,
                            .n_slots = n_slots,
                            .max_batch = 4,
                            .max_rows = trial->max_rows,
                            .q_first = true,
                            .device_ops = &device_ops,
                            .wire_ops = &wire_ops};
    int n_sequences = trial->n_sequences ? trial->n_sequences : n_slots * trial->sequences;
    struct turn_order order =
        order_of(trial, n_slots, n_sequences, group->service.n_gaps, total_order);
    char name[128];
    snprintf(name, sizeof name, "%dx%d, %d sequences in %d slots, %s", trial->heads,
             trial->sequences, n_sequences, n_slots,
             total_order ? "total order" : "replies at once");
    seen.n = seen.n_behind_q = 0;
    seen.step[0] = seen.step[1] = -1;
    if (list) list->n = n_sequences;
    rig_run(group, &what, list);
    compare(&order, name);
}

static void test_layout(const struct trial *trial, const struct rig_model *model) {
    int n_ranks = 1 + trial->heads * trial->sequences, comm = rig_comm(0, n_ranks);
    struct rig_group whole, group;
    struct rig_list expected = {0}, made = {0};
    if (rank == 0) {
        struct rig_case alone = {
            .kv_type = KV_F16, .n_threads = 1, .n_slots = 1, .max_batch = 1, .max_rows = 512};
        open_list(&expected, trial, model->model.vocabulary);
        open_list(&made, trial, model->model.vocabulary);
        rig_group_open(&whole, 0, 0, 0, model);
        rig_run(&whole, &alone, &expected);
        rig_group_close(&whole);
    }
    if (rank < n_ranks) rig_group_open(&group, comm, trial->heads, trial->sequences, model);
    for (int variant = 0; rank < n_ranks && variant < 4; variant++) {
        char text[512];
        run_trial(&group, trial, 1 + variant % 2, variant / 2, rank == 0 ? &made : NULL);
        if (rank != 0) continue;
        expected.n = made.n;
        if (!rig_list_equal(&made, &expected, text, sizeof text)) {
            n_bad += 1;
            printf("FAILED bits: %s\n", text);
        }
    }
    if (rank < n_ranks) rig_group_close(&group);
    made.n = expected.n = rank == 0 ? MAX_SEQUENCES : 0;
    rig_list_close(&made);
    rig_list_close(&expected);
    rig_wait_all();
}

int main(int argc, char **argv) {
    static const struct trial trials[] = {
        {1, 1, 40, 16, {5, 5, 5, 5}, 0},
        {2, 1, 40, 16, {5, 5, 5, 5}, 0},
        {1, 2, 20, 512, {5, 5, 5, 5}, 0},
        {1, 2, 20, 512, {5, 2, 3, 6}, 0}, /* owners and slots end one by one */
        {1, 2, 20, 512, {2, 5}, 2},       /* of two slots each has rows of one owner only */
        {2, 1, 40, 16, {4}, 1},           /* a slot with nothing beside one with all */
    };
    rank = rig_begin(&argc, &argv);
    struct rig_model model;
    struct make_gguf_wish made = make_gguf_default();
    struct fault fault = {0};
    char path[64];
    snprintf(path, sizeof path, "order_%d.gguf", (int)getpid());
    if (rank == 0) {
        if (!make_gguf_write(&made, path, &fault)) check_fail("%s", fault.text);
        rig_model_open(&model, path, CONTEXT);
        unlink(path); /* the map keeps it */
    }
    seen.list = check_alloc(MAX_OPERATIONS, sizeof *seen.list);
    for (size_t trial = 0; trial < sizeof trials / sizeof *trials; trial++)
        test_layout(&trials[trial], rank == 0 ? &model : NULL);
    free(seen.list);
    if (rank == 0) rig_model_close(&model);
    return rig_end(n_bad == 0);
}
