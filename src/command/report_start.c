/* report_start.c - who runs where, and every choice that was derived. See report.h.
 *
 * One line a rank, then one line a choice with its reason, so that a log alone tells how a number
 * was reached. Reasons are found from options and limits, which all ranks share; what differs from
 * rank to rank (processors, threads, memory) is collected. A group has one set of lines; there is
 * one group until groups are built.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "log.h"
#include "progress.h"
#include "report_parts.h"

/* What a rank says of itself. */
struct rank_line {
    int32_t role, n_cpus, n_sharing, n_host_cpus, n_threads, device_node;
    int32_t n_memory_sharing;
    int64_t memory_bytes, weight_bytes, work_bytes, page_bytes;
    char host[64], device[96], device_id[DEVICE_ID_BYTES], threads[48], threads_from[32],
        memory_from[48], memory_of[8];
    struct device_place place;
};

static struct rank_line describe_rank(const struct report_run *run) {
    const struct resources *resources = run->resources;
    struct rank_line line = {.role = (int32_t)run->topology->role,
                             .n_cpus = resources->n_cpus,
                             .n_sharing = resources->n_sharing,
                             .n_host_cpus = resources->n_host_cpus,
                             .n_threads = resources->n_threads,
                             .device_node = resources->device_node,
                             .place = *run->device_place,
                             .n_memory_sharing = resources->n_memory_sharing,
                             .memory_bytes = resources->memory_bytes,
                             .weight_bytes = run->budget.weight_bytes,
                             .work_bytes = run->budget.work_bytes,
                             .page_bytes = run->budget.page_bytes};
    snprintf(line.host, sizeof line.host, "%s", run->topology->host);
    snprintf(line.device, sizeof line.device, "%s", run->device);
    snprintf(line.device_id, sizeof line.device_id, "%s", run->device_id);
    snprintf(line.threads, sizeof line.threads, "%d %s", resources->n_threads,
             resources->threads_from);
    snprintf(line.threads_from, sizeof line.threads_from, "%s", resources->threads_from);
    snprintf(line.memory_from, sizeof line.memory_from, "%s", resources->memory_from);
    snprintf(line.memory_of, sizeof line.memory_of, "%s", resources->memory_of);
    return line;
}

/* ---- the table --------------------------------------------------------------------------------
 */

static int widest(const struct rank_line *line, int n_ranks, size_t column, int least) {
    int most = least;
    for (int rank = 0; rank < n_ranks; rank++) {
        int width = (int)strlen((const char *)&line[rank] + column);
        if (width > most) most = width;
    }
    return most;
}

const char *report_share(char out[REPORT_SHARE_BYTES], const struct layout *layout, int n_kv_heads,
                         int rank) {
    if (rank < layout->model_ranks) {
        snprintf(out, REPORT_SHARE_BYTES, layout->attention_ranks ? "weights" : "weights and KV");
        return out;
    }
    int index = rank - layout->model_ranks, n;
    struct head_share heads = layout_heads(layout, n_kv_heads, index % layout->heads);
    if (heads.n == 1) {
        n = snprintf(out, REPORT_SHARE_BYTES, "KV head %d", heads.first);
    } else {
        n = snprintf(out, REPORT_SHARE_BYTES, "KV heads %d-%d", heads.first,
                     heads.first + heads.n - 1);
    }
    if (layout->sequences > 1)
        snprintf(out + n, REPORT_SHARE_BYTES - (size_t)n, ", sequences of owner %d",
                 index / layout->heads);
    return out;
}

static void print_table(const struct report_run *run, const struct rank_line *line) {
    int n_ranks = run->topology->n_ranks;
    int host = widest(line, n_ranks, offsetof(struct rank_line, host), 4);
    int device = widest(line, n_ranks, offsetof(struct rank_line, device), 6);
    int threads = widest(line, n_ranks, offsetof(struct rank_line, threads), 7);
    log_note("%4s  %-9s  %-*s  %-*s  %5s  %-*s  %10s  %9s  %s", "rank", "role", host, "host",
             device, "device", "cores", threads, "threads", "memory", "KV tokens", "holds");
    for (int rank = 0; rank < n_ranks; rank++) {
        const struct rank_line *at = &line[rank];
        char memory[PROGRESS_TEXT_BYTES], tokens[24] = "-", share[REPORT_SHARE_BYTES];
        if (at->page_bytes > 0)
            snprintf(tokens, sizeof tokens, "%lld", (long long)run->limits->n_pages * PAGE_TOKENS);
        log_note("%4d  %-9s  %-*s  %-*s  %5d  %-*s  %10s  %9s  %s", rank,
                 role_name((enum role)at->role), host, at->host, device, at->device, at->n_cpus,
                 threads, at->threads, progress_size(memory, at->memory_bytes), tokens,
                 report_share(share, &run->topology->layout, run->service->n_kv_heads, rank));
    }
}

