/* graph.c - the calls a family writes its model with. See graph.h.
 *
 * Owns the node and weight lists. Invariant: an input's index is smaller than its reader's, so the
 * order of the list is a topological order and passes over the graph are plain loops. Every call
 * checks the shapes it is given, so whoever reads a graph need not. What a value costs and how
 * nodes are ordered is the converter's business.
 *
 * Rejected: reading a model from a description file. A family is code because families differ in
 * structure, and a C function is as short as its description would be.
 */
#include "graph.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

enum { TOKEN_BYTES = 4 }; /* of an id or a position */

static const struct {
    const char *name;
    bool header;  /* the step header gives it on every rank */
    bool integer; /* one int32 a row, not activations */
} ops[OPS] = {
    [OP_IDS] = {.name = "ids", .header = true, .integer = true},
    [OP_POSITIONS] = {.name = "positions", .header = true, .integer = true},
    [OP_EMBED] = {.name = "embed"},
    [OP_NORM] = {.name = "norm"},
    [OP_MATMUL] = {.name = "matmul"},
    [OP_ROPE] = {.name = "rope"},
    [OP_ADD] = {.name = "add"},
    [OP_SWIGLU] = {.name = "swiglu"},
    [OP_COLUMNS] = {.name = "columns"},
    [OP_ATTENTION] = {.name = "attention"},
    [OP_PICK] = {.name = "pick"},
    [OP_SAMPLE] = {.name = "sample", .integer = true},
};

const char *op_name(enum op op) {
    REQUIRE(op >= 0 && op < OPS, "operator %d", (int)op);
    return ops[op].name;
}

void graph_open(struct graph *graph, struct graph_options options) {
    REQUIRE(options.element_bytes == 2 || options.element_bytes == 4, "activations of %d bytes",
            options.element_bytes);
    *graph = (struct graph){.element_bytes = options.element_bytes,
                            .joins_weights = options.joins_weights};
}

void graph_close(struct graph *graph) {
    for (int weight = 0; weight < graph->n_weights; weight++)
        free(graph->weight[weight].part);
    free(graph->node);
    free(graph->weight);
    *graph = (struct graph){0};
}

/* `list` with room for one more than `n` elements of `size` bytes. */
static void *grow(void *list, int n, int *capacity, size_t size) {
    if (n < *capacity) return list;
    int wider = *capacity ? 2 * *capacity : 64;
    void *moved = check_alloc(wider, size);
    if (n > 0) memcpy(moved, list, (size_t)n * size);
    free(list);
    *capacity = wider;
    return moved;
}

/* Index of the weight called `name`; n_weights when there is none. */
static int find_weight(const struct graph *graph, const char *name) {
    int weight = 0;
    while (weight < graph->n_weights && strcmp(graph->weight[weight].name, name) != 0)
        weight++;
    return weight;
}

int graph_weight(struct graph *graph, const char *name, int rows, int columns) {
    REQUIRE(rows > 0 && columns > 0, "weight %s of %d x %d", name, rows, columns);
    int weight = find_weight(graph, name);
    if (weight < graph->n_weights) {
        const struct graph_weight *known = &graph->weight[weight];
        REQUIRE(known->rows == rows && known->columns == columns,
                "weight %s is %d x %d and again %d x %d", name, known->rows, known->columns, rows,
                columns);
        return weight;
    }
    graph->weight =
        grow(graph->weight, graph->n_weights, &graph->weight_capacity, sizeof *graph->weight);
    struct graph_weight *added = &graph->weight[graph->n_weights];
    *added = (struct graph_weight){.rows = rows, .columns = columns};
    int length = snprintf(added->name, sizeof added->name, "%s", name);
    REQUIRE(length < (int)sizeof added->name, "weight name %s is too long", name);
    return graph->n_weights++;
}

int graph_joined_weight(struct graph *graph, const char *name, int rows, int columns,
                        const struct graph_weight *part, int n_parts) {
    REQUIRE(find_weight(graph, name) == graph->n_weights, "weight %s is joined twice", name);
    int sum = 0;
    for (int at = 0; at < n_parts; at++) {
        bool fits = rows == 1 ? part[at].rows == 1 : part[at].columns == columns;
        REQUIRE(fits, "weight %s of %d x %d is joined of %s, %d x %d", name, rows, columns,
                part[at].name, part[at].rows, part[at].columns);
        sum += rows == 1 ? part[at].columns : part[at].rows;
    }
    REQUIRE(sum == (rows == 1 ? columns : rows), "the parts of weight %s of %d x %d have %d", name,
            rows, columns, sum);
    int weight = graph_weight(graph, name, rows, columns);
    graph->weight[weight].n_parts = n_parts;
    graph->weight[weight].part = check_alloc(n_parts, sizeof *part);
    memcpy(graph->weight[weight].part, part, (size_t)n_parts * sizeof *part);
    return weight;
}

static const struct node *node_at(const struct graph *graph, int node) {
    REQUIRE(node >= 0 && node < graph->n_nodes, "node %d of %d", node, graph->n_nodes);
    return &graph->node[node];
}

