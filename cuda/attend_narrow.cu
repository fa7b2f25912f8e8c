/* attend_narrow.cu - attention for few columns: decode rows. It should take as long as reading K
 * and V.
 *
 * Four warps fold and one reads. The reader keeps a ring of tiles full with bulk copies: K and V of
 * one page and head stand together, so a tile is one copy that needs no tensor map, and 96 KiB a
 * block, two blocks a processor, are always on their way. Of every tile a folding warp takes 16
 * positions for all columns, with a maximum, sum and accumulators of its own: the warps meet when a
 * unit ends and never before.
 *
 * K and V are the big operand, so they take the 16 rows of the tensor cores' A and the columns take
 * the 8 of B: scores^T (16 positions, 8 columns) = K (16, D) q^T (D, 8), then
 * out^T (D, 8) += V^T (D, 16) weights^T (16, 8). Queries as A would waste 12 of 16 rows at a group
 * of 4.
 *
 * A bulk copy leaves rows D elements apart, where ldmatrix would meet eight rows in one bank.
 * Instead a thread takes 16 bytes of a row and *decides* which dimensions they stand for: the sum
 * over dimensions (or positions) may run in any order if A and B agree on it. Of K, thread t of a
 * quad holds dims 8 (4 j + t) ... + 7, odd rows in the other order of each pair j. Of V, row group
 * g holds dims g D/8 ... of four positions, and byte permutes pair positions.
 */
#include "attend_parts.cuh"
#include "attend_ring.cuh"

enum { READING_WARP = FOLDING_THREADS / 32, NARROW_THREADS = FOLDING_THREADS + 32 };

/* NT: eights of columns. */
template <int D, int NT> struct narrow {
    static constexpr int BLOCKS = D == 256 || NT == 2 ? 1 : 2; /* a processor, for registers */
    static constexpr int TILE_BYTES = 2 * TILE * D * 2;
    static constexpr int STAGES = (192 << 10) / BLOCKS / TILE_BYTES;
    static constexpr int DIM_BLOCK = D < 128 ? 64 : 128; /* dims of V that are loaded at once */
    static constexpr int DIMS = DIM_BLOCK / 8;           /* of these, a row group's */
    static constexpr int PAD = 4;
};

/* Shared memory of a block. */
template <int D, int NT> struct __align__(128) narrow_shared {
    unsigned char tile[narrow<D, NT>::STAGES][narrow<D, NT>::TILE_BYTES];
    float acc[4][8][D + narrow<D, NT>::PAD]; /* (warps, columns, dims permuted): a unit ends */
    float maximum[4][8], sum[4][8];
    uint64_t full[narrow<D, NT>::STAGES], empty[narrow<D, NT>::STAGES];
    int flag;
};

__device__ __forceinline__ uint4 load_shared(const unsigned char *at) {
    return *reinterpret_cast<const uint4 *>(at);
}

/* An 8 x 8 matrix of pairs, transposed over the warp. */
__device__ __forceinline__ uint32_t transpose(uint32_t x) {
    uint32_t y;
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
    return y;
}

