/* mpi_2_wires.c - every wire between two ranks: the same bytes, no message of an earlier round, and
 * a peer that stays away is named.
 *
 *   mpi_2_wires [ROUNDS [WIRE]]    (with one rank messages go to itself, by device alone)
 *
 * On the device that LAMINA_TEST_DEVICE names (cpu; cuda is for label gpu), by every wire that it
 * has: mpi always, device between GPUs and on a shared one, nccl where each rank has a GPU of its
 * own (or a NCCL_HOSTID of its own: it then takes a shared GPU for two and speaks through sockets).
 * Blocks of made-up bytes, from 2 bytes to megabytes, with strides and odd places, go to and
 * fro; what is expected follows from the round and the place. Then blocks whose rows change from
 * step to step go in a run, and numbers go round ROUNDS times without the host looking, and grow by
 * 1 at the other end: each must have grown by exactly that. A device that keeps runs replays both
 * where the wire's calls may stand in runs. At last rank 1 sends nothing. MPI_Abort is ours then,
 * and looks at what was said.
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "rig.h"

enum { N_SLOTS = 2, N_LANES = 2, MOST_BYTES = 5 << 20, OFFSET = 96, MOST_BLOCKS = 4 };
enum { N_LAYERS = 20, MOST_ROWS = 64, COLUMNS = 96 };
static const struct device_limits limits = {.n_slots = N_SLOTS,
                                            .max_rows = MOST_ROWS,
                                            .max_picked = MOST_ROWS,
                                            .max_sequences = MOST_ROWS,
                                            .context = 1};

static int rank, peer, n_bad; /* the peer is the other rank, or where there is none, this one */
static struct topology topology;
static const struct device_ops *ops;
static struct device *device;
static const struct wire_ops *wire_ops;
static struct wire *wire;
static int n_begun; /* steps of the wire */

static void progress(void *argument) {
    (void)argument;
    if (wire) wire_ops->progress(wire);
}

static void open_device(void) {
    const char *name = getenv("LAMINA_TEST_DEVICE");
    struct device_options options = {.n_threads = 1, .index = rank, .progress = progress};
    struct fault fault = {0};
    ops = name && strcmp(name, device_cuda.name) == 0 ? &device_cuda : &device_cpu;
    if (!ops->open(&device, &options, &fault)) check_fail("%s", fault.text);
    ops->prepare(device, &limits);
}

static bool is_alone(void) {
    return topology.n_ranks == 1;
}

/* Q and KV go from rank 0 to rank 1, OUT back; alone, all from rank 0 to itself. */
static bool comes_here(enum message message) {
    return is_alone() || (message == MESSAGE_OUT) == (rank == 0);
}

static bool goes_from_here(enum message message) {
    return is_alone() || !comes_here(message);
}

static enum element element_of(enum message message) {
    return message == MESSAGE_KV ? ELEMENT_BF16 : ELEMENT_F32;
}

static void open_wire(double deadline_s) {
    struct incoming in[MESSAGES * N_LANES];
    struct outgoing out[MESSAGES * N_LANES];
    struct fault fault = {0};
    int n_to = 0, n_back = 0;
    for (int lane = 0; lane < N_LANES; lane++) {
        for (int message = MESSAGE_Q; message <= MESSAGE_OUT; message++) {
            if (comes_here((enum message)message))
                in[n_to++] = (struct incoming){(enum message)message, lane, peer, MOST_BYTES,
                                               element_of((enum message)message)};
            if (goes_from_here((enum message)message))
                out[n_back++] = (struct outgoing){(enum message)message, lane, peer, MOST_BYTES,
                                                  element_of((enum message)message)};
        }
    }
    struct wire_options options = {.topology = &topology,
                                   .n_slots = N_SLOTS,
                                   .n_layers = N_LAYERS,
                                   .deadline_s = deadline_s,
                                   .progress = true,
                                   .device_ops = ops,
                                   .device = device,
                                   .n_incoming = n_to,
                                   .n_outgoing = n_back,
                                   .incoming = in,
                                   .outgoing = out};
    struct wire *opened = NULL;
    if (!wire_ops->open(&opened, &options, &fault)) check_fail("%s", fault.text);
    wire = opened;
}

