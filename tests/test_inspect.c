/* `lamina inspect`: what it prints of a file made by hand, that it escapes, and its exit codes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "image.h"
#include "log.h"
#include "printed.h"

static const char *make(void) {
    static char path[256];
    struct image image = {0};
    struct fault fault = {0};
    image_header(&image, 2, 9);
    image_key_string(&image, "general.name", "\033[2Jcleared\n");
    image_key_u32(&image, "llama.block_count", 30);
    image_key_f32(&image, "eps", 0.25f);
    image_key_bool(&image, "yes", true);
    image_key(&image, "big", GGUF_U64);
    image_u64(&image, UINT64_MAX);
    image_key_array(&image, "numbers", GGUF_I32, 9);
    for (uint32_t number = 0; number < 9; number++)
        image_u32(&image, number - 1);
    image_key_array(&image, "tokens", GGUF_STRING, 5);
    for (int token = 0; token < 5; token++)
        image_string(&image, "ab");
    char text[301];
    memset(text, 'x', 300);
    text[300] = 0;
    image_key_string(&image, "text", text);
    image_key_array(&image, "nothing", GGUF_F64, 0);
    image_tensor(&image, "blk.0.\a.weight", 64, 3, 8, 0); /* Q8_0: 2 blocks of 34 bytes a row */
    image_tensor(&image, "norm", 10, 0, 0, 224);
    image_align(&image, 32);
    image_room(&image, 224 + 40);
    snprintf(path, sizeof path, "%s", scratch_path("inspected.gguf"));
    assert_true(image_write(&image, path, &fault));
    image_close(&image);
    return path;
}

static void a_file_is_printed(void **state) {
    (void)state;
    const char *path = make();
    char wanted[512];
    char *text = printed(path, EXIT_DONE);

    snprintf(wanted, sizeof wanted, "file %s", path);
    printed_line_is(text, "file ", wanted);
    printed_line_is(text, "tensors ", "tensors 2, 202 parameters");
    printed_line_is(text, "alignment ", "alignment 32 bytes");
    printed_line_is(text, "general.name", "general.name string \"\\x1b[2Jcleared\\x0a\"");
    printed_line_is(text, "llama.block_count", "llama.block_count u32 30");
    printed_line_is(text, "eps", "eps f32 0.25");
    printed_line_is(text, "yes", "yes bool true");
    printed_line_is(text, "big", "big u64 18446744073709551615");
    printed_line_is(text, "numbers", "numbers i32[9] [-1, 0, 1, 2, 3, 4, 5, 6, ...]");
    printed_line_is(text, "tokens", "tokens string[5] [\"ab\", \"ab\", \"ab\", \"ab\", ...]");
    printed_line_is(text, "nothing", "nothing f64[0] []");
    assert_non_null(strstr(text, "xxx...\" (300 bytes)\n"));
    printed_line_is(text, "blk.0.", "blk.0.\\x07.weight Q8_0 64 x 3 204");
    printed_line_is(text, "norm", "norm F32 10 40");
    printed_line_is(text, "Q8_0", "Q8_0 1 192 204");
    printed_line_is(text, "F32", "F32 1 10 40");
    printed_line_is(text, "all", "all 2 202 244");
    free(text);
}

/* Sizes by hand: 2 layers of 11 tensors, embedding and last norm; the head is the embedding. */
static void a_shape_is_printed(void **state) {
    (void)state;
    static const char config[] =
        "{\"model_type\": \"qwen3\", \"hidden_size\": 8, \"intermediate_size\": 12,"
        "\"num_hidden_layers\": 2, \"num_attention_heads\": 2, \"num_key_value_heads\": 1,"
        "\"head_dim\": 6, \"vocab_size\": 10, \"max_position_embeddings\": 99,"
        "\"rms_norm_eps\": 1e-6, \"tie_word_embeddings\": true}";
    char name[300];
    assert_true(scratch_write(scratch_path("tiny.json"), config, sizeof config - 1));
    snprintf(name, sizeof name, "shape:%s", scratch_path("tiny.json"));
    char *text = printed(name, EXIT_DONE);
    printed_line_is(text, "heads", "heads 2 on 1 KV heads of 6");
    printed_line_is(text, "vocabulary", "vocabulary 10, head tied to the embedding");
    printed_line_is(text, "blk.1.attn_k.weight", "blk.1.attn_k.weight BF16 8 x 6 96");
    printed_line_is(text, "blk.1.attn_k_norm.weight", "blk.1.attn_k_norm.weight F32 6 24");
    /* a layer: 96 + 48 + 48 + 96 of attention, 3 x 96 of the network, 2 x 8 + 2 x 6 of norms */
    printed_line_is(text, "BF16", "BF16 15 1232 2464");
    printed_line_is(text, "F32", "F32 9 64 256");
    printed_line_is(text, "all", "all 24 1296 2720");
    free(text);
}

static void failures_have_their_code(void **state) {
    (void)state;
    assert_int_equal(printed_run(scratch_path("absent.gguf"), scratch_path("printed")), EXIT_USER);
    assert_int_equal(printed_run(NULL, scratch_path("printed")), EXIT_USER);
    assert_true(scratch_write(scratch_path("bad.gguf"), "not a model of any kind..", 25));
    assert_int_equal(printed_run(scratch_path("bad.gguf"), scratch_path("printed")), EXIT_USER);
    assert_int_equal(printed_run("shape:unheard-of", scratch_path("printed")), EXIT_USER);
    if (access("/dev/full", W_OK) == 0)
        assert_int_equal(printed_run(make(), "/dev/full"), EXIT_WORLD);
}

int main(void) {
    log_setup(LOG_QUIET, false);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_is_printed),
        cmocka_unit_test(a_shape_is_printed),
        cmocka_unit_test(failures_have_their_code),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
