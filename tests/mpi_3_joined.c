/* mpi_3_joined.c - joined weights beside attention ranks: what Q, K and V are sent from are columns
 * of one value, and the answers keep the bits of the plain graph, colocated.
 *
 * Ranks: the model rank and two attention ranks, which hold two and one of the three KV heads.
 */
#include <stdio.h>
#include <unistd.h>

#include "make_gguf.h"
#include "rig.h"

enum { CONTEXT = 160, N_WISHES = 4 };

static const char path[] = "mpi_3_joined.gguf";
static int rank;

static void ask(const struct rig_model *model, struct rig_list *list) {
    static const int n_prompt[N_WISHES] = {130, 5, 64, 33};
    struct rig_wish wish[N_WISHES];
    for (int at = 0; at < N_WISHES; at++) {
        wish[at] = (struct rig_wish){n_prompt[at], 6, 5, true, rig_greedy(), NULL};
        wish[at].sampling.n_logprobs = 2;
    }
    rig_list_open(list, wish, N_WISHES, model->model.vocabulary);
}

/* The plain graph on the model rank alone. */
static void expect(struct rig_list *list) {
    struct rig_case what = {
        .kv_type = KV_BF16, .n_threads = 1, .n_slots = 1, .max_batch = 1, .max_rows = 32};
    struct rig_model model;
    struct rig_group group;
    rig_model_open(&model, path, CONTEXT);
    rig_group_open(&group, 0, 0, 0, &model);
    ask(&model, list);
    rig_run(&group, &what, list);
    rig_group_close(&group);
    rig_model_close(&model);
}

static bool answers(const struct rig_group *group, bool q_first, struct rig_list *made,
                    const struct rig_list *expected) {
    struct rig_case what = {.kv_type = KV_BF16,
                            .n_threads = 1,
                            .n_slots = 2,
                            .max_batch = 2,
                            .max_rows = 40,
                            .q_first = q_first};
    char text[512];
    rig_run(group, &what, rank == 0 ? made : NULL);
    if (rank != 0 || rig_list_equal(made, expected, text, sizeof text)) return true;
    printf("Q-first %d: %s\n", q_first, text);
    return false;
}

static bool test_family(const char *architecture, int comm) {
    struct make_gguf_wish wish = make_gguf_default();
    struct fault fault = {0};
    struct rig_model model;
    struct rig_group group;
    struct rig_list made, expected;
    wish.architecture = architecture;
    if (rank == 0) {
        if (!make_gguf_write(&wish, path, &fault)) check_fail("%s", fault.text);
        expect(&expected);
        rig_model_open_as(&model, path, CONTEXT, true);
        ask(&model, &made);
    }
    rig_group_open(&group, comm, 2, 1, &model);
    bool good = answers(&group, true, &made, &expected);
    good = answers(&group, false, &made, &expected) && good;
    rig_group_close(&group);
    if (rank == 0) {
        rig_list_close(&made);
        rig_list_close(&expected);
        rig_model_close(&model);
        unlink(path);
        printf("%s: %s\n", architecture, good ? "the bits of the plain graph" : "FAILED");
    }
    return good;
}

int main(int argc, char **argv) {
    rank = rig_begin(&argc, &argv);
    int comm = rig_comm(0, 3);
    bool good = test_family("llama", comm);
    good = test_family("qwen2", comm) && good;
    good = test_family("qwen3", comm) && good;
    return rig_end(good);
}
