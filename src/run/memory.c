/* memory.c - what a rank allocates before the loop: activations, messages, the KV cache. See
 * memory.h. */
#include "memory.h"

#include <stdio.h>
#include <stdlib.h>

#include "check.h"
#include "noise.h"

struct value memory_value(const struct decode_options *options, const struct arena *arena,
                          int node) {
    const struct program *program = options->program;
    const struct place *place = &program->place[node];
    int most = place->picked ? options->limits->max_picked : options->limits->max_rows;
    const struct node *made = &program->graph->node[node];
    enum element activation = options->device_ops->activation;
    return (struct value){
        .buffer = place->picked ? arena->picked : arena->rows,
        .offset = place->offset * (size_t)most +
                  (size_t)place->first_column * (size_t)program->graph->element_bytes,
        .columns = made->columns,
        .stride = place->stride,
        .element = made->op == OP_SAMPLE ? ELEMENT_I32
                   : made->logits        ? ELEMENT_F32
                                         : activation,
    };
}

/* ---- the service: what attention ranks know of the program ------------------------------------
 */

int memory_lane_of(const struct slice *slice, int node) {
    int lane = 0;
    while (lane < slice->n_attention && slice->attention[lane] != node)
        lane++;
    REQUIRE(lane < slice->n_attention, "node %d is not in this gap", node);
    return lane;
}

static void take_shape(struct service *service, const struct attention *attention) {
    bool first = service->n_layers++ == 0;
    if (first) {
        service->n_heads = attention->n_heads;
        service->n_kv_heads = attention->n_kv_heads;
        service->head_dim = attention->head_dim;
        service->scale = attention->scale;
    }
    REQUIRE(service->n_heads == attention->n_heads &&
                service->n_kv_heads == attention->n_kv_heads &&
                service->head_dim == attention->head_dim && service->scale == attention->scale,
            "attention nodes of several shapes");
}

void service_open(struct service *service, const struct program *program, enum element activation) {
    const struct graph *graph = program->graph;
    *service = (struct service){
        .n_gaps = program->n_slices - 1, .n_lanes = 1, .activation = (int32_t)activation};
    service->exchange = check_alloc(2 * (size_t)graph->n_attention, sizeof *service->exchange);
    for (int at = 0; at < graph->n_nodes; at++) {
        if (graph->node[at].op == OP_ATTENTION) take_shape(service, &graph->node[at].as.attention);
    }
    for (int gap = 0; gap < service->n_gaps; gap++) {
        const struct slice *slice = &program->slice[gap];
        if (slice->n_attention > service->n_lanes) service->n_lanes = slice->n_attention;
        for (int at = 0; at < slice->n_steps; at++) {
            const struct step *step = &slice->step[at];
            if (step->kind != STEP_SCATTER_Q && step->kind != STEP_SCATTER_KV) continue;
            service->exchange[service->n_exchanges++] = (struct exchange){
                .gap = gap,
                .is_kv = step->kind == STEP_SCATTER_KV,
                .lane = memory_lane_of(slice, step->node),
                .layer = graph->node[step->node].as.attention.layer,
            };
        }
    }
}

void service_close(struct service *service) {
    free(service->exchange);
    *service = (struct service){0};
}

/* ---- sizes ------------------------------------------------------------------------------------
 */

size_t decode_page_bytes(const struct service *service, int n_kv_heads, enum kv_type kv_type) {
    return (size_t)service->n_layers * (size_t)n_kv_heads * 2 * PAGE_TOKENS *
           (size_t)service->head_dim * element_bytes(kv_element(kv_type));
}

size_t decode_arena_bytes(const struct program *program, const struct service *service,
                          const struct batch_limits *limits, int n_kv_heads, enum kv_type kv_type,
                          enum element activation) {
    size_t columns = (size_t)n_kv_heads * (size_t)service->head_dim * (size_t)service->n_lanes;
    size_t kv = 2 * columns * element_bytes(kv_element(kv_type));
    size_t q =
        (size_t)(service->n_heads / service->n_kv_heads) * columns * element_bytes(activation);
    size_t row = program ? program->row_bytes : 2 * q; /* Q and OUT */
    size_t picked = program ? program->picked_row_bytes : 0;
    return (size_t)limits->n_slots *
           ((row + kv) * (size_t)limits->max_rows + picked * (size_t)limits->max_picked);
}

struct device_limits decode_device_limits(const struct batch_limits *limits,
                                          const struct layout *layout, int rank, int vocabulary) {
    bool is_model = rank < layout->model_ranks;
    struct device_limits device = {.n_slots = limits->n_slots,
                                   .max_rows = limits->max_rows,
                                   .max_picked = limits->max_picked,
                                   .max_sequences = limits->n_slots * limits->max_batch,
                                   .context = limits->context,
                                   .vocabulary = is_model ? vocabulary : 0};
    if (is_model && layout->attention_ranks > 0) return device; /* its attention is elsewhere */
    device.n_kv_heads = layout_rank_heads(layout, limits->n_kv_heads, rank).n;
    device.n_heads = limits->n_heads / limits->n_kv_heads * device.n_kv_heads;
    device.head_dim = limits->head_dim;
    return device;
}

