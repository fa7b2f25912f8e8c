/* leader.c - who is in the next step: the leader's books. See leader.h.
 *
 * A sequence is a generation with a handle, from its admission until its last token is known.
 * Tokens of the step in flight are counted but not known ("virtual"): at most one a sequence. Order
 * of work in a header: releases; the running sequences, oldest first, each with one decode row or a
 * chunk of its prompt; then new ones, while rows, handles and pages last. Who gives back pages when
 * they run out stands in pages.c.
 */
#include "leader_parts.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "clock.h"

/* Room left in the header being formed. */
struct room {
    int rows, picks;
};

void leader_open(struct leader **opened, const struct batch_options *options) {
    const struct batch_limits *limits = &options->limits;
    struct leader *leader = check_alloc(1, sizeof *leader);
    leader->options = *options;
    leader->n_sequences = limits->n_slots * limits->max_batch;
    leader->sequence = check_alloc((size_t)leader->n_sequences, sizeof *leader->sequence);
    leader->order = check_alloc((size_t)leader->n_sequences, sizeof *leader->order);
    leader->account = check_alloc((size_t)limits->n_owners, sizeof *leader->account);
    leader->hunger = check_alloc((size_t)limits->n_owners, sizeof *leader->hunger);
    for (int owner = 0; owner < limits->n_owners; owner++)
        kv_open(&leader->account[owner], limits->n_pages, leader->n_sequences, limits->context);
    leader->header = check_alloc((size_t)limits->n_slots, sizeof *leader->header);
    leader->plan = check_alloc((size_t)limits->n_slots, sizeof *leader->plan);
    for (int slot = 0; slot < limits->n_slots; slot++) {
        header_open(&leader->header[slot], limits);
        for (int parity = 0; parity < 2; parity++)
            leader->plan[slot][parity].pick =
                check_alloc((size_t)limits->max_picked, sizeof(struct pick));
    }
    leader->token = check_alloc((size_t)limits->max_picked, sizeof *leader->token);
    leader->score = check_alloc((size_t)limits->max_picked * (1 + SAMPLING_MAX_LOGPROBS),
                                sizeof *leader->score);
    leader->counts.n_pages = limits->n_pages * limits->n_owners;
    *opened = leader;
}

void leader_close(struct leader *leader) {
    if (!leader) return;
    const struct batch_limits *limits = &leader->options.limits;
    for (int owner = 0; owner < limits->n_owners; owner++)
        kv_close(&leader->account[owner]);
    for (int slot = 0; slot < limits->n_slots; slot++) {
        header_close(&leader->header[slot]);
        free(leader->plan[slot][0].pick);
        free(leader->plan[slot][1].pick);
    }
    free(leader->sequence);
    free(leader->order);
    free(leader->account);
    free(leader->hunger);
    free(leader->header);
    free(leader->plan);
    free(leader->token);
    free(leader->score);
    free(leader);
}

const struct header *leader_header(const struct leader *leader, int slot) {
    return &leader->header[slot];
}

void leader_wishes(const struct leader *leader, int slot, struct sample_wish *wish) {
    const struct header *header = &leader->header[slot];
    const struct plan *plan = &leader->plan[slot][header->step % 2];
    for (int at = 0; at < header->n_picked; at++) {
        const struct pick *pick = &plan->pick[at];
        const struct generation *generation = leader->sequence[pick->sequence].generation;
        wish[at] = (struct sample_wish){.sampling = &generation->sampling,
                                        .sequence = pick->sequence,
                                        .position = pick->position,
                                        .n_prompt = generation->n_prompt,
                                        .known_id = header->pick[at].known_id};
    }
}

/* ---- small questions --------------------------------------------------------------------------
 */

static bool is_cancelled(const struct sequence *sequence) {
    return atomic_load_explicit(&sequence->generation->cancelled, memory_order_relaxed);
}

/* Every token it may have is sampled, the last perhaps still in flight. */
static bool is_complete(const struct sequence *sequence) {
    const struct generation *generation = sequence->generation;
    return sequence->n_virtual == generation->n_prompt + generation->max_new;
}

