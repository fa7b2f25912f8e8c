/* stout.cu - out (rows, N) = x (rows, K) W^T + bias for 17 to 128 rows: still bound by reading W,
 * but work for the tensor cores.
 *
 * One block a processor, as in skinny.cu: a warp that reads W and begins before the kernel in front
 * has ended, another that reads x, each with its ring in shared memory, and eight that multiply by
 * wgmma. x is the factor with 64 rows (HALVES of them: what is read behind its last row makes rows
 * of the output that nobody wants), and ROWS rows of W at a time are the other. A stage of W is
 * ROWS rows by BOXES boxes of 64 of K, eight rows of all boxes together, so that memory is read in
 * longer pieces than a box's 128 bytes.
 *
 * The warp that reads W has AHEAD halves of stages on their way at most, and asks for the next when
 * the oldest has come. A ring that is asked for at once stands in front of all that others want of
 * the memory, x in the first place, but also what the small kernel before reads: that alone cost 1
 * to 2 us a product on an H200, of 15.
 *
 * Heights of W that do not fill the processors have K cut: two blocks of a cluster (SPLIT) take
 * half of it each, and with up to 64 rows their two groups of four warps (TEAMS) take boxes in
 * turn. Each of these parts then gets the others' sums of its share of the columns, through shared
 * memory, and adds them in order. All orders are fixed, so bits depend on the shape alone.
 *
 * With gates and ups in one W (GATED) each half of a stage is rows of gates, then the ups that they
 * belong to: both come to the same thread, which writes their swiglu. K is not cut then.
 *
 * Left to cuBLASLt (stout_matmul says false): K that is no multiple of 64, N of 8, heights of W
 * that none of the cuts fits, and the widest outputs, where it is as fast.
 *
 * Rejected: one copy of x for several blocks of a cluster (multicast), which read what each wants
 * of the L2 as fast; clusters of four, which leave processors out; W as the factor with 64 rows,
 * whose shares would then be multiples of 64.
 */
#include "matmul_parts.cuh"
#include "wgmma.cuh"

enum { LEAST_ROWS = 17, MOST_ROWS = 128, MOST_COLUMNS = 65536, MOST_SLOTS = 16 };
enum { GROUP = 128 /* threads that multiply together */, MULTIPLYING = 2 * GROUP };
enum { THREADS = MULTIPLYING + 64, SHARED_BYTES = 227 << 10 };

template <int ROWS_, int SPLIT_, int HALVES_, int BOXES_, int AHEAD_, int X_KIB> struct stout {
    static constexpr int ROWS = ROWS_, SPLIT = SPLIT_, HALVES = HALVES_, BOXES = BOXES_;
    static constexpr int AHEAD = AHEAD_, X_BYTES = X_KIB << 10;
    static constexpr int TEAMS = HALVES == 1 ? SPLIT : 1, PARTS = SPLIT * TEAMS; /* of K */
    /* Rows of W that a group multiplies. Alone with 64 rows of x, groups share those of W. */
    static constexpr int WIDTH = HALVES * TEAMS == 1 ? ROWS / 2 : ROWS;
    static constexpr int EIGHTS = WIDTH / 8, OWN = (EIGHTS + PARTS - 1) / PARTS;
    static constexpr int EIGHT_BYTES = BOXES * 8 * BOX_ROW_BYTES,
                         HALF_BYTES = ROWS / 16 * EIGHT_BYTES;
    static constexpr int STAGES = (SHARED_BYTES - X_BYTES - 1024) / (2 * HALF_BYTES);
    /* Leaves room on the processor for the small kernels around. */
    static constexpr int REGISTERS = WIDTH / 2 + 48;
    static_assert(ROWS % 16 == 0 && BOXES % TEAMS == 0 && AHEAD <= 2 * STAGES);
    static_assert(PARTS == 1 || 2 * PARTS * OWN * GROUP * 16 <= STAGES * 2 * HALF_BYTES, "sums");
};

