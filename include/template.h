/* template.h - chat messages to prompt text.
 *
 * A chat template is recognised by the exact text the model file carries
 * (`tokenizer.chat_template`); each recognised one has a renderer of its own that gives the bytes
 * Jinja gives with trim_blocks and lstrip_blocks on. An unknown template is refused with the way
 * round (a name, or prompts as text or token ids).
 *
 * Rendering is a function of the messages alone: where a template would write today's date
 * (Llama 3.2) the date it carries for want of a clock is written, 26 Jul 2024; one that carries
 * none (mistral-v7-tekken's default system message) is a fault. Tools are absent. Turns of tools
 * are rendered where the template writes them as they are (qwen2.5, qwen3) and are a fault where it
 * quotes them (llama3.1, Mistral's).
 */
#ifndef LAMINA_TEMPLATE_H
#define LAMINA_TEMPLATE_H

#include <stdbool.h>
#include <stddef.h>

#include "check.h"
#include "gguf.h"

/* One message; text is UTF-8 and may hold U+0000. Borrowed. */
struct chat_message {
    const char *role;
    size_t n_role;
    const char *content;
    size_t n_content;
};

/* A growing text; zero-initialise, release with free(text.text). */
struct template_text {
    char *text;
    size_t n_bytes, capacity;
};

struct chat_template; /* one row of the table of recognised templates; static, never released */

/* The renderer for the template in `gguf`. False with a fault naming the recognised templates when
 * there is none in the file, it is not recognised, or the file's BOS or EOS is not the one that the
 * renderer writes. */
bool template_find(const struct chat_template **found, const struct gguf *gguf,
                   struct fault *fault);

/* The renderer whose name the user typed (--chat-template NAME), or a fault listing the names. */
bool template_find_name(const struct chat_template **found, const char *name, struct fault *fault);

const char *template_name(const struct chat_template *chat_template);

/* Append the rendered messages to `text`, NUL-terminated; with `generation_prompt` the opening of
 * the assistant's turn follows. A message sequence the template itself refuses (roles out of order,
 * ...) is a fault with the template's reason, and `text` is as long as it was; so is an empty one.
 * The text carries the model's BOS token where the template writes one. */
bool template_render(const struct chat_template *chat_template, const struct chat_message *message,
                     size_t n_messages, bool generation_prompt, struct template_text *text,
                     struct fault *fault);

#endif
