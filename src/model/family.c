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

/* Index of "blk.<layer>.<part>.<kind>". */
static int part_weight(struct graph *graph, int layer, const char *part, const char *kind, int rows,
                       int columns) {
    char name[64];
    int length = snprintf(name, sizeof name, "blk.%d.%s.%s", layer, part, kind);
    REQUIRE(length < (int)sizeof name, "the name of part %s in layer %d is too long", part, layer);
    return graph_weight(graph, name, rows, columns);
}

int family_matmul(struct graph *graph, int layer, const char *part, int x, int columns) {
    char name[48];
    int weight = part_weight(graph, layer, part, "weight", columns, graph->node[x].columns);
    return graph_matmul(graph, family_name(name, layer, part), x, weight, -1);
}

int family_matmul_bias(struct graph *graph, int layer, const char *part, int x, int columns) {
    char name[48];
    int weight = part_weight(graph, layer, part, "weight", columns, graph->node[x].columns);
    int bias = part_weight(graph, layer, part, "bias", 1, columns);
    return graph_matmul(graph, family_name(name, layer, part), x, weight, bias);
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
    int projected = family_matmul(graph, layer, "attn_output", out, model->hidden);
    return graph_add(graph, family_name(name, layer, "attn_add"), x, projected);
}

int family_ffn(struct graph *graph, const struct model *model, int layer, int x) {
    char name[48];
    int normed = family_norm(graph, model, layer, "ffn_norm", x, model->hidden);
    int gate = family_matmul(graph, layer, "ffn_gate", normed, model->ffn);
    int up = family_matmul(graph, layer, "ffn_up", normed, model->ffn);
    int gated = graph_swiglu(graph, family_name(name, layer, "ffn_swiglu"), gate, up);
    int down = family_matmul(graph, layer, "ffn_down", gated, model->hidden);
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

struct rope family_rope(const struct model *model, int n_heads, bool interleaved, int factors) {
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
