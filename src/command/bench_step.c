/* bench_step.c - `lamina bench step`: the time of a full-batch decode step, in the loop that
 * generate uses.
 *
 * Composes what generate composes but its text side: in the desk's place a list hands out sequences
 * whose first --length tokens are taken to be in the cache, which is filled with made-up K and V.
 * So headers, books, messages and sampling are measured; reading, detokenising and writing, which
 * the desk's thread does beside the loop, are not. A slot's step lasts from its end to that of its
 * step before; in that time each slot makes one.
 *
 * A step must read the weights once a slot, but of the embedding only the rows of its tokens, and K
 * and V of every sequence: these bytes over its time are compared with what streaming reads get,
 * all ranks at once, added up.
 *
 * With attention ranks each rank also measures how long its compute stood still for messages. The
 * rest of its time is work, T_m on a model rank and T_a on an attention rank for each slot and
 * layer; the head and the sampling are spread into T_m. If nothing but the slower of the two were
 * left, a step of all slots would make batch / (layers x max(T_m, T_a)) tokens a second: the ideal.
 *
 * What the host adds is measured beside it: the CPU time of the leader's decoding thread, less what
 * it spun in waits for its device, and the part of the time in which the device had ended one step
 * and not begun the next. The latter is of layouts without attention ranks alone: elsewhere a
 * device does the work of one slot between two steps of another.
 */
#include <math.h>
#include <stdlib.h>

#include "bench.h"
#include "bench_parts.h"
#include "clock.h"
#include "log.h"

enum column {
    BATCH,
    LENGTH,
    STEP,
    P10,
    P90,
    RATE,
    WEIGHTS,
    KV,
    BYTE_RATE,
    READ,
    COPY,
    RATIO,
    HOST,
    IDLE,
    MODEL,
    ATTENTION,
    OF_IDEAL,
    COLUMNS
};
static const struct sheet_column columns[COLUMNS] = {
    [BATCH] = {"batch", SHEET_WHOLE, 0},
    [LENGTH] = {"length", SHEET_WHOLE, 0},
    [STEP] = {"step_ms", SHEET_REAL, 3},
    [P10] = {"p10_ms", SHEET_REAL, 3},
    [P90] = {"p90_ms", SHEET_REAL, 3},
    [RATE] = {"tok_per_s", SHEET_REAL, 1},
    [WEIGHTS] = {"weight_bytes", SHEET_WHOLE, 0},
    [KV] = {"kv_bytes", SHEET_WHOLE, 0},
    [BYTE_RATE] = {"GB_per_s", SHEET_REAL, 2},
    [READ] = {"read_GB_per_s", SHEET_REAL, 2},
    [COPY] = {"copy_GB_per_s", SHEET_REAL, 2},
    [RATIO] = {"ratio", SHEET_REAL, 3},
    [HOST] = {"host_us", SHEET_REAL, 1},
    [IDLE] = {"idle", SHEET_REAL, 4},
    [MODEL] = {"model_us", SHEET_REAL, 2},
    [ATTENTION] = {"attention_us", SHEET_REAL, 2},
    [OF_IDEAL] = {"of_ideal", SHEET_REAL, 3},
};

static int n_steps(const struct options *options) {
    return options->warmup + options->repeat;
}

/* ---- the supply: as many sequences as fill all slots ------------------------------------------
 */

struct sequences {
    int n, next;
    struct generation *generation; /* (n) */
};

static void open_sequences(struct sequences *sequences, const struct run *run, int batch,
                           int length) {
    int max_new = n_steps(run->options);
    uint64_t random = run->options->seed;
    sequences->n = batch * run->limits.n_slots;
    sequences->generation = check_alloc((size_t)sequences->n, sizeof *sequences->generation);
    for (int at = 0; at < sequences->n; at++) {
        struct generation *generation = &sequences->generation[at];
        generation->n_prompt = length + 1;
        generation->n_cached = length;
        generation->n_tokens = length + 1;
        generation->max_new = max_new;
        generation->sampling =
            (struct sampling){.top_p = 1, .repetition_penalty = 1, .n_logprobs = -1};
        generation->token = check_alloc((size_t)(length + 1 + max_new), sizeof *generation->token);
        for (int token = 0; token <= length; token++) { /* Knuth's MMIX generator */
            random = random * 6364136223846793005u + 1442695040888963407u;
            generation->token[token] = (int32_t)((random >> 33) % (uint64_t)run->model.vocabulary);
        }
    }
}

static void close_sequences(struct sequences *sequences) {
    for (int at = 0; at < sequences->n; at++)
        free(sequences->generation[at].token);
    free(sequences->generation);
}

static struct generation *supply_next(void *of) {
    struct sequences *sequences = of;
    return sequences->next < sequences->n ? &sequences->generation[sequences->next++] : NULL;
}