static bool decodes(const struct sequence *sequence) {
    return sequence->n_rows == sequence->n_virtual - 1 &&
           sequence->n_rows >= sequence->generation->n_prompt;
}

/* Handles in `state`, of `slot` or of all (-1), into leader->order, oldest first. */
static int list_sequences(struct leader *leader, enum state state, int slot) {
    int n = 0;
    for (int handle = 0; handle < leader->n_sequences; handle++) {
        const struct sequence *sequence = &leader->sequence[handle];
        if (sequence->state != state || (slot >= 0 && sequence->slot != slot)) continue;
        int at = n++;
        for (; at > 0 && leader->sequence[leader->order[at - 1]].age > sequence->age; at--)
            leader->order[at] = leader->order[at - 1];
        leader->order[at] = handle;
    }
    return n;
}

static int count_in_slot(const struct leader *leader, int slot) {
    int n = 0;
    for (int handle = 0; handle < leader->n_sequences; handle++)
        n += leader->sequence[handle].state == SEQUENCE_RUNNING &&
             leader->sequence[handle].slot == slot;
    return n;
}

/* ---- the tokens of a step ---------------------------------------------------------------------
 */

static void append_token(struct sequence *sequence, int32_t id, const struct token_score *score,
                         int64_t sampled_ns) {
    struct generation *generation = sequence->generation;
    const struct sampling *sampling = &generation->sampling;
    int at = leader_known(sequence);
    generation->token[at] = id;
    if (generation->score) {
        size_t width = 1 + (size_t)sampling->n_logprobs;
        memcpy(generation->score + (size_t)at * width, score, width * sizeof *score);
    }
    if (at == generation->n_prompt) generation->first_token_ns = sampled_ns;
    generation->last_token_ns = sampled_ns;
    atomic_store_explicit(&generation->n_tokens, at + 1, memory_order_release);
}

enum finish leader_finish(const struct sequence *sequence) {
    const struct generation *generation = sequence->generation;
    int n = leader_known(sequence);
    if (n > generation->n_prompt &&
        sampling_is_stop(&generation->sampling, generation->token[n - 1]))
        return FINISH_STOP;
    if (n == generation->n_prompt + generation->max_new) return FINISH_LENGTH;
    return is_cancelled(sequence) ? FINISH_CANCELLED : FINISH_NONE;
}

/* Take what step `step` of `slot` sampled. Tokens after a stop are the wasted row and are dropped.
 */
static void take_step(struct leader *leader, int slot, int step) {
    struct plan *plan = &leader->plan[slot][step % 2];
    if (plan->n_picked == 0) return;
    int64_t sampled_ns = leader->options.device_ops->take_tokens(
        leader->options.device, slot, step, plan->n_picked, leader->token, leader->score);
    for (int at = 0; at < plan->n_picked; at++) {
        const struct pick *pick = &plan->pick[at];
        struct sequence *sequence = &leader->sequence[pick->sequence];
        const struct token_score *score = leader->score + (size_t)at * (1 + SAMPLING_MAX_LOGPROBS);
        sequence->n_in_flight -= 1;
        if (pick->known) {
            size_t width = 1 + (size_t)sequence->generation->sampling.n_logprobs;
            memcpy(sequence->generation->score + (size_t)pick->position * width, score,
                   width * sizeof *score);
        } else if (leader_finish(sequence) == FINISH_NONE) {
            append_token(sequence, leader->token[at], score, sampled_ns);
            leader->counts.n_tokens += 1;
        } else {
            leader->counts.n_wasted_rows += 1;
        }
    }
    plan->n_picked = 0;
}

static void count_end(struct leader *leader, const struct generation *generation) {
    struct latencies *latencies = &leader->latencies;
    int n_new =
        atomic_load_explicit(&generation->n_tokens, memory_order_relaxed) - generation->n_prompt;
    leader->counts.n_ended += 1;
    leader->counts.n_ended_tokens += n_new;
    if (n_new < 1 || generation->restored) return; /* it began in another run */
    histogram_add(&latencies->queue, generation->admitted_ns - generation->submitted_ns);
    histogram_add(&latencies->ttft, generation->first_token_ns - generation->admitted_ns);
    histogram_add(&latencies->e2el, generation->last_token_ns - generation->admitted_ns);
    if (n_new > 1)
        histogram_add(&latencies->tpot,
                      (generation->last_token_ns - generation->first_token_ns) / (n_new - 1));
}

