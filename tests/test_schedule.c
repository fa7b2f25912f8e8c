/* The list of turns, proved on all small configurations by playing it.
 *
 * Every rank's operations are listed from schedule_next as decode.c issues them
 * (tests/mpi_3_order.c compares that list with what decode really does), and played on three kinds
 * of wire: unbuffered  one lane a rank; a send and its receive meet, nobody passes (the worst NCCL
 * could be) laned       messages on a lane of their own beside compute, in one order (NCCL on a
 * stream) buffered    sends leave at once, receives wait (MPI with receives posted ahead, one-sided
 * puts) Shown: no deadlock, both ends of every pair see one order, every (slot, step, layer) is
 * served once, and the makespan bound. Replying at once on an unbuffered wire, the broken rule,
 * must deadlock.
 */
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "check.h"
#include "child.h"
#include "schedule.h"
#include "turn_order.h"

enum wire_kind { UNBUFFERED, LANED, BUFFERED };

struct job {
    int n_slots, n_gaps, n_steps, n_attention;
    bool mirrored;
    enum wire_kind wire;
    double t_model, t_attention; /* of a slice */
};

/* ---- playing ----------------------------------------------------------------------------------
 */

enum { MAX_RANKS = 5, LANES = 2, COMPUTE_LANE = 0, MESSAGE_LANE = 1 };

struct player {
    struct turn_operation list[MAX_OPERATIONS];
    double done[MAX_OPERATIONS]; /* when; < 0: not yet */
    int n, at[LANES];
    double lane_time[LANES];
};

static struct player players[MAX_RANKS];

static int lane_of(const struct job *job, const struct turn_operation *operation) {
    if (job->wire != LANED) return COMPUTE_LANE;
    return operation->kind == OPERATION_COMPUTE ? COMPUTE_LANE : MESSAGE_LANE;
}

/* The next operation of a lane, or -1. */
static int head(const struct job *job, struct player *player, int lane) {
    while (player->at[lane] < player->n && lane_of(job, &player->list[player->at[lane]]) != lane)
        player->at[lane]++;
    return player->at[lane] < player->n ? player->at[lane] : -1;
}

static bool same_message(const struct turn_operation *a, const struct turn_operation *b) {
    return a->message == b->message && a->slot == b->slot && a->step == b->step && a->gap == b->gap;
}

/* When what this operation needs on its own rank is done; -1 when it is not. A compute needs the
 * receives before it in the list, a send the computes before it. */
static double ready_at(const struct player *player, int at) {
    double ready = 0;
    enum operation_kind needed =
        player->list[at].kind == OPERATION_COMPUTE ? OPERATION_RECEIVE : OPERATION_COMPUTE;
    if (player->list[at].kind == OPERATION_RECEIVE) return 0;
    for (int before = 0; before < at; before++) {
        const struct turn_operation *other = &player->list[before];
        if (other->kind != needed || other->slot != player->list[at].slot) continue;
        if (player->done[before] < 0) return -1;
        if (player->done[before] > ready) ready = player->done[before];
    }
    return ready;
}

static void finish(const struct job *job, int rank, int at, double time) {
    struct player *player = &players[rank];
    int lane = lane_of(job, &player->list[at]);
    player->done[at] = time;
    player->lane_time[lane] = time;
    player->at[lane] = at + 1;
}

static double later(double a, double b) {
    return a > b ? a : b;
}

/* Try the head of one lane; true when it could be played. */
static bool play_head(const struct job *job, int rank, int lane) {
    struct player *player = &players[rank];
    int at = head(job, player, lane);
    if (at < 0) return false;
    const struct turn_operation *operation = &player->list[at];
    double ready = ready_at(player, at);
    if (ready < 0) return false;
    double begin = later(ready, player->lane_time[lane]);
    if (operation->kind == OPERATION_COMPUTE) {
        finish(job, rank, at,
               begin + (rank == 0 ? operation->weight * job->t_model : job->t_attention));
        return true;
    }
    struct player *peer = &players[operation->peer];
    if (job->wire == BUFFERED) {
        if (operation->kind == OPERATION_SEND) {
            finish(job, rank, at, begin);
            return true;
        }
        for (int sent = 0; sent < peer->n; sent++) {
            if (peer->list[sent].kind == OPERATION_SEND && peer->list[sent].peer == rank &&
                same_message(operation, &peer->list[sent]) && peer->done[sent] >= 0) {
                finish(job, rank, at, later(begin, peer->done[sent]));
                return true;
            }
        }
        return false;
    }
    /* send and receive meet at the heads of both lanes */
    int other = head(job, peer, lane);
    if (other < 0 || peer->list[other].kind == operation->kind ||
        peer->list[other].kind == OPERATION_COMPUTE || peer->list[other].peer != rank ||
        !same_message(operation, &peer->list[other]))
        return false;
    double peer_ready = ready_at(peer, other);
    if (peer_ready < 0) return false;
    double meet = later(begin, later(peer_ready, peer->lane_time[lane]));
    finish(job, operation->peer, other, meet);
    finish(job, rank, at, meet);
    return true;
}

