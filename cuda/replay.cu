/* replay.cu - runs of operators as CUDA graphs (device.h, replay).
 *
 * A step of decode rows is some hundred launches that take the host longer than the GPU. Its kernels
 * read what varies (live rows, positions, pages, lengths, wishes) from tables that begin fills, so the
 * launches differ only in how many rows they are for. Rows are padded to one of a few numbers, and
 * a run is kept as one graph for each: padding is computed like a row but is neither appended, attended
 * nor taken. The first time a run is seen its calls go to the stream, padded too, so that whatever is
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
    int slot, parity, name, n_rows; /* parity: the step before leaves its tokens in one of two places */
    bool scored;
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

int replay_rows(const struct device *device, const struct rows *rows) {
    int n = rows->n_rows, most = device->limits.max_rows;
    if (device->sampler && device->limits.max_picked < most) most = device->limits.max_picked;
    if (n == 0 || n > most || rows->n_chunks != n) return 0;
    if (device->sampler && rows->n_picked != n) return 0;
    int padded = pad(n);
    return padded < most ? padded : most;
}

static bool is_same(const struct record *a, const struct record *b) {
    return a->slot == b->slot && a->parity == b->parity && a->name == b->name &&
           a->n_rows == b->n_rows && a->scored == b->scored;
}

/* NULL: there is no room for another. */
static struct record *find(struct records *records, const struct record *wanted) {
    unsigned hash = 2166136261u;
    const int part[] = {wanted->slot, wanted->parity, wanted->name, wanted->n_rows, wanted->scored};
    for (size_t at = 0; at < sizeof part / sizeof *part; at++)
        hash = (hash ^ (unsigned)part[at]) * 16777619u;
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

bool cuda_replay(struct device *device, const struct rows *rows, int name) {
    int n_padded = device->rows[rows->slot].n_padded;
    if (n_padded == 0) return false;
    struct record wanted = {};
    wanted.slot = rows->slot;
    wanted.parity = rows->step % 2;
    wanted.name = name;
    wanted.n_rows = n_padded;
    wanted.scored = sample_is_scored(device, rows->slot);
    struct record *record = find(device->records, &wanted);
    if (!record) return false;
    if (record->graph) {
        CHECK_CUDA(cudaGraphLaunch(record->graph, device->stream));
        return true;
    }
    device->records->current = record;
    device->padded = n_padded;
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