static void close_wire(void) {
    struct wire *closing = wire;
    wire_ops->drain(wire);
    wire = NULL;
    wire_ops->close(closing);
}

/* ---- bytes --------------------------------------------------------------------------------------
 */

/* Blocks of one call, and the values that they lie in. */
static const struct pattern {
    int rows, stride, n_blocks;
    struct rectangle block[MOST_BLOCKS];
} patterns[] = {
    {1, 1, 1, {{0, 1, 0, 1}}},
    {3, 8, 1, {{0, 3, 0, 8}}},
    {12, 56, 3, {{0, 5, 0, 24}, {5, 7, 24, 16}, {5, 3, 1, 9}}},
    {128, 4096, 1, {{0, 64, 0, 4096}}},                /* all flagged, whole words */
    {40, 333, 2, {{1, 17, 3, 301}, {20, 20, 0, 333}}}, /* odd words */
    {128, 4104, 4, {{0, 32, 0, 4096}, {32, 32, 8, 4096}, {64, 31, 0, 4104}, {96, 1, 0, 8}}},
    {301, 4099, 1, {{0, 301, 1, 4095}}}, /* bulk, odd words */
    {256, 4096, 1, {{0, 256, 0, 4096}}}, /* bulk */
};
enum { N_PATTERNS = sizeof patterns / sizeof patterns[0], N_ROUNDS = 6, SKIP_EVERY = 3 };

/* The element at a place of a round, of 4 bytes: no number twice in a row. */
static uint32_t made_up(enum message message, int round, size_t place) {
    uint64_t z = ((uint64_t)round * MESSAGES + (uint64_t)message) * 0x9e3779b97f4a7c15u +
                 (place + 1) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 30) * 0x94d049bb133111ebu;
    return (uint32_t)(z >> 32);
}

/* One call of a round: the value, and which of its blocks go. */
struct lot {
    enum message message;
    int round;
    const struct pattern *pattern;
    size_t size; /* bytes of an element */
    size_t n;    /* elements */
    struct value value;
    struct fan fan;
    struct block block[MOST_BLOCKS];
    unsigned char *bytes; /* (n, size) */
};

/* Rows shrink from round to round, so that something of an earlier message lies behind each. */
static void lot_open(struct lot *lot, enum message message, int round,
                     const struct pattern *pattern) {
    *lot = (struct lot){.message = message, .round = round, .pattern = pattern};
    lot->size = element_bytes(element_of(message));
    lot->n = (size_t)pattern->rows * (size_t)pattern->stride;
    lot->value = (struct value){.buffer = ops->alloc(device, OFFSET + lot->n * lot->size),
                                .offset = OFFSET,
                                .columns = pattern->stride,
                                .stride = pattern->stride,
                                .element = element_of(message)};
    lot->bytes = check_alloc(lot->n, lot->size);
    for (int at = 0; at < pattern->n_blocks; at++) {
        struct rectangle r = pattern->block[at];
        int n_rows = r.n_rows - r.n_rows * (round % SKIP_EVERY) / SKIP_EVERY;
        lot->block[at] = (struct block){peer, r.row, n_rows, r.column, r.n_columns};
    }
    lot->fan = (struct fan){pattern->n_blocks, lot->block};
}

static void lot_close(struct lot *lot) {
    ops->release(device, lot->value.buffer);
    free(lot->bytes);
}

static void lot_fill(struct lot *lot) {
    for (size_t at = 0; at < lot->n; at++) {
        uint32_t number = made_up(lot->message, lot->round, at);
        memcpy(lot->bytes + at * lot->size, &number, lot->size);
    }
    ops->upload(device, lot->value.buffer, OFFSET, lot->bytes, lot->n * lot->size);
    ops->seal(device, &lot->value);
}

static bool is_in_block(const struct lot *lot, size_t at) {
    int row = (int)(at / (size_t)lot->pattern->stride),
        column = (int)(at % (size_t)lot->pattern->stride);
    for (int b = 0; b < lot->fan.n_blocks; b++) {
        const struct block *block = &lot->block[b];
        if (row >= block->row && row < block->row + block->n_rows && column >= block->column &&
            column < block->column + block->n_columns)
            return true;
    }
    return false;
}

