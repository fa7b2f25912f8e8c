/* Where an answer ends depends on its tokens, not on when the desk looked. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "fake_text.h"
#include "requests.h"

static struct options options;
static struct request request;

static int reset(void **state) {
    (void)state;
    options = fake_options();
    return 0;
}

static int release(void **state) {
    (void)state;
    request_close(&request);
    return 0;
}

static struct generation *begin(const char *body) {
    struct request_rules rules = {
        .tokenizer = &fake_tokenizer,
        .chat_template = &fake_template,
        .options = &options,
        .context = 64,
        .kv_tokens = INT64_MAX,
        .model_name = "fake",
    };
    struct input_line line = {.file = "a", .line = 1, .text = body, .n_bytes = strlen(body)};
    request_close(&request);
    request_read(&request, &options, &line);
    request_prepare(&request, &rules);
    if (request.refusal.refused) fail_msg("%s", request.refusal.message);
    return request_begin(&request, 0);
}

static void append(struct generation *generation, int32_t id) {
    int32_t n_tokens = atomic_load(&generation->n_tokens);
    assert_true(n_tokens < generation->n_prompt + generation->max_new);
    generation->token[n_tokens] = id;
    atomic_store(&generation->n_tokens, n_tokens + 1);
}

static bool follow(struct generation *generation) {
    return choice_follow(&request.choice[0], &request, generation, &fake_tokenizer);
}

/* Decode `id` up to -1 and give `finish`, the desk looking after every `stride` tokens. */
static void decode(struct generation *generation, const int32_t *id, enum finish finish,
                   int stride) {
    for (int place = 0; id[place] >= 0; place++) {
        append(generation, id[place]);
        if ((place + 1) % stride == 0) assert_false(follow(generation));
    }
    atomic_store(&generation->finish, finish);
    assert_true(follow(generation));
}

static void expect(enum ending ending, int32_t n_tokens, const char *text) {
    const struct choice *choice = &request.choice[0];
    assert_int_equal(choice->ending, ending);
    assert_int_equal(choice->n_tokens, n_tokens);
    assert_int_equal(choice->n_text, strlen(text));
    if (choice->n_text) assert_memory_equal(choice->stream.text, text, choice->n_text);
}

/* The same outcome whether the desk looks at every token or only at the end. */
static void check(const char *body, const int32_t *id, enum finish finish, enum ending ending,
                  int32_t n_tokens, const char *text) {
    for (int stride = 1; stride <= 8; stride++) {
        decode(begin(body), id, finish, stride);
        expect(ending, n_tokens, text);
    }
}

static void length_and_stop_ids_end_it(void **state) {
    (void)state;
    check("{\"prompt\":\"p\",\"max_tokens\":3}", (int32_t[]){'a', 'b', 'c', -1}, FINISH_LENGTH,
          ENDING_LENGTH, 3, "abc");
    check("{\"prompt\":\"p\"}", (int32_t[]){'a', FAKE_EOS, -1}, FINISH_STOP, ENDING_STOP_ID, 2,
          "a");
    check("{\"prompt\":\"p\",\"stop_token_ids\":[259]}", (int32_t[]){'a', FAKE_HELLO, -1},
          FINISH_STOP, ENDING_STOP_ID, 2, "a");
    check("{\"prompt\":\"p\",\"stop_token_ids\":[259],\"include_stop_str_in_output\":true}",
          (int32_t[]){'a', FAKE_HELLO, -1}, FINISH_STOP, ENDING_STOP_ID, 2, "ahello");
    check("{\"prompt\":\"p\",\"skip_special_tokens\":false,\"ignore_eos\":true,\"max_tokens\":2}",
          (int32_t[]){'a', FAKE_EOS, -1}, FINISH_LENGTH, ENDING_LENGTH, 2, "a<eos>");
    check("{\"prompt\":\"p\",\"ignore_eos\":true,\"max_tokens\":2}", (int32_t[]){FAKE_EOS, 'a', -1},
          FINISH_LENGTH, ENDING_LENGTH, 2, "a");
}

/* "STOP" begins in " STO" and ends in "P over"; what decode made behind it is dropped. */
static void a_stop_string_over_two_tokens(void **state) {
    (void)state;
    const int32_t id[] = {'a', FAKE_STO, FAKE_P_OVER, 'x', 'y', FAKE_EOS, -1};
    check("{\"prompt\":\"p\",\"stop\":\"STOP\"}", id, FINISH_STOP, ENDING_STOP_STRING, 3, "a ");
    check("{\"prompt\":\"p\",\"stop\":\"STOP\"}", id, FINISH_CANCELLED, ENDING_STOP_STRING, 3,
          "a ");
    check("{\"prompt\":\"p\",\"stop\":\"STOP\",\"include_stop_str_in_output\":true}", id,
          FINISH_LENGTH, ENDING_STOP_STRING, 3, "a STOP");
    check("{\"prompt\":\"p\",\"stop\":[\"zz\",\"a STOP o\"]}", id, FINISH_CANCELLED,
          ENDING_STOP_STRING, 3, "");
    assert_int_equal(request.choice[0].stop_string, 1);
    check("{\"prompt\":\"p\",\"stop\":\"STOPX\"}", id, FINISH_STOP, ENDING_STOP_ID, 6,
          "a STOP overxy");
}

