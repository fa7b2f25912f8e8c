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
 * Every stage carries x again, which comes from the L2: rows / (16 TILES) of the bytes of W. All
 * orders are fixed, so bits depend on the shape alone.
 *
 * With gates and ups in one W (GATED) the first half of a stage's tiles are gates, the other the ups
 * they belong to, and a block writes their swiglu: a kernel less behind the largest product of a
 * layer.
 *
 * Left to others (skinny_matmul says false): more than 16 rows, K that is no multiple of 64, from 9
 * rows on the widest outputs. There stout.cu or cuBLASLt is as fast, measured behind one small
 * kernel each with the shapes of Llama 3 at 1, 8 and 70 billion.
 *
 * Rejected: a stream-K cut with partial sums in memory. Cuts between rows of W are equal to some
 * percent, and memory is shared anyway. Weights are written before any product, by work that was
 * waited for.
 */
#include "matmul_parts.cuh"

enum { MOST_ROWS = 16, MOST_COLUMNS = 65536 /* beyond 8 rows */ };
enum { TILE_ROWS = 16, BOX_BYTES = TILE_ROWS * BOX_ROW_BYTES };

/* EIGHTS: rows of x by eights. A team's stages must always be the same ones: its waits for a stage
 * know the last two fillings apart and no more. */
template <int TILES_, int SHARING_, int TEAMS_, int BOXES_, int EIGHTS_, int STAGES_>
struct skinny {
    static constexpr int TILES = TILES_, SHARING = SHARING_, TEAMS = TEAMS_, BOXES = BOXES_;
    static constexpr int EIGHTS = EIGHTS_, STAGES = STAGES_;
    static constexpr int THREADS = 32 * SHARING * TEAMS;        /* that multiply; 32 more read */
    static constexpr int OWN = (TILES + SHARING - 1) / SHARING; /* tiles of a warp */
    static constexpr int ROWS = TILES * TILE_ROWS;              /* of W */
    static constexpr int X_BYTES = EIGHTS * 8 * BOX * 2;        /* of a box */
    static constexpr int STAGE_BYTES = BOXES * (TILES * BOX_BYTES + X_BYTES);
    static constexpr int STRIDE = ROWS + 4; /* spreads a warp's stores over the banks */
    static_assert(STAGES % TEAMS == 0, "a team's stages");
};

template <class S> struct __align__(1024) skinny_shared {
    unsigned char ring[S::STAGES][S::STAGE_BYTES];
    float sums[S::TEAMS * 8 * S::STRIDE]; /* (teams, 8, STRIDE) */
    uint64_t full[S::STAGES], empty[S::STAGES];
};

/* How many columns of the output, by 16, a pass over K gives. */
template <class S, bool GATED> constexpr int PASS = GATED ? S::TILES / 2 : S::TILES;

/* What a block multiplies: tiles [first, end) of the output, by n_chunks of BOXES boxes each. */
struct skinny_share {
    int first, end, n_chunks;
};

template <class S> __device__ skinny_share find_share(const product_call &call) {
    long n_tiles = (call.n + TILE_ROWS - 1) / TILE_ROWS;
    return {(int)(n_tiles * blockIdx.x / gridDim.x), (int)(n_tiles * (blockIdx.x + 1) / gridDim.x),
            (call.n_boxes + S::BOXES - 1) / S::BOXES};
}

/* ---- the warp that reads ----------------------------------------------------------------------
 */

