/* execute.c - operators of the graph as calls of the device table. */
#include "check.h"
#include "memory.h"

bool execute_sum_and_norm(const struct decode_options *options, const struct arena *arena,
                          const struct rows *rows, int sum, int norm) {
    const struct graph *graph = options->program->graph;
    const struct node *add = &graph->node[sum], *of = &graph->node[norm];
    const struct device_ops *ops = options->device_ops;
    if (add->op != OP_ADD || of->op != OP_NORM || of->input[0] != sum) return false;
    bool picked = options->program->place[sum].picked;
    ops->add_norm(options->device, picked ? rows->n_picked : rows->n_rows,
                  memory_value(options, arena, sum), memory_value(options, arena, norm),
                  memory_value(options, arena, add->input[0]),
                  memory_value(options, arena, add->input[1]), options->weights->weight[of->weight],
                  of->as.norm.eps);
    return true;
}

void execute_node(const struct decode_options *options, const struct arena *arena,
                  const struct rows *rows, int at) {
    const struct graph *graph = options->program->graph;
    const struct node *node = &graph->node[at];
    const struct device_ops *ops = options->device_ops;
    struct device *device = options->device;
    int n_rows = options->program->place[at].picked ? rows->n_picked : rows->n_rows;
    struct value out = memory_value(options, arena, at), in[3] = {{0}};
    for (int input = 0; input < node->n_inputs; input++) {
        enum op op = graph->node[node->input[input]].op;
        if (op != OP_IDS && op != OP_POSITIONS) /* those stand in `rows` */
            in[input] = memory_value(options, arena, node->input[input]);
    }
    const struct weight *weight = node->weight >= 0 ? options->weights->weight[node->weight] : NULL;
    const struct weight *bias = node->bias >= 0 ? options->weights->weight[node->bias] : NULL;
    switch (node->op) {
    case OP_EMBED: ops->embed(device, rows, out, weight); break;
    case OP_NORM: ops->norm(device, n_rows, out, in[0], weight, node->as.norm.eps); break;
    case OP_MATMUL: ops->matmul(device, n_rows, out, in[0], weight, bias); break;
    case OP_ROPE: {
        const struct rope *rope = &node->as.rope;
        struct rope_shape shape = {rope->n_heads, rope->head_dim, rope->n_rotated,
                                   rope->interleaved};
        ops->rope(device, rows, out, in[0], shape, options->weights->rope[at]);
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
