/* The tokenizer against other engines: ids of SmolLM2's vocabulary (Hugging Face and llama.cpp
 * agree), of all pre-tokenizers (Hugging Face) and of a SentencePiece model (sentencepiece);
 * decoding against the Unicode standard's own example; damage and extremes. Where the files come
 * from: oracle READMEs.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "gguf.h"
#include "tokenizer.h"

#define SMOLLM2       TESTS_DIR "/oracle/smollm2/"
#define SENTENCEPIECE TESTS_DIR "/oracle/sentencepiece/"

/* ---- opening vocabularies, with a key changed */

static struct gguf open_gguf(const char *path) {
    struct gguf gguf;
    struct fault fault = {0};
    if (!gguf_open(&gguf, path, &fault)) fail_msg("%s", fault.text);
    return gguf;
}

static struct tokenizer *open_tokenizer(const struct gguf *gguf) {
    struct tokenizer *tokenizer;
    struct fault fault = {0};
    if (!tokenizer_open(&tokenizer, gguf, &fault)) fail_msg("%s", fault.text);
    return tokenizer;
}

static struct gguf_value *value_of(struct gguf *gguf, const char *name) {
    for (size_t key = 0; key < gguf->n_keys; key++) {
        const struct gguf_string *written = &gguf->key[key].name;
        if (written->n_bytes == strlen(name) && !memcmp(written->text, name, strlen(name))) {
            return &gguf->key[key].value;
        }
    }
    fail_msg("no key %s", name);
    return NULL;
}

/* A file whose string key says something else. `text` is borrowed; undo by giving the old one. */
static struct gguf_string replace_string(struct gguf *gguf, const char *name,
                                         struct gguf_string text) {
    struct gguf_string *string = (struct gguf_string *)value_of(gguf, name)->string;
    struct gguf_string old = *string;
    *string = text;
    return old;
}

static void refuses(const struct gguf *gguf, const char *reason) {
    struct tokenizer *tokenizer;
    struct fault fault = {0};
    assert_false(tokenizer_open(&tokenizer, gguf, &fault));
    assert_int_equal(fault.kind, FAULT_USER);
    if (!strstr(fault.text, reason)) fail_msg("\"%s\" does not say \"%s\"", fault.text, reason);
}

/* ---- comparing with recorded ids */

static json_t *next_line(FILE *file) {
    static char line[1 << 20];
    if (!fgets(line, sizeof line, file)) return NULL;
    json_error_t error;
    json_t *object = json_loads(line, JSON_ALLOW_NUL, &error);
    if (!object) fail_msg("%s", error.text);
    return object;
}

static struct token_list encode(struct tokenizer *tokenizer, const char *text, size_t n_bytes,
                                bool parse_special) {
    struct token_list list = {0};
    struct fault fault = {0};
    if (!tokenizer_encode(tokenizer, text, n_bytes, parse_special, &list, &fault)) {
        fail_msg("%s", fault.text);
    }
    return list;
}

static struct token_list encode_json(struct tokenizer *tokenizer, const json_t *object) {
    const json_t *text = json_object_get(object, "text");
    return encode(tokenizer, json_string_value(text), json_string_length(text),
                  json_is_true(json_object_get(object, "parse_special")));
}

static bool ids_equal(const struct token_list *list, const json_t *ids) {
    if (json_array_size(ids) != list->n) return false;
    for (size_t token = 0; token < list->n; token++) {
        if (json_integer_value(json_array_get(ids, token)) != list->id[token]) return false;
    }
    return true;
}

/* Ids of every line of `path` equal those under one of the two keys. Returns the lines. */
static int compare_file(struct tokenizer *tokenizer, const char *path, const char *key,
                        const char *other_key) {
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    int n_lines = 0;
    for (json_t *line; (line = next_line(file)); json_decref(line), n_lines++) {
        struct token_list list = encode_json(tokenizer, line);
        if (!ids_equal(&list, json_object_get(line, key)) &&
            !ids_equal(&list, json_object_get(line, other_key))) {
            fail_msg("%s, line %d: other ids", path, n_lines + 1);
        }
        free(list.id);
    }
    fclose(file);
    return n_lines;
}