template <class S> struct __align__(1024) stout_shared {
    unsigned char x[S::X_BYTES]; /* (slots, x_rows, BOX), and what is read behind them */
    unsigned char weight[S::STAGES][2][S::HALF_BYTES];
    uint64_t full[S::STAGES][2], empty[S::STAGES];
    uint64_t x_full[MOST_SLOTS], x_empty[MOST_SLOTS];
};

struct stout_call {
    struct product_call product;
    bool out_aligned; /* 16 bytes of a row can be written at once */
    int x_rows;       /* n_rows or a few more: eights */
    int n_slots;      /* of x's ring */
    int n_passes;     /* each of ROWS rows of W a block; 1 where K is cut */
};

/* Columns of the output that a block computes in a pass. */
template <class S, bool GATED> constexpr int PASS = GATED ? S::ROWS / 2 : S::ROWS;

/* What a block multiplies: its columns of the output in pass 0, and n_chunks of BOXES boxes from
 * `box` on. */
template <class S, bool GATED> struct stout_share {
    int column, box, n_chunks;
    __device__ explicit stout_share(const stout_call &call) {
        int rank = blockIdx.x % S::SPLIT;
        int n_all = (call.product.n_boxes + S::BOXES - 1) / S::BOXES;
        int first = n_all * rank / S::SPLIT;
        column = (int)(blockIdx.x / S::SPLIT) * PASS<S, GATED>;
        box = first * S::BOXES;
        n_chunks = n_all * (rank + 1) / S::SPLIT - first;
    }
    __device__ int column_of(int pass) const {
        return column + pass * (int)(gridDim.x / S::SPLIT) * PASS<S, GATED>;
    }
};

__device__ __forceinline__ void cluster_meet() {
    asm volatile("barrier.cluster.arrive.release;\n"
                 "barrier.cluster.wait.acquire;" ::
                     : "memory");
}

/* ---- the warps that read ----------------------------------------------------------------------
 */

/* Eights of rows from `eight` on, all boxes of each together, to shared memory. */
__device__ __forceinline__ void read_eights(void *to, const CUtensorMap *map, int eight, int box,
                                            uint64_t *barrier, uint64_t policy) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile"
                 ".mbarrier::complete_tx::bytes.L2::cache_hint "
                 "[%0], [%1, {%2, %3, %4, %5}], [%6], %7;" ::"r"(shared_address(to)),
                 "l"(map), "r"(0), "r"(0), "r"(box), "r"(eight), "r"(shared_address(barrier)),
                 "l"(policy)
                 : "memory");
}

template <class S, bool GATED>
__device__ void read_weight(const stout_call &call, const CUtensorMap *weight,
                            stout_shared<S> &shared, const stout_share<S, GATED> &share) {
    constexpr int SIDES = GATED ? 2 : 1, SIDE_BYTES = S::HALF_BYTES / SIDES;
    uint64_t policy = policy_once(), *full = shared.full[0];
    int stage = 0, oldest = -S::AHEAD;
    unsigned parity = 1, oldest_parity = 0;
    for (int pass = 0; pass < call.n_passes; pass++) {
        int eight = share.column_of(pass) / 8;
        for (int chunk = 0; chunk < share.n_chunks; chunk++) {
            barrier_wait(&shared.empty[stage], parity);
            for (int half = 0; half < 2; half++) {
                if (oldest >= 0) barrier_wait(&full[oldest], oldest_parity);
                if (++oldest == 2 * S::STAGES) oldest = 0, oldest_parity ^= 1;
                barrier_expect(&shared.full[stage][half], S::HALF_BYTES);
#pragma unroll
                for (int side = 0; side < SIDES; side++)
                    read_eights(shared.weight[stage][half] + side * SIDE_BYTES, weight,
                                side * (call.product.n / 8) + eight + half * (PASS<S, GATED> / 16),
                                share.box + chunk * S::BOXES, &shared.full[stage][half], policy);
            }
            if (++stage == S::STAGES) stage = 0, parity ^= 1;
        }
    }
}

