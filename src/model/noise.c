/* noise.c - seeded numbers by counter. See noise.h.
 *
 * The hash is the finaliser of splitmix64 over key + counter (Steele, Lea, Flood: Fast Splittable
 * Pseudorandom Number Generators, 2014); its eight bytes are the levels of eight numbers.
 */
#include "noise.h"

#include <math.h>
#include <string.h>
#include <xxhash.h>

#include "check.h"

enum {
    A_HASH = 8 /* numbers */,
    RUN = 1 << 16 /* numbers a thread makes at a time */
};

uint64_t noise_key(uint64_t seed, const char *name) {
    return XXH3_64bits_withSeed(name, strlen(name), seed);
}

static uint64_t hash_of(uint64_t key, uint64_t counter) {
    uint64_t z = key + (counter + 1) * 0x9E3779B97F4A7C15ull;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ z >> 27) * 0x94D049BB133111EBull;
    return z ^ z >> 31;
}

/* Levels -255, -253 .. 255 have a mean square of (256^2 - 1) / 3. */
static float level_value(int level, double deviation) {
    return (float)((2 * level - (NOISE_LEVELS - 1)) * deviation /
                   sqrt((NOISE_LEVELS * NOISE_LEVELS - 1) / 3.0));
}

void noise_describe(struct noise *noise, enum quant type, uint64_t key, double deviation) {
    REQUIRE(type == QUANT_F32 || type == QUANT_F16 || type == QUANT_BF16, "noise as %s",
            quant_types[type].name);
    noise->key = key;
    for (int level = 0; level < NOISE_LEVELS; level++) {
        float value = level_value(level, deviation);
        if (type == QUANT_F16) value = quant_from_f16(quant_to_f16(value));
        if (type == QUANT_BF16) value = quant_from_bf16(quant_to_bf16(value));
        noise->level[level] = value;
    }
}

#define FILL(T, table)                                                                             \
    for (size_t at = begin; at < end; at += A_HASH) {                                              \
        uint64_t bits = hash_of(key, (first + at) / A_HASH);                                       \
        size_t most = end - at < A_HASH ? end - at : A_HASH;                                       \
        for (size_t byte = 0; byte < most; byte++)                                                 \
            ((T *)out)[at + byte] = table[bits >> 8 * byte & (NOISE_LEVELS - 1)];                  \
    }

void noise_fill(void *out, enum quant type, uint64_t key, double deviation, size_t first, size_t n,
                int n_threads) {
    REQUIRE(first % A_HASH == 0, "numbers from %zu on", first);
    struct noise noise;
    uint16_t narrow[NOISE_LEVELS];
    noise_describe(&noise, type, key, deviation);
    for (int level = 0; level < NOISE_LEVELS; level++) {
        float value = noise.level[level];
        narrow[level] = type == QUANT_F16 ? quant_to_f16(value) : quant_to_bf16(value);
    }
#pragma omp parallel for num_threads(n_threads) schedule(static)
    for (size_t begin = 0; begin < n; begin += RUN) {
        size_t end = n - begin < RUN ? n : begin + RUN;
        if (type == QUANT_F32) {
            FILL(float, noise.level)
        } else {
            FILL(uint16_t, narrow)
        }
    }
}
