/* family_qwen3.c - dense Qwen3: q and k are normed head by head before they turn (halves, as in
 * Qwen2), no biases, heads whose size need not be hidden / n_heads.
 *
 * Source: the GGUF specification's tensor names; Qwen3 technical report, section 2.
 */
#include "family.h"

void family_qwen3_write(struct graph *graph, const struct model *model) {
    char name[48];
    int x = family_embed(graph, model);
    int positions = graph_positions(graph);
    const struct rope q_rope = family_rope(model, model->n_heads, false, -1);
    const struct rope k_rope = family_rope(model, model->n_kv_heads, false, -1);
    int q_columns = model->n_heads * model->head_dim;
    int kv_columns = model->n_kv_heads * model->head_dim;

    for (int layer = 0; layer < model->n_layers; layer++) {
        int normed = family_norm(graph, model, layer, "attn_norm", x, model->hidden);
        int q = family_matmul(graph, layer, "attn_q", normed, q_columns);
        int k = family_matmul(graph, layer, "attn_k", normed, kv_columns);
        int v = family_matmul(graph, layer, "attn_v", normed, kv_columns);
        q = family_norm(graph, model, layer, "attn_q_norm", q, model->head_dim);
        k = family_norm(graph, model, layer, "attn_k_norm", k, model->head_dim);
        q = graph_rope(graph, family_name(name, layer, "attn_q_rope"), q, positions, q_rope);
        k = graph_rope(graph, family_name(name, layer, "attn_k_rope"), k, positions, k_rope);
        x = family_attention(graph, model, layer, x, (const int[]){q, k, v});
        x = family_ffn(graph, model, layer, x);
    }
    family_head(graph, model, x);
}
