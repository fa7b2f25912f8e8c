/* rig_list.c - what is asked of a run, and whether two runs made the same of it. See rig.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "make_gguf.h"
#include "rig.h"

struct sampling rig_greedy(void) {
    return (struct sampling){.top_p = 1, .repetition_penalty = 1, .n_logprobs = -1};
}

static size_t score_width(const struct generation *generation) {
    return 1 + (size_t)generation->sampling.n_logprobs;
}

size_t rig_n_scores(const struct generation *generation) {
    return (size_t)(generation->n_prompt + generation->max_new) * score_width(generation);
}

void rig_list_open(struct rig_list *list, const struct rig_wish *wish, int n, int vocabulary) {
    *list = (struct rig_list){.n = n, .generation = check_alloc((size_t)n, sizeof(void *))};
    for (int at = 0; at < n; at++, wish++) {
        struct generation *generation = check_alloc(1, sizeof *generation);
        list->generation[at] = generation;
        generation->n_prompt = wish->n_prompt;
        generation->max_new = wish->max_new;
        generation->score_prompt = wish->score_prompt;
        generation->sampling = wish->sampling;
        generation->token = check_alloc((size_t)(wish->n_prompt + wish->max_new), sizeof(int32_t));
        uint64_t random = wish->text;
        for (int token = 0; token < wish->n_prompt; token++)
            generation->token[token] =
                wish->prompt ? wish->prompt[token]
                             : (int32_t)(make_gguf_random(&random) % (uint64_t)vocabulary);
        if (wish->sampling.n_logprobs >= 0)
            generation->score = check_alloc(rig_n_scores(generation), sizeof *generation->score);
    }
}

void rig_list_close(struct rig_list *list) {
    for (int at = 0; at < list->n; at++) {
        free(list->generation[at]->token);
        free(list->generation[at]->score);
        free(list->generation[at]);
    }
    free(list->generation);
    *list = (struct rig_list){0};
}

static bool scores_equal(const struct generation *made, const struct generation *expected, int at,
                         char *text, size_t size) {
    size_t width = score_width(made), where = 0;
    const struct token_score *a = made->score + (size_t)at * width;
    const struct token_score *b = expected->score + (size_t)at * width;
    if (memcmp(a, b, width * sizeof *a) == 0) return true;
    while (memcmp(&a[where], &b[where], sizeof *a) == 0)
        where++;
    a += where, b += where;
    snprintf(text, size,
             "scores of token %d, place %zu: id %d, %.9g (%a), rank %d instead of %d, "
             "%.9g (%a), rank %d",
             at, where, a->id, (double)a->logprob, (double)a->logprob, a->rank, b->id,
             (double)b->logprob, (double)b->logprob, b->rank);
    return false;
}

static bool equal(const struct generation *made, const struct generation *expected, char *text,
                  size_t size) {
    int n = atomic_load(&made->n_tokens);
    for (int at = 0; at < n && at < atomic_load(&expected->n_tokens); at++) {
        if (made->token[at] != expected->token[at]) {
            snprintf(text, size, "token %d is %d instead of %d", at, made->token[at],
                     expected->token[at]);
            return false;
        }
        bool scored = at >= made->n_prompt || (made->score_prompt && at > 0);
        if (made->score && scored && !scores_equal(made, expected, at, text, size)) return false;
    }
    if (n == atomic_load(&expected->n_tokens) &&
        atomic_load(&made->finish) == atomic_load(&expected->finish))
        return true;
    snprintf(text, size, "%d tokens and finish %d instead of %d and %d", n,
             atomic_load(&made->finish), atomic_load(&expected->n_tokens),
             atomic_load(&expected->finish));
    return false;
}

bool rig_list_equal(const struct rig_list *made, const struct rig_list *expected, char *text,
                    size_t size) {
    REQUIRE(made->n == expected->n, "lists of %d and %d", made->n, expected->n);
    for (int at = 0; at < made->n; at++) {
        char what[256];
        if (equal(made->generation[at], expected->generation[at], what, sizeof what)) continue;
        snprintf(text, size, "request %d (%d prompt tokens): %s", at,
                 made->generation[at]->n_prompt, what);
        return false;
    }
    return true;
}