static bool supply_exhausted(void *of) {
    const struct sequences *sequences = of;
    return sequences->next == sequences->n;
}

static int64_t supply_n_ready(void *of) {
    const struct sequences *sequences = of;
    return sequences->n - sequences->next;
}

static void supply_poke(void *of) {
    (void)of;
}

static void supply_wait(void *of, double seconds) {
    (void)of, (void)seconds;
}

/* ---- a point ----------------------------------------------------------------------------------
 */

/* What memory gives, bytes a second. */
struct rates {
    double read, copy;
};

/* The end of a step: when, and what thread, device and wire have spent until then. */
struct end {
    int64_t at_ns, thread_ns;
    double stood_still_s; /* NAN where it cannot be told */
    struct device_times device;
};

/* Of each step of each slot; slots take turns. */
struct ends {
    const struct run *run;
    int n, most;
    struct end *end; /* (most) */
};

static double stood_still_s(const struct run *run) {
    double sum = run->wire ? 0 : NAN;
    for (int message = MESSAGE_Q; message <= MESSAGE_OUT && run->wire; message++) {
        double seconds = run->wire_ops->waited(run->wire, (enum message)message);
        sum += seconds < 0 ? NAN : seconds;
    }
    return sum;
}

static void note_end(void *argument) {
    struct ends *ends = argument;
    const struct run *run = ends->run;
    if (ends->n == ends->most) return;
    ends->end[ends->n++] = (struct end){.at_ns = clock_now_ns(),
                                        .thread_ns = clock_thread_ns(),
                                        .stood_still_s = stood_still_s(run),
                                        .device = run->device_ops->times(run->device)};
}

static int64_t bytes_of(const struct run *run, const struct graph_weight *weight) {
    return (int64_t)weights_bytes_of(weight, &run->source, run->device_ops);
}

/* Bytes that the device reads of the weights in one step of a slot. */
static int64_t weight_bytes(const struct run *run, int batch) {
    const struct graph *graph = &run->graph;
    bool *whole = check_alloc((size_t)graph->n_weights, sizeof *whole);
    int64_t n_bytes = 0;
    for (int at = 0; at < graph->n_nodes; at++) {
        const struct node *node = &graph->node[at];
        if (node->op != OP_EMBED && node->weight >= 0) whole[node->weight] = true;
        if (node->bias >= 0) whole[node->bias] = true;
    }
    for (int at = 0; at < graph->n_nodes; at++) {
        const struct node *node = &graph->node[at];
        if (node->op != OP_EMBED || whole[node->weight]) continue;
        const struct graph_weight *table = &graph->weight[node->weight];
        n_bytes += bytes_of(run, table) / table->rows * batch;
    }
    for (int at = 0; at < graph->n_weights; at++) {
        if (whole[at]) n_bytes += bytes_of(run, &graph->weight[at]);
    }
    free(whole);
    return n_bytes;
}

/* Of K and V of one slot, in the mean of the measured steps: at step s a row sees length + s + 1
 * positions. */
static double kv_bytes(const struct run *run, int batch, int length) {
    const struct options *options = run->options;
    double positions = length + 1 + options->warmup + (options->repeat - 1) / 2.0;
    return batch * positions * run->service.n_layers * run->service.n_kv_heads * 2 *
           run->service.head_dim * (double)element_bytes(kv_element(options->kv_type));
}

/* Microseconds of the leader's thread in each of the `n` steps from one end to another. */
static double host_us(const struct end *from, const struct end *to, int n) {
    int64_t waited_ns = to->device.waited_ns - from->device.waited_ns;
    return (double)(to->thread_ns - from->thread_ns - waited_ns) * 1e-3 / n;
}

/* NAN where it cannot be told. */
static double idle_part(const struct run *run, const struct end *from, const struct end *to) {
    if (run->topology.layout.attention_ranks > 0 || to->device.idle_ns < 0) return NAN;
    return (double)(to->device.idle_ns - from->device.idle_ns) / (double)(to->at_ns - from->at_ns);
}

/* Measured steps of all slots, and the ends they lie between. */
struct window {
    int n;
    const struct end *from, *to;
};

static struct window measured(const struct run *run, const struct ends *ends) {
    int n_slots = run->limits.n_slots, n = run->options->repeat * n_slots;
    const struct end *from = &ends->end[(run->options->warmup + 1) * n_slots - 1];
    return (struct window){n, from, from + n};
}

/* Seconds of work for a slot and layer, of the slowest rank of each role. */
struct worked {
    double model_s, attention_s;
};

