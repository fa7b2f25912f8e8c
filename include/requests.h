/* requests.h - what people hand in: prompt files, line by line.
 *
 * Input is OpenAI Batch JSONL, simple lines ({"prompt": ...} or {"messages": ...}) or .txt, one
 * prompt a line; several files, "-" is stdin (line_reader.h). A bad line is that line's failure,
 * with FILE:LINE and the reason; it never stops the job.
 *
 * A request is made in three steps, so that work is done only for lines that need it: request_read
 * learns who it is (custom_id, hash of the body), request_prepare checks the body and tokenises,
 * request_begin gives one generation its buffers when its turn has come.
 */
#ifndef LAMINA_REQUESTS_H
#define LAMINA_REQUESTS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "check.h"
#include "choice.h"
#include "generation.h"
#include "line_reader.h"
#include "options.h"
#include "template.h"
#include "tokenizer.h"

enum endpoint { ENDPOINT_COMPLETIONS, ENDPOINT_CHAT };

/* Limits, all tested (docs: "Limits"). A number of values bounds the memory a line can ask for. */
enum {
    REQUEST_MOST_DEPTH = 128,
    REQUEST_MOST_VALUES = 4 << 20,
    REQUEST_MOST_CHOICES = 1024,
    REQUEST_MOST_GENERATIONS = 65536, /* prompts x n */
    REQUEST_MOST_STOP_STRINGS = 64,
};

/* What requests are checked against and completed from. All borrowed. */
struct request_rules {
    struct tokenizer *tokenizer;
    const struct chat_template
        *chat_template; /* NULL: chat requests are refused with template_fault */
    const struct fault *template_fault;
    const struct options *options; /* sampling defaults, seed, --chat, --system, --strict */
    int context;                   /* tokens, prompt and answer */
    int64_t kv_tokens;             /* tokens one attention owner can hold; INT64_MAX: unknown */
    const char *model_name;        /* echoed where a request names none */
};

/* Why a request was refused: OpenAI's error object. `code` 400 and type "invalid_request_error" for
 * a rejected request; `unreadable` for a line that never was one. */
struct refusal {
    bool refused, unreadable;
    char message[1024]; /* begins FILE:LINE:, escaped for a terminal */
    char param[64];     /* offending key, or "" */
    char code[64];      /* "context_length_exceeded", "unsupported_parameter", ... */
};

/* Who a request is: XXH3-128 of its custom_id or, where it has none, of its file number, file name
 * and line. */
struct request_key {
    uint64_t high, low;
};

/* Bytes that may hold U+0000. */
struct request_text {
    char *text;
    size_t n_bytes;
};

struct prompt {
    int32_t *id; /* (n_tokens) */
    int32_t n_tokens;
    struct request_text echo; /* what `echo` puts in front of the answer; empty without */
};

/* One request: a line of input with its generations. Zero-initialised by request_read. */
struct request {
    char *custom_id;  /* NULL when none could be read, or when it is a duplicate */
    const char *file; /* borrowed input name */
    int file_number;  /* K of "K:line-N" ids, or 0 with a single input */
    int64_t line;     /* from 1 */
    struct request_key key;
    uint64_t body_hash; /* XXH3-64 of endpoint and canonical body: how a resume sees a change; 0
                           when the line is unreadable */
    enum endpoint endpoint;
    struct refusal refusal; /* when refused there are no generations */
    json_t *body;           /* from request_read to request_prepare */
    bool wrapped;           /* a plain prompt that --chat makes a user message */

    /* by request_prepare */
    char *model;                   /* echoed */
    int n_prompts, n_choices;      /* generations are ordered prompt-major */
    struct prompt *prompt;         /* (n_prompts) */
    struct generation *generation; /* (n_prompts * n_choices) */
    struct choice *choice;         /* the same */
    int n_stop_strings;
    struct request_text *stop_string; /* (n_stop_strings), none empty */
    struct logit_bias *bias;          /* rising ids; shared by the generations */
    int32_t *stop_id;                 /* rising; shared by the generations */
    bool echo, include_stop, skip_special, return_token_ids, ignore_eos;
    bool prompt_only;      /* echo with max_tokens 0: one token is made and dropped */
    int n_logprobs;        /* likeliest tokens beside the chosen one, at most the vocabulary; -1:
                              none wanted */
    int n_prompt_logprobs; /* the same for the prompt's tokens */
};

/* Read one line into *request, which request_close releases whatever became of it. A line that is
 * not a request is refused (`request->refusal`); custom_id is kept where one can be found. Needs no
 * tokenizer: of the rules' options only --chat counts. */
void request_read(struct request *request, const struct options *options,
                  const struct input_line *line);

/* Check the body, tokenise, and lay out the generations, without buffers; or refuse. Does nothing
 * to a request that is refused already. Unknown keys are warned of once a key. */
void request_prepare(struct request *request, const struct request_rules *rules);

/* Give generation `index` its token and score buffers, prompt filled in, ready for decode. Returns
 * it. */
struct generation *request_begin(struct request *request, size_t index);

/* Give back what the buffers of a generation hold beyond its last token. Only when its finish is
 * set: decode has let go of it then. */
void request_trim(struct request *request, size_t index);

/* Bytes request_begin will take for generation `index`. */
size_t request_bytes(const struct request *request, size_t index);

static inline size_t request_n_generations(const struct request *request) {
    return (size_t)request->n_prompts * (size_t)request->n_choices;
}

/* The key of a custom_id. */
struct request_key request_key_of(const char *custom_id, size_t n_bytes);

/* Refuse, unless refused already: "FILE:LINE: " and the message. `param` may be NULL. Returns
 * false. */
bool request_refuse(struct request *request, const char *param, const char *code,
                    const char *format, ...) __attribute__((format(printf, 4, 5)));

/* Take the custom_id away (a duplicate): the request is known by its place from now on. */
void request_forget_id(struct request *request);

void request_close(struct request *request);

#endif
