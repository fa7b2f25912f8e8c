/* device_cuda.cu - the CUDA device: memory, weights, and the rows of a step (device.h).
 *
 * Weights are bf16, whatever the file holds: tensor cores want them so, and a GPU has the room that
 * a CPU rank saves by keeping blocks quantised. Vectors (norms, biases) stay f32. Loading unpacks on
 * the host, in pieces through pinned memory, because every storage type is described once, in the
 * table of quant.h.
 *
 * begin copies what a step says of its rows into a ring of pinned blocks and from there to the slot's
 * tables with one copy on the compute stream: kernels of the step before have read theirs by then, and
 * a pinned block comes up again only when its copy is long done. Bits: results of a row do not depend
 * on its neighbours' values, but cuBLAS may sum in another order for another number of rows, so what
 * the CPU promises bit by bit is promised here to a tolerance (docs/design.md section 6).
 */
#include <ctype.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "architectures.h"
#include "cuda_device.h"

void cuda_check(cudaError_t error, const char *call, const char *file, int line) {
    if (error == cudaSuccess) return;
    check_fail("%s:%d: %s: %s", file, line, call, cudaGetErrorString(error));
}

/* ---- memory -----------------------------------------------------------------------------------
 */

static struct buffer *buffer_alloc(struct device *device, size_t n_bytes) {
    struct buffer *buffer = (struct buffer *)check_alloc(1, sizeof *buffer);
    buffer->n_bytes = n_bytes;
    size_t padded = (n_bytes + 255) / 256 * 256 + 256; /* kernels may read whole vectors */
    CHECK_CUDA(cudaMalloc((void **)&buffer->data, padded));
    CHECK_CUDA(cudaMemsetAsync(buffer->data, 0, padded, device->stream));
    return buffer;
}

static void buffer_release(struct device *device, struct buffer *buffer) {
    (void)device;
    if (!buffer) return;
    CHECK_CUDA(cudaFree(buffer->data));
    free(buffer);
}

static void upload(struct device *device, struct buffer *to, size_t offset, const void *from,
                   size_t n_bytes) {
    REQUIRE(offset + n_bytes <= to->n_bytes, "upload past the end of a buffer");
    CHECK_CUDA(cudaMemcpyAsync(to->data + offset, from, n_bytes, cudaMemcpyHostToDevice,
                               device->stream));
    cuda_settle(device);
}

static void download(struct device *device, void *to, struct buffer *from, size_t offset,
                     size_t n_bytes) {
    REQUIRE(offset + n_bytes <= from->n_bytes, "download past the end of a buffer");
    CHECK_CUDA(cudaMemcpyAsync(to, from->data + offset, n_bytes, cudaMemcpyDeviceToHost,
                               device->stream));
    cuda_settle(device);
}

/* Wires copy on the compute stream, behind what was enqueued. */
static void seal(struct device *device, const struct value *value) {
    (void)device, (void)value;
}

/* ---- the rows of a step -----------------------------------------------------------------------
 */

enum { RING = 4 };

struct staging {
    size_t n_bytes, page_offset;
    int max_pages;
    unsigned char *device;       /* (n_bytes) */
    unsigned char *pinned[RING]; /* (n_bytes) each */
    cudaEvent_t copied[RING];
    int next;
};

static size_t put_table(size_t *offset, size_t count, size_t size) {
    size_t at = *offset;
    *offset += (count * size + 63) / 64 * 64;
    return at;
}

/* Offsets of the tables in a slot's block. */
struct tables {
    size_t n_live, id, position, sequence, row_chunk, picked, chunk, page;
};

static struct tables lay_out(const struct device_limits *limits, size_t max_pages,
                             size_t *n_bytes) {
    size_t rows = (size_t)limits->max_rows, end = 0;
    struct tables tables;
    tables.n_live = put_table(&end, 1, sizeof(int32_t));
    tables.id = put_table(&end, rows, sizeof(int32_t));
    tables.position = put_table(&end, rows, sizeof(int32_t));
    tables.sequence = put_table(&end, rows, sizeof(int32_t));
    tables.row_chunk = put_table(&end, rows, sizeof(int32_t));
    tables.picked = put_table(&end, (size_t)limits->max_picked, sizeof(int32_t));
    tables.chunk = put_table(&end, rows, sizeof(struct cuda_chunk));
    tables.page = put_table(&end, max_pages, sizeof(int32_t)); /* last: only what is used travels */
    *n_bytes = end;
    return tables;
}

