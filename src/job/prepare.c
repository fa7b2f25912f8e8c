/* prepare.c - a request becomes generations (request_prepare, request_begin). See requests.h.
 *
 * Owns the limits that need the length of a prompt, the ids that end a generation, the seed, and
 * the buffers decode writes. The invariant: n_prompt + max_new <= context for every generation, and
 * buffers exist from request_begin on only, so that a request of many choices costs memory as they
 * run. Rejected: cutting a prompt or an asked-for max_tokens to what fits, which answers another
 * question than was put; only the default and the command line's max_tokens bend.
 */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "body.h"
#include "log.h"
#include "prompts.h"
#include "requests.h"

static bool too_long(struct request *request, const struct body *body, int32_t n_prompt,
                     const struct request_rules *rules) {
    const char *param = request->endpoint == ENDPOINT_CHAT ? "messages" : "prompt";
    if (n_prompt >= rules->context)
        return request_refuse(request, param, "context_length_exceeded",
                              "the prompt has %d tokens, but the context is %d tokens, prompt and "
                              "answer together: shorten the prompt%s",
                              n_prompt, rules->context,
                              rules->options->context > 0 ? " or raise --context" : "");
    return request_refuse(request, "max_tokens", "context_length_exceeded",
                          "the prompt has %d tokens and max_tokens is %lld, together %lld, but the "
                          "context is %d tokens: max_tokens can be at most %d",
                          n_prompt, (long long)body->max_tokens,
                          (long long)(n_prompt + body->max_tokens), rules->context,
                          rules->context - n_prompt);
}

/* The most tokens that may be made behind a prompt; false when there is no room. */
static bool find_max_new(struct request *request, const struct request_rules *rules,
                         const struct body *body, int32_t n_prompt, int32_t *max_new) {
    int64_t room = (int64_t)rules->context - n_prompt;
    int64_t wanted = body->max_tokens == 0 ? 1 : body->max_tokens;
    if (room < 1 || (body->max_tokens_own && wanted > room))
        return too_long(request, body, n_prompt, rules);
    *max_new = (int32_t)(wanted < 0 || wanted > room ? room : wanted);
    if (body->min_tokens > *max_new)
        return request_refuse(request, "min_tokens", "invalid_value",
                              "min_tokens is %lld, but at most %d tokens can be made",
                              (long long)body->min_tokens, *max_new);
    if ((int64_t)n_prompt + *max_new > rules->kv_tokens)
        return request_refuse(request, "max_tokens", "kv_budget_exceeded",
                              "the prompt has %d tokens and up to %d are to be made, but the KV "
                              "cache it goes to holds %lld: it can never run; raise "
                              "--kv-tokens or --kv-memory, or set a smaller max_tokens",
                              n_prompt, *max_new, (long long)rules->kv_tokens);
    return true;
}

/* The ids that end a generation: the file's, unless they are to be ignored, and the request's. */
static int32_t merge_stop_ids(struct request *request, const struct request_rules *rules,
                              const struct body *body) {
    size_t n_file = 0;
    const int32_t *file = tokenizer_stop_ids(rules->tokenizer, &n_file);
    if (body->ignore_eos) n_file = 0;
    int32_t *merged = check_alloc(n_file + (size_t)body->n_stop_ids, sizeof *merged);
    int32_t n_merged = 0;
    for (size_t at = 0; at < n_file + (size_t)body->n_stop_ids; at++) {
        int32_t id = at < n_file ? file[at] : request->stop_id[at - n_file];
        int32_t place = n_merged;
        while (place > 0 && merged[place - 1] >= id)
            place--;
        if (place < n_merged && merged[place] == id) continue;
        memmove(merged + place + 1, merged + place, (size_t)(n_merged - place) * sizeof *merged);
        merged[place] = id;
        n_merged++;
    }
    free(request->stop_id);
    request->stop_id = merged;
    return n_merged;
}

/* A request without a seed has one that depends on what it is called, not on when it came. */
static uint64_t find_seed(const struct request *request, const struct request_rules *rules,
                          const struct body *body) {
    if (body->seed_own) return (uint64_t)body->seed;
    const char *id = request->custom_id ? request->custom_id : "";
    return XXH3_64bits_withSeed(id, strlen(id), rules->options->seed);
}

static struct sampling make_sampling(struct request *request, const struct request_rules *rules,
                                     const struct body *body) {
    int n_vocabulary = tokenizer_n_tokens(rules->tokenizer);
    int n_logprobs = request->n_logprobs > request->n_prompt_logprobs ? request->n_logprobs
                                                                      : request->n_prompt_logprobs;
    return (struct sampling){
        .temperature = (float)body->temperature,
        .top_p = (float)body->top_p,
        .min_p = (float)body->min_p,
        .top_k = (int32_t)(body->top_k < n_vocabulary ? body->top_k : 0),
        .presence_penalty = (float)body->presence_penalty,
        .frequency_penalty = (float)body->frequency_penalty,
        .repetition_penalty = (float)body->repetition_penalty,
        .min_tokens = (int32_t)body->min_tokens,
        .n_logprobs = n_logprobs,
        .seed = find_seed(request, rules, body),
        .n_bias = body->n_bias,
        .bias = request->bias,
        .n_stop_ids = merge_stop_ids(request, rules, body),
        .stop_id = request->stop_id,
    };
}