/* A generation with a finish is the supplier's from here on. */
static void end_sequence(struct leader *leader, struct sequence *sequence) {
    count_end(leader, sequence->generation);
    atomic_store_explicit(&sequence->generation->finish, leader_finish(sequence),
                          memory_order_release);
    *sequence = (struct sequence){0};
}

/* Let go of sequences that need nothing more. One that still holds pages gives them back in the
 * next header first. */
static void retire(struct leader *leader, int slot) {
    for (int handle = 0; handle < leader->n_sequences; handle++) {
        struct sequence *sequence = &leader->sequence[handle];
        bool idle = sequence->state == SEQUENCE_WAITING || sequence->state == SEQUENCE_DRAINING;
        if (idle && sequence->slot == slot && sequence->n_in_flight == 0 &&
            leader_finish(sequence) != FINISH_NONE)
            end_sequence(leader, sequence);
    }
    const struct supply *supply = leader->options.supply;
    supply->poke(supply->of);
}

void leader_end(struct leader *leader) {
    for (int handle = 0; handle < leader->n_sequences; handle++) {
        struct sequence *sequence = &leader->sequence[handle];
        if (sequence->state != SEQUENCE_FREE && leader_finish(sequence) != FINISH_NONE)
            end_sequence(leader, sequence);
    }
    const struct supply *supply = leader->options.supply;
    supply->poke(supply->of);
}

/* ---- running sequences -----------------------------------------------------------------------
 */

static void release_finished(struct leader *leader, struct header *header, int slot) {
    for (int handle = 0; handle < leader->n_sequences; handle++) {
        struct sequence *sequence = &leader->sequence[handle];
        if (sequence->state != SEQUENCE_RUNNING || sequence->slot != slot) continue;
        if (!is_complete(sequence) && leader_finish(sequence) == FINISH_NONE) continue;
        pages_release(leader, header, handle);
        sequence->state = SEQUENCE_DRAINING;
    }
}

/* How many rows of a sequence fit: one to decode, or a chunk of what is to be computed first. */
static int chunk_rows(const struct sequence *sequence, const struct room *room) {
    int wanted = sequence->n_virtual - sequence->n_rows;
    int n = wanted < room->rows ? wanted : room->rows;
    if (room->picks < 1) return 0;
    if (sequence->generation->score_prompt && n > room->picks) n = room->picks;
    return n;
}

/* Give a sequence its next `n` rows; its pages are held already. Chunks are kept sorted by owner.
 */
static void put_chunk(struct leader *leader, struct header *header, int handle, int n,
                      struct room *room) {
    const struct sequence *sequence = &leader->sequence[handle];
    int at = header->n_chunks++;
    for (; at > 0 && header->chunk[at - 1].owner > sequence->owner; at--)
        header->chunk[at] = header->chunk[at - 1];
    header->chunk[at] = (struct header_chunk){handle, sequence->owner, sequence->n_rows, n};
    room->rows -= n;
    room->picks -= sequence->generation->score_prompt ? n : 1;
}

static void put_running(struct leader *leader, struct header *header, int slot, struct room *room) {
    int n = list_sequences(leader, SEQUENCE_RUNNING, slot), n_decode = 0;
    for (int at = 0; at < n; at++)
        n_decode += decodes(&leader->sequence[leader->order[at]]);
    for (int at = 0; at < n; at++) {
        int handle = leader->order[at];
        struct sequence *sequence = &leader->sequence[handle];
        bool decode = decodes(sequence);
        n_decode -= decode; /* rows set apart for the decoding ones that follow */
        if (sequence->state != SEQUENCE_RUNNING) continue; /* preempted by an older one just now */
        struct room left = {room->rows - n_decode, room->picks - n_decode};
        int rows = chunk_rows(sequence, &left);
        if (rows > 0 && pages_take(leader, header, handle, sequence->n_rows + rows))
            put_chunk(leader, header, handle, rows, room);
    }
}

