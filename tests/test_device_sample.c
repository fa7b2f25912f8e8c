/* sample: which token is chosen, against a slow plain version (device_choice.h), closed forms and
 * the distribution it should have. */
#include "device_choice.h"

/* ---- the noise --------------------------------------------------------------------------------
 */

/* The known answers published with Random123 (kat_vectors, philox4x32, 10 rounds). */
static void philox_gives_the_published_answers(void **state) {
    (void)state;
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } known[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t at = 0; at < sizeof known / sizeof *known; at++) {
        uint32_t out[4];
        plain_philox(known[at].counter, known[at].key, out);
        assert_memory_equal(out, known[at].out, sizeof out);
    }
}

/* Among equal logits the largest word wins: every part of key and counter is seen. */
static void equal_logits_let_the_words_decide(void **state) {
    (void)state;
    enum { VOCABULARY = 11, N = 3000 };
    struct dice dice = {3};
    struct lot lot = lot_open(VOCABULARY, N);
    for (int row = 0; row < N; row++) {
        lot.sampling[row].seed = roll(&dice);
        lot.sampling[row].prompt_index = (uint32_t)roll(&dice);
        lot.sampling[row].choice_index = (uint32_t)roll(&dice);
        lot.sampling[row].temperature = roll_between(&dice, 0.1f, 5);
        lot.wish[row].position = roll_below(&dice, CONTEXT);
        uint32_t best = 0;
        for (int32_t id = 0; id < VOCABULARY; id++) {
            uint32_t word = plain_word(&lot.sampling[row], lot.wish[row].position, id);
            if (word > best) lot.expected[row] = id;
            if (word > best) best = word;
        }
    }
    check_lot(&lot);
    lot_close(&lot);
}

/* ---- the whole distribution -------------------------------------------------------------------
 */

static void check_random_rows(int vocabulary, int n) {
    static const float temperature[] = {1, 0.7f, 0.1f, 5, 1.7f, 0.3f};
    static const float spread[] = {3, 0.5f, 8, 1};
    struct dice dice = {(uint64_t)vocabulary};
    struct lot lot = lot_open(vocabulary, n);
    for (int row = 0; row < n; row++) {
        lot_roll(&lot, &dice, row, spread[row % 4], row % 5 == 4 ? 0.5f : 0);
        lot.sampling[row].temperature = temperature[row % 6];
        lot.sampling[row].seed = roll(&dice);
        lot.wish[row].position = roll_below(&dice, CONTEXT);
    }
    lot_settle(&lot);
    check_lot(&lot);
    lot_close(&lot);
}

static void the_choice_is_a_gumbel_argmax(void **state) {
    (void)state;
    check_random_rows(1031, 3000);
    check_random_rows(49152, 120);
    check_random_rows(17, 1000);
    check_random_rows(2, 500);
}

/* Logits so large that sums with noise are rounded to the same number: the lowest id, though a
 * sorted list shows it last. */
static void equal_sums_go_to_the_lowest_id(void **state) {
    (void)state;
    enum { VOCABULARY = 64, N = 3000 };
    struct dice dice = {21};
    struct lot lot = lot_open(VOCABULARY, N);
    for (int row = 0; row < N; row++) {
        float unit = row % 2 ? 0.5f : 0.0625f;
        for (int id = 0; id < VOCABULARY; id++)
            lot_row(&lot, row)[id] = unit * (0x1p24f - (float)roll_below(&dice, row % 3 ? 8 : 64));
        if (row % 4) lot.sampling[row].top_k = 8 * (row % 4);
    }
    lot_settle(&lot);
    check_lot(&lot);
    lot_close(&lot);
}

/* Pearson's chi-square of `count` against `n` draws with probabilities `p`. */
static double chi_square(const int *count, const double *p, int cells, int n) {
    double sum = 0;
    for (int cell = 0; cell < cells; cell++)
        sum += (count[cell] - n * p[cell]) * (count[cell] - n * p[cell]) / (n * p[cell]);
    return sum;
}

/* What a stream of draws differs in. */
enum stream { BY_POSITION, BY_SEED, BY_PROMPT, BY_CHOICE, N_STREAMS };

/* With 15 degrees of freedom chi-square exceeds 60 with probability 2.3e-7; eight such tests, so a
 * right sampler with other seeds would fail once in half a million. */
