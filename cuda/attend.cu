/* attend.cu - the KV cache and attention of the CUDA device: appending, and the plan by which
 * the kernels of attend_narrow.cu, attend_wide.cu and attend_plain.cu share a step's work.
 *
 * The plan is made on the host when a step begins, for lengths come with the header, and travels to
 * the device with one copy; all layers use it. It holds a cut (attend_parts.cuh) for each kind of
 * kernel and each part of a fold. Grids never change: how much a block has to do is data, so a
 * captured launch serves any step. Cutting on the device was rejected: it puts a kernel of one
 * block before every first layer and saves a copy that is there anyway.
 *
 * A chunk's columns (rows times group) choose its kernel: as many as the narrow one takes at once,
 * as decode rows have, or more.
 */
#include <stdlib.h>
#include <string.h>

#include "attend_parts.cuh"

enum { PLAN_RING = 4, SHORTEST_SHARE = 2 /* items: where there are few, joining them counts */ };

/* A slot's plan: one block of tables on the device, refilled from pinned memory. */
struct attend_plan {
    unsigned char *device, *pinned[PLAN_RING];
    cudaEvent_t copied[PLAN_RING];
    int next;
    int n_items[ATTEND_KINDS][ATTEND_PARTS]; /* on the host: which kernels a part needs */
    float *state;                            /* (max_rows, heads, head_dim) */
    float2 *state_weights;                   /* (max_rows, heads) */
};

/* The same for all slots, which take turns on one stream. */
struct attention {
    bool tensor;                /* head_dim is one the tensor core kernels know */
    int n_blocks[ATTEND_KINDS]; /* of every launch */
    int most_blocks;
    int group;
    int max_units; /* of one part */
    float *partial;
    float2 *partial_weights;
    unsigned *arrived;
};

/* Tables of a plan, the ones of varying length last. Kinds and parts stand in rising order. */
static size_t cut_offset(int kind, int part) {
    return (size_t)(kind * ATTEND_PARTS + part) * sizeof(struct attend_cut);
}

static size_t share_offset(const struct attention *attention, int kind, int part) {
    size_t cuts = (cut_offset(ATTEND_KINDS, 0) + 63) / 64 * 64;
    return cuts + (size_t)(kind * ATTEND_PARTS + part) * (size_t)attention->most_blocks *
                      sizeof(struct attend_share);
}

/* Units of all kinds and parts stand one behind another; a share names one in this list. */
static size_t unit_offset(const struct attention *attention) {
    return share_offset(attention, ATTEND_KINDS, 0);
}

static size_t plan_bytes(const struct attention *attention) {
    return unit_offset(attention) +
           (size_t)(ATTEND_PARTS * attention->max_units + 1) * sizeof(struct attend_unit);
}

/* ---- opening ----------------------------------------------------------------------------------
 */

/* An upper bound: how many blocks a processor holds is known once the device is open. */
size_t attend_bytes(const struct device_limits *limits) {
    enum { MOST_BLOCKS = 512 };
    size_t dim = (size_t)limits->head_dim, group = (size_t)(limits->n_heads / limits->n_kv_heads);
    size_t states = (size_t)limits->max_rows * (size_t)limits->n_heads;
    size_t units = (size_t)limits->max_rows * (1 + group / WIDE_COLUMNS) + 1;
    size_t partials = (size_t)MOST_BLOCKS * 2 * WIDE_COLUMNS;
    return (size_t)limits->n_slots *
               (states * (dim * sizeof(float) + 2 * sizeof(float)) +
                ATTEND_PARTS * units * sizeof(struct attend_unit) + MOST_BLOCKS * 64) +
           partials * (dim + 2) * sizeof(float);
}

