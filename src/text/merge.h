/* merge.h - merging the symbols of one word, cheapest pair first, until no pair can be merged.
 *
 * What BPE and SPM share: only the rule that prices a pair of neighbours differs. A word of n
 * symbols costs O(n log n), so that one word of megabytes is no trouble.
 */
#ifndef LAMINA_MERGE_H
#define LAMINA_MERGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct merge_symbol {
    int32_t begin, n_bytes; /* place in the word; n_bytes 0: merged into the symbol before it */
    int32_t id;             /* token, or -1 where no token is written so */
    int32_t previous, next; /* neighbours, -1 at the ends */
};

struct merge_candidate {
    float cost;           /* lower first; equal costs: leftmost first */
    int32_t left;         /* index of the left symbol */
    int32_t merged_bytes; /* of both symbols together: stale when this no longer holds */
    int32_t id;           /* the token both make */
};

/* The rule: fill cost and id of `pair` and return true when these neighbours may be merged. */
typedef bool merge_rule(const void *context, const char *word, const struct merge_symbol *left,
                        const struct merge_symbol *right, struct merge_candidate *pair);

/* Symbols of a word and room for candidates; grows as needed. Zero-initialise. */
struct merge_work {
    struct merge_symbol *symbol; /* (n_symbols) */
    size_t n_symbols, symbol_capacity;
    struct merge_candidate *heap; /* (n_candidates) */
    size_t n_candidates, heap_capacity;
};

/* The longest word, so that one line of a request cannot take the memory of the job: merging needs
 * some 50 bytes for each of its bytes. Far more tokens than any context holds. */
enum { MERGE_MAX_BYTES = 16 << 20 };

/* Begin a word; then add its symbols left to right; then run. Afterwards follow `next` from symbol
 * 0. A word has at most MERGE_MAX_BYTES. */
void merge_begin(struct merge_work *work);
void merge_add(struct merge_work *work, int32_t n_bytes, int32_t id);
void merge_run(struct merge_work *work, const char *word, merge_rule *rule, const void *context);

/* Give back what an unusually long word took. */
void merge_trim(struct merge_work *work);
void merge_close(struct merge_work *work);

#endif
