/* The KV cache and attention: pack_kv and append_kv by bytes, attend by the fold of device.h
 * written out position by position, and that fold against a softmax in double (device_scenario.h).
 */
#include "device_scenario.h"

static struct subjects open_for(const struct shape *shape) {
    struct device_limits limits = {
        .n_slots = N_SLOTS,
        .max_rows = MOST_ROWS,
        .max_picked = 1,
        .max_sequences = MOST_CHUNKS,
        .context = 2048,
        .n_heads = n_heads(shape),
        .n_kv_heads = shape->n_kv_heads,
        .head_dim = shape->head_dim,
    };
    return subjects_open(&limits);
}

/* ---- packing and appending -------------------------------------------------------------------
 */

static struct kv_cache cache_open(const struct subject *subject, const struct scenario *s,
                                  const unsigned char *image) {
    struct kv_cache cache = cache_shape(s);
    cache.buffer = subject->ops->alloc(subject->device, cache_bytes(&cache));
    subject->ops->upload(subject->device, cache.buffer, 0, image, cache_bytes(&cache));
    return cache;
}

enum { PACKED_GAP = 6, PACKED_OFFSET = 8, PACKED_PATTERN = 0xa5 };

static struct value packed_alloc(const struct subject *subject, const struct shape *shape,
                                 int n_rows, size_t *n_bytes) {
    struct value value = {
        .offset = PACKED_OFFSET,
        .columns = (int)(2 * token_floats(shape)),
        .stride = (int)(2 * token_floats(shape)) + PACKED_GAP,
        .element = shape->element,
    };
    *n_bytes =
        PACKED_OFFSET + (size_t)n_rows * (size_t)value.stride * element_bytes(shape->element);
    value.buffer = subject->ops->alloc(subject->device, *n_bytes);
    unsigned char *pattern = take(*n_bytes, 1);
    memset(pattern, PACKED_PATTERN, *n_bytes);
    subject->ops->upload(subject->device, value.buffer, 0, pattern, *n_bytes);
    free(pattern);
    return value;
}

/* pack_kv of positions [begin, end); its bytes are (rows, kv heads, K|V, head_dim) and no others.
 */
static struct value pack(const struct subject *subject, const struct shape *shape,
                         const struct sequence *sequence, int begin, int end) {
    size_t width = token_floats(shape), n_bytes, dim = (size_t)shape->head_dim;
    int n_rows = end - begin;
    struct value k = value_of(subject, n_rows, (int)width, sequence->k + (size_t)begin * width);
    struct value v = value_of(subject, n_rows, (int)width, sequence->v + (size_t)begin * width);
    struct value out = packed_alloc(subject, shape, n_rows, &n_bytes);
    subject->ops->pack_kv(subject->device, n_rows, out, k, v, shape->head_dim);
    unsigned char *expected = take(n_bytes, 1), *got = take(n_bytes, 1);
    memset(expected, PACKED_PATTERN, n_bytes);
    for (int row = 0; row < n_rows; row++) {
        unsigned char *at = expected + value_row(&out, row);
        for (size_t element = 0; element < 2 * width; element++) {
            size_t head = element / (2 * dim), d = element % dim;
            const float *from = element / dim % 2 ? sequence->v : sequence->k;
            at += put_element(shape->element, at,
                              from[(size_t)(begin + row) * width + head * dim + d]);
        }
    }
    subject->ops->download(subject->device, got, out.buffer, 0, n_bytes);
    if (memcmp(expected, got, n_bytes) != 0)
        fail_msg("%s: packed K and V differ", subject_name(subject));
    free(expected);
    free(got);
    value_release(subject, &k);
    value_release(subject, &v);
    return out;
}

/* Append positions [begin, end) of a sequence. */
static void append(const struct subject *subject, const struct kv_cache *cache,
                   const struct scenario *s, const struct sequence *sequence, int begin, int end) {
    for (int first = begin; first < end; first += MOST_ROWS) {
        int last = first + MOST_ROWS < end ? first + MOST_ROWS : end;
        struct value kv = pack(subject, &s->shape, sequence, first, last);
        struct chunk chunk = {0, last - first, first, sequence->page};
        struct rows rows = {.n_rows = last - first, .n_chunks = 1, .chunk = &chunk};
        subject->ops->begin(subject->device, &rows);
        subject->ops->append_kv(subject->device, &rows, cache, LAYER, kv);
        value_release(subject, &kv);
    }
}

