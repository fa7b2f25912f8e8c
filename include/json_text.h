/* json_text.h - JSON written piece by piece into one growing text.
 *
 * Answers are written by hand, not through a document: lists of tokens and log-probabilities would
 * cost many times their size there. Strings are valid UTF-8 in the text, whatever bytes come in,
 * and what would confuse a reader of lines or a terminal (control characters, U+007F..U+009F,
 * U+2028, U+2029) is escaped.
 */
#ifndef LAMINA_JSON_TEXT_H
#define LAMINA_JSON_TEXT_H

#include <stddef.h>
#include <stdint.h>

/* Zero-initialise; release with free(text.text). Kept NUL-terminated once something is in it. */
struct json_text {
    char *text;
    size_t n_bytes, capacity;
};

/* Append bytes as they are. */
void json_text_append(struct json_text *text, const char *bytes, size_t n_bytes);
void json_text_literal(struct json_text *text, const char *literal);

/* Append a string with its quotes; bytes that are not UTF-8 become U+FFFD. NULL appends null. */
void json_text_string(struct json_text *text, const char *bytes, size_t n_bytes);

void json_text_int(struct json_text *text, int64_t number);

/* Nine digits: enough to give back every float32. Not finite, or below it: -9999, as in vLLM. */
void json_text_real(struct json_text *text, float number);

/* Append [a,b,...]. */
void json_text_ids(struct json_text *text, const int32_t *id, size_t n_ids);

#endif
