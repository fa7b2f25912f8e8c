/* family_qwen2.c - Qwen2 and Qwen2.5: biases on q, k and v; rope turns halves (i, i + n/2).
 *
 * Source: the GGUF specification's tensor names; Qwen2 technical report, section 2.2.
 */
#include "family.h"

void family_qwen2_write(struct graph *graph, const struct model *model) {
    char name[48];
    int x = family_embed(graph, model);
    int positions = graph_positions(graph);
    const struct rope q_rope = family_rope(model, model->n_heads, false, -1);
    const struct rope k_rope = family_rope(model, model->n_kv_heads, false, -1);
    int q_columns = model->n_heads * model->head_dim;
    int kv_columns = model->n_kv_heads * model->head_dim;

    for (int layer = 0; layer < model->n_layers; layer++) {
        int normed = family_norm(graph, model, layer, "attn_norm", x, model->hidden);
        int q = family_matmul_bias(graph, layer, "attn_q", normed, q_columns);
        int k = family_matmul_bias(graph, layer, "attn_k", normed, kv_columns);
        int v = family_matmul_bias(graph, layer, "attn_v", normed, kv_columns);
        q = graph_rope(graph, family_name(name, layer, "attn_q_rope"), q, positions, q_rope);
        k = graph_rope(graph, family_name(name, layer, "attn_k_rope"), k, positions, k_rope);
        x = family_attention(graph, model, layer, x, (const int[]){q, k, v});
        x = family_ffn(graph, model, layer, x);
    }
    family_head(graph, model, x);
}
