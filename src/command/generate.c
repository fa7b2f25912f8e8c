/* generate.c - `lamina generate`: compose a run, walk it, say how it ended.
 *
 * Opening goes in stages, each agreed over the ranks before the next, so that a fault on one rank
 * is said once and ends all of them. Only here stands which device and which wire a run uses. The
 * leader reads the model and the requests; attention ranks never open a file.
 */
#include "generate.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "batch.h"
#include "budget.h"
#include "checkpoint.h"
#include "checkpoint_folder.h"
#include "clock.h"
#include "decode.h"
#include "desk.h"
#include "dry_run.h"
#include "log.h"
#include "messages.h"
#include "model.h"
#include "program.h"
#include "replacement.h"
#include "report.h"
#include "resources.h"
#include "results.h"
#include "topology.h"
#include "trace.h"
#include "weights.h"

/* Start and end of a run may read and write whole files: their waits get this many deadlines. */
enum { PATIENCE = 30 };

/* Everything a run holds, in the order it is opened. */
struct run {
    const struct options *options;
    int64_t begin_ns;
    struct environment environment;
    struct topology topology;
    struct resources resources;
    struct budget budget;
    /* model ranks */
    struct source source;
    struct model model;
    struct graph graph;
    struct program program;
    struct weights weights;
    /* all ranks */
    struct service service;
    struct batch_limits limits;
    const struct device_ops *device_ops;
    struct device *device;
    const struct wire_ops *wire_ops; /* NULL when colocated */
    struct wire *wire;
    struct control *control;
    struct batch *batch;
    struct decode *decode;
    struct checkpoint *checkpoint; /* NULL without --checkpoint */
    volatile sig_atomic_t halt;    /* the walk of the list of turns is to end */
    /* the leader */
    struct tokenizer *tokenizer;
    const struct chat_template *chat_template;
    struct fault template_fault;
    struct request_rules rules;
    struct results *results;
    struct desk *desk;
    struct supply supply; /* the desk */
    struct desk_counts desk_counts;
    const struct checkpoint_progress *progress; /* what a checkpoint has to go on with, or NULL */
    struct report *report;
    struct replacement timeline; /* zeroed without --timeline */
    bool all_answered;           /* a resume found nothing left to do */
};

/* ---- signals ----------------------------------------------------------------------------------
 */

static volatile sig_atomic_t stop_requested; /* the signal's number, or 1 for a reason of our own */

static void on_stop(int number) {
    bool again = stop_requested != 0 && number != SIGUSR1;
    if (again) check_exit_now(128 + number);
    stop_requested = number;
}

static void on_stop_elsewhere(int number) {
    (void)number; /* the leader decides; the headers tell */
}

