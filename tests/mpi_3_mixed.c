/* mpi_3_mixed.c - the MPI wire between devices of different kinds: values that only their device
 * reaches, ranks that compute in different elements.
 *
 * The second device is made of device_cpu: its values are bf16, and like a GPU it copies for a wire
 * when it is waited for and not before; until then the memory to be sent holds nonsense. Blocks
 * with strides go to and fro and must arrive rounded to the nearest, with nothing written around
 * them; what is expected comes from the definitions of the elements (plain_elements.h). Then the
 * whole loop runs with attention ranks on that device beside a model rank in float32.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "late_device.h"
#include "make_gguf.h"
#include "plain_elements.h"
#include "rig.h"

static int rank, n_bad;

/* ---- blocks of made-up values -----------------------------------------------------------------
 */

enum { N_SLOTS = 2, N_LANES = 2, ROUNDS = 20, ROWS = 12, STRIDE = 56, OFFSET = 64 };
enum { N_ELEMENTS = ROWS * STRIDE };

/* Blocks between rank 0 and the others: where they lie on rank 0 and where at the other end. */
static const struct shared {
    int peer;
    struct rectangle here, there;
} shared[] = {
    {1, {0, 5, 0, 24}, {0, 5, 0, 24}}, /* Q and OUT: two to one peer, and one between */
    {2, {5, 7, 24, 16}, {2, 7, 3, 16}},
    {1, {5, 3, 1, 9}, {6, 3, 5, 9}},
};
enum { N_SHARED = sizeof shared / sizeof shared[0] };

/* The fan of this rank; of KV only the first block of each peer. */
static int make_fan(enum message message, struct block *block, int *which) {
    int n = 0;
    for (int at = 0; at < (message == MESSAGE_KV ? 2 : N_SHARED); at++) {
        struct rectangle part = rank == 0 ? shared[at].here : shared[at].there;
        if (rank != 0 && shared[at].peer != rank) continue;
        which[n] = at;
        block[n++] = (struct block){rank == 0 ? shared[at].peer : 0, part.row, part.n_rows,
                                    part.column, part.n_columns};
    }
    return n;
}

/* Elements: of rank 0's values, as Q and OUT cross, of the others' values. */
static const struct mix {
    enum element here, crossing, there;
} mixes[] = {
    {ELEMENT_BF16, ELEMENT_BF16, ELEMENT_F32}, /* a GPU model rank, CPU attention ranks */
    {ELEMENT_F32, ELEMENT_F32, ELEMENT_BF16},  /* the other way round */
    {ELEMENT_BF16, ELEMENT_BF16, ELEMENT_BF16},
    {ELEMENT_F32, ELEMENT_F32, ELEMENT_F32},
};

/* What a rank holds of one mix. */
struct end {
    const struct mix *mix;
    struct device_ops ops;
    struct device *device;
    struct topology topology;
    struct wire *wire;
    struct value value[MESSAGES];
};

static enum element element_of(const struct mix *mix, enum message message, int of) {
    if (message == MESSAGE_KV) return ELEMENT_BF16;
    return of == 0 ? mix->here : mix->there;
}

/* Made-up numbers of a message of a round, all bits but NaN's: splitmix64. */
static void make_up(unsigned char *bytes, enum element element, uint64_t seed) {
    for (size_t at = 0; at < N_ELEMENTS; at++) {
        uint64_t z = (seed * N_ELEMENTS + at + 1) * 0x9e3779b97f4a7c15u;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        uint32_t word = (uint32_t)(z ^ (z >> 31));
        if (z >> 62 == 0) word = (word & 0xffff0000u) | 0x8000u; /* halfway between two of bf16 */
        if ((word & 0x7f800000u) == 0x7f800000u) word &= ~0x40000000u;
        if (element == ELEMENT_BF16) word >>= 16;
        memcpy(bytes + at * element_bytes(element), &word, element_bytes(element));
    }
}

static uint64_t seed_of(int round, struct address address, int from) {
    return (((uint64_t)round * N_SLOTS + (uint64_t)address.slot) * MESSAGES + address.message) * 3 +
           (uint64_t)from;
}

