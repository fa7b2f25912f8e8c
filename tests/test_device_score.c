/* sample: log-probabilities, ranks and known tokens; take_tokens, and the way of a sampled token
 * back through embed. What is expected comes from a full sort and the tiles of device.h
 * (device_choice.h), those from a log-softmax in double. */
#include "clock.h"
#include "device_choice.h"

static double double_log_sum(const float *logit, int vocabulary) {
    double most = -INFINITY, sum = 0;
    for (int id = 0; id < vocabulary; id++)
        most = fmax(most, (double)logit[id]);
    for (int id = 0; id < vocabulary; id++)
        sum += exp((double)logit[id] - most);
    return most + log(sum);
}

/* Within 1e-5 although a tile's lanes are chains of 64 additions: 64 2^-24, and exp's 2^-22. */
static void the_definition_is_a_log_softmax(void **state) {
    (void)state;
    static const int sizes[] = {1, 2, 17, 1023, 1024, 1025, 2048, 49152};
    static const float spread[] = {0.1f, 3, 12};
    struct dice dice = {4};
    for (size_t size = 0; size < sizeof sizes / sizeof *sizes; size++) {
        struct lot lot = lot_open(sizes[size], 3);
        for (int row = 0; row < 3; row++) {
            lot_roll(&lot, &dice, row, spread[row], 0);
            double off = plain_log_sum(lot_row(&lot, row), sizes[size]) -
                         double_log_sum(lot_row(&lot, row), sizes[size]);
            assert_true(fabs(off) < 1e-5);
        }
        lot_close(&lot);
    }
}

/* Rows of every kind: drawn, greedy, known; with changes that scores must not see. */
static void check_scored(int vocabulary, int n) {
    static const int32_t wanted[] = {0, 1, 5, SAMPLING_MAX_LOGPROBS, -1};
    static const struct logit_bias bias[] = {{1, 4}, {0, -4}};
    struct dice dice = {(uint64_t)vocabulary * 3};
    struct lot lot = lot_open(vocabulary, n);
    for (int row = 0; row < n; row++) {
        struct sampling *sampling = &lot.sampling[row];
        lot_roll(&lot, &dice, row, row % 4 == 1 ? 10 : 2, row % 3 == 1 ? 0.5f : 0);
        sampling->n_logprobs = wanted[row % 5];
        sampling->temperature = row % 4 == 0 ? 0 : roll_between(&dice, 0.2f, 3);
        sampling->bias = bias;
        sampling->n_bias = row % 3;
        if (row % 7 < 2) lot.wish[row].known_id = roll_below(&dice, vocabulary);
    }
    lot_settle(&lot);
    check_lot(&lot);
    lot_close(&lot);
}

static void scores_of_every_kind_of_row(void **state) {
    (void)state;
    check_scored(SAMPLING_MAX_LOGPROBS, 300);
    check_scored(1024, 120);
    check_scored(1031, 240);
    check_scored(49152, 25);
}

/* All alike: every logarithm is that of 1 / vocabulary, and rank and list go by id. */
static void equal_logits_are_scored_by_hand(void **state) {
    (void)state;
    enum { VOCABULARY = 2500, N = 50 };
    struct lot lot = lot_open(VOCABULARY, N);
    float logprob = (float)-log(VOCABULARY);
    for (int row = 0; row < N; row++) {
        struct token_score *score = lot.score + (size_t)row * SCORES;
        int32_t id = row * 49;
        lot.sampling[row].n_logprobs = 5;
        lot.expected[row] = lot.wish[row].known_id = id;
        score[0] = (struct token_score){id, logprob, id + 1};
        for (int place = 0; place < 5; place++)
            score[1 + place] = (struct token_score){place, logprob, place + 1};
    }
    check_lot(&lot);
    lot_close(&lot);
}

/* ---- from step to step ------------------------------------------------------------------------
 */

enum { VOCABULARY = 32, ROWS = 5, COLUMNS = 3, STEPS = 6 };

/* Row r of (slot, step) has its largest logit at this id. */
static int32_t favourite(int slot, int step, int row) {
    return (slot * 11 + step * 5 + row * 3) % VOCABULARY;
}

/* What a row has chosen before is 1 above its favourite, and 1 below once the history that embed
 * wrote has it and a presence penalty of 2 applies. */