static void open_rows(struct cuda_rows *rows, const struct device_limits *limits) {
    struct staging *staging = (struct staging *)check_alloc(1, sizeof *staging);
    int pages = (limits->context + PAGE_TOKENS - 1) / PAGE_TOKENS;
    int sequences = limits->max_sequences < limits->max_rows ? limits->max_sequences
                                                              : limits->max_rows;
    staging->max_pages = pages * sequences;
    struct tables tables = lay_out(limits, (size_t)staging->max_pages, &staging->n_bytes);
    staging->page_offset = tables.page;
    CHECK_CUDA(cudaMalloc((void **)&staging->device, staging->n_bytes));
    for (int at = 0; at < RING; at++) {
        CHECK_CUDA(cudaMallocHost((void **)&staging->pinned[at], staging->n_bytes));
        CHECK_CUDA(cudaEventCreateWithFlags(&staging->copied[at], cudaEventDisableTiming));
    }
    unsigned char *base = staging->device;
    rows->staging = staging;
    rows->n_live = (int32_t *)(base + tables.n_live);
    rows->id = (int32_t *)(base + tables.id);
    rows->position = (int32_t *)(base + tables.position);
    rows->sequence = (int32_t *)(base + tables.sequence);
    rows->row_chunk = (int32_t *)(base + tables.row_chunk);
    rows->picked = (int32_t *)(base + tables.picked);
    rows->chunk = (struct cuda_chunk *)(base + tables.chunk);
    rows->page = (int32_t *)(base + tables.page);
}

static void close_rows(struct cuda_rows *rows) {
    struct staging *staging = rows->staging;
    if (!staging) return;
    for (int at = 0; at < RING; at++) {
        CHECK_CUDA(cudaFreeHost(staging->pinned[at]));
        CHECK_CUDA(cudaEventDestroy(staging->copied[at]));
    }
    CHECK_CUDA(cudaFree(staging->device));
    free(staging);
}

/* Chunks and their lists of pages; returns how many pages are listed. */
static int write_chunks(const struct rows *rows, struct cuda_chunk *chunk, int32_t *row_chunk,
                        int32_t *page, int max_pages) {
    int n_pages = 0;
    for (int c = 0; c < rows->n_chunks; c++) {
        const struct chunk *from = &rows->chunk[c];
        int end = from->first_position + from->n_rows;
        int n = from->page ? (end + PAGE_TOKENS - 1) / PAGE_TOKENS : 0;
        REQUIRE(n_pages + n <= max_pages, "more pages than the limits allow");
        chunk[c] = (struct cuda_chunk){from->first_row, from->n_rows, from->first_position, n_pages};
        for (int row = 0; row < from->n_rows; row++)
            row_chunk[from->first_row + row] = c;
        if (n) memcpy(page + n_pages, from->page, (size_t)n * sizeof *page);
        n_pages += n;
    }
    return n_pages;
}

/* `n` entries, and zeros behind them up to `n_padded`. */
static void copy_if(void *to, const int32_t *from, int n, int n_padded) {
    if (!from) return;
    memcpy(to, from, (size_t)n * sizeof *from);
    if (n < n_padded) memset((int32_t *)to + n, 0, (size_t)(n_padded - n) * sizeof *from);
}

