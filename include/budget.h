/* budget.h - the sizes a run derives: how many sequences and rows at once, what a rank's memory
 * must hold, and how many KV pages the rest has room for.
 *
 * Pure: no MPI, nothing opened, nothing read. `lamina generate` agrees on these numbers over its
 * ranks; `--dry-run` computes them for layouts that are not started.
 */
#ifndef LAMINA_BUDGET_H
#define LAMINA_BUDGET_H

#include <stdbool.h>
#include <stdint.h>

#include "batch.h"
#include "check.h"
#include "decode.h"
#include "options.h"
#include "program.h"
#include "topology.h"

/* All but the pages from what was asked for. False with the user's fault when it contradicts itself
 * or the model, whose context is `model_context` tokens. */
bool budget_limits(struct batch_limits *limits, const struct options *options,
                   const struct layout *layout, const struct service *service, int model_context,
                   struct fault *fault);

/* What sizes follow from. */
struct budget_basis {
    const struct program *program;       /* of model ranks; not looked at for attention ranks */
    const struct device_ops *device_ops; /* of the rank */
    const struct wire_ops *wire_ops;     /* NULL when colocated */
    const struct service *service;
    const struct layout *layout;
    const struct batch_limits *limits;
    int64_t weight_bytes; /* of the model's weights on that device */
    int vocabulary;
    int n_threads; /* of a rank */
    const struct options *options;
};

/* What a rank holds. */
struct budget {
    int64_t weight_bytes; /* 0 on attention ranks */
    int64_t work_bytes;   /* activations, messages and the device's own, of all slots */
    int64_t page_bytes;   /* of one KV page; 0 on a rank without KV */
    int64_t buffer_bytes; /* that a checkpoint takes besides for each page, of the same memory */
};
struct budget budget_of_rank(const struct budget_basis *basis, int rank);

/* Pages that every sequence of all slots at full length would take; no owner can use more. */
int64_t budget_most_pages(const struct batch_limits *limits);

/* Pages a rank has room for, of `memory_bytes` that it may use: INT32_MAX where it holds no KV or
 * --kv-tokens says how many there are; less than 0 when the rest does not fit. */
int64_t budget_own_pages(const struct budget *budget, const struct options *options,
                         int64_t memory_bytes);

/* Whether a rank can hold `n_pages` besides the rest. They may be more than it has room for when
 * --kv-tokens or --kv-memory asked for them; the tenth that memory_bytes leaves free may then be
 * used up, but not more: memory that is promised and not there ends the process later, unsaid. */
bool budget_fits(const struct budget *budget, int n_pages, int64_t memory_bytes);

/* Pages of each owner, from the least of what its ranks have room for. 0: not one. */
int budget_pages(const struct batch_limits *limits, const struct options *options, int64_t least);

#endif
