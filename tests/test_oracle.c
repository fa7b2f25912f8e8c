/* The packaged model against the oracle: logits, and greedy ids, of the float32 weights computed by
 * another engine in float32 (docs/design.md section 6 says what lamina promises of its own bits;
 * this says that they are the right ones).
 *
 * greedy.jsonl, logits.json and logits_thin.f32 are the oracle's; its README states how far two
 * engines are apart: 0.00015 at most, and no argmax of 3072. KV cache in float32. On a GPU (label
 * gpu) values and cache are bf16, of 8 bits, so logits are that much off and near ties fall
 * elsewhere: by how much at most is what users were told (README.md).
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "rig.h"

#define ORACLE TESTS_DIR "/oracle/smollm2/"

enum { PROMPTS = 48, STEPS = 64, ROWS = 8, ROW_STEPS = 5, VOCABULARY = 49152 };
/* What may be off: a logit, all of them in the root mean square, the gap of an argmax that differs,
 * and how many of these. */
struct tolerance {
    double logit, rms, gap;
    int n_differ;
};
static const struct tolerance in_f32 = {1e-3, 1e-3, 1e-3, PROMPTS *STEPS};
static const struct tolerance in_bf16 = {INFINITY, 0.2, 0.7, PROMPTS *STEPS * 3 / 100};

static const struct tolerance *tolerance(void) {
    return rig_device() == &device_cpu ? &in_f32 : &in_bf16;
}

/* One line of greedy.jsonl. */
struct greedy {
    int n_prompt;
    int32_t *token; /* (n_prompt + STEPS): the prompt, then the oracle's ids */
    double gap[STEPS];
    int row; /* of the logits, -1: none */
};

static struct greedy greedy[PROMPTS];
static float *logits; /* (ROWS, ROW_STEPS, VOCABULARY / apart) */
static int apart;     /* ids between two that are kept */
static struct rig_model model;
static struct rig_group group;

/* ---- reading ----------------------------------------------------------------------------------
 */

static void read_greedy(void) {
    FILE *file = fopen(ORACLE "greedy.jsonl", "r");
    assert_non_null(file);
    for (int prompt = 0; prompt < PROMPTS; prompt++) {
        struct greedy *to = &greedy[prompt];
        json_t *line = json_loadf(file, JSON_DISABLE_EOF_CHECK, NULL);
        assert_non_null(line);
        to->n_prompt = (int)json_integer_value(json_object_get(line, "n_prompt"));
        to->token = check_alloc((size_t)to->n_prompt + STEPS, sizeof *to->token);
        to->row = -1;
        for (int at = 0; at < to->n_prompt; at++)
            to->token[at] = (int32_t)json_integer_value(
                json_array_get(json_object_get(line, "prompt_ids"), (size_t)at));
        for (size_t step = 0; step < STEPS; step++) {
            to->token[to->n_prompt + (int)step] =
                (int32_t)json_integer_value(json_array_get(json_object_get(line, "ids"), step));
            to->gap[step] = json_number_value(json_array_get(json_object_get(line, "gap"), step));
        }
        json_decref(line);
    }
    fclose(file);
}

static void read_logits(void) {
    json_t *index = json_load_file(ORACLE "logits.json", 0, NULL);
    assert_non_null(index);
    for (size_t row = 0; row < ROWS; row++) {
        json_t *prompt = json_array_get(json_object_get(index, "prompts"), row);
        int at = (int)json_integer_value(json_object_get(prompt, "greedy_id"));
        greedy[at].row = (int)row;
        for (size_t fed = 0; fed < ROW_STEPS - 1; fed++) {
            json_t *id = json_array_get(json_object_get(prompt, "fed_ids"), fed);
            assert_int_equal(json_integer_value(id),
                             greedy[at].token[greedy[at].n_prompt + (int)fed]);
        }
    }
    json_decref(index);
    FILE *file = fopen(ORACLE "logits_thin.f32", "rb");
    assert_non_null(file);
    fseek(file, 0, SEEK_END);
    size_t n_floats = (size_t)ftell(file) / sizeof *logits;
    rewind(file);
    apart = (int)((size_t)ROWS * ROW_STEPS * VOCABULARY / n_floats);
    assert_int_equal(n_floats * (size_t)apart, (size_t)ROWS * ROW_STEPS * VOCABULARY);
    logits = check_alloc(n_floats, sizeof *logits);
    assert_int_equal(fread(logits, sizeof *logits, n_floats, file), n_floats);
    fclose(file);
}

static int open_all(void **state) {
    (void)state;
    read_greedy();
    read_logits();
    rig_model_open(&model, TEST_MODEL, 2048);
    rig_group_open(&group, 0, 0, 0, &model);
    return 0;
}

static int close_all(void **state) {
    (void)state;
    rig_group_close(&group);
    rig_model_close(&model);
    for (int prompt = 0; prompt < PROMPTS; prompt++)
        free(greedy[prompt].token);
    free(logits);
    return 0;
}

/* ---- the logits, seen as they are sampled -----------------------------------------------------
 */

static struct {
    double most, squares;
    int64_t n;
    bool seen[ROWS][ROW_STEPS];
} difference;

static void compare_row(const float *made, int row, int step) {
    int n_ids = VOCABULARY / apart;
    const float *expected = logits + ((size_t)row * ROW_STEPS + (size_t)step) * (size_t)n_ids;
    for (int at = 0; at < n_ids; at++) {
        double d = fabs((double)made[at * apart] - (double)expected[at]);
        if (!(d <= difference.most)) difference.most = d;
        difference.squares += d * d;
    }
    difference.n += n_ids;
    difference.seen[row][step] = true;
}