static void begin(struct device *device, const struct rows *rows) {
    struct cuda_rows *to = &device->rows[rows->slot];
    struct staging *staging = to->staging;
    int at = staging->next++ % RING;
    wait_for_event(device, staging->copied[at]);
    unsigned char *pinned = staging->pinned[at];
    size_t n_bytes;
    struct tables tables = lay_out(&device->limits, (size_t)staging->max_pages, &n_bytes);
    int most = replay_most_rows(device);
    to->n_padded = replay_rows(device, rows);
    to->step = rows->step;
    *(int32_t *)(pinned + tables.n_live) = rows->n_rows;
    copy_if(pinned + tables.id, rows->id, rows->n_rows, most);
    copy_if(pinned + tables.position, rows->position, rows->n_rows, most);
    copy_if(pinned + tables.sequence, rows->sequence, rows->n_rows, most);
    copy_if(pinned + tables.picked, rows->picked, rows->n_picked, most);
    to->host_chunk = (struct cuda_chunk *)(pinned + tables.chunk);
    int n_pages = write_chunks(rows, (struct cuda_chunk *)(pinned + tables.chunk),
                               (int32_t *)(pinned + tables.row_chunk),
                               (int32_t *)(pinned + tables.page), staging->max_pages);
    to->n_rows = rows->n_rows;
    to->n_chunks = rows->n_chunks;
    to->n_picked = rows->n_picked;
    CHECK_CUDA(cudaMemcpyAsync(staging->device, pinned,
                               tables.page + (size_t)n_pages * sizeof(int32_t),
                               cudaMemcpyHostToDevice, device->stream));
    CHECK_CUDA(cudaEventRecord(staging->copied[at], device->stream));
    if (device->sampler) sample_begin(device, rows);
    if (device->attention) attend_begin(device, rows);
}

/* ---- opening ----------------------------------------------------------------------------------
 */

/* 13000 is 13.0. */
static void write_cuda_version(char text[16], int version) {
    snprintf(text, 16, "%d.%d", version / 1000, version % 1000 / 10);
}

/* A driver has the version of the newest CUDA that it runs, and is none (0) on a host without. */
static const char *version(void) {
    static char text[96];
    char ours[16], its[16];
    int runtime = 0, driver = 0, products = matmul_version();
    CHECK_CUDA(cudaRuntimeGetVersion(&runtime));
    CHECK_CUDA(cudaDriverGetVersion(&driver));
    write_cuda_version(ours, runtime);
    write_cuda_version(its, driver);
    snprintf(text, sizeof text, "%s (%s%s), cuBLAS %d.%d.%d", ours,
             driver ? "driver for " : "no driver", driver ? its : "", products / 10000,
             products / 100 % 100, products % 100);
    return text;
}

static int count(void) {
    int n_devices = 0;
    return cudaGetDeviceCount(&n_devices) == cudaSuccess ? n_devices : 0;
}

static bool available(const struct device_options *options, struct fault *fault) {
    int n_devices = 0;
    cudaError_t error = cudaGetDeviceCount(&n_devices);
    if (error == cudaSuccess && n_devices == 0) error = cudaErrorNoDevice;
    if (error != cudaSuccess)
        return fault_user(fault, "no GPU is visible: %s", cudaGetErrorString(error));
    int index = options->index % n_devices;
    struct cudaDeviceProp properties;
    CHECK_CUDA(cudaGetDeviceProperties(&properties, index));
    if (architectures_run(LAMINA_CUDA_ARCHITECTURES, properties.major, properties.minor)) return true;
    return fault_user(fault,
                      "GPU %d, %s, has compute capability %d.%d, and this lamina was compiled for "
                      "%s (CMAKE_CUDA_ARCHITECTURES)",
                      index, properties.name, properties.major, properties.minor,
                      LAMINA_CUDA_ARCHITECTURES);
}

static void identify(const struct device_options *options, char id[DEVICE_ID_BYTES]) {
    struct cudaDeviceProp properties;
    CHECK_CUDA(cudaGetDeviceProperties(&properties, options->index % count()));
    for (int at = 0; at < 16; at++)
        snprintf(id + 2 * at, 3, "%02x", (unsigned char)properties.uuid.bytes[at]);
}

static void start(const struct device_options *options) {
    CHECK_CUDA(cudaSetDevice(options->index % count()));
    CHECK_CUDA(cudaFree(NULL));
}

/* In the letters that the kernel uses. */
static void write_bus(char bus[24], int index) {
    CHECK_CUDA(cudaDeviceGetPCIBusId(bus, 24, index));
    for (char *at = bus; *at; at++)
        *at = (char)tolower((unsigned char)*at);
}

/* The runtime names no links. Atomics on another GPU's memory work over NVLink and not over PCIe. */
static bool is_linked(int from, int to) {
    int reaches = 0, atomics = 0;
    CHECK_CUDA(cudaDeviceCanAccessPeer(&reaches, from, to));
    if (!reaches) return false;
    CHECK_CUDA(
        cudaDeviceGetP2PAttribute(&atomics, cudaDevP2PAttrNativeAtomicSupported, from, to));
    return atomics != 0;
}

