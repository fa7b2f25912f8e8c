/* bench_attention.c - `lamina bench attention`: the operator attend by itself, on one rank.
 *
 * Every sequence has one row, as in decoding, which attends over --length positions that lie in the
 * cache; pages of the sequences are mixed, as they are when these grow side by side. The cache has
 * as many layers as it takes to be larger than --footprint, and each call takes the next, so that
 * nothing is found in a processor's caches that a decode step would not find there. What is timed
 * is a walk through all layers, or several: as in a step the calls of up to RUN_LAYERS of them
 * stand in one run, which a device that keeps runs replays, so that launching does not count twice.
 * The ceiling is a streaming read of as many bytes, taken from as much memory, also back to back.
 */
#include <math.h>
#include <stdlib.h>

#include "bench.h"
#include "bench_parts.h"
#include "kv.h"

enum column {
    BATCH,
    LENGTH,
    SHORTEST,
    LONGEST,
    TIME,
    LEAST,
    MOST,
    CALLS,
    REPLAYED,
    KV_BYTES,
    RATE,
    READ,
    COPY,
    RATIO,
    COLUMNS
};
static const struct sheet_column columns[COLUMNS] = {
    [BATCH] = {"batch", SHEET_WHOLE, 0},       [LENGTH] = {"length", SHEET_WHOLE, 0},
    [SHORTEST] = {"shortest", SHEET_WHOLE, 0}, [LONGEST] = {"longest", SHEET_WHOLE, 0},
    [TIME] = {"time_us", SHEET_REAL, 2},       [LEAST] = {"min_us", SHEET_REAL, 2},
    [MOST] = {"max_us", SHEET_REAL, 2},        [CALLS] = {"calls", SHEET_WHOLE, 0},
    [REPLAYED] = {"replayed", SHEET_WHOLE, 0}, [KV_BYTES] = {"kv_bytes", SHEET_WHOLE, 0},
    [RATE] = {"GB_per_s", SHEET_REAL, 2},      [READ] = {"read_GB_per_s", SHEET_REAL, 2},
    [COPY] = {"copy_GB_per_s", SHEET_REAL, 2}, [RATIO] = {"ratio", SHEET_REAL, 3},
};

/* Heads of the model, or as typed, or Llama 3 8B's. */
static struct attend_shape find_shape(struct run *run, struct fault *fault) {
    const struct options *options = run->options;
    int heads = options->n_heads > 0 ? options->n_heads : 32;
    int kv_heads = options->n_kv_heads > 0 ? options->n_kv_heads : 8;
    int head_dim = options->head_dim > 0 ? options->head_dim : 128;
    if (options->model &&
        source_open(&run->source, &run->model, options->model, options->seed, fault)) {
        heads = run->model.n_heads;
        kv_heads = run->model.n_kv_heads;
        head_dim = run->model.head_dim;
    }
    if (heads % kv_heads != 0)
        fault_user(fault, "--heads %d is not a multiple of --kv-heads %d", heads, kv_heads);
    return (struct attend_shape){.n_heads = heads,
                                 .n_kv_heads = kv_heads,
                                 .head_dim = head_dim,
                                 .scale = 1 / sqrtf((float)head_dim)};
}

/* One point, opened. */
struct point {
    int batch, length; /* of all sequences, the mean */
    int ragged;        /* as bench_lengths' spread */
    int n_pages, shortest, longest;
    int first_run;      /* the names of its runs begin here */
    int32_t *length_of; /* (batch) */
    struct rows rows;
    struct chunk *chunk;
    int32_t *page, *id, *position, *sequence;
    struct kv_cache cache;
    struct value q, out;
};

/* Of a layer of a point's cache; not an integer before it is known to fit into memory. */
static double layer_bytes(const struct run *run, const struct attend_shape *shape, double n_pages) {
    return n_pages * shape->n_kv_heads * 2 * PAGE_TOKENS * shape->head_dim *
           (double)element_bytes(kv_element(run->options->kv_type));
}

static void open_lengths(struct point *point, uint64_t seed) {
    point->length_of = check_alloc((size_t)point->batch, sizeof *point->length_of);
    bench_lengths(point->length_of, point->batch, point->length, point->ragged, seed);
    point->shortest = point->longest = point->length_of[0];
    for (int row = 0; row < point->batch; row++) {
        int length = point->length_of[row];
        point->n_pages += kv_pages_for(length);
        point->shortest = length < point->shortest ? length : point->shortest;
        point->longest = length > point->longest ? length : point->longest;
    }
}

/* Page `at` of a sequence is dealt to all sequences that have it before the next one is. */
static void deal_pages(struct point *point) {
    int32_t next = 0;
    for (int at = 0; at < kv_pages_for(point->longest); at++) {
        int32_t *page = point->page;
        for (int row = 0; row < point->batch; row++) {
            int n = kv_pages_for(point->length_of[row]);
            if (at < n) page[at] = next++;
            page += n;
        }
    }
}