/* The reading warp: tiles of the block's items, in order, into the ring. */
template <int D, int NT>
__device__ void read_tiles(const attend_call &call, narrow_shared<D, NT> &shared,
                           attend_share share) {
    constexpr int STAGES = narrow<D, NT>::STAGES, HALF = narrow<D, NT>::TILE_BYTES / 2;
    int lane = (int)threadIdx.x % 32;
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    attend_unit unit = call.unit[share.unit];
    int pages_from = -1, page = 0; /* a lane's page of 32 tiles */
    bool waited = false;
    int stage = 0;
    unsigned parity = 1;
    for (int n = share.n_items; n > 0; n--) {
        if (pages_from < 0 || share.tile < pages_from || share.tile >= pages_from + 32) {
            pages_from = share.tile;
            int tile = pages_from + lane < unit.tile_end ? pages_from + lane : unit.tile_end - 1;
            page = __ldg(call.page + unit.first_page + tile);
        }
        size_t at = (size_t)__shfl_sync(~0u, page, share.tile - pages_from);
        if (lane == 0) {
            const unsigned char *from =
                call.kv + (at * (size_t)call.n_kv_heads + (size_t)share.kv_head) * (2 * HALF);
            barrier_wait(&shared.empty[stage], parity);
            if (!waited && share.tile >= unit.first_position / TILE) {
                wait_for_inputs(); /* rows that were appended just now */
                waited = true;
            }
            if (tile_is_masked(unit, share.tile)) {
                int n_bytes = tile_tokens(call, unit, share.tile) * D * 2;
                barrier_expect(&shared.full[stage], 2 * n_bytes);
                bulk_copy(shared.tile[stage], from, n_bytes, &shared.full[stage], policy);
                bulk_copy(shared.tile[stage] + HALF, from + HALF, n_bytes, &shared.full[stage],
                          policy);
            } else {
                barrier_expect(&shared.full[stage], 2 * HALF);
                bulk_copy(shared.tile[stage], from, 2 * HALF, &shared.full[stage], policy);
            }
        }
        __syncwarp();
        if (++stage == STAGES) stage = 0, parity ^= 1;
        if (++share.tile < unit.tile_end || n == 1) continue;
        if (++share.kv_head == call.n_kv_heads) {
            share.kv_head = 0;
            unit = call.unit[++share.unit];
            pages_from = -1;
        }
        share.tile = unit.tile_begin;
    }
}

/* A warp's fold: its 16 positions of every tile, all columns. */
template <int D, int NT, int PARTS> struct warp_fold {
    uint32_t q[NT][D / 32][PARTS][4]; /* column g of each eight; dims 8 (4 j + t) ... + 7 */
    float acc[NT][D / 16][4];         /* dims 2 k, 2 k + 1 of row group g; columns 2 t, 2 t + 1 */
    float maximum[NT][2], sum[NT][2]; /* of columns 2 t, 2 t + 1 */
};

template <int D, int NT, typename Query>
__device__ __forceinline__ void load_queries(const attend_call &call, const attend_unit &unit,
                                             int kv_head,
                                             uint32_t (&q)[NT][D / 32][query<Query>::PARTS][4]) {
    int g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4;
#pragma unroll
    for (int eight = 0; eight < NT; eight++) {
        int column = 8 * eight + g < unit.n_columns ? 8 * eight + g : unit.n_columns - 1;
        const Query *from = column_query<Query>(call, unit, kv_head, column);
#pragma unroll
        for (int j = 0; j < D / 32; j++)
            load_query(from + 8 * (4 * j + t), call.q_aligned, q[eight][j]);
    }
}

/* scores (16 positions, 8 columns): positions g, g + 8; columns 2 t, 2 t + 1 */
template <int D, int NT, int PARTS>
__device__ __forceinline__ void score_tile(const warp_fold<D, NT, PARTS> &fold,
                                           const unsigned char *k, int g, int t,
                                           float (&score)[NT][4]) {
    float half[NT][2][4] = {};
    bool odd = g & 1;
#pragma unroll
    for (int j = 0; j < D / 64; j++) {
        uint4 a[2][2]; /* (rows g and g + 8, pair) */
#pragma unroll
        for (int row = 0; row < 2; row++) {
            const unsigned char *at = k + (g + 8 * row) * D * 2 + 128 * j;
            uint4 first = load_shared(at + (4 * odd + t) * 16);
            uint4 second = load_shared(at + (4 * !odd + t) * 16);
            a[row][0] = odd ? second : first;
            a[row][1] = odd ? first : second;
        }
#pragma unroll
        for (int eight = 0; eight < NT; eight++) {
#pragma unroll
            for (int part = 0; part < PARTS; part++) {
#pragma unroll
                for (int pair = 0; pair < 2; pair++) {
                    const uint32_t(&b)[4] = fold.q[eight][2 * j + pair][part];
                    const uint4 &low = a[0][pair], &high = a[1][pair];
                    mma(half[eight][pair], low.x, high.x, low.y, high.y, b[0], b[1]);
                    mma(half[eight][pair], low.z, high.z, low.w, high.w, b[2], b[3]);
                }
            }
        }
    }
#pragma unroll
    for (int eight = 0; eight < NT; eight++)
#pragma unroll
        for (int k4 = 0; k4 < 4; k4++)
            score[eight][k4] = half[eight][0][k4] + half[eight][1][k4];
}