static void lot_clear(struct lot *lot) {
    memset(lot->bytes, 0xa5, lot->n * lot->size);
    ops->upload(device, lot->value.buffer, OFFSET, lot->bytes, lot->n * lot->size);
}

/* What came stands in its blocks, and what was there before everywhere else. */
static void lot_check(struct lot *lot) {
    int64_t wrong = 0;
    ops->download(device, lot->bytes, lot->value.buffer, OFFSET, lot->n * lot->size);
    for (size_t at = 0; at < lot->n; at++) {
        uint32_t number =
            is_in_block(lot, at) ? made_up(lot->message, lot->round, at) : 0xa5a5a5a5u;
        wrong += memcmp(lot->bytes + at * lot->size, &number, lot->size) != 0;
    }
    if (wrong == 0) return;
    n_bad += 1;
    printf("FAILED rank %d: %s, %s of round %d, pattern %d: %lld of %zu elements wrong\n", rank,
           wire_ops->name, message_name(lot->message), lot->round, (int)(lot->pattern - patterns),
           (long long)wrong, lot->n);
}

/* The slot's step begins, all its messages made of one fan. */
static void begin(int slot, struct fan fan) {
    const struct fan fans[MESSAGES] = {[MESSAGE_Q] = fan, [MESSAGE_KV] = fan, [MESSAGE_OUT] = fan};
    wire_ops->begin(wire, slot, n_begun++, fans);
}

static void exchange(enum message message, int round, const struct pattern *pattern) {
    struct address address = {message, round % N_SLOTS, round, round / N_SLOTS % N_LANES};
    struct lot sent, taken;
    lot_open(&sent, message, round, pattern);
    lot_open(&taken, message, round, pattern);
    begin(address.slot, sent.fan);
    lot_fill(&sent);
    lot_clear(&taken);
    if (goes_from_here(message)) wire_ops->scatter(wire, address, &sent.value);
    if (comes_here(message)) wire_ops->gather(wire, address, &taken.value);
    if (comes_here(message)) lot_check(&taken);
    ops->lap(device);
    lot_close(&sent);
    lot_close(&taken);
}

static void check_bytes(void) {
    for (int at = 0; at < N_PATTERNS; at++) {
        for (int round = 0; round < N_ROUNDS * N_SLOTS; round++) {
            exchange(MESSAGE_Q, round, &patterns[at]);
            exchange(MESSAGE_KV, round, &patterns[at]);
            exchange(MESSAGE_OUT, round, &patterns[at]);
        }
    }
}

/* ---- runs ---------------------------------------------------------------------------------------
 */

/* The slot's step begins with as many rows of decode. */
static void begin_rows(int slot, int step, int n_rows) {
    static const int32_t zeros[MOST_ROWS];
    struct chunk chunk[MOST_ROWS];
    struct rows rows = {.slot = slot,
                        .step = step,
                        .n_rows = n_rows,
                        .id = zeros,
                        .position = zeros,
                        .sequence = zeros,
                        .n_chunks = n_rows,
                        .chunk = chunk};
    for (int row = 0; row < n_rows; row++)
        chunk[row] = (struct chunk){.first_row = row, .n_rows = 1};
    ops->begin(device, &rows);
}

/* Rows of a value of MOST_ROWS go, others each step; a run of 64 rows serves all. */
static void check_runs(int n_steps) {
    enum { SLOT = 1, LAYER = 5, LEAST_ROWS = 57 };
    const struct address address = {MESSAGE_Q, SLOT, LAYER, 1};
    const struct pattern all = {MOST_ROWS, COLUMNS, 1, {{0, MOST_ROWS, 0, COLUMNS}}};
    struct lot sent, taken;
    lot_open(&sent, MESSAGE_Q, 0, &all);
    lot_open(&taken, MESSAGE_Q, 0, &all);
    for (int step = 0; step < n_steps; step++) {
        int n_rows = LEAST_ROWS + step * 5 % (MOST_ROWS - LEAST_ROWS + 1);
        int first = step * 3 % (MOST_ROWS - n_rows + 1);
        sent.block[0] = taken.block[0] = (struct block){peer, first, n_rows, 0, COLUMNS};
        sent.round = taken.round = step;
        begin_rows(SLOT, step, n_rows);
        begin(SLOT, sent.fan);
        lot_fill(&sent);
        lot_clear(&taken);
        if (!wire_ops->in_runs || !ops->replay(device, 1u << SLOT, 1)) {
            if (goes_from_here(MESSAGE_Q)) wire_ops->scatter(wire, address, &sent.value);
            if (comes_here(MESSAGE_Q)) wire_ops->gather(wire, address, &taken.value);
            if (wire_ops->in_runs) ops->recorded(device);
        }
        if (comes_here(MESSAGE_Q)) lot_check(&taken);
        CHECK_MPI(MPI_Barrier(MPI_COMM_WORLD)); /* no reply says that it was taken */
    }
    lot_close(&sent);
    lot_close(&taken);
}