/* The newest rows of all sequences in one call, as a step does it. */
static void append_newest(const struct subject *subject, const struct kv_cache *cache,
                          const struct scenario *s) {
    size_t n_bytes;
    struct value all = packed_alloc(subject, &s->shape, s->n_rows, &n_bytes);
    size_t row_bytes = (size_t)all.stride * element_bytes(all.element);
    for (int c = 0; c < s->n_chunks; c++) {
        const struct chunk *chunk = &s->chunk[c];
        struct value kv = pack(subject, &s->shape, &s->sequence[c], chunk->first_position,
                               chunk->first_position + chunk->n_rows);
        size_t bytes = (size_t)chunk->n_rows * row_bytes;
        unsigned char *rows = take(bytes, 1);
        subject->ops->download(subject->device, rows, kv.buffer, kv.offset, bytes);
        subject->ops->upload(subject->device, all.buffer, value_row(&all, chunk->first_row), rows,
                             bytes);
        free(rows);
        value_release(subject, &kv);
    }
    struct rows rows = {.n_rows = s->n_rows, .n_chunks = s->n_chunks, .chunk = s->chunk};
    subject->ops->begin(subject->device, &rows);
    subject->ops->append_kv(subject->device, &rows, cache, LAYER, all);
    value_release(subject, &all);
}

static void check_cache(const struct subject *subject, const struct kv_cache *cache,
                        const unsigned char *image) {
    size_t n_bytes = cache_bytes(cache);
    unsigned char *got = take(n_bytes, 1);
    subject->ops->download(subject->device, got, cache->buffer, 0, n_bytes);
    if (memcmp(image, got, n_bytes) != 0)
        fail_msg("%s: the cache is not what was appended", subject_name(subject));
    free(got);
}

/* ---- attend -----------------------------------------------------------------------------------
 */

/* One call over the given chunks, whose rows are the scenario's from `first_row` on. */
static void attend(const struct subject *subject, const struct kv_cache *cache,
                   const struct scenario *s, const struct rows *rows, int first_row,
                   enum attend_part part) {
    int width = n_heads(&s->shape) * s->shape.head_dim;
    struct attend_shape shape = {
        .layer = LAYER,
        .n_heads = n_heads(&s->shape),
        .n_kv_heads = s->shape.n_kv_heads,
        .head_dim = s->shape.head_dim,
        .scale = s->shape.scale,
    };
    size_t begin = (size_t)first_row * (size_t)width, n = (size_t)rows->n_rows * (size_t)width;
    struct value q = value_of(subject, rows->n_rows, width, s->q + begin);
    struct value out = value_alloc(subject, rows->n_rows, width);
    subject->ops->begin(subject->device, rows);
    subject->ops->attend(subject->device, rows, cache, shape, part, q, out);
    if (part != ATTEND_CACHED) {
        char what[96];
        snprintf(what, sizeof what, "%s of %d chunks, head_dim %d, first position %d",
                 part == ATTEND_REST ? "rest" : "whole", rows->n_chunks, s->shape.head_dim,
                 rows->chunk[0].first_position);
        float *got = take(n, sizeof *got);
        value_read(subject, &out, rows->n_rows, got);
        check_floats(subject, what, s->expected + begin, got, n, 1e-3f);
        free(got);
    }
    value_release(subject, &q);
    value_release(subject, &out);
}

/* The step as an attention rank does it (what is cached first, the rest when K and V are there) in
 * slot 0, and at once in slot 1; then the last row of every sequence alone. */
static void check_step(const struct subject *subject, const struct scenario *s) {
    struct kv_cache cache = cache_open(subject, s, s->cached);
    struct rows rows = {.n_rows = s->n_rows, .n_chunks = s->n_chunks, .chunk = s->chunk};
    attend(subject, &cache, s, &rows, 0, ATTEND_CACHED);
    append_newest(subject, &cache, s);
    rows.slot = 1;
    attend(subject, &cache, s, &rows, 0, ATTEND_WHOLE);
    rows.slot = 0;
    attend(subject, &cache, s, &rows, 0, ATTEND_REST);
    for (int c = 0; c < s->n_chunks; c++) {
        const struct chunk *from = &s->chunk[c];
        int last = from->n_rows - 1;
        struct chunk chunk = {0, 1, from->first_position + last, from->page};
        struct rows alone = {.n_rows = 1, .n_chunks = 1, .chunk = &chunk};
        attend(subject, &cache, s, &alone, from->first_row + last, ATTEND_WHOLE);
    }
    subject->ops->release(subject->device, cache.buffer);
}

