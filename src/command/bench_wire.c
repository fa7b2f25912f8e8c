/* bench_wire.c - `lamina bench wire`: messages from the leader to the other ranks and back.
 *
 * A round is a scatter of a fan of blocks, as Q is sent, and the gather of as many bytes, as OUT
 * comes back; each rank answers when all of its blocks are there. A fan of one block is the usual
 * ping-pong. Time is half a round, from a sealed value to one that a device may compute with, in
 * the mean of as many rounds as move 64 MiB, at most a thousand: the layers of a step, which a
 * device replays where the wire's calls may stand in runs, as in a step of decoding.
 *
 * Whether the bytes are right is seen in rounds of their own, for it takes longer than to send
 * them: a rank answers with the complement of every byte it got, and the leader compares. What
 * arrives anywhere wrong, or is left over from before, comes back wrong.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "bench_parts.h"
#include "choose.h"
#include "log.h"
#include "noise.h"

enum { MOST_ROUNDS = 1000, ROUND_BYTES = 1 << 26 };

enum column { WIRE, BLOCKS, PEERS, SIZE, TIME, LEAST, MOST, RATE, WRONG, COLUMNS };
static const struct sheet_column columns[COLUMNS] = {
    [WIRE] = {"wire", SHEET_TEXT, 0},    [BLOCKS] = {"blocks", SHEET_WHOLE, 0},
    [PEERS] = {"peers", SHEET_WHOLE, 0}, [SIZE] = {"size", SHEET_WHOLE, 0},
    [TIME] = {"time_us", SHEET_REAL, 2}, [LEAST] = {"min_us", SHEET_REAL, 2},
    [MOST] = {"max_us", SHEET_REAL, 2},  [RATE] = {"GB_per_s", SHEET_REAL, 3},
    [WRONG] = {"wrong", SHEET_WHOLE, 0},
};

/* ---- the wire and a fan on it -----------------------------------------------------------------
 */

/* The most bytes of a call to one peer. */
static size_t most_bytes(const struct run *run) {
    int64_t n_blocks = bench_largest(&run->options->fan), n_peers = run->topology.n_ranks - 1;
    return (size_t)(bench_largest(&run->options->sizes) * ((n_blocks + n_peers - 1) / n_peers));
}

/* One Q to and one OUT from every other rank on the leader; the counterparts elsewhere. */
static bool open_wire(struct run *run, struct fault *fault) {
    const struct topology *topology = &run->topology;
    bool leader = topology->leader;
    int n = leader ? topology->n_ranks - 1 : 1;
    size_t most = most_bytes(run);
    struct incoming *in = check_alloc((size_t)n, sizeof *in);
    struct outgoing *out = check_alloc((size_t)n, sizeof *out);
    for (int at = 0; at < n; at++) {
        int peer = leader ? at + 1 : 0;
        in[at] = (struct incoming){leader ? MESSAGE_OUT : MESSAGE_Q, 0, peer, most, ELEMENT_F32};
        out[at] = (struct outgoing){leader ? MESSAGE_Q : MESSAGE_OUT, 0, peer, most, ELEMENT_F32};
    }
    struct wire_options options = {.topology = topology,
                                   .n_slots = 1,
                                   .n_layers = MOST_ROUNDS,
                                   .deadline_s = run->options->deadline_s,
                                   .progress = true,
                                   .device_ops = run->device_ops,
                                   .device = run->device,
                                   .n_incoming = n,
                                   .n_outgoing = n,
                                   .incoming = in,
                                   .outgoing = out};
    bool good = run->wire_ops->open(&run->wire, &options, fault);
    free(in);
    free(out);
    return good;
}

/* Blocks of one size on this rank, one a row of its values; a rank may have none. */
struct exchange_fan {
    struct run *run;
    int *n_begun; /* steps of the wire */
    int name;     /* of its rounds as a run */
    int n_blocks; /* of the leader */
    size_t size;  /* of a block, bytes */
    struct fan fan;
    struct block *block;
    struct value to, from; /* (fan.n_blocks, size / 4) */
};

