/* execute.c - steps of a program as calls of the device table. */
#include "check.h"
#include "memory.h"

/* What calls are made with. */
struct execution {
    const struct decode_options *options;
    const struct memory *memory;
    const struct rows *rows;
};

static struct value value_at(const struct execution *e, int node) {
    return memory_value(e->options, &e->memory->arena[e->rows->slot], node);
}

static const struct weight *weight_at(const struct execution *e, int weight) {
    return weight >= 0 ? e->options->weights->weight[weight] : NULL;
}

static struct turned turned_at(const struct execution *e, int node) {
    const struct node *made = &e->options->program->graph->node[node];
    const struct rope *rope = &made->as.rope;
    return (struct turned){
        .out = value_at(e, node),
        .x = value_at(e, made->input[0]),
        .shape = {rope->n_heads, rope->head_dim, rope->n_rotated, rope->interleaved},
        .table = e->options->weights->rope[node],
    };
}

static void execute_node(const struct execution *e, int at) {
    const struct graph *graph = e->options->program->graph;
    const struct node *node = &graph->node[at];
    const struct device_ops *ops = e->options->device_ops;
    struct device *device = e->options->device;
    const struct rows *rows = e->rows;
    int n_rows = e->options->program->place[at].picked ? rows->n_picked : rows->n_rows;
    struct value out = value_at(e, at), in[3] = {{0}};
    for (int input = 0; input < node->n_inputs; input++) {
        enum op op = graph->node[node->input[input]].op;
        if (op != OP_IDS && op != OP_POSITIONS) /* those stand in `rows` */
            in[input] = value_at(e, node->input[input]);
    }
    const struct weight *weight = weight_at(e, node->weight), *bias = weight_at(e, node->bias);
    switch (node->op) {
    case OP_EMBED: ops->embed(device, rows, out, weight); break;
    case OP_NORM: ops->norm(device, n_rows, out, in[0], weight, node->as.norm.eps); break;
    case OP_MATMUL: ops->matmul(device, n_rows, out, in[0], weight, bias); break;
    case OP_ROPE: {
        struct turned x = turned_at(e, at);
        ops->rope(device, rows, x.out, x.x, x.shape, x.table);
        break;
    }
    case OP_ADD: ops->add(device, n_rows, out, in[0], in[1]); break;
    case OP_SWIGLU: ops->swiglu(device, n_rows, out, in[0], in[1]); break;
    case OP_COLUMNS: break; /* a view of what is there */
    case OP_PICK: ops->pick(device, rows, out, in[0]); break;
    case OP_SAMPLE: ops->sample(device, rows, in[0]); break;
    default: REQUIRE(false, "operator %s is not computed here", op_name(node->op));
    }
}

/* Where the packed K and V of an attention node stand. */
static struct value packed_at(const struct execution *e, const struct slice *slice, int node) {
    int lane = e->options->program->colocated ? 0 : memory_lane_of(slice, node);
    return memory_lane(e->memory, e->rows->slot, lane)->kv;
}

/* K and V of the attention node `at`, rounded as they are sent, and, colocated, into the cache. */
static void pack_node(const struct execution *e, int at, struct value kv, bool append) {
    const struct node *node = &e->options->program->graph->node[at];
    const struct device_ops *ops = e->options->device_ops;
    ops->pack_kv(e->options->device, e->rows->n_rows, kv, value_at(e, node->input[1]),
                 value_at(e, node->input[2]), e->options->service->head_dim);
    if (!append) return;
    ops->append_kv(e->options->device, e->rows, &e->memory->cache, node->as.attention.layer, kv);
}

static void add_norm(const struct execution *e, int sum, int norm) {
    const struct graph *graph = e->options->program->graph;
    const struct node *add = &graph->node[sum], *of = &graph->node[norm];
    bool picked = e->options->program->place[sum].picked;
    e->options->device_ops->add_norm(
        e->options->device, picked ? e->rows->n_picked : e->rows->n_rows, value_at(e, sum),
        value_at(e, norm), value_at(e, add->input[0]), value_at(e, add->input[1]),
        weight_at(e, of->weight), of->as.norm.eps);
}

static void matmul_swiglu(const struct execution *e, int both, int out) {
    const struct node *matmul = &e->options->program->graph->node[both];
    bool picked = e->options->program->place[both].picked;
    e->options->device_ops->matmul_swiglu(
        e->options->device, picked ? e->rows->n_picked : e->rows->n_rows, value_at(e, out),
        value_at(e, both), value_at(e, matmul->input[0]), weight_at(e, matmul->weight));
}

/* `attention` is the node whose q and k are turned, or k alone. */
static void rope_pack(const struct execution *e, int k, int attention, struct value kv) {
    const struct node *node = &e->options->program->graph->node[attention];
    e->options->device_ops->rope_pack(e->options->device, e->rows, kv, turned_at(e, k),
                                      value_at(e, node->input[2]));
}

static void rope_append(const struct execution *e, int q, int k, int attention, struct value kv) {
    const struct node *node = &e->options->program->graph->node[attention];
    e->options->device_ops->rope_append(e->options->device, e->rows, turned_at(e, q),
                                        turned_at(e, k), value_at(e, node->input[2]), kv,
                                        &e->memory->cache, node->as.attention.layer);
}

int execute_steps(const struct decode_options *options, const struct memory *memory,
                  const struct rows *rows, const struct slice *slice, int step) {
    const struct execution e = {options, memory, rows};
    const struct step *run = &slice->step[step];
    int first = run->node, n = fusion_steps(run->fusion), last = run[n - 1].node;
    switch (run->fusion) {
    case FUSION_ADD_NORM: add_norm(&e, first, last); break;
    case FUSION_MATMUL_SWIGLU: matmul_swiglu(&e, first, last); break;
    case FUSION_ROPE_PACK: rope_pack(&e, first, last, packed_at(&e, slice, last)); break;
    case FUSION_ROPE_APPEND:
        rope_append(&e, first, run[1].node, last, packed_at(&e, slice, last));
        break;
    case FUSION_NONE:
        if (run->kind == STEP_PACK || run->kind == STEP_APPEND) {
            pack_node(&e, first, packed_at(&e, slice, first), run->kind == STEP_APPEND);
        } else {
            execute_node(&e, first);
        }
        break;
    }
    return n;
}