/* ---- admission --------------------------------------------------------------------------------
 */

static int find_free_handle(const struct leader *leader) {
    for (int handle = 0; handle < leader->n_sequences; handle++) {
        if (leader->sequence[handle].state == SEQUENCE_FREE) return handle;
    }
    return -1;
}

/* The handle to admit next: the oldest preempted sequence, once all its tokens are known, else a
 * free one with a new generation of the supply. -1: none now; nobody passes a preempted one. */
static int find_candidate(struct leader *leader) {
    if (list_sequences(leader, SEQUENCE_WAITING, -1) > 0) {
        int handle = leader->order[0];
        return leader->sequence[handle].n_in_flight == 0 ? handle : -1;
    }
    int handle = find_free_handle(leader);
    if (handle < 0) return -1;
    const struct supply *supply = leader->options.supply;
    if (!leader->next) leader->next = supply->next(supply->of);
    if (!leader->next) return -1;
    leader->sequence[handle] = (struct sequence){.generation = leader->next,
                                                 .age = leader->n_admitted,
                                                 .n_rows = leader->next->n_cached,
                                                 .n_rows_most = leader->next->n_rows,
                                                 .n_scored = leader->next->n_scored};
    leader->sequence[handle].n_virtual = leader_known(&leader->sequence[handle]);
    return handle;
}

/* Sequences a slot should have when all slots share what there is evenly. */
static int fair_share(const struct leader *leader) {
    const struct supply *supply = leader->options.supply;
    int total = (leader->next != NULL) + (int)supply->n_ready(supply->of);
    for (int handle = 0; handle < leader->n_sequences; handle++) {
        enum state state = leader->sequence[handle].state;
        total += state == SEQUENCE_RUNNING || state == SEQUENCE_WAITING;
    }
    int n_slots = leader->options.limits.n_slots;
    return (total + n_slots - 1) / n_slots;
}

static void admit(struct leader *leader, struct header *header, int slot, struct room *room) {
    int most = leader->options.limits.max_batch, fair = fair_share(leader);
    if (fair < most) most = fair;
    for (int in_slot = count_in_slot(leader, slot); in_slot < most; in_slot++) {
        if (header->n_chunks == leader->options.limits.max_batch) return;
        int handle = find_candidate(leader);
        if (handle < 0) return;
        struct sequence *sequence = &leader->sequence[handle];
        int owner = pages_find_owner(leader, sequence->n_virtual);
        int rows = chunk_rows(sequence, room);
        if (owner < 0 || rows < 1) return;
        if (sequence->state == SEQUENCE_FREE) {
            leader->next = NULL;
            leader->n_admitted += 1;
            sequence->generation->admitted_ns = clock_now_ns();
        }
        sequence->state = SEQUENCE_RUNNING;
        sequence->slot = slot;
        sequence->owner = owner;
        kv_extend(&leader->account[owner], handle, sequence->n_rows + rows);
        put_chunk(leader, header, handle, rows, room);
    }
}

/* ---- rows -------------------------------------------------------------------------------------
 */

/* Write the ids of a chunk's rows and the picks among them, and move its sequence on. */
static void put_rows(struct leader *leader, struct header *header, const struct header_chunk *chunk,
                     struct plan *plan) {
    struct sequence *sequence = &leader->sequence[chunk->sequence];
    const struct generation *generation = sequence->generation;
    int known = leader_known(sequence);
    for (int row = 0; row < chunk->n_rows; row++) {
        int position = chunk->first_position + row;
        bool newest = position == sequence->n_virtual - 1;
        bool scored = generation->score_prompt && position + 1 < generation->n_prompt &&
                      position + 1 > sequence->n_scored;
        header->id[header->n_rows] =
            position < known ? generation->token[position] : -1 - sequence->last_pick;
        if (newest || scored) {
            int at = header->n_picked++;
            header->pick[at] =
                (struct header_pick){header->n_rows, newest ? -1 : generation->token[position + 1]};
            plan->pick[at] = (struct pick){chunk->sequence, position + 1, !newest};
            if (newest) {
                sequence->last_pick = at;
            } else {
                sequence->n_scored = position + 1;
            }
            sequence->n_in_flight += 1;
        }
        header->n_rows += 1;
        bool again = position < sequence->n_rows_most;
        plan->n_recomputed_rows += again;
        plan->n_prompt_rows += !again && position < generation->n_prompt;
        plan->n_decode_rows += !again && position >= generation->n_prompt;
    }
    sequence->n_rows += chunk->n_rows;
    if (sequence->n_rows > sequence->n_rows_most) sequence->n_rows_most = sequence->n_rows;
    if (sequence->n_rows == sequence->n_virtual) sequence->n_virtual += 1;
}

