/* A line becomes what it asks for, or a refusal that says what is wrong with it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "fake_text.h"
#include "requests.h"

static struct options options;
static struct request_rules rules;
static struct request request;

static int reset(void **state) {
    (void)state;
    options = fake_options();
    options.log_level = LOG_QUIET;
    fake_tokenizer.bos = fake_tokenizer.eos_appended = -1;
    rules = (struct request_rules){
        .tokenizer = &fake_tokenizer,
        .chat_template = &fake_template,
        .options = &options,
        .context = 64,
        .kv_tokens = INT64_MAX,
        .model_name = "fake",
    };
    return 0;
}

static int release(void **state) {
    (void)state;
    request_close(&request);
    return 0;
}

static void parse_line(const struct input_line *line) {
    request_close(&request);
    request_read(&request, &options, line);
    request_prepare(&request, &rules);
}

static void parse(const char *text) {
    parse_line(
        &(struct input_line){.file = "a.jsonl", .line = 7, .text = text, .n_bytes = strlen(text)});
}

/* Parse a line that must be good. */
static const struct generation *good(const char *text) {
    parse(text);
    if (request.refusal.refused) fail_msg("%s", request.refusal.message);
    return &request.generation[0];
}

static void expect_refused(const char *code, const char *fragment) {
    assert_true(request.refusal.refused);
    assert_null(request.generation);
    assert_string_equal(request.refusal.code, code);
    if (!strstr(request.refusal.message, fragment))
        fail_msg("\"%s\" does not say \"%s\"", request.refusal.message, fragment);
}

static void expect_prompt(int number, const int32_t *id, int32_t n_tokens) {
    assert_int_equal(request.prompt[number].n_tokens, n_tokens);
    assert_memory_equal(request.prompt[number].id, id, (size_t)n_tokens * sizeof *id);
}

static void expect_text(int number, const char *text) {
    assert_int_equal(request.prompt[number].n_tokens, strlen(text));
    for (size_t at = 0; text[at]; at++)
        assert_int_equal(request.prompt[number].id[at], (unsigned char)text[at]);
}

/* ---- who a request is ---- */

static void ids_come_from_the_line(void **state) {
    (void)state;
    good("{\"prompt\":\"hi\"}");
    assert_string_equal(request.custom_id, "line-7");
    struct input_line line = {.file = "b.jsonl",
                              .file_number = 3,
                              .line = 9,
                              .text = "{\"prompt\":\"x\"}",
                              .n_bytes = 14};
    parse_line(&line);
    assert_string_equal(request.custom_id, "3:line-9");
    good("{\"custom_id\":null,\"prompt\":\"hi\"}");
    assert_string_equal(request.custom_id, "line-7");
    good("{\"custom_id\":\"\\u00fc\",\"method\":\"POST\",\"url\":\"/v1/completions\","
         "\"body\":{\"prompt\":\"hi\"}}");
    assert_string_equal(request.custom_id, "\xc3\xbc");
    assert_int_equal(request.endpoint, ENDPOINT_COMPLETIONS);
    struct request_key key = request_key_of("\xc3\xbc", 2);
    assert_memory_equal(&request.key, &key, sizeof key);
}

static void ids_are_saved_from_broken_lines(void **state) {
    (void)state;
    parse("{\"custom_id\":\"saved\",\"body\":{\"prompt\":\"\\ud800\"}}");
    expect_refused("invalid_json", "a.jsonl:7: not JSON");
    assert_true(request.refusal.unreadable);
    assert_string_equal(request.custom_id, "saved");
    parse("{\"prompt\":1e999,\"custom_id\":\"saved\"}");
    assert_string_equal(request.custom_id, "saved");
    parse("{\"prompt\":\"");
    assert_null(request.custom_id);
    struct input_line line = {.file = "a", .line = 1, .too_long = true};
    line.text = "{\"custom_id\":\"long\",\"prompt\":\"xxxx";
    line.n_bytes = strlen(line.text);
    parse_line(&line);
    expect_refused("line_too_long", "a:1: longer than 64 MiB");
    assert_string_equal(request.custom_id, "long");
}

static uint64_t hash_of(const char *text) {
    good(text);
    return request.body_hash;
}

