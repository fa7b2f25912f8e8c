/* vocabulary.h - the tokens of a model file: what each stands for, and which token stands for a
 * text.
 *
 * A token's *piece* is the bytes it adds to running text: the written form with the byte-level map
 * undone (BPE), with U+2581 read as a space (SPM), or the one byte of <0xNN>. Control, unknown and
 * user-defined tokens are *added* tokens: their piece is their written form, and they are found in
 * text as a whole, never by merging. All lookups are by piece.
 */
#ifndef LAMINA_VOCABULARY_H
#define LAMINA_VOCABULARY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "check.h"
#include "gguf.h"

/* tokenizer.ggml.token_type of a GGUF file. */
enum token_type {
    TOKEN_NORMAL = 1,
    TOKEN_UNKNOWN = 2,
    TOKEN_CONTROL = 3,
    TOKEN_USER_DEFINED = 4,
    TOKEN_UNUSED = 5,
    TOKEN_BYTE = 6
};

/* How written forms become pieces; SCRIPT_NUMBERS: there are none. */
enum token_script { SCRIPT_BYTE_LEVEL, SCRIPT_SENTENCEPIECE, SCRIPT_NUMBERS };

struct vocabulary {
    int32_t n_tokens;
    struct gguf_string *piece; /* (n_tokens), in `bytes` or in the file's map */
    uint8_t *type;             /* (n_tokens) enum token_type */
    char *bytes;               /* pieces that differ from their written form */
    int32_t *slot;             /* (n_slots) hash table of pieces: a token id, or -1 */
    size_t n_slots;            /* a power of two */
    size_t longest;            /* bytes of the longest piece in that table */
    int32_t *added;            /* (n_added) ids of added tokens, by piece bytes, then by id */
    int32_t n_added;
    int32_t added_begin[257]; /* added[added_begin[b]..added_begin[b + 1]) begin with byte b */
    int32_t byte_token[256];  /* SPM: the id of <0xNN>; BPE: of that byte's piece; -1: none */
    int32_t unknown_token;    /* the first token of type unknown, or -1 */
};

/* Read tokenizer.ggml.tokens and token_type. The file must stay open. False with a fault that names
 * the key when they do not fit together. */
bool vocabulary_open(struct vocabulary *vocabulary, const struct gguf *gguf,
                     enum token_script script, struct fault *fault);
void vocabulary_close(struct vocabulary *vocabulary);

/* A user's fault about a key of `gguf`, beginning with the file's name. Always false. */
bool vocabulary_fault(const struct gguf *gguf, struct fault *fault, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The token that merging makes of these bytes (normal or user-defined, never control), or -1. */
int32_t vocabulary_find(const struct vocabulary *vocabulary, const char *text, size_t n_bytes);

/* The same for a text in written form (merges are written so). */
int32_t vocabulary_find_written(const struct vocabulary *vocabulary, struct gguf_string written);

/* The longest added token that `text` begins with, or -1; only user-defined ones unless
 * `parse_special`. */
int32_t vocabulary_match_added(const struct vocabulary *vocabulary, const char *text,
                               size_t n_bytes, bool parse_special);

/* The added token written exactly so, or -1. */
int32_t vocabulary_find_added(const struct vocabulary *vocabulary, const char *text,
                              size_t n_bytes);

#endif