static void smollm2_ids_equal_both_engines(void **state) {
    (void)state;
    struct gguf gguf = open_gguf(SMOLLM2 "vocabulary.gguf");
    struct tokenizer *tokenizer = open_tokenizer(&gguf);
    assert_int_equal(compare_file(tokenizer, SMOLLM2 "tokenize.jsonl", "ids", "ids"), 333);
    assert_int_equal(
        compare_file(tokenizer, SMOLLM2 "tokenize_disagree.jsonl", "ids_llamacpp", "ids_hf"), 1);
    tokenizer_close(tokenizer);
    gguf_close(&gguf);
}

static void rendered_chats_equal_both_engines(void **state) {
    (void)state;
    struct gguf gguf = open_gguf(SMOLLM2 "vocabulary.gguf");
    struct tokenizer *tokenizer = open_tokenizer(&gguf);
    FILE *file = fopen(SMOLLM2 "chat_template.jsonl", "r");
    assert_non_null(file);
    static const char *const texts[] = {"text_gen", "text_nogen"}, *const ids[] = {"ids_gen",
                                                                                   "ids_nogen"};
    for (json_t *line; (line = next_line(file)); json_decref(line)) {
        for (int kind = 0; kind < 2; kind++) {
            const json_t *text = json_object_get(line, texts[kind]);
            struct token_list list =
                encode(tokenizer, json_string_value(text), json_string_length(text), true);
            assert_true(ids_equal(&list, json_object_get(line, ids[kind])));
            free(list.id);
        }
    }
    fclose(file);
    tokenizer_close(tokenizer);
    gguf_close(&gguf);
}

static void sentencepiece_ids_equal_the_library(void **state) {
    (void)state;
    struct gguf gguf = open_gguf(SENTENCEPIECE "vocabulary.gguf");
    struct tokenizer *tokenizer = open_tokenizer(&gguf);
    int n_lines = compare_file(tokenizer, SENTENCEPIECE "sentencepiece.jsonl", "ids", "ids");
    assert_in_range(n_lines, 200, 300);
    tokenizer_close(tokenizer);
    gguf_close(&gguf);
}

/* Ids recorded for a family, where a name stands for the ids of that other family. */
static const json_t *family_ids(const json_t *ids, const char *name) {
    const json_t *found = json_object_get(ids, name);
    return json_is_string(found) ? json_object_get(ids, json_string_value(found)) : found;
}

static int compare_family(struct gguf *gguf, const char *name) {
    struct gguf_string old =
        replace_string(gguf, "tokenizer.ggml.pre", (struct gguf_string){name, strlen(name)});
    struct tokenizer *tokenizer = open_tokenizer(gguf);
    FILE *file = fopen(TESTS_DIR "/oracle/pretokenizers/pretokenizers.jsonl", "r");
    assert_non_null(file);
    int n_lines = 0;
    for (json_t *line; (line = next_line(file)); json_decref(line), n_lines++) {
        struct token_list list = encode_json(tokenizer, line);
        if (!ids_equal(&list, family_ids(json_object_get(line, "ids"), name))) {
            fail_msg("%s: other ids for line %d", name, n_lines + 1);
        }
        free(list.id);
    }
    fclose(file);
    tokenizer_close(tokenizer);
    replace_string(gguf, "tokenizer.ggml.pre", old);
    return n_lines;
}

static const char *const families[] = {"gpt-2",          "mpt",         "smollm", "command-r",
                                       "llama-bpe",      "dbrx",        "qwen2",  "stablelm2",
                                       "qwen35",         "tekken",      "gpt-4o", "deepseek-llm",
                                       "deepseek-coder", "deepseek-v3", "falcon", "default"};
enum { N_FAMILIES = sizeof families / sizeof *families };

static void pretokenizers_equal_another_engine(void **state) {
    (void)state;
    struct gguf gguf = open_gguf(SMOLLM2 "vocabulary.gguf");
    for (int family = 0; family < N_FAMILIES; family++) {
        assert_in_range(compare_family(&gguf, families[family]), 80, 120);
    }
    gguf_close(&gguf);
}