static void the_hash_is_of_what_is_asked(void **state) {
    (void)state;
    uint64_t hash = hash_of("{\"prompt\":\"hi\",\"seed\":1}");
    assert_true(hash ==
                hash_of(" { \"seed\" : 1 , \"prompt\" : \"h\\u0069\", \"custom_id\":\"x\"}"));
    assert_true(hash == hash_of("{\"custom_id\":\"y\",\"url\":\"/v1/completions\",\"body\":"
                                "{\"seed\":1,\"prompt\":\"hi\"}}"));
    assert_true(hash != hash_of("{\"prompt\":\"hi\",\"seed\":2}"));
    assert_true(hash != hash_of("{\"prompt\":\"hi\"}"));
}

/* ---- prompts ---- */

static void prompts_have_four_shapes(void **state) {
    (void)state;
    good("{\"prompt\":\"h\\u0000i\"}");
    expect_prompt(0, (int32_t[]){'h', 0, 'i'}, 3);
    good("{\"prompt\":[\"ab\",\"c\"]}");
    assert_int_equal(request.n_prompts, 2);
    expect_text(1, "c");
    good("{\"prompt\":[259,1]}");
    assert_int_equal(request.n_prompts, 1);
    expect_prompt(0, (int32_t[]){FAKE_HELLO, 1}, 2);
    good("{\"prompt\":[[1],[2,3]],\"n\":2}");
    assert_int_equal(request_n_generations(&request), 4);
    assert_int_equal(request.generation[1].sampling.choice_index, 1);
    assert_int_equal(request.generation[1].sampling.prompt_index, 0);
    assert_int_equal(request.generation[2].sampling.prompt_index, 1);
    assert_int_equal(request.generation[3].n_prompt, 2);
}

static void special_tokens_are_recognised_and_added_once(void **state) {
    (void)state;
    good("{\"prompt\":\"a<eot>\"}");
    expect_prompt(0, (int32_t[]){'a', FAKE_EOT}, 2);
    fake_tokenizer.bos = FAKE_BOS;
    fake_tokenizer.eos_appended = FAKE_EOS;
    good("{\"prompt\":\"a\"}");
    expect_prompt(0, (int32_t[]){FAKE_BOS, 'a', FAKE_EOS}, 3);
    good("{\"prompt\":\"<bos>a<eos>\"}");
    expect_prompt(0, (int32_t[]){FAKE_BOS, 'a', FAKE_EOS}, 3);
    good("{\"prompt\":\"\"}");
    expect_prompt(0, (int32_t[]){FAKE_BOS, FAKE_EOS}, 2);
    good("{\"prompt\":\"a\",\"add_special_tokens\":false}");
    expect_prompt(0, (int32_t[]){'a'}, 1);
    good("{\"prompt\":[97]}");
    expect_prompt(0, (int32_t[]){'a'}, 1);
    good("{\"messages\":[{\"role\":\"u\",\"content\":\"\"}]}");
    expect_prompt(0,
                  (int32_t[]){FAKE_BOS, '[', 'u', ']', '\n', '[', 'a', 's', 's', 'i', 's', 't', 'a',
                              'n', 't', ']'},
                  16);
}

static void messages_are_rendered(void **state) {
    (void)state;
    good("{\"messages\":[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\",\"name\":\"n\","
         "\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\",\"text\":\"b\"}]}]}");
    assert_int_equal(request.endpoint, ENDPOINT_CHAT);
    expect_text(0, "[system]s\n[user]a\nb\n[assistant]");
    good("{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"add_generation_prompt\":false}");
    expect_text(0, "[user]a\n");
    good("{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"chat_template_kwargs\":"
         "{\"add_generation_prompt\":false}}");
    expect_text(0, "[user]a\n");
}

static void an_unknown_template_refuses_chats_only(void **state) {
    (void)state;
    struct fault fault = {.kind = FAULT_USER, .text = "the template is not one of: fake"};
    rules.chat_template = NULL;
    rules.template_fault = &fault;
    parse("{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}");
    expect_refused("unsupported_template", "a.jsonl:7: the template is not one of: fake");
    good("{\"prompt\":\"a\"}");
}

