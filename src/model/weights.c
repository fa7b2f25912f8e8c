/* weights.c - from the mapped file to the device. See weights.h. */
#include "weights.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"

/* The packed copy is what is used from here on: mapped pages of the file would only count against
 * the memory limit of the job. */
static void let_go(const struct gguf_tensor *tensor) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = ((uintptr_t)tensor->data + page - 1) / page * page;
    uintptr_t end = ((uintptr_t)tensor->data + tensor->n_bytes) / page * page;
    if (end > begin) madvise((void *)begin, end - begin, MADV_DONTNEED);
}

static struct tensor view_of(const struct gguf_tensor *tensor, const struct graph_weight *wanted) {
    REQUIRE(tensor, "tensor %s is missing", wanted->name);
    return (struct tensor){.name = wanted->name,
                           .type = tensor->type,
                           .rows = wanted->rows,
                           .columns = wanted->columns,
                           .data = tensor->data};
}

size_t weights_bytes(const struct graph *graph, const struct gguf *gguf,
                     const struct device_ops *ops) {
    size_t n_bytes = 0;
    for (int at = 0; at < graph->n_weights; at++) {
        const struct graph_weight *wanted = &graph->weight[at];
        struct tensor view = view_of(gguf_find_tensor(gguf, wanted->name), wanted);
        n_bytes += ops->weight_bytes(&view);
    }
    return n_bytes;
}

static struct weight *load_one(struct weights *weights, const struct graph_weight *wanted,
                               const struct gguf *gguf) {
    const struct gguf_tensor *tensor = gguf_find_tensor(gguf, wanted->name);
    struct tensor view = view_of(tensor, wanted);
    struct weight *weight = weights->ops->load(weights->device, &view);
    weights->file_bytes += tensor->n_bytes;
    let_go(tensor);
    return weight;
}

static bool same_table(const struct rope *a, const struct rope *b) {
    return a->n_rotated == b->n_rotated && a->base == b->base && a->scale == b->scale &&
           a->factors == b->factors;
}

/* The table of a rope node: an earlier node's, or a new one. */
static struct weight *load_table(struct weights *weights, const struct graph *graph, int at,
                                 const struct gguf *gguf, int context) {
    const struct rope *rope = &graph->node[at].as.rope;
    for (int other = 0; other < at; other++) {
        if (graph->node[other].op == OP_ROPE && same_table(rope, &graph->node[other].as.rope))
            return weights->rope[other];
    }
    float *factor = NULL;
    if (rope->factors >= 0) {
        const struct gguf_tensor *tensor =
            gguf_find_tensor(gguf, graph->weight[rope->factors].name);
        size_t n = (size_t)graph->weight[rope->factors].columns;
        factor = check_alloc(n, sizeof *factor);
        quant_types[tensor->type].unpack(tensor->data, n, factor);
    }
    struct weight *table = weights->ops->load_rope(
        weights->device, rope->n_rotated, (double)rope->base, (double)rope->scale, factor, context);
    free(factor);
    return table;
}

void weights_open(struct weights *weights, const struct graph *graph, const struct gguf *gguf,
                  const struct device_ops *ops, struct device *device, int context) {
    *weights = (struct weights){
        .ops = ops, .device = device, .n_weights = graph->n_weights, .n_nodes = graph->n_nodes};
    weights->weight = check_alloc((size_t)graph->n_weights, sizeof *weights->weight);
    weights->rope = check_alloc((size_t)graph->n_nodes, sizeof *weights->rope);
    for (int at = 0; at < graph->n_weights; at++)
        weights->weight[at] = load_one(weights, &graph->weight[at], gguf);
    for (int at = 0; at < graph->n_nodes; at++) {
        if (graph->node[at].op == OP_ROPE)
            weights->rope[at] = load_table(weights, graph, at, gguf, context);
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
