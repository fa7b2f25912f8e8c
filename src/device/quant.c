/* quant.c - the one place that knows how each storage type lays out its numbers.
 *
 * Owns the table of types and the conversions of 16-bit floats. The invariant: `unpack` gives the
 * value that the type defines, rounded as ggml's reference does, on every processor. So everything
 * here is integer arithmetic and single float32 operations, no tables, no intrinsics; kernels that
 * want speed read the same blocks themselves and are tested against this file.
 *
 * A block stores one or two scales as IEEE halves and its codes packed little end first:
 *
 *   Q8_0  d, 32 signed bytes                            y = d q
 *   Q4_0  d, 32 nibbles                                 y = d (q - 8)
 *   Q4_1  d, m, 32 nibbles                              y = d q + m
 *   Q5_0  d, 32 fifth bits, 32 nibbles                  y = d (q - 16)
 *   Q5_1  d, m, 32 fifth bits, 32 nibbles               y = d q + m
 *   Q4_K  d, dmin, 8 (scale, min) of 6 bits, 256 nibbles            y = (d scale) q - (dmin min)
 *   Q5_K  d, dmin, 8 (scale, min) of 6 bits, fifth bits, nibbles    y = (d scale) q - (dmin min)
 *   Q6_K  256 nibbles, 256 upper pairs, 16 signed scales, d         y = (d scale) (q - 32)
 *
 * Packing structs over the bytes were rejected: offsets written once beside the format they come
 * from are as short, and need neither alignment nor a byte order. Source: ggml-common.h (layout),
 * ggml-quants.c (order of the products).
 */
#include "quant.h"

#include <string.h>

#include "check.h"

static uint32_t float_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float float_of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

float quant_from_f16(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    uint32_t exponent = (half >> 10) & 0x1fu, fraction = half & 0x3ffu;
    if (exponent == 0x1f) {
        uint32_t quiet = fraction ? 0x00400000u : 0;
        return float_of_bits(sign | 0x7f800000u | quiet | fraction << 13);
    }
    if (exponent == 0) { /* zero and subnormals: fraction * 2^-24, exact */
        float magnitude = (float)fraction * 0x1p-24f;
        return float_of_bits(sign | float_bits(magnitude));
    }
    return float_of_bits(sign | (exponent + 112) << 23 | fraction << 13);
}

/* `value` / 2^shift, to nearest, ties to even; 0 < shift < 32 and no carry beyond 32 bits. */
static uint32_t shift_to_even(uint32_t value, uint32_t shift) {
    uint32_t below_half = (1u << (shift - 1)) - 1;
    return (value + below_half + ((value >> shift) & 1)) >> shift;
}

uint16_t quant_to_f16(float value) {
    uint32_t bits = float_bits(value);
    uint32_t sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
    uint32_t exponent = magnitude >> 23;
    uint32_t half;
    if (magnitude > 0x7f800000u) {
        half = 0x7e00u | ((magnitude >> 13) & 0x3ffu);
    } else if (magnitude >= 0x47800000u) { /* 65536 and above, infinity included */
        half = 0x7c00u;
    } else if (exponent > 112) { /* normal; a carry out of the fraction is the next exponent */
        half = shift_to_even(magnitude - (112u << 23), 13);
    } else if (exponent > 100) { /* subnormal: count units of 2^-24 */
        half = shift_to_even((magnitude & 0x7fffffu) | 0x800000u, 126 - exponent);
    } else { /* below half of the smallest subnormal */
        half = 0;
    }
    return (uint16_t)(sign | half);
}

float quant_from_bf16(uint16_t brain) {
    uint32_t bits = (uint32_t)brain << 16;
    bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
    return float_of_bits(is_nan ? bits | 0x00400000u : bits);
}

uint16_t quant_to_bf16(float value) {
    uint32_t bits = float_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x0040u);
    return (uint16_t)shift_to_even(bits, 16);
}

static uint16_t read_u16(const uint8_t *at) {
    return (uint16_t)(at[0] | at[1] << 8);
}

static float read_f16(const uint8_t *at) {
    return quant_from_f16(read_u16(at));
}

