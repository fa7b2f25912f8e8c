/* device_plain.h - what the tests of a device share: dice, the definitions of device.h in scalar C,
 * and the devices under test.
 *
 * Everything here is written from the text of device.h, one float at a time, so that it can be read
 * beside that page; nothing is taken from src/device. A test computes what it expects with these
 * functions once and then asks every device for the same: the bits where a device promises them
 * (cpu, any instruction set, any number of threads), else closeness that the test states. A second
 * device is one more line in `tested`. Reaching the kernels through their private header was
 * rejected: the contract is device.h, and only what can be seen through it may matter.
 */
#ifndef LAMINA_DEVICE_PLAIN_H
#define LAMINA_DEVICE_PLAIN_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "device.h"

_Static_assert(PAGE_TOKENS == 64 && SPAN_BLOCKS == 8 && VOCABULARY_TILE == 1024,
               "docs/design.md section 6 names these: other values give other bits");

/* ---- dice: splitmix64, so that a failure comes again ------------------------------------------
 */

struct dice {
    uint64_t state;
};

static inline uint64_t roll(struct dice *dice) {
    uint64_t z = dice->state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static inline int roll_below(struct dice *dice, int n) {
    return (int)((roll(dice) >> 33) % (uint64_t)n);
}

/* Even over [low, high). */
static inline float roll_between(struct dice *dice, float low, float high) {
    return low + (high - low) * (float)(roll(dice) >> 40) * 0x1p-24f;
}

/* About normal: the sum of twelve even numbers has variance 1. */
static inline float roll_bell(struct dice *dice) {
    float sum = -6;
    for (int part = 0; part < 3; part++) {
        uint64_t z = roll(dice);
        for (int word = 0; word < 4; word++)
            sum += (float)(z >> 16 * word & 0xffff) * 0x1p-16f;
    }
    return sum;
}

static inline void *take(size_t count, size_t size) {
    void *memory = calloc(count ? count : 1, size);
    assert_non_null(memory);
    return memory;
}

static inline float *roll_floats(struct dice *dice, size_t n, float low, float high) {
    float *out = take(n, sizeof *out);
    for (size_t k = 0; k < n; k++)
        out[k] = roll_between(dice, low, high);
    return out;
}

/* ---- the definitions of device.h --------------------------------------------------------------
 */

enum { LANES = 16 };

/* Lane l += lane l+8, += l+4, += l+2, += l+1. */
static inline float plain_lane_tree(const float lane[LANES]) {
    float sum[LANES];
    memcpy(sum, lane, sizeof sum);
    for (int apart = LANES / 2; apart > 0; apart /= 2) {
        for (int l = 0; l < apart; l++)
            sum[l] = sum[l] + sum[l + apart];
    }
    return sum[0];
}

/* e^x: x = n ln 2 + r with n the nearest integer and ln 2 in two parts, the Taylor polynomial of
 * degree 7 in r, times 2^n. 0 below -87, e^88 above 88. */
static inline float plain_exp(float x) {
    static const float taylor[] = {1.98412698e-4f, 1.38888889e-3f, 8.33333333e-3f, 4.16666667e-2f,
                                   1.66666667e-1f, 0.5f,           1.0f,           1.0f};
    if (x < -87.0f) return 0;
    if (x > 88.0f) x = 88.0f;
    float n = rintf(x * 1.44269504088896341f);
    float r = fmaf(n, 2.12194440e-4f, fmaf(n, -0.693359375f, x));
    float p = taylor[0];
    for (size_t term = 1; term < sizeof taylor / sizeof *taylor; term++)
        p = fmaf(p, r, taylor[term]);
    return ldexpf(p, (int)n);
}

/* The state of a fold: maximum, sum and accumulators; sum 0 is empty. */
struct plain_fold {
    float maximum, sum, acc[256];
};

/* Bring `other` into `state`. */
static inline void plain_merge(struct plain_fold *state, const struct plain_fold *other,
                               int n_acc) {
    if (other->sum == 0) return;
    if (state->sum == 0) {
        *state = *other;
        return;
    }
    float maximum = fmaxf(state->maximum, other->maximum);
    float c1 = plain_exp(state->maximum - maximum), c2 = plain_exp(other->maximum - maximum);
    state->maximum = maximum;
    state->sum = fmaf(state->sum, c1, other->sum * c2);
    for (int dim = 0; dim < n_acc; dim++)
        state->acc[dim] = fmaf(state->acc[dim], c1, other->acc[dim] * c2);
}

/* ---- the devices under test -------------------------------------------------------------------
 */

/* `exact`: the bits of device.h are promised. Otherwise numbers are as close as a test states, and
 * what goes into a product is rounded first, by at most `rounding` of itself: half a unit of bf16's
 * 8 bits.
 * Instruction sets 1 to n_isas are tried, or only the device's own choice when there is one. */
static const struct tested {
    const struct device_ops *ops;
    bool exact;
    float rounding;
    int n_isas, most_threads;
} tested[] = {
    {&device_cpu, true, 0, 3, 3},
    {&device_cuda, false, 0x1p-8f, 1, 1},
};

/* One device, opened one way. */
struct subject {
    const struct device_ops *ops;
    struct device *device;
    bool exact;
    float rounding;
};

enum { MOST_SUBJECTS = 16 };
struct subjects {
    int n;
    struct subject at[MOST_SUBJECTS];
};

/* Open every device in every way that this processor has, or only the one that gpu_run names. */
static inline struct subjects subjects_open(const struct device_limits *limits) {
    struct subjects all = {0};
    const char *only = getenv("LAMINA_TEST_DEVICE");
    for (size_t kind = 0; kind < sizeof tested / sizeof *tested; kind++) {
        const struct tested *row = &tested[kind];
        if (row->ops->count() == 0 || (only && strcmp(only, row->ops->name) != 0)) continue;
        for (int way = 0; way < row->n_isas * row->most_threads; way++) {
            struct device_options options = {
                .n_threads = way % row->most_threads + 1,
                .isa = row->n_isas == 1 ? 0 : way / row->most_threads + 1,
            };
            struct fault fault = {0};
            struct subject *subject = &all.at[all.n];
            if (!row->ops->open(&subject->device, &options, &fault)) continue;
            assert_true(all.n < MOST_SUBJECTS);
            subject->ops = row->ops;
            subject->exact = row->exact;
            subject->rounding = row->rounding;
            subject->ops->prepare(subject->device, limits);
            all.n += 1;
        }
    }
    assert_true(all.n > 0);
    return all;
}

static inline void subjects_close(struct subjects *all) {
    for (int at = 0; at < all->n; at++)
        all->at[at].ops->close(all->at[at].device);
    all->n = 0;
}

static inline const char *subject_name(const struct subject *subject) {
    return subject->ops->describe(subject->device);
}

/* Bits where they are promised, else |difference| <= near, of itself where a number is above 1.
 * `what` names the case for people. */
static inline void check_floats(const struct subject *subject, const char *what,
                                const float *expected, const float *got, size_t n, float near) {
    if (subject->exact && memcmp(expected, got, n * sizeof *got) == 0) return;
    for (size_t k = 0; k < n; k++) {
        bool same = subject->exact
                        ? memcmp(&expected[k], &got[k], sizeof *got) == 0
                        : fabsf(expected[k] - got[k]) <= near * fmaxf(1, fabsf(expected[k]));
        if (!same) {
            fail_msg("%s, %s: element %zu is %a instead of %a", subject_name(subject), what, k,
                     (double)got[k], (double)expected[k]);
        }
    }
}

/* ---- values: a view of columns inside wider rows, with a pattern around it that must stay ------
 */

/* Two NaNs, so that what reads or writes past a value shows. */
enum { GAP_BEFORE = 3, GAP_COLUMNS = 5 };
static const uint32_t gap_of_inputs = 0x7fc0dead, gap_of_outputs = 0x7fc0f00d;

static inline struct value value_filled(const struct subject *subject, int rows, int columns,
                                        uint32_t pattern) {
    struct value value = {
        .offset = GAP_BEFORE * sizeof(float),
        .columns = columns,
        .stride = columns + GAP_COLUMNS,
        .element = ELEMENT_F32,
    };
    size_t n = GAP_BEFORE + (size_t)rows * (size_t)value.stride;
    value.buffer = subject->ops->alloc(subject->device, n * sizeof(float));
    uint32_t *words = take(n, sizeof *words);
    for (size_t k = 0; k < n; k++)
        words[k] = pattern;
    subject->ops->upload(subject->device, value.buffer, 0, words, n * sizeof *words);
    free(words);
    return value;
}

/* Room for an output of (rows, columns) floats. Release with value_release. */
static inline struct value value_alloc(const struct subject *subject, int rows, int columns) {
    return value_filled(subject, rows, columns, gap_of_outputs);
}

static inline void value_release(const struct subject *subject, struct value *value) {
    subject->ops->release(subject->device, value->buffer);
}

static inline size_t value_row(const struct value *value, int row) {
    return value->offset + (size_t)row * (size_t)value->stride * element_bytes(value->element);
}

/* An input holding `from` (rows, columns). */
static inline struct value value_of(const struct subject *subject, int rows, int columns,
                                    const float *from) {
    struct value value = value_filled(subject, rows, columns, gap_of_inputs);
    size_t n_bytes = (size_t)columns * sizeof *from;
    for (int row = 0; row < rows; row++)
        subject->ops->upload(subject->device, value.buffer, value_row(&value, row),
                             from + (size_t)row * (size_t)columns, n_bytes);
    return value;
}

/* The (rows, columns) of an output; fails when something was written around them. */
static inline void value_read(const struct subject *subject, const struct value *value, int rows,
                              float *to) {
    size_t stride = (size_t)value->stride, columns = (size_t)value->columns;
    size_t n = GAP_BEFORE + (size_t)rows * stride;
    uint32_t *words = take(n, sizeof *words);
    subject->ops->download(subject->device, words, value->buffer, 0, n * sizeof *words);
    for (size_t k = 0; k < GAP_BEFORE; k++)
        assert_int_equal(words[k], gap_of_outputs);
    for (size_t row = 0; row < (size_t)rows; row++) {
        const uint32_t *at = words + GAP_BEFORE + row * stride;
        memcpy(to + row * columns, at, columns * sizeof *to);
        for (size_t k = columns; k < stride; k++)
            assert_int_equal(at[k], gap_of_outputs);
    }
    free(words);
}

/* ---- activations: values as they lie between operators of a model: no gaps, the device's type --
 */

/* What is left of `x` as an activation. */
static inline float activation(const struct subject *subject, float x) {
    return subject->ops->activation == ELEMENT_BF16 ? quant_from_bf16(quant_to_bf16(x)) : x;
}

/* An activation holding `from` (rows, columns), rounded there too. Release with value_release. */
static inline struct value activation_of(const struct subject *subject, int rows, int columns,
                                         float *from) {
    enum element element = subject->ops->activation;
    size_t n = (size_t)rows * (size_t)columns, size = element_bytes(element);
    struct value value = {.columns = columns, .stride = columns, .element = element};
    uint16_t *narrow = take(n, sizeof *narrow);
    for (size_t k = 0; k < n; k++) {
        narrow[k] = quant_to_bf16(from[k]);
        from[k] = activation(subject, from[k]);
    }
    value.buffer = subject->ops->alloc(subject->device, n * size);
    subject->ops->upload(subject->device, value.buffer, 0,
                         element == ELEMENT_BF16 ? (const void *)narrow : from, n * size);
    free(narrow);
    return value;
}

static inline void activation_read(const struct subject *subject, const struct value *value,
                                   int rows, float *to) {
    size_t n = (size_t)rows * (size_t)value->columns;
    if (value->element == ELEMENT_F32) {
        subject->ops->download(subject->device, to, value->buffer, 0, n * sizeof *to);
        return;
    }
    uint16_t *narrow = take(n, sizeof *narrow);
    subject->ops->download(subject->device, narrow, value->buffer, 0, n * sizeof *narrow);
    for (size_t k = 0; k < n; k++)
        to[k] = quant_from_bf16(narrow[k]);
    free(narrow);
}

static inline struct weight *load_floats(const struct subject *subject, int rows, int columns,
                                         const float *from) {
    struct tensor tensor = {"test", QUANT_F32, rows, columns, from};
    return subject->ops->load(subject->device, &tensor, 1);
}

#endif
