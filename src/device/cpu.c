/* cpu.c - the CPU device: memory, threads and the row-wise operators (device.h).
 *
 * Kernels come from the best instruction set the processor has, chosen once at open; all of them
 * give the same bits. Work is cut by output rows of a weight (matmul), by rows (norm, rope, embed)
 * or by elements (add, swiglu), never inside a sum. Small operators run on the calling thread:
 * starting a team costs more than they do.
 */
#include <fenv.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <xmmintrin.h>
#endif

#include "cpu_device.h"

size_t element_bytes(enum element element) {
    return element == ELEMENT_F16 || element == ELEMENT_BF16 ? 2 : 4;
}

/* ---- memory: calloc, because large zeroed blocks cost nothing until they are touched -----------
 */

void *cpu_alloc(size_t n_bytes) {
    unsigned char *block = check_alloc(n_bytes + 128, 1);
    unsigned char *data = block + 64 + (64 - (uintptr_t)block % 64) % 64;
    memcpy(data - sizeof block, &block, sizeof block);
    return data;
}

void cpu_free(void *data) {
    if (!data) return;
    unsigned char *block;
    memcpy(&block, (unsigned char *)data - sizeof block, sizeof block);
    free(block);
}

static struct buffer *cpu_buffer_alloc(struct device *device, size_t n_bytes) {
    (void)device;
    struct buffer *buffer = check_alloc(1, sizeof *buffer);
    buffer->n_bytes = n_bytes;
    buffer->data = cpu_alloc(n_bytes);
    return buffer;
}

static void cpu_buffer_release(struct device *device, struct buffer *buffer) {
    (void)device;
    if (!buffer) return;
    cpu_free(buffer->data);
    free(buffer);
}

static void cpu_upload(struct device *device, struct buffer *to, size_t offset, const void *from,
                       size_t n_bytes) {
    (void)device;
    REQUIRE(offset + n_bytes <= to->n_bytes, "upload past the end of a buffer");
    memcpy(to->data + offset, from, n_bytes);
}

static void cpu_download(struct device *device, void *to, struct buffer *from, size_t offset,
                         size_t n_bytes) {
    (void)device;
    REQUIRE(offset + n_bytes <= from->n_bytes, "download past the end of a buffer");
    memcpy(to, from->data + offset, n_bytes);
}

/* Operators return when they are done, so a value is ready as soon as it can be named. */
static void cpu_seal(struct device *device, const struct value *value) {
    (void)device, (void)value;
}

/* The host's arrays are at hand. */
static void cpu_begin(struct device *device, const struct rows *rows) {
    (void)device, (void)rows;
}

/* A call costs nothing beside its work: there is nothing to gain. */
static bool cpu_replay(struct device *device, unsigned slots, int name) {
    (void)device, (void)slots, (void)name;
    return false;
}

static void cpu_recorded(struct device *device) {
    (void)device;
}

/* ---- opening ----------------------------------------------------------------------------------
 */

#if defined(__x86_64__)
/* Not every compiler's __builtin_cpu_supports knows the name "f16c". */
static bool has_f16c(void) {
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
}

static bool has_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}