static void compare_and_sample(struct device *device, const struct rows *rows,
                               struct value values) {
    static float made[VOCABULARY];
    size_t row_bytes = (size_t)values.stride * sizeof(float);
    for (int picked = 0; picked < rows->n_picked; picked++) {
        const struct sample_wish *wish = &rows->wish[picked];
        const struct greedy *prompt = &greedy[wish->sampling->prompt_index];
        int step = wish->position - prompt->n_prompt;
        if (prompt->row < 0 || step < 0 || step >= ROW_STEPS) continue;
        rig_device()->download(device, made, values.buffer,
                               values.offset + (size_t)picked * row_bytes, sizeof made);
        compare_row(made, prompt->row, step);
    }
    rig_device()->sample(device, rows, values);
}

/* Logits are looked at by the host: no run is kept. */
static bool no_replay(struct device *device, unsigned slots, int name) {
    (void)device, (void)slots, (void)name;
    return false;
}

static void not_recorded(struct device *device) {
    (void)device;
}

/* ---- tests ------------------------------------------------------------------------------------
 */

static struct rig_case make_case(void) {
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    return (struct rig_case){.kv_type = rig_device() == &device_cpu ? KV_F32 : KV_BF16,
                             .n_threads = cores > 4 ? 4 : (int)cores,
                             .n_slots = 1,
                             .max_batch = 32,
                             .max_rows = 256};
}

/* All prompts, the first `n_fed` of the oracle's ids behind each, and the rest to be generated. */
static void open_list(struct rig_list *list, int n_fed, bool scored) {
    struct rig_wish wish[PROMPTS];
    for (int prompt = 0; prompt < PROMPTS; prompt++) {
        wish[prompt] = (struct rig_wish){.n_prompt = greedy[prompt].n_prompt + n_fed,
                                         .max_new = STEPS - n_fed,
                                         .score_prompt = scored,
                                         .sampling = rig_greedy(),
                                         .prompt = greedy[prompt].token};
        wish[prompt].sampling.prompt_index = (uint32_t)prompt;
        if (scored) wish[prompt].sampling.n_logprobs = 0;
    }
    rig_list_open(list, wish, PROMPTS, VOCABULARY);
}

/* The oracle's ids are fed whatever we would have chosen. */
static void test_forced(void **state) {
    (void)state;
    struct device_ops ops = *rig_device();
    struct rig_case what = make_case();
    struct rig_list list;
    ops.sample = compare_and_sample;
    ops.replay = no_replay;
    ops.recorded = not_recorded;
    what.device_ops = &ops;
    open_list(&list, STEPS - 1, true);
    rig_run(&group, &what, &list);
    int n_differ = 0, n_steps = 0;
    double largest = 0;
    for (int prompt = 0; prompt < PROMPTS; prompt++) {
        const struct generation *generation = list.generation[prompt];
        for (int step = 0; step < STEPS; step++) {
            int at = greedy[prompt].n_prompt + step;
            bool same = step < STEPS - 1 ? generation->score[at].rank == 1
                                         : generation->token[at] == greedy[prompt].token[at];
            n_steps += 1;
            if (same) continue;
            n_differ += 1;
            if (greedy[prompt].gap[step] > largest) largest = greedy[prompt].gap[step];
        }
    }
    rig_list_close(&list);
    double rms = sqrt(difference.squares / (double)difference.n);
    print_message("logits: %d x %d positions, every %d. id: largest difference %.6f, rms %.7f\n",
                  ROWS, ROW_STEPS, apart, difference.most, rms);
    print_message("forced: %d steps, %d argmax differ, largest gap of those %.6f\n", n_steps,
                  n_differ, largest);
    for (int row = 0; row < ROWS; row++)
        for (int step = 0; step < ROW_STEPS; step++)
            assert_true(difference.seen[row][step]);
    assert_true(difference.most <= tolerance()->logit);
    assert_true(rms <= tolerance()->rms);
    assert_int_equal(n_steps, 3072);
    assert_true(largest <= tolerance()->gap);
    assert_true(n_differ <= tolerance()->n_differ);
}

static void test_unforced(void **state) {
    (void)state;
    struct rig_case what = make_case();
    struct rig_list list;
    int n_same = 0, n_wrong = 0, n_near = 0;
    open_list(&list, 0, false);
    rig_run(&group, &what, &list);
    for (int prompt = 0; prompt < PROMPTS; prompt++) {
        const int32_t *made = list.generation[prompt]->token + greedy[prompt].n_prompt;
        const int32_t *expected = greedy[prompt].token + greedy[prompt].n_prompt;
        int step = 0;
        while (step < STEPS && made[step] == expected[step])
            step++;
        n_same += step;
        if (step == STEPS) continue;
        bool near = greedy[prompt].gap[step] <= tolerance()->gap;
        n_near += near;
        n_wrong += !near;
        print_message("prompt %d parts at step %d, gap %.6f\n", prompt, step,
                      greedy[prompt].gap[step]);
    }
    rig_list_close(&list);
    print_message("unforced: %d of %d ids equal, %d prompts part at a near tie, %d elsewhere\n",
                  n_same, PROMPTS * STEPS, n_near, n_wrong);
    assert_int_equal(n_wrong, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_forced),
                                       cmocka_unit_test(test_unforced)};
    if (access(TEST_MODEL, R_OK) != 0) {
        printf("skipped: %s is not there (jobs/quickstart.sh gets it)\n", TEST_MODEL);
        return 77;
    }
    return cmocka_run_group_tests(tests, open_all, close_all);
}
