/* Shapes: known dimensions against what the models were published with, made-up weights that depend
 * on nothing but seed and name, configurations that are refused, and a run that stays finite. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h> /* needs those above */

#include <string.h>

#include "make_gguf.h"
#include "noise.h"
#include "rig.h"
#include "scratch.h"
#include "shape.h"

static void *take(size_t n_bytes) {
    void *memory = calloc(1, n_bytes);
    assert_non_null(memory);
    return memory;
}

/* ---- dimensions -------------------------------------------------------------------------------
 */

/* From the models' own cards: config.json, and the parameters that the safetensors index counts. */
static const struct published {
    const char *name, *family;
    int layers, hidden, ffn, heads, kv_heads, head_dim, vocabulary, context;
    bool tied;
    double rope_base, eps;
    int64_t n_parameters;
} published[] = {
    {"shape:smollm2-135m", "llama", 30, 576, 1536, 9, 3, 64, 49152, 8192, true, 1e5, 1e-5,
     134515008},
    {"shape:llama-3.2-1b", "llama", 16, 2048, 8192, 32, 8, 64, 128256, 131072, true, 5e5, 1e-5,
     1235814400},
    {"shape:llama-3-8b", "llama", 32, 4096, 14336, 32, 8, 128, 128256, 8192, false, 5e5, 1e-5,
     8030261248},
    {"shape:llama-3-70b", "llama", 80, 8192, 28672, 64, 8, 128, 128256, 8192, false, 5e5, 1e-5,
     70553706496},
    {"shape:llama-3.1-8b", "llama", 32, 4096, 14336, 32, 8, 128, 128256, 131072, false, 5e5, 1e-5,
     8030261248},
    {"shape:llama-3.1-70b", "llama", 80, 8192, 28672, 64, 8, 128, 128256, 131072, false, 5e5, 1e-5,
     70553706496},
    {"shape:qwen2.5-7b", "qwen2", 28, 3584, 18944, 28, 4, 128, 152064, 131072, false, 1e6, 1e-6,
     7615616512},
    {"shape:qwen3-8b", "qwen3", 36, 4096, 12288, 32, 8, 128, 151936, 40960, false, 1e6, 1e-6,
     8190735360},
    {"shape:qwen3-32b", "qwen3", 64, 5120, 25600, 64, 8, 128, 151936, 40960, false, 1e6, 1e-6,
     32762123264},
};

/* Of all weights but the factors of rope, which the published files do not hold. */
static int64_t count_parameters(const struct model *model) {
    struct graph graph;
    int64_t n = 0;
    graph_open(&graph, (struct graph_options){.element_bytes = 4});
    model_write_graph(&graph, model);
    for (int at = 0; at < graph.n_weights; at++) {
        const struct graph_weight *weight = &graph.weight[at];
        if (strcmp(weight->name, "rope_freqs.weight") != 0)
            n += (int64_t)weight->rows * weight->columns;
    }
    graph_close(&graph);
    return n;
}

static void known_shapes_are_as_published(void **state) {
    (void)state;
    for (size_t at = 0; at < sizeof published / sizeof *published; at++) {
        const struct published *p = &published[at];
        struct shape shape;
        struct model model;
        struct fault fault = {0};
        if (!shape_read(&shape, &model, p->name, 1, &fault)) fail_msg("%s", fault.text);
        assert_string_equal(model.family->architecture, p->family);
        bool equal = model.n_layers == p->layers && model.hidden == p->hidden &&
                     model.ffn == p->ffn && model.n_heads == p->heads &&
                     model.n_kv_heads == p->kv_heads && model.head_dim == p->head_dim &&
                     model.vocabulary == p->vocabulary && model.context == p->context &&
                     model.tied == p->tied && model.rope_base == (float)p->rope_base &&
                     model.norm_eps == (float)p->eps && model.n_rotated == p->head_dim;
        if (!equal) fail_msg("%s is not as published", p->name);
        if (count_parameters(&model) != p->n_parameters)
            fail_msg("%s has %lld parameters", p->name, (long long)count_parameters(&model));
    }
}