template <class S, bool GATED>
__device__ void read_x(const stout_call &call, const CUtensorMap *x, stout_shared<S> &shared,
                       const stout_share<S, GATED> &share) {
    uint64_t policy = policy_again();
    int slot = 0, slot_bytes = call.x_rows * BOX_ROW_BYTES;
    unsigned parity = 1;
    wait_for_inputs();
    let_next_begin();
    for (int pass = 0; pass < call.n_passes; pass++) {
        for (int box = 0; box < share.n_chunks * S::BOXES; box++) {
            barrier_wait(&shared.x_empty[slot], parity);
            barrier_expect(&shared.x_full[slot], slot_bytes);
            read_boxes(shared.x + slot * slot_bytes, x, 0, share.box + box, &shared.x_full[slot],
                       policy);
            if (++slot == call.n_slots) slot = 0, parity ^= 1;
        }
    }
}

/* ---- the warps that multiply ------------------------------------------------------------------
 */

/* The threads whose numbers differ in one bit: `high` of one for `low` of the other. */
__device__ __forceinline__ void trade(uint32_t &low, uint32_t &high, int bit) {
    bool has_bit = threadIdx.x & bit;
    uint32_t come = __shfl_xor_sync(~0u, has_bit ? low : high, bit);
    if (has_bit) {
        low = come;
    } else {
        high = come;
    }
}

/* N eights of columns from `column` on and up to `end`, as wgmma leaves them. */
template <int N>
__device__ __forceinline__ void put_bf16(const product_call &call, int row, int column, int end,
                                         const float (&y)[N][4]) {
    int t = threadIdx.x % 4;
#pragma unroll
    for (int first = 0; first < N; first += 4) {
#pragma unroll
        for (int low = 0; low < 2; low++) {
            /* Four threads have two columns each of four eights: give each of them one eight. */
            uint32_t v[4];
#pragma unroll
            for (int k = 0; k < 4; k++) {
                const float(&from)[4] = y[min(first + k, N - 1)];
                v[k] = pack_bf16(from[2 * low], from[2 * low + 1]);
            }
            trade(v[0], v[1], 1), trade(v[2], v[3], 1);
            trade(v[0], v[2], 2), trade(v[1], v[3], 2);
            int at = column + 8 * (first + t), out_row = row + 8 * low;
            if (first + t < N && at < end && out_row < call.n_rows)
                *(uint4 *)((__nv_bfloat16 *)call.out + (size_t)out_row * (size_t)call.out_stride +
                           at) = make_uint4(v[0], v[1], v[2], v[3]);
        }
    }
}

template <int N>
__device__ __forceinline__ void put_eights(const stout_call &call, int row, int column, int end,
                                           float (&y)[N][4]) {
    const product_call &product = call.product;
    int t = threadIdx.x % 4;
    if (product.bias) {
#pragma unroll
        for (int k = 0; k < N; k++) {
            int at = column + 8 * k + 2 * t;
            float2 added = make_float2(0, 0);
            if (at < end) added = make_float2(product.bias[at], product.bias[at + 1]);
            y[k][0] += added.x, y[k][1] += added.y;
            y[k][2] += added.x, y[k][3] += added.y;
        }
    }
    if (call.out_aligned && !product.out_f32) {
        put_bf16<N>(product, row, column, end, y);
        return;
    }
#pragma unroll
    for (int k = 0; k < N; k++) {
#pragma unroll
        for (int low = 0; low < 2; low++) {
            int at = column + 8 * k + 2 * t, out_row = row + 8 * low;
            if (out_row >= product.n_rows || at >= end) continue;
            if (call.out_aligned) {
                *(float2 *)((float *)product.out + (size_t)out_row * (size_t)product.out_stride +
                            at) = make_float2(y[k][2 * low], y[k][2 * low + 1]);
            } else {
                put(product, out_row, at, y[k][2 * low]);
                put(product, out_row, at + 1, y[k][2 * low + 1]);
            }
        }
    }
}

