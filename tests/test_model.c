/* What a model file says, read right, and refused with what was found and what is needed. The
 * files are made by hand in memory: names, kinds and shapes come from the GGUF specification, not
 * from the families. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model.h"

enum { MOST_KEYS = 40, MOST_TENSORS = 80 };

/* A file in memory. */
struct file {
    struct gguf gguf;
    struct gguf_key key[MOST_KEYS];
    struct gguf_tensor tensor[MOST_TENSORS];
    char name[MOST_KEYS][64];
    struct gguf_string string[MOST_KEYS];
    uint64_t scalar[MOST_KEYS];
};

/* The key's value, emptied; a new one when it is not there yet. */
static struct gguf_value *put(struct file *file, const char *name, enum gguf_kind kind) {
    size_t at = 0;
    while (at < file->gguf.n_keys && strcmp(file->name[at], name) != 0) {
        at++;
    }
    if (at == file->gguf.n_keys) file->gguf.n_keys++;
    snprintf(file->name[at], sizeof file->name[at], "%s", name);
    file->key[at].name = (struct gguf_string){file->name[at], strlen(name)};
    file->key[at].value = (struct gguf_value){.kind = kind, .n_elements = 1};
    file->key[at].value.data = &file->scalar[at];
    file->key[at].value.string = &file->string[at];
    return &file->key[at].value;
}

static void put_u32(struct file *file, const char *name, uint32_t number) {
    memcpy((void *)put(file, name, GGUF_U32)->data, &number, sizeof number);
}

static void put_f32(struct file *file, const char *name, float number) {
    memcpy((void *)put(file, name, GGUF_F32)->data, &number, sizeof number);
}

static void put_string(struct file *file, const char *name, const char *text) {
    struct gguf_value *value = put(file, name, GGUF_STRING);
    *(struct gguf_string *)value->string = (struct gguf_string){text, strlen(text)};
}

/* Tokens nobody reads: only their number matters here. */
static void put_tokens(struct file *file, size_t n_tokens) {
    struct gguf_value *value = put(file, "tokenizer.ggml.tokens", GGUF_ARRAY);
    value->element = GGUF_STRING;
    value->n_elements = n_tokens;
}

static void drop(struct file *file, const char *name) {
    put_u32(file, name, 0);
    for (size_t at = 0; at < file->gguf.n_keys; at++) {
        if (strcmp(file->name[at], name) == 0) file->key[at].name = (struct gguf_string){"-", 1};
    }
}

static struct gguf_tensor *find(struct file *file, const char *name) {
    for (size_t at = 0; at < file->gguf.n_tensors; at++) {
        if (strcmp(file->tensor[at].name, name) == 0) return &file->tensor[at];
    }
    return NULL;
}

static void put_tensor(struct file *file, const char *name, size_t columns, size_t rows) {
    struct gguf_tensor *tensor = &file->tensor[file->gguf.n_tensors++];
    *tensor = (struct gguf_tensor){.type = QUANT_F32, .n_dims = rows > 1 ? 2 : 1};
    snprintf(tensor->name, sizeof tensor->name, "%s", name);
    const size_t dim[4] = {columns, rows, 1, 1};
    memcpy(tensor->dim, dim, sizeof dim);
}

static void put_layer_tensor(struct file *file, int layer, const char *part, size_t columns,
                             size_t rows) {
    char name[64];
    snprintf(name, sizeof name, "blk.%d.%s", layer, part);
    put_tensor(file, name, columns, rows);
}