static void open_rows(struct point *point) {
    size_t batch = (size_t)point->batch;
    point->chunk = check_alloc(batch, sizeof *point->chunk);
    point->page = check_alloc((size_t)point->n_pages, sizeof *point->page);
    point->id = check_alloc(batch, sizeof *point->id);
    point->position = check_alloc(batch, sizeof *point->position);
    point->sequence = check_alloc(batch, sizeof *point->sequence);
    deal_pages(point);
    const int32_t *page = point->page;
    for (int row = 0; row < point->batch; row++) {
        int last = point->length_of[row] - 1;
        point->position[row] = last;
        point->sequence[row] = row;
        point->chunk[row] = (struct chunk){row, 1, last, page};
        page += kv_pages_for(last + 1);
    }
    point->rows = (struct rows){.n_rows = point->batch,
                                .id = point->id,
                                .position = point->position,
                                .sequence = point->sequence,
                                .n_chunks = point->batch,
                                .chunk = point->chunk};
}

/* Rows of the largest point: a device that keeps runs may compute some more than it was given. */
static struct value open_value(struct run *run, int columns_of) {
    enum element element = run->device_ops->activation;
    int64_t rows = bench_largest(&run->options->batch);
    size_t n_bytes = ((size_t)rows * (size_t)columns_of * element_bytes(element) + 63) / 64 * 64;
    struct value value = {.buffer = run->device_ops->alloc(run->device, n_bytes),
                          .columns = columns_of,
                          .stride = columns_of,
                          .element = element};
    bench_fill(run, value.buffer, element, "Q", n_bytes);
    return value;
}

static void open_point(struct point *point, struct run *run, const struct attend_shape *shape) {
    enum { MOST_LAYERS = 1 << 20 };
    enum element element = kv_element(run->options->kv_type);
    open_lengths(point, run->options->seed);
    size_t a_layer = (size_t)layer_bytes(run, shape, point->n_pages);
    size_t n_layers = ((size_t)run->options->footprint + a_layer - 1) / a_layer;
    if (n_layers > MOST_LAYERS) n_layers = MOST_LAYERS;
    size_t n_bytes = n_layers * a_layer;
    open_rows(point);
    point->cache = (struct kv_cache){.buffer = run->device_ops->alloc(run->device, n_bytes),
                                     .n_layers = (int)n_layers,
                                     .n_pages = point->n_pages,
                                     .n_kv_heads = shape->n_kv_heads,
                                     .head_dim = shape->head_dim,
                                     .element = element};
    bench_fill(run, point->cache.buffer, element, "KV", n_bytes);
    point->q = open_value(run, shape->n_heads * shape->head_dim);
    point->out = open_value(run, shape->n_heads * shape->head_dim);
    run->device_ops->begin(run->device, &point->rows);
}

static void close_point(struct point *point, struct run *run) {
    run->device_ops->release(run->device, point->cache.buffer);
    run->device_ops->release(run->device, point->q.buffer);
    run->device_ops->release(run->device, point->out.buffer);
    free(point->length_of);
    free(point->chunk);
    free(point->page);
    free(point->id);
    free(point->position);
    free(point->sequence);
}

enum { RUN_LAYERS = 64 };

static int n_runs(const struct point *point) {
    return (point->cache.n_layers + RUN_LAYERS - 1) / RUN_LAYERS;
}

/* A call in every layer. */
struct walk {
    struct run *run;
    const struct point *point;
    struct attend_shape shape;
    int n_replayed; /* calls of the last walk that the device made itself */
};

static void enqueue_walk(void *of) {
    struct walk *walk = of;
    const struct point *point = walk->point;
    const struct device_ops *ops = walk->run->device_ops;
    struct device *device = walk->run->device;
    int n_layers = point->cache.n_layers;
    walk->n_replayed = 0;
    for (int at = 0; at < n_runs(point); at++) {
        int first = at * RUN_LAYERS;
        int end = first + RUN_LAYERS < n_layers ? first + RUN_LAYERS : n_layers;
        if (ops->replay(device, 1u << point->rows.slot, point->first_run + at)) {
            walk->n_replayed += end - first;
            continue;
        }
        for (walk->shape.layer = first; walk->shape.layer < end; walk->shape.layer++)
            ops->attend(device, &point->rows, &point->cache, walk->shape, ATTEND_WHOLE, point->q,
                        point->out);
        ops->recorded(device);
    }
}

