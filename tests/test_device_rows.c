/* The operators that treat each row by itself, but for those with weights: norm, rope, add, swiglu
 * and pick, against scalar C; and the two definitions that the expectations rest on, exp and the
 * table of sines and cosines, against libm in more precision. */
#include "device_plain.h"

enum { MOST_ROWS = 64 };
static const struct device_limits limits = {.n_slots = 1, .max_rows = MOST_ROWS, .max_picked = 1};
static const int row_counts[] = {1, 2, 5, 64};
enum { N_COUNTS = sizeof row_counts / sizeof *row_counts };

/* ---- exp ---------------------------------------------------------------------------------------
 */

static void check_exp(float x) {
    double exact = exp((double)x), got = (double)plain_exp(x);
    int exponent;
    frexp(exact, &exponent);
    double unit = ldexp(1, exponent - 24);
    if (fabs(got - exact) > 2 * unit)
        fail_msg("exp(%a) is %a, %g units away", (double)x, got, fabs(got - exact) / unit);
}

static void exp_is_within_two_units_of_libm(void **state) {
    (void)state;
    for (uint32_t bits = 0; bits < 0x7f800000; bits += 773) {
        float x;
        memcpy(&x, &bits, sizeof x);
        if (x <= 88) check_exp(x);
        if (x <= 87) check_exp(-x);
    }
    check_exp(88);
    check_exp(-87);
    assert_true(plain_exp(0) == 1 && plain_exp(-0.0f) == 1);
    assert_true(plain_exp(nextafterf(-87, -88)) == 0 && plain_exp(-INFINITY) == 0);
    assert_true(plain_exp(1e30f) == plain_exp(88) && plain_exp(INFINITY) == plain_exp(88));
}

/* ---- norm --------------------------------------------------------------------------------------
 */

/* x / sqrt(mean of squares + eps) * weight, the squares as a lane sum. */
static void plain_norm(float *out, const float *x, const float *weight, int columns, float eps) {
    float lane[LANES] = {0};
    for (int k = 0; k < columns; k++)
        lane[k % LANES] = fmaf(x[k], x[k], lane[k % LANES]);
    float scale = 1.0f / sqrtf(plain_lane_tree(lane) / (float)columns + eps);
    for (int k = 0; k < columns; k++)
        out[k] = x[k] * scale * weight[k];
}

/* `groups` groups of `columns` a row, each with a norm of its own. */
static void check_norm(const struct subjects *subjects, int columns, int groups, float eps) {
    struct dice dice = {(uint64_t)columns};
    int width = columns * groups;
    size_t n = (size_t)MOST_ROWS * (size_t)width;
    float *x = roll_floats(&dice, n, -4, 4), *expected = take(n, sizeof(float));
    float *weight = roll_floats(&dice, (size_t)columns, -2, 2), *got = take(n, sizeof(float));
    for (size_t at = 0; at < n; at += (size_t)columns)
        plain_norm(expected + at, x + at, weight, columns, eps);
    for (int at = 0; at < subjects->n; at++) {
        const struct subject *subject = &subjects->at[at];
        struct weight *loaded = load_floats(subject, 1, columns, weight);
        for (int count = 0; count < N_COUNTS; count++) {
            int n_rows = row_counts[count], first = MOST_ROWS - n_rows;
            size_t begin = (size_t)first * (size_t)width;
            struct value from = value_of(subject, n_rows, width, x + begin);
            struct value out = value_alloc(subject, n_rows, width);
            subject->ops->norm(subject->device, n_rows, out, from, loaded, eps);
            value_read(subject, &out, n_rows, got);
            check_floats(subject, "norm", expected + begin, got, n - begin, 1e-4f);
            value_release(subject, &from);
            value_release(subject, &out);
        }
        subject->ops->unload(subject->device, loaded);
    }
    free(x);
    free(weight);
    free(expected);
    free(got);
}

static void norm_of_rows_and_of_heads(void **state) {
    (void)state;
    struct subjects subjects = subjects_open(&limits);
    check_norm(&subjects, 576, 1, 1e-5f);
    check_norm(&subjects, 1031, 1, 1e-6f);
    check_norm(&subjects, 200, 1, 1e-5f);
    check_norm(&subjects, 15, 1, 1e-5f);
    check_norm(&subjects, 64, 9, 1e-6f);
    check_norm(&subjects, 17, 3, 1e-6f);
    subjects_close(&subjects);
}

/* ---- rope --------------------------------------------------------------------------------------
 */

