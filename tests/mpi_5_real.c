/* mpi_5_real.c - the contract "same tokens whatever the layout" with the real model: 32 mixed
 * requests of 1 to 1500 prompt tokens, in few pages, so that some are preempted.
 *
 * Expected are the tokens and the bits of all log-probabilities of the same requests colocated,
 * with as many pages as can be used. Texts are the oracle's prompts, cut anywhere. Takes minutes:
 * label `long`. With an argument another model is used.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "clock.h"
#include "rig.h"

enum { REQUESTS = 32, CONTEXT = 1600, MOST_TEXT = 1 << 15 };

enum { GROWING = 16 };
/* The first ones go on for long and ask for page after page; others must yield some. */
static const int length[REQUESTS] = {30,  63,  64,  1,   8,   2,   65,   3,    5,   55,   13,
                                     21,  511, 300, 512, 128, 200, 987,  1500, 400, 1300, 144,
                                     610, 100, 34,  513, 700, 89,  1100, 377,  800, 233};

static const struct trial {
    const char *name;
    int heads, sequences;
    enum kv_type kv_type;
    int n_slots, n_threads, max_batch, max_rows, n_pages;
    bool q_first;
} trials[] = {
    {"(1,0)", 0, 0, KV_F16, 2, 2, 8, 256, 26, true},
    {"(1,1)", 1, 1, KV_F16, 2, 1, 8, 256, 26, true},
    {"(1,2) by heads", 2, 1, KV_F16, 2, 1, 8, 200, 26, true},
    {"(1,2) by heads", 2, 1, KV_BF16, 1, 2, 12, 96, 26, false},
    {"(1,2) by sequences", 1, 2, KV_F16, 2, 1, 8, 256, 26, true},
    {"(1,3) by heads", 3, 1, KV_F16, 1, 1, 16, 512, 26, true},
    {"(1,4) 2x2", 2, 2, KV_F16, 2, 1, 8, 128, 26, true},
    {"(1,4) 2x2", 2, 2, KV_F32, 2, 1, 8, 256, 26, false},
};
enum { TRIALS = sizeof trials / sizeof *trials };

static int rank, n_bad;

/* Ids of the oracle's prompts, one behind another. */
static int read_text(int32_t *text) {
    int n = 0;
    FILE *file = fopen(TESTS_DIR "/oracle/smollm2/greedy.jsonl", "r");
    REQUIRE(file, "no greedy.jsonl");
    for (json_t *line; (line = json_loadf(file, JSON_DISABLE_EOF_CHECK, NULL));) {
        const json_t *ids = json_object_get(line, "prompt_ids");
        for (size_t at = 0; at < json_array_size(ids) && n < MOST_TEXT; at++)
            text[n++] = (int32_t)json_integer_value(json_array_get(ids, at));
        json_decref(line);
    }
    fclose(file);
    return n;
}

/* Every option, in turn. */
static struct sampling sampling_of(int request) {
    static const struct logit_bias bias[] = {{28, -2}, {198, -100}, {506, 1.5f}};
    static const int32_t stop_id[] = {2, 28, 30, 198};
    struct sampling sampling = rig_greedy();
    sampling.n_logprobs = request % 7 ? request % 21 : -1;
    sampling.seed = 1000 + (uint64_t)request / 2; /* pairs are choices of one request */
    sampling.choice_index = (uint32_t)request % 2;
    sampling.prompt_index = (uint32_t)request % 3;
    if (request % 4 == 0) return sampling;
    sampling.temperature = 0.5f + 0.1f * (float)(request % 8);
    if (request % 3 == 0) sampling.top_k = 40;
    if (request % 3 == 1) sampling.top_p = 0.9f;
    if (request % 5 == 0) sampling.min_p = 0.05f;
    if (request % 5 == 1) sampling.repetition_penalty = 1.1f;
    if (request % 5 == 2) sampling.presence_penalty = 0.5f, sampling.frequency_penalty = 0.3f;
    if (request % 6 == 1) sampling.bias = bias, sampling.n_bias = 3;
    if (request % 6 == 5) {
        sampling.stop_id = stop_id, sampling.n_stop_ids = 4, sampling.min_tokens = 4;
    }
    return sampling;
}

