/* json_text.c - JSON written piece by piece. See json_text.h.
 *
 * Owns escaping. The invariant: what stands in a string is valid UTF-8 and holds no byte that ends
 * a line anywhere. What is written in which order is left to answer.c.
 */
#include "json_text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "check.h"

void json_text_append(struct json_text *text, const char *bytes, size_t n_bytes) {
    size_t needed = text->n_bytes + n_bytes + 1;
    if (needed > text->capacity) {
        size_t capacity = needed < 4096 ? 8192 : 2 * needed;
        char *larger = check_alloc(capacity, 1);
        if (text->n_bytes) memcpy(larger, text->text, text->n_bytes);
        free(text->text);
        text->text = larger;
        text->capacity = capacity;
    }
    if (n_bytes) memcpy(text->text + text->n_bytes, bytes, n_bytes);
    text->n_bytes += n_bytes;
    text->text[text->n_bytes] = 0;
}

void json_text_literal(struct json_text *text, const char *literal) {
    json_text_append(text, literal, strlen(literal));
}

static void append_code(struct json_text *text, utf8proc_int32_t code) {
    char escape[8];
    const char *at = code ? strchr("\"\"\\\\\bb\ff\nn\rr\tt", code) : NULL;
    if (at) {
        escape[0] = '\\';
        escape[1] = at[1];
        json_text_append(text, escape, 2);
    } else {
        snprintf(escape, sizeof escape, "\\u%04x", (unsigned)code);
        json_text_append(text, escape, 6);
    }
}

void json_text_string(struct json_text *text, const char *bytes, size_t n_bytes) {
    if (!bytes) {
        json_text_literal(text, "null");
        return;
    }
    json_text_append(text, "\"", 1);
    size_t plain = 0; /* where a run of characters that need nothing begins */
    for (size_t at = 0; at < n_bytes;) {
        utf8proc_int32_t code;
        utf8proc_ssize_t width = utf8proc_iterate((const utf8proc_uint8_t *)bytes + at,
                                                  (utf8proc_ssize_t)(n_bytes - at), &code);
        bool ends_lines = code == 0x2028 || code == 0x2029;
        bool control = code < 0x20 || (code >= 0x7f && code < 0xa0);
        if (width > 0 && !control && !ends_lines && code != '"' && code != '\\') {
            at += (size_t)width;
            continue;
        }
        json_text_append(text, bytes + plain, at - plain);
        if (width > 0) {
            append_code(text, code);
        } else {
            json_text_literal(text, "\xef\xbf\xbd");
        }
        at += width > 0 ? (size_t)width : 1;
        plain = at;
    }
    json_text_append(text, bytes + plain, n_bytes - plain);
    json_text_append(text, "\"", 1);
}

void json_text_int(struct json_text *text, int64_t number) {
    char digits[32];
    json_text_append(text, digits,
                     (size_t)snprintf(digits, sizeof digits, "%lld", (long long)number));
}

void json_text_real(struct json_text *text, float number) {
    char digits[32];
    if (!isfinite(number) || number < -9999.0f) number = -9999.0f;
    json_text_append(text, digits, (size_t)snprintf(digits, sizeof digits, "%.9g", (double)number));
}

void json_text_ids(struct json_text *text, const int32_t *id, size_t n_ids) {
    json_text_append(text, "[", 1);
    for (size_t at = 0; at < n_ids; at++) {
        if (at > 0) json_text_append(text, ",", 1);
        json_text_int(text, id[at]);
    }
    json_text_append(text, "]", 1);
}