/* Give every part the sums of the eights that it finishes, and finish those of this part. Only
 * behind the last stage: the ring of W takes what comes. */
template <class S>
__device__ __forceinline__ void finish_parts(const stout_call &call, stout_shared<S> &shared,
                                             const float (&sums)[S::EIGHTS][4], int row,
                                             int column) {
    int group = threadIdx.x / GROUP, thread = threadIdx.x % GROUP;
    int part = blockIdx.x % S::SPLIT * S::TEAMS + group % S::TEAMS;
    float4 *come = (float4 *)shared.weight[0][0]; /* (groups, parts, OWN, GROUP) */
    cluster_meet();
    float y[S::OWN][4];
#pragma unroll
    for (int to = 0; to < S::PARTS; to++) {
        int to_group = S::TEAMS == 1 ? group : to % S::TEAMS;
        uint32_t there;
        asm("mapa.shared::cluster.u32 %0, %1, %2;"
            : "=r"(there)
            : "r"(shared_address(come + (to_group * S::PARTS + part) * S::OWN * GROUP + thread)),
              "r"(to / S::TEAMS));
#pragma unroll
        for (int k = 0; k < S::OWN; k++) {
            int eight = S::EIGHTS * to / S::PARTS + k;
            if (eight >= S::EIGHTS * (to + 1) / S::PARTS) continue;
            const float(&from)[4] = sums[eight];
            if (to == part) {
                y[k][0] = from[0], y[k][1] = from[1], y[k][2] = from[2], y[k][3] = from[3];
            } else {
                asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(
                                 there + k * GROUP * (int)sizeof *come),
                             "f"(from[0]), "f"(from[1]), "f"(from[2]), "f"(from[3])
                             : "memory");
            }
        }
    }
    cluster_meet();
    int first = S::EIGHTS * part / S::PARTS, n = S::EIGHTS * (part + 1) / S::PARTS - first;
#pragma unroll
    for (int k = 0; k < S::OWN; k++) {
        float4 total = make_float4(0, 0, 0, 0);
#pragma unroll
        for (int from = 0; from < S::PARTS; from++) {
            float4 one = make_float4(y[k][0], y[k][1], y[k][2], y[k][3]);
            if (from != part && k < n)
                one = come[((group * S::PARTS + from) * S::OWN + k) * GROUP + thread];
            total.x += one.x, total.y += one.y, total.z += one.z, total.w += one.w;
        }
        y[k][0] = total.x, y[k][1] = total.y, y[k][2] = total.z, y[k][3] = total.w;
    }
    column += 8 * first;
    put_eights<S::OWN>(call, row, column, min(call.product.n, column + 8 * n), y);
}

/* Where a group stands in the rings. */
struct stout_place {
    int stage, slot;
    unsigned parity, x_parity;
};