static void locate(const struct device_options *options, struct device_place *place) {
    *place = {};
    place->n_visible = count();
    place->index = options->index % place->n_visible;
    write_bus(place->bus, place->index);
    for (int other = 0; other < place->n_visible && other < 64; other++) {
        if (other != place->index && is_linked(place->index, other))
            place->links |= (uint64_t)1 << other;
    }
}

static int64_t free_bytes(const struct device_options *options) {
    size_t n_free = 0, n_all = 0;
    if (cudaSetDevice(options->index % count()) != cudaSuccess ||
        cudaMemGetInfo(&n_free, &n_all) != cudaSuccess)
        return 0;
    return (int64_t)n_free;
}

static int count_rows(const struct tensor *part, int n_parts) {
    int n_rows = 0;
    for (int at = 0; at < n_parts; at++)
        n_rows += part[at].rows;
    return n_rows;
}

/* (rows, columns) padded to multiples of 8, bf16; a vector besides. */
static size_t weight_bytes(const struct tensor *part, int n_parts) {
    size_t rows = (size_t)count_rows(part, n_parts);
    size_t columns = (size_t)part->columns, stride = (columns + 7) / 8 * 8;
    return rows * stride * sizeof(__nv_bfloat16) + (rows == 1 ? columns * sizeof(float) : 0);
}

static bool cuda_open(struct device **opened, const struct device_options *options,
                      struct fault *fault) {
    if (!available(options, fault)) return false;
    int index = options->index % count();
    struct cudaDeviceProp properties;
    CHECK_CUDA(cudaSetDevice(index));
    CHECK_CUDA(cudaGetDeviceProperties(&properties, index));
    struct device *device = (struct device *)check_alloc(1, sizeof *device);
    device->options = *options;
    device->n_processors = properties.multiProcessorCount;
    char bus[24];
    write_bus(bus, index);
    snprintf(device->description, sizeof device->description, "cuda %d, %.100s, %s", index,
             properties.name, bus);
    device->index = index;
    CHECK_CUDA(cudaStreamCreateWithFlags(&device->stream, cudaStreamNonBlocking));
    CHECK_CUDA(cudaStreamCreateWithFlags(&device->copies, cudaStreamNonBlocking));
    *opened = device;
    return true;
}

/* The tables of steps, what products and samples work in, and the attention's states. */
static size_t prepare_bytes(const struct device_options *options,
                            const struct device_limits *limits) {
    (void)options;
    size_t pages = (size_t)((limits->context + PAGE_TOKENS - 1) / PAGE_TOKENS);
    size_t sequences = (size_t)(limits->max_sequences < limits->max_rows ? limits->max_sequences
                                                                           : limits->max_rows);
    size_t a_slot;
    lay_out(limits, pages * sequences, &a_slot);
    return (size_t)limits->n_slots * a_slot +
           (limits->vocabulary ? matmul_bytes() + sample_bytes(limits) : 0) +
           (limits->head_dim ? attend_bytes(limits) : 0);
}

static void prepare(struct device *device, const struct device_limits *limits) {
    device->limits = *limits;
    device->rows = (struct cuda_rows *)check_alloc((size_t)limits->n_slots, sizeof *device->rows);
    for (int slot = 0; slot < limits->n_slots; slot++)
        open_rows(&device->rows[slot], limits);
    replay_prepare(device);
    if (limits->vocabulary) {
        matmul_prepare(device);
        sample_prepare(device);
    }
    if (limits->head_dim) attend_prepare(device);
}

static void cuda_close(struct device *device) {
    if (!device) return;
    CHECK_CUDA(cudaStreamSynchronize(device->stream));
    replay_close(device);
    stream_close(device);
    attend_close(device);
    sample_close(device);
    matmul_close(device);
    for (int slot = 0; device->rows && slot < device->limits.n_slots; slot++)
        close_rows(&device->rows[slot]);
    CHECK_CUDA(cudaStreamDestroy(device->copies));
    CHECK_CUDA(cudaStreamDestroy(device->stream));
    free(device->rows);
    free(device);
}

static const char *describe(const struct device *device) {
    return device->description;
}

