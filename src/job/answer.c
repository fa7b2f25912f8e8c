/* answer.c - the answer line. See answer.h.
 *
 * Owns the shape of what people get back. The invariant: everything but `created` is a function of
 * the request and its tokens, so any run of the same job gives the same bytes. The order of log-
 * probabilities is vLLM's: the chosen token first, then the likeliest without it; a name that
 * stands there already (tokens may share their text) is not repeated, since an object must not
 * repeat a key. Rejected: vLLM's leaving out the prompt's text where echo meets return_token_ids.
 * Source: OpenAI's Batch and completion objects; vLLM's response classes.
 */
#include "answer.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ID_FORMAT "%016" PRIx64 "%016" PRIx64

/* The generations of one request and what names their tokens. */
struct writing {
    struct json_text *text;
    const struct request *request;
    const struct tokenizer *tokenizer;
};

static void put_format(struct json_text *text, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static void put_format(struct json_text *text, const char *format, ...) {
    char piece[256];
    va_list arguments;
    va_start(arguments, format);
    int n_bytes = vsnprintf(piece, sizeof piece, format, arguments);
    va_end(arguments);
    json_text_append(text, piece, (size_t)n_bytes);
}

static void put_string(struct json_text *text, const char *string) {
    json_text_string(text, string, string ? strlen(string) : 0);
}

/* ---- log-probabilities ---- */

/* The text of one token by itself; release with text_stream_close. */
static struct text_stream token_text(const struct writing *writing, int32_t id) {
    struct text_stream stream = {.started = true};
    text_stream_push(&stream, writing->tokenizer, id);
    text_stream_end(&stream);
    return stream;
}

static void put_token(const struct writing *writing, int32_t id) {
    struct text_stream stream = token_text(writing, id);
    json_text_string(writing->text, stream.text ? stream.text : "", stream.n_bytes);
    text_stream_close(&stream);
}

/* Scores of token `token` of a generation; [0] is the token itself. */
static const struct token_score *scores_of(const struct generation *generation, int32_t token) {
    return generation->score + (size_t)token * (1 + (size_t)generation->sampling.n_logprobs);
}

/* Walk the chosen token and the `n_likeliest` behind it, leaving the chosen one out of those. */
static int next_score(const struct token_score *score, int n_likeliest, int place) {
    do {
        place++;
    } while (place <= n_likeliest && score[place].id == score[0].id);
    return place <= n_likeliest ? place : -1;
}

/* {"token": logprob, ...} of completions. */
static void put_top_object(const struct writing *writing, const struct token_score *score,
                           int n_likeliest) {
    struct text_stream name[1 + SAMPLING_MAX_LOGPROBS];
    int n_names = 0;
    json_text_append(writing->text, "{", 1);
    for (int place = 0; place >= 0; place = next_score(score, n_likeliest, place)) {
        struct text_stream *mine = &name[n_names++];
        *mine = token_text(writing, score[place].id);
        bool named = false;
        for (struct text_stream *other = name; other < mine && !named; other++)
            named = other->n_bytes == mine->n_bytes &&
                    (mine->n_bytes == 0 || memcmp(other->text, mine->text, mine->n_bytes) == 0);
        if (named) continue;
        if (place > 0) json_text_append(writing->text, ",", 1);
        json_text_string(writing->text, mine->text ? mine->text : "", mine->n_bytes);
        json_text_append(writing->text, ":", 1);
        json_text_real(writing->text, score[place].logprob);
    }
    json_text_append(writing->text, "}", 1);
    while (n_names > 0)
        text_stream_close(&name[--n_names]);
}

/* Characters, which is what vLLM's offsets count. */
static int64_t n_characters(const struct writing *writing, int32_t id) {
    struct text_stream stream = token_text(writing, id);
    int64_t n_characters = 0;
    for (size_t at = 0; at < stream.n_bytes; at++)
        n_characters += ((unsigned char)stream.text[at] & 0xc0) != 0x80;
    text_stream_close(&stream);
    return n_characters;
}

enum column { COLUMN_OFFSET, COLUMN_LOGPROB, COLUMN_TOKEN, COLUMN_TOP };

/* One of the four lists of completions' log-probabilities, over tokens [begin, end). */
static void put_column(const struct writing *writing, const struct generation *generation,
                       enum column column, int32_t begin, int32_t end) {
    int64_t offset = 0;
    for (int32_t token = begin; token < end; token++) {
        int32_t id = generation->token[token];
        const struct token_score *score = scores_of(generation, token);
        json_text_append(writing->text, ",", token > begin);
        if (column == COLUMN_OFFSET) {
            json_text_int(writing->text, offset);
            offset += n_characters(writing, id);
        } else if (column == COLUMN_TOKEN) {
            put_token(writing, id);
        } else if (token == 0) {
            json_text_literal(writing->text, "null"); /* nothing predicts the first token */
        } else if (column == COLUMN_LOGPROB) {
            json_text_real(writing->text, score[0].logprob);
        } else {
            put_top_object(writing, score, writing->request->n_logprobs);
        }
    }
}

static void put_completion_logprobs(const struct writing *writing,
                                    const struct generation *generation, int32_t begin,
                                    int32_t end) {
    json_text_literal(writing->text, "{\"text_offset\":[");
    put_column(writing, generation, COLUMN_OFFSET, begin, end);
    json_text_literal(writing->text, "],\"token_logprobs\":[");
    put_column(writing, generation, COLUMN_LOGPROB, begin, end);
    json_text_literal(writing->text, "],\"tokens\":[");
    put_column(writing, generation, COLUMN_TOKEN, begin, end);
    json_text_literal(writing->text, "],\"top_logprobs\":[");
    put_column(writing, generation, COLUMN_TOP, begin, end);
    json_text_literal(writing->text, "]}");
}

/* "token":...,"logprob":...,"bytes":[...] of chat; the bytes are the token's own, which need not be
 * whole characters. */
static void put_chat_score(const struct writing *writing, const struct token_score *score) {
    size_t n_bytes = 0;
    const char *piece = tokenizer_piece(writing->tokenizer, score->id, &n_bytes);
    json_text_literal(writing->text, "\"token\":");
    put_token(writing, score->id);
    json_text_literal(writing->text, ",\"logprob\":");
    json_text_real(writing->text, score->logprob);
    json_text_literal(writing->text, ",\"bytes\":[");
    for (size_t at = 0; at < n_bytes; at++)
        put_format(writing->text, at ? ",%d" : "%d", (unsigned char)piece[at]);
    json_text_literal(writing->text, "]");
}

static void put_chat_logprobs(const struct writing *writing, const struct generation *generation,
                              int32_t begin, int32_t end) {
    json_text_literal(writing->text, "{\"content\":[");
    for (int32_t token = begin; token < end; token++) {
        const struct token_score *score = scores_of(generation, token);
        int n_left = writing->request->n_logprobs;
        json_text_literal(writing->text, token > begin ? ",{" : "{");
        put_chat_score(writing, score);
        json_text_literal(writing->text, ",\"top_logprobs\":[");
        for (int place = 0; place >= 0 && n_left > 0; n_left--) {
            json_text_literal(writing->text, place > 0 ? ",{" : "{");
            put_chat_score(writing, &score[place]);
            json_text_literal(writing->text, "}");
            place = next_score(score, writing->request->n_logprobs, place);
        }
        json_text_literal(writing->text, "]}");
    }
    json_text_literal(writing->text, "]}");
}

/* [null, {"id": {...}, ...}, ...] */
static void put_prompt_logprobs(const struct writing *writing,
                                const struct generation *generation) {
    int n_likeliest = writing->request->n_prompt_logprobs;
    json_text_literal(writing->text, ",\"prompt_logprobs\":[null");
    for (int32_t token = 1; token < generation->n_prompt; token++) {
        const struct token_score *score = scores_of(generation, token);
        json_text_literal(writing->text, ",{");
        for (int place = 0; place >= 0; place = next_score(score, n_likeliest, place)) {
            put_format(writing->text, "%s\"%d\":{\"logprob\":", place ? "," : "", score[place].id);
            json_text_real(writing->text, score[place].logprob);
            put_format(writing->text, ",\"rank\":%d,\"decoded_token\":", score[place].rank);
            put_token(writing, score[place].id);
            json_text_literal(writing->text, "}");
        }
        json_text_literal(writing->text, "}");
    }
    json_text_literal(writing->text, "]");
}

/* ---- choices ---- */

static bool is_file_stop_id(const struct tokenizer *tokenizer, int32_t id) {
    size_t n_ids = 0;
    const int32_t *stop_id = tokenizer_stop_ids(tokenizer, &n_ids);
    for (size_t at = 0; at < n_ids; at++) {
        if (stop_id[at] == id) return true;
    }
    return false;
}

/* The stop string or the request's own stop id that ended a choice; null for the model's EOS. */
static void put_ending(const struct writing *writing, size_t index) {
    const struct request *request = writing->request;
    const struct choice *choice = &request->choice[index];
    const struct generation *generation = &request->generation[index];
    bool stopped = choice->ending != ENDING_LENGTH && !request->prompt_only;
    json_text_literal(writing->text, stopped ? ",\"finish_reason\":\"stop\",\"stop_reason\":"
                                             : ",\"finish_reason\":\"length\",\"stop_reason\":");
    if (stopped && choice->ending == ENDING_STOP_STRING) {
        const struct request_text *string = &request->stop_string[choice->stop_string];
        json_text_string(writing->text, string->text, string->n_bytes);
    } else if (stopped) {
        int32_t id = generation->token[generation->n_prompt + choice->n_tokens - 1];
        bool is_eos = !request->ignore_eos && is_file_stop_id(writing->tokenizer, id);
        if (is_eos) {
            json_text_literal(writing->text, "null");
        } else {
            json_text_int(writing->text, id);
        }
    } else {
        json_text_literal(writing->text, "null");
    }
}

static int32_t n_made(const struct request *request, size_t index) {
    return request->prompt_only ? 0 : request->choice[index].n_tokens;
}

/* The answer's text, behind the prompt's where that is echoed. */
static void put_text(const struct writing *writing, size_t index) {
    const struct request *request = writing->request;
    const struct choice *choice = &request->choice[index];
    const struct prompt *prompt = &request->prompt[index / (size_t)request->n_choices];
    size_t n_text = request->prompt_only ? 0 : choice->n_text;
    struct json_text whole = {0};
    json_text_append(&whole, prompt->echo.text, prompt->echo.n_bytes);
    json_text_append(&whole, choice->stream.text, n_text);
    json_text_string(writing->text, whole.text, whole.n_bytes);
    free(whole.text);
}

static void put_choice(const struct writing *writing, size_t index) {
    struct json_text *text = writing->text;
    const struct request *request = writing->request;
    const struct generation *generation = &request->generation[index];
    bool chat = request->endpoint == ENDPOINT_CHAT;
    int32_t end = generation->n_prompt + n_made(request, index);
    put_format(text, "%s{\"index\":%zu,", index ? "," : "", index);
    json_text_literal(text,
                      chat ? "\"message\":{\"role\":\"assistant\",\"content\":" : "\"text\":");
    put_text(writing, index);
    json_text_literal(text, chat ? ",\"refusal\":null},\"logprobs\":" : ",\"logprobs\":");
    if (request->n_logprobs < 0) {
        json_text_literal(text, "null");
    } else if (chat) {
        put_chat_logprobs(writing, generation, generation->n_prompt, end);
    } else {
        put_completion_logprobs(writing, generation, request->echo ? 0 : generation->n_prompt, end);
    }
    put_ending(writing, index);
    if (request->return_token_ids) {
        json_text_literal(text, ",\"token_ids\":");
        json_text_ids(text, generation->token + generation->n_prompt,
                      (size_t)n_made(request, index));
    }
    if (request->return_token_ids && !chat) {
        json_text_literal(text, ",\"prompt_token_ids\":");
        json_text_ids(text, generation->token, (size_t)generation->n_prompt);
    }
    if (request->n_prompt_logprobs >= 0 && !chat) put_prompt_logprobs(writing, generation);
    json_text_append(text, "}", 1);
}

static void put_usage(const struct writing *writing) {
    const struct request *request = writing->request;
    int64_t n_prompt = 0, n_completion = 0;
    for (int number = 0; number < request->n_prompts; number++)
        n_prompt += request->prompt[number].n_tokens;
    for (size_t index = 0; index < request_n_generations(request); index++)
        n_completion += n_made(request, index);
    put_format(writing->text,
               "],\"usage\":{\"prompt_tokens\":%" PRId64 ",\"completion_tokens\":%" PRId64
               ",\"total_tokens\":%" PRId64 "}",
               n_prompt, n_completion, n_prompt + n_completion);
}

static void put_body(const struct writing *writing, int64_t created) {
    struct json_text *text = writing->text;
    const struct request *request = writing->request;
    bool chat = request->endpoint == ENDPOINT_CHAT;
    put_format(text,
               "{\"id\":\"%s-" ID_FORMAT "\",\"object\":\"%s\",\"created\":%" PRId64 ",\"model\":",
               chat ? "chatcmpl" : "cmpl", request->key.high, request->key.low,
               chat ? "chat.completion" : "text_completion", created);
    put_string(text, request->model);
    json_text_literal(text, ",\"choices\":[");
    for (size_t index = 0; index < request_n_generations(request); index++)
        put_choice(writing, index);
    put_usage(writing);
    if (chat && request->n_prompt_logprobs >= 0)
        put_prompt_logprobs(writing, &request->generation[0]);
    if (chat && request->return_token_ids) {
        json_text_literal(text, ",\"prompt_token_ids\":");
        json_text_ids(text, request->prompt[0].id, (size_t)request->prompt[0].n_tokens);
    }
    json_text_append(text, "}", 1);
}

static void put_rejection(struct json_text *text, const struct refusal *refusal) {
    json_text_literal(text, "{\"error\":{\"message\":");
    put_string(text, refusal->message);
    json_text_literal(text, ",\"type\":\"invalid_request_error\",\"param\":");
    put_string(text, refusal->param[0] ? refusal->param : NULL);
    json_text_literal(text, ",\"code\":");
    put_string(text, refusal->code);
    json_text_literal(text, "}}");
}

void answer_write(struct json_text *text, const struct request *request,
                  const struct tokenizer *tokenizer, int64_t created) {
    const struct refusal *refusal = &request->refusal;
    put_format(text, "{\"id\":\"batch_req_" ID_FORMAT "\",\"custom_id\":", request->key.high,
               request->key.low);
    put_string(text, request->custom_id);
    if (refusal->unreadable) {
        json_text_literal(text, ",\"response\":null,\"error\":{\"code\":");
        put_string(text, refusal->code);
        json_text_literal(text, ",\"message\":");
        put_string(text, refusal->message);
        json_text_literal(text, "}}\n");
        return;
    }
    put_format(text,
               ",\"response\":{\"status_code\":%d,\"request_id\":\"req_%016" PRIx64 "%016" PRIx64
               "\",\"body\":",
               refusal->refused ? 400 : 200, request->key.high, request->body_hash);
    if (refusal->refused) {
        put_rejection(text, refusal);
    } else {
        put_body(&(struct writing){text, request, tokenizer}, created);
    }
    json_text_literal(text, "},\"error\":null}\n");
}
