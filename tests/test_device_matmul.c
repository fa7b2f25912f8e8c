/* matmul and embed over every storage type: y = 0; for k rising y = fma(x[k], w[k], y); then +
 * bias. w comes from quant_types[].unpack, which test_quant.c holds against another engine. */
#include "device_plain.h"

enum { MOST_ROWS = 64 };

/* Where the half-precision scales of a block stand, -1: none. Any other byte may be anything. */
static const int scale_at[QUANT_TYPES][2] = {
    [QUANT_F32] = {-1, -1}, [QUANT_F16] = {-1, -1},   [QUANT_BF16] = {-1, -1},
    [QUANT_Q8_0] = {0, -1}, [QUANT_Q4_0] = {0, -1},   [QUANT_Q4_1] = {0, 2},
    [QUANT_Q5_0] = {0, -1}, [QUANT_Q5_1] = {0, 2},    [QUANT_Q4_K] = {0, 2},
    [QUANT_Q5_K] = {0, 2},  [QUANT_Q6_K] = {208, -1},
};

/* Blocks of random bytes whose scales are at most `largest`; plain types hold floats up to it. */
static unsigned char *roll_blocks(struct dice *dice, enum quant type, size_t n_elements,
                                  float largest) {
    size_t n_bytes = quant_bytes(type, n_elements);
    unsigned char *blocks = take(n_bytes, 1);
    size_t block_bytes = (size_t)quant_types[type].block_bytes;
    for (size_t at = 0; at < n_bytes; at++)
        blocks[at] = (unsigned char)roll(dice);
    for (size_t block = 0; block < n_bytes; block += block_bytes) {
        float value = roll_between(dice, -largest, largest);
        uint16_t half = quant_to_f16(value), brain = quant_to_bf16(value);
        if (type == QUANT_F32) memcpy(blocks + block, &value, sizeof value);
        if (type == QUANT_F16) memcpy(blocks + block, &half, sizeof half);
        if (type == QUANT_BF16) memcpy(blocks + block, &brain, sizeof brain);
        for (int scale = 0; scale < 2; scale++) {
            half = quant_to_f16(roll_between(dice, -largest, largest));
            if (scale_at[type][scale] >= 0)
                memcpy(blocks + block + scale_at[type][scale], &half, sizeof half);
        }
    }
    return blocks;
}

/* A weight matrix with what it should do to `x`. */
struct matmul_case {
    enum quant type;
    int rows, columns;     /* of the weight */
    unsigned char *blocks; /* (rows, columns) as stored */
    float *weight;         /* (rows, columns) unpacked */
    float *bias;           /* (rows) */
    float *x;              /* (MOST_ROWS, columns) */
    float *bare, *biased;  /* (MOST_ROWS, rows) expected, without and with bias */
};

/* What weight and bias should make of x. */
static void case_expect(struct matmul_case *c) {
    size_t n_out = (size_t)MOST_ROWS * (size_t)c->rows;
    c->bare = take(n_out, sizeof(float));
    c->biased = take(n_out, sizeof(float));
    for (int row = 0; row < MOST_ROWS; row++) {
        for (int column = 0; column < c->rows; column++) {
            const float *x = c->x + (size_t)row * (size_t)c->columns;
            const float *w = c->weight + (size_t)column * (size_t)c->columns;
            float y = 0;
            for (int k = 0; k < c->columns; k++)
                y = fmaf(x[k], w[k], y);
            c->bare[row * c->rows + column] = y;
            c->biased[row * c->rows + column] = y + c->bias[column];
        }
    }
}

static struct matmul_case case_open(enum quant type, int rows, int columns, float largest) {
    struct dice dice = {(uint64_t)type * 1000003 + (uint64_t)rows * 1009 + (uint64_t)columns};
    size_t n_weights = (size_t)rows * (size_t)columns;
    struct matmul_case c = {.type = type, .rows = rows, .columns = columns};
    c.blocks = roll_blocks(&dice, type, n_weights, largest);
    c.weight = take(n_weights, sizeof(float));
    quant_types[type].unpack(c.blocks, n_weights, c.weight);
    c.bias = roll_floats(&dice, (size_t)rows, -3, 3);
    c.x = roll_floats(&dice, (size_t)MOST_ROWS * (size_t)columns, -2, 2);
    case_expect(&c);
    return c;
}

static void case_close(struct matmul_case *c) {
    free(c->blocks);
    free(c->weight);
    free(c->bias);
    free(c->x);
    free(c->bare);
    free(c->biased);
}

