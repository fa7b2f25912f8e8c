/* cpu_avx2.c - the kernels on AVX2, FMA and F16C: a vector is two registers of 8. */
#include <immintrin.h>

#include "cpu_kernels.h"

typedef struct {
    __m256 lo, hi;
} vec;
typedef struct {
    __m256i lo, hi;
} words;

static inline vec v_set(float x) {
    __m256 v = _mm256_set1_ps(x);
    return (vec){v, v};
}
static inline vec v_zero(void) {
    return (vec){_mm256_setzero_ps(), _mm256_setzero_ps()};
}
static inline vec v_load(const float *p) {
    return (vec){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
static inline void v_store(float *p, vec a) {
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
}
static inline vec v_add(vec a, vec b) {
    return (vec){_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}
static inline vec v_sub(vec a, vec b) {
    return (vec){_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
}
static inline vec v_mul(vec a, vec b) {
    return (vec){_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}
static inline vec v_div(vec a, vec b) {
    return (vec){_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
}
static inline vec v_fma(vec a, vec b, vec c) {
    return (vec){_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
static inline vec v_max(vec a, vec b) {
    return (vec){_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
}
static inline vec v_round(vec a) {
    return (vec){_mm256_round_ps(a.lo, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
                 _mm256_round_ps(a.hi, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
static inline vec v_less(vec x, vec y, vec a, vec b) {
    return (vec){_mm256_blendv_ps(b.lo, a.lo, _mm256_cmp_ps(x.lo, y.lo, _CMP_LT_OQ)),
                 _mm256_blendv_ps(b.hi, a.hi, _mm256_cmp_ps(x.hi, y.hi, _CMP_LT_OQ))};
}
static inline __m256 scale2(__m256 a, __m256 n) {
    __m256i bits =
        _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(a, _mm256_castsi256_ps(bits));
}
static inline vec v_scale2(vec a, vec n) {
    return (vec){scale2(a.lo, n.lo), scale2(a.hi, n.hi)};
}
static inline float v_sum(vec a) {
    __m256 eight = _mm256_add_ps(a.lo, a.hi);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
/* Four lane trees at once: the same pairs are added, two or four sums in one register. */
static inline void v_sum4(float *p, vec a, vec b, vec c, vec d) {
    __m256 a8 = _mm256_add_ps(a.lo, a.hi), b8 = _mm256_add_ps(b.lo, b.hi);
    __m256 c8 = _mm256_add_ps(c.lo, c.hi), d8 = _mm256_add_ps(d.lo, d.hi);
    __m256 ab =
        _mm256_add_ps(_mm256_permute2f128_ps(a8, b8, 0x20), _mm256_permute2f128_ps(a8, b8, 0x31));
    __m256 cd =
        _mm256_add_ps(_mm256_permute2f128_ps(c8, d8, 0x20), _mm256_permute2f128_ps(c8, d8, 0x31));
    __m256 two = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, _MM_SHUFFLE(1, 0, 1, 0)),
                               _mm256_shuffle_ps(ab, cd, _MM_SHUFFLE(3, 2, 3, 2)));
    __m256 one = _mm256_add_ps(_mm256_shuffle_ps(two, two, _MM_SHUFFLE(2, 0, 2, 0)),
                               _mm256_shuffle_ps(two, two, _MM_SHUFFLE(3, 1, 3, 1)));
    __m128 ac = _mm256_castps256_ps128(one), bd = _mm256_extractf128_ps(one, 1);
    _mm_storeu_ps(p, _mm_unpacklo_ps(ac, bd));
}
static inline vec v_f16(const uint16_t *p) {
    return (vec){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
                 _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8)))};
}
static inline __m256 bf16(const uint16_t *p) {
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
static inline vec v_bf16(const uint16_t *p) {
    return (vec){bf16(p), bf16(p + 8)};
}
static inline vec v_i8(const int8_t *p) {
    return (vec){
        _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p))),
        _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(p + 8))))};
}
static inline words w_load(const unsigned char *p) {
    return (words){_mm256_loadu_si256((const __m256i *)p),
                   _mm256_loadu_si256((const __m256i *)(p + 32))};
}
static inline __m256i bits(__m256i w, int shift, uint32_t mask) {
    return _mm256_and_si256(_mm256_srli_epi32(w, shift), _mm256_set1_epi32((int)mask));
}
static inline vec v_bits(words w, int shift, uint32_t mask) {
    return (vec){_mm256_cvtepi32_ps(bits(w.lo, shift, mask)),
                 _mm256_cvtepi32_ps(bits(w.hi, shift, mask))};
}
static inline vec v_bits2(words low, int shift, uint32_t mask, words high, int high_shift,
                          uint32_t high_mask, int place) {
    __m256i lo = _mm256_or_si256(bits(low.lo, shift, mask),
                                 _mm256_slli_epi32(bits(high.lo, high_shift, high_mask), place));
    __m256i hi = _mm256_or_si256(bits(low.hi, shift, mask),
                                 _mm256_slli_epi32(bits(high.hi, high_shift, high_mask), place));
    return (vec){_mm256_cvtepi32_ps(lo), _mm256_cvtepi32_ps(hi)};
}

/* 16 registers: a tile accumulates in up to 6 vectors, 12 registers, and has a weight and a
 * broadcast beside them. */
enum { TILE_MOST = 6 };
#define TILE_CASES                                                                                 \
    TILE_CASE(1, 1)                                                                                \
    TILE_CASE(1, 2)                                                                                \
    TILE_CASE(1, 3)                                                                                \
    TILE_CASE(1, 4)                                                                                \
    TILE_CASE(2, 1)                                                                                \
    TILE_CASE(2, 2)                                                                                \
    TILE_CASE(2, 3)                                                                                \
    TILE_CASE(3, 1)                                                                                \
    TILE_CASE(3, 2)                                                                                \
    TILE_CASE(4, 1) TILE_CASE(5, 1) TILE_CASE(6, 1)
static inline int tile_panels(int n_rows, int n_left) {
    int most = n_rows == 1 ? 4 : n_rows == 2 ? 3 : n_rows == 3 ? 2 : 1;
    return n_left < most ? n_left : most;
}
static inline int tile_rows(int n_panels) {
    return n_panels == 1 ? 6 : n_panels == 2 ? 3 : n_panels == 3 ? 2 : 1;
}

#define UNROLL_BLOCK _Pragma("GCC unroll 32")
#define ISA_NAME     "AVX2"
#define ISA_TABLE    cpu_kernels_avx2
#include "cpu_kernels.inc"
