/* matmul.cu - out (rows, N) = x (rows, K) W^T + bias through cuBLASLt (device.h), or through skinny.cu
 * or stout.cu where they say so.
 *
 * cuBLASLt sees columns first: out^T (N, rows) = W (N, K) x^T (K, rows), W transposed. What it needs is
 * prepared where a value does not give it: x becomes bf16 with rows of a multiple of 8 elements, an
 * output that is not aligned goes through scratch. Between operators of a model neither happens. The
 * algorithm for each (N, K, rows, type of out) is asked for once and kept. For numbers of rows that
 * come again all through a run (replay.cu's) all that cuBLASLt proposes is timed, with caches that
 * hold something else, as a step leaves them: its first proposal is at times a fifth slower than its
 * best. What was found so is kept for later runs (kernel_cache.h).
 */
#include <cublasLt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_device.h"

extern "C" {
#include "kernel_cache.h"
#include "log.h"
}

#define CHECK_CUBLAS(call)                                                                         \
    do {                                                                                           \
        cublasStatus_t status = (call);                                                            \
        if (status != CUBLAS_STATUS_SUCCESS)                                                       \
            check_fail("%s:%d: %s: %s", __FILE__, __LINE__, #call,                                 \
                       cublasLtGetStatusString(status));                                           \
    } while (0)

enum { WORKSPACE_BYTES = 32 << 20, MOST_KEPT = 4096 };
enum { PROPOSALS = 16, TIMINGS = 3, FLUSH_BYTES = 128 << 20 /* twice an H200's L2 */ };
/* To be raised when other kernels are timed, or in another way: what was kept is then found anew. */
enum { SEARCH = 1 };

/* A product that was asked for before. */
struct matmul_plan {
    int n, k, n_rows, x_stride, out_stride, weight_stride;
    enum element out;
    cublasLtMatmulAlgo_t algorithm;
};

struct matmuls {
    cublasLtHandle_t handle;
    void *workspace;
    void *flush; /* (FLUSH_BYTES) written between timings */
    cudaEvent_t begin, end;
    struct kernel_cache *cache;
    int n_recalled, n_timed;
    int n_plans;
    struct matmul_plan *plan; /* (MOST_KEPT) */
    __nv_bfloat16 *x;         /* x where it is not fit as it is */
    size_t x_elements;
    float *out; /* likewise out */
    size_t out_elements;
};

int matmul_version(void) {
    return (int)cublasLtGetVersion();
}

size_t matmul_bytes(void) {
    return (size_t)WORKSPACE_BYTES + FLUSH_BYTES;
}

/* All that a choice depends on beside the shape. */
static struct kernel_cache *open_cache(const struct device *device) {
    char key[KERNEL_KEY_BYTES];
    int index, driver;
    struct cudaDeviceProp properties;
    CHECK_CUDA(cudaGetDevice(&index));
    CHECK_CUDA(cudaGetDeviceProperties(&properties, index));
    CHECK_CUDA(cudaDriverGetVersion(&driver));
    snprintf(key, sizeof key, "%.100s, %d processors, driver %d, cuBLAS %d, search %d",
             properties.name, properties.multiProcessorCount, driver, matmul_version(),
             (int)SEARCH);
    return kernel_cache_open(device->options.cache_folder, key);
}

void matmul_prepare(struct device *device) {
    struct matmuls *matmuls = (struct matmuls *)check_alloc(1, sizeof *matmuls);
    CHECK_CUBLAS(cublasLtCreate(&matmuls->handle));
    CHECK_CUDA(cudaMalloc(&matmuls->workspace, WORKSPACE_BYTES));
    CHECK_CUDA(cudaMalloc(&matmuls->flush, FLUSH_BYTES));
    CHECK_CUDA(cudaEventCreate(&matmuls->begin));
    CHECK_CUDA(cudaEventCreate(&matmuls->end));
    matmuls->cache = open_cache(device);
    matmuls->plan = (struct matmul_plan *)check_alloc(MOST_KEPT, sizeof *matmuls->plan);
    device->matmuls = matmuls;
    tensor_map_prepare(device);
    skinny_prepare();
    stout_prepare();
}

