/* shape.h - a model that is only dimensions: weights are made up, so that speed can be measured
 * where there is no file.
 *
 * `shape:NAME` is one of the known models, `shape:FILE.json` a config.json as Hugging Face's
 * transformers write it: model_type (or architectures), hidden_size, intermediate_size,
 * num_hidden_layers, num_attention_heads, num_key_value_heads, head_dim, vocab_size,
 * max_position_embeddings, rms_norm_eps, rope_theta, rope_scaling (none, linear or llama3),
 * tie_word_embeddings, torch_dtype (bfloat16, float16 or float32; how matrices are stored). The
 * known ones are such texts too. There is no vocabulary: prompts are token ids.
 */
#ifndef LAMINA_SHAPE_H
#define LAMINA_SHAPE_H

#include <stdbool.h>
#include <stdint.h>

#include "check.h"
#include "model.h"
#include "noise.h"

/* Llama 3's change of rope: frequencies whose wave is longer than `original_context` / low are
 * divided by `factor`, those shorter than it / high are left, between them it is gradual. */
struct rope_factors {
    double factor, low, high, original_context;
};

struct shape {
    enum quant type;             /* of matrices; vectors are F32 */
    uint64_t seed;               /* with a weight's name it says what it holds */
    struct rope_factors factors; /* where the model has rope_factors */
    int n_rotated;
    float rope_base;
};

/* True when `name` begins with "shape:". */
bool shape_is(const char *name);

/* The shape that `name` ("shape:...") stands for. An unknown name, a file that cannot be read, is
 * no such configuration or asks for what no family writes is the user's fault. */
bool shape_read(struct shape *shape, struct model *model, const char *name, uint64_t seed,
                struct fault *fault);

/* How a weight is stored. */
enum quant shape_type(const struct shape *shape, const struct graph_weight *weight);

/* All of a weight's numbers: matrices and biases around 0, with a deviation of 1 / sqrt(columns),
 * so that a product is about as large as what it is made of; norms 1. */
void shape_fill(const struct shape *shape, const struct graph_weight *weight, void *out,
                int n_threads);

/* The stream that a matrix is made of, number i being element i of its rows one behind another, for
 * who makes it elsewhere. False for vectors. */
bool shape_noise(const struct shape *shape, const struct graph_weight *weight, struct noise *noise);

/* The factor that divides frequency `pair` of `n_rotated` / 2. */
double shape_rope_factor(const struct shape *shape, int pair);

#endif
