/* device_choice.h - how a token is chosen and scored, slowly: shared by the tests of sample.
 *
 * Written from the text of sampling.h and device.h: the whole row is changed, sorted and cut, and
 * every id that is left gets its noise from its own call of Philox. A lot is a set of rows with
 * what is wanted of each and what should come of it.
 */
#ifndef LAMINA_DEVICE_CHOICE_H
#define LAMINA_DEVICE_CHOICE_H

#include "device_plain.h"

enum { CONTEXT = 1 << 15, N_SEQUENCES = 4, MOST_PICKED = 64 };
enum { SCORES = 1 + SAMPLING_MAX_LOGPROBS };

/* ---- Philox 4x32-10, as the paper draws it: two multiplications, then the words change places --
 */

static inline void plain_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]) {
    uint32_t c[4], k[2] = {key[0], key[1]};
    memcpy(c, counter, sizeof c);
    for (int round = 0; round < 10; round++) {
        uint64_t left = 0xD2511F53ull * c[0], right = 0xCD9E8D57ull * c[2];
        uint32_t next[4] = {(uint32_t)(right >> 32) ^ c[1] ^ k[0], (uint32_t)right,
                            (uint32_t)(left >> 32) ^ c[3] ^ k[1], (uint32_t)left};
        memcpy(c, next, sizeof c);
        k[0] += 0x9E3779B9u;
        k[1] += 0xBB67AE85u;
    }
    memcpy(out, c, sizeof c);
}

static inline uint32_t plain_word(const struct sampling *sampling, int32_t position, int32_t id) {
    uint32_t counter[4] = {(uint32_t)id / 4, (uint32_t)position, sampling->prompt_index,
                           sampling->choice_index};
    uint32_t key[2] = {(uint32_t)(sampling->seed & 0xffffffffu), (uint32_t)(sampling->seed >> 32)};
    uint32_t out[4];
    plain_philox(counter, key, out);
    return out[id % 4];
}

static inline float plain_gumbel(uint32_t word) {
    double u = (word + 0.5) / 4294967296.0;
    return (float)-log(-log(u));
}

/* ---- the choice -------------------------------------------------------------------------------
 */

struct ranked {
    float logit;
    int32_t id;
};

static inline int by_rank(const void *left, const void *right) {
    const struct ranked *a = left, *b = right;
    if (a->logit != b->logit) return a->logit > b->logit ? -1 : 1;
    return a->id < b->id ? -1 : a->id > b->id;
}

static inline int count_of(const int32_t *history, int begin, int end, int32_t id) {
    int n = 0;
    for (int token = begin; token < end; token++)
        n += history[token] == id;
    return n;
}

/* Bias, mask and penalties on one logit; -INFINITY: masked. */
static inline float plain_changed(float logit, int32_t id, const struct sample_wish *wish,
                                  const int32_t *history) {
    const struct sampling *s = wish->sampling;
    for (int bias = 0; bias < s->n_bias; bias++)
        logit += s->bias[bias].id == id ? s->bias[bias].bias : 0;
    for (int stop = 0; stop < s->n_stop_ids; stop++) {
        if (s->stop_id[stop] == id && wish->position - wish->n_prompt < s->min_tokens)
            return -INFINITY;
    }
    if (s->repetition_penalty == 1 && s->frequency_penalty == 0 && s->presence_penalty == 0)
        return logit;
    if (count_of(history, 0, wish->position, id))
        logit = logit > 0 ? logit / s->repetition_penalty : logit * s->repetition_penalty;
    int n_generated = count_of(history, wish->n_prompt, wish->position, id);
    if (n_generated == 0) return logit;
    return fmaf(-s->frequency_penalty, (float)n_generated, logit) - s->presence_penalty;
}

/* Cut a sorted list by min_p, top_k and top_p; returns how many are left. */
static inline int plain_filter(const struct ranked *list, int n, const struct sampling *s) {
    double most = (double)list[0].logit, total = 0, reached = 0;
    if (s->min_p > 0) {
        while (n > 1 && exp((double)list[n - 1].logit - most) < (double)s->min_p)
            n--;
    }
    if (s->top_k > 0 && s->top_k < n) n = s->top_k;
    if (s->top_p >= 1) return n;
    for (int place = 0; place < n; place++)
        total += exp((double)list[place].logit - most);
    for (int place = 0; place < n; place++) {
        reached += exp((double)list[place].logit - most);
        if (reached >= (double)s->top_p * total) return place + 1;
    }
    return n;
}