static void measure(struct run *run, struct point *point, struct attend_shape shape,
                    struct ceiling *ceiling, struct sheet *sheet) {
    const struct options *options = run->options;
    int repeat = options->repeat;
    double *seconds = check_alloc((size_t)repeat, sizeof *seconds);
    struct walk walk = {run, point, shape, 0};
    struct work work = {enqueue_walk, &walk};
    int walks = bench_fit(run, work);
    for (int round = -options->warmup; round < repeat; round++) {
        double taken = bench_time(run, work, walks);
        if (round >= 0) seconds[round] = taken / point->cache.n_layers;
    }
    struct spread spread = bench_spread(seconds, repeat);
    free(seconds);
    size_t kv_bytes = (size_t)point->batch * (size_t)point->length * (size_t)shape.n_kv_heads * 2 *
                      (size_t)shape.head_dim * element_bytes(point->cache.element);
    size_t a_read = (kv_bytes + 63) / 64 * 64;
    double read =
        bench_ceiling_read(ceiling, a_read < ceiling->n_bytes ? a_read : ceiling->n_bytes);
    double rate = (double)kv_bytes / spread.median;
    sheet_row(sheet, (struct sheet_value[COLUMNS]){
                         [BATCH] = {.whole = point->batch},
                         [LENGTH] = {.whole = point->length},
                         [SHORTEST] = {.whole = point->shortest},
                         [LONGEST] = {.whole = point->longest},
                         [TIME] = {.real = spread.median * 1e6},
                         [LEAST] = {.real = spread.least * 1e6},
                         [MOST] = {.real = spread.most * 1e6},
                         [CALLS] = {.whole = (int64_t)walks * point->cache.n_layers},
                         [REPLAYED] = {.whole = (int64_t)walks * walk.n_replayed},
                         [KV_BYTES] = {.whole = (int64_t)kv_bytes},
                         [RATE] = {.real = rate * 1e-9},
                         [READ] = {.real = read * 1e-9},
                         [COPY] = {.real = ceiling->copy_bytes_per_s * 1e-9},
                         [RATIO] = {.real = rate / read},
                     });
}

/* Sizes of the largest point. False with the user's fault when this rank may not use that much. */
static bool size_device(const struct run *run, const struct attend_shape *shape,
                        struct device_limits *limits, struct fault *fault) {
    const struct options *options = run->options;
    const struct device_options device = {.n_threads = run->resources.n_threads};
    int64_t batch = bench_largest(&options->batch), length = bench_largest(&options->length);
    *limits = (struct device_limits){.n_slots = 1,
                                     .max_rows = (int)batch,
                                     .max_sequences = (int)batch,
                                     .context = (int)length * options->ragged,
                                     .n_heads = shape->n_heads,
                                     .n_kv_heads = shape->n_kv_heads,
                                     .head_dim = shape->head_dim};
    double most_pages = (double)batch * (kv_pages_for((int)length) + (options->ragged > 1));
    double n_bytes = layer_bytes(run, shape, most_pages) + 2 * (double)options->footprint +
                     (double)run->device_ops->prepare_bytes(&device, limits);
    return n_bytes <= (double)run->resources.memory_bytes ||
           fault_user(fault,
                      "--batch %lld --length %lld takes %.0f MiB with the memory ceiling, and "
                      "there are %lld MiB (%s)",
                      (long long)batch, (long long)length, n_bytes / (1 << 20),
                      (long long)run->resources.memory_bytes >> 20, run->resources.memory_from);
}

static void measure_all(struct run *run, const struct attend_shape *shape, struct sheet *sheet,
                        struct fault *fault) {
    const struct options *options = run->options;
    struct device_limits limits;
    struct ceiling ceiling;
    if (!size_device(run, shape, &limits, fault) ||
        !bench_ceiling_open(&ceiling, run, (size_t)options->footprint / 64 * 64, fault))
        return;
    run->device_ops->prepare(run->device, &limits);
    sheet_fact(sheet, "heads", "%d on %d KV heads of %d, %s", shape->n_heads, shape->n_kv_heads,
               shape->head_dim, kv_type_name(options->kv_type));
    double read = bench_ceiling_read(&ceiling, ceiling.n_bytes);
    sheet_fact(sheet, "footprint", "%zu bytes, read at %.2f GB/s (%s), copied at %.2f GB/s",
               ceiling.n_bytes, read * 1e-9, run->device_ops->read_ways[ceiling.way],
               ceiling.copy_bytes_per_s * 1e-9);
    int kinds = options->ragged > 1 ? 2 : 1; /* uniform, ragged */
    int first_run = 0;                       /* other memory makes another run of the same rows */
    for (int at = 0; at < options->batch.n * options->length.n * kinds; at++) {
        struct point point = {
            .batch = (int)options->batch.value[at / kinds / options->length.n],
            .length = (int)options->length.value[at / kinds % options->length.n],
            .ragged = at % kinds ? options->ragged : 1,
            .first_run = first_run,
        };
        open_point(&point, run, shape);
        first_run += n_runs(&point);
        measure(run, &point, *shape, &ceiling, sheet);
        close_point(&point, run);
    }
    bench_ceiling_close(&ceiling);
}

int bench_attention_run(const struct options *options, uint64_t options_hash) {
    struct run run = {.options = options};
    struct fault fault = {0};
    struct sheet *sheet = NULL;
    if (!compose_ranks(&run, options_hash, &fault)) return (int)fault.kind;
    if (run.topology.n_ranks > 1)
        fault_user(&fault, "bench attention runs on one rank, here are %d", run.topology.n_ranks);
    struct attend_shape shape = {0};
    if (fault.kind == FAULT_NONE) shape = find_shape(&run, &fault);
    if (fault.kind == FAULT_NONE && compose_device(&run, &fault) &&
        bench_open_sheet(&run, &sheet, columns, COLUMNS, &fault)) {
        bench_tell(&run, sheet);
        measure_all(&run, &shape, sheet, &fault);
    }
    return bench_end(&run, sheet, EXIT_DONE, &fault);
}
