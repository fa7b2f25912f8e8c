/* bench.c - what the benches share: the sheet's facts, the spread of measurements, and the ceiling
 * that results are compared with. See bench_parts.h.
 *
 * A ceiling is honest when the memory is larger than the caches, was written (untouched pages of a
 * CPU are all one page of zeros), and lies where the threads that read it would have put it: so it
 * is filled by the device's own copy. The read's result is compared with the host's: a read that
 * left something out would be a high ceiling, one that was compiled away an endless one.
 */
#include "bench.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_parts.h"
#include "log.h"
#include "noise.h"
#include "version.h"

/* ---- the sheet --------------------------------------------------------------------------------
 */

bool bench_open_sheet(struct run *run, struct sheet **sheet, const struct sheet_column *column,
                      int n_columns, struct fault *fault) {
    *sheet = NULL;
    if (run->topology.leader) sheet_open(sheet, run->options, column, n_columns, fault);
    return compose_agree(run, fault, "opening of the output");
}

struct rank_line {
    char role[16], host[64], device[160];
};

void bench_tell(struct run *run, struct sheet *sheet) {
    const struct topology *topology = &run->topology;
    struct rank_line mine, *line = check_alloc((size_t)topology->n_ranks, sizeof *line);
    memset(&mine, 0, sizeof mine);
    snprintf(mine.role, sizeof mine.role, "%s", role_name(topology->role));
    snprintf(mine.host, sizeof mine.host, "%s", topology->host);
    snprintf(mine.device, sizeof mine.device, "%s", run->device_ops->describe(run->device));
    topology_collect(topology, &mine, sizeof mine, line, "the ranks' devices",
                     run->options->deadline_s);
    if (sheet) {
        sheet_fact(sheet, "version", "lamina %s (%s)", LAMINA_VERSION, LAMINA_COMMIT);
        sheet_fact(sheet, "command", "lamina %s", run->options->typed);
        for (int rank = 0; rank < topology->n_ranks; rank++)
            sheet_item(sheet, "ranks", "%d %s on %s: %s", rank, line[rank].role, line[rank].host,
                       line[rank].device);
    }
    free(line);
}

int bench_end(struct run *run, struct sheet *sheet, int code, struct fault *fault) {
    bool good = fault->kind == FAULT_NONE;
    sheet_close(sheet, good, fault);
    if (!compose_agree(run, fault, "writing of the results")) {
        if (run->topology.leader) log_error("%s", fault->text);
        code = (int)fault->kind;
    }
    topology_broadcast(&run->topology, &code, sizeof code, "the end of the job",
                       run->options->deadline_s);
    compose_close(run);
    return code;
}

/* ---- numbers -----------------------------------------------------------------------------------
 */