static void unpack_f32(const void *blocks, size_t n_elements, float *out) {
    memcpy(out, blocks, n_elements * sizeof *out);
}

static void unpack_f16(const void *blocks, size_t n_elements, float *out) {
    const uint8_t *at = blocks;
    for (size_t k = 0; k < n_elements; k++)
        out[k] = read_f16(at + 2 * k);
}

static void unpack_bf16(const void *blocks, size_t n_elements, float *out) {
    const uint8_t *at = blocks;
    for (size_t k = 0; k < n_elements; k++)
        out[k] = quant_from_bf16(read_u16(at + 2 * k));
}

static void unpack_q8_0(const void *blocks, size_t n_elements, float *out) {
    const uint8_t *block = blocks;
    for (size_t first = 0; first < n_elements; first += 32, block += 34) {
        float d = read_f16(block);
        for (int k = 0; k < 32; k++)
            out[first + k] = d * (float)(int8_t)block[2 + k];
    }
}

/* Codes of the 32-element types: byte k holds element k low and element k + 16 high. */
static int nibble(const uint8_t *codes, int k) {
    return k < 16 ? codes[k] & 15 : codes[k - 16] >> 4;
}

/* Their fifth bits: bit k of a little-endian word is element k's. */
static int fifth_bit(const uint8_t *bits, int k) {
    return (bits[k / 8] >> (k % 8) & 1) << 4;
}

static void unpack_q4_0(const void *blocks, size_t n_elements, float *out) {
    const uint8_t *block = blocks;
    for (size_t first = 0; first < n_elements; first += 32, block += 18) {
        float d = read_f16(block);
        for (int k = 0; k < 32; k++)
            out[first + k] = d * (float)(nibble(block + 2, k) - 8);
    }
}

static void unpack_q4_1(const void *blocks, size_t n_elements, float *out) {
    const uint8_t *block = blocks;
    for (size_t first = 0; first < n_elements; first += 32, block += 20) {
        float d = read_f16(block), m = read_f16(block + 2);
        for (int k = 0; k < 32; k++)
            out[first + k] = d * (float)nibble(block + 4, k) + m;
    }
}

static void unpack_q5_0(const void *blocks, size_t n_elements, float *out) {
    const uint8_t *block = blocks;
    for (size_t first = 0; first < n_elements; first += 32, block += 22) {
        float d = read_f16(block);
        for (int k = 0; k < 32; k++) {
            int code = nibble(block + 6, k) | fifth_bit(block + 2, k);
            out[first + k] = d * (float)(code - 16);
        }
    }
}

static void unpack_q5_1(const void *blocks, size_t n_elements, float *out) {
    const uint8_t *block = blocks;
    for (size_t first = 0; first < n_elements; first += 32, block += 24) {
        float d = read_f16(block), m = read_f16(block + 2);
        for (int k = 0; k < 32; k++) {
            int code = nibble(block + 8, k) | fifth_bit(block + 4, k);
            out[first + k] = d * (float)code + m;
        }
    }
}

/* Scale and minimum of one of the eight groups of 32 in a Q4_K or Q5_K block. Twelve bytes hold
 * them at 6 bits each: groups 0-3 in the low six bits of bytes 0-3 (scales) and 4-7 (minima);
 * groups 4-7 have their low four bits in the nibbles of bytes 8-11 and their upper two in the top
 * of the bytes of groups 0-3. */
static void read_group(const uint8_t *packed, int group, float *scale, float *minimum) {
    int low = group & 3;
    if (group < 4) {
        *scale = (float)(packed[low] & 63);
        *minimum = (float)(packed[4 + low] & 63);
    } else {
        *scale = (float)((packed[8 + low] & 15) | packed[low] >> 6 << 4);
        *minimum = (float)(packed[8 + low] >> 4 | packed[4 + low] >> 6 << 4);
    }
}

/* Groups 2p and 2p + 1 share 32 bytes of codes: the even group has the low nibbles. */
static int group_nibble(const uint8_t *codes, int group, int k) {
    uint8_t pair = codes[group / 2 * 32 + k];
    return group % 2 ? pair >> 4 : pair & 15;
}

