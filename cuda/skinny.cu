/* skinny.cu - out (rows, N) = x (rows, K) W^T + bias for few rows: products that should take as
 * long as reading W.
 *
 * One block a processor. Its warp that reads keeps some 190 KiB of W on their way through a ring of
 * stages in shared memory, and starts before the kernel in front has ended: W depends on nothing,
 * only x does. What cuBLASLt loses at each product, ramp and tail, so falls into its neighbours'
 * time. A stage is TILES tiles of 16 rows of W by BOXES boxes of 64 of K, and the same boxes of x,
 * brought by tensor maps, whose swizzle keeps eight rows of a box in different banks. W goes first
 * from the L2: without that hint a large W reads at 3.6 TB/s instead of 4.45 on an H200, and with
 * the maps' promotion to 256 bytes at 4.2.
 *
 * W is the big operand, so its rows take the 16 of the tensor cores' A and rows of x the 8 of B. A
 * thread takes 16 bytes of a row and decides which K of two products they are: the sum over K may
 * run in any order if A and B agree on it. SHARING warps share the tiles of a stage and are a team;
 * TEAMS teams take stages in turn, so that none must keep up with the memory alone, and are summed
 * in order at the end.
 *
 * Every stage carries x again, which comes from the L2: rows / (16 TILES) of the bytes of W. Where
 * that is too much, two blocks of a cluster share twice the rows and cut K (SPLIT); each finishes
 * half of the columns of the output, from sums that the other wrote into its shared memory. All
 * orders are fixed, so bits depend on the shape alone.
 *
 * Left to cuBLASLt (skinny_matmul says false): more than 32 rows, K that is no multiple of 64, from
 * 9 rows on the widest outputs, from 17 on heights of W that do not fill the blocks. There it is as
 * fast, measured behind one small kernel each with the shapes of Llama 3 at 1, 8 and 70 billion.
 *
 * Rejected: a stream-K cut with partial sums in memory. Cuts between rows of W are equal to some
 * percent, and memory is shared anyway. Weights are written before any product, by work that was
 * waited for.
 */
#include <cuda.h>
#include <cudaTypedefs.h>
#include <stdlib.h>

#include "attend_ring.cuh"

enum { MOST_ROWS = 32, MOST_COLUMNS = 65536 /* beyond 8 rows */ };
enum { TILE_ROWS = 16, BOX = 64 /* of K: 128 bytes */, BOX_BYTES = TILE_ROWS * BOX * 2 };

/* EIGHTS: rows of x by eights. A team's stages must always be the same ones: its waits for a stage
 * know the last two fillings apart and no more. */
template <int TILES_, int SHARING_, int TEAMS_, int BOXES_, int EIGHTS_, int STAGES_, int SPLIT_>
struct skinny {
    static constexpr int TILES = TILES_, SHARING = SHARING_, TEAMS = TEAMS_, BOXES = BOXES_;
    static constexpr int EIGHTS = EIGHTS_, STAGES = STAGES_, SPLIT = SPLIT_;
    static constexpr int THREADS = 32 * SHARING * TEAMS;        /* that multiply; 32 more read */
    static constexpr int OWN = (TILES + SHARING - 1) / SHARING; /* tiles of a warp */
    static constexpr int ROWS = TILES * TILE_ROWS;              /* of W */
    static constexpr int X_BYTES = EIGHTS * 8 * BOX * 2;        /* of a box */
    static constexpr int STAGE_BYTES = BOXES * (TILES * BOX_BYTES + X_BYTES);
    /* Strides that spread a warp's stores over the banks. */
    static constexpr int ALONE = ROWS + 4, JOINED = EIGHTS * 8 + 8;
    static constexpr int SUMS = SPLIT == 1 ? TEAMS * 8 * ALONE : (ROWS + SPLIT) * JOINED;
    static_assert(STAGES % TEAMS == 0, "a team's stages");
    static_assert(SPLIT == 1 || TEAMS * ROWS * JOINED * 4 <= STAGES * STAGE_BYTES, "team sums");
};

