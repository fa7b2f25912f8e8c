/* Chat templates against Jinja: goldens made with jinja2 from the makers' own template texts,
 * SmolLM2's renderings from transformers, and what is not recognised.
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
#include "template.h"

#define SMOLLM2 TESTS_DIR "/oracle/smollm2/"

enum { MAX_MESSAGES = 16 };

static json_t *next_line(FILE *file) {
    static char line[1 << 20];
    if (!fgets(line, sizeof line, file)) return NULL;
    json_error_t error;
    json_t *object = json_loads(line, JSON_ALLOW_NUL, &error);
    if (!object) fail_msg("%s", error.text);
    return object;
}

static size_t read_messages(const json_t *list, struct chat_message *message) {
    size_t n_messages = json_array_size(list);
    assert_in_range(n_messages, 1, MAX_MESSAGES);
    for (size_t at = 0; at < n_messages; at++) {
        const json_t *object = json_array_get(list, at);
        const json_t *role = json_object_get(object, "role"),
                     *content = json_object_get(object, "content");
        message[at] =
            (struct chat_message){json_string_value(role), json_string_length(role),
                                  json_string_value(content), json_string_length(content)};
    }
    return n_messages;
}

static bool equals(const struct template_text *text, const json_t *expected) {
    return json_string_length(expected) == text->n_bytes &&
           memcmp(json_string_value(expected), text->text, text->n_bytes) == 0 &&
           text->text[text->n_bytes] == 0;
}

/* The one place where we refuse and Jinja does not: Llama 3.1 quotes what a tool said. */
static bool quotes_tools(const char *name, const json_t *list) {
    if (strcmp(name, "llama3.1") != 0) return false;
    size_t at;
    const json_t *object;
    json_array_foreach(list, at, object) {
        const char *role = json_string_value(json_object_get(object, "role"));
        if (!strcmp(role, "tool") || !strcmp(role, "ipython")) return true;
    }
    return false;
}

static void compare(const char *name, const json_t *list, bool prompt, const json_t *expected) {
    const struct chat_template *found;
    struct chat_message message[MAX_MESSAGES];
    struct template_text text = {0};
    struct fault fault = {0};
    assert_true(template_find_name(&found, name, &fault));
    assert_string_equal(template_name(found), name);
    size_t n_messages = read_messages(list, message);
    bool rendered = template_render(found, message, n_messages, prompt, &text, &fault);
    if (json_is_object(expected) || quotes_tools(name, list)) {
        const char *reason = json_string_value(json_object_get(expected, "refused"));
        assert_false(rendered);
        assert_int_equal(fault.kind, FAULT_USER);
        if (!reason) reason = "answers of tools";
        if (!strstr(fault.text, reason)) {
            fail_msg("%s says \"%s\", Jinja \"%s\"", name, fault.text, reason);
        }
        assert_int_equal(text.n_bytes, 0);
    } else if (!rendered || !equals(&text, expected)) {
        fail_msg("%s gives \"%s\" %s, Jinja \"%s\"", name, text.text ? text.text : "", fault.text,
                 json_string_value(expected));
    }
    free(text.text);
}

static void renderings_equal_jinjas(void **state) {
    (void)state;
    FILE *file = fopen(TESTS_DIR "/templates/goldens.jsonl", "r");
    assert_non_null(file);
    int n_compared = 0;
    for (json_t *line; (line = next_line(file)); json_decref(line)) {
        static const char *const kinds[] = {"plain", "prompt"};
        for (int prompt = 0; prompt < 2; prompt++) {
            const char *name;
            json_t *expected;
            json_object_foreach(json_object_get(line, kinds[prompt]), name, expected) {
                compare(name, json_object_get(line, "messages"), prompt, expected);
                n_compared++;
            }
        }
    }
    fclose(file);
    assert_int_equal(n_compared, 45 * 23 * 2);
}

static void smollm2_renders_as_transformers_does(void **state) {
    (void)state;
    struct gguf gguf;
    struct fault fault = {0};
    const struct chat_template *found;
    if (!gguf_open(&gguf, SMOLLM2 "vocabulary.gguf", &fault)) fail_msg("%s", fault.text);
    if (!template_find(&found, &gguf, &fault)) fail_msg("%s", fault.text);
    assert_string_equal(template_name(found), "smollm2");
    FILE *file = fopen(SMOLLM2 "chat_template.jsonl", "r");
    assert_non_null(file);
    int n_lines = 0;
    for (json_t *line; (line = next_line(file)); json_decref(line), n_lines++) {
        struct chat_message message[MAX_MESSAGES];
        size_t n_messages = read_messages(json_object_get(line, "messages"), message);
        struct template_text text = {0};
        assert_true(template_render(found, message, n_messages, true, &text, &fault));
        assert_true(equals(&text, json_object_get(line, "text_gen")));
        text.n_bytes = 0;
        assert_true(template_render(found, message, n_messages, false, &text, &fault));
        assert_true(equals(&text, json_object_get(line, "text_nogen")));
        free(text.text);
    }
    fclose(file);
    assert_int_equal(n_lines, 20);
    gguf_close(&gguf);
}

