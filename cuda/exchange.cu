/* exchange.cu - parts of values to and from pinned host memory, for wires that the host drives
 * (device.h, read_rows and write_rows), and pages of the cache, for checkpoints (read_page).
 *
 * One kernel a block of a fan packs or unpacks its rows, converts, and reads or writes the host's
 * memory itself: a launch costs less than a call of the copy engine, and several blocks queue behind
 * each other on the compute stream. The rejected alternative, to pack on the device and copy then,
 * takes a buffer and a second operation for each block. While the host waits it looks after the wire.
 */
#include <cuda_fp16.h>
#include <string.h>

#include <type_traits>

#include "cuda_device.h"

void *cuda_alloc_host(struct device *device, size_t n_bytes) {
    void *memory;
    (void)device;
    CHECK_CUDA(cudaMallocHost(&memory, n_bytes));
    memset(memory, 0, n_bytes);
    return memory;
}

void cuda_release_host(struct device *device, void *memory) {
    (void)device;
    if (memory) CHECK_CUDA(cudaFreeHost(memory));
}

void wait_for_event(struct device *device, cudaEvent_t event) {
    int64_t begin = clock_thread_ns();
    cudaError_t state = cudaErrorNotReady;
    if (!device->options.progress) state = cudaEventSynchronize(event);
    while (state == cudaErrorNotReady) {
        state = cudaEventQuery(event);
        device->options.progress(device->options.progress_argument);
    }
    CHECK_CUDA(state);
    device->waited_ns += clock_thread_ns() - begin;
}

void cuda_settle(struct device *device) {
    int64_t begin = clock_thread_ns();
    for (;;) {
        cudaError_t state = cudaStreamQuery(device->stream);
        if (state == cudaSuccess) break;
        if (state != cudaErrorNotReady) CHECK_CUDA(state);
        if (device->options.progress) device->options.progress(device->options.progress_argument);
    }
    device->waited_ns += clock_thread_ns() - begin;
}

/* ---- the kernel -------------------------------------------------------------------------------
 */

enum { EXCHANGE_THREADS = 256, EXCHANGE_BLOCKS = 256, VECTOR = 8 };

/* `N` elements that lie together and are aligned as one. */
template <class T, int N> struct alignas(N == 1 ? sizeof(T) : 16) few { T at[N]; };

/* To the same type bits stay as they are, those of a NaN too. */
template <class To, class From> __device__ inline To convert(From x) {
    if constexpr (std::is_same<To, From>::value) {
        return x;
    } else {
        return from_float<To>(to_float(x));
    }
}

/* Rows of `n_columns` few; strides are in few. */
template <class To, class From, int N>
__global__ void __launch_bounds__(EXCHANGE_THREADS)
    exchange_kernel(few<To, N> *to, size_t to_stride, const few<From, N> *from, size_t from_stride,
                    unsigned n_columns, size_t n) {
    for (size_t at = blockIdx.x * (size_t)EXCHANGE_THREADS + threadIdx.x; at < n;
         at += gridDim.x * (size_t)EXCHANGE_THREADS) {
        size_t row = at / n_columns, column = at % n_columns;
        few<From, N> in = from[row * from_stride + column];
        few<To, N> out;
        for (int k = 0; k < N; k++)
            out.at[k] = convert<To>(in.at[k]);
        to[row * to_stride + column] = out;
    }
}

/* One side of a copy: elements, and how many of them from row to row. */
struct side {
    unsigned char *data;
    enum element element;
    size_t stride;
};

/* Whether all rows can be taken VECTOR elements at a time. */
static bool is_aligned(struct side side) {
    return (uintptr_t)side.data % 16 == 0 && side.stride % VECTOR == 0;
}

