/* pending.h - the requests between their line and their answer, in the order of the input.
 *
 * A request is appended when it is prepared, begun one generation after the other, finished when
 * its answer or refusal is known, and released when that is written. One thread's, without locks.
 */
#ifndef LAMINA_PENDING_H
#define LAMINA_PENDING_H

#include <stdbool.h>
#include <stddef.h>

#include "generation.h"
#include "requests.h"

struct pending_entry {
    struct request request;
    struct pending_entry *before, *behind; /* in the input */
    size_t n_begun;                        /* generations given out by pending_begin */
    size_t n_saved;                        /* generations that had begun before a checkpoint */
    size_t n_ended;                        /* generations decode has let go of: the owner's count */
    bool interrupted, finished;            /* interrupted: the owner's too */
};

/* Zeroed is empty. All may be read. */
struct pending {
    struct pending_entry *first, *last;
    struct pending_entry *unbegun; /* the first with generations that are not begun */
    size_t n_unbegun;              /* generations */
    size_t n_open;                 /* requests begun and not released */
    size_t n_held;                 /* requests finished and not released */
};

/* Put a request behind all others; `entry` is from check_alloc and owned from now on. Of a refused
 * one nothing is to be begun. */
void pending_append(struct pending *pending, struct pending_entry *entry);

/* The request whose next generation is to be begun, or NULL: the first, or the one with the longest
 * next generation (prompt and most answer; of equals the first). No request is begun while
 * `most_open` are, but for the very first, for which all wait. */
struct pending_entry *pending_choose(const struct pending *pending, bool longest, size_t most_open);

/* Begin the next generation of a chosen request: it has buffers, of *n_bytes in all, and `entry` as
 * its owner. */
struct generation *pending_begin(struct pending *pending, struct pending_entry *entry,
                                 size_t *n_bytes);

void pending_finish(struct pending *pending, struct pending_entry *entry);

/* Close the request and free the entry. */
void pending_release(struct pending *pending, struct pending_entry *entry);

#endif
