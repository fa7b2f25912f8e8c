/* cpu_plain.c - the kernels in plain C: the reading of device.h that the others are compared with.
 */
#include <math.h>
#include <string.h>

#include "cpu_kernels.h"

typedef struct {
    float lane[16];
} vec;
typedef struct {
    uint32_t word[16];
} words;

#define LANES(expression)                                                                          \
    vec out;                                                                                       \
    for (int l = 0; l < 16; l++)                                                                   \
        out.lane[l] = (expression);                                                                \
    return out

static inline vec v_set(float x) {
    LANES(x);
}
static inline vec v_zero(void) {
    LANES(0.0f);
}
static inline vec v_load(const float *p) {
    LANES(p[l]);
}
static inline void v_store(float *p, vec a) {
    memcpy(p, a.lane, sizeof a.lane);
}
static inline vec v_add(vec a, vec b) {
    LANES(a.lane[l] + b.lane[l]);
}
static inline vec v_sub(vec a, vec b) {
    LANES(a.lane[l] - b.lane[l]);
}
static inline vec v_mul(vec a, vec b) {
    LANES(a.lane[l] * b.lane[l]);
}
static inline vec v_div(vec a, vec b) {
    LANES(a.lane[l] / b.lane[l]);
}
static inline vec v_fma(vec a, vec b, vec c) {
    LANES(fmaf(a.lane[l], b.lane[l], c.lane[l]));
}
static inline vec v_max(vec a, vec b) {
    LANES(a.lane[l] > b.lane[l] ? a.lane[l] : b.lane[l]);
}
static inline vec v_round(vec a) {
    LANES(rintf(a.lane[l]));
}
static inline vec v_less(vec x, vec y, vec a, vec b) {
    LANES(x.lane[l] < y.lane[l] ? a.lane[l] : b.lane[l]);
}
static inline vec v_scale2(vec a, vec n) {
    vec out;
    for (int l = 0; l < 16; l++) {
        uint32_t bits = (uint32_t)((int32_t)n.lane[l] + 127) << 23;
        float power;
        memcpy(&power, &bits, sizeof power);
        out.lane[l] = a.lane[l] * power;
    }
    return out;
}
static inline float v_sum(vec a) {
    for (int half = 8; half; half /= 2) {
        for (int l = 0; l < half; l++)
            a.lane[l] += a.lane[l + half];
    }
    return a.lane[0];
}
static inline void v_sum4(float *p, vec a, vec b, vec c, vec d) {
    p[0] = v_sum(a);
    p[1] = v_sum(b);
    p[2] = v_sum(c);
    p[3] = v_sum(d);
}
static inline vec v_f16(const uint16_t *p) {
    LANES(quant_from_f16(p[l]));
}
static inline vec v_bf16(const uint16_t *p) {
    LANES(quant_from_bf16(p[l]));
}
static inline vec v_i8(const int8_t *p) {
    LANES((float)p[l]);
}
static inline words w_load(const unsigned char *p) {
    words out;
    memcpy(out.word, p, sizeof out.word);
    return out;
}
static inline vec v_bits(words w, int shift, uint32_t mask) {
    LANES((float)(w.word[l] >> shift & mask));
}
static inline vec v_bits2(words low, int shift, uint32_t mask, words high, int high_shift,
                          uint32_t high_mask, int place) {
    LANES(
        (float)((low.word[l] >> shift & mask) | (high.word[l] >> high_shift & high_mask) << place));
}

enum { TILE_MOST = 4 };
#define TILE_CASES TILE_CASE(1, 1) TILE_CASE(2, 1) TILE_CASE(3, 1) TILE_CASE(4, 1)
static inline int tile_panels(int n_rows, int n_left) {
    (void)n_rows, (void)n_left;
    return 1;
}
static inline int tile_rows(int n_panels) {
    (void)n_panels;
    return 4;
}

#define UNROLL_BLOCK
#define ISA_NAME  "plain C"
#define ISA_TABLE cpu_kernels_plain
#include "cpu_kernels.inc"