/* ---- rounds -------------------------------------------------------------------------------------
 */

static const int counted[] = {4, 1000, 24000};
enum { N_COUNTED = sizeof counted / sizeof counted[0], MOST_COUNTED = 24000 };

static struct value floats(int n, float first, float step) {
    struct value value = {.buffer = ops->alloc(device, (size_t)n * sizeof(float)),
                          .columns = n,
                          .stride = n,
                          .element = ELEMENT_F32};
    float *number = check_alloc((size_t)n, sizeof *number);
    for (int at = 0; at < n; at++)
        number[at] = first + step * (float)at;
    ops->upload(device, value.buffer, 0, number, (size_t)n * sizeof *number);
    free(number);
    return value;
}

struct travel {
    struct value ones, there, sum, back;
};

/* As many rounds as a step has layers. */
static void travel(const struct travel *t, int slot) {
    for (int layer = 0; layer < N_LAYERS; layer++) {
        struct address q = {MESSAGE_Q, slot, layer, 0}, out = {MESSAGE_OUT, slot, layer, 0};
        if (rank == 0) wire_ops->scatter(wire, q, &t->back);
        if (comes_here(MESSAGE_Q)) {
            wire_ops->gather(wire, q, &t->there);
            ops->add(device, 1, t->sum, t->there, t->ones);
            ops->seal(device, &t->sum);
            wire_ops->scatter(wire, out, &t->sum);
        }
        if (rank == 0) wire_ops->gather(wire, out, &t->back);
    }
}

/* `n` numbers go to rank 1 and come back larger by 1, for `n_steps` steps of all layers. */
static void check_rounds(int n, int n_steps) {
    struct value ones = floats(n, 1, 0), there = floats(n, 0, 0), sum = floats(n, 0, 0);
    struct value back = floats(n, 0, 1);
    const struct travel t = {ones, there, sum, back};
    struct block block = {peer, 0, 1, 0, n};
    int n_rounds = n_steps * N_LAYERS;
    for (int step = 0; step < n_steps; step++) {
        int slot = step % N_SLOTS;
        begin(slot, (struct fan){1, &block});
        if (wire_ops->in_runs && ops->replay(device, 0, 2 * n + slot)) continue;
        travel(&t, slot);
        if (wire_ops->in_runs) ops->recorded(device);
    }
    ops->lap(device);
    float *number = check_alloc((size_t)n, sizeof *number);
    ops->download(device, number, back.buffer, 0, (size_t)n * sizeof *number);
    for (int at = 0; rank == 0 && at < n; at++) {
        if (number[at] == (float)at + (float)n_rounds) continue;
        n_bad += 1;
        printf("FAILED %s: number %d of %d is %g after %d rounds\n", wire_ops->name, at, n,
               (double)number[at] - at, n_rounds);
        break;
    }
    free(number);
    ops->release(device, ones.buffer);
    ops->release(device, there.buffer);
    ops->release(device, sum.buffer);
    ops->release(device, back.buffer);
}

/* ---- a peer that stays away ---------------------------------------------------------------------
 */

static int said[2], voice;
static bool expects_end;