/* ---- the header -------------------------------------------------------------------------------
 */

static bool nothing_running(const struct leader *leader) {
    for (int handle = 0; handle < leader->n_sequences; handle++) {
        if (leader->sequence[handle].state != SEQUENCE_FREE) return false;
    }
    return leader->next == NULL;
}

bool leader_over(const struct leader *leader) {
    const struct supply *supply = leader->options.supply;
    return nothing_running(leader) && supply->exhausted(supply->of);
}

void leader_form(struct leader *leader, int slot, int step) {
    const struct batch_limits *limits = &leader->options.limits;
    const struct supply *supply = leader->options.supply;
    struct header *header = &leader->header[slot];
    struct plan *plan = &leader->plan[slot][step % 2];
    header->step = step;
    header->n_released = header->n_chunks = header->n_rows = header->n_picked = 0;
    plan->n_prompt_rows = plan->n_decode_rows = plan->n_recomputed_rows = 0;
    /* nothing to decode in any slot but more may come: wait a little instead of spinning */
    if (nothing_running(leader) && !supply->exhausted(supply->of)) supply->wait(supply->of, 0.1);
    header->last = *leader->options.stop || leader_over(leader);
    if (!header->last) {
        struct room room = {limits->max_rows, limits->max_picked};
        release_finished(leader, header, slot);
        pages_yield(leader, header, slot);
        put_running(leader, header, slot, &room);
        admit(leader, header, slot, &room);
        for (int at = 0; at < header->n_chunks; at++)
            put_rows(leader, header, &header->chunk[at], plan);
    }
    plan->n_picked = header->n_picked;
    pages_count(leader);
}

static void count_step(struct batch_counts *counts, const struct header *header,
                       const struct plan *plan) {
    counts->n_steps += header->n_rows > 0;
    counts->n_rows += header->n_rows;
    counts->n_prompt_rows += plan->n_prompt_rows;
    counts->n_decode_rows += plan->n_decode_rows;
    counts->n_recomputed_rows += plan->n_recomputed_rows;
}

void leader_end_step(struct leader *leader, int slot) {
    const struct header *header = &leader->header[slot];
    count_step(&leader->counts, header, &leader->plan[slot][header->step % 2]);
    if (header->step > 0) take_step(leader, slot, header->step - 1);
    retire(leader, slot);
}

void leader_count_step(const struct leader *leader, struct step_span *step) {
    const struct plan *plan = &leader->plan[step->slot][step->step % 2];
    step->n_pages_used = leader->counts.n_pages_used;
    step->n_prompt_rows = plan->n_prompt_rows;
    step->n_decode_rows = plan->n_decode_rows;
    step->n_recomputed_rows = plan->n_recomputed_rows;
}

struct batch_counts leader_counts(const struct leader *leader) {
    struct batch_counts counts = leader->counts;
    for (int handle = 0; handle < leader->n_sequences; handle++) {
        const struct sequence *sequence = &leader->sequence[handle];
        bool running = sequence->state == SEQUENCE_RUNNING;
        bool waiting = sequence->state == SEQUENCE_WAITING;
        counts.n_running += running;
        counts.n_waiting += waiting;
        if (running || waiting)
            counts.n_most_left += sequence->generation->n_prompt + sequence->generation->max_new -
                                  leader_known(sequence);
    }
    return counts;
}

const struct latencies *leader_latencies(const struct leader *leader) {
    return &leader->latencies;
}