static void draws_follow_the_softmax(void **state) {
    (void)state;
    enum { CELLS = 16, N = 9000, SIDE = 4 };
    const double most = 60;
    for (enum stream stream = 0; stream < N_STREAMS; stream++) {
        struct dice dice = {stream};
        struct lot lot = lot_open(CELLS, N);
        double p[CELLS], pairs[CELLS], total = 0;
        int count[CELLS] = {0}, pair_count[CELLS] = {0};
        lot_roll(&lot, &dice, 0, 1.2f, 0);
        for (int id = 0; id < CELLS; id++)
            total += p[id] = exp((double)lot.logits[id] / 0.8);
        for (int row = 0; row < N; row++) {
            memcpy(lot_row(&lot, row), lot.logits, CELLS * sizeof *lot.logits);
            lot.sampling[row].temperature = 0.8f;
            lot.wish[row].position = stream == BY_POSITION ? row : 17;
            lot.sampling[row].seed = stream == BY_SEED ? (uint64_t)row : 42;
            lot.sampling[row].prompt_index = stream == BY_PROMPT ? (uint32_t)row : 0;
            lot.sampling[row].choice_index = stream == BY_CHOICE ? (uint32_t)row : 0;
        }
        lot_settle(&lot);
        check_lot(&lot);
        for (int id = 0; id < CELLS; id++)
            p[id] /= total;
        double side[SIDE] = {0}; /* ids mod 4, which one call of Philox serves */
        for (int id = 0; id < CELLS; id++)
            side[id % SIDE] += p[id];
        for (int cell = 0; cell < CELLS; cell++)
            pairs[cell] = side[cell / SIDE] * side[cell % SIDE];
        for (int row = 0; row < N; row++)
            count[lot.expected[row]] += 1;
        for (int row = 0; row < N; row += 2)
            pair_count[lot.expected[row] % SIDE * SIDE + lot.expected[row + 1] % SIDE] += 1;
        assert_true(chi_square(count, p, CELLS, N) < most);
        assert_true(chi_square(pair_count, pairs, CELLS, N / 2) < most);
        lot_close(&lot);
    }
}

/* ---- filters ----------------------------------------------------------------------------------
 */

struct filter {
    float temperature, min_p;
    int32_t top_k;
    float top_p;
};

static const struct filter filters[] = {
    {1, 0, 1, 1},          {1, 0, 2, 1},        {1, 0, 40, 1},          {0.7f, 0, 700, 1},
    {1, 0, 5000000, 1},    {1, 0, 0, 0.5f},     {0.8f, 0, 0, 0.95f},    {2, 0, 0, 0.999f},
    {1, 0, 0, 0.9999999f}, {1, 0, 0, 1e-6f},    {1, 0.05f, 0, 1},       {1, 1, 0, 1},
    {0.5f, 1e-6f, 0, 1},   {1, 0, 50, 0.9f},    {1.3f, 0.02f, 40, 1},   {1, 0.1f, 0, 0.8f},
    {5, 0.01f, 30, 0.6f},  {0.1f, 0, 20, 0.9f}, {5, 0, 0, 0.3f},        {3, 0.001f, 999, 0.99f},
    {5, 0, 0, 0.9f},       {5, 0, 1000, 0.97f}, {0.02f, 0.5f, 3, 0.9f},
};
enum { N_FILTERS = sizeof filters / sizeof *filters };

static void set_filter(struct sampling *sampling, const struct filter *filter) {
    sampling->temperature = filter->temperature;
    sampling->min_p = filter->min_p;
    sampling->top_k = filter->top_k;
    sampling->top_p = filter->top_p;
}

static void check_filters(int vocabulary, int n) {
    struct dice dice = {1000 + (uint64_t)vocabulary};
    struct lot lot = lot_open(vocabulary, n);
    for (int row = 0; row < n; row++) {
        lot_roll(&lot, &dice, row, row % 3 == 2 ? 8 : 2, row % 4 == 3 ? 0.5f : 0);
        set_filter(&lot.sampling[row], &filters[row % N_FILTERS]);
    }
    lot_settle(&lot);
    check_lot(&lot);
    lot_close(&lot);
}

static void filters_leave_what_a_full_sort_leaves(void **state) {
    (void)state;
    check_filters(1031, N_FILTERS * 60);
    check_filters(49152, N_FILTERS * 3);
    check_filters(30, N_FILTERS * 30);
}