template <class S, bool GATED>
__device__ void read_stages(const product_call &call, const CUtensorMap *weight,
                            const CUtensorMap *x, skinny_shared<S> &shared,
                            const skinny_share &share) {
    constexpr int TILES = PASS<S, GATED>, SIDES = GATED ? 2 : 1;
    uint64_t once = policy_once(), again = policy_again();
    int tile = share.first, chunk = 0, x_chunk = 0;
    auto read_weight = [&](int stage) {
        int n_tiles = min(TILES, share.end - tile);
        barrier_expect(&shared.full[stage], S::BOXES * (SIDES * n_tiles * BOX_BYTES + S::X_BYTES));
        for (int side = 0; side < SIDES; side++)
            for (int at = 0; at < n_tiles; at++)
                read_boxes(shared.ring[stage] + (side * TILES + at) * S::BOXES * BOX_BYTES, weight,
                           side * call.n + (tile + at) * TILE_ROWS, chunk * S::BOXES,
                           &shared.full[stage], once);
        if (++chunk == share.n_chunks) chunk = 0, tile += TILES;
    };
    auto read_x = [&](int stage) {
        read_boxes(shared.ring[stage] + S::TILES * S::BOXES * BOX_BYTES, x, 0, x_chunk * S::BOXES,
                   &shared.full[stage], again);
        if (++x_chunk == share.n_chunks) x_chunk = 0;
    };
    int n_items = (share.end - share.first + TILES - 1) / TILES * share.n_chunks;
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

/* Sum the teams and write columns [column, column + n) of the output, eight rows at a time. */
template <class S, bool GATED>
__device__ void finish(const product_call &call, skinny_shared<S> &shared,
                       const skinny_sums<S> &sums, int team, int member, int column, int n) {
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int eight = 0; eight < S::EIGHTS; eight++) {
        int n_rows = min(8, call.n_rows - eight * 8);
        if (n_rows <= 0) continue;
#pragma unroll
        for (int own = 0; own < S::OWN; own++) {
            int tile = member + own * S::SHARING;
            if (tile % PASS<S, GATED> * TILE_ROWS >= n) continue;
            const float(&from)[4] = sums.at[own][eight];
            float *to = shared.sums + (team * 8 + 2 * t) * S::STRIDE + tile * TILE_ROWS + g;
            to[0] = from[0], to[S::STRIDE] = from[1];
            to[8] = from[2], to[S::STRIDE + 8] = from[3];
        }
        multiplying_barrier<S>();
        constexpr int COLUMNS = PASS<S, GATED> * TILE_ROWS;
        for (int at = threadIdx.x; at < n_rows * COLUMNS; at += S::THREADS) {
            int row = at / COLUMNS, k = at % COLUMNS;
            if (k >= n) continue;
            float y = 0, up = 0;
#pragma unroll
            for (int other = 0; other < S::TEAMS; other++) {
                const float *sum = shared.sums + (other * 8 + row) * S::STRIDE + k;
                y += sum[0];
                if constexpr (GATED) up += sum[COLUMNS];
            }
            if constexpr (GATED) y = swiglu_of(as_bf16(y), as_bf16(up));
            if (call.bias) y += call.bias[column + k];
            put(call, eight * 8 + row, column + k, y);
        }
        multiplying_barrier<S>();
    }
}

template <class S, bool GATED>
__device__ void multiply_stages(const product_call &call, skinny_shared<S> &shared,
                                const skinny_share &share) {
    int warp = threadIdx.x / 32, member = warp % S::SHARING, team = warp / S::SHARING;
    int stage = team, chunk = team; /* of this pass; a team takes every TEAMSth */
    unsigned parity = 0;
    constexpr int TILES = PASS<S, GATED>;
    for (int tile = share.first; tile < share.end; tile += TILES, chunk -= share.n_chunks) {
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
        int n = min(min(TILES, share.end - tile) * TILE_ROWS, call.n - column);
        finish<S, GATED>(call, shared, sums, team, member, column, n);
    }
}

/* ---- one launch -------------------------------------------------------------------------------
 */

template <class S, bool GATED>
__global__ void __launch_bounds__(S::THREADS + 32, 1)
    skinny_kernel(const __grid_constant__ CUtensorMap weight, const __grid_constant__ CUtensorMap x,
                  const product_call call) {
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
    if (threadIdx.x == S::THREADS) read_stages<S, GATED>(call, &weight, &x, shared, share);
    if (threadIdx.x < S::THREADS) multiply_stages<S, GATED>(call, shared, share);
}

