/* cpu_attend.c - attention as one left fold (device.h; docs/design.md section 6, rule 3).
 *
 * Work is cut into shares of (a few rows of one chunk, one kv head, one span of 512 positions).
 * Threads take whole spans, never parts of one; the spans of a row are merged in rising order
 * afterwards, so neither the number of threads nor the size of a wave can change a bit. A wave is
 * as many shares as there is memory for. Splitting by heads alone would leave threads idle on one
 * long sequence; splitting at arbitrary positions would change the order of sums.
 */
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "cpu_device.h"

enum { TILE_ROWS = 8, WAVE_SHARES_PER_THREAD = 16 };

/* A place in the list of shares, in the order (chunk, tile, head, span). */
struct cursor {
    int chunk, tile_row, kv_head, block; /* block: first of the next share */
};

struct share {
    const struct chunk *chunk;
    int first_row, n_rows; /* of the slot's rows */
    int first_position;
    int kv_head;
    int block_begin, block_end; /* within one span */
    bool carried;               /* goes on from the open state that ATTEND_CACHED left */
    bool stays_open;            /* ends inside a span that ATTEND_REST will finish */
};

/* One call of attend. */
struct job {
    const struct rows *rows;
    const struct kv_cache *cache;
    struct attend_shape shape;
    enum attend_part part;
    struct cpu_fold *fold;
    int group;
    size_t stride; /* floats of a state */
};

size_t cpu_fold_scratch_floats(int head_dim) {
    size_t padded = fold_stride(head_dim) - FOLD_ACC;
    return (2 * PAGE_TOKENS + 1) * padded + fold_stride(head_dim);
}

static size_t wave_shares(int n_threads) {
    return (size_t)n_threads * WAVE_SHARES_PER_THREAD;
}

/* States of all rows of a slot. */
static size_t states_bytes(const struct device_limits *limits) {
    return (size_t)limits->max_rows * (size_t)limits->n_heads * fold_stride(limits->head_dim) *
           sizeof(float);
}

/* States of the shares of a wave. */
static size_t wave_bytes(int n_threads, const struct device_limits *limits) {
    size_t group = (size_t)(limits->n_heads / limits->n_kv_heads);
    return wave_shares(n_threads) * TILE_ROWS * group * fold_stride(limits->head_dim) *
           sizeof(float);
}

size_t cpu_attend_bytes(int n_threads, const struct device_limits *limits) {
    return 2 * (size_t)limits->n_slots * states_bytes(limits) + wave_bytes(n_threads, limits);
}

void cpu_attend_prepare(struct device *device) {
    const struct device_limits *limits = &device->limits;
    device->fold = check_alloc((size_t)limits->n_slots, sizeof *device->fold);
    for (int slot = 0; slot < limits->n_slots; slot++) {
        device->fold[slot].result = cpu_alloc(states_bytes(limits));
        device->fold[slot].open = cpu_alloc(states_bytes(limits));
    }
    device->span_state = cpu_alloc(wave_bytes(device->options.n_threads, limits));
}

void cpu_attend_close(struct device *device) {
    if (!device->fold) return;
    for (int slot = 0; slot < device->limits.n_slots; slot++) {
        cpu_free(device->fold[slot].result);
        cpu_free(device->fold[slot].open);
    }
    free(device->fold);
    cpu_free(device->span_state);
}

/* Blocks of a tile that this part covers: the cached ones, or those up to the tile's last position.
 */
static void tile_blocks(const struct job *job, const struct chunk *chunk, int last_position,
                        int *begin, int *end) {
    int first_new = chunk->first_position / PAGE_TOKENS;
    *begin = job->part == ATTEND_REST ? first_new : 0;
    *end = job->part == ATTEND_CACHED ? first_new : last_position / PAGE_TOKENS + 1;
}

/* The next share, or false at the end of the list. */
static bool next_share(const struct job *job, struct cursor *at, struct share *share) {
    while (at->chunk < job->rows->n_chunks) {
        const struct chunk *chunk = &job->rows->chunk[at->chunk];
        int n_rows = chunk->n_rows - at->tile_row;
        if (n_rows > TILE_ROWS) n_rows = TILE_ROWS;
        int begin, end;
        tile_blocks(job, chunk, chunk->first_position + at->tile_row + n_rows - 1, &begin, &end);
        if (at->block < begin) at->block = begin;
        if (at->block < end) {
            int span_end = (at->block / SPAN_BLOCKS + 1) * SPAN_BLOCKS;
            *share = (struct share){
                .chunk = chunk,
                .first_row = chunk->first_row + at->tile_row,
                .n_rows = n_rows,
                .first_position = chunk->first_position + at->tile_row,
                .kv_head = at->kv_head,
                .block_begin = at->block,
                .block_end = span_end < end ? span_end : end,
                .carried =
                    job->part == ATTEND_REST && at->block == begin && begin % SPAN_BLOCKS != 0,
                .stays_open = job->part == ATTEND_CACHED && span_end > end,
            };
            at->block = share->block_end;
            return true;
        }
        at->block = 0;
        if (++at->kv_head < job->shape.n_kv_heads) continue;
        at->kv_head = 0;
        at->tile_row += n_rows;
        if (at->tile_row < chunk->n_rows) continue;
        at->tile_row = 0;
        at->chunk += 1;
    }
    return false;
}