template <class S> struct __align__(1024) skinny_shared {
    unsigned char ring[S::STAGES][S::STAGE_BYTES];
    /* Alone: (teams, 8, ALONE). In a cluster: (blocks, rows of W that are finished here, JOINED).
     */
    float sums[S::SUMS];
    uint64_t full[S::STAGES], empty[S::STAGES];
};

struct skinny_call {
    int n, n_rows, n_boxes; /* rows of W, of x; K / BOX */
    void *out;
    int out_stride;
    bool out_f32;
    const float *bias; /* (n) or NULL */
};

/* What a block multiplies: tiles [first, end) of W, and n_chunks of BOXES boxes from `box` on. */
struct skinny_share {
    int first, end, box, n_chunks;
};

template <class S> __device__ skinny_share find_share(const skinny_call &call) {
    long n_tiles = (call.n + TILE_ROWS - 1) / TILE_ROWS;
    int group = blockIdx.x / S::SPLIT, n_groups = gridDim.x / S::SPLIT;
    int n_chunks = (call.n_boxes + S::BOXES - 1) / S::BOXES, part = blockIdx.x % S::SPLIT;
    int chunk = n_chunks * part / S::SPLIT, end = n_chunks * (part + 1) / S::SPLIT;
    return {(int)(n_tiles * group / n_groups), (int)(n_tiles * (group + 1) / n_groups),
            chunk * S::BOXES, end - chunk};
}

/* What was written to another block's shared memory before one is there behind the other. */
__device__ __forceinline__ void cluster_arrive() {
    asm volatile("barrier.cluster.arrive.release;" ::: "memory");
}
__device__ __forceinline__ void cluster_wait() {
    asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
}

/* ---- the warp that reads ----------------------------------------------------------------------
 */

/* Rows from `row` on and boxes from `box` on to shared memory; zeros where the matrix has ended. */
__device__ __forceinline__ void read_boxes(void *to, const CUtensorMap *map, int row, int box,
                                           uint64_t *barrier, uint64_t policy) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile"
                 ".mbarrier::complete_tx::bytes.L2::cache_hint "
                 "[%0], [%1, {%2, %3, %4}], [%5], %6;" ::"r"(shared_address(to)),
                 "l"(map), "r"(0), "r"(row), "r"(box), "r"(shared_address(barrier)), "l"(policy)
                 : "memory");
}

template <class S>
__device__ void read_stages(const CUtensorMap *weight, const CUtensorMap *x,
                            skinny_shared<S> &shared, const skinny_share &share) {
    uint64_t once, again;
    asm("createpolicy.fractional.L2::evict_first.b64 %0;" : "=l"(once));
    asm("createpolicy.fractional.L2::evict_last.b64 %0;" : "=l"(again));
    int tile = share.first, chunk = 0, x_chunk = 0;
    auto read_weight = [&](int stage) {
        int n_tiles = min(S::TILES, share.end - tile);
        barrier_expect(&shared.full[stage], S::BOXES * (n_tiles * BOX_BYTES + S::X_BYTES));
        for (int at = 0; at < n_tiles; at++)
            read_boxes(shared.ring[stage] + at * S::BOXES * BOX_BYTES, weight,
                       (tile + at) * TILE_ROWS, share.box + chunk * S::BOXES, &shared.full[stage],
                       once);
        if (++chunk == share.n_chunks) chunk = 0, tile += S::TILES;
    };
    auto read_x = [&](int stage) {
        read_boxes(shared.ring[stage] + S::TILES * S::BOXES * BOX_BYTES, x, 0,
                   share.box + x_chunk * S::BOXES, &shared.full[stage], again);
        if (++x_chunk == share.n_chunks) x_chunk = 0;
    };
    int n_items = (share.end - share.first + S::TILES - 1) / S::TILES * share.n_chunks;
    int n_early = min(n_items, S::STAGES);
    for (int item = 0; item < n_early; item++)
        read_weight(item);
    wait_for_inputs();
    let_next_begin();
    for (int item = 0; item < n_early; item++)
        read_x(item);
    unsigned parity = 0;
    for (int item = n_early, stage = 0; item < n_items; item++) {
        barrier_wait(&shared.empty[stage], parity);
        read_weight(stage);
        read_x(stage);
        if (++stage == S::STAGES) stage = 0, parity ^= 1;
    }
}

