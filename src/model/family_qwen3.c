/* family_qwen3.c - dense Qwen3: q and k are normed head by head before they turn (halves, as in
 * Qwen2), no biases, heads whose size need not be hidden / n_heads.
 *
 * Source: the GGUF specification's tensor names; Qwen3 technical report, section 2.
 */
#include "family.h"

void family_qwen3_write(struct graph *graph, const struct model *model) {
    int x = family_embed(graph, model);
    int positions = graph_positions(graph);

    for (int layer = 0; layer < model->n_layers; layer++) {
        int normed = family_norm(graph, model, layer, "attn_norm", x, model->hidden);
        int qkv[3];
        family_qkv(graph, model, layer, normed, false, qkv);
        qkv[0] = family_norm(graph, model, layer, "attn_q_norm", qkv[0], model->head_dim);
        qkv[1] = family_norm(graph, model, layer, "attn_k_norm", qkv[1], model->head_dim);
        family_turn(graph, model, layer, positions, false, -1, qkv);
        x = family_attention(graph, model, layer, x, qkv);
        x = family_ffn(graph, model, layer, x);
    }
    family_head(graph, model, x);
}