/* Ask one device for the rows [first, first + n_rows) of x. */
static void check_rows(const struct subject *subject, const struct matmul_case *c,
                       const struct weight *weight, const struct weight *bias, int first,
                       int n_rows) {
    const float *expected = (bias ? c->biased : c->bare) + (size_t)first * (size_t)c->rows;
    struct value x = value_of(subject, n_rows, c->columns, c->x + (size_t)first * c->columns);
    struct value out = value_alloc(subject, n_rows, c->rows);
    subject->ops->matmul(subject->device, n_rows, out, x, weight, bias);
    size_t n = (size_t)n_rows * (size_t)c->rows;
    float *got = take(n, sizeof *got);
    value_read(subject, &out, n_rows, got);
    char what[96];
    snprintf(what, sizeof what, "%s (%d, %d) x %d rows%s", quant_types[c->type].name, c->rows,
             c->columns, n_rows, bias ? " + bias" : "");
    /* without promised bits: the rounding errors of a sum in any order, n^2 eps max|x| max|w| */
    float most = 0;
    for (size_t k = 0; k < (size_t)c->rows * (size_t)c->columns; k++)
        most = fmaxf(most, fabsf(c->weight[k]));
    /* and of both factors */
    float near = (float)c->columns * (float)c->columns * 0x1p-23f * 2 * most +
                 (float)c->columns * 2 * subject->rounding * 2 * most;
    check_floats(subject, what, expected, got, n, near);
    free(got);
    value_release(subject, &x);
    value_release(subject, &out);
}

static void check_case(const struct subject *subject, const struct matmul_case *c,
                       const struct tensor *part, int n_parts, const int *n_rows, int n_counts) {
    struct weight *weight = subject->ops->load(subject->device, part, n_parts);
    struct weight *bias = load_floats(subject, 1, c->rows, c->bias);
    for (int count = 0; count < n_counts; count++) {
        /* begin elsewhere each time: a row must not notice where it stands */
        int first = (int)((unsigned)count * 7 % (unsigned)(MOST_ROWS + 1 - n_rows[count]));
        check_rows(subject, c, weight, count % 2 ? bias : NULL, first, n_rows[count]);
    }
    subject->ops->unload(subject->device, weight);
    subject->ops->unload(subject->device, bias);
}

static void check_shape(const struct subjects *subjects, enum quant type, int rows, int columns,
                        const int *n_rows, int n_counts) {
    struct matmul_case c = case_open(type, rows, columns, 0.125f);
    struct tensor tensor = {"test", type, rows, columns, c.blocks};
    for (int at = 0; at < subjects->n; at++)
        check_case(&subjects->at[at], &c, &tensor, 1, n_rows, n_counts);
    case_close(&c);
}

static const struct device_limits limits = {.n_slots = 1,
                                            .max_rows = MOST_ROWS,
                                            .max_picked = 1,
                                            .max_sequences = 1,
                                            .context = MOST_ROWS,
                                            .vocabulary = 1};

static const int every_count[] = {1,  2,  3,  4,  5,  6,  7,  8,  9, 10,
                                  11, 12, 13, 14, 16, 31, 33, 64, 1, 2};
static const int few_counts[] = {1, 2, 3, 4, 5, 14};
enum { N_EVERY = sizeof every_count / sizeof *every_count };
enum { N_FEW = sizeof few_counts / sizeof *few_counts };

/* Columns that the type's blocks allow: first one that is no multiple of the kernels' chunks. */
static int odd_columns(enum quant type) {
    int block = quant_types[type].block_elements;
    return block == 1 ? 200 : block == 32 ? 576 : 768;
}

static void every_type_in_every_number_of_rows(void **state) {
    (void)state;
    struct subjects subjects = subjects_open(&limits);
    for (enum quant type = 0; type < QUANT_TYPES; type++)
        check_shape(&subjects, type, 40, odd_columns(type), every_count, N_EVERY);
    subjects_close(&subjects);
}

static void weights_of_every_height(void **state) {
    (void)state;
    static const int heights[] = {200, 33, 17, 16, 15, 2, 1};
    struct subjects subjects = subjects_open(&limits);
    for (enum quant type = 0; type < QUANT_TYPES; type++) {
        int block = quant_types[type].block_elements;
        int columns = block == 1 ? 328 : block == 32 ? 96 : 256;
        for (size_t at = 0; at < sizeof heights / sizeof *heights; at++)
            check_shape(&subjects, type, heights[at], columns, few_counts, N_FEW);
    }
    subjects_close(&subjects);
}

