/* turn.cu - heads on their way from a product to attention: turned by their rows' positions, rounded
 * to the type of the cache, packed for a message or written into their pages (device.h: rope, pack_kv,
 * rope_pack, rope_append).
 *
 * One kernel does any part of that at once, since each boundary between kernels costs a decode step
 * more than this work does. A thread takes two runs of columns of a head whose pairs turn together;
 * where it reads and writes, and its angles, it finds before it waits for the product.
 */
#include <cuda_fp16.h>

#include "cuda_device.h"

enum { Q, K, V, KINDS };

/* Heads of one kind. */
struct turn_part {
    const void *x;
    void *out;
    int n_heads; /* 0: none of this kind */
    int stride, out_stride, out_head; /* elements from row to row, and of `out` from head to head */
    const float *table;               /* NULL: nothing turns */
};

struct turn_call {
    struct turn_part part[KINDS];
    int head_dim, turning; /* pairs of a head that turn */
    bool interleaved;
    const int32_t *position;
    /* K and V go into pages; NULL: rows stand one behind another */
    const int32_t *page;
    const struct cuda_chunk *chunk;
    const int32_t *row_chunk, *n_live;
    int page_elements;
};

template <class T, int N> struct __align__(N * sizeof(T)) run {
    T x[N];
};

/* Elements before those of a row's first head in the cache: (pages, kv heads, K|V, tokens, dim). */
__device__ inline size_t place_in_pages(const turn_call &call, int row) {
    cuda_chunk c = call.chunk[call.row_chunk[row]];
    int position = c.first_position + row - c.first_row;
    return (size_t)call.page[c.first_page + position / PAGE_TOKENS] * (size_t)call.page_elements +
           (size_t)(position % PAGE_TOKENS) * (size_t)call.head_dim;
}

template <class T> __device__ inline void turn_pair(T &a, T &b, float cosine, float sine) {
    float xa = to_float(a), xb = to_float(b);
    a = from_float<T>(fmaf(xa, cosine, -(xb * sine)));
    b = from_float<T>(fmaf(xa, sine, xb * cosine));
}

/* T: of activations; To: of the cache. A thread has P pairs. */
template <class T, class To, int P>
__global__ void turn_kernel(const __grid_constant__ turn_call call) {
    let_next_begin();
    int row = (int)blockIdx.x, at = (int)(blockIdx.y * blockDim.x + threadIdx.x);
    int a_head = call.head_dim / (2 * P), pair = at % a_head * P, head = at / a_head, kind = Q;
    while (kind < KINDS && head >= call.part[kind].n_heads)
        head -= call.part[kind++].n_heads;
    bool paged = call.page && kind != Q;
    if (kind == KINDS || (paged && row >= *call.n_live)) return wait_for_inputs();
    const turn_part &part = call.part[kind];
    bool turns = part.table && pair < call.turning, apart = turns && !call.interleaved;
    int first = apart ? pair : 2 * pair, second = apart ? pair + call.turning : 2 * pair + P;
    size_t to = paged ? place_in_pages(call, row) : (size_t)row * (size_t)part.out_stride;
    to += (size_t)head * (size_t)part.out_head;
    run<float, P> cosine = {}, sine = {};
    if (turns) {
        const float *angles =
            part.table + (size_t)call.position[row] * (size_t)(2 * call.turning) + pair;
        cosine = *(const run<float, P> *)angles;
        sine = *(const run<float, P> *)(angles + call.turning);
    }
    wait_for_inputs();
    const T *x = (const T *)part.x + (size_t)row * (size_t)part.stride + head * call.head_dim;
    run<T, P> half[2] = {*(const run<T, P> *)(x + first), *(const run<T, P> *)(x + second)};
#pragma unroll
    for (int k = 0; k < P; k++) {
        if (apart) {
            turn_pair(half[0].x[k], half[1].x[k], cosine.x[k], sine.x[k]);
        } else if (turns) { /* neighbours in the two runs, which stand together */
            turn_pair(half[2 * k / P].x[2 * k % P], half[(2 * k + 1) / P].x[(2 * k + 1) % P],
                      cosine.x[k], sine.x[k]);
        }
    }
    if (kind == Q) {
        T *out = (T *)part.out + to;
        *(run<T, P> *)(out + first) = half[0];
        *(run<T, P> *)(out + second) = half[1];
        return;
    }
    run<To, P> kept[2];
#pragma unroll
    for (int k = 0; k < P; k++) {
        kept[0].x[k] = from_float<To>(to_float(half[0].x[k]));
        kept[1].x[k] = from_float<To>(to_float(half[1].x[k]));
    }
    To *out = (To *)part.out + to;
    *(run<To, P> *)(out + first) = kept[0];
    *(run<To, P> *)(out + second) = kept[1];
}

/* ---- launches ---------------------------------------------------------------------------------
 */

enum { AT_ONCE = 4, TURN_THREADS = 128 };

/* Rows of x and the first of each head's two runs of n elements can be taken n at a time. */
static bool is_run_of(const struct value *value, int n) {
    return is_multiple(value, (size_t)n * element_bytes(value->element));
}

template <class T, class To>
static void launch_turn(struct device *device, int n_rows, const struct turn_call &call,
                        bool at_once) {
    int pairs = call.head_dim / 2 / (at_once ? AT_ONCE : 1);
    int n = 0;
    for (int kind = 0; kind < KINDS; kind++)
        n += call.part[kind].n_heads * pairs;
    dim3 grid((unsigned)launch_rows(device, n_rows), (unsigned)((n + TURN_THREADS - 1) / TURN_THREADS));
    launch_following(device, at_once ? turn_kernel<T, To, AT_ONCE> : turn_kernel<T, To, 1>, grid,
                     TURN_THREADS, 0, call);
}