/* Scores become weights; what was folded before is brought to the new maximum. */
template <int D, int NT, int PARTS>
__device__ __forceinline__ void weigh(warp_fold<D, NT, PARTS> &fold, float (&score)[NT][4]) {
#pragma unroll
    for (int eight = 0; eight < NT; eight++) {
        float factor[2];
        bool grew = false;
#pragma unroll
        for (int side = 0; side < 2; side++) {
            float maximum = fmaxf(score[eight][side], score[eight][2 + side]);
            maximum = fmaxf(maximum, __shfl_xor_sync(~0u, maximum, 4));
            maximum = fmaxf(maximum, __shfl_xor_sync(~0u, maximum, 8));
            maximum = fmaxf(maximum, __shfl_xor_sync(~0u, maximum, 16));
            float before = fold.maximum[eight][side];
            maximum = fmaxf(maximum, before);
            float base = maximum == -INFINITY ? 0.0f : maximum; /* nothing seen yet */
            factor[side] = exp2_fast(before - base);
            grew |= maximum > before;
            fold.maximum[eight][side] = maximum;
            float low = exp2_fast(score[eight][side] - base);
            float high = exp2_fast(score[eight][2 + side] - base);
            score[eight][side] = low;
            score[eight][2 + side] = high;
            fold.sum[eight][side] = fold.sum[eight][side] * factor[side] + (low + high);
        }
        if (__any_sync(~0u, grew)) {
#pragma unroll
            for (int k = 0; k < D / 16; k++) {
                fold.acc[eight][k][0] *= factor[0];
                fold.acc[eight][k][1] *= factor[1];
                fold.acc[eight][k][2] *= factor[0];
                fold.acc[eight][k][3] *= factor[1];
            }
        }
    }
}

/* acc += V^T weights^T; a thread's positions are 2 t, 2 t + 1, 2 t + 8, 2 t + 9 of the warp's 16,
 * those from n_tokens on count as zero whatever stands there. */
template <int D, int NT, int PARTS, bool MASKED>
__device__ __forceinline__ void add_values(warp_fold<D, NT, PARTS> &fold, const unsigned char *v,
                                           int g, int t, int n_tokens,
                                           const uint32_t (&weight)[NT][PARTS][2]) {
    constexpr int DIM_BLOCK = narrow<D, NT>::DIM_BLOCK, DIMS = narrow<D, NT>::DIMS;
#pragma unroll
    for (int block = 0; block < D / DIM_BLOCK; block++) {
        uint32_t x[4][DIMS / 2]; /* (positions, pairs of dims) */
#pragma unroll
        for (int k = 0; k < 4; k++) {
            int token = 2 * t + (k & 1) + 8 * (k >> 1);
            const unsigned char *at = v + token * D * 2 + (block * DIM_BLOCK + g * DIMS) * 2;
            uint4 chunk[DIMS / 8];
            if constexpr (DIMS == 8) {
                chunk[0] = load_shared(at);
            } else {
                bool odd = t & 1;
                uint4 first = load_shared(at + 16 * odd), second = load_shared(at + 16 * !odd);
                chunk[0] = odd ? second : first;
                chunk[1] = odd ? first : second;
            }
#pragma unroll
            for (int c = 0; c < DIMS / 8; c++) {
                if (MASKED && token >= n_tokens) chunk[c] = make_uint4(0, 0, 0, 0);
                x[k][4 * c] = chunk[c].x;
                x[k][4 * c + 1] = chunk[c].y;
                x[k][4 * c + 2] = chunk[c].z;
                x[k][4 * c + 3] = chunk[c].w;
            }
        }
#pragma unroll
        for (int pair = 0; pair < DIMS / 2; pair++) {
            uint32_t a0 = __byte_perm(x[0][pair], x[1][pair], 0x5410);
            uint32_t a1 = __byte_perm(x[0][pair], x[1][pair], 0x7632);
            uint32_t a2 = __byte_perm(x[2][pair], x[3][pair], 0x5410);
            uint32_t a3 = __byte_perm(x[2][pair], x[3][pair], 0x7632);
#pragma unroll
            for (int eight = 0; eight < NT; eight++)
#pragma unroll
                for (int part = 0; part < PARTS; part++)
                    mma(fold.acc[eight][block * (DIMS / 2) + pair], a0, a1, a2, a3,
                        weight[eight][part][0], weight[eight][part][1]);
        }
    }
}