/* hidden 24, 6 heads on 2 of head_dim, ffn 40, vocabulary 50, 2 layers, head tied. */
static void put_model(struct file *file, const char *architecture, size_t head_dim) {
    char key[64];
    const struct {
        const char *suffix;
        uint32_t number;
    } count[] = {{"block_count", 2},          {"embedding_length", 24},
                 {"feed_forward_length", 40}, {"context_length", 2048},
                 {"attention.head_count", 6}, {"attention.head_count_kv", 2}};
    memset(file, 0, sizeof *file);
    file->gguf.key = file->key;
    file->gguf.tensor = file->tensor;
    snprintf(file->gguf.path, sizeof file->gguf.path, "models/small.gguf");
    put_string(file, "general.architecture", architecture);
    for (size_t nth = 0; nth < sizeof count / sizeof *count; nth++) {
        snprintf(key, sizeof key, "%s.%s", architecture, count[nth].suffix);
        put_u32(file, key, count[nth].number);
    }
    snprintf(key, sizeof key, "%s.attention.layer_norm_rms_epsilon", architecture);
    put_f32(file, key, 1e-6f);
    put_tokens(file, 50);
    put_tensor(file, "token_embd.weight", 24, 50);
    put_tensor(file, "output_norm.weight", 24, 1);
    for (int layer = 0; layer < 2; layer++) {
        put_layer_tensor(file, layer, "attn_norm.weight", 24, 1);
        put_layer_tensor(file, layer, "attn_q.weight", 24, 6 * head_dim);
        put_layer_tensor(file, layer, "attn_k.weight", 24, 2 * head_dim);
        put_layer_tensor(file, layer, "attn_v.weight", 24, 2 * head_dim);
        put_layer_tensor(file, layer, "attn_output.weight", 6 * head_dim, 24);
        put_layer_tensor(file, layer, "ffn_norm.weight", 24, 1);
        put_layer_tensor(file, layer, "ffn_gate.weight", 24, 40);
        put_layer_tensor(file, layer, "ffn_up.weight", 24, 40);
        put_layer_tensor(file, layer, "ffn_down.weight", 40, 24);
    }
}

static struct file file;
static struct model model;

static void assert_read(void) {
    struct fault fault = {0};
    if (!model_read(&model, &file.gguf, &fault)) fail_msg("%s", fault.text);
    assert_int_equal(fault.kind, FAULT_NONE);
}

/* Refused as the user's fault, in words that name the file and hold all of `words` up to NULL. */
static void assert_refused(const char *const *words) {
    struct fault fault = {0};
    assert_false(model_read(&model, &file.gguf, &fault));
    assert_int_equal(fault.kind, FAULT_USER);
    assert_non_null(strstr(fault.text, "models/small.gguf: "));
    for (; *words; words++) {
        if (!strstr(fault.text, *words)) fail_msg("'%s' is not in: %s", *words, fault.text);
    }
}
#define ASSERT_REFUSED(...) assert_refused((const char *const[]){__VA_ARGS__, NULL})

static void llama_is_read(void **state) {
    (void)state;
    put_model(&file, "llama", 4);
    put_string(&file, "general.name", "Small\033[31m");
    put_f32(&file, "llama.rope.freq_base", 500000);
    assert_read();
    assert_string_equal(model.family->architecture, "llama");
    assert_string_equal(model.name, "Small\\x1b[31m");
    assert_int_equal(model.n_layers, 2);
    assert_int_equal(model.hidden, 24);
    assert_int_equal(model.ffn, 40);
    assert_int_equal(model.n_heads, 6);
    assert_int_equal(model.n_kv_heads, 2);
    assert_int_equal(model.head_dim, 4);
    assert_int_equal(model.n_rotated, 4);
    assert_int_equal(model.vocabulary, 50);
    assert_int_equal(model.context, 2048);
    assert_true(model.norm_eps == 1e-6f && model.rope_base == 500000 && model.rope_scale == 1);
    assert_true(model.tied);
    assert_false(model.rope_factors);
    put_tensor(&file, "output.weight", 24, 50);
    put_tensor(&file, "rope_freqs.weight", 2, 1);
    assert_read();
    assert_false(model.tied);
    assert_true(model.rope_factors);
}

static void defaults_are_the_formats(void **state) {
    (void)state;
    put_model(&file, "llama", 4);
    drop(&file, "llama.attention.head_count_kv");
    for (int layer = 0; layer < 2; layer++) {
        find(&file, layer ? "blk.1.attn_k.weight" : "blk.0.attn_k.weight")->dim[1] = 24;
        find(&file, layer ? "blk.1.attn_v.weight" : "blk.0.attn_v.weight")->dim[1] = 24;
    }
    drop(&file, "tokenizer.ggml.tokens");
    put_u32(&file, "llama.vocab_size", 50);
    assert_read();
    assert_int_equal(model.n_kv_heads, 6);
    assert_int_equal(model.vocabulary, 50);
    assert_true(model.rope_base == 10000);
    assert_string_equal(model.name, "small.gguf");
}

