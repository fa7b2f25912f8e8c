/* shape.c - models that are only dimensions. See shape.h.
 *
 * The known shapes are written as the configurations their models were published with, and go
 * through the same reader as a user's file. Keys that would change what is computed, and are not
 * written by any family, are refused by name; all others (tokens, dropout, initialisation) mean
 * nothing here and are passed over, since every configuration has many. The names of GGUF keys were
 * rejected: whoever measures a model that has no file yet has its config.json.
 */
#include "shape.h"

#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"

#define LLAMA3(factor)                                                                             \
    "'rope_theta':500000.0,'rope_scaling':{'rope_type':'llama3','factor':" factor                  \
    ",'low_freq_factor':1.0,'high_freq_factor':4.0,'original_max_position_embeddings':8192}"

/* JSON with ' for ". */
static const struct {
    const char *name, *config;
} known[] = {
    {"smollm2-135m", "{'model_type':'llama','hidden_size':576,'intermediate_size':1536,"
                     "'num_hidden_layers':30,'num_attention_heads':9,'num_key_value_heads':3,"
                     "'vocab_size':49152,'max_position_embeddings':8192,'rms_norm_eps':1e-05,"
                     "'rope_theta':100000,'tie_word_embeddings':true}"},
    {"llama-3.2-1b", "{'model_type':'llama','hidden_size':2048,'intermediate_size':8192,"
                     "'num_hidden_layers':16,'num_attention_heads':32,'num_key_value_heads':8,"
                     "'head_dim':64,'vocab_size':128256,'max_position_embeddings':131072,"
                     "'rms_norm_eps':1e-05,'tie_word_embeddings':true," LLAMA3("32.0") "}"},
    {"llama-3-8b", "{'model_type':'llama','hidden_size':4096,'intermediate_size':14336,"
                   "'num_hidden_layers':32,'num_attention_heads':32,'num_key_value_heads':8,"
                   "'vocab_size':128256,'max_position_embeddings':8192,'rms_norm_eps':1e-05,"
                   "'rope_theta':500000.0,'tie_word_embeddings':false}"},
    {"llama-3-70b", "{'model_type':'llama','hidden_size':8192,'intermediate_size':28672,"
                    "'num_hidden_layers':80,'num_attention_heads':64,'num_key_value_heads':8,"
                    "'vocab_size':128256,'max_position_embeddings':8192,'rms_norm_eps':1e-05,"
                    "'rope_theta':500000.0,'tie_word_embeddings':false}"},
    {"llama-3.1-8b", "{'model_type':'llama','hidden_size':4096,'intermediate_size':14336,"
                     "'num_hidden_layers':32,'num_attention_heads':32,'num_key_value_heads':8,"
                     "'vocab_size':128256,'max_position_embeddings':131072,'rms_norm_eps':1e-05,"
                     "'tie_word_embeddings':false," LLAMA3("8.0") "}"},
    {"llama-3.1-70b", "{'model_type':'llama','hidden_size':8192,'intermediate_size':28672,"
                      "'num_hidden_layers':80,'num_attention_heads':64,'num_key_value_heads':8,"
                      "'vocab_size':128256,'max_position_embeddings':131072,'rms_norm_eps':1e-05,"
                      "'tie_word_embeddings':false," LLAMA3("8.0") "}"},
    {"qwen2.5-7b", "{'model_type':'qwen2','hidden_size':3584,'intermediate_size':18944,"
                   "'num_hidden_layers':28,'num_attention_heads':28,'num_key_value_heads':4,"
                   "'vocab_size':152064,'max_position_embeddings':131072,'rms_norm_eps':1e-06,"
                   "'rope_theta':1000000.0,'tie_word_embeddings':false}"},
    {"qwen3-8b", "{'model_type':'qwen3','hidden_size':4096,'intermediate_size':12288,"
                 "'num_hidden_layers':36,'num_attention_heads':32,'num_key_value_heads':8,"
                 "'head_dim':128,'vocab_size':151936,'max_position_embeddings':40960,"
                 "'rms_norm_eps':1e-06,'rope_theta':1000000,'tie_word_embeddings':false}"},
    {"qwen3-32b", "{'model_type':'qwen3','hidden_size':5120,'intermediate_size':25600,"
                  "'num_hidden_layers':64,'num_attention_heads':64,'num_key_value_heads':8,"
                  "'head_dim':128,'vocab_size':151936,'max_position_embeddings':40960,"
                  "'rms_norm_eps':1e-06,'rope_theta':1000000,'tie_word_embeddings':false}"},
};
enum { KNOWN = sizeof known / sizeof *known };

