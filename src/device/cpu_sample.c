/* cpu_sample.c - choosing tokens from logits (sampling.h; docs/design.md section 6, rules 4 and 5).
 *
 * Greedy is an argmax. Otherwise the row is changed as sampling.h orders, the ids that the filters
 * leave are listed, and the choice is the largest of log-probability + Gumbel noise: a draw from
 * the softmax that needs no normalising sum. Noise depends on (key, position, id) only, so it does
 * not matter who else is in the batch. Most ids cannot win whatever their noise; a cheap bound on
 * the uniform number skips their logarithms without changing the winner.
 */
#include <float.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "cpu_device.h"

static const float MASKED = -FLT_MAX;

static size_t history_bytes(const struct device_limits *limits) {
    return (size_t)limits->max_sequences * (size_t)limits->context * sizeof(int32_t);
}

size_t cpu_sample_bytes(int n_threads, const struct device_limits *limits) {
    size_t choice = (size_t)limits->vocabulary * (2 * sizeof(float) + sizeof(int32_t) + 1);
    size_t pick = sizeof(int32_t) + (1 + SAMPLING_MAX_LOGPROBS) * sizeof(struct token_score);
    return (size_t)n_threads * choice + history_bytes(limits) +
           2 * (size_t)limits->n_slots * (size_t)limits->max_picked * pick;
}

void cpu_sample_prepare(struct device *device) {
    const struct device_limits *limits = &device->limits;
    size_t vocabulary = (size_t)limits->vocabulary;
    device->choice = check_alloc((size_t)device->options.n_threads, sizeof *device->choice);
    for (int thread = 0; thread < device->options.n_threads; thread++) {
        struct cpu_choice *choice = &device->choice[thread];
        choice->logit = cpu_alloc(vocabulary * sizeof *choice->logit);
        choice->mass = cpu_alloc(vocabulary * sizeof *choice->mass);
        choice->id = cpu_alloc(vocabulary * sizeof *choice->id);
        choice->seen = cpu_alloc(vocabulary);
    }
    device->history = cpu_alloc(history_bytes(limits));
    device->samples = check_alloc(2 * (size_t)limits->n_slots, sizeof *device->samples);
    for (int step = 0; step < 2 * limits->n_slots; step++) {
        size_t most = (size_t)limits->max_picked;
        device->samples[step].token = check_alloc(most, sizeof(int32_t));
        device->samples[step].score =
            check_alloc(most * (1 + SAMPLING_MAX_LOGPROBS), sizeof(struct token_score));
    }
}

void cpu_put_history(struct device *device, int sequence, const int32_t *id, int n_tokens) {
    size_t context = (size_t)device->limits.context;
    memcpy(device->history + (size_t)sequence * context, id, (size_t)n_tokens * sizeof *id);
}

void cpu_sample_close(struct device *device) {
    if (!device->choice) return;
    for (int thread = 0; thread < device->options.n_threads; thread++) {
        cpu_free(device->choice[thread].logit);
        cpu_free(device->choice[thread].mass);
        cpu_free(device->choice[thread].id);
        cpu_free(device->choice[thread].seen);
    }
    free(device->choice);
    cpu_free(device->history);
    for (int step = 0; step < 2 * device->limits.n_slots; step++) {
        free(device->samples[step].token);
        free(device->samples[step].score);
    }
    free(device->samples);
}

/* ---- scores -----------------------------------------------------------------------------------
 */

/* The order among ids everywhere: logit descending, id ascending. */
static bool before(const float *logit, int32_t a, int32_t b) {
    return logit[a] > logit[b] || (logit[a] == logit[b] && a < b);
}

/* The `wanted` first ids in order, by insertion into a short list. */
static int likeliest(const float *logit, int vocabulary, int wanted, int32_t *best) {
    int n = 0;
    for (int32_t id = 0; id < vocabulary && wanted > 0; id++) {
        if (n == wanted && !before(logit, id, best[n - 1])) continue;
        int at = n < wanted ? n++ : n - 1;
        for (; at > 0 && before(logit, id, best[at - 1]); at--)
            best[at] = best[at - 1];
        best[at] = id;
    }
    return n;
}

static int32_t rank_of(const float *logit, int vocabulary, int32_t id) {
    int32_t rank = 1;
    for (int32_t other = 0; other < vocabulary; other++)
        rank += before(logit, other, id);
    return rank;
}