/* The first token whose bytes are these, or -1. */
static int32_t find_token(const struct tokenizer *tokenizer, const char *text, size_t n_text) {
    for (int32_t id = 0; id < tokenizer_n_tokens(tokenizer); id++) {
        size_t n_bytes;
        const char *piece = tokenizer_piece(tokenizer, id, &n_bytes);
        if (n_bytes == n_text && memcmp(piece, text, n_text) == 0) return id;
    }
    return -1;
}

/* Llama 3's vocabularies take a word that is a token whole, merges or not. */
static void whole_words_need_no_merges_where_they_are_ignored(void **state) {
    (void)state;
    struct gguf gguf = open_gguf(SMOLLM2 "vocabulary.gguf");
    value_of(&gguf, "tokenizer.ggml.merges")->n_elements = 0;
    struct tokenizer *tokenizer = open_tokenizer(&gguf);
    struct token_list list = encode(tokenizer, " the", 4, false);
    assert_int_equal(list.n, 4);
    free(list.id);
    int32_t dash = find_token(tokenizer, "\u2014", 3);
    tokenizer_close(tokenizer);
    assert_in_range(dash, 501, 49151);
    /* A token written outside the byte-level map has its text, but text never becomes it. */
    struct gguf_value *tokens = value_of(&gguf, "tokenizer.ggml.tokens");
    *(struct gguf_string *)&tokens->string[500] = (struct gguf_string){"\u2014", 3};
    struct gguf_string old =
        replace_string(&gguf, "tokenizer.ggml.pre", (struct gguf_string){"llama-bpe", 9});
    tokenizer = open_tokenizer(&gguf);
    list = encode(tokenizer, " the\u2014", 7, false);
    assert_int_equal(list.n, 2);
    assert_int_equal(list.id[0], 260);
    assert_int_equal(list.id[1], dash);
    free(list.id);
    size_t n_bytes;
    assert_memory_equal(tokenizer_piece(tokenizer, 500, &n_bytes), "\u2014", 3);
    assert_int_equal(n_bytes, 3);
    tokenizer_close(tokenizer);
    replace_string(&gguf, "tokenizer.ggml.pre", old);
    gguf_close(&gguf);
}

/* ---- decoding */

static void push_all(struct text_stream *stream, const struct tokenizer *tokenizer,
                     const struct token_list *list) {
    for (size_t token = 0; token < list->n; token++) {
        text_stream_push(stream, tokenizer, list->id[token]);
    }
    text_stream_end(stream);
}

/* What is left of a text when the bytes that have no token are dropped, and nothing else. */
static size_t drop_missing(const bool has_token[256], const char *text, size_t n_bytes,
                           char *left) {
    size_t n_left = 0;
    for (size_t byte = 0; byte < n_bytes; byte++) {
        if (has_token[(unsigned char)text[byte]]) left[n_left++] = text[byte];
    }
    return n_left;
}

static void texts_survive_the_round_trip(void **state) {
    (void)state;
    struct gguf gguf = open_gguf(SMOLLM2 "vocabulary.gguf");
    struct tokenizer *tokenizer = open_tokenizer(&gguf);
    FILE *file = fopen(SMOLLM2 "tokenize.jsonl", "r");
    assert_non_null(file);
    static char left[1 << 16], joined[1 << 16];
    bool has_token[256];
    for (int byte = 0; byte < 256; byte++)
        has_token[byte] = find_token(tokenizer, &(char){(char)byte}, 1) >= 0;
    for (json_t *line; (line = next_line(file)); json_decref(line)) {
        const json_t *text = json_object_get(line, "text");
        assert_in_range(json_string_length(text), 0, sizeof left);
        size_t n_left =
            drop_missing(has_token, json_string_value(text), json_string_length(text), left);
        struct token_list list = encode_json(tokenizer, line);
        size_t n_joined = 0;
        for (size_t token = 0; token < list.n; token++) {
            size_t n_bytes;
            const char *piece = tokenizer_piece(tokenizer, list.id[token], &n_bytes);
            memcpy(joined + n_joined, piece, n_bytes);
            n_joined += n_bytes;
        }
        assert_int_equal(n_joined, n_left);
        assert_memory_equal(joined, left, n_left);
        free(list.id);
    }
    fclose(file);
    tokenizer_close(tokenizer);
    gguf_close(&gguf);
}

