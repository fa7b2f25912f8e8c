/* rows.cu - the operators that treat each row by itself and read no matrix: embed, norm, add, swiglu,
 * pick (device.h).
 *
 * All are bound by memory or by launching: a block a row, or a thread an element of a flattened
 * (rows, columns), or eight elements where rows are bf16 and aligned, as between operators of a model. Sums are f32 in a fixed tree, so a row's result does not depend on its neighbours.
 */
#include "cuda_device.h"

enum { ROW_THREADS = 256 };

static unsigned blocks_for(size_t n_elements) {
    return (unsigned)((n_elements + ROW_THREADS - 1) / ROW_THREADS);
}

/* ---- embed: out (rows, columns) = table[id]; ids below 0 are tokens of the step before ---------
 */

template <class T>
__global__ void embed_kernel(T *out, int out_stride, const __nv_bfloat16 *table, int table_stride,
                             int columns, const int32_t *id, const int32_t *position,
                             const int32_t *sequence, const int32_t *before, int32_t *history,
                             int context, const int32_t *n_live, struct gap_clock *clock) {
    follow_on();
    int64_t now = device_now_ns();
    int row = blockIdx.x;
    int32_t token = id[row];
    if (token < 0) token = before[-1 - token];
    if (history && threadIdx.x == 0 && row < *n_live)
        history[(size_t)sequence[row] * context + position[row]] = token;
    const __nv_bfloat16 *from = table + (size_t)token * table_stride;
    for (int k = threadIdx.x; k < columns; k += blockDim.x)
        out[(size_t)row * out_stride + k] = from_float<T>(to_float(from[k]));
    if (row == 0 && threadIdx.x == 0) gap_ends(clock, now);
}

void cuda_embed(struct device *device, const struct rows *rows, struct value out,
                const struct weight *table) {
    const struct cuda_rows *at = &device->rows[rows->slot];
    const int32_t *before = sample_tokens(device, rows->slot, rows->step + 1);
    int n_rows = launch_rows(device, rows->n_rows);
    if (n_rows == 0) return;
    WITH_TYPE(out.element, T,
              launch_following(device, embed_kernel<T>, (unsigned)n_rows, ROW_THREADS, 0,
                               (T *)value_data(&out), out.stride, table->matrix, table->stride,
                               table->columns, at->id, at->position, at->sequence, before,
                               sample_history(device), device->limits.context, at->n_live,
                               sample_gap_clock(device)));
}

/* ---- norm: groups of columns, a block each; and what is added before ---------------------------
 */

__device__ inline float block_sum(float x) {
    __shared__ float part[32];
    for (int apart = 16; apart > 0; apart /= 2)
        x += __shfl_xor_sync(0xffffffff, x, apart);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = x;
    __syncthreads();
    x = threadIdx.x % 32 < blockDim.x / 32 ? part[threadIdx.x % 32] : 0;
    for (int apart = 16; apart > 0; apart /= 2)
        x += __shfl_xor_sync(0xffffffff, x, apart);
    return x;
}

template <class To, class From>
__global__ void norm_kernel(To *out, int out_stride, const From *x, int x_stride,
                            const float *weight, int group, float eps) {
    follow_on();
    const From *from = x + (size_t)blockIdx.x * x_stride + (size_t)blockIdx.y * group;
    To *to = out + (size_t)blockIdx.x * out_stride + (size_t)blockIdx.y * group;
    float sum = 0;
    for (int k = threadIdx.x; k < group; k += blockDim.x)
        sum = fmaf(to_float(from[k]), to_float(from[k]), sum);
    float scale = 1.0f / sqrtf(block_sum(sum) / group + eps);
    for (int k = threadIdx.x; k < group; k += blockDim.x)
        to[k] = from_float<To>(to_float(from[k]) * scale * weight[k]);
}

/* A row a block, kept in registers: a thread has EIGHTS times eight columns. With b the row is a + b,
 * rounded as `sum` keeps it. */
