/* leader_parts.h - the leader's books as their parts see them: private to src/run/leader.c, which
 * tells what is in a header and what comes of it, src/run/pages.c, which tells who has pages, and
 * src/run/keep.c, which tells what of them is in a checkpoint.
 */
#ifndef LAMINA_LEADER_PARTS_H
#define LAMINA_LEADER_PARTS_H

#include "leader.h"

enum state {
    SEQUENCE_FREE,
    SEQUENCE_RUNNING,  /* holds pages, is in a slot */
    SEQUENCE_WAITING,  /* preempted: holds none, keeps its handle and place in the queue */
    SEQUENCE_DRAINING, /* needs no more rows; a sample may be on its way still */
};

struct sequence {
    enum state state;
    struct generation *generation;
    int64_t age; /* admission number: lower is older */
    int slot, owner;
    int n_rows;      /* positions whose rows have been in a header, or were cached before */
    int n_rows_most; /* the same before a preemption: rows below it are computed again */
    int n_virtual;   /* tokens, those in flight included */
    int n_scored;    /* prompt tokens whose scores are asked for */
    int n_in_flight; /* samples asked for and not yet taken */
    int last_pick;   /* pick of the step before that sampled the newest token */
};

/* What was asked for in one step, to make sense of what it returns. */
struct plan {
    int n_picked;
    int n_prompt_rows, n_decode_rows, n_recomputed_rows;
    struct pick {
        int sequence;
        int32_t position; /* of the token */
        bool known;       /* only its scores were wanted */
    } * pick;
};

/* Of an owner: the oldest sequence that found no page for its next row. */
struct hunger {
    bool starved;
    int64_t age;
    int slot, n_pages;
};

struct leader {
    struct batch_options options;
    int n_sequences; /* handles */
    struct sequence *sequence;
    int *order;              /* handles, a scratch list sorted by age */
    struct kv *account;      /* (n_owners) */
    struct hunger *hunger;   /* (n_owners) */
    struct header *header;   /* (n_slots) */
    struct plan (*plan)[2];  /* (n_slots) of even and odd steps */
    struct generation *next; /* from the supply, not yet admitted */
    int64_t n_admitted;
    int32_t *token; /* (max_picked) */
    struct token_score *score;
    struct batch_counts counts;
    struct latencies latencies;
};

/* Tokens of a sequence that are known, prompt included. */
static inline int leader_known(const struct sequence *sequence) {
    return atomic_load_explicit(&sequence->generation->n_tokens, memory_order_relaxed);
}

/* The finish that the tokens known so far give, or FINISH_NONE. */
enum finish leader_finish(const struct sequence *sequence);

/* ---- pages.c ----------------------------------------------------------------------------------
 */

/* Give back all pages of a sequence; the header says so to all ranks. */
void pages_release(struct leader *leader, struct header *header, int handle);

/* Yield pages of `slot` to older sequences of the other slot that found none. */
void pages_yield(struct leader *leader, struct header *header, int slot);

/* Pages for `n_tokens` positions of a sequence, taken from younger ones of its slot if need be;
 * false when there are none. */
bool pages_take(struct leader *leader, struct header *header, int handle, int n_tokens);

/* The owner with the most pages to spare for a sequence of `n_tokens`, or -1. */
int pages_find_owner(const struct leader *leader, int n_tokens);

/* Note how many are in use. */
void pages_count(struct leader *leader);

#endif
