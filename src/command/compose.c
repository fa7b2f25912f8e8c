/* compose.c - the stages in which a run is opened. See compose.h.
 */
#include "compose.h"

#include <stdlib.h>

#include "choose.h"
#include "log.h"
#include "messages.h"

bool compose_agree(struct run *run, struct fault *fault, const char *what) {
    return topology_agree(&run->topology, fault, what, run->options->deadline_s * PATIENCE);
}

bool compose_is_model(const struct run *run) {
    return run->topology.role == ROLE_MODEL;
}

static bool is_colocated(const struct run *run) {
    return run->topology.layout.attention_ranks == 0;
}

/* Ranks that may use a GPU compare which: one of its own is taken unasked. */
static void choose_device(struct run *run, struct fault *fault) {
    const struct topology *topology = &run->topology;
    struct device_options options = {.index = topology->local_rank};
    char id[DEVICE_ID_BYTES] = "";
    if (choose_may_use_gpu(run->options, topology->role)) device_cuda.identify(&options, id);
    int n_same = topology_count_same(topology, id, sizeof id, "comparison of GPUs",
                                     run->options->deadline_s * PATIENCE);
    run->device_ops =
        choose_device_ops(run->options, topology->role, &options, id[0] && n_same == 1, fault);
}

/* The model's header, and the program made of it. */
static void open_model(struct run *run, struct fault *fault) {
    if (!compose_is_model(run)) return;
    if (run->topology.leader && !report_check(run->options, fault)) return;
    if (!source_open(&run->source, &run->model, run->options->model, run->options->seed, fault))
        return;
    const struct device_ops *ops = run->device_ops;
    graph_open(&run->graph,
               (struct graph_options){.element_bytes = (int)element_bytes(ops->activation),
                                      .joins_weights = ops->joins_weights});
    model_write_graph(&run->graph, &run->model);
    program_open(&run->program, &run->graph, is_colocated(run));
    service_open(&run->service, &run->program, run->device_ops->activation);
}

bool compose_text(const struct source *source, const struct model *model,
                  const struct options *options, struct tokenizer **tokenizer,
                  const struct chat_template **chat_template, struct fault *template_fault,
                  struct fault *fault) {
    if (source->made) {
        tokenizer_open_numbers(tokenizer, model->vocabulary);
    } else if (!tokenizer_open(tokenizer, &source->gguf, fault)) {
        return false;
    }
    if (options->chat_template)
        return template_find_name(chat_template, options->chat_template, fault);
    if (source->made) {
        fault_user(template_fault, "%s is a shape and has no vocabulary: prompts are token ids",
                   model->name);
    } else {
        template_find(chat_template, &source->gguf, template_fault);
    }
    return true;
}

/* Attention ranks learn the program's messages and shapes; all learn the partition. */
static void share_service(struct run *run) {
    double seconds = run->options->deadline_s;
    struct service *service = &run->service;
    struct exchange *exchange = service->exchange;
    topology_broadcast(&run->topology, service, sizeof *service, "the program's shapes", seconds);
    service->exchange = exchange;
    size_t n_bytes = (size_t)service->n_exchanges * sizeof *exchange;
    if (!service->exchange) service->exchange = check_alloc(1, n_bytes);
    topology_broadcast(&run->topology, service->exchange, n_bytes, "the program's messages",
                       seconds);
}

static void open_partition(struct run *run, struct fault *fault) {
    struct layout layout = run->topology.layout;
    if (layout_partition(&layout, run->options, run->service.n_kv_heads, fault))
        topology_partition(&run->topology, &layout);
}

/* What the leader derives without asking the other ranks. */
static void derive_limits(struct run *run, struct fault *fault) {
    if (compose_is_model(run))
        budget_limits(&run->limits, run->options, &run->topology.layout, &run->service,
                      run->model.context, fault);
}

static void progress(void *argument) {
    struct run *run = argument;
    if (run->wire) run->wire_ops->progress(run->wire);
}

static struct device_options device_options(struct run *run) {
    bool alone = run->topology.n_ranks == 1;
    bool kept = !run->options->no_cache && run->environment.cache_folder[0];
    return (struct device_options){.n_threads = run->resources.n_threads,
                                   .index = run->topology.local_rank,
                                   .isa = (int)run->options->isa,
                                   .cache_folder = kept ? run->environment.cache_folder : NULL,
                                   .progress = alone ? NULL : progress,
                                   .progress_argument = run};
}

/* A device with memory of its own holds all there. It is asked what is free when all ranks have
 * started theirs, and before any of them takes more. */
static void find_memory(struct run *run) {
    struct device_options options = device_options(run);
    run->device_ops->start(&options);
    run->device_ops->identify(&options, run->device_id);
    run->device_ops->locate(&options, &run->device_place);
    resources_locate_device(&run->resources, run->device_place.bus);
    int n_sharing =
        topology_count_same(&run->topology, run->device_id, sizeof run->device_id,
                            "comparison of devices", run->options->deadline_s * PATIENCE);
    int64_t n_bytes = run->device_ops->free_bytes(&options);
    if (n_bytes >= 0) resources_use_device(&run->resources, n_bytes, n_sharing);
    run->n_sharing = n_sharing;
}

