/* choice.h - what one generation comes to: its text, and where it ends.
 *
 * Read from the tokens alone, one by one, so the result does not depend on how far decode had run
 * when the desk looked: tokens behind a stop string are dropped, and a stop string found wins over
 * a stop id or the length reached later. As in vLLM: of several stop strings that one token
 * completes the first of the request's list wins; a stop string counts only when the token that
 * completes it is behind the first min_tokens; the text of a stop id is left out of the text, and a
 * stop string is cut off, unless include_stop_str_in_output.
 */
#ifndef LAMINA_CHOICE_H
#define LAMINA_CHOICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "generation.h"
#include "tokenizer.h"

enum ending { ENDING_NONE, ENDING_STOP_STRING, ENDING_STOP_ID, ENDING_LENGTH };

struct request;

/* Zero-initialise; choice_close releases. */
struct choice {
    struct text_stream stream; /* the text so far; n_text bytes of it are the answer's */
    size_t n_text;
    int32_t n_tokens; /* generated tokens that belong to the answer */
    enum ending ending;
    int stop_string; /* index in the request, with ENDING_STOP_STRING */
};

/* Read what decode has appended to `generation` of `request`, and cancel it when a stop string is
 * complete. True when decode has let go of it (finish is set): then the ending is final, and is
 * ENDING_NONE when the job stopped before there was one. */
bool choice_follow(struct choice *choice, const struct request *request,
                   struct generation *generation, const struct tokenizer *tokenizer);
void choice_close(struct choice *choice);

#endif
