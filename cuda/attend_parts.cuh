/* attend_parts.cuh - what the attention kernels share: the tables of a plan, and what becomes of a
 * fold.
 *
 * A *unit* is a range of columns of one chunk, a column being one (row, query head) pair of one kv
 * head in the order row * group + head of the group; it exists once for every kv head. An *item* is
 * one tile of 64 positions of one unit and kv head; items are ordered (unit, kv head, tile) and cut
 * into equal shares, one a block (stream-K: nobody waits for the longest sequence). A fold that
 * lies in one share is finished by its block. One that lies in several is left by each of them as a
 * partial, and the block that arrives last joins these in rising order: the cut depends on the plan
 * alone and so does every bit of the result.
 *
 * A fold here is (maximum, sum, accumulators) of weights 2^(score * log2 e): unlike the CPU's it is
 * taken tile by tile in the order of the cut, so its bits depend on what else is in the step.
 */
#ifndef LAMINA_ATTEND_PARTS_CUH
#define LAMINA_ATTEND_PARTS_CUH

#include "cuda_device.h"

/* Narrow: few columns, bound by reading K and V. Wide: many columns, bound by the tensor cores. */
enum attend_kind { ATTEND_NARROW, ATTEND_WIDE, ATTEND_KINDS };
enum { ATTEND_PARTS = 3, TILE = PAGE_TOKENS, WIDE_COLUMNS = 64, FOLDING_THREADS = 128 };

struct __align__(16) attend_unit {
    int32_t first_row, first_position; /* of its first column */
    int32_t first_head, n_columns;     /* head of the group of its first column */
    int32_t tile_begin, tile_end;
    int32_t first_page; /* of the chunk's list */
    int32_t first_item; /* items of one kv head in the units before */
};

/* Where a block begins, and how many items it takes. */
struct __align__(16) attend_share {
    int32_t unit, kv_head, tile, n_items;
};

/* Share s is the items [n_items * s / n_shares, n_items * (s + 1) / n_shares). To end a unit costs
 * about as much as some tiles, so `ending` items that are no tiles follow those of each. */
struct attend_cut {
    int32_t n_items, n_shares, ending;
};

/* One launch. The pointers are the same for every step, so that a graph can keep them. */
struct attend_call {
    const unsigned char *kv; /* the layer's (pages, kv heads, K|V, 64 tokens, head_dim) */
    const void *q;           /* (rows, n_heads * head_dim) */
    void *out;               /* the same shape */
    int q_stride, out_stride;
    enum element q_element, out_element, kv_element;
    bool q_aligned, out_aligned; /* 8 elements, 4 elements can be moved at once */
    int n_kv_heads, group, head_dim;
    float scale; /* of scores in units of log 2 */
    enum attend_part part;

    const struct attend_cut *cut;
    const struct attend_share *share; /* (blocks) */
    const struct attend_unit *unit;
    const int32_t *page;
    float *partial;          /* (blocks, 2, columns, head_dim): of a block's first unit, its last */
    float2 *partial_weights; /* (blocks, 2, columns): maximum, sum */
    unsigned *arrived;       /* (blocks) zero between launches; of the unit that begins there */
    float *state;            /* (rows, heads, head_dim) what ATTEND_CACHED leaves */
    float2 *state_weights;   /* (rows, heads) */
};

/* Columns that a unit of the narrow kernel may have, and blocks of each kind that a processor
 * holds.
 */
int attend_narrow_columns(int head_dim, int group);
int attend_narrow_prepare(int head_dim, int group);
int attend_wide_prepare(int head_dim);
/* Launch one kind over `n_blocks` blocks. */
void attend_narrow(struct device *device, const struct attend_call *call, int n_blocks);
void attend_wide(struct device *device, const struct attend_call *call, int n_blocks);
/* Every shape and element, one warp a column; for what the others do not know. */
void attend_plain(struct device *device, const struct attend_call *call,
                  const struct cuda_rows *rows);

/* ---- device side ------------------------------------------------------------------------------
 */

__device__ __forceinline__ uint32_t shared_address(const void *p) {
    return (uint32_t)__cvta_generic_to_shared(p);
}

