/* requests.h - what people hand in: prompt files, line by line.
 *
 * Input is OpenAI Batch JSONL, simple lines ({"prompt": ...} or {"messages": ...}) or .txt, one
 * prompt a line; several files, "-" is stdin. Read as a stream, never whole. A bad line is that
 * line's failure, with FILE:LINE and the reason; it never stops the job.
 */
#ifndef LAMINA_REQUESTS_H
#define LAMINA_REQUESTS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "check.h"
#include "generation.h"
#include "options.h"
#include "template.h"
#include "tokenizer.h"

enum endpoint { ENDPOINT_COMPLETIONS, ENDPOINT_CHAT };

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
    char message[1024]; /* begins FILE:LINE: */
    char param[64];     /* offending key, or "" */
    char code[64];      /* "context_length_exceeded", "unsupported_parameter", ... */
};

/* One request: a line of input with its generations. Owned by the desk. */
struct request {
    char *custom_id;    /* NULL when none could be read */
    const char *file;   /* borrowed input name */
    int64_t line;       /* from 1 */
    uint64_t body_hash; /* XXH3-64 of the canonical body: how a resume sees that it changed */
    enum endpoint endpoint;
    char *model;                   /* echoed */
    int n_prompts, n_choices;      /* generations are ordered prompt-major */
    struct generation *generation; /* (n_prompts * n_choices) */
    int n_stop_strings;
    char **stop_string;
    bool echo, include_stop, skip_special, return_token_ids;
    int n_prompt_logprobs;  /* -1: none wanted */
    struct refusal refusal; /* when refused there are no generations */
};

/* Parse one line (without its newline) of `file` into *request, which request_close releases;
 * refusals are in request->refusal. `first_in_job`: K of "K:line-N" ids, or 0 with a single input
 * file. `is_text`: the line is a plain prompt (.txt). Never fails otherwise; warnings for unknown
 * keys are logged once. */
void request_parse(struct request *request, const struct request_rules *rules, const char *file,
                   int file_number, int64_t line, const char *text, size_t n_bytes, bool is_text);
void request_close(struct request *request);

/* Lines of the input files in order. */
struct line_reader;
struct input_line {
    const char *file; /* borrowed until line_reader_close */
    int file_number;  /* K from 1, or 0 with a single input */
    int64_t line;     /* from 1 */
    const char *text; /* without newline or CR LF, valid until the next call; may hold any bytes */
    size_t n_bytes;
    bool is_text;  /* from a .txt file */
    bool too_long; /* longer than the limit (64 MiB); text is cut */
};
/* False with a fault when a file cannot be opened. */
bool line_reader_open(struct line_reader **reader, const char *const *file, int n_files,
                      struct fault *fault);
/* False at the end of all input. Blank lines are skipped (and counted). A read error is a fault. */
bool line_reader_next(struct line_reader *reader, struct input_line *line, struct fault *fault);
void line_reader_close(struct line_reader *reader);

#endif
