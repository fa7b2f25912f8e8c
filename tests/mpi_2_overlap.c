/* mpi_2_overlap.c - overlap is real: seen on the recorded spans of a model rank and an attention
 * rank of one host, whose clocks are one.
 *
 *   early    a Q of 64 KiB or more has arrived before its sender's K and V projections ended, in
 *            most gaps; never without progress, when nothing moves until the next call of the wire
 *   overlap  with two slots the attention that follows K and V runs while the model rank computes
 *            the other slot, in most gaps; never with one slot, when the model rank waits for it
 *
 * Both "never" are the checks that could fail. Counts over many gaps, and the best of some attempts
 * for what other programs on the cores can spoil; no time is compared with a number.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "make_gguf.h"
#include "rig.h"

enum { CHUNK = 64, CHUNKS = 4, MOST_SPANS = 1 << 16, ATTEMPTS = 8, Q_LEAST = 64 << 10 };

static int rank;

/* Spans of both ranks, on the leader. */
static struct record {
    size_t n;
    struct span *span; /* (MOST_SPANS) */
} model_rank, attention_rank;

static struct record *own_record(void) {
    return rank == 0 ? &model_rank : &attention_rank;
}

static void keep_span(void *argument, const struct span *span) {
    struct record *own = argument;
    REQUIRE(own->n < MOST_SPANS, "more than %d spans", MOST_SPANS);
    own->span[own->n++] = *span;
}

static void bring_spans(const struct rig_group *group) {
    topology_send_to_leader(&group->topology, 1, &attention_rank.n, sizeof attention_rank.n,
                            "the number of spans", 60);
    topology_send_to_leader(&group->topology, 1, attention_rank.span,
                            attention_rank.n * sizeof(struct span), "spans", 60);
}

/* The next span of a kind at or behind `at`, or NULL. */
static const struct span *find(const struct record *record, enum span_kind kind, size_t *at) {
    while (*at < record->n && record->span[*at].kind != kind)
        *at += 1;
    return *at < record->n ? &record->span[(*at)++] : NULL;
}

struct tally {
    int n, n_hits;
};

/* Messages of Q in order, on both sides: one slot, so the n-th sent is the n-th to arrive. */
static struct tally count_early(void) {
    struct tally tally = {0, 0};
    size_t sent_at = 0, kv_at = 0, arrived_at = 0;
    for (;;) {
        const struct span *sent = find(&model_rank, SPAN_SCATTER_Q, &sent_at);
        const struct span *kv = find(&model_rank, SPAN_SCATTER_KV, &kv_at);
        const struct span *arrived;
        do {
            arrived = find(&attention_rank, SPAN_ARRIVED, &arrived_at);
        } while (arrived && arrived->label != MESSAGE_Q);
        if (!sent || !kv || !arrived) return tally;
        REQUIRE(arrived->n_bytes == sent->n_bytes && kv->slice == sent->slice,
                "spans of one gap do not belong together");
        if (sent->n_bytes < Q_LEAST) continue;
        tally.n += 1;
        tally.n_hits += arrived->end_ns < kv->begin_ns; /* when V was computed */
    }
}

/* Does the model rank compute within the span? */
static bool computes_beside(const struct span *span) {
    for (size_t at = 0; at < model_rank.n; at++) {
        const struct span *other = &model_rank.span[at];
        if (other->kind == SPAN_COMPUTE && other->begin_ns < span->end_ns &&
            span->begin_ns < other->end_ns)
            return true;
    }
    return false;
}

/* Attention behind K and V of the big chunks. */
static struct tally count_overlap(void) {
    struct tally tally = {0, 0};
    for (size_t at = 1; at < attention_rank.n; at++) {
        const struct span *span = &attention_rank.span[at];
        const struct span *before = span - 1; /* messages of the other slot may arrive meanwhile */
        while (before > attention_rank.span && before->kind == SPAN_ARRIVED)
            before--;
        if (span->kind != SPAN_ATTEND || before->kind != SPAN_APPEND || span->step >= CHUNKS)
            continue;
        tally.n += 1;
        tally.n_hits += computes_beside(span);
    }
    return tally;
}

