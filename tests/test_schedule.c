/* The list of turns, proved on small configurations by playing it.
 *
 * Every rank's operations are listed from schedule_next as decode.c issues them
 * (tests/mpi_3_order.c compares that list with what decode really does), and played on three kinds
 * of wire:
 *   unbuffered  one lane a rank; a send and its receive meet, nobody passes (the worst NCCL could
 *               be)
 *   laned       messages on a lane of their own beside compute, in one order (NCCL on a stream)
 *   buffered    sends leave at once, receives wait (MPI with receives posted ahead, one-sided puts)
 * Headers are small host messages whatever the wire: they leave at once, and a rank issues nothing
 * before it has taken the header that stands in its list. Two sets of jobs:
 *   full        every attention rank has rows in every step of every slot, one attention node a
 * gap: 1 or 2 slots, 1 to 6 gaps, 1 to 5 steps, 1 to 4 attention ranks holed       everything that
 * headers can say on a smaller scale: each slot has 0 to 3 steps with 2 attention ranks, 0 to 2
 * with 3, in each of which any set of them has rows, none too; 1 or 2 gaps; 1 or 2 attention nodes
 * a gap Shown of all: no deadlock, both ends of every pair see one order, every (slot, step, layer)
 * is served once by those that have rows. Of the full ones: the makespan bound. Replying at once on
 * an unbuffered wire, the broken rule, must deadlock.
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

enum wire_kind { UNBUFFERED, LANED, BUFFERED, WIRE_KINDS };

struct job {
    struct turn_order order;
    enum wire_kind wire;
    double t_model, t_attention; /* of a slice */
};

/* ---- playing ----------------------------------------------------------------------------------
 */

enum { MAX_RANKS = 5, LANES = 3, COMPUTE_LANE = 0, MESSAGE_LANE = 1, HOST_LANE = 2 };

struct player {
    struct turn_operation list[MAX_OPERATIONS];
    double done[MAX_OPERATIONS]; /* when; < 0: not yet */
    int n, at[LANES];
    double lane_time[LANES];
};

static struct player players[MAX_RANKS];

static bool is_header(const struct turn_operation *operation) {
    return operation->kind != OPERATION_COMPUTE && operation->message == MESSAGE_STEP;
}

/* Only with messages beside compute is there a host that runs ahead of both. */
static int lane_of(const struct job *job, const struct turn_operation *operation) {
    if (job->wire != LANED) return COMPUTE_LANE;
    if (is_header(operation)) return HOST_LANE;
    return operation->kind == OPERATION_COMPUTE ? COMPUTE_LANE : MESSAGE_LANE;
}

/* The next operation of a lane, or -1. */
static int head(const struct job *job, struct player *player, int lane) {
    while (player->at[lane] < player->n && lane_of(job, &player->list[player->at[lane]]) != lane)
        player->at[lane]++;
    return player->at[lane] < player->n ? player->at[lane] : -1;
}

static bool same_message(const struct turn_operation *a, const struct turn_operation *b) {
    return a->message == b->message && a->slot == b->slot && a->step == b->step &&
           a->gap == b->gap && a->lane == b->lane;
}

/* Whether `other`, which stands before `operation` in a rank's list, must be done before it: every
 * header, for the host deals with it before it issues more; of the same slot the receives before a
 * compute, and the computes before a send. A header is formed from the tokens of the step before
 * the one that still runs. */
static bool needs(const struct turn_operation *operation, const struct turn_operation *other) {
    if (is_header(other)) return true;
    if (other->slot != operation->slot || operation->kind == OPERATION_RECEIVE) return false;
    if (operation->kind == OPERATION_COMPUTE) return other->kind == OPERATION_RECEIVE;
    if (is_header(operation) && other->step >= operation->step - 1) return false;
    return other->kind == OPERATION_COMPUTE;
}