template <int D, int NT, int PARTS, bool MASKED>
__device__ __forceinline__ void fold_tile(const attend_call &call, const attend_unit &unit,
                                          int tile, warp_fold<D, NT, PARTS> &fold,
                                          const unsigned char *kv) {
    int warp = (int)threadIdx.x / 32, g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4;
    int n_tokens = 16;
    if constexpr (MASKED) {
        n_tokens = tile_tokens(call, unit, tile) - 16 * warp;
        if (n_tokens <= 0) return;
    }
    const unsigned char *k = kv + 16 * warp * D * 2;
    float score[NT][4];
    score_tile(fold, k, g, t, score);
#pragma unroll
    for (int eight = 0; eight < NT; eight++) {
#pragma unroll
        for (int side = 0; side < 4; side++)
            score[eight][side] *= call.scale;
        if constexpr (MASKED) {
            int first = tile * TILE + 16 * warp + g;
#pragma unroll
            for (int side = 0; side < 2; side++) {
                int column = 8 * eight + 2 * t + side;
                column = column < unit.n_columns ? column : unit.n_columns - 1;
                int limit = column_limit(call, unit, column);
                if (first > limit) score[eight][side] = -INFINITY;
                if (first + 8 > limit) score[eight][2 + side] = -INFINITY;
            }
        }
    }
    weigh(fold, score);
    uint32_t weight[NT][PARTS][2];
#pragma unroll
    for (int eight = 0; eight < NT; eight++) {
        weight[eight][0][0] = transpose(pack_bf16(score[eight][0], score[eight][1]));
        weight[eight][0][1] = transpose(pack_bf16(score[eight][2], score[eight][3]));
        if constexpr (PARTS == 2) {
            weight[eight][1][0] = transpose(pack_bf16_rest(score[eight][0], score[eight][1]));
            weight[eight][1][1] = transpose(pack_bf16_rest(score[eight][2], score[eight][3]));
        }
    }
    add_values<D, NT, PARTS, MASKED>(fold, k + TILE * D * 2, g, t, n_tokens, weight);
}

/* Join the four warps' folds of a unit, and hand the result on. `whole`: the block has all tiles of
 * it; `is_first`: it is the first of the block's share. */