static void greedy_step(const struct subject *subject, int slot, int step,
                        const struct sample_wish *wish) {
    float logits[ROWS * VOCABULARY] = {0};
    for (int row = 0; row < ROWS; row++) {
        logits[row * VOCABULARY + favourite(slot, step, row)] = 10;
        for (int before = 0; before < step; before++)
            logits[row * VOCABULARY + favourite(slot, before, row)] = 11;
    }
    struct value value = value_of(subject, ROWS, VOCABULARY, logits);
    struct rows rows = {.slot = slot, .step = step, .n_picked = ROWS, .wish = wish};
    subject->ops->begin(subject->device, &rows);
    subject->ops->sample(subject->device, &rows, value);
    value_release(subject, &value);
}

/* Two slots in turn, each row a sequence of its own. The rows stand in the other order when they
 * are embedded, so that -1 - r must be followed. */
static void check_way_back(const struct subject *subject) {
    struct dice dice = {6};
    float *table = roll_floats(&dice, VOCABULARY * COLUMNS, -1, 1);
    struct weight *weight = load_floats(subject, VOCABULARY, COLUMNS, table);
    struct sampling sampling = {
        .top_p = 1, .presence_penalty = 2, .repetition_penalty = 1, .n_logprobs = -1};
    struct token_score score[ROWS * SCORES];
    int64_t begin_ns = clock_now_ns();
    for (int step = 0; step < STEPS; step++) {
        for (int slot = 0; slot < 2; slot++) {
            int32_t id[ROWS], position[ROWS], sequence[ROWS], token[ROWS];
            float expected[ROWS * COLUMNS], got[ROWS * COLUMNS];
            struct sample_wish wish[ROWS];
            for (int row = 0; row < ROWS; row++) {
                int picked = ROWS - 1 - row;
                id[row] = step ? -1 - picked : 7;
                position[row] = step;
                sequence[row] = slot * ROWS + picked;
                int32_t seen = step ? favourite(slot, step - 1, picked) : 7;
                memcpy(expected + row * COLUMNS, table + seen * COLUMNS, COLUMNS * sizeof *table);
                wish[row] = (struct sample_wish){.sampling = &sampling,
                                                 .sequence = slot * ROWS + row,
                                                 .position = step + 1,
                                                 .n_prompt = 1,
                                                 .known_id = -1};
            }
            struct rows rows = {.slot = slot,
                                .step = step,
                                .n_rows = ROWS,
                                .id = id,
                                .position = position,
                                .sequence = sequence};
            struct value out = value_alloc(subject, ROWS, COLUMNS);
            subject->ops->begin(subject->device, &rows);
            subject->ops->embed(subject->device, &rows, out, weight);
            value_read(subject, &out, ROWS, got);
            check_floats(subject, "embed of sampled tokens", expected, got, ROWS * COLUMNS,
                         subject->rounding);
            value_release(subject, &out);
            greedy_step(subject, slot, step, wish);
            int64_t done_ns[2] = {0};
            for (int back = 1; back >= 0; back--) { /* the step before is still there */
                if (step < back) continue;
                done_ns[back] = subject->ops->take_tokens(subject->device, slot, step - back, ROWS,
                                                          token, score);
                assert_in_range(done_ns[back], begin_ns, clock_now_ns());
                for (int row = 0; row < ROWS; row++)
                    assert_int_equal(token[row], favourite(slot, step - back, row));
            }
            assert_true(done_ns[1] < done_ns[0]); /* each step has a time of its own */
        }
    }
    subject->ops->unload(subject->device, weight);
    free(table);
}

static void tokens_come_back_through_embed(void **state) {
    (void)state;
    struct device_limits limits = {
        .n_slots = 2,
        .max_rows = ROWS,
        .max_picked = ROWS,
        .max_sequences = 2 * ROWS,
        .context = STEPS + 2,
        .vocabulary = VOCABULARY,
    };
    struct subjects subjects = subjects_open(&limits);
    for (int at = 0; at < subjects.n; at++)
        check_way_back(&subjects.at[at]);
    subjects_close(&subjects);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_definition_is_a_log_softmax),
        cmocka_unit_test(scores_of_every_kind_of_row),
        cmocka_unit_test(equal_logits_are_scored_by_hand),
        cmocka_unit_test(tokens_come_back_through_embed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