template <int EIGHTS>
__global__ void norm_row_kernel(__nv_bfloat16 *out, int out_stride, __nv_bfloat16 *sum,
                                int sum_stride, const __nv_bfloat16 *a, int a_stride,
                                const __nv_bfloat16 *b, int b_stride, const float *weight,
                                int columns, float eps) {
    follow_on();
    size_t row = blockIdx.x;
    struct eight x[EIGHTS];
    float squares = 0;
#pragma unroll
    for (int n = 0; n < EIGHTS; n++) {
        int column = 8 * (int)(threadIdx.x + n * blockDim.x);
        if (column >= columns) continue;
        x[n] = load_eight(a + row * a_stride + column);
        if (b) {
            struct eight y = load_eight(b + row * b_stride + column);
#pragma unroll
            for (int k = 0; k < 8; k++)
                x[n].x[k] = to_float(__float2bfloat16_rn(x[n].x[k] + y.x[k]));
            store_eight(sum + row * sum_stride + column, x[n]);
        }
#pragma unroll
        for (int k = 0; k < 8; k++)
            squares = fmaf(x[n].x[k], x[n].x[k], squares);
    }
    float scale = 1.0f / sqrtf(block_sum(squares) / columns + eps);
#pragma unroll
    for (int n = 0; n < EIGHTS; n++) {
        int column = 8 * (int)(threadIdx.x + n * blockDim.x);
        if (column >= columns) continue;
        float4 low = *(const float4 *)(weight + column), high = *(const float4 *)(weight + column + 4);
        float w[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
        for (int k = 0; k < 8; k++)
            x[n].x[k] *= scale * w[k];
        store_eight(out + row * out_stride + column, x[n]);
    }
}

enum { NORM_THREADS = 512, MOST_NORM_COLUMNS = 4 * 8 * NORM_THREADS };

/* out = norm of a, or of a + b, which goes to `sum`; all of eights. */
static void norm_rows(struct device *device, int n_rows, const struct value *out,
                      const struct value *sum, const struct value *a, const struct value *b,
                      const struct weight *weight, float eps) {
    typedef __nv_bfloat16 T;
    int columns = a->columns, eights = (columns / 8 + NORM_THREADS - 1) / NORM_THREADS;
    int threads = eights > 1 ? NORM_THREADS : (columns / 8 + 31) / 32 * 32;
    launch_following(device,
                     eights == 1   ? norm_row_kernel<1>
                     : eights == 2 ? norm_row_kernel<2>
                                   : norm_row_kernel<4>,
                     (unsigned)n_rows, (unsigned)threads, 0, (T *)value_data(out), out->stride,
                     b ? (T *)value_data(sum) : NULL, b ? sum->stride : 0,
                     (const T *)value_data(a), a->stride, b ? (const T *)value_data(b) : NULL,
                     b ? b->stride : 0, weight->vector, columns, eps);
}

void cuda_norm(struct device *device, int n_rows, struct value out, struct value x,
               const struct weight *weight, float eps) {
    n_rows = launch_rows(device, n_rows);
    if (n_rows == 0) return;
    if (weight->columns == x.columns && x.columns <= MOST_NORM_COLUMNS && is_eights(&x) &&
        is_eights(&out)) {
        norm_rows(device, n_rows, &out, NULL, &x, NULL, weight, eps);
        return;
    }
    dim3 grid((unsigned)n_rows, (unsigned)(x.columns / weight->columns));
    int n_threads = weight->columns <= 64 ? 32 : weight->columns <= 2048 ? 256 : 512;
    WITH_TYPE(out.element, To,
              WITH_TYPE(x.element, From,
                        launch_following(device, norm_kernel<To, From>, grid, (unsigned)n_threads,
                                         0, (To *)value_data(&out), out.stride,
                                         (const From *)value_data(&x), x.stride, weight->vector,
                                         weight->columns, eps)));
}

void cuda_add_norm(struct device *device, int n_rows, struct value sum, struct value out,
                   struct value a, struct value b, const struct weight *weight, float eps) {
    bool fit = weight->columns == a.columns && a.columns <= MOST_NORM_COLUMNS && is_eights(&a) &&
               is_eights(&b) && is_eights(&sum) && is_eights(&out);
    if (!fit) {
        cuda_add(device, n_rows, sum, a, b);
        cuda_norm(device, n_rows, out, sum, weight, eps);
    } else if (n_rows > 0) {
        norm_rows(device, launch_rows(device, n_rows), &out, &sum, &a, &b, weight, eps);
    }
}

/* ---- add, swiglu, pick: a thread an element ---------------------------------------------------
 */

struct add_pair {
    __device__ float operator()(float a, float b) const {
        return a + b;
    }
};
struct swiglu_pair {
    __device__ float operator()(float gate, float up) const {
        return swiglu_of(gate, up);
    }
};

template <class To, class A, class B, class F>
__global__ void pair_kernel(To *out, int out_stride, const A *a, int a_stride, const B *b,
                            int b_stride, int columns, size_t n, F f) {
    follow_on();
    size_t at = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= n) return;
    size_t row = at / columns, k = at % columns;
    out[row * out_stride + k] =
        from_float<To>(f(to_float(a[row * a_stride + k]), to_float(b[row * b_stride + k])));
}

