/* vocabulary.c - pieces of tokens and lookups by piece. See vocabulary.h.
 *
 * Invariant: a piece in the hash table belongs to one token only (the lowest id, normal before
 * user-defined), and no control, unknown, byte or unused token is in it, so merging can never turn
 * ordinary text into a control token.
 *
 * The hash table is open addressing over XXH3, at most half full. Added tokens are a sorted array:
 * narrowing a range byte by byte finds the longest one that a text begins with. A trie was
 * rejected: the array is one, without nodes.
 *
 * Source: byte-level map as GPT-2 defines it (printable Latin-1 maps to itself, the other 68 bytes
 * to U+0100 and up in order); token types as the GGUF specification numbers them.
 */
#include "vocabulary.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>
#include <xxhash.h>

#include "log.h"

/* ---- written form to piece */

/* The byte that a code point of the byte-level map stands for, or -1. */
static int unmap_byte(int32_t code_point) {
    if (code_point >= 0x21 && code_point <= 0x7e) return code_point;
    if (code_point >= 0xa1 && code_point <= 0xff && code_point != 0xad) return code_point;
    if (code_point >= 0x100 && code_point <= 0x120) return code_point - 0x100;
    if (code_point >= 0x121 && code_point <= 0x142) return code_point - 0x121 + 0x7f;
    if (code_point == 0x143) return 0xad;
    return -1;
}

/* Bytes of a byte-level written form in `out` (at least written.n_bytes), or false when it holds a
 * character outside the map: such a token stands for its written form. */
static bool unmap_bytes(struct gguf_string written, char *out, size_t *n_out) {
    const utf8proc_uint8_t *text = (const utf8proc_uint8_t *)written.text;
    *n_out = 0;
    for (size_t at = 0; at < written.n_bytes;) {
        utf8proc_int32_t code_point;
        utf8proc_ssize_t length =
            utf8proc_iterate(text + at, (utf8proc_ssize_t)(written.n_bytes - at), &code_point);
        int byte = length > 0 ? unmap_byte(code_point) : -1;
        if (byte < 0) return false;
        out[(*n_out)++] = (char)byte;
        at += (size_t)length;
    }
    return true;
}

static void unescape_spaces(struct gguf_string written, char *out, size_t *n_out) {
    *n_out = 0;
    for (size_t at = 0; at < written.n_bytes;) {
        if (written.n_bytes - at >= 3 && memcmp(written.text + at, "\xe2\x96\x81", 3) == 0) {
            out[(*n_out)++] = ' ';
            at += 3;
        } else {
            out[(*n_out)++] = written.text[at++];
        }
    }
}

/* The value of <0xNN>, or -1. */
static int byte_written(struct gguf_string written) {
    static const char digits[] = "0123456789ABCDEF";
    if (written.n_bytes != 6 || memcmp(written.text, "<0x", 3) != 0 || written.text[5] != '>') {
        return -1;
    }
    const char *high = memchr(digits, written.text[3], 16);
    const char *low = memchr(digits, written.text[4], 16);
    return high && low ? (int)(high - digits) * 16 + (int)(low - digits) : -1;
}

static bool is_added(uint8_t type) {
    return type == TOKEN_CONTROL || type == TOKEN_UNKNOWN || type == TOKEN_USER_DEFINED;
}

/* Set piece[id], taking room from *room where it differs from the written form. */
static void make_piece(struct vocabulary *vocabulary, int32_t id, struct gguf_string written,
                       enum token_script script, char **room) {
    struct gguf_string *piece = &vocabulary->piece[id];
    uint8_t type = vocabulary->type[id];
    *piece = written;
    if (is_added(type)) return;
    size_t n_bytes = 0;
    int byte = type == TOKEN_BYTE ? byte_written(written) : -1;
    if (byte >= 0) {
        (*room)[0] = (char)byte;
        n_bytes = 1;
        if (vocabulary->byte_token[byte] < 0) vocabulary->byte_token[byte] = id;
    } else if (script == SCRIPT_SENTENCEPIECE) {
        unescape_spaces(written, *room, &n_bytes);
    } else if (!unmap_bytes(written, *room, &n_bytes)) {
        /* No bytes are written so: merging cannot make it, and another token may have its text. */
        vocabulary->type[id] = TOKEN_UNUSED;
        return;
    }
    *piece = (struct gguf_string){*room, n_bytes};
    *room += n_bytes;
}

/* ---- the hash table */

static size_t find_slot(const struct vocabulary *vocabulary, const char *text, size_t n_bytes) {
    size_t slot = (size_t)XXH3_64bits(text, n_bytes) & (vocabulary->n_slots - 1);
    for (;; slot = (slot + 1) & (vocabulary->n_slots - 1)) {
        int32_t id = vocabulary->slot[slot];
        if (id < 0) return slot;
        const struct gguf_string *piece = &vocabulary->piece[id];
        if (piece->n_bytes == n_bytes && memcmp(piece->text, text, n_bytes) == 0) return slot;
    }
}