static void check_settled(const struct scenario *s) {
    struct subjects subjects = open_for(&s->shape);
    for (int at = 0; at < subjects.n; at++)
        check_step(&subjects.at[at], s);
    subjects_close(&subjects);
}

static void check_scenario(uint64_t seed, struct shape shape, const struct span_of_rows *spans,
                           int n_chunks) {
    struct scenario s = scenario_open(seed, shape, spans, n_chunks);
    check_settled(&s);
    scenario_close(&s);
}

/* One newest row each, at lengths around the borders of blocks and spans. */
static const struct span_of_rows decode[] = {{0, 1},   {62, 1},  {63, 1},  {64, 1},
                                             {510, 1}, {511, 1}, {512, 1}, {1099, 1}};
/* Prompts and their parts beside decode rows. */
static const struct span_of_rows mixed[] = {{0, 20}, {1030, 9}, {60, 10}, {511, 1}, {500, 21},
                                            {63, 2}, {448, 13}, {0, 1},   {512, 1}};
enum { N_DECODE = sizeof decode / sizeof *decode, N_MIXED = sizeof mixed / sizeof *mixed };

/* The first three have an element each, the first four every group. */
static const struct shape shapes[] = {
    {64, 2, 3, ELEMENT_F16, 0.125f}, {128, 1, 8, ELEMENT_BF16, 0.0883883476f},
    {80, 2, 1, ELEMENT_F32, 0.25f},  {40, 2, 3, ELEMENT_F16, 3.0f}, /* most weights vanish */
    {64, 3, 3, ELEMENT_F32, 0.125f}, {128, 2, 1, ELEMENT_F16, 0.0883883476f},
    {40, 1, 8, ELEMENT_BF16, 0.2f},  {80, 1, 3, ELEMENT_BF16, 1e-4f}, /* all weights alike */
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes, N_ELEMENTS = 3, N_GROUPS = 4 };

static void decode_rows_at_every_border(void **state) {
    (void)state;
    for (size_t at = 0; at < N_SHAPES; at++)
        check_scenario(at, shapes[at], decode, N_DECODE);
}

static void chunks_of_several_sequences(void **state) {
    (void)state;
    for (size_t at = 0; at < N_GROUPS; at++)
        check_scenario(100 + at, shapes[at], mixed, N_MIXED);
}

static void a_long_chunk_alone(void **state) {
    (void)state;
    static const struct span_of_rows from_the_start = {0, 128}, across_a_span = {470, 100};
    check_scenario(200, shapes[0], &from_the_start, 1);
    check_scenario(201, shapes[2], &across_a_span, 1);
}

static void chunks_at_random(void **state) {
    (void)state;
    struct dice dice = {77};
    for (int round = 0; round < 8; round++) {
        struct span_of_rows spans[MOST_CHUNKS];
        int n_chunks = 1 + roll_below(&dice, MOST_CHUNKS);
        for (int c = 0; c < n_chunks; c++) {
            spans[c].first_position = roll_below(&dice, roll_below(&dice, 2) ? 70 : 1050);
            spans[c].n_rows = 1 + roll_below(&dice, 12);
        }
        struct shape shape = {16 + 8 * roll_below(&dice, 5), 1 + roll_below(&dice, 2),
                              1 + roll_below(&dice, 4), (enum element)roll_below(&dice, 3), 0.2f};
        check_scenario(300 + (uint64_t)round, shape, spans, n_chunks);
    }
}

/* Position 0 has score 0 and no value; position t has a lower score and value 1 in dimension t. So
 * dimension t shows the weight of t, which is exp itself where the sum rounds to 1, and 0 far down.
 */
static void weights_are_exp_to_the_bit(void **state) {
    (void)state;
    static const struct span_of_rows last = {63, 1};
    struct shape shape = {64, 1, 8, ELEMENT_F32, 1};
    struct scenario s = scenario_open(600, shape, &last, 1);
    float *k = s.sequence[0].k, *v = s.sequence[0].v;
    memset(v, 0, 64 * 64 * sizeof *v);
    k[0] = 0;
    for (int token = 1; token < 64; token++) {
        v[token * 64 + token] = 1;
        k[token * 64] = 1.375f * k[token * 64] - 5.6f; /* from -11.1 to -0.1 */
    }
    memset(s.q, 0, 8 * 64 * sizeof *s.q);
    for (int head = 0; head < 8; head++)
        s.q[head * 64] = 1 + 1.3f * (float)head; /* scores down to -112 */
    scenario_settle(&s);
    int n_vanished = 0, n_least = 0;
    for (int at = 0; at < 8 * 64; at++) {
        n_vanished += at % 64 && s.expected[at] == 0;
        n_least += s.expected[at] > 0 && s.expected[at] < 1e-30f;
    }
    assert_true(n_vanished > 10 && n_least > 10);
    check_settled(&s);
    scenario_close(&s);
}

