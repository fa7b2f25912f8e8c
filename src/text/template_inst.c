/* template_inst.c - chat templates that put the user's turns between [INST] and [/INST]: Llama 2
 * and Mistral, which differ in spaces and in where the system message goes. See template_parts.h.
 */
#include "template_parts.h"

static const char plain_alternation[] =
    "Conversation roles must alternate user/assistant/user/assistant/...";
static const char system_alternation[] = "After the optional system message, conversation roles "
                                         "must alternate user/assistant/user/assistant/...";

/* ---- Llama 2 */

static bool must_alternate(const struct chat *chat, const char *reason, size_t first) {
    for (size_t at = first; at < chat->n_messages; at++) {
        bool users_turn = (at - first) % 2 == 0;
        if (template_is_role(&chat->message[at], "user") != users_turn)
            return template_refuse(chat, reason);
    }
    return true;
}

static void append_llama2_user(const struct chat *chat, const struct chat_message *system,
                               struct template_span content) {
    template_append_literal(chat, chat->row->bos);
    template_append_literal(chat, "[INST] ");
    if (system) {
        template_append_literal(chat, "<<SYS>>\n");
        template_append(chat, template_content(system));
        template_append_literal(chat, "\n<</SYS>>\n\n");
        /* The template strips all of this together: nothing on the left, the newlines where the
         * user's text is white space only. */
        size_t length;
        while ((length = template_find_space(content, true)) > 0)
            content.n_bytes -= length;
        if (content.n_bytes == 0) chat->text->n_bytes -= 2;
    } else {
        content = template_strip(content);
    }
    template_append(chat, content);
    template_append_literal(chat, " [/INST]");
}

bool render_llama2(const struct chat *chat) {
    size_t first;
    const struct chat_message *system = template_take_system(chat, &first);
    if (!must_alternate(chat, plain_alternation, first)) return false;
    for (size_t at = first; at < chat->n_messages; at++) {
        const struct chat_message *message = &chat->message[at];
        if (template_is_role(message, "user")) {
            append_llama2_user(chat, at == first ? system : NULL, template_content(message));
        } else if (template_is_role(message, "assistant")) {
            template_append_literal(chat, " ");
            template_append(chat, template_strip(template_content(message)));
            template_append_literal(chat, " ");
            template_append_literal(chat, chat->row->eos);
        }
    }
    return true;
}

/* ---- Mistral */

bool render_mistral_v0(const struct chat *chat) {
    template_append_literal(chat, chat->row->bos);
    for (size_t at = 0; at < chat->n_messages; at++) {
        const struct chat_message *message = &chat->message[at];
        if (template_is_role(message, "user") != (at % 2 == 0))
            return template_refuse(chat, plain_alternation);
        if (template_is_role(message, "user")) {
            template_append_literal(chat, "[INST] ");
            template_append(chat, template_content(message));
            template_append_literal(chat, " [/INST]");
        } else if (template_is_role(message, "assistant")) {
            template_append(chat, template_content(message));
            template_append_literal(chat, chat->row->eos);
            if (chat->row->variant == MISTRAL_V0_SPACE) template_append_literal(chat, " ");
        } else {
            return template_refuse(chat, "Only user and assistant roles are supported!");
        }
    }
    return true;
}

static const char only_user_and_assistant[] =
    "Only user and assistant roles are supported, with the exception of an initial optional system "
    "message!";

bool render_mistral_v1(const struct chat *chat) {
    size_t first;
    const struct chat_message *system = template_take_system(chat, &first);
    template_append_literal(chat, chat->row->bos);
    for (size_t at = first; at < chat->n_messages; at++) {
        const struct chat_message *message = &chat->message[at];
        bool users_turn = (at - first) % 2 == 0;
        if (template_is_role(message, "user") != users_turn)
            return template_refuse(chat, system_alternation);
        if (template_is_role(message, "user")) {
            template_append_literal(chat, " [INST] ");
            if (at == first && system) {
                template_append(chat, template_content(system));
                template_append_literal(chat, "\n\n");
            }
            template_append(chat, template_content(message));
            template_append_literal(chat, " [/INST]");
        } else if (template_is_role(message, "assistant")) {
            template_append_literal(chat, " ");
            template_append(chat, template_content(message));
            template_append_literal(chat, chat->row->eos);
        } else {
            return template_refuse(chat, only_user_and_assistant);
        }
    }
    return true;
}

