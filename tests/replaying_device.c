/* replaying_device.c - see replaying_device.h. */
#include "replaying_device.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"

enum { MOST_SLOTS = 8, MOST_RUNS = 256, MOST_CALLS = 4096 };

/* A call with its arguments, in their order; `make` makes it. */
struct call {
    void (*make)(struct device *device, const struct call *call);
    const struct rows *rows;
    int n_rows, number;
    struct value value[4];
    struct turned turned[2];
    const struct weight *weight, *bias;
    float eps;
    struct rope_shape rope;
    const struct kv_cache *cache;
    struct attend_shape shape;
    enum attend_part part;
    struct wire *wire;
    struct address address;
};

/* Runs are the same where all of this is. */
struct key {
    unsigned slots;
    int name, n_rows[MOST_SLOTS], n_picked[MOST_SLOTS];
};

static struct run {
    struct key key;
    int n_calls;
    struct call *call; /* (n_calls) */
} runs[MOST_RUNS];
static int n_runs;
static const struct rows *begun[MOST_SLOTS];
static struct run *current; /* being written down */
static struct call calls[MOST_CALLS];
static struct replaying_counts counts;
static size_t n_crossed; /* bytes of the last scatter or gather */

static void take(struct device *device, struct call call) {
    if (current) {
        REQUIRE(current->n_calls < MOST_CALLS, "more than %d calls in a run", MOST_CALLS);
        calls[current->n_calls++] = call;
    }
    call.make(device, &call);
}

/* ---- runs -------------------------------------------------------------------------------------
 */

static void begin(struct device *device, const struct rows *rows) {
    REQUIRE(!current && rows->slot < MOST_SLOTS, "slot %d begins in a run", rows->slot);
    begun[rows->slot] = rows;
    device_cpu.begin(device, rows);
}

static bool replay(struct device *device, unsigned slots, int name) {
    struct key key = {.slots = slots, .name = name};
    REQUIRE(!current, "a run in a run");
    for (int slot = 0; slot < MOST_SLOTS; slot++) {
        if (!(slots >> slot & 1)) continue;
        key.n_rows[slot] = begun[slot]->n_rows;
        key.n_picked[slot] = begun[slot]->n_picked;
    }
    counts.n_runs += 1;
    for (int at = 0; at < n_runs; at++) {
        if (memcmp(&runs[at].key, &key, sizeof key) != 0) continue;
        for (int k = 0; k < runs[at].n_calls; k++)
            runs[at].call[k].make(device, &runs[at].call[k]);
        counts.n_replayed += 1;
        return true;
    }
    REQUIRE(n_runs < MOST_RUNS, "more than %d runs", MOST_RUNS);
    current = &runs[n_runs++];
    *current = (struct run){.key = key};
    return false;
}

static void recorded(struct device *device) {
    (void)device;
    size_t n_bytes = (size_t)current->n_calls * sizeof *calls;
    current->call = malloc(n_bytes + 1);
    REQUIRE(current->call, "no memory");
    memcpy(current->call, calls, n_bytes);
    current = NULL;
}

struct replaying_counts replaying_end(void) {
    struct replaying_counts all = counts;
    for (int at = 0; at < n_runs; at++)
        free(runs[at].call);
    n_runs = 0;
    counts = (struct replaying_counts){0};
    return all;
}

/* ---- operators --------------------------------------------------------------------------------
 */

static void make_embed(struct device *device, const struct call *c) {
    device_cpu.embed(device, c->rows, c->value[0], c->weight);
}
static void embed(struct device *device, const struct rows *rows, struct value out,
                  const struct weight *table) {
    take(device, (struct call){.make = make_embed, .rows = rows, .value = {out}, .weight = table});
}

static void make_norm(struct device *device, const struct call *c) {
    device_cpu.norm(device, c->n_rows, c->value[0], c->value[1], c->weight, c->eps);
}
static void norm(struct device *device, int n_rows, struct value out, struct value x,
                 const struct weight *weight, float eps) {
    take(device,
         (struct call){
             .make = make_norm, .n_rows = n_rows, .value = {out, x}, .weight = weight, .eps = eps});
}