template <class To, class From, int N>
static void launch(struct device *device, struct side to, struct side from,
                   struct rectangle part) {
    unsigned n_columns = (unsigned)(part.n_columns / N);
    size_t n = (size_t)part.n_rows * n_columns;
    size_t blocks = (n + EXCHANGE_THREADS - 1) / EXCHANGE_THREADS;
    if (n == 0) return;
    exchange_kernel<To, From, N>
        <<<(unsigned)(blocks < EXCHANGE_BLOCKS ? blocks : EXCHANGE_BLOCKS), EXCHANGE_THREADS, 0,
           device->stream>>>((few<To, N> *)to.data, to.stride / N, (const few<From, N> *)from.data,
                             from.stride / N, n_columns, n);
    CHECK_LAUNCH();
}

/* Call `body` with T the C++ type of an element that may cross. */
#define WITH_ELEMENT(element, T, ...)                                                              \
    do {                                                                                           \
        if ((element) == ELEMENT_F16) {                                                            \
            typedef __half T;                                                                      \
            __VA_ARGS__;                                                                           \
        } else {                                                                                   \
            WITH_TYPE(element, T, __VA_ARGS__);                                                    \
        }                                                                                          \
    } while (0)

static void exchange(struct device *device, struct side to, struct side from,
                     struct rectangle part) {
    bool vectors = part.n_columns % VECTOR == 0 && is_aligned(to) && is_aligned(from);
    WITH_ELEMENT(to.element, To, WITH_ELEMENT(from.element, From, {
                     if (vectors) {
                         launch<To, From, VECTOR>(device, to, from, part);
                     } else {
                         launch<To, From, 1>(device, to, from, part);
                     }
                 }));
}

static struct side side_of(const struct value *value, struct rectangle part) {
    size_t stride = (size_t)value->stride;
    struct side side = {(unsigned char *)value_data(value) +
                            ((size_t)part.row * stride + (size_t)part.column) *
                                element_bytes(value->element),
                        value->element, stride};
    return side;
}

void cuda_read_rows(struct device *device, void *to, enum element as, const struct value *from,
                    struct rectangle part) {
    struct side packed = {(unsigned char *)to, as, (size_t)part.n_columns};
    exchange(device, packed, side_of(from, part), part);
}

void cuda_write_rows(struct device *device, const struct value *to, struct rectangle part,
                     const void *from, enum element as) {
    struct side packed = {(unsigned char *)(uintptr_t)from, as, (size_t)part.n_columns};
    exchange(device, side_of(to, part), packed, part);
}

/* ---- pages ------------------------------------------------------------------------------------
 */

/* By the copy engine, on a stream beside compute: K of all heads and layers, then V. In the cache a
 * head's K and V lie side by side, and a page's layers n_pages apart. */
void cuda_read_page(struct device *device, void *to, const struct kv_cache *cache, int page,
                    int n_tokens) {
    size_t token = (size_t)cache->head_dim * element_bytes(cache->element);
    size_t piece = PAGE_TOKENS * token, filled = (size_t)n_tokens * token;
    size_t n_heads = (size_t)cache->n_kv_heads, n_layers = (size_t)cache->n_layers;
    unsigned char *out = (unsigned char *)to;
    for (size_t part = 0; part < 2 * n_heads * n_layers; part++)
        memset(out + part * piece + filled, 0, piece - filled);
    CHECK_CUDA(cudaSetDevice(device->index)); /* of the calling thread */
    for (size_t which = 0; which < 2; which++) {
        unsigned char *from =
            cache->buffer->data + (2 * (size_t)page * n_heads + which) * piece;
        cudaMemcpy3DParms copy = {};
        copy.srcPtr = make_cudaPitchedPtr(from, 2 * piece, piece, (size_t)cache->n_pages * n_heads);
        copy.dstPtr = make_cudaPitchedPtr(out + which * n_heads * piece, piece, piece, 2 * n_heads);
        copy.extent = make_cudaExtent(filled, n_heads, n_layers);
        copy.kind = cudaMemcpyDeviceToHost;
        CHECK_CUDA(cudaMemcpy3DAsync(&copy, device->copies));
    }
    CHECK_CUDA(cudaStreamSynchronize(device->copies));
}
