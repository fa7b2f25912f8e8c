/* answered.h - the set of requests that are answered, or have been read.
 *
 * A request costs 24 bytes (16 of its key, 8 of the hash of its body) at a load of at most three
 * quarters, never its strings: ten million take about half a GiB.
 */
#ifndef LAMINA_ANSWERED_H
#define LAMINA_ANSWERED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "requests.h"

enum answered_flag {
    ANSWERED_BEFORE = 1, /* by an earlier run */
    ANSWERED_FAILED = 2, /* with an error */
    ANSWERED_SEEN = 4,   /* read by this run */
};

/* Three bits of the key make room for the flags. */
struct answered_entry {
    struct request_key key;
    uint64_t body_hash;
};

/* Zero-initialise; answered_close releases. */
struct answered {
    struct answered_entry *entry;
    size_t n_entries, capacity;
};

/* The entry of a key, made without flags when there is none. Valid until the next call. */
struct answered_entry *answered_find(struct answered *answered, struct request_key key);

bool answered_has(const struct answered_entry *entry, enum answered_flag flag);
void answered_mark(struct answered_entry *entry, enum answered_flag flag);

/* Take ANSWERED_SEEN from all. */
void answered_unsee(struct answered *answered);

void answered_close(struct answered *answered);

#endif