static void open_plan(struct device *device, struct attend_plan *plan) {
    const struct device_limits *limits = &device->limits;
    size_t states = (size_t)limits->max_rows * (size_t)limits->n_heads;
    size_t n_bytes = plan_bytes(device->attention);
    CHECK_CUDA(cudaMalloc((void **)&plan->device, n_bytes));
    for (int at = 0; at < PLAN_RING; at++) {
        CHECK_CUDA(cudaMallocHost((void **)&plan->pinned[at], n_bytes));
        CHECK_CUDA(cudaEventCreateWithFlags(&plan->copied[at], cudaEventDisableTiming));
    }
    CHECK_CUDA(
        cudaMalloc((void **)&plan->state, states * (size_t)limits->head_dim * sizeof *plan->state));
    CHECK_CUDA(cudaMalloc((void **)&plan->state_weights, states * sizeof *plan->state_weights));
}

void attend_prepare(struct device *device) {
    const struct device_limits *limits = &device->limits;
    struct attention *attention = (struct attention *)check_alloc(1, sizeof *attention);
    int dim = limits->head_dim;
    attention->group = limits->n_heads / limits->n_kv_heads;
    attention->tensor = dim == 64 || dim == 128 || dim == 256;
    for (int kind = 0; attention->tensor && kind < ATTEND_KINDS; kind++) {
        int blocks = kind == ATTEND_NARROW ? attend_narrow_prepare(dim, attention->group)
                                           : attend_wide_prepare(dim);
        attention->n_blocks[kind] = device->n_processors * blocks;
        if (attention->n_blocks[kind] > attention->most_blocks)
            attention->most_blocks = attention->n_blocks[kind];
    }
    /* A chunk is cut into units of one kind; each but its last is full. */
    attention->max_units = limits->max_rows + limits->max_rows * attention->group / WIDE_COLUMNS;
    size_t partials = (size_t)attention->most_blocks * 2 * WIDE_COLUMNS;
    CHECK_CUDA(cudaMalloc((void **)&attention->partial,
                          partials * (size_t)dim * sizeof *attention->partial));
    CHECK_CUDA(cudaMalloc((void **)&attention->partial_weights,
                          partials * sizeof *attention->partial_weights));
    size_t arrivals = (size_t)attention->most_blocks * sizeof *attention->arrived;
    CHECK_CUDA(cudaMalloc((void **)&attention->arrived, arrivals));
    CHECK_CUDA(cudaMemsetAsync(attention->arrived, 0, arrivals, device->stream));
    device->attention = attention;
    for (int slot = 0; slot < limits->n_slots; slot++) {
        struct attend_plan *plan = (struct attend_plan *)check_alloc(1, sizeof *plan);
        open_plan(device, plan);
        device->rows[slot].plan = plan;
    }
}

void attend_close(struct device *device) {
    struct attention *attention = device->attention;
    if (!attention) return;
    for (int slot = 0; slot < device->limits.n_slots; slot++) {
        struct attend_plan *plan = device->rows[slot].plan;
        for (int at = 0; at < PLAN_RING; at++) {
            CHECK_CUDA(cudaFreeHost(plan->pinned[at]));
            CHECK_CUDA(cudaEventDestroy(plan->copied[at]));
        }
        CHECK_CUDA(cudaFree(plan->device));
        CHECK_CUDA(cudaFree(plan->state));
        CHECK_CUDA(cudaFree(plan->state_weights));
        free(plan);
    }
    CHECK_CUDA(cudaFree(attention->partial));
    CHECK_CUDA(cudaFree(attention->partial_weights));
    CHECK_CUDA(cudaFree(attention->arrived));
    free(attention);
    device->attention = NULL;
}

/* ---- the plan ---------------------------------------------------------------------------------
 */

static int narrow_columns(const struct device *device) {
    return attend_narrow_columns(device->limits.head_dim, device->attention->group);
}

static enum attend_kind kind_of(const struct device *device, int n_rows) {
    return n_rows * device->attention->group <= narrow_columns(device) ? ATTEND_NARROW
                                                                       : ATTEND_WIDE;
}

/* Tiles' worth of time that it takes to end a unit and begin the next: to meet, join, write and
 * load queries. The narrow kernel hides most of it behind tiles that are on their way. */
static int ending_of(const struct device *device, enum attend_kind kind) {
    return (kind == ATTEND_WIDE ? 4 : 1) * (device->limits.head_dim == 64 ? 2 : 1);
}

