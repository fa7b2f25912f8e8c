/* Operators that do at once what several do one by one, against scalar C: rope_pack and rope_append
 * to the byte, matmul_swiglu. (add_norm stands with its parts in test_device_rows.c.) Q, K and V
 * are columns of one value, as behind a joined product. */
#include "device_scenario.h"

struct turn_case {
    int head_dim, n_heads, n_kv_heads, n_rotated;
    bool interleaved;
    enum element kept;
};

/* Heads of models, partly turned ones, and some that fit no vector. */
static const struct turn_case turn_cases[] = {
    {128, 8, 2, 128, true, ELEMENT_BF16}, {64, 9, 3, 64, false, ELEMENT_BF16},
    {256, 2, 1, 256, false, ELEMENT_F16}, {128, 4, 4, 128, false, ELEMENT_F32},
    {80, 5, 1, 32, false, ELEMENT_BF16},  {80, 3, 3, 32, true, ELEMENT_F16},
    {40, 4, 2, 20, true, ELEMENT_F16},    {24, 6, 2, 12, false, ELEMENT_BF16},
    {6, 2, 1, 2, false, ELEMENT_F32},     {10, 3, 3, 6, true, ELEMENT_BF16},
};

/* Prompts and their parts beside decode rows, at the borders of pages. */
static const struct span_of_rows spans[] = {{0, 3}, {63, 2}, {300, 1}, {127, 1}, {64, 1}, {1, 70}};
enum { N_SPANS = sizeof spans / sizeof *spans, N_POSITIONS = 320 };

/* What a subject is given and what it should make of it. */
struct turned_rows {
    const struct turn_case *c;
    struct scenario s;
    int32_t position[MOST_ROWS];
    float *factor; /* (n_rotated / 2) */
    float *x;      /* (rows, q | k | v) */
    float *q;      /* (rows, q) expected */
    int q_width, kv_width, width;
};

/* `plain`: an f32 at an odd place; else as values lie between operators. */
static float as_value(const struct subject *subject, bool plain, float x) {
    return plain ? x : activation(subject, x);
}

/* With base 1 an angle is the position over a factor: no power whose last bit could differ. */
static void turn_head(const struct turned_rows *t, const struct subject *subject, bool plain,
                      float *out, const float *x, int position) {
    int half = t->c->n_rotated / 2;
    for (int d = 0; d < t->c->head_dim; d++)
        out[d] = x[d];
    for (int pair = 0; pair < half; pair++) {
        double angle = position * (1.0 / (double)t->factor[pair]);
        float cosine = (float)cos(angle), sine = (float)sin(angle);
        int a = t->c->interleaved ? 2 * pair : pair, b = t->c->interleaved ? a + 1 : a + half;
        out[a] = as_value(subject, plain, fmaf(x[a], cosine, -(x[b] * sine)));
        out[b] = as_value(subject, plain, fmaf(x[a], sine, x[b] * cosine));
    }
}

static void turned_open(struct turned_rows *t, const struct turn_case *c,
                        const struct subject *subject, bool plain) {
    struct shape shape = {c->head_dim, c->n_kv_heads, c->n_heads / c->n_kv_heads, c->kept, 1};
    struct dice dice = {(uint64_t)c->head_dim};
    *t = (struct turned_rows){.c = c, .s = scenario_open(7, shape, spans, N_SPANS)};
    t->q_width = c->n_heads * c->head_dim;
    t->kv_width = c->n_kv_heads * c->head_dim;
    t->width = t->q_width + 2 * t->kv_width;
    t->factor = roll_floats(&dice, (size_t)(c->n_rotated / 2), 0.5f, 3);
    size_t n = (size_t)t->s.n_rows * (size_t)t->width;
    t->x = roll_floats(&dice, n, -4, 4);
    for (size_t k = 0; k < n; k++)
        t->x[k] = as_value(subject, plain, t->x[k]);
    t->q = take((size_t)(t->s.n_rows * t->q_width), sizeof *t->q);
    for (int at = 0; at < N_SPANS; at++) {
        const struct chunk *chunk = &t->s.chunk[at];
        struct sequence *sequence = &t->s.sequence[at];
        for (int row = 0; row < chunk->n_rows; row++) {
            int position = chunk->first_position + row, all = chunk->first_row + row;
            const float *x = t->x + all * t->width;
            size_t kept = (size_t)(position * t->kv_width);
            t->position[all] = position;
            for (int d = 0; d < t->q_width; d += c->head_dim)
                turn_head(t, subject, plain, t->q + all * t->q_width + d, x + d, position);
            for (int d = 0; d < t->kv_width; d += c->head_dim)
                turn_head(t, subject, plain, sequence->k + kept + d, x + t->q_width + d, position);
            memcpy(sequence->v + kept, x + t->q_width + t->kv_width,
                   (size_t)t->kv_width * sizeof *x);
        }
    }
}