/* There are no more likeliest tokens than tokens. */
static int n_likeliest(const struct request_rules *rules, int64_t n_wanted) {
    int n_vocabulary = tokenizer_n_tokens(rules->tokenizer);
    return (int)(n_wanted < n_vocabulary ? n_wanted : n_vocabulary);
}

static void take_wishes(struct request *request, const struct request_rules *rules,
                        const struct body *body) {
    request->n_choices = (int)body->n;
    request->echo = body->echo;
    request->prompt_only = body->max_tokens == 0;
    request->include_stop = body->include_stop;
    request->skip_special = body->skip_special;
    request->return_token_ids = body->return_token_ids;
    request->ignore_eos = body->ignore_eos;
    request->n_logprobs = n_likeliest(rules, body->n_logprobs);
    request->n_prompt_logprobs = n_likeliest(rules, body->n_prompt_logprobs);
    if (!request->model) {
        const char *name = rules->model_name ? rules->model_name : "";
        request->model = check_alloc(strlen(name) + 1, 1);
        strcpy(request->model, name);
    }
}

static bool make_generations(struct request *request, const struct request_rules *rules,
                             const struct body *body) {
    for (int number = 0; number < request->n_prompts; number++) {
        int32_t max_new;
        if (!find_max_new(request, rules, body, request->prompt[number].n_tokens, &max_new))
            return false;
    }
    struct sampling sampling = make_sampling(request, rules, body);
    size_t n_generations = request_n_generations(request);
    request->generation = check_alloc(n_generations, sizeof *request->generation);
    request->choice = check_alloc(n_generations, sizeof *request->choice);
    for (size_t index = 0; index < n_generations; index++) {
        struct generation *generation = &request->generation[index];
        sampling.prompt_index = (uint32_t)(index / (size_t)request->n_choices);
        sampling.choice_index = (uint32_t)(index % (size_t)request->n_choices);
        generation->n_prompt = request->prompt[sampling.prompt_index].n_tokens;
        find_max_new(request, rules, body, generation->n_prompt, &generation->max_new);
        generation->sampling = sampling;
        generation->score_prompt = request->n_prompt_logprobs >= 0;
        atomic_init(&generation->n_tokens, generation->n_prompt);
    }
    return true;
}

void request_prepare(struct request *request, const struct request_rules *rules) {
    struct body body;
    if (!request->refusal.refused && body_read(&body, request, rules) &&
        prompts_read(request, rules, &body)) {
        take_wishes(request, rules, &body);
        make_generations(request, rules, &body);
    }
    json_decref(request->body);
    request->body = NULL;
}

static size_t n_tokens_most(const struct generation *generation) {
    return (size_t)generation->n_prompt + (size_t)generation->max_new;
}

static size_t score_bytes(const struct generation *generation, size_t n_tokens) {
    size_t n_bytes = 0;
    if (generation->sampling.n_logprobs >= 0)
        REQUIRE(check_multiply(n_tokens * sizeof *generation->score,
                               1 + (size_t)generation->sampling.n_logprobs, &n_bytes),
                "scores of %zu tokens", n_tokens);
    return n_bytes;
}

size_t request_bytes(const struct request *request, size_t index) {
    const struct generation *generation = &request->generation[index];
    size_t n_tokens = n_tokens_most(generation);
    return n_tokens * sizeof *generation->token + score_bytes(generation, n_tokens);
}

struct generation *request_begin(struct request *request, size_t index) {
    struct generation *generation = &request->generation[index];
    const struct prompt *prompt = &request->prompt[generation->sampling.prompt_index];
    size_t n_tokens = n_tokens_most(generation);
    generation->token = check_alloc(n_tokens, sizeof *generation->token);
    memcpy(generation->token, prompt->id, (size_t)prompt->n_tokens * sizeof *prompt->id);
    size_t n_bytes = score_bytes(generation, n_tokens);
    if (n_bytes) generation->score = check_alloc(n_bytes, 1);
    return generation;
}

static void *shrink(void *memory, size_t n_bytes) {
    void *smaller = memory && n_bytes ? realloc(memory, n_bytes) : NULL;
    return smaller ? smaller : memory;
}

void request_trim(struct request *request, size_t index) {
    struct generation *generation = &request->generation[index];
    size_t n_tokens = (size_t)atomic_load(&generation->n_tokens);
    generation->token = shrink(generation->token, n_tokens * sizeof *generation->token);
    generation->score = shrink(generation->score, score_bytes(generation, n_tokens));
}