/* Tall enough for several groups of panels a thread, with a last panel that is not full. */
static void tall_weights_are_shared_by_threads(void **state) {
    (void)state;
    static const enum quant types[] = {QUANT_F32, QUANT_F16, QUANT_Q8_0, QUANT_Q4_1, QUANT_Q6_K};
    struct subjects subjects = subjects_open(&limits);
    for (size_t at = 0; at < sizeof types / sizeof *types; at++) {
        int block = quant_types[types[at]].block_elements;
        check_shape(&subjects, types[at], 1031,
                    block == 1    ? 200
                    : block == 32 ? 96
                                  : 256,
                    few_counts, N_FEW);
    }
    subjects_close(&subjects);
}

/* Short rows of plain types: below one chunk, below one vector. */
static void narrow_weights(void **state) {
    (void)state;
    struct subjects subjects = subjects_open(&limits);
    for (enum quant type = 0; type < QUANT_Q8_0; type++) {
        for (int columns = 1; columns < 36; columns += 7)
            check_shape(&subjects, type, 33, columns, few_counts, N_FEW);
    }
    subjects_close(&subjects);
}

enum { MOST_FEW = 128 };

/* A product of bf16 numbers, as between operators of a model, and what it should be. */
struct few_case {
    int rows, columns; /* of the weight */
    float *weight;     /* (rows, columns) */
    float *bias;       /* (rows) */
    int n_rows;        /* of x */
    float *x;          /* (n_rows, columns) */
    double *y, *size;  /* (n_rows, rows) the sum over k of x w and of |x w|, without bias */
};

static struct few_case few_open(int rows, int columns, int n_rows) {
    struct dice dice = {(uint64_t)rows * 1009 + (uint64_t)columns};
    struct few_case c = {.rows = rows, .columns = columns, .n_rows = n_rows};
    size_t n_weights = (size_t)rows * (size_t)columns, n_x = (size_t)n_rows * (size_t)columns;
    c.weight = roll_floats(&dice, n_weights, -0.125f, 0.125f);
    c.bias = roll_floats(&dice, (size_t)rows, -3, 3);
    c.x = roll_floats(&dice, n_x, -2, 2);
    for (size_t k = 0; k < n_weights; k++)
        c.weight[k] = quant_from_bf16(quant_to_bf16(c.weight[k]));
    for (size_t k = 0; k < n_x; k++)
        c.x[k] = quant_from_bf16(quant_to_bf16(c.x[k]));
    c.y = take((size_t)n_rows * (size_t)rows, sizeof *c.y);
    c.size = take((size_t)n_rows * (size_t)rows, sizeof *c.size);
    for (int row = 0; row < n_rows; row++) {
        for (int column = 0; column < rows; column++) {
            const float *x = c.x + (size_t)row * (size_t)columns;
            const float *w = c.weight + (size_t)column * (size_t)columns;
            size_t at = (size_t)row * (size_t)rows + (size_t)column;
            for (int k = 0; k < columns; k++) {
                double product = (double)x[k] * (double)w[k];
                c.y[at] += product;
                c.size[at] += fabs(product);
            }
        }
    }
    return c;
}

static void few_close(struct few_case *c) {
    free(c->weight);
    free(c->bias);
    free(c->x);
    free(c->y);
    free(c->size);
}

/* No factor is rounded here, so what is left is the error of a sum in any order, columns 2^-23 |x|
 * |w| with tensor cores that cut instead of rounding, and the rounding of the output. */
static void check_few(const struct subject *subject, const struct few_case *c, int n_rows,
                      const float *got, bool biased, double rounding) {
    for (int row = 0; row < n_rows; row++) {
        for (int column = 0; column < c->rows; column++) {
            size_t at = (size_t)row * (size_t)c->rows + (size_t)column;
            double y = c->y[at] + (biased ? (double)c->bias[column] : 0);
            double near = c->columns * 0x1p-23 * c->size[at] + rounding * fabs(y) + 0x1p-20;
            if (fabs((double)got[at] - y) <= near) continue;
            fail_msg("%s, (%d, %d) x %d rows%s: row %d, column %d is %g instead of %g",
                     subject_name(subject), c->rows, c->columns, n_rows, biased ? " + bias" : "",
                     row, column, (double)got[at], y);
        }
    }
}