static void turned_close(struct turned_rows *t) {
    scenario_close(&t->s);
    free(t->factor);
    free(t->x);
    free(t->q);
}

static struct value columns_of(struct value whole, int first, int n) {
    whole.offset += (size_t)first * element_bytes(whole.element);
    whole.columns = n;
    return whole;
}

/* The buffers of a call. */
struct call {
    struct weight *table;
    struct value x, q_out, k_out, kv;
    struct turned q, k;
    struct value v;
};

static void call_open(struct call *call, const struct turned_rows *t, const struct subject *subject,
                      bool plain) {
    const struct turn_case *c = t->c;
    struct rope_shape q = {c->n_heads, c->head_dim, c->n_rotated, c->interleaved}, k = q;
    int n_rows = t->s.n_rows;
    float *nothing = take((size_t)(n_rows * t->width), sizeof *nothing);
    k.n_heads = c->n_kv_heads;
    call->table =
        subject->ops->load_rope(subject->device, c->n_rotated, 1, 1, t->factor, N_POSITIONS);
    call->x = plain ? value_of(subject, n_rows, t->width, t->x)
                    : activation_of(subject, n_rows, t->width, t->x);
    call->q_out = plain ? value_alloc(subject, n_rows, t->q_width)
                        : activation_of(subject, n_rows, t->q_width, nothing);
    call->k_out = plain ? value_alloc(subject, n_rows, t->kv_width)
                        : activation_of(subject, n_rows, t->kv_width, nothing);
    call->kv =
        (struct value){.columns = 2 * t->kv_width, .stride = 2 * t->kv_width, .element = c->kept};
    call->kv.buffer = subject->ops->alloc(subject->device, (size_t)(n_rows * 2 * t->kv_width) *
                                                               element_bytes(c->kept));
    call->q = (struct turned){call->q_out, columns_of(call->x, 0, t->q_width), q, call->table};
    call->k =
        (struct turned){call->k_out, columns_of(call->x, t->q_width, t->kv_width), k, call->table};
    call->v = columns_of(call->x, t->q_width + t->kv_width, t->kv_width);
    free(nothing);
}

static void call_close(struct call *call, const struct subject *subject) {
    struct value *values[] = {&call->x, &call->q_out, &call->k_out, &call->kv};
    for (size_t at = 0; at < sizeof values / sizeof *values; at++)
        value_release(subject, values[at]);
    subject->ops->unload(subject->device, call->table);
}

/* (rows, kv heads, K|V, head_dim) */
static void check_packed(const struct subject *subject, const struct turned_rows *t,
                         const struct value *kv) {
    size_t n_bytes = (size_t)(t->s.n_rows * kv->stride) * element_bytes(kv->element);
    unsigned char *expected = take(n_bytes, 1), *got = take(n_bytes, 1), *to = expected;
    int dim = t->c->head_dim;
    for (int at = 0; at < N_SPANS; at++) {
        const struct chunk *chunk = &t->s.chunk[at];
        for (int part = 0; part < chunk->n_rows * 2 * t->c->n_kv_heads; part++) {
            int row = chunk->first_position + part / (2 * t->c->n_kv_heads);
            int head = part / 2 % t->c->n_kv_heads;
            const float *from = part % 2 ? t->s.sequence[at].v : t->s.sequence[at].k;
            for (int d = 0; d < dim; d++)
                to += put_element(kv->element, to, from[row * t->kv_width + head * dim + d]);
        }
    }
    subject->ops->download(subject->device, got, kv->buffer, kv->offset, n_bytes);
    if (memcmp(expected, got, n_bytes) != 0)
        fail_msg("%s: K turned and packed with V, head_dim %d", subject_name(subject), dim);
    free(expected);
    free(got);
}

