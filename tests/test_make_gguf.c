/* The maker of random models: its numbers against splitmix64's published sequence and a
 * calculation of the first weights in another language, its spreads, names, types and vocabulary.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "make_gguf.h"
#include "scratch.h"

static void open_made(struct gguf *gguf, const struct make_gguf_wish *wish) {
    struct fault fault = {0};
    const char *path = scratch_path("made.gguf");
    bool good = make_gguf_write(wish, path, &fault) && gguf_open(gguf, path, &fault);
    if (!good) fail_msg("%s", fault.text);
}

static void random_numbers_are_splitmix64(void **state) {
    (void)state;
    uint64_t random = 1234567; /* the sequence its authors' code gives from here */
    assert_true(make_gguf_random(&random) == 6457827717110365317u);
    assert_true(make_gguf_random(&random) == 3203168211198807973u);
    assert_true(make_gguf_random(&random) == 9817491932198370423u);
}

static void weights_are_the_same_everywhere(void **state) {
    (void)state;
    struct make_gguf_wish wish = make_gguf_default();
    struct gguf gguf;
    open_made(&gguf, &wish);
    /* by numpy, in float32, from the description in make_gguf.h */
    const float embedding[] = {0x1.9dc5d2p-3f, 0x1.426a12p-6f, -0x1.a4e634p-3f, 0x1.442adp-3f};
    const float norm[] = {0x1.e6e032p-1f, 0x1.17b07p+0f, 0x1.fba7aep-1f};
    assert_memory_equal(gguf.tensor[0].data, embedding, sizeof embedding);
    assert_memory_equal(gguf.tensor[1].data, norm, sizeof norm);
    gguf_close(&gguf);
}

/* Mean and deviation of a matrix in units of the deviation wanted: gain / sqrt(columns). */
static void check_spread(const struct gguf *gguf, const char *name, double gain) {
    const struct gguf_tensor *tensor = gguf_find_tensor(gguf, name);
    assert_non_null(tensor);
    size_t n_elements = tensor->dim[0] * tensor->dim[1];
    float *value = malloc(n_elements * sizeof *value);
    quant_types[tensor->type].unpack(tensor->data, n_elements, value);
    double sum = 0, squares = 0, unit = gain / sqrt((double)tensor->dim[0]);
    for (size_t at = 0; at < n_elements; at++) {
        sum += (double)value[at] / unit;
        squares += (double)value[at] / unit * ((double)value[at] / unit);
    }
    double mean = sum / (double)n_elements;
    double deviation = sqrt(squares / (double)n_elements - mean * mean);
    if (!(fabs(mean) < 0.15) || !(fabs(deviation - 1) < 0.05))
        fail_msg("%s of %s: %f %f", name, quant_types[tensor->type].name, mean, deviation);
    free(value);
}

static void every_type_is_spread_as_wanted(void **state) {
    (void)state;
    struct make_gguf_wish wish = make_gguf_default();
    wish.hidden = 256;
    wish.ffn = 512;
    wish.heads = 8;
    wish.kv_heads = 2;
    wish.head_dim = 64;
    wish.layers = 1;
    for (int type = 0; type < QUANT_TYPES; type++) {
        struct gguf gguf;
        wish.type = quant_types[type].name;
        open_made(&gguf, &wish);
        assert_int_equal(gguf_find_tensor(&gguf, "blk.0.attn_q.weight")->type, type);
        check_spread(&gguf, "token_embd.weight", 2);
        check_spread(&gguf, "blk.0.attn_q.weight", 1.75);
        check_spread(&gguf, "blk.0.attn_v.weight", 1);
        check_spread(&gguf, "blk.0.ffn_down.weight", 1.25);
        gguf_close(&gguf);
    }
}

static void a_mix_takes_types_in_turn(void **state) {
    (void)state;
    struct make_gguf_wish wish = make_gguf_default();
    wish.type = "mix";
    for (int odd = 0; odd < 2; odd++) {
        struct gguf gguf;
        int n_of_type[QUANT_TYPES] = {0};
        wish.hidden = odd ? 200 : 256;
        wish.heads = odd ? 9 : 6;
        wish.head_dim = odd ? 40 : 256;
        wish.ffn = odd ? 328 : 768;
        open_made(&gguf, &wish);
        for (size_t tensor = 0; tensor < gguf.n_tensors; tensor++)
            n_of_type[gguf.tensor[tensor].type] += gguf.tensor[tensor].n_dims == 2;
        for (int type = 0; type < QUANT_TYPES; type++) {
            bool fits = !odd || quant_types[type].block_elements == 1;
            assert_in_range(n_of_type[type], fits ? 2 : 0, fits ? 8 : 0); /* 23 matrices */
        }
        gguf_close(&gguf);
    }
}