/* ---- runs -------------------------------------------------------------------------------------
 */

struct trial {
    const char *name;
    int n_slots;
    bool no_progress;
    struct tally (*count)(void);
    bool expected; /* in most gaps; else in none */
};

static struct tally run(const struct rig_group *group, const struct trial *trial,
                        struct rig_list *list) {
    struct rig_case what = {.kv_type = KV_F32,
                            .n_threads = 1,
                            .n_slots = trial->n_slots,
                            .max_batch = 1,
                            .max_rows = CHUNK,
                            .q_first = true,
                            .no_progress = trial->no_progress};
    own_record()->n = 0;
    clock_record_open();
    clock_listen(&(struct clock_listener){.take_span = keep_span, .argument = own_record()});
    if (list) list->n = trial->n_slots;
    rig_run(group, &what, list);
    bring_spans(group);
    clock_record_close();
    return rank == 0 ? trial->count() : (struct tally){0, 0};
}

/* Until the hits are most, as far as they are wanted. */
static bool attempt(const struct rig_group *group, const struct trial *trial,
                    struct rig_list *list) {
    for (int number = 0;; number++) {
        struct tally tally = run(group, trial, list);
        int good = trial->expected ? 2 * tally.n_hits > tally.n : tally.n_hits == 0;
        int again = trial->expected && !good && number + 1 < ATTEMPTS;
        if (rank == 0)
            printf("%s%s: %d of %d gaps\n", good || again ? "" : "FAILED ", trial->name,
                   tally.n_hits, tally.n);
        REQUIRE(rank != 0 || tally.n >= CHUNKS, "nothing to count");
        topology_broadcast(&group->topology, &again, sizeof again, "another attempt", 60);
        if (!again) return rank != 0 || good;
    }
}

int main(int argc, char **argv) {
    static const struct trial trials[] = {
        {"Q arrives before K and V are computed", 1, false, count_early, true},
        {"the same without progress", 1, true, count_early, false},
        {"attention beside compute, two slots", 2, false, count_overlap, true},
        {"the same with one slot", 1, false, count_overlap, false},
    };
    /* else a receiver may fetch bytes by itself from the sender's memory, on some hosts */
    setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", 1);
    setenv("OMPI_MCA_smsc", "^cma,xpmem,knem", 1);
    rank = rig_begin(&argc, &argv);
    /* K and V take long, Q is small: 1 KiB a row */
    struct make_gguf_wish made = make_gguf_default();
    made.layers = 4, made.hidden = 2048, made.heads = made.kv_heads = 4, made.head_dim = 64;
    made.ffn = 64, made.vocabulary = 300, made.type = "F16";
    struct rig_model model;
    struct rig_list list = {0};
    struct fault fault = {0};
    if (rank == 0) {
        struct rig_wish wish[2] = {{CHUNK * CHUNKS, 2, 1, false, rig_greedy(), NULL},
                                   {CHUNK * CHUNKS, 2, 2, false, rig_greedy(), NULL}};
        char path[64];
        snprintf(path, sizeof path, "overlap_%d.gguf", (int)getpid());
        if (!make_gguf_write(&made, path, &fault)) check_fail("%s", fault.text);
        rig_model_open(&model, path, CHUNK * (CHUNKS + 1));
        unlink(path); /* the map keeps it */
        rig_list_open(&list, wish, 2, model.model.vocabulary);
    }
    model_rank.span = check_alloc(MOST_SPANS, sizeof(struct span));
    attention_rank.span = check_alloc(MOST_SPANS, sizeof(struct span));
    struct rig_group group;
    rig_group_open(&group, rig_comm(0, 2), 1, 1, rank == 0 ? &model : NULL);
    bool good = true;
    for (size_t trial = 0; trial < sizeof trials / sizeof *trials; trial++)
        good = attempt(&group, &trials[trial], rank == 0 ? &list : NULL) && good;
    rig_group_close(&group);
    free(model_rank.span);
    free(attention_rank.span);
    if (rank == 0) {
        list.n = 2;
        rig_list_close(&list);
        rig_model_close(&model);
    }
    return rig_end(good);
}