/* One message of the slot's step. */
static void begin(struct end *end, struct address address, struct fan fan) {
    struct fan fans[MESSAGES] = {[MESSAGE_STEP] = {0}};
    fans[address.message] = fan;
    wire_mpi.begin(end->wire, address.slot, 0, fans);
}

static void send(struct end *end, struct address address, int round) {
    unsigned char bytes[N_ELEMENTS * sizeof(float)];
    struct value *value = &end->value[address.message];
    struct block block[N_SHARED];
    int which[N_SHARED], n_settled = late_n_settled();
    struct fan fan = {make_fan(address.message, block, which), block};
    make_up(bytes, value->element, seed_of(round, address, rank));
    end->ops.upload(end->device, value->buffer, OFFSET, bytes,
                    N_ELEMENTS * element_bytes(value->element));
    end->ops.seal(end->device, value);
    begin(end, address, fan);
    wire_mpi.scatter(end->wire, address, value);
    if (address.message == MESSAGE_KV && end->ops.activation == ELEMENT_BF16 &&
        late_n_settled() != n_settled + 1) {
        n_bad += 1;
        printf("FAILED rank %d waited %d times for a fan\n", rank, late_n_settled() - n_settled);
    }
}

/* The number that stands in `at` of the receiver's value when the message is there; -1: none. */
static long place_at_sender(const struct block *block, const int *which, int n, size_t at) {
    int row = (int)(at / STRIDE), column = (int)(at % STRIDE);
    for (int b = 0; b < n; b++) {
        int down = row - block[b].row, right = column - block[b].column;
        if (down < 0 || down >= block[b].n_rows || right < 0 || right >= block[b].n_columns)
            continue;
        const struct shared *one = &shared[which[b]];
        struct rectangle part = rank == 0 ? one->there : one->here;
        return (long)(part.row + down) * STRIDE + part.column + right;
    }
    return -1;
}

static int peer_at(const struct block *block, int n, size_t at) {
    int row = (int)(at / STRIDE), column = (int)(at % STRIDE);
    for (int b = 0; b < n; b++) {
        int down = row - block[b].row, right = column - block[b].column;
        if (down >= 0 && down < block[b].n_rows && right >= 0 && right < block[b].n_columns)
            return block[b].peer;
    }
    return 0;
}

static void take(struct end *end, struct address address, int round) {
    unsigned char before[N_ELEMENTS * sizeof(float)], got[N_ELEMENTS * sizeof(float)];
    unsigned char sent[3][N_ELEMENTS * sizeof(float)];
    struct value *value = &end->value[address.message];
    enum element crossing = address.message == MESSAGE_KV ? ELEMENT_BF16 : end->mix->crossing;
    size_t n_bytes = N_ELEMENTS * element_bytes(value->element);
    struct block block[N_SHARED];
    int which[N_SHARED], n = make_fan(address.message, block, which), n_wrong = 0;
    struct fan fan = {n, block};
    memset(before, 0x5a, sizeof before);
    end->ops.upload(end->device, value->buffer, OFFSET, before, n_bytes);
    begin(end, address, fan);
    wire_mpi.gather(end->wire, address, value);
    end->ops.settle(end->device);
    end->ops.download(end->device, got, value->buffer, OFFSET, n_bytes);
    for (int from = 0; from < 3; from++)
        make_up(sent[from], element_of(end->mix, address.message, from),
                seed_of(round, address, from));
    for (size_t at = 0; at < N_ELEMENTS; at++) {
        long place = place_at_sender(block, which, n, at);
        int from = peer_at(block, n, at);
        enum element made = element_of(end->mix, address.message, from);
        uint32_t number = plain_bits_at(value->element, got, at);
        if (place < 0) {
            n_wrong += number != plain_bits_at(value->element, before, at);
            continue;
        }
        double x = plain_value(made, plain_bits_at(made, sent[from], (size_t)place));
        double expected = plain_nearest(value->element, plain_nearest(crossing, x));
        n_wrong += !plain_same(expected, plain_value(value->element, number));
    }
    if (n_wrong == 0) return;
    n_bad += 1;
    printf("FAILED rank %d, %s of slot %d, round %d: %d numbers of elements %d, %d, %d are wrong\n",
           rank, message_name(address.message), address.slot, round, n_wrong, (int)end->mix->here,
           (int)crossing, (int)end->mix->there);
}