static void architectures_have_their_tensors(void **state) {
    (void)state;
    const struct {
        const char *architecture;
        bool tied, factors;
        size_t n_tensors;
        const char *present[3], *absent[3];
    } cases[] = {
        {"llama",
         false,
         false,
         3 * 9 + 3,
         {"output.weight", "blk.2.ffn_gate.weight", "output_norm.weight"},
         {"blk.0.attn_q.bias", "blk.0.attn_q_norm.weight", "rope_freqs.weight"}},
        {"llama",
         true,
         true,
         3 * 9 + 3,
         {"rope_freqs.weight", "blk.0.attn_output.weight", "token_embd.weight"},
         {"output.weight", "blk.3.attn_norm.weight", "blk.0.attn_k.bias"}},
        {"qwen2",
         false,
         false,
         3 * 12 + 3,
         {"blk.0.attn_q.bias", "blk.1.attn_k.bias", "blk.2.attn_v.bias"},
         {"blk.0.attn_k_norm.weight", "blk.0.attn_output.bias", "rope_freqs.weight"}},
        {"qwen3",
         true,
         false,
         3 * 11 + 2,
         {"blk.0.attn_q_norm.weight", "blk.2.attn_k_norm.weight", "blk.0.ffn_norm.weight"},
         {"blk.0.attn_q.bias", "output.weight", "rope_freqs.weight"}},
    };
    for (size_t at = 0; at < sizeof cases / sizeof cases[0]; at++) {
        struct make_gguf_wish wish = make_gguf_default();
        struct gguf gguf;
        char key[64];
        uint32_t number = 0;
        wish.architecture = cases[at].architecture;
        wish.tied = cases[at].tied;
        wish.rope_factors = cases[at].factors;
        open_made(&gguf, &wish);
        assert_int_equal(gguf.n_tensors, cases[at].n_tensors);
        for (int name = 0; name < 3; name++) {
            assert_non_null(gguf_find_tensor(&gguf, cases[at].present[name]));
            assert_null(gguf_find_tensor(&gguf, cases[at].absent[name]));
        }
        snprintf(key, sizeof key, "%s.attention.head_count", cases[at].architecture);
        assert_true(gguf_read_u32(&gguf, key, &number, NULL));
        assert_int_equal(number, 9);
        const struct gguf_tensor *key_matrix = gguf_find_tensor(&gguf, "blk.1.attn_k.weight");
        assert_int_equal(key_matrix->dim[0], 200);
        assert_int_equal(key_matrix->dim[1], 120);
        gguf_close(&gguf);
    }
}

static int32_t find_token(const struct gguf_value *tokens, const char *text, size_t n_bytes) {
    for (size_t id = 0; id < tokens->n_elements; id++) {
        if (tokens->string[id].n_bytes == n_bytes &&
            memcmp(tokens->string[id].text, text, n_bytes) == 0)
            return (int32_t)id;
    }
    return -1;
}

static void vocabulary_is_whole(void **state) {
    (void)state;
    struct make_gguf_wish wish = make_gguf_default();
    struct gguf gguf;
    open_made(&gguf, &wish);
    const struct gguf_value *tokens = gguf_find(&gguf, "tokenizer.ggml.tokens");
    const struct gguf_value *merges = gguf_find(&gguf, "tokenizer.ggml.merges");
    assert_int_equal(tokens->n_elements, 1031);
    assert_int_equal(gguf_find(&gguf, "tokenizer.ggml.token_type")->n_elements, 1031);
    assert_int_equal(merges->n_elements, (1031 - 259) / 4 * 3);
    for (size_t id = 0; id < tokens->n_elements; id++) { /* no token stands twice */
        const struct gguf_string *token = &tokens->string[id];
        assert_int_equal(find_token(tokens, token->text, token->n_bytes), id);
    }
    for (size_t rank = 0; rank < merges->n_elements; rank++) {
        const struct gguf_string *merge = &merges->string[rank];
        const char *space = memchr(merge->text, ' ', merge->n_bytes);
        assert_non_null(space);
        size_t n_left = (size_t)(space - merge->text), n_right = merge->n_bytes - n_left - 1;
        char joined[64];
        memcpy(joined, merge->text, n_left);
        memcpy(joined + n_left, space + 1, n_right);
        int32_t made = find_token(tokens, joined, n_left + n_right);
        assert_int_equal(made, 259 + rank);
        assert_in_range(find_token(tokens, merge->text, n_left), 3, made - 1);
        assert_in_range(find_token(tokens, space + 1, n_right), 3, made - 1);
    }
    /* the letters of bytes 0x0a, ' ', '~' and 0xff, from GPT-2's encoder */
    assert_int_equal(find_token(tokens, "\u010a", 2), 3 + 0x0a);
    assert_int_equal(find_token(tokens, "\u0120", 2), 3 + ' ');
    assert_int_equal(find_token(tokens, "~", 1), 3 + '~');
    assert_int_equal(find_token(tokens, "\u00ff", 2), 3 + 0xff);
    assert_int_equal(find_token(tokens, "\u0143", 2), 3 + 0xad);
    gguf_close(&gguf);
}

static void contradictory_wishes_are_refused(void **state) {
    (void)state;
    struct make_gguf_wish wish[6];
    for (int at = 0; at < 6; at++)
        wish[at] = make_gguf_default();
    wish[0].type = "Q8_0"; /* 200 columns */
    wish[1].type = "Q9_9";
    wish[2].heads = 10;
    wish[3].vocabulary = 258;
    wish[4].architecture = "gpt2";
    wish[5].layers = 0;
    for (int at = 0; at < 6; at++) {
        struct fault fault = {0};
        assert_false(make_gguf_write(&wish[at], scratch_path("never.gguf"), &fault));
        assert_int_equal(fault.kind, FAULT_USER);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_numbers_are_splitmix64),
        cmocka_unit_test(weights_are_the_same_everywhere),
        cmocka_unit_test(every_type_is_spread_as_wanted),
        cmocka_unit_test(a_mix_takes_types_in_turn),
        cmocka_unit_test(architectures_have_their_tensors),
        cmocka_unit_test(vocabulary_is_whole),
        cmocka_unit_test(contradictory_wishes_are_refused),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
