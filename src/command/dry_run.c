/* dry_run.c - a job looked through without running it. See dry_run.h.
 *
 * Goes the way of generate.c up to the weights, on the leader alone: the same calls read the
 * model's header, derive the sizes, look at the output and read the requests, so that what passes
 * here passes there. The invariant: nothing is written. With --resume lines that are answered are
 * counted and not looked into, as in the run. Memory is held against this host only when every rank
 * of the layout would run on it; a layout that was not started may be meant for other machines.
 * Prompt lengths are counted exactly, one counter a length, since a prompt is shorter than the
 * context.
 */
#include "dry_run.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "budget.h"
#include "checkpoint.h"
#include "checkpoint_folder.h"
#include "choose.h"
#include "clock.h"
#include "compose.h"
#include "line_reader.h"
#include "log.h"
#include "model.h"
#include "progress.h"
#include "report_parts.h"
#include "resources.h"
#include "results.h"
#include "time_limit.h"

/* Others wait for the leader, who may have a long file to read. */
static const double DAY_S = 86400;

/* What a rank computes on, and may use when all ranks run on this host. */
struct dry_rank {
    const struct device_ops *device_ops;
    char device_id[DEVICE_ID_BYTES];
    struct resources resources;
};

struct dry_run {
    const struct options *options;
    struct topology topology; /* as started */
    struct source source;
    struct model model;
    struct graph graph;
    struct program program;
    struct service service;
    struct layout layout;       /* as asked for */
    struct batch_limits limits; /* with the pages of a run on this host */
    int most_pages;             /* by which requests are judged */
    struct resources resources; /* of a rank on the host's processors */
    struct dry_rank *rank;      /* (n_ranks) of the layout */
    const struct wire_ops *wire_ops;
    struct tokenizer *tokenizer;
    const struct chat_template *chat_template;
    struct fault template_fault;
    struct request_rules rules;
    struct results *results;
    int64_t n_lines, n_bad, n_chat, n_prompts, n_generations;
    int64_t *n_of_length;     /* (context + 1) prompts by tokens */
    int64_t n_prompt_tokens;  /* of all generations: each computes its prompt */
    int64_t n_new_tokens;     /* the most that all generations can make */
    int64_t longest_sequence; /* prompt and most answer */
};

/* ---- what a run opens -------------------------------------------------------------------------
 */

/* Ranks of the layout asked for; what is left out comes from how many were started. */
static bool find_layout(struct dry_run *dry, struct fault *fault) {
    struct options wished = *dry->options;
    int a = wished.model_ranks, b = wished.attention_ranks;
    if (b < 0 && (wished.heads > 0 || wished.sequences > 0))
        b = (wished.heads > 0 ? wished.heads : 1) * (wished.sequences > 0 ? wished.sequences : 1);
    if (a < 0 && b < 0) {
        dry->layout = dry->topology.layout;
        return layout_partition(&dry->layout, &wished, dry->service.n_kv_heads, fault);
    }
    if (a < 0) a = 1;
    if (b < 0) b = dry->topology.n_ranks > a ? dry->topology.n_ranks - a : 0;
    wished.model_ranks = a;
    wished.attention_ranks = b;
    return layout_ranks(&dry->layout, &wished, a + b, fault) &&
           layout_partition(&dry->layout, &wished, dry->service.n_kv_heads, fault);
}

/* The graph as compose.c opens it for a model rank on such a device, cut or left whole. */
static void open_program(struct dry_run *dry, const struct device_ops *ops, bool colocated) {
    service_close(&dry->service);
    program_close(&dry->program);
    graph_close(&dry->graph);
    graph_open(&dry->graph,
               (struct graph_options){.element_bytes = (int)element_bytes(ops->activation),
                                      .joins_weights = ops->joins_weights});
    model_write_graph(&dry->graph, &dry->model);
    program_open(&dry->program, &dry->graph, colocated);
    service_open(&dry->service, &dry->program, ops->activation);
}

static int n_ranks(const struct dry_run *dry) {
    return dry->layout.model_ranks + dry->layout.attention_ranks;
}

static bool choose_devices(struct dry_run *dry, struct fault *fault) {
    dry->rank = check_alloc((size_t)n_ranks(dry), sizeof *dry->rank);
    for (int rank = 0; rank < n_ranks(dry); rank++) {
        enum role role = rank < dry->layout.model_ranks ? ROLE_MODEL : ROLE_ATTENTION;
        struct device_options device = {.index = rank};
        dry->rank[rank].device_ops = choose_device_ops(dry->options, role, &device,
                                                       n_ranks(dry) <= device_cuda.count(), fault);
    }
    return fault->kind == FAULT_NONE;
}

