/* noise.cu - matrices that are made up, where they are to lie (device.h, load_noise).
 *
 * noise.h says which number stands where. A thread makes the eight of one hash and puts them into
 * their rows; levels are rounded to bf16 once, by the same conversion that load has.
 */
#include "cuda_device.h"

enum { NOISE_THREADS = NOISE_LEVELS, A_HASH = 8 };

__device__ inline uint64_t hash_of(uint64_t key, uint64_t counter) {
    uint64_t z = key + (counter + 1) * 0x9E3779B97F4A7C15ull;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ z >> 27) * 0x94D049BB133111EBull;
    return z ^ z >> 31;
}

/* matrix (rows, columns), n_numbers of them, in rows of `stride`. */
__global__ void noise_kernel(__nv_bfloat16 *matrix, int stride, int columns, uint64_t n_numbers,
                             const __grid_constant__ struct noise noise) {
    __shared__ __nv_bfloat16 level[NOISE_LEVELS];
    level[threadIdx.x] = __float2bfloat16_rn(noise.level[threadIdx.x]);
    __syncthreads();
    uint64_t step = (uint64_t)gridDim.x * NOISE_THREADS;
    uint64_t counter = (uint64_t)blockIdx.x * NOISE_THREADS + threadIdx.x;
    for (; counter * A_HASH < n_numbers; counter += step) {
        uint64_t bits = hash_of(noise.key, counter), first = counter * A_HASH;
        uint64_t row = first / columns;
        int column = (int)(first - row * columns);
        for (int byte = 0; byte < A_HASH && first + byte < n_numbers; byte++, column++) {
            if (column == columns) {
                column = 0;
                row += 1;
            }
            matrix[row * stride + column] = level[bits >> 8 * byte & (NOISE_LEVELS - 1)];
        }
    }
}

void noise_rows(struct device *device, __nv_bfloat16 *matrix, int stride, const struct tensor *part,
                const struct noise *noise) {
    uint64_t n_numbers = (uint64_t)part->rows * (uint64_t)part->columns;
    if (stride > part->columns)
        CHECK_CUDA(cudaMemsetAsync(matrix, 0, (size_t)part->rows * stride * sizeof *matrix,
                                   device->stream));
    noise_kernel<<<device->n_processors * 8, NOISE_THREADS, 0, device->stream>>>(
        matrix, stride, part->columns, n_numbers, *noise);
    CHECK_LAUNCH();
}
