/* tokenizer_parts.h - what the files of the tokenizer share: the state, and the two models' halves.
 *
 * tokenizer.c cuts text at added tokens and hands what is between them, a *fragment*, to the model.
 */
#ifndef LAMINA_TOKENIZER_PARTS_H
#define LAMINA_TOKENIZER_PARTS_H

#include "merge.h"
#include "pretokenizer.h"
#include "tokenizer.h"
#include "vocabulary.h"

/* BPE's merges: (left id, right id) -> rank and the id of both together. Open addressing. */
struct merge_table {
    uint64_t *pair; /* (n_slots) left << 32 | right; all ones: empty */
    struct merge_entry {
        int32_t rank, id;
    } * entry;      /* (n_slots) */
    size_t n_slots; /* a power of two */
};

enum { TOKENIZER_MAX_STOP_IDS = 8 };

struct tokenizer {
    enum token_script script;
    struct vocabulary vocabulary;
    const struct pretokenizer_rules *rules; /* BPE */
    struct pretokenizer *pretokenizer;      /* BPE */
    struct merge_table merges;              /* BPE */
    float *score;                           /* SPM: (n_tokens) */
    bool adds_space;                        /* SPM: a space goes before the first fragment */
    bool strips_after;                      /* white space after an added token is swallowed */
    int32_t bos, eos;                       /* added to prompts, or -1 */
    bool *special;                          /* (n_tokens) left out by skip_special */
    int32_t stop_id[TOKENIZER_MAX_STOP_IDS];
    size_t n_stop_ids;
    struct merge_work work;
};

/* Append an id; used by all three files. */
void tokenizer_append(struct token_list *list, int32_t id);

/* Read merges and pre-tokenizer (BPE) or scores (SPM); the vocabulary is open. */
bool tokenizer_open_bpe(struct tokenizer *tokenizer, const struct gguf *gguf, struct fault *fault);
bool tokenizer_open_spm(struct tokenizer *tokenizer, const struct gguf *gguf, struct fault *fault);

/* Append the tokens of a fragment of valid UTF-8, n_bytes >= 1. */
bool tokenizer_encode_bpe(struct tokenizer *tokenizer, const char *text, size_t n_bytes,
                          struct token_list *list, struct fault *fault);
/* `add_space`: a space goes before it. */
bool tokenizer_encode_spm(struct tokenizer *tokenizer, const char *text, size_t n_bytes,
                          bool add_space, struct token_list *list, struct fault *fault);

/* A user's fault: a word longer than MERGE_MAX_BYTES. Always false. */
bool tokenizer_word_too_long(size_t n_bytes, struct fault *fault);

#endif