/* The instances that there are, asked for in one place: for up to 8 and 16 rows, and for the most
 * tiles of W that a processor gets. */
template <typename Do> static void for_instance(int n_rows, int most_tiles, Do act) {
    if (n_rows <= 8) {
        act.template operator()<skinny<2, 2, 5, 4, 1, 10>>();
    } else if (most_tiles == 3) {
        act.template operator()<skinny<3, 3, 3, 4, 2, 6>>();
    } else {
        act.template operator()<skinny<2, 2, 4, 4, 2, 8>>();
    }
}

/* The same for gates and ups at once: each pass takes both sides of half as many columns. */
template <typename Do> static void for_gated(int n_rows, Do act) {
    if (n_rows <= 8) {
        act.template operator()<skinny<2, 2, 5, 4, 1, 10>>();
    } else {
        act.template operator()<skinny<2, 2, 4, 4, 2, 8>>();
    }
}

template <bool GATED> struct launch_skinny {
    struct device *device;
    const product_call *call;
    const struct weight *weight;
    const void *x;
    int x_stride;
    template <class S> void operator()() const {
        int n_tiles = (call->n + TILE_ROWS - 1) / TILE_ROWS;
        struct matrix_shape w = {weight->rows, weight->columns, weight->stride};
        struct matrix_shape rows = {call->n_rows, weight->columns, x_stride};
        launch_following(device, skinny_kernel<S, GATED>,
                         (unsigned)min(n_tiles, device->n_processors), S::THREADS + 32,
                         sizeof(skinny_shared<S>),
                         row_map(device, weight->matrix, w, TILE_ROWS, S::BOXES),
                         row_map(device, x, rows, S::EIGHTS * 8, S::BOXES), *call);
    }
};

static product_call call_of(int n, int n_rows, const struct value *out, const struct weight *weight,
                            const float *bias) {
    return {n,
            n_rows,
            weight->columns / BOX,
            value_data(out),
            out->stride,
            out->element == ELEMENT_F32,
            bias};
}

static bool is_skinny(int n_rows, const struct weight *weight) {
    bool narrow = weight->rows <= MOST_COLUMNS || n_rows <= 8;
    return n_rows <= MOST_ROWS && narrow && weight->columns % BOX == 0;
}

bool skinny_matmul(struct device *device, int n_rows, const struct value *out,
                   const __nv_bfloat16 *x, int x_stride, const struct weight *weight,
                   const float *bias) {
    if (!is_skinny(n_rows, weight)) return false;
    product_call call = call_of(weight->rows, n_rows, out, weight, bias);
    int n_tiles = (weight->rows + TILE_ROWS - 1) / TILE_ROWS;
    for_instance(n_rows, (n_tiles + device->n_processors - 1) / device->n_processors,
                 launch_skinny<false>{device, &call, weight, x, x_stride});
    return true;
}

bool skinny_swiglu(struct device *device, int n_rows, const struct value *out,
                   const __nv_bfloat16 *x, int x_stride, const struct weight *weight) {
    if (!is_skinny(n_rows, weight)) return false;
    product_call call = call_of(weight->rows / 2, n_rows, out, weight, NULL);
    for_gated(n_rows, launch_skinny<true>{device, &call, weight, x, x_stride});
    return true;
}

template <bool GATED> struct allow_skinny {
    template <class S> void operator()() const {
        CHECK_CUDA(cudaFuncSetAttribute(skinny_kernel<S, GATED>,
                                        cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        sizeof(skinny_shared<S>)));
    }
};

void skinny_prepare(void) {
    for (int n_rows = 8; n_rows <= MOST_ROWS; n_rows *= 2) {
        for (int most_tiles : {2, 3})
            for_instance(n_rows, most_tiles, allow_skinny<false>());
        for_gated(n_rows, allow_skinny<true>());
    }
}
