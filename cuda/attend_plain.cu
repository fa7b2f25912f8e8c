/* attend_plain.cu - attention for any head_dim up to 256 and any element of the cache.
 *
 * One warp takes one (row, query head) and walks the positions; lane l holds dims l, l + 32, ... in
 * f32. It reads K and V once a row and head: correct and slow, for shapes that no known model pairs
 * with speed (head_dim 80, caches in f16 or f32).
 */
#include <cuda_fp16.h>

#include "attend_parts.cuh"

enum { PLAIN_WARPS = 4, MOST_DIMS = 256 / 32 };

struct plain_rows {
    const struct cuda_chunk *chunk;
    const int32_t *row_chunk;
    const int32_t *n_live;
};

__device__ static float warp_sum(float x) {
    for (int apart = 16; apart > 0; apart /= 2)
        x += __shfl_xor_sync(~0u, x, apart);
    return x;
}

template <class Cached, class Query>
__global__ void plain_kernel(const __grid_constant__ attend_call call, plain_rows rows) {
    int n_heads = call.n_kv_heads * call.group, D = call.head_dim, lane = (int)threadIdx.x % 32;
    int at = (int)(blockIdx.x * PLAIN_WARPS + threadIdx.x / 32), row = at / n_heads;
    if (row >= *rows.n_live) return;
    int head = at % n_heads, kv_head = head / call.group;
    struct cuda_chunk chunk = rows.chunk[rows.row_chunk[row]];
    int position = chunk.first_position + row - chunk.first_row;
    int first_new = chunk.first_position / TILE * TILE;
    int begin = call.part == ATTEND_REST ? first_new : 0;
    int end = call.part == ATTEND_CACHED ? first_new : position + 1;

    const Query *from = (const Query *)call.q + (size_t)row * (size_t)call.q_stride + head * D;
    float *state = call.state + (size_t)at * (size_t)D;
    float q[MOST_DIMS], acc[MOST_DIMS], maximum = -INFINITY, sum = 0;
    bool carried = begin > 0;
    if (carried) maximum = call.state_weights[at].x, sum = call.state_weights[at].y;
#pragma unroll
    for (int k = 0; k < MOST_DIMS; k++) {
        int dim = lane + 32 * k;
        q[k] = dim < D ? (float)from[dim] : 0;
        acc[k] = dim < D && carried ? state[dim] : 0;
    }
    for (int p = begin; p < end; p++) {
        size_t page = (size_t)call.page[chunk.first_page + p / TILE];
        const Cached *key =
            (const Cached *)call.kv +
            ((page * (size_t)call.n_kv_heads + (size_t)kv_head) * 2 * TILE + (size_t)(p % TILE)) *
                (size_t)D;
        float score = 0;
#pragma unroll
        for (int k = 0; k < MOST_DIMS; k++)
            if (lane + 32 * k < D) score = fmaf(q[k], (float)key[lane + 32 * k], score);
        score = warp_sum(score) * call.scale;
        float higher = fmaxf(maximum, score), factor = exp2f(maximum - higher);
        float weight = exp2f(score - higher);
        maximum = higher;
        sum = sum * factor + weight;
#pragma unroll
        for (int k = 0; k < MOST_DIMS; k++)
            if (lane + 32 * k < D)
                acc[k] = acc[k] * factor + weight * (float)key[TILE * D + lane + 32 * k];
    }
    if (call.part == ATTEND_CACHED) {
        if (lane == 0) call.state_weights[at] = make_float2(maximum, sum);
        for (int k = 0; k < MOST_DIMS; k++)
            if (lane + 32 * k < D) state[lane + 32 * k] = acc[k];
        return;
    }
    size_t to = (size_t)row * (size_t)call.out_stride + (size_t)(head * D);
    for (int k = 0; k < MOST_DIMS; k++) {
        int dim = lane + 32 * k;
        if (dim >= D) break;
        if (call.out_element == ELEMENT_F32) {
            ((float *)call.out)[to + (size_t)dim] = acc[k] / sum;
        } else {
            ((__nv_bfloat16 *)call.out)[to + (size_t)dim] = __float2bfloat16_rn(acc[k] / sum);
        }
    }
}

template <class Cached>
static void launch(struct device *device, const struct attend_call *call,
                   const struct cuda_rows *rows) {
    struct plain_rows tables = {rows->chunk, rows->row_chunk, rows->n_live};
    int n = launch_rows(device, rows->n_rows) * call->n_kv_heads * call->group;
    unsigned blocks = (unsigned)((n + PLAIN_WARPS - 1) / PLAIN_WARPS);
    if (n == 0) return;
    WITH_TYPE(call->q_element, Query,
              plain_kernel<Cached, Query>
              <<<blocks, 32 * PLAIN_WARPS, 0, device->stream>>>(*call, tables));
    CHECK_LAUNCH();
}

void attend_plain(struct device *device, const struct attend_call *call,
                  const struct cuda_rows *rows) {
    if (call->kv_element == ELEMENT_F32) launch<float>(device, call, rows);
    if (call->kv_element == ELEMENT_F16) launch<__half>(device, call, rows);
    if (call->kv_element == ELEMENT_BF16) launch<__nv_bfloat16>(device, call, rows);
}
