/* device.h - the first seam: what a processor computes.
 *
 * One table of operators, one instance a processor (device_cpu; CUDA's lives in cuda/). Decode sees
 * only this page. Calls enqueue work in order; on the CPU they return when it is done. All
 * operators but attend treat rows independently: a row's result never depends on which rows stand
 * beside it.
 *
 * One definition per sum (docs/design.md section 6). Every float sum has one order, the same for
 * plain C, AVX2 and AVX-512, for any number of rows, threads and ranks. fma(a, b, c) is one
 * rounding; every other operation rounds too, from left to right.
 *
 *   matmul      y = 0; for k rising: y = fma(x[k], w[k], y); then y + bias. w is the unpacked
 *               weight.
 *   lane sum    element k goes to lane k mod 16; each lane is a chain in rising k; then lane
 *               l += lane l+8, += l+4, += l+2, += l+1. norm: chain of fma(x, x, .); attention
 *               scores: chain of fma(q, k, .), times scale; softmax sums: chain of additions.
 *   norm        s = 1 / sqrt(lane sum of squares / columns + eps); out = x * s * weight.
 *   rope        (a, b) -> fma(a, cos, -(b * sin)), fma(a, sin, b * cos).
 *   swiglu      gate / (1 + exp(-gate)) * up.
 *   attention   blocks of 64 absolute positions in order: m = max of scores, p = exp(score - m),
 *               s = lane sum of p, a[d] = chain of fma(p, v[d], .) in rising position. A block is
 *               folded into its span (8 blocks, 512 positions) and a finished span into the row's
 *               result, both by M = max(m1, m2), c1 = exp(m1 - M), c2 = exp(m2 - M),
 *               s = fma(s1, c1, s2 * c2), a = fma(a1, c1, a2 * c2); into an empty state it is
 *               copied. Output a * (1 / s).
 *   vocabulary  tiles of 1024 ids in order: m = max, s = lane sum of exp(l - m); tiles folded as
 *               above.
 *   exp         exp16 of cpu_kernels.inc; sin, cos and log are computed in double and rounded once.
 */
#ifndef LAMINA_DEVICE_H
#define LAMINA_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "check.h"
#include "quant.h"
#include "sampling.h"

enum { PAGE_TOKENS = 64, SPAN_BLOCKS = 8, VOCABULARY_TILE = 1024 };

enum element { ELEMENT_F32, ELEMENT_F16, ELEMENT_BF16, ELEMENT_I32 };
size_t element_bytes(enum element element);

struct device; /* one processor, opened */
struct buffer; /* device memory, opaque */
struct weight; /* a tensor in the device's own layout, opaque */
struct noise;  /* noise.h */

/* Part of a buffer seen as (rows, columns), columns innermost, `stride` elements from row to row.
 */
struct value {
    struct buffer *buffer;
    size_t offset; /* bytes */
    int columns, stride;
    enum element element;
};

/* A part of a value. */
struct rectangle {
    int row, n_rows, column, n_columns;
};

/* A tensor as the model file stores it: (rows, columns), columns innermost. Borrowed by load. */
struct tensor {
    const char *name;
    enum quant type;
    int rows, columns;
    const void *data;
};

/* Rows of one sequence that stand together, in rising position. */
struct chunk {
    int first_row, n_rows;
    int first_position;
    const int32_t
        *page; /* page of each 64 positions of the sequence; NULL on a rank without its KV */
};

/* What is wanted of one picked row: a token, or only the scores of a token that is known. */
struct sample_wish {
    const struct sampling *sampling;
    int32_t sequence; /* handle: row of the token history */
    int32_t position; /* of the token to be chosen; the history is valid below it */
    int32_t n_prompt; /* tokens of the history that belong to the prompt */
    int32_t known_id; /* score this id and choose nothing; -1: choose */
};

/* One step of one slot as its header says it. Host arrays, valid until the slot's next step. */
struct rows {
    int slot, step;
    int n_rows;
    const int32_t *id; /* (n_rows) token, or -1 - r: the token of picked row r one step before */
    const int32_t *position; /* (n_rows) */
    const int32_t *sequence; /* (n_rows) handle */
    int n_chunks;
    const struct chunk *chunk;
    int n_picked;
    const int32_t *picked;          /* (n_picked) row of each, rising */
    const struct sample_wish *wish; /* (n_picked) */
};

