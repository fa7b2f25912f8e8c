/* device_scenario.h - one step of attention and what should come of it: shared by the tests of
 * attend.
 *
 * A scenario is a set of chunks, each the newest rows of a sequence of its own. Their pages are
 * shuffled through a cache that holds NaN wherever nothing was appended, other layer included. What
 * is expected follows the text of device.h, position by position. Kept apart from the tests so that
 * these read as a list of cases.
 */
#ifndef LAMINA_DEVICE_SCENARIO_H
#define LAMINA_DEVICE_SCENARIO_H

#include "device_plain.h"

enum { MOST_ROWS = 128, MOST_CHUNKS = 10, N_LAYERS = 2, LAYER = 1, N_SLOTS = 2 };

/* Shape of the heads and the newest rows of every sequence. */
struct shape {
    int head_dim, n_kv_heads, group;
    enum element element;
    float scale;
};

struct span_of_rows {
    int first_position, n_rows;
};

/* A sequence: its K and V as computed and as the cache keeps them, (length, kv heads, head_dim). */
struct sequence {
    int length;
    float *k, *v, *k_kept, *v_kept;
    int32_t *page;
};

struct scenario {
    struct shape shape;
    int n_chunks, n_rows, n_pages;
    struct chunk chunk[MOST_CHUNKS];
    struct sequence sequence[MOST_CHUNKS];
    float *q, *expected;   /* (n_rows, heads, head_dim) */
    unsigned char *cached; /* the cache before the newest rows: NaN elsewhere */
};

static inline int n_heads(const struct shape *shape) {
    return shape->n_kv_heads * shape->group;
}

static inline size_t token_floats(const struct shape *shape) {
    return (size_t)shape->n_kv_heads * (size_t)shape->head_dim;
}

static inline float keep(enum element element, float x) {
    if (element == ELEMENT_F16) return quant_from_f16(quant_to_f16(x));
    if (element == ELEMENT_BF16) return quant_from_bf16(quant_to_bf16(x));
    return x;
}

/* ---- what is expected -------------------------------------------------------------------------
 */

/* The block that begins at `first`, over positions below `end`. */
static inline void plain_block(const struct scenario *s, const struct sequence *sequence,
                               int kv_head, const float *q, int first, int end,
                               struct plain_fold *block) {
    int dim = s->shape.head_dim, n = end - first < PAGE_TOKENS ? end - first : PAGE_TOKENS;
    size_t stride = token_floats(&s->shape);
    size_t at = (size_t)first * stride + (size_t)kv_head * (size_t)dim;
    float score[PAGE_TOKENS], sum[LANES] = {0};
    memset(block, 0, sizeof *block);
    block->maximum = -INFINITY;
    for (int token = 0; token < n; token++) {
        const float *k = sequence->k_kept + at + (size_t)token * stride;
        float lane[LANES] = {0};
        for (int d = 0; d < dim; d++)
            lane[d % LANES] = fmaf(q[d], k[d], lane[d % LANES]);
        score[token] = plain_lane_tree(lane) * s->shape.scale;
        block->maximum = fmaxf(block->maximum, score[token]);
    }
    for (int token = 0; token < n; token++) {
        const float *v = sequence->v_kept + at + (size_t)token * stride;
        float p = plain_exp(score[token] - block->maximum);
        sum[token % LANES] += p;
        for (int d = 0; d < dim; d++)
            block->acc[d] = fmaf(p, v[d], block->acc[d]);
    }
    block->sum = plain_lane_tree(sum);
}

/* One head of one row that sees positions below `end`. */
static inline void plain_attend(const struct scenario *s, const struct sequence *sequence,
                                int kv_head, const float *q, int end, float *out) {
    int dim = s->shape.head_dim;
    struct plain_fold result = {0}, span = {0}, block;
    for (int first = 0; first < end; first += PAGE_TOKENS) {
        plain_block(s, sequence, kv_head, q, first, end, &block);
        plain_merge(&span, &block, dim);
        int next = first + PAGE_TOKENS;
        if (next % (SPAN_BLOCKS * PAGE_TOKENS) == 0 || next >= end) {
            plain_merge(&result, &span, dim);
            span.sum = 0;
        }
    }
    float inverse = 1.0f / result.sum;
    for (int d = 0; d < dim; d++)
        out[d] = result.acc[d] * inverse;
}

