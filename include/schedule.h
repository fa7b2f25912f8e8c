/* schedule.h - the one list of turns that every rank walks (docs/design.md section 4). Pure: no
 * MPI, no device, no clock.
 *
 * A turn is (slot, step, slice). Phases are counted, not slices: phase = step * n_gaps + slice, so
 * the last slice of a step and the first of the next share a phase and are consecutive turns. The
 * list is ordered by (phase, slot); with two slots they are staggered: while the attention ranks
 * serve one, the model rank computes the other. A slot leaves the list after the step that
 * schedule_stop names.
 */
#ifndef LAMINA_SCHEDULE_H
#define LAMINA_SCHEDULE_H

#include <stdbool.h>
#include <stdint.h>

enum { SCHEDULE_MAX_SLOTS = 2 };

struct turn {
    int slot, step, slice;
};

struct schedule {
    int n_slots, n_gaps;   /* slices of a step: n_gaps + 1 */
    int step, slice, slot; /* the next phase and slot to look at */
    int first_step;        /* of this walk */
    bool closed;           /* the slot's step before has had its last slice in this phase */
    int64_t
        n_steps_done[SCHEDULE_MAX_SLOTS]; /* one more than fits into an int, at the end of all */
    int last_step[SCHEDULE_MAX_SLOTS];    /* -1: not known yet */
};

/* `n_gaps` 0 is the colocated program: one slice a step, a phase a step. */
void schedule_open(struct schedule *schedule, int n_slots, int n_gaps);

/* After the end of a walk: another one begins, at the step behind the last. */
void schedule_go_on(struct schedule *schedule);

/* The next turn; false when every slot has stopped. Ends the job when a step's number would not fit
 * into an int, which is months of steps. */
bool schedule_next(struct schedule *schedule, struct turn *turn);

/* Turns from a step's first, `begun`, which schedule_next has just returned, up to the next first
 * or behind the next last of any step are a run, in which nothing is begun or ended. Runs of one
 * number are the same slots and slices. */
int schedule_run(const struct schedule *schedule, const struct turn *begun);

/* No step of `slot` follows `step`, which is the current one or later. */
void schedule_stop(struct schedule *schedule, int slot, int step);

#endif
