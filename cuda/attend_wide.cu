/* attend_wide.cu - attention for many columns: prompts. Bound by the tensor cores.
 *
 * A block holds the queries of 64 columns (rows and heads of one kv head, so that a tile of K and V
 * serves the whole group) in shared memory and walks its tiles, the next one on its way while one
 * is folded. A warp has 16 columns to itself: scores (16, 64) = q (16, D) K^T, weights, and out
 * (16, D) += weights (16, 64) V. Rows in shared memory are cut in 16-byte pieces that are stored at
 * (piece xor row mod 8), so that ldmatrix meets no bank twice.
 *
 * mma.sync and cp.async, not wgmma: a decode loop spends a few percent of a prompt's time here.
 */
#include "attend_parts.cuh"

enum { WIDE_STAGES = 2 };

/* Blocks a processor holds. */
static constexpr int wide_blocks(int head_dim) {
    return head_dim == 256 ? 1 : 2;
}

template <int D, int PARTS> struct __align__(128) wide_shared {
    unsigned char q[PARTS][WIDE_COLUMNS * D * 2];
    unsigned char kv[WIDE_STAGES][2][TILE * D * 2];
    int flag;
};

/* Where piece `piece` of row `row` stands. */
template <int D> __device__ __forceinline__ int piece_at(int row, int piece) {
    return row * D * 2 + ((piece ^ (row & 7)) * 16);
}

__device__ __forceinline__ void load_matrices(uint32_t (&x)[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(at)
                 : "memory");
}

__device__ __forceinline__ void load_matrices_transposed(uint32_t (&x)[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(at)
                 : "memory");
}

/* Start a tile's copy; positions that do not exist become zeros. */
template <int D>
__device__ __forceinline__ void start_tile(const attend_call &call, const attend_unit &unit,
                                           int kv_head, int tile,
                                           unsigned char (&to)[2][TILE * D * 2]) {
    constexpr int PIECES = D / 8;
    size_t page = (size_t)__ldg(call.page + unit.first_page + tile);
    const unsigned char *from =
        call.kv + (page * (size_t)call.n_kv_heads + (size_t)kv_head) * (2 * TILE * D * 2);
    int n_tokens = tile_tokens(call, unit, tile);
#pragma unroll 4
    for (int at = (int)threadIdx.x; at < 2 * TILE * PIECES; at += FOLDING_THREADS) {
        int row = at / PIECES, piece = at % PIECES, token = row % TILE;
        uint32_t target = shared_address(to[row / TILE]) + (uint32_t)piece_at<D>(token, piece);
        int n_bytes = token < n_tokens ? 16 : 0;
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target),
                     "l"(from + (size_t)at * 16), "r"(n_bytes)
                     : "memory");
    }
}

__device__ __forceinline__ void end_copies() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int N> __device__ __forceinline__ void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/* Queries of a unit's columns, zero beyond. */
template <int D, typename Query>
__device__ void load_columns(const attend_call &call, const attend_unit &unit, int kv_head,
                             unsigned char (&q)[query<Query>::PARTS][WIDE_COLUMNS * D * 2]) {
#pragma unroll 4
    for (int at = (int)threadIdx.x; at < WIDE_COLUMNS * D / 8; at += FOLDING_THREADS) {
        int column = at / (D / 8), piece = at % (D / 8);
        uint32_t x[query<Query>::PARTS][4] = {};
        if (column < unit.n_columns)
            load_query(column_query<Query>(call, unit, kv_head, column) + 8 * piece, call.q_aligned,
                       x);
        for (int part = 0; part < query<Query>::PARTS; part++)
            *(uint4 *)(q[part] + piece_at<D>(column, piece)) =
                make_uint4(x[part][0], x[part][1], x[part][2], x[part][3]);
    }
}

/* A warp's fold: columns g and g + 8 of its 16. */
template <int D> struct columns_fold {
    float acc[D / 8][4]; /* dims 8 k + 2 t, + 1 of column g, then of g + 8 */
    float maximum[2], sum[2];
};

template <int D, int PARTS>
__device__ __forceinline__ void score_columns(const unsigned char (&q)[PARTS][WIDE_COLUMNS * D * 2],
                                              const unsigned char *k, int warp, int lane,
                                              float (&score)[TILE / 8][4]) {
    int matrix = lane / 8, row = lane % 8;
#pragma unroll
    for (int n = 0; n < TILE / 8; n++)
        for (int side = 0; side < 4; side++)
            score[n][side] = 0;
#pragma unroll
    for (int step = 0; step < D / 16; step++) {
        uint32_t a[PARTS][4];
#pragma unroll
        for (int part = 0; part < PARTS; part++)
            load_matrices(a[part], shared_address(q[part]) +
                                       (uint32_t)piece_at<D>(16 * warp + (matrix & 1) * 8 + row,
                                                             2 * step + (matrix >> 1)));
#pragma unroll
        for (int n = 0; n < TILE / 8; n += 2) {
            uint32_t b[4];
            load_matrices(b,
                          shared_address(k) + (uint32_t)piece_at<D>(8 * n + (matrix >> 1) * 8 + row,
                                                                    2 * step + (matrix & 1)));
#pragma unroll
            for (int part = 0; part < PARTS; part++) {
                mma(score[n], a[part][0], a[part][1], a[part][2], a[part][3], b[0], b[1]);
                mma(score[n + 1], a[part][0], a[part][1], a[part][2], a[part][3], b[2], b[3]);
            }
        }
    }
}

