/* graph.h - a model as a graph of operators, written in its ordinary order.
 *
 * A family writes its model by calling graph_norm, graph_matmul, ... once (the symbolic execution
 * of the Lamina paper, section 4.2); each call makes one node and returns its index. A node makes
 * one value of shape (rows, columns). Rows are the tokens in flight and stay symbolic; every
 * operator but attention treats rows independently. The graph knows weight names and shapes,
 * nothing of files, devices or ranks. Shapes are checked as the graph is written; a mismatch is
 * ours (REQUIRE).
 */
#ifndef LAMINA_GRAPH_H
#define LAMINA_GRAPH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum op {
    OP_IDS,       /* from the header: token of each row, int32 */
    OP_POSITIONS, /* from the header: position of each row, int32 */
    OP_EMBED,     /* (ids) -> the weight's row of each id */
    OP_NORM,      /* (x) -> x / sqrt(mean(x^2) + eps) * weight over groups of columns (RMS norm) */
    OP_MATMUL,    /* (x) -> x W^T + bias; W is (columns, columns of x) */
    OP_ROPE,      /* (x, positions) -> heads rotated by position */
    OP_ADD,       /* (a, b) -> a + b */
    OP_SWIGLU,    /* (gate, up) -> gate / (1 + exp(-gate)) * up */
    OP_COLUMNS,   /* (x) -> some of its columns; a view, costs nothing to compute */
    OP_ATTENTION, /* (q, k, v) -> softmax over the sequence's cache and its own rows */
    OP_PICK,      /* (x) -> the rows the header wants sampled; values behind it have those rows */
    OP_SAMPLE,    /* (logits) -> chosen token of each picked row, int32 */
    OPS
};
const char *op_name(enum op op);

/* A weight as the graph needs it: (rows, columns), columns innermost; vectors have rows = 1. It is
 * the model's tensor of that name, or joined of several. */
struct graph_weight {
    char name[64];
    int rows, columns;
    int n_parts;               /* of a joined weight; 0: it is a tensor */
    struct graph_weight *part; /* (n_parts) tensors, owned: matrices stand one behind another in
                                  rows, those of a vector in columns */
};

struct rope {
    int n_heads, head_dim;
    int n_rotated;    /* leading dimensions of a head that turn */
    bool interleaved; /* pairs (2i, 2i+1); else (i, i + n_rotated/2) */
    float base;
    float scale; /* positions are multiplied by it (linear scaling; 1 = none) */
    int factors; /* weight index dividing each frequency (Llama 3), or -1 */
};

struct attention {
    int layer; /* index among the attention nodes: the layer of the KV cache */
    int n_heads, n_kv_heads, head_dim;
    float scale; /* of q . k */
};

struct node {
    enum op op;
    int n_inputs;
    int input[3];
    int columns;
    int weight, bias; /* index into graph->weight, or -1 */
    bool logits;      /* sample reads it: float32, whatever activations are */
    char name[48];    /* for people: "blk.3.attn_q" */
    union {
        struct {
            int group; /* columns normalised together; weight has that many */
            float eps;
        } norm;
        struct rope rope;
        struct attention attention;
        struct {
            int first;
        } columns_of;
    } as;
};

struct graph {
    int n_nodes, node_capacity;
    struct node *node;
    int n_weights, weight_capacity;
    struct graph_weight *weight;
    int n_attention;
    int element_bytes; /* as the options have them */
    bool joins_weights;
};

/* What the device that computes a graph wants of it. */
struct graph_options {
    int element_bytes;  /* of an activation: 4 on CPU ranks, 2 on GPU ranks (bf16) */
    bool joins_weights; /* families write matmuls of one input as one, of joined weights */
};

void graph_open(struct graph *graph, struct graph_options options);
void graph_close(struct graph *graph);

/* Index of the weight called `name`, added when new; a second use must have the same shape. */
int graph_weight(struct graph *graph, const char *name, int rows, int columns);
/* The same of a weight joined of `n_parts` tensors, which are copied; it is new. */
int graph_joined_weight(struct graph *graph, const char *name, int rows, int columns,
                        const struct graph_weight *part, int n_parts);

/* The operators. `name` labels the node; `weight` and `bias` come from graph_weight. */
int graph_ids(struct graph *graph);
int graph_positions(struct graph *graph);
int graph_embed(struct graph *graph, const char *name, int ids, int weight);
/* Normalises groups of as many columns as `weight` has. */
int graph_norm(struct graph *graph, const char *name, int x, int weight, float eps);
int graph_matmul(struct graph *graph, const char *name, int x, int weight, int bias);
int graph_rope(struct graph *graph, const char *name, int x, int positions, struct rope rope);
int graph_add(struct graph *graph, const char *name, int a, int b);
int graph_swiglu(struct graph *graph, const char *name, int gate, int up);
int graph_columns(struct graph *graph, const char *name, int x, int first, int columns);
/* `attention.layer` is filled in. */
int graph_attention(struct graph *graph, const char *name, int q, int k, int v,
                    struct attention attention);
int graph_pick(struct graph *graph, const char *name, int x);
int graph_sample(struct graph *graph, const char *name, int logits);

/* Bytes of one row of a node's value; what the header gives costs 0. */
size_t graph_row_bytes(const struct graph *graph, int node);

/* The node whose allocation a value lies in: what it is columns of. */
int graph_root(const struct graph *graph, int node);

/* True when the value has one row for each picked row instead of one for each row in flight. */
bool graph_is_picked(const struct graph *graph, int node);

#endif