/* Rows whose answer needs no sorting: which ids may be drawn is plain to see. */
static void check_allowed(const struct filter *filter, const float *logit, int vocabulary,
                          int n_allowed) {
    enum { N = 800 };
    struct lot lot = lot_open(vocabulary, N);
    for (int row = 0; row < N; row++) {
        memcpy(lot_row(&lot, row), logit, (size_t)vocabulary * sizeof *logit);
        set_filter(&lot.sampling[row], filter);
    }
    lot_settle(&lot);
    check_lot(&lot);
    int *count = take((size_t)vocabulary, sizeof *count);
    for (int row = 0; row < N; row++)
        count[lot.expected[row]] += 1;
    for (int id = 0; id < vocabulary; id++)
        assert_true((count[id] > 0) == (id < n_allowed));
    free(count);
    lot_close(&lot);
}

static void filters_in_their_order_and_ties_by_id(void **state) {
    (void)state;
    enum { VOCABULARY = 40 };
    float equal[VOCABULARY] = {0}, steps[VOCABULARY];
    for (int id = 0; id < VOCABULARY; id++)
        steps[id] = id < 4 ? 0 : -1;
    check_allowed(&(struct filter){1, 0, 7, 1}, equal, VOCABULARY, 7);
    check_allowed(&(struct filter){1, 0, 0, 0.25f}, equal, VOCABULARY, 10);
    check_allowed(&(struct filter){1, 1, 0, 1}, equal, VOCABULARY, VOCABULARY);
    /* top_p speaks of what top_k left, and of what min_p left */
    check_allowed(&(struct filter){1, 0, 8, 0.5f}, equal, VOCABULARY, 4);
    check_allowed(&(struct filter){1, 0.5f, 0, 0.5f}, steps, VOCABULARY, 2);
    /* min_p looks behind the temperature: e^-1 = 0.37, e^-2 = 0.14, e^-0.5 = 0.61 */
    check_allowed(&(struct filter){1, 0.3f, 0, 1}, steps, VOCABULARY, VOCABULARY);
    check_allowed(&(struct filter){0.5f, 0.3f, 0, 1}, steps, VOCABULARY, 4);
    check_allowed(&(struct filter){2, 0.5f, 0, 1}, steps, VOCABULARY, VOCABULARY);
    check_allowed(&(struct filter){1, 0.5f, 0, 1}, steps, VOCABULARY, 4);
}

/* ---- bias, mask and penalties -----------------------------------------------------------------
 */

/* Dyadic penalties, so that count times penalty is exact whatever rounds it. */
static void roll_penalties(struct dice *dice, struct sampling *sampling) {
    static const float repetition[] = {1, 1.25f, 0.8f, 2}, other[] = {0, 0.25f, -0.5f, 1.5f};
    sampling->repetition_penalty = repetition[roll_below(dice, 4)];
    sampling->frequency_penalty = other[roll_below(dice, 4)];
    sampling->presence_penalty = other[roll_below(dice, 4)];
    sampling->min_tokens = roll_below(dice, 60);
    sampling->temperature = roll_below(dice, 2) ? 0 : 0.75f;
    if (roll_below(dice, 3) == 0) sampling->top_k = 20;
    if (roll_below(dice, 3) == 0) sampling->top_p = 0.9f;
}

static void the_row_is_changed_as_vllm_changes_it(void **state) {
    (void)state;
    enum { VOCABULARY = 64, N = 3000, N_HISTORY = 120 };
    static const struct logit_bias bias[] = {{3, 2.5f}, {60, -100}, {5, 100}, {11, 0.5f}};
    static const int32_t stops[] = {2, 5, 7, 63};
    struct dice dice = {8};
    struct lot lot = lot_open(VOCABULARY, N);
    lot.n_history = N_HISTORY;
    for (int sequence = 0; sequence < N_SEQUENCES; sequence++) {
        for (int token = 0; token < N_HISTORY; token++)
            lot.history[sequence * CONTEXT + token] =
                roll_below(&dice, roll_below(&dice, 2) ? 6 : VOCABULARY);
    }
    for (int row = 0; row < N; row++) {
        struct sampling *sampling = &lot.sampling[row];
        struct sample_wish *wish = &lot.wish[row];
        lot_roll(&lot, &dice, row, 2, 0);
        roll_penalties(&dice, sampling);
        wish->sequence = roll_below(&dice, N_SEQUENCES);
        wish->position = 1 + roll_below(&dice, N_HISTORY);
        wish->n_prompt = roll_below(&dice, wish->position + 1);
        sampling->bias = bias;
        sampling->n_bias = roll_below(&dice, 5);
        sampling->stop_id = stops;
        sampling->n_stop_ids = roll_below(&dice, 5);
    }
    lot_settle(&lot);
    check_lot(&lot);
    lot_close(&lot);
}