void matmul_close(struct device *device) {
    struct matmuls *matmuls = device->matmuls;
    if (!matmuls) return;
    CHECK_CUBLAS(cublasLtDestroy(matmuls->handle));
    CHECK_CUDA(cudaFree(matmuls->workspace));
    CHECK_CUDA(cudaFree(matmuls->flush));
    CHECK_CUDA(cudaEventDestroy(matmuls->begin));
    CHECK_CUDA(cudaEventDestroy(matmuls->end));
    if (matmuls->x) CHECK_CUDA(cudaFree(matmuls->x));
    if (matmuls->out) CHECK_CUDA(cudaFree(matmuls->out));
    kernel_cache_close(matmuls->cache);
    if (matmuls->n_recalled + matmuls->n_timed > 0)
        log_info("kernels of products: %d as kept by earlier runs, %d found by timing",
                 matmuls->n_recalled, matmuls->n_timed);
    free(matmuls->plan);
    free(matmuls);
    tensor_map_close(device);
}

/* ---- values that are not fit as they are ------------------------------------------------------
 */

template <class From>
__global__ void narrow_kernel(__nv_bfloat16 *to, int to_stride, const From *from, int from_stride,
                              int columns) {
    for (int k = threadIdx.x; k < to_stride; k += blockDim.x)
        to[(size_t)blockIdx.x * to_stride + k] =
            k < columns ? from_float<__nv_bfloat16>(to_float(from[(size_t)blockIdx.x * from_stride + k]))
                        : from_float<__nv_bfloat16>(0);
}

template <class To>
__global__ void spread_kernel(To *to, int to_stride, const float *from, int from_stride,
                              const float *bias, int columns) {
    for (int k = threadIdx.x; k < columns; k += blockDim.x)
        to[(size_t)blockIdx.x * to_stride + k] = from_float<To>(
            from[(size_t)blockIdx.x * from_stride + k] + (bias ? bias[k] : 0.0f));
}

/* Scratch of (rows, columns) for as many rows as a step can have. Graphs that were recorded with an
 * earlier one are given up. */
template <class T>
static T *grow(struct device *device, T **scratch, size_t *n_elements, int n_rows, int columns) {
    int most = n_rows > device->limits.max_rows ? n_rows : device->limits.max_rows;
    size_t wanted = (size_t)most * (size_t)columns;
    if (*n_elements < wanted) {
        replay_forget(device);
        if (*scratch) CHECK_CUDA(cudaFree(*scratch));
        CHECK_CUDA(cudaMalloc((void **)scratch, wanted * sizeof(T)));
        /* compute-sanitizer does not see what cuBLAS stores in bulk and calls it uninitialised */
        CHECK_CUDA(cudaMemsetAsync(*scratch, 0, wanted * sizeof(T), device->stream));
        *n_elements = wanted;
    }
    return *scratch;
}

static bool is_fit(const struct value *value, int columns_of_vector) {
    size_t address = (size_t)value_data(value), size = element_bytes(value->element);
    return address % 16 == 0 && (size_t)value->stride * size % 16 == 0 &&
           value->columns % columns_of_vector == 0;
}

/* ---- the product ------------------------------------------------------------------------------
 */

/* How cuBLASLt is told of one product. */
struct layouts {
    cublasLtMatmulDesc_t operation;
    cublasLtMatrixLayout_t weight, x, out;
};