/* Units of a chunk that have tiles in this part, at `unit`; adds their items to *n_items. */
static int cut_chunk(const struct device *device, const struct cuda_chunk *chunk, int part,
                     enum attend_kind kind, struct attend_unit *unit, int *n_items) {
    int columns_at_once = kind == ATTEND_NARROW ? narrow_columns(device) : WIDE_COLUMNS;
    int group = device->attention->group, n_columns = chunk->n_rows * group, n = 0;
    int first_new = chunk->first_position / TILE;
    for (int first = 0; first < n_columns; first += columns_at_once) {
        int columns = n_columns - first < columns_at_once ? n_columns - first : columns_at_once;
        int last_position = chunk->first_position + (first + columns - 1) / group;
        struct attend_unit u = {
            chunk->first_row + first / group,
            chunk->first_position + first / group,
            first % group,
            columns,
            part == ATTEND_REST ? first_new : 0,
            part == ATTEND_CACHED ? first_new : last_position / TILE + 1,
            chunk->first_page,
            *n_items,
        };
        if (u.tile_begin == u.tile_end) continue;
        *n_items += u.tile_end - u.tile_begin + ending_of(device, kind);
        unit[n++] = u;
    }
    return n;
}

/* A place in the list of units. */
struct place_in_plan {
    int unit, kv_head, tile;
};

/* The place of an item, from `unit` on; an ending counts as the next unit's first tile. */
static struct place_in_plan find_item(const struct attend_unit *unit, int at, int end, int item,
                                      int n_kv_heads, int ending) {
    for (;; at++) {
        if (at == end) return (struct place_in_plan){end, 0, 0};
        int n_tiles = unit[at].tile_end - unit[at].tile_begin;
        int inside = item - unit[at].first_item * n_kv_heads, kv_head = 0;
        if (inside > 0) kv_head = inside / (n_tiles + ending);
        int tile = inside > 0 ? inside % (n_tiles + ending) : 0;
        if (tile >= n_tiles) kv_head++, tile = 0;
        if (kv_head < n_kv_heads)
            return (struct place_in_plan){at, kv_head, unit[at].tile_begin + tile};
    }
}

/* Tiles between two places. */
static int count_tiles(const struct attend_unit *unit, struct place_in_plan from,
                       struct place_in_plan to, int n_kv_heads) {
    int n = 0;
    for (int at = from.unit; at <= to.unit; at++) {
        int n_tiles = unit[at].tile_end - unit[at].tile_begin;
        int begin = at == from.unit ? from.kv_head * n_tiles + from.tile - unit[at].tile_begin : 0;
        int end = at == to.unit ? to.kv_head * n_tiles + to.tile - unit[at].tile_begin
                                : n_kv_heads * n_tiles;
        n += end - begin;
    }
    return n;
}

/* Equal shares of the items of units [first_unit, end_unit) of the list. */
static void cut_shares(const struct device *device, enum attend_kind kind, struct attend_unit *unit,
                       int first_unit, int end_unit, struct attend_cut *cut,
                       struct attend_share *share) {
    int n_kv_heads = device->limits.n_kv_heads, ending = ending_of(device, kind);
    int n_blocks = device->attention->n_blocks[kind];
    memset(share, 0, (size_t)n_blocks * sizeof *share);
    *cut = (struct attend_cut){};
    if (first_unit == end_unit) return;
    const struct attend_unit *last = &unit[end_unit - 1];
    int n_items = (last->first_item + last->tile_end - last->tile_begin + ending) * n_kv_heads;
    int n_shares = n_items / SHORTEST_SHARE;
    n_shares = n_shares < 1 ? 1 : n_shares < n_blocks ? n_shares : n_blocks;
    REQUIRE((long long)n_items * n_shares < 1ll << 31, "%d tiles in a step are too many", n_items);
    *cut = (struct attend_cut){n_items, n_shares, ending};
    unit[end_unit] = (struct attend_unit){};
    struct place_in_plan from = {first_unit, 0, unit[first_unit].tile_begin};
    for (int s = 0; s < n_shares; s++) {
        int end = (int)((long long)n_items * (s + 1) / n_shares);
        struct place_in_plan to = find_item(unit, from.unit, end_unit, end, n_kv_heads, ending);
        share[s] = (struct attend_share){from.unit, from.kv_head, from.tile,
                                         count_tiles(unit, from, to, n_kv_heads)};
        from = to;
    }
}

