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

/* Rows of the slot's current step by why they are computed, and the pages of all owners in use as
 * the header formed last has it. */
void leader_count_step(const struct leader *leader, struct step_span *step);

/* Nothing is left to decode, now or later. */
bool leader_over(const struct leader *leader);

/* After the last step: sequences that finished with it are let go of; unfinished ones stay as they
 * are. */
void leader_end(struct leader *leader);

/* Of every sequence that is not finished or still holds its pages, the oldest first, between the
 * last step of a walk and the first of the next: into `kept`, which has room for all handles.
 * Returns how many. */
int leader_keep(struct leader *leader, struct kept *kept);

/* Take the `n_restored` generations that a checkpoint kept, or as many as there are handles, before
 * the first step: into `kept`, which has room for all handles. They stand in front of the desk's
 * queue; what stands between them is taken too, and waits its turn. `with_kv`: a sequence whose K
 * and V fit an owner holds pages for `n_rows` of them; of the others n_rows is 0, and they are
 * computed again. Returns how many were taken. */
int leader_restore(struct leader *leader, bool with_kv, int n_restored, struct kept *kept);

/* The K and V of a restored sequence could not be read: its pages are free, and it is computed
 * again. */
void leader_forget(struct leader *leader, int handle);

struct batch_counts leader_counts(const struct leader *leader);
const struct latencies *leader_latencies(const struct leader *leader);

#endif
