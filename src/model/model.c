/* model.c - hyperparameters from a file's keys, and whether the file holds what they promise.
 *
 * Owns the table of families, the limits of every hyperparameter and the list of features that
 * would change the answer and are not built. What the weights must be called and shaped is asked
 * of the family itself: its graph is written once and compared with the file's tensors, both ways.
 * A tensor the graph does not name is refused too, since leaving out a bias or an expert answers
 * wrongly without a sign. Key names: GGUF specification, "<architecture>.block_count" and so on.
 *
 * Sliding windows: none of our architectures' graphs has one. Files of Mistral and Qwen2 come
 * without the key (their common converters leave it out), and run with full attention there as
 * here; a file that does say a window shorter than its context is refused.
 */
#include "model.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"

static const struct model_family families[] = {
    {"llama", family_llama_write},
    {"qwen2", family_qwen2_write},
    {"qwen3", family_qwen3_write},
};
enum { FAMILIES = sizeof families / sizeof *families };

/* What is being read, for every message. */
struct reader {
    const struct gguf *gguf;
    const char *architecture; /* once known */
    struct fault *fault;
    char path[256]; /* escaped */
};

static bool refuse(const struct reader *reader, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static bool refuse(const struct reader *reader, const char *format, ...) {
    char text[640];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return fault_user(reader->fault, "%s: %s", reader->path, text);
}

static const char *key_of(const struct reader *reader, char key[96], const char *suffix) {
    snprintf(key, 96, "%s.%s", reader->architecture, suffix);
    return key;
}

static bool has_key(const struct reader *reader, const char *suffix) {
    char key[96];
    return gguf_find(reader->gguf, key_of(reader, key, suffix)) != NULL;
}

/* *out = the key's count, 1 .. most. */
static bool read_count(const struct reader *reader, const char *suffix, int most, int *out) {
    char key[96];
    uint32_t count = 0;
    if (!gguf_read_u32(reader->gguf, key_of(reader, key, suffix), &count, reader->fault)) {
        return false;
    }
    if (count < 1 || count > (uint32_t)most) {
        return refuse(reader, "key '%s' is %u, it must be 1 to %d", key, count, most);
    }
    *out = (int)count;
    return true;
}

/* The same, but *out stays as it is where the file does not say. */
static bool read_count_if_any(const struct reader *reader, const char *suffix, int most, int *out) {
    return !has_key(reader, suffix) || read_count(reader, suffix, most, out);
}

/* *out = the key's positive finite number. */
static bool read_positive(const struct reader *reader, const char *suffix, float *out) {
    char key[96];
    float number = 0;
    if (!gguf_read_f32(reader->gguf, key_of(reader, key, suffix), &number, reader->fault)) {
        return false;
    }
    if (!isfinite(number) || number <= 0) {
        return refuse(reader, "key '%s' is %g, it must be a positive number", key, (double)number);
    }
    *out = number;
    return true;
}

static bool read_positive_if_any(const struct reader *reader, const char *suffix, float *out) {
    return !has_key(reader, suffix) || read_positive(reader, suffix, out);
}

const struct model_family *model_find_family(const char *architecture, size_t n_bytes) {
    for (int family = 0; family < FAMILIES; family++) {
        const char *name = families[family].architecture;
        if (strlen(name) == n_bytes && memcmp(name, architecture, n_bytes) == 0)
            return &families[family];
    }
    return NULL;
}

static bool read_family(struct reader *reader, struct model *model) {
    struct gguf_string found;
    if (!gguf_read_string(reader->gguf, "general.architecture", &found, reader->fault)) {
        return false;
    }
    model->family = model_find_family(found.text, found.n_bytes);
    if (model->family) {
        reader->architecture = model->family->architecture;
        return true;
    }
    char supported[128] = "";
    for (int family = 0; family < FAMILIES; family++) {
        const char *name = families[family].architecture;
        size_t length = strlen(supported);
        snprintf(supported + length, sizeof supported - length, "%s%s", length ? ", " : "", name);
    }
    char name[64];
    return refuse(reader, "architecture '%s' is not supported; supported: %s",
                  log_escape(name, sizeof name, found.text, found.n_bytes), supported);
}

/* Keys that change the answer of a graph we do not write, and the value that does not. */
static const struct {
    const char *suffix;
    double harmless;
    const char *what;
} unsupported[] = {
    {"expert_count", 0, "mixture of experts"},
    {"attention.causal", 1, "attention to later tokens"},
    {"attention.scale", 0, "own attention scale"},
    {"attention.max_alibi_bias", 0, "ALiBi"},
    {"attention.clamp_kqv", 0, "clamped q, k, v"},
    {"attn_logit_softcapping", 0, "capped attention scores"},
    {"final_logit_softcapping", 0, "capped logits"},
    {"embedding_scale", 1, "scaled embedding"},
    {"residual_scale", 1, "scaled residuals"},
    {"logit_scale", 1, "scaled logits"},
    {"rope.scaling.attn_factor", 1, "attention factor of rope scaling"},
    {"nextn_predict_layers", 0, "layers that predict further tokens"},
};

/* *number = a scalar of any kind; NAN when it is none. */
static double scalar_of(const struct gguf *gguf, const char *key) {
    float real = NAN;
    uint32_t count = 0;
    bool truth = false;
    if (gguf_read_f32(gguf, key, &real, NULL)) return real;
    if (gguf_read_u32(gguf, key, &count, NULL)) return count;
    if (gguf_read_bool(gguf, key, &truth, NULL)) return truth;
    return NAN;
}

static bool check_features(const struct reader *reader, const struct model *model) {
    char key[96];
    for (size_t feature = 0; feature < sizeof unsupported / sizeof *unsupported; feature++) {
        if (!has_key(reader, unsupported[feature].suffix)) continue;
        key_of(reader, key, unsupported[feature].suffix);
        double found = scalar_of(reader->gguf, key);
        if (found != unsupported[feature].harmless) {
            return refuse(reader, "key '%s' is %g: %s is not supported (only %g is)", key, found,
                          unsupported[feature].what, unsupported[feature].harmless);
        }
    }
    if (!has_key(reader, "attention.sliding_window")) return true;
    double window = scalar_of(reader->gguf, key_of(reader, key, "attention.sliding_window"));
    if (window != 0 && !(window >= model->context)) {
        return refuse(reader,
                      "key '%s' is %g: sliding windows are not supported (only 0, or at least the "
                      "context of %d)",
                      key, window, model->context);
    }
    return true;
}

static bool read_sizes(const struct reader *reader, struct model *model) {
    if (!read_count(reader, "block_count", MODEL_MOST_LAYERS, &model->n_layers)) return false;
    if (!read_count(reader, "embedding_length", MODEL_MOST_COLUMNS, &model->hidden)) return false;
    if (!read_count(reader, "feed_forward_length", MODEL_MOST_COLUMNS, &model->ffn)) return false;
    if (!read_count(reader, "context_length", MODEL_MOST_CONTEXT, &model->context)) return false;
    if ((size_t)model->n_layers > reader->gguf->n_tensors) {
        return refuse(reader, "key '%s.block_count' is %d, but there are only %zu tensors",
                      reader->architecture, model->n_layers, reader->gguf->n_tensors);
    }
    return true;
}

static bool read_heads(const struct reader *reader, struct model *model) {
    const char *architecture = reader->architecture;
    if (!read_count(reader, "attention.head_count", MODEL_MOST_HEADS, &model->n_heads))
        return false;
    model->n_kv_heads = model->n_heads;
    if (!read_count_if_any(reader, "attention.head_count_kv", MODEL_MOST_HEADS,
                           &model->n_kv_heads)) {
        return false;
    }
    if (model->n_heads % model->n_kv_heads != 0) {
        return refuse(reader,
                      "key '%s.attention.head_count' is %d, not a multiple of head_count_kv %d",
                      architecture, model->n_heads, model->n_kv_heads);
    }
    if (!has_key(reader, "attention.key_length") && model->hidden % model->n_heads != 0) {
        return refuse(
            reader,
            "key '%s.embedding_length' is %d, not a multiple of attention.head_count %d, and "
            "there is no attention.key_length",
            architecture, model->hidden, model->n_heads);
    }
    model->head_dim = model->hidden / model->n_heads;
    if (!read_count_if_any(reader, "attention.key_length", MODEL_MOST_COLUMNS, &model->head_dim)) {
        return false;
    }
    int value_length = model->head_dim;
    if (!read_count_if_any(reader, "attention.value_length", MODEL_MOST_COLUMNS, &value_length)) {
        return false;
    }
    if (value_length != model->head_dim) {
        return refuse(
            reader,
            "key '%s.attention.value_length' is %d, that of keys %d: supported only when equal",
            architecture, value_length, model->head_dim);
    }
    size_t columns = 0;
    if (!check_multiply(model->n_heads, model->head_dim, &columns) ||
        columns > MODEL_MOST_COLUMNS) {
        return refuse(reader, "%d heads of %d are more than %d columns", model->n_heads,
                      model->head_dim, MODEL_MOST_COLUMNS);
    }
    return true;
}

/* Position scaling: none or linear. Llama 3 brings factors as a tensor and names no type. */
static bool read_rope_scale(const struct reader *reader, struct model *model) {
    char key[96];
    model->rope_scale = 1;
    if (has_key(reader, "rope.scaling.type")) {
        struct gguf_string type;
        key_of(reader, key, "rope.scaling.type");
        if (!gguf_read_string(reader->gguf, key, &type, reader->fault)) return false;
        if (type.n_bytes == 4 && memcmp(type.text, "none", 4) == 0) return true;
        if (type.n_bytes != 6 || memcmp(type.text, "linear", 6) != 0) {
            char name[64];
            return refuse(reader,
                          "key '%s' is '%s', which is not supported; supported: none, linear, and "
                          "Llama 3 factors in rope_freqs.weight",
                          key, log_escape(name, sizeof name, type.text, type.n_bytes));
        }
    }
    const char *suffix = has_key(reader, "rope.scaling.factor") ? "rope.scaling.factor"
                                                                : "rope.scale_linear"; /* old */
    if (has_key(reader, suffix) && scalar_of(reader->gguf, key_of(reader, key, suffix)) == 0) {
        return true; /* the format's other word for none */
    }
    float factor = 1;
    if (!read_positive_if_any(reader, suffix, &factor)) return false;
    model->rope_scale = 1 / factor;
    return true;
}

static bool read_rope(const struct reader *reader, struct model *model) {
    model->n_rotated = model->head_dim;
    if (!read_count_if_any(reader, "rope.dimension_count", MODEL_MOST_COLUMNS, &model->n_rotated)) {
        return false;
    }
    if (model->n_rotated > model->head_dim || model->n_rotated % 2 != 0) {
        return refuse(
            reader,
            "key '%s.rope.dimension_count' is %d, it must be even and at most the head size %d",
            reader->architecture, model->n_rotated, model->head_dim);
    }
    model->rope_base = 10000; /* where the file does not say */
    if (!read_positive_if_any(reader, "rope.freq_base", &model->rope_base)) return false;
    model->rope_factors = gguf_find_tensor(reader->gguf, "rope_freqs.weight") != NULL;
    return read_rope_scale(reader, model);
}

static bool read_vocabulary(const struct reader *reader, struct model *model) {
    const struct gguf_value *tokens = gguf_find(reader->gguf, "tokenizer.ggml.tokens");
    if (!tokens) {
        if (!has_key(reader, "vocab_size")) {
            return refuse(reader, "neither tokenizer.ggml.tokens nor %s.vocab_size is there",
                          reader->architecture);
        }
        return read_count(reader, "vocab_size", MODEL_MOST_TOKENS, &model->vocabulary);
    }
    if (tokens->kind != GGUF_ARRAY) {
        return refuse(reader, "key 'tokenizer.ggml.tokens' is %s, it must be an array",
                      gguf_kind_name(tokens->kind));
    }
    if (tokens->n_elements < 1 || tokens->n_elements > MODEL_MOST_TOKENS) {
        return refuse(reader, "key 'tokenizer.ggml.tokens' has %zu tokens, it must have 1 to %d",
                      tokens->n_elements, MODEL_MOST_TOKENS);
    }
    model->vocabulary = (int)tokens->n_elements;
    return true;
}

static void read_name(const struct reader *reader, struct model *model) {
    struct gguf_string name;
    if (!gguf_read_string(reader->gguf, "general.name", &name, NULL) || name.n_bytes == 0) {
        const char *slash = strrchr(reader->gguf->path, '/');
        name.text = slash ? slash + 1 : reader->gguf->path;
        name.n_bytes = strlen(name.text);
    }
    log_escape(model->name, sizeof model->name, name.text, name.n_bytes);
}

/* One weight of the graph against the file's tensor of that name. */
static bool check_tensor(const struct reader *reader, const struct graph_weight *weight,
                         const struct gguf_tensor *tensor) {
    if (!tensor) {
        return refuse(reader, "tensor '%s' is missing; %s needs it with shape [%d, %d]",
                      weight->name, reader->architecture, weight->columns, weight->rows);
    }
    if (tensor->dim[0] != (size_t)weight->columns || tensor->dim[1] != (size_t)weight->rows ||
        tensor->dim[2] != 1 || tensor->dim[3] != 1) {
        return refuse(reader,
                      "tensor '%s' has shape [%zu, %zu, %zu, %zu], it must be [%d, %d, 1, 1] "
                      "(innermost first)",
                      weight->name, tensor->dim[0], tensor->dim[1], tensor->dim[2], tensor->dim[3],
                      weight->columns, weight->rows);
    }
    return true;
}

/* Every weight of the graph is in the file as it must be, and nothing else is. */
static bool check_tensors(const struct reader *reader, const struct model *model) {
    const struct gguf *gguf = reader->gguf;
    struct graph graph;
    graph_open(&graph, (struct graph_options){.element_bytes = 4});
    model_write_graph(&graph, model);
    bool *used = check_alloc(gguf->n_tensors, sizeof *used);
    bool good = true;
    for (int weight = 0; weight < graph.n_weights && good; weight++) {
        const struct gguf_tensor *tensor = gguf_find_tensor(gguf, graph.weight[weight].name);
        good = check_tensor(reader, &graph.weight[weight], tensor);
        if (tensor) used[tensor - gguf->tensor] = true;
    }
    for (size_t tensor = 0; tensor < gguf->n_tensors && good; tensor++) {
        const char *name = gguf->tensor[tensor].name;
        char escaped[192];
        if (used[tensor]) continue;
        good =
            refuse(reader,
                   "tensor '%s' has no place in %s as supported; without it answers "
                   "would be wrong",
                   log_escape(escaped, sizeof escaped, name, strlen(name)), reader->architecture);
    }
    free(used);
    graph_close(&graph);
    return good;
}

bool model_read(struct model *model, const struct gguf *gguf, struct fault *fault) {
    *model = (struct model){0};
    struct reader reader = {.gguf = gguf, .fault = fault};
    log_escape(reader.path, sizeof reader.path, gguf->path, strlen(gguf->path));
    if (!read_family(&reader, model)) return false;
    read_name(&reader, model);
    if (!read_sizes(&reader, model)) return false;
    if (!check_features(&reader, model)) return false;
    if (!read_heads(&reader, model)) return false;
    if (!read_rope(&reader, model)) return false;
    if (!read_vocabulary(&reader, model)) return false;
    if (!read_positive(&reader, "attention.layer_norm_rms_epsilon", &model->norm_eps)) return false;
    model->tied = gguf_find_tensor(gguf, "output.weight") == NULL;
    return check_tensors(&reader, model);
}

void model_write_graph(struct graph *graph, const struct model *model) {
    model->family->write(graph, model);
}