/* model_type, the class in architectures, and the family that writes it. */
static const struct {
    const char *model_type, *class, *family;
} types[] = {
    {"llama", "LlamaForCausalLM", "llama"},
    {"mistral", "MistralForCausalLM", "llama"},
    {"qwen2", "Qwen2ForCausalLM", "qwen2"},
    {"qwen3", "Qwen3ForCausalLM", "qwen3"},
};
enum { TYPES = sizeof types / sizeof *types };

static const char prefix[] = "shape:";

bool shape_is(const char *name) {
    return strncmp(name, prefix, strlen(prefix)) == 0;
}

/* ---- reading ----------------------------------------------------------------------------------
 */

struct reader {
    const char *name; /* escaped */
    const json_t *config;
    struct shape *shape;
    struct model *model;
    struct fault *fault;
};

static bool refuse(const struct reader *reader, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static bool refuse(const struct reader *reader, const char *format, ...) {
    char text[640];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return fault_user(reader->fault, "%s: %s", reader->name, text);
}

/* A value fit to stand in a message. */
struct shown {
    char text[96];
};

static struct shown show(const json_t *value) {
    struct shown shown;
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
    log_escape(shown.text, sizeof shown.text, text ? text : "?", text ? strlen(text) : 1);
    free(text);
    return shown;
}

/* The value of a key; NULL when it is not there or null. */
static const json_t *find(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

/* *out = the key's count, 1 .. most; `otherwise` where it is not there, unless that is 0. */
static bool read_count(const struct reader *reader, const char *key, int most, int otherwise,
                       int *out) {
    const json_t *value = find(reader->config, key);
    *out = otherwise;
    if (!value && otherwise) return true;
    if (!value) return refuse(reader, "key '%s' is missing", key);
    json_int_t count = json_is_integer(value) ? json_integer_value(value) : 0;
    if (count < 1 || count > most)
        return refuse(reader, "key '%s' is %s, it must be a whole number from 1 to %d", key,
                      show(value).text, most);
    *out = (int)count;
    return true;
}

/* *out = the positive number of a key of `object`; unchanged where it is not there, unless that is
 * 0. */
static bool read_positive(const struct reader *reader, const json_t *object, const char *key,
                          double *out) {
    const json_t *value = find(object, key);
    if (!value && *out != 0) return true;
    if (!value) return refuse(reader, "key '%s' is missing", key);
    double number = json_number_value(value);
    if (!json_is_number(value) || !((float)number > 0) || !isfinite((float)number))
        return refuse(reader, "key '%s' is %s, it must be a positive number", key,
                      show(value).text);
    *out = number;
    return true;
}

static bool read_bool(const struct reader *reader, const char *key, bool *out) {
    const json_t *value = find(reader->config, key);
    if (value && !json_is_boolean(value))
        return refuse(reader, "key '%s' is %s, it must be true or false", key, show(value).text);
    *out = json_is_true(value);
    return true;
}

static bool is_text(const json_t *value, const char *text) {
    return json_is_string(value) && strcmp(json_string_value(value), text) == 0;
}

static bool read_family(const struct reader *reader) {
    const json_t *type = find(reader->config, "model_type");
    const json_t *class = json_array_get(find(reader->config, "architectures"), 0);
    if (!type && !class) return refuse(reader, "neither model_type nor architectures is there");
    char supported[128] = "";
    for (int at = 0; at < TYPES; at++) {
        if (type ? is_text(type, types[at].model_type) : is_text(class, types[at].class)) {
            const char *family = types[at].family;
            reader->model->family = model_find_family(family, strlen(family));
            REQUIRE(reader->model->family, "no family %s", family);
            return true;
        }
        size_t length = strlen(supported);
        snprintf(supported + length, sizeof supported - length, "%s%s", length ? ", " : "",
                 type ? types[at].model_type : types[at].class);
    }
    return refuse(reader, "%s %s is not supported; supported: %s",
                  type ? "model_type" : "architecture", show(type ? type : class).text, supported);
}

static bool read_sizes(const struct reader *reader) {
    struct model *model = reader->model;
    size_t columns = 0;
    if (!read_count(reader, "num_hidden_layers", MODEL_MOST_LAYERS, 0, &model->n_layers) ||
        !read_count(reader, "hidden_size", MODEL_MOST_COLUMNS, 0, &model->hidden) ||
        !read_count(reader, "intermediate_size", MODEL_MOST_COLUMNS, 0, &model->ffn) ||
        !read_count(reader, "vocab_size", MODEL_MOST_TOKENS, 0, &model->vocabulary) ||
        !read_count(reader, "max_position_embeddings", MODEL_MOST_CONTEXT, 0, &model->context) ||
        !read_count(reader, "num_attention_heads", MODEL_MOST_HEADS, 0, &model->n_heads) ||
        !read_count(reader, "num_key_value_heads", MODEL_MOST_HEADS, model->n_heads,
                    &model->n_kv_heads))
        return false;
    if (model->n_heads % model->n_kv_heads != 0)
        return refuse(reader, "num_attention_heads is %d, not a multiple of num_key_value_heads %d",
                      model->n_heads, model->n_kv_heads);
    if (!find(reader->config, "head_dim") && model->hidden % model->n_heads != 0)
        return refuse(reader,
                      "hidden_size is %d, not a multiple of num_attention_heads %d, and there is "
                      "no head_dim",
                      model->hidden, model->n_heads);
    if (!read_count(reader, "head_dim", MODEL_MOST_COLUMNS, model->hidden / model->n_heads,
                    &model->head_dim))
        return false;
    if (!check_multiply(model->n_heads, model->head_dim, &columns) || columns > MODEL_MOST_COLUMNS)
        return refuse(reader, "%d heads of %d are more than %d columns", model->n_heads,
                      model->head_dim, MODEL_MOST_COLUMNS);
    if (model->head_dim % 2 != 0)
        return refuse(reader, "head_dim is %d, it must be even", model->head_dim);
    model->n_rotated = reader->shape->n_rotated = model->head_dim;
    return true;
}

static bool read_llama3(const struct reader *reader, const json_t *scaling) {
    struct rope_factors *factors = &reader->shape->factors;
    reader->model->rope_factors = true;
    if (strcmp(reader->model->family->architecture, "llama") != 0)
        return refuse(reader, "rope_scaling llama3 is only supported in llama models");
    if (!read_positive(reader, scaling, "factor", &factors->factor) ||
        !read_positive(reader, scaling, "low_freq_factor", &factors->low) ||
        !read_positive(reader, scaling, "high_freq_factor", &factors->high) ||
        !read_positive(reader, scaling, "original_max_position_embeddings",
                       &factors->original_context))
        return false;
    if (factors->high > factors->low) return true;
    return refuse(reader, "high_freq_factor %g is not more than low_freq_factor %g", factors->high,
                  factors->low);
}

/* rope_scaling with rope_theta beside it, or rope_parameters with both inside, as newer files. */
static bool read_rope(const struct reader *reader) {
    struct model *model = reader->model;
    const json_t *inside = find(reader->config, "rope_parameters");
    const json_t *scaling = inside ? inside : find(reader->config, "rope_scaling");
    double base = 10000, factor = 0;
    if (!read_positive(reader, inside ? inside : reader->config, "rope_theta", &base)) return false;
    model->rope_base = reader->shape->rope_base = (float)base;
    model->rope_scale = 1;
    const json_t *type = find(scaling, "rope_type");
    if (!type) type = find(scaling, "type");
    if (!scaling || is_text(type, "default")) return true;
    if (is_text(type, "llama3")) return read_llama3(reader, scaling);
    if (!is_text(type, "linear"))
        return refuse(reader,
                      "rope scaling %s is not supported; supported: default, linear, llama3",
                      type ? show(type).text : "without a type");
    if (!read_positive(reader, scaling, "factor", &factor)) return false;
    model->rope_scale = (float)(1 / factor);
    return true;
}

/* Keys that change what is computed, and the value that does not. */
static bool check_features(const struct reader *reader) {
    static const struct {
        const char *key, *harmless;
    } features[] = {
        {"hidden_act", "\"silu\""},       {"attention_bias", "false"}, {"mlp_bias", "false"},
        {"use_sliding_window", "false"},  {"num_experts", "0"},        {"num_local_experts", "0"},
        {"partial_rotary_factor", "1.0"},
    };
    bool biased = strcmp(reader->model->family->architecture, "qwen2") == 0;
    for (size_t at = 0; at < sizeof features / sizeof *features; at++) {
        const json_t *value = find(reader->config, features[at].key);
        if (!value || (biased && strcmp(features[at].key, "attention_bias") == 0)) continue;
        struct shown shown = show(value);
        if (strcmp(shown.text, features[at].harmless) != 0)
            return refuse(reader, "key '%s' is %s, which is not supported (only %s is)",
                          features[at].key, shown.text, features[at].harmless);
    }
    const json_t *window = find(reader->config, "sliding_window");
    bool unused = find(reader->config, "use_sliding_window") != NULL;
    if (window && !unused && json_integer_value(window) < reader->model->context)
        return refuse(reader,
                      "key 'sliding_window' is %s: sliding windows are not supported (only null, "
                      "or at least the context of %d)",
                      show(window).text, reader->model->context);
    return true;
}

static bool read_type(const struct reader *reader) {
    static const struct {
        const char *name;
        enum quant type;
    } stored[] = {{"bfloat16", QUANT_BF16}, {"float16", QUANT_F16}, {"float32", QUANT_F32}};
    const json_t *name = find(reader->config, "torch_dtype");
    if (!name) name = find(reader->config, "dtype");
    reader->shape->type = QUANT_BF16;
    if (!name) return true;
    for (size_t at = 0; at < sizeof stored / sizeof *stored; at++) {
        reader->shape->type = stored[at].type;
        if (is_text(name, stored[at].name)) return true;
    }
    return refuse(reader, "torch_dtype %s is not supported; supported: bfloat16, float16, float32",
                  show(name).text);
}

static bool read_config(const struct reader *reader) {
    double eps = 0;
    if (!json_is_object(reader->config)) return refuse(reader, "it is no JSON object");
    if (!read_family(reader) || !read_sizes(reader) || !read_rope(reader) ||
        !check_features(reader) || !read_type(reader) ||
        !read_positive(reader, reader->config, "rms_norm_eps", &eps))
        return false;
    reader->model->norm_eps = (float)eps;
    return read_bool(reader, "tie_word_embeddings", &reader->model->tied);
}

/* ---- finding ----------------------------------------------------------------------------------
 */

static json_t *load_known(const char *config) {
    char text[1024];
    json_error_t error;
    size_t n_bytes = strlen(config);
    REQUIRE(n_bytes < sizeof text, "a shape of %zu bytes", n_bytes);
    for (size_t at = 0; at <= n_bytes; at++)
        text[at] = config[at] == '\'' ? '"' : config[at];
    json_t *loaded = json_loads(text, 0, &error);
    REQUIRE(loaded, "a known shape: %s", error.text);
    return loaded;
}

static json_t *load(const char *name, const char *escaped, struct fault *fault) {
    char names[256] = "";
    for (int at = 0; at < KNOWN; at++) {
        if (strcmp(name, known[at].name) == 0) return load_known(known[at].config);
        size_t length = strlen(names);
        snprintf(names + length, sizeof names - length, "%s%s", length ? ", " : "", known[at].name);
    }
    size_t n_bytes = strlen(name);
    if (n_bytes < 5 || strcmp(name + n_bytes - 5, ".json") != 0) {
        fault_user(fault, "%s is no known shape (%s), and no file that ends in .json", escaped,
                   names);
        return NULL;
    }
    json_error_t error;
    json_t *loaded = json_load_file(name, JSON_REJECT_DUPLICATES, &error);
    char why[256];
    log_escape(why, sizeof why, error.text, strlen(error.text));
    if (!loaded && error.line > 0) {
        fault_user(fault, "%s:%d: %s", escaped, error.line, why);
    } else if (!loaded) {
        fault_user(fault, "%s: %s", escaped, why);
    }
    return loaded;
}

bool shape_read(struct shape *shape, struct model *model, const char *name, uint64_t seed,
                struct fault *fault) {
    char escaped[256];
    *shape = (struct shape){.seed = seed};
    *model = (struct model){0};
    log_escape(escaped, sizeof escaped, name, strlen(name));
    json_t *config = load(name + strlen(prefix), escaped, fault);
    if (!config) return false;
    snprintf(model->name, sizeof model->name, "%.100s", escaped);
    struct reader reader = {escaped, config, shape, model, fault};
    bool good = read_config(&reader);
    json_decref(config);
    return good;
}

/* ---- weights ----------------------------------------------------------------------------------
 */

enum quant shape_type(const struct shape *shape, const struct graph_weight *weight) {
    return weight->rows == 1 ? QUANT_F32 : shape->type;
}

/* As transformers compute it (modeling_rope_utils, "llama3"). */
double shape_rope_factor(const struct shape *shape, int pair) {
    const struct rope_factors *f = &shape->factors;
    double frequency = pow((double)shape->rope_base, -2.0 * pair / shape->n_rotated);
    double waves = f->original_context * frequency / (2 * acos(-1)); /* in the original context */
    if (waves > f->high) return 1;
    if (waves < f->low) return f->factor;
    double kept = (waves - f->low) / (f->high - f->low);
    return 1 / ((1 - kept) / f->factor + kept);
}

static bool ends_in(const char *name, const char *end) {
    size_t n_name = strlen(name), n_end = strlen(end);
    return n_name >= n_end && strcmp(name + n_name - n_end, end) == 0;
}

static double deviation_of(const struct graph_weight *weight) {
    return 1 / sqrt(weight->columns);
}

bool shape_noise(const struct shape *shape, const struct graph_weight *weight,
                 struct noise *noise) {
    if (weight->rows == 1) return false;
    noise_describe(noise, shape_type(shape, weight), noise_key(shape->seed, weight->name),
                   deviation_of(weight));
    return true;
}

void shape_fill(const struct shape *shape, const struct graph_weight *weight, void *out,
                int n_threads) {
    size_t n = (size_t)weight->rows * (size_t)weight->columns;
    float *vector = out;
    if (ends_in(weight->name, "norm.weight")) {
        for (size_t at = 0; at < n; at++)
            vector[at] = 1;
    } else if (strcmp(weight->name, "rope_freqs.weight") == 0) {
        for (size_t pair = 0; pair < n; pair++)
            vector[pair] = (float)shape_rope_factor(shape, (int)pair);
    } else {
        noise_fill(out, shape_type(shape, weight), noise_key(shape->seed, weight->name),
                   deviation_of(weight), 0, n, n_threads);
    }
}