static const struct graph_weight *weight_at(const struct graph *graph, int weight) {
    REQUIRE(weight >= 0 && weight < graph->n_weights, "weight %d of %d", weight, graph->n_weights);
    return &graph->weight[weight];
}

/* A vector of `columns`, or none. */
static void require_vector(const struct graph *graph, int weight, int columns) {
    if (weight == -1) return;
    const struct graph_weight *vector = weight_at(graph, weight);
    REQUIRE(vector->rows == 1 && vector->columns == columns,
            "weight %s is %d x %d where 1 x %d is needed", vector->name, vector->rows,
            vector->columns, columns);
}

/* Two values that meet element by element, or an attention's: same rows. */
static void require_same_rows(const struct graph *graph, const char *name, int a, int b) {
    REQUIRE(graph_is_picked(graph, a) == graph_is_picked(graph, b),
            "%s: %s has picked rows, or %s, but not both", name, node_at(graph, a)->name,
            node_at(graph, b)->name);
}

static void require_activations(const struct graph *graph, const char *name, int x) {
    REQUIRE(!ops[node_at(graph, x)->op].integer, "%s reads %s", name, node_at(graph, x)->name);
}

static int add_node(struct graph *graph, const char *name, struct node node) {
    REQUIRE(node.columns > 0, "%s has %d columns", name, node.columns);
    int length = snprintf(node.name, sizeof node.name, "%s", name);
    REQUIRE(length < (int)sizeof node.name, "node name %s is too long", name);
    graph->node = grow(graph->node, graph->n_nodes, &graph->node_capacity, sizeof *graph->node);
    graph->node[graph->n_nodes] = node;
    return graph->n_nodes++;
}

int graph_ids(struct graph *graph) {
    return add_node(graph, "ids",
                    (struct node){.op = OP_IDS, .columns = 1, .weight = -1, .bias = -1});
}

int graph_positions(struct graph *graph) {
    return add_node(graph, "positions",
                    (struct node){.op = OP_POSITIONS, .columns = 1, .weight = -1, .bias = -1});
}

int graph_embed(struct graph *graph, const char *name, int ids, int weight) {
    REQUIRE(node_at(graph, ids)->op == OP_IDS, "%s reads %s", name, node_at(graph, ids)->name);
    return add_node(graph, name,
                    (struct node){.op = OP_EMBED,
                                  .n_inputs = 1,
                                  .input = {ids},
                                  .columns = weight_at(graph, weight)->columns,
                                  .weight = weight,
                                  .bias = -1});
}

int graph_norm(struct graph *graph, const char *name, int x, int weight, float eps) {
    require_activations(graph, name, x);
    int columns = node_at(graph, x)->columns, group = weight_at(graph, weight)->columns;
    require_vector(graph, weight, group);
    REQUIRE(columns % group == 0, "%s: %d columns in groups of %d", name, columns, group);
    return add_node(graph, name,
                    (struct node){.op = OP_NORM,
                                  .n_inputs = 1,
                                  .input = {x},
                                  .columns = columns,
                                  .weight = weight,
                                  .bias = -1,
                                  .as.norm = {.group = group, .eps = eps}});
}

int graph_matmul(struct graph *graph, const char *name, int x, int weight, int bias) {
    require_activations(graph, name, x);
    const struct graph_weight *matrix = weight_at(graph, weight);
    REQUIRE(matrix->columns == node_at(graph, x)->columns, "%s: %s takes %d columns, %s has %d",
            name, matrix->name, matrix->columns, node_at(graph, x)->name,
            node_at(graph, x)->columns);
    require_vector(graph, bias, matrix->rows);
    return add_node(graph, name,
                    (struct node){.op = OP_MATMUL,
                                  .n_inputs = 1,
                                  .input = {x},
                                  .columns = matrix->rows,
                                  .weight = weight,
                                  .bias = bias});
}

int graph_rope(struct graph *graph, const char *name, int x, int positions, struct rope rope) {
    require_activations(graph, name, x);
    REQUIRE(node_at(graph, positions)->op == OP_POSITIONS, "%s turns by %s", name,
            node_at(graph, positions)->name);
    REQUIRE(!graph_is_picked(graph, x), "%s: positions are of rows in flight", name);
    int columns = node_at(graph, x)->columns;
    REQUIRE(rope.n_heads > 0 && rope.head_dim > 0 && columns / rope.n_heads == rope.head_dim &&
                columns % rope.n_heads == 0,
            "%s: %d columns as %d heads of %d", name, columns, rope.n_heads, rope.head_dim);
    REQUIRE(rope.n_rotated > 0 && rope.n_rotated <= rope.head_dim && rope.n_rotated % 2 == 0,
            "%s: %d of %d dimensions turn", name, rope.n_rotated, rope.head_dim);
    require_vector(graph, rope.factors, rope.n_rotated / 2);
    return add_node(graph, name,
                    (struct node){.op = OP_ROPE,
                                  .n_inputs = 2,
                                  .input = {x, positions},
                                  .columns = columns,
                                  .weight = -1,
                                  .bias = -1,
                                  .as.rope = rope});
}