/* One row of a table, read through the operator: (1, 0) turned by an angle is (cos, sin). */
static void read_rope(const struct subject *subject, const struct weight *table, int n_rotated,
                      const int32_t *position, float *angles) {
    struct rope_shape shape = {1, n_rotated, n_rotated, false};
    float *ones = take((size_t)MOST_ROWS * (size_t)n_rotated, sizeof *ones);
    for (int row = 0; row < MOST_ROWS; row++) {
        for (int pair = 0; pair < n_rotated / 2; pair++)
            ones[row * n_rotated + pair] = 1;
    }
    struct value x = value_of(subject, MOST_ROWS, n_rotated, ones);
    struct value out = value_alloc(subject, MOST_ROWS, n_rotated);
    struct rows rows = {.n_rows = MOST_ROWS, .position = position};
    subject->ops->begin(subject->device, &rows);
    subject->ops->rope(subject->device, &rows, out, x, shape, table);
    value_read(subject, &out, MOST_ROWS, angles);
    value_release(subject, &x);
    value_release(subject, &out);
    free(ones);
}

struct rope_case {
    struct rope_shape shape;
    double base, scale;
    bool with_factors;
};

static const struct rope_case rope_cases[] = {
    {{9, 64, 64, false}, 10000, 1, false},   {{3, 128, 128, true}, 500000, 1, true},
    {{2, 40, 20, false}, 10000, 0.25, true}, {{5, 80, 32, true}, 100000, 0.5, false},
    {{1, 6, 2, false}, 10, 1, false},
};

/* Half a unit below 1 for the one rounding to float, and what double loses on the angle. */
static void check_angles(const struct rope_case *c, const float *factor, const int32_t *position,
                         const float *angles) {
    int half = c->shape.n_rotated / 2;
    for (int row = 0; row < MOST_ROWS; row++) {
        for (int pair = 0; pair < half; pair++) {
            long double frequency = powl((long double)c->base, -2.0L * pair / (2 * half));
            if (factor) frequency /= (long double)factor[pair];
            long double angle = position[row] * frequency * (long double)c->scale;
            const float *at = angles + row * 2 * half + pair;
            assert_true(fabsl((long double)at[0] - cosl(angle)) <= 0x1p-25L + 1e-12L);
            assert_true(fabsl((long double)at[half] - sinl(angle)) <= 0x1p-25L + 1e-12L);
        }
    }
}

/* Pairs (a, b) stand `half` apart or side by side; what is not rotated is copied. */
static void plain_rope(float *out, const float *x, const float *angles, struct rope_shape shape) {
    int half = shape.n_rotated / 2;
    memcpy(out, x, (size_t)(shape.n_heads * shape.head_dim) * sizeof *out);
    for (int head = 0; head < shape.n_heads; head++) {
        for (int pair = 0; pair < half; pair++) {
            int a = head * shape.head_dim + (shape.interleaved ? 2 * pair : pair);
            int b = shape.interleaved ? a + 1 : a + half;
            float cosine = angles[pair], sine = angles[half + pair];
            out[a] = fmaf(x[a], cosine, -(x[b] * sine));
            out[b] = fmaf(x[a], sine, x[b] * cosine);
        }
    }
}

static void check_rope(const struct subject *subject, const struct rope_case *c) {
    enum { N_POSITIONS = 1100 };
    struct dice dice = {(uint64_t)c->shape.head_dim};
    int width = c->shape.n_heads * c->shape.head_dim, n_rotated = c->shape.n_rotated;
    size_t n = (size_t)MOST_ROWS * (size_t)width;
    float *factor = c->with_factors ? roll_floats(&dice, (size_t)n_rotated, 1, 8) : NULL;
    float *x = roll_floats(&dice, n, -4, 4), *got = take(n, sizeof *got);
    float *expected = take(n, sizeof *expected);
    float *angles = take((size_t)(MOST_ROWS * n_rotated), sizeof *angles);
    int32_t position[MOST_ROWS];
    for (int row = 0; row < MOST_ROWS; row++)
        position[row] = row < 2 ? row * (N_POSITIONS - 1) : roll_below(&dice, N_POSITIONS);
    struct weight *table =
        subject->ops->load_rope(subject->device, n_rotated, c->base, c->scale, factor, N_POSITIONS);
    read_rope(subject, table, n_rotated, position, angles);
    check_angles(c, factor, position, angles);
    for (int row = 0; row < MOST_ROWS; row++)
        plain_rope(expected + row * width, x + row * width, angles + row * n_rotated, c->shape);
    for (int count = 0; count < N_COUNTS; count++) {
        int n_rows = row_counts[count], first = MOST_ROWS - n_rows;
        size_t begin = (size_t)first * (size_t)width;
        struct value from = value_of(subject, n_rows, width, x + begin);
        struct value out = value_alloc(subject, n_rows, width);
        struct rows rows = {.n_rows = n_rows, .position = position + first};
        subject->ops->begin(subject->device, &rows);
        subject->ops->rope(subject->device, &rows, out, from, c->shape, table);
        value_read(subject, &out, n_rows, got);
        check_floats(subject, "rope", expected + begin, got, n - begin, 1e-5f);
        value_release(subject, &from);
        value_release(subject, &out);
    }
    subject->ops->unload(subject->device, table);
    free(factor);
    free(x);
    free(got);
    free(expected);
    free(angles);
}

