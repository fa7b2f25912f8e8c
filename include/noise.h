/* noise.h - numbers that stand for weights, and for cached K and V, where there are none.
 *
 * A stream of numbers has a key; number i of it depends on nothing else, so that a tensor is the
 * same whenever and in whatever pieces it is made. Each is one of 256 levels at equal distances
 * around 0, and none is 0: enough to keep arithmetic units and memory as busy as real weights do,
 * and one hash makes eight of them.
 */
#ifndef LAMINA_NOISE_H
#define LAMINA_NOISE_H

#include <stddef.h>
#include <stdint.h>

#include "quant.h"

/* The key of the stream called `name`. */
uint64_t noise_key(uint64_t seed, const char *name);

/* A stream as whoever makes it needs it: number i is level[byte i % 8 of hash(i / 8)], byte 0 the
 * lowest. hash(c) is splitmix64's finaliser of z = key + (c + 1) * 0x9E3779B97F4A7C15: z ^= z >>
 * 30, z *= 0xBF58476D1CE4E5B9, z ^= z >> 27, z *= 0x94D049BB133111EB, z ^= z >> 31. */
enum { NOISE_LEVELS = 256 };
struct noise {
    uint64_t key;
    float level[NOISE_LEVELS]; /* rising, as they are stored */
};

/* The stream of `key` as `type` (F32, F16 or BF16) rounds it. */
void noise_describe(struct noise *noise, enum quant type, uint64_t key, double deviation);

/* out[n] = numbers first .. first + n - 1 of a stream, mean 0, as `type` (F32, F16 or BF16) rounds
 * them. `first` is a multiple of 8. */
void noise_fill(void *out, enum quant type, uint64_t key, double deviation, size_t first, size_t n,
                int n_threads);

#endif
