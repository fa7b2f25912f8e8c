/* tokenizer_bpe.c - byte-level BPE: words from the pre-tokenizer, merged by rank. See
 * tokenizer_parts.h.
 *
 * Symbols are token ids from the first byte on, and merges are keyed by a pair of ids, so a merge
 * costs one probe and no text is compared. A byte without a token stays a symbol that nothing
 * merges with and that makes no token (as llama.cpp has it; Hugging Face drops it before merging).
 *
 * Source: tokenizer.ggml.merges of a GGUF file ("a b", best first) and tokenizers' BPE model.
 */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "log.h"
#include "tokenizer_parts.h"

static const uint64_t EMPTY_PAIR = UINT64_MAX;

/* Ranks are exact as float (the cost of a candidate). */
enum { MAX_MERGES = 1 << 24 };

static uint64_t make_pair(int32_t left, int32_t right) {
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

static size_t find_pair(const struct merge_table *merges, uint64_t pair) {
    uint64_t mixed = pair * UINT64_C(0x9e3779b97f4a7c15);
    size_t slot = (size_t)(mixed ^ mixed >> 32) & (merges->n_slots - 1);
    while (merges->pair[slot] != EMPTY_PAIR && merges->pair[slot] != pair) {
        slot = (slot + 1) & (merges->n_slots - 1);
    }
    return slot;
}

/* Read one "a b"; the space is the first one past the first byte. */
static bool read_merge(struct tokenizer *tokenizer, struct gguf_string text, int32_t rank) {
    const char *space = text.n_bytes > 2 ? memchr(text.text + 1, ' ', text.n_bytes - 2) : NULL;
    if (!space) return false;
    const struct vocabulary *vocabulary = &tokenizer->vocabulary;
    size_t n_left = (size_t)(space - text.text), n_right = text.n_bytes - n_left - 1;
    int32_t left = vocabulary_find_written(vocabulary, (struct gguf_string){text.text, n_left});
    int32_t right = vocabulary_find_written(vocabulary, (struct gguf_string){space + 1, n_right});
    if (left < 0 || right < 0) return false;
    const struct gguf_string *first = &vocabulary->piece[left], *second = &vocabulary->piece[right];
    size_t n_bytes = first->n_bytes + second->n_bytes;
    char few[256];
    char *both = n_bytes <= sizeof few ? few : check_alloc(n_bytes, 1);
    memcpy(both, first->text, first->n_bytes);
    memcpy(both + first->n_bytes, second->text, second->n_bytes);
    int32_t id = vocabulary_find(vocabulary, both, n_bytes);
    if (both != few) free(both);
    if (id < 0) return false;
    size_t slot = find_pair(&tokenizer->merges, make_pair(left, right));
    if (tokenizer->merges.pair[slot] != EMPTY_PAIR) return true; /* the better rank stands */
    tokenizer->merges.pair[slot] = make_pair(left, right);
    tokenizer->merges.entry[slot] = (struct merge_entry){rank, id};
    return true;
}

static bool read_merges(struct tokenizer *tokenizer, const struct gguf *gguf, struct fault *fault) {
    const struct gguf_value *merges = gguf_find(gguf, "tokenizer.ggml.merges");
    if (!merges || merges->kind != GGUF_ARRAY || merges->element != GGUF_STRING ||
        merges->n_elements > MAX_MERGES) {
        return vocabulary_fault(gguf, fault, "tokenizer.ggml.merges is not a list of merges");
    }
    struct merge_table *table = &tokenizer->merges;
    table->n_slots = 2;
    while (table->n_slots < 2 * merges->n_elements)
        table->n_slots *= 2;
    table->pair = check_alloc(table->n_slots, sizeof *table->pair);
    table->entry = check_alloc(table->n_slots, sizeof *table->entry);
    memset(table->pair, 0xff, table->n_slots * sizeof *table->pair);
    for (size_t rank = 0; rank < merges->n_elements; rank++) {
        struct gguf_string text = merges->string[rank];
        if (read_merge(tokenizer, text, (int32_t)rank)) continue;
        char shown[128];
        return vocabulary_fault(
            gguf, fault,
            "tokenizer.ggml.merges[%zu] is \"%s\"; it should be two tokens with "
            "a space between, whose joining is a token too",
            rank, log_escape(shown, sizeof shown, text.text, text.n_bytes));
    }
    return true;
}

bool tokenizer_open_bpe(struct tokenizer *tokenizer, const struct gguf *gguf, struct fault *fault) {
    static const char key[] = "tokenizer.ggml.pre";
    struct gguf_string name;
    if (!gguf_find(gguf, key)) {
        return vocabulary_fault(gguf, fault,
                                "no %s says how text is cut into words, as in files of old "
                                "converters; convert the model again",
                                key);
    }
    if (!gguf_read_string(gguf, key, &name, fault)) return false;
    struct fault unknown = {0};
    tokenizer->rules = pretokenizer_find(name.text, name.n_bytes, &unknown);
    if (!tokenizer->rules) return vocabulary_fault(gguf, fault, "%s", unknown.text);
    return pretokenizer_open(&tokenizer->pretokenizer, tokenizer->rules, fault) &&
           read_merges(tokenizer, gguf, fault);
}

/* ---- normalisation form C */

/* utf8proc sorts the marks behind a letter by exchanging neighbours: quadratic in their number. No
 * writing system comes near this many. */
enum { MAX_MARKS = 2000 };

static bool has_long_marks(const char *text, size_t n_bytes) {
    int marks = 0;
    for (size_t at = 0; at < n_bytes;) {
        utf8proc_int32_t code_point = 0;
        utf8proc_ssize_t length = utf8proc_iterate((const utf8proc_uint8_t *)text + at,
                                                   (utf8proc_ssize_t)(n_bytes - at), &code_point);
        marks = utf8proc_get_property(code_point)->combining_class ? marks + 1 : 0;
        if (marks > MAX_MARKS) return true;
        at += length > 0 ? (size_t)length : 1;
    }
    return false;
}

/* True where composing cannot change the text: below U+0300 nothing combines. */
static bool is_composed(const char *text, size_t n_bytes) {
    for (size_t at = 0; at < n_bytes; at++) {
        if ((unsigned char)text[at] >= 0xcc) return false;
    }
    return true;
}

/* The text in form C, to be freed, or NULL with a fault. */
static char *compose(const char *text, size_t n_bytes, size_t *n_composed, struct fault *fault) {
    if (has_long_marks(text, n_bytes)) {
        fault_user(fault, "text has more than %d combining marks in a row", MAX_MARKS);
        return NULL;
    }
    utf8proc_uint8_t *composed;
    utf8proc_ssize_t length =
        utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)n_bytes, &composed,
                     UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (length == UTF8PROC_ERROR_NOMEM) check_fail("out of memory: %zu bytes of text", n_bytes);
    if (length < 0) {
        fault_user(fault, "text cannot be composed: %s", utf8proc_errmsg(length));
        return NULL;
    }
    *n_composed = (size_t)length;
    return (char *)composed;
}