static int32_t byte_token(const struct tokenizer *tokenizer, char byte) {
    int32_t id = find_token(tokenizer, &byte, 1);
    if (id < 0) fail_msg("no token for byte %02x", (unsigned char)byte);
    return id;
}

static void bytes_decode_as_the_standard_says(void **state) {
    (void)state;
    static const struct {
        const char *bytes, *text;
    } cases[] = {
        /* Unicode standard 15.0, tables 3-8 to 3-11 */
        {"\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41",
         "\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffdA"},
        {"\xed\xa0\x80\xed\xbf\xbf\xed\xaf\x41",
         "\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffdA"},
        {"\xf4\x91\x92\x93\xff\x41\x80\xbf\x42", "\ufffd\ufffd\ufffd\ufffd\ufffdA\ufffd\ufffdB"},
        {"\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41", "\ufffd\ufffd\ufffd\ufffdA"},
        {"a\xf1\x80\x80\xe1\x80\xc2\x62\x80\x63\x80\xbf\x64",
         "a\ufffd\ufffd\ufffdb\ufffdc\ufffd\ufffdd"},
        /* whole characters at the edges of each length, and one cut short at the end */
        {"\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80\xef\xbf\xbf\xf0\x90\x80\x80\xf4\x8f\xbf\xbf",
         "\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80\xef\xbf\xbf\xf0\x90\x80\x80\xf4\x8f\xbf\xbf"},
        {"x\xf0\x9f\x9a", "x\ufffd"},
        {"", ""},
    };
    struct gguf gguf = open_gguf(SENTENCEPIECE "vocabulary.gguf");
    struct tokenizer *tokenizer = open_tokenizer(&gguf);
    for (size_t row = 0; row < sizeof cases / sizeof *cases; row++) {
        struct text_stream stream = {.started = true};
        for (const char *byte = cases[row].bytes; *byte; byte++) {
            text_stream_push(&stream, tokenizer, byte_token(tokenizer, *byte));
        }
        text_stream_end(&stream);
        assert_string_equal(stream.text, cases[row].text);
        text_stream_close(&stream);
    }
    tokenizer_close(tokenizer);
    gguf_close(&gguf);
}

/* However a text is cut into tokens, the stream gives the text, and holds back a cut character. */
static void streams_hold_back_cut_characters(void **state) {
    (void)state;
    static const char text[] = "a\u00e9\u20ac\U0001f680b";
    struct gguf gguf = open_gguf(SENTENCEPIECE "vocabulary.gguf");
    struct tokenizer *tokenizer = open_tokenizer(&gguf);
    struct text_stream stream = {.started = true};
    size_t n_whole[] = {1, 1, 3, 3, 3, 6, 6, 6, 6, 10, 11};
    for (size_t byte = 0; byte < sizeof text - 1; byte++) {
        text_stream_push(&stream, tokenizer, byte_token(tokenizer, text[byte]));
        assert_int_equal(stream.n_bytes, n_whole[byte]);
        assert_memory_equal(stream.text, text, stream.n_bytes);
        assert_int_equal(strlen(stream.text), stream.n_bytes);
    }
    text_stream_end(&stream);
    assert_string_equal(stream.text, text);
    text_stream_close(&stream);
    tokenizer_close(tokenizer);
    gguf_close(&gguf);
}

static void decodes_to(struct tokenizer *tokenizer, const char *text, bool skip_special,
                       const char *expected) {
    struct token_list list = encode(tokenizer, text, strlen(text), true);
    struct text_stream stream = {.skip_special = skip_special};
    push_all(&stream, tokenizer, &list);
    assert_string_equal(stream.text, expected);
    text_stream_close(&stream);
    free(list.id);
}