/* Q turned, and a cache in which nothing but the new rows has changed. */
static void check_appended(const struct subject *subject, const struct turned_rows *t,
                           const struct call *call, const struct kv_cache *cache, bool plain) {
    size_t n = (size_t)(t->s.n_rows * t->q_width), n_bytes = cache_bytes(cache);
    float *q = take(n, sizeof *q);
    unsigned char *image = empty_image(cache), *got = take(n_bytes, 1);
    (plain ? value_read : activation_read)(subject, &call->q_out, t->s.n_rows, q);
    check_floats(subject, "turned q", t->q, q, n, 0);
    for (int at = 0; at < N_SPANS; at++)
        draw_tokens(image, cache, &t->s.sequence[at], t->s.chunk[at].first_position,
                    t->s.sequence[at].length);
    subject->ops->download(subject->device, got, cache->buffer, 0, n_bytes);
    if (memcmp(image, got, n_bytes) != 0)
        fail_msg("%s: the cache behind rope_append, head_dim %d", subject_name(subject),
                 t->c->head_dim);
    free(q);
    free(image);
    free(got);
}

static void check_turn(const struct subject *subject, const struct turn_case *c, bool plain) {
    struct turned_rows t;
    struct call call;
    turned_open(&t, c, subject, plain);
    call_open(&call, &t, subject, plain);
    struct kv_cache cache = cache_shape(&t.s);
    unsigned char *empty = empty_image(&cache);
    cache.buffer = subject->ops->alloc(subject->device, cache_bytes(&cache));
    subject->ops->upload(subject->device, cache.buffer, 0, empty, cache_bytes(&cache));
    struct rows rows = {
        .n_rows = t.s.n_rows, .position = t.position, .n_chunks = N_SPANS, .chunk = t.s.chunk};
    subject->ops->begin(subject->device, &rows);
    subject->ops->rope_pack(subject->device, &rows, call.kv, call.k, call.v);
    check_packed(subject, &t, &call.kv);
    subject->ops->rope_append(subject->device, &rows, call.q, call.k, call.v, call.kv, &cache,
                              LAYER);
    check_appended(subject, &t, &call, &cache, plain);
    subject->ops->release(subject->device, cache.buffer);
    free(empty);
    call_close(&call, subject);
    turned_close(&t);
}

static void heads_are_turned_on_their_way(void **state) {
    (void)state;
    for (size_t at = 0; at < sizeof turn_cases / sizeof *turn_cases; at++) {
        const struct turn_case *c = &turn_cases[at];
        struct device_limits limits = {.n_slots = 1,
                                       .max_rows = MOST_ROWS,
                                       .max_picked = 1,
                                       .max_sequences = N_SPANS,
                                       .context = N_POSITIONS,
                                       .n_heads = c->n_heads,
                                       .n_kv_heads = c->n_kv_heads,
                                       .head_dim = c->head_dim};
        struct subjects subjects = subjects_open(&limits);
        for (int subject = 0; subject < subjects.n; subject++) {
            check_turn(&subjects.at[subject], c, false);
            check_turn(&subjects.at[subject], c, true);
        }
        subjects_close(&subjects);
    }
}

/* ---- matmul_swiglu ----------------------------------------------------------------------------
 */

/* Numbers that bf16 holds. */
static float *roll_narrow(struct dice *dice, size_t n, float most) {
    float *out = roll_floats(dice, n, -most, most);
    for (size_t k = 0; k < n; k++)
        out[k] = quant_from_bf16(quant_to_bf16(out[k]));
    return out;
}

enum { GATED_ROWS = 128 };
struct gated {
    int n, columns; /* of the output; of x */
    int n_rows;
    float *x, *weight;
    float *gate, *up, *out; /* (n_rows, n) expected, of the activations of one kind of device */
};

static struct gated gated_open(int n, int columns, int n_rows) {
    struct dice dice = {(uint64_t)n};
    size_t n_out = (size_t)(n_rows * n);
    struct gated g = {.n = n, .columns = columns, .n_rows = n_rows};
    g.x = roll_narrow(&dice, (size_t)(n_rows * columns), 1);
    g.weight = roll_narrow(&dice, (size_t)(2 * n * columns), 4 / sqrtf((float)columns));
    g.gate = take(n_out, sizeof(float));
    g.up = take(n_out, sizeof(float));
    g.out = take(n_out, sizeof(float));
    return g;
}

static void gated_close(struct gated *g) {
    float *numbers[] = {g->x, g->weight, g->gate, g->up, g->out};
    for (size_t at = 0; at < sizeof numbers / sizeof *numbers; at++)
        free(numbers[at]);
}

