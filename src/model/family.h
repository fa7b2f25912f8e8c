/* family.h - what the families share when they write a model. Private to src/model.
 *
 * Names follow the file format: the weight of part "attn_q" in layer 3 is "blk.3.attn_q.weight",
 * and the node that uses it is called "blk.3.attn_q".
 */
#ifndef LAMINA_FAMILY_H
#define LAMINA_FAMILY_H

#include "graph.h"
#include "model.h"

/* q, k and v of x; with `biased` each has a bias. */
void family_qkv(struct graph *graph, const struct model *model, int layer, int x, bool biased,
                int qkv[3]);

/* RMS norm of the layer's `part` over groups of `group` columns. */
int family_norm(struct graph *graph, const struct model *model, int layer, const char *part, int x,
                int group);

/* Softmax attention of the model's heads over q, k, v, then its output projection, added to x. */
int family_attention(struct graph *graph, const struct model *model, int layer, int x,
                     const int qkv[3]);

/* x + down(swiglu(gate, up)) of x normed. */
int family_ffn(struct graph *graph, const struct model *model, int layer, int x);

/* The embedding of the ids; and from the last residual to the sampled token. */
int family_embed(struct graph *graph, const struct model *model);
void family_head(struct graph *graph, const struct model *model, int x);

/* Turn q and k, qkv[0] and qkv[1], by the rows' positions. `factors` is a weight index or -1. */
void family_turn(struct graph *graph, const struct model *model, int layer, int positions,
                 bool interleaved, int factors, int qkv[3]);

/* "blk.<layer>.<part>", for node names. */
const char *family_name(char name[48], int layer, const char *part);

#endif