/* ---- the warps that multiply ------------------------------------------------------------------
 */

/* (tiles of a warp, eights of rows of x, the thread's share of 16 by 8) */
template <class S> struct skinny_sums { float at[S::OWN][S::EIGHTS][4]; };

__device__ __forceinline__ uint4 sixteen(const unsigned char *at) {
    return *reinterpret_cast<const uint4 *>(at);
}

/* Add a stage's products. `member` is the warp's place in its team. */
template <class S>
__device__ __forceinline__ void multiply_stage(skinny_sums<S> &sums, const unsigned char *weight,
                                               int member) {
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const unsigned char *x = weight + S::TILES * S::BOXES * BOX_BYTES;
#pragma unroll
    for (int half_box = 0; half_box < 2 * S::BOXES; half_box++) {
        int box = half_box / 2;
        int place = g * 128 + ((2 * t + half_box % 2) ^ g) * 16; /* swizzled */
        uint4 b[S::EIGHTS];
#pragma unroll
        for (int eight = 0; eight < S::EIGHTS; eight++)
            b[eight] = sixteen(x + box * S::X_BYTES + eight * 1024 + place);
#pragma unroll
        for (int own = 0; own < S::OWN; own++) {
            int tile = member + own * S::SHARING;
            if (S::TILES % S::SHARING && tile >= S::TILES) continue;
            const unsigned char *from = weight + (tile * S::BOXES + box) * BOX_BYTES + place;
            uint4 low = sixteen(from), high = sixteen(from + 1024); /* eight rows further */
#pragma unroll
            for (int eight = 0; eight < S::EIGHTS; eight++)
                mma(sums.at[own][eight], low.x, high.x, low.y, high.y, b[eight].x, b[eight].y);
#pragma unroll
            for (int eight = 0; eight < S::EIGHTS; eight++)
                mma(sums.at[own][eight], low.z, high.z, low.w, high.w, b[eight].z, b[eight].w);
        }
    }
}

template <class S> __device__ __forceinline__ void multiplying_barrier() {
    asm volatile("bar.sync 1, %0;" ::"n"(S::THREADS) : "memory");
}

__device__ __forceinline__ void put(const skinny_call &call, int row, int column, float y) {
    size_t at = (size_t)row * (size_t)call.out_stride + (size_t)column;
    if (call.bias) y += call.bias[column];
    if (call.out_f32) {
        ((float *)call.out)[at] = y;
    } else {
        ((__nv_bfloat16 *)call.out)[at] = __float2bfloat16_rn(y);
    }
}

/* Sum the teams and write columns [column, column + n) of the output, eight rows at a time. */
template <class S>
__device__ void finish_alone(const skinny_call &call, skinny_shared<S> &shared,
                             const skinny_sums<S> &sums, int team, int member, int column, int n) {
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int eight = 0; eight < S::EIGHTS; eight++) {
        int n_rows = min(8, call.n_rows - eight * 8);
        if (n_rows <= 0) continue;
#pragma unroll
        for (int own = 0; own < S::OWN; own++) {
            int tile = member + own * S::SHARING;
            if (tile * TILE_ROWS >= n) continue;
            const float(&from)[4] = sums.at[own][eight];
            float *to = shared.sums + (team * 8 + 2 * t) * S::ALONE + tile * TILE_ROWS + g;
            to[0] = from[0], to[S::ALONE] = from[1];
            to[8] = from[2], to[S::ALONE + 8] = from[3];
        }
        multiplying_barrier<S>();
        for (int at = threadIdx.x; at < n_rows * S::ROWS; at += S::THREADS) {
            int row = at / S::ROWS, k = at % S::ROWS;
            if (k >= n) continue;
            float y = 0;
#pragma unroll
            for (int other = 0; other < S::TEAMS; other++)
                y += shared.sums[(other * 8 + row) * S::ALONE + k];
            put(call, eight * 8 + row, column + k, y);
        }
        multiplying_barrier<S>();
    }
}

