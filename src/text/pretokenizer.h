/* pretokenizer.h - cutting text into the words that BPE merges within.
 *
 * GGUF carries no regular expression, only a name (tokenizer.ggml.pre); a table gives each known
 * name the model's own patterns and the flags that go with them. Each pattern in turn cuts every
 * word so far into its matches and what stands between them.
 */
#ifndef LAMINA_PRETOKENIZER_H
#define LAMINA_PRETOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "check.h"

enum { PRETOKENIZER_MAX_PATTERNS = 6 };

struct pretokenizer_rules {
    const char *names;                              /* comma-separated, as in GGUF files */
    const char *pattern[PRETOKENIZER_MAX_PATTERNS]; /* in order, NULL beyond the last */
    bool ignore_merges; /* a word that is a token as it stands is taken whole */
    bool add_bos;       /* where the file does not say */
    bool compose;       /* text is brought to Unicode normalisation form C first */
};

/* The rules of a name, or a fault that lists the known names. */
const struct pretokenizer_rules *pretokenizer_find(const char *name, size_t n_bytes,
                                                   struct fault *fault);

/* Ends of words, as byte offsets, rising. Zero-initialise; release with free(words.end). */
struct word_list {
    int32_t *end;
    size_t n, capacity;
};

struct pretokenizer;

bool pretokenizer_open(struct pretokenizer **pretokenizer, const struct pretokenizer_rules *rules,
                       struct fault *fault);
void pretokenizer_close(struct pretokenizer *pretokenizer);

/* Cut valid UTF-8 shorter than 2^31 bytes into words; a view, valid until the next call. NULL with
 * a fault when a pattern ran into a limit. */
const struct word_list *pretokenizer_split(struct pretokenizer *pretokenizer, const char *text,
                                           size_t n_bytes, struct fault *fault);

#endif
