/* model.h - what a model file says of its architecture, and the families that write graphs.
 *
 * A family is one row of a table: the architecture's name in the file, how its hyperparameters are
 * read, and the function that writes the graph. It knows weight names and nothing of ranks.
 */
#ifndef LAMINA_MODEL_H
#define LAMINA_MODEL_H

#include <stdbool.h>

#include "check.h"
#include "gguf.h"
#include "graph.h"

/* Limits of hyperparameters: far above any model known, far below where products of two overflow an
 * int. */
enum {
    MODEL_MOST_LAYERS = 1024,
    MODEL_MOST_COLUMNS = 1 << 22, /* of a value inside the model */
    MODEL_MOST_HEADS = 1 << 12,
    MODEL_MOST_TOKENS = 1 << 27,  /* of a vocabulary */
    MODEL_MOST_CONTEXT = 1 << 30, /* tokens */
};

/* Hyperparameters, from a file or a shape. */
struct model {
    const struct model_family *family;
    char name[128]; /* general.name, or the file's name; escaped for printing */
    int n_layers;
    int hidden; /* columns of the residual stream */
    int ffn;    /* columns between gate/up and down */
    int n_heads, n_kv_heads, head_dim;
    int vocabulary; /* tokens */
    int context;    /* tokens the model was made for */
    int n_rotated;  /* rope: leading dimensions of a head that turn */
    float norm_eps;
    float rope_base;
    float rope_scale;  /* linear scaling of positions, 1 = none */
    bool rope_factors; /* there is a rope_freqs.weight */
    bool tied;         /* no output.weight: the head is the embedding */
};

struct model_family {
    const char *architecture; /* general.architecture */
    void (*write)(struct graph *graph, const struct model *model);
};

/* Read and check hyperparameters; products that overflow, heads that do not divide, unsupported
 * architectures and features (experts, yarn, ...) are the user's fault, named with what is
 * supported. So is a tensor that is missing, of another shape than the family's graph needs, or
 * not named by that graph at all. */
bool model_read(struct model *model, const struct gguf *gguf, struct fault *fault);

/* The family called `architecture`, or NULL. */
const struct model_family *model_find_family(const char *architecture, size_t n_bytes);

/* Write the whole model: embedding to sampling. */
void model_write_graph(struct graph *graph, const struct model *model);

void family_llama_write(struct graph *graph, const struct model *model);
void family_qwen2_write(struct graph *graph, const struct model *model);
void family_qwen3_write(struct graph *graph, const struct model *model);

#endif
