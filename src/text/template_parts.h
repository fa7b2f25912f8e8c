/* template_parts.h - what the table of chat templates and their renderers share.
 *
 * A renderer gives the bytes that Jinja gives for the template texts it stands for, with tools
 * absent; a refusal has the template's own words.
 */
#ifndef LAMINA_TEMPLATE_PARTS_H
#define LAMINA_TEMPLATE_PARTS_H

#include "template.h"

struct chat {
    const struct chat_template *row;
    const struct chat_message *message;
    size_t n_messages; /* at least 1 */
    bool generation_prompt;
    struct template_text *text;
    struct fault *fault;
};

typedef bool template_renderer(const struct chat *chat);

struct chat_template {
    const char *name;
    template_renderer *render;
    const char *bos, *eos;      /* tokens the template writes; NULL: it writes none */
    const char *default_system; /* ChatML: where the first message is not a system message */
    int variant;                /* of the renderer */
};

/* ---- template_text.c */

struct template_span {
    const char *text;
    size_t n_bytes;
};

/* Append to chat->text, kept NUL-terminated. */
void template_append(const struct chat *chat, struct template_span span);
void template_append_literal(const struct chat *chat, const char *literal);

struct template_span template_role(const struct chat_message *message);
struct template_span template_content(const struct chat_message *message);
bool template_is_role(const struct chat_message *message, const char *role);

bool template_begins(struct template_span span, const char *literal);
bool template_ends(struct template_span span, const char *literal);
/* Bytes of the white-space character at the beginning (or, `at_end`, the end) of a text, or 0. */
size_t template_find_space(struct template_span span, bool at_end);
struct template_span template_strip(struct template_span span);
struct template_span template_strip_newlines_left(struct template_span span);
struct template_span template_strip_newlines_right(struct template_span span);
/* What stands before the first `mark`, or behind the last one; all of it where there is none. */
struct template_span template_before_first(struct template_span span, const char *mark);
struct template_span template_behind_last(struct template_span span, const char *mark);

/* The system message in front, if there is one; *first is then 1. */
const struct chat_message *template_take_system(const struct chat *chat, size_t *first);

/* A user's fault with the template's reason; always false. */
bool template_refuse(const struct chat *chat, const char *reason);

/* ---- renderers: template_tagged.c, template_inst.c */

/* Variants of some. */
enum { LLAMA3_PLAIN, LLAMA3_ALWAYS_PROMPTS };
enum { MISTRAL_V0, MISTRAL_V0_SPACE };
enum { MISTRAL_V3, MISTRAL_V3_TEKKEN };
enum { QWEN3_THINKS, QWEN3_THINKS_NOT };
enum { PHI3_MINI, PHI3_SMALL, PHI3_VISION, PHI3_5 };

template_renderer render_chatml, render_qwen2_5, render_qwen3, render_llama2, render_llama3,
    render_llama3_1, render_mistral_v0, render_mistral_v1, render_mistral_v3, render_mistral_v7,
    render_mistral_v7_tekken, render_phi3, render_phi3_named, render_zephyr;

#endif
