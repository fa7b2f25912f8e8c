/* batch.h - who is in a slot's next step, and where: step headers, and what every rank makes of
 * them.
 *
 * The leader forms one header a slot and step, one step ahead; it is all that other ranks learn of
 * the job. Each rank turns a header into its own rows (a model rank: all; an attention rank: those
 * of the sequences it owns) and the fans that name its peers' shares. Rows are sorted by owner, so
 * that a peer's share of a value is one rectangle.
 *
 * Header t+1 is formed at the end of step t, when the tokens of t-1 are known and those of t may
 * still be on the device: a decode row's input is a token id, or "picked row r of this slot's step
 * before".
 */
#ifndef LAMINA_BATCH_H
#define LAMINA_BATCH_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#include "clock.h"
#include "device.h"
#include "generation.h"
#include "kv.h"
#include "schedule.h"
#include "topology.h"
#include "wire.h"

/* Sizes all ranks agree on before the loop. */
struct batch_limits {
    int n_slots;
    int max_batch;                     /* sequences a slot */
    int max_rows;                      /* rows a slot and step */
    int max_picked;                    /* picked rows a slot and step; >= max_batch */
    int context;                       /* tokens a sequence */
    int n_owners;                      /* sequences are spread over so many */
    int n_pages;                       /* of each owner */
    int n_heads, n_kv_heads, head_dim; /* of the model's attention */
};

/* One chunk as the header says it. */
struct header_chunk {
    int32_t sequence, owner, first_position, n_rows;
};
/* A row whose logits are wanted; known_id as in struct sample_wish. */
struct header_pick {
    int32_t row, known_id;
};

/* A header in memory; the arrays hold as many as batch_limits allow. */
struct header {
    int32_t step;
    bool last; /* no step of this slot follows; this one has no rows */
    int n_released, n_chunks, n_rows, n_picked;
    int32_t *released;          /* sequences whose pages are given back before this step */
    struct header_chunk *chunk; /* sorted by owner */
    int32_t *id;                /* (n_rows) as in struct rows */
    struct header_pick *pick;   /* (n_picked), rising rows */
};
void header_open(struct header *header, const struct batch_limits *limits);
void header_close(struct header *header);
/* REQUIREs that a header is within the limits: what it counts, its chunks and its picks. */
void header_check(const struct header *header, const struct batch_limits *limits);
/* Bytes on the wire, and the most a header can have. */
size_t header_most_bytes(const struct batch_limits *limits);
size_t header_write(const struct header *header, void *bytes);
/* REQUIREs that the bytes are a header that header_check takes. */
void header_read(struct header *header, const struct batch_limits *limits, const void *bytes,
                 size_t n_bytes);

/* A slot's current step on this rank. */
struct slot {
    struct rows rows;
    bool last;
    struct fan fan[MESSAGES]; /* shares by peer, of values as they lie on this rank */
    /* storage behind them */
    int32_t *id, *position, *sequence, *picked;
    struct chunk *chunk;
    struct sample_wish *wish;
    struct block *q_block, *kv_block;
};

/* What the leader counts for the status line and the summary, of steps that are done. */
struct batch_counts {
    int64_t n_steps, n_rows;                 /* rows = prompt + decode + recomputed */
    int64_t n_prompt_rows, n_decode_rows;    /* computed for the first time */
    int64_t n_recomputed_rows;               /* computed again after a preemption */
    int64_t n_wasted_rows;                   /* of decode rows: after the end of their sequence */
    int64_t n_preemptions, n_tokens;         /* tokens made */
    int64_t n_ended, n_ended_tokens;         /* sequences at their end; tokens they made */
    int n_running, n_waiting;                /* sequences in slots; preempted ones */
    int64_t n_most_left;                     /* tokens these may still make, by max_tokens */
    int n_pages_used, n_pages_peak, n_pages; /* over all owners */
};

/* How long generations took that came to an end, one sample each. */
struct latencies {
    struct histogram queue; /* ready at the desk -> admitted to a slot */
    struct histogram ttft;  /* admitted -> first token */
    struct histogram tpot;  /* (last token - first) / (tokens - 1); none for a single token */
    struct histogram e2el;  /* admitted -> last token */
};

/* A sequence between two walks of the list of turns: in a checkpoint, or restored from one. */
struct kept {
    const struct generation *generation; /* on the leader; elsewhere NULL */
    int64_t saved;                       /* its number in the checkpoint */
    int32_t handle, owner;
    int32_t n_rows;   /* positions whose K and V lie in its pages; 0: none */
    int32_t n_scored; /* prompt tokens whose scores are known */
};

struct batch;

struct batch_options {
    struct batch_limits limits;
    const struct topology *topology;
    struct control *control;             /* NULL in a world of one */
    const struct supply *supply;         /* the leader's, borrowed; NULL elsewhere */
    const struct device_ops *device_ops; /* the leader's, to take tokens */
    struct device *device;
    const volatile sig_atomic_t *stop; /* non-zero: end the walk at a step boundary */
    void (*tick)(void *);              /* once a step; may be NULL */
    void *tick_argument;
};

void batch_open(struct batch **batch, const struct batch_options *options);
/* The leader forms and sends the first header of every slot, of `step`. */
void batch_start(struct batch *batch, int step);
void batch_close(struct batch *batch);

/* Take the slot's next header and make rows and fans of it. Returns the slot. */
struct slot *batch_begin(struct batch *batch, int slot);
/* End of the slot's step on this rank: the leader completes the tokens of the step before and sends
 * the header of the next. */
void batch_end(struct batch *batch, int slot);

/* What the slot's step is made of, between batch_begin and batch_end; without its moments. */
struct step_span batch_step_span(const struct batch *batch, int slot);

/* Between two walks of the list of turns, when no step is in flight; on the leader. Room in `kept`
 * is for all handles. As leader_over, leader_end, leader_keep, leader_restore (src/run/leader.h).
 */
bool batch_over(const struct batch *batch);
void batch_stop(struct batch *batch);
int batch_keep(struct batch *batch, struct kept *kept);
int batch_restore(struct batch *batch, bool with_kv, int n_restored, struct kept *kept);

/* The same moment, on a rank that holds KV: pages for the restored sequences that are its own, as
 * the leader's books have them; and the books themselves, to find them by. `forgotten`: of these
 * sequences the pages are given back, on the leader too, and they are computed again. NULL where a
 * rank holds no KV. */
void batch_hold(struct batch *batch, const struct kept *kept, int n_kept);
void batch_forget(struct batch *batch, const struct kept *forgotten, int n_forgotten);
const struct kv *batch_kv(const struct batch *batch);
/* On such a rank: call taking(argument, page) before a page is handed out, in the loop too. What it
 * held is overwritten by what is enqueued after the call. */
void batch_watch(struct batch *batch, void (*taking)(void *argument, int32_t page), void *argument);

/* On the leader only; the latencies are a view until batch_close. */
struct batch_counts batch_counts(const struct batch *batch);
const struct latencies *batch_latencies(const struct batch *batch);

#endif
