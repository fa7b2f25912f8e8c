/* merge.c - a heap of candidate pairs over a doubly linked list of symbols. See merge.h.
 *
 * Invariant: for every pair of neighbours that the rule allows, the heap holds a candidate with
 * their present length. Symbols only grow, so a candidate whose left symbol is gone or whose length
 * no longer equals that of its two symbols is stale and is dropped when it comes up. Searching the
 * word again for its best pair after each merge was rejected: quadratic in the word.
 *
 * Source of the order (cost, then leftmost): SentencePiece's BPE and llama.cpp, which agree.
 */
#include "merge.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"

enum { MERGE_KEPT_SYMBOLS = 1 << 16 };

static void *grow(void *items, size_t *capacity, size_t item_bytes) {
    size_t wider = *capacity ? *capacity * 2 : 64;
    void *moved = check_alloc(wider, item_bytes);
    if (items) memcpy(moved, items, *capacity * item_bytes);
    free(items);
    *capacity = wider;
    return moved;
}

static bool comes_before(const struct merge_candidate *a, const struct merge_candidate *b) {
    return a->cost < b->cost || (a->cost == b->cost && a->left < b->left);
}

static void heap_push(struct merge_work *work, struct merge_candidate candidate) {
    if (work->n_candidates == work->heap_capacity) {
        work->heap = grow(work->heap, &work->heap_capacity, sizeof *work->heap);
    }
    size_t at = work->n_candidates++;
    while (at > 0) {
        size_t parent = (at - 1) / 2;
        if (!comes_before(&candidate, &work->heap[parent])) break;
        work->heap[at] = work->heap[parent];
        at = parent;
    }
    work->heap[at] = candidate;
}

static struct merge_candidate heap_pop(struct merge_work *work) {
    struct merge_candidate first = work->heap[0];
    struct merge_candidate last = work->heap[--work->n_candidates];
    size_t at = 0;
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= work->n_candidates) break;
        if (child + 1 < work->n_candidates &&
            comes_before(&work->heap[child + 1], &work->heap[child])) {
            child++;
        }
        if (!comes_before(&work->heap[child], &last)) break;
        work->heap[at] = work->heap[child];
        at = child;
    }
    if (work->n_candidates > 0) work->heap[at] = last;
    return first;
}

void merge_begin(struct merge_work *work) {
    work->n_symbols = 0;
    work->n_candidates = 0;
}

void merge_add(struct merge_work *work, int32_t n_bytes, int32_t id) {
    if (work->n_symbols == work->symbol_capacity) {
        work->symbol = grow(work->symbol, &work->symbol_capacity, sizeof *work->symbol);
    }
    int32_t at = (int32_t)work->n_symbols++;
    struct merge_symbol *symbol = &work->symbol[at];
    *symbol = (struct merge_symbol){.n_bytes = n_bytes, .id = id, .previous = at - 1, .next = -1};
    if (at == 0) return;
    struct merge_symbol *before = &work->symbol[at - 1];
    before->next = at;
    symbol->begin = before->begin + before->n_bytes;
}

void merge_run(struct merge_work *work, const char *word, merge_rule *rule, const void *context) {
    struct merge_symbol *symbol = work->symbol;
    struct merge_candidate pair;
    for (int32_t left = 0; left + 1 < (int32_t)work->n_symbols; left++) {
        pair.left = left;
        pair.merged_bytes = symbol[left].n_bytes + symbol[left + 1].n_bytes;
        if (rule(context, word, &symbol[left], &symbol[left + 1], &pair)) heap_push(work, pair);
    }
    while (work->n_candidates > 0) {
        struct merge_candidate best = heap_pop(work);
        struct merge_symbol *left = &symbol[best.left];
        if (left->n_bytes == 0 || left->next < 0) continue;
        struct merge_symbol *right = &symbol[left->next];
        if (left->n_bytes + right->n_bytes != best.merged_bytes) continue;
        left->n_bytes = best.merged_bytes;
        left->id = best.id;
        left->next = right->next;
        right->n_bytes = 0;
        if (left->next >= 0) symbol[left->next].previous = best.left;
        int32_t neighbours[2] = {left->previous, best.left};
        for (int side = 0; side < 2; side++) {
            pair.left = neighbours[side];
            if (pair.left < 0 || symbol[pair.left].next < 0) continue;
            const struct merge_symbol *first = &symbol[pair.left], *second = &symbol[first->next];
            pair.merged_bytes = first->n_bytes + second->n_bytes;
            if (rule(context, word, first, second, &pair)) heap_push(work, pair);
        }
    }
}

void merge_trim(struct merge_work *work) {
    if (work->symbol_capacity > MERGE_KEPT_SYMBOLS) merge_close(work);
}

void merge_close(struct merge_work *work) {
    free(work->symbol);
    free(work->heap);
    *work = (struct merge_work){0};
}
