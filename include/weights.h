/* weights.h - the weights of a graph, brought from a model file into a device's own layout. */
#ifndef LAMINA_WEIGHTS_H
#define LAMINA_WEIGHTS_H

#include "device.h"
#include "gguf.h"
#include "graph.h"

struct weights {
    const struct device_ops *ops; /* borrowed, with the device, until weights_close */
    struct device *device;
    int n_weights, n_nodes;
    struct weight **weight; /* (n_weights) by the graph's weight index */
    struct weight **rope;   /* (n_nodes) table of each rope node; equal tables are shared */
    size_t file_bytes;      /* of the tensors loaded */
};

/* Load every weight that `graph` names; the file was checked by model_read. Sines and cosines reach
 * `context` positions. The file's pages are let go of as they are read. */
void weights_open(struct weights *weights, const struct graph *graph, const struct gguf *gguf,
                  const struct device_ops *ops, struct device *device, int context);
/* Bytes the device `ops` would hold them in (pure). */
size_t weights_bytes(const struct graph *graph, const struct gguf *gguf,
                     const struct device_ops *ops);
void weights_close(struct weights *weights);

#endif