/* The makespan, or -1 on deadlock. */
static double play(const struct job *job) {
    int n_ranks = 1 + job->n_attention;
    for (int rank = 0; rank < n_ranks; rank++) {
        struct player *player = &players[rank];
        memset(player, 0, sizeof *player);
        struct turn_order order = {job->n_slots, job->n_gaps, job->n_steps, job->n_attention,
                                   job->mirrored};
        player->n = turn_order_list(&order, rank, player->list);
        for (int at = 0; at < player->n; at++)
            player->done[at] = -1;
    }
    for (bool moved = true; moved;) {
        moved = false;
        for (int rank = 0; rank < n_ranks; rank++) {
            for (int lane = 0; lane < LANES; lane++)
                moved = play_head(job, rank, lane) || moved;
        }
    }
    double end = 0;
    for (int rank = 0; rank < n_ranks; rank++) {
        for (int at = 0; at < players[rank].n; at++) {
            if (players[rank].done[at] < 0) return -1;
            end = later(end, players[rank].done[at]);
        }
    }
    return end;
}

/* ---- what is claimed --------------------------------------------------------------------------
 */

#define FOR_ALL_JOBS(job)                                                                          \
    for (job.n_slots = 1; job.n_slots <= SCHEDULE_MAX_SLOTS; job.n_slots++)                        \
        for (job.n_gaps = 1; job.n_gaps <= 6; job.n_gaps++)                                        \
            for (job.n_steps = 1; job.n_steps <= 5; job.n_steps++)                                 \
                for (job.n_attention = 1; job.n_attention <= 4; job.n_attention++)

static void no_deadlock(void **state) {
    (void)state;
    struct job job = {.t_model = 1, .t_attention = 1};
    int n_tried = 0;
    FOR_ALL_JOBS(job) {
        job.mirrored = true;
        for (job.wire = UNBUFFERED; job.wire <= LANED; job.wire++, n_tried++)
            assert_true(play(&job) >= 0);
        job.mirrored = false;
        job.wire = BUFFERED;
        assert_true(play(&job) >= 0);
        n_tried++;
    }
    print_message("%d configurations played, 0 deadlocks\n", n_tried);
}

static void replying_at_once_unbuffered_deadlocks(void **state) {
    (void)state;
    struct job job = {.t_model = 1, .t_attention = 1, .mirrored = false, .wire = UNBUFFERED};
    int n_tried = 0, n_deadlocks = 0;
    FOR_ALL_JOBS(job) {
        n_deadlocks += play(&job) < 0;
        n_tried++;
    }
    print_message("broken rule (reply at once, unbuffered): %d of %d configurations deadlock\n",
                  n_deadlocks, n_tried);
    assert_true(n_deadlocks > 0);
    job = (struct job){2, 1, 2, 1, false, UNBUFFERED, 1, 1};
    assert_true(play(&job) < 0);
}

/* The k-th message between two ranks is the same at both ends. */
static void pairs_see_one_order(void **state) {
    (void)state;
    struct job job = {.mirrored = true};
    static struct turn_operation model[MAX_OPERATIONS], attention[MAX_OPERATIONS];
    FOR_ALL_JOBS(job) {
        struct turn_order order = {job.n_slots, job.n_gaps, job.n_steps, job.n_attention, true};
        int n_model = turn_order_list(&order, 0, model);
        for (int rank = 1; rank <= job.n_attention; rank++) {
            int n = turn_order_list(&order, rank, attention), at = 0;
            for (int mine = 0; mine < n_model; mine++) {
                if (model[mine].kind == OPERATION_COMPUTE || model[mine].peer != rank) continue;
                while (at < n && attention[at].kind == OPERATION_COMPUTE)
                    at++;
                assert_true(at < n && same_message(&model[mine], &attention[at]));
                assert_int_not_equal(model[mine].kind, attention[at].kind);
                at++;
            }
            while (at < n && attention[at].kind == OPERATION_COMPUTE)
                at++;
            assert_int_equal(at, n);
        }
    }
}

static void every_layer_is_served_once(void **state) {
    (void)state;
    struct job job = {0};
    static struct turn_operation list[MAX_OPERATIONS];
    FOR_ALL_JOBS(job) {
        struct turn_order order = {job.n_slots, job.n_gaps, job.n_steps, 1, false};
        int served[SCHEDULE_MAX_SLOTS][8][8] = {{{0}}};
        int n = turn_order_list(&order, 1, list);
        for (int at = 0; at < n; at++) {
            if (list[at].kind == OPERATION_COMPUTE)
                served[list[at].slot][list[at].step][list[at].gap]++;
        }
        for (int slot = 0; slot < job.n_slots; slot++)
            for (int step = 0; step < job.n_steps; step++)
                for (int gap = 0; gap < job.n_gaps; gap++)
                    assert_int_equal(served[slot][step][gap], 1);
    }
}

/* Slots that stop at different steps leave the others' turns whole; the colocated list is a round
 * robin. */
