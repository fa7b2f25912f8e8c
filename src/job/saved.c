/* saved.c - choices of a checkpoint by request. See saved.h.
 *
 * Owns an order of the choices by which one is found in logarithmic time. The invariant: nothing is
 * given that would not have been made again: the same prompt, no more tokens than asked for, scores
 * of the same number. Rejected: matching by custom_id, which names neither a line without one nor
 * what was asked.
 */
#include "saved.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"

static int compare_keys(struct request_key a, struct request_key b) {
    if (a.high != b.high) return a.high < b.high ? -1 : 1;
    return a.low == b.low ? 0 : a.low < b.low ? -1 : 1;
}

static int compare_choices(const void *a, const void *b, void *context) {
    const struct checkpoint_choice *choice = context;
    const struct checkpoint_choice *first = &choice[*(const int *)a],
                                   *second = &choice[*(const int *)b];
    int order = compare_keys(first->key, second->key);
    return order ? order : (first->index > second->index) - (first->index < second->index);
}

void saved_open(struct saved *saved, const struct checkpoint_progress *progress) {
    size_t n = (size_t)progress->n_choices;
    *saved = (struct saved){.progress = progress, .order = check_alloc(n + 1, sizeof(int))};
    for (int at = 0; at < progress->n_choices; at++)
        saved->order[at] = at;
    qsort_r(saved->order, n, sizeof *saved->order, compare_choices, progress->choice);
}

void saved_close(struct saved *saved) {
    free(saved->order);
    *saved = (struct saved){0};
}

/* Where the choices of a key begin in the order, or would. */
static int first_of(const struct saved *saved, struct request_key key) {
    int low = 0, high = saved->progress->n_choices;
    while (low < high) {
        int middle = low + (high - low) / 2;
        if (compare_keys(saved->progress->choice[saved->order[middle]].key, key) < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/* The number of the choice at a place of the order when it is one of this request, else -1. */
static int choice_at(const struct saved *saved, int place, const struct request *request) {
    if (place >= saved->progress->n_choices) return -1;
    int number = saved->order[place];
    const struct checkpoint_choice *choice = &saved->progress->choice[number];
    return compare_keys(choice->key, request->key) == 0 ? number : -1;
}

size_t saved_count(struct saved *saved, const struct request *request) {
    size_t n = 0;
    int number;
    for (int place = first_of(saved, request->key);
         (number = choice_at(saved, place, request)) >= 0; place++) {
        const struct checkpoint_choice *choice = &saved->progress->choice[number];
        saved->n_found += 1;
        bool same = !request->refusal.refused && choice->body_hash == request->body_hash &&
                    (size_t)choice->index < request_n_generations(request);
        if (same && (size_t)choice->index >= n) n = (size_t)choice->index + 1;
    }
    return n;
}

static bool fits(const struct checkpoint_choice *choice, const struct request *request,
                 const struct generation *generation) {
    return choice->body_hash != 0 && choice->body_hash == request->body_hash &&
           choice->n_prompt == generation->n_prompt &&
           choice->n_tokens <= generation->n_prompt + generation->max_new &&
           choice->n_logprobs == generation->sampling.n_logprobs &&
           choice->n_rows < choice->n_tokens && choice->n_scored < generation->n_prompt &&
           (choice->score != NULL) == (generation->score != NULL) &&
           memcmp(choice->token, generation->token,
                  (size_t)generation->n_prompt * sizeof *generation->token) == 0;
}

bool saved_give(const struct saved *saved, const struct request *request, size_t index) {
    struct generation *generation = &request->generation[index];
    int number, place = first_of(saved, request->key);
    while ((number = choice_at(saved, place, request)) >= 0 &&
           (size_t)saved->progress->choice[number].index != index)
        place++;
    if (number < 0) return false;
    const struct checkpoint_choice *choice = &saved->progress->choice[number];
    if (!fits(choice, request, generation)) return false;
    size_t n = (size_t)choice->n_tokens;
    memcpy(generation->token, choice->token, n * sizeof *generation->token);
    if (generation->score)
        memcpy(generation->score, choice->score,
               n * (1 + (size_t)choice->n_logprobs) * sizeof *generation->score);
    generation->restored = true;
    generation->saved = number;
    generation->n_rows = choice->n_rows;
    generation->n_scored = choice->n_scored;
    atomic_store(&generation->n_tokens, choice->n_tokens);
    return true;
}