/* ---- allocation -------------------------------------------------------------------------------
 */

static struct value alloc_value(const struct decode_options *options, int columns,
                                enum element element) {
    size_t n_bytes = (size_t)options->limits->max_rows * (size_t)columns * element_bytes(element);
    return (struct value){.buffer = options->device_ops->alloc(options->device, n_bytes),
                          .columns = columns,
                          .stride = columns,
                          .element = element};
}

static void open_arenas(struct memory *memory, const struct decode_options *options) {
    const struct batch_limits *limits = options->limits;
    const struct program *program = options->program;
    memory->arena = check_alloc((size_t)limits->n_slots, sizeof *memory->arena);
    for (int slot = 0; slot < limits->n_slots; slot++) {
        memory->arena[slot].rows = options->device_ops->alloc(
            options->device, (size_t)limits->max_rows * program->row_bytes);
        memory->arena[slot].picked = options->device_ops->alloc(
            options->device, (size_t)limits->max_picked * program->picked_row_bytes);
    }
}

static void open_lane(struct memory *memory, struct lane *lane,
                      const struct decode_options *options) {
    int head_dim = options->service->head_dim;
    lane->kv =
        alloc_value(options, memory->n_kv_heads * 2 * head_dim, kv_element(options->kv_type));
    if (options->topology->role == ROLE_MODEL) return;
    enum element activation = options->device_ops->activation;
    lane->q = alloc_value(options, memory->n_heads * head_dim, activation);
    lane->out = alloc_value(options, memory->n_heads * head_dim, activation);
}

static void open_cache(struct memory *memory, const struct decode_options *options) {
    const struct service *service = options->service;
    size_t page = decode_page_bytes(service, memory->n_kv_heads, options->kv_type);
    memory->cache = (struct kv_cache){
        .n_layers = service->n_layers,
        .n_pages = options->limits->n_pages,
        .n_kv_heads = memory->n_kv_heads,
        .head_dim = service->head_dim,
        .element = kv_element(options->kv_type),
        .buffer =
            options->device_ops->alloc(options->device, page * (size_t)options->limits->n_pages),
    };
}

void memory_open(struct memory *memory, const struct decode_options *options) {
    const struct service *service = options->service;
    const struct topology *topology = options->topology;
    bool attention = topology->role == ROLE_ATTENTION;
    int n_kv_heads = layout_rank_heads(&topology->layout, service->n_kv_heads, topology->rank).n;
    *memory = (struct memory){.n_lanes = service->n_lanes,
                              .n_heads = service->n_heads / service->n_kv_heads * n_kv_heads,
                              .n_kv_heads = n_kv_heads};
    if (!attention) open_arenas(memory, options);
    int n_lanes = options->limits->n_slots * memory->n_lanes;
    memory->lane = check_alloc((size_t)n_lanes, sizeof *memory->lane);
    for (int lane = 0; lane < n_lanes; lane++)
        open_lane(memory, &memory->lane[lane], options);
    if (attention || topology->layout.attention_ranks == 0) open_cache(memory, options);
}

/* Numbers as large as those of q, whose products with them are then about 1. */
void memory_fill_cache(struct memory *memory, const struct decode_options *options, uint64_t seed,
                       int n_threads) {
    enum { PIECE = 1 << 22 }; /* numbers */
    static const enum quant stored[] = {
        [ELEMENT_F32] = QUANT_F32, [ELEMENT_F16] = QUANT_F16, [ELEMENT_BF16] = QUANT_BF16};
    const struct kv_cache *cache = &memory->cache;
    if (!cache->buffer) return;
    size_t a_page = (size_t)cache->n_layers * (size_t)cache->n_kv_heads * 2 * PAGE_TOKENS *
                    (size_t)cache->head_dim;
    size_t n = a_page * (size_t)cache->n_pages, size = element_bytes(cache->element);
    char name[32];
    snprintf(name, sizeof name, "KV of rank %d", options->topology->rank);
    unsigned char *piece = check_alloc(PIECE, size);
    for (size_t first = 0; first < n; first += PIECE) {
        size_t these = n - first < PIECE ? n - first : PIECE;
        noise_fill(piece, stored[cache->element], noise_key(seed, name), 1, first, these,
                   n_threads);
        options->device_ops->upload(options->device, cache->buffer, first * size, piece,
                                    these * size);
    }
    free(piece);
}

void memory_close(struct memory *memory, const struct decode_options *options) {
    const struct device_ops *ops = options->device_ops;
    int n_slots = options->limits->n_slots;
    for (int slot = 0; memory->arena && slot < n_slots; slot++) {
        ops->release(options->device, memory->arena[slot].rows);
        ops->release(options->device, memory->arena[slot].picked);
    }
    for (int lane = 0; lane < n_slots * memory->n_lanes; lane++) {
        ops->release(options->device, memory->lane[lane].q.buffer);
        ops->release(options->device, memory->lane[lane].kv.buffer);
        ops->release(options->device, memory->lane[lane].out.buffer);
    }
    ops->release(options->device, memory->cache.buffer);
    free(memory->arena);
    free(memory->lane);
    *memory = (struct memory){0};
}