int64_t bench_largest(const struct number_list *list) {
    int64_t most = 0;
    for (int at = 0; at < list->n; at++)
        most = list->value[at] > most ? list->value[at] : most;
    return most;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double percentile(const double *sorted, int n, double part) {
    double at = part * (n - 1);
    int below = (int)floor(at), above = below + 1 < n ? below + 1 : below;
    return sorted[below] + (at - below) * (sorted[above] - sorted[below]);
}

struct spread bench_spread(double *value, int n) {
    qsort(value, (size_t)n, sizeof *value, compare);
    return (struct spread){.median = percentile(value, n, 0.5),
                           .p10 = percentile(value, n, 0.1),
                           .p90 = percentile(value, n, 0.9),
                           .least = value[0],
                           .most = value[n - 1]};
}

/* ---- time -------------------------------------------------------------------------------------
 */

double bench_time(struct run *run, struct work work, int times) {
    run->device_ops->lap(run->device);
    for (int at = 0; at < times; at++)
        work.enqueue(work.of);
    return run->device_ops->lap(run->device) / times;
}

int bench_fit(struct run *run, struct work work) {
    enum { SEEN = 3, MOST = 10000 };
    const double enough_s = 0.01;
    double seconds = 0;
    for (int round = 0; round < SEEN; round++)
        seconds = bench_time(run, work, 1);
    return seconds * MOST <= enough_s ? MOST : (int)ceil(enough_s / seconds);
}

/* ---- memory -----------------------------------------------------------------------------------
 */

uint64_t bench_fill(struct run *run, struct buffer *buffer, enum element element, const char *name,
                    size_t n_bytes) {
    enum { PIECE = 1 << 22 }; /* numbers */
    static const enum quant stored[] = {
        [ELEMENT_F32] = QUANT_F32, [ELEMENT_F16] = QUANT_F16, [ELEMENT_BF16] = QUANT_BF16};
    size_t size = element_bytes(element), n = n_bytes / size;
    uint64_t key = noise_key(run->options->seed, name), sum = 0;
    unsigned char *piece = check_alloc(PIECE, size);
    for (size_t first = 0; first < n; first += PIECE) {
        size_t these = n - first < PIECE ? n - first : PIECE;
        noise_fill(piece, stored[element], key, 1, first, these, run->resources.n_threads);
        run->device_ops->upload(run->device, buffer, first * size, piece, these * size);
        for (size_t at = 0; at < these * size; at += sizeof sum) {
            uint64_t word;
            memcpy(&word, piece + at, sizeof word);
            sum ^= word;
        }
    }
    free(piece);
    return sum;
}

/* Best of several copies of all of `from`, whose result lies in the ceiling's buffer. */
static double best_copy(struct ceiling *ceiling, struct buffer *from) {
    const struct run *run = ceiling->run;
    int n = run->options->warmup + run->options->repeat;
    double best = INFINITY;
    for (int round = 0; round < n; round++) {
        run->device_ops->lap(run->device);
        run->device_ops->copy(run->device, ceiling->buffer, from, ceiling->n_bytes);
        best = fmin(best, run->device_ops->lap(run->device));
    }
    return 2 * (double)ceiling->n_bytes / best;
}

static void check_sum(const struct ceiling *ceiling, uint64_t expected) {
    const struct run *run = ceiling->run;
    const struct device_ops *ops = run->device_ops;
    for (int way = 0; ops->read_ways[way]; way++) {
        uint64_t found;
        ops->read_stream(run->device, way, ceiling->sum, ceiling->buffer, 0, ceiling->n_bytes);
        ops->download(run->device, &found, ceiling->sum, 0, sizeof found);
        REQUIRE(found == expected, "the streaming read found other bytes than were written (%s)",
                ops->read_ways[way]);
    }
}

bool bench_ceiling_open(struct ceiling *ceiling, struct run *run, size_t n_bytes,
                        struct fault *fault) {
    const struct device_ops *ops = run->device_ops;
    *ceiling = (struct ceiling){.run = run, .n_bytes = n_bytes};
    if (2 * (int64_t)n_bytes > run->resources.memory_bytes)
        return fault_user(fault,
                          "rank %d may use %lld MiB (%s), and the memory ceiling takes %lld MiB: a "
                          "smaller --footprint",
                          run->topology.rank, (long long)run->resources.memory_bytes >> 20,
                          run->resources.memory_from, (long long)n_bytes >> 19);
    struct buffer *from = ops->alloc(run->device, n_bytes);
    ceiling->buffer = ops->alloc(run->device, n_bytes);
    ceiling->sum = ops->alloc(run->device, 64);
    uint64_t sum = bench_fill(run, from, ELEMENT_BF16, "ceiling", n_bytes);
    ceiling->copy_bytes_per_s = best_copy(ceiling, from);
    ops->release(run->device, from);
    check_sum(ceiling, sum);
    return true;
}

struct reading {
    struct ceiling *ceiling;
    size_t n_bytes;
};

static void enqueue_read(void *of) {
    const struct reading *reading = of;
    struct ceiling *ceiling = reading->ceiling;
    const struct run *run = ceiling->run;
    if (ceiling->next + reading->n_bytes > ceiling->n_bytes) ceiling->next = 0;
    run->device_ops->read_stream(run->device, ceiling->way, ceiling->sum, ceiling->buffer,
                                 ceiling->next, reading->n_bytes);
    ceiling->next += reading->n_bytes;
}

double bench_ceiling_read(struct ceiling *ceiling, size_t n_bytes) {
    enum { READS = 8 };
    struct run *run = ceiling->run;
    struct work work = {enqueue_read, &(struct reading){ceiling, n_bytes}};
    double best = INFINITY;
    int best_way = 0;
    REQUIRE(n_bytes <= ceiling->n_bytes, "a ceiling of %zu bytes", ceiling->n_bytes);
    for (ceiling->way = 0; run->device_ops->read_ways[ceiling->way]; ceiling->way++) {
        int times = bench_fit(run, work);
        for (int round = 0; round < READS; round++) {
            double seconds = bench_time(run, work, times);
            if (seconds >= best) continue;
            best = seconds;
            best_way = ceiling->way;
        }
    }
    ceiling->way = best_way;
    return (double)n_bytes / best;
}

void bench_ceiling_close(struct ceiling *ceiling) {
    if (!ceiling->run) return;
    ceiling->run->device_ops->release(ceiling->run->device, ceiling->buffer);
    ceiling->run->device_ops->release(ceiling->run->device, ceiling->sum);
    *ceiling = (struct ceiling){0};
}