/* Into an activation; with a bias, and into a view of floats with gaps around it. */
static void few_rows(const struct subject *subject, const struct few_case *c, int n_rows,
                     const struct weight *weight, const struct weight *bias) {
    const struct device_ops *ops = subject->ops;
    struct value x = activation_of(subject, n_rows, c->columns, c->x);
    float *got = take((size_t)n_rows * (size_t)c->rows, sizeof *got);
    double rounding = ops->activation == ELEMENT_BF16 ? 0x1p-8 : 0;
    struct value narrow = activation_of(subject, n_rows, c->rows, got);
    ops->matmul(subject->device, n_rows, narrow, x, weight, NULL);
    activation_read(subject, &narrow, n_rows, got);
    check_few(subject, c, n_rows, got, false, rounding);
    struct value wide = value_alloc(subject, n_rows, c->rows);
    ops->matmul(subject->device, n_rows, wide, x, weight, bias);
    value_read(subject, &wide, n_rows, got);
    check_few(subject, c, n_rows, got, true, 0);
    free(got);
    value_release(subject, &x);
    value_release(subject, &narrow);
    value_release(subject, &wide);
}

/* Whether a device is there that does not promise the bits of every_type_in_every_number_of_rows.
 */
static bool any_inexact(const struct subjects *subjects) {
    for (int at = 0; at < subjects->n; at++)
        if (!subjects->at[at].exact) return true;
    return false;
}

static void check_few_shape(const struct subjects *subjects, int rows, int columns,
                            const int *n_rows, int n_counts) {
    struct few_case c = few_open(rows, columns, n_rows[n_counts - 1]);
    for (int at = 0; at < subjects->n; at++) {
        const struct subject *subject = &subjects->at[at];
        if (subject->exact && n_rows[n_counts - 1] > MOST_ROWS) continue;
        struct weight *weight = load_floats(subject, c.rows, c.columns, c.weight);
        struct weight *bias = load_floats(subject, 1, c.rows, c.bias);
        for (int count = 0; count < n_counts; count++)
            few_rows(subject, &c, n_rows[count], weight, bias);
        subject->ops->unload(subject->device, weight);
        subject->ops->unload(subject->device, bias);
    }
    few_close(&c);
}

/* Heights at which a GPU of 132 processors takes 1, 2, 3 and more tiles of 16 rows of a weight a
 * block, in one pass and in several; widths that end inside what is read at once; and a height and
 * a width that go another way. */
static void few_rows_of_activations(void **state) {
    (void)state;
    static const int shapes[][2] = {{16, 64},    {37, 8256},   {1000, 1088},
                                    {2500, 192}, {2500, 2112}, {4250, 1088},
                                    {29000, 64}, {65600, 64},  {300, 72}};
    static const int n_rows[] = {1, 2, 7, 8, 9, 16, 17, 33};
    struct subjects subjects = subjects_open(&limits);
    for (size_t shape = 0; shape < sizeof shapes / sizeof *shapes; shape++)
        check_few_shape(&subjects, shapes[shape][0], shapes[shape][1], n_rows,
                        sizeof n_rows / sizeof *n_rows);
    subjects_close(&subjects);
}

static const struct device_limits more_limits = {.n_slots = 1,
                                                 .max_rows = MOST_FEW,
                                                 .max_picked = 1,
                                                 .max_sequences = 1,
                                                 .context = MOST_FEW,
                                                 .vocabulary = 1};

/* Heights at which such a GPU takes from 16 to 224 rows of a weight a block, the last block not
 * full, with columns whole or cut in two; widths that end inside what is read at once, and that one
 * of two blocks has nothing of; a height that goes another way. */
static void more_rows_of_activations(void **state) {
    (void)state;
    static const int shapes[][2] = {{2000, 448}, {3000, 64},  {4048, 832},  {6040, 320},
                                    {8200, 128}, {10400, 64}, {12000, 64},  {16400, 64},
                                    {20008, 64}, {25000, 64}, {29000, 128}, {4044, 64}};
    static const int n_rows[][4] = {{17, 64, 65, 128},
                                    {32, 33, 100, 127},
                                    {40, 64, 96, 128},
                                    {33, 48, 65, 72},
                                    {17, 40, 80, 127}};
    struct subjects subjects = subjects_open(&more_limits);
    for (size_t shape = 0; any_inexact(&subjects) && shape < sizeof shapes / sizeof *shapes;
         shape++)
        check_few_shape(&subjects, shapes[shape][0], shapes[shape][1],
                        n_rows[shape % (sizeof n_rows / sizeof *n_rows)], 4);
    subjects_close(&subjects);
}

