/* GGUF files as they should be: the packaged model's published facts, files of make_gguf, splits;
 * typed reads and the fingerprint. Damaged files: test_gguf_damage.c. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

/* ---- files as they should be */

static bool string_is(struct gguf_string string, const char *text) {
    return string.n_bytes == strlen(text) && memcmp(string.text, text, string.n_bytes) == 0;
}

static void packaged_model_has_its_published_facts(void **state) {
    (void)state;
    const char *path = TESTS_DIR "/../models/SmolLM2-135M-Instruct.Q4_1.gguf";
    if (access(path, R_OK) != 0) skip();
    struct gguf gguf;
    opens(&gguf, path);
    assert_int_equal(gguf.version, 3);
    assert_int_equal(gguf.n_keys, 33);
    assert_int_equal(gguf.n_tensors, 272);
    assert_int_equal(gguf.alignment, 32);
    assert_int_equal(gguf.file_bytes, 98362432);
    assert_int_equal(gguf.n_parts, 1);

    uint32_t number;
    float real;
    bool yes = true;
    struct gguf_string string;
    struct fault fault = {0};
    assert_true(gguf_read_u32(&gguf, "llama.block_count", &number, &fault));
    assert_int_equal(number, 30);
    assert_true(gguf_read_u32(&gguf, "llama.attention.head_count_kv", &number, &fault));
    assert_int_equal(number, 3);
    assert_true(gguf_read_f32(&gguf, "llama.attention.layer_norm_rms_epsilon", &real, &fault));
    assert_true(real == 1e-5f);
    assert_true(gguf_read_f32(&gguf, "llama.rope.freq_base", &real, &fault));
    assert_true(real == 100000.0f);
    assert_true(gguf_read_bool(&gguf, "tokenizer.ggml.add_bos_token", &yes, &fault));
    assert_false(yes);
    assert_true(gguf_read_string(&gguf, "general.architecture", &string, &fault));
    assert_true(string_is(string, "llama"));
    const struct gguf_value *tokens = gguf_find(&gguf, "tokenizer.ggml.tokens");
    assert_int_equal(tokens->kind, GGUF_ARRAY);
    assert_int_equal(tokens->element, GGUF_STRING);
    assert_int_equal(tokens->n_elements, 49152);
    assert_true(string_is(tokens->string[16], "<empty_output>"));
    assert_int_equal(gguf_find(&gguf, "tokenizer.ggml.merges")->n_elements, 48900);
    const struct gguf_value *types = gguf_find(&gguf, "tokenizer.ggml.token_type");
    assert_int_equal(gguf_array_int(types, 16), 3);
    assert_int_equal(gguf_array_int(types, 17), 1);

    int n_of_type[QUANT_TYPES] = {0};
    for (size_t tensor = 0; tensor < gguf.n_tensors; tensor++)
        n_of_type[gguf.tensor[tensor].type]++;
    assert_int_equal(n_of_type[QUANT_Q4_1], 210);
    assert_int_equal(n_of_type[QUANT_Q8_0], 1);
    assert_int_equal(n_of_type[QUANT_F32], 61);
    const struct gguf_tensor *down = gguf_find_tensor(&gguf, "blk.29.ffn_down.weight");
    assert_int_equal(down->n_dims, 2);
    assert_int_equal(down->dim[0], 1536);
    assert_int_equal(down->dim[1], 576);
    assert_int_equal(down->n_bytes, 552960);
    assert_int_equal(gguf_find_tensor(&gguf, "token_embd.weight")->n_bytes, 30081024);
    assert_null(gguf_find_tensor(&gguf, "output.weight"));
    gguf_close(&gguf);
}

