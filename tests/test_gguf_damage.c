/* GGUF files that are damaged: cut, with changed bytes, and headers made by hand to be wrong in one
 * way each. Every one must give one clear line or a well-formed model; run under the sanitizers
 * too. */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "make_gguf.h"
#include "scratch.h"
#include "small_model.h"
#include "walk_gguf.h"

static void opens(struct gguf *gguf, const char *path) {
    struct fault fault = {0};
    if (!gguf_open(gguf, path, &fault)) fail_msg("%s", fault.text);
    assert_true(walk_gguf(gguf));
}

/* The file is refused with `reason` in a proper line. */
static void is_refused(const char *path, const char *reason) {
    struct gguf gguf;
    struct fault fault = {0};
    if (gguf_open(&gguf, path, &fault)) fail_msg("opened, though: %s", reason);
    assert_true(walk_fault(&fault, path));
    if (!strstr(fault.text, reason)) fail_msg("'%s' lacks '%s'", fault.text, reason);
    gguf_close(&gguf); /* nothing is held, and closing that is allowed */
}

static void write_file(const char *path, const void *bytes, size_t n_bytes) {
    assert_true(scratch_write(path, bytes, n_bytes));
}

static unsigned char *read_file(const char *path, size_t *n_bytes) {
    unsigned char *bytes = scratch_read(path, n_bytes);
    assert_non_null(bytes);
    return bytes;
}

static const char *make(const struct make_gguf_wish *wish, const char *name) {
    struct fault fault = {0};
    const char *path = scratch_path(name);
    if (!make_gguf_write(wish, path, &fault)) fail_msg("%s", fault.text);
    return path;
}

/* ---- damage */

static void every_truncation_is_refused(void **state) {
    (void)state;
    struct make_gguf_wish wish = small_model();
    size_t n_bytes;
    unsigned char *bytes = read_file(make(&wish, "cut.gguf"), &n_bytes);
    const char *path = scratch_path("cut-short.gguf");
    uint64_t random = 200;
    for (int cut = 0; cut < 200; cut++) {
        size_t length = (size_t)(make_gguf_random(&random) % n_bytes);
        if (cut < 30) length = (size_t)cut;
        if (cut == 30) length = n_bytes - 1;
        write_file(path, bytes, length);
        is_refused(path, "");
    }
    free(bytes);
}

static void corrupted_headers_never_crash(void **state) {
    (void)state;
    struct make_gguf_wish wish = small_model();
    struct gguf gguf;
    const char *good = make(&wish, "good.gguf");
    opens(&gguf, good);
    size_t n_bytes, n_header = gguf.file_bytes;
    for (size_t tensor = 0; tensor < gguf.n_tensors; tensor++)
        n_header -= (gguf.tensor[tensor].n_bytes + 31) / 32 * 32;
    gguf_close(&gguf);
    unsigned char *bytes = read_file(good, &n_bytes);
    const char *path = scratch_path("corrupted.gguf");
    uint64_t random = 500;
    int n_refused = 0;
    for (int corruption = 0; corruption < 500; corruption++) {
        size_t at = (size_t)(make_gguf_random(&random) % n_header);
        unsigned char kept = bytes[at];
        bytes[at] ^= (unsigned char)(1 + make_gguf_random(&random) % 255);
        write_file(path, bytes, n_bytes);
        bytes[at] = kept;
        struct fault fault = {0};
        if (gguf_open(&gguf, path, &fault)) {
            assert_true(walk_gguf(&gguf));
            gguf_close(&gguf);
        } else {
            assert_true(walk_fault(&fault, path));
            n_refused++;
        }
    }
    assert_in_range(n_refused, 100, 499); /* a letter inside a string cannot be missed */
    free(bytes);
}

/* ---- headers by hand, each wrong in one way */