/* One number each, by hand: 16 ids, the history is a prompt 1 1 2 and then 3 3 3 4. */
static void penalties_by_hand(void **state) {
    (void)state;
    static const int32_t history[] = {1, 1, 2, 3, 3, 3, 4};
    static const struct {
        float logit[6], repetition, frequency, presence;
        int32_t winner;
    } rows[] = {
        {{1, 2, 2.5f, 3, 2.75f, 0}, 1, 0, 0, 3},
        {{1, 2, 2.5f, 3, 2.75f, 0}, 1, 0.25f, 0, 4},    /* 3 - 3 / 4, 2.75 - 1 / 4: id 2 ties, */
        {{1, 2, 2.625f, 3, 2.75f, 0}, 1, 0.25f, 0, 2},  /* and here is ahead: prompts are free */
        {{1, 2, 2.5f, 3, 2.75f, 0}, 1, 0, 0.75f, 2},    /* 3 - 3 / 4, once however often */
        {{1, 0, 0, 1.5f, 1.75f, 0}, 2, 0, 0, 0},        /* halved */
        {{-2.5f, -1, -1.5f, -4, -4, -3}, 2, 0, 0, 1},   /* doubled: -2.5 -2 -3 -8 -8 -3 */
        {{-2.5f, -1.375f, -3, -4, -4, -3}, 2, 0, 0, 0}, /* -2.5 -2.75: prompts count here */
    };
    enum { N = sizeof rows / sizeof *rows };
    struct lot lot = lot_open(16, N);
    lot.n_history = 7;
    memcpy(lot.history, history, sizeof history);
    for (int row = 0; row < N; row++) {
        for (int id = 0; id < 16; id++)
            lot_row(&lot, row)[id] = id < 6 ? rows[row].logit[id] : -50;
        lot.wish[row].position = 7;
        lot.wish[row].n_prompt = 3;
        lot.sampling[row].temperature = 0;
        lot.sampling[row].repetition_penalty = rows[row].repetition;
        lot.sampling[row].frequency_penalty = rows[row].frequency;
        lot.sampling[row].presence_penalty = rows[row].presence;
        lot.expected[row] = rows[row].winner;
    }
    lot.expected[1] = 2; /* 2.5 against 2.25 and 2.5: of equals the lowest id */
    check_lot(&lot);
    lot_close(&lot);
}

/* A request may bias every id. Logits are equal, so the one id whose bias is 0 among negative ones
 * wins. */
static void a_whole_vocabulary_is_biased(void **state) {
    (void)state;
    enum { VOCABULARY = 20011, N = 4 }; /* a prime */
    struct lot lot = lot_open(VOCABULARY, N);
    struct logit_bias *bias = take(N * VOCABULARY, sizeof *bias);
    for (int row = 0; row < N; row++) {
        struct logit_bias *own = bias + row * VOCABULARY;
        for (int id = 0; id < VOCABULARY; id++)
            own[id] = (struct logit_bias){id, -(float)((id * 7919L + row * 13L) % VOCABULARY)};
        lot.sampling[row].temperature = 0;
        lot.sampling[row].bias = own;
        lot.sampling[row].n_bias = VOCABULARY;
        for (int id = 0; id < VOCABULARY; id++)
            if (own[id].bias == 0) lot.expected[row] = id;
    }
    check_lot(&lot);
    lot_close(&lot);
    free(bias);
}

/* Stop ids stay out below min_tokens, whatever bias and penalty say, and may come after. */
static void stop_ids_wait_for_min_tokens(void **state) {
    (void)state;
    enum { N = 400, N_PROMPT = 11 };
    static const int32_t stops[] = {0, 1}; /* 0 is also all that the history holds */
    static const struct logit_bias bias[] = {{0, 1000}, {1, 1e30f}};
    struct dice dice = {31};
    struct lot lot = lot_open(4, N);
    lot.n_history = 40;
    for (int row = 0; row < N; row++) {
        int n_generated = roll_below(&dice, 29), min_tokens = roll_below(&dice, 31);
        int winner = 2 + row % 2;
        bool early = n_generated < min_tokens;
        lot.sampling[row] = (struct sampling){
            .temperature = row % 2 ? 0 : 1,
            .top_p = row % 4 ? 1 : 0.5f,
            .repetition_penalty = row % 3 == 0 ? 1
                                  : early      ? 1e-38f
                                               : 2,
            .min_tokens = min_tokens,
            .n_logprobs = -1,
            .n_bias = row % 5 ? 2 : 0,
            .bias = bias,
            .n_stop_ids = 2,
            .stop_id = stops,
        };
        lot.wish[row].position = N_PROMPT + n_generated;
        lot.wish[row].n_prompt = N_PROMPT;
        for (int id = 0; id < 4; id++)
            lot_row(&lot, row)[id] = id == winner ? -100 : id < 2 ? 100 + 50 * id : -400;
        lot.expected[row] = early ? winner : 1;
    }
    check_lot(&lot);
    lot_close(&lot);
}