static void special_tokens_are_left_out_on_demand(void **state) {
    (void)state;
    struct gguf gguf = open_gguf(SMOLLM2 "vocabulary.gguf");
    struct tokenizer *tokenizer = open_tokenizer(&gguf);
    decodes_to(tokenizer, "<|im_start|>user\n hi<|im_end|>", true, "user\n hi");
    decodes_to(tokenizer, "<|im_start|>user\n hi<|im_end|>", false,
               "<|im_start|>user\n hi<|im_end|>");
    tokenizer_close(tokenizer);
    gguf_close(&gguf);
    gguf = open_gguf(SENTENCEPIECE "vocabulary.gguf");
    tokenizer = open_tokenizer(&gguf);
    /* The space that encoding puts before each stretch shows, but for the one before the text. */
    decodes_to(tokenizer, "the Work", false, "the Work");
    decodes_to(tokenizer, "  the Work", false, "  the Work");
    decodes_to(tokenizer, "<s>the Work<|end|>", true, "the Work");
    decodes_to(tokenizer, "<s>the Work<|end|>", false, "<s> the Work<|end|>");
    struct token_list list = encode(tokenizer, "the", 3, true);
    struct text_stream stream = {.started = true};
    push_all(&stream, tokenizer, &list);
    assert_string_equal(stream.text, " the");
    text_stream_close(&stream);
    free(list.id);
    tokenizer_close(tokenizer);
    gguf_close(&gguf);
}

/* ---- special ids */

static void stop_ids_are(const struct gguf *gguf, const int32_t *expected, size_t n_expected) {
    struct tokenizer *tokenizer = open_tokenizer(gguf);
    size_t n;
    const int32_t *ids = tokenizer_stop_ids(tokenizer, &n);
    assert_int_equal(n, n_expected);
    for (size_t token = 0; token < n; token++) {
        assert_int_equal(ids[token], expected[token]);
        assert_true(tokenizer_is_special(tokenizer, ids[token]));
    }
    tokenizer_close(tokenizer);
}

static void stop_ids_are_declared_or_well_known(void **state) {
    (void)state;
    struct gguf gguf = open_gguf(SMOLLM2 "vocabulary.gguf");
    stop_ids_are(&gguf, (int32_t[]){2}, 1);
    /* eos says <|endoftext|>: then that stops too, beside the end of a turn. */
    struct gguf_value *eos = value_of(&gguf, "tokenizer.ggml.eos_token_id");
    const void *old = eos->data;
    eos->data = (const unsigned char[]){0, 0, 0, 0};
    stop_ids_are(&gguf, (int32_t[]){0, 2}, 2);
    /* An eot key ends the guessing. */
    struct gguf_string *name = &gguf.key[0].name, old_name = *name;
    struct gguf_value old_value = gguf.key[0].value;
    *name = (struct gguf_string){"tokenizer.ggml.eot_token_id", 27};
    gguf.key[0].value = *eos;
    gguf.key[0].value.data = (const unsigned char[]){7, 0, 0, 0};
    stop_ids_are(&gguf, (int32_t[]){0, 7}, 2);
    *name = old_name;
    gguf.key[0].value = old_value;
    eos->data = (const unsigned char[]){0, 0xc0, 0, 0};
    refuses(&gguf, "eos_token_id is 49152");
    eos->data = old;
    gguf_close(&gguf);
    gguf = open_gguf(SENTENCEPIECE "vocabulary.gguf");
    struct tokenizer *tokenizer = open_tokenizer(&gguf);
    int32_t end = find_token(tokenizer, "<|end|>", 7);
    tokenizer_close(tokenizer);
    stop_ids_are(&gguf, (int32_t[]){2, end}, 2);
    gguf_close(&gguf);
}