int32_t vocabulary_find(const struct vocabulary *vocabulary, const char *text, size_t n_bytes) {
    if (n_bytes == 0 || n_bytes > vocabulary->longest) return -1;
    return vocabulary->slot[find_slot(vocabulary, text, n_bytes)];
}

int32_t vocabulary_find_written(const struct vocabulary *vocabulary, struct gguf_string written) {
    char few[256];
    char *bytes = written.n_bytes <= sizeof few ? few : check_alloc(written.n_bytes, 1);
    size_t n_bytes;
    int32_t id = unmap_bytes(written, bytes, &n_bytes)
                     ? vocabulary_find(vocabulary, bytes, n_bytes)
                     : vocabulary_find(vocabulary, written.text, written.n_bytes);
    if (bytes != few) free(bytes);
    return id;
}

static void insert_type(struct vocabulary *vocabulary, uint8_t type) {
    for (int32_t id = 0; id < vocabulary->n_tokens; id++) {
        struct gguf_string piece = vocabulary->piece[id];
        if (vocabulary->type[id] != type || piece.n_bytes == 0) continue;
        size_t slot = find_slot(vocabulary, piece.text, piece.n_bytes);
        if (vocabulary->slot[slot] >= 0) continue;
        vocabulary->slot[slot] = id;
        if (piece.n_bytes > vocabulary->longest) vocabulary->longest = piece.n_bytes;
    }
}

static void build_table(struct vocabulary *vocabulary) {
    vocabulary->n_slots = 2;
    while (vocabulary->n_slots < 2 * (size_t)vocabulary->n_tokens)
        vocabulary->n_slots *= 2;
    vocabulary->slot = check_alloc(vocabulary->n_slots, sizeof *vocabulary->slot);
    memset(vocabulary->slot, 0xff, vocabulary->n_slots * sizeof *vocabulary->slot);
    insert_type(vocabulary, TOKEN_NORMAL);
    insert_type(vocabulary, TOKEN_USER_DEFINED);
}

/* ---- added tokens */

static int compare_bytes(struct gguf_string a, struct gguf_string b) {
    size_t shorter = a.n_bytes < b.n_bytes ? a.n_bytes : b.n_bytes;
    int order = memcmp(a.text, b.text, shorter);
    return order ? order : (a.n_bytes > b.n_bytes) - (a.n_bytes < b.n_bytes);
}

static int compare_added(const void *a, const void *b, void *pieces) {
    const struct gguf_string *piece = pieces;
    int32_t left = *(const int32_t *)a, right = *(const int32_t *)b;
    int order = compare_bytes(piece[left], piece[right]);
    return order ? order : (left > right) - (left < right);
}

static void build_added(struct vocabulary *vocabulary) {
    for (int32_t id = 0; id < vocabulary->n_tokens; id++) {
        if (!is_added(vocabulary->type[id]) || vocabulary->piece[id].n_bytes == 0) continue;
        vocabulary->added[vocabulary->n_added++] = id;
    }
    qsort_r(vocabulary->added, (size_t)vocabulary->n_added, sizeof *vocabulary->added,
            compare_added, vocabulary->piece);
    int32_t at = 0;
    for (int byte = 0; byte < 256; byte++) {
        vocabulary->added_begin[byte] = at;
        while (at < vocabulary->n_added &&
               (unsigned char)vocabulary->piece[vocabulary->added[at]].text[0] == byte) {
            at++;
        }
    }
    vocabulary->added_begin[256] = at;
}

/* First index in [begin, end) of the added tokens whose byte `depth` is at least `byte`. Those of
 * the range agree before `depth`; one that ends there sorts first. */
static int32_t narrow(const struct vocabulary *vocabulary, int32_t begin, int32_t end, size_t depth,
                      int byte) {
    while (begin < end) {
        int32_t middle = begin + (end - begin) / 2;
        const struct gguf_string *piece = &vocabulary->piece[vocabulary->added[middle]];
        bool below = piece->n_bytes <= depth || (unsigned char)piece->text[depth] < byte;
        if (below) {
            begin = middle + 1;
        } else {
            end = middle;
        }
    }
    return begin;
}

int32_t vocabulary_match_added(const struct vocabulary *vocabulary, const char *text,
                               size_t n_bytes, bool parse_special) {
    int first = (unsigned char)text[0];
    int32_t begin = vocabulary->added_begin[first], end = vocabulary->added_begin[first + 1];
    int32_t found = -1;
    for (size_t depth = 1; begin < end; depth++) {
        /* Tokens that end here stand first in the range, the lowest id before the others. */
        for (int32_t at = begin; at < end; at++) {
            int32_t id = vocabulary->added[at];
            if (vocabulary->piece[id].n_bytes != depth) break;
            if (!parse_special && vocabulary->type[id] != TOKEN_USER_DEFINED) continue;
            found = id;
            break;
        }
        if (depth == n_bytes) break;
        int byte = (unsigned char)text[depth];
        begin = narrow(vocabulary, begin, end, depth, byte);
        end = narrow(vocabulary, begin, end, depth, byte + 1);
    }
    return found;
}

