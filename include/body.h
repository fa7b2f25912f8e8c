/* body.h - the body of a request: every key there is, what it may hold, and what it asks for.
 *
 * One table names all keys: those that are followed, those that change nothing here and are
 * accepted, and those that would change the answer and are not supported, which refuse the request
 * unless their value asks for nothing (null, false, empty). A key of value null counts as not
 * given. Precedence: body, then command line, then built-in.
 */
#ifndef LAMINA_BODY_H
#define LAMINA_BODY_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "requests.h"

/* What a request asks for, completed from the command line. */
struct body {
    double temperature, top_p, min_p;
    double presence_penalty, frequency_penalty, repetition_penalty;
    int64_t top_k, n, min_tokens, seed;
    int64_t max_tokens;  /* -1: the rest of the context */
    bool max_tokens_own; /* from the body, so that more than the context is refused, not cut */
    bool seed_own;
    bool ignore_eos, echo, include_stop, skip_special, return_token_ids;
    bool add_special, add_generation_prompt;
    int64_t n_logprobs, n_prompt_logprobs; /* -1: none wanted */
    int32_t n_bias, n_stop_ids;            /* of the request's arrays */
};

/* Below it logits over temperature leave float32; vLLM's bound. */
#define BODY_LEAST_TEMPERATURE 0.01

/* Read request->body. False with the request refused. Fills what the request takes as it stands:
 * model, stop strings, bias, stop_id (the request's own only). */
bool body_read(struct body *body, struct request *request, const struct request_rules *rules);

/* Member of an object; NULL when it is not there or null, which mean the same. */
const json_t *body_member(const json_t *object, const char *key);

/* The value of a key as it may be shown in a message: short, escaped. Returns `out`. */
enum { BODY_SHOWN_BYTES = 96 };
const char *body_show(char out[BODY_SHOWN_BYTES], const json_t *value);

/* Warn of a key nobody knows, once a name; with --strict refuse the request. `where` stands in
 * front of the key ("messages[]."). */
bool body_unknown(struct request *request, const struct options *options, const char *where,
                  const char *key);

#endif
