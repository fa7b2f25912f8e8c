/* rows.cu - the operators that treat each row by itself and read no matrix: embed, norm, rope, add,
 * swiglu, pick (device.h).
 *
 * All are bound by memory or by launching: a block a row, or a thread an element of a flattened
 * (rows, columns). Sums are f32 in a fixed tree, so a row's result does not depend on its neighbours.
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
                             int context, const int32_t *n_live) {
    int row = blockIdx.x;
    int32_t token = id[row];
    if (token < 0) token = before[-1 - token];
    if (history && threadIdx.x == 0 && row < *n_live)
        history[(size_t)sequence[row] * context + position[row]] = token;
    const __nv_bfloat16 *from = table + (size_t)token * table_stride;
    for (int k = threadIdx.x; k < columns; k += blockDim.x)
        out[(size_t)row * out_stride + k] = from_float<T>(to_float(from[k]));
}

void cuda_embed(struct device *device, const struct rows *rows, struct value out,
                const struct weight *table) {
    const struct cuda_rows *at = &device->rows[rows->slot];
    const int32_t *before = sample_tokens(device, rows->slot, rows->step + 1);
    int n_rows = launch_rows(device, rows->n_rows);
    if (n_rows == 0) return;
    WITH_TYPE(out.element, T,
              (embed_kernel<T><<<n_rows, ROW_THREADS, 0, device->stream>>>(
                  (T *)value_data(&out), out.stride, table->matrix, table->stride, table->columns,
                  at->id, at->position, at->sequence, before, sample_history(device),
                  device->limits.context, at->n_live)));
    CHECK_LAUNCH();
}

/* ---- norm: groups of columns, a block each ----------------------------------------------------
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
    const From *from = x + (size_t)blockIdx.x * x_stride + (size_t)blockIdx.y * group;
    To *to = out + (size_t)blockIdx.x * out_stride + (size_t)blockIdx.y * group;
    float sum = 0;
    for (int k = threadIdx.x; k < group; k += blockDim.x)
        sum = fmaf(to_float(from[k]), to_float(from[k]), sum);
    float scale = 1.0f / sqrtf(block_sum(sum) / group + eps);
    for (int k = threadIdx.x; k < group; k += blockDim.x)
        to[k] = from_float<To>(to_float(from[k]) * scale * weight[k]);
}

void cuda_norm(struct device *device, int n_rows, struct value out, struct value x,
               const struct weight *weight, float eps) {
    n_rows = launch_rows(device, n_rows);
    if (n_rows == 0) return;
    dim3 grid((unsigned)n_rows, (unsigned)(x.columns / weight->columns));
    int n_threads = weight->columns <= 64 ? 32 : weight->columns <= 2048 ? 256 : 512;
    WITH_TYPE(out.element, To,
              WITH_TYPE(x.element, From,
                        (norm_kernel<To, From><<<grid, n_threads, 0, device->stream>>>(
                            (To *)value_data(&out), out.stride, (const From *)value_data(&x),
                            x.stride, weight->vector, weight->columns, eps))));
    CHECK_LAUNCH();
}

/* ---- rope: a thread a pair or a pair of columns that do not turn ------------------------------
 */

template <class To, class From>
__global__ void rope_kernel(To *out, int out_stride, const From *x, int x_stride, int n_rows,
                            struct rope_shape shape, const float *table,
                            const int32_t *position) {
    int half = shape.head_dim / 2, turning = shape.n_rotated / 2;
    size_t at = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= (size_t)n_rows * shape.n_heads * half) return;
    int pair = (int)(at % half), head = (int)(at / half % shape.n_heads);
    size_t row = at / half / shape.n_heads;
    const From *from = x + row * x_stride + (size_t)head * shape.head_dim;
    To *to = out + row * out_stride + (size_t)head * shape.head_dim;
    if (pair >= turning) { /* behind those that turn: two columns as they are */
        to[2 * pair] = from_float<To>(to_float(from[2 * pair]));
        to[2 * pair + 1] = from_float<To>(to_float(from[2 * pair + 1]));
        return;
    }
    const float *angles = table + (size_t)position[row] * shape.n_rotated;
    int a = shape.interleaved ? 2 * pair : pair, b = shape.interleaved ? a + 1 : a + turning;
    float xa = to_float(from[a]), xb = to_float(from[b]);
    float cosine = angles[pair], sine = angles[turning + pair];
    to[a] = from_float<To>(fmaf(xa, cosine, -(xb * sine)));
    to[b] = from_float<To>(fmaf(xa, sine, xb * cosine));
}

void cuda_rope(struct device *device, const struct rows *rows, struct value out, struct value x,
               struct rope_shape shape, const struct weight *table) {
    int n_rows = launch_rows(device, rows->n_rows);
    size_t n = (size_t)n_rows * (size_t)shape.n_heads * (size_t)(shape.head_dim / 2);
    if (n == 0) return;
    REQUIRE(shape.head_dim % 2 == 0, "heads of %d", shape.head_dim);
    WITH_TYPE(out.element, To,
              WITH_TYPE(x.element, From,
                        (rope_kernel<To, From><<<blocks_for(n), ROW_THREADS, 0, device->stream>>>(
                            (To *)value_data(&out), out.stride, (const From *)value_data(&x),
                            x.stride, n_rows, shape, table->vector,
                            device->rows[rows->slot].position))));
    CHECK_LAUNCH();
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
        return gate / (1.0f + expf(-gate)) * up;
    }
};

template <class To, class A, class B, class F>
__global__ void pair_kernel(To *out, int out_stride, const A *a, int a_stride, const B *b,
                            int b_stride, int columns, size_t n, F f) {
    size_t at = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= n) return;
    size_t row = at / columns, k = at % columns;
    out[row * out_stride + k] =
        from_float<To>(f(to_float(a[row * a_stride + k]), to_float(b[row * b_stride + k])));
}

template <class F>
static void run_pairs(struct device *device, int n_rows, const struct value *out,
                      const struct value *a, const struct value *b, F f) {
    size_t n = (size_t)launch_rows(device, n_rows) * (size_t)a->columns;
    if (n == 0) return;
    WITH_TYPE(out->element, To,
              WITH_TYPE(a->element, A,
                        WITH_TYPE(b->element, B,
                                  (pair_kernel<To, A, B>
                                   <<<blocks_for(n), ROW_THREADS, 0, device->stream>>>(
                                       (To *)value_data(out), out->stride,
                                       (const A *)value_data(a), a->stride,
                                       (const B *)value_data(b), b->stride, a->columns, n, f)))));
    CHECK_LAUNCH();
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
    const T *from = x + (size_t)picked[blockIdx.x] * x_stride;
    for (int k = threadIdx.x; k < columns; k += blockDim.x)
        out[(size_t)blockIdx.x * out_stride + k] = from[k];
}

void cuda_pick(struct device *device, const struct rows *rows, struct value out, struct value x) {
    int n_picked = launch_rows(device, rows->n_picked);
    if (n_picked == 0) return;
    WITH_TYPE(x.element, T,
              (pick_kernel<T><<<n_picked, ROW_THREADS, 0, device->stream>>>(
                  (T *)value_data(&out), out.stride, (const T *)value_data(&x), x.stride, x.columns,
                  device->rows[rows->slot].picked)));
    CHECK_LAUNCH();
}
