/* cpu_avx512.c - the kernels on AVX-512 (F, BW, DQ, VL): a vector is one register. */
#include <immintrin.h>

#include "cpu_kernels.h"

typedef __m512 vec;
typedef __m512i words;

static inline vec v_set(float x) {
    return _mm512_set1_ps(x);
}
static inline vec v_zero(void) {
    return _mm512_setzero_ps();
}
static inline vec v_load(const float *p) {
    return _mm512_loadu_ps(p);
}
static inline void v_store(float *p, vec a) {
    _mm512_storeu_ps(p, a);
}
static inline vec v_add(vec a, vec b) {
    return _mm512_add_ps(a, b);
}
static inline vec v_sub(vec a, vec b) {
    return _mm512_sub_ps(a, b);
}
static inline vec v_mul(vec a, vec b) {
    return _mm512_mul_ps(a, b);
}
static inline vec v_div(vec a, vec b) {
    return _mm512_div_ps(a, b);
}
static inline vec v_fma(vec a, vec b, vec c) {
    return _mm512_fmadd_ps(a, b, c);
}
static inline vec v_max(vec a, vec b) {
    return _mm512_max_ps(a, b);
}
static inline vec v_round(vec a) {
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
static inline vec v_less(vec x, vec y, vec a, vec b) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, y, _CMP_LT_OQ), b, a);
}
static inline vec v_scale2(vec a, vec n) {
    __m512i bits =
        _mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23);
    return _mm512_mul_ps(a, _mm512_castsi512_ps(bits));
}
static inline __m256 eight(vec a) {
    return _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
}
static inline float v_sum(vec a) {
    __m256 e = eight(a);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(e), _mm256_extractf128_ps(e, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
/* Four lane trees at once: the same pairs are added, two or four sums in one register. */
static inline void v_sum4(float *p, vec a, vec b, vec c, vec d) {
    __m256 a8 = eight(a), b8 = eight(b), c8 = eight(c), d8 = eight(d);
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
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
static inline vec v_bf16(const uint16_t *p) {
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
static inline vec v_i8(const int8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
static inline words w_load(const unsigned char *p) {
    return _mm512_loadu_si512(p);
}
static inline __m512i bits(__m512i w, int shift, uint32_t mask) {
    return _mm512_and_si512(_mm512_srli_epi32(w, (unsigned)shift), _mm512_set1_epi32((int)mask));
}
static inline vec v_bits(words w, int shift, uint32_t mask) {
    return _mm512_cvtepi32_ps(bits(w, shift, mask));
}
static inline vec v_bits2(words low, int shift, uint32_t mask, words high, int high_shift,
                          uint32_t high_mask, int place) {
    __m512i up = _mm512_slli_epi32(bits(high, high_shift, high_mask), (unsigned)place);
    return _mm512_cvtepi32_ps(_mm512_or_si512(bits(low, shift, mask), up));
}

/* 32 registers: up to 24 accumulators. */
enum { TILE_MOST = 24 };
#define TILE_ROW(rows) TILE_CASE(rows, 1) TILE_CASE(rows, 2)
#define TILE_CASES                                                                                 \
    TILE_ROW(1)                                                                                    \
    TILE_ROW(2)                                                                                    \
    TILE_ROW(3)                                                                                    \
    TILE_ROW(4)                                                                                    \
    TILE_ROW(5)                                                                                    \
    TILE_ROW(6)                                                                                    \
    TILE_ROW(7)                                                                                    \
    TILE_ROW(8)                                                                                    \
    TILE_ROW(9)                                                                                    \
    TILE_ROW(10)                                                                                   \
    TILE_ROW(11)                                                                                   \
    TILE_ROW(12)                                                                                   \
    TILE_CASE(1, 4) TILE_CASE(1, 8) TILE_CASE(2, 4) TILE_CASE(3, 4) TILE_CASE(4, 4)
static inline int tile_panels(int n_rows, int n_left) {
    if (n_rows == 1 && n_left >= 8) return 8;
    if (n_rows <= 4 && n_left >= 4) return 4;
    return n_left >= 2 ? 2 : 1;
}
static inline int tile_rows(int n_panels) {
    return n_panels <= 2 ? 12 : n_panels == 4 ? 4 : 1;
}

#define UNROLL_BLOCK _Pragma("GCC unroll 32")
#define ISA_NAME     "AVX-512"
#define ISA_TABLE    cpu_kernels_avx512
#include "cpu_kernels.inc"
