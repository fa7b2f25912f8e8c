/* Answer lines have the shapes of OpenAI's Batch output with vLLM's fields, and can be read back.
 */
#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "answer.h"
#include "fake_text.h"

static struct options options;
static struct request request;
static struct json_text text;

static int reset(void **state) {
    (void)state;
    options = fake_options();
    fake_tokenizer.n_tokens = FAKE_N_TOKENS;
    return 0;
}

static int release(void **state) {
    (void)state;
    request_close(&request);
    free(text.text);
    text = (struct json_text){0};
    return 0;
}

static void parse(const char *body) {
    struct request_rules rules = {
        .tokenizer = &fake_tokenizer,
        .chat_template = &fake_template,
        .options = &options,
        .context = 64,
        .kv_tokens = INT64_MAX,
        .model_name = "fake",
    };
    struct input_line line = {.file = "a.jsonl", .line = 5, .text = body, .n_bytes = strlen(body)};
    request_close(&request);
    request_read(&request, &options, &line);
    request_prepare(&request, &rules);
}

/* Scores that can be told apart: of the token in place, then of 'z', of itself, of '\xc3'. */
static void put_scores(struct generation *generation, int32_t token) {
    int n_entries = 1 + generation->sampling.n_logprobs;
    struct token_score *score = generation->score + token * n_entries;
    const int32_t id[4] = {generation->token[token], 'z', generation->token[token], 0xc3};
    for (int place = 0; place < n_entries; place++) {
        bool own = place == 0 || place == 2;
        score[place] = (struct token_score){
            .id = id[place],
            .logprob = own          ? -1.5f
                       : place == 1 ? -0.1f
                                    : -INFINITY,
            .rank = own          ? 2
                    : place == 1 ? 1
                                 : 3,
        };
    }
}

/* Let generation `index` make the tokens `id` up to -1. */
static void make(size_t index, const int32_t *id, enum finish finish) {
    struct generation *generation = request_begin(&request, index);
    int32_t n_tokens = generation->n_prompt;
    for (int place = 0; id[place] >= 0; place++)
        generation->token[n_tokens++] = id[place];
    for (int32_t token = 1; generation->score && token < n_tokens; token++)
        put_scores(generation, token);
    atomic_store(&generation->n_tokens, n_tokens);
    atomic_store(&generation->finish, finish);
    assert_true(choice_follow(&request.choice[index], &request, generation, &fake_tokenizer));
}

