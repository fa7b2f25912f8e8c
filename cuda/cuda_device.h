/* cuda_device.h - what the files of the CUDA device share: private to cuda/.
 *
 * One compute stream; every operator enqueues on it and returns. What a step says of its rows is
 * copied to the device once, by begin, from pinned memory; kernels take it from there, so that the
 * same launches can be replayed for other rows. Values are bf16 between operators, f32 where the
 * graph says so (logits) and in tests; sums are f32.
 */
#ifndef LAMINA_CUDA_DEVICE_H
#define LAMINA_CUDA_DEVICE_H

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#define _Noreturn [[noreturn]] /* C++ has no such keyword */
extern "C" {
#include "clock.h"
#include "device.h"
#include "noise.h"
}
#undef _Noreturn

/* The world's fault, with the call, the reason and the place in the list of turns. */
#define CHECK_CUDA(call) cuda_check((call), #call, __FILE__, __LINE__)
void cuda_check(cudaError_t error, const char *call, const char *file, int line);

struct buffer {
    unsigned char *data; /* device memory */
    size_t n_bytes;
};

struct weight {
    int rows, columns;
    int stride;            /* elements from row to row of the matrix, a multiple of 8 */
    __nv_bfloat16 *matrix; /* (rows, columns), zeros behind them; NULL in a rope table */
    float *vector;         /* (columns) of a tensor of one row; a rope table: (positions, n_rotated),
                              cosines, then sines */
};

/* A chunk of rows as kernels see it (struct chunk). */
struct cuda_chunk {
    int32_t first_row, n_rows, first_position;
    int32_t first_page; /* of its list in cuda_rows.page */
};

/* The rows of one slot's step on the device, in one allocation that begin fills with one copy from
 * pinned memory. The host keeps a copy of what grids depend on. */
struct cuda_rows {
    int n_rows, n_chunks, n_picked;
    int n_padded; /* rows that a replayed run has at least; 0: the step stands in none */
    int step;
    int32_t *n_live;                   /* (1) n_rows: rows behind are padding, which leaves no trace */
    int32_t *id, *position, *sequence; /* (max_rows) */
    int32_t *row_chunk;                /* (max_rows) the chunk of each row */
    int32_t *picked;                   /* (max_picked) */
    struct cuda_chunk *chunk;          /* (max_rows) */
    int32_t *page;                     /* lists of pages, one behind another */
    const struct cuda_chunk *host_chunk; /* (n_chunks) pinned copy of `chunk` */
    struct staging *staging;             /* device_cuda.cu's: memory and its pinned ring */
    struct attend_plan *plan;            /* attend.cu's, made anew by begin */
};

struct device {
    struct device_options options;
    struct device_limits limits;
    int n_processors; /* streaming multiprocessors */
    int index;        /* among the GPUs that this process sees */
    cudaStream_t stream;
    cudaStream_t copies; /* read_page's, of any thread */
    struct cuda_rows *rows; /* (n_slots) */
    char description[160];
    struct matmuls *matmuls;         /* matmul.cu's */
    struct tensor_maps *tensor_maps; /* tensor_map.cu's */
    struct sampler *sampler;     /* sample.cu's; NULL unless this rank samples */
    struct records *records;     /* replay.cu's */
    int padded;                  /* while a run is recorded: rows of every launch; else 0 */
    bool capturing;              /* launches go into a graph */
    struct attention *attention; /* attend.cu's */
    struct meeting *meeting;        /* stream.cu's; NULL before the first read */
    int64_t waited_ns;              /* CPU time in waits (struct device_times) */
    cudaEvent_t lap_begin, lap_end; /* NULL before the first lap */
};

/* Launch errors surface at the next check; call it behind every launch. */
#define CHECK_LAUNCH() CHECK_CUDA(cudaGetLastError())

/* Rows of a launch that was asked for `n_rows`. */
static inline int launch_rows(const struct device *device, int n_rows) {
    return n_rows && device->padded ? device->padded : n_rows;
}

/* Launch so that the kernel may begin while the one before it ends: all that is written by a kernel
 * right before it must be read after wait_for_inputs. */
template <class... Parameters, class... Arguments>
static inline void launch_following(struct device *device, void (*kernel)(Parameters...), dim3 grid,
                                    dim3 block, size_t shared, Arguments... arguments) {
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    config.stream = device->stream;
    config.attrs = &attribute;
    config.numAttrs = 1;
    CHECK_CUDA(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...));
}

__device__ inline void wait_for_inputs() {
    asm volatile("griddepcontrol.wait;" ::: "memory");
}

/* The next kernel may begin where blocks of this one end, or have room beside them. Kernels may call
 * it before wait_for_inputs, so one that has begun knows of no kernel behind the last copy of begin
 * that it has ended: before wait_for_inputs it reads weights, tables of begin, and keys and values of
 * earlier steps, and nothing else. When that returns, all kernels before this one have ended, for
 * each of them waited too. */