/* ---- encoding */

static bool price_pair(const void *context, const char *word, const struct merge_symbol *left,
                       const struct merge_symbol *right, struct merge_candidate *pair) {
    const struct merge_table *merges = context;
    (void)word;
    if (left->id < 0 || right->id < 0) return false;
    size_t slot = find_pair(merges, make_pair(left->id, right->id));
    if (merges->pair[slot] == EMPTY_PAIR) return false;
    pair->cost = (float)merges->entry[slot].rank;
    pair->id = merges->entry[slot].id;
    return true;
}

static void encode_word(struct tokenizer *tokenizer, const char *word, size_t n_bytes,
                        struct token_list *list) {
    const struct vocabulary *vocabulary = &tokenizer->vocabulary;
    if (tokenizer->rules->ignore_merges) {
        int32_t id = vocabulary_find(vocabulary, word, n_bytes);
        if (id >= 0) {
            tokenizer_append(list, id);
            return;
        }
    }
    struct merge_work *work = &tokenizer->work;
    merge_begin(work);
    for (size_t byte = 0; byte < n_bytes; byte++) {
        merge_add(work, 1, vocabulary->byte_token[(unsigned char)word[byte]]);
    }
    merge_run(work, word, price_pair, &tokenizer->merges);
    for (int32_t at = 0; at >= 0; at = work->symbol[at].next) {
        if (work->symbol[at].id >= 0) tokenizer_append(list, work->symbol[at].id);
    }
}

static bool encode_composed(struct tokenizer *tokenizer, const char *text, size_t n_bytes,
                            struct token_list *list, struct fault *fault) {
    const struct word_list *words =
        pretokenizer_split(tokenizer->pretokenizer, text, n_bytes, fault);
    if (!words) return false;
    size_t begin = 0;
    for (size_t word = 0; word < words->n; word++) {
        size_t end = (size_t)words->end[word];
        if (end - begin > MERGE_MAX_BYTES) return tokenizer_word_too_long(end - begin, fault);
        encode_word(tokenizer, text + begin, end - begin, list);
        begin = end;
    }
    merge_trim(&tokenizer->work);
    return true;
}

bool tokenizer_encode_bpe(struct tokenizer *tokenizer, const char *text, size_t n_bytes,
                          struct token_list *list, struct fault *fault) {
    if (!tokenizer->rules->compose || is_composed(text, n_bytes)) {
        return encode_composed(tokenizer, text, n_bytes, list, fault);
    }
    size_t n_composed;
    char *composed = compose(text, n_bytes, &n_composed, fault);
    if (!composed) return false;
    bool encoded = encode_composed(tokenizer, composed, n_composed, list, fault);
    free(composed);
    return encoded;
}