/* Rotation of heads by position. */
struct rope_shape {
    int n_heads, head_dim, n_rotated;
    bool interleaved;
};

/* What rope is told of Q or K. */
struct turned {
    struct value out, x;
    struct rope_shape shape;
    const struct weight *table;
};

/* The KV cache of one rank: (layers, pages, kv heads, K|V, 64 tokens, head_dim). */
struct kv_cache {
    struct buffer *buffer;
    int n_layers, n_pages, n_kv_heads, head_dim;
    enum element element;
};

/* Attention of one layer over the heads this rank holds. */
struct attend_shape {
    int layer, n_heads, n_kv_heads, head_dim;
    float scale;
};

/* The fold can stop before the block that holds a chunk's first new position, and go on later. */
enum attend_part {
    ATTEND_CACHED, /* fold the blocks before it; the open state is kept in the slot's fold */
    ATTEND_REST,   /* go on from there to the end and write the output */
    ATTEND_WHOLE,  /* both at once */
};

/* Sizes that are known when the loop starts; nothing is allocated after prepare. */
struct device_limits {
    int n_slots;
    int max_rows;                      /* rows of a slot and step */
    int max_picked;                    /* picked rows of a slot and step */
    int max_sequences;                 /* handles, all slots */
    int context;                       /* tokens of a sequence */
    int vocabulary;                    /* 0 on a rank without weights: no matmul, no sample */
    int n_heads, n_kv_heads, head_dim; /* attention held here; 0 on a rank without */
};

enum { DEVICE_ID_BYTES = 40 };
struct device_options {
    int n_threads;
    int index;                /* rank on the host: modulo how many there are, which of them */
    int isa;                  /* enum isa_wish: 0 lets the device choose */
    const char *cache_folder; /* for what is found by timing (kernel_cache.h); NULL: not kept */
    void (*progress)(void *); /* called by the opening thread inside long operators, or NULL */
    void *progress_argument;
};

/* Where a processor with memory of its own sits. */
struct device_place {
    char bus[24];   /* on PCI, "0000:1b:00.0"; "" where the host's memory is used */
    int n_visible;  /* processors of the kind that this process sees, */
    int index;      /* and which of them it is */
    uint64_t links; /* bit k: it and number k (below 64) reach each other's memory by links that are
                       theirs (NVLink), not by the host's bus */
};

/* What steps have cost besides the work on their rows, since prepare. */
struct device_times {
    int64_t waited_ns; /* CPU time that the calling thread spent in waits for the device, which
                          spin: in take_tokens and settle. 0 where that thread computes itself */
    int64_t idle_ns; /* by the device's own clock: from the end of a sample to the embed behind it,
                        in which no operator ran. -1 where the device has no such clock */
};

struct device_ops {
    const char *name;        /* "cpu" */
    enum element activation; /* of values between operators; logits are f32 everywhere */
    /* Matmuls of one input are wanted as one, their weights joined: where starting a matmul costs
     * as much as one of few rows does, and taller weights are read faster. */
    bool joins_weights;

    /* Versions of the libraries under it, for people, or "not built"; NULL of device_cpu. */
    const char *(*version)(void);
    /* How many of the kind this host shows; 0: none, or not built. */
    int (*count)(void);
    /* Whether this program can compute on the processor that `options` name; a fault says why not:
     * not built, none visible, or one it has no code for. Starts nothing. NULL of device_cpu. */
    bool (*available)(const struct device_options *options, struct fault *fault);
    /* Which processor `options` name: the same text for all ranks that would use it, "" where it
     * uses the host's memory. Starts nothing. */
    void (*identify)(const struct device_options *options, char id[DEVICE_ID_BYTES]);
    /* Start it, so that what this takes is no longer free. */
    void (*start)(const struct device_options *options);
    /* Where the processor that `options` name sits. */
    void (*locate)(const struct device_options *options, struct device_place *place);
    /* Bytes that are free on the processor `options` name; -1 where it uses the host's memory. */
    int64_t (*free_bytes)(const struct device_options *options);
    /* Microjoules that the processor of device_options.index has used since some time in the past;
     * -1 where that cannot be read. Any thread may ask, at any time. */
    int64_t (*energy_uj)(int index);
    /* False with a fault when the processor is not there or lacks what was asked for. */
    bool (*open)(struct device **device, const struct device_options *options, struct fault *fault);
    void (*prepare)(struct device *device, const struct device_limits *limits);
    /* Bytes that prepare takes. Asked for devices that are not opened too. */
    size_t (*prepare_bytes)(const struct device_options *options,
                            const struct device_limits *limits);
    void (*close)(struct device *device);
    /* One line for people: model, threads, instruction set. Valid until close. */
    const char *(*describe)(const struct device *device);

