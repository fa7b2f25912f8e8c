/* replay.cu - runs of operators as CUDA graphs (device.h, replay).
 *
 * A step of decode rows is some hundred launches that take the host longer than the GPU. Its kernels
 * read what varies (live rows, positions, pages, lengths, wishes, what goes to which rank) from tables
 * that begin fills, so the launches differ only in how many rows they are for. Rows are padded to one
 * of a few numbers, the same for all slots of a run, and a run is kept as one graph for each: padding is
 * computed like a row but is neither appended, attended, sent nor taken. The first time a run is seen its calls go to the stream, padded too, so that whatever is
 * allocated or searched for once is there; the second time they are captured; then they are replayed.
 *
 * Steps with prompt rows are never recorded: their numbers hardly repeat.
 */
#include <stdlib.h>

#include "cuda_device.h"

enum { MOST_RECORDS = 8192, TABLE = 2 * MOST_RECORDS };

/* A run as it was seen: what its launches depend on, and the graph. */
struct record {
    bool used;
    unsigned slots;
    int name, n_rows;
    /* Of each slot two bits: its step's parity, for the step before leaves its tokens in one of two
     * places, and whether any row is scored. */
    unsigned state;
    cudaGraphExec_t graph; /* NULL until it was seen twice */
    int n_seen;
};

struct records {
    struct record *record; /* (TABLE), by hash, probed one by one */
    int n_used;
    struct record *current; /* being recorded */
};

void replay_prepare(struct device *device) {
    device->records = (struct records *)check_alloc(1, sizeof *device->records);
    device->records->record =
        (struct record *)check_alloc(TABLE, sizeof *device->records->record);
}

void replay_forget(struct device *device) {
    for (int at = 0; at < TABLE; at++) {
        struct record *record = &device->records->record[at];
        if (record->graph) CHECK_CUDA(cudaGraphExecDestroy(record->graph));
        record->graph = NULL;
        record->n_seen = 0;
    }
}

void replay_close(struct device *device) {
    if (!device->records) return;
    replay_forget(device);
    free(device->records->record);
    free(device->records);
}

/* Few numbers, none much above what is asked for. */
static int pad(int n_rows) {
    if (n_rows <= 2) return n_rows;
    if (n_rows <= 4) return 4;
    int unit = n_rows <= 64 ? 8 : n_rows <= 256 ? 16 : n_rows <= 512 ? 32 : 64;
    return (n_rows + unit - 1) / unit * unit;
}

int replay_most_rows(const struct device *device) {
    const struct device_limits *limits = &device->limits;
    bool picks = device->sampler && limits->max_picked < limits->max_rows;
    return picks ? limits->max_picked : limits->max_rows;
}

int replay_rows(const struct device *device, const struct rows *rows) {
    int n = rows->n_rows, most = replay_most_rows(device);
    if (n == 0 || n > most || rows->n_chunks != n) return 0;
    if (device->sampler && rows->n_picked != n) return 0;
    int padded = pad(n);
    return padded < most ? padded : most;
}

static bool is_same(const struct record *a, const struct record *b) {
    return a->slots == b->slots && a->name == b->name && a->n_rows == b->n_rows &&
           a->state == b->state;
}

/* NULL: there is no room for another. */
static struct record *find(struct records *records, const struct record *wanted) {
    unsigned hash = 2166136261u;
    const unsigned part[] = {wanted->slots, (unsigned)wanted->name, (unsigned)wanted->n_rows,
                             wanted->state};
    for (size_t at = 0; at < sizeof part / sizeof *part; at++)
        hash = (hash ^ part[at]) * 16777619u;
    for (hash ^= hash >> 15;; hash++) {
        struct record *record = &records->record[hash % TABLE];
        if (record->used && is_same(record, wanted)) return record;
        if (record->used) continue;
        if (records->n_used == MOST_RECORDS) return NULL;
        *record = *wanted;
        record->used = true;
        records->n_used += 1;
        return record;
    }
}

/* False where a slot's step stands in no run. */
static bool describe(const struct device *device, unsigned slots, int name, struct record *run) {
    *run = {};
    run->slots = slots;
    run->name = name;
    for (int slot = 0; slot < device->limits.n_slots; slot++) {
        const struct cuda_rows *rows = &device->rows[slot];
        if (!(slots >> slot & 1)) continue;
        if (rows->n_padded == 0) return false;
        if (rows->n_padded > run->n_rows) run->n_rows = rows->n_padded;
        unsigned state = (unsigned)(rows->step % 2) | (sample_is_scored(device, slot) ? 2u : 0u);
        run->state |= state << 2 * slot;
    }
    return true;
}

bool cuda_replay(struct device *device, unsigned slots, int name) {
    struct record wanted;
    if (!describe(device, slots, name, &wanted)) return false;
    struct record *record = find(device->records, &wanted);
    if (!record) return false;
    if (record->graph) {
        CHECK_CUDA(cudaGraphLaunch(record->graph, device->stream));
        return true;
    }
    device->records->current = record;
    device->padded = wanted.n_rows;
    if (record->n_seen++ > 0) {
        CHECK_CUDA(cudaStreamBeginCapture(device->stream, cudaStreamCaptureModeThreadLocal));
        device->capturing = true;
    }
    return false;
}

void cuda_recorded(struct device *device) {
    if (device->capturing) {
        cudaGraph_t graph;
        struct record *record = device->records->current;
        CHECK_CUDA(cudaStreamEndCapture(device->stream, &graph));
        CHECK_CUDA(cudaGraphInstantiate(&record->graph, graph, 0));
        CHECK_CUDA(cudaGraphDestroy(graph));
        CHECK_CUDA(cudaGraphLaunch(record->graph, device->stream));
    }
    device->capturing = false;
    device->padded = 0;
    device->records->current = NULL;
}