static void slots_stop_on_their_own(void **state) {
    (void)state;
    for (int n_gaps = 0; n_gaps <= 3; n_gaps++) {
        struct schedule schedule;
        struct turn turn;
        const int last[2] = {1, 3};
        int next_slice[2] = {0, 0}, next_step[2] = {0, 0};
        schedule_open(&schedule, 2, n_gaps);
        while (schedule_next(&schedule, &turn)) {
            assert_int_equal(turn.step, next_step[turn.slot]);
            assert_int_equal(turn.slice, next_slice[turn.slot]);
            if (turn.slice == 0 && turn.step == last[turn.slot])
                schedule_stop(&schedule, turn.slot, turn.step);
            next_slice[turn.slot] = turn.slice == n_gaps ? 0 : turn.slice + 1;
            next_step[turn.slot] += turn.slice == n_gaps;
        }
        assert_int_equal(next_step[0], 2);
        assert_int_equal(next_step[1], 4);
    }
}

/* Two slots where `step` begins; with gaps the step before has its last slice still to come. */
static void open_at(struct schedule *schedule, int n_gaps, int step) {
    schedule_open(schedule, 2, n_gaps);
    schedule->step = step;
    for (int slot = 0; slot < 2; slot++)
        schedule->n_steps_done[slot] = n_gaps ? step - 1 : step;
}

/* A phase is a number that no int holds long before a step is: the last steps there are. */
static void phases_go_on_past_an_int(void **state) {
    (void)state;
    enum { FIRST = INT_MAX - 3, LAST = INT_MAX - 1 };
    for (int n_gaps = 0; n_gaps <= 30; n_gaps += 30) {
        struct schedule schedule;
        struct turn turn;
        int next_slice[2] = {0, 0}, next_step[2] = {FIRST, FIRST};
        open_at(&schedule, n_gaps, FIRST);
        for (int slot = 0; slot < 2; slot++)
            schedule_stop(&schedule, slot, LAST);
        while (schedule_next(&schedule, &turn)) {
            if (turn.step == FIRST - 1) continue; /* its last slice */
            assert_int_equal(turn.step, next_step[turn.slot]);
            assert_int_equal(turn.slice, next_slice[turn.slot]);
            next_slice[turn.slot] = turn.slice == n_gaps ? 0 : turn.slice + 1;
            next_step[turn.slot] += turn.slice == n_gaps;
        }
        assert_int_equal(next_step[0], LAST + 1);
        assert_int_equal(next_step[1], LAST + 1);
    }
}

static void walk_past_the_last_step(const void *schedule) {
    struct schedule walked = *(const struct schedule *)schedule;
    struct turn turn;
    while (schedule_next(&walked, &turn) && turn.step >= 0)
        ;
}

static void steps_that_no_int_counts_end_the_run(void **state) {
    (void)state;
    for (int n_gaps = 0; n_gaps <= 3; n_gaps += 3) {
        struct schedule schedule;
        char text[256];
        open_at(&schedule, n_gaps, INT_MAX - 1);
        assert_int_equal(child_code(walk_past_the_last_step, &schedule, text, sizeof text),
                         EXIT_WORLD);
        assert_non_null(strstr(text, "after 2147483647 steps this run can count no further"));
    }
}

/* With t_m = t_a two slots take at most 0.55 of one slot's time a token, in every order that claims
 * overlap; replying mirrored on synchronous ranks does not claim it, and does not have it. */
static void two_slots_overlap(void **state) {
    (void)state;
    static const struct {
        enum wire_kind wire;
        bool mirrored;
    } claim[] = {{LANED, true}, {BUFFERED, false}};
    double worst = 0;
    for (size_t which = 0; which < 2; which++) {
        for (int n_gaps = 1; n_gaps <= 6; n_gaps++) {
            for (int n_steps = 1; n_steps <= 5; n_steps++) {
                if (n_gaps * n_steps < 5) continue;
                struct job one = {1, n_gaps, n_steps, 1, claim[which].mirrored, claim[which].wire,
                                  1, 1};
                struct job two = one;
                two.n_slots = 2;
                double ratio = play(&two) / (2 * play(&one));
                worst = later(worst, ratio);
                assert_true(ratio <= 0.55);
            }
        }
    }
    struct job one = {1, 6, 5, 1, true, UNBUFFERED, 1, 1}, two = one;
    two.n_slots = 2;
    double synchronous = play(&two) / (2 * play(&one));
    print_message("two slots / one slot, time a token: at most %.3f; mirrored on synchronous ranks "
                  "%.3f\n",
                  worst, synchronous);
    assert_true(synchronous > 0.9);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_deadlock),
        cmocka_unit_test(replying_at_once_unbuffered_deadlocks),
        cmocka_unit_test(pairs_see_one_order),
        cmocka_unit_test(every_layer_is_served_once),
        cmocka_unit_test(slots_stop_on_their_own),
        cmocka_unit_test(phases_go_on_past_an_int),
        cmocka_unit_test(steps_that_no_int_counts_end_the_run),
        cmocka_unit_test(two_slots_overlap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