static const char tool_call_ids[] = "Tool call IDs should be alphanumeric strings with length 9!";

/* Roles alternate behind the system message; answers of tools do not count. */
static bool must_alternate_but_tools(const struct chat *chat, size_t first, bool results_too) {
    size_t turn = 0;
    for (size_t at = first; at < chat->n_messages; at++) {
        const struct chat_message *message = &chat->message[at];
        if (template_is_role(message, "tool") ||
            (results_too && template_is_role(message, "tool_results"))) {
            continue;
        }
        if (template_is_role(message, "user") != (turn++ % 2 == 0)) {
            return template_refuse(chat, system_alternation);
        }
    }
    return true;
}

bool render_mistral_v3(const struct chat *chat) {
    size_t first;
    const struct chat_message *system = template_take_system(chat, &first);
    bool spaced = chat->row->variant == MISTRAL_V3;
    if (!must_alternate_but_tools(chat, first, true)) return false;
    template_append_literal(chat, chat->row->bos);
    for (size_t at = first; at < chat->n_messages; at++) {
        const struct chat_message *message = &chat->message[at];
        if (template_is_role(message, "user")) {
            template_append_literal(chat, spaced ? "[INST] " : "[INST]");
            if (at + 1 == chat->n_messages && system) {
                template_append(chat, template_content(system));
                template_append_literal(chat, "\n\n");
            }
            template_append(chat, template_content(message));
            template_append_literal(chat, "[/INST]");
        } else if (template_is_role(message, "assistant")) {
            if (spaced) template_append_literal(chat, " ");
            template_append(chat, spaced ? template_strip(template_content(message))
                                         : template_content(message));
            template_append_literal(chat, chat->row->eos);
        } else if (template_is_role(message, "tool") || template_is_role(message, "tool_results")) {
            return template_refuse(chat, tool_call_ids);
        } else {
            return template_refuse(chat, only_user_and_assistant);
        }
    }
    return true;
}

bool render_mistral_v7(const struct chat *chat) {
    template_append_literal(chat, chat->row->bos);
    for (size_t at = 0; at < chat->n_messages; at++) {
        const struct chat_message *message = &chat->message[at];
        if (template_is_role(message, "user")) {
            template_append_literal(chat, "[INST] ");
            template_append(chat, template_content(message));
            template_append_literal(chat, "[/INST]");
        } else if (template_is_role(message, "system")) {
            template_append_literal(chat, "[SYSTEM_PROMPT] ");
            template_append(chat, template_content(message));
            template_append_literal(chat, "[/SYSTEM_PROMPT]");
        } else if (template_is_role(message, "assistant")) {
            template_append_literal(chat, " ");
            template_append(chat, template_content(message));
            template_append_literal(chat, chat->row->eos);
        } else {
            return template_refuse(chat, "Only user, system and assistant roles are supported!");
        }
    }
    return true;
}

bool render_mistral_v7_tekken(const struct chat *chat) {
    size_t first;
    const struct chat_message *system = template_take_system(chat, &first);
    if (!must_alternate_but_tools(chat, first, false)) return false;
    template_append_literal(chat, chat->row->bos);
    template_append_literal(chat, "[SYSTEM_PROMPT]");
    if (system) template_append(chat, template_content(system));
    template_append_literal(chat, "[/SYSTEM_PROMPT]");
    for (size_t at = first; at < chat->n_messages; at++) {
        const struct chat_message *message = &chat->message[at];
        if (template_is_role(message, "system")) {
            template_append_literal(chat, "[SYSTEM_PROMPT]");
            template_append(chat, template_content(message));
            template_append_literal(chat, "[/SYSTEM_PROMPT]");
        } else if (template_is_role(message, "user")) {
            template_append_literal(chat, "[INST]");
            template_append(chat, template_content(message));
            template_append_literal(chat, "[/INST]");
        } else if (template_is_role(message, "assistant")) {
            template_append(chat, template_content(message));
            template_append_literal(chat, chat->row->eos);
        } else if (template_is_role(message, "tool") || template_is_role(message, "tool_results")) {
            return template_refuse(chat, tool_call_ids);
        } else {
            return template_refuse(chat,
                                   "Only system, user, assistant, and tool roles are supported!");
        }
    }
    return system ||
           template_refuse(chat,
                           "its own system message holds today's date, so that no two days would "
                           "give the same answers; give a system message");
}
