/* utf8.h - where one UTF-8 character ends and the next begins, in whole texts and in text that
 * comes byte by byte.
 */
#ifndef LAMINA_UTF8_H
#define LAMINA_UTF8_H

#include <stdbool.h>
#include <stddef.h>

enum utf8_state {
    UTF8_WHOLE, /* a character stands at the beginning */
    UTF8_SHORT, /* the bytes are the beginning of a character and more could complete it */
    UTF8_WRONG  /* no character begins so */
};

/* Judge the beginning of `text` (n_bytes >= 1). *length is the character's bytes, or with
 * UTF8_WRONG the bytes that one U+FFFD stands for: the longest beginning of a character there is,
 * at least one byte (the Unicode standard's "maximal subpart", what Python and browsers do). */
enum utf8_state utf8_judge(const char *text, size_t n_bytes, size_t *length);

/* True when all of `text` is valid UTF-8 (U+0000 is); else *bad_byte is the offset of the first
 * character that is not. */
bool utf8_valid(const char *text, size_t n_bytes, size_t *bad_byte);

#endif