/* Scores become weights; what was folded before is brought to the new maximum. */
template <int D>
__device__ __forceinline__ void weigh_columns(columns_fold<D> &fold, float (&score)[TILE / 8][4]) {
#pragma unroll
    for (int side = 0; side < 2; side++) {
        float maximum = fold.maximum[side];
#pragma unroll
        for (int n = 0; n < TILE / 8; n++)
            maximum = fmaxf(maximum, fmaxf(score[n][2 * side], score[n][2 * side + 1]));
        maximum = fmaxf(maximum, __shfl_xor_sync(~0u, maximum, 1));
        maximum = fmaxf(maximum, __shfl_xor_sync(~0u, maximum, 2));
        float base = maximum == -INFINITY ? 0.0f : maximum; /* nothing seen yet */
        float factor = exp2_fast(fold.maximum[side] - base), sum = 0;
        fold.maximum[side] = maximum;
#pragma unroll
        for (int n = 0; n < TILE / 8; n++) {
            for (int pair = 0; pair < 2; pair++) {
                float weight = exp2_fast(score[n][2 * side + pair] - base);
                score[n][2 * side + pair] = weight;
                sum += weight;
            }
        }
        fold.sum[side] = fold.sum[side] * factor + sum;
#pragma unroll
        for (int k = 0; k < D / 8; k++) {
            fold.acc[k][2 * side] *= factor;
            fold.acc[k][2 * side + 1] *= factor;
        }
    }
}

template <int D, int PARTS>
__device__ __forceinline__ void add_rows(columns_fold<D> &fold, const unsigned char *v, int lane,
                                         const float (&weight)[TILE / 8][4]) {
    int matrix = lane / 8, row = lane % 8;
#pragma unroll
    for (int step = 0; step < TILE / 16; step++) {
        uint32_t a[PARTS][4];
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const float(&w)[4] = weight[2 * step + k / 2];
            a[0][k] = pack_bf16(w[k % 2 * 2], w[k % 2 * 2 + 1]);
            if constexpr (PARTS == 2) a[1][k] = pack_bf16_rest(w[k % 2 * 2], w[k % 2 * 2 + 1]);
        }
#pragma unroll
        for (int n = 0; n < D / 8; n += 2) {
            uint32_t b[4];
            load_matrices_transposed(
                b, shared_address(v) + (uint32_t)piece_at<D>(16 * step + (matrix & 1) * 8 + row,
                                                             n + (matrix >> 1)));
#pragma unroll
            for (int part = 0; part < PARTS; part++) {
                mma(fold.acc[n], a[part][0], a[part][1], a[part][2], a[part][3], b[0], b[1]);
                mma(fold.acc[n + 1], a[part][0], a[part][1], a[part][2], a[part][3], b[2], b[3]);
            }
        }
    }
}

template <int D, int PARTS>
__device__ __forceinline__ void fold_columns(const attend_call &call, const attend_unit &unit,
                                             int tile, columns_fold<D> &fold,
                                             wide_shared<D, PARTS> &shared, int stage) {
    int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32, g = lane / 4, t = lane % 4;
    float score[TILE / 8][4];
    score_columns<D, PARTS>(shared.q, shared.kv[stage][0], warp, lane, score);
    int limit[2] = {INT32_MAX, INT32_MAX};
    if (tile_is_masked(unit, tile)) {
        limit[0] = column_limit(call, unit, 16 * warp + g) - tile * TILE;
        limit[1] = column_limit(call, unit, 16 * warp + g + 8) - tile * TILE;
    }
#pragma unroll
    for (int n = 0; n < TILE / 8; n++) {
#pragma unroll
        for (int side = 0; side < 4; side++) {
            score[n][side] *= call.scale;
            if (8 * n + 2 * t + (side & 1) > limit[side / 2]) score[n][side] = -INFINITY;
        }
    }
    weigh_columns(fold, score);
    add_rows<D, PARTS>(fold, shared.kv[stage][1], lane, score);
}