/* A node that meets two values of one shape element by element. */
static int add_pair(struct graph *graph, const char *name, enum op op, int a, int b) {
    require_activations(graph, name, a);
    require_activations(graph, name, b);
    require_same_rows(graph, name, a, b);
    int columns = node_at(graph, a)->columns;
    REQUIRE(columns == node_at(graph, b)->columns, "%s: %d and %d columns", name, columns,
            node_at(graph, b)->columns);
    return add_node(graph, name,
                    (struct node){.op = op,
                                  .n_inputs = 2,
                                  .input = {a, b},
                                  .columns = columns,
                                  .weight = -1,
                                  .bias = -1});
}

int graph_add(struct graph *graph, const char *name, int a, int b) {
    return add_pair(graph, name, OP_ADD, a, b);
}

int graph_swiglu(struct graph *graph, const char *name, int gate, int up) {
    return add_pair(graph, name, OP_SWIGLU, gate, up);
}

int graph_columns(struct graph *graph, const char *name, int x, int first, int columns) {
    require_activations(graph, name, x);
    REQUIRE(first >= 0 && columns > 0 && columns <= node_at(graph, x)->columns - first,
            "%s: columns %d..%d of %d", name, first, first + columns - 1,
            node_at(graph, x)->columns);
    return add_node(graph, name,
                    (struct node){.op = OP_COLUMNS,
                                  .n_inputs = 1,
                                  .input = {x},
                                  .columns = columns,
                                  .weight = -1,
                                  .bias = -1,
                                  .as.columns_of = {.first = first}});
}

int graph_attention(struct graph *graph, const char *name, int q, int k, int v,
                    struct attention attention) {
    const int value[3] = {q, k, v};
    const int heads[3] = {attention.n_heads, attention.n_kv_heads, attention.n_kv_heads};
    REQUIRE(attention.n_heads > 0 && attention.n_kv_heads > 0 && attention.head_dim > 0 &&
                attention.n_heads % attention.n_kv_heads == 0,
            "%s: %d heads on %d", name, attention.n_heads, attention.n_kv_heads);
    for (int part = 0; part < 3; part++) {
        require_activations(graph, name, value[part]);
        REQUIRE(!graph_is_picked(graph, value[part]), "%s: attention over picked rows", name);
        int columns = node_at(graph, value[part])->columns;
        REQUIRE(columns / heads[part] == attention.head_dim && columns % heads[part] == 0,
                "%s: %s has %d columns, not %d heads of %d", name,
                node_at(graph, value[part])->name, columns, heads[part], attention.head_dim);
    }
    attention.layer = graph->n_attention++;
    return add_node(graph, name,
                    (struct node){.op = OP_ATTENTION,
                                  .n_inputs = 3,
                                  .input = {q, k, v},
                                  .columns = node_at(graph, q)->columns,
                                  .weight = -1,
                                  .bias = -1,
                                  .as.attention = attention});
}

int graph_pick(struct graph *graph, const char *name, int x) {
    require_activations(graph, name, x);
    REQUIRE(!graph_is_picked(graph, x), "%s: rows are picked once", name);
    return add_node(graph, name,
                    (struct node){.op = OP_PICK,
                                  .n_inputs = 1,
                                  .input = {x},
                                  .columns = node_at(graph, x)->columns,
                                  .weight = -1,
                                  .bias = -1});
}

int graph_sample(struct graph *graph, const char *name, int logits) {
    require_activations(graph, name, logits);
    REQUIRE(graph_is_picked(graph, logits), "%s: only picked rows are sampled", name);
    graph->node[logits].logits = true;
    return add_node(graph, name,
                    (struct node){.op = OP_SAMPLE,
                                  .n_inputs = 1,
                                  .input = {logits},
                                  .columns = 1,
                                  .weight = -1,
                                  .bias = -1});
}

size_t graph_row_bytes(const struct graph *graph, int node) {
    const struct node *made = node_at(graph, node);
    if (ops[made->op].header) return 0;
    int element_bytes = ops[made->op].integer ? TOKEN_BYTES
                        : made->logits        ? (int)sizeof(float)
                                              : graph->element_bytes;
    return (size_t)made->columns * (size_t)element_bytes;
}

int graph_root(const struct graph *graph, int node) {
    while (node_at(graph, node)->op == OP_COLUMNS)
        node = graph->node[node].input[0];
    return node;
}

/* Inputs of one node agree in their rows (the positions a rope reads come second), so the first
 * input of the first input, and so on, is enough to look at. */
bool graph_is_picked(const struct graph *graph, int node) {
    const struct node *made = node_at(graph, node);
    while (made->op != OP_PICK && made->n_inputs > 0) {
        made = node_at(graph, made->input[0]);
    }
    return made->op == OP_PICK;
}