static struct value open_value(struct run *run, int rows, size_t size) {
    return (struct value){.buffer = run->device_ops->alloc(run->device, (size_t)rows * size),
                          .columns = (int)(size / 4),
                          .stride = (int)(size / 4),
                          .element = ELEMENT_F32};
}

/* Block b of the leader goes to rank 1 + b mod the number of others. */
static void open_fan(struct exchange_fan *fan, struct run *run, int *n_begun, int n_blocks,
                     size_t size) {
    const struct topology *topology = &run->topology;
    *fan = (struct exchange_fan){
        .run = run, .n_begun = n_begun, .name = *n_begun, .n_blocks = n_blocks, .size = size};
    fan->block = check_alloc((size_t)n_blocks, sizeof *fan->block);
    for (int at = 0; at < n_blocks; at++) {
        int peer = 1 + at % (topology->n_ranks - 1), row = fan->fan.n_blocks;
        if (!topology->leader && peer != topology->rank) continue;
        fan->block[fan->fan.n_blocks++] =
            (struct block){topology->leader ? peer : 0, row, 1, 0, (int)(size / 4)};
    }
    fan->fan.block = fan->block;
    fan->to = open_value(run, n_blocks, size);
    fan->from = open_value(run, n_blocks, size);
}

static void close_fan(struct exchange_fan *fan) {
    fan->run->device_ops->release(fan->run->device, fan->to.buffer);
    fan->run->device_ops->release(fan->run->device, fan->from.buffer);
    free(fan->block);
}

/* Rounds are the layers of a step. */
static void begin(struct exchange_fan *fan) {
    struct fan fans[MESSAGES] = {[MESSAGE_Q] = fan->fan, [MESSAGE_OUT] = fan->fan};
    fan->run->wire_ops->begin(fan->run->wire, 0, (*fan->n_begun)++, fans);
}

static void scatter(struct exchange_fan *fan, int round) {
    struct run *run = fan->run;
    struct address address = {run->topology.leader ? MESSAGE_Q : MESSAGE_OUT, 0, round, 0};
    run->device_ops->seal(run->device, &fan->to);
    run->wire_ops->scatter(run->wire, address, &fan->to);
}

static void gather(struct exchange_fan *fan, int round) {
    struct run *run = fan->run;
    struct address address = {run->topology.leader ? MESSAGE_OUT : MESSAGE_Q, 0, round, 0};
    run->wire_ops->gather(run->wire, address, &fan->from);
}

/* ---- bytes ------------------------------------------------------------------------------------
 */

/* Send made-up bytes, take their complement. Returns how many are wrong. */
static int64_t check_as_leader(struct exchange_fan *fan, int round) {
    struct run *run = fan->run;
    size_t n_bytes = (size_t)fan->n_blocks * fan->size;
    unsigned char *sent = check_alloc(n_bytes, 1), *back = check_alloc(n_bytes, 1);
    char name[96];
    int64_t wrong = 0;
    snprintf(name, sizeof name, "round %d of %d blocks of %zu", round, fan->n_blocks, fan->size);
    noise_fill(sent, QUANT_F32, noise_key(run->options->seed, name), 1, 0, n_bytes / 4, 1);
    run->device_ops->upload(run->device, fan->to.buffer, 0, sent, n_bytes);
    scatter(fan, 0);
    gather(fan, 0);
    run->device_ops->download(run->device, back, fan->from.buffer, 0, n_bytes);
    for (size_t at = 0; at < n_bytes; at++)
        wrong += back[at] != (unsigned char)~sent[at];
    free(sent);
    free(back);
    return wrong;
}

