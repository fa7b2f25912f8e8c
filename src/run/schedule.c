/* schedule.c - the list of turns. See schedule.h.
 *
 * The list is computed as it is walked and depends only on the number of slots and gaps and on
 * where slots stop, which every rank learns from the same headers at the same turn.
 */
#include "schedule.h"

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

bool schedule_next(struct schedule *schedule, struct turn *turn) {
    int n_phases = schedule->n_gaps ? schedule->n_gaps : 1; /* of a step */
    while (!all_over(schedule)) {
        int slot = schedule->slot;
        int step = schedule->phase / n_phases, slice = schedule->phase % n_phases;
        if (!schedule->closed) { /* a boundary phase ends a step before it begins the next */
            schedule->closed = true;
            if (schedule->n_gaps && slice == 0 && step > 0 && !is_over(schedule, slot)) {
                schedule->n_steps_done[slot] += 1;
                *turn = (struct turn){slot, step - 1, schedule->n_gaps};
                return true;
            }
        }
        schedule->closed = false;
        schedule->slot = (slot + 1) % schedule->n_slots;
        if (schedule->slot == 0) schedule->phase += 1;
        if (is_over(schedule, slot)) continue;
        if (schedule->n_gaps == 0) schedule->n_steps_done[slot] += 1;
        *turn = (struct turn){slot, step, slice};
        return true;
    }
    return false;
}

void schedule_stop(struct schedule *schedule, int slot, int step) {
    schedule->last_step[slot] = step;
}