/* The numbers of set bits, as "1-3, 5". */
static const char *name_bits(char out[256], uint64_t bits) {
    int n = 0;
    for (int first = 0, end; first < 64; first = end + 1) {
        for (end = first; end < 64 && bits >> end & 1;)
            end++;
        const char *comma = n > 0 ? ", " : "";
        if (end == first + 1) n += snprintf(out + n, 256 - (size_t)n, "%s%d", comma, first);
        if (end > first + 1)
            n += snprintf(out + n, 256 - (size_t)n, "%s%d-%d", comma, first, end - 1);
    }
    return out;
}

static void say_place(int rank, const struct rank_line *line) {
    const struct device_place *place = &line->place;
    char node[16] = "unknown", others[256];
    if (!place->bus[0]) return;
    if (line->device_node >= 0) snprintf(node, sizeof node, "%d", line->device_node);
    log_note("rank %d: GPU %d at %s, NUMA node %s; %s%s", rank, place->index, place->bus, node,
             place->n_visible == 1 ? "it sees no other GPU"
             : place->links        ? "NVLink to GPUs "
                                   : "no NVLink to the other GPUs it sees",
             place->links ? name_bits(others, place->links) : "");
}

/* ---- the choices ------------------------------------------------------------------------------
 */

static const char *given(bool asked, const char *option, const char *otherwise) {
    return asked ? option : otherwise;
}

static void say_layout(const struct report_run *run) {
    const struct options *options = run->options;
    const struct layout *layout = &run->topology->layout;
    int a = layout->model_ranks, b = layout->attention_ranks;
    bool roles = options->role != ROLE_WISH_AUTO;
    bool asked = options->model_ranks >= 0 || options->attention_ranks >= 0;
    log_note("layout: %d model + %d attention = %d rank%s%s (%s)", a, b, a + b,
             a + b == 1 ? "" : "s", b ? "" : ", colocated",
             roles   ? "--role"
             : asked ? "--model-ranks, --attention-ranks"
             : b     ? "default: one model rank, the rest attention"
                     : "default of one rank");
    if (b == 0) return;
    log_note("partition: heads=%d,sequences=%d: %d x %d = %d attention rank%s; %d KV heads (%s)",
             layout->heads, layout->sequences, layout->heads, layout->sequences, b,
             b == 1 ? "" : "s", run->service->n_kv_heads,
             given(options->heads >= 0 || options->sequences >= 0, "--partition",
                   "default: as many heads as divide, then sequences"));
}

static void say_batch(const struct report_run *run) {
    const struct options *options = run->options;
    const struct batch_limits *limits = run->limits;
    bool colocated = run->topology->layout.attention_ranks == 0;
    log_note("slots: %d (%s)", limits->n_slots,
             given(options->slots > 0, "--slots",
                   colocated ? "default of one rank"
                             : "default: one is computed while the other is attended to"));
    log_note(
        "max-batch: %d sequences a slot (%s)", limits->max_batch,
        given(options->max_batch > 0, "--max-batch",
              limits->max_batch == options->max_rows ? "as --max-rows has room for" : "default"));
    log_note("max-rows: %d rows a slot and step (%s)", limits->max_rows,
             given(options->max_rows > 0, "--max-rows",
                   "default: the batch, and a chunk of prompt beside it"));
    log_note("context: %d tokens (%s)", limits->context,
             given(options->context > 0, "--context", "the model's"));
    log_note("kv-type: %s", kv_type_name(options->kv_type));
}

static void say_kv(const struct report_run *run) {
    const struct options *options = run->options;
    const struct batch_limits *limits = run->limits;
    int64_t pages = limits->n_pages, tokens = pages * PAGE_TOKENS;
    const char *why = "what the rank with the least memory has room for";
    if (options->kv_tokens >= 0) {
        why = "--kv-tokens";
    } else if (pages == budget_most_pages(limits)) {
        why = "all that slots x max-batch sequences of full length can use";
    } else if (options->kv_memory >= 0) {
        why = "--kv-memory";
    }
    log_note(
        "KV budget: %lld pages of %d tokens = %lld tokens an owner, %lld in all over %d owner%s "
        "(%s)",
        (long long)pages, PAGE_TOKENS, (long long)tokens, (long long)tokens * limits->n_owners,
        limits->n_owners, limits->n_owners == 1 ? "" : "s", why);
}

/* The ranks that use the device of `first`, once, where they are several. */
static void say_sharing(const struct rank_line *line, int n_ranks, int first) {
    char ranks[256];
    int n = snprintf(ranks, sizeof ranks, "%d", first), last = -1;
    for (int rank = 0; rank < n_ranks; rank++) {
        if (strcmp(line[rank].device_id, line[first].device_id) != 0) continue;
        if (rank < first) return;
        if (last > first && n < (int)sizeof ranks)
            n += snprintf(ranks + n, sizeof ranks - (size_t)n, ", %d", last);
        last = rank;
    }
    if (last == first) return;
    log_note("devices: ranks %s and %d share %.*s and its memory", ranks, last,
             (int)strcspn(line[first].device, ","), line[first].device);
}