/* ---- weights ----------------------------------------------------------------------------------
 */

/* Pieces of about this many elements pass through pinned memory, two in turn. */
enum { PIECE_ELEMENTS = 1 << 22 };

static void unpack_rows(const struct tensor *tensor, int first, int n, __nv_bfloat16 *out,
                        int stride) {
    const struct quant_type *type = &quant_types[tensor->type];
    size_t columns = (size_t)tensor->columns, row_bytes = quant_bytes(tensor->type, columns);
#pragma omp parallel
    {
        float *row = (float *)check_alloc(columns, sizeof *row);
#pragma omp for schedule(static)
        for (int at = 0; at < n; at++) {
            type->unpack((const unsigned char *)tensor->data + (size_t)(first + at) * row_bytes,
                         columns, row);
            __nv_bfloat16 *to = out + (size_t)at * (size_t)stride;
            for (size_t k = 0; k < columns; k++)
                to[k] = __float2bfloat16_rn(row[k]);
            for (int k = tensor->columns; k < stride; k++)
                to[k] = __float2bfloat16_rn(0);
        }
        free(row);
    }
}

/* A tensor into the rows of the matrix from `to` on. */
static void load_rows(struct device *device, struct weight *weight, int to,
                      const struct tensor *tensor) {
    size_t stride = (size_t)weight->stride;
    __nv_bfloat16 *matrix = weight->matrix + (size_t)to * stride;
    int n_rows = PIECE_ELEMENTS / weight->stride + 1;
    if (n_rows > tensor->rows) n_rows = tensor->rows;
    size_t piece = (size_t)n_rows * stride;
    __nv_bfloat16 *pinned;
    CHECK_CUDA(cudaMallocHost((void **)&pinned, piece * sizeof *pinned));
    for (int first = 0; first < tensor->rows; first += n_rows) {
        int these = first + n_rows < tensor->rows ? n_rows : tensor->rows - first;
        unpack_rows(tensor, first, these, pinned, weight->stride);
        CHECK_CUDA(cudaMemcpyAsync(matrix + (size_t)first * stride, pinned,
                                   (size_t)these * stride * sizeof *pinned, cudaMemcpyHostToDevice,
                                   device->stream));
        CHECK_CUDA(cudaStreamSynchronize(device->stream));
    }
    CHECK_CUDA(cudaFreeHost(pinned));
}

/* A weight of all these rows, with an empty matrix. */
static struct weight *open_weight(const struct tensor *part, int n_parts) {
    struct weight *weight = (struct weight *)check_alloc(1, sizeof *weight);
    size_t n;
    weight->rows = count_rows(part, n_parts);
    weight->columns = part->columns;
    weight->stride = (part->columns + 7) / 8 * 8;
    REQUIRE(check_multiply((size_t)weight->rows, (size_t)weight->stride, &n), "%s is too large",
            part->name);
    CHECK_CUDA(cudaMalloc((void **)&weight->matrix, n * sizeof *weight->matrix));
    for (int at = 0; at < n_parts; at++)
        REQUIRE(part[at].columns == weight->columns, "%s: %d columns beside %d", part[at].name,
                part[at].columns, weight->columns);
    return weight;
}

static void load_vector(struct weight *weight, const struct tensor *tensor) {
    size_t n = (size_t)tensor->columns;
    float *row = (float *)check_alloc(n, sizeof *row);
    quant_types[tensor->type].unpack(tensor->data, n, row);
    CHECK_CUDA(cudaMalloc((void **)&weight->vector, n * sizeof *row));
    CHECK_CUDA(cudaMemcpy(weight->vector, row, n * sizeof *row, cudaMemcpyHostToDevice));
    free(row);
}

/* A weight of one row may serve as a vector or as a matrix: it is kept as both. */
static struct weight *load(struct device *device, const struct tensor *part, int n_parts) {
    struct weight *weight = open_weight(part, n_parts);
    if (weight->rows == 1) load_vector(weight, part);
    for (int at = 0, to = 0; at < n_parts; to += part[at++].rows)
        load_rows(device, weight, to, &part[at]);
    return weight;
}