static void check_as_other(struct exchange_fan *fan) {
    struct run *run = fan->run;
    size_t n_bytes = (size_t)fan->fan.n_blocks * fan->size;
    unsigned char *bytes = check_alloc(n_bytes + 1, 1);
    gather(fan, 0);
    run->device_ops->download(run->device, bytes, fan->from.buffer, 0, n_bytes);
    for (size_t at = 0; at < n_bytes; at++)
        bytes[at] = (unsigned char)~bytes[at];
    run->device_ops->upload(run->device, fan->to.buffer, 0, bytes, n_bytes);
    scatter(fan, 0);
    free(bytes);
}

static int64_t check(struct exchange_fan *fan) {
    int64_t wrong = 0;
    for (int round = 0; round < fan->run->options->repeat; round++) {
        begin(fan);
        if (fan->run->topology.leader) {
            wrong += check_as_leader(fan, round);
        } else {
            check_as_other(fan);
        }
    }
    return wrong;
}

/* ---- time -------------------------------------------------------------------------------------
 */

static void make_rounds(struct exchange_fan *fan, int n_rounds) {
    bool leader = fan->run->topology.leader;
    for (int round = 0; round < n_rounds; round++) {
        if (leader) scatter(fan, round);
        gather(fan, round);
        if (!leader) scatter(fan, round);
    }
}

static void enqueue_rounds(struct exchange_fan *fan, int n_rounds) {
    struct run *run = fan->run;
    bool is_run = run->wire_ops->in_runs;
    if (is_run && run->device_ops->replay(run->device, 0, fan->name)) return;
    make_rounds(fan, n_rounds);
    if (is_run) run->device_ops->recorded(run->device);
}

static struct spread measure(struct exchange_fan *fan) {
    struct run *run = fan->run;
    int warmup = run->options->warmup, repeat = run->options->repeat;
    size_t fit = ROUND_BYTES / ((size_t)fan->n_blocks * fan->size);
    int rounds = fit < 1 ? 1 : fit > MOST_ROUNDS ? MOST_ROUNDS : (int)fit;
    double *seconds = check_alloc((size_t)repeat, sizeof *seconds);
    int first = -warmup - run->wire_ops->in_runs; /* a run is recorded the second time */
    for (int at = first; at < repeat; at++) {
        begin(fan);
        run->device_ops->lap(run->device);
        enqueue_rounds(fan, rounds);
        double taken = run->device_ops->lap(run->device) / rounds / 2;
        if (at >= 0) seconds[at] = taken;
    }
    struct spread spread = bench_spread(seconds, repeat);
    free(seconds);
    return spread;
}

static int64_t measure_fan(struct run *run, int *n_begun, int n_blocks, size_t size,
                           struct sheet *sheet) {
    struct exchange_fan fan;
    open_fan(&fan, run, n_begun, n_blocks, size);
    struct spread spread = measure(&fan);
    int64_t wrong = check(&fan);
    int n_peers = n_blocks < run->topology.n_ranks ? n_blocks : run->topology.n_ranks - 1;
    if (sheet)
        sheet_row(sheet,
                  (struct sheet_value[COLUMNS]){
                      [WIRE] = {.text = run->wire_ops->name},
                      [BLOCKS] = {.whole = n_blocks},
                      [PEERS] = {.whole = n_peers},
                      [SIZE] = {.whole = (int64_t)size},
                      [TIME] = {.real = spread.median * 1e6},
                      [LEAST] = {.real = spread.least * 1e6},
                      [MOST] = {.real = spread.most * 1e6},
                      [RATE] = {.real = (double)n_blocks * (double)size / spread.median * 1e-9},
                      [WRONG] = {.whole = wrong},
                  });
    close_fan(&fan);
    return wrong;
}