static void counts_of_keys(struct image *image) {
    image_header(image, 0, (uint64_t)1 << 63);
}
static void counts_of_tensors(struct image *image) {
    image_header(image, (uint64_t)1 << 63, 0);
}
static void count_beyond_the_end(struct image *image) {
    image_header(image, 0, 2);
    image_key_u32(image, "a", 1);
}
static void key_length_beyond_the_end(struct image *image) {
    image_header(image, 0, 1);
    image_u64(image, 1000);
    image_room(image, 100);
}
static void key_length_huge(struct image *image) {
    image_header(image, 0, 1);
    image_u64(image, UINT64_MAX);
    image_room(image, 100);
}
static void key_name_empty(struct image *image) {
    image_header(image, 0, 1);
    image_key_u32(image, "", 1);
    image_room(image, 10);
}
static void key_name_too_long(struct image *image) {
    image_header(image, 0, 1);
    image_u64(image, 70000);
    image_room(image, 70100);
}
static void key_twice(struct image *image) {
    image_header(image, 0, 3);
    image_key_u32(image, "same", 1);
    image_key_u32(image, "other", 1);
    image_key_bool(image, "same", true);
}
static void kind_unknown(struct image *image) {
    image_header(image, 0, 1);
    image_key(image, "k", (enum gguf_kind)13);
    image_room(image, 100);
}
static void string_beyond_the_end(struct image *image) {
    image_header(image, 0, 1);
    image_key(image, "s", GGUF_STRING);
    image_u64(image, 11);
    image_put(image, "ten bytes.", 10);
}
static void scalar_cut(struct image *image) {
    image_header(image, 0, 1);
    image_key(image, "c", GGUF_U32);
    image_room(image, 3);
}
static void bool_of_two(struct image *image) {
    image_header(image, 0, 1);
    image_key(image, "b", GGUF_BOOL);
    image_put(image, "\2", 1);
}
static void array_nested(struct image *image) {
    image_header(image, 0, 1);
    image_key_array(image, "n", GGUF_ARRAY, 1);
    image_u32(image, GGUF_U8);
    image_u64(image, 1);
    image_room(image, 8);
}
static void array_of_unknown(struct image *image) {
    image_header(image, 0, 1);
    image_key_array(image, "n", (enum gguf_kind)99, 1);
    image_room(image, 8);
}
static void array_huge(struct image *image) {
    image_header(image, 0, 1);
    image_key_array(image, "a", GGUF_F64, (uint64_t)1 << 61); /* times 8 bytes is 0 in 64 bits */
    image_room(image, 64);
}
static void array_of_strings_huge(struct image *image) {
    image_header(image, 0, 1);
    image_key_array(image, "a", GGUF_STRING, (uint64_t)1 << 40);
    image_room(image, 64);
}
static void array_of_strings_cut(struct image *image) {
    image_header(image, 0, 1);
    image_key_array(image, "a", GGUF_STRING, 2);
    image_string(image, "one");
    image_u64(image, 99);
}
static void array_with_a_bad_bool(struct image *image) {
    image_header(image, 0, 1);
    image_key_array(image, "a", GGUF_BOOL, 3);
    image_put(image, "\1\0\7", 3);
}
static void alignment_zero(struct image *image) {
    image_header(image, 0, 1);
    image_key_u32(image, "general.alignment", 0);
}
static void alignment_odd(struct image *image) {
    image_header(image, 0, 1);
    image_key_u32(image, "general.alignment", 48);
}
static void alignment_a_string(struct image *image) {
    image_header(image, 0, 1);
    image_key_string(image, "general.alignment", "32");
}