static void plain_prompts_become_chats(void **state) {
    (void)state;
    struct input_line text = {
        .file = "a.txt", .line = 2, .text = "{hi", .n_bytes = 3, .is_text = true};
    parse_line(&text);
    assert_int_equal(request.endpoint, ENDPOINT_COMPLETIONS);
    expect_text(0, "{hi");
    options.chat = true;
    options.system = "be";
    parse_line(&text);
    assert_int_equal(request.endpoint, ENDPOINT_CHAT);
    expect_text(0, "[system]be\n[user]{hi\n[assistant]");
    options.system = NULL;
    good("{\"prompt\":\"hi\"}");
    expect_text(0, "[user]hi\n[assistant]");
    good("{\"url\":\"/v1/completions\",\"body\":{\"prompt\":\"hi\"}}");
    expect_text(0, "hi");
    parse("{\"prompt\":[1,2]}");
    expect_refused("invalid_type", "prompt is [1,2]: with --chat it must be one string");
    text.text = "\xff";
    text.n_bytes = 1;
    parse_line(&text);
    expect_refused("invalid_utf8", "a.txt:2: not valid UTF-8");
    assert_string_equal(request.custom_id, "line-2");
}

/* ---- sampling ---- */

static void the_body_comes_before_the_command_line(void **state) {
    (void)state;
    options.temperature = 0.5f;
    options.top_k = 7;
    options.max_tokens = 9;
    options.ignore_eos = true;
    const struct generation *generation = good("{\"prompt\":\"hi\"}");
    assert_true(generation->sampling.temperature == 0.5f);
    assert_int_equal(generation->sampling.top_k, 7);
    assert_int_equal(generation->max_new, 9);
    assert_int_equal(generation->sampling.n_stop_ids, 0);
    generation = good("{\"prompt\":\"hi\",\"temperature\":0.25,\"top_k\":-1,\"top_p\":0.5,"
                      "\"min_p\":0.125,\"presence_penalty\":1,\"frequency_penalty\":-1,"
                      "\"repetition_penalty\":1.5,\"max_tokens\":3,\"max_completion_tokens\":4,"
                      "\"min_tokens\":2,\"ignore_eos\":false}");
    const struct sampling *sampling = &generation->sampling;
    assert_true(sampling->temperature == 0.25f && sampling->top_p == 0.5f);
    assert_true(sampling->min_p == 0.125f && sampling->presence_penalty == 1.0f);
    assert_true(sampling->frequency_penalty == -1.0f && sampling->repetition_penalty == 1.5f);
    assert_int_equal(sampling->top_k, 0);
    assert_int_equal(sampling->min_tokens, 2);
    assert_int_equal(generation->max_new, 4);
    assert_int_equal(sampling->n_stop_ids, 2);
    generation = good("{\"prompt\":\"hi\",\"temperature\":null,\"max_tokens\":null}");
    assert_true(generation->sampling.temperature == 0.5f);
    assert_int_equal(generation->max_new, 9);
}

static void built_in_is_greedy_to_the_end_of_the_context(void **state) {
    (void)state;
    const struct generation *generation = good("{\"prompt\":\"hi\"}");
    assert_true(generation->sampling.temperature == 0);
    assert_int_equal(generation->max_new, 62);
    assert_int_equal(generation->sampling.n_logprobs, -1);
    assert_int_equal(atomic_load(&generation->n_tokens), 2);
    options.max_tokens = 1000; /* of the command line: bends to what fits */
    assert_int_equal(good("{\"prompt\":\"hi\"}")->max_new, 62);
}

static void aliases_and_seeds(void **state) {
    (void)state;
    assert_int_equal(good("{\"prompt\":\"hi\",\"max_new_tokens\":5}")->max_new, 5);
    assert_int_equal(good("{\"prompt\":\"hi\",\"n_predict\":-1}")->max_new, 62);
    assert_int_equal(good("{\"prompt\":\"hi\",\"n_predict\":5,\"max_tokens\":6}")->max_new, 6);
    assert_true(good("{\"prompt\":\"hi\",\"repeat_penalty\":2}")->sampling.repetition_penalty == 2);
    assert_true(good("{\"prompt\":\"hi\",\"seed\":-9223372036854775808}")->sampling.seed ==
                (uint64_t)1 << 63);
    options.seed = 42;
    const struct generation *generation = good("{\"prompt\":\"hi\",\"custom_id\":\"q\",\"n\":2}");
    /* XXH3-64 of "q" with seed 42 by another implementation */
    assert_true(generation[0].sampling.seed == 0x6489920366d14bda);
    assert_true(generation[1].sampling.seed == generation[0].sampling.seed);
}