static void qwen2_needs_its_biases(void **state) {
    (void)state;
    put_model(&file, "qwen2", 4);
    ASSERT_REFUSED("blk.0.attn_q.bias", "missing", "[24, 1]");
    for (int layer = 0; layer < 2; layer++) {
        put_layer_tensor(&file, layer, "attn_q.bias", 24, 1);
        put_layer_tensor(&file, layer, "attn_k.bias", 8, 1);
        put_layer_tensor(&file, layer, "attn_v.bias", 8, 1);
    }
    assert_read();
}

static void qwen3_has_heads_of_its_own_size(void **state) {
    (void)state;
    put_model(&file, "qwen3", 16);
    put_u32(&file, "qwen3.attention.key_length", 16);
    put_u32(&file, "qwen3.attention.value_length", 16);
    for (int layer = 0; layer < 2; layer++) {
        put_layer_tensor(&file, layer, "attn_q_norm.weight", 16, 1);
        put_layer_tensor(&file, layer, "attn_k_norm.weight", 16, 1);
    }
    assert_read();
    assert_int_equal(model.head_dim, 16);
    assert_int_equal(model.n_rotated, 16);
}

static void rope_scaling_is_none_or_linear(void **state) {
    (void)state;
    put_model(&file, "llama", 4);
    put_f32(&file, "llama.rope.scaling.factor", 4);
    assert_read();
    assert_true(model.rope_scale == 0.25f);
    put_string(&file, "llama.rope.scaling.type", "linear");
    assert_read();
    assert_true(model.rope_scale == 0.25f);
    put_string(&file, "llama.rope.scaling.type", "none");
    assert_read();
    assert_true(model.rope_scale == 1);
    put_string(&file, "llama.rope.scaling.type", "yarn");
    ASSERT_REFUSED("llama.rope.scaling.type", "'yarn'", "linear");
    drop(&file, "llama.rope.scaling.type");
    put_f32(&file, "llama.rope.scaling.factor", -4);
    ASSERT_REFUSED("llama.rope.scaling.factor", "-4");
    drop(&file, "llama.rope.scaling.factor");
    put_f32(&file, "llama.rope.scale_linear", 2);
    assert_read();
    assert_true(model.rope_scale == 0.5f);
    put_f32(&file, "llama.rope.scale_linear", 0);
    assert_read();
    assert_true(model.rope_scale == 1);
}

static void features_not_built_are_named(void **state) {
    (void)state;
    put_model(&file, "llama", 4);
    put_u32(&file, "llama.expert_count", 8);
    ASSERT_REFUSED("llama.expert_count", "8", "mixture of experts");
    put_u32(&file, "llama.expert_count", 0);
    assert_read();
    put_f32(&file, "llama.final_logit_softcapping", 30);
    ASSERT_REFUSED("llama.final_logit_softcapping", "30");
    put_f32(&file, "llama.final_logit_softcapping", 0);
    put_u32(&file, "llama.attention.sliding_window", 1024);
    ASSERT_REFUSED("llama.attention.sliding_window", "1024", "2048");
    put_u32(&file, "llama.attention.sliding_window", 2048);
    assert_read();
    put_u32(&file, "llama.attention.sliding_window", 0);
    assert_read();
    put_u32(&file, "llama.attention.value_length", 8);
    ASSERT_REFUSED("llama.attention.value_length", "8", "4");
    put_model(&file, "gemma3", 4);
    ASSERT_REFUSED("'gemma3'", "llama", "qwen2", "qwen3");
}

