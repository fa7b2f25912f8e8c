/* utf8.c - the well-formed byte sequences of UTF-8 (Unicode standard, table 3-7). See utf8.h.
 *
 * The lead byte fixes the length and the range of the second byte (which is what keeps out overlong
 * forms, surrogates and values past U+10FFFF); later bytes are 80..BF. utf8proc_iterate was not
 * used: it cannot tell a character cut short from one that is wrong, and streams need that.
 */
#include "utf8.h"

struct lead {
    unsigned char length, low, high; /* range of the second byte */
};

static struct lead read_lead(unsigned char byte) {
    if (byte < 0x80) return (struct lead){1, 0, 0};
    if (byte < 0xc2) return (struct lead){0, 0, 0};
    if (byte < 0xe0) return (struct lead){2, 0x80, 0xbf};
    if (byte == 0xe0) return (struct lead){3, 0xa0, 0xbf};
    if (byte == 0xed) return (struct lead){3, 0x80, 0x9f};
    if (byte < 0xf0) return (struct lead){3, 0x80, 0xbf};
    if (byte == 0xf0) return (struct lead){4, 0x90, 0xbf};
    if (byte < 0xf4) return (struct lead){4, 0x80, 0xbf};
    if (byte == 0xf4) return (struct lead){4, 0x80, 0x8f};
    return (struct lead){0, 0, 0};
}

enum utf8_state utf8_judge(const char *text, size_t n_bytes, size_t *length) {
    const unsigned char *byte = (const unsigned char *)text;
    struct lead lead = read_lead(byte[0]);
    *length = 1;
    if (lead.length == 0) return UTF8_WRONG;
    while (*length < lead.length) {
        if (*length == n_bytes) return UTF8_SHORT;
        unsigned char low = *length == 1 ? lead.low : 0x80;
        unsigned char high = *length == 1 ? lead.high : 0xbf;
        if (byte[*length] < low || byte[*length] > high) return UTF8_WRONG;
        ++*length;
    }
    return UTF8_WHOLE;
}

bool utf8_valid(const char *text, size_t n_bytes, size_t *bad_byte) {
    size_t length;
    for (size_t at = 0; at < n_bytes; at += length) {
        length = 1;
        if ((unsigned char)text[at] < 0x80) continue;
        if (utf8_judge(text + at, n_bytes - at, &length) == UTF8_WHOLE) continue;
        *bad_byte = at;
        return false;
    }
    return true;
}
