/* matmul_parts.cuh - what the products of our own (skinny.cu, stout.cu) share: how tiles of their
 * matrices come to shared memory, and how a product is told to a kernel.
 *
 * All of them read boxes of 64 of K, 128 bytes of a row, through tensor maps whose swizzle keeps
 * eight rows of a box in different banks. W is read once and goes first from the L2; x is read
 * again by every block and goes last.
 */
#ifndef LAMINA_MATMUL_PARTS_CUH
#define LAMINA_MATMUL_PARTS_CUH

#include <cuda.h>

#include "attend_ring.cuh"

enum { BOX = 64 /* of K */, BOX_ROW_BYTES = 128 };
enum { MOST_DIMENSIONS = 4 };

/* out (n_rows, n) = x (n_rows, 64 n_boxes) W (n, 64 n_boxes)^T + bias. */
struct product_call {
    int n, n_rows, n_boxes;
    void *out;
    int out_stride;
    bool out_f32;
    const float *bias; /* (n) or NULL */
};

/* ---- tensor_map.cu ----------------------------------------------------------------------------
 */

/* A bf16 matrix as a map sees it: dimensions from the innermost on, and what one copy brings. */
struct tiling {
    int n_dimensions;
    const void *matrix;
    cuuint64_t size[MOST_DIMENSIONS];
    cuuint64_t stride_bytes[MOST_DIMENSIONS - 1]; /* of dimension 1 and on */
    cuuint32_t box[MOST_DIMENSIONS];
};

CUtensorMap tensor_map(const struct device *device, const struct tiling *tiling);

struct matrix_shape {
    int rows, columns, stride; /* stride: elements from row to row */
};

/* A matrix as (columns / BOX, rows, BOX), read n_boxes by n_rows at a time (read_boxes). */
CUtensorMap row_map(const struct device *device, const void *matrix, struct matrix_shape shape,
                    int n_rows, int n_boxes);

/* ---- device side ------------------------------------------------------------------------------
 */

__device__ __forceinline__ uint64_t policy_once() {
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0;" : "=l"(policy));
    return policy;
}

__device__ __forceinline__ uint64_t policy_again() {
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_last.b64 %0;" : "=l"(policy));
    return policy;
}

/* Rows from `row` on and boxes from `box` on of a row_map to shared memory; zeros where the matrix
 * has ended. */
__device__ __forceinline__ void read_boxes(void *to, const CUtensorMap *map, int row, int box,
                                           uint64_t *barrier, uint64_t policy) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile"
                 ".mbarrier::complete_tx::bytes.L2::cache_hint "
                 "[%0], [%1, {%2, %3, %4}], [%5], %6;" ::"r"(shared_address(to)),
                 "l"(map), "r"(0), "r"(row), "r"(box), "r"(shared_address(barrier)), "l"(policy)
                 : "memory");
}

/* What is left of a product's value where it is not written, but a part of a value that is. */
__device__ __forceinline__ float as_bf16(float x) {
    return to_float(from_float<__nv_bfloat16>(x));
}

/* One element of the output. */
__device__ __forceinline__ void put(const product_call &call, int row, int column, float y) {
    size_t at = (size_t)row * (size_t)call.out_stride + (size_t)column;
    if (call.out_f32) {
        ((float *)call.out)[at] = y;
    } else {
        ((__nv_bfloat16 *)call.out)[at] = __float2bfloat16_rn(y);
    }
}

#endif