int32_t vocabulary_find_added(const struct vocabulary *vocabulary, const char *text,
                              size_t n_bytes) {
    if (n_bytes == 0) return -1;
    int32_t id = vocabulary_match_added(vocabulary, text, n_bytes, true);
    return id >= 0 && vocabulary->piece[id].n_bytes == n_bytes ? id : -1;
}

/* ---- open and close */

bool vocabulary_fault(const struct gguf *gguf, struct fault *fault, const char *format, ...) {
    char path[256], text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return fault_user(fault, "%s: %s",
                      log_escape(path, sizeof path, gguf->path, strlen(gguf->path)), text);
}

static bool read_types(struct vocabulary *vocabulary, const struct gguf *gguf,
                       struct fault *fault) {
    const struct gguf_value *types = gguf_find(gguf, "tokenizer.ggml.token_type");
    size_t n_tokens = (size_t)vocabulary->n_tokens;
    if (!types) {
        memset(vocabulary->type, TOKEN_NORMAL, n_tokens);
        return true;
    }
    if (types->kind != GGUF_ARRAY || (types->element != GGUF_I32 && types->element != GGUF_U32) ||
        types->n_elements != n_tokens) {
        return vocabulary_fault(
            gguf, fault,
            "tokenizer.ggml.token_type holds %zu values of kind %s; it should "
            "hold one i32 for each of the %zu tokens",
            types->n_elements,
            gguf_kind_name(types->kind == GGUF_ARRAY ? types->element : types->kind), n_tokens);
    }
    for (size_t id = 0; id < n_tokens; id++) {
        int64_t type = gguf_array_int(types, id);
        bool known = type >= TOKEN_NORMAL && type <= TOKEN_BYTE;
        vocabulary->type[id] = known ? (uint8_t)type : TOKEN_NORMAL;
    }
    return true;
}

static bool read_tokens(struct vocabulary *vocabulary, const struct gguf *gguf,
                        enum token_script script, struct fault *fault) {
    const struct gguf_value *tokens = gguf_find(gguf, "tokenizer.ggml.tokens");
    if (!tokens || tokens->kind != GGUF_ARRAY || tokens->element != GGUF_STRING ||
        tokens->n_elements == 0 || tokens->n_elements > INT32_MAX / 4) {
        return vocabulary_fault(gguf, fault, "tokenizer.ggml.tokens is not a list of tokens");
    }
    size_t n_tokens = tokens->n_elements, n_bytes = 0;
    for (size_t id = 0; id < n_tokens; id++)
        n_bytes += tokens->string[id].n_bytes;
    vocabulary->n_tokens = (int32_t)n_tokens;
    vocabulary->piece = check_alloc(n_tokens, sizeof *vocabulary->piece);
    vocabulary->type = check_alloc(n_tokens, 1);
    vocabulary->added = check_alloc(n_tokens, sizeof *vocabulary->added);
    vocabulary->bytes = check_alloc(n_bytes, 1);
    if (!read_types(vocabulary, gguf, fault)) return false;
    char *room = vocabulary->bytes;
    for (int32_t id = 0; id < vocabulary->n_tokens; id++) {
        make_piece(vocabulary, id, tokens->string[id], script, &room);
        bool unknown = vocabulary->type[id] == TOKEN_UNKNOWN;
        if (unknown && vocabulary->unknown_token < 0) vocabulary->unknown_token = id;
    }
    return true;
}

bool vocabulary_open(struct vocabulary *vocabulary, const struct gguf *gguf,
                     enum token_script script, struct fault *fault) {
    *vocabulary = (struct vocabulary){.unknown_token = -1};
    memset(vocabulary->byte_token, 0xff, sizeof vocabulary->byte_token);
    if (!read_tokens(vocabulary, gguf, script, fault)) {
        vocabulary_close(vocabulary);
        return false;
    }
    build_table(vocabulary);
    build_added(vocabulary);
    if (script == SCRIPT_BYTE_LEVEL) {
        for (int byte = 0; byte < 256; byte++) {
            char text = (char)byte;
            vocabulary->byte_token[byte] = vocabulary_find(vocabulary, &text, 1);
        }
    }
    return true;
}

void vocabulary_close(struct vocabulary *vocabulary) {
    free(vocabulary->piece);
    free(vocabulary->type);
    free(vocabulary->bytes);
    free(vocabulary->slot);
    free(vocabulary->added);
    *vocabulary = (struct vocabulary){0};
}