__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<uint32_t *>(&pair);
}

/* What rounding to bf16 lost, rounded: two bf16 hold an f32 to 2^-17. */
__device__ __forceinline__ uint32_t pack_bf16_rest(float low, float high) {
    return pack_bf16(low - __bfloat162float(__float2bfloat16_rn(low)),
                     high - __bfloat162float(__float2bfloat16_rn(high)));
}

/* d (16, 8) += a (16, 16) * b (16, 8), bf16 in f32. */
__device__ __forceinline__ void mma(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                    uint32_t a3, uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* Sources of queries: how many bf16 parts one is held in. */
template <typename Query> struct query;
template <> struct query<__nv_bfloat16> { static constexpr int PARTS = 1; };
template <> struct query<float> { static constexpr int PARTS = 2; };

/* 8 elements of a query as PARTS x 4 pairs. */
template <typename Query>
__device__ __forceinline__ void load_query(const Query *from, bool aligned, uint32_t (*pairs)[4]) {
    float x[8];
    if constexpr (query<Query>::PARTS == 1) {
        if (aligned) {
            *reinterpret_cast<uint4 *>(pairs[0]) = *reinterpret_cast<const uint4 *>(from);
            return;
        }
    }
    for (int k = 0; k < 8; k++)
        x[k] = (float)from[k];
    for (int pair = 0; pair < 4; pair++) {
        pairs[0][pair] = pack_bf16(x[2 * pair], x[2 * pair + 1]);
        if constexpr (query<Query>::PARTS == 2)
            pairs[1][pair] = pack_bf16_rest(x[2 * pair], x[2 * pair + 1]);
    }
}

__device__ __forceinline__ int column_row(const attend_call &call, const attend_unit &unit,
                                          int column) {
    return unit.first_row + (unit.first_head + column) / call.group;
}

__device__ __forceinline__ int column_head(const attend_call &call, const attend_unit &unit,
                                           int kv_head, int column) {
    return kv_head * call.group + (unit.first_head + column) % call.group;
}

/* The last position that a column sees. */
__device__ __forceinline__ int column_limit(const attend_call &call, const attend_unit &unit,
                                            int column) {
    return unit.first_position + (unit.first_head + column) / call.group;
}

template <typename Query>
__device__ __forceinline__ const Query *
column_query(const attend_call &call, const attend_unit &unit, int kv_head, int column) {
    return (const Query *)call.q + (size_t)column_row(call, unit, column) * (size_t)call.q_stride +
           (size_t)column_head(call, unit, kv_head, column) * (size_t)call.head_dim;
}

/* Positions of a tile that exist for a unit. */
__device__ __forceinline__ int tile_tokens(const attend_call &call, const attend_unit &unit,
                                           int tile) {
    int n = column_limit(call, unit, unit.n_columns - 1) + 1 - tile * TILE;
    return n < TILE ? n : TILE;
}

__device__ __forceinline__ bool tile_is_masked(const attend_unit &unit, int tile) {
    return (tile + 1) * TILE > unit.first_position + 1;
}

/* W neighbouring accumulators of a fold, W 2 or 4. */
template <int W> struct piece {
    float maximum, sum;
    float acc[W];
};

template <int W> __device__ __forceinline__ void join(piece<W> &into, const piece<W> &other) {
    float maximum = fmaxf(into.maximum, other.maximum);
    float c1 = into.maximum == maximum ? 1.0f : exp2_fast(into.maximum - maximum);
    float c2 = other.maximum == maximum ? 1.0f : exp2_fast(other.maximum - maximum);
    into.maximum = maximum;
    into.sum = into.sum * c1 + other.sum * c2;
    for (int w = 0; w < W; w++)
        into.acc[w] = into.acc[w] * c1 + other.acc[w] * c2;
}

template <int W>
__device__ __forceinline__ piece<W> load_piece(const float *acc, const float2 *weights, size_t fold,
                                               int head_dim, int dim) {
    piece<W> p;
    float2 weight = __ldcg(weights + fold);
    p.maximum = weight.x;
    p.sum = weight.y;
    const float *from = acc + fold * (size_t)head_dim + (size_t)dim;
    if constexpr (W == 4) {
        float4 x = __ldcg((const float4 *)from);
        p.acc[0] = x.x, p.acc[1] = x.y, p.acc[2] = x.z, p.acc[3] = x.w;
    } else {
        float2 x = __ldcg((const float2 *)from);
        p.acc[0] = x.x, p.acc[1] = x.y;
    }
    return p;
}

template <int W>
__device__ __forceinline__ void store_piece(float *acc, float2 *weights, size_t fold, int head_dim,
                                            int dim, const piece<W> &p) {
    if (dim == 0) __stcg(weights + fold, make_float2(p.maximum, p.sum));
    float *to = acc + fold * (size_t)head_dim + (size_t)dim;
    if constexpr (W == 4) {
        __stcg((float4 *)to, make_float4(p.acc[0], p.acc[1], p.acc[2], p.acc[3]));
    } else {
        __stcg((float2 *)to, make_float2(p.acc[0], p.acc[1]));
    }
}

/* Where a column's fold goes. */
struct place {
    size_t fold; /* among the states */
    size_t out;  /* element of the output */
};

__device__ __forceinline__ place column_place(const attend_call &call, const attend_unit &unit,
                                              int kv_head, int column) {
    size_t row = (size_t)column_row(call, unit, column);
    size_t head = (size_t)column_head(call, unit, kv_head, column);
    return {row * (size_t)(call.n_kv_heads * call.group) + head,
            row * (size_t)call.out_stride + head * (size_t)call.head_dim};
}

/* A column's fold over all tiles of this part: keep it as the open state, or write the output. */
template <int W>
__device__ __forceinline__ void end_fold(const attend_call &call, const attend_unit &unit,
                                         const place &to, int dim, piece<W> p) {
    if (call.part == ATTEND_CACHED) {
        store_piece(call.state, call.state_weights, to.fold, call.head_dim, dim, p);
        return;
    }
    if (call.part == ATTEND_REST && unit.tile_begin > 0) {
        piece<W> cached =
            load_piece<W>(call.state, call.state_weights, to.fold, call.head_dim, dim);
        join(cached, p);
        p = cached;
    }
    float inverse = __fdividef(1.0f, p.sum);
    size_t at = to.out + (size_t)dim;
    if (call.out_element == ELEMENT_F32) {
#pragma unroll
        for (int w = 0; w < W; w++)
            ((float *)call.out)[at + (size_t)w] = p.acc[w] * inverse;
    } else if (call.out_aligned) {
        uint32_t low = pack_bf16(p.acc[0] * inverse, p.acc[1] * inverse);
        __nv_bfloat16 *first = (__nv_bfloat16 *)call.out + at;
        if constexpr (W == 4) {
            *(uint2 *)first = make_uint2(low, pack_bf16(p.acc[2] * inverse, p.acc[3] * inverse));
        } else {
            *(uint32_t *)first = low;
        }
    } else {
#pragma unroll
        for (int w = 0; w < W; w++)
            ((__nv_bfloat16 *)call.out)[at + (size_t)w] = __float2bfloat16_rn(p.acc[w] * inverse);
    }
}

/* Barrier of the threads that fold. */
__device__ __forceinline__ void folding_barrier() {
    asm volatile("bar.sync 1, %0;" ::"n"((int)FOLDING_THREADS) : "memory");
}

/* The shares that a fold lies in. */
struct spread {
    int first, last;
    bool starts_inside; /* the fold is not the first of share `first` */
};

__device__ __forceinline__ spread find_spread(const attend_call &call, const attend_unit &unit,
                                              int kv_head) {
    unsigned n_items = (unsigned)call.cut->n_items, n_shares = (unsigned)call.cut->n_shares;
    int ending = call.cut->ending, n_tiles = unit.tile_end - unit.tile_begin;
    int begin = unit.first_item * call.n_kv_heads + kv_head * (n_tiles + ending);
    spread s; /* the host saw to it that n_items * n_shares fits */
    s.first = (int)((((unsigned)begin + 1) * n_shares - 1) / n_items);
    s.last = (int)((((unsigned)begin + (unsigned)n_tiles) * n_shares - 1) / n_items);
    s.starts_inside = (int)(n_items * (unsigned)s.first / n_shares) < begin - ending;
    return s;
}

/* A column's place among the partials: a block has two units that others share at most. */
__device__ __forceinline__ size_t partial_of(int share, bool is_last, int n_columns, int column) {
    return (size_t)(2 * share + is_last) * (size_t)n_columns + (size_t)column;
}

/* Bring the partials of shares [first, last], AT_ONCE of them at most, into `whole`. */
template <int COLUMNS, int AT_ONCE>
__device__ __forceinline__ void join_some(const attend_call &call, int first, int last, int column,
                                          int head_dim, int dim, piece<4> &whole) {
    size_t from = partial_of(first, false, COLUMNS, column);
    piece<4> part[AT_ONCE];
    float maximum = whole.maximum;
#pragma unroll
    for (int k = 0; k < AT_ONCE; k++) {
        part[k] = {-INFINITY, 0, {0, 0, 0, 0}};
        if (first + k <= last)
            part[k] = load_piece<4>(call.partial, call.partial_weights,
                                    from + (size_t)(2 * COLUMNS * k), head_dim, dim);
    }
#pragma unroll
    for (int k = 0; k < AT_ONCE; k++)
        maximum = fmaxf(maximum, part[k].maximum);
    float base = maximum == -INFINITY ? 0.0f : maximum, c = exp2_fast(whole.maximum - base);
    whole.maximum = maximum;
    whole.sum *= c;
#pragma unroll
    for (int w = 0; w < 4; w++)
        whole.acc[w] *= c;
#pragma unroll
    for (int k = 0; k < AT_ONCE; k++) {
        float c = exp2_fast(part[k].maximum - base);
        whole.sum = fmaf(part[k].sum, c, whole.sum);
#pragma unroll
        for (int w = 0; w < 4; w++)
            whole.acc[w] = fmaf(part[k].acc[w], c, whole.acc[w]);
    }
}

/* Called by all threads that fold when this block's partial of the unit is written: the last block
 * to come joins the partials of all in rising order. COLUMNS is the most a unit may have. This is
 * latency and nothing else, so a thread has AT_ONCE partials of ITEMS places on their way. */
template <int D, int COLUMNS, int AT_ONCE, int ITEMS>
__device__ __forceinline__ void join_partials(const attend_call &call, const attend_unit &unit,
                                              int kv_head, int thread, int *flag) {
    spread s = find_spread(call, unit, kv_head);
    __threadfence();
    folding_barrier();
    if (thread == 0) *flag = atomicAdd(call.arrived + s.first, 1u) == (unsigned)(s.last - s.first);
    folding_barrier();
    if (!*flag) return;
    __threadfence();
    if (thread == 0) call.arrived[s.first] = 0;
    int end = unit.n_columns * (D / 4);
    for (int begin = thread; begin < end; begin += FOLDING_THREADS * ITEMS) {
        piece<4> whole[ITEMS];
        int column[ITEMS], dim[ITEMS];
#pragma unroll
        for (int k = 0; k < ITEMS; k++) {
            int at = begin + FOLDING_THREADS * k < end ? begin + FOLDING_THREADS * k : begin;
            column[k] = at / (D / 4), dim[k] = at % (D / 4) * 4;
            whole[k] =
                load_piece<4>(call.partial, call.partial_weights,
                              partial_of(s.first, s.starts_inside, COLUMNS, column[k]), D, dim[k]);
        }
        for (int share = s.first + 1; share <= s.last; share += AT_ONCE)
#pragma unroll
            for (int k = 0; k < ITEMS; k++)
                join_some<COLUMNS, AT_ONCE>(call, share, s.last, column[k], D, dim[k], whole[k]);
#pragma unroll
        for (int k = 0; k < ITEMS; k++)
            if (begin + FOLDING_THREADS * k < end)
                end_fold(call, unit, column_place(call, unit, kv_head, column[k]), dim[k],
                         whole[k]);
    }
}

#endif