static bool has_avx512(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

/* Order and meaning of options.h's isa_wish: auto, plain, avx2, avx512. */
static const struct cpu_kernels *find_kernels(int isa, struct fault *fault) {
#if defined(__x86_64__)
    if (isa == 3 || (isa == 0 && has_avx512())) {
        if (has_avx512()) return &cpu_kernels_avx512;
        fault_user(fault, "--cpu-isa avx512: this processor has no AVX-512 (F, BW, DQ, VL)");
        return NULL;
    }
    if (isa == 2 || (isa == 0 && has_avx2())) {
        if (has_avx2()) return &cpu_kernels_avx2;
        fault_user(fault, "--cpu-isa avx2: this processor has no AVX2, FMA and F16C");
        return NULL;
    }
#else
    if (isa > 1) {
        fault_user(fault, "--cpu-isa: only plain C is built for this processor");
        return NULL;
    }
#endif
    return &cpu_kernels_plain;
}

/* Rounding to nearest, subnormals kept, in every thread: part of the contract on bits. */
static void set_float_mode(void) {
    fesetround(FE_TONEAREST);
#if defined(__x86_64__)
    _mm_setcsr(0x1f80);
#endif
}

static int cpu_count(void) {
    return 1;
}

static void cpu_identify(const struct device_options *options, char id[DEVICE_ID_BYTES]) {
    (void)options;
    id[0] = 0;
}

static void cpu_start(const struct device_options *options) {
    (void)options;
}

static void cpu_locate(const struct device_options *options, struct device_place *place) {
    (void)options;
    *place = (struct device_place){0};
}

static int64_t cpu_free_bytes(const struct device_options *options) {
    (void)options;
    return -1;
}

/* The counters of processors are the host's: others read them (trace_energy.c). */
static int64_t cpu_energy_uj(int index) {
    (void)index;
    return -1;
}

static size_t cpu_weight_bytes(const struct tensor *part, int n_parts) {
    size_t n_bytes = 0;
    for (int at = 0; at < n_parts; at++)
        n_bytes += quant_bytes(part[at].type, (size_t)part[at].rows * (size_t)part[at].columns);
    return n_bytes;
}

static bool cpu_open(struct device **opened, const struct device_options *options,
                     struct fault *fault) {
    const struct cpu_kernels *kernels = find_kernels(options->isa, fault);
    if (!kernels) return false;
    struct device *device = check_alloc(1, sizeof *device);
    device->kernels = kernels;
    device->options = *options;
    snprintf(device->description, sizeof device->description, "cpu, %d thread%s, %s",
             options->n_threads, options->n_threads == 1 ? "" : "s", kernels->name);
#pragma omp parallel num_threads(options->n_threads)
    set_float_mode();
    *opened = device;
    return true;
}

/* Of a thread: for the widest of what it may do. */
static size_t scratch_bytes(const struct device_limits *limits) {
    size_t floats = PANEL_ROWS * ((size_t)PANEL_CHUNK + (size_t)limits->max_rows);
    if (limits->head_dim && cpu_fold_scratch_floats(limits->head_dim) > floats)
        floats = cpu_fold_scratch_floats(limits->head_dim);
    return floats * sizeof(float);
}

static size_t cpu_prepare_bytes(const struct device_options *options,
                                const struct device_limits *limits) {
    return (size_t)options->n_threads * scratch_bytes(limits) +
           (limits->head_dim ? cpu_attend_bytes(options->n_threads, limits) : 0) +
           (limits->vocabulary ? cpu_sample_bytes(options->n_threads, limits) : 0);
}

static void cpu_prepare(struct device *device, const struct device_limits *limits) {
    device->limits = *limits;
    device->scratch = check_alloc((size_t)device->options.n_threads, sizeof *device->scratch);
    for (int thread = 0; thread < device->options.n_threads; thread++)
        device->scratch[thread] = cpu_alloc(scratch_bytes(limits));
    if (limits->head_dim) cpu_attend_prepare(device);
    if (limits->vocabulary) cpu_sample_prepare(device);
}

static void cpu_close(struct device *device) {
    if (!device) return;
    cpu_attend_close(device);
    cpu_sample_close(device);
    for (int thread = 0; device->scratch && thread < device->options.n_threads; thread++)
        cpu_free(device->scratch[thread]);
    free(device->scratch);
    free(device);
}

static const char *cpu_describe(const struct device *device) {
    return device->description;
}

static struct weight *cpu_load_rope(struct device *device, int n_rotated, double base, double scale,
                                    const float *factor, int n_positions) {
    int half = n_rotated / 2;
    struct weight *weight = check_alloc(1, sizeof *weight);
    weight->rows = n_positions;
    weight->columns = n_rotated;
    weight->panel = PANEL_VECTOR;
    size_t n_floats;
    REQUIRE(check_multiply((size_t)n_positions, (size_t)n_rotated, &n_floats), "table too large");
    weight->data = cpu_alloc(n_floats * sizeof(float));
#pragma omp parallel for num_threads(device->options.n_threads) schedule(static)
    for (int position = 0; position < n_positions; position++) {
        float *row = (float *)weight->data + (size_t)position * (size_t)n_rotated;
        for (int pair = 0; pair < half; pair++) {
            double frequency = pow(base, -2.0 * pair / n_rotated) / (factor ? factor[pair] : 1.0);
            double angle = position * scale * frequency;
            row[pair] = (float)cos(angle);
            row[half + pair] = (float)sin(angle);
        }
    }
    return weight;
}

/* ---- operators --------------------------------------------------------------------------------
 */

static float *row_of(const struct value *value, int row) {
    return value_f32(value) + (size_t)row * (size_t)value->stride;
}

static void cpu_embed(struct device *device, const struct rows *rows, struct value out,
                      const struct weight *table) {
    const struct cpu_samples *before =
        device->samples ? &device->samples[2 * rows->slot + (rows->step + 1) % 2] : NULL;
#pragma omp parallel for num_threads(cpu_team(                                                     \
    device, rows->n_rows, (size_t)rows->n_rows * 16 * (size_t)table->columns)) schedule(static)
    for (int row = 0; row < rows->n_rows; row++) {
        int32_t id = rows->id[row];
        if (id < 0) id = before->token[-1 - id];
        if (device->history)
            device->history[(size_t)rows->sequence[row] * (size_t)device->limits.context +
                            (size_t)rows->position[row]] = id;
        device->kernels->unpack_row(table, id, row_of(&out, row),
                                    device->scratch[omp_get_thread_num()]);
    }
}