/* Sum the teams and give every block of the cluster the sums of the columns that it finishes. Only
 * behind a block's last stage: the ring holds the teams' sums. */
template <class S>
__device__ void give_sums(skinny_shared<S> &shared, const skinny_sums<S> &sums, int team,
                          int member, int n, int n_each) {
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, part = blockIdx.x % S::SPLIT;
    float *teams = (float *)shared.ring[0]; /* (teams, rows of W, JOINED) */
    multiplying_barrier<S>();
#pragma unroll
    for (int own = 0; own < S::OWN; own++) {
        int tile = member + own * S::SHARING;
        if (S::TILES % S::SHARING && tile >= S::TILES) continue;
        float *to = teams + (team * S::ROWS + tile * TILE_ROWS + g) * S::JOINED + 2 * t;
#pragma unroll
        for (int eight = 0; eight < S::EIGHTS; eight++) {
            const float(&from)[4] = sums.at[own][eight];
            *(float2 *)(to + eight * 8) = make_float2(from[0], from[1]);
            *(float2 *)(to + 8 * S::JOINED + eight * 8) = make_float2(from[2], from[3]);
        }
    }
    multiplying_barrier<S>();
    for (int at = threadIdx.x; at < n * S::EIGHTS * 2; at += S::THREADS) {
        int k = at / (S::EIGHTS * 2), row = at % (S::EIGHTS * 2) * 4;
        float4 y = make_float4(0, 0, 0, 0);
#pragma unroll
        for (int other = 0; other < S::TEAMS; other++) {
            float4 one = *(const float4 *)(teams + (other * S::ROWS + k) * S::JOINED + row);
            y.x += one.x, y.y += one.y, y.z += one.z, y.w += one.w;
        }
        const float *to = shared.sums + (part * n_each + k % n_each) * S::JOINED + row;
        asm volatile("{\n"
                     ".reg .u32 there;\n"
                     "mapa.shared::cluster.u32 there, %0, %1;\n"
                     "st.shared::cluster.v4.f32 [there], {%2, %3, %4, %5};\n"
                     "}" ::"r"(shared_address(to)),
                     "r"(k / n_each), "f"(y.x), "f"(y.y), "f"(y.z), "f"(y.w)
                     : "memory");
    }
}

template <class S>
__device__ void finish_joined(const skinny_call &call, skinny_shared<S> &shared,
                              const skinny_sums<S> &sums, int team, int member, int column, int n) {
    int n_each = (n + S::SPLIT - 1) / S::SPLIT, part = blockIdx.x % S::SPLIT;
    give_sums<S>(shared, sums, team, member, n, n_each);
    cluster_arrive();
    cluster_wait();
    int n_mine = min(n_each, n - part * n_each);
    for (int at = threadIdx.x; at < n_each * S::EIGHTS * 2; at += S::THREADS) {
        int k = at % n_each, row = at / n_each * 4;
        if (k >= n_mine) continue;
        float y[4] = {0, 0, 0, 0};
#pragma unroll
        for (int other = 0; other < S::SPLIT; other++) {
            float4 one = *(const float4 *)(shared.sums + (other * n_each + k) * S::JOINED + row);
            y[0] += one.x, y[1] += one.y, y[2] += one.z, y[3] += one.w;
        }
#pragma unroll
        for (int next = 0; next < 4; next++)
            if (row + next < call.n_rows)
                put(call, row + next, column + part * n_each + k, y[next]);
    }
}

