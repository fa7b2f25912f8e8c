/* load_noise: a matrix that a device makes up is, bit by bit, the one it is given. */
#include "device_plain.h"
#include "noise.h"

static const struct device_limits limits = {.n_slots = 1,
                                            .max_rows = 2048,
                                            .max_picked = 1,
                                            .max_sequences = 1,
                                            .context = 2048,
                                            .vocabulary = 8};

/* All of a weight's rows, as embed gives them; to be freed. */
static float *rows_of(const struct subject *subject, const struct weight *weight, int n_rows,
                      int columns) {
    struct value out = {.columns = columns, .stride = columns, .element = ELEMENT_F32};
    size_t n_bytes = (size_t)n_rows * (size_t)columns * sizeof(float);
    float *got = take((size_t)n_rows * (size_t)columns, sizeof *got);
    int32_t *number = take((size_t)n_rows, sizeof *number);
    int32_t *zero = take((size_t)n_rows, sizeof *zero);
    for (int row = 0; row < n_rows; row++) {
        number[row] = row;
        zero[row] = 0;
    }
    struct rows rows = {.n_rows = n_rows, .id = number, .position = number, .sequence = zero};
    out.buffer = subject->ops->alloc(subject->device, n_bytes);
    subject->ops->begin(subject->device, &rows);
    subject->ops->embed(subject->device, &rows, out, weight);
    subject->ops->download(subject->device, got, out.buffer, 0, n_bytes);
    subject->ops->release(subject->device, out.buffer);
    free(number);
    free(zero);
    return got;
}

static void check_matrix(const struct subject *subject, enum quant type, int n_first, int n_second,
                         int columns) {
    struct tensor part[2] = {{.name = "a", .type = type, .rows = n_first, .columns = columns},
                             {.name = "b", .type = type, .rows = n_second, .columns = columns}};
    struct noise noise[2];
    int n_parts = n_second ? 2 : 1, n_rows = n_first + n_second;
    float *expected = take((size_t)n_rows * (size_t)columns, sizeof *expected), *at = expected;
    for (int p = 0; p < n_parts; p++) {
        size_t n = (size_t)part[p].rows * (size_t)columns;
        void *stored = take(n, sizeof(float));
        noise_describe(&noise[p], type, noise_key(5, part[p].name), 0.02);
        noise_fill(stored, type, noise_key(5, part[p].name), 0.02, 0, n, 1);
        quant_types[type].unpack(stored, n, at);
        for (size_t k = 0; k < n; k++)
            at[k] = activation(subject, at[k]);
        at += n;
        free(stored);
    }
    struct weight *weight = subject->ops->load_noise(subject->device, part, noise, n_parts);
    float *got = rows_of(subject, weight, n_rows, columns);
    for (size_t k = 0; k < (size_t)n_rows * (size_t)columns; k++) {
        if (memcmp(&got[k], &expected[k], sizeof *got) != 0)
            fail_msg("%s, %d + %d rows of %d: element %zu is %a instead of %a",
                     subject_name(subject), n_first, n_second, columns, k, (double)got[k],
                     (double)expected[k]);
    }
    subject->ops->unload(subject->device, weight);
    free(expected);
    free(got);
}

static void made_matrices_are_those_given(void **state) {
    (void)state;
    struct subjects subjects = subjects_open(&limits);
    int n_checked = 0;
    for (int at = 0; at < subjects.n; at++) {
        const struct subject *subject = &subjects.at[at];
        if (!subject->ops->load_noise) continue;
        for (enum quant type = QUANT_F32; type <= QUANT_BF16; type++) {
            check_matrix(subject, type, 2, 0, 3);
            check_matrix(subject, type, 700, 0, 61);
            check_matrix(subject, type, 5, 1, 8);
            check_matrix(subject, type, 33, 700, 65);
            check_matrix(subject, type, 1000, 1000, 4096);
        }
        n_checked += 1;
    }
    subjects_close(&subjects);
    if (n_checked == 0) skip(); /* CPUs want numbers */
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(made_matrices_are_those_given)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
