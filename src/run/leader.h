/* leader.h - the leader's books: private to src/run.
 *
 * Decides who is in each step: admission by free pages, continuous batching, chunked prefill,
 * preemption by recomputation. Nothing it decides can change a token, only when it comes.
 */
#ifndef LAMINA_LEADER_H
#define LAMINA_LEADER_H

#include "batch.h"

struct leader;

void leader_open(struct leader **leader, const struct batch_options *options);
void leader_close(struct leader *leader);

/* The header of the slot's next step, formed and not yet begun. */
const struct header *leader_header(const struct leader *leader, int slot);

/* The wishes of the header's picks, (n_picked). */
void leader_wishes(const struct leader *leader, int slot, struct sample_wish *wish);

/* Form the header of `step` of `slot`: the first one, or after leader_end_step of the step before.
 */
void leader_form(struct leader *leader, int slot, int step);

/* The slot's current step is enqueued: take the tokens of the step before it and settle who is
 * finished. */
void leader_end_step(struct leader *leader, int slot);

struct batch_counts leader_counts(const struct leader *leader);
const struct latencies *leader_latencies(const struct leader *leader);

#endif
