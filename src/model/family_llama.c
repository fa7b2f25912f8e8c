/* family_llama.c - Llama 1 to 3, Mistral, SmolLM and others of architecture "llama".
 *
 * Rope turns pairs of neighbours (2i, 2i + 1): GGUF files of this architecture hold q and k with
 * their rows re-ordered for it. Llama 3.1 and later divide each frequency by a factor, which the
 * file brings as rope_freqs.weight. Source: the GGUF specification's "llama" keys and tensor names.
 */
#include "family.h"

void family_llama_write(struct graph *graph, const struct model *model) {
    int x = family_embed(graph, model);
    int positions = graph_positions(graph);
    int factors = model->rope_factors
                      ? graph_weight(graph, "rope_freqs.weight", 1, model->n_rotated / 2)
                      : -1;

    for (int layer = 0; layer < model->n_layers; layer++) {
        int normed = family_norm(graph, model, layer, "attn_norm", x, model->hidden);
        int qkv[3];
        family_qkv(graph, model, layer, normed, false, qkv);
        family_turn(graph, model, layer, positions, true, factors, qkv);
        x = family_attention(graph, model, layer, x, qkv);
        x = family_ffn(graph, model, layer, x);
    }
    family_head(graph, model, x);
}