void attend_begin(struct device *device, const struct rows *rows) {
    struct attention *attention = device->attention;
    struct cuda_rows *on_device = &device->rows[rows->slot];
    struct attend_plan *plan = on_device->plan;
    int at = plan->next++ % PLAN_RING;
    wait_for_event(device, plan->copied[at]);
    unsigned char *pinned = plan->pinned[at];
    struct attend_unit *unit = (struct attend_unit *)(pinned + unit_offset(attention));
    int n_units = 0;
    for (int k = 0; k < ATTEND_KINDS; k++) {
        enum attend_kind kind = (enum attend_kind)k;
        for (int part = 0; part < ATTEND_PARTS; part++) {
            int first_unit = n_units, n_items = 0;
            for (int c = 0; c < rows->n_chunks; c++) {
                const struct cuda_chunk *chunk = &on_device->host_chunk[c];
                if (kind_of(device, chunk->n_rows) == kind)
                    n_units += cut_chunk(device, chunk, part, kind, unit + n_units, &n_items);
            }
            struct attend_cut *cut = (struct attend_cut *)(pinned + cut_offset(kind, part));
            cut_shares(device, kind, unit, first_unit, n_units, cut,
                       (struct attend_share *)(pinned + share_offset(attention, kind, part)));
            plan->n_items[kind][part] = cut->n_items;
        }
    }
    CHECK_CUDA(cudaMemcpyAsync(plan->device, pinned,
                               unit_offset(attention) + (size_t)n_units * sizeof *unit,
                               cudaMemcpyHostToDevice, device->stream));
    CHECK_CUDA(cudaEventRecord(plan->copied[at], device->stream));
}

/* ---- appending --------------------------------------------------------------------------------
 */

/* kv (rows, kv heads, 2, head_dim) into the pages of its rows, in words of W: a row is 2 *
 * n_kv_heads runs of `run` words. */
template <class W>
__global__ void append_kernel(unsigned char *layer, const unsigned char *kv, size_t row_bytes,
                              int n_kv_heads, int run, const struct cuda_chunk *chunk,
                              const int32_t *row_chunk, const int32_t *page,
                              const int32_t *n_live) {
    follow_on();
    int row = (int)blockIdx.x;
    if (row >= *n_live) return;
    struct cuda_chunk c = chunk[row_chunk[row]];
    int position = c.first_position + row - c.first_row;
    size_t runs = (size_t)page[c.first_page + position / TILE] * (size_t)(2 * n_kv_heads);
    const W *from = (const W *)(kv + (size_t)row * row_bytes);
    for (int at = (int)threadIdx.x; at < 2 * n_kv_heads * run; at += (int)blockDim.x) {
        size_t to = ((runs + (size_t)(at / run)) * TILE + (size_t)(position % TILE)) * (size_t)run;
        ((W *)layer)[to + (size_t)(at % run)] = from[at];
    }
}

static size_t layer_bytes(const struct kv_cache *cache) {
    return (size_t)cache->n_pages * (size_t)cache->n_kv_heads * 2 * TILE * (size_t)cache->head_dim *
           element_bytes(cache->element);
}

unsigned char *cache_layer(const struct kv_cache *cache, int layer) {
    return cache->buffer->data + (size_t)layer * layer_bytes(cache);
}

