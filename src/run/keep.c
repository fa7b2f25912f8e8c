/* keep.c - what of the leader's books is kept in a checkpoint, and taken back from one. See
 * leader.h.
 *
 * Both happen between two walks of the list of turns: nothing is in flight, every token is known,
 * and of a sequence that decodes all positions but the newest lie in the cache. A restored sequence
 * thus looks as if it had never stopped; one whose K and V did not come with it looks preempted.
 */
#include "leader_parts.h"

#include "check.h"
#include "clock.h"

/* The oldest sequence younger than `age` that is to be kept, or -1. */
static int find_older(const struct leader *leader, int64_t age) {
    int found = -1;
    for (int handle = 0; handle < leader->n_sequences; handle++) {
        const struct sequence *sequence = &leader->sequence[handle];
        bool kept = sequence->state == SEQUENCE_RUNNING || sequence->state == SEQUENCE_WAITING;
        if (!kept || sequence->age <= age) continue;
        if (found < 0 || sequence->age < leader->sequence[found].age) found = handle;
    }
    return found;
}

int leader_keep(struct leader *leader, struct kept *kept) {
    int n = 0;
    int64_t age = -1;
    for (int handle; (handle = find_older(leader, age)) >= 0; n++) {
        const struct sequence *sequence = &leader->sequence[handle];
        REQUIRE(sequence->n_in_flight == 0, "sequence %d is in flight", handle);
        age = sequence->age;
        bool finished = leader_finish(sequence) != FINISH_NONE;
        kept[n] = (struct kept){.generation = sequence->generation,
                                .handle = handle,
                                .owner = sequence->owner,
                                .n_rows = finished ? 0 : sequence->n_rows,
                                .n_scored = sequence->n_scored};
    }
    return n;
}

/* The slot with the fewest sequences, or -1 when all are full. */
static int find_slot(const struct leader *leader) {
    int best = -1, least = leader->options.limits.max_batch;
    for (int slot = 0; slot < leader->options.limits.n_slots; slot++) {
        int n = 0;
        for (int handle = 0; handle < leader->n_sequences; handle++)
            n += leader->sequence[handle].state == SEQUENCE_RUNNING &&
                 leader->sequence[handle].slot == slot;
        if (n < least) {
            least = n;
            best = slot;
        }
    }
    return best;
}

/* With its K and V where they fit, else to be computed again in its turn. */
static void take_back(struct leader *leader, int handle, struct generation *generation,
                      bool with_kv) {
    struct sequence *sequence = &leader->sequence[handle];
    *sequence = (struct sequence){.state = SEQUENCE_WAITING,
                                  .generation = generation,
                                  .age = leader->n_admitted++,
                                  .n_rows_most = generation->n_rows,
                                  .n_scored = generation->n_scored};
    sequence->n_virtual = leader_known(sequence);
    generation->admitted_ns = clock_now_ns();
    int slot = find_slot(leader);
    int owner = pages_find_owner(leader, sequence->n_virtual);
    if (!with_kv || generation->n_rows == 0 || slot < 0 || owner < 0 ||
        kv_pages_for(generation->n_rows) > leader->account[owner].n_free)
        return;
    sequence->state = SEQUENCE_RUNNING;
    sequence->slot = slot;
    sequence->owner = owner;
    sequence->n_rows = generation->n_rows;
    kv_extend(&leader->account[owner], handle, sequence->n_rows);
    leader->options.device_ops->put_history(leader->options.device, handle, generation->token,
                                            sequence->n_rows);
}

int leader_restore(struct leader *leader, bool with_kv, int n_restored, struct kept *kept) {
    int n = 0;
    for (; n_restored > 0 && n < leader->n_sequences; n++) {
        struct generation *generation = leader->options.supply->next(leader->options.supply->of);
        if (!generation) break;
        n_restored -= generation->restored;
        take_back(leader, n, generation, with_kv);
        const struct sequence *sequence = &leader->sequence[n];
        kept[n] = (struct kept){.generation = generation,
                                .saved = generation->saved,
                                .handle = n,
                                .owner = sequence->owner,
                                .n_rows = sequence->n_rows,
                                .n_scored = sequence->n_scored};
    }
    pages_count(leader);
    return n;
}

void leader_forget(struct leader *leader, int handle) {
    struct sequence *sequence = &leader->sequence[handle];
    REQUIRE(sequence->state == SEQUENCE_RUNNING, "sequence %d holds no pages", handle);
    kv_release(&leader->account[sequence->owner], handle);
    sequence->state = SEQUENCE_WAITING;
    sequence->n_rows = 0;
}