static void make_matmul(struct device *device, const struct call *c) {
    device_cpu.matmul(device, c->n_rows, c->value[0], c->value[1], c->weight, c->bias);
}
static void matmul(struct device *device, int n_rows, struct value out, struct value x,
                   const struct weight *weight, const struct weight *bias) {
    take(device, (struct call){.make = make_matmul,
                               .n_rows = n_rows,
                               .value = {out, x},
                               .weight = weight,
                               .bias = bias});
}

static void make_rope(struct device *device, const struct call *c) {
    device_cpu.rope(device, c->rows, c->value[0], c->value[1], c->rope, c->weight);
}
static void rope(struct device *device, const struct rows *rows, struct value out, struct value x,
                 struct rope_shape shape, const struct weight *table) {
    take(device,
         (struct call){
             .make = make_rope, .rows = rows, .value = {out, x}, .rope = shape, .weight = table});
}

static void make_add(struct device *device, const struct call *c) {
    device_cpu.add(device, c->n_rows, c->value[0], c->value[1], c->value[2]);
}
static void add(struct device *device, int n_rows, struct value out, struct value a,
                struct value b) {
    take(device, (struct call){.make = make_add, .n_rows = n_rows, .value = {out, a, b}});
}

static void make_add_norm(struct device *device, const struct call *c) {
    device_cpu.add_norm(device, c->n_rows, c->value[0], c->value[1], c->value[2], c->value[3],
                        c->weight, c->eps);
}
static void add_norm(struct device *device, int n_rows, struct value sum, struct value out,
                     struct value a, struct value b, const struct weight *weight, float eps) {
    take(device, (struct call){.make = make_add_norm,
                               .n_rows = n_rows,
                               .value = {sum, out, a, b},
                               .weight = weight,
                               .eps = eps});
}

static void make_swiglu(struct device *device, const struct call *c) {
    device_cpu.swiglu(device, c->n_rows, c->value[0], c->value[1], c->value[2]);
}
static void swiglu(struct device *device, int n_rows, struct value out, struct value gate,
                   struct value up) {
    take(device, (struct call){.make = make_swiglu, .n_rows = n_rows, .value = {out, gate, up}});
}

static void make_pick(struct device *device, const struct call *c) {
    device_cpu.pick(device, c->rows, c->value[0], c->value[1]);
}
static void pick(struct device *device, const struct rows *rows, struct value out, struct value x) {
    take(device, (struct call){.make = make_pick, .rows = rows, .value = {out, x}});
}

static void make_pack_kv(struct device *device, const struct call *c) {
    device_cpu.pack_kv(device, c->n_rows, c->value[0], c->value[1], c->value[2], c->number);
}
static void pack_kv(struct device *device, int n_rows, struct value out, struct value k,
                    struct value v, int head_dim) {
    take(device,
         (struct call){
             .make = make_pack_kv, .n_rows = n_rows, .value = {out, k, v}, .number = head_dim});
}

static void make_append_kv(struct device *device, const struct call *c) {
    device_cpu.append_kv(device, c->rows, c->cache, c->number, c->value[0]);
}
static void append_kv(struct device *device, const struct rows *rows, const struct kv_cache *cache,
                      int layer, struct value kv) {
    take(device,
         (struct call){
             .make = make_append_kv, .rows = rows, .cache = cache, .number = layer, .value = {kv}});
}

static void make_matmul_swiglu(struct device *device, const struct call *c) {
    device_cpu.matmul_swiglu(device, c->n_rows, c->value[0], c->value[1], c->value[2], c->weight);
}
static void matmul_swiglu(struct device *device, int n_rows, struct value out, struct value both,
                          struct value x, const struct weight *weight) {
    take(device, (struct call){.make = make_matmul_swiglu,
                               .n_rows = n_rows,
                               .value = {out, both, x},
                               .weight = weight});
}