static void open_layouts(struct layouts *layouts, const struct matmul_plan *plan) {
    cublasOperation_t transposed = CUBLAS_OP_T;
    cudaDataType_t type = plan->out == ELEMENT_F32 ? CUDA_R_32F : CUDA_R_16BF;
    CHECK_CUBLAS(cublasLtMatmulDescCreate(&layouts->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    CHECK_CUBLAS(cublasLtMatmulDescSetAttribute(layouts->operation, CUBLASLT_MATMUL_DESC_TRANSA,
                                                &transposed, sizeof transposed));
    CHECK_CUBLAS(cublasLtMatrixLayoutCreate(&layouts->weight, CUDA_R_16BF, (uint64_t)plan->k,
                                            (uint64_t)plan->n, plan->weight_stride));
    CHECK_CUBLAS(cublasLtMatrixLayoutCreate(&layouts->x, CUDA_R_16BF, (uint64_t)plan->k,
                                            (uint64_t)plan->n_rows, plan->x_stride));
    CHECK_CUBLAS(cublasLtMatrixLayoutCreate(&layouts->out, type, (uint64_t)plan->n,
                                            (uint64_t)plan->n_rows, plan->out_stride));
}

static void close_layouts(struct layouts *layouts) {
    CHECK_CUBLAS(cublasLtMatrixLayoutDestroy(layouts->out));
    CHECK_CUBLAS(cublasLtMatrixLayoutDestroy(layouts->x));
    CHECK_CUBLAS(cublasLtMatrixLayoutDestroy(layouts->weight));
    CHECK_CUBLAS(cublasLtMatmulDescDestroy(layouts->operation));
}

/* What cuBLASLt proposes, at most `most`, the best first as it believes. */
static int ask(struct matmuls *matmuls, const struct layouts *layouts,
               const struct matmul_plan *plan, cublasLtMatmulHeuristicResult_t *result, int most) {
    cublasLtMatmulPreference_t preference;
    size_t workspace = WORKSPACE_BYTES;
    int n = 0;
    CHECK_CUBLAS(cublasLtMatmulPreferenceCreate(&preference));
    CHECK_CUBLAS(cublasLtMatmulPreferenceSetAttribute(
        preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace));
    CHECK_CUBLAS(cublasLtMatmulAlgoGetHeuristic(matmuls->handle, layouts->operation,
                                                layouts->weight, layouts->x, layouts->out,
                                                layouts->out, preference, most, result, &n));
    REQUIRE(n > 0, "no algorithm for a product of (%d, %d) and %d rows", plan->n, plan->k,
            plan->n_rows);
    CHECK_CUBLAS(cublasLtMatmulPreferenceDestroy(preference));
    return n;
}

/* Where a product's numbers lie. */
struct operands {
    void *out;
    const void *x, *weight;
};

static void run(struct device *device, const struct layouts *layouts,
                const cublasLtMatmulAlgo_t *algorithm, const struct operands *at) {
    struct matmuls *matmuls = device->matmuls;
    float one = 1, zero = 0;
    CHECK_CUBLAS(cublasLtMatmul(matmuls->handle, layouts->operation, &one, at->weight,
                                layouts->weight, at->x, layouts->x, &zero, at->out, layouts->out,
                                at->out, layouts->out, algorithm, matmuls->workspace,
                                WORKSPACE_BYTES, device->stream));
}

/* The fastest of several runs, in ms. */
static float time_of(struct device *device, const struct layouts *layouts,
                     const cublasLtMatmulAlgo_t *algorithm, const struct operands *at) {
    struct matmuls *matmuls = device->matmuls;
    float least = INFINITY;
    for (int timing = 0; timing < TIMINGS; timing++) {
        float ms;
        CHECK_CUDA(cudaMemsetAsync(matmuls->flush, 0, FLUSH_BYTES, device->stream));
        CHECK_CUDA(cudaEventRecord(matmuls->begin, device->stream));
        run(device, layouts, algorithm, at);
        CHECK_CUDA(cudaEventRecord(matmuls->end, device->stream));
        wait_for_event(device, matmuls->end);
        CHECK_CUDA(cudaEventElapsedTime(&ms, matmuls->begin, matmuls->end));
        least = fminf(least, ms);
    }
    return least;
}

static struct kernel_shape shape_of(const struct matmul_plan *plan) {
    struct kernel_shape shape = {};
    shape.n_rows = plan->n_rows;
    shape.n = plan->n;
    shape.k = plan->k;
    shape.x_stride = plan->x_stride;
    shape.weight_stride = plan->weight_stride;
    shape.out_stride = plan->out_stride;
    shape.x = shape.weight = ELEMENT_BF16;
    shape.out = plan->out;
    return shape;
}

/* What an earlier run found, if this library says that it computes the product in our workspace. */
static bool recall(struct matmuls *matmuls, const struct layouts *layouts,
                   const struct matmul_plan *plan, cublasLtMatmulAlgo_t *algorithm) {
    struct kernel_shape shape = shape_of(plan);
    struct kernel_choice choice;
    cublasLtMatmulHeuristicResult_t result = {};
    if (!kernel_cache_find(matmuls->cache, &shape, &choice)) return false;
    if (choice.kind != KERNEL_LIBRARY || choice.workspace_bytes > WORKSPACE_BYTES) return false;
    memcpy(algorithm, choice.config, sizeof *algorithm);
    cublasStatus_t status =
        cublasLtMatmulAlgoCheck(matmuls->handle, layouts->operation, layouts->weight, layouts->x,
                                layouts->out, layouts->out, algorithm, &result);
    return status == CUBLAS_STATUS_SUCCESS && result.state == CUBLAS_STATUS_SUCCESS &&
           result.workspaceSize <= WORKSPACE_BYTES;
}

static void remember(struct matmuls *matmuls, const struct matmul_plan *plan,
                     const cublasLtMatmulHeuristicResult_t *found) {
    static_assert(sizeof found->algo == KERNEL_CONFIG_BYTES, "a description is kept whole");
    struct kernel_shape shape = shape_of(plan);
    struct kernel_choice choice = {};
    choice.kind = KERNEL_LIBRARY;
    choice.workspace_bytes = (int64_t)found->workspaceSize;
    memcpy(choice.config, &found->algo, sizeof found->algo);
    kernel_cache_put(matmuls->cache, &shape, &choice);
}

static cublasLtMatmulAlgo_t choose(struct device *device, const struct layouts *layouts,
                                   const struct matmul_plan *plan, const struct operands *at) {
    cublasLtMatmulHeuristicResult_t result[PROPOSALS];
    cublasLtMatmulAlgo_t known;
    bool comes_again = device->padded > 0;
    if (comes_again && recall(device->matmuls, layouts, plan, &known)) {
        device->matmuls->n_recalled += 1;
        return known;
    }
    int n = ask(device->matmuls, layouts, plan, result, comes_again ? PROPOSALS : 1), best = 0;
    float least = INFINITY;
    for (int proposal = 0; n > 1 && proposal < n; proposal++) {
        float ms = time_of(device, layouts, &result[proposal].algo, at);
        if (ms < least) best = proposal;
        least = fminf(least, ms);
    }
    if (comes_again) {
        device->matmuls->n_timed += 1;
        remember(device->matmuls, plan, &result[best]);
    }
    return result[best].algo;
}

static bool is_same(const struct matmul_plan *a, const struct matmul_plan *b) {
    return a->n == b->n && a->k == b->k && a->n_rows == b->n_rows && a->x_stride == b->x_stride &&
           a->out_stride == b->out_stride && a->weight_stride == b->weight_stride && a->out == b->out;
}

static const struct matmul_plan *find_plan(struct device *device, const struct layouts *layouts,
                                           const struct matmul_plan *wanted,
                                           const struct operands *operands) {
    struct matmuls *matmuls = device->matmuls;
    for (int at = 0; at < matmuls->n_plans; at++) {
        if (is_same(&matmuls->plan[at], wanted)) return &matmuls->plan[at];
    }
    int at = matmuls->n_plans < MOST_KEPT ? matmuls->n_plans++ : MOST_KEPT - 1;
    matmuls->plan[at] = *wanted;
    matmuls->plan[at].algorithm = choose(device, layouts, wanted, operands);
    return &matmuls->plan[at];
}

static void multiply(struct device *device, const struct matmul_plan *wanted, void *out,
                     const void *x, const struct weight *weight) {
    struct operands operands = {out, x, weight->matrix};
    struct layouts layouts;
    open_layouts(&layouts, wanted);
    const struct matmul_plan *plan = find_plan(device, &layouts, wanted, &operands);
    run(device, &layouts, &plan->algorithm, &operands);
    close_layouts(&layouts);
}

void cuda_matmul(struct device *device, int n_rows, struct value out, struct value x,
                 const struct weight *weight, const struct weight *bias) {
    struct matmuls *matmuls = device->matmuls;
    REQUIRE(matmuls, "a matmul on a rank that prepared for none");
    n_rows = launch_rows(device, n_rows);
    if (n_rows == 0) return;
    struct matmul_plan plan = {};
    plan.n = weight->rows;
    plan.k = weight->stride; /* zeros behind the columns add nothing */
    plan.n_rows = n_rows;
    plan.weight_stride = weight->stride;
    const void *from = value_data(&x);
    plan.x_stride = x.stride;
    if (x.element != ELEMENT_BF16 || !is_fit(&x, 8)) {
        plan.x_stride = weight->stride;
        __nv_bfloat16 *narrow =
            grow(device, &matmuls->x, &matmuls->x_elements, n_rows, weight->stride);
        WITH_TYPE(x.element, From,
                  (narrow_kernel<From><<<n_rows, 256, 0, device->stream>>>(
                      narrow, weight->stride, (const From *)from, x.stride, weight->columns)));
        CHECK_LAUNCH();
        from = narrow;
    }
    const float *added = bias ? bias->vector : NULL;
    const __nv_bfloat16 *rows = (const __nv_bfloat16 *)from;
    if (skinny_matmul(device, n_rows, &out, rows, plan.x_stride, weight, added) ||
        stout_matmul(device, n_rows, &out, rows, plan.x_stride, weight, added))
        return;
    if (!bias && is_fit(&out, 8)) {
        plan.out = out.element;
        plan.out_stride = out.stride;
        multiply(device, &plan, value_data(&out), from, weight);
        return;
    }
    plan.out = ELEMENT_F32;
    plan.out_stride = (weight->rows + 3) / 4 * 4;
    float *wide =
        grow(device, &matmuls->out, &matmuls->out_elements, n_rows, plan.out_stride);
    multiply(device, &plan, wide, from, weight);
    WITH_TYPE(out.element, To,
              (spread_kernel<To><<<n_rows, 256, 0, device->stream>>>(
                  (To *)value_data(&out), out.stride, wide, plan.out_stride, added, weight->rows)));
    CHECK_LAUNCH();
}

void cuda_matmul_swiglu(struct device *device, int n_rows, struct value out, struct value both,
                        struct value x, const struct weight *weight) {
    int n_launched = launch_rows(device, n_rows);
    if (n_launched == 0) return;
    const __nv_bfloat16 *from = (const __nv_bfloat16 *)value_data(&x);
    if (both.element == ELEMENT_BF16 && x.element == ELEMENT_BF16 && is_fit(&x, 8) &&
        (skinny_swiglu(device, n_launched, &out, from, x.stride, weight) ||
         stout_swiglu(device, n_launched, &out, from, x.stride, weight)))
        return;
    struct value gate = both, up = both;
    gate.columns = up.columns = out.columns;
    up.offset += (size_t)out.columns * element_bytes(both.element);
    cuda_matmul(device, n_rows, both, x, weight, NULL);
    cuda_swiglu(device, n_rows, out, gate, up);
}