/* A row is blockIdx.y. */
template <class F>
__global__ void pair_eights_kernel(__nv_bfloat16 *out, int out_stride, const __nv_bfloat16 *a,
                                   int a_stride, const __nv_bfloat16 *b, int b_stride, int columns,
                                   F f) {
    follow_on();
    int column = 8 * (int)(blockIdx.x * blockDim.x + threadIdx.x);
    size_t row = blockIdx.y;
    if (column >= columns) return;
    struct eight x = load_eight(a + row * a_stride + column);
    struct eight y = load_eight(b + row * b_stride + column);
#pragma unroll
    for (int k = 0; k < 8; k++)
        x.x[k] = f(x.x[k], y.x[k]);
    store_eight(out + row * out_stride + column, x);
}

template <class F>
static void run_pairs(struct device *device, int n_rows, const struct value *out,
                      const struct value *a, const struct value *b, F f) {
    enum { MOST_GRID_ROWS = 65535 };
    n_rows = launch_rows(device, n_rows);
    size_t n = (size_t)n_rows * (size_t)a->columns;
    if (n == 0) return;
    if (is_eights(out) && is_eights(a) && is_eights(b) && n_rows <= MOST_GRID_ROWS) {
        typedef __nv_bfloat16 T;
        dim3 grid(blocks_for((size_t)a->columns / 8), (unsigned)n_rows);
        launch_following(device, pair_eights_kernel<F>, grid, ROW_THREADS, 0,
                         (T *)value_data(out), out->stride, (const T *)value_data(a), a->stride,
                         (const T *)value_data(b), b->stride, a->columns, f);
        return;
    }
    WITH_TYPE(out->element, To,
              WITH_TYPE(a->element, A,
                        WITH_TYPE(b->element, B,
                                  launch_following(
                                      device, pair_kernel<To, A, B, F>, blocks_for(n), ROW_THREADS,
                                      0, (To *)value_data(out), out->stride,
                                      (const A *)value_data(a), a->stride,
                                      (const B *)value_data(b), b->stride, a->columns, n, f))));
}

void cuda_add(struct device *device, int n_rows, struct value out, struct value a,
              struct value b) {
    run_pairs(device, n_rows, &out, &a, &b, add_pair());
}

void cuda_swiglu(struct device *device, int n_rows, struct value out, struct value gate,
                 struct value up) {
    run_pairs(device, n_rows, &out, &gate, &up, swiglu_pair());
}

template <class T>
__global__ void pick_kernel(T *out, int out_stride, const T *x, int x_stride, int columns,
                            const int32_t *picked) {
    follow_on();
    const T *from = x + (size_t)picked[blockIdx.x] * x_stride;
    for (int k = threadIdx.x; k < columns; k += blockDim.x)
        out[(size_t)blockIdx.x * out_stride + k] = from[k];
}

void cuda_pick(struct device *device, const struct rows *rows, struct value out, struct value x) {
    int n_picked = launch_rows(device, rows->n_picked);
    if (n_picked == 0) return;
    WITH_TYPE(x.element, T,
              launch_following(device, pick_kernel<T>, (unsigned)n_picked, ROW_THREADS, 0,
                               (T *)value_data(&out), out.stride, (const T *)value_data(&x),
                               x.stride, x.columns, device->rows[rows->slot].picked));
}
