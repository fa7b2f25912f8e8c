/* make_gguf.h - random models for tests: any of the supported architectures, at odd sizes.
 *
 * A model is a function of its wish alone: the same bytes on every host, compiler and library.
 * Random numbers are splitmix64 (Steele, Lea, Flood 2014), one stream a tensor started from
 * (seed, index of the tensor); a normal variate is the sum of four 16-bit uniforms, scaled, so that
 * no mathematical library takes part. Weights are spread so that activations keep their size
 * through the layers, attention is peaked rather than flat (scores of standard deviation 3), and
 * logits have a standard deviation of about 2.
 *
 * The vocabulary is byte-level BPE as SmolLM2's: 0 <|endoftext|>, 1 <|im_start|>, 2 <|im_end|>
 * (control), the 256 byte tokens, tokens merged from earlier ones (three quarters of the rest), and
 * tokens "[N]" that no merge makes.
 */
#ifndef LAMINA_MAKE_GGUF_H
#define LAMINA_MAKE_GGUF_H

#include <stdbool.h>
#include <stdint.h>

#include "check.h"
#include "image.h"

struct make_gguf_wish {
    uint64_t seed;
    const char *architecture; /* "llama", "qwen2", "qwen3"; llama.cpp opens a qwen2 only when
                                 hidden = heads x head_dim */
    int layers, hidden, heads, kv_heads, head_dim, ffn, vocabulary, context;
    const char *type;  /* of every matrix: a name of quant_types, or "mix": each matrix has the
                          next type in turn among those whose block divides its columns */
    bool tied;         /* no output.weight */
    bool rope_factors; /* rope_freqs.weight, as Llama 3 has it (llama only) */
    int alignment;     /* general.alignment; 0: no such key, so 32 */
    int parts;         /* files, named PREFIX-00001-of-0000N.gguf when more than one */
};

/* The model of the bit-equality tests: llama, 3 layers, hidden 200, 9 heads of 40 over 3, FFN 328,
 * 1031 tokens, F32, seed 1, one file. */
struct make_gguf_wish make_gguf_default(void);

/* Write the model. With several parts `path` without ".gguf" is the prefix. False with a fault for
 * a wish that contradicts itself or a file that cannot be written. */
bool make_gguf_write(const struct make_gguf_wish *wish, const char *path, struct fault *fault);

/* splitmix64: the next 64 bits of a stream. */
uint64_t make_gguf_random(uint64_t *state);

/* Append the tokenizer's keys for `n_tokens` to `image`; returns how many keys these are. */
int make_vocabulary(struct image *image, uint64_t seed, int n_tokens);

/* The smallest vocabulary that make_vocabulary can write. */
enum { MAKE_VOCABULARY_LEAST = 3 + 256 };

#endif