static bool open_model(struct dry_run *dry, struct fault *fault) {
    if (!source_open(&dry->source, &dry->model, dry->options->model, dry->options->seed, fault))
        return false;
    /* cut, to learn the shapes; how it is cut does not change them */
    open_program(dry, &device_cpu, false);
    if (!find_layout(dry, fault) || !choose_devices(dry, fault)) return false;
    open_program(dry, dry->rank[0].device_ops, dry->layout.attention_ranks == 0);
    return budget_limits(&dry->limits, dry->options, &dry->layout, &dry->service,
                         dry->model.context, fault);
}

static struct budget budget_of(const struct dry_run *dry, int rank) {
    const struct device_ops *ops = dry->rank[rank].device_ops;
    struct budget_basis basis = {.program = &dry->program,
                                 .device_ops = ops,
                                 .wire_ops = dry->wire_ops,
                                 .service = &dry->service,
                                 .layout = &dry->layout,
                                 .limits = &dry->limits,
                                 .weight_bytes =
                                     (int64_t)weights_bytes(&dry->graph, &dry->source, ops),
                                 .vocabulary = dry->model.vocabulary,
                                 .n_threads = dry->resources.n_threads,
                                 .options = dry->options};
    return budget_of_rank(&basis, rank);
}

/* As compose.c finds it: ranks of one device share what is free on it. */
static void find_memory(struct dry_run *dry) {
    for (int rank = 0; rank < n_ranks(dry); rank++) {
        struct device_options options = {.index = rank};
        dry->rank[rank].device_ops->identify(&options, dry->rank[rank].device_id);
    }
    for (int rank = 0; rank < n_ranks(dry); rank++) {
        struct dry_rank *mine = &dry->rank[rank];
        struct device_options options = {.index = rank};
        int n_sharing = 0;
        for (int other = 0; other < n_ranks(dry); other++)
            n_sharing += strcmp(dry->rank[other].device_id, mine->device_id) == 0;
        int64_t n_bytes = mine->device_ops->free_bytes(&options);
        mine->resources = dry->resources;
        if (n_bytes >= 0) resources_use_device(&mine->resources, n_bytes, n_sharing);
    }
}

static bool as_started(const struct dry_run *dry) {
    return n_ranks(dry) == dry->topology.n_ranks;
}

/* Whether other hosts are known to take part; a layout that was not started may be meant for them.
 */
static bool several_hosts(const struct dry_run *dry) {
    return as_started(dry) && dry->topology.n_local < dry->topology.n_ranks;
}

/* As compose.c does, with devices and memory of this host for all ranks. Ranks are taken to have a
 * GPU each where that cannot be seen from here: in a layout that was not started, or where one GPU
 * is visible, which may be another for each. */
static void choose_wire(struct dry_run *dry, struct fault *fault) {
    bool tells = as_started(dry) && device_cuda.count() > 1;
    struct wire_ground ground = {
        .alone = n_ranks(dry) == 1, .gpus = GPUS_OWN, .one_host = !several_hosts(dry)};
    ground.nccl = wire_nccl.available(&device_cuda, &(struct fault){0});
    ground.device = wire_device.available(&device_cuda, &(struct fault){0});
    for (int rank = 0; rank < n_ranks(dry); rank++) {
        const struct dry_rank *mine = &dry->rank[rank];
        if (mine->device_ops != &device_cuda) ground.gpus = GPUS_NOT_ALL;
        for (int other = 0; other < rank && ground.gpus == GPUS_OWN && tells; other++)
            if (strcmp(dry->rank[other].device_id, mine->device_id) == 0) ground.gpus = GPUS_SHARED;
    }
    dry->wire_ops = choose_wire_ops(dry->options, ground, fault);
}

/* KV pages by the memory of this host, as a run here would have them; where not one fits, all that
 * could be used, and print_memory says the rest. */