static void prompts_begin_as_the_file_says(void **state) {
    (void)state;
    struct gguf gguf = open_gguf(SMOLLM2 "vocabulary.gguf");
    struct tokenizer *tokenizer = open_tokenizer(&gguf);
    assert_int_equal(tokenizer_bos(tokenizer), -1);
    assert_int_equal(tokenizer_eos_appended(tokenizer), -1);
    tokenizer_close(tokenizer);
    /* Llama 3's vocabularies ask for BOS where the file does not say otherwise; this one does. */
    struct gguf_string old =
        replace_string(&gguf, "tokenizer.ggml.pre", (struct gguf_string){"llama-bpe", 9});
    tokenizer = open_tokenizer(&gguf);
    assert_int_equal(tokenizer_bos(tokenizer), -1);
    tokenizer_close(tokenizer);
    value_of(&gguf, "tokenizer.ggml.add_bos_token")->data = "\1";
    tokenizer = open_tokenizer(&gguf);
    assert_int_equal(tokenizer_bos(tokenizer), 1);
    tokenizer_close(tokenizer);
    replace_string(&gguf, "tokenizer.ggml.pre", old);
    gguf_close(&gguf);
    gguf = open_gguf(SENTENCEPIECE "vocabulary.gguf");
    tokenizer = open_tokenizer(&gguf);
    assert_int_equal(tokenizer_bos(tokenizer), 1);
    assert_int_equal(tokenizer_eos_appended(tokenizer), -1);
    tokenizer_close(tokenizer);
    gguf_close(&gguf);
}

static void tokens_have_their_text(void **state) {
    (void)state;
    struct gguf gguf = open_gguf(SMOLLM2 "vocabulary.gguf");
    struct tokenizer *tokenizer = open_tokenizer(&gguf);
    assert_int_equal(tokenizer_n_tokens(tokenizer), 49152);
    assert_int_equal(find_token(tokenizer, "<|im_end|>", 10), 2);
    assert_int_equal(find_token(tokenizer, " the", 4), 260);
    assert_int_equal(find_token(tokenizer, "\n", 1), 198);
    assert_int_equal(find_token(tokenizer, "no such token", 13), -1);
    assert_int_equal(find_token(tokenizer, "", 0), -1);
    int n_special = 0;
    for (int32_t id = 0; id < 49152; id++)
        n_special += tokenizer_is_special(tokenizer, id);
    assert_int_equal(n_special, 17);
    size_t n_bytes = 1;
    tokenizer_piece(tokenizer, 49152, &n_bytes);
    assert_int_equal(n_bytes, 0);
    tokenizer_piece(tokenizer, -1, &n_bytes);
    assert_int_equal(n_bytes, 0);
    assert_false(tokenizer_is_special(tokenizer, 49152));
    tokenizer_close(tokenizer);
    gguf_close(&gguf);
}

/* ---- bad input and extremes */

static void text_that_is_not_utf8_is_refused(void **state) {
    (void)state;
    struct gguf gguf = open_gguf(SMOLLM2 "vocabulary.gguf");
    struct tokenizer *tokenizer = open_tokenizer(&gguf);
    static const char *const bad[] = {"ab\xff", "ab\xc3", "ab\xed\xa0\x80", "ab\xc0\x80",
                                      "ab\xf4\x90\x80\x80"};
    struct token_list list = {0};
    for (size_t row = 0; row < sizeof bad / sizeof *bad; row++) {
        struct fault fault = {0};
        assert_false(tokenizer_encode(tokenizer, bad[row], strlen(bad[row]), true, &list, &fault));
        assert_int_equal(fault.kind, FAULT_USER);
        assert_non_null(strstr(fault.text, "at byte 2"));
        assert_int_equal(list.n, 0);
    }
    free(list.id);
    tokenizer_close(tokenizer);
    gguf_close(&gguf);
}

static void names_that_are_not_known_are_refused(void **state) {
    (void)state;
    struct gguf gguf = open_gguf(SMOLLM2 "vocabulary.gguf");
    struct gguf_string old =
        replace_string(&gguf, "tokenizer.ggml.pre", (struct gguf_string){"smol\033lm", 7});
    refuses(&gguf, "\"smol\\x1blm\"");
    refuses(&gguf, "smollm, starcoder");
    refuses(&gguf, ", falcon, default");
    replace_string(&gguf, "tokenizer.ggml.pre", (struct gguf_string){"", 0});
    refuses(&gguf, "is not known");
    replace_string(&gguf, "tokenizer.ggml.pre", (struct gguf_string){"smollm, starcoder", 17});
    refuses(&gguf, "is not known");
    replace_string(&gguf, "tokenizer.ggml.pre", old);
    for (size_t key = 0; key < gguf.n_keys; key++) {
        struct gguf_string *name = &gguf.key[key].name;
        if (name->n_bytes != 18 || memcmp(name->text, "tokenizer.ggml.pre", 18) != 0) continue;
        name->n_bytes--;
        refuses(&gguf, "convert the model again");
        name->n_bytes++;
    }
    old = replace_string(&gguf, "tokenizer.ggml.model", (struct gguf_string){"bert", 4});
    refuses(&gguf, "supported are gpt2");
    replace_string(&gguf, "tokenizer.ggml.model", old);
    gguf_close(&gguf);
}