/* ---- greedy -----------------------------------------------------------------------------------
 */

static void greedy_takes_the_lowest_of_the_largest(void **state) {
    (void)state;
    static const int sizes[] = {1, 2, 15, 16, 17, 1031, 3000};
    for (size_t size = 0; size < sizeof sizes / sizeof *sizes; size++) {
        enum { N = 200 };
        struct dice dice = {size};
        struct lot lot = lot_open(sizes[size], N);
        for (int row = 0; row < N; row++) {
            lot_roll(&lot, &dice, row, row % 2 ? 1 : 1e-3f, 0.25f);
            if (row % 3 == 0) /* all below zero; and both zeros */
                for (int id = 0; id < sizes[size]; id++)
                    lot_row(&lot, row)[id] = -fabsf(lot_row(&lot, row)[id]);
            lot.sampling[row] = (struct sampling){.top_p = 0.5f,
                                                  .top_k = 3,
                                                  .min_p = 0.1f,
                                                  .repetition_penalty = 1,
                                                  .n_logprobs = -1};
            for (int32_t id = sizes[size] - 1; id >= 0; id--) {
                if (lot_row(&lot, row)[id] >= lot_row(&lot, row)[lot.expected[row]])
                    lot.expected[row] = id;
            }
        }
        check_lot(&lot);
        lot_close(&lot);
    }
}

/* ---- rows that no right model gives -----------------------------------------------------------
 */

/* Temperatures so low that logits overflow, logits that are no numbers, nothing left to choose
 * from: still an id of the vocabulary. */
static void broken_rows_still_give_an_id(void **state) {
    (void)state;
    enum { VOCABULARY = 40, N = 60 };
    static int32_t every_id[VOCABULARY];
    struct dice dice = {12};
    struct lot lot = lot_open(VOCABULARY, N);
    for (int row = 0; row < N; row++) {
        struct sampling *s = &lot.sampling[row];
        lot_roll(&lot, &dice, row, 4, 0);
        set_filter(s, &filters[row % N_FILTERS]);
        s->n_logprobs = 3;
        if (row % 3 == 0) s->temperature = 1e-38f, s->top_k = 20; /* some logits overflow */
        for (int id = 0; id < VOCABULARY && row % 3 == 1; id++)
            lot_row(&lot, row)[id] = id % 2 == row % 2 ? NAN : (row % 4 ? NAN : INFINITY);
        if (row % 3 == 2)
            s->n_stop_ids = VOCABULARY, s->stop_id = every_id, s->min_tokens = CONTEXT;
    }
    for (int id = 0; id < VOCABULARY; id++)
        every_id[id] = id;
    struct subjects subjects = subjects_for(VOCABULARY);
    for (int at = 0; at < subjects.n; at++) {
        const struct subject *subject = &subjects.at[at];
        int32_t token[N];
        struct token_score score[N * SCORES];
        struct value logits = value_of(subject, N, VOCABULARY, lot.logits);
        struct rows rows = {.n_picked = N, .wish = lot.wish};
        subject->ops->begin(subject->device, &rows);
        subject->ops->sample(subject->device, &rows, logits);
        subject->ops->take_tokens(subject->device, 0, 0, N, token, score);
        for (int row = 0; row < N; row++)
            assert_in_range(token[row], 0, VOCABULARY - 1);
        value_release(subject, &logits);
    }
    subjects_close(&subjects);
    lot_close(&lot);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_gives_the_published_answers),
        cmocka_unit_test(equal_logits_let_the_words_decide),
        cmocka_unit_test(the_choice_is_a_gumbel_argmax),
        cmocka_unit_test(equal_sums_go_to_the_lowest_id),
        cmocka_unit_test(draws_follow_the_softmax),
        cmocka_unit_test(filters_leave_what_a_full_sort_leaves),
        cmocka_unit_test(filters_in_their_order_and_ties_by_id),
        cmocka_unit_test(the_row_is_changed_as_vllm_changes_it),
        cmocka_unit_test(penalties_by_hand),
        cmocka_unit_test(a_whole_vocabulary_is_biased),
        cmocka_unit_test(stop_ids_wait_for_min_tokens),
        cmocka_unit_test(greedy_takes_the_lowest_of_the_largest),
        cmocka_unit_test(broken_rows_still_give_an_id),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
