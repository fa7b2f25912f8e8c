/* decode.h - the story: every rank walks one list of turns and does its half (docs/design.md
 * section 4).
 *
 * Decode sees the two seams, never an implementation behind them. The composing command opens
 * device, wire, weights and batch and hands them in.
 */
#ifndef LAMINA_DECODE_H
#define LAMINA_DECODE_H

#include <stdbool.h>

#include "batch.h"
#include "device.h"
#include "program.h"
#include "schedule.h"
#include "topology.h"
#include "weights.h"
#include "wire.h"

/* What attention ranks know of the program: the messages of each gap in order, and the shape of the
 * attention nodes, which is the same for all. Broadcast by the leader. */
struct exchange {
    int32_t gap;
    int32_t is_kv; /* 0: Q, 1: K and V */
    int32_t lane;  /* index of the attention node within its gap */
    int32_t layer; /* of the KV cache */
};
struct service {
    int32_t n_gaps, n_lanes, n_layers; /* n_lanes: the most attention nodes in one gap */
    int32_t n_heads, n_kv_heads, head_dim;
    float scale;
    int32_t activation; /* enum element of the model ranks' values, as which Q and OUT cross */
    int32_t n_exchanges;
    struct exchange *exchange; /* (n_exchanges), by gap */
};
/* From a program for a device of this activation; REQUIREs that all attention nodes have one shape.
 */
void service_open(struct service *service, const struct program *program, enum element activation);
void service_close(struct service *service);

/* Everything a rank decodes with; all borrowed until decode_close. */
struct decode_options {
    const struct topology *topology;
    const struct service *service;
    const struct program *program; /* model ranks; NULL on attention ranks */
    const struct weights *weights; /* likewise */
    const struct device_ops *device_ops;
    struct device *device;
    const struct wire_ops *wire_ops; /* NULL when colocated */
    struct wire *wire;
    struct batch *batch;
    const struct batch_limits *limits;
    enum kv_type kv_type;
    bool q_first;
};

struct decode;

/* What `rank` of a layout asks of its device before the loop; `vocabulary` is the model's. */
struct device_limits decode_device_limits(const struct batch_limits *limits,
                                          const struct layout *layout, int rank, int vocabulary);

/* Bytes of device memory decode_open takes beside the KV cache: the values of all slots, on a model
 * rank (its program) or on an attention rank (program NULL) that holds `n_kv_heads` and whose
 * device has this activation. */
size_t decode_arena_bytes(const struct program *program, const struct service *service,
                          const struct batch_limits *limits, int n_kv_heads, enum kv_type kv_type,
                          enum element activation);
/* Bytes of one page of the KV cache on a rank that holds `n_kv_heads`. */
size_t decode_page_bytes(const struct service *service, int n_kv_heads, enum kv_type kv_type);

void decode_open(struct decode **decode, const struct decode_options *options);
/* Fill this rank's part of the cache, where it has one, with made-up K and V (noise.h), so that
 * generations may begin in the middle (generation.h, n_cached). */
void decode_fill_cache(struct decode *decode, uint64_t seed, int n_threads);
/* Walk the list of turns to its end. Called again it goes on where *stop (struct batch_options),
 * zero again, had ended the walk before. */
void decode_run(struct decode *decode);
/* The KV cache of this rank, a view; without pages on a rank that holds none. */
const struct kv_cache *decode_cache(const struct decode *decode);
void decode_close(struct decode *decode);

#endif
