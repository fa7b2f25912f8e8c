/* tokenizer_spm.c - SentencePiece BPE models: merging by the score of the token that two neighbours
 * make. See tokenizer_parts.h.
 *
 * The whole fragment is one word. A character that is no token at the end becomes its bytes' tokens
 * (<0xNN>), or the unknown token where the vocabulary has none. Text is looked up with plain
 * spaces, since pieces are stored so; U+2581 in the text is a space, as it is to SentencePiece.
 *
 * Source: sentencepiece's bpe_model.cc (order of merges: higher score, then leftmost; control and
 * byte tokens cannot be made by merging).
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tokenizer_parts.h"
#include "utf8.h"

bool tokenizer_open_spm(struct tokenizer *tokenizer, const struct gguf *gguf, struct fault *fault) {
    size_t n_tokens = (size_t)tokenizer->vocabulary.n_tokens;
    const struct gguf_value *scores = gguf_find(gguf, "tokenizer.ggml.scores");
    if (!scores || scores->kind != GGUF_ARRAY || scores->element != GGUF_F32 ||
        scores->n_elements != n_tokens) {
        return vocabulary_fault(gguf, fault,
                                "tokenizer.ggml.scores should hold one f32 for each of the "
                                "%zu tokens",
                                n_tokens);
    }
    tokenizer->score = check_alloc(n_tokens, sizeof *tokenizer->score);
    for (size_t id = 0; id < n_tokens; id++) {
        tokenizer->score[id] = (float)gguf_array_float(scores, id);
        if (isnan(tokenizer->score[id])) {
            return vocabulary_fault(gguf, fault, "tokenizer.ggml.scores[%zu] is not a number", id);
        }
    }
    return true;
}

static bool price_pair(const void *context, const char *word, const struct merge_symbol *left,
                       const struct merge_symbol *right, struct merge_candidate *pair) {
    const struct tokenizer *tokenizer = context;
    (void)right;
    pair->id =
        vocabulary_find(&tokenizer->vocabulary, word + left->begin, (size_t)pair->merged_bytes);
    if (pair->id < 0) return false;
    pair->cost = -tokenizer->score[pair->id];
    return true;
}

static void append_symbol(const struct tokenizer *tokenizer, const char *text,
                          const struct merge_symbol *symbol, struct token_list *list) {
    const struct vocabulary *vocabulary = &tokenizer->vocabulary;
    if (symbol->id >= 0) {
        tokenizer_append(list, symbol->id);
        return;
    }
    for (int32_t at = symbol->begin; at < symbol->begin + symbol->n_bytes; at++) {
        int32_t id = vocabulary->byte_token[(unsigned char)text[at]];
        if (id >= 0) {
            tokenizer_append(list, id);
        } else {
            if (vocabulary->unknown_token >= 0) tokenizer_append(list, vocabulary->unknown_token);
            return;
        }
    }
}

bool tokenizer_encode_spm(struct tokenizer *tokenizer, const char *text, size_t n_bytes,
                          bool add_space, struct token_list *list, struct fault *fault) {
    if (n_bytes >= MERGE_MAX_BYTES) return tokenizer_word_too_long(n_bytes, fault);
    char *plain = check_alloc(n_bytes + 1, 1);
    size_t n_plain = 0;
    if (add_space) plain[n_plain++] = ' ';
    struct merge_work *work = &tokenizer->work;
    merge_begin(work);
    for (size_t at = 0; at < n_bytes;) {
        if (n_bytes - at >= 3 && memcmp(text + at, "\xe2\x96\x81", 3) == 0) {
            plain[n_plain++] = ' ';
            at += 3;
        } else {
            plain[n_plain++] = text[at++];
        }
    }
    for (size_t at = 0, length; at < n_plain; at += length) {
        utf8_judge(plain + at, n_plain - at, &length);
        merge_add(work, (int32_t)length,
                  vocabulary_find(&tokenizer->vocabulary, plain + at, length));
    }
    merge_run(work, plain, price_pair, tokenizer);
    for (int32_t at = 0; at >= 0; at = work->symbol[at].next) {
        append_symbol(tokenizer, plain, &work->symbol[at], list);
    }
    merge_trim(work);
    free(plain);
    return true;
}