static void unpack_q4_k(const void *blocks, size_t n_elements, float *out) {
    const uint8_t *block = blocks;
    for (size_t first = 0; first < n_elements; first += 256, block += 144) {
        float d = read_f16(block), dmin = read_f16(block + 2);
        for (int group = 0; group < 8; group++) {
            float scale, minimum;
            read_group(block + 4, group, &scale, &minimum);
            scale *= d;
            minimum *= dmin;
            float *y = out + first + group * 32;
            for (int k = 0; k < 32; k++)
                y[k] = scale * (float)group_nibble(block + 16, group, k) - minimum;
        }
    }
}

static void unpack_q5_k(const void *blocks, size_t n_elements, float *out) {
    const uint8_t *block = blocks;
    for (size_t first = 0; first < n_elements; first += 256, block += 176) {
        float d = read_f16(block), dmin = read_f16(block + 2);
        const uint8_t *fifth = block + 16; /* bit g of byte k: element k of group g */
        for (int group = 0; group < 8; group++) {
            float scale, minimum;
            read_group(block + 4, group, &scale, &minimum);
            scale *= d;
            minimum *= dmin;
            float *y = out + first + group * 32;
            for (int k = 0; k < 32; k++) {
                int code = group_nibble(block + 48, group, k) | (fifth[k] >> group & 1) << 4;
                y[k] = scale * (float)code - minimum;
            }
        }
    }
}

/* Each half of 128 elements is four quarters of 32: quarters 0 and 1 are the low nibbles of 64
 * bytes, 2 and 3 the high ones, and byte k of 32 holds the upper pairs of element k of each. */
static void unpack_q6_k(const void *blocks, size_t n_elements, float *out) {
    const uint8_t *block = blocks;
    for (size_t first = 0; first < n_elements; first += 256, block += 210) {
        float d = read_f16(block + 208);
        for (int quarter = 0; quarter < 8; quarter++) {
            int within = quarter % 4;
            const uint8_t *low = block + quarter / 4 * 64 + within % 2 * 32;
            const uint8_t *upper = block + 128 + quarter / 4 * 32;
            float *y = out + first + quarter * 32;
            for (int k = 0; k < 32; k++) {
                int code = (within < 2 ? low[k] & 15 : low[k] >> 4) | (upper[k] >> (2 * within) & 3)
                                                                          << 4;
                float scale = d * (float)(int8_t)block[192 + quarter * 2 + k / 16];
                y[k] = scale * (float)(code - 32);
            }
        }
    }
}

const struct quant_type quant_types[QUANT_TYPES] = {
    [QUANT_F32] = {"F32", 0, 1, 4, unpack_f32},
    [QUANT_F16] = {"F16", 1, 1, 2, unpack_f16},
    [QUANT_BF16] = {"BF16", 30, 1, 2, unpack_bf16},
    [QUANT_Q8_0] = {"Q8_0", 8, 32, 34, unpack_q8_0},
    [QUANT_Q4_0] = {"Q4_0", 2, 32, 18, unpack_q4_0},
    [QUANT_Q4_1] = {"Q4_1", 3, 32, 20, unpack_q4_1},
    [QUANT_Q5_0] = {"Q5_0", 6, 32, 22, unpack_q5_0},
    [QUANT_Q5_1] = {"Q5_1", 7, 32, 24, unpack_q5_1},
    [QUANT_Q4_K] = {"Q4_K", 12, 256, 144, unpack_q4_k},
    [QUANT_Q5_K] = {"Q5_K", 13, 256, 176, unpack_q5_k},
    [QUANT_Q6_K] = {"Q6_K", 14, 256, 210, unpack_q6_k},
};

size_t quant_bytes(enum quant type, size_t n_elements) {
    const struct quant_type *row = &quant_types[type];
    size_t block_elements = (size_t)row->block_elements, n_bytes = 0;
    REQUIRE(n_elements % block_elements == 0, "%zu elements are not whole blocks of %s", n_elements,
            row->name);
    REQUIRE(check_multiply(n_elements / block_elements, (size_t)row->block_bytes, &n_bytes),
            "%zu elements of %s do not fit memory", n_elements, row->name);
    return n_bytes;
}