static void gated_expect(struct gated *g, const struct subject *subject) {
    for (int at = 0; at < g->n_rows * g->n; at++) {
        const float *x = g->x + at / g->n * g->columns;
        const float *gates = g->weight + at % g->n * g->columns, *ups = gates + g->n * g->columns;
        float gate = 0, up = 0;
        for (int k = 0; k < g->columns; k++) {
            gate = fmaf(x[k], gates[k], gate);
            up = fmaf(x[k], ups[k], up);
        }
        g->gate[at] = gate = activation(subject, gate);
        g->up[at] = up = activation(subject, up);
        g->out[at] = activation(subject, gate / (1.0f + plain_exp(-gate)) * up);
    }
}

/* Without promised bits gate, up and the result may each round to a neighbour, as the sum's order
 * has it; swiglu's slope along the gate is at most 1.1 |up|. */
static void check_gated(const struct subject *subject, const struct gated *g,
                        const struct weight *weight, int first, int n_rows) {
    float *got = take((size_t)(n_rows * g->n), sizeof *got);
    float *x = take((size_t)(n_rows * g->columns), sizeof *x);
    float *nothing = take((size_t)(n_rows * 2 * g->n), sizeof *nothing);
    memcpy(x, g->x + first * g->columns, (size_t)(n_rows * g->columns) * sizeof *x);
    struct value in = activation_of(subject, n_rows, g->columns, x);
    struct value both = activation_of(subject, n_rows, 2 * g->n, nothing);
    struct value out = activation_of(subject, n_rows, g->n, nothing);
    subject->ops->matmul_swiglu(subject->device, n_rows, out, both, in, weight);
    activation_read(subject, &out, n_rows, got);
    for (int at = 0; at < n_rows * g->n; at++) {
        int row = first + at / g->n, column = at % g->n, place = row * g->n + column;
        float gate = g->gate[place], up = g->up[place], expected = g->out[place];
        float near =
            1e-4f + 2 * subject->rounding * (1.1f * fabsf(gate * up) + 2 * fabsf(expected));
        bool same = subject->exact ? memcmp(&got[at], &expected, sizeof expected) == 0
                                   : fabsf(got[at] - expected) <= near;
        if (!same)
            fail_msg("%s, %d gates of %d, %d rows: row %d, column %d is %a instead of %a",
                     subject_name(subject), g->n, g->columns, n_rows, row, column, (double)got[at],
                     (double)expected);
    }
    struct value *values[] = {&in, &both, &out};
    for (size_t at = 0; at < sizeof values / sizeof *values; at++)
        value_release(subject, values[at]);
    free(got);
    free(x);
    free(nothing);
}

/* Heights below and above what a pass over K takes and what all processors take at once, odd ones;
 * columns that fill the boxes of K, and not. */
static void gates_are_applied_to_their_own_columns(void **state) {
    (void)state;
    /* Of the output; of x; rows. The last four fill the processors of an H200 in four ways. */
    static const int shapes[][3] = {{1536, 576, 33}, {16, 64, 33},     {40, 128, 128},
                                    {1031, 192, 33}, {4400, 64, 33},   {200, 200, 128},
                                    {7, 1024, 33},   {8448, 128, 128}, {10560, 64, 65},
                                    {12672, 64, 65}, {14776, 64, 128}};
    static const int counts[] = {1, 2, 5, 8, 9, 16, 17, 33, 64, 65, 128};
    struct device_limits limits = {.n_slots = 1,
                                   .max_rows = GATED_ROWS,
                                   .max_picked = 1,
                                   .max_sequences = 1,
                                   .context = GATED_ROWS,
                                   .vocabulary = 1};
    struct subjects subjects = subjects_open(&limits);
    for (size_t shape = 0; shape < sizeof shapes / sizeof *shapes; shape++) {
        struct gated g = gated_open(shapes[shape][0], shapes[shape][1], shapes[shape][2]);
        for (int at = 0; at < subjects.n; at++) {
            const struct subject *subject = &subjects.at[at];
            bool first = at == 0 || subject->ops != subjects.at[at - 1].ops;
            if (first) gated_expect(&g, subject);
            struct weight *weight = load_floats(subject, 2 * g.n, g.columns, g.weight);
            for (size_t count = 0; count < sizeof counts / sizeof *counts; count++) {
                int n_rows = counts[count];
                if (n_rows <= g.n_rows) check_gated(subject, &g, weight, g.n_rows - n_rows, n_rows);
            }
            subject->ops->unload(subject->device, weight);
        }
        gated_close(&g);
    }
    subjects_close(&subjects);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(heads_are_turned_on_their_way),
        cmocka_unit_test(gates_are_applied_to_their_own_columns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