/* The cache's layout and rounding, byte by byte, with values that 16 bits cannot hold exactly. */
static void appended_rows_stand_where_the_layout_says(void **state) {
    (void)state;
    static const float special[] = {0,          -0.0f,    65504,    65520, -70000,  0x1p-24f,
                                    0x1.8p-25f, 0x1p-26f, INFINITY, 3e38f, 1.0005f, -1.0015f};
    for (size_t at = 0; at < N_ELEMENTS; at++) {
        struct scenario s = scenario_open(400 + at, shapes[at], mixed, N_MIXED);
        for (int c = 0; c < s.n_chunks; c++) {
            for (size_t k = 0; k < sizeof special / sizeof *special; k++)
                s.sequence[c].k[3 * k] = s.sequence[c].v[2 * k] = special[k];
        }
        struct subjects subjects = open_for(&shapes[at]);
        for (int subject = 0; subject < subjects.n; subject++) {
            struct kv_cache cache = cache_shape(&s);
            unsigned char *image = empty_image(&cache);
            cache = cache_open(&subjects.at[subject], &s, image);
            for (int c = 0; c < s.n_chunks; c++) {
                append(&subjects.at[subject], &cache, &s, &s.sequence[c], 0,
                       s.chunk[c].first_position);
                draw_tokens(image, &cache, &s.sequence[c], 0, s.chunk[c].first_position);
            }
            check_cache(&subjects.at[subject], &cache, image);
            append_newest(&subjects.at[subject], &cache, &s);
            for (int c = 0; c < s.n_chunks; c++)
                draw_tokens(image, &cache, &s.sequence[c], 0, s.sequence[c].length);
            check_cache(&subjects.at[subject], &cache, image);
            free(image);
            subjects.at[subject].ops->release(subjects.at[subject].device, cache.buffer);
        }
        subjects_close(&subjects);
        scenario_close(&s);
    }
}

/* Rounding of the definition, to first order. A score is off by at most e = (dim / 16 + 5) 2^-24
 * times scale sum |q k|, so a weight by 2 e of itself (its own score and the maximum's) and by
 * about 2^-21 from exp and from a chain of at most 64 additions, 8 + 3 folds of 3 roundings and an
 * exp each: (64 + 11 * 5) 2^-24 < 2^-17. Weights are positive, so the mean is off by that much of
 * max |v|, twice, for the sum divides it. */
static void the_definition_is_a_softmax(void **state) {
    (void)state;
    for (size_t shape = 0; shape < N_SHAPES; shape++) {
        struct scenario s = scenario_open(500 + shape, shapes[shape], decode, N_DECODE);
        int dim = s.shape.head_dim, heads = n_heads(&s.shape);
        double most = 4.02 * 4.02 * dim * (double)s.shape.scale; /* scale sum |q k|, at most */
        double near = 2 * 4.02 * (2 * (dim / 16.0 + 5) * 0x1p-24 * most + 0x1p-17);
        for (int c = 0; c < s.n_chunks; c++) {
            for (int head = 0; head < heads; head++) {
                double exact[256];
                size_t at = (size_t)((c * heads + head) * dim);
                double_attend(&s, &s.sequence[c], head / s.shape.group, s.q + at,
                              s.sequence[c].length, exact);
                for (int d = 0; d < dim; d++)
                    assert_true(fabs((double)s.expected[at + (size_t)d] - exact[d]) <= near);
            }
        }
        scenario_close(&s);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_definition_is_a_softmax),
        cmocka_unit_test(appended_rows_stand_where_the_layout_says),
        cmocka_unit_test(weights_are_exp_to_the_bit),
        cmocka_unit_test(decode_rows_at_every_border),
        cmocka_unit_test(chunks_of_several_sequences),
        cmocka_unit_test(a_long_chunk_alone),
        cmocka_unit_test(chunks_at_random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