static void made_model_reads_back(void **state) {
    (void)state;
    struct make_gguf_wish wish = small_model();
    wish.alignment = 512;
    struct gguf gguf;
    opens(&gguf, make(&wish, "aligned.gguf"));
    assert_int_equal(gguf.alignment, 512);
    assert_int_equal(gguf.n_tensors, 2 * 9 + 3);
    for (size_t tensor = 0; tensor < gguf.n_tensors; tensor++)
        assert_int_equal((uintptr_t)gguf.tensor[tensor].data % 512, 0);
    uint32_t number;
    assert_true(gguf_read_u32(&gguf, "llama.attention.key_length", &number, NULL));
    assert_int_equal(number, 16);
    const struct gguf_tensor *gate = gguf_find_tensor(&gguf, "blk.1.ffn_gate.weight");
    assert_int_equal(gate->dim[0], 32);
    assert_int_equal(gate->dim[1], 64);
    assert_int_equal(gate->dim[2] * gate->dim[3], 1);
    assert_int_equal(gguf.tensor[0].dim[1], 320);
    gguf_close(&gguf);
    gguf_close(&gguf); /* closing a zeroed struct does nothing */
}

static void versions_are_told_apart(void **state) {
    (void)state;
    struct make_gguf_wish wish = small_model();
    struct gguf gguf;
    size_t n_bytes;
    unsigned char *bytes = read_file(make(&wish, "v3.gguf"), &n_bytes);
    const char *path = scratch_path("version.gguf");
    const struct {
        unsigned char version[4];
        const char *reason; /* NULL: opens */
    } cases[] = {
        {{2, 0, 0, 0}, NULL},
        {{1, 0, 0, 0}, "version 1; supported are versions 2 and 3"},
        {{4, 0, 0, 0}, "version 4;"},
        {{0, 0, 0, 0}, "version 0;"},
        {{0, 0, 0, 3}, "a big-endian GGUF file"},
    };
    for (size_t at = 0; at < sizeof cases / sizeof cases[0]; at++) {
        memcpy(bytes + 4, cases[at].version, 4);
        write_file(path, bytes, n_bytes);
        if (cases[at].reason) {
            is_refused(path, cases[at].reason);
        } else {
            opens(&gguf, path);
            assert_int_equal(gguf.version, 2);
            gguf_close(&gguf);
        }
    }
    memcpy(bytes, "\033ELF", 4);
    write_file(path, bytes, n_bytes);
    is_refused(path, "not a GGUF file: begins with '\\x1bELF'");
    free(bytes);
}

static void what_is_no_file_is_refused(void **state) {
    (void)state;
    const char *empty = scratch_path("empty.gguf");
    write_file(empty, "", 0);
    is_refused(empty, "only 0 bytes long");
    is_refused(scratch_path("absent.gguf"), "cannot open: No such file");
    is_refused(scratch_folder, "not a regular file");
    char longer[5000];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    struct gguf gguf;
    struct fault fault = {0};
    assert_false(gguf_open(&gguf, longer, &fault));
    assert_non_null(strstr(fault.text, "File name too long"));
}

/* ---- split files */

static void rename_file(const char *from, const char *to) {
    assert_int_equal(rename(scratch_path(from), scratch_path(to)), 0);
}

static void split_files_open_as_one(void **state) {
    (void)state;
    struct make_gguf_wish wish = small_model();
    struct gguf whole, split;
    char wanted[33], got[33];
    opens(&whole, make(&wish, "whole.gguf"));
    gguf_fingerprint(&whole, wanted);
    wish.parts = 3;
    make(&wish, "split.gguf");
    const char *const names[] = {"split-00001-of-00003.gguf", "split-00002-of-00003.gguf",
                                 "split-00003-of-00003.gguf"};
    for (int part = 0; part < 3; part++) {
        opens(&split, scratch_path(names[part]));
        assert_int_equal(split.n_parts, 3);
        assert_string_equal(split.path, scratch_path(names[0]));
        assert_int_equal(split.n_tensors, whole.n_tensors);
        assert_true(split.file_bytes > whole.file_bytes);
        assert_non_null(gguf_find(&split, "tokenizer.ggml.tokens"));
        for (size_t tensor = 0; tensor < whole.n_tensors; tensor++) {
            assert_string_equal(split.tensor[tensor].name, whole.tensor[tensor].name);
            assert_memory_equal(split.tensor[tensor].data, whole.tensor[tensor].data,
                                whole.tensor[tensor].n_bytes);
        }
        gguf_fingerprint(&split, got);
        assert_string_equal(got, wanted);
        gguf_close(&split);
    }
    gguf_close(&whole);
}