static void damaged_vocabularies_are_refused(void **state) {
    (void)state;
    struct gguf gguf = open_gguf(SMOLLM2 "vocabulary.gguf");
    struct gguf_value *merges = value_of(&gguf, "tokenizer.ggml.merges");
    struct gguf_string *merge = (struct gguf_string *)&merges->string[17], old = *merge;
    static const char *const bad[] = {"",      "a",        " a",     "a ",     "ab",
                                      "a b c", "zzzzqq y", "q \xff", "the the"};
    for (size_t row = 0; row < sizeof bad / sizeof *bad; row++) {
        *merge = (struct gguf_string){bad[row], strlen(bad[row])};
        refuses(&gguf, "merges[17]");
    }
    /* Joined they are a control token: merging must not make one. */
    struct gguf_value *tokens = value_of(&gguf, "tokenizer.ggml.tokens");
    struct gguf_string *control = (struct gguf_string *)&tokens->string[3], old_control = *control;
    *control = (struct gguf_string){"qx", 2};
    *merge = (struct gguf_string){"q x", 3};
    refuses(&gguf, "merges[17]");
    *control = old_control;
    *merge = old;
    struct gguf_value *types = value_of(&gguf, "tokenizer.ggml.token_type");
    types->n_elements--;
    refuses(&gguf, "token_type holds 49151 values");
    types->n_elements++;
    struct gguf_value whole = *tokens;
    tokens->n_elements = 0;
    refuses(&gguf, "not a list of tokens");
    *tokens = whole;
    gguf_close(&gguf);
    gguf = open_gguf(SENTENCEPIECE "vocabulary.gguf");
    value_of(&gguf, "tokenizer.ggml.scores")->n_elements--;
    refuses(&gguf, "tokenizer.ggml.scores");
    gguf_close(&gguf);
}

/* One character over and over is the worst a merge loop or a pattern can meet. */
static void tokenises_run(struct tokenizer *tokenizer, const char *character, size_t n_bytes) {
    size_t length = strlen(character), n_whole = n_bytes / length * length;
    char *text = malloc(n_bytes);
    for (size_t byte = 0; byte < n_whole; byte++)
        text[byte] = character[byte % length];
    struct token_list list = encode(tokenizer, text, n_whole, true);
    size_t n_joined = 0;
    for (size_t token = 0; token < list.n; token++) {
        size_t n_piece;
        tokenizer_piece(tokenizer, list.id[token], &n_piece);
        n_joined += n_piece;
    }
    /* SPM puts a space before it. */
    assert_in_range(n_joined, n_whole, n_whole + 1);
    free(list.id);
    free(text);
}

static void long_runs_finish(void **state) {
    (void)state;
    enum { LONG = 4 << 20, SHORTER = 64 << 10 };
    static const char *const characters[] = {"a", "A", " ", "\n", "7", "!", "\u4e00", "\u0915"};
    struct gguf gguf = open_gguf(SENTENCEPIECE "vocabulary.gguf");
    struct tokenizer *tokenizer = open_tokenizer(&gguf);
    tokenises_run(tokenizer, "e", LONG);
    tokenises_run(tokenizer, "<", LONG);
    tokenizer_close(tokenizer);
    gguf_close(&gguf);
    gguf = open_gguf(SMOLLM2 "vocabulary.gguf");
    tokenizer = open_tokenizer(&gguf);
    tokenises_run(tokenizer, "a", LONG);
    tokenises_run(tokenizer, " ", LONG);
    tokenizer_close(tokenizer);
    struct gguf_string old = replace_string(&gguf, "tokenizer.ggml.pre", (struct gguf_string){0});
    for (int family = 0; family < N_FAMILIES; family++) {
        const char *name = families[family];
        replace_string(&gguf, "tokenizer.ggml.pre", (struct gguf_string){name, strlen(name)});
        tokenizer = open_tokenizer(&gguf);
        for (size_t row = 0; row < sizeof characters / sizeof *characters; row++) {
            tokenises_run(tokenizer, characters[row], SHORTER);
        }
        tokenizer_close(tokenizer);
    }
    replace_string(&gguf, "tokenizer.ggml.pre", old);
    gguf_close(&gguf);
}