/* One token completes two of them: the first of the list wins, as in vLLM. */
static void the_first_of_the_list_wins(void **state) {
    (void)state;
    const int32_t id[] = {FAKE_HELLO, 'x', -1};
    check("{\"prompt\":\"p\",\"stop\":[\"lo\",\"he\"]}", id, FINISH_CANCELLED, ENDING_STOP_STRING,
          1, "hel");
    check("{\"prompt\":\"p\",\"stop\":[\"he\",\"lo\"]}", id, FINISH_CANCELLED, ENDING_STOP_STRING,
          1, "");
}

static void a_stop_string_wins_over_length_and_eos(void **state) {
    (void)state;
    check("{\"prompt\":\"p\",\"stop\":\"b\",\"max_tokens\":2}", (int32_t[]){'a', 'b', -1},
          FINISH_LENGTH, ENDING_STOP_STRING, 2, "a");
    check("{\"prompt\":\"p\",\"stop\":\"b\"}", (int32_t[]){'b', FAKE_EOS, -1}, FINISH_STOP,
          ENDING_STOP_STRING, 1, "");
    check("{\"prompt\":\"p\",\"stop\":\"eos\"}", (int32_t[]){'b', FAKE_EOS, -1}, FINISH_STOP,
          ENDING_STOP_ID, 2, "b");
    check("{\"prompt\":\"p\",\"stop\":\"eos\",\"skip_special_tokens\":false,"
          "\"include_stop_str_in_output\":true}",
          (int32_t[]){'b', FAKE_EOS, -1}, FINISH_STOP, ENDING_STOP_STRING, 2, "b<eos");
}

/* A stop string counts when the token that completes it is behind the first min_tokens. */
static void min_tokens_delays_stop_strings(void **state) {
    (void)state;
    const int32_t id[] = {'a', 'b', 'a', 'b', 'a', 'b', 'c', FAKE_EOS, -1};
    check("{\"prompt\":\"p\",\"stop\":\"ab\",\"min_tokens\":2}", id, FINISH_CANCELLED,
          ENDING_STOP_STRING, 4, "ab");
    check("{\"prompt\":\"p\",\"stop\":\"ab\",\"min_tokens\":3}", id, FINISH_CANCELLED,
          ENDING_STOP_STRING, 4, "ab");
    check("{\"prompt\":\"p\",\"stop\":\"ab\",\"min_tokens\":6}", id, FINISH_STOP, ENDING_STOP_ID, 8,
          "abababc");
}

/* The euro sign comes as two bytes and one: its text exists when it is whole. */
static void characters_over_tokens(void **state) {
    (void)state;
    check("{\"prompt\":\"p\",\"stop\":\"\xe2\x82\xac\"}",
          (int32_t[]){'a', FAKE_HALF_EURO, 0xac, 'b', -1}, FINISH_CANCELLED, ENDING_STOP_STRING, 3,
          "a");
    check("{\"prompt\":\"p\"}", (int32_t[]){FAKE_HALF_EURO, 0xac, FAKE_HALF_EURO, FAKE_EOS, -1},
          FINISH_STOP, ENDING_STOP_ID, 4, "\xe2\x82\xac\xef\xbf\xbd");
    check("{\"prompt\":\"p\",\"max_tokens\":1}", (int32_t[]){FAKE_SPACE_WORLD, -1}, FINISH_LENGTH,
          ENDING_LENGTH, 1, " world");
}

static void a_complete_stop_string_cancels(void **state) {
    (void)state;
    struct generation *generation = begin("{\"prompt\":\"p\",\"stop\":\"b\"}");
    append(generation, 'a');
    assert_false(follow(generation));
    assert_false(atomic_load(&generation->cancelled));
    append(generation, 'b');
    assert_false(follow(generation)); /* decode still has it */
    assert_true(atomic_load(&generation->cancelled));
    append(generation, 'c');
    assert_false(follow(generation));
    atomic_store(&generation->finish, FINISH_CANCELLED);
    assert_true(follow(generation));
    expect(ENDING_STOP_STRING, 2, "a");
}

static void a_job_that_stops_leaves_no_ending(void **state) {
    (void)state;
    struct generation *generation = begin("{\"prompt\":\"p\",\"stop\":\"b\"}");
    append(generation, 'a');
    atomic_store(&generation->finish, FINISH_CANCELLED);
    assert_true(follow(generation));
    assert_int_equal(request.choice[0].ending, ENDING_NONE);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, reset, release)

int main(void) {
    const struct CMUnitTest tests[] = {
        CASE(length_and_stop_ids_end_it),     CASE(a_stop_string_over_two_tokens),
        CASE(the_first_of_the_list_wins),     CASE(a_stop_string_wins_over_length_and_eos),
        CASE(min_tokens_delays_stop_strings), CASE(characters_over_tokens),
        CASE(a_complete_stop_string_cancels), CASE(a_job_that_stops_leaves_no_ending),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