    /* Zeroed memory. */
    struct buffer *(*alloc)(struct device *device, size_t n_bytes);
    void (*release)(struct device *device, struct buffer *buffer);
    void (*upload)(struct device *device, struct buffer *to, size_t offset, const void *from,
                   size_t n_bytes);
    void (*download)(struct device *device, void *to, struct buffer *from, size_t offset,
                     size_t n_bytes);
    /* Zeroed host memory that the device copies from and to fastest: where messages wait. */
    void *(*alloc_host)(struct device *device, size_t n_bytes);
    void (*release_host)(struct device *device, void *memory);
    /* Copy a part of a value to host memory, where its rows stand one behind another as elements
     * `as`: f32, f16 and bf16 become each other by rounding to nearest even (quant.h). write_rows
     * is the way back. Both are enqueued; the memory is alloc_host's, and left alone until settle
     * has waited for all of them. */
    void (*read_rows)(struct device *device, void *to, enum element as, const struct value *from,
                      struct rectangle part);
    void (*write_rows)(struct device *device, const struct value *to, struct rectangle part,
                       const void *from, enum element as);
    void (*settle)(struct device *device);
    /* K and V of the first `n_tokens` positions of a page, from all layers to any host memory:
     * (layers, K|V, kv heads, 64, head_dim), behind them zeros. Returns when it is done and keeps
     * no order with what is enqueued: the caller knows that these positions were written before the
     * last settle and are left alone meanwhile. Any thread; alloc_host's memory is the fastest. */
    void (*read_page)(struct device *device, void *to, const struct kv_cache *cache, int page,
                      int n_tokens);
    /* A value is ready for scatter when all that was enqueued before its seal is done (rule 5). */
    void (*seal)(struct device *device, const struct value *value);

    /* Bytes that load takes for these tensors, whose data is not looked at. */
    size_t (*weight_bytes)(const struct tensor *part, int n_parts);
    /* Bring a weight into the device's own layout: a tensor, or several of as many columns, one
     * behind another in rows. These may be stored in different types where the device joins
     * weights, elsewhere not. `data` may be released afterwards. */
    struct weight *(*load)(struct device *device, const struct tensor *part, int n_parts);
    /* The same of matrices that are made up: `part` has no data, and element i of the rows of part
     * p is number i of noise[p] (noise.h), to the bit what load makes of these numbers. NULL: the
     * device wants them loaded. */
    struct weight *(*load_noise)(struct device *device, const struct tensor *part,
                                 const struct noise *noise, int n_parts);
    void (*unload)(struct device *device, struct weight *weight);
    /* Sines and cosines of positions 0..n_positions-1: frequency i is base^(-2i/n_rotated) /
     * factor[i] (factor NULL: 1), times scale. Computed in double. Released with unload. */
    struct weight *(*load_rope)(struct device *device, int n_rotated, double base, double scale,
                                const float *factor, int n_positions);

    /* A slot's step begins: operators that take `rows` are given these until the slot's next begin.
     * A device with memory of its own takes the arrays along here, once for all layers. */
    void (*begin)(struct device *device, const struct rows *rows);

    /* A run: calls that take no host data and wait for nothing on the host, operators and what a
     * wire may put there (wire_ops.in_runs). `slots`: bit k says that it works on the rows of slot
     * k as they have begun. `name`: runs of one name and slots are the same calls, but for the
     * rows. True: the device has made these calls itself, as it saw them before with rows that were
     * alike, and the caller leaves them out. False: the caller makes them, for all rows and picked
     * rows of the steps, and then calls recorded. No run stands within another, or contains a
     * begin. */
    bool (*replay)(struct device *device, unsigned slots, int name);
    void (*recorded)(struct device *device);

