/* weights.c - from where a model comes from to the device. See weights.h. */
#include "weights.h"

#include <stdlib.h>

#include "check.h"

size_t weights_bytes(const struct graph *graph, const struct source *source,
                     const struct device_ops *ops) {
    size_t n_bytes = 0;
    for (int at = 0; at < graph->n_weights; at++) {
        struct tensor tensor = source_find(source, &graph->weight[at]);
        n_bytes += ops->weight_bytes(&tensor, 1);
    }
    return n_bytes;
}

static struct weight *load_one(struct weights *weights, const struct graph_weight *wanted,
                               const struct source *source) {
    struct tensor tensor = source_take(source, wanted);
    struct weight *weight = weights->ops->load(weights->device, &tensor, 1);
    weights->file_bytes += source_tensor_bytes(&tensor);
    source_release(source, &tensor);
    return weight;
}

static bool same_table(const struct rope *a, const struct rope *b) {
    return a->n_rotated == b->n_rotated && a->base == b->base && a->scale == b->scale &&
           a->factors == b->factors;
}

/* The table of a rope node: an earlier node's, or a new one. */
static struct weight *load_table(struct weights *weights, const struct graph *graph, int at,
                                 const struct source *source, int context) {
    const struct rope *rope = &graph->node[at].as.rope;
    for (int other = 0; other < at; other++) {
        if (graph->node[other].op == OP_ROPE && same_table(rope, &graph->node[other].as.rope))
            return weights->rope[other];
    }
    float *factor = NULL;
    if (rope->factors >= 0) {
        struct tensor tensor = source_take(source, &graph->weight[rope->factors]);
        size_t n = (size_t)tensor.columns;
        factor = check_alloc(n, sizeof *factor);
        quant_types[tensor.type].unpack(tensor.data, n, factor);
        source_release(source, &tensor);
    }
    struct weight *table = weights->ops->load_rope(
        weights->device, rope->n_rotated, (double)rope->base, (double)rope->scale, factor, context);
    free(factor);
    return table;
}

void weights_open(struct weights *weights, const struct graph *graph, const struct source *source,
                  const struct device_ops *ops, struct device *device, int context) {
    *weights = (struct weights){
        .ops = ops, .device = device, .n_weights = graph->n_weights, .n_nodes = graph->n_nodes};
    weights->weight = check_alloc((size_t)graph->n_weights, sizeof *weights->weight);
    weights->rope = check_alloc((size_t)graph->n_nodes, sizeof *weights->rope);
    for (int at = 0; at < graph->n_weights; at++)
        weights->weight[at] = load_one(weights, &graph->weight[at], source);
    for (int at = 0; at < graph->n_nodes; at++) {
        if (graph->node[at].op == OP_ROPE)
            weights->rope[at] = load_table(weights, graph, at, source, context);
    }
}

void weights_close(struct weights *weights) {
    for (int at = 0; at < weights->n_weights; at++)
        weights->ops->unload(weights->device, weights->weight[at]);
    for (int at = 0; at < weights->n_nodes; at++) {
        bool first = weights->rope[at] != NULL;
        for (int other = 0; other < at; other++)
            first = first && weights->rope[other] != weights->rope[at];
        if (first) weights->ops->unload(weights->device, weights->rope[at]);
    }
    free(weights->weight);
    free(weights->rope);
    *weights = (struct weights){0};
}