/* More than all of shared memory holds, in one pass and in several. */
static void more_rows_and_long_weights(void **state) {
    (void)state;
    static const int shapes[][2] = {{4048, 2688}, {29000, 448}, {50000, 192}};
    static const int n_rows[] = {33, 65};
    struct subjects subjects = subjects_open(&more_limits);
    for (size_t shape = 0; any_inexact(&subjects) && shape < sizeof shapes / sizeof *shapes;
         shape++)
        check_few_shape(&subjects, shapes[shape][0], shapes[shape][1], n_rows, 2);
    subjects_close(&subjects);
}

/* A weight joined of three tensors, on the devices that take such types together. */
static void check_joined(const struct subjects *subjects, const enum quant type[3]) {
    enum { COLUMNS = 768, TALLEST = 40 };
    static const int rows[3] = {TALLEST, 9, 18};
    struct matmul_case part[3], c = {.type = type[0], .columns = COLUMNS};
    struct tensor tensor[3];
    c.weight = take((size_t)3 * TALLEST * COLUMNS, sizeof *c.weight);
    for (int at = 0; at < 3; c.rows += rows[at++]) {
        part[at] = case_open(type[at], rows[at], COLUMNS, 0.125f);
        tensor[at] = (struct tensor){"part", type[at], rows[at], COLUMNS, part[at].blocks};
        memcpy(c.weight + (size_t)c.rows * COLUMNS, part[at].weight,
               (size_t)rows[at] * COLUMNS * sizeof *c.weight);
    }
    struct dice dice = {3};
    c.bias = roll_floats(&dice, (size_t)c.rows, -3, 3);
    c.x = roll_floats(&dice, (size_t)MOST_ROWS * COLUMNS, -2, 2);
    case_expect(&c);
    bool one_type = type[0] == type[1] && type[0] == type[2];
    for (int at = 0; at < subjects->n; at++) {
        const struct device_ops *ops = subjects->at[at].ops;
        if (!one_type && !ops->joins_weights) continue;
        size_t apart = 0; /* joined weights take what their parts would */
        for (int one = 0; one < 3; one++)
            apart += ops->weight_bytes(&tensor[one], 1);
        assert_int_equal(ops->weight_bytes(tensor, 3), apart);
        check_case(&subjects->at[at], &c, tensor, 3, few_counts, N_FEW);
    }
    for (int at = 0; at < 3; at++)
        case_close(&part[at]);
    case_close(&c);
}

static void weights_joined_of_tensors(void **state) {
    (void)state;
    static const enum quant mixed[][3] = {{QUANT_Q4_K, QUANT_Q4_K, QUANT_Q6_K},
                                          {QUANT_F32, QUANT_BF16, QUANT_F16},
                                          {QUANT_Q5_1, QUANT_Q8_0, QUANT_Q4_0}};
    struct subjects subjects = subjects_open(&limits);
    for (enum quant type = 0; type < QUANT_TYPES; type++)
        check_joined(&subjects, (const enum quant[3]){type, type, type});
    for (size_t at = 0; at < sizeof mixed / sizeof *mixed; at++)
        check_joined(&subjects, mixed[at]);
    subjects_close(&subjects);
}

/* More rows than an int holds when they are multiplied by their tiles. */
static void more_rows_than_tiles_times_rows_fit_an_int(void **state) {
    (void)state;
    enum { MANY = 170000, OUT = 3, IN = 2 };
    const struct device_limits many = {
        .n_slots = 1, .max_rows = MANY, .max_picked = 1, .vocabulary = 1};
    const float w[OUT * IN] = {0.5f, -3, 1.75f, 0.1f, -0.3f, 2};
    struct dice dice = {7};
    float *input = roll_floats(&dice, (size_t)MANY * IN, -2, 2);
    float *expected = take((size_t)MANY * OUT, sizeof *expected);
    float *got = take((size_t)MANY * OUT, sizeof *got);
    for (size_t row = 0; row < MANY; row++) {
        for (size_t out = 0; out < OUT; out++)
            expected[row * OUT + out] =
                fmaf(input[row * IN + 1], w[out * IN + 1], input[row * IN] * w[out * IN]);
    }
    struct subjects subjects = subjects_open(&many);
    for (int at = 0; at < subjects.n; at++) {
        const struct subject *subject = &subjects.at[at];
        struct weight *weight = load_floats(subject, OUT, IN, w);
        struct value x = value_of(subject, MANY, IN, input);
        struct value out = value_alloc(subject, MANY, OUT);
        subject->ops->matmul(subject->device, MANY, out, x, weight, NULL);
        value_read(subject, &out, MANY, got);
        /* factors up to 2 and 3, each rounded */
        float near = 1e-5f + IN * 2 * subject->rounding * 2 * 3;
        check_floats(subject, "170000 rows", expected, got, (size_t)MANY * OUT, near);
        value_release(subject, &x);
        value_release(subject, &out);
        subject->ops->unload(subject->device, weight);
    }
    subjects_close(&subjects);
    free(input);
    free(expected);
    free(got);
}