    /* Operators. Shapes: rows as in `rows`, columns as in the values. out never overlaps an input.
     */
    void (*embed)(struct device *device, const struct rows *rows, struct value out,
                  const struct weight *table);
    void (*norm)(struct device *device, int n_rows, struct value out, struct value x,
                 const struct weight *weight, float eps);
    void (*matmul)(struct device *device, int n_rows, struct value out, struct value x,
                   const struct weight *weight, const struct weight *bias);
    void (*rope)(struct device *device, const struct rows *rows, struct value out, struct value x,
                 struct rope_shape shape, const struct weight *table);
    void (*add)(struct device *device, int n_rows, struct value out, struct value a,
                struct value b);
    /* sum = a + b, out = norm of sum, in one pass: the bits of add and norm. sum and out overlap
     * neither input. */
    void (*add_norm)(struct device *device, int n_rows, struct value sum, struct value out,
                     struct value a, struct value b, const struct weight *weight, float eps);
    void (*swiglu)(struct device *device, int n_rows, struct value out, struct value gate,
                   struct value up);
    /* both = x times the matrix of gates and that of up, joined; out = swiglu of its two halves, in
     * one pass: what matmul and swiglu give, on a CPU to the bit. What `both` then holds is
     * undefined. */
    void (*matmul_swiglu)(struct device *device, int n_rows, struct value out, struct value both,
                          struct value x, const struct weight *weight);
    void (*pick)(struct device *device, const struct rows *rows, struct value out, struct value x);

    /* K and V (rows, n_kv_heads * head_dim), rounded to out's type: out (rows, n_kv_heads, 2,
     * head_dim). */
    void (*pack_kv)(struct device *device, int n_rows, struct value out, struct value k,
                    struct value v, int head_dim);
    /* Write packed rows into their pages. */
    void (*append_kv)(struct device *device, const struct rows *rows, const struct kv_cache *cache,
                      int layer, struct value kv);
    /* Rope of K, then pack_kv with what it gave, in one pass: their bits. k.out may be used on the
     * way; what it then holds is undefined. */
    void (*rope_pack)(struct device *device, const struct rows *rows, struct value kv,
                      struct turned k, struct value v);
    /* Rope of Q and of K, pack_kv and append_kv in one pass: their bits in q.out and the cache. Q
     * and K turn alike. The same holds for k.out, and for kv, which has room for the packed rows.
     */
    void (*rope_append)(struct device *device, const struct rows *rows, struct turned q,
                        struct turned k, struct value v, struct value kv,
                        const struct kv_cache *cache, int layer);
    /* q (rows, n_heads * head_dim) -> out, the same shape. Row at position p sees positions 0..p.
     */
    void (*attend)(struct device *device, const struct rows *rows, const struct kv_cache *cache,
                   struct attend_shape shape, enum attend_part part, struct value q,
                   struct value out);

    /* logits (picked rows, vocabulary) -> tokens of the slot's step, kept on the device for the
     * next embed; score (n_picked, 1 + SAMPLING_MAX_LOGPROBS) is filled for wishes with n_logprobs
     * >= 0. The history holds every id that embed saw, and what put_history put there. */
    void (*sample)(struct device *device, const struct rows *rows, struct value logits);
    /* The first `n_tokens` ids of a sequence that embed did not see here. */
    void (*put_history)(struct device *device, int sequence, const int32_t *id, int n_tokens);
    /* Wait for the sample of `step` (the slot's last or the one before) and copy its tokens and
     * scores. Returns when it was done (clock_now_ns), as nearly as the device can tell. */
    int64_t (*take_tokens)(struct device *device, int slot, int step, int n_picked, int32_t *token,
                           struct token_score *score);

    /* What benches compare with. Offsets and sizes are multiples of 64 bytes.
     * Read `n_bytes` once and write nothing but `sum`, 8 bytes: the XOR of their 64-bit words.
     * `way` is one of those that read_ways names, NULL behind the last. */
    const char *const *read_ways;
    void (*read_stream)(struct device *device, int way, struct buffer *sum, struct buffer *from,
                        size_t offset, size_t n_bytes);
    void (*copy)(struct device *device, struct buffer *to, struct buffer *from, size_t n_bytes);
    /* Wait for all that was enqueued. Returns the seconds it took since the last lap, as the
     * device's own clock has them where there is one; of no meaning the first time. */
    double (*lap)(struct device *device);
    /* As far as the device has told the host; waits for nothing and may be called between any two
     * steps. */
    struct device_times (*times)(const struct device *device);
};

extern const struct device_ops device_cpu;
extern const struct device_ops device_cuda; /* in cuda/, where it is built */

#endif
