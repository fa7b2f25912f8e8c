/* family.c - the pieces of a pre-norm decoder that all our families are built of. See family.h.
 *
 * Owns how parts of a layer are named and which shapes they have. A family that differs in one of
 * these pieces writes its own; nothing here asks which family is calling.
 */
#include "family.h"

#include <math.h>
#include <stdio.h>

#include "check.h"

const char *family_name(char name[48], int layer, const char *part) {
    int length = snprintf(name, 48, "blk.%d.%s", layer, part);
    REQUIRE(length < 48, "the name of part %s in layer %d is too long", part, layer);
    return name;
}

/* The tensor "blk.<layer>.<part>.<kind>". */
static struct graph_weight part_tensor(int layer, const char *part, const char *kind, int rows,
                                       int columns) {
    struct graph_weight tensor = {.rows = rows, .columns = columns};
    int length = snprintf(tensor.name, sizeof tensor.name, "blk.%d.%s.%s", layer, part, kind);
    REQUIRE(length < (int)sizeof tensor.name, "the name of part %s in layer %d is too long", part,
            layer);
    return tensor;
}

static int part_weight(struct graph *graph, int layer, const char *part, const char *kind, int rows,
                       int columns) {
    struct graph_weight tensor = part_tensor(layer, part, kind, rows, columns);
    return graph_weight(graph, tensor.name, rows, columns);
}

/* x W^T, with `biased` + b, of the layer's `part`, making `columns`. */
static int matmul(struct graph *graph, int layer, const char *part, int x, int columns,
                  bool biased) {
    char name[48];
    int weight = part_weight(graph, layer, part, "weight", columns, graph->node[x].columns);
    int bias = biased ? part_weight(graph, layer, part, "bias", 1, columns) : -1;
    return graph_matmul(graph, family_name(name, layer, part), x, weight, bias);
}

/* Parts of a layer that are matmuls of one value. */
enum { MOST_PARTS = 3 };
struct parts {
    const char *joined; /* what they are called as one */
    int n;
    const char *name[MOST_PARTS];
    int columns[MOST_PARTS]; /* that each makes */
    bool biased;
};

/* The matrices of all parts as one, rows behind rows; they take `in_columns`. */
static int joined_matrix(struct graph *graph, int layer, const struct parts *parts,
                         int in_columns) {
    struct graph_weight part[MOST_PARTS];
    struct graph_weight whole = part_tensor(layer, parts->joined, "weight", 0, in_columns);
    for (int at = 0; at < parts->n; whole.rows += parts->columns[at++])
        part[at] = part_tensor(layer, parts->name[at], "weight", parts->columns[at], in_columns);
    return graph_joined_weight(graph, whole.name, whole.rows, in_columns, part, parts->n);
}

/* Their biases as one. */
static int joined_bias(struct graph *graph, int layer, const struct parts *parts) {
    struct graph_weight part[MOST_PARTS];
    struct graph_weight whole = part_tensor(layer, parts->joined, "bias", 1, 0);
    for (int at = 0; at < parts->n; whole.columns += parts->columns[at++])
        part[at] = part_tensor(layer, parts->name[at], "bias", 1, parts->columns[at]);
    return graph_joined_weight(graph, whole.name, 1, whole.columns, part, parts->n);
}

/* value[n] of the parts: a matmul each, or columns of one. */
static void matmuls(struct graph *graph, int layer, const struct parts *parts, int x, int *value) {
    char name[48];
    if (!graph->joins_weights) {
        for (int at = 0; at < parts->n; at++)
            value[at] = matmul(graph, layer, parts->name[at], x, parts->columns[at], parts->biased);
        return;
    }
    int weight = joined_matrix(graph, layer, parts, graph->node[x].columns);
    int bias = parts->biased ? joined_bias(graph, layer, parts) : -1;
    int all = graph_matmul(graph, family_name(name, layer, parts->joined), x, weight, bias);
    for (int at = 0, first = 0; at < parts->n; first += parts->columns[at++])
        value[at] = graph_columns(graph, family_name(name, layer, parts->name[at]), all, first,
                                  parts->columns[at]);
}

