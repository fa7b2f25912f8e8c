/* budget.c - sizes a run derives. See budget.h.
 *
 * Weights are taken for a tenth more than their file: rows are padded to panels, and vectors are
 * kept as float32. The rest is the sum of what is allocated: values, the wire's buffers for every
 * message, headers, and what the device says it takes. What grows with neither rows nor sequences
 * (tables of angles, page tables, MPI itself) is inside the tenth of the host's memory that
 * resources.c leaves free. Messages of a GPU rank lie in pinned memory of the host and are counted
 * as if they lay on the GPU: they are small beside what either has.
 */
#include "budget.h"

#include "checkpoint.h"
#include "messages.h"

/* Sizes when nothing was asked for. */
enum { DEFAULT_MAX_BATCH = 32, DEFAULT_MAX_ROWS = 256 };

/* The messages of a rank, as messages.h lists them. */
static void open_messages(struct messages *messages, const struct layout *layout, int rank,
                          const struct service *service, const struct batch_limits *limits,
                          enum kv_type kv_type) {
    struct topology topology = {.rank = rank,
                                .n_ranks = layout->model_ranks + layout->attention_ranks,
                                .role = rank < layout->model_ranks ? ROLE_MODEL : ROLE_ATTENTION,
                                .layout = *layout};
    messages_open(messages, &topology, service, limits->max_rows, kv_type);
}

/* The largest message and a header are what a wire can carry. */
static bool check_messages(const struct batch_limits *limits, const struct options *options,
                           const struct layout *layout, const struct service *service,
                           struct fault *fault) {
    struct messages messages;
    if (layout->attention_ranks == 0) return true;
    open_messages(&messages, layout, 0, service, limits, options->kv_type);
    size_t largest = messages_largest(&messages), header = header_most_bytes(limits);
    messages_close(&messages);
    if (header > largest) largest = header;
    if (largest <= WIRE_MOST_BYTES) return true;
    size_t row_bytes = largest / (size_t)limits->max_rows;
    return fault_user(fault,
                      "--max-rows %d: a message of a step would have %zu bytes, and MPI carries at "
                      "most %d: at most %zu rows, or more head shares (--partition)",
                      limits->max_rows, largest, WIRE_MOST_BYTES, WIRE_MOST_BYTES / row_bytes);
}

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
    return check_messages(limits, options, layout, service, fault);
}

/* What the wires of a rank set aside: for its messages, and for the headers it sends or takes. */
static size_t wire_bytes(const struct budget_basis *basis, int rank) {
    const struct layout *layout = basis->layout;
    struct messages messages;
    open_messages(&messages, layout, rank, basis->service, basis->limits, basis->options->kv_type);
    size_t n_headers = rank == 0 ? (size_t)(layout->model_ranks + layout->attention_ranks - 1) : 1;
    size_t n_bytes =
        messages_bytes(&messages, basis->wire_ops) + n_headers * header_most_bytes(basis->limits);
    messages_close(&messages);
    return (size_t)basis->limits->n_slots * n_bytes;
}

static size_t device_bytes(const struct budget_basis *basis, int rank) {
    struct device_options options = {.n_threads = basis->n_threads};
    struct device_limits limits =
        decode_device_limits(basis->limits, basis->layout, rank, basis->vocabulary);
    return basis->device_ops->prepare_bytes(&options, &limits);
}

struct budget budget_of_rank(const struct budget_basis *basis, int rank) {
    const struct layout *layout = basis->layout;
    const struct service *service = basis->service;
    bool model = rank < layout->model_ranks, colocated = layout->attention_ranks == 0;
    int n_kv_heads = layout_rank_heads(layout, service->n_kv_heads, rank).n;
    size_t arena =
        decode_arena_bytes(model ? basis->program : NULL, service, basis->limits, n_kv_heads,
                           basis->options->kv_type, basis->device_ops->activation);
    struct budget budget = {
        .weight_bytes = model ? basis->weight_bytes / 10 * 11 : 0,
        .work_bytes = (int64_t)(arena + wire_bytes(basis, rank) + device_bytes(basis, rank)),
    };
    if (!model || colocated)
        budget.page_bytes =
            (int64_t)decode_page_bytes(service, n_kv_heads, basis->options->kv_type);
    if (basis->device_ops == &device_cpu)
        budget.buffer_bytes = checkpoint_buffer_bytes(basis->options, budget.page_bytes);
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
    if (options->kv_memory >= 0) return options->kv_memory / budget->page_bytes;
    return left / (budget->page_bytes + budget->buffer_bytes);
}

bool budget_fits(const struct budget *budget, int n_pages, int64_t memory_bytes) {
    int64_t kv_bytes = (budget->page_bytes + budget->buffer_bytes) * n_pages;
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