static void cpu_norm(struct device *device, int n_rows, struct value out, struct value x,
                     const struct weight *weight, float eps) {
    int group = weight->columns, n_groups = x.columns / group;
#pragma omp parallel for num_threads(cpu_team(device, n_rows, (size_t)n_rows *(size_t)x.columns))  \
    schedule(static)
    for (int row = 0; row < n_rows; row++) {
        for (int g = 0; g < n_groups; g++)
            device->kernels->norm(row_of(&out, row) + g * group, row_of(&x, row) + g * group,
                                  (const float *)weight->data, group, eps);
    }
}

static void cpu_matmul(struct device *device, int n_rows, struct value out, struct value x,
                       const struct weight *weight, const struct weight *bias) {
    if (n_rows == 0) return;
    struct matmul_share share = {
        .weight = weight,
        .bias = bias ? (const float *)bias->data : NULL,
        .x = value_f32(&x),
        .out = value_f32(&out),
        .x_stride = (size_t)x.stride,
        .out_stride = (size_t)out.stride,
        .n_rows = n_rows,
    };
    int n_panels = (weight->rows + PANEL_ROWS - 1) / PANEL_ROWS;
    size_t work = (size_t)weight->rows * (size_t)weight->columns * (size_t)n_rows;
#pragma omp parallel num_threads(cpu_team(device, n_panels, work))
    {
        int thread = omp_get_thread_num(), n_threads = omp_get_num_threads();
        int begin = (int)((int64_t)n_panels * thread / n_threads);
        int end = (int)((int64_t)n_panels * (thread + 1) / n_threads);
        float *scratch = device->scratch[thread];
        if (thread || !device->options.progress) {
            device->kernels->matmul(&share, begin, end, scratch);
        } else { /* the opening thread looks after the wire every few panels */
            for (int panel = begin; panel < end; panel += 8) {
                device->kernels->matmul(&share, panel, panel + 8 < end ? panel + 8 : end, scratch);
                cpu_progress(device);
            }
        }
    }
}

static void cpu_rope(struct device *device, const struct rows *rows, struct value out,
                     struct value x, struct rope_shape shape, const struct weight *table) {
#pragma omp parallel for num_threads(                                                              \
    cpu_team(device, rows->n_rows, (size_t)rows->n_rows *(size_t)x.columns)) schedule(static)
    for (int row = 0; row < rows->n_rows; row++) {
        const float *cosine =
            (const float *)table->data + (size_t)rows->position[row] * (size_t)table->columns;
        device->kernels->rope(row_of(&out, row), row_of(&x, row), cosine,
                              cosine + table->columns / 2, shape);
    }
}

static void cpu_add(struct device *device, int n_rows, struct value out, struct value a,
                    struct value b) {
#pragma omp parallel for num_threads(cpu_team(device, n_rows, (size_t)n_rows *(size_t)a.columns))  \
    schedule(static)
    for (int row = 0; row < n_rows; row++)
        device->kernels->add(row_of(&out, row), row_of(&a, row), row_of(&b, row),
                             (size_t)a.columns);
}

static void cpu_add_norm(struct device *device, int n_rows, struct value sum, struct value out,
                         struct value a, struct value b, const struct weight *weight, float eps) {
    cpu_add(device, n_rows, sum, a, b);
    cpu_norm(device, n_rows, out, sum, weight, eps);
}

static void cpu_swiglu(struct device *device, int n_rows, struct value out, struct value gate,
                       struct value up) {
#pragma omp parallel for num_threads(                                                              \
    cpu_team(device, n_rows, (size_t)n_rows *(size_t)gate.columns)) schedule(static)
    for (int row = 0; row < n_rows; row++)
        device->kernels->swiglu(row_of(&out, row), row_of(&gate, row), row_of(&up, row),
                                (size_t)gate.columns);
}

static void cpu_matmul_swiglu(struct device *device, int n_rows, struct value out,
                              struct value both, struct value x, const struct weight *weight) {
    struct value gate = both, up = both;
    gate.columns = up.columns = out.columns;
    up.offset += (size_t)out.columns * element_bytes(both.element);
    cpu_matmul(device, n_rows, both, x, weight, NULL);
    cpu_swiglu(device, n_rows, out, gate, up);
}

static void cpu_pick(struct device *device, const struct rows *rows, struct value out,
                     struct value x) {
    (void)device;
    for (int row = 0; row < rows->n_picked; row++)
        memcpy(row_of(&out, row), row_of(&x, rows->picked[row]), (size_t)x.columns * sizeof(float));
}