/* The same in double, without blocks. */
static inline void double_attend(const struct scenario *s, const struct sequence *sequence,
                                 int kv_head, const float *q, int end, double *out) {
    int dim = s->shape.head_dim;
    size_t stride = token_floats(&s->shape);
    double *score = take((size_t)end, sizeof *score), maximum = -INFINITY, sum = 0;
    for (int token = 0; token < end; token++) {
        const float *k = sequence->k_kept + (size_t)token * stride + (size_t)(kv_head * dim);
        for (int d = 0; d < dim; d++)
            score[token] += (double)q[d] * (double)k[d];
        score[token] *= (double)s->shape.scale;
        maximum = fmax(maximum, score[token]);
    }
    for (int d = 0; d < dim; d++)
        out[d] = 0;
    for (int token = 0; token < end; token++) {
        const float *v = sequence->v_kept + (size_t)token * stride + (size_t)(kv_head * dim);
        double p = exp(score[token] - maximum);
        sum += p;
        for (int d = 0; d < dim; d++)
            out[d] += p * (double)v[d];
    }
    for (int d = 0; d < dim; d++)
        out[d] /= sum;
    free(score);
}

/* ---- images of the cache ----------------------------------------------------------------------
 */

/* `x` as an element of the cache; returns its bytes. */
static inline size_t put_element(enum element element, unsigned char *at, float x) {
    uint16_t half = element == ELEMENT_F16 ? quant_to_f16(x) : quant_to_bf16(x);
    if (element == ELEMENT_F32) {
        memcpy(at, &x, sizeof x);
    } else {
        memcpy(at, &half, sizeof half);
    }
    return element_bytes(element);
}

static inline size_t cache_bytes(const struct kv_cache *cache) {
    return (size_t)cache->n_layers * (size_t)cache->n_pages * (size_t)cache->n_kv_heads * 2 *
           PAGE_TOKENS * (size_t)cache->head_dim * element_bytes(cache->element);
}

/* NaN in every element. */
static inline unsigned char *empty_image(const struct kv_cache *cache) {
    size_t n_bytes = cache_bytes(cache);
    unsigned char *image = take(n_bytes, 1);
    for (size_t at = 0; at < n_bytes;)
        at += put_element(cache->element, image + at, NAN);
    return image;
}

/* The cache of a scenario, without its buffer. */
static inline struct kv_cache cache_shape(const struct scenario *s) {
    return (struct kv_cache){
        .n_layers = N_LAYERS,
        .n_pages = s->n_pages,
        .n_kv_heads = s->shape.n_kv_heads,
        .head_dim = s->shape.head_dim,
        .element = s->shape.element,
    };
}

/* Positions [begin, end) of a sequence into an image of the cache: (layers, pages, kv heads, K|V,
 * 64 tokens, head_dim). */
static inline void draw_tokens(unsigned char *image, const struct kv_cache *cache,
                               const struct sequence *sequence, int begin, int end) {
    int dim = cache->head_dim;
    for (int position = begin; position < end; position++) {
        for (int head = 0; head < cache->n_kv_heads; head++) {
            size_t from = (size_t)((position * cache->n_kv_heads + head) * dim);
            size_t page = (size_t)LAYER * (size_t)cache->n_pages +
                          (size_t)sequence->page[position / PAGE_TOKENS];
            size_t k = ((page * (size_t)cache->n_kv_heads + (size_t)head) * 2 * PAGE_TOKENS +
                        (size_t)(position % PAGE_TOKENS)) *
                       (size_t)dim;
            size_t v = k + (size_t)PAGE_TOKENS * (size_t)dim, bytes = element_bytes(cache->element);
            for (size_t d = 0; d < (size_t)dim; d++) {
                put_element(cache->element, image + (k + d) * bytes, sequence->k[from + d]);
                put_element(cache->element, image + (v + d) * bytes, sequence->v[from + d]);
            }
        }
    }
}

