/* template_text.c - what renderers of chat templates are made of: appending, stripping, refusing.
 * See template_parts.h.
 *
 * White space is Python's: str.strip() and Jinja's trim take Unicode white space and U+001C..1F.
 */
#include <stdlib.h>
#include <string.h>

#include "template_parts.h"

void template_append(const struct chat *chat, struct template_span span) {
    struct template_text *text = chat->text;
    size_t needed = text->n_bytes + span.n_bytes + 1;
    if (needed > text->capacity) {
        size_t capacity = 2 * text->capacity > needed ? 2 * text->capacity : needed + 255;
        char *wider = check_alloc(capacity, 1);
        if (text->n_bytes > 0) memcpy(wider, text->text, text->n_bytes);
        free(text->text);
        text->text = wider;
        text->capacity = capacity;
    }
    if (span.n_bytes > 0) memcpy(text->text + text->n_bytes, span.text, span.n_bytes);
    text->n_bytes += span.n_bytes;
    text->text[text->n_bytes] = 0;
}

void template_append_literal(const struct chat *chat, const char *literal) {
    template_append(chat, (struct template_span){literal, strlen(literal)});
}

struct template_span template_role(const struct chat_message *message) {
    return (struct template_span){message->role, message->n_role};
}

struct template_span template_content(const struct chat_message *message) {
    return (struct template_span){message->content, message->n_content};
}

bool template_is_role(const struct chat_message *message, const char *role) {
    return message->n_role == strlen(role) && memcmp(message->role, role, message->n_role) == 0;
}

bool template_begins(struct template_span span, const char *literal) {
    size_t length = strlen(literal);
    return span.n_bytes >= length && memcmp(span.text, literal, length) == 0;
}

bool template_ends(struct template_span span, const char *literal) {
    size_t length = strlen(literal);
    return span.n_bytes >= length &&
           memcmp(span.text + span.n_bytes - length, literal, length) == 0;
}

size_t template_find_space(struct template_span span, bool at_end) {
    static const char *const spaces[] = {
        "\t",           "\n",           "\v",           "\f",           "\r",
        "\x1c",         "\x1d",         "\x1e",         "\x1f",         " ",
        "\xc2\x85",     "\xc2\xa0",     "\xe1\x9a\x80", "\xe2\x80\x80", "\xe2\x80\x81",
        "\xe2\x80\x82", "\xe2\x80\x83", "\xe2\x80\x84", "\xe2\x80\x85", "\xe2\x80\x86",
        "\xe2\x80\x87", "\xe2\x80\x88", "\xe2\x80\x89", "\xe2\x80\x8a", "\xe2\x80\xa8",
        "\xe2\x80\xa9", "\xe2\x80\xaf", "\xe2\x81\x9f", "\xe3\x80\x80"};
    for (size_t space = 0; space < sizeof spaces / sizeof *spaces; space++) {
        if (at_end ? template_ends(span, spaces[space]) : template_begins(span, spaces[space])) {
            return strlen(spaces[space]);
        }
    }
    return 0;
}

struct template_span template_strip(struct template_span span) {
    size_t length;
    while ((length = template_find_space(span, false)) > 0) {
        span.text += length;
        span.n_bytes -= length;
    }
    while ((length = template_find_space(span, true)) > 0)
        span.n_bytes -= length;
    return span;
}

struct template_span template_strip_newlines_left(struct template_span span) {
    while (span.n_bytes > 0 && span.text[0] == '\n') {
        span.text++;
        span.n_bytes--;
    }
    return span;
}

struct template_span template_strip_newlines_right(struct template_span span) {
    while (span.n_bytes > 0 && span.text[span.n_bytes - 1] == '\n')
        span.n_bytes--;
    return span;
}

struct template_span template_before_first(struct template_span span, const char *mark) {
    const char *found = memmem(span.text, span.n_bytes, mark, strlen(mark));
    return found ? (struct template_span){span.text, (size_t)(found - span.text)} : span;
}

struct template_span template_behind_last(struct template_span span, const char *mark) {
    const char *found;
    while ((found = memmem(span.text, span.n_bytes, mark, strlen(mark)))) {
        size_t skipped = (size_t)(found - span.text) + strlen(mark);
        span = (struct template_span){span.text + skipped, span.n_bytes - skipped};
    }
    return span;
}

bool template_refuse(const struct chat *chat, const char *reason) {
    return fault_user(chat->fault, "the chat template \"%s\" refuses the messages: %s",
                      chat->row->name, reason);
}

const struct chat_message *template_take_system(const struct chat *chat, size_t *first) {
    *first = template_is_role(&chat->message[0], "system") ? 1 : 0;
    return *first ? &chat->message[0] : NULL;
}
