/* cpu_kernels.h - what one instruction set offers the CPU device: private to src/device.
 *
 * The kernels are written once, in cpu_kernels.inc, over a vector of 16 floats; cpu_plain.c,
 * cpu_avx2.c and cpu_avx512.c give that vector its meaning. So the order of every sum is the same
 * by construction.
 */
#ifndef LAMINA_CPU_KERNELS_H
#define LAMINA_CPU_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "device.h"

/* Weights are kept in panels of 16 output rows, so that a vector lane is an output row and a matmul
 * has no horizontal sum. Within a panel, k runs slowest. What stands for one k, or one block of k:
 */
enum panel {
    PANEL_F32, /* per k: 16 floats */
    PANEL_F16, /* per k: 16 halves */
    PANEL_BF16,
    PANEL_Q8,   /* per 32 k: 16 half scales; per k 16 int8 */
    PANEL_Q4_0, /* per 32 k: 16 half scales; 4 x 16 words of 8 nibbles (the "Q4 codes") */
    PANEL_Q4_1, /* per 32 k: 16 half scales, 16 half minima; Q4 codes */
    PANEL_Q5_0, /* per 32 k: 16 half scales; Q4 codes, 16 words of 32 high bits ("Q5 codes") */
    PANEL_Q5_1, /* per 32 k: 16 half scales, 16 half minima; Q5 codes */
    PANEL_Q4_K, /* per 256 k: 16 half d, 16 half dmin, 8 x 16 scales, 8 x 16 minima; 8 x Q4 codes */
    PANEL_Q5_K, /* the same with Q5 codes */
    PANEL_Q6_K, /* per 256 k: 16 half d, 16 x 16 int8 scales; 8 x (Q4 codes, 2 x 16 words of 2 bits)
                 */
    PANEL_VECTOR, /* one row of floats (norms, biases, a weight of one row), or a table of cosines
                     then sines */
};
enum { PANEL_ROWS = 16, PANEL_CHUNK = 256 };

struct weight {
    int rows, columns;
    enum panel panel;
    size_t panel_bytes;
    unsigned char *data; /* ceil(rows / 16) panels, 64-byte aligned; tail rows are zero */
    /* Tables of sines and cosines use rows = positions, columns = n_rotated: cos then sin, in
     * `data`. */
};

/* A share of a matmul: panels [begin, end) of `weight`, all rows. */
struct matmul_share {
    const struct weight *weight;
    const float *bias; /* (rows of the weight) or NULL */
    const float *x;
    float *out;
    size_t x_stride, out_stride; /* floats */
    int n_rows;
};

/* One kv head and one run of rows of a chunk, over whose cache a span is folded. */
struct fold_share {
    const float *q;     /* (n_rows, q_stride), at the first query head of the group */
    size_t q_stride;    /* floats */
    int n_rows, group;  /* query heads per kv head */
    int first_position; /* of row 0 */
    int head_dim;
    float scale;
    enum element element;          /* of the cache */
    const unsigned char *kv;       /* cache of the layer, at kv head 0 of page 0 */
    size_t page_bytes, head_bytes; /* from page to page; of one head's K and V */
    int kv_head;
    const int32_t *page; /* of the sequence */
};

/* State of one fold: maximum, sum (0: empty), then the accumulators. Floats. */
enum { FOLD_MAX = 0, FOLD_SUM = 1, FOLD_ACC = 16 };

struct cpu_kernels {
    const char *name;
    /* scratch: PANEL_ROWS * (PANEL_CHUNK + rows tile) floats, see cpu_scratch_floats. */
    void (*matmul)(const struct matmul_share *share, int panel_begin, int panel_end,
                   float *scratch);
    /* out[columns] = row `row` of the weight. */
    void (*unpack_row)(const struct weight *weight, int row, float *out, float *scratch);
    void (*norm)(float *out, const float *x, const float *weight, int columns, float eps);
    void (*add)(float *out, const float *a, const float *b, size_t n);
    void (*swiglu)(float *out, const float *gate, const float *up, size_t n);
    void (*rope)(float *out, const float *x, const float *cosine, const float *sine,
                 struct rope_shape shape);
    void (*round_to)(enum element element, void *out, const float *x, size_t n);
    /* Fold blocks [begin, end) into state (n_rows * group, fold_stride(head_dim)). */
    void (*fold)(const struct fold_share *share, int block_begin, int block_end, float *state,
                 float *scratch);
    /* state = state + other, as device.h defines it. */
    void (*merge)(float *state, const float *other, int head_dim);
    /* out[head_dim] = acc / sum. */
    void (*finish)(float *out, const float *state, int head_dim);
    /* Largest value; *id the lowest index that has it. */
    float (*argmax)(const float *x, int n, int32_t *id);
    /* maximum and sum of exp(x - maximum) in vocabulary tiles. */
    void (*sum_exp)(const float *x, int n, float *maximum, float *sum);
    /* out = exp(x - shift). */
    void (*exp_shifted)(float *out, const float *x, int n, float shift);
};

extern const struct cpu_kernels cpu_kernels_plain;
#if defined(__x86_64__)
extern const struct cpu_kernels cpu_kernels_avx2, cpu_kernels_avx512;
#endif

/* Floats from state to state. */
static inline size_t fold_stride(int head_dim) {
    return FOLD_ACC + ((size_t)head_dim + 15) / 16 * 16;
}

#endif