static void refuses_run(struct tokenizer *tokenizer, size_t n_bytes, const char *reason) {
    char *text = malloc(n_bytes);
    memset(text, 'a', n_bytes);
    memcpy(text, "<|end|>", 7);
    struct token_list list = {0};
    struct fault fault = {0};
    assert_false(tokenizer_encode(tokenizer, text, n_bytes, true, &list, &fault));
    assert_non_null(strstr(fault.text, reason));
    assert_int_equal(list.n, 0);
    free(list.id);
    free(text);
}

static void words_beyond_memory_are_refused(void **state) {
    (void)state;
    struct gguf gguf = open_gguf(SMOLLM2 "vocabulary.gguf");
    struct tokenizer *tokenizer = open_tokenizer(&gguf);
    refuses_run(tokenizer, 17 << 20, "without a place to cut");
    tokenizer_close(tokenizer);
    gguf_close(&gguf);
    gguf = open_gguf(SENTENCEPIECE "vocabulary.gguf");
    tokenizer = open_tokenizer(&gguf);
    refuses_run(tokenizer, 17 << 20, "without a place to cut");
    tokenizer_close(tokenizer);
    gguf_close(&gguf);
}

static void endless_marks_are_refused_where_text_is_composed(void **state) {
    (void)state;
    struct gguf gguf = open_gguf(SMOLLM2 "vocabulary.gguf");
    struct gguf_string old =
        replace_string(&gguf, "tokenizer.ggml.pre", (struct gguf_string){"qwen2", 5});
    struct tokenizer *tokenizer = open_tokenizer(&gguf);
    static char text[6010] = "<|im_end|>";
    for (size_t mark = 0; mark < 3000; mark++)
        memcpy(text + 10 + 2 * mark, "\u0301", 2);
    struct token_list list = {0};
    struct fault fault = {0};
    assert_false(tokenizer_encode(tokenizer, text, sizeof text, true, &list, &fault));
    assert_non_null(strstr(fault.text, "combining marks"));
    assert_int_equal(list.n, 0);
    free(list.id);
    tokenizer_close(tokenizer);
    replace_string(&gguf, "tokenizer.ggml.pre", old);
    gguf_close(&gguf);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(smollm2_ids_equal_both_engines),
        cmocka_unit_test(rendered_chats_equal_both_engines),
        cmocka_unit_test(sentencepiece_ids_equal_the_library),
        cmocka_unit_test(pretokenizers_equal_another_engine),
        cmocka_unit_test(whole_words_need_no_merges_where_they_are_ignored),
        cmocka_unit_test(texts_survive_the_round_trip),
        cmocka_unit_test(bytes_decode_as_the_standard_says),
        cmocka_unit_test(streams_hold_back_cut_characters),
        cmocka_unit_test(special_tokens_are_left_out_on_demand),
        cmocka_unit_test(stop_ids_are_declared_or_well_known),
        cmocka_unit_test(prompts_begin_as_the_file_says),
        cmocka_unit_test(tokens_have_their_text),
        cmocka_unit_test(text_that_is_not_utf8_is_refused),
        cmocka_unit_test(names_that_are_not_known_are_refused),
        cmocka_unit_test(damaged_vocabularies_are_refused),
        cmocka_unit_test(long_runs_finish),
        cmocka_unit_test(words_beyond_memory_are_refused),
        cmocka_unit_test(endless_marks_are_refused_where_text_is_composed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