static bool find_pages(struct dry_run *dry, struct fault *fault) {
    struct environment environment;
    environment_read(&environment);
    if (!as_started(dry))
        resources_share(&dry->resources, dry->options, &environment, n_ranks(dry), n_ranks(dry));
    find_memory(dry);
    choose_wire(dry, fault);
    if (fault->kind != FAULT_NONE) return false;
    int64_t least = INT32_MAX;
    for (int rank = 0; rank < n_ranks(dry); rank++) {
        struct budget budget = budget_of(dry, rank);
        int64_t pages =
            budget_own_pages(&budget, dry->options, dry->rank[rank].resources.memory_bytes);
        least = pages < least ? pages : least;
    }
    dry->limits.n_pages = budget_pages(&dry->limits, dry->options, least);
    dry->most_pages = budget_pages(&dry->limits, dry->options, INT32_MAX);
    bool asked = dry->options->kv_tokens >= 0 || dry->options->kv_memory >= 0;
    if (dry->limits.n_pages < 1 && asked)
        return fault_user(fault,
                          "the KV budget of an attention rank holds no page of %d tokens: raise "
                          "--kv-tokens or --kv-memory",
                          PAGE_TOKENS);
    if (as_started(dry) && dry->limits.n_pages > 0) dry->most_pages = dry->limits.n_pages;
    if (dry->limits.n_pages < 1) dry->limits.n_pages = dry->most_pages;
    return true;
}

static bool open_text(struct dry_run *dry, struct fault *fault) {
    const struct options *options = dry->options;
    if (!compose_text(&dry->source, &dry->model, options, &dry->tokenizer, &dry->chat_template,
                      &dry->template_fault, fault))
        return false;
    dry->rules = (struct request_rules){
        .tokenizer = dry->tokenizer,
        .chat_template = dry->chat_template,
        .template_fault = &dry->template_fault,
        .options = options,
        .context = dry->limits.context,
        .kv_tokens = (int64_t)dry->most_pages * PAGE_TOKENS,
        .model_name = dry->model.name,
    };
    dry->n_of_length = check_alloc((size_t)dry->limits.context + 1, sizeof *dry->n_of_length);
    return true;
}

static bool open_results(struct dry_run *dry, struct fault *fault) {
    char fingerprint[33];
    source_fingerprint(&dry->source, &dry->model, fingerprint);
    if (dry->options->checkpoint && !checkpoint_folder_check(dry->options, fault)) return false;
    return results_look(&dry->results, dry->options, fingerprint, fault);
}

/* What a run would do beside answering: when it would stop, and what it would keep. */
static bool look_ahead(struct dry_run *dry, struct fault *fault) {
    struct environment environment;
    struct time_limit limit;
    environment_read(&environment);
    if (dry->options->checkpoint)
        checkpoint_say_room(dry->options, &dry->limits, dry->service.n_layers);
    return time_limit_open(&limit, dry->options, &environment, clock_now_ns(), fault);
}

/* ---- requests ---------------------------------------------------------------------------------
 */

static void count_request(struct dry_run *dry, const struct request *request) {
    size_t n_generations = request_n_generations(request);
    dry->n_chat += request->endpoint == ENDPOINT_CHAT;
    dry->n_prompts += request->n_prompts;
    dry->n_generations += (int64_t)n_generations;
    for (int number = 0; number < request->n_prompts; number++)
        dry->n_of_length[request->prompt[number].n_tokens] += 1;
    for (size_t index = 0; index < n_generations; index++) {
        const struct generation *generation = &request->generation[index];
        int64_t length = (int64_t)generation->n_prompt + generation->max_new;
        dry->n_prompt_tokens += generation->n_prompt;
        dry->n_new_tokens += generation->max_new;
        if (length > dry->longest_sequence) dry->longest_sequence = length;
    }
}

static void look_at_request(struct dry_run *dry, struct request *request) {
    request_prepare(request, &dry->rules);
    if (request->refusal.refused) {
        dry->n_bad += 1;
        printf("%s\n", request->refusal.message);
    } else {
        count_request(dry, request);
    }
}

static bool read_requests(struct dry_run *dry, struct fault *fault) {
    struct line_reader *reader;
    struct input_line line;
    if (!line_reader_open(&reader, dry->options->input, dry->options->n_inputs, fault))
        return false;
    while (!fault->kind && line_reader_next(reader, &line, fault)) {
        struct request request;
        request_read(&request, dry->options, &line);
        dry->n_lines += 1;
        if (!results_answered(dry->results, &request, fault)) look_at_request(dry, &request);
        request_close(&request);
    }
    line_reader_close(reader);
    return fault->kind == FAULT_NONE;
}

/* ---- what is printed --------------------------------------------------------------------------
 */

/* The prompt of `rank` (from 0) in order of length. */
static int64_t length_at(const struct dry_run *dry, int64_t rank) {
    int64_t n_below = 0;
    int length = 0;
    while (length < dry->limits.context && (n_below += dry->n_of_length[length]) <= rank)
        length++;
    return length;
}