template <class S>
__device__ void multiply_stages(const skinny_call &call, skinny_shared<S> &shared,
                                const skinny_share &share) {
    int warp = threadIdx.x / 32, member = warp % S::SHARING, team = warp / S::SHARING;
    int stage = team, chunk = team; /* of this pass; a team takes every TEAMSth */
    unsigned parity = 0;
    for (int tile = share.first; tile < share.end; tile += S::TILES, chunk -= share.n_chunks) {
        skinny_sums<S> sums = {};
        for (; chunk < share.n_chunks; chunk += S::TEAMS) {
            barrier_wait(&shared.full[stage], parity);
            multiply_stage<S>(sums, shared.ring[stage], member);
            __syncwarp();
            if (threadIdx.x % 32 == 0) barrier_arrive(&shared.empty[stage]);
            stage += S::TEAMS;
            if (stage >= S::STAGES) stage -= S::STAGES, parity ^= 1;
        }
        int column = tile * TILE_ROWS;
        int n = min(min(S::TILES, share.end - tile) * TILE_ROWS, call.n - column);
        if constexpr (S::SPLIT == 1) {
            finish_alone<S>(call, shared, sums, team, member, column, n);
        } else {
            finish_joined<S>(call, shared, sums, team, member, column, n);
        }
    }
}

/* ---- one launch -------------------------------------------------------------------------------
 */