/* Hand a unit's result on: warps have columns of their own, so nothing is joined in the block. */
template <int D, int PARTS>
__device__ __forceinline__ void end_columns(const attend_call &call, const attend_unit &unit,
                                            int kv_head, bool whole, bool is_first,
                                            columns_fold<D> &fold, wide_shared<D, PARTS> &shared) {
    int thread = (int)threadIdx.x, g = thread % 32 / 4, t = thread % 4;
#pragma unroll
    for (int side = 0; side < 2; side++) {
        float sum = fold.sum[side];
        sum += __shfl_xor_sync(~0u, sum, 1);
        sum += __shfl_xor_sync(~0u, sum, 2);
        int column = thread / 32 * 16 + g + 8 * side;
        if (column >= unit.n_columns) continue;
        place to = column_place(call, unit, kv_head, column);
#pragma unroll
        for (int k = 0; k < D / 8; k++) {
            piece<2> p = {
                fold.maximum[side], sum, {fold.acc[k][2 * side], fold.acc[k][2 * side + 1]}};
            if (whole) {
                end_fold(call, unit, to, 8 * k + 2 * t, p);
            } else {
                store_piece(call.partial, call.partial_weights,
                            partial_of((int)blockIdx.x, !is_first, WIDE_COLUMNS, column), D,
                            8 * k + 2 * t, p);
            }
        }
    }
    if (!whole) join_partials<D, WIDE_COLUMNS, 2, 4>(call, unit, kv_head, thread, &shared.flag);
}

template <int D, typename Query>
__global__ void __launch_bounds__(FOLDING_THREADS, wide_blocks(D))
    wide_kernel(const __grid_constant__ attend_call call) {
    constexpr int PARTS = query<Query>::PARTS;
    extern __shared__ __align__(128) unsigned char bytes[];
    wide_shared<D, PARTS> &shared = *reinterpret_cast<wide_shared<D, PARTS> *>(bytes);
    attend_share share = call.share[blockIdx.x];
    if (share.n_items == 0) return wait_for_inputs(); /* as every kernel does before it ends */
    wait_for_inputs();
    let_next_begin();
    bool is_first = true;
    for (int n = share.n_items; n > 0;) {
        attend_unit unit = call.unit[share.unit];
        int tile = share.tile, end = n < unit.tile_end - tile ? tile + n : unit.tile_end;
        bool whole = tile == unit.tile_begin && end == unit.tile_end;
        n -= end - tile;
        columns_fold<D> fold = {};
        fold.maximum[0] = fold.maximum[1] = -INFINITY;
        start_tile<D>(call, unit, share.kv_head, tile, shared.kv[tile % WIDE_STAGES]);
        end_copies();
        load_columns<D, Query>(call, unit, share.kv_head, shared.q);
        for (; tile < end; tile++) {
            if (tile + 1 < end)
                start_tile<D>(call, unit, share.kv_head, tile + 1,
                              shared.kv[(tile + 1) % WIDE_STAGES]);
            end_copies();
            wait_copies<1>();
            __syncthreads();
            fold_columns<D, PARTS>(call, unit, tile, fold, shared, tile % WIDE_STAGES);
            __syncthreads();
        }
        end_columns<D, PARTS>(call, unit, share.kv_head, whole, is_first, fold, shared);
        __syncthreads();
        is_first = false;
        if (++share.kv_head == call.n_kv_heads) share.kv_head = 0, share.unit++;
        if (n > 0) share.tile = call.unit[share.unit].tile_begin;
    }
}

template <int D> static void prepare() {
    CHECK_CUDA(cudaFuncSetAttribute(wide_kernel<D, float>,
                                    cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    sizeof(wide_shared<D, 2>)));
    CHECK_CUDA(cudaFuncSetAttribute(wide_kernel<D, __nv_bfloat16>,
                                    cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    sizeof(wide_shared<D, 1>)));
}

int attend_wide_prepare(int head_dim) {
    if (head_dim == 64) prepare<64>();
    if (head_dim == 128) prepare<128>();
    if (head_dim == 256) prepare<256>();
    return wide_blocks(head_dim);
}

template <int D>
static void launch(struct device *device, const struct attend_call *call, int n_blocks) {
    if (call->q_element == ELEMENT_F32) {
        launch_following(device, wide_kernel<D, float>, (unsigned)n_blocks, FOLDING_THREADS,
                         sizeof(wide_shared<D, 2>), *call);
    } else {
        launch_following(device, wide_kernel<D, __nv_bfloat16>, (unsigned)n_blocks,
                         FOLDING_THREADS, sizeof(wide_shared<D, 1>), *call);
    }
}

void attend_wide(struct device *device, const struct attend_call *call, int n_blocks) {
    if (call->head_dim == 64) launch<64>(device, call, n_blocks);
    if (call->head_dim == 128) launch<128>(device, call, n_blocks);
    if (call->head_dim == 256) launch<256>(device, call, n_blocks);
}