__device__ inline void let_next_begin() {
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

/* Both, for kernels that do nothing before: the next one's blocks come while this one waits. */
__device__ inline void follow_on() {
    let_next_begin();
    wait_for_inputs();
}

/* A value's first element. */
static inline void *value_data(const struct value *value) {
    return value->buffer->data + value->offset;
}

/* Call `body` with T the C++ type of an element of f32 or bf16. */
#define WITH_TYPE(element, T, ...)                                                                 \
    do {                                                                                           \
        if ((element) == ELEMENT_F32) {                                                            \
            typedef float T;                                                                       \
            __VA_ARGS__;                                                                           \
        } else {                                                                                   \
            REQUIRE((element) == ELEMENT_BF16, "values of element %d", (int)(element));            \
            typedef __nv_bfloat16 T;                                                               \
            __VA_ARGS__;                                                                           \
        }                                                                                          \
    } while (0)

static inline bool is_multiple(const struct value *value, size_t n_bytes) {
    return (uintptr_t)value_data(value) % n_bytes == 0 &&
           (size_t)value->stride * element_bytes(value->element) % n_bytes == 0;
}

/* Rows of bf16 that can be taken eight numbers at a time. */
static inline bool is_eights(const struct value *value) {
    return value->element == ELEMENT_BF16 && value->columns % 8 == 0 && is_multiple(value, 16);
}

/* Eight numbers that stand together. */
struct eight {
    float x[8];
};
__device__ inline struct eight load_eight(const __nv_bfloat16 *from) {
    uint4 word = *(const uint4 *)from;
    const __nv_bfloat162 *pair = (const __nv_bfloat162 *)&word;
    struct eight out;
#pragma unroll
    for (int k = 0; k < 4; k++) {
        float2 two = __bfloat1622float2(pair[k]);
        out.x[2 * k] = two.x;
        out.x[2 * k + 1] = two.y;
    }
    return out;
}
__device__ inline void store_eight(__nv_bfloat16 *to, const struct eight &from) {
    uint4 word;
    __nv_bfloat162 *pair = (__nv_bfloat162 *)&word;
#pragma unroll
    for (int k = 0; k < 4; k++)
        pair[k] = __floats2bfloat162_rn(from.x[2 * k], from.x[2 * k + 1]);
    *(uint4 *)to = word;
}

template <class T> __device__ inline float to_float(T x) {
    return (float)x;
}
template <class T> __device__ inline T from_float(float x) {
    return (T)x;
}

__device__ inline float swiglu_of(float gate, float up) {
    return gate / (1.0f + expf(-gate)) * up;
}

/* rows.cu: the operators without weights matrices. */
void cuda_embed(struct device *device, const struct rows *rows, struct value out,
                const struct weight *table);
void cuda_norm(struct device *device, int n_rows, struct value out, struct value x,
               const struct weight *weight, float eps);
void cuda_add(struct device *device, int n_rows, struct value out, struct value a,
              struct value b);
void cuda_add_norm(struct device *device, int n_rows, struct value sum, struct value out,
                   struct value a, struct value b, const struct weight *weight, float eps);
void cuda_swiglu(struct device *device, int n_rows, struct value out, struct value gate,
                 struct value up);
void cuda_pick(struct device *device, const struct rows *rows, struct value out, struct value x);

/* turn.cu: heads between their product and attention. */
void cuda_rope(struct device *device, const struct rows *rows, struct value out, struct value x,
               struct rope_shape shape, const struct weight *table);
void cuda_pack_kv(struct device *device, int n_rows, struct value out, struct value k,
                  struct value v, int head_dim);
void cuda_rope_pack(struct device *device, const struct rows *rows, struct value kv,
                    struct turned k, struct value v);
void cuda_rope_append(struct device *device, const struct rows *rows, struct turned q,
                      struct turned k, struct value v, struct value kv,
                      const struct kv_cache *cache, int layer);

/* Where kernels note the time between two steps, on the device: the end of the last sample, 0 when
 * an embed has come since, and the time between them so far, which the host sees in `told`. */
struct gap_clock {
    unsigned long long end_ns, idle_ns;
    volatile unsigned long long *told; /* pinned */
};

__device__ inline int64_t device_now_ns() {
    int64_t now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    return now;
}

/* By every block of a sample. */
__device__ inline void gap_begins(struct gap_clock *clock) {
    atomicMax(&clock->end_ns, (unsigned long long)device_now_ns());
}

/* By one thread of an embed that began then; NULL on a rank that does not sample. */
__device__ inline void gap_ends(struct gap_clock *clock, int64_t began_ns) {
    unsigned long long now = (unsigned long long)began_ns;
    if (!clock || clock->end_ns == 0) return;
    if (now > clock->end_ns) clock->idle_ns += now - clock->end_ns;
    clock->end_ns = 0;
    *clock->told = clock->idle_ns;
}

/* replay.cu: runs of operators as CUDA graphs. */
void replay_prepare(struct device *device);
void replay_close(struct device *device);
/* Rows that the runs of a step are recorded with at least, 0 where they are not. */
int replay_rows(const struct device *device, const struct rows *rows);
/* The most that any step has: tables are padded up to there. */
int replay_most_rows(const struct device *device);
/* Give up every graph: memory that they use is about to go. */
void replay_forget(struct device *device);
bool cuda_replay(struct device *device, unsigned slots, int name);
void cuda_recorded(struct device *device);

/* matmul.cu */
int matmul_version(void);  /* of cuBLAS: 130100 is 13.1.0 */
size_t matmul_bytes(void); /* that prepare takes; likewise below */
void matmul_prepare(struct device *device);
void matmul_close(struct device *device);
void cuda_matmul(struct device *device, int n_rows, struct value out, struct value x,
                 const struct weight *weight, const struct weight *bias);
void cuda_matmul_swiglu(struct device *device, int n_rows, struct value out, struct value both,
                        struct value x, const struct weight *weight);

/* tensor_map.cu */
void tensor_map_prepare(struct device *device);
void tensor_map_close(struct device *device);

/* skinny.cu and stout.cu: out = x W^T + bias for few rows, and for more. x as matmul.cu prepares it:
 * its address and its rows multiples of 16 bytes. False, and nothing is done, where the other or
 * cuBLASLt is the better or the only one. */
void skinny_prepare(void);
bool skinny_matmul(struct device *device, int n_rows, const struct value *out,
                   const __nv_bfloat16 *x, int x_stride, const struct weight *weight,
                   const float *bias);
void stout_prepare(void);
bool stout_matmul(struct device *device, int n_rows, const struct value *out,
                  const __nv_bfloat16 *x, int x_stride, const struct weight *weight,
                  const float *bias);
/* The same for out = swiglu of the two halves of what bf16 would hold of x W^T. */
bool skinny_swiglu(struct device *device, int n_rows, const struct value *out,
                   const __nv_bfloat16 *x, int x_stride, const struct weight *weight);
bool stout_swiglu(struct device *device, int n_rows, const struct value *out,
                  const __nv_bfloat16 *x, int x_stride, const struct weight *weight);

/* sample.cu */
size_t sample_bytes(const struct device_limits *limits);
void sample_prepare(struct device *device);
void sample_close(struct device *device);
/* Called by begin: what is wanted of the picked rows travels with the step. */
void sample_begin(struct device *device, const struct rows *rows);
/* Whether any picked row of the slot's step wants scores. */
bool sample_is_scored(const struct device *device, int slot);
/* Tokens (max_picked) of a slot's step, on the device. */
const int32_t *sample_tokens(const struct device *device, int slot, int step);
/* Ids that embed saw: (max_sequences, context), on the device. */
int32_t *sample_history(const struct device *device);
/* On the device; NULL where no rank samples. */
struct gap_clock *sample_gap_clock(const struct device *device);
struct device_times cuda_times(const struct device *device);
void cuda_put_history(struct device *device, int sequence, const int32_t *id, int n_tokens);
void cuda_sample(struct device *device, const struct rows *rows, struct value logits);
int64_t cuda_take_tokens(struct device *device, int slot, int step, int n_picked, int32_t *token,
                      struct token_score *score);

/* attend.cu. The tables of a plan and the states of folds are taken by prepare, once. */
size_t attend_bytes(const struct device_limits *limits);
void attend_prepare(struct device *device);
void attend_close(struct device *device);
/* Called by begin, when the slot's rows stand in device->rows[slot]: cut the step's attention into
 * equal shares and enqueue their copy to the device. */
void attend_begin(struct device *device, const struct rows *rows);
/* Where a layer's pages begin. */
unsigned char *cache_layer(const struct kv_cache *cache, int layer);
void cuda_append_kv(struct device *device, const struct rows *rows, const struct kv_cache *cache,
                    int layer, struct value kv);
void cuda_attend(struct device *device, const struct rows *rows, const struct kv_cache *cache,
                 struct attend_shape shape, enum attend_part part, struct value q,
                 struct value out);

/* exchange.cu */
/* Wait on the host, looking after the wire meanwhile. */
void wait_for_event(struct device *device, cudaEvent_t event);
void *cuda_alloc_host(struct device *device, size_t n_bytes);
void cuda_release_host(struct device *device, void *memory);
void cuda_read_rows(struct device *device, void *to, enum element as, const struct value *from,
                    struct rectangle part);
void cuda_write_rows(struct device *device, const struct value *to, struct rectangle part,
                     const void *from, enum element as);
void cuda_settle(struct device *device);
void cuda_read_page(struct device *device, void *to, const struct kv_cache *cache, int page,
                    int n_tokens);

/* energy.cu */
int64_t cuda_energy_uj(int index);

/* noise.cu: the rows of `part` from `matrix` on, made up, and zeros behind each row. */
void noise_rows(struct device *device, __nv_bfloat16 *matrix, int stride, const struct tensor *part,
                const struct noise *noise);

/* stream.cu */
extern "C" const char *const cuda_read_ways[];
void cuda_read_stream(struct device *device, int way, struct buffer *sum, struct buffer *from,
                      size_t offset, size_t n_bytes);
void cuda_copy(struct device *device, struct buffer *to, struct buffer *from, size_t n_bytes);
double cuda_lap(struct device *device);
void stream_close(struct device *device);

#endif
