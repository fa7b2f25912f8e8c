/* prompts.h - the prompts of a request as tokens.
 *
 * A prompt is text, token ids, several of either, or chat messages rendered by the model's
 * template. Special tokens written in text are recognised; BOS (and EOS behind plain text) is added
 * where the model file asks for it, never a second time, and never to token ids.
 */
#ifndef LAMINA_PROMPTS_H
#define LAMINA_PROMPTS_H

#include <stdbool.h>

#include "body.h"
#include "requests.h"

/* Fill request->prompt and n_prompts. False with the request refused: no prompt, a wrong type, ids
 * outside the vocabulary, no tokens at all. */
bool prompts_read(struct request *request, const struct request_rules *rules,
                  const struct body *body);

#endif