static void stop_ids_are_merged_and_sorted(void **state) {
    (void)state;
    const struct sampling *sampling =
        &good("{\"prompt\":\"hi\",\"stop_token_ids\":[259,5,257,5]}")->sampling;
    assert_int_equal(sampling->n_stop_ids, 4);
    assert_memory_equal(sampling->stop_id, ((int32_t[]){5, FAKE_EOS, FAKE_EOT, 259}), 16);
    sampling = &good("{\"prompt\":\"hi\",\"stop_token_ids\":[7],\"ignore_eos\":true}")->sampling;
    assert_int_equal(sampling->n_stop_ids, 1);
}

static void bias_is_sorted_and_logprobs_have_two_spellings(void **state) {
    (void)state;
    const struct sampling *sampling =
        &good("{\"prompt\":\"hi\",\"logit_bias\":{\"9\":-100,\"0\":1.5}}")->sampling;
    assert_int_equal(sampling->n_bias, 2);
    assert_int_equal(sampling->bias[0].id, 0);
    assert_true(sampling->bias[0].bias == 1.5f && sampling->bias[1].bias == -100.0f);
    good("{\"prompt\":\"hi\",\"logprobs\":0}");
    assert_int_equal(request.n_logprobs, 0);
    const struct generation *generation =
        good("{\"prompt\":\"hi\",\"logprobs\":2,\"prompt_logprobs\":5}");
    assert_int_equal(generation->sampling.n_logprobs, 5);
    assert_true(generation->score_prompt);
    good("{\"prompt\":\"hi\",\"logprobs\":2,\"echo\":true}");
    assert_int_equal(request.n_prompt_logprobs, 2);
    const char *messages = "\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]";
    char line[256];
    snprintf(line, sizeof line, "{%s,\"top_logprobs\":3,\"logprobs\":true}", messages);
    good(line);
    assert_int_equal(request.n_logprobs, 3);
    snprintf(line, sizeof line, "{%s,\"logprobs\":true}", messages);
    good(line);
    assert_int_equal(request.n_logprobs, 0);
    snprintf(line, sizeof line, "{%s,\"logprobs\":false,\"top_logprobs\":0}", messages);
    good(line);
    assert_int_equal(request.n_logprobs, -1);
}

static void a_prompt_can_be_scored_alone(void **state) {
    (void)state;
    const struct generation *generation =
        good("{\"prompt\":\"hi\",\"echo\":true,\"max_tokens\":0,\"logprobs\":1}");
    assert_int_equal(generation->max_new, 1);
    assert_true(request.prompt_only);
    assert_string_equal(request.prompt[0].echo.text, "hi");
    good("{\"prompt\":[259,256],\"echo\":true}");
    assert_string_equal(request.prompt[0].echo.text, "hello<bos>");
}

static void values_that_ask_for_nothing_are_harmless(void **state) {
    (void)state;
    good("{\"prompt\":\"hi\",\"stream\":false,\"best_of\":1,\"suffix\":\"\",\"tools\":[],"
         "\"response_format\":{\"type\":\"text\"},\"guided_json\":null,\"length_penalty\":1.0,"
         "\"user\":\"u\",\"metadata\":{\"a\":1},\"store\":true,\"service_tier\":\"flex\","
         "\"tool_choice\":\"auto\",\"logit_bias\":{},\"stop\":[],\"unheard_of\":5}");
}

static void strict_refuses_unknown_keys(void **state) {
    (void)state;
    options.strict = true;
    parse("{\"prompt\":\"hi\",\"unheard\\nof\":5}");
    expect_refused("unknown_parameter", "unheard\\x0aof is not known (--strict)");
    parse(
        "{\"custom_id\":\"a\",\"url\":\"/v1/completions\",\"extra\":1,\"body\":{\"prompt\":\"\"}}");
    expect_refused("unknown_parameter", "extra is not known");
    parse("{\"prompt\":\"hi\",\"top_logprobs\":2}");
    expect_refused("unknown_parameter", "top_logprobs is not known");
    good("{\"prompt\":\"hi\",\"user\":\"u\"}");
}

static void what_can_never_run_says_how_it_could(void **state) {
    (void)state;
    rules.kv_tokens = 20;
    parse("{\"prompt\":\"hi\"}");
    expect_refused("kv_budget_exceeded",
                   "the KV cache it goes to holds 20: it can never run; raise --kv-tokens");
    good("{\"prompt\":\"hi\",\"max_tokens\":18}");
    parse("{\"prompt\":\"hi\",\"max_tokens\":19}");
    expect_refused("kv_budget_exceeded", "smaller max_tokens");
}