/* ---- rounds of a mix --------------------------------------------------------------------------
 */

static void open_wire(struct end *end, int comm) {
    struct incoming in[2 * N_LANES * 2];
    struct outgoing out[2 * N_LANES * 2];
    int n_in = 0, n_out = 0;
    size_t most = N_ELEMENTS * element_bytes(end->mix->crossing);
    enum element crossing = end->mix->crossing;
    struct fault fault = {0};
    for (int peer = rank == 0 ? 1 : 0; peer < (rank == 0 ? 3 : 1); peer++)
        for (int lane = 0; lane < N_LANES; lane++) {
            if (rank == 0) {
                out[n_out++] = (struct outgoing){MESSAGE_Q, lane, peer, most, crossing};
                out[n_out++] = (struct outgoing){MESSAGE_KV, lane, peer, most, ELEMENT_BF16};
                in[n_in++] = (struct incoming){MESSAGE_OUT, lane, peer, most, crossing};
            } else {
                in[n_in++] = (struct incoming){MESSAGE_Q, lane, peer, most, crossing};
                in[n_in++] = (struct incoming){MESSAGE_KV, lane, peer, most, ELEMENT_BF16};
                out[n_out++] = (struct outgoing){MESSAGE_OUT, lane, peer, most, crossing};
            }
        }
    end->topology = (struct topology){.rank = rank, .n_ranks = 3, .comm = comm};
    struct wire_options options = {.topology = &end->topology,
                                   .n_slots = N_SLOTS,
                                   .deadline_s = 120,
                                   .progress = true,
                                   .device_ops = &end->ops,
                                   .device = end->device,
                                   .n_incoming = n_in,
                                   .n_outgoing = n_out,
                                   .incoming = in,
                                   .outgoing = out};
    if (!wire_mpi.open(&end->wire, &options, &fault)) check_fail("%s", fault.text);
}

static void run_rounds(struct end *end) {
    for (int round = 0; round < ROUNDS; round++) {
        for (int step = 0; step < 2 * N_SLOTS; step++) {
            int slot = step % N_SLOTS, lane = round % N_LANES, layer = round;
            struct address q = {MESSAGE_Q, slot, layer, lane}, kv = {MESSAGE_KV, slot, layer, lane},
                           reply = {MESSAGE_OUT, slot, layer, lane};
            if (rank == 0 && step < N_SLOTS) {
                send(end, q, round);
                send(end, kv, round);
            } else if (rank == 0) {
                take(end, reply, round);
            } else if (step < N_SLOTS) {
                take(end, q, round);
                take(end, kv, round);
                send(end, reply, round);
            }
        }
    }
}

static void test_mix(const struct mix *mix, int comm) {
    struct end end = {.mix = mix};
    struct device_options options = {.n_threads = 1};
    struct fault fault = {0};
    enum element own = element_of(mix, MESSAGE_Q, rank);
    end.ops = own == ELEMENT_BF16 ? late_device() : device_cpu;
    end.ops.close = device_cpu.close;
    if (!device_cpu.open(&end.device, &options, &fault)) check_fail("%s", fault.text);
    for (enum message message = MESSAGE_Q; message < MESSAGES; message++) {
        enum element element = element_of(mix, message, rank);
        end.value[message] = (struct value){
            .buffer = end.ops.alloc(end.device, OFFSET + N_ELEMENTS * element_bytes(element)),
            .offset = OFFSET,
            .columns = 40,
            .stride = STRIDE,
            .element = element};
    }
    open_wire(&end, comm);
    run_rounds(&end);
    wire_mpi.drain(end.wire);
    wire_mpi.close(end.wire);
    for (enum message message = MESSAGE_Q; message < MESSAGES; message++)
        end.ops.release(end.device, end.value[message].buffer);
    end.ops.close(end.device);
}