int64_t bench_wire_measure(struct run *run, const struct wire_ops *ops, struct sheet *sheet,
                           struct fault *fault) {
    const struct options *options = run->options;
    int64_t wrong = 0;
    int n_begun = 0;
    run->wire_ops = ops;
    open_wire(run, fault);
    if (!compose_agree(run, fault, "opening of a wire")) return 0;
    for (int f = 0; f < options->fan.n; f++) {
        for (int s = 0; s < options->sizes.n; s++)
            wrong += measure_fan(run, &n_begun, (int)options->fan.value[f],
                                 (size_t)options->sizes.value[s], sheet);
    }
    run->wire_ops->drain(run->wire);
    run->wire_ops->close(run->wire);
    run->wire = NULL;
    return wrong;
}

bool bench_wire_open_sheet(struct run *run, struct sheet **sheet, struct fault *fault) {
    return bench_open_sheet(run, sheet, columns, COLUMNS, fault);
}

/* Every wire that suits the ranks' devices, or the one that was named. */
static bool is_wanted(const struct run *run, const struct wire_ops *wire) {
    if (run->options->wire != WIRE_WISH_AUTO) return wire == run->wire_ops;
    return wire == &wire_mpi || wire == run->wire_ops ||
           (wire == &wire_nccl && run->wire_ops == &wire_device);
}

/* Values of a fan to and fro, and the messages of a wire. */
static bool check_memory(struct run *run, struct fault *fault) {
    int64_t size = bench_largest(&run->options->sizes), blocks = bench_largest(&run->options->fan);
    int64_t n_bytes = size * 2 * blocks,
            n_peers = run->topology.leader ? run->topology.n_ranks - 1 : 1;
    int n_wires;
    const struct wire_ops *const *wires = choose_wires(&n_wires);
    size_t most = 0;
    for (int at = 0; at < n_wires; at++) {
        if (!is_wanted(run, wires[at])) continue;
        size_t own = wires[at]->message_bytes(most_bytes(run), true) +
                     wires[at]->message_bytes(most_bytes(run), false);
        most = own > most ? own : most;
    }
    n_bytes += n_peers * (int64_t)most;
    if (n_bytes > run->resources.memory_bytes)
        fault_user(fault,
                   "blocks of %lld bytes take %lld MiB, rank %d may use %lld MiB (%s): a "
                   "smaller --sizes or --fan",
                   (long long)size, (long long)n_bytes >> 20, run->topology.rank,
                   (long long)run->resources.memory_bytes >> 20, run->resources.memory_from);
    return compose_agree(run, fault, "memory of the messages");
}

static int measure_all(struct run *run, struct sheet **sheet, struct fault *fault) {
    int n_wires;
    int64_t wrong = 0;
    const struct wire_ops *const *wires = choose_wires(&n_wires);
    if (!check_memory(run, fault) || !bench_wire_open_sheet(run, sheet, fault)) return EXIT_DONE;
    bench_tell(run, *sheet);
    run->device_ops->prepare(run->device, &(struct device_limits){.n_slots = 1, .max_rows = 1});
    const struct wire_ops *chosen = run->wire_ops;
    for (int at = 0; at < n_wires && fault->kind == FAULT_NONE; at++) {
        run->wire_ops = chosen;
        if (is_wanted(run, wires[at])) wrong += bench_wire_measure(run, wires[at], *sheet, fault);
    }
    if (*sheet) sheet_summary(*sheet, "%lld wrong bytes", (long long)wrong);
    if (wrong == 0) return EXIT_DONE;
    log_error("%lld bytes came back wrong", (long long)wrong);
    return EXIT_WORLD;
}

int bench_wire_run(const struct options *options, uint64_t options_hash) {
    struct run run = {.options = options};
    struct fault fault = {0};
    struct sheet *sheet = NULL;
    int code = EXIT_DONE;
    if (!compose_ranks(&run, options_hash, &fault)) return (int)fault.kind;
    if (run.topology.n_ranks < 2)
        fault_user(&fault, "bench wire needs two ranks or more: mpirun -n 2 lamina bench wire");
    if (fault.kind == FAULT_NONE && compose_device(&run, &fault))
        code = measure_all(&run, &sheet, &fault);
    return bench_end(&run, sheet, code, &fault);
}