/* Collective; the leader's result. */
static struct worked find_work(struct run *run, const struct ends *ends) {
    const struct topology *topology = &run->topology;
    struct window window = measured(run, ends);
    double all_s = (double)(window.to->at_ns - window.from->at_ns) * 1e-9;
    double mine = (all_s - (window.to->stood_still_s - window.from->stood_still_s)) /
                  (window.n * run->service.n_layers);
    double *of = check_alloc((size_t)topology->n_ranks, sizeof *of);
    struct worked work = {NAN, NAN};
    topology_collect(topology, &mine, sizeof mine, of, "times of work", run->options->deadline_s);
    for (int rank = 0; topology->leader && run->wire && rank < topology->n_ranks; rank++) {
        double *slowest = rank < topology->layout.model_ranks ? &work.model_s : &work.attention_s;
        *slowest = isnan(*slowest) || of[rank] > *slowest ? of[rank] : *slowest;
    }
    free(of);
    return work;
}

/* The leader's: a row of the sheet. */
static void put_row(struct run *run, const struct ends *ends, int batch, int length,
                    struct rates limits, struct worked work, struct sheet *sheet) {
    const struct options *options = run->options;
    int n_slots = run->limits.n_slots, first = options->warmup * n_slots;
    int n = options->repeat * n_slots;
    double *seconds = check_alloc((size_t)n, sizeof *seconds);
    for (int at = 0; at < n; at++) /* behind the entries of the beginning */
        seconds[at] =
            (double)(ends->end[n_slots + first + at].at_ns - ends->end[first + at].at_ns) * 1e-9;
    struct window window = measured(run, ends);
    struct spread spread = bench_spread(seconds, n);
    free(seconds);
    double weights = (double)weight_bytes(run, batch) * n_slots;
    double kv = kv_bytes(run, batch, length) * n_slots;
    double rate = (weights + kv) / spread.median;
    double ideal = batch / (run->service.n_layers * fmax(work.model_s, work.attention_s));
    double mean = batch * n / ((double)(window.to->at_ns - window.from->at_ns) * 1e-9);
    sheet_row(sheet, (struct sheet_value[COLUMNS]){
                         [BATCH] = {.whole = batch},
                         [LENGTH] = {.whole = length},
                         [STEP] = {.real = spread.median * 1e3},
                         [P10] = {.real = spread.p10 * 1e3},
                         [P90] = {.real = spread.p90 * 1e3},
                         [RATE] = {.real = batch * n_slots / spread.median},
                         [WEIGHTS] = {.whole = (int64_t)weights},
                         [KV] = {.whole = llround(kv)},
                         [BYTE_RATE] = {.real = rate * 1e-9},
                         [READ] = {.real = limits.read * 1e-9},
                         [COPY] = {.real = limits.copy * 1e-9},
                         [RATIO] = {.real = rate / limits.read},
                         [HOST] = {.real = host_us(window.from, window.to, n)},
                         [IDLE] = {.real = idle_part(run, window.from, window.to)},
                         [MODEL] = {.real = work.model_s * 1e6},
                         [ATTENTION] = {.real = work.attention_s * 1e6},
                         [OF_IDEAL] = {.real = mean / ideal},
                     });
}

static void measure(struct run *run, int batch, int length, struct rates limits,
                    struct sheet *sheet) {
    static const volatile sig_atomic_t never;
    int n_slots = run->limits.n_slots, steps = n_steps(run->options);
    struct sequences sequences = {0};
    struct supply supply = {supply_next, supply_exhausted, supply_n_ready,
                            supply_poke, supply_wait,      &sequences};
    struct ends ends = {.run = run, .most = n_slots * (steps + 1)};
    struct fault fault = {0};
    bool leader = run->topology.leader;
    ends.end = check_alloc((size_t)ends.most, sizeof *ends.end);
    if (leader) open_sequences(&sequences, run, batch, length);
    compose_decode(run, &supply, &never, note_end, &ends);
    decode_fill_cache(run->decode, run->options->seed, run->resources.n_threads);
    compose_agree(run, &fault, "filling of the caches");
    for (int slot = 0; slot < n_slots; slot++)
        note_end(&ends); /* the beginning */
    decode_run(run->decode);
    struct worked work = find_work(run, &ends);
    if (leader) {
        struct batch_counts counts = batch_counts(run->batch);
        REQUIRE(counts.n_rows == (int64_t)steps * n_slots * batch &&
                    counts.n_steps == (int64_t)steps * n_slots && ends.n == ends.most,
                "%lld rows in %lld steps are not %d full ones", (long long)counts.n_rows,
                (long long)counts.n_steps, steps * n_slots);
        put_row(run, &ends, batch, length, limits, work, sheet);
    }
    compose_close_decode(run);
    close_sequences(&sequences);
    free(ends.end);
}

/* ---- all points -------------------------------------------------------------------------------
 */

