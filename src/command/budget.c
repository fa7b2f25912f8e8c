/* budget.c - sizes a run derives. See budget.h.
 *
 * Weights are taken for a tenth more than their file: rows are padded to panels, and vectors are
 * kept as float32. What the device keeps beside its buffers (scratch of its threads, tables of
 * angles) is inside the tenth of the host's memory that resources.c leaves free.
 */
#include "budget.h"

/* Sizes when nothing was asked for. */
enum { DEFAULT_MAX_BATCH = 32, DEFAULT_MAX_ROWS = 256 };

bool budget_limits(struct batch_limits *limits, const struct options *options,
                   const struct layout *layout, const struct service *service, int model_context,
                   struct fault *fault) {
    bool colocated = layout->attention_ranks == 0;
    *limits = (struct batch_limits){
        .n_slots = options->slots > 0 ? options->slots
                   : colocated        ? 1
                                      : 2,
        .max_batch = options->max_batch > 0 ? options->max_batch : DEFAULT_MAX_BATCH,
        .max_rows = options->max_rows,
        .context = options->context > 0 ? options->context : model_context,
        .n_owners = layout->sequences,
        .n_heads = service->n_heads,
        .n_kv_heads = service->n_kv_heads,
        .head_dim = service->head_dim,
    };
    if (limits->max_rows < 0) /* room for the batch and a chunk of prompt beside it */
        limits->max_rows =
            limits->max_batch > DEFAULT_MAX_ROWS / 2 ? 2 * limits->max_batch : DEFAULT_MAX_ROWS;
    if (options->max_batch < 0 && limits->max_batch > limits->max_rows)
        limits->max_batch = limits->max_rows;
    limits->max_picked = limits->max_batch;
    if (limits->max_rows < limits->max_batch)
        return fault_user(
            fault, "--max-rows %d is less than --max-batch %d: every running sequence has a row",
            limits->max_rows, limits->max_batch);
    if (limits->context > model_context)
        return fault_user(fault, "--context %d exceeds the model's %d tokens", limits->context,
                          model_context);
    return true;
}

struct budget budget_of_rank(const struct budget_basis *basis, int rank) {
    const struct layout *layout = basis->layout;
    const struct service *service = basis->service;
    bool model = rank < layout->model_ranks, colocated = layout->attention_ranks == 0;
    struct budget budget = {
        .weight_bytes = model ? basis->file_bytes / 10 * 11 : 0,
        .work_bytes = (int64_t)decode_arena_bytes(model ? basis->program : NULL, service,
                                                  basis->limits, basis->kv_type),
    };
    if (model && !colocated) return budget;
    int n_kv_heads = service->n_kv_heads;
    if (!colocated) {
        int head_index = (rank - layout->model_ranks) % layout->heads;
        n_kv_heads = layout_heads(layout, service->n_kv_heads, head_index).n;
    }
    budget.page_bytes = (int64_t)decode_page_bytes(service, n_kv_heads, basis->kv_type);
    return budget;
}

int64_t budget_most_pages(const struct batch_limits *limits) {
    return (int64_t)limits->n_slots * limits->max_batch * kv_pages_for(limits->context);
}

int64_t budget_own_pages(const struct budget *budget, const struct options *options,
                         int64_t memory_bytes) {
    int64_t left = memory_bytes - budget->weight_bytes - budget->work_bytes;
    if (left <= 0) return -1;
    if (budget->page_bytes == 0 || options->kv_tokens >= 0) return INT32_MAX;
    return (options->kv_memory >= 0 ? options->kv_memory : left) / budget->page_bytes;
}

bool budget_fits(const struct budget *budget, int n_pages, int64_t memory_bytes) {
    int64_t kv_bytes = budget->page_bytes * n_pages;
    return budget->weight_bytes + budget->work_bytes + kv_bytes <= memory_bytes / 9 * 10;
}

int budget_pages(const struct batch_limits *limits, const struct options *options, int64_t least) {
    int64_t most = budget_most_pages(limits), pages = least < most ? least : most;
    if (options->kv_tokens >= 0) {
        pages = options->kv_tokens / limits->n_owners / PAGE_TOKENS;
        pages = pages < most ? pages : most;
    }
    int64_t countable = INT32_MAX / limits->n_owners;
    pages = pages < countable ? pages : countable;
    return pages > 0 ? (int)pages : 0;
}
