/* text_stream.c - pieces of tokens joined into valid UTF-8 as they come. See tokenizer.h.
 *
 * Invariant: `text` is valid UTF-8 after every push, and at the end it is what replacing the
 * maximal subparts of the whole byte string with U+FFFD gives, however the bytes were cut into
 * tokens. Decoding the tokens again from the start at each step was rejected: quadratic, and the
 * last character of a decoded prefix may change.
 */
#include <stdlib.h>
#include <string.h>

#include "tokenizer.h"
#include "tokenizer_parts.h"
#include "utf8.h"

static void append_bytes(struct text_stream *stream, const char *bytes, size_t n_bytes) {
    size_t needed = stream->n_bytes + n_bytes + 1;
    if (needed > stream->capacity) {
        size_t capacity = stream->capacity * 2 > needed ? stream->capacity * 2 : needed + 255;
        char *text = check_alloc(capacity, 1);
        if (stream->n_bytes > 0) memcpy(text, stream->text, stream->n_bytes);
        free(stream->text);
        stream->text = text;
        stream->capacity = capacity;
    }
    memcpy(stream->text + stream->n_bytes, bytes, n_bytes);
    stream->n_bytes += n_bytes;
    stream->text[stream->n_bytes] = 0;
}

static void append_replacement(struct text_stream *stream) {
    append_bytes(stream, "\xef\xbf\xbd", 3);
}

/* Append what is decided of held + bytes; hold back a beginning. `held` is itself always a
 * beginning (UTF8_SHORT), so one more byte either extends it, completes it or proves it wrong. */
static void push_byte(struct text_stream *stream, char byte) {
    stream->held[stream->n_held++] = byte;
    size_t length;
    switch (utf8_judge(stream->held, (size_t)stream->n_held, &length)) {
    case UTF8_SHORT: return;
    case UTF8_WHOLE:
        append_bytes(stream, stream->held, length);
        stream->n_held = 0;
        return;
    case UTF8_WRONG:
        append_replacement(stream);
        stream->n_held -= (int)length;
        if (stream->n_held == 0) return;
        /* Only the newest byte is left: it did not belong to the beginning before it. */
        stream->n_held = 0;
        push_byte(stream, byte);
        return;
    }
}

void text_stream_push(struct text_stream *stream, const struct tokenizer *tokenizer, int32_t id) {
    bool special = tokenizer_is_special(tokenizer, id);
    if (special && stream->skip_special) return;
    size_t n_bytes;
    const char *piece = tokenizer_piece(tokenizer, id, &n_bytes);
    bool first = !stream->started;
    stream->started = true;
    if (first && tokenizer->adds_space && !special && n_bytes > 0 && piece[0] == ' ') {
        piece++;
        n_bytes--;
    }
    size_t at = 0;
    while (at < n_bytes) {
        size_t run = at;
        while (stream->n_held == 0 && run < n_bytes && (unsigned char)piece[run] < 0x80)
            run++;
        if (run > at) append_bytes(stream, piece + at, run - at);
        at = run;
        if (at < n_bytes) push_byte(stream, piece[at++]);
    }
    if (!stream->text) append_bytes(stream, "", 0);
}

void text_stream_end(struct text_stream *stream) {
    if (stream->n_held > 0) append_replacement(stream);
    stream->n_held = 0;
    if (!stream->text) append_bytes(stream, "", 0);
}

void text_stream_close(struct text_stream *stream) {
    free(stream->text);
    *stream = (struct text_stream){0};
}