/* The states of a share's rows and heads stand together per row: (row, heads of the rank). */
static float *row_state(const struct job *job, float *states, int row, int kv_head) {
    size_t head = (size_t)row * (size_t)job->shape.n_heads + (size_t)(kv_head * job->group);
    return states + head * job->stride;
}

static void run_share(struct device *device, const struct job *job, const struct share *share,
                      const struct value *q, float *state) {
    const struct kv_cache *cache = job->cache;
    size_t element = element_bytes(cache->element);
    size_t head_bytes = 2 * PAGE_TOKENS * (size_t)cache->head_dim * element;
    size_t page_bytes = (size_t)cache->n_kv_heads * head_bytes;
    size_t group_bytes = (size_t)job->group * job->stride * sizeof *state;
    for (int row = 0; row < share->n_rows; row++) {
        float *to = state + (size_t)(row * job->group) * job->stride;
        if (share->carried) {
            memcpy(to, row_state(job, job->fold->open, share->first_row + row, share->kv_head),
                   group_bytes);
        } else {
            for (int head = 0; head < job->group; head++)
                to[(size_t)head * job->stride + FOLD_SUM] = 0;
        }
    }
    struct fold_share fold = {
        .q = value_f32(q) + (size_t)share->first_row * (size_t)q->stride +
             (size_t)(share->kv_head * job->group * cache->head_dim),
        .q_stride = (size_t)q->stride,
        .n_rows = share->n_rows,
        .group = job->group,
        .first_position = share->first_position,
        .head_dim = cache->head_dim,
        .scale = job->shape.scale,
        .element = cache->element,
        .kv = cache->buffer->data + (size_t)job->shape.layer * (size_t)cache->n_pages * page_bytes,
        .page_bytes = page_bytes,
        .head_bytes = head_bytes,
        .kv_head = share->kv_head,
        .page = share->chunk->page,
    };
    device->kernels->fold(&fold, share->block_begin, share->block_end, state,
                          device->scratch[omp_get_thread_num()]);
}

/* Bring a finished share into the results of its rows, or put it aside as the open span. */
static void keep_share(struct device *device, const struct job *job, const struct share *share,
                       const float *state) {
    for (int row = 0; row < share->n_rows; row++) {
        const float *from = state + (size_t)(row * job->group) * job->stride;
        float *states = share->stays_open ? job->fold->open : job->fold->result;
        float *to = row_state(job, states, share->first_row + row, share->kv_head);
        for (int head = 0; head < job->group; head++) {
            size_t at = (size_t)head * job->stride;
            if (share->stays_open) {
                memcpy(to + at, from + at, job->stride * sizeof *to);
            } else {
                device->kernels->merge(to + at, from + at, job->shape.head_dim);
            }
        }
    }
}

static bool same_rows(const struct share *a, const struct share *b) {
    return a->first_row == b->first_row && a->kv_head == b->kv_head;
}

/* Fold every share: waves of spans in parallel, then each row's spans in order. */
static void run_waves(struct device *device, const struct job *job, const struct value *q) {
    enum { WAVE_MOST = 4096 };
    struct share wave[WAVE_MOST];
    size_t room = wave_shares(device->options.n_threads);
    if (room > WAVE_MOST) room = WAVE_MOST;
    size_t share_floats = TILE_ROWS * (size_t)job->group * job->stride;
    struct cursor at = {0};
    for (;;) {
        int n = 0;
        while (n < (int)room && next_share(job, &at, &wave[n]))
            n++;
        if (n == 0) return;
#pragma omp parallel num_threads(device->options.n_threads)
        {
#pragma omp for schedule(dynamic)
            for (int share = 0; share < n; share++) {
                run_share(device, job, &wave[share], q,
                          device->span_state + (size_t)share * share_floats);
                if (omp_get_thread_num() == 0) cpu_progress(device);
            }
#pragma omp for schedule(dynamic)
            for (int first = 0; first < n; first++) {
                if (first > 0 && same_rows(&wave[first - 1], &wave[first])) continue;
                for (int share = first; share < n && same_rows(&wave[first], &wave[share]); share++)
                    keep_share(device, job, &wave[share],
                               device->span_state + (size_t)share * share_floats);
            }
        }
    }
}

void cpu_attend(struct device *device, const struct rows *rows, const struct kv_cache *cache,
                struct attend_shape shape, enum attend_part part, struct value q,
                struct value out) {
    struct job job = {
        .rows = rows,
        .cache = cache,
        .shape = shape,
        .part = part,
        .fold = &device->fold[rows->slot],
        .group = shape.n_heads / shape.n_kv_heads,
        .stride = fold_stride(shape.head_dim),
    };
    size_t n_states = (size_t)rows->n_rows * (size_t)shape.n_heads;
    if (part != ATTEND_REST) {
        for (size_t state = 0; state < n_states; state++)
            job.fold->result[state * job.stride + FOLD_SUM] = 0;
    }
    run_waves(device, &job, &q);
    if (part == ATTEND_CACHED) return;
    for (int row = 0; row < rows->n_rows; row++) {
        for (int head = 0; head < shape.n_heads; head++)
            device->kernels->finish(value_f32(&out) + (size_t)row * (size_t)out.stride +
                                        (size_t)head * (size_t)shape.head_dim,
                                    job.fold->result +
                                        ((size_t)row * (size_t)shape.n_heads + (size_t)head) *
                                            job.stride,
                                    shape.head_dim);
    }
}
