/* answered.c - a set of request keys: open addressing, linear probing. See answered.h.
 *
 * Owns the table. The invariant: capacity is a power of two with a free entry in it; an entry is
 * free when its key is zero. Keys are hashes already, so their low bits choose the place. Nothing
 * is ever taken out.
 */
#include "answered.h"

#include <stdlib.h>

#include "check.h"

enum { FLAG_BITS = 7, FIRST_CAPACITY = 1024 };

static struct request_key without_flags(struct request_key key) {
    key.high &= ~(uint64_t)FLAG_BITS;
    if (key.high == 0 && key.low == 0) key.low = 1; /* zero means free */
    return key;
}

static struct answered_entry *find_place(const struct answered *answered, struct request_key key) {
    size_t place = key.low & (answered->capacity - 1);
    for (;; place = (place + 1) & (answered->capacity - 1)) {
        struct answered_entry *entry = &answered->entry[place];
        bool is_free = entry->key.high == 0 && entry->key.low == 0;
        bool same =
            (entry->key.high & ~(uint64_t)FLAG_BITS) == key.high && entry->key.low == key.low;
        if (is_free || same) return entry;
    }
}

static void grow(struct answered *answered) {
    struct answered larger = {.n_entries = answered->n_entries};
    larger.capacity = answered->capacity ? 2 * answered->capacity : FIRST_CAPACITY;
    larger.entry = check_alloc(larger.capacity, sizeof *larger.entry);
    for (size_t place = 0; place < answered->capacity; place++) {
        const struct answered_entry *entry = &answered->entry[place];
        if (entry->key.high == 0 && entry->key.low == 0) continue;
        *find_place(&larger, without_flags(entry->key)) = *entry;
    }
    free(answered->entry);
    *answered = larger;
}

struct answered_entry *answered_find(struct answered *answered, struct request_key key) {
    if (4 * (answered->n_entries + 1) > 3 * answered->capacity) grow(answered);
    key = without_flags(key);
    struct answered_entry *entry = find_place(answered, key);
    if (entry->key.high == 0 && entry->key.low == 0) {
        entry->key = key;
        answered->n_entries++;
    }
    return entry;
}

bool answered_has(const struct answered_entry *entry, enum answered_flag flag) {
    return entry->key.high & flag;
}

void answered_mark(struct answered_entry *entry, enum answered_flag flag) {
    entry->key.high |= flag;
}

void answered_unsee(struct answered *answered) {
    for (size_t place = 0; place < answered->capacity; place++)
        answered->entry[place].key.high &= ~(uint64_t)ANSWERED_SEEN;
}

void answered_close(struct answered *answered) {
    free(answered->entry);
    *answered = (struct answered){0};
}
