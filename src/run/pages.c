/* pages.c - who has pages when there are not enough for all. See leader_parts.h.
 *
 * When pages run out the youngest sequences give theirs back and are computed again later from
 * their tokens (preemption by recomputation; swapping KV to the leader would cross the wire twice).
 * A slot may only take pages from its own sequences, because the other slot's are in the middle of
 * a step; so a sequence that finds none stalls, and asks younger ones of the other slot to yield at
 * their next header. The oldest sequence always proceeds, hence no deadlock.
 */
#include "leader_parts.h"

void pages_release(struct leader *leader, struct header *header, int handle) {
    struct sequence *sequence = &leader->sequence[handle];
    kv_release(&leader->account[sequence->owner], handle);
    header->released[header->n_released++] = handle;
}

static void preempt(struct leader *leader, struct header *header, int handle) {
    struct sequence *sequence = &leader->sequence[handle];
    pages_release(leader, header, handle);
    sequence->state = SEQUENCE_WAITING;
    sequence->n_rows = 0;
    leader->counts.n_preemptions += 1;
}

/* The youngest running sequence of `slot` and `owner` that is younger than `age`, or -1. */
static int find_youngest(const struct leader *leader, int slot, int owner, int64_t age) {
    int youngest = -1;
    for (int handle = 0; handle < leader->n_sequences; handle++) {
        const struct sequence *sequence = &leader->sequence[handle];
        if (sequence->state != SEQUENCE_RUNNING || sequence->slot != slot ||
            sequence->owner != owner || sequence->age <= age)
            continue;
        age = sequence->age;
        youngest = handle;
    }
    return youngest;
}

void pages_yield(struct leader *leader, struct header *header, int slot) {
    for (int owner = 0; owner < leader->options.limits.n_owners; owner++) {
        struct hunger *hunger = &leader->hunger[owner];
        if (hunger->slot == slot) hunger->starved = false; /* it will say again if it still is */
        while (hunger->starved && leader->account[owner].n_free < hunger->n_pages) {
            int victim = find_youngest(leader, slot, owner, hunger->age);
            if (victim < 0) break;
            preempt(leader, header, victim);
        }
    }
}

bool pages_take(struct leader *leader, struct header *header, int handle, int n_tokens) {
    const struct sequence *sequence = &leader->sequence[handle];
    struct kv *account = &leader->account[sequence->owner];
    int missing = kv_missing(account, handle, n_tokens);
    while (missing > account->n_free) {
        int victim = find_youngest(leader, sequence->slot, sequence->owner, sequence->age);
        if (victim < 0) {
            struct hunger *hunger = &leader->hunger[sequence->owner];
            if (!hunger->starved || sequence->age < hunger->age)
                *hunger = (struct hunger){true, sequence->age, sequence->slot, missing};
            return false;
        }
        preempt(leader, header, victim);
    }
    kv_extend(account, handle, n_tokens);
    return true;
}

/* Pages that running sequences of an owner still need for tokens they have, and one each to go on.
 */
static int promised_pages(const struct leader *leader, int owner) {
    int pages = 0;
    for (int handle = 0; handle < leader->n_sequences; handle++) {
        const struct sequence *sequence = &leader->sequence[handle];
        if (sequence->state != SEQUENCE_RUNNING || sequence->owner != owner) continue;
        pages += kv_missing(&leader->account[owner], handle, sequence->n_virtual) + 1;
    }
    return pages;
}

/* One with no running sequence always has room: requests that exceed an owner's pages were refused
 * when they were read. */
int pages_find_owner(const struct leader *leader, int n_tokens) {
    int best = -1, most = -1;
    for (int owner = 0; owner < leader->options.limits.n_owners; owner++) {
        if (leader->hunger[owner].starved) continue;
        int promised = promised_pages(leader, owner);
        int spare = leader->account[owner].n_free - promised - kv_pages_for(n_tokens);
        if (promised == 0) spare = leader->account[owner].n_free;
        if (spare > most) {
            most = spare;
            best = owner;
        }
    }
    return best;
}

void pages_count(struct leader *leader) {
    int used = 0;
    for (int owner = 0; owner < leader->options.limits.n_owners; owner++)
        used += leader->account[owner].n_pages - leader->account[owner].n_free;
    leader->counts.n_pages_used = used;
    if (used > leader->counts.n_pages_peak) leader->counts.n_pages_peak = used;
}
