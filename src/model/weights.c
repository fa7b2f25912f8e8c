/* weights.c - from where a model comes from to the device. See weights.h.
 *
 * A matrix joined of tensors is joined by the device, which unpacks them. A vector, a bias, is
 * joined here, as the f32 that devices hold vectors in: it is short, and no device need know that
 * vectors stand one behind another otherwise than matrices do. A matrix that is made up is left to
 * the device, if it can: it has the memory to be filled, and is faster at it.
 */
#include "weights.h"

#include <stdlib.h>

#include "check.h"

/* The tensors of a weight, *n_parts of them. */
static const struct graph_weight *parts_of(const struct graph_weight *weight, int *n_parts) {
    *n_parts = weight->n_parts ? weight->n_parts : 1;
    return weight->n_parts ? weight->part : weight;
}

static bool is_joined_vector(const struct graph_weight *weight) {
    return weight->rows == 1 && weight->n_parts > 0;
}

size_t weights_bytes_of(const struct graph_weight *weight, const struct source *source,
                        const struct device_ops *ops) {
    if (is_joined_vector(weight)) {
        struct tensor vector = {weight->name, QUANT_F32, 1, weight->columns, NULL};
        return ops->weight_bytes(&vector, 1);
    }
    int n_parts;
    const struct graph_weight *part = parts_of(weight, &n_parts);
    struct tensor *tensor = check_alloc(n_parts, sizeof *tensor);
    for (int at = 0; at < n_parts; at++)
        tensor[at] = source_find(source, &part[at]);
    size_t n_bytes = ops->weight_bytes(tensor, n_parts);
    free(tensor);
    return n_bytes;
}

size_t weights_bytes(const struct graph *graph, const struct source *source,
                     const struct device_ops *ops) {
    size_t n_bytes = 0;
    for (int at = 0; at < graph->n_weights; at++)
        n_bytes += weights_bytes_of(&graph->weight[at], source, ops);
    return n_bytes;
}

static struct weight *load_vectors(const struct weights *weights, const struct graph_weight *wanted,
                                   const struct tensor *tensor, int n_parts) {
    float *vector = check_alloc(wanted->columns, sizeof *vector), *at = vector;
    for (int part = 0; part < n_parts; at += tensor[part++].columns)
        quant_types[tensor[part].type].unpack(tensor[part].data, tensor[part].columns, at);
    struct tensor joined = {wanted->name, QUANT_F32, 1, wanted->columns, vector};
    struct weight *weight = weights->ops->load(weights->device, &joined, 1);
    free(vector);
    return weight;
}

/* A matrix that the device makes up itself; NULL where it does not, or the source has numbers. */
static struct weight *make_one(struct weights *weights, const struct graph_weight *part,
                               int n_parts, const struct source *source) {
    if (!weights->ops->load_noise) return NULL;
    struct tensor *tensor = check_alloc(n_parts, sizeof *tensor);
    struct noise *noise = check_alloc(n_parts, sizeof *noise);
    struct weight *weight = NULL;
    int n_made = 0;
    for (; n_made < n_parts && source_noise(source, &part[n_made], &noise[n_made]); n_made++)
        tensor[n_made] = source_find(source, &part[n_made]);
    if (n_made == n_parts) {
        weight = weights->ops->load_noise(weights->device, tensor, noise, n_parts);
        for (int at = 0; at < n_parts; at++)
            weights->file_bytes += source_tensor_bytes(&tensor[at]);
    }
    free(tensor);
    free(noise);
    return weight;
}

static struct weight *load_one(struct weights *weights, const struct graph_weight *wanted,
                               const struct source *source) {
    int n_parts;
    const struct graph_weight *part = parts_of(wanted, &n_parts);
    struct weight *made = make_one(weights, part, n_parts, source);
    if (made) return made;
    struct tensor *tensor = check_alloc(n_parts, sizeof *tensor);
    for (int at = 0; at < n_parts; at++)
        tensor[at] = source_take(source, &part[at]);
    struct weight *weight = is_joined_vector(wanted)
                                ? load_vectors(weights, wanted, tensor, n_parts)
                                : weights->ops->load(weights->device, tensor, n_parts);
    for (int at = 0; at < n_parts; at++) {
        weights->file_bytes += source_tensor_bytes(&tensor[at]);
        source_release(source, &tensor[at]);
    }
    free(tensor);
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