static const char tiny[] = "{\"architectures\": [\"LlamaForCausalLM\"], \"hidden_size\": 96,"
                           "\"intermediate_size\": 160, \"num_hidden_layers\": 24,"
                           "\"num_attention_heads\": 6, \"num_key_value_heads\": 2,"
                           "\"head_dim\": 32, \"vocab_size\": 500, \"rms_norm_eps\": 1e-5,"
                           "\"max_position_embeddings\": 128, \"bos_token_id\": [1, 2],"
                           "\"torch_dtype\": \"float16\"}";

static bool read_text(struct shape *shape, struct model *model, const char *config,
                      struct fault *fault) {
    char name[300];
    assert_true(scratch_write(scratch_path("config.json"), config, strlen(config)));
    snprintf(name, sizeof name, "shape:%s", scratch_path("config.json"));
    return shape_read(shape, model, name, 1, fault);
}

static void a_file_gives_what_it_says(void **state) {
    (void)state;
    struct shape shape;
    struct model model;
    struct fault fault = {0};
    if (!read_text(&shape, &model, tiny, &fault)) fail_msg("%s", fault.text);
    assert_int_equal(model.hidden, 96);
    assert_int_equal(model.head_dim, 32); /* of its own, not 96 / 6 */
    assert_int_equal(shape.type, QUANT_F16);
    assert_false(model.tied);
    assert_true(model.rope_base == 10000 && model.rope_scale == 1);
}

/* `tiny` with one more or another value of a key. */
static void assert_refused(const char *pair, const char *expected) {
    char config[2048], key[64];
    struct shape shape;
    struct model model;
    struct fault fault = {0};
    snprintf(key, sizeof key, "%.*s", (int)strcspn(pair, ":"), pair);
    const char *found = strstr(tiny, key);
    if (found) {
        const char *end = strchr(found, ':') + 1;
        end += *end == ' ' && end[1] == '[' ? strcspn(end, "]") + 1 : strcspn(end, ",}");
        snprintf(config, sizeof config, "%.*s%s%s", (int)(found - tiny), tiny, pair, end);
    } else {
        snprintf(config, sizeof config, "{%s, %s", pair, tiny + 1);
    }
    if (read_text(&shape, &model, config, &fault)) fail_msg("%s was taken", pair);
    assert_int_equal(fault.kind, FAULT_USER);
    assert_non_null(strstr(fault.text, "config.json"));
    if (!strstr(fault.text, expected)) fail_msg("%s: %s", pair, fault.text);
}

static void what_cannot_be_is_refused(void **state) {
    (void)state;
    assert_refused("\"hidden_size\": 0",
                   "key 'hidden_size' is 0, it must be a whole number from 1");
    assert_refused("\"hidden_size\": \"x\\u001b\"", "key 'hidden_size' is \"x\\\\u001B\"");
    assert_refused("\"num_hidden_layers\": 5000", "it must be a whole number from 1 to 1024");
    assert_refused("\"vocab_size\": null", "key 'vocab_size' is missing");
    assert_refused("\"num_key_value_heads\": 4", "not a multiple of num_key_value_heads 4");
    assert_refused("\"head_dim\": 31", "head_dim is 31, it must be even");
    assert_refused("\"rms_norm_eps\": -1", "it must be a positive number");
    assert_refused("\"rms_norm_eps\": 1e300", "it must be a positive number");
    assert_refused("\"rope_theta\": 1e-60", "it must be a positive number");
    assert_refused("\"architectures\": [\"FalconForCausalLM\"]",
                   "architecture \"FalconForCausalLM\" is not supported; supported: Llama");
    assert_refused("\"model_type\": \"qwen3_moe\"", "supported: llama, mistral, qwen2, qwen3");
    assert_refused("\"hidden_act\": \"gelu\"", "only \"silu\" is");
    assert_refused("\"attention_bias\": true", "only false is");
    assert_refused("\"num_experts\": 8", "key 'num_experts' is 8");
    assert_refused("\"sliding_window\": 64", "sliding windows are not supported");
    assert_refused("\"tie_word_embeddings\": 1", "it must be true or false");
    assert_refused("\"torch_dtype\": \"int8\"", "supported: bfloat16, float16, float32");
    assert_refused("\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4}",
                   "rope scaling \"yarn\" is not supported");
    assert_refused("\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 4}",
                   "key 'low_freq_factor' is missing");
    assert_refused("\"hidden_size\": 96, \"hidden_size\"", "config.json:1: ");
    struct shape shape;
    struct model model;
    struct fault fault = {0};
    assert_false(shape_read(&shape, &model, "shape:", 1, &fault));
    assert_non_null(strstr(fault.text, "shape: is no known shape (smollm2-135m, "));
    fault = (struct fault){0};
    assert_false(shape_read(&shape, &model, "shape:no/such.json", 1, &fault));
    assert_non_null(strstr(fault.text, "No such file"));
    fault = (struct fault){0};
    assert_false(read_text(&shape, &model, "[1]", &fault));
    assert_non_null(strstr(fault.text, "it is no JSON object"));
}