static void a_request_is_bounded(void **state) {
    (void)state;
    static char line[1 << 20];
    size_t n_bytes = (size_t)sprintf(line, "{\"n\":1024,\"prompt\":[");
    for (int number = 0; number < 65; number++)
        n_bytes += (size_t)sprintf(line + n_bytes, "%s\"p\"", number ? "," : "");
    strcpy(line + n_bytes, "]}");
    parse(line);
    expect_refused("invalid_value", "65 prompts with n = 1024 are more than 65536 answers");
    size_t n_values = (size_t)REQUEST_MOST_VALUES + 100;
    char *many = malloc(2 * n_values + 32);
    n_bytes = (size_t)sprintf(many, "{\"prompt\":[1");
    for (size_t value = 0; value < n_values; value++)
        n_bytes += (size_t)sprintf(many + n_bytes, ",1");
    strcpy(many + n_bytes, "]}");
    parse(many);
    expect_refused("invalid_json", "values: at most depth 128 and 4194304 values");
    free(many);
}

static void buffers_come_late_and_are_trimmed(void **state) {
    (void)state;
    good("{\"prompt\":\"hi\",\"logprobs\":1,\"max_tokens\":10,\"n\":2}");
    assert_null(request.generation[0].token);
    assert_int_equal(request_bytes(&request, 1), 12 * 4 + 12 * 2 * sizeof(struct token_score));
    struct generation *generation = request_begin(&request, 1);
    assert_ptr_equal(generation, &request.generation[1]);
    assert_int_equal(generation->token[1], 'i');
    assert_null(request.generation[0].token);
    generation->token[11] = 5;
    generation->score[12 * 2 - 1].rank = 3;
    request_trim(&request, 1);
    assert_int_equal(generation->token[1], 'i');
}

/* ---- bad lines ---- */

/* tests/requests/bad.jsonl has a line a mistake, bad.expected its code, key and words. */
static void bad_lines_say_what_is_wrong(void **state) {
    (void)state;
    const char *file[] = {TESTS_DIR "/requests/bad.jsonl"};
    FILE *expected = fopen(TESTS_DIR "/requests/bad.expected", "r");
    struct line_reader *reader;
    struct input_line line;
    struct fault fault = {0};
    assert_non_null(expected);
    assert_true(line_reader_open(&reader, file, 1, &fault));
    int n_lines = 0;
    while (line_reader_next(reader, &line, &fault)) {
        char words[512];
        assert_non_null(fgets(words, sizeof words, expected));
        words[strcspn(words, "\n")] = 0;
        char *code = strtok(words, "\t"), *param = strtok(NULL, "\t"), *fragment = strtok(NULL, "");
        parse_line(&line);
        expect_refused(code, fragment);
        assert_string_equal(request.refusal.param, strcmp(param, "-") ? param : "");
        assert_int_equal(request.refusal.unreadable, strcmp(code, "invalid_json") == 0);
        char place[512];
        snprintf(place, sizeof place, "%s:%d: ", file[0], ++n_lines);
        assert_memory_equal(request.refusal.message, place, strlen(place));
    }
    assert_int_equal(fault.kind, FAULT_NONE);
    assert_true(n_lines >= 50);
    line_reader_close(reader);
    fclose(expected);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, reset, release)

int main(void) {
    const struct CMUnitTest tests[] = {
        CASE(ids_come_from_the_line),
        CASE(ids_are_saved_from_broken_lines),
        CASE(the_hash_is_of_what_is_asked),
        CASE(prompts_have_four_shapes),
        CASE(special_tokens_are_recognised_and_added_once),
        CASE(messages_are_rendered),
        CASE(an_unknown_template_refuses_chats_only),
        CASE(plain_prompts_become_chats),
        CASE(the_body_comes_before_the_command_line),
        CASE(built_in_is_greedy_to_the_end_of_the_context),
        CASE(aliases_and_seeds),
        CASE(stop_ids_are_merged_and_sorted),
        CASE(bias_is_sorted_and_logprobs_have_two_spellings),
        CASE(a_prompt_can_be_scored_alone),
        CASE(values_that_ask_for_nothing_are_harmless),
        CASE(strict_refuses_unknown_keys),
        CASE(what_can_never_run_says_how_it_could),
        CASE(a_request_is_bounded),
        CASE(buffers_come_late_and_are_trimmed),
        CASE(bad_lines_say_what_is_wrong),
    };
    log_setup(LOG_QUIET, false);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