/* `kept`: of K and V; that of activations where there are none. */
static void turn(struct device *device, int n_rows, const struct turn_call &call, bool at_once,
                 enum element activation, enum element kept) {
    if (n_rows == 0) return;
    REQUIRE(call.head_dim % 2 == 0, "heads of %d", call.head_dim);
    at_once = at_once && call.head_dim % (2 * AT_ONCE) == 0 && call.turning % AT_ONCE == 0;
    WITH_TYPE(activation, T,
              if (kept == ELEMENT_F32) launch_turn<T, float>(device, n_rows, call, at_once);
              if (kept == ELEMENT_F16) launch_turn<T, __half>(device, n_rows, call, at_once);
              if (kept == ELEMENT_BF16)
                  launch_turn<T, __nv_bfloat16>(device, n_rows, call, at_once););
}

/* Heads of x as they are, or turned. */
static struct turn_part part_of(const struct value *x, int head_dim, const struct weight *table) {
    struct turn_part part = {};
    part.x = value_data(x);
    part.stride = x->stride;
    part.n_heads = x->columns / head_dim;
    part.table = table ? table->vector : NULL;
    return part;
}

static struct turn_call call_of(const struct device *device, const struct rows *rows,
                                const struct rope_shape *shape) {
    struct turn_call call = {};
    call.head_dim = shape->head_dim;
    call.turning = shape->n_rotated / 2;
    call.interleaved = shape->interleaved;
    call.position = device->rows[rows->slot].position;
    return call;
}

void cuda_rope(struct device *device, const struct rows *rows, struct value out, struct value x,
               struct rope_shape shape, const struct weight *table) {
    REQUIRE(x.element == out.element, "heads are turned in the type that they have");
    struct turn_call call = call_of(device, rows, &shape);
    call.part[Q] = part_of(&x, shape.head_dim, table);
    call.part[Q].out = value_data(&out);
    call.part[Q].out_stride = out.stride;
    call.part[Q].out_head = shape.head_dim;
    turn(device, rows->n_rows, call, is_run_of(&x, AT_ONCE) && is_run_of(&out, AT_ONCE), x.element,
         x.element);
}

/* K and V behind one another, head for head, at `out`. */
static void pack_into(struct turn_call *call, const struct value *out, const struct value *k,
                      const struct value *v, const struct weight *table) {
    call->part[K] = part_of(k, call->head_dim, table);
    call->part[V] = part_of(v, call->head_dim, NULL);
    for (int kind = K; kind <= V; kind++) {
        struct turn_part *part = &call->part[kind];
        part->out = (unsigned char *)value_data(out) +
                    (kind == V ? (size_t)call->head_dim * element_bytes(out->element) : 0);
        part->out_stride = out->stride;
        part->out_head = 2 * call->head_dim;
    }
}

void cuda_pack_kv(struct device *device, int n_rows, struct value out, struct value k,
                  struct value v, int head_dim) {
    struct turn_call call = {};
    call.head_dim = head_dim;
    pack_into(&call, &out, &k, &v, NULL);
    bool at_once = is_run_of(&k, AT_ONCE) && is_run_of(&v, AT_ONCE) && is_run_of(&out, AT_ONCE);
    turn(device, n_rows, call, at_once, k.element, out.element);
}

void cuda_rope_pack(struct device *device, const struct rows *rows, struct value kv,
                    struct turned k, struct value v) {
    struct turn_call call = call_of(device, rows, &k.shape);
    pack_into(&call, &kv, &k.x, &v, k.table);
    bool at_once = is_run_of(&k.x, AT_ONCE) && is_run_of(&v, AT_ONCE) && is_run_of(&kv, AT_ONCE);
    turn(device, rows->n_rows, call, at_once, k.x.element, kv.element);
}

void cuda_rope_append(struct device *device, const struct rows *rows, struct turned q,
                      struct turned k, struct value v, struct value kv,
                      const struct kv_cache *cache, int layer) {
    (void)kv; /* nothing lies between the product and the pages */
    const struct cuda_rows *r = &device->rows[rows->slot];
    struct turn_call call = call_of(device, rows, &k.shape);
    call.part[Q] = part_of(&q.x, call.head_dim, q.table);
    call.part[Q].out = value_data(&q.out);
    call.part[Q].out_stride = q.out.stride;
    call.part[Q].out_head = call.head_dim;
    struct value pages = {};
    pages.buffer = cache->buffer;
    pages.element = cache->element;
    pack_into(&call, &pages, &k.x, &v, k.table);
    int token = call.head_dim * PAGE_TOKENS;
    call.part[K].out = cache_layer(cache, layer);
    call.part[V].out = cache_layer(cache, layer) + (size_t)token * element_bytes(cache->element);
    call.part[K].out_head = call.part[V].out_head = 2 * token;
    call.page_elements = 2 * token * cache->n_kv_heads;
    call.page = r->page;
    call.chunk = r->chunk;
    call.row_chunk = r->row_chunk;
    call.n_live = r->n_live;
    bool at_once = is_run_of(&q.x, AT_ONCE) && is_run_of(&q.out, AT_ONCE) &&
                   is_run_of(&k.x, AT_ONCE) && is_run_of(&v, AT_ONCE);
    turn(device, rows->n_rows, call, at_once, k.x.element, cache->element);
}