static void broken_splits_are_refused(void **state) {
    (void)state;
    struct make_gguf_wish wish = small_model();
    wish.parts = 3;
    make(&wish, "b.gguf");
    const char *first = scratch_path("b-00001-of-00003.gguf");
    size_t n_bytes;
    unsigned char *bytes = read_file(first, &n_bytes);

    rename_file("b-00002-of-00003.gguf", "kept.gguf");
    is_refused(scratch_path("kept.gguf"), "its name does not end in '-00002-of-00003.gguf'");
    struct gguf gguf;
    struct fault fault = {0};
    assert_false(gguf_open(&gguf, first, &fault));
    assert_non_null(strstr(fault.text, "b-00002-of-00003.gguf: cannot open: No such file"));

    fault = (struct fault){0};
    write_file(scratch_path("b-00002-of-00003.gguf"), bytes, n_bytes);
    assert_false(gguf_open(&gguf, scratch_path("b-00001-of-00003.gguf"), &fault));
    assert_non_null(strstr(fault.text, "b-00002-of-00003.gguf: says it is part 1 of 3"));
    free(bytes);

    /* all parts well-formed, but with the tensors of a longer model, or of another one again */
    const struct {
        int layers;
        const char *reason;
    } others[] = {{3, "promises 21 tensors, but its 3 parts have 24"}, {2, NULL}};
    for (int other = 0; other < 2; other++) {
        wish.layers = others[other].layers;
        make(&wish, "o.gguf");
        rename_file("o-00002-of-00003.gguf", "b-00002-of-00003.gguf");
        if (others[other].reason) {
            is_refused(scratch_path("b-00001-of-00003.gguf"), others[other].reason);
        } else {
            opens(&gguf, scratch_path("b-00001-of-00003.gguf"));
            gguf_close(&gguf);
        }
    }
}

/* Part `number` of `count`, with one tensor of that name. */
static void write_half(const char *name, uint32_t number, uint32_t count, const char *tensor) {
    struct image image = {0};
    struct fault fault = {0};
    image_header(&image, 1, 2);
    image_key_u32(&image, "split.no", number);
    image_key_u32(&image, "split.count", count);
    image_tensor(&image, tensor, 8, 0, 0, 0);
    image_align(&image, 32);
    image_room(&image, 32);
    assert_true(image_write(&image, scratch_path(name), &fault));
    image_close(&image);
}

static void parts_must_fit_together(void **state) {
    (void)state;
    struct gguf gguf;
    write_half("t-00001-of-00002.gguf", 0, 2, "a");
    write_half("t-00002-of-00002.gguf", 1, 2, "b");
    opens(&gguf, scratch_path("t-00001-of-00002.gguf"));
    assert_int_equal(gguf.n_tensors, 2);
    gguf_close(&gguf);
    write_half("t-00002-of-00002.gguf", 1, 3, "b");
    struct fault fault = {0};
    assert_false(gguf_open(&gguf, scratch_path("t-00001-of-00002.gguf"), &fault));
    assert_non_null(strstr(fault.text, "t-00002-of-00002.gguf: says it is part 2 of 3"));
    write_half("t-00002-of-00002.gguf", 1, 2, "a");
    is_refused(scratch_path("t-00001-of-00002.gguf"), "tensor 'a' stands twice");
    write_half("t-00001-of-00002.gguf", 2, 2, "a");
    is_refused(scratch_path("t-00001-of-00002.gguf"), "says it is part 3 of 2");
}

/* ---- reading keys */

static void put(struct image *image, const char *name, enum gguf_kind kind, const void *value,
                size_t n_bytes) {
    image_key(image, name, kind);
    image_put(image, value, n_bytes);
}