/* ---- weights ----------------------------------------------------------------------------------
 */

/* Stream 0 begins with the first output of splitmix64 seeded with 0, 0xE220A8397B1DCDAF in Vigna's
 * reference code: its bytes, low first, are levels of 256. */
static void noise_is_splitmix(void **state) {
    (void)state;
    static const int byte[8] = {0xAF, 0xCD, 0x1D, 0x7B, 0x39, 0xA8, 0x20, 0xE2};
    float made[8];
    noise_fill(made, QUANT_F32, 0, sqrt(65535 / 3.0), 0, 8, 1);
    for (int at = 0; at < 8; at++)
        assert_true(made[at] == (float)(2 * byte[at] - 255));
}

static void noise_is_the_same_in_any_pieces(void **state) {
    (void)state;
    enum { N = 300001 };
    static const enum quant types[] = {QUANT_F32, QUANT_F16, QUANT_BF16};
    for (int type = 0; type < 3; type++) {
        size_t size = quant_bytes(types[type], 1);
        unsigned char *whole = take(N * size), *pieces = take(N * size);
        noise_fill(whole, types[type], 77, 0.1, 0, N, 1);
        for (size_t first = 0, n = 8; first < N; first += n, n = n * 3 % 100000 / 8 * 8 + 8)
            noise_fill(pieces + first * size, types[type], 77, 0.1, first,
                       first + n < N ? n : N - first, 3);
        assert_memory_equal(whole, pieces, N * size);
        free(whole);
        free(pieces);
    }
}

static void noise_has_its_mean_and_deviation(void **state) {
    (void)state;
    enum { N = 1 << 20 };
    float *made = take(N * sizeof *made);
    noise_fill(made, QUANT_F32, noise_key(3, "blk.0.ffn_up.weight"), 0.25, 0, N, 2);
    double sum = 0, squares = 0, neighbours = 0;
    for (int at = 0; at < N; at++) {
        sum += (double)made[at];
        squares += (double)made[at] * (double)made[at];
        if (at > 0) neighbours += (double)made[at] * (double)made[at - 1];
    }
    free(made);
    double error = 0.25 / sqrt(N); /* of a mean; 5 of them are one chance in millions */
    assert_true(fabs(sum / N) < 5 * error);
    assert_true(fabs(sqrt(squares / N) - 0.25) < 0.25 * 5 / sqrt(N));
    assert_true(fabs(neighbours / N) < 0.25 * 5 * error);
}

/* Made in the order of the graph and against it, by one thread and by several. */
static void weights_depend_on_seed_and_name_alone(void **state) {
    (void)state;
    struct shape shape, other;
    struct model model;
    struct fault fault = {0};
    assert_true(read_text(&shape, &model, tiny, &fault));
    other = shape;
    other.seed = 2;
    struct graph graph;
    graph_open(&graph, (struct graph_options){.element_bytes = 4});
    model_write_graph(&graph, &model);
    unsigned char **made = take((size_t)graph.n_weights * sizeof *made);
    for (int at = 0; at < graph.n_weights; at++) {
        const struct graph_weight *weight = &graph.weight[at];
        made[at] = take((size_t)weight->rows * (size_t)weight->columns * 4);
        shape_fill(&shape, weight, made[at], 1);
    }
    for (int at = graph.n_weights - 1; at >= 0; at--) {
        const struct graph_weight *weight = &graph.weight[at];
        size_t n = (size_t)weight->rows * (size_t)weight->columns;
        size_t n_bytes = quant_bytes(shape_type(&shape, weight), n);
        unsigned char *again = take(n_bytes);
        shape_fill(&shape, weight, again, 3);
        assert_memory_equal(again, made[at], n_bytes);
        bool norm = strstr(weight->name, "norm") != NULL;
        shape_fill(&other, weight, again, 1);
        assert_int_equal(memcmp(again, made[at], n_bytes) == 0, norm);
        for (int before = 0; before < at && !norm; before++)
            assert_memory_not_equal(made[before], made[at], 64);
        free(again);
    }
    for (int at = 0; at < graph.n_weights; at++)
        free(made[at]);
    free(made);
    graph_close(&graph);
}

