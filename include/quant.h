/* quant.h - how numbers are stored: the table of tensor types, and 16-bit floats.
 *
 * One row of the table describes one storage type; whoever reads weights asks the table. `unpack`
 * is the definition: y = the float32 value of every element, with the rounding ggml's reference
 * dequantiser has (products of scale and code are exact in float32 for all types but Q6_K, whose
 * d * scale is formed first). Format source: the GGUF specification and ggml-common.h.
 */
#ifndef LAMINA_QUANT_H
#define LAMINA_QUANT_H

#include <stddef.h>
#include <stdint.h>

enum quant {
    QUANT_F32,
    QUANT_F16,
    QUANT_BF16,
    QUANT_Q8_0,
    QUANT_Q4_0,
    QUANT_Q4_1,
    QUANT_Q5_0,
    QUANT_Q5_1,
    QUANT_Q4_K,
    QUANT_Q5_K,
    QUANT_Q6_K,
    QUANT_TYPES
};

struct quant_type {
    const char *name;   /* "Q4_1" */
    uint32_t gguf_id;   /* ggml's number in a GGUF tensor record */
    int block_elements; /* elements a block; a row is a whole number of blocks */
    int block_bytes;
    /* out[n_elements] = values of n_elements / block_elements blocks; n_elements is a multiple. */
    void (*unpack)(const void *blocks, size_t n_elements, float *out);
};

extern const struct quant_type quant_types[QUANT_TYPES];

/* Bytes of `n_elements`, a multiple of the type's block. */
size_t quant_bytes(enum quant type, size_t n_elements);

/* IEEE half and bfloat16, round to nearest even, the same bits on every processor; NaN stays a
 * quiet NaN. Subnormals are kept. */
float quant_from_f16(uint16_t half);
uint16_t quant_to_f16(float value);
float quant_from_bf16(uint16_t brain);
uint16_t quant_to_bf16(float value);

#endif
