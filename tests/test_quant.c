/* Every storage type against the values of another engine (quant/golden.bin, made by
 * quant/make_golden.py), and the 16-bit floats against their definition written with ldexp. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "quant.h"
#include "scratch.h"

struct record {
    char name[8];
    uint32_t gguf_id, n_blocks, block_elements, block_bytes;
};

static void check_record(const struct record *record, const unsigned char *blocks) {
    enum quant type = 0;
    while (type < QUANT_TYPES && strcmp(quant_types[type].name, record->name) != 0)
        type++;
    assert_true(type < QUANT_TYPES);
    const struct quant_type *row = &quant_types[type];
    assert_int_equal(row->gguf_id, record->gguf_id);
    assert_int_equal(row->block_elements, record->block_elements);
    assert_int_equal(row->block_bytes, record->block_bytes);

    size_t n_elements = (size_t)record->n_blocks * record->block_elements;
    size_t n_bytes = (size_t)record->n_blocks * record->block_bytes;
    assert_int_equal(quant_bytes(type, n_elements), n_bytes);
    float *got = malloc(n_elements * sizeof *got), *wanted = malloc(n_elements * sizeof *wanted);
    memcpy(wanted, blocks + n_bytes, n_elements * sizeof *wanted);
    row->unpack(blocks, n_elements, got);
    for (size_t k = 0; k < n_elements; k++) {
        bool same = isnan(wanted[k]) ? isnan(got[k]) : memcmp(&wanted[k], &got[k], 4) == 0;
        if (!same) {
            fail_msg("%s element %zu: %a instead of %a", record->name, k, (double)got[k],
                     (double)wanted[k]);
        }
    }
    free(got);
    free(wanted);
}

static void blocks_unpack_as_another_engine_does(void **state) {
    (void)state;
    size_t n_bytes, at = 0;
    unsigned char *bytes = scratch_read(TESTS_DIR "/quant/golden.bin", &n_bytes);
    assert_non_null(bytes);
    int n_records = 0;
    while (at < n_bytes) {
        struct record record;
        memcpy(&record, bytes + at, sizeof record);
        at += sizeof record;
        check_record(&record, bytes + at);
        at += (size_t)record.n_blocks * (record.block_bytes + 4 * (size_t)record.block_elements);
        n_records++;
    }
    assert_int_equal(at, n_bytes);
    assert_int_equal(n_records, QUANT_TYPES);
    free(bytes);
}

/* A small binary float by its definition. */
struct format {
    int fraction_bits, exponent_bits;
};
static const struct format half = {10, 5}, brain = {7, 8};

static uint32_t infinity_code(struct format format) {
    return ((1u << format.exponent_bits) - 1) << format.fraction_bits;
}

/* Value of a code at or below infinity; infinity has the value that the next exponent would have,
 * which is where rounding meets it. */
static double code_value(struct format format, uint32_t code) {
    int bias = (1 << (format.exponent_bits - 1)) - 1;
    int exponent = (int)(code >> format.fraction_bits);
    double fraction = ldexp(code & ((1u << format.fraction_bits) - 1), -format.fraction_bits);
    if (exponent == 0) return ldexp(fraction, 1 - bias);
    return ldexp(1 + fraction, exponent - bias);
}

/* The code nearest to `value` >= 0, of two equally near ones the even one. */
static uint32_t nearest_code(struct format format, double value) {
    uint32_t low = 0, high = infinity_code(format);
    if (value >= code_value(format, high)) return high;
    while (high - low > 1) {
        uint32_t middle = (low + high) / 2;
        if (code_value(format, middle) <= value) {
            low = middle;
        } else {
            high = middle;
        }
    }
    double below = value - code_value(format, low), above = code_value(format, high) - value;
    if (below == above) return low % 2 == 0 ? low : high;
    return below < above ? low : high;
}

static void check_rounding(float value) {
    uint32_t sign = signbit(value) ? 0x8000 : 0;
    double magnitude = fabs((double)value);
    uint32_t wanted_half = sign | nearest_code(half, magnitude);
    uint32_t wanted_brain = sign | nearest_code(brain, magnitude);
    if (quant_to_f16(value) != wanted_half || quant_to_bf16(value) != wanted_brain) {
        fail_msg("%a rounds to %04x, %04x instead of %04x, %04x", (double)value,
                 quant_to_f16(value), quant_to_bf16(value), wanted_half, wanted_brain);
    }
}

static bool is_quiet_nan(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return isnan(value) && (bits & 0x400000);
}

static void all_codes_survive_a_round_trip(void **state) {
    (void)state;
    for (uint32_t code = 0; code < 0x10000; code++) {
        uint32_t magnitude = code & 0x7fff;
        double sign = code & 0x8000 ? -1 : 1;
        float from_half = quant_from_f16((uint16_t)code);
        float from_brain = quant_from_bf16((uint16_t)code);
        assert_int_equal(signbit(from_half) != 0, sign < 0);
        assert_int_equal(signbit(from_brain) != 0, sign < 0);
        if (magnitude > 0x7c00) {
            assert_true(is_quiet_nan(from_half));
            assert_int_equal(quant_to_f16(from_half), code | 0x200);
        } else {
            double value = magnitude == 0x7c00 ? INFINITY : code_value(half, magnitude);
            assert_true((double)from_half == sign * value);
            assert_int_equal(quant_to_f16(from_half), code);
        }
        if (magnitude > 0x7f80) {
            assert_true(is_quiet_nan(from_brain));
            assert_int_equal(quant_to_bf16(from_brain), code | 0x40);
        } else {
            double value = magnitude == 0x7f80 ? INFINITY : code_value(brain, magnitude);
            assert_true((double)from_brain == sign * value);
            assert_int_equal(quant_to_bf16(from_brain), code);
        }
    }
}

/* Every midpoint of two neighbours, and the floats just beside it, of both signs. */
static void ties_go_to_even(void **state) {
    (void)state;
    const struct format formats[] = {half, brain};
    for (int which = 0; which < 2; which++) {
        struct format format = formats[which];
        for (uint32_t code = 0; code < infinity_code(format); code++) {
            double middle = (code_value(format, code) + code_value(format, code + 1)) / 2;
            float tie = (float)middle;
            if (!isfinite(tie) || (double)tie != middle) continue; /* below float's own step */
            check_rounding(tie);
            check_rounding(-tie);
            check_rounding(nextafterf(tie, 0));
            check_rounding(-nextafterf(tie, 0));
            check_rounding(nextafterf(tie, INFINITY));
        }
    }
}

static void random_floats_round_to_the_nearest(void **state) {
    (void)state;
    uint64_t random = 1;
    for (int draw = 0; draw < 200000; draw++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        uint32_t bits = (uint32_t)(random >> 32);
        float value;
        memcpy(&value, &bits, sizeof value);
        if (isnan(value)) {
            assert_true(isnan(quant_from_f16(quant_to_f16(value))));
            assert_true(isnan(quant_from_bf16(quant_to_bf16(value))));
        } else {
            check_rounding(value);
        }
        /* and where halves have all their steps: 2^-32 to 2^16 */
        check_rounding(
            ldexpf(1 + (float)(bits & 0xffffff) * 0x1p-24f, (int)(bits >> 26) % 48 - 32));
    }
    check_rounding(INFINITY);
    check_rounding(-INFINITY);
    check_rounding(3.40282347e38f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_unpack_as_another_engine_does),
        cmocka_unit_test(all_codes_survive_a_round_trip),
        cmocka_unit_test(ties_go_to_even),
        cmocka_unit_test(random_floats_round_to_the_nearest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
