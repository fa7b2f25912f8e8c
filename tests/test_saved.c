/* saved: choices of a checkpoint find their request again, and no other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "saved.h"

enum { N_PROMPT = 3, MAX_NEW = 5 };

static int32_t kept_token[] = {10, 11, 12, 20, 21};
static struct token_score kept_score[5 * 2];

/* A choice with two new tokens. */
static struct checkpoint_choice choice_of(uint64_t key, int index) {
    return (struct checkpoint_choice){.key = {7, key},
                                      .body_hash = 100 + key,
                                      .index = index,
                                      .n_prompt = N_PROMPT,
                                      .n_tokens = 5,
                                      .n_rows = 4,
                                      .n_scored = 2,
                                      .n_logprobs = 1,
                                      .token = kept_token,
                                      .score = kept_score};
}

/* A request of `n` choices whose first `n` generations have their buffers. */
static struct request open_request(uint64_t key, int n) {
    struct request request = {
        .key = {7, key}, .body_hash = 100 + key, .n_prompts = 1, .n_choices = n};
    request.generation = calloc((size_t)n, sizeof *request.generation);
    request.choice = calloc((size_t)n, sizeof *request.choice);
    for (int index = 0; index < n; index++) {
        struct generation *generation = &request.generation[index];
        generation->n_prompt = N_PROMPT;
        generation->max_new = MAX_NEW;
        generation->sampling.n_logprobs = 1;
        generation->token = calloc(N_PROMPT + MAX_NEW, sizeof(int32_t));
        memcpy(generation->token, kept_token, N_PROMPT * sizeof(int32_t));
        generation->score = calloc((N_PROMPT + MAX_NEW) * 2, sizeof(struct token_score));
        atomic_init(&generation->n_tokens, N_PROMPT);
    }
    return request;
}

static void choices_are_found_by_request(void **state) {
    (void)state;
    struct checkpoint_choice choice[] = {choice_of(3, 1), choice_of(1, 0), choice_of(3, 0),
                                         choice_of(2, 4)};
    struct checkpoint_progress progress = {.n_choices = 4, .choice = choice};
    struct saved saved;
    struct request first = open_request(1, 1), second = open_request(2, 6),
                   third = open_request(3, 3), none = open_request(4, 1);
    saved_open(&saved, &progress);
    assert_int_equal(saved_count(&saved, &none), 0);
    assert_int_equal(saved.n_found, 0);
    assert_int_equal(saved_count(&saved, &first), 1);
    assert_int_equal(saved_count(&saved, &second), 5); /* the ones before it had begun too */
    assert_int_equal(saved_count(&saved, &third), 2);
    assert_int_equal(saved.n_found, 4);
    assert_true(saved_give(&saved, &third, 1));
    assert_int_equal(third.generation[1].saved, 0);
    assert_true(saved_give(&saved, &third, 0));
    assert_int_equal(third.generation[0].saved, 2);
    assert_false(saved_give(&saved, &third, 2));
    assert_false(saved_give(&saved, &second, 3));
    assert_true(saved_give(&saved, &second, 4));
    assert_false(saved_give(&saved, &none, 0));
    saved_close(&saved);
    request_close(&first);
    request_close(&second);
    request_close(&third);
    request_close(&none);
}

static void tokens_and_scores_come_back(void **state) {
    (void)state;
    for (int at = 0; at < 10; at++)
        kept_score[at] = (struct token_score){at, -0.5f * (float)at, at + 1};
    struct checkpoint_choice choice = choice_of(1, 0);
    struct checkpoint_progress progress = {.n_choices = 1, .choice = &choice};
    struct saved saved;
    struct request request = open_request(1, 1);
    saved_open(&saved, &progress);
    assert_true(saved_give(&saved, &request, 0));
    const struct generation *generation = &request.generation[0];
    assert_true(generation->restored);
    assert_int_equal(atomic_load(&generation->n_tokens), 5);
    assert_int_equal(generation->n_rows, 4);
    assert_int_equal(generation->n_scored, 2);
    assert_memory_equal(generation->token, kept_token, sizeof kept_token);
    assert_memory_equal(generation->score, kept_score, sizeof kept_score);
    assert_int_equal(generation->token[5], 0);
    saved_close(&saved);
    request_close(&request);
}

/* Each difference on its own leaves the generation as new. */
static void what_differs_starts_afresh(void **state) {
    (void)state;
    enum { BODY, PROMPT, LENGTH, TOO_MANY, LOGPROBS, NO_SCORES, ROWS, SCORED, CASES };
    for (int which = 0; which < CASES; which++) {
        struct checkpoint_choice choice = choice_of(1, 0);
        struct checkpoint_progress progress = {.n_choices = 1, .choice = &choice};
        struct request request = open_request(1, 1);
        struct generation *generation = &request.generation[0];
        switch (which) {
        case BODY: choice.body_hash += 1; break;
        case PROMPT: generation->token[1] += 1; break;
        case LENGTH: choice.n_prompt = 2; break;
        case TOO_MANY: generation->max_new = 1; break;
        case LOGPROBS: choice.n_logprobs = 0; break;
        case NO_SCORES: choice.score = NULL; break;
        case ROWS: choice.n_rows = 5; break;
        case SCORED: choice.n_scored = N_PROMPT; break;
        }
        struct saved saved;
        saved_open(&saved, &progress);
        assert_false(saved_give(&saved, &request, 0));
        assert_false(generation->restored);
        assert_int_equal(atomic_load(&generation->n_tokens), N_PROMPT);
        saved_close(&saved);
        request_close(&request);
    }
    /* nor is a request whose body has no hash, or that was refused */
    struct checkpoint_choice choice = choice_of(1, 0);
    struct checkpoint_progress progress = {.n_choices = 1, .choice = &choice};
    struct saved saved;
    struct request request = open_request(1, 1);
    choice.body_hash = request.body_hash = 0;
    saved_open(&saved, &progress);
    assert_false(saved_give(&saved, &request, 0));
    request.refusal.refused = true;
    assert_int_equal(saved_count(&saved, &request), 0);
    saved_close(&saved);
    request_close(&request);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(choices_are_found_by_request),
        cmocka_unit_test(tokens_and_scores_come_back),
        cmocka_unit_test(what_differs_starts_afresh),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