template <class S>
__global__ void __cluster_dims__(S::SPLIT, 1, 1) __launch_bounds__(S::THREADS + 32, 1)
    skinny_kernel(const __grid_constant__ CUtensorMap weight, const __grid_constant__ CUtensorMap x,
                  const skinny_call call) {
    extern __shared__ __align__(1024) unsigned char memory[];
    skinny_shared<S> &shared = *(skinny_shared<S> *)memory;
    if (threadIdx.x == S::THREADS) {
        for (int stage = 0; stage < S::STAGES; stage++) {
            barrier_init(&shared.full[stage], 1);
            barrier_init(&shared.empty[stage], S::SHARING);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    skinny_share share = find_share<S>(call);
    /* A cluster meets twice: all blocks have begun, and all sums are where they belong. */
    if constexpr (S::SPLIT > 1) cluster_arrive();
    if (threadIdx.x == S::THREADS) read_stages<S>(&weight, &x, shared, share);
    if constexpr (S::SPLIT > 1) cluster_wait();
    if (threadIdx.x < S::THREADS) {
        multiply_stages<S>(call, shared, share);
    } else if constexpr (S::SPLIT > 1) {
        cluster_arrive();
        cluster_wait();
    }
}

/* The instances that there are, asked for in one place: for up to 8, 16 and 32 rows, and for the
 * most tiles of W that a processor gets. What does not split takes any number, TILES at a time.
 * False where none pays: blocks that would carry too much of x for their part of W. */
template <typename Do> static bool for_instance(int n_rows, int most_tiles, Do act) {
    enum { SEVEN = 7 };
    int n_passes = (most_tiles + SEVEN - 1) / SEVEN;
    if (n_rows <= 8) {
        act.template operator()<skinny<2, 2, 5, 4, 1, 10, 1>>();
    } else if (n_rows <= 16 && most_tiles == 3) {
        act.template operator()<skinny<3, 3, 3, 4, 2, 6, 1>>();
    } else if (n_rows <= 16) {
        act.template operator()<skinny<2, 2, 4, 4, 2, 8, 1>>();
    } else if (most_tiles == 2) {
        act.template operator()<skinny<4, 2, 4, 4, 4, 4, 2>>();
    } else if (most_tiles == 3) {
        act.template operator()<skinny<6, 2, 3, 2, 4, 6, 2>>();
    } else if (10 * most_tiles >= 7 * SEVEN * n_passes) {
        act.template operator()<skinny<SEVEN, 7, 2, 2, 4, 6, 1>>();
    } else {
        return false;
    }
    return true;
}

struct skinny_maps {
    PFN_cuTensorMapEncodeTiled_v12000 encode; /* a function of the driver, which nobody links */
};

/* A matrix as (K / BOX, rows, BOX), read n_boxes by n_rows at a time. */
static CUtensorMap matrix_map(const struct device *device, const void *matrix, int rows,
                              int columns, int stride, int n_rows, int n_boxes) {
    CUtensorMap map;
    cuuint64_t size[3] = {BOX, (cuuint64_t)rows, (cuuint64_t)(columns / BOX)};
    cuuint64_t stride_bytes[2] = {(cuuint64_t)stride * 2, BOX * 2};
    cuuint32_t box[3] = {BOX, (cuuint32_t)n_rows, (cuuint32_t)n_boxes}, step[3] = {1, 1, 1};
    CUresult result = device->skinny->encode(
        &map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, (void *)matrix, size, stride_bytes, box, step,
        CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
        CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (result != CUDA_SUCCESS)
        check_fail("no tensor map of a matrix (%d, %d) with rows %d apart: CUDA error %d", rows,
                   columns, stride, (int)result);
    return map;
}

struct launch_skinny {
    struct device *device;
    const skinny_call *call;
    const struct weight *weight;
    const void *x;
    int x_stride;
    template <class S> void operator()() const {
        int n_tiles = (weight->rows + TILE_ROWS - 1) / TILE_ROWS;
        int n_groups = min(n_tiles, device->n_processors / S::SPLIT);
        launch_following(
            device, skinny_kernel<S>, (unsigned)(n_groups * S::SPLIT), S::THREADS + 32,
            sizeof(skinny_shared<S>),
            matrix_map(device, weight->matrix, weight->rows, weight->columns, weight->stride,
                       TILE_ROWS, S::BOXES),
            matrix_map(device, x, call->n_rows, weight->columns, x_stride, S::EIGHTS * 8, S::BOXES),
            *call);
    }
};

bool skinny_matmul(struct device *device, int n_rows, const struct value *out,
                   const __nv_bfloat16 *x, int x_stride, const struct weight *weight,
                   const float *bias) {
    bool narrow = weight->rows <= MOST_COLUMNS || n_rows <= 8;
    if (n_rows > MOST_ROWS || !narrow || weight->columns % BOX != 0) return false;
    skinny_call call = {weight->rows,
                        n_rows,
                        weight->columns / BOX,
                        value_data(out),
                        out->stride,
                        out->element == ELEMENT_F32,
                        bias};
    int pairs = device->n_processors / 2, n_tiles = (weight->rows + TILE_ROWS - 1) / TILE_ROWS;
    return for_instance(n_rows, (n_tiles + 2 * pairs - 1) / (2 * pairs),
                        launch_skinny{device, &call, weight, x, x_stride});
}

struct allow_skinny {
    template <class S> void operator()() const {
        CHECK_CUDA(cudaFuncSetAttribute(skinny_kernel<S>,
                                        cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        sizeof(skinny_shared<S>)));
    }
};

void skinny_prepare(struct device *device) {
    void *encode;
    cudaDriverEntryPointQueryResult found;
    CHECK_CUDA(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &encode, 12000,
                                                cudaEnableDefault, &found));
    if (found != cudaDriverEntryPointSuccess)
        check_fail("the CUDA driver has no cuTensorMapEncodeTiled");
    device->skinny = (struct skinny_maps *)check_alloc(1, sizeof *device->skinny);
    device->skinny->encode = (PFN_cuTensorMapEncodeTiled_v12000)encode;
    for (int n_rows = 8; n_rows <= MOST_ROWS; n_rows *= 2)
        for (int most_tiles : {2, 3, 7})
            for_instance(n_rows, most_tiles, allow_skinny());
}

void skinny_close(struct device *device) {
    free(device->skinny);
}
