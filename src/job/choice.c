/* choice.c - a generation's text and its end, token by token. See choice.h.
 *
 * Owns where an answer ends. The invariant: everything is decided by the sequence of tokens, one
 * token at a time, never by how many of them were seen at once. Whether the batch agrees (it made
 * the same end, or was told to cancel) is not asked. Rejected: searching the whole text once at the
 * end, which cannot cancel a generation that has said all it should. Source: vLLM's incremental
 * detokenizer, whose rules on min_tokens, order and cutting are kept.
 */
#include "choice.h"

#include <stdlib.h>
#include <string.h>

#include "requests.h"

/* A stop string that ends behind the first `n_searched` bytes of the text. */
static bool find_stop_string(struct choice *choice, const struct request *request,
                             size_t n_searched) {
    const struct text_stream *stream = &choice->stream;
    if (stream->n_bytes == n_searched) return false;
    for (int number = 0; number < request->n_stop_strings; number++) {
        const struct request_text *string = &request->stop_string[number];
        size_t begin = n_searched + 1 > string->n_bytes ? n_searched + 1 - string->n_bytes : 0;
        const char *found =
            memmem(stream->text + begin, stream->n_bytes - begin, string->text, string->n_bytes);
        if (!found) continue;
        choice->ending = ENDING_STOP_STRING;
        choice->stop_string = number;
        choice->n_text = (size_t)(found - stream->text);
        if (request->include_stop) choice->n_text += string->n_bytes;
        return true;
    }
    return false;
}

/* Take one more token; the ending is set when it is the last. */
static void take_token(struct choice *choice, const struct request *request,
                       const struct generation *generation, const struct tokenizer *tokenizer) {
    const struct sampling *sampling = &generation->sampling;
    int32_t id = generation->token[generation->n_prompt + choice->n_tokens++];
    bool stops = sampling_is_stop(sampling, id);
    size_t n_searched = choice->stream.n_bytes;
    if (!stops || request->include_stop) text_stream_push(&choice->stream, tokenizer, id);
    if (choice->n_tokens > sampling->min_tokens && find_stop_string(choice, request, n_searched))
        return;
    if (stops) {
        choice->ending = ENDING_STOP_ID;
    } else if (choice->n_tokens == generation->max_new) {
        choice->ending = ENDING_LENGTH;
    }
    if (choice->ending == ENDING_NONE) return;
    text_stream_end(&choice->stream);
    choice->n_text = choice->stream.n_bytes;
}

bool choice_follow(struct choice *choice, const struct request *request,
                   struct generation *generation, const struct tokenizer *tokenizer) {
    /* finish first: once it is set, n_tokens is the last word. */
    int finish = atomic_load_explicit(&generation->finish, memory_order_acquire);
    int32_t n_tokens = atomic_load_explicit(&generation->n_tokens, memory_order_acquire);
    /* Without stop strings nothing can be decided early, so the text can wait until the end. */
    if (finish == FINISH_NONE && request->n_stop_strings == 0) return false;
    choice->stream.skip_special = request->skip_special;
    choice->stream.started = true; /* the prompt stands in front: a first space is the answer's */
    while (choice->ending == ENDING_NONE && generation->n_prompt + choice->n_tokens < n_tokens)
        take_token(choice, request, generation, tokenizer);
    if (choice->ending == ENDING_STOP_STRING && finish == FINISH_NONE)
        atomic_store_explicit(&generation->cancelled, true, memory_order_release);
    return finish != FINISH_NONE;
}

void choice_close(struct choice *choice) {
    text_stream_close(&choice->stream);
    *choice = (struct choice){0};
}