static void rope_turns_pairs_by_their_positions(void **state) {
    (void)state;
    struct subjects subjects = subjects_open(&limits);
    for (size_t at = 0; at < sizeof rope_cases / sizeof *rope_cases; at++) {
        for (int subject = 0; subject < subjects.n; subject++)
            check_rope(&subjects.at[subject], &rope_cases[at]);
    }
    subjects_close(&subjects);
}

/* ---- add and swiglu ----------------------------------------------------------------------------
 */

static float plain_swiglu(float gate, float up) {
    return gate / (1.0f + plain_exp(-gate)) * up;
}

/* Subnormals, signs of zero, and where exp changes its mind. */
static const float special[] = {
    0,       -0.0f,  0x1p-149f, -0x1p-149f, 0x1.8p-127f, 87,          -87,     88,       -88,
    87.001f, 88.01f, -87.001f,  -88.01f,    1000,        -1000,       1e30f,   -1e30f,   0.5f,
    -0.5f,   1e-8f,  -1e-8f,    16.7f,      -16.7f,      0x1.62e43p6, 43.321f, -43.321f, 1,
};

static void check_pairs(const struct subject *subject, int columns, bool multiply) {
    struct dice dice = {(uint64_t)columns};
    size_t n = (size_t)MOST_ROWS * (size_t)columns, n_special = sizeof special / sizeof *special;
    float *a = roll_floats(&dice, n, -100, 100), *b = roll_floats(&dice, n, -3, 3);
    float *expected = take(n, sizeof *expected), *got = take(n, sizeof *got);
    for (size_t k = 0; k < n; k += 3)
        a[k] = special[k / 3 % n_special];
    for (size_t k = 0; k < n; k += 7)
        b[k] = special[k / 7 % n_special];
    for (size_t k = 0; k < n; k++)
        expected[k] = multiply ? plain_swiglu(a[k], b[k]) : a[k] + b[k];
    for (int count = 0; count < N_COUNTS; count++) {
        int n_rows = row_counts[count];
        size_t begin = (size_t)(MOST_ROWS - n_rows) * (size_t)columns;
        struct value left = value_of(subject, n_rows, columns, a + begin);
        struct value right = value_of(subject, n_rows, columns, b + begin);
        struct value out = value_alloc(subject, n_rows, columns);
        (multiply ? subject->ops->swiglu : subject->ops->add)(subject->device, n_rows, out, left,
                                                              right);
        value_read(subject, &out, n_rows, got);
        check_floats(subject, multiply ? "swiglu" : "add", expected + begin, got, n - begin, 1e-3f);
        value_release(subject, &left);
        value_release(subject, &right);
        value_release(subject, &out);
    }
    free(a);
    free(b);
    free(expected);
    free(got);
}

/* A sum, its norm, and swiglu, on activations; a result is rounded once more than its inputs. */
static void check_activations(const struct subject *subject, int columns, int n_rows) {
    struct dice dice = {(uint64_t)columns};
    size_t n = (size_t)n_rows * (size_t)columns;
    float *a = roll_floats(&dice, n, -4, 4), *b = roll_floats(&dice, n, -3, 3);
    float *weight = roll_floats(&dice, (size_t)columns, -2, 2), *got = take(n, sizeof *got);
    float *sum = take(n, sizeof *sum), *norm = take(n, sizeof *norm), eps = 1e-5f;
    struct value left = activation_of(subject, n_rows, columns, a);
    struct value right = activation_of(subject, n_rows, columns, b);
    memset(sum, 0, n * sizeof *sum);
    struct value summed = activation_of(subject, n_rows, columns, sum);
    struct value out = activation_of(subject, n_rows, columns, sum);
    struct weight *loaded = load_floats(subject, 1, columns, weight);
    const struct device_ops *ops = subject->ops;
    float near = 1e-4f + subject->rounding;

    for (size_t k = 0; k < n; k++)
        sum[k] = activation(subject, a[k] + b[k]);
    for (size_t row = 0; row < n; row += (size_t)columns)
        plain_norm(norm + row, sum + row, weight, columns, eps);
    ops->add_norm(subject->device, n_rows, summed, out, left, right, loaded, eps);
    activation_read(subject, &summed, n_rows, got);
    check_floats(subject, "sum before norm", sum, got, n, 0);
    activation_read(subject, &out, n_rows, got);
    check_floats(subject, "norm of a sum", norm, got, n, near);

    ops->norm(subject->device, n_rows, out, summed, loaded, eps);
    activation_read(subject, &out, n_rows, got);
    check_floats(subject, "norm", norm, got, n, near);

    ops->add(subject->device, n_rows, out, left, right);
    activation_read(subject, &out, n_rows, got);
    check_floats(subject, "add", sum, got, n, 0);

    for (size_t k = 0; k < n; k++)
        sum[k] = plain_swiglu(a[k], b[k]);
    ops->swiglu(subject->device, n_rows, out, left, right);
    activation_read(subject, &out, n_rows, got);
    check_floats(subject, "swiglu", sum, got, n, near);

    struct value *values[] = {&left, &right, &summed, &out};
    for (size_t at = 0; at < sizeof values / sizeof *values; at++)
        value_release(subject, values[at]);
    ops->unload(subject->device, loaded);
    float *numbers[] = {a, b, weight, got, sum, norm};
    for (size_t at = 0; at < sizeof numbers / sizeof *numbers; at++)
        free(numbers[at]);
}