/* Rows of a table as the model file defines them: bits, up to the largest scale a half can hold. */
static void embed_gives_the_rows_of_the_table(void **state) {
    (void)state;
    enum { N_IDS = 41 };
    struct subjects subjects = subjects_open(&limits);
    for (enum quant type = 0; type < QUANT_TYPES; type++) {
        for (int large = 0; large < 2; large++) {
            int columns = odd_columns(type), n_rows = MOST_ROWS;
            struct matmul_case c = case_open(type, N_IDS, columns, large ? 65504.0f : 0.02f);
            int32_t id[MOST_ROWS], position[MOST_ROWS], sequence[MOST_ROWS] = {0};
            float *expected = take((size_t)n_rows * (size_t)columns, sizeof(float));
            for (int row = 0; row < n_rows; row++) {
                id[row] = (row * 29 + 40) % N_IDS;
                position[row] = row;
                memcpy(expected + (size_t)row * (size_t)columns,
                       c.weight + (size_t)id[row] * (size_t)columns,
                       (size_t)columns * sizeof *expected);
            }
            for (int at = 0; at < subjects.n; at++) {
                const struct subject *subject = &subjects.at[at];
                struct tensor tensor = {"table", type, N_IDS, columns, c.blocks};
                struct weight *table = subject->ops->load(subject->device, &tensor, 1);
                struct value out = value_alloc(subject, n_rows, columns);
                struct rows rows = {
                    .n_rows = n_rows, .id = id, .position = position, .sequence = sequence};
                subject->ops->begin(subject->device, &rows);
                subject->ops->embed(subject->device, &rows, out, table);
                float *got = take((size_t)n_rows * (size_t)columns, sizeof *got);
                size_t n = (size_t)n_rows * (size_t)columns;
                float most = 0; /* a table may be kept rounded */
                for (size_t k = 0; k < n; k++)
                    most = fmaxf(most, fabsf(expected[k]));
                value_read(subject, &out, n_rows, got);
                check_floats(subject, quant_types[type].name, expected, got, n,
                             subject->rounding * most);
                free(got);
                value_release(subject, &out);
                subject->ops->unload(subject->device, table);
            }
            free(expected);
            case_close(&c);
        }
    }
    subjects_close(&subjects);
}

/* The definition itself: a double-precision product within the error bound of a chain of n fma,
 * n 2^-24 sum |x w| (each rounding is at most half a unit of a partial sum). */
static void the_definition_is_a_matrix_product(void **state) {
    (void)state;
    struct matmul_case c = case_open(QUANT_Q4_1, 40, 576, 0.125f);
    for (int row = 0; row < MOST_ROWS; row++) {
        for (int column = 0; column < c.rows; column++) {
            double y = 0, size = 0;
            for (int k = 0; k < c.columns; k++) {
                double product =
                    (double)c.x[row * c.columns + k] * (double)c.weight[column * c.columns + k];
                y += product;
                size += fabs(product);
            }
            double error = fabs((double)c.bare[row * c.rows + column] - y);
            assert_true(error <= c.columns * 0x1p-24 * size);
        }
    }
    case_close(&c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_definition_is_a_matrix_product),
        cmocka_unit_test(every_type_in_every_number_of_rows),
        cmocka_unit_test(weights_of_every_height),
        cmocka_unit_test(tall_weights_are_shared_by_threads),
        cmocka_unit_test(narrow_weights),
        cmocka_unit_test(few_rows_of_activations),
        cmocka_unit_test(more_rows_of_activations),
        cmocka_unit_test(more_rows_and_long_weights),
        cmocka_unit_test(weights_joined_of_tensors),
        cmocka_unit_test(more_rows_than_tiles_times_rows_fit_an_int),
        cmocka_unit_test(embed_gives_the_rows_of_the_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