/* The one tensor "t" with room for 64 F32 behind it. */
static void one_tensor(struct image *image, uint32_t n_dims, const uint64_t *dim, uint32_t gguf_id,
                       uint64_t offset) {
    image_header(image, 1, 0);
    image_string(image, "t");
    image_u32(image, n_dims);
    for (uint32_t at = 0; at < n_dims && at < 8; at++)
        image_u64(image, dim[at]);
    image_u32(image, gguf_id);
    image_u64(image, offset);
    image_align(image, 32);
    image_room(image, 256);
}
static void dims_none(struct image *image) {
    one_tensor(image, 0, NULL, 0, 0);
}
static void dims_five(struct image *image) {
    one_tensor(image, 5, (uint64_t[]){1, 1, 1, 1, 1}, 0, 0);
}
static void dims_without_end(struct image *image) {
    one_tensor(image, UINT32_MAX, (uint64_t[]){1, 1, 1, 1, 1, 1, 1, 1}, 0, 0);
}
static void dim_zero(struct image *image) {
    one_tensor(image, 2, (uint64_t[]){8, 0}, 0, 0);
}
static void dims_overflow(struct image *image) {
    one_tensor(image, 2, (uint64_t[]){(uint64_t)1 << 33, (uint64_t)1 << 33}, 0, 0);
}
static void dims_overflow_to_few(struct image *image) { /* 2^64 + 8 elements are 8 in 64 bits */
    one_tensor(image, 2, (uint64_t[]){8, 0x2000000000000001u}, 0, 0);
}
static void bytes_overflow(struct image *image) {
    one_tensor(image, 1, (uint64_t[]){(uint64_t)1 << 62}, 0, 0);
}
static void row_of_half_blocks(struct image *image) {
    one_tensor(image, 2, (uint64_t[]){48, 2}, 8, 0);
}
static void type_unsupported(struct image *image) {
    one_tensor(image, 1, (uint64_t[]){256}, 23, 0);
}
static void type_unknown(struct image *image) {
    one_tensor(image, 1, (uint64_t[]){256}, 4711, 0);
}
static void offset_unaligned(struct image *image) {
    one_tensor(image, 1, (uint64_t[]){8}, 0, 16);
}
static void offset_beyond_the_end(struct image *image) {
    one_tensor(image, 1, (uint64_t[]){8}, 0, 256);
}
static void offset_huge(struct image *image) { /* base + offset + bytes wraps */
    one_tensor(image, 1, (uint64_t[]){8}, 0, UINT64_MAX - 31);
}
static void tensor_reaches_out(struct image *image) {
    one_tensor(image, 1, (uint64_t[]){64}, 0, 32);
}
static void tensor_name_empty(struct image *image) {
    image_header(image, 1, 0);
    image_tensor(image, "", 8, 0, 0, 0);
    image_room(image, 64);
}
static void tensor_name_too_long(struct image *image) {
    char name[129];
    memset(name, 'n', 128);
    name[128] = 0;
    image_header(image, 1, 0);
    image_tensor(image, name, 8, 0, 0, 0);
    image_room(image, 128);
}
static void tensor_name_with_zero(struct image *image) {
    image_header(image, 1, 0);
    image_u64(image, 3);
    image_put(image, "a\0b", 3);
    image_u32(image, 1);
    image_u64(image, 8);
    image_u32(image, 0);
    image_u64(image, 0);
    image_room(image, 128);
}
static void two_tensors(struct image *image, const char *first, const char *second,
                        uint64_t offset) {
    image_header(image, 2, 0);
    image_tensor(image, first, 16, 0, 0, offset);
    image_tensor(image, second, 16, 0, 0, 0);
    image_align(image, 32);
    image_room(image, 128);
}
static void tensors_overlap(struct image *image) {
    two_tensors(image, "x", "y", 32);
}
static void tensors_coincide(struct image *image) {
    two_tensors(image, "x", "y", 0);
}
static void tensor_twice(struct image *image) {
    two_tensors(image, "z", "z", 64);
}
static void no_room_for_padding(struct image *image) {
    image_header(image, 1, 0);
    image_tensor(image, "t", 8, 0, 0, 0);
}
static void terminal_codes(struct image *image) {
    image_header(image, 0, 1);
    image_key(image, "\033[2Jevil\n", (enum gguf_kind)77);
    image_room(image, 8);
}