/* When what this operation needs on its own rank is done; -1 when it is not. */
static double ready_at(const struct player *player, int at) {
    double ready = 0;
    for (int before = 0; before < at; before++) {
        if (!needs(&player->list[at], &player->list[before])) continue;
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

/* When the message that a rank is to receive was sent; -1 when it was not. */
static double sent_at(int rank, const struct turn_operation *receive) {
    const struct player *peer = &players[receive->peer];
    for (int sent = 0; sent < peer->n; sent++) {
        if (peer->list[sent].kind == OPERATION_SEND && peer->list[sent].peer == rank &&
            same_message(receive, &peer->list[sent]))
            return peer->done[sent];
    }
    return -1;
}

/* A send and its receive meet at the heads of both lanes. */
static bool meet(const struct job *job, int rank, int lane, int at, double begin) {
    const struct turn_operation *operation = &players[rank].list[at];
    struct player *peer = &players[operation->peer];
    int other = head(job, peer, lane);
    if (other < 0 || peer->list[other].kind == operation->kind ||
        peer->list[other].kind == OPERATION_COMPUTE || peer->list[other].peer != rank ||
        !same_message(operation, &peer->list[other]))
        return false;
    double peer_ready = ready_at(peer, other);
    if (peer_ready < 0) return false;
    double time = later(begin, later(peer_ready, peer->lane_time[lane]));
    finish(job, operation->peer, other, time);
    finish(job, rank, at, time);
    return true;
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
        double weight = rank == 0 ? operation->weight * job->t_model : job->t_attention;
        finish(job, rank, at, begin + weight);
        return true;
    }
    if (job->wire != BUFFERED && !is_header(operation)) return meet(job, rank, lane, at, begin);
    double sent = operation->kind == OPERATION_SEND ? begin : sent_at(rank, operation);
    if (sent < 0) return false;
    finish(job, rank, at, later(begin, sent));
    return true;
}

static int n_ranks(const struct job *job) {
    return 1 + job->order.n_attention;
}

/* The makespan, or -1 on deadlock. */
static double play(const struct job *job) {
    for (int rank = 0; rank < n_ranks(job); rank++) {
        struct player *player = &players[rank];
        player->n = turn_order_list(&job->order, rank, player->list);
        for (int at = 0; at < player->n; at++)
            player->done[at] = -1;
        for (int lane = 0; lane < LANES; lane++) {
            player->at[lane] = 0;
            player->lane_time[lane] = 0;
        }
    }
    for (bool moved = true; moved;) {
        moved = false;
        for (int rank = 0; rank < n_ranks(job); rank++) {
            for (int lane = 0; lane < LANES; lane++)
                while (play_head(job, rank, lane))
                    moved = true;
        }
    }
    double end = 0;
    for (int rank = 0; rank < n_ranks(job); rank++) {
        for (int at = 0; at < players[rank].n; at++) {
            if (players[rank].done[at] < 0) return -1;
            end = later(end, players[rank].done[at]);
        }
    }
    return end;
}

/* ---- all jobs ---------------------------------------------------------------------------------
 */

static struct job full_job(int n_slots, int n_gaps, int n_steps, int n_attention) {
    return (struct job){.order = turn_order_full(n_slots, n_gaps, n_steps, n_attention, true),
                        .t_model = 1,
                        .t_attention = 1};
}

static void for_full_jobs(void (*call)(struct job *job)) {
    for (int n_slots = 1; n_slots <= SCHEDULE_MAX_SLOTS; n_slots++)
        for (int n_gaps = 1; n_gaps <= 6; n_gaps++)
            for (int n_steps = 1; n_steps <= 5; n_steps++)
                for (int n_attention = 1; n_attention <= 4; n_attention++) {
                    struct job job = full_job(n_slots, n_gaps, n_steps, n_attention);
                    call(&job);
                }
}

/* Give every step of the job each set of attention ranks in turn; false after the last. */
static bool next_peers(struct turn_order *order) {
    unsigned end = 1u << order->n_attention;
    for (int slot = 0; slot < order->n_slots; slot++) {
        for (int step = 0; step < order->n_steps[slot]; step++) {
            if (++order->peers[slot][step] < end) return true;
            order->peers[slot][step] = 0;
        }
    }
    return false;
}

static void for_holed_jobs_of(struct job job, void (*call)(struct job *job)) {
    memset(job.order.peers, 0, sizeof job.order.peers);
    do {
        struct job given = job;
        call(&given);
    } while (next_peers(&job.order));
}

static void for_holed_jobs(void (*call)(struct job *job)) {
    for (int n_attention = 2; n_attention <= 3; n_attention++) {
        int most = 5 - n_attention;
        for (int n_gaps = 1; n_gaps <= 2; n_gaps++)
            for (int n_lanes = 1; n_lanes <= 2; n_lanes++)
                for (int first = 0; first <= most; first++)
                    for (int second = 0; second <= most; second++) {
                        struct job job = full_job(2, n_gaps, 0, n_attention);
                        job.order.n_lanes = n_lanes;
                        job.order.n_steps[0] = first;
                        job.order.n_steps[1] = second;
                        for_holed_jobs_of(job, call);
                    }
    }
}

/* ---- what is claimed --------------------------------------------------------------------------
 */

static int n_tried, n_deadlocks;

/* As decode plays it: mirrored on a wire of total order, at once on one that buffers. */
static void play_as_it_is(struct job *job) {
    for (job->wire = 0; job->wire < WIRE_KINDS; job->wire++) {
        job->order.mirrored = job->wire != BUFFERED;
        n_deadlocks += play(job) < 0;
        n_tried++;
    }
}

static void no_deadlock(void **state) {
    (void)state;
    n_tried = n_deadlocks = 0;
    for_full_jobs(play_as_it_is);
    print_message("%d configurations played, %d deadlocks\n", n_tried, n_deadlocks);
    assert_int_equal(n_tried, 720);
    assert_int_equal(n_deadlocks, 0);
}

static void no_deadlock_with_holes(void **state) {
    (void)state;
    n_tried = n_deadlocks = 0;
    for_holed_jobs(play_as_it_is);
    print_message("%d configurations with holes played, %d deadlocks\n", n_tried, n_deadlocks);
    /* of each wire, gaps and lanes: (1 + 4 + 16 + 64)^2 with 2 ranks, (1 + 8 + 64)^2 with 3 */
    assert_int_equal(n_tried, 3 * 4 * (85 * 85 + 73 * 73));
    assert_int_equal(n_deadlocks, 0);
}

static void play_replies_at_once(struct job *job) {
    job->wire = UNBUFFERED;
    job->order.mirrored = false;
    n_deadlocks += play(job) < 0;
    n_tried++;
}

static void replying_at_once_unbuffered_deadlocks(void **state) {
    (void)state;
    n_tried = n_deadlocks = 0;
    for_full_jobs(play_replies_at_once);
    print_message("broken rule (reply at once, unbuffered): %d of %d configurations deadlock",
                  n_deadlocks, n_tried);
    assert_true(n_deadlocks > 0);
    n_tried = n_deadlocks = 0;
    for_holed_jobs(play_replies_at_once);
    print_message(", with holes %d of %d\n", n_deadlocks, n_tried);
    assert_true(n_deadlocks > 0);
    struct job job = full_job(2, 1, 2, 1);
    job.order.mirrored = false;
    assert_true(play(&job) < 0);
}

/* The next message of a list with `peer` (0: with anyone), headers or those of the wire. */
static int next_message(const struct turn_operation *list, int n, int at, int peer, bool headers) {
    while (at < n && (list[at].kind == OPERATION_COMPUTE || is_header(&list[at]) != headers ||
                      (peer && list[at].peer != peer)))
        at++;
    return at;
}

/* The k-th message between two ranks is the same at both ends; the k-th header too. */
static void compare_ends(struct job *job) {
    static struct turn_operation model[MAX_OPERATIONS], attention[MAX_OPERATIONS];
    int n_model = turn_order_list(&job->order, 0, model);
    for (int rank = 1; rank <= job->order.n_attention; rank++) {
        int n = turn_order_list(&job->order, rank, attention);
        for (int headers = 0; headers < 2; headers++) {
            int mine = 0, other = 0;
            for (;; mine++, other++) {
                mine = next_message(model, n_model, mine, rank, headers);
                other = next_message(attention, n, other, 0, headers);
                if (mine == n_model || other == n) break;
                assert_true(same_message(&model[mine], &attention[other]));
                assert_int_not_equal(model[mine].kind, attention[other].kind);
            }
            assert_int_equal(mine, n_model);
            assert_int_equal(other, n);
        }
    }
}

static void pairs_see_one_order(void **state) {
    (void)state;
    for_full_jobs(compare_ends);
    for_holed_jobs(compare_ends);
}

/* Every layer of every step, by each attention rank that has rows in it, and by no other. */
static void count_served(struct job *job) {
    static struct turn_operation list[MAX_OPERATIONS];
    const struct turn_order *order = &job->order;
    for (int rank = 1; rank <= order->n_attention; rank++) {
        int served[SCHEDULE_MAX_SLOTS][8][8][2] = {{{{0}}}};
        int n = turn_order_list(order, rank, list);
        for (int at = 0; at < n; at++) {
            if (list[at].kind == OPERATION_COMPUTE)
                served[list[at].slot][list[at].step][list[at].gap][list[at].lane]++;
        }
        for (int slot = 0; slot < order->n_slots; slot++)
            for (int step = 0; step < order->n_steps[slot]; step++)
                for (int gap = 0; gap < order->n_gaps; gap++)
                    for (int lane = 0; lane < order->n_lanes; lane++)
                        assert_int_equal(served[slot][step][gap][lane],
                                         order->peers[slot][step] >> (rank - 1) & 1);
    }
}

static void every_layer_is_served_once(void **state) {
    (void)state;
    for_full_jobs(count_served);
    for_holed_jobs(count_served);
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

/* A walk that ended goes on with the step behind all that were walked, as a walk of its own: every
 * slot has every slice of it once, and nothing of the walk before comes again. */
static void a_walk_goes_on(void **state) {
    (void)state;
    for (int n_gaps = 0; n_gaps <= 3; n_gaps++) {
        struct schedule schedule;
        struct turn turn;
        schedule_open(&schedule, 2, n_gaps);
        for (int walk = 0, first = 0; walk < 3; walk++) {
            int next_step[2] = {first, first}, next_slice[2] = {0, 0};
            const int last[2] = {first + 2, first + walk};
            if (walk > 0) schedule_go_on(&schedule);
            assert_int_equal(schedule.step, first);
            while (schedule_next(&schedule, &turn)) {
                assert_int_equal(turn.step, next_step[turn.slot]);
                assert_int_equal(turn.slice, next_slice[turn.slot]);
                if (turn.slice == 0 && turn.step == last[turn.slot])
                    schedule_stop(&schedule, turn.slot, turn.step);
                next_slice[turn.slot] = turn.slice == n_gaps ? 0 : turn.slice + 1;
                next_step[turn.slot] += turn.slice == n_gaps;
            }
            assert_int_equal(next_step[0], last[0] + 1);
            assert_int_equal(next_step[1], last[1] + 1);
            int most = last[0] > last[1] ? last[0] : last[1];
            first = schedule.step + 1;
            assert_true(first > most);
        }
    }
}

/* A run and what was seen of its number: slots and slices. */
struct seen_run {
    int n;
    struct turn turn[16];
};

static void see_run(struct seen_run *seen, const struct seen_run *run) {
    if (run->n == 0) return;
    if (seen->n == 0) *seen = *run;
    assert_int_equal(run->n, seen->n);
    for (int at = 0; at < run->n; at++) {
        assert_int_equal(run->turn[at].slot, seen->turn[at].slot);
        assert_int_equal(run->turn[at].slice, seen->turn[at].slice);
    }
}

/* Whenever slots stop, and in every walk: runs of one number are the same slots and slices. */
static void runs_of_a_number_are_alike(void **state) {
    (void)state;
    enum { MOST_STOP = 3, NUMBERS = 64 };
    int n_seen = 0;
    for (int n_slots = 1; n_slots <= 2; n_slots++) {
        for (int n_gaps = 0; n_gaps <= 3; n_gaps++) {
            static struct seen_run seen[NUMBERS];
            memset(seen, 0, sizeof seen);
            for (int stops = 0; stops < MOST_STOP * MOST_STOP; stops++) {
                struct schedule schedule;
                schedule_open(&schedule, n_slots, n_gaps);
                for (int walk = 0; walk < 2; walk++) {
                    struct seen_run run = {0};
                    struct turn turn;
                    int number = -1;
                    const int last[2] = {schedule.step + stops % MOST_STOP,
                                         schedule.step + stops / MOST_STOP};
                    if (walk > 0) schedule_go_on(&schedule);
                    while (schedule_next(&schedule, &turn)) {
                        if (turn.slice == 0) {
                            if (number >= 0) see_run(&seen[number], &run);
                            if (turn.step >= last[turn.slot])
                                schedule_stop(&schedule, turn.slot, turn.step);
                            number = schedule_run(&schedule, &turn);
                            assert_in_range(number, 0, NUMBERS - 1);
                            run.n = 0;
                        }
                        if (number >= 0) run.turn[run.n++] = turn;
                        if (number >= 0 && turn.slice == n_gaps) {
                            see_run(&seen[number], &run);
                            number = -1;
                        }
                    }
                }
            }
            for (int number = 0; number < NUMBERS; number++)
                n_seen += seen[number].n > 0;
        }
    }
    assert_true(n_seen > 8); /* each of them has one run or more */
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
static double two_slots_to_one(int n_gaps, int n_steps, enum wire_kind wire, bool mirrored) {
    struct job one = full_job(1, n_gaps, n_steps, 1), two = full_job(2, n_gaps, n_steps, 1);
    one.wire = two.wire = wire;
    one.order.mirrored = two.order.mirrored = mirrored;
    return play(&two) / (2 * play(&one));
}

static void two_slots_overlap(void **state) {
    (void)state;
    double worst = 0;
    for (int n_gaps = 1; n_gaps <= 6; n_gaps++) {
        for (int n_steps = 1; n_steps <= 5; n_steps++) {
            if (n_gaps * n_steps < 5) continue;
            worst = later(worst, two_slots_to_one(n_gaps, n_steps, LANED, true));
            worst = later(worst, two_slots_to_one(n_gaps, n_steps, BUFFERED, false));
        }
    }
    double synchronous = two_slots_to_one(6, 5, UNBUFFERED, true);
    print_message("two slots / one slot, time a token: at most %.3f; mirrored on synchronous ranks "
                  "%.3f\n",
                  worst, synchronous);
    assert_true(worst <= 0.55);
    assert_true(synchronous > 0.9);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_deadlock),
        cmocka_unit_test(no_deadlock_with_holes),
        cmocka_unit_test(replying_at_once_unbuffered_deadlocks),
        cmocka_unit_test(pairs_see_one_order),
        cmocka_unit_test(every_layer_is_served_once),
        cmocka_unit_test(slots_stop_on_their_own),
        cmocka_unit_test(runs_of_a_number_are_alike),
        cmocka_unit_test(a_walk_goes_on),
        cmocka_unit_test(phases_go_on_past_an_int),
        cmocka_unit_test(steps_that_no_int_counts_end_the_run),
        cmocka_unit_test(two_slots_overlap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