/* log-probability of `chosen` and of the likeliest ids under the model's own logits. */
static void score_row(const struct device *device, const float *logit, int n_logprobs,
                      int32_t chosen, struct token_score *score) {
    int vocabulary = device->limits.vocabulary;
    float maximum, sum;
    device->kernels->sum_exp(logit, vocabulary, &maximum, &sum);
    double normaliser = (double)maximum + log((double)sum);
    score[0] = (struct token_score){chosen, (float)((double)logit[chosen] - normaliser),
                                    rank_of(logit, vocabulary, chosen)};
    int32_t best[SAMPLING_MAX_LOGPROBS];
    int n = likeliest(logit, vocabulary, n_logprobs, best);
    for (int place = 0; place < n_logprobs; place++) {
        score[1 + place] =
            place < n
                ? (struct token_score){best[place],
                                       (float)((double)logit[best[place]] - normaliser), place + 1}
                : (struct token_score){-1, -INFINITY, 0};
    }
}

/* ---- changing the row -------------------------------------------------------------------------
 */

static void penalise(struct cpu_choice *choice, const struct sampling *sampling,
                     const int32_t *history, int n_prompt, int n_tokens) {
    float *logit = choice->logit;
    if (sampling->repetition_penalty != 1) {
        float r = sampling->repetition_penalty;
        for (int token = 0; token < n_tokens; token++) {
            int32_t id = history[token];
            if (choice->seen[id]) continue;
            choice->seen[id] = 1;
            logit[id] = logit[id] > 0 ? logit[id] / r : logit[id] * r;
        }
        for (int token = 0; token < n_tokens; token++)
            choice->seen[history[token]] = 0;
    }
    if (sampling->frequency_penalty == 0 && sampling->presence_penalty == 0) return;
    /* one subtraction per id: counts first, so that the order of tokens cannot matter */
    for (int token = n_prompt; token < n_tokens; token++)
        choice->mass[history[token]] = 0;
    for (int token = n_prompt; token < n_tokens; token++)
        choice->mass[history[token]] += 1;
    for (int token = n_prompt; token < n_tokens; token++) {
        int32_t id = history[token];
        if (choice->mass[id] == 0) continue;
        logit[id] = fmaf(-sampling->frequency_penalty, choice->mass[id], logit[id]);
        logit[id] -= sampling->presence_penalty;
        choice->mass[id] = 0;
    }
}

static bool changes_greedy(const struct sampling *s, int n_generated) {
    return s->n_bias || s->repetition_penalty != 1 || s->frequency_penalty != 0 ||
           s->presence_penalty != 0 || n_generated < s->min_tokens;
}

/* choice->logit = the row after bias, mask and penalties. */
static void change_row(const struct device *device, struct cpu_choice *choice, const float *logit,
                       const struct sample_wish *wish) {
    const struct sampling *sampling = wish->sampling;
    memcpy(choice->logit, logit, (size_t)device->limits.vocabulary * sizeof *logit);
    for (int bias = 0; bias < sampling->n_bias; bias++)
        choice->logit[sampling->bias[bias].id] += sampling->bias[bias].bias;
    const int32_t *history =
        device->history + (size_t)wish->sequence * (size_t)device->limits.context;
    penalise(choice, sampling, history, wish->n_prompt, wish->position);
    /* last, so that no penalty can bring a masked id back: as if it were -infinity from the start
     */
    if (wish->position - wish->n_prompt < sampling->min_tokens) {
        for (int stop = 0; stop < sampling->n_stop_ids; stop++)
            choice->logit[sampling->stop_id[stop]] = MASKED;
    }
}

/* ---- filters ----------------------------------------------------------------------------------
 */

/* Heap sort by the order among ids: no allocation, no worst case. */
static void sift(const float *logit, int32_t *id, int at, int n) {
    for (int child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && before(logit, id[child], id[child + 1])) child++;
        if (!before(logit, id[at], id[child])) return;
        int32_t swap = id[at];
        id[at] = id[child];
        id[child] = swap;
    }
}

static void sort_ids(const float *logit, int32_t *id, int n) {
    for (int at = n / 2 - 1; at >= 0; at--)
        sift(logit, id, at, n);
    for (int end = n - 1; end > 0; end--) {
        int32_t swap = id[0];
        id[0] = id[end];
        id[end] = swap;
        sift(logit, id, 0, end);
    }
}