static void malformed_headers_are_refused(void **state) {
    (void)state;
    const struct {
        void (*build)(struct image *image);
        const char *reason;
    } cases[] = {
        {counts_of_keys, "byte 16, in the header: the number of keys is 9223372036854775808"},
        {counts_of_tensors, "byte 8, in the header: the number of tensors is 9223372036854775808"},
        {count_beyond_the_end, "the number of keys is 2, too many for the 17 bytes that follow"},
        {key_length_beyond_the_end, "byte 24, in key 1 of 1: the length of the name is 1000"},
        {key_length_huge, "the length of the name is 18446744073709551615"},
        {key_name_empty, "byte 24, in key 1 of 1: the name is empty"},
        {key_name_too_long, "the name is 70000 bytes long"},
        {key_twice, "key 'same' stands twice"},
        {kind_unknown, "in key 'k': the kind of the value is 13"},
        {string_beyond_the_end, "in key 's': the length of a string is 11"},
        {scalar_cut, "byte 37, in key 'c': the value is 4 bytes, but the file ends after 3"},
        {bool_of_two, "byte 37, in key 'b': a bool is 2"},
        {array_nested, "in key 'n': an array of arrays"},
        {array_of_unknown, "the kind of the array's elements is 99"},
        {array_huge, "the array's length is 2305843009213693952"},
        {array_of_strings_huge, "the array's length is 1099511627776"},
        {array_of_strings_cut, "the length of a string is 99"},
        {array_with_a_bad_bool, "a bool is 7"},
        {alignment_zero, "'general.alignment' is 0"},
        {alignment_odd, "'general.alignment' is 48"},
        {alignment_a_string, "'general.alignment' is string, not an integer"},
        {dims_none, "in tensor 't': it has 0 dimensions"},
        {dims_five, "it has 5 dimensions"},
        {dims_without_end, "it has 4294967295 dimensions"},
        {dim_zero, "dimension 1 is 0"},
        {dims_overflow, "its elements are too many to count"},
        {dims_overflow_to_few, "its elements are too many to count"},
        {bytes_overflow, "its bytes are too many to count"},
        {row_of_half_blocks, "its rows have 48 elements, not whole blocks of 32 (Q8_0)"},
        {type_unsupported,
         "tensor 't' has type IQ4_XS (number 23), which is not supported; supported are F32, F16, "
         "BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K"},
        {type_unknown, "tensor 't' has type unknown (number 4711)"},
        {offset_unaligned, "16 bytes into the tensor data, not a multiple of 32"},
        {offset_beyond_the_end, "its 32 bytes begin 256 bytes into the tensor data"},
        {offset_huge, "begin 18446744073709551584 bytes into the tensor data"},
        {tensor_reaches_out, "but the file has only 256 there"},
        {tensor_name_empty, "the name is 0 bytes long, not 1 to 127"},
        {tensor_name_too_long, "the name is 128 bytes long"},
        {tensor_name_with_zero, "the name holds a zero byte"},
        {tensors_overlap, "tensor 'x' overlaps another one"},
        {tensors_coincide, "overlaps another one"},
        {tensor_twice, "tensor 'z' stands twice"},
        {no_room_for_padding, "the padding before the tensor data"},
        {terminal_codes, "in key '\\x1b[2Jevil\\x0a'"},
    };
    const char *path = scratch_path("malformed.gguf");
    for (size_t at = 0; at < sizeof cases / sizeof cases[0]; at++) {
        struct image image = {0};
        struct fault fault = {0};
        cases[at].build(&image);
        assert_true(image_write(&image, path, &fault));
        image_close(&image);
        is_refused(path, cases[at].reason);
    }
}

/* What the fuzz target found worth keeping (fuzz/fuzz_gguf.c), without its split pairs. */
static void fuzzed_files_never_crash(void **state) {
    (void)state;
    DIR *corpus = opendir(TESTS_DIR "/fuzz/gguf");
    assert_non_null(corpus);
    int n_files = 0;
    for (struct dirent *entry; (entry = readdir(corpus));) {
        if (entry->d_name[0] == '.') continue;
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", TESTS_DIR "/fuzz/gguf", entry->d_name);
        struct gguf gguf;
        struct fault fault = {0};
        if (gguf_open(&gguf, path, &fault)) {
            assert_true(walk_gguf(&gguf));
            gguf_close(&gguf);
        } else {
            assert_int_equal(fault.kind, FAULT_USER);
        }
        n_files++;
    }
    closedir(corpus);
    assert_true(n_files > 10);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(corrupted_headers_never_crash),
        cmocka_unit_test(malformed_headers_are_refused),
        cmocka_unit_test(fuzzed_files_never_crash),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