/* A device that makes matrices itself, from what noise.h says of a stream. It wants weights joined,
 * so that some are of several tensors. */
static struct {
    const struct shape *shape;
    int n_made, n_vectors;
} maker;

static float number_of(const struct noise *noise, size_t at) {
    uint64_t z = noise->key + (at / 8 + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    return noise->level[z >> at % 8 * 8 & 255];
}

static struct weight *make(struct device *device, const struct tensor *part,
                           const struct noise *noise, int n_parts) {
    struct tensor numbers[3];
    assert_in_range(n_parts, 1, 3);
    for (int at = 0; at < n_parts; at++) {
        struct graph_weight wanted = {.rows = part[at].rows, .columns = part[at].columns};
        snprintf(wanted.name, sizeof wanted.name, "%s", part[at].name);
        size_t n = (size_t)part[at].rows * (size_t)part[at].columns;
        void *stored = take(quant_bytes(part[at].type, n));
        float *expected = take(n * sizeof *expected), *got = take(n * sizeof *got);
        shape_fill(maker.shape, &wanted, stored, 1);
        quant_types[part[at].type].unpack(stored, n, expected);
        for (size_t k = 0; k < n; k++)
            got[k] = number_of(&noise[at], k);
        assert_memory_equal(got, expected, n * sizeof *got);
        assert_null(part[at].data);
        free(expected);
        free(stored);
        numbers[at] = part[at];
        numbers[at].type = QUANT_F32;
        numbers[at].data = got;
    }
    struct weight *weight = device_cpu.load(device, numbers, n_parts);
    for (int at = 0; at < n_parts; at++)
        free((void *)numbers[at].data);
    maker.n_made += 1;
    return weight;
}

static struct weight *load_vector(struct device *device, const struct tensor *part, int n_parts) {
    assert_int_equal(part->rows, 1);
    assert_int_equal(n_parts, 1);
    maker.n_vectors += 1;
    return device_cpu.load(device, part, n_parts);
}

static void devices_may_make_matrices_themselves(void **state) {
    (void)state;
    static const char *const types[] = {"float32", "float16", "bfloat16"};
    struct device_ops ops = device_cpu;
    ops.load_noise = make;
    ops.load = load_vector;
    for (int type = 0; type < 3; type++) {
        char config[1024];
        int n_kept = (int)(strstr(tiny, "\"float16\"") - tiny) - 1; /* its type stands last */
        snprintf(config, sizeof config, "{\"model_type\": \"qwen2\", %.*s\"%s\"}", n_kept, tiny + 1,
                 types[type]);
        struct source source = {.made = true, .n_threads = 1};
        struct model model;
        struct fault fault = {0};
        assert_true(read_text(&source.shape, &model, config, &fault));
        struct graph graph;
        graph_open(&graph, (struct graph_options){.element_bytes = 4, .joins_weights = true});
        model_write_graph(&graph, &model);
        struct device_options options = {.n_threads = 1};
        struct device_limits limits = {.n_slots = 1, .max_rows = 1, .max_picked = 1};
        struct device *device;
        struct weights weights;
        assert_true(device_cpu.open(&device, &options, &fault));
        device_cpu.prepare(device, &limits);
        maker.shape = &source.shape;
        maker.n_made = maker.n_vectors = 0;
        int n_matrices = 0;
        size_t n_bytes = 0;
        for (int at = 0; at < graph.n_weights; at++) {
            const struct graph_weight *weight = &graph.weight[at];
            size_t n = (size_t)weight->rows * (size_t)weight->columns;
            n_matrices += weight->rows > 1;
            n_bytes += n * (weight->rows > 1 && type > 0 ? 2 : 4);
        }
        weights_open(&weights, &graph, &source, &ops, device, 64);
        assert_int_equal(maker.n_made, n_matrices);
        assert_int_equal(maker.n_vectors, graph.n_weights - n_matrices);
        assert_int_equal(weights.file_bytes, n_bytes);
        weights_close(&weights);
        device_cpu.close(device);
        graph_close(&graph);
    }
}

/* Llama 3.1 as its report has it, in wavelengths: below 8192 / 4 unchanged, above 8192 / 1 divided
 * by 8, linear in 8192 / wavelength between them. */
static void rope_factors_are_those_of_llama_3(void **state) {
    (void)state;
    struct shape shape;
    struct model model;
    struct fault fault = {0};
    assert_true(shape_read(&shape, &model, "shape:llama-3.1-8b", 1, &fault));
    assert_true(model.rope_factors);
    float factor[64];
    struct graph_weight weight = {.name = "rope_freqs.weight", .rows = 1, .columns = 64};
    shape_fill(&shape, &weight, factor, 1);
    int n_between = 0;
    for (int pair = 0; pair < 64; pair++) {
        double frequency = 1 / pow(500000, pair / 64.0), wavelength = 2 * M_PI / frequency;
        double expected = frequency;
        if (wavelength > 8192) {
            expected = frequency / 8;
        } else if (wavelength >= 2048) {
            double smooth = (8192 / wavelength - 1) / 3;
            expected = (1 - smooth) * frequency / 8 + smooth * frequency;
            n_between++;
        }
        assert_true(fabs(frequency / (double)factor[pair] / expected - 1) < 1e-6);
    }
    assert_int_equal(n_between, 6);
}

/* ---- a run ------------------------------------------------------------------------------------
 */

/* Through 24 layers with made-up weights all scores are finite, and tokens are not all one. */
static void a_run_stays_finite(void **state) {
    (void)state;
    static const char *const families[] = {"llama", "qwen2", "qwen3"};
    enum { N_PROMPT = 40, N_NEW = 24 };
    for (int family = 0; family < 3; family++) {
        char config[1024], name[300];
        snprintf(config, sizeof config, "{\"model_type\": \"%s\", %s", families[family], tiny + 1);
        assert_true(scratch_write(scratch_path("run.json"), config, strlen(config)));
        snprintf(name, sizeof name, "shape:%s", scratch_path("run.json"));
        struct rig_model model;
        struct rig_group group;
        struct rig_list list;
        struct rig_case what = {
            .kv_type = KV_BF16, .n_threads = 1, .n_slots = 1, .max_batch = 1, .max_rows = 16};
        struct rig_wish wish = {N_PROMPT, N_NEW, 5, true, rig_greedy(), NULL};
        wish.sampling.n_logprobs = 2;
        rig_model_open(&model, name, 100);
        rig_group_open(&group, 0, 0, 0, &model);
        rig_list_open(&list, &wish, 1, model.model.vocabulary);
        rig_run(&group, &what, &list);
        const struct generation *made = list.generation[0];
        int n_other = 0;
        for (int at = 1; at < N_PROMPT + N_NEW; at++) {
            assert_true(isfinite(made->score[at * 3].logprob));
            assert_true(made->score[at * 3].logprob > -200);
            n_other += at > N_PROMPT && made->token[at] != made->token[N_PROMPT];
        }
        assert_true(n_other > 0);
        rig_list_close(&list);
        rig_group_close(&group);
        rig_model_close(&model);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_shapes_are_as_published),
        cmocka_unit_test(a_file_gives_what_it_says),
        cmocka_unit_test(what_cannot_be_is_refused),
        cmocka_unit_test(noise_is_splitmix),
        cmocka_unit_test(noise_is_the_same_in_any_pieces),
        cmocka_unit_test(noise_has_its_mean_and_deviation),
        cmocka_unit_test(weights_depend_on_seed_and_name_alone),
        cmocka_unit_test(devices_may_make_matrices_themselves),
        cmocka_unit_test(rope_factors_are_those_of_llama_3),
        cmocka_unit_test(a_run_stays_finite),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