static void sizes_are_checked(void **state) {
    (void)state;
    const struct {
        const char *key;
        uint32_t number;
        const char *word;
    } bad[] = {
        {"llama.block_count", 0, "1 to"},
        {"llama.block_count", 1000, "tensors"},
        {"llama.block_count", 4000000000u, "1 to"},
        {"llama.embedding_length", 0, "1 to"},
        {"llama.embedding_length", 25, "multiple"},
        {"llama.embedding_length", 2147483648u, "1 to"},
        {"llama.feed_forward_length", 4000000000u, "1 to"},
        {"llama.context_length", 0, "1 to"},
        {"llama.attention.head_count", 0, "1 to"},
        {"llama.attention.head_count", 1000000, "1 to"},
        {"llama.attention.head_count_kv", 4, "multiple"},
        {"llama.attention.head_count_kv", 0, "1 to"},
        {"llama.attention.key_length", 4000000, "columns"},
        {"llama.attention.key_length", 0, "1 to"},
        {"llama.attention.key_length", 3, "value_length"},
        {"llama.rope.dimension_count", 6, "head size 4"},
        {"llama.rope.dimension_count", 3, "even"},
    };
    for (size_t nth = 0; nth < sizeof bad / sizeof *bad; nth++) {
        put_model(&file, "llama", 4);
        if (strstr(bad[nth].word, "columns")) {
            put_u32(&file, "llama.attention.value_length", bad[nth].number);
        } else {
            put_u32(&file, "llama.attention.value_length", 4);
        }
        put_u32(&file, bad[nth].key, bad[nth].number);
        ASSERT_REFUSED(bad[nth].word);
    }
    const char *const needed[] = {
        "general.architecture",   "llama.block_count",
        "llama.embedding_length", "llama.feed_forward_length",
        "llama.context_length",   "llama.attention.head_count",
        "tokenizer.ggml.tokens",  "llama.attention.layer_norm_rms_epsilon"};
    for (size_t nth = 0; nth < sizeof needed / sizeof *needed; nth++) {
        put_model(&file, "llama", 4);
        drop(&file, needed[nth]);
        ASSERT_REFUSED(needed[nth]);
    }
    put_model(&file, "llama", 4);
    put_f32(&file, "llama.attention.layer_norm_rms_epsilon", 0);
    ASSERT_REFUSED("llama.attention.layer_norm_rms_epsilon", "positive");
    put_model(&file, "llama", 4);
    put_string(&file, "llama.block_count", "two");
    ASSERT_REFUSED("llama.block_count", "string");
    put_model(&file, "llama", 4);
    put_u32(&file, "tokenizer.ggml.tokens", 50);
    ASSERT_REFUSED("tokenizer.ggml.tokens", "array");
}

static void tensors_are_checked(void **state) {
    (void)state;
    put_model(&file, "llama", 4);
    snprintf(find(&file, "blk.1.ffn_down.weight")->name, 64, "blk.1.ffn_dawn.weight");
    ASSERT_REFUSED("tensor 'blk.1.ffn_down.weight' is missing", "[40, 24]");
    put_model(&file, "llama", 4);
    find(&file, "blk.1.attn_k.weight")->dim[1] = 24;
    ASSERT_REFUSED("tensor 'blk.1.attn_k.weight'", "[24, 24, 1, 1]", "[24, 8, 1, 1]");
    put_model(&file, "llama", 4);
    find(&file, "blk.0.attn_norm.weight")->dim[3] = 2;
    ASSERT_REFUSED("tensor 'blk.0.attn_norm.weight'", "[24, 1, 1, 2]");
    put_model(&file, "llama", 4);
    put_tokens(&file, 51);
    ASSERT_REFUSED("tensor 'token_embd.weight'", "[24, 50, 1, 1]", "[24, 51, 1, 1]");
    put_model(&file, "llama", 4);
    put_tensor(&file, "blk.0.attn_q.bias", 24, 1);
    ASSERT_REFUSED("tensor 'blk.0.attn_q.bias'", "no place", "llama");
    put_model(&file, "llama", 4);
    put_tensor(&file, "rope_freqs.weight", 4, 1);
    ASSERT_REFUSED("tensor 'rope_freqs.weight'", "[4, 1, 1, 1]", "[2, 1, 1, 1]");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(llama_is_read),
        cmocka_unit_test(defaults_are_the_formats),
        cmocka_unit_test(qwen2_needs_its_biases),
        cmocka_unit_test(qwen3_has_heads_of_its_own_size),
        cmocka_unit_test(rope_scaling_is_none_or_linear),
        cmocka_unit_test(features_not_built_are_named),
        cmocka_unit_test(sizes_are_checked),
        cmocka_unit_test(tensors_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
