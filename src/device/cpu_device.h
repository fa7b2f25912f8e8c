/* cpu_device.h - the CPU device's own struct: private to src/device.
 *
 * cpu.c owns memory, threads and the row-wise operators, cpu_rows.c what wires copy, cpu_weight.c
 * the panels, cpu_attend.c the
 * fold, cpu_sample.c the choice of tokens, cpu_stream.c what benches compare with. Threads are
 * OpenMP's; a thread's scratch is allocated by prepare.
 */
#ifndef LAMINA_CPU_DEVICE_H
#define LAMINA_CPU_DEVICE_H

#include "cpu_kernels.h"
#include "device.h"

struct buffer {
    size_t n_bytes;
    unsigned char *data; /* 64-byte aligned */
};

/* Tokens and scores of two steps of a slot: of the one that runs and of the one being returned. */
struct cpu_samples {
    int32_t *token;            /* (max_picked) */
    struct token_score *score; /* (max_picked, 1 + SAMPLING_MAX_LOGPROBS) */
    int64_t done_ns;
};

/* What a thread needs to choose a token from one row of logits. */
struct cpu_choice {
    float *logit;  /* (vocabulary) the row as changed by bias, penalties and temperature */
    float *mass;   /* (vocabulary) */
    int32_t *id;   /* (vocabulary) candidates */
    uint8_t *seen; /* (vocabulary) zero between rows */
};

/* One slot's fold between ATTEND_CACHED and ATTEND_REST, and the list of its shares of work. */
struct cpu_fold {
    float *result; /* (rows, heads, fold_stride): finished spans */
    float *open;   /* (rows, heads, fold_stride): the span that is not finished */
};

struct device {
    const struct cpu_kernels *kernels;
    struct device_options options;
    struct device_limits limits;
    char description[128];
    float **scratch;             /* one a thread */
    struct cpu_choice *choice;   /* one a thread; NULL unless this rank samples */
    int32_t *history;            /* (max_sequences, context) ids that embed saw; NULL likewise */
    struct cpu_samples *samples; /* (n_slots, 2) */
    struct cpu_fold *fold;       /* (n_slots); NULL unless this rank attends */
    float *span_state;           /* (FOLD_UNITS, rows of a tile, heads of a group, fold_stride) */
    int64_t lap_ns;              /* when the last lap was taken */
};

static inline float *value_f32(const struct value *value) {
    return (float *)(value->buffer->data + value->offset);
}

/* Threads worth starting for `n` independent pieces of `elements` in all: one or the whole team,
 * for OpenMP ends the threads that a smaller team leaves over and starts them again for the next.
 */
static inline int cpu_team(const struct device *device, int n, size_t elements) {
    enum { TEAM_ELEMENTS = 1 << 15 };
    return elements < TEAM_ELEMENTS || n < 2 ? 1 : device->options.n_threads;
}

/* Let the wire move its messages; the opening thread calls it between pieces of a long operator. */
static inline void cpu_progress(const struct device *device) {
    if (device->options.progress) device->options.progress(device->options.progress_argument);
}

/* 64-byte aligned, zeroed; released with cpu_free. */
void *cpu_alloc(size_t n_bytes);
void cpu_free(void *data);

void *cpu_alloc_host(struct device *device, size_t n_bytes);
void cpu_release_host(struct device *device, void *memory);
void cpu_read_rows(struct device *device, void *to, enum element as, const struct value *from,
                   struct rectangle part);
void cpu_write_rows(struct device *device, const struct value *to, struct rectangle part,
                    const void *from, enum element as);
void cpu_settle(struct device *device);
void cpu_read_page(struct device *device, void *to, const struct kv_cache *cache, int page,
                   int n_tokens);

struct weight *cpu_load(struct device *device, const struct tensor *part, int n_parts);
void cpu_unload(struct device *device, struct weight *weight);

size_t cpu_fold_scratch_floats(int head_dim);
void cpu_attend_prepare(struct device *device);
size_t cpu_attend_bytes(int n_threads, const struct device_limits *limits);
void cpu_attend_close(struct device *device);
void cpu_attend(struct device *device, const struct rows *rows, const struct kv_cache *cache,
                struct attend_shape shape, enum attend_part part, struct value q, struct value out);

void cpu_sample_prepare(struct device *device);
size_t cpu_sample_bytes(int n_threads, const struct device_limits *limits);
void cpu_sample_close(struct device *device);
void cpu_put_history(struct device *device, int sequence, const int32_t *id, int n_tokens);
void cpu_sample(struct device *device, const struct rows *rows, struct value logits);
int64_t cpu_take_tokens(struct device *device, int slot, int step, int n_picked, int32_t *token,
                        struct token_score *score);

extern const char *const cpu_read_ways[];
void cpu_read_stream(struct device *device, int way, struct buffer *sum, struct buffer *from,
                     size_t offset, size_t n_bytes);
void cpu_copy(struct device *device, struct buffer *to, struct buffer *from, size_t n_bytes);
double cpu_lap(struct device *device);
struct device_times cpu_times(const struct device *device);

#endif