template <int D, int NT, int PARTS>
__device__ __forceinline__ void
end_unit(const attend_call &call, const attend_unit &unit, int kv_head, bool whole, bool is_first,
         warp_fold<D, NT, PARTS> &fold, narrow_shared<D, NT> &shared) {
    constexpr int DIM_BLOCK = narrow<D, NT>::DIM_BLOCK, DIMS = narrow<D, NT>::DIMS,
                  COLUMNS = 8 * NT;
    int thread = (int)threadIdx.x, warp = thread / 32, g = thread % 32 / 4, t = thread % 4;
#pragma unroll
    for (int eight = 0; eight < NT; eight++) {
        if (8 * eight >= unit.n_columns) break;
        folding_barrier();
#pragma unroll
        for (int side = 0; side < 2; side++) {
            float sum = fold.sum[eight][side];
            sum += __shfl_xor_sync(~0u, sum, 4);
            sum += __shfl_xor_sync(~0u, sum, 8);
            sum += __shfl_xor_sync(~0u, sum, 16);
            int column = 2 * t + side;
            if (g == 0) {
                shared.maximum[warp][column] = fold.maximum[eight][side];
                shared.sum[warp][column] = sum;
            }
#pragma unroll
            for (int k = 0; k < D / 16; k++) {
                int block = k / (DIMS / 2), pair = k % (DIMS / 2);
                int at = block * DIM_BLOCK + (pair * 8 + g) * 2;
                *(float2 *)&shared.acc[warp][column][at] =
                    make_float2(fold.acc[eight][k][side], fold.acc[eight][k][2 + side]);
            }
        }
        folding_barrier();
        int n_columns = unit.n_columns - 8 * eight < 8 ? unit.n_columns - 8 * eight : 8;
        for (int at = thread; at < n_columns * (D / 4); at += FOLDING_THREADS) {
            int column = at / (D / 4), dim = at % (D / 4) * 4;
            int block = dim / DIM_BLOCK, group = dim % DIM_BLOCK / DIMS, pair = dim % DIMS / 2;
            int from = block * DIM_BLOCK + (pair * 8 + group) * 2;
            piece<4> p = {-INFINITY, 0, {0, 0, 0, 0}};
#pragma unroll
            for (int w = 0; w < 4; w++) {
                float2 low = *(float2 *)&shared.acc[w][column][from];
                float2 high = *(float2 *)&shared.acc[w][column][from + 16];
                piece<4> other = {shared.maximum[w][column],
                                  shared.sum[w][column],
                                  {low.x, low.y, high.x, high.y}};
                join(p, other);
            }
            if (whole) {
                end_fold(call, unit, column_place(call, unit, kv_head, 8 * eight + column), dim, p);
            } else {
                store_piece(call.partial, call.partial_weights,
                            partial_of((int)blockIdx.x, !is_first, COLUMNS, 8 * eight + column), D,
                            dim, p);
            }
        }
    }
    if (!whole) join_partials<D, COLUMNS, 8, 1>(call, unit, kv_head, thread, &shared.flag);
}

/* The four folding warps. */
template <int D, int NT, typename Query>
__device__ void fold_tiles(const attend_call &call, narrow_shared<D, NT> &shared,
                           attend_share share) {
    constexpr int STAGES = narrow<D, NT>::STAGES, PARTS = query<Query>::PARTS;
    warp_fold<D, NT, PARTS> fold;
    attend_unit unit = call.unit[share.unit], next = unit;
    wait_for_inputs();
    let_next_begin();
    load_queries<D, NT, Query>(call, unit, share.kv_head, fold.q);
    int stage = 0;
    unsigned parity = 0;
    bool is_first = true;
    for (int n = share.n_items; n > 0;) {
        int tile = share.tile, kv_head = share.kv_head;
        int end = n < unit.tile_end - tile ? tile + n : unit.tile_end;
        bool whole = tile == unit.tile_begin && end == unit.tile_end;
        n -= end - tile;
        bool steps = n > 0 && ++share.kv_head == call.n_kv_heads;
        if (steps) {
            share.kv_head = 0;
            next = call.unit[++share.unit]; /* asked for early, needed when this unit ends */
        }
#pragma unroll
        for (int eight = 0; eight < NT; eight++) {
            for (int side = 0; side < 2; side++)
                fold.maximum[eight][side] = -INFINITY, fold.sum[eight][side] = 0;
            for (int k = 0; k < D / 16; k++)
                for (int side = 0; side < 4; side++)
                    fold.acc[eight][k][side] = 0;
        }
        for (; tile < end; tile++) {
            barrier_wait(&shared.full[stage], parity);
            const unsigned char *kv = shared.tile[stage];
            if (tile_is_masked(unit, tile)) {
                fold_tile<D, NT, PARTS, true>(call, unit, tile, fold, kv);
            } else {
                fold_tile<D, NT, PARTS, false>(call, unit, tile, fold, kv);
            }
            __syncwarp();
            if (threadIdx.x % 32 == 0) barrier_arrive(&shared.empty[stage]);
            if (++stage == STAGES) stage = 0, parity ^= 1;
        }
        if (n > 0) load_queries<D, NT, Query>(call, next, share.kv_head, fold.q);
        end_unit<D, NT, PARTS>(call, unit, kv_head, whole, is_first, fold, shared);
        is_first = false;
        unit = next;
        share.tile = unit.tile_begin;
    }
}