/* What generate would have to be told to have room for the largest point. A page more for each
 * sequence, which the books set apart before they admit the next. */
static struct options size_options(const struct options *options) {
    struct options sized = *options;
    sized.max_batch = sized.max_rows = (int)bench_largest(&options->batch);
    int64_t context = bench_largest(&options->length) + 1 + n_steps(options) + PAGE_TOKENS;
    sized.context = context < INT32_MAX ? (int)context : INT32_MAX;
    return sized;
}

/* Pages for all slots, and for an owner's share that is rounded up. */
static int64_t size_cache(const struct options *sized, const struct layout *layout) {
    int n_slots = sized->slots > 0 ? sized->slots : layout->attention_ranks ? 2 : 1;
    int64_t sequences = (int64_t)n_slots * sized->max_batch + layout->attention_ranks;
    return sequences * kv_pages_for(sized->context) * PAGE_TOKENS;
}

/* The leader looks before sizes derived from it are complained of. */
static bool check_context(struct run *run, struct fault *fault) {
    struct source source;
    struct model model;
    const struct options *options = run->options;
    if (run->topology.leader &&
        source_open(&source, &model, options->model, options->seed, fault)) {
        if (options->context > model.context)
            fault_user(fault,
                       "--length %d and %d steps take a context of %d tokens, the model has %d",
                       (int)bench_largest(&options->length), n_steps(options), options->context,
                       model.context);
        source_close(&source);
    }
    return compose_agree(run, fault, "reading of the model's context");
}

/* Of all ranks at once, added up on the leader. False with an agreed fault. */
static bool measure_ceilings(struct run *run, struct rates *sum, struct fault *fault) {
    struct ceiling ceiling = {0};
    size_t n_ranks = (size_t)run->topology.n_ranks;
    *sum = (struct rates){0};
    bench_ceiling_open(&ceiling, run, (size_t)run->options->footprint / 64 * 64, fault);
    if (!compose_agree(run, fault, "memory ceilings")) {
        bench_ceiling_close(&ceiling);
        return false;
    }
    struct rates mine = {bench_ceiling_read(&ceiling, ceiling.n_bytes), ceiling.copy_bytes_per_s};
    struct rates *all = check_alloc(n_ranks, sizeof *all);
    topology_collect(&run->topology, &mine, sizeof mine, all, "memory ceilings",
                     run->options->deadline_s * PATIENCE);
    for (size_t rank = 0; rank < n_ranks; rank++) {
        sum->read += all[rank].read;
        sum->copy += all[rank].copy;
    }
    free(all);
    bench_ceiling_close(&ceiling);
    return true;
}

static void tell_run(struct run *run, struct sheet *sheet) {
    const struct layout *layout = &run->topology.layout;
    if (!sheet) return;
    sheet_fact(sheet, "model", "%s", run->model.name);
    sheet_fact(sheet, "layout", "%d model + %d attention ranks, heads=%d,sequences=%d, %d slot%s",
               layout->model_ranks, layout->attention_ranks, layout->heads, layout->sequences,
               run->limits.n_slots, run->limits.n_slots == 1 ? "" : "s");
    sheet_fact(sheet, "kv_type", "%s, made up", kv_type_name(run->options->kv_type));
    sheet_fact(sheet, "footprint", "%lld bytes a rank", (long long)run->options->footprint);
}

static void measure_all(struct run *run, struct sheet **sheet, struct fault *fault) {
    const struct options *options = run->options;
    if (!bench_open_sheet(run, sheet, columns, COLUMNS, fault)) return;
    bench_tell(run, *sheet);
    tell_run(run, *sheet);
    struct rates limits;
    if (!measure_ceilings(run, &limits, fault)) return;
    if (*sheet) log_note("memory is measured; loading weights");
    compose_wire(run, fault);
    compose_weights(run);
    if (!compose_agree(run, fault, "loading of weights")) return;
    for (int b = 0; b < options->batch.n; b++) {
        for (int l = 0; l < options->length.n; l++)
            measure(run, (int)options->batch.value[b], (int)options->length.value[l], limits,
                    *sheet);
    }
}

int bench_step_run(const struct options *options, uint64_t options_hash) {
    struct options sized = size_options(options);
    struct run run = {.options = &sized, .begin_ns = clock_now_ns()};
    struct fault fault = {0};
    struct sheet *sheet = NULL;
    if (!compose_ranks(&run, options_hash, &fault)) return (int)fault.kind;
    sized.kv_tokens = size_cache(&sized, &run.topology.layout);
    clock_record_open();
    if (check_context(&run, &fault) && compose_machine(&run, &fault))
        measure_all(&run, &sheet, &fault);
    int code = bench_end(&run, sheet, EXIT_DONE, &fault);
    clock_record_close();
    return code;
}