/* Sum a pass's products. */
template <class S>
__device__ __forceinline__ void multiply(const stout_call &call, stout_shared<S> &shared,
                                         int n_chunks, stout_place &at,
                                         float (&sums)[S::EIGHTS][4]) {
    int group = threadIdx.x / GROUP, lane = threadIdx.x % 32,
        slot_bytes = call.x_rows * BOX_ROW_BYTES;
    int x_offset = S::HALVES == 2 ? group * 64 * BOX_ROW_BYTES : 0;
    int first_box = S::TEAMS == 2 ? group : 0, old_stage = -1, old_slot = -1;
    bool own_half = S::HALVES * S::TEAMS == 1; /* of W's rows */
    uint64_t x = describe(shared.x + x_offset, 8 * BOX_ROW_BYTES);
    uint64_t weight = describe(shared.weight[0][own_half ? group : 0], S::EIGHT_BYTES);
    for (int chunk = 0; chunk < n_chunks; chunk++) {
        if (!own_half || group == 0) barrier_wait(&shared.full[at.stage][0], at.parity);
        if (!own_half || group == 1) barrier_wait(&shared.full[at.stage][1], at.parity);
#pragma unroll
        for (int step = 0; step < S::BOXES; step += S::TEAMS) {
            barrier_wait(&shared.x_full[at.slot], at.x_parity);
            wgmma_fence();
#pragma unroll
            for (int k = 0; k < 4; k++)
                wgmma<S::WIDTH>::add(sums, x + (uint64_t)(at.slot * slot_bytes / 16 + 2 * k),
                                     weight + (uint64_t)((at.stage * 2 * S::HALF_BYTES +
                                                          (first_box + step) * 8 * BOX_ROW_BYTES) /
                                                             16 +
                                                         2 * k));
            wgmma_commit();
            wgmma_wait<1>(); /* the box before */
            if (step == 0 && old_stage >= 0 && lane == 0) barrier_arrive(&shared.empty[old_stage]);
            if (old_slot >= 0 && lane == 0) barrier_arrive(&shared.x_empty[old_slot]);
            old_slot = at.slot;
            at.slot += S::TEAMS;
            if (at.slot >= call.n_slots) at.slot -= call.n_slots, at.x_parity ^= 1;
        }
        old_stage = at.stage;
        if (++at.stage == S::STAGES) at.stage = 0, at.parity ^= 1;
    }
    wgmma_wait<0>();
    if (old_stage >= 0 && lane == 0) {
        barrier_arrive(&shared.empty[old_stage]);
        barrier_arrive(&shared.x_empty[old_slot]);
    }
}

/* What the gates and ups of a group come to: its half of them, or both. */
template <class S>
__device__ __forceinline__ void put_gated(const stout_call &call, int row, int column,
                                          const float (&sums)[S::EIGHTS][4]) {
    constexpr int N = S::ROWS / 32; /* eights of gates, and of ups, in a half */
#pragma unroll
    for (int half = 0; half < S::EIGHTS / (2 * N); half++) {
        float y[N][4];
#pragma unroll
        for (int k = 0; k < N; k++)
#pragma unroll
            for (int at = 0; at < 4; at++)
                y[k][at] = swiglu_of(as_bf16(sums[2 * half * N + k][at]),
                                     as_bf16(sums[(2 * half + 1) * N + k][at]));
        put_eights<N>(call, row, column + half * 8 * N, call.product.n, y);
    }
}

template <class S, bool GATED>
__device__ void multiply_passes(const stout_call &call, stout_shared<S> &shared,
                                const stout_share<S, GATED> &share) {
    int group = threadIdx.x / GROUP;
    int row =
        (S::HALVES == 2 ? group * 64 : 0) + threadIdx.x % GROUP / 32 * 16 + threadIdx.x % 32 / 4;
    stout_place at = {0, S::TEAMS == 2 ? group : 0, 0, 0};
    for (int pass = 0; pass < call.n_passes; pass++) {
        float sums[S::EIGHTS][4] = {};
        multiply<S>(call, shared, share.n_chunks, at, sums);
        int column = share.column_of(pass);
        if (S::WIDTH < S::ROWS) column += group * (PASS<S, GATED> / 2);
        if constexpr (GATED) {
            put_gated<S>(call, row, column, sums);
        } else if constexpr (S::SPLIT == 1) {
            put_eights<S::EIGHTS>(call, row, column, call.product.n, sums);
        } else {
            finish_parts<S>(call, shared, sums, row, column);
        }
    }
}

/* ---- one launch -------------------------------------------------------------------------------
 */

