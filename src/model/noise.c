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
    LEVELS = 256,
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
    return (float)((2 * level - (LEVELS - 1)) * deviation / sqrt((LEVELS * LEVELS - 1) / 3.0));
}

#define FILL(T, table)                                                                             \
    for (size_t at = begin; at < end; at += A_HASH) {                                              \
        uint64_t bits = hash_of(key, (first + at) / A_HASH);                                       \
        size_t most = end - at < A_HASH ? end - at : A_HASH;                                       \
        for (size_t byte = 0; byte < most; byte++)                                                 \
            ((T *)out)[at + byte] = table[bits >> 8 * byte & (LEVELS - 1)];                        \
    }

void noise_fill(void *out, enum quant type, uint64_t key, double deviation, size_t first, size_t n,
                int n_threads) {
    REQUIRE(first % A_HASH == 0, "numbers from %zu on", first);
    REQUIRE(type == QUANT_F32 || type == QUANT_F16 || type == QUANT_BF16, "noise as %s",
            quant_types[type].name);
    float wide[LEVELS];
    uint16_t narrow[LEVELS];
    for (int level = 0; level < LEVELS; level++) {
        wide[level] = level_value(level, deviation);
        narrow[level] = type == QUANT_F16 ? quant_to_f16(wide[level]) : quant_to_bf16(wide[level]);
    }
#pragma omp parallel for num_threads(n_threads) schedule(static)
    for (size_t begin = 0; begin < n; begin += RUN) {
        size_t end = n - begin < RUN ? n : begin + RUN;
        if (type == QUANT_F32) {
            FILL(float, wide)
        } else {
            FILL(uint16_t, narrow)
        }
    }
}