/* numpy's: interpolated between the two prompts it falls between. */
static double length_percentile(const struct dry_run *dry, double percent) {
    double rank = percent / 100 * (double)(dry->n_prompts - 1);
    int64_t below = (int64_t)rank;
    int64_t above = below + 1 < dry->n_prompts ? below + 1 : below;
    double length = (double)length_at(dry, below);
    return length + (rank - (double)below) * ((double)length_at(dry, above) - length);
}

static void print_model(const struct dry_run *dry) {
    const struct model *model = &dry->model;
    char size[PROGRESS_TEXT_BYTES];
    printf(
        "model      %s (%s): %d layers, hidden %d, %d heads on %d KV heads of %d, vocabulary %d, "
        "context %d; %s\n",
        model->name, model->family->architecture, model->n_layers, model->hidden, model->n_heads,
        model->n_kv_heads, model->head_dim, model->vocabulary, model->context,
        progress_size(size, (int64_t)dry->source.gguf.file_bytes));
    if (dry->chat_template) {
        printf("template   %s\n", template_name(dry->chat_template));
    } else {
        printf("template   none, so chat requests are refused: %s\n", dry->template_fault.text);
    }
}

static void print_requests(const struct dry_run *dry) {
    struct result_counts before = results_counts(dry->results);
    if (before.n_kept > 0)
        printf("answered   %lld lines by an earlier run, %lld of them with an error\n",
               (long long)before.n_kept, (long long)before.n_kept_failed);
    printf("requests   %lld good (%lld chat), %lld bad; %lld prompts, %lld sequences to generate\n",
           (long long)(dry->n_lines - before.n_kept - dry->n_bad), (long long)dry->n_chat,
           (long long)dry->n_bad, (long long)dry->n_prompts, (long long)dry->n_generations);
    if (dry->n_prompts == 0) return;
    printf("prompts    tokens: least %lld, p50 %.0f, p90 %.0f, p99 %.0f, most %lld\n",
           (long long)length_at(dry, 0), length_percentile(dry, 50), length_percentile(dry, 90),
           length_percentile(dry, 99), (long long)length_at(dry, dry->n_prompts - 1));
    printf("tokens     %lld of prompts to compute, at most %lld to generate; the longest sequence "
           "may reach %lld of %d\n",
           (long long)dry->n_prompt_tokens, (long long)dry->n_new_tokens,
           (long long)dry->longest_sequence, dry->limits.context);
}

/* What carries messages, and what was taken to be so, because it cannot be seen from here. */
static void print_wire(const struct dry_run *dry) {
    if (!dry->wire_ops) return;
    printf("wire       %s%s\n", dry->wire_ops->name,
           several_hosts(dry) ? ", taking the other hosts to be as this one"
           : as_started(dry)  ? ""
                              : ", taking all ranks to be on this host");
}

static void print_layout(const struct dry_run *dry) {
    const struct layout *layout = &dry->layout;
    const struct batch_limits *limits = &dry->limits;
    int a = layout->model_ranks, b = layout->attention_ranks;
    printf("layout     %d model + %d attention = %d rank%s", a, b, a + b, a + b == 1 ? "" : "s");
    if (b) {
        printf(", heads=%d,sequences=%d", layout->heads, layout->sequences);
    } else {
        printf(", colocated");
    }
    printf(as_started(dry) ? "\n" : " (started now: %d)\n", dry->topology.n_ranks);
    printf("batch      %d slot%s of %d sequences, %d rows a step, context %d, KV %s\n",
           limits->n_slots, limits->n_slots == 1 ? "" : "s", limits->max_batch, limits->max_rows,
           limits->context, kv_type_name(dry->options->kv_type));
    print_wire(dry);
    int64_t tokens = (int64_t)limits->n_pages * PAGE_TOKENS;
    printf("KV cache   %lld tokens an owner of sequences, %lld in all; the longest sequence fits "
           "%lld times\n",
           (long long)tokens, (long long)tokens * limits->n_owners,
           (long long)(dry->longest_sequence
                           ? limits->n_pages / kv_pages_for((int)dry->longest_sequence) *
                                 limits->n_owners
                           : 0));
}

/* Whether there is enough of the host's memory, or of devices'. */
static void print_room(const struct dry_run *dry, const char *memory_of) {
    struct resources least = {.memory_bytes = INT64_MAX};
    char size[PROGRESS_TEXT_BYTES];
    bool enough = true;
    for (int rank = 0; rank < n_ranks(dry); rank++) {
        struct resources resources = dry->rank[rank].resources;
        struct budget budget = budget_of(dry, rank);
        if (strcmp(resources.memory_of, memory_of) != 0) continue;
        if (resources.memory_bytes < least.memory_bytes) least = resources;
        enough = enough && budget.weight_bytes + budget.work_bytes +
                                   budget.page_bytes * dry->limits.n_pages <=
                               resources.memory_bytes;
    }
    if (!least.memory_from) return;
    printf("memory     %s a rank when all run on this host (%s, less a tenth): %s\n",
           progress_size(size, least.memory_bytes), least.memory_from,
           enough ? "enough"
                  : "not enough; a smaller --kv-tokens, --max-batch or --context, or more hosts");
}