/* What a wire does, and where the choice was ours, what it was made by. */
static const char *wire_why(const struct report_run *run, const struct rank_line *line) {
    if (strcmp(run->wire, wire_device.name) == 0)
        return "every rank has a GPU of its own on this host: kernels write into each other's "
               "memory";
    if (strcmp(run->wire, wire_nccl.name) == 0)
        return "every rank has a GPU of its own: NCCL's sends and receives beside compute";
    static const char *const of_mpi[2][2] = {
        {"values are in host memory; not driven while computing",
         "values are in host memory; driven while computing"},
        {"values of GPUs pass through pinned memory; not driven while computing",
         "values of GPUs pass through pinned memory; driven while computing"},
    };
    bool gpu = false;
    for (int rank = 0; rank < run->topology->n_ranks; rank++)
        gpu = gpu || line[rank].device_id[0];
    return of_mpi[gpu][run->options->wire_progress];
}

static void say_wire(const struct report_run *run, const struct rank_line *line) {
    if (!run->wire) {
        log_note("wire: none (colocated)");
        log_note("prefill: on the model rank, which holds the KV cache");
        return;
    }
    log_note("wire: %s (%s%s)", run->wire, run->options->wire == WIRE_WISH_AUTO ? "" : "--wire; ",
             wire_why(run, line));
    for (int rank = 0; rank < run->topology->n_ranks; rank++)
        if (line[rank].device_id[0]) say_sharing(line, run->topology->n_ranks, rank);
    log_note("q-first: %s", run->options->q_first ? "on" : "off");
    log_note("prefill: on the attention ranks, chunk by chunk (the only way built)");
}

static bool same_threads(const struct rank_line *a, const struct rank_line *b) {
    return a->n_threads == b->n_threads && a->n_cpus == b->n_cpus && a->n_sharing == b->n_sharing &&
           a->n_host_cpus == b->n_host_cpus && strcmp(a->threads_from, b->threads_from) == 0;
}

static bool same_memory(const struct rank_line *a, const struct rank_line *b) {
    return a->n_memory_sharing == b->n_memory_sharing &&
           strcmp(a->memory_from, b->memory_from) == 0;
}

/* Ranks first..last that the line speaks of. */
static const char *name_ranks(char out[32], int first, int last) {
    if (first == last) {
        snprintf(out, 32, "rank %d", first);
    } else {
        snprintf(out, 32, "ranks %d-%d", first, last);
    }
    return out;
}

static void say_threads(const struct rank_line *line, int n_ranks) {
    char ranks[32];
    for (int first = 0, end; first < n_ranks; first = end) {
        const struct rank_line *at = &line[first];
        for (end = first + 1; end < n_ranks && same_threads(at, &line[end]);)
            end++;
        name_ranks(ranks, first, end - 1);
        if (strcmp(at->threads_from, "affinity") == 0) {
            log_note("threads: %s: %d each (affinity mask of %d cores of %d, shared by %d rank%s)",
                     ranks, at->n_threads, at->n_cpus, at->n_host_cpus, at->n_sharing,
                     at->n_sharing == 1 ? "" : "s");
        } else {
            log_note("threads: %s: %d each (%s)", ranks, at->n_threads, at->threads_from);
        }
    }
}

/* How a rank's memory was reached. */
static const char *memory_why(char out[112], const struct rank_line *line) {
    if (strcmp(line->memory_from, "SLURM_MEM_PER_CPU") == 0) {
        snprintf(out, 112, "%s x threads, less a tenth", line->memory_from);
    } else {
        snprintf(out, 112, "%s, over %d rank%s of the %s, less a tenth", line->memory_from,
                 line->n_memory_sharing, line->n_memory_sharing == 1 ? "" : "s", line->memory_of);
    }
    return out;
}

static void say_memory(const struct rank_line *line, int n_ranks) {
    char ranks[32], why[112], may[PROGRESS_TEXT_BYTES], weights[PROGRESS_TEXT_BYTES],
        work[PROGRESS_TEXT_BYTES];
    for (int first = 0, end; first < n_ranks; first = end) {
        const struct rank_line *at = &line[first];
        for (end = first + 1; end < n_ranks && same_memory(at, &line[end]) &&
                              at->weight_bytes == line[end].weight_bytes;)
            end++;
        log_note("memory: %s: %s each (%s); weights %s, activations and messages %s",
                 name_ranks(ranks, first, end - 1), progress_size(may, at->memory_bytes),
                 memory_why(why, at), progress_size(weights, at->weight_bytes),
                 progress_size(work, at->work_bytes));
    }
}

void report_start(const struct report_run *run) {
    int n_ranks = run->topology->n_ranks;
    struct rank_line mine = describe_rank(run);
    struct rank_line *line = check_alloc((size_t)n_ranks, sizeof *line);
    topology_collect(run->topology, &mine, sizeof mine, line, "who is where",
                     run->options->deadline_s);
    if (run->topology->leader) {
        log_note("model: %s", run->model);
        print_table(run, line);
        for (int rank = 0; rank < n_ranks; rank++)
            say_place(rank, &line[rank]);
        say_layout(run);
        say_batch(run);
        say_kv(run);
        say_wire(run, line);
        say_threads(line, n_ranks);
        say_memory(line, n_ranks);
    }
    free(line);
}