static json_t *write_line(void) {
    text.n_bytes = 0;
    answer_write(&text, &request, &fake_tokenizer, 1700000000);
    assert_int_equal(text.text[text.n_bytes - 1], '\n');
    assert_null(memchr(text.text, '\n', text.n_bytes - 1));
    json_error_t error;
    json_t *line =
        json_loadb(text.text, text.n_bytes, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    if (!line) fail_msg("%s in %s", error.text, text.text);
    return line;
}

/* Compare response.body, but for its id, with JSON written by hand. */
static void expect_body(const char *expected) {
    json_t *line = write_line();
    json_t *response = json_object_get(line, "response");
    assert_int_equal(json_integer_value(json_object_get(response, "status_code")), 200);
    assert_true(json_is_null(json_object_get(line, "error")));
    json_t *body = json_object_get(response, "body");
    json_object_del(body, "id");
    json_t *wanted = json_loads(expected, 0, NULL);
    assert_non_null(wanted);
    if (!json_equal(body, wanted)) fail_msg("%s", json_dumps(body, 0));
    json_decref(wanted);
    json_decref(line);
}

static void completions_have_their_shape(void **state) {
    (void)state;
    parse("{\"custom_id\":\"q\",\"prompt\":[\"ab\",\"c\"],\"n\":2,\"model\":\"m\",\"stop\":[\"x\","
          "\"yz\"],\"stop_token_ids\":[259],\"max_tokens\":4,\"return_token_ids\":true}");
    make(0, (int32_t[]){'h', FAKE_EOS, -1}, FINISH_STOP);
    make(1, (int32_t[]){'h', 'y', 'z', 'q', -1}, FINISH_LENGTH);
    make(2, (int32_t[]){'"', FAKE_HELLO, -1}, FINISH_STOP);
    make(3, (int32_t[]){'a', 'b', 'c', 'd', -1}, FINISH_LENGTH);
    expect_body(
        "{\"object\":\"text_completion\",\"created\":1700000000,\"model\":\"m\",\"choices\":["
        "{\"index\":0,\"text\":\"h\",\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":"
        "null,\"token_ids\":[104,257],\"prompt_token_ids\":[97,98]},"
        "{\"index\":1,\"text\":\"h\",\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":"
        "\"yz\",\"token_ids\":[104,121,122],\"prompt_token_ids\":[97,98]},"
        "{\"index\":2,\"text\":\"\\\"\",\"logprobs\":null,\"finish_reason\":\"stop\","
        "\"stop_reason\":259,\"token_ids\":[34,259],\"prompt_token_ids\":[99]},"
        "{\"index\":3,\"text\":\"abcd\",\"logprobs\":null,\"finish_reason\":\"length\","
        "\"stop_reason\":null,\"token_ids\":[97,98,99,100],\"prompt_token_ids\":[99]}],"
        "\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":11,\"total_tokens\":14}}");
}

static void chats_have_theirs(void **state) {
    (void)state;
    parse("{\"messages\":[{\"role\":\"\",\"content\":\"\"},{\"role\":\"u\",\"content\":\"v\"}]}");
    assert_true(request.refusal.refused); /* an empty role */
    parse("{\"messages\":[{\"role\":\"u\",\"content\":\"\"}],\"add_generation_prompt\":false,"
          "\"return_token_ids\":true}");
    make(0, (int32_t[]){'h', FAKE_EOT, -1}, FINISH_STOP);
    expect_body(
        "{\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"fake\",\"choices\":["
        "{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"h\",\"refusal\":null},"
        "\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":null,\"token_ids\":[104,258]"
        "}],\"usage\":{\"prompt_tokens\":4,\"completion_tokens\":2,\"total_tokens\":6},"
        "\"prompt_token_ids\":[91,117,93,10]}");
}

/* vLLM's order: the chosen token, then the likeliest without it; -inf is -9999. */
static void expect_three_logprobs(void) {
    make(0, (int32_t[]){FAKE_HELLO, FAKE_HALF_EURO, -1}, FINISH_LENGTH);
    expect_body(
        "{\"object\":\"text_completion\",\"created\":1700000000,\"model\":\"fake\",\"choices\":["
        "{\"index\":0,\"text\":\"hello\\ufffd\",\"logprobs\":{\"text_offset\":[0,5],"
        "\"token_logprobs\":[-1.5,-1.5],\"tokens\":[\"hello\",\"\\ufffd\"],"
        "\"top_logprobs\":[{\"hello\":-1.5,\"z\":-0.100000001,\"\\ufffd\":-9999},"
        "{\"\\ufffd\":-1.5,\"z\":-0.100000001}]},\"finish_reason\":\"length\",\"stop_reason\":null}"
        "],"
        "\"usage\":{\"prompt_tokens\":2,\"completion_tokens\":2,\"total_tokens\":4}}");
}

static void completion_logprobs(void **state) {
    (void)state;
    parse("{\"prompt\":\"ab\",\"logprobs\":3,\"max_tokens\":2}");
    expect_three_logprobs();
}

static void echo_puts_the_prompt_in_front(void **state) {
    (void)state;
    parse("{\"prompt\":\"ab\",\"logprobs\":0,\"max_tokens\":1,\"echo\":true}");
    make(0, (int32_t[]){'c', -1}, FINISH_LENGTH);
    const char *rest = "\"finish_reason\":\"length\",\"stop_reason\":null,"
                       "\"prompt_logprobs\":[null,{\"98\":{\"logprob\":-1.5,\"rank\":2,\"decoded_"
                       "token\":\"b\"}}]}]";
    char expected[1024];
    snprintf(expected, sizeof expected,
             "{\"object\":\"text_completion\",\"created\":1700000000,\"model\":\"fake\","
             "\"choices\":[{\"index\":0,\"text\":\"abc\",\"logprobs\":{\"text_offset\":[0,1,2],"
             "\"token_logprobs\":[null,-1.5,-1.5],\"tokens\":[\"a\",\"b\",\"c\"],"
             "\"top_logprobs\":[null,{\"b\":-1.5},{\"c\":-1.5}]},%s,"
             "\"usage\":{\"prompt_tokens\":2,\"completion_tokens\":1,\"total_tokens\":3}}",
             rest);
    expect_body(expected);
    parse("{\"prompt\":\"ab\",\"logprobs\":0,\"max_tokens\":0,\"echo\":true}");
    make(0, (int32_t[]){'c', -1}, FINISH_LENGTH);
    snprintf(expected, sizeof expected,
             "{\"object\":\"text_completion\",\"created\":1700000000,\"model\":\"fake\","
             "\"choices\":[{\"index\":0,\"text\":\"ab\",\"logprobs\":{\"text_offset\":[0,1],"
             "\"token_logprobs\":[null,-1.5],\"tokens\":[\"a\",\"b\"],"
             "\"top_logprobs\":[null,{\"b\":-1.5}]},%s,"
             "\"usage\":{\"prompt_tokens\":2,\"completion_tokens\":0,\"total_tokens\":2}}",
             rest);
    expect_body(expected);
}

static void chat_logprobs_and_prompt_logprobs(void **state) {
    (void)state;
    parse("{\"messages\":[{\"role\":\"u\",\"content\":\"\"}],\"add_generation_prompt\":false,"
          "\"max_tokens\":1,\"logprobs\":true,\"top_logprobs\":3,\"prompt_logprobs\":1}");
    make(0, (int32_t[]){FAKE_HALF_EURO, -1}, FINISH_LENGTH);
    expect_body(
        "{\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"fake\",\"choices\":["
        "{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"\\ufffd\",\"refusal\":null}"
        ","
        "\"logprobs\":{\"content\":[{\"token\":\"\\ufffd\",\"logprob\":-1.5,\"bytes\":[226,130],"
        "\"top_logprobs\":[{\"token\":\"\\ufffd\",\"logprob\":-1.5,\"bytes\":[226,130]},"
        "{\"token\":\"z\",\"logprob\":-0.100000001,\"bytes\":[122]},"
        "{\"token\":\"\\ufffd\",\"logprob\":-9999,\"bytes\":[195]}]}]},"
        "\"finish_reason\":\"length\",\"stop_reason\":null}],"
        "\"usage\":{\"prompt_tokens\":4,\"completion_tokens\":1,\"total_tokens\":5},"
        "\"prompt_logprobs\":[null,"
        "{\"117\":{\"logprob\":-1.5,\"rank\":2,\"decoded_token\":\"u\"},"
        "\"122\":{\"logprob\":-0.100000001,\"rank\":1,\"decoded_token\":\"z\"}},"
        "{\"93\":{\"logprob\":-1.5,\"rank\":2,\"decoded_token\":\"]\"},"
        "\"122\":{\"logprob\":-0.100000001,\"rank\":1,\"decoded_token\":\"z\"}},"
        "{\"10\":{\"logprob\":-1.5,\"rank\":2,\"decoded_token\":\"\\n\"},"
        "\"122\":{\"logprob\":-0.100000001,\"rank\":1,\"decoded_token\":\"z\"}}]}");
}

/* Rows of scores are no wider than the vocabulary, whatever was asked for. */
static void small_vocabularies_have_few_logprobs(void **state) {
    (void)state;
    fake_tokenizer.n_tokens = 3;
    parse("{\"prompt\":\"ab\",\"logprobs\":20,\"max_tokens\":2}");
    expect_three_logprobs();
    parse("{\"messages\":[{\"role\":\"u\",\"content\":\"\"}],\"add_generation_prompt\":false,"
          "\"max_tokens\":1,\"logprobs\":true,\"top_logprobs\":20,\"prompt_logprobs\":20}");
    make(0, (int32_t[]){'c', -1}, FINISH_LENGTH);
    json_t *line = write_line(), *chosen, *prompt;
    assert_int_equal(json_unpack(line, "{s:{s:{s:[{s:{s:[o]}}],s:o}}}", "response", "body",
                                 "choices", "logprobs", "content", &chosen, "prompt_logprobs",
                                 &prompt),
                     0);
    assert_int_equal(json_array_size(json_object_get(chosen, "top_logprobs")), 3);
    assert_int_equal(json_array_size(prompt), 4);
    for (size_t token = 1; token < 4; token++)
        assert_int_equal(json_object_size(json_array_get(prompt, token)), 3);
    json_decref(line);
}

static void refusals_have_two_shapes(void **state) {
    (void)state;
    parse("{\"custom_id\":\"q\",\"prompt\":\"ab\",\"n\":0}");
    json_t *line = write_line();
    const char *message, *type, *param, *code, *custom_id;
    int status;
    json_t *error;
    assert_int_equal(json_unpack(line, "{s:s,s:{s:i,s:{s:{s:s,s:s,s:s,s:s}}},s:o}", "custom_id",
                                 &custom_id, "response", "status_code", &status, "body", "error",
                                 "message", &message, "type", &type, "param", &param, "code", &code,
                                 "error", &error),
                     0);
    assert_int_equal(status, 400);
    assert_true(json_is_null(error));
    assert_string_equal(message, "a.jsonl:5: n is 0: it must be an integer from 1 to 1024");
    assert_string_equal(type, "invalid_request_error");
    assert_string_equal(param, "n");
    assert_string_equal(code, "invalid_value");
    json_decref(line);
    parse("{");
    line = write_line();
    assert_true(json_is_null(json_object_get(line, "custom_id")));
    assert_true(json_is_null(json_object_get(line, "response")));
    assert_int_equal(json_unpack(json_object_get(line, "error"), "{s:s,s:s}", "code", &code,
                                 "message", &message),
                     0);
    assert_string_equal(code, "invalid_json");
    json_decref(line);
}

static void lines_can_be_read_back(void **state) {
    (void)state;
    struct answer_mark mark;
    parse("{\"custom_id\":\"q\\u00e4\\\"\",\"prompt\":\"ab\",\"max_tokens\":1}");
    make(0, (int32_t[]){'c', -1}, FINISH_LENGTH);
    json_decref(write_line());
    assert_true(answer_read(&mark, text.text, text.n_bytes - 1));
    assert_memory_equal(&mark.key, &request.key, sizeof mark.key);
    assert_true(mark.body_hash == request.body_hash);
    assert_false(mark.failed);
    for (size_t n_bytes = 0; n_bytes < text.n_bytes - 1; n_bytes++)
        assert_false(answer_read(&mark, text.text, n_bytes)); /* a torn line is not an answer */

    parse("{\"custom_id\":\"q\",\"prompt\":7}");
    json_decref(write_line());
    assert_true(answer_read(&mark, text.text, text.n_bytes - 1));
    assert_true(mark.failed && mark.body_hash == request.body_hash);

    parse("{");
    json_decref(write_line());
    assert_true(answer_read(&mark, text.text, text.n_bytes - 1));
    assert_memory_equal(&mark.key, &request.key, sizeof mark.key);
    assert_true(mark.failed && mark.body_hash == 0);
}

static void ids_are_the_same_in_every_run(void **state) {
    (void)state;
    parse("{\"custom_id\":\"q\",\"prompt\":\"ab\",\"max_tokens\":1}");
    make(0, (int32_t[]){'c', -1}, FINISH_LENGTH);
    json_decref(write_line());
    /* XXH3-128 of "q" by another implementation */
    assert_non_null(strstr(text.text, "{\"id\":\"batch_req_775a9e78fdf5aad7f2386670cff0b396\""));
    assert_non_null(strstr(text.text, "\"id\":\"cmpl-775a9e78fdf5aad7f2386670cff0b396\""));
}

static void what_confuses_readers_is_escaped(void **state) {
    (void)state;
    json_text_string(&text, "a\"\\\n\x1b\x7f\xc2\x9b\xe2\x80\xa8\xff\xc3\xa4\0b", 16);
    assert_string_equal(text.text, "\"a\\\"\\\\\\n\\u001b\\u007f\\u009b\\u2028\xef\xbf\xbd\xc3\xa4"
                                   "\\u0000b\"");
}

static void floats_round_trip(void **state) {
    (void)state;
    static const float number[] = {-0.1f, 0, -1e-38f, -3.14159274f, -0x1.fffffep-3f, -123.456789f};
    for (size_t row = 0; row < sizeof number / sizeof *number; row++) {
        text.n_bytes = 0;
        json_text_real(&text, number[row]);
        assert_true(strtof(text.text, NULL) == number[row]);
    }
    text.n_bytes = 0;
    json_text_real(&text, NAN);
    assert_string_equal(text.text, "-9999");
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, reset, release)

int main(void) {
    const struct CMUnitTest tests[] = {
        CASE(completions_have_their_shape),
        CASE(chats_have_theirs),
        CASE(completion_logprobs),
        CASE(echo_puts_the_prompt_in_front),
        CASE(chat_logprobs_and_prompt_logprobs),
        CASE(small_vocabularies_have_few_logprobs),
        CASE(refusals_have_two_shapes),
        CASE(lines_can_be_read_back),
        CASE(ids_are_the_same_in_every_run),
        CASE(what_confuses_readers_is_escaped),
        CASE(floats_round_trip),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