int MPI_Abort(MPI_Comm of, int code) {
    char text[512] = "";
    (void)of;
    if (!expects_end) _exit(code);
    dup2(voice, STDERR_FILENO);
    close(said[1]);
    if (read(said[0], text, sizeof text - 1) < 0) text[0] = 0;
    const char *waited = rank == 0 ? "waited 1 s for OUT of layer 7, slot 1 "
                                   : "waited 1 s for Q of layer 8, slot 1 ";
    bool good = strstr(text, waited) && strstr(text, peer == 0 ? "rank 0" : "rank 1");
    if (!good) printf("FAILED %s: rank %d said: %s\n", wire_ops->name, rank, text);
    if (rank == 0 && !is_alone()) CHECK_MPI(MPI_Send(NULL, 0, MPI_BYTE, 1, 1, MPI_COMM_WORLD));
    int code_all = rig_end(n_bad == 0 && good);
    _exit(code_all); /* what still runs on the device is nobody's any more */
}

/* Rank 0 waits in vain, and what stands behind its wait goes nowhere: rank 1, which comes when rank
 * 0 has given up, waits for that in vain too. */
static void miss_peer(void) {
    open_wire(1);
    struct value value = floats(MOST_COUNTED, 0, 1);
    struct block block = {peer, 0, 1, 0, MOST_COUNTED};
    begin(1, (struct fan){1, &block});
    if (rank == 1) CHECK_MPI(MPI_Recv(NULL, 0, MPI_BYTE, 0, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE));
    voice = dup(STDERR_FILENO);
    REQUIRE(voice >= 0 && pipe(said) == 0, "no pipe");
    expects_end = true;
    dup2(said[1], STDERR_FILENO);
    if (rank == 0) {
        wire_ops->gather(wire, (struct address){MESSAGE_OUT, 1, 7, 0}, &value);
        wire_ops->scatter(wire, (struct address){MESSAGE_Q, 1, 8, 0}, &value);
    } else {
        wire_ops->gather(wire, (struct address){MESSAGE_Q, 1, 8, 0}, &value);
    }
    ops->settle(device);
    wire_ops->drain(wire);
    dup2(voice, STDERR_FILENO);
    REQUIRE(false, "nobody gave up");
}

/* ---- all ----------------------------------------------------------------------------------------
 */

static bool has_own_gpu(void) {
    char id[DEVICE_ID_BYTES] = "";
    struct device_options options = {.n_threads = 1, .index = rank};
    ops->identify(&options, id);
    return id[0] && topology_count_same(&topology, id, sizeof id, "comparison of devices", 60) == 1;
}

int main(int argc, char **argv) {
    rank = rig_begin(&argc, &argv);
    int n_steps = argc > 1 ? (atoi(argv[1]) + N_LAYERS - 1) / N_LAYERS : 6;
    int n_ranks;
    CHECK_MPI(MPI_Comm_size(MPI_COMM_WORLD, &n_ranks));
    topology = (struct topology){.rank = rank,
                                 .n_ranks = n_ranks,
                                 .leader = rank == 0,
                                 .role = rank ? ROLE_ATTENTION : ROLE_MODEL,
                                 .comm = rig_comm(0, n_ranks)};
    peer = is_alone() ? 0 : 1 - rank;
    open_device();
    bool own = has_own_gpu();
    const struct wire_ops *const wires[] = {&wire_mpi, &wire_nccl, &wire_device};
    for (int at = 0; at < 3; at++) {
        struct fault fault = {0};
        wires[at]->available(ops, &fault);
        if (is_alone() && wires[at] != &wire_device) fault_user(&fault, "no messages to oneself");
        if (wires[at] == &wire_nccl && !own && !getenv("NCCL_HOSTID"))
            fault_user(&fault, "the ranks share a GPU");
        if (argc > 2 && strcmp(argv[2], wires[at]->name) != 0) continue;
        if (fault.kind != FAULT_NONE) {
            if (rank == 0) printf("left out: %s: %s\n", wires[at]->name, fault.text);
            continue;
        }
        wire_ops = wires[at];
        open_wire(60);
        check_bytes();
        check_runs(12);
        for (int size = 0; size < N_COUNTED; size++)
            check_rounds(counted[size], n_steps);
        close_wire();
        if (rank == 0)
            printf("%s: %d patterns, %d rounds\n", wire_ops->name, N_PATTERNS, n_steps * N_LAYERS);
    }
    if (!wire_ops) {
        rig_end(true);
        return 77;
    }
    miss_peer(); /* on the last of them */
    return rig_end(n_bad == 0);
}