/* ---- the whole loop ---------------------------------------------------------------------------
 */

enum { N_PROMPTS = 5, N_PROMPT = 150, CONTEXT = 256 };

static void open_list(struct rig_list *list, int vocabulary) {
    struct rig_wish wish[N_PROMPTS];
    for (int at = 0; at < N_PROMPTS; at++) {
        wish[at] = (struct rig_wish){.n_prompt = N_PROMPT,
                                     .max_new = 4,
                                     .text = 1 + (uint64_t)at,
                                     .score_prompt = true,
                                     .sampling = rig_greedy()};
        wish[at].sampling.n_logprobs = 0;
    }
    rig_list_open(list, wish, N_PROMPTS, vocabulary);
}

/* Root mean square of the differences of the prompts' log-probabilities. */
static double difference_of(const struct rig_list *a, const struct rig_list *b) {
    double sum = 0;
    for (int at = 0; at < N_PROMPTS; at++)
        for (int token = 1; token < N_PROMPT; token++) {
            double d = (double)a->generation[at]->score[token].logprob -
                       (double)b->generation[at]->score[token].logprob;
            sum += d * d;
        }
    return sqrt(sum / (N_PROMPTS * (N_PROMPT - 1)));
}

/* A head share in bf16 beside one in f32: close to what one rank makes of it, and not the same.
 * Q and OUT are rounded by at most 2^-9 of themselves in three layers, so log-probabilities that
 * spread by about 2 move in the second or third digit. */
static void test_loop(const struct rig_model *model, int comm) {
    struct device_ops ops = late_device();
    struct rig_case what = {.kv_type = KV_BF16,
                            .n_threads = 1,
                            .n_slots = 2,
                            .max_batch = 2,
                            .max_rows = 48,
                            .q_first = true};
    struct rig_group group;
    struct rig_list made = {0}, expected = {0};
    if (rank == 0) {
        struct rig_case alone = {
            .kv_type = KV_BF16, .n_threads = 1, .n_slots = 1, .max_batch = 2, .max_rows = 64};
        open_list(&made, model->model.vocabulary);
        open_list(&expected, model->model.vocabulary);
        rig_group_open(&group, 0, 0, 0, model);
        rig_run(&group, &alone, &expected);
        rig_group_close(&group);
    }
    rig_group_open(&group, comm, 2, 1, model);
    for (int q_first = 0; q_first < 2; q_first++) {
        what.q_first = q_first;
        what.device_ops = rank == 1 ? &ops : NULL;
        rig_run(&group, &what, rank == 0 ? &made : NULL);
        if (rank != 0) continue;
        double apart = difference_of(&made, &expected);
        bool good = apart > 0 && apart < 0.1;
        n_bad += !good;
        printf("%sone of two head shares in bf16, Q first %d: %.5f apart\n", good ? "" : "FAILED ",
               q_first, apart);
    }
    rig_group_close(&group);
    if (rank != 0) return;
    rig_list_close(&made);
    rig_list_close(&expected);
}

int main(int argc, char **argv) {
    rank = rig_begin(&argc, &argv);
    int comm = rig_comm(0, 3);
    for (size_t mix = 0; mix < sizeof mixes / sizeof *mixes; mix++)
        test_mix(&mixes[mix], comm);
    struct rig_model model;
    struct make_gguf_wish made = make_gguf_default();
    struct fault fault = {0};
    char path[64];
    snprintf(path, sizeof path, "mixed_%d.gguf", (int)getpid());
    if (rank == 0) {
        if (!make_gguf_write(&made, path, &fault)) check_fail("%s", fault.text);
        rig_model_open(&model, path, CONTEXT);
        unlink(path); /* the map keeps it */
    }
    test_loop(rank == 0 ? &model : NULL, comm);
    if (rank == 0) rig_model_close(&model);
    return rig_end(n_bad == 0);
}
