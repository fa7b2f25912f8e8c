/* memory.h - the device memory of one rank: private to src/run. */
#ifndef LAMINA_MEMORY_H
#define LAMINA_MEMORY_H

#include "decode.h"

/* The activations of one slot on a model rank. */
struct arena {
    struct buffer *rows;   /* (max_rows, program->row_bytes) */
    struct buffer *picked; /* (max_picked, program->picked_row_bytes) */
};

/* Buffers of one attention node's messages in a slot. On a model rank Q and OUT lie in the arena
 * and only the packed KV is here. */
struct lane {
    struct value q, out; /* (max_rows, n_heads * head_dim) */
    struct value kv;     /* (max_rows, n_kv_heads * 2 * head_dim) */
};

struct memory {
    int n_lanes;             /* a slot */
    struct arena *arena;     /* (n_slots), model ranks */
    struct lane *lane;       /* (n_slots, n_lanes) */
    struct kv_cache cache;   /* attention ranks, and the one rank of a colocated job */
    int n_heads, n_kv_heads; /* held by this rank */
};

void memory_open(struct memory *memory, const struct decode_options *options);
void memory_close(struct memory *memory, const struct decode_options *options);

/* Behind decode_fill_cache. */
void memory_fill_cache(struct memory *memory, const struct decode_options *options, uint64_t seed,
                       int n_threads);

static inline struct lane *memory_lane(const struct memory *memory, int slot, int lane) {
    return &memory->lane[slot * memory->n_lanes + lane];
}

/* Which of the attention nodes of the gap behind `slice` is `node`: the lane of its messages. */
int memory_lane_of(const struct slice *slice, int node);

/* The value of `node` in a slot's arenas. */
struct value memory_value(const struct decode_options *options, const struct arena *arena,
                          int node);

/* Compute a step of a slice on the device, at once with those that are fused with it. Messages and
 * attention are decode's. Returns how many steps that were. */
int execute_steps(const struct decode_options *options, const struct memory *memory,
                  const struct rows *rows, const struct slice *slice, int step);

#endif