/* Each rank tells what it has; all come to the same choice. */
static void choose_wire(struct run *run, struct fault *fault) {
    const struct topology *topology = &run->topology;
    double seconds = run->options->deadline_s * PATIENCE;
    struct fault why = {0};
    if (topology->n_ranks == 1) {
        choose_wire_ops(run->options, (struct wire_ground){.alone = true}, fault);
        return;
    }
    struct wire_ground mine = {.gpus = run->device_ops != &device_cuda ? GPUS_NOT_ALL
                                       : run->n_sharing > 1            ? GPUS_SHARED
                                                                       : GPUS_OWN};
    mine.nccl = wire_nccl.available(run->device_ops, &why);
    mine.device = wire_device.available(run->device_ops, &why);
    struct wire_ground *all = check_alloc((size_t)topology->n_ranks, sizeof *all);
    topology_share(topology, &mine, sizeof mine, all, "comparison of GPUs", seconds);
    struct wire_ground ground = mine;
    for (int rank = 0; rank < topology->n_ranks; rank++) {
        if (all[rank].gpus < ground.gpus) ground.gpus = all[rank].gpus;
        ground.nccl = ground.nccl && all[rank].nccl;
        ground.device = ground.device && all[rank].device;
    }
    free(all);
    ground.one_host = topology_count_same(topology, topology->host, sizeof topology->host,
                                          "comparison of hosts", seconds) == topology->n_ranks;
    run->wire_ops = choose_wire_ops(run->options, ground, fault);
    if (ground.gpus == GPUS_OWN && run->options->wire == WIRE_WISH_AUTO && why.text[0])
        log_warning("rank %d keeps the job from a wire between GPUs: %s", topology->rank, why.text);
}

/* Pages this rank's memory can hold. */
static int64_t own_pages(struct run *run, struct fault *fault) {
    int64_t weight_bytes = compose_is_model(run)
                               ? (int64_t)weights_bytes(&run->graph, &run->source, run->device_ops)
                               : 0;
    struct budget_basis basis = {.program = &run->program,
                                 .device_ops = run->device_ops,
                                 .wire_ops = run->wire_ops,
                                 .service = &run->service,
                                 .layout = &run->topology.layout,
                                 .limits = &run->limits,
                                 .weight_bytes = weight_bytes,
                                 .vocabulary = run->model.vocabulary,
                                 .n_threads = run->resources.n_threads,
                                 .options = run->options};
    run->budget = budget_of_rank(&basis, run->topology.rank);
    int64_t fixed = run->budget.weight_bytes + run->budget.work_bytes;
    int64_t pages = budget_own_pages(&run->budget, run->options, run->resources.memory_bytes);
    if (pages < 0)
        fault_user(fault,
                   "rank %d (%s) needs %lld MiB for %s, and may use %lld MiB (%s): a smaller "
                   "--max-rows or --max-batch, or more memory per rank",
                   run->topology.rank, role_name(run->topology.role), (long long)fixed >> 20,
                   compose_is_model(run) ? "weights and activations" : "messages",
                   (long long)run->resources.memory_bytes >> 20, run->resources.memory_from);
    return pages;
}

/* Agree on the KV pages of an owner: what was asked for, or the least that any rank's memory holds,
 * but never more than can be used. */
static void agree_pages(struct run *run, struct fault *fault) {
    size_t n_ranks = (size_t)run->topology.n_ranks;
    int64_t mine = own_pages(run, fault);
    int64_t *all = check_alloc(n_ranks, sizeof *all);
    topology_collect(&run->topology, &mine, sizeof mine, all, "KV budgets",
                     run->options->deadline_s);
    if (run->topology.leader) {
        int64_t least = all[0];
        for (int rank = 1; rank < run->topology.n_ranks; rank++)
            least = all[rank] < least ? all[rank] : least;
        run->limits.n_pages = budget_pages(&run->limits, run->options, least);
        if (run->limits.n_pages < 1 && least >= 0)
            fault_user(fault,
                       "the KV budget of an attention rank holds no page of %d tokens: raise "
                       "--kv-tokens or --kv-memory",
                       PAGE_TOKENS);
    }
    free(all);
    topology_broadcast(&run->topology, &run->limits, sizeof run->limits, "limits",
                       run->options->deadline_s);
    const struct budget *budget = &run->budget;
    if (!budget_fits(budget, run->limits.n_pages, run->resources.memory_bytes))
        fault_user(
            fault,
            "rank %d (%s) needs %lld MiB for %d pages of KV cache and %lld MiB besides, and "
            "may use %lld MiB (%s): a smaller --kv-tokens or --kv-memory",
            run->topology.rank, role_name(run->topology.role),
            (long long)((budget->page_bytes + budget->buffer_bytes) * run->limits.n_pages) >> 20,
            run->limits.n_pages, (long long)(budget->weight_bytes + budget->work_bytes) >> 20,
            (long long)run->resources.memory_bytes >> 20, run->resources.memory_from);
}

static void open_device(struct run *run, struct fault *fault) {
    struct device_options device = device_options(run);
    run->device_ops->open(&run->device, &device, fault);
}

