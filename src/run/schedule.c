/* schedule.c - the list of turns. See schedule.h.
 *
 * The list is computed as it is walked and depends only on the number of slots and gaps and on
 * where slots stop, which every rank learns from the same headers at the same turn.
 */
#include "schedule.h"

#include <limits.h>

#include "check.h"

void schedule_open(struct schedule *schedule, int n_slots, int n_gaps) {
    REQUIRE(n_slots >= 1 && n_slots <= SCHEDULE_MAX_SLOTS, "%d slots", n_slots);
    *schedule = (struct schedule){.n_slots = n_slots, .n_gaps = n_gaps};
    for (int slot = 0; slot < n_slots; slot++)
        schedule->last_step[slot] = -1;
}

static bool is_over(const struct schedule *schedule, int slot) {
    return schedule->last_step[slot] >= 0 &&
           schedule->n_steps_done[slot] > schedule->last_step[slot];
}

static bool all_over(const struct schedule *schedule) {
    for (int slot = 0; slot < schedule->n_slots; slot++) {
        if (!is_over(schedule, slot)) return false;
    }
    return true;
}

void schedule_go_on(struct schedule *schedule) {
    REQUIRE(all_over(schedule), "a walk that is not over");
    int first = schedule->step + 1, n_slots = schedule->n_slots;
    schedule_open(schedule, n_slots, schedule->n_gaps);
    schedule->step = schedule->first_step = first;
    for (int slot = 0; slot < n_slots; slot++)
        schedule->n_steps_done[slot] = first;
}

/* A phase is kept as its step and slice: their product may be too large for an int. */
static void go_on(struct schedule *schedule) {
    int n_phases = schedule->n_gaps ? schedule->n_gaps : 1; /* of a step */
    schedule->closed = false;
    schedule->slot = (schedule->slot + 1) % schedule->n_slots;
    if (schedule->slot > 0) return;
    schedule->slice = (schedule->slice + 1) % n_phases;
    if (schedule->slice > 0) return;
    if (schedule->step == INT_MAX)
        check_fail("after %d steps this run can count no further: --resume goes on", INT_MAX);
    schedule->step += 1;
}

bool schedule_next(struct schedule *schedule, struct turn *turn) {
    while (!all_over(schedule)) {
        int slot = schedule->slot, step = schedule->step, slice = schedule->slice;
        if (!schedule->closed) { /* a boundary phase ends a step before it begins the next */
            schedule->closed = true;
            if (schedule->n_gaps && slice == 0 && step > schedule->first_step &&
                !is_over(schedule, slot)) {
                schedule->n_steps_done[slot] += 1;
                *turn = (struct turn){slot, step - 1, schedule->n_gaps};
                return true;
            }
        }
        go_on(schedule);
        if (is_over(schedule, slot)) continue;
        if (schedule->n_gaps == 0) schedule->n_steps_done[slot] += 1;
        *turn = (struct turn){slot, step, slice};
        return true;
    }
    return false;
}

/* Slots are always in the same phase, so what follows is given by which slot begins and which are
 * there; but in the first phase of a walk the slots behind have not begun. */
int schedule_run(const struct schedule *schedule, const struct turn *begun) {
    int there = 0;
    for (int slot = 0; slot < schedule->n_slots; slot++)
        there |= !is_over(schedule, slot) << slot;
    int first = begun->step == schedule->first_step;
    return (there * 2 + first) * SCHEDULE_MAX_SLOTS + begun->slot;
}

void schedule_stop(struct schedule *schedule, int slot, int step) {
    schedule->last_step[slot] = step;
}