static void print_memory(const struct dry_run *dry) {
    char weights[PROGRESS_TEXT_BYTES], work[PROGRESS_TEXT_BYTES], kv[PROGRESS_TEXT_BYTES],
        all[PROGRESS_TEXT_BYTES], share[REPORT_SHARE_BYTES];
    printf("\n%4s  %-9s  %-6s  %10s  %22s  %10s  %10s  %s\n", "rank", "role", "device", "weights",
           "activations + messages", "KV", "in all", "holds");
    for (int rank = 0; rank < n_ranks(dry); rank++) {
        struct budget budget = budget_of(dry, rank);
        int64_t kv_bytes = budget.page_bytes * dry->limits.n_pages;
        int64_t bytes = budget.weight_bytes + budget.work_bytes + kv_bytes;
        printf("%4d  %-9s  %-6s  %10s  %22s  %10s  %10s  %s\n", rank,
               role_name(rank < dry->layout.model_ranks ? ROLE_MODEL : ROLE_ATTENTION),
               dry->rank[rank].device_ops->name, progress_size(weights, budget.weight_bytes),
               progress_size(work, budget.work_bytes), progress_size(kv, kv_bytes),
               progress_size(all, bytes),
               report_share(share, &dry->layout, dry->service.n_kv_heads, rank));
    }
    printf("\n");
    print_room(dry, "host");
    print_room(dry, "device");
}

/* ---- its life ---------------------------------------------------------------------------------
 */

static int look_through(struct dry_run *dry, struct fault *fault) {
    bool good = report_check(dry->options, fault) && open_model(dry, fault) &&
                find_pages(dry, fault) && open_text(dry, fault) && open_results(dry, fault) &&
                look_ahead(dry, fault) && read_requests(dry, fault);
    if (!good) {
        log_error("%s", fault->text);
        return (int)fault->kind;
    }
    if (dry->options->log_level >= LOG_NOTE) {
        if (dry->n_bad) printf("\n");
        print_model(dry);
        print_requests(dry);
        print_layout(dry);
        print_memory(dry);
    }
    if (fflush(stdout) != 0 || ferror(stdout)) {
        log_error("cannot write to standard output: %s", strerror(errno));
        return EXIT_WORLD;
    }
    if (dry->n_bad == 0) {
        int n_ranks = dry->layout.model_ranks + dry->layout.attention_ranks;
        log_note(
            "dry run: nothing was loaded or written; to run it leave out --dry-run%s, on %d MPI "
            "rank%s",
            dry->options->output ? "" : " and name an output with -o", n_ranks,
            n_ranks == 1 ? "" : "s");
        return results_counts(dry->results).n_kept_failed > 0 ? EXIT_REQUESTS : EXIT_DONE;
    }
    log_note(
        "dry run: %lld of %lld lines are bad and would fail; correct them, or run as it is and "
        "have them as error lines",
        (long long)dry->n_bad, (long long)dry->n_lines);
    return EXIT_REQUESTS;
}

static void close_all(struct dry_run *dry) {
    results_close(dry->results);
    free(dry->n_of_length);
    free(dry->rank);
    tokenizer_close(dry->tokenizer);
    service_close(&dry->service);
    program_close(&dry->program);
    graph_close(&dry->graph);
    source_close(&dry->source);
    topology_close(&dry->topology);
}

int dry_run(const struct options *options, uint64_t options_hash) {
    struct dry_run dry = {.options = options};
    struct options as_it_is = *options; /* as many ranks as were started, whatever is asked for */
    struct fault fault = {0};
    as_it_is.model_ranks = as_it_is.attention_ranks = -1;
    if (!topology_open(&dry.topology, &as_it_is, options_hash, &fault)) {
        if (dry.topology.rank == 0) log_error("%s", fault.text);
        return (int)fault.kind;
    }
    struct environment environment;
    environment_read(&environment);
    resources_find(&dry.resources, options, &environment, &dry.topology);
    int code = dry.topology.leader ? look_through(&dry, &fault) : EXIT_DONE;
    topology_broadcast(&dry.topology, &code, sizeof code, "the end of the dry run", DAY_S);
    close_all(&dry);
    return code;
}