/* List the unmasked ids whose logit is at least `least`; returns how many. */
static int list_from(const float *logit, int vocabulary, float least, int32_t *id) {
    int n = 0;
    for (int32_t candidate = 0; candidate < vocabulary; candidate++) {
        if (logit[candidate] >= least && logit[candidate] != MASKED) id[n++] = candidate;
    }
    return n;
}

/* The smallest number of ids, in order, whose mass is at least `wanted`; n + 1 when all have less.
 */
static int nucleus(const float *logit, const int32_t *id, int n, float maximum, double wanted,
                   const struct cpu_kernels *kernels) {
    double reached = 0;
    for (int first = 0; first < n; first += 64) {
        float mass[64];
        int width = n - first < 64 ? n - first : 64;
        for (int place = 0; place < width; place++)
            mass[place] = logit[id[first + place]];
        kernels->exp_shifted(mass, mass, width, maximum);
        for (int place = 0; place < width; place++) {
            reached += mass[place];
            if (reached >= wanted) return first + place + 1;
        }
    }
    return n + 1;
}

/* Mass of `n` listed ids, added in the order of the list. */
static double list_mass(struct cpu_choice *choice, int n, float maximum,
                        const struct cpu_kernels *kernels) {
    double total = 0;
    for (int place = 0; place < n; place++)
        choice->mass[place] = choice->logit[choice->id[place]];
    kernels->exp_shifted(choice->mass, choice->mass, n, maximum);
    for (int place = 0; place < n; place++)
        total += choice->mass[place];
    memset(choice->mass, 0, (size_t)n * sizeof *choice->mass);
    return total;
}

/* List the ids that min_p, top_k and top_p leave; choice->logit is already divided by the
 * temperature. The mass that top_p speaks of is that of the ids min_p left, added by id, or of the
 * top_k, added in order. Sorting the whole vocabulary would cost more than the rest of the step, so
 * ever longer heads of the order are listed and sorted until one holds the answer: a head by
 * threshold is a prefix of the order, so its length cannot change the result. */
static int filter(const struct device *device, struct cpu_choice *choice,
                  const struct sampling *sampling) {
    static const float depth[] = {2, 4, 8, 16, 32};
    const size_t n_depths = sizeof depth / sizeof *depth;
    const struct cpu_kernels *kernels = device->kernels;
    int vocabulary = device->limits.vocabulary;
    int32_t first;
    float maximum = kernels->argmax(choice->logit, vocabulary, &first);
    float least = MASKED;
    if (sampling->min_p > 0) least = maximum + (float)log((double)sampling->min_p);
    int n_all = list_from(choice->logit, vocabulary, least, choice->id);
    bool by_rank = sampling->top_k > 0 && sampling->top_k < n_all, by_mass = sampling->top_p < 1;
    if (!by_rank && !by_mass) return n_all;
    double wanted = (double)sampling->top_p;
    if (by_mass && !by_rank) wanted *= list_mass(choice, n_all, maximum, kernels);
    for (size_t attempt = 0;; attempt++) {
        float from = attempt < n_depths ? maximum - depth[attempt] : least;
        int n = list_from(choice->logit, vocabulary, from > least ? from : least, choice->id);
        bool whole = attempt == n_depths || n == n_all;
        if (by_rank && n < sampling->top_k && !whole) continue;
        sort_ids(choice->logit, choice->id, n);
        if (by_rank) n = sampling->top_k;
        if (!by_mass) return n;
        double mass = by_rank ? wanted * list_mass(choice, n, maximum, kernels) : wanted;
        int kept = nucleus(choice->logit, choice->id, n, maximum, mass, kernels);
        if (kept <= n) return kept;
        if (whole || by_rank) return n; /* rounding left the last id's mass short of the total */
    }
}

/* ---- randomness -------------------------------------------------------------------------------
 */

