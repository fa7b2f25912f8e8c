/* weights.h - the weights of a graph, brought from where they are into a device's own layout. */
#ifndef LAMINA_WEIGHTS_H
#define LAMINA_WEIGHTS_H

#include "device.h"
#include "graph.h"
#include "source.h"

struct weights {
    const struct device_ops *ops; /* borrowed, with the device, until weights_close */
    struct device *device;
    int n_weights, n_nodes;
    struct weight **weight; /* (n_weights) by the graph's weight index */
    struct weight **rope;   /* (n_nodes) table of each rope node; equal tables are shared */
    size_t file_bytes;      /* of the tensors loaded, as stored */
};

/* Bytes the device `ops` would hold a weight of the graph in; all of them (pure). */
size_t weights_bytes_of(const struct graph_weight *weight, const struct source *source,
                        const struct device_ops *ops);
size_t weights_bytes(const struct graph *graph, const struct source *source,
                     const struct device_ops *ops);

/* Load every weight that `graph`, the source's model, names. Sines and cosines reach `context`
 * positions. */
void weights_open(struct weights *weights, const struct graph *graph, const struct source *source,
                  const struct device_ops *ops, struct device *device, int context);
void weights_close(struct weights *weights);

#endif