/* The widths of models, and those on both sides of what a block holds in registers. */
static void activations_of_models(void **state) {
    (void)state;
    static const int widths[] = {8, 64, 576, 1000, 1031, 4096, 8192, 14336, 16384, 16392};
    struct subjects subjects = subjects_open(&limits);
    for (int at = 0; at < subjects.n; at++) {
        for (size_t width = 0; width < sizeof widths / sizeof *widths; width++) {
            check_activations(&subjects.at[at], widths[width], 1);
            check_activations(&subjects.at[at], widths[width], 5);
        }
    }
    subjects_close(&subjects);
}

static void add_and_swiglu_of_every_width(void **state) {
    (void)state;
    static const int widths[] = {576, 1031, 200, 96, 17, 16, 15, 1};
    struct subjects subjects = subjects_open(&limits);
    for (int at = 0; at < subjects.n; at++) {
        for (size_t width = 0; width < sizeof widths / sizeof *widths; width++) {
            check_pairs(&subjects.at[at], widths[width], false);
            check_pairs(&subjects.at[at], widths[width], true);
        }
    }
    subjects_close(&subjects);
}

/* exp within 2 units (above), then an addition, a division and a product of half a unit each. */
static void swiglu_is_gate_times_sigmoid_times_up(void **state) {
    (void)state;
    for (float gate = -87; gate < 87; gate += 0.01f) {
        double exact = (double)gate / (1 + exp(-(double)gate)) * 1.25;
        assert_true(fabs((double)plain_swiglu(gate, 1.25f) - exact) <= 4 * 0x1p-23 * fabs(exact));
    }
}

/* ---- pick --------------------------------------------------------------------------------------
 */

static void pick_copies_rows(void **state) {
    (void)state;
    enum { COLUMNS = 37 };
    static const int32_t picked[] = {0, 3, 4, 62, 63};
    enum { N_PICKED = sizeof picked / sizeof *picked };
    struct dice dice = {1};
    float *x = roll_floats(&dice, MOST_ROWS * COLUMNS, -1, 1);
    float expected[N_PICKED * COLUMNS], got[N_PICKED * COLUMNS];
    for (int row = 0; row < N_PICKED; row++)
        memcpy(expected + row * COLUMNS, x + picked[row] * COLUMNS, COLUMNS * sizeof *x);
    struct subjects subjects = subjects_open(&limits);
    for (int at = 0; at < subjects.n; at++) {
        const struct subject *subject = &subjects.at[at];
        struct value from = value_of(subject, MOST_ROWS, COLUMNS, x);
        struct value out = value_alloc(subject, N_PICKED, COLUMNS);
        struct rows rows = {.n_rows = MOST_ROWS, .n_picked = N_PICKED, .picked = picked};
        subject->ops->begin(subject->device, &rows);
        subject->ops->pick(subject->device, &rows, out, from);
        value_read(subject, &out, N_PICKED, got);
        check_floats(subject, "pick", expected, got, N_PICKED * COLUMNS, 0);
        value_release(subject, &from);
        value_release(subject, &out);
    }
    subjects_close(&subjects);
    free(x);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exp_is_within_two_units_of_libm),
        cmocka_unit_test(norm_of_rows_and_of_heads),
        cmocka_unit_test(rope_turns_pairs_by_their_positions),
        cmocka_unit_test(swiglu_is_gate_times_sigmoid_times_up),
        cmocka_unit_test(add_and_swiglu_of_every_width),
        cmocka_unit_test(activations_of_models),
        cmocka_unit_test(pick_copies_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