/* Philox 4x32-10 (Salmon et al., SC 2011): four 32-bit words from a counter and a key. */
static void philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]) {
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/* The word of (position, id): ids share a call by fours. */
struct noise {
    uint32_t key[2], counter[4];
    int32_t group; /* of the words held, -1: none */
    uint32_t word[4];
};

static uint32_t noise_word(struct noise *noise, int32_t id) {
    if (id / 4 != noise->group) {
        noise->group = id / 4;
        noise->counter[0] = (uint32_t)(id / 4);
        philox(noise->counter, noise->key, noise->word);
    }
    return noise->word[id % 4];
}

/* Standard Gumbel from a uniform number in (0, 1), in double, rounded once. */
static float gumbel(uint32_t word) {
    double uniform = ((double)word + 0.5) * 0x1p-32;
    return (float)-log(-log(uniform));
}

/* argmax over the listed ids of logit + gumbel; the first of the row when nothing is listed. An id
 * whose sum is below `least`, the float under the best so far, cannot be rounded up to that; it is
 * above only if its uniform number exceeds exp(-exp(logit - least)) >= 1 - exp(logit - least).
 * `mass` holds exp(logit - maximum), so with 0.1 % of slack for its rounding: 1 - u > 1.001 * mass
 * * exp(maximum - least) cannot win. */
static int32_t draw(const struct device *device, struct cpu_choice *choice, int n,
                    const struct sample_wish *wish) {
    const struct sampling *sampling = wish->sampling;
    struct noise noise = {
        .key = {(uint32_t)sampling->seed, (uint32_t)(sampling->seed >> 32)},
        .counter = {0, (uint32_t)wish->position, sampling->prompt_index, sampling->choice_index},
        .group = -1,
    };
    int32_t first, winner = -1;
    float maximum = device->kernels->argmax(choice->logit, device->limits.vocabulary, &first);
    device->kernels->exp_shifted(choice->mass, choice->logit, device->limits.vocabulary, maximum);
    float best = 0;
    double bound = 0;
    for (int place = 0; place < n; place++) {
        int32_t id = choice->id[place];
        uint32_t word = noise_word(&noise, id);
        double complement = (4294967295.5 - (double)word) * 0x1p-32;
        if (winner >= 0 && complement > bound * ((double)choice->mass[id] + 1e-30)) continue;
        float value = choice->logit[id] + gumbel(word);
        if (winner < 0 || value > best || (value == best && id < winner)) {
            winner = id;
            best = value;
            bound = 1.001 * exp((double)maximum - (double)nextafterf(best, -INFINITY));
        }
    }
    memset(choice->mass, 0, (size_t)device->limits.vocabulary * sizeof *choice->mass);
    return winner < 0 ? first : winner;
}

/* ---- the operator -----------------------------------------------------------------------------
 */

static int32_t choose(const struct device *device, struct cpu_choice *choice, const float *logit,
                      const struct sample_wish *wish) {
    const struct sampling *sampling = wish->sampling;
    int vocabulary = device->limits.vocabulary;
    int32_t id;
    if (sampling->temperature == 0 && !changes_greedy(sampling, wish->position - wish->n_prompt)) {
        device->kernels->argmax(logit, vocabulary, &id);
        return id;
    }
    change_row(device, choice, logit, wish);
    if (sampling->temperature == 0) {
        device->kernels->argmax(choice->logit, vocabulary, &id);
        return id;
    }
    for (int32_t at = 0; at < vocabulary; at++) {
        if (choice->logit[at] != MASKED) choice->logit[at] /= sampling->temperature;
    }
    return draw(device, choice, filter(device, choice, sampling), wish);
}

void cpu_sample(struct device *device, const struct rows *rows, struct value logits) {
    struct cpu_samples *samples = &device->samples[2 * rows->slot + rows->step % 2];
#pragma omp parallel for schedule(dynamic) num_threads(device->options.n_threads)
    for (int row = 0; row < rows->n_picked; row++) {
        const struct sample_wish *wish = &rows->wish[row];
        const float *logit = value_f32(&logits) + (size_t)row * (size_t)logits.stride;
        int32_t id = wish->known_id;
        if (id < 0) id = choose(device, &device->choice[omp_get_thread_num()], logit, wish);
        samples->token[row] = id;
        if (wish->sampling->n_logprobs >= 0)
            score_row(device, logit, wish->sampling->n_logprobs, id,
                      samples->score + (size_t)row * (1 + SAMPLING_MAX_LOGPROBS));
        if (omp_get_thread_num() == 0) cpu_progress(device);
    }
    samples->done_ns = clock_now_ns();
}

int64_t cpu_take_tokens(struct device *device, int slot, int step, int n_picked, int32_t *token,
                        struct token_score *score) {
    const struct cpu_samples *samples = &device->samples[2 * slot + step % 2];
    memcpy(token, samples->token, (size_t)n_picked * sizeof *token);
    memcpy(score, samples->score, (size_t)n_picked * (1 + SAMPLING_MAX_LOGPROBS) * sizeof *score);
    return samples->done_ns;
}