/* Qwen3's template with enable_thinking false closes the thought at once. */
static void thinking_can_be_left_out_by_name(void **state) {
    (void)state;
    const struct chat_template *found;
    struct fault fault = {0};
    struct template_text text = {0};
    struct chat_message message = {"user", 4, "hi", 2};
    assert_true(template_find_name(&found, "qwen3-no-thinking", &fault));
    assert_true(template_render(found, &message, 1, true, &text, &fault));
    assert_string_equal(text.text, "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
                                   "<think>\n\n</think>\n\n");
    free(text.text);
}

static void rendering_appends(void **state) {
    (void)state;
    const struct chat_template *found;
    struct fault fault = {0};
    struct template_text text = {0};
    struct chat_message message[] = {{"user", 4, "hi", 2}, {"user", 4, "ho", 2}};
    assert_true(template_find_name(&found, "mistral-v0", &fault));
    assert_true(template_render(found, message, 1, true, &text, &fault));
    assert_true(template_render(found, message, 1, true, &text, &fault));
    assert_string_equal(text.text, "<s>[INST] hi [/INST]<s>[INST] hi [/INST]");
    assert_false(template_render(found, message, 2, true, &text, &fault));
    assert_int_equal(text.n_bytes, 40);
    fault = (struct fault){0};
    assert_false(template_render(found, message, 0, true, &text, &fault));
    assert_non_null(strstr(fault.text, "no messages"));
    free(text.text);
}

static struct gguf_key *template_key(struct gguf *gguf) {
    for (size_t key = 0; key < gguf->n_keys; key++) {
        const struct gguf_string *name = &gguf->key[key].name;
        if (name->n_bytes == 23 && !memcmp(name->text, "tokenizer.chat_template", 23)) {
            return &gguf->key[key];
        }
    }
    fail_msg("no template");
    return NULL;
}

static void refuses(const struct gguf *gguf, const char *reason) {
    const struct chat_template *found;
    struct fault fault = {0};
    assert_false(template_find(&found, gguf, &fault));
    assert_int_equal(fault.kind, FAULT_USER);
    assert_non_null(strstr(fault.text, reason));
    assert_non_null(strstr(fault.text, "--chat-template NAME"));
    assert_non_null(strstr(fault.text, "token ids"));
    assert_non_null(strstr(fault.text, "chatml, smollm2"));
    assert_non_null(strstr(fault.text, ", zephyr"));
}

static void only_the_exact_text_is_recognised(void **state) {
    (void)state;
    struct gguf gguf;
    struct fault fault = {0};
    const struct chat_template *found = NULL;
    if (!gguf_open(&gguf, SMOLLM2 "vocabulary.gguf", &fault)) fail_msg("%s", fault.text);
    struct gguf_key *key = template_key(&gguf);
    struct gguf_string *text = (struct gguf_string *)key->value.string, old = *text;
    /* One newline at the end means nothing to Jinja; of more we make nothing. */
    char copy[1024];
    memcpy(copy, old.text, old.n_bytes);
    memcpy(copy + old.n_bytes, "\n\n", 2);
    *text = (struct gguf_string){copy, old.n_bytes + 1};
    assert_true(template_find(&found, &gguf, &fault));
    assert_string_equal(template_name(found), "smollm2");
    *text = (struct gguf_string){copy, old.n_bytes + 2};
    refuses(&gguf, "is not recognised");
    *text = (struct gguf_string){copy, old.n_bytes - 1};
    refuses(&gguf, "is not recognised");
    *text = (struct gguf_string){"", 0};
    refuses(&gguf, "is not recognised");
    *text = old;
    key->name.n_bytes--;
    refuses(&gguf, "has no chat template");
    gguf_close(&gguf);
}

static void names_that_are_not_known_are_refused(void **state) {
    (void)state;
    const struct chat_template *found;
    struct fault fault = {0};
    assert_false(template_find_name(&found, "lama\0332", &fault));
    assert_non_null(strstr(fault.text, "\"lama\\x1b2\""));
    assert_non_null(strstr(fault.text, "llama2, llama3"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(renderings_equal_jinjas),
        cmocka_unit_test(smollm2_renders_as_transformers_does),
        cmocka_unit_test(thinking_can_be_left_out_by_name),
        cmocka_unit_test(rendering_appends),
        cmocka_unit_test(only_the_exact_text_is_recognised),
        cmocka_unit_test(names_that_are_not_known_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
