/* answer.h - the line a request is answered with: OpenAI's Batch output, vLLM's fields.
 *
 * A rejected request answers {"response": {"status_code": 400, ...}, "error": null}; a line that
 * never was a request, {"response": null, "error": {...}}. `id` is made from the request's key and
 * `request_id` from key and body, so both are the same in every run.
 */
#ifndef LAMINA_ANSWER_H
#define LAMINA_ANSWER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "json_text.h"
#include "requests.h"

/* Append the line with its newline. Every choice of the request has an ending, or the request is
 * refused. `created`: seconds since 1970. */
void answer_write(struct json_text *text, const struct request *request,
                  const struct tokenizer *tokenizer, int64_t created);

/* What an answered line tells a resume. */
struct answer_mark {
    struct request_key key;
    uint64_t body_hash; /* 0: the line does not say */
    bool failed;
};

/* Read a line of an earlier run, without its newline. False when it is not one. */
bool answer_read(struct answer_mark *mark, const char *text, size_t n_bytes);

#endif