void family_qkv(struct graph *graph, const struct model *model, int layer, int x, bool biased,
                int qkv[3]) {
    int q_columns = model->n_heads * model->head_dim;
    int kv_columns = model->n_kv_heads * model->head_dim;
    const struct parts parts = {
        .joined = "attn_qkv",
        .n = 3,
        .name = {"attn_q", "attn_k", "attn_v"},
        .columns = {q_columns, kv_columns, kv_columns},
        .biased = biased,
    };
    matmuls(graph, layer, &parts, x, qkv);
}

int family_norm(struct graph *graph, const struct model *model, int layer, const char *part, int x,
                int group) {
    char name[48];
    int weight = part_weight(graph, layer, part, "weight", 1, group);
    return graph_norm(graph, family_name(name, layer, part), x, weight, model->norm_eps);
}

int family_attention(struct graph *graph, const struct model *model, int layer, int x,
                     const int qkv[3]) {
    char name[48];
    struct attention attention = {
        .n_heads = model->n_heads,
        .n_kv_heads = model->n_kv_heads,
        .head_dim = model->head_dim,
        .scale = (float)(1.0 / sqrt(model->head_dim)),
    };
    int out = graph_attention(graph, family_name(name, layer, "attention"), qkv[0], qkv[1], qkv[2],
                              attention);
    int projected = matmul(graph, layer, "attn_output", out, model->hidden, false);
    return graph_add(graph, family_name(name, layer, "attn_add"), x, projected);
}

int family_ffn(struct graph *graph, const struct model *model, int layer, int x) {
    char name[48];
    const struct parts parts = {.joined = "ffn_gate_up",
                                .n = 2,
                                .name = {"ffn_gate", "ffn_up"},
                                .columns = {model->ffn, model->ffn}};
    int value[2];
    int normed = family_norm(graph, model, layer, "ffn_norm", x, model->hidden);
    matmuls(graph, layer, &parts, normed, value);
    int gated = graph_swiglu(graph, family_name(name, layer, "ffn_swiglu"), value[0], value[1]);
    int down = matmul(graph, layer, "ffn_down", gated, model->hidden, false);
    return graph_add(graph, family_name(name, layer, "ffn_add"), x, down);
}

int family_embed(struct graph *graph, const struct model *model) {
    int weight = graph_weight(graph, "token_embd.weight", model->vocabulary, model->hidden);
    return graph_embed(graph, "token_embd", graph_ids(graph), weight);
}

void family_head(struct graph *graph, const struct model *model, int x) {
    int picked = graph_pick(graph, "pick", x);
    int norm = graph_weight(graph, "output_norm.weight", 1, model->hidden);
    int normed = graph_norm(graph, "output_norm", picked, norm, model->norm_eps);
    const char *head = model->tied ? "token_embd.weight" : "output.weight";
    int weight = graph_weight(graph, head, model->vocabulary, model->hidden);
    graph_sample(graph, "sample", graph_matmul(graph, "output", normed, weight, -1));
}

static struct rope rope_of(const struct model *model, int n_heads, bool interleaved, int factors) {
    return (struct rope){
        .n_heads = n_heads,
        .head_dim = model->head_dim,
        .n_rotated = model->n_rotated,
        .interleaved = interleaved,
        .base = model->rope_base,
        .scale = model->rope_scale,
        .factors = factors,
    };
}

void family_turn(struct graph *graph, const struct model *model, int layer, int positions,
                 bool interleaved, int factors, int qkv[3]) {
    char name[48];
    struct rope q = rope_of(model, model->n_heads, interleaved, factors);
    struct rope k = rope_of(model, model->n_kv_heads, interleaved, factors);
    qkv[0] = graph_rope(graph, family_name(name, layer, "attn_q_rope"), qkv[0], positions, q);
    qkv[1] = graph_rope(graph, family_name(name, layer, "attn_k_rope"), qkv[1], positions, k);
}
