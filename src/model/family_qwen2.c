/* family_qwen2.c - Qwen2 and Qwen2.5: biases on q, k and v; rope turns halves (i, i + n/2).
 *
 * Source: the GGUF specification's tensor names; Qwen2 technical report, section 2.2.
 */
#include "family.h"

void family_qwen2_write(struct graph *graph, const struct model *model) {
    int x = family_embed(graph, model);
    int positions = graph_positions(graph);

    for (int layer = 0; layer < model->n_layers; layer++) {
        int normed = family_norm(graph, model, layer, "attn_norm", x, model->hidden);
        int qkv[3];
        family_qkv(graph, model, layer, normed, true, qkv);
        family_turn(graph, model, layer, positions, false, -1, qkv);
        x = family_attention(graph, model, layer, x, qkv);
        x = family_ffn(graph, model, layer, x);
    }
    family_head(graph, model, x);
}