static inline int32_t plain_choose(const float *logit, int vocabulary,
                                   const struct sample_wish *wish, const int32_t *history) {
    const struct sampling *s = wish->sampling;
    struct ranked *list = take((size_t)vocabulary, sizeof *list);
    int n = 0;
    for (int32_t id = 0; id < vocabulary; id++) {
        float changed = plain_changed(logit[id], id, wish, history);
        if (changed == -INFINITY) continue;
        list[n++] = (struct ranked){s->temperature > 0 ? changed / s->temperature : changed, id};
    }
    bool cut = s->min_p > 0 || s->top_k > 0 || s->top_p < 1;
    if (s->temperature > 0 && cut) {
        qsort(list, (size_t)n, sizeof *list, by_rank);
        n = plain_filter(list, n, s);
    }
    for (int place = 0; s->temperature > 0 && place < n; place++)
        list[place].logit += plain_gumbel(plain_word(s, wish->position, list[place].id));
    struct ranked best = list[0];
    for (int place = 1; place < n; place++) {
        if (by_rank(&list[place], &best) < 0) best = list[place];
    }
    free(list);
    return best.id;
}

/* ---- scores -----------------------------------------------------------------------------------
 */

/* Logarithm of the sum of exp over the vocabulary, by tiles of 1024 ids. */
static inline double plain_log_sum(const float *logit, int vocabulary) {
    struct plain_fold all = {0};
    for (int first = 0; first < vocabulary; first += VOCABULARY_TILE) {
        int end = first + VOCABULARY_TILE < vocabulary ? first + VOCABULARY_TILE : vocabulary;
        struct plain_fold tile = {.maximum = -INFINITY};
        float lane[LANES] = {0};
        for (int id = first; id < end; id++)
            tile.maximum = fmaxf(tile.maximum, logit[id]);
        for (int id = first; id < end; id++)
            lane[id % LANES] += plain_exp(logit[id] - tile.maximum);
        tile.sum = plain_lane_tree(lane);
        plain_merge(&all, &tile, 0);
    }
    return (double)all.maximum + log((double)all.sum);
}

/* `n_logprobs` likeliest behind the chosen. */
static inline void plain_score(const float *logit, int vocabulary, int n_logprobs, int32_t chosen,
                               struct token_score *score) {
    double log_sum = plain_log_sum(logit, vocabulary);
    struct ranked *list = take((size_t)vocabulary, sizeof *list);
    for (int32_t id = 0; id < vocabulary; id++)
        list[id] = (struct ranked){logit[id], id};
    qsort(list, (size_t)vocabulary, sizeof *list, by_rank);
    for (int place = 0; place < vocabulary; place++) {
        struct token_score row = {list[place].id, (float)((double)list[place].logit - log_sum),
                                  place + 1};
        if (row.id == chosen) score[0] = row;
        if (place < n_logprobs) score[1 + place] = row;
    }
    free(list);
}

/* ---- lots -------------------------------------------------------------------------------------
 */

struct lot {
    int vocabulary, n;
    float *logits;             /* (n, vocabulary) */
    struct sampling *sampling; /* (n) */
    struct sample_wish *wish;  /* (n) */
    int32_t *history;          /* (N_SEQUENCES, CONTEXT) */
    int n_history;             /* tokens of each sequence that embed is shown */
    int32_t *expected;         /* (n) */
    struct token_score *score; /* (n, SCORES) */
};

/* Rows of zeros, from which one token each is drawn at temperature 1, at rising positions. */
static inline struct lot lot_open(int vocabulary, int n) {
    struct lot lot = {.vocabulary = vocabulary, .n = n};
    lot.logits = take((size_t)n * (size_t)vocabulary, sizeof(float));
    lot.sampling = take((size_t)n, sizeof *lot.sampling);
    lot.wish = take((size_t)n, sizeof *lot.wish);
    lot.history = take((size_t)N_SEQUENCES * CONTEXT, sizeof(int32_t));
    lot.expected = take((size_t)n, sizeof(int32_t));
    lot.score = take((size_t)n * SCORES, sizeof *lot.score);
    for (int row = 0; row < n; row++) {
        lot.sampling[row] = (struct sampling){
            .temperature = 1, .top_p = 1, .repetition_penalty = 1, .n_logprobs = -1, .seed = 42};
        lot.wish[row] =
            (struct sample_wish){.sampling = &lot.sampling[row], .position = row, .known_id = -1};
    }
    return lot;
}

static inline void lot_close(struct lot *lot) {
    free(lot->logits);
    free(lot->sampling);
    free(lot->wish);
    free(lot->history);
    free(lot->expected);
    free(lot->score);
}

static inline float *lot_row(const struct lot *lot, int row) {
    return lot->logits + (size_t)row * (size_t)lot->vocabulary;
}

/* Normal logits of deviation `spread`; with `grid`, on multiples of it, so that many are equal. */
static inline void lot_roll(struct lot *lot, struct dice *dice, int row, float spread, float grid) {
    float *logit = lot_row(lot, row);
    for (int id = 0; id < lot->vocabulary; id++) {
        logit[id] = spread * roll_bell(dice);
        if (grid > 0) logit[id] = rintf(logit[id] / grid) * grid;
    }
}

