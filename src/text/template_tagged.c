/* template_tagged.c - chat templates that put every turn between tags naming its role: ChatML and
 * Qwen, Llama 3, Phi-3, Zephyr. See template_parts.h.
 */
#include <string.h>

#include "template_parts.h"

/* ---- ChatML */

static void append_chatml(const struct chat *chat, struct template_span role,
                          struct template_span content) {
    template_append_literal(chat, "<|im_start|>");
    template_append(chat, role);
    template_append_literal(chat, "\n");
    template_append(chat, content);
    template_append_literal(chat, "<|im_end|>\n");
}

/* The system message to put before messages that have none, where the template has one. */
static void append_default_system(const struct chat *chat) {
    if (!chat->row->default_system || template_is_role(&chat->message[0], "system")) return;
    template_append_literal(chat, "<|im_start|>system\n");
    template_append_literal(chat, chat->row->default_system);
    template_append_literal(chat, "<|im_end|>\n");
}

bool render_chatml(const struct chat *chat) {
    append_default_system(chat);
    for (size_t at = 0; at < chat->n_messages; at++) {
        append_chatml(chat, template_role(&chat->message[at]),
                      template_content(&chat->message[at]));
    }
    if (chat->generation_prompt) template_append_literal(chat, "<|im_start|>assistant\n");
    return true;
}

/* Answers of tools in a row share one user turn. */
static void append_tool_response(const struct chat *chat, size_t at) {
    if (at == 0 || !template_is_role(&chat->message[at - 1], "tool")) {
        template_append_literal(chat, "<|im_start|>user");
    }
    template_append_literal(chat, "\n<tool_response>\n");
    template_append(chat, template_content(&chat->message[at]));
    template_append_literal(chat, "\n</tool_response>");
    if (at + 1 == chat->n_messages || !template_is_role(&chat->message[at + 1], "tool")) {
        template_append_literal(chat, "<|im_end|>\n");
    }
}

bool render_qwen2_5(const struct chat *chat) {
    append_default_system(chat);
    for (size_t at = 0; at < chat->n_messages; at++) {
        const struct chat_message *message = &chat->message[at];
        if (template_is_role(message, "user") || template_is_role(message, "system") ||
            template_is_role(message, "assistant")) {
            append_chatml(chat, template_role(message), template_content(message));
        } else if (template_is_role(message, "tool")) {
            append_tool_response(chat, at);
        }
    }
    if (chat->generation_prompt) template_append_literal(chat, "<|im_start|>assistant\n");
    return true;
}

/* The last message that is a user's own words; thoughts are kept only behind it. */
static size_t find_last_query(const struct chat *chat) {
    for (size_t at = chat->n_messages; at-- > 0;) {
        struct template_span content = template_content(&chat->message[at]);
        bool is_response = template_begins(content, "<tool_response>") &&
                           template_ends(content, "</tool_response>");
        if (template_is_role(&chat->message[at], "user") && !is_response) return at;
    }
    return chat->n_messages - 1;
}

static void append_qwen3_answer(const struct chat *chat, size_t at, bool behind_query) {
    struct template_span content = template_content(&chat->message[at]), thought = {"", 0};
    if (memmem(content.text, content.n_bytes, "</think>", 8)) {
        thought = template_strip_newlines_right(template_before_first(content, "</think>"));
        thought = template_strip_newlines_left(template_behind_last(thought, "<think>"));
        content = template_strip_newlines_left(template_behind_last(content, "</think>"));
    }
    template_append_literal(chat, "<|im_start|>assistant\n");
    if (behind_query && (at + 1 == chat->n_messages || thought.n_bytes > 0)) {
        template_append_literal(chat, "<think>\n");
        template_append(chat, template_strip_newlines_right(thought));
        template_append_literal(chat, "\n</think>\n\n");
        content = template_strip_newlines_left(content);
    }
    template_append(chat, content);
    template_append_literal(chat, "<|im_end|>\n");
}

bool render_qwen3(const struct chat *chat) {
    size_t last_query = find_last_query(chat);
    for (size_t at = 0; at < chat->n_messages; at++) {
        const struct chat_message *message = &chat->message[at];
        if (template_is_role(message, "user") || template_is_role(message, "system")) {
            append_chatml(chat, template_role(message), template_content(message));
        } else if (template_is_role(message, "assistant")) {
            append_qwen3_answer(chat, at, at > last_query);
        } else if (template_is_role(message, "tool")) {
            append_tool_response(chat, at);
        }
    }
    if (chat->generation_prompt) template_append_literal(chat, "<|im_start|>assistant\n");
    if (chat->generation_prompt && chat->row->variant == QWEN3_THINKS_NOT) {
        template_append_literal(chat, "<think>\n\n</think>\n\n");
    }
    return true;
}