template <class S, bool GATED>
__global__ void __cluster_dims__(S::SPLIT, 1, 1) __maxnreg__(S::REGISTERS)
    stout_kernel(const __grid_constant__ CUtensorMap weight, const __grid_constant__ CUtensorMap x,
                 const stout_call call) {
    extern __shared__ __align__(1024) unsigned char memory[];
    stout_shared<S> &shared = *(stout_shared<S> *)memory;
    if (threadIdx.x == MULTIPLYING) {
        for (int stage = 0; stage < S::STAGES; stage++) {
            barrier_init(&shared.full[stage][0], 1);
            barrier_init(&shared.full[stage][1], 1);
            barrier_init(&shared.empty[stage], MULTIPLYING / 32);
        }
        for (int slot = 0; slot < call.n_slots; slot++) {
            barrier_init(&shared.x_full[slot], 1);
            barrier_init(&shared.x_empty[slot], MULTIPLYING / 32 / S::TEAMS);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    stout_share<S, GATED> share(call);
    if (threadIdx.x < MULTIPLYING) {
        multiply_passes<S, GATED>(call, shared, share);
        return;
    }
    if (threadIdx.x == MULTIPLYING) read_weight<S, GATED>(call, &weight, shared, share);
    if (threadIdx.x == MULTIPLYING + 32) read_x<S, GATED>(call, &x, shared, share);
    if constexpr (S::SPLIT > 1) { /* finish_parts */
        cluster_meet();
        cluster_meet();
    }
}

/* Rows of W that a processor multiplies, in all its passes; many where K is cut and blocks do not
 * fit at once. */
template <class S> static int busy_rows(int n, int n_processors) {
    int n_clusters = n_processors / S::SPLIT, n_tiles = (n + S::ROWS - 1) / S::ROWS;
    int n_passes = (n_tiles + n_clusters - 1) / n_clusters;
    return S::SPLIT > 1 && n_passes > 1 ? n : n_passes * S::ROWS / S::SPLIT;
}

/* The instances that there are: for up to 64 rows, and up to 128; with K cut, and alone. */
template <class... S> struct instances {};
template <class... A, class... B>
constexpr instances<A..., B...> either(instances<A...>, instances<B...>) {
    return {};
}
typedef instances<stout<32, 2, 1, 8, 2, 64>, stout<48, 2, 1, 4, 3, 64>, stout<64, 2, 1, 4, 2, 64>,
                  stout<96, 2, 1, 2, 4, 64>, stout<128, 2, 1, 2, 4, 48>, stout<160, 2, 1, 2, 4, 48>,
                  stout<192, 2, 1, 2, 3, 48>>
    cut_up_to_64;
typedef instances<stout<128, 1, 1, 2, 4, 48>, stout<160, 1, 1, 2, 4, 48>,
                  stout<192, 1, 1, 2, 3, 48>, stout<224, 1, 1, 2, 3, 48>>
    alone_up_to_64;
typedef instances<stout<64, 2, 2, 4, 2, 80>, stout<96, 2, 2, 2, 4, 96>, stout<128, 2, 2, 2, 3, 96>,
                  stout<160, 2, 2, 2, 3, 64>, stout<192, 2, 2, 2, 3, 64>>
    cut_up_to_128;
typedef instances<stout<128, 1, 2, 2, 4, 64>, stout<160, 1, 2, 2, 3, 64>,
                  stout<192, 1, 2, 2, 3, 64>, stout<224, 1, 2, 2, 3, 48>>
    alone_up_to_128;
typedef decltype(either(cut_up_to_64(), alone_up_to_64())) up_to_64;
typedef decltype(either(cut_up_to_128(), alone_up_to_128())) up_to_128;

/* Do it for the one that shares W best, if that is to 15 percent. */
template <class... S, typename Do>
static bool for_best(instances<S...>, int n, int n_processors, Do act) {
    int least = n;
    bool done = false;
    ((least = min(least, busy_rows<S>(n, n_processors))), ...);
    if ((long)least * n_processors * 85 > (long)n * 100) return false;
    ((!done && busy_rows<S>(n, n_processors) == least ? (act.template operator()<S>(), done = true)
                                                      : false),
     ...);
    return true;
}

template <bool GATED> struct launch_stout {
    struct device *device;
    struct product_call product;
    bool out_aligned;
    const struct weight *weight;
    const void *x;
    int x_stride;
    template <class S> void operator()() const {
        int n_clusters = device->n_processors / S::SPLIT;
        int n_tiles = (product.n + PASS<S, GATED> - 1) / PASS<S, GATED>;
        stout_call call = {product, out_aligned};
        call.x_rows = (product.n_rows + 7) / 8 * 8;
        call.n_slots = min((int)MOST_SLOTS, S::X_BYTES / (call.x_rows * BOX_ROW_BYTES));
        call.n_passes = (n_tiles + n_clusters - 1) / n_clusters;
        /* W as eights of rows: (N / 8, K / BOX, 8, BOX) */
        cuuint64_t row_bytes = (cuuint64_t)weight->stride * 2;
        struct tiling tiling = {4,
                                weight->matrix,
                                {BOX, 8, (cuuint64_t)product.n_boxes, (cuuint64_t)weight->rows / 8},
                                {row_bytes, BOX_ROW_BYTES, 8 * row_bytes},
                                {BOX, 8, S::BOXES, PASS<S, GATED> / 16}};
        struct matrix_shape rows = {product.n_rows, weight->columns, x_stride};
        launch_following(device, stout_kernel<S, GATED>,
                         (unsigned)(min(n_tiles, n_clusters) * S::SPLIT), THREADS,
                         sizeof(stout_shared<S>), tensor_map(device, &tiling),
                         row_map(device, x, rows, call.x_rows, 1), call);
    }
};

/* n: columns of the output. */
static bool is_stout(int n_rows, int n, const struct weight *weight) {
    return n_rows >= LEAST_ROWS && n_rows <= MOST_ROWS && weight->rows <= MOST_COLUMNS &&
           n % 8 == 0 && weight->columns % BOX == 0;
}

template <bool GATED>
static launch_stout<GATED> launch_of(struct device *device, int n_rows, int n,
                                     const struct value *out, const __nv_bfloat16 *x, int x_stride,
                                     const struct weight *weight, const float *bias) {
    return {device,
            {n, n_rows, weight->columns / BOX, value_data(out), out->stride,
             out->element == ELEMENT_F32, bias},
            is_multiple(out, 16),
            weight,
            x,
            x_stride};
}

bool stout_matmul(struct device *device, int n_rows, const struct value *out,
                  const __nv_bfloat16 *x, int x_stride, const struct weight *weight,
                  const float *bias) {
    int n = weight->rows, n_processors = device->n_processors;
    if (!is_stout(n_rows, n, weight)) return false;
    auto launch = launch_of<false>(device, n_rows, n, out, x, x_stride, weight, bias);
    return n_rows <= 64 ? for_best(up_to_64(), n, n_processors, launch)
                        : for_best(up_to_128(), n, n_processors, launch);
}

bool stout_swiglu(struct device *device, int n_rows, const struct value *out,
                  const __nv_bfloat16 *x, int x_stride, const struct weight *weight) {
    int n = weight->rows, n_processors = device->n_processors;
    if (!is_stout(n_rows, n / 2, weight)) return false;
    auto launch = launch_of<true>(device, n_rows, n / 2, out, x, x_stride, weight, NULL);
    return n_rows <= 64 ? for_best(alone_up_to_64(), n, n_processors, launch)
                        : for_best(alone_up_to_128(), n, n_processors, launch);
}

template <bool GATED, class... S> static void allow(instances<S...>) {
    (CHECK_CUDA(cudaFuncSetAttribute(stout_kernel<S, GATED>,
                                     cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     sizeof(stout_shared<S>))),
     ...);
}

void stout_prepare(void) {
    allow<false>(up_to_64());
    allow<false>(up_to_128());
    allow<true>(alone_up_to_64());
    allow<true>(alone_up_to_128());
}