static inline void lot_settle(struct lot *lot) {
    for (int row = 0; row < lot->n; row++) {
        const struct sample_wish *wish = &lot->wish[row];
        const int32_t *history = lot->history + (size_t)wish->sequence * CONTEXT;
        lot->expected[row] = wish->known_id;
        if (wish->known_id < 0)
            lot->expected[row] = plain_choose(lot_row(lot, row), lot->vocabulary, wish, history);
        if (wish->sampling->n_logprobs >= 0)
            plain_score(lot_row(lot, row), lot->vocabulary, wish->sampling->n_logprobs,
                        lot->expected[row], lot->score + (size_t)row * SCORES);
    }
}

/* ---- a lot on a device ------------------------------------------------------------------------
 */

static inline struct subjects subjects_for(int vocabulary) {
    struct device_limits limits = {
        .n_slots = 2,
        .max_rows = MOST_PICKED,
        .max_picked = MOST_PICKED,
        .max_sequences = N_SEQUENCES,
        .context = CONTEXT,
        .vocabulary = vocabulary,
    };
    return subjects_open(&limits);
}

/* Show embed the first n_history tokens of every sequence. */
static inline void lot_embed(const struct subject *subject, const struct lot *lot) {
    if (lot->n_history == 0) return;
    float *zeros = take((size_t)lot->vocabulary, sizeof *zeros);
    struct weight *table = load_floats(subject, lot->vocabulary, 1, zeros);
    struct value out = value_alloc(subject, N_SEQUENCES, 1);
    for (int position = 0; position < lot->n_history; position++) {
        int32_t id[N_SEQUENCES], at[N_SEQUENCES], sequence[N_SEQUENCES];
        for (int row = 0; row < N_SEQUENCES; row++) {
            id[row] = lot->history[(size_t)row * CONTEXT + (size_t)position];
            at[row] = position;
            sequence[row] = row;
        }
        struct rows rows = {.n_rows = N_SEQUENCES, .id = id, .position = at, .sequence = sequence};
        subject->ops->begin(subject->device, &rows);
        subject->ops->embed(subject->device, &rows, out, table);
    }
    value_release(subject, &out);
    subject->ops->unload(subject->device, table);
    free(zeros);
}

static inline void check_scores(const struct subject *subject, int n_logprobs,
                                const struct token_score *expected, const struct token_score *got) {
    for (int place = 0; place <= n_logprobs; place++) {
        bool same = expected[place].id == got[place].id && expected[place].rank == got[place].rank;
        float off = fabsf(expected[place].logprob - got[place].logprob);
        if (!same || off > (subject->exact ? 0 : 1e-4f)) {
            fail_msg("%s: score %d is id %d, %a, rank %d instead of id %d, %a, rank %d",
                     subject_name(subject), place, got[place].id, (double)got[place].logprob,
                     got[place].rank, expected[place].id, (double)expected[place].logprob,
                     expected[place].rank);
        }
    }
}

/* Rows [first, first + n) of the lot in one call, in some slot and step. Returns how many tokens
 * are not the expected ones: none, where bits are promised. */
static inline int check_batch(const struct subject *subject, const struct lot *lot, int first,
                              int n) {
    int32_t token[MOST_PICKED];
    static struct token_score score[MOST_PICKED * SCORES];
    struct value logits = value_of(subject, n, lot->vocabulary, lot_row(lot, first));
    struct rows rows = {.slot = first % 2, .step = first, .n_picked = n, .wish = lot->wish + first};
    subject->ops->begin(subject->device, &rows);
    subject->ops->sample(subject->device, &rows, logits);
    subject->ops->take_tokens(subject->device, rows.slot, rows.step, n, token, score);
    int n_off = 0;
    for (int row = 0; row < n; row++) {
        bool same = token[row] == lot->expected[first + row];
        n_off += !same;
        if (!same && subject->exact) {
            fail_msg("%s: row %d of %d from %d chose %d instead of %d", subject_name(subject), row,
                     n, first, token[row], lot->expected[first + row]);
        }
        if (same && lot->wish[first + row].sampling->n_logprobs >= 0)
            check_scores(subject, lot->wish[first + row].sampling->n_logprobs,
                         lot->score + (size_t)(first + row) * SCORES, score + row * SCORES);
    }
    value_release(subject, &logits);
    return n_off;
}

/* Every row of the lot, in batches of changing size, and some rows alone. */
static inline void check_lot(const struct lot *lot) {
    static const int sizes[] = {64, 1, 64, 33, 64, 64, 7, 64};
    struct subjects subjects = subjects_for(lot->vocabulary);
    for (int at = 0; at < subjects.n; at++) {
        int n_off = 0, n = 0;
        lot_embed(&subjects.at[at], lot);
        for (int first = 0, batch = 0; first < lot->n; first += n, batch++) {
            n = sizes[batch % 8] < lot->n - first ? sizes[batch % 8] : lot->n - first;
            n_off += check_batch(&subjects.at[at], lot, first, n);
            n_off += check_batch(&subjects.at[at], lot, first + n / 2, 1);
        }
        assert_true(n_off <= lot->n / 1000 + 1); /* rounding may decide a close race elsewhere */
    }
    subjects_close(&subjects);
}

#endif