static void cpu_pack_kv(struct device *device, int n_rows, struct value out, struct value k,
                        struct value v, int head_dim) {
    size_t half = (size_t)head_dim * element_bytes(out.element);
    int n_heads = k.columns / head_dim;
    for (int row = 0; row < n_rows; row++) {
        unsigned char *to = out.buffer->data + out.offset +
                            (size_t)row * (size_t)out.stride * element_bytes(out.element);
        for (int head = 0; head < n_heads; head++, to += 2 * half) {
            device->kernels->round_to(out.element, to, row_of(&k, row) + head * head_dim,
                                      (size_t)head_dim);
            device->kernels->round_to(out.element, to + half, row_of(&v, row) + head * head_dim,
                                      (size_t)head_dim);
        }
    }
}

static void cpu_append_kv(struct device *device, const struct rows *rows,
                          const struct kv_cache *cache, int layer, struct value kv) {
    (void)device;
    size_t token_bytes = (size_t)cache->head_dim * element_bytes(cache->element);
    size_t half = PAGE_TOKENS * token_bytes, page_bytes = (size_t)cache->n_kv_heads * 2 * half;
    size_t row_bytes = (size_t)kv.stride * element_bytes(kv.element);
    for (int c = 0; c < rows->n_chunks; c++) {
        const struct chunk *chunk = &rows->chunk[c];
        for (int row = 0; row < chunk->n_rows; row++) {
            int position = chunk->first_position + row;
            size_t page = (size_t)layer * (size_t)cache->n_pages +
                          (size_t)chunk->page[position / PAGE_TOKENS];
            unsigned char *to = cache->buffer->data + page * page_bytes +
                                (size_t)(position % PAGE_TOKENS) * token_bytes;
            const unsigned char *from =
                kv.buffer->data + kv.offset + (size_t)(chunk->first_row + row) * row_bytes;
            for (int part = 0; part < 2 * cache->n_kv_heads; part++)
                memcpy(to + (size_t)part * half, from + (size_t)part * token_bytes, token_bytes);
        }
    }
}

static void cpu_rope_pack(struct device *device, const struct rows *rows, struct value kv,
                          struct turned k, struct value v) {
    cpu_rope(device, rows, k.out, k.x, k.shape, k.table);
    cpu_pack_kv(device, rows->n_rows, kv, k.out, v, k.shape.head_dim);
}

static void cpu_rope_append(struct device *device, const struct rows *rows, struct turned q,
                            struct turned k, struct value v, struct value kv,
                            const struct kv_cache *cache, int layer) {
    cpu_rope(device, rows, q.out, q.x, q.shape, q.table);
    cpu_rope_pack(device, rows, kv, k, v);
    cpu_append_kv(device, rows, cache, layer, kv);
}

const struct device_ops device_cpu = {
    .name = "cpu",
    .activation = ELEMENT_F32,
    .count = cpu_count,
    .identify = cpu_identify,
    .start = cpu_start,
    .locate = cpu_locate,
    .energy_uj = cpu_energy_uj,
    .free_bytes = cpu_free_bytes,
    .weight_bytes = cpu_weight_bytes,
    .open = cpu_open,
    .prepare = cpu_prepare,
    .prepare_bytes = cpu_prepare_bytes,
    .close = cpu_close,
    .describe = cpu_describe,
    .alloc = cpu_buffer_alloc,
    .release = cpu_buffer_release,
    .upload = cpu_upload,
    .download = cpu_download,
    .alloc_host = cpu_alloc_host,
    .release_host = cpu_release_host,
    .read_rows = cpu_read_rows,
    .write_rows = cpu_write_rows,
    .settle = cpu_settle,
    .read_page = cpu_read_page,
    .seal = cpu_seal,
    .load = cpu_load,
    .unload = cpu_unload,
    .load_rope = cpu_load_rope,
    .begin = cpu_begin,
    .replay = cpu_replay,
    .recorded = cpu_recorded,
    .embed = cpu_embed,
    .norm = cpu_norm,
    .matmul = cpu_matmul,
    .rope = cpu_rope,
    .add = cpu_add,
    .add_norm = cpu_add_norm,
    .swiglu = cpu_swiglu,
    .matmul_swiglu = cpu_matmul_swiglu,
    .pick = cpu_pick,
    .pack_kv = cpu_pack_kv,
    .append_kv = cpu_append_kv,
    .rope_pack = cpu_rope_pack,
    .rope_append = cpu_rope_append,
    .attend = cpu_attend,
    .sample = cpu_sample,
    .put_history = cpu_put_history,
    .take_tokens = cpu_take_tokens,
    .read_ways = cpu_read_ways,
    .read_stream = cpu_read_stream,
    .copy = cpu_copy,
    .lap = cpu_lap,
    .times = cpu_times,
};