/* Only the leader acts on a signal. */
static void catch_signals(bool leader) {
    static const int caught[] = {SIGINT, SIGTERM, SIGUSR1};
    struct sigaction action = {.sa_handler = leader ? on_stop : on_stop_elsewhere,
                               .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    for (size_t at = 0; at < sizeof caught / sizeof *caught; at++)
        sigaction(caught[at], &action, NULL);
}

/* ---- stages of opening ------------------------------------------------------------------------
 */

static bool agree(struct run *run, struct fault *fault, const char *what) {
    return topology_agree(&run->topology, fault, what, run->options->deadline_s * PATIENCE);
}

static bool is_model(const struct run *run) {
    return run->topology.role == ROLE_MODEL;
}

static bool is_colocated(const struct run *run) {
    return run->topology.layout.attention_ranks == 0;
}

/* Which device this rank is to use. A GPU rank beside others needs a wire that reaches its memory.
 */
static void choose_device(struct run *run, struct fault *fault) {
    const struct options *options = run->options;
    const char *role = role_name(run->topology.role);
    enum device_wish wish = is_model(run) ? options->model_device : options->attention_device;
    bool alone = run->topology.n_ranks == 1, here = device_cuda.count() > 0;
    if (wish == DEVICE_WISH_CUDA && !here)
        fault_user(fault,
                   "--%s-device cuda: no GPU is visible, or this lamina was built without CUDA "
                   "(cmake --preset cuda)",
                   role);
    if (wish == DEVICE_WISH_CUDA && !alone)
        fault_user(fault,
                   "--%s-device cuda: a GPU rank works alone yet (colocated): its messages to "
                   "other ranks are not built",
                   role);
    bool gpu = alone && here && wish != DEVICE_WISH_CPU;
    run->device_ops = gpu ? &device_cuda : &device_cpu;
}

/* The model's header, and the program made of it. */
static void open_model(struct run *run, struct fault *fault) {
    if (!is_model(run)) return;
    if (run->topology.leader && !report_check(run->options, fault)) return;
    if (!source_open(&run->source, &run->model, run->options->model, run->options->seed, fault))
        return;
    graph_open(&run->graph, (int)element_bytes(run->device_ops->activation));
    model_write_graph(&run->graph, &run->model);
    program_open(&run->program, &run->graph, is_colocated(run));
    service_open(&run->service, &run->program);
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
    if (is_model(run))
        budget_limits(&run->limits, run->options, &run->topology.layout, &run->service,
                      run->model.context, fault);
}

static void progress(void *argument) {
    struct run *run = argument;
    if (run->wire) run->wire_ops->progress(run->wire);
}

static struct device_options device_options(struct run *run) {
    bool alone = run->topology.n_ranks == 1;
    return (struct device_options){.n_threads = run->resources.n_threads,
                                   .isa = (int)run->options->isa,
                                   .progress = alone ? NULL : progress,
                                   .progress_argument = run};
}

/* A device with memory of its own holds the cache there. */
static void find_memory(struct run *run) {
    struct device_options options = device_options(run);
    int64_t n_bytes = run->device_ops->free_bytes(&options);
    if (n_bytes < 0) return;
    run->resources.memory_bytes = n_bytes / 10 * 9;
    run->resources.memory_from = "free on the device";
}

/* Pages this rank's memory can hold. */
static int64_t own_pages(struct run *run, struct fault *fault) {
    int64_t weight_bytes =
        is_model(run) ? (int64_t)weights_bytes(&run->graph, &run->source, run->device_ops) : 0;
    struct budget_basis basis = {.program = &run->program,
                                 .device_ops = run->device_ops,
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
                   is_model(run) ? "weights and activations" : "messages",
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

/* Tokenizer, template and output: the leader's side of the desk. */
static void open_text(struct run *run, struct fault *fault) {
    const struct options *options = run->options;
    if (!run->topology.leader) return;
    char fingerprint[33];
    gguf_fingerprint(&run->source.gguf, fingerprint);
    if (!tokenizer_open(&run->tokenizer, &run->source.gguf, fault)) return;
    bool found = options->chat_template
                     ? template_find_name(&run->chat_template, options->chat_template, fault)
                     : template_find(&run->chat_template, &run->source.gguf, &run->template_fault);
    if (!found && options->chat_template) return;
    if (options->checkpoint && !checkpoint_folder_check(options, fault)) return;
    if (!results_open(&run->results, options, fingerprint, fault)) return;
    if (options->resume && !results_all_answered(run->results, &run->all_answered, fault)) return;
    if (!checkpoint_find(&run->checkpoint, options, results_uuid(run->results), fingerprint,
                         &run->progress, fault))
        return;
    run->rules = (struct request_rules){
        .tokenizer = run->tokenizer,
        .chat_template = run->chat_template,
        .template_fault = &run->template_fault,
        .options = options,
        .context = run->limits.context,
        .kv_tokens = (int64_t)run->limits.n_pages * PAGE_TOKENS,
        .model_name = run->model.name,
    };
}

static void open_desk(struct run *run, struct fault *fault) {
    if (!run->topology.leader) return;
    int ahead = 4 * run->limits.n_slots * run->limits.max_batch;
    if (!desk_open(&run->desk, &run->rules, run->results, run->progress, ahead < 256 ? 256 : ahead,
                   fault))
        return;
    run->supply = desk_supply(run->desk);
}

/* What the report has to know of this rank. */
static struct report_run describe(const struct run *run) {
    return (struct report_run){.options = run->options,
                               .topology = &run->topology,
                               .resources = &run->resources,
                               .limits = &run->limits,
                               .service = &run->service,
                               .device = run->device ? run->device_ops->describe(run->device) : "",
                               .wire = run->wire_ops ? run->wire_ops->name : NULL,
                               .budget = run->budget,
                               .model = run->model.name,
                               .patience_s = run->options->deadline_s * PATIENCE};
}

static void open_report(struct run *run, struct fault *fault) {
    const char *timeline = run->options->timeline;
    struct report_run about = describe(run);
    report_start(&about);
    if (!run->topology.leader) return;
    if (timeline && !replacement_find(&run->timeline, "--timeline", timeline, run->options, fault))
        return;
    report_open(&run->report, &about, fault);
}

static void open_device(struct run *run, struct fault *fault) {
    struct device_options device = device_options(run);
    run->wire_ops = run->topology.n_ranks == 1 ? NULL : &wire_mpi;
    run->device_ops->open(&run->device, &device, fault);
}

static void prepare_device(struct run *run) {
    struct device_limits limits = decode_device_limits(&run->limits, &run->topology.layout,
                                                       run->topology.rank, run->model.vocabulary);
    run->device_ops->prepare(run->device, &limits);
    if (is_model(run))
        weights_open(&run->weights, &run->graph, &run->source, run->device_ops, run->device,
                     run->limits.context);
}

static void open_wire(struct run *run, struct fault *fault) {
    if (run->topology.n_ranks == 1) return;
    /* A model rank knows whose message is missing, attention ranks only that the model rank waits:
     * it shall speak first. */
    double patience = is_model(run) ? 1 : 1.5;
    struct messages messages;
    messages_open(&messages, &run->topology, &run->service, run->limits.max_rows,
                  run->options->kv_type);
    struct wire_options wire = {.comm = run->topology.comm,
                                .rank = run->topology.rank,
                                .n_slots = run->limits.n_slots,
                                .deadline_s = run->options->deadline_s * patience,
                                .progress = run->options->wire_progress,
                                .device = run->device_ops,
                                .n_incoming = messages.n_incoming,
                                .n_outgoing = messages.n_outgoing,
                                .incoming = messages.incoming,
                                .outgoing = messages.outgoing};
    run->wire_ops->open(&run->wire, &wire, fault);
    run->control = control_open(&wire, run->topology.n_ranks, header_most_bytes(&run->limits));
    messages_close(&messages);
}

/* ---- the loop ---------------------------------------------------------------------------------
 */

/* Once a step: what a checkpoint has to do meanwhile; on the leader progress lines, and ending the
 * walk for a stop, when the desk cannot go on, or for a checkpoint. */
static void tick(void *argument) {
    struct run *run = argument;
    struct fault fault = {0};
    checkpoint_tick(run->checkpoint);
    if (!run->topology.leader) return;
    if (!stop_requested && desk_failed(run->desk, &fault)) stop_requested = 1;
    struct batch_counts counts = batch_counts(run->batch);
    report_tick(run->report, &counts);
    run->halt = stop_requested || checkpoint_due(run->checkpoint);
}

static void open_decode(struct run *run) {
    struct batch_options batch = {.limits = run->limits,
                                  .topology = &run->topology,
                                  .control = run->control,
                                  .supply = run->topology.leader ? &run->supply : NULL,
                                  .device_ops = run->device_ops,
                                  .device = run->device,
                                  .stop = &run->halt,
                                  .tick = tick,
                                  .tick_argument = run};
    batch_open(&run->batch, &batch);
    struct decode_options decode = {.topology = &run->topology,
                                    .service = &run->service,
                                    .program = is_model(run) ? &run->program : NULL,
                                    .weights = is_model(run) ? &run->weights : NULL,
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

/* Last of all, when the loop could begin: what a checkpoint kept takes its place in it. */
static bool open_checkpoint(struct run *run, struct fault *fault) {
    struct checkpoint_run checkpoint = {.options = run->options,
                                        .topology = &run->topology,
                                        .limits = &run->limits,
                                        .service = &run->service,
                                        .device_ops = run->device_ops,
                                        .device = run->device,
                                        .batch = run->batch,
                                        .decode = run->decode,
                                        .desk = run->desk,
                                        .patience_s = run->options->deadline_s * PATIENCE};
    return checkpoint_open(&run->checkpoint, &checkpoint, fault);
}

/* Open everything up to the loop. False with a fault agreed by all ranks. */
static bool open_run(struct run *run, struct fault *fault) {
    choose_device(run, fault);
    if (!agree(run, fault, "choice of devices")) return false;
    open_model(run, fault);
    if (!agree(run, fault, "reading of the model's header")) return false;
    share_service(run);
    open_partition(run, fault);
    if (!agree(run, fault, "agreement on the partition")) return false;
    resources_find(&run->resources, run->options, &run->environment, &run->topology);
    find_memory(run);
    derive_limits(run, fault);
    if (!agree(run, fault, "agreement on the batch")) return false;
    topology_broadcast(&run->topology, &run->limits, sizeof run->limits, "limits",
                       run->options->deadline_s);
    agree_pages(run, fault);
    if (!agree(run, fault, "agreement on KV budgets")) return false;
    open_device(run, fault);
    if (!agree(run, fault, "opening of devices")) return false;
    open_text(run, fault); /* last of what may be refused, for it may empty an output */
    if (!agree(run, fault, "opening of the output")) return false;
    topology_broadcast(&run->topology, &run->all_answered, sizeof run->all_answered,
                       "what is answered already", run->options->deadline_s);
    if (run->all_answered) return true;
    open_report(run, fault);
    if (!agree(run, fault, "opening of the status file")) return false;
    open_wire(run, fault); /* all at once, not one by one when they have read their weights */
    int64_t now = clock_span(SPAN_START, 0, -1, 0, run->begin_ns);
    prepare_device(run);
    now = clock_span(SPAN_LOAD, 0, -1, (int64_t)run->weights.file_bytes, now);
    if (!agree(run, fault, "loading of weights")) return false;
    open_desk(run, fault); /* last of what may fail: its thread is the loop's to end */
    if (!agree(run, fault, "opening of the input")) return false;
    open_decode(run);
    if (!open_checkpoint(run, fault)) return false;
    clock_span(SPAN_START, 0, -1, 0, now);
    return true;
}

static void close_run(struct run *run, int code) {
    checkpoint_close(run->checkpoint, code == EXIT_DONE || code == EXIT_REQUESTS);
    decode_close(run->decode);
    batch_close(run->batch);
    control_close(run->control);
    if (run->wire) run->wire_ops->close(run->wire);
    replacement_close(&run->timeline);
    weights_close(&run->weights);
    if (run->device) run->device_ops->close(run->device);
    if (run->results) results_close(run->results);
    tokenizer_close(run->tokenizer);
    service_close(&run->service);
    program_close(&run->program);
    graph_close(&run->graph);
    source_close(&run->source);
    clock_record_close();
    topology_close(&run->topology);
}

/* The leader's exit code, after the desk has written what is finished. */
static int end_desk(struct run *run) {
    struct fault fault = {0};
    if (stop_requested) desk_stop(run->desk);
    if (!desk_close(run->desk, &run->desk_counts, &fault)) {
        log_error("%s", fault.text);
        return (int)fault.kind;
    }
    const struct result_counts *results = &run->desk_counts.results;
    bool unfinished = run->desk_counts.n_running > 0 || !run->desk_counts.all_read ||
                      run->desk_counts.n_ready > 0;
    return stop_requested && unfinished                     ? EXIT_RESUMABLE
           : results->n_failed + results->n_kept_failed > 0 ? EXIT_REQUESTS
                                                            : EXIT_DONE;
}

/* Walk the list of turns to its end, with a checkpoint between one walk and the next. */
static void walk(struct run *run) {
    bool stop;
    do {
        run->halt = stop_requested;
        decode_run(run->decode);
        stop = run->topology.leader && stop_requested;
        if (stop) batch_stop(run->batch);
    } while (checkpoint_between(run->checkpoint, stop));
}

/* The loop, and what is said and written of it. Returns the leader's exit code. */
static int decode(struct run *run) {
    int code = EXIT_DONE;
    struct report_run about = describe(run);
    struct batch_counts counts;
    if (run->report) report_begin(run->report, run->desk);
    int64_t begin_ns = clock_now_ns();
    walk(run);
    struct report_end end = {.loop_s = (double)(clock_now_ns() - begin_ns) * 1e-9};
    if (run->topology.leader) {
        code = end_desk(run);
        counts = batch_counts(run->batch);
        end.counts = &counts;
        end.latencies = batch_latencies(run->batch);
        end.desk = &run->desk_counts;
    }
    report_summary(run->report, &about, &end);
    if (run->options->timeline) trace_write_timeline(&run->topology, &run->timeline);
    return code;
}

/* An exit code that all ranks agree on, everything closed; what to do next is said last of all. */
static int end_run(struct run *run, int code) {
    topology_broadcast(&run->topology, &code, sizeof code, "the end of the job",
                       run->options->deadline_s * PATIENCE);
    struct report *report = run->report;
    close_run(run, code);
    report_close(report, code);
    return code;
}

int generate_run(int argc, char **argv, const struct options *options) {
    if (options->dry_run) return dry_run(options, options_hash(argc, argv));
    struct run run = {.options = options, .begin_ns = clock_now_ns()};
    struct fault fault = {0};
    environment_read(&run.environment);
    log_setup(options->log_level, options->log_json);
    if (!topology_open(&run.topology, options, options_hash(argc, argv), &fault)) {
        if (run.topology.rank == 0) log_error("%s", fault.text);
        return (int)fault.kind;
    }
    catch_signals(run.topology.leader);
    clock_record_open(options->timeline ? TRACE_SPANS : 0);
    int code = EXIT_DONE;
    if (!open_run(&run, &fault)) {
        if (run.topology.leader) log_error("%s", fault.text);
        code = (int)fault.kind;
    } else if (!run.all_answered) {
        code = decode(&run);
    } else if (run.topology.leader) {
        struct report_run about = describe(&run);
        code = report_all_answered(&about, results_counts(run.results));
    }
    return end_run(&run, code);
}