/* ---- scenarios --------------------------------------------------------------------------------
 */

static inline struct sequence sequence_open(struct dice *dice, const struct shape *shape,
                                            int length) {
    size_t n = (size_t)length * token_floats(shape);
    return (struct sequence){
        .length = length,
        .k = roll_floats(dice, n, -4, 4),
        .v = roll_floats(dice, n, -4, 4),
        .k_kept = take(n, sizeof(float)),
        .v_kept = take(n, sizeof(float)),
        .page = take((size_t)length / PAGE_TOKENS + 1, sizeof(int32_t)),
    };
}

/* Deal the pages of a shuffled cache, of which some stay unused, to the sequences in turn. */
static inline void deal_pages(struct dice *dice, struct scenario *s) {
    enum { N_SPARE = 3 };
    s->n_pages = N_SPARE;
    for (int c = 0; c < s->n_chunks; c++)
        s->n_pages += (s->sequence[c].length + PAGE_TOKENS - 1) / PAGE_TOKENS;
    int32_t *deck = take((size_t)s->n_pages, sizeof *deck);
    for (int page = 0; page < s->n_pages; page++) {
        int other = roll_below(dice, page + 1);
        deck[page] = deck[other];
        deck[other] = page;
    }
    int next = 0;
    for (int c = 0; c < s->n_chunks; c++) {
        for (int first = 0; first < s->sequence[c].length; first += PAGE_TOKENS)
            s->sequence[c].page[first / PAGE_TOKENS] = deck[next++];
    }
    free(deck);
}

/* From q, k and v: what the cache keeps of them and what attention should give. */
static inline void scenario_settle(struct scenario *s) {
    int dim = s->shape.head_dim, heads = n_heads(&s->shape);
    struct kv_cache cache = cache_shape(s);
    free(s->cached);
    s->cached = empty_image(&cache);
    for (int c = 0; c < s->n_chunks; c++) {
        const struct chunk *chunk = &s->chunk[c];
        struct sequence *sequence = &s->sequence[c];
        for (size_t k = 0; k < (size_t)sequence->length * token_floats(&s->shape); k++) {
            sequence->k_kept[k] = keep(s->shape.element, sequence->k[k]);
            sequence->v_kept[k] = keep(s->shape.element, sequence->v[k]);
        }
        draw_tokens(s->cached, &cache, sequence, 0, chunk->first_position);
        for (int row = 0; row < chunk->n_rows; row++) {
            for (int head = 0; head < heads; head++) {
                int at = ((chunk->first_row + row) * heads + head) * dim;
                plain_attend(s, sequence, head / s->shape.group, s->q + at,
                             chunk->first_position + row + 1, s->expected + at);
            }
        }
    }
}

static inline struct scenario scenario_open(uint64_t seed, struct shape shape,
                                            const struct span_of_rows *spans, int n_chunks) {
    struct dice dice = {seed};
    struct scenario s = {.shape = shape, .n_chunks = n_chunks};
    for (int c = 0; c < n_chunks; c++) {
        int length = spans[c].first_position + spans[c].n_rows;
        s.sequence[c] = sequence_open(&dice, &shape, length);
        s.chunk[c] = (struct chunk){
            .first_row = s.n_rows,
            .n_rows = spans[c].n_rows,
            .first_position = spans[c].first_position,
            .page = s.sequence[c].page,
        };
        s.n_rows += spans[c].n_rows;
    }
    assert_true(s.n_rows <= MOST_ROWS);
    deal_pages(&dice, &s);
    size_t n = (size_t)s.n_rows * (size_t)(n_heads(&shape) * shape.head_dim);
    s.q = roll_floats(&dice, n, -4, 4);
    s.expected = take(n, sizeof(float));
    scenario_settle(&s);
    return s;
}

static inline void scenario_close(struct scenario *s) {
    for (int c = 0; c < s->n_chunks; c++) {
        free(s->sequence[c].k);
        free(s->sequence[c].v);
        free(s->sequence[c].k_kept);
        free(s->sequence[c].v_kept);
        free(s->sequence[c].page);
    }
    free(s->q);
    free(s->expected);
    free(s->cached);
}

#endif