static void open_list(struct rig_list *list, const int32_t *text, int n_text, int vocabulary) {
    struct rig_wish wish[REQUESTS];
    for (int at = 0; at < REQUESTS; at++)
        wish[at] = (struct rig_wish){.n_prompt = length[at],
                                     .max_new = at < GROWING ? 210 - 5 * at : 6 + 3 * (at % 13),
                                     .score_prompt = at % 9 == 6 && length[at] < 200,
                                     .sampling = sampling_of(at),
                                     .prompt = text + at * 331 % (n_text - CONTEXT)};
    for (int at = 0; at < REQUESTS; at++) {
        if (wish[at].score_prompt && wish[at].sampling.n_logprobs < 0)
            wish[at].sampling.n_logprobs = 2;
    }
    rig_list_open(list, wish, REQUESTS, vocabulary);
    for (int at = 0; at < REQUESTS; at++) /* for a model of fewer tokens */
        for (int token = 0; token < length[at]; token++)
            list->generation[at]->token[token] %= vocabulary;
}

/* Run a trial; the leader compares. */
static void run_trial(const struct trial *trial, const struct rig_group *group,
                      struct rig_list *made, const struct rig_list *expected) {
    struct rig_case what = {.kv_type = trial->kv_type,
                            .n_threads = trial->n_threads,
                            .n_slots = trial->n_slots,
                            .max_batch = trial->max_batch,
                            .max_rows = trial->max_rows,
                            .n_pages = trial->n_pages,
                            .q_first = trial->q_first};
    char text[512] = "";
    int64_t begin = clock_now_ns();
    struct rig_counts counts = rig_run(group, &what, made);
    if (rank != 0) return;
    bool equal = rig_list_equal(made, expected, text, sizeof text);
    bool good =
        equal && counts.batch.n_preemptions > 0 && (trial->n_slots == 1 || counts.n_rows[1] > 0);
    n_bad += !good;
    printf("%s%s, kv %s, %d slots: %lld tokens, %lld rows, %lld preemptions, %.0f s: %s\n",
           good ? "" : "FAILED ", trial->name, kv_type_name(trial->kv_type), trial->n_slots,
           (long long)counts.batch.n_tokens, (long long)counts.batch.n_rows,
           (long long)counts.batch.n_preemptions, (double)(clock_now_ns() - begin) * 1e-9,
           equal ? "same bits" : text);
}

static void run_all(const struct rig_model *model) {
    struct rig_list made = {0}, expected[3] = {{0}};
    struct rig_group whole;
    static int32_t text[MOST_TEXT];
    if (rank == 0) {
        int n_text = read_text(text);
        rig_group_open(&whole, 0, 0, 0, model);
        open_list(&made, text, n_text, model->model.vocabulary);
        for (int kv = 0; kv < 3; kv++) {
            struct rig_case what = {.kv_type = (enum kv_type)kv,
                                    .n_threads = 2,
                                    .n_slots = 1,
                                    .max_batch = 16,
                                    .max_rows = 512};
            open_list(&expected[kv], text, n_text, model->model.vocabulary);
            rig_run(&whole, &what, &expected[kv]);
        }
    }
    for (int at = 0; at < TRIALS; at++) {
        int n_ranks = 1 + trials[at].heads * trials[at].sequences;
        int comm = n_ranks > 1 ? rig_comm(0, n_ranks) : 0;
        struct rig_group group;
        if (rank < n_ranks) {
            rig_group_open(&group, comm, trials[at].heads, trials[at].sequences, model);
            run_trial(&trials[at], &group, rank == 0 ? &made : NULL, &expected[trials[at].kv_type]);
            rig_group_close(&group);
        }
        rig_wait_all();
    }
    if (rank != 0) return;
    rig_group_close(&whole);
    rig_list_close(&made);
    for (int kv = 0; kv < 3; kv++)
        rig_list_close(&expected[kv]);
}

int main(int argc, char **argv) {
    const char *path = argc > 1 ? argv[1] : TEST_MODEL;
    if (access(path, R_OK) != 0) {
        printf("skipped: %s is not there\n", path);
        return 77;
    }
    rank = rig_begin(&argc, &argv);
    struct rig_model model;
    if (rank == 0) rig_model_open(&model, path, CONTEXT);
    run_all(rank == 0 ? &model : NULL);
    if (rank == 0) rig_model_close(&model);
    return rig_end(n_bad == 0);
}
