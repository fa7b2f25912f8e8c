/* Graphs of joined weights against the same models' plain ones: every column of a product is
 * computed by itself, so tokens, finishes and the bits of all scores are equal. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h> /* needs those above */

#include "make_gguf.h"
#include "rig.h"
#include "scratch.h"

enum { CONTEXT = 120, N_NEW = 6, N_LAYERS = 3 };

static int count_matmuls(const struct graph *graph) {
    int n = 0;
    for (int node = 0; node < graph->n_nodes; node++)
        n += graph->node[node].op == OP_MATMUL;
    return n;
}

/* What attention ranks and checkpoints know of a program is the same. */
static void compare_services(const struct program *joined, const struct program *plain) {
    struct service made, expected;
    service_open(&made, joined, ELEMENT_F32);
    service_open(&expected, plain, ELEMENT_F32);
    assert_int_equal(made.n_gaps, expected.n_gaps);
    assert_int_equal(made.n_lanes, expected.n_lanes);
    assert_int_equal(made.n_layers, expected.n_layers);
    assert_int_equal(made.n_heads, expected.n_heads);
    assert_int_equal(made.n_kv_heads, expected.n_kv_heads);
    assert_int_equal(made.head_dim, expected.head_dim);
    assert_true(made.scale == expected.scale);
    assert_int_equal(made.n_exchanges, 2 * N_LAYERS);
    assert_int_equal(expected.n_exchanges, 2 * N_LAYERS);
    for (int at = 0; at < 2 * N_LAYERS; at++) {
        assert_int_equal(made.exchange[at].gap, expected.exchange[at].gap);
        assert_int_equal(made.exchange[at].is_kv, expected.exchange[at].is_kv);
        assert_int_equal(made.exchange[at].lane, expected.exchange[at].lane);
        assert_int_equal(made.exchange[at].layer, expected.exchange[at].layer);
    }
    service_close(&expected);
    service_close(&made);
}

static void run(const struct rig_model *model, struct rig_list *list) {
    static const int n_prompt[] = {70, 5, 33};
    struct rig_wish wish[3];
    for (int at = 0; at < 3; at++) {
        wish[at] = (struct rig_wish){n_prompt[at], N_NEW, 5, true, rig_greedy(), NULL};
        wish[at].sampling.n_logprobs = 2;
    }
    struct rig_case what = {
        .kv_type = KV_F32, .n_threads = 2, .n_slots = 1, .max_batch = 3, .max_rows = 40};
    struct rig_group group;
    rig_group_open(&group, 0, 0, 0, model);
    rig_list_open(list, wish, 3, model->model.vocabulary);
    rig_run(&group, &what, list);
    rig_group_close(&group);
}

static void compare(const char *name) {
    struct rig_model plain, joined;
    struct rig_list expected, made;
    char text[512];
    rig_model_open_as(&plain, name, CONTEXT, false);
    rig_model_open_as(&joined, name, CONTEXT, true);
    assert_int_equal(count_matmuls(&plain.graph), 7 * N_LAYERS + 1);
    assert_int_equal(count_matmuls(&joined.graph), 4 * N_LAYERS + 1);
    assert_int_equal(joined.weights.file_bytes, plain.weights.file_bytes);
    assert_int_equal(weights_bytes(&joined.graph, &joined.source, &device_cpu),
                     weights_bytes(&plain.graph, &plain.source, &device_cpu));
    compare_services(&joined.cut, &plain.cut);
    run(&plain, &expected);
    run(&joined, &made);
    if (!rig_list_equal(&made, &expected, text, sizeof text)) fail_msg("%s: %s", name, text);
    rig_list_close(&made);
    rig_list_close(&expected);
    rig_model_close(&joined);
    rig_model_close(&plain);
}

/* Rows of k, v and up begin inside a panel of 16. */
static void files_answer_as_their_plain_graphs(void **state) {
    (void)state;
    static const struct {
        const char *architecture, *type;
        int hidden, heads, kv_heads, ffn;
        bool tied, rope_factors;
    } file[] = {
        {"llama", "F32", 200, 9, 3, 328, true, false},
        {"llama", "Q8_0", 192, 8, 1, 352, false, true},
        {"qwen2", "F16", 200, 9, 3, 328, false, false},
        {"qwen2", "Q4_1", 320, 8, 1, 352, true, false},
        {"qwen3", "BF16", 200, 9, 3, 328, true, false},
        {"qwen3", "Q5_0", 192, 8, 1, 352, false, false},
    };
    for (size_t at = 0; at < sizeof file / sizeof *file; at++) {
        struct make_gguf_wish wish = make_gguf_default();
        struct fault fault = {0};
        wish.architecture = file[at].architecture;
        wish.type = file[at].type;
        wish.layers = N_LAYERS;
        wish.hidden = file[at].hidden;
        wish.heads = file[at].heads;
        wish.kv_heads = file[at].kv_heads;
        wish.ffn = file[at].ffn;
        wish.tied = file[at].tied;
        wish.rope_factors = file[at].rope_factors;
        if (!make_gguf_write(&wish, scratch_path("joined.gguf"), &fault))
            fail_msg("%s", fault.text);
        compare(scratch_path("joined.gguf"));
    }
}

static void shapes_make_up_the_same_numbers(void **state) {
    (void)state;
    static const char *const families[] = {"llama", "qwen2", "qwen3"};
    for (int family = 0; family < 3; family++) {
        char config[512], name[300];
        snprintf(config, sizeof config,
                 "{\"model_type\": \"%s\", \"hidden_size\": 96, \"intermediate_size\": 168,"
                 "\"num_hidden_layers\": %d, \"num_attention_heads\": 5, \"head_dim\": 24,"
                 "\"num_key_value_heads\": 1, \"vocab_size\": 500, \"rms_norm_eps\": 1e-5,"
                 "\"max_position_embeddings\": 128, \"torch_dtype\": \"float16\"}",
                 families[family], N_LAYERS);
        assert_true(scratch_write(scratch_path("shape.json"), config, strlen(config)));
        snprintf(name, sizeof name, "shape:%s", scratch_path("shape.json"));
        compare(name);
    }
}

/* gate and up of one row each: a matrix of two rows, and no vector. */
static void the_smallest_ffn_is_no_vector(void **state) {
    (void)state;
    static const char config[] =
        "{\"model_type\": \"llama\", \"hidden_size\": 16, \"intermediate_size\": 1,"
        "\"num_hidden_layers\": 3, \"num_attention_heads\": 1, \"vocab_size\": 300,"
        "\"rms_norm_eps\": 1e-5, \"max_position_embeddings\": 128}";
    char name[300];
    assert_true(scratch_write(scratch_path("small.json"), config, strlen(config)));
    snprintf(name, sizeof name, "shape:%s", scratch_path("small.json"));
    compare(name);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_answer_as_their_plain_graphs),
        cmocka_unit_test(shapes_make_up_the_same_numbers),
        cmocka_unit_test(the_smallest_ffn_is_no_vector),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