static struct weight *load_noise(struct device *device, const struct tensor *part,
                                 const struct noise *noise, int n_parts) {
    struct weight *weight = open_weight(part, n_parts);
    for (int at = 0, to = 0; at < n_parts; to += part[at++].rows)
        noise_rows(device, weight->matrix + (size_t)to * weight->stride, weight->stride, &part[at],
                   &noise[at]);
    CHECK_CUDA(cudaStreamSynchronize(device->stream));
    return weight;
}

static void unload(struct device *device, struct weight *weight) {
    (void)device;
    if (!weight) return;
    if (weight->matrix) CHECK_CUDA(cudaFree(weight->matrix));
    if (weight->vector) CHECK_CUDA(cudaFree(weight->vector));
    free(weight);
}

static struct weight *load_rope(struct device *device, int n_rotated, double base, double scale,
                                const float *factor, int n_positions) {
    (void)device;
    int half = n_rotated / 2;
    size_t n;
    REQUIRE(check_multiply((size_t)n_positions, (size_t)n_rotated, &n), "table too large");
    float *table = (float *)check_alloc(n, sizeof *table);
#pragma omp parallel for schedule(static)
    for (int position = 0; position < n_positions; position++) {
        float *row = table + (size_t)position * (size_t)n_rotated;
        for (int pair = 0; pair < half; pair++) {
            double frequency = pow(base, -2.0 * pair / n_rotated) / (factor ? factor[pair] : 1.0);
            double angle = position * scale * frequency;
            row[pair] = (float)cos(angle);
            row[half + pair] = (float)sin(angle);
        }
    }
    struct weight *weight = (struct weight *)check_alloc(1, sizeof *weight);
    weight->rows = n_positions;
    weight->columns = n_rotated;
    CHECK_CUDA(cudaMalloc((void **)&weight->vector, n * sizeof *table));
    CHECK_CUDA(cudaMemcpy(weight->vector, table, n * sizeof *table, cudaMemcpyHostToDevice));
    free(table);
    return weight;
}

static struct device_ops make_ops(void) {
    struct device_ops ops = {};
    ops.name = "cuda";
    ops.activation = ELEMENT_BF16;
    ops.joins_weights = true;
    ops.version = version;
    ops.count = count;
    ops.available = available;
    ops.identify = identify;
    ops.start = start;
    ops.locate = locate;
    ops.free_bytes = free_bytes;
    ops.weight_bytes = weight_bytes;
    ops.prepare_bytes = prepare_bytes;
    ops.energy_uj = cuda_energy_uj;
    ops.open = cuda_open;
    ops.prepare = prepare;
    ops.close = cuda_close;
    ops.describe = describe;
    ops.alloc = buffer_alloc;
    ops.release = buffer_release;
    ops.upload = upload;
    ops.download = download;
    ops.alloc_host = cuda_alloc_host;
    ops.release_host = cuda_release_host;
    ops.read_rows = cuda_read_rows;
    ops.write_rows = cuda_write_rows;
    ops.settle = cuda_settle;
    ops.read_page = cuda_read_page;
    ops.seal = seal;
    ops.load = load;
    ops.load_noise = load_noise;
    ops.unload = unload;
    ops.load_rope = load_rope;
    ops.begin = begin;
    ops.replay = cuda_replay;
    ops.recorded = cuda_recorded;
    ops.embed = cuda_embed;
    ops.norm = cuda_norm;
    ops.matmul = cuda_matmul;
    ops.rope = cuda_rope;
    ops.add = cuda_add;
    ops.add_norm = cuda_add_norm;
    ops.swiglu = cuda_swiglu;
    ops.matmul_swiglu = cuda_matmul_swiglu;
    ops.pick = cuda_pick;
    ops.pack_kv = cuda_pack_kv;
    ops.append_kv = cuda_append_kv;
    ops.rope_pack = cuda_rope_pack;
    ops.rope_append = cuda_rope_append;
    ops.attend = cuda_attend;
    ops.sample = cuda_sample;
    ops.put_history = cuda_put_history;
    ops.take_tokens = cuda_take_tokens;
    ops.read_ways = cuda_read_ways;
    ops.read_stream = cuda_read_stream;
    ops.copy = cuda_copy;
    ops.lap = cuda_lap;
    ops.times = cuda_times;
    return ops;
}

extern "C" const struct device_ops device_cuda = make_ops();