void compose_weights(struct run *run) {
    struct device_limits limits = decode_device_limits(&run->limits, &run->topology.layout,
                                                       run->topology.rank, run->model.vocabulary);
    run->device_ops->prepare(run->device, &limits);
    run->source.n_threads = run->resources.n_threads;
    if (compose_is_model(run))
        weights_open(&run->weights, &run->graph, &run->source, run->device_ops, run->device,
                     run->limits.context);
}

void compose_wire(struct run *run, struct fault *fault) {
    if (run->topology.n_ranks == 1) return;
    /* A model rank knows whose message is missing, attention ranks only that the model rank waits:
     * it shall speak first. */
    double patience = compose_is_model(run) ? 1 : 1.5;
    struct messages messages;
    messages_open(&messages, &run->topology, &run->service, run->limits.max_rows,
                  run->options->kv_type);
    struct wire_options wire = {.topology = &run->topology,
                                .n_slots = run->limits.n_slots,
                                .n_layers = run->service.n_layers,
                                .deadline_s = run->options->deadline_s * patience,
                                .progress = run->options->wire_progress,
                                .device_ops = run->device_ops,
                                .device = run->device,
                                .n_incoming = messages.n_incoming,
                                .n_outgoing = messages.n_outgoing,
                                .incoming = messages.incoming,
                                .outgoing = messages.outgoing};
    run->wire_ops->open(&run->wire, &wire, fault);
    run->control = control_open(&wire, run->topology.n_ranks, header_most_bytes(&run->limits));
    messages_close(&messages);
}

void compose_decode(struct run *run, const struct supply *supply, const volatile sig_atomic_t *stop,
                    void (*tick)(void *), void *tick_argument) {
    struct batch_options batch = {.limits = run->limits,
                                  .topology = &run->topology,
                                  .control = run->control,
                                  .supply = run->topology.leader ? supply : NULL,
                                  .device_ops = run->device_ops,
                                  .device = run->device,
                                  .stop = stop,
                                  .tick = tick,
                                  .tick_argument = tick_argument};
    batch_open(&run->batch, &batch);
    struct decode_options decode = {.topology = &run->topology,
                                    .service = &run->service,
                                    .program = compose_is_model(run) ? &run->program : NULL,
                                    .weights = compose_is_model(run) ? &run->weights : NULL,
                                    .device_ops = run->device_ops,
                                    .device = run->device,
                                    .wire_ops = run->wire_ops,
                                    .wire = run->wire,
                                    .batch = run->batch,
                                    .limits = &run->limits,
                                    .kv_type = run->options->kv_type,
                                    .q_first = run->options->q_first};
    decode_open(&run->decode, &decode);
}

/* ---- in their order ---------------------------------------------------------------------------
 */

bool compose_ranks(struct run *run, uint64_t options_hash, struct fault *fault) {
    environment_read(&run->environment);
    log_setup(run->options->log_level, run->options->log_json);
    if (topology_open(&run->topology, run->options, options_hash, fault)) return true;
    if (run->topology.rank == 0) log_error("%s", fault->text);
    return false;
}

static void find_resources(struct run *run) {
    resources_find(&run->resources, run->options, &run->environment, &run->topology);
    find_memory(run);
}

bool compose_device(struct run *run, struct fault *fault) {
    choose_device(run, fault);
    if (!compose_agree(run, fault, "choice of devices")) return false;
    find_resources(run);
    choose_wire(run, fault);
    if (!compose_agree(run, fault, "choice of the wire")) return false;
    open_device(run, fault);
    return compose_agree(run, fault, "opening of devices");
}

bool compose_machine(struct run *run, struct fault *fault) {
    choose_device(run, fault);
    if (!compose_agree(run, fault, "choice of devices")) return false;
    open_model(run, fault);
    if (!compose_agree(run, fault, "reading of the model's header")) return false;
    share_service(run);
    open_partition(run, fault);
    if (!compose_agree(run, fault, "agreement on the partition")) return false;
    find_resources(run);
    choose_wire(run, fault);
    if (!compose_agree(run, fault, "choice of the wire")) return false;
    derive_limits(run, fault);
    if (!compose_agree(run, fault, "agreement on the batch")) return false;
    topology_broadcast(&run->topology, &run->limits, sizeof run->limits, "limits",
                       run->options->deadline_s);
    agree_pages(run, fault);
    if (!compose_agree(run, fault, "agreement on KV budgets")) return false;
    open_device(run, fault);
    return compose_agree(run, fault, "opening of devices");
}

void compose_close_decode(struct run *run) {
    decode_close(run->decode);
    batch_close(run->batch);
    run->decode = NULL;
    run->batch = NULL;
}

void compose_close(struct run *run) {
    compose_close_decode(run);
    control_close(run->control);
    if (run->wire) run->wire_ops->close(run->wire);
    weights_close(&run->weights);
    if (run->device) run->device_ops->close(run->device);
    service_close(&run->service);
    program_close(&run->program);
    graph_close(&run->graph);
    source_close(&run->source);
    topology_close(&run->topology);
}