static void make_rope_pack(struct device *device, const struct call *c) {
    device_cpu.rope_pack(device, c->rows, c->value[0], c->turned[0], c->value[1]);
}
static void rope_pack(struct device *device, const struct rows *rows, struct value kv,
                      struct turned k, struct value v) {
    take(device,
         (struct call){.make = make_rope_pack, .rows = rows, .value = {kv, v}, .turned = {k}});
}

static void make_rope_append(struct device *device, const struct call *c) {
    device_cpu.rope_append(device, c->rows, c->turned[0], c->turned[1], c->value[0], c->value[1],
                           c->cache, c->number);
}
static void rope_append(struct device *device, const struct rows *rows, struct turned q,
                        struct turned k, struct value v, struct value kv,
                        const struct kv_cache *cache, int layer) {
    take(device, (struct call){.make = make_rope_append,
                               .rows = rows,
                               .turned = {q, k},
                               .value = {v, kv},
                               .cache = cache,
                               .number = layer});
}

static void make_attend(struct device *device, const struct call *c) {
    device_cpu.attend(device, c->rows, c->cache, c->shape, c->part, c->value[0], c->value[1]);
}
static void attend(struct device *device, const struct rows *rows, const struct kv_cache *cache,
                   struct attend_shape shape, enum attend_part part, struct value q,
                   struct value out) {
    take(device, (struct call){.make = make_attend,
                               .rows = rows,
                               .cache = cache,
                               .shape = shape,
                               .part = part,
                               .value = {q, out}});
}

static void make_sample(struct device *device, const struct call *c) {
    device_cpu.sample(device, c->rows, c->value[0]);
}
static void sample(struct device *device, const struct rows *rows, struct value logits) {
    take(device, (struct call){.make = make_sample, .rows = rows, .value = {logits}});
}

struct device_ops replaying_device(void) {
    struct device_ops ops = device_cpu;
    ops.begin = begin;
    ops.replay = replay;
    ops.recorded = recorded;
    ops.embed = embed;
    ops.norm = norm;
    ops.matmul = matmul;
    ops.rope = rope;
    ops.add = add;
    ops.add_norm = add_norm;
    ops.swiglu = swiglu;
    ops.pick = pick;
    ops.pack_kv = pack_kv;
    ops.append_kv = append_kv;
    ops.matmul_swiglu = matmul_swiglu;
    ops.rope_pack = rope_pack;
    ops.rope_append = rope_append;
    ops.attend = attend;
    ops.sample = sample;
    return ops;
}

/* ---- messages ---------------------------------------------------------------------------------
 */

static void wire_begin(struct wire *wire, int slot, int step, const struct fan *fan) {
    REQUIRE(!current, "slot %d begins in a run", slot);
    wire_mpi.begin(wire, slot, step, fan);
}

static void make_scatter(struct device *device, const struct call *c) {
    (void)device;
    n_crossed = wire_mpi.scatter(c->wire, c->address, &c->value[0]);
}
static size_t scatter(struct wire *wire, struct address address, const struct value *value) {
    take(NULL,
         (struct call){.make = make_scatter, .wire = wire, .address = address, .value = {*value}});
    return n_crossed;
}

static void make_gather(struct device *device, const struct call *c) {
    (void)device;
    n_crossed = wire_mpi.gather(c->wire, c->address, &c->value[0]);
}
static size_t gather(struct wire *wire, struct address address, const struct value *value) {
    take(NULL,
         (struct call){.make = make_gather, .wire = wire, .address = address, .value = {*value}});
    return n_crossed;
}

struct wire_ops replaying_wire(void) {
    struct wire_ops ops = wire_mpi;
    ops.in_runs = true;
    ops.begin = wire_begin;
    ops.scatter = scatter;
    ops.gather = gather;
    return ops;
}