/* ---- Llama 3 */

static void append_llama3_turn(const struct chat *chat, struct template_span role,
                               struct template_span content) {
    template_append_literal(chat, "<|start_header_id|>");
    template_append(chat, role);
    template_append_literal(chat, "<|end_header_id|>\n\n");
    template_append(chat, template_strip(content));
    template_append_literal(chat, "<|eot_id|>");
}

bool render_llama3(const struct chat *chat) {
    template_append_literal(chat, chat->row->bos);
    for (size_t at = 0; at < chat->n_messages; at++) {
        append_llama3_turn(chat, template_role(&chat->message[at]),
                           template_content(&chat->message[at]));
    }
    if (chat->generation_prompt || chat->row->variant == LLAMA3_ALWAYS_PROMPTS) {
        template_append_literal(chat, "<|start_header_id|>assistant<|end_header_id|>\n\n");
    }
    return true;
}

bool render_llama3_1(const struct chat *chat) {
    size_t first;
    const struct chat_message *system = template_take_system(chat, &first);
    template_append_literal(chat, chat->row->bos);
    template_append_literal(chat, "<|start_header_id|>system<|end_header_id|>\n\n"
                                  "Cutting Knowledge Date: December 2023\n"
                                  "Today Date: 26 Jul 2024\n\n");
    if (system) template_append(chat, template_strip(template_content(system)));
    template_append_literal(chat, "<|eot_id|>");
    for (size_t at = first; at < chat->n_messages; at++) {
        const struct chat_message *message = &chat->message[at];
        if (template_is_role(message, "tool") || template_is_role(message, "ipython")) {
            return template_refuse(chat, "answers of tools are not supported");
        }
        append_llama3_turn(chat, template_role(message), template_content(message));
    }
    if (chat->generation_prompt) {
        template_append_literal(chat, "<|start_header_id|>assistant<|end_header_id|>\n\n");
    }
    return true;
}

/* ---- Phi-3, Zephyr */

/* Phi-3 mini and medium as first published: the assistant's turn opens behind each user's, and
 * other roles are passed over. */
bool render_phi3(const struct chat *chat) {
    if (chat->row->bos) template_append_literal(chat, chat->row->bos);
    for (size_t at = 0; at < chat->n_messages; at++) {
        const struct chat_message *message = &chat->message[at];
        bool is_user = template_is_role(message, "user");
        if (!is_user && !template_is_role(message, "assistant")) continue;
        if (is_user) template_append_literal(chat, "<|user|>\n");
        template_append(chat, template_content(message));
        template_append_literal(chat, "<|end|>\n");
        if (is_user) template_append_literal(chat, "<|assistant|>\n");
    }
    return true;
}

/* Every turn under its role's name: Phi-3 small and vision, Phi-3.5 (known roles only). */
bool render_phi3_named(const struct chat *chat) {
    int variant = chat->row->variant;
    if (chat->row->bos) template_append_literal(chat, chat->row->bos);
    for (size_t at = 0; at < chat->n_messages; at++) {
        const struct chat_message *message = &chat->message[at];
        bool known = template_is_role(message, "user") || template_is_role(message, "assistant") ||
                     (template_is_role(message, "system") && message->n_content > 0);
        if (variant == PHI3_5 && !known) continue;
        template_append_literal(chat, "<|");
        template_append(chat, template_role(message));
        template_append_literal(chat, "|>\n");
        template_append(chat, template_content(message));
        template_append_literal(chat, "<|end|>\n");
    }
    bool answered = template_is_role(&chat->message[chat->n_messages - 1], "assistant");
    if (chat->generation_prompt && !(variant == PHI3_VISION && answered)) {
        template_append_literal(chat, "<|assistant|>\n");
    } else if (chat->row->eos) {
        template_append_literal(chat, chat->row->eos);
    }
    return true;
}

bool render_zephyr(const struct chat *chat) {
    for (size_t at = 0; at < chat->n_messages; at++) {
        const struct chat_message *message = &chat->message[at];
        if (!template_is_role(message, "user") && !template_is_role(message, "system") &&
            !template_is_role(message, "assistant")) {
            continue;
        }
        template_append_literal(chat, "<|");
        template_append(chat, template_role(message));
        template_append_literal(chat, "|>\n");
        template_append(chat, template_content(message));
        template_append_literal(chat, chat->row->eos);
        template_append_literal(chat, "\n");
    }
    if (chat->generation_prompt) template_append_literal(chat, "<|assistant|>\n");
    return true;
}