template <class W>
static void append_words(struct device *device, const struct rows *rows,
                         const struct kv_cache *cache, int layer, const struct value &kv) {
    const struct cuda_rows *r = &device->rows[rows->slot];
    size_t element = element_bytes(cache->element);
    int run = (int)((size_t)cache->head_dim * element / sizeof(W));
    int words = 2 * cache->n_kv_heads * run, threads = words < 256 ? (words + 31) / 32 * 32 : 256;
    int n_rows = launch_rows(device, rows->n_rows);
    launch_following(device, append_kernel<W>, (unsigned)n_rows, (unsigned)threads, 0,
                     cache_layer(cache, layer), (const unsigned char *)value_data(&kv),
                     (size_t)kv.stride * element, cache->n_kv_heads, run, r->chunk, r->row_chunk,
                     r->page, r->n_live);
}

void cuda_append_kv(struct device *device, const struct rows *rows, const struct kv_cache *cache,
                    int layer, struct value kv) {
    REQUIRE(kv.element == cache->element, "rows are appended as the cache stores them");
    if (rows->n_rows == 0) return;
    size_t head_bytes = (size_t)cache->head_dim * element_bytes(cache->element);
    if (head_bytes % 16 == 0 && is_multiple(&kv, 16)) {
        append_words<uint4>(device, rows, cache, layer, kv);
    } else {
        append_words<uint16_t>(device, rows, cache, layer, kv);
    }
}

/* ---- attention --------------------------------------------------------------------------------
 */

static struct attend_call call_of(const struct device *device, const struct rows *rows,
                                  const struct kv_cache *cache, struct attend_shape shape,
                                  enum attend_part part, const struct value *q,
                                  const struct value *out) {
    const struct attention *attention = device->attention;
    const struct cuda_rows *r = &device->rows[rows->slot];
    struct attend_call call = {};
    call.kv = cache_layer(cache, shape.layer);
    call.q = value_data(q);
    call.out = value_data(out);
    call.q_stride = q->stride;
    call.out_stride = out->stride;
    call.q_element = q->element;
    call.out_element = out->element;
    call.kv_element = cache->element;
    call.q_aligned = is_multiple(q, 16) && shape.head_dim % 8 == 0;
    call.out_aligned = is_multiple(out, 8) && shape.head_dim % 4 == 0;
    call.n_kv_heads = shape.n_kv_heads;
    call.group = attention->group;
    call.head_dim = shape.head_dim;
    call.scale = shape.scale * 1.44269504088896341f;
    call.part = part;
    call.page = r->page;
    call.unit = (const struct attend_unit *)(r->plan->device + unit_offset(attention));
    call.partial = attention->partial;
    call.partial_weights = attention->partial_weights;
    call.arrived = attention->arrived;
    call.state = r->plan->state;
    call.state_weights = r->plan->state_weights;
    return call;
}

void cuda_attend(struct device *device, const struct rows *rows, const struct kv_cache *cache,
                 struct attend_shape shape, enum attend_part part, struct value q,
                 struct value out) {
    const struct attention *attention = device->attention;
    const struct cuda_rows *r = &device->rows[rows->slot];
    REQUIRE(shape.head_dim == device->limits.head_dim &&
                shape.n_kv_heads == device->limits.n_kv_heads &&
                shape.n_heads == device->limits.n_heads,
            "attention of the shape that prepare was told");
    struct attend_call call = call_of(device, rows, cache, shape, part, &q, &out);
    if (!attention->tensor || cache->element != ELEMENT_BF16) {
        attend_plain(device, &call, r);
        return;
    }
    for (int kind = 0; kind < ATTEND_KINDS; kind++) {
        /* all rows of a recorded run are decode rows, which one kind takes */
        if (!device->padded && r->plan->n_items[kind][part] == 0) continue;
        if (device->padded && kind != kind_of(device, 1)) continue;
        call.cut = (const struct attend_cut *)(r->plan->device + cut_offset(kind, part));
        call.share =
            (const struct attend_share *)(r->plan->device + share_offset(attention, kind, part));
        if (kind == ATTEND_NARROW) attend_narrow(device, &call, attention->n_blocks[kind]);
        if (kind == ATTEND_WIDE) attend_wide(device, &call, attention->n_blocks[kind]);
    }
}
