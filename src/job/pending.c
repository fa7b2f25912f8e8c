/* pending.c - a list of requests and how far each has come. See pending.h.
 *
 * Owns the list and its counts. The invariant: no generation before `unbegun` is left to be begun,
 * so in input order the next one is found without a walk. When to begin one, and how many may be
 * open, is left to the desk. Rejected: a queue for each state, between which requests would move
 * out of the input's order.
 */
#include "pending.h"

#include <stdint.h>
#include <stdlib.h>

static size_t n_unbegun_of(const struct pending_entry *entry) {
    if (entry->request.refusal.refused) return 0;
    return request_n_generations(&entry->request) - entry->n_begun;
}

static void skip_begun(struct pending *pending) {
    while (pending->unbegun && n_unbegun_of(pending->unbegun) == 0)
        pending->unbegun = pending->unbegun->behind;
}

void pending_append(struct pending *pending, struct pending_entry *entry) {
    entry->before = pending->last;
    if (pending->last) pending->last->behind = entry;
    if (!pending->first) pending->first = entry;
    pending->last = entry;
    pending->n_unbegun += n_unbegun_of(entry);
    if (!pending->unbegun) pending->unbegun = entry;
    skip_begun(pending);
}

static int64_t length_of(const struct pending_entry *entry) {
    const struct generation *generation = &entry->request.generation[entry->n_begun];
    return (int64_t)generation->n_prompt + generation->max_new;
}

static bool may_begin(const struct pending *pending, const struct pending_entry *entry,
                      size_t most_open) {
    return entry->n_begun > 0 || entry == pending->first || pending->n_open < most_open;
}

struct pending_entry *pending_choose(const struct pending *pending, bool longest,
                                     size_t most_open) {
    struct pending_entry *best = NULL, *entry = pending->unbegun;
    if (!longest) return entry && may_begin(pending, entry, most_open) ? entry : NULL;
    for (; entry; entry = entry->behind) {
        if (n_unbegun_of(entry) == 0 || !may_begin(pending, entry, most_open)) continue;
        if (!best || length_of(entry) > length_of(best)) best = entry;
    }
    return best;
}

struct generation *pending_begin(struct pending *pending, struct pending_entry *entry,
                                 size_t *n_bytes) {
    size_t index = entry->n_begun++;
    *n_bytes = request_bytes(&entry->request, index);
    struct generation *generation = request_begin(&entry->request, index);
    generation->owner = entry;
    if (index == 0) pending->n_open++;
    pending->n_unbegun--;
    skip_begun(pending);
    return generation;
}

void pending_finish(struct pending *pending, struct pending_entry *entry) {
    entry->finished = true;
    pending->n_held++;
}

void pending_release(struct pending *pending, struct pending_entry *entry) {
    if (entry->before) entry->before->behind = entry->behind;
    if (entry->behind) entry->behind->before = entry->before;
    if (pending->first == entry) pending->first = entry->behind;
    if (pending->last == entry) pending->last = entry->before;
    if (pending->unbegun == entry) pending->unbegun = entry->behind;
    skip_begun(pending);
    pending->n_unbegun -= n_unbegun_of(entry);
    pending->n_open -= entry->n_begun > 0;
    pending->n_held -= entry->finished;
    request_close(&entry->request);
    free(entry);
}
