/* mpi_3_runs.c - runs from turn to turn, messages in them: a device and a wire that make them again
 * from what they wrote down give the tokens and scores of calls made anew.
 *
 * By a CPU that keeps runs (replaying_device.h): layouts colocated, of one and of two attention
 * ranks, with 1 and 2 slots that end at different steps, sequences that leave and come in between,
 * and owners without rows. Every run must hold whatever the steps of its name and rows hold, in
 * order, or a replay computes something else.
 */
#include <mpi.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "make_gguf.h"
#include "replaying_device.h"
#include "rig.h"

enum { CONTEXT = 256, N_SEQUENCES = 9 };

static int rank, n_bad;

static void open_list(struct rig_list *list, int vocabulary) {
    struct rig_wish wish[N_SEQUENCES];
    for (int at = 0; at < N_SEQUENCES; at++) {
        wish[at] = (struct rig_wish){.n_prompt = 5 + 7 * (at % 3),
                                     .max_new = 6 + 11 * (at % 4),
                                     .text = 1 + (uint64_t)at,
                                     .sampling = rig_greedy()};
        wish[at].sampling.n_logprobs = 2;
    }
    rig_list_open(list, wish, N_SEQUENCES, vocabulary);
}

/* A message is counted once and with its bytes, whoever made the call. */
static bool is_counted_alike(const struct span_totals *a, const struct span_totals *b) {
    const enum span_kind kinds[] = {SPAN_SCATTER_Q, SPAN_SCATTER_KV, SPAN_GATHER_OUT,
                                    SPAN_GATHER_Q,  SPAN_GATHER_KV,  SPAN_REPLY};
    for (size_t at = 0; at < sizeof kinds / sizeof *kinds; at++) {
        if (a->n_spans[kinds[at]] != b->n_spans[kinds[at]] ||
            a->n_bytes[kinds[at]] != b->n_bytes[kinds[at]])
            return false;
    }
    return true;
}

/* The run with calls made anew, then the one whose runs are made again. */
static void compare(const struct rig_group *group, int n_slots, bool q_first,
                    struct rig_list *expected, struct rig_list *made) {
    const struct device_ops device_ops = replaying_device();
    const struct wire_ops wire_ops = replaying_wire();
    const struct layout *layout = &group->topology.layout;
    char text[512] = "";
    struct rig_case what = {.kv_type = KV_F16,
                            .n_threads = 1,
                            .n_slots = n_slots,
                            .max_batch = 2,
                            .max_rows = 16,
                            .q_first = q_first};
    clock_record_open();
    rig_run(group, &what, expected);
    struct span_totals totals = *clock_totals();
    clock_record_open();
    what.device_ops = &device_ops;
    what.wire_ops = &wire_ops;
    rig_run(group, &what, made);
    struct replaying_counts counts = replaying_end();
    bool good = !made || rig_list_equal(made, expected, text, sizeof text);
    if (!is_counted_alike(clock_totals(), &totals)) {
        n_bad += 1;
        printf("FAILED rank %d: messages of replayed runs are counted otherwise\n", rank);
    }
    bool many = 2 * counts.n_replayed > counts.n_runs;
    if (!good || !many) {
        n_bad += 1;
        printf("FAILED %d attention ranks, %d slots, rank %d: %d of %d runs replayed; %s\n",
               layout->attention_ranks, n_slots, rank, counts.n_replayed, counts.n_runs, text);
    } else if (rank == 0) {
        printf("%d attention ranks, %d slots: %d of %d runs replayed\n", layout->attention_ranks,
               n_slots, counts.n_replayed, counts.n_runs);
    }
}

static void test_layout(int heads, int sequences, const struct rig_model *model) {
    int n_ranks = 1 + heads * sequences, comm = heads ? rig_comm(0, n_ranks) : 0;
    struct rig_list expected, made;
    struct rig_group group;
    if (rank < n_ranks) {
        rig_group_open(&group, comm, heads, sequences, model);
        for (int variant = 0; variant < 4; variant++) {
            if (model) open_list(&expected, model->model.vocabulary);
            if (model) open_list(&made, model->model.vocabulary);
            compare(&group, 1 + variant % 2, variant / 2, model ? &expected : NULL,
                    model ? &made : NULL);
            if (model) rig_list_close(&expected);
            if (model) rig_list_close(&made);
        }
        rig_group_close(&group);
    }
    rig_wait_all();
}

int main(int argc, char **argv) {
    struct rig_model model;
    struct make_gguf_wish made = make_gguf_default();
    struct fault fault = {0};
    char path[64];
    rank = rig_begin(&argc, &argv);
    snprintf(path, sizeof path, "runs_%d.gguf", (int)getpid());
    if (rank == 0) {
        if (!make_gguf_write(&made, path, &fault)) check_fail("%s", fault.text);
        rig_model_open(&model, path, CONTEXT);
        unlink(path); /* the map keeps it */
    }
    test_layout(0, 0, rank == 0 ? &model : NULL);
    test_layout(1, 1, rank == 0 ? &model : NULL);
    test_layout(2, 1, rank == 0 ? &model : NULL);
    test_layout(1, 2, rank == 0 ? &model : NULL);
    if (rank == 0) rig_model_close(&model);
    return rig_end(n_bad == 0);
}