static void open_typed(struct gguf *gguf) {
    struct image image = {0};
    struct fault fault = {0};
    const char *path = scratch_path("typed.gguf");
    image_header(&image, 0, 17);
    put(&image, "u8", GGUF_U8, &(uint8_t){255}, 1);
    put(&image, "i8", GGUF_I8, &(int8_t){-1}, 1);
    put(&image, "u16", GGUF_U16, &(uint16_t){65535}, 2);
    put(&image, "i16", GGUF_I16, &(int16_t){32767}, 2);
    put(&image, "u32", GGUF_U32, &(uint32_t){4294967295}, 4);
    put(&image, "i32", GGUF_I32, &(int32_t){-2147483647}, 4);
    put(&image, "u64", GGUF_U64, &(uint64_t){UINT64_MAX}, 8);
    put(&image, "i64", GGUF_I64, &(int64_t){4294967296}, 8);
    put(&image, "small", GGUF_I64, &(int64_t){77}, 8);
    put(&image, "f32", GGUF_F32, &(float){0.1f}, 4);
    put(&image, "f64", GGUF_F64, &(double){-2.5}, 8);
    put(&image, "big", GGUF_F64, &(double){1e300}, 8);
    image_key_bool(&image, "bool", true);
    image_key_string(&image, "string", "text");
    image_key_array(&image, "ints", GGUF_I16, 3);
    image_put(&image, (int16_t[]){-3, 0, 300}, 6);
    image_key_array(&image, "floats", GGUF_F64, 4);
    image_put(&image, (double[]){1e19, -1e300, (double)NAN, -1.75}, 32);
    image_key_array(&image, "none", GGUF_STRING, 0);
    assert_true(image_write(&image, path, &fault));
    image_close(&image);
    opens(gguf, path);
}

static void integers_read_from_any_integer_kind(void **state) {
    (void)state;
    struct gguf gguf;
    open_typed(&gguf);
    const struct {
        const char *key;
        uint32_t wanted;    /* 0: refused */
        const char *reason; /* of the refusal */
    } cases[] = {
        {"u8", 255, NULL},
        {"u16", 65535, NULL},
        {"i16", 32767, NULL},
        {"u32", 4294967295, NULL},
        {"small", 77, NULL},
        {"i8", 0, "key 'i8' is -1, not between 0 and 4294967295"},
        {"i32", 0, "key 'i32' is -2147483647"},
        {"u64", 0, "key 'u64' is 18446744073709551615"},
        {"i64", 0, "key 'i64' is 4294967296"},
        {"f32", 0, "key 'f32' is f32, not an integer"},
        {"bool", 0, "key 'bool' is bool, not an integer"},
        {"ints", 0, "key 'ints' is array, not an integer"},
        {"absent", 0, "key 'absent' is missing"},
    };
    for (size_t at = 0; at < sizeof cases / sizeof cases[0]; at++) {
        for (int with_fault = 0; with_fault < 2; with_fault++) {
            struct fault fault = {0};
            uint32_t out = 12345;
            bool good = gguf_read_u32(&gguf, cases[at].key, &out, with_fault ? &fault : NULL);
            assert_int_equal(good, cases[at].wanted != 0);
            assert_int_equal(out, good ? cases[at].wanted : 12345);
            if (good || !with_fault) continue;
            assert_true(walk_fault(&fault, gguf.path));
            if (!strstr(fault.text, cases[at].reason)) fail_msg("%s", fault.text);
        }
    }
    gguf_close(&gguf);
}

static void other_kinds_read_as_themselves(void **state) {
    (void)state;
    struct gguf gguf;
    struct fault fault = {0};
    open_typed(&gguf);
    float real = 7;
    bool yes = false;
    struct gguf_string string = {NULL, 0};
    assert_true(gguf_read_f32(&gguf, "f32", &real, NULL));
    assert_true(real == 0.1f);
    assert_true(gguf_read_f32(&gguf, "f64", &real, NULL));
    assert_true(real == -2.5f);
    assert_false(gguf_read_f32(&gguf, "u32", &real, NULL));
    assert_false(gguf_read_f32(&gguf, "big", &real, &fault));
    assert_non_null(strstr(fault.text, "not in the range of a 32-bit float"));
    assert_true(real == -2.5f);
    assert_true(gguf_read_bool(&gguf, "bool", &yes, NULL));
    assert_true(yes);
    assert_false(gguf_read_bool(&gguf, "u8", &yes, NULL));
    assert_true(gguf_read_string(&gguf, "string", &string, NULL));
    assert_true(string_is(string, "text"));
    assert_false(gguf_read_string(&gguf, "none", &string, NULL));
    assert_null(gguf_find(&gguf, "strin"));
    assert_null(gguf_find(&gguf, "string2"));
    assert_int_equal(gguf_find(&gguf, "none")->n_elements, 0);
    gguf_close(&gguf);
}