template <int D, int NT, typename Query>
__global__ void __launch_bounds__(NARROW_THREADS, narrow<D, NT>::BLOCKS)
    narrow_kernel(const __grid_constant__ attend_call call) {
    extern __shared__ __align__(128) unsigned char bytes[];
    static_assert((sizeof(narrow_shared<D, NT>) + 1024) * narrow<D, NT>::BLOCKS <= 228 << 10,
                  "all blocks of a processor fit its shared memory");
    narrow_shared<D, NT> &shared = *reinterpret_cast<narrow_shared<D, NT> *>(bytes);
    attend_share share = call.share[blockIdx.x];
    if (share.n_items == 0) return wait_for_inputs(); /* as every kernel does before it ends */
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < narrow<D, NT>::STAGES; stage++) {
            barrier_init(&shared.full[stage], 1);
            barrier_init(&shared.empty[stage], FOLDING_THREADS / 32);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    if (threadIdx.x / 32 == READING_WARP) {
        read_tiles<D, NT>(call, shared, share);
    } else {
        fold_tiles<D, NT, Query>(call, shared, share);
    }
}

/* The instances that there are, asked for in one place. */
template <typename Do> static void for_instance(int head_dim, int group, Do act) {
    bool two = attend_narrow_columns(head_dim, group) == 16;
    if (head_dim == 64 && !two) act.template operator()<64, 1>();
    if (head_dim == 64 && two) act.template operator()<64, 2>();
    if (head_dim == 128 && !two) act.template operator()<128, 1>();
    if (head_dim == 128 && two) act.template operator()<128, 2>();
    if (head_dim == 256) act.template operator()<256, 1>();
}

/* 256 dims leave registers for 8 columns only; more go to the wide kernel. */
int attend_narrow_columns(int head_dim, int group) {
    return group > 8 && head_dim < 256 ? 16 : 8;
}

struct allow_shared {
    int *n_blocks;
    template <int D, int NT> void operator()() const {
        *n_blocks = narrow<D, NT>::BLOCKS;
        CHECK_CUDA(cudaFuncSetAttribute(narrow_kernel<D, NT, __nv_bfloat16>,
                                        cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        sizeof(narrow_shared<D, NT>)));
        CHECK_CUDA(cudaFuncSetAttribute(narrow_kernel<D, NT, float>,
                                        cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        sizeof(narrow_shared<D, NT>)));
    }
};

int attend_narrow_prepare(int head_dim, int group) {
    int n_blocks = 0;
    for_instance(head_dim, group, allow_shared{&n_blocks});
    return n_blocks;
}

struct launch_narrow {
    struct device *device;
    const attend_call *call;
    int n_blocks;
    template <int D, int NT> void operator()() const {
        size_t n_bytes = sizeof(narrow_shared<D, NT>);
        if (call->q_element == ELEMENT_F32) {
            launch_following(device, narrow_kernel<D, NT, float>, (unsigned)n_blocks,
                             NARROW_THREADS, n_bytes, *call);
        } else {
            launch_following(device, narrow_kernel<D, NT, __nv_bfloat16>, (unsigned)n_blocks,
                             NARROW_THREADS, n_bytes, *call);
        }
    }
};

void attend_narrow(struct device *device, const struct attend_call *call, int n_blocks) {
    for_instance(call->head_dim, call->group, launch_narrow{device, call, n_blocks});
}