static void array_elements_keep_their_value(void **state) {
    (void)state;
    struct gguf gguf;
    open_typed(&gguf);
    const struct gguf_value *ints = gguf_find(&gguf, "ints"), *reals = gguf_find(&gguf, "floats");
    assert_int_equal(gguf_array_int(ints, 0), -3);
    assert_int_equal(gguf_array_int(ints, 2), 300);
    assert_true(gguf_array_float(ints, 0) == -3.0);
    assert_true(gguf_array_float(reals, 3) == -1.75);
    assert_int_equal(gguf_array_int(reals, 3), -1);
    assert_true(gguf_array_int(reals, 0) == INT64_MAX); /* out of range: the nearest */
    assert_true(gguf_array_int(reals, 1) == INT64_MIN);
    assert_int_equal(gguf_array_int(reals, 2), 0);
    assert_true(gguf_array_int(gguf_find(&gguf, "u64"), 0) == INT64_MAX);
    assert_true(gguf_array_float(gguf_find(&gguf, "u64"), 0) == 0x1p64);
    assert_string_equal(gguf_kind_name(GGUF_U32), "u32");
    assert_string_equal(gguf_kind_name(GGUF_ARRAY), "array");
    gguf_close(&gguf);
}

/* ---- the fingerprint */

static void fingerprint_of(const char *path, char hex[33]) {
    struct gguf gguf;
    opens(&gguf, path);
    gguf_fingerprint(&gguf, hex);
    gguf_close(&gguf);
}

static void fingerprints_tell_models_apart(void **state) {
    (void)state;
    struct make_gguf_wish wish = small_model();
    char first[33], second[33];
    fingerprint_of(make(&wish, "f.gguf"), first);
    fingerprint_of(make(&wish, "g.gguf"), second); /* the same under another name */
    assert_string_equal(first, second);

    size_t n_bytes;
    unsigned char *bytes = read_file(scratch_path("f.gguf"), &n_bytes);
    struct gguf gguf;
    opens(&gguf, scratch_path("f.gguf"));
    size_t n_data = 0;
    for (size_t tensor = 0; tensor < gguf.n_tensors; tensor++)
        n_data += (gguf.tensor[tensor].n_bytes + 31) / 32 * 32;
    gguf_close(&gguf);
    /* a letter of general.type's "model", of a token, of a tensor's name, the first weight, the
     * last one */
    const struct {
        const char *text;
        size_t n_text, skip;
    } places[] = {{"\5\0\0\0\0\0\0\0model", 13, 8},
                  {"<|im_end|>", 10, 2},
                  {"blk.1.ffn_up.weight", 19, 10},
                  {NULL, n_bytes - n_data, 0},
                  {NULL, n_bytes - 1, 0}};
    for (size_t place = 0; place < sizeof places / sizeof places[0]; place++) {
        size_t at = places[place].n_text;
        if (places[place].text) {
            unsigned char *found = memmem(bytes, n_bytes, places[place].text, places[place].n_text);
            assert_non_null(found);
            at = (size_t)(found - bytes) + places[place].skip;
        }
        bytes[at] ^= 1;
        write_file(scratch_path("g.gguf"), bytes, n_bytes);
        bytes[at] ^= 1;
        fingerprint_of(scratch_path("g.gguf"), second);
        assert_string_not_equal(first, second);
    }
    free(bytes);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packaged_model_has_its_published_facts),
        cmocka_unit_test(made_model_reads_back),
        cmocka_unit_test(versions_are_told_apart),
        cmocka_unit_test(what_is_no_file_is_refused),
        cmocka_unit_test(split_files_open_as_one),
        cmocka_unit_test(broken_splits_are_refused),
        cmocka_unit_test(parts_must_fit_together),
        cmocka_unit_test(integers_read_from_any_integer_kind),
        cmocka_unit_test(other_kinds_read_as_themselves),
        cmocka_unit_test(array_elements_keep_their_value),
        cmocka_unit_test(fingerprints_tell_models_apart),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
