/* sample.cu - from logits to tokens and their scores, on the device (sampling.h, device.h).
 *
 * One block a picked row. Filters need the order (logit descending, id ascending) but no sort: a key
 * of 64 bits, the logit's bits made to rise and the id behind them, is different for every id, so the
 * last id that top_k or top_p leaves is found by eight rounds of radix selection, of counts or of
 * masses. Masses are integers (exp of the distance to the best, in units of 2^-40), so their sums do
 * not depend on the order in which threads add. The noise is the CPU's: Philox, one word an id.
 *
 * What is wanted of each row is copied by begin, with its bias and stop ids behind one another.
 */
#include <stdlib.h>
#include <string.h>

#include "cuda_device.h"

enum { THREADS = 1024, SCORES = 1 + SAMPLING_MAX_LOGPROBS, RING = 4 };
/* Bias entries and stop ids of a step, a row on average, that there is room for from the start. A
 * request may bias its whole vocabulary; the pool grows when a step has more. */
enum { POOL_A_ROW = 320 };

/* struct sample_wish with its struct sampling, as the kernel reads it. */
struct cuda_wish {
    float temperature, top_p, min_p, presence, frequency, repetition;
    int32_t top_k, n_logprobs, sequence, position, n_prompt, known_id;
    int32_t n_bias, first_bias, n_masked, first_masked; /* stop ids below min_tokens are masked */
    uint32_t key[2], prompt_index, choice_index;
};

struct pool_entry {
    int32_t id;
    float bias;
};

/* The wishes of one slot's step. */
struct wishes {
    struct cuda_wish *wish;  /* (max_picked) device */
    struct pool_entry *pool; /* (most_pooled) device */
    struct cuda_wish *pinned_wish[RING];
    struct pool_entry *pinned_pool[RING];
    cudaEvent_t copied[RING];
    int next;
    size_t most_pooled;
    bool scored; /* the step's, on the host */
};

/* What one step of a slot gave. */
struct taken {
    int32_t *token;                    /* (max_picked) device: the next step's embed reads it */
    struct token_score *score;         /* (max_picked, SCORES) device */
    int32_t *pinned_token;             /* (max_picked) */
    struct token_score *pinned_score;  /* (max_picked, SCORES) */
    cudaEvent_t done;
};

struct sampler {
    struct wishes *wishes; /* (n_slots) */
    struct taken *taken;   /* (n_slots, 2) */
    int32_t *history;      /* (max_sequences, context) device */
    float *logit;          /* (max_picked, vocabulary) device: rows as changed */
    uint32_t *count;       /* (max_picked, vocabulary) device: tokens generated; top bit: seen */
    struct gap_clock *clock;           /* device */
    volatile unsigned long long *told; /* what it tells */
};

/* ---- opening ----------------------------------------------------------------------------------
 */

static void open_pool(struct wishes *wishes, size_t most) {
    wishes->most_pooled = most;
    CHECK_CUDA(cudaMalloc((void **)&wishes->pool, most * sizeof *wishes->pool));
    for (int at = 0; at < RING; at++)
        CHECK_CUDA(
            cudaMallocHost((void **)&wishes->pinned_pool[at], most * sizeof *wishes->pool));
}

static void close_pool(struct wishes *wishes) {
    CHECK_CUDA(cudaFree(wishes->pool));
    for (int at = 0; at < RING; at++)
        CHECK_CUDA(cudaFreeHost(wishes->pinned_pool[at]));
}

static void open_wishes(struct wishes *wishes, size_t n) {
    CHECK_CUDA(cudaMalloc((void **)&wishes->wish, n * sizeof *wishes->wish));
    open_pool(wishes, n * POOL_A_ROW);
    for (int at = 0; at < RING; at++) {
        CHECK_CUDA(cudaMallocHost((void **)&wishes->pinned_wish[at], n * sizeof *wishes->wish));
        CHECK_CUDA(cudaEventCreateWithFlags(&wishes->copied[at], cudaEventDisableTiming));
    }
}

static void open_taken(struct taken *taken, size_t n) {
    CHECK_CUDA(cudaMalloc((void **)&taken->token, n * sizeof *taken->token));
    CHECK_CUDA(cudaMalloc((void **)&taken->score, n * SCORES * sizeof *taken->score));
    /* all of it is copied to the host, also what nobody wished for */
    CHECK_CUDA(cudaMemset(taken->token, 0, n * sizeof *taken->token));
    CHECK_CUDA(cudaMemset(taken->score, 0, n * SCORES * sizeof *taken->score));
    CHECK_CUDA(cudaMallocHost((void **)&taken->pinned_token, n * sizeof *taken->token));
    CHECK_CUDA(cudaMallocHost((void **)&taken->pinned_score, n * SCORES * sizeof *taken->score));
    CHECK_CUDA(cudaEventCreateWithFlags(&taken->done, cudaEventDisableTiming));
}

size_t sample_bytes(const struct device_limits *limits) {
    size_t n = (size_t)limits->max_picked;
    size_t wishes = n * (sizeof(struct cuda_wish) + POOL_A_ROW * sizeof(struct pool_entry));
    size_t taken = 2 * n * (sizeof(int32_t) + SCORES * sizeof(struct token_score));
    size_t history = (size_t)limits->max_sequences * (size_t)limits->context * sizeof(int32_t);
    return (size_t)limits->n_slots * (wishes + taken) + history +
           n * (size_t)limits->vocabulary * (sizeof(float) + sizeof(uint32_t));
}

void sample_prepare(struct device *device) {
    const struct device_limits *limits = &device->limits;
    size_t n = (size_t)limits->max_picked, vocabulary = (size_t)limits->vocabulary;
    size_t history = (size_t)limits->max_sequences * (size_t)limits->context;
    struct sampler *sampler = (struct sampler *)check_alloc(1, sizeof *sampler);
    sampler->wishes =
        (struct wishes *)check_alloc((size_t)limits->n_slots, sizeof *sampler->wishes);
    sampler->taken = (struct taken *)check_alloc(2 * (size_t)limits->n_slots,
                                                 sizeof *sampler->taken);
    for (int slot = 0; slot < limits->n_slots; slot++) {
        open_wishes(&sampler->wishes[slot], n);
        open_taken(&sampler->taken[2 * slot], n);
        open_taken(&sampler->taken[2 * slot + 1], n);
    }
    if (history) CHECK_CUDA(cudaMalloc((void **)&sampler->history, history * sizeof(int32_t)));
    CHECK_CUDA(cudaMalloc((void **)&sampler->logit, n * vocabulary * sizeof(float)));
    CHECK_CUDA(cudaMalloc((void **)&sampler->count, n * vocabulary * sizeof(uint32_t)));
    CHECK_CUDA(cudaMallocHost((void **)&sampler->told, sizeof *sampler->told));
    *sampler->told = 0;
    struct gap_clock clock = {0, 0, sampler->told};
    CHECK_CUDA(cudaMalloc((void **)&sampler->clock, sizeof clock));
    CHECK_CUDA(cudaMemcpy(sampler->clock, &clock, sizeof clock, cudaMemcpyHostToDevice));
    device->sampler = sampler;
}

void sample_close(struct device *device) {
    struct sampler *sampler = device->sampler;
    if (!sampler) return;
    for (int slot = 0; slot < device->limits.n_slots; slot++) {
        struct wishes *wishes = &sampler->wishes[slot];
        CHECK_CUDA(cudaFree(wishes->wish));
        close_pool(wishes);
        for (int at = 0; at < RING; at++) {
            CHECK_CUDA(cudaFreeHost(wishes->pinned_wish[at]));
            CHECK_CUDA(cudaEventDestroy(wishes->copied[at]));
        }
    }
    for (int at = 0; at < 2 * device->limits.n_slots; at++) {
        struct taken *taken = &sampler->taken[at];
        CHECK_CUDA(cudaFree(taken->token));
        CHECK_CUDA(cudaFree(taken->score));
        CHECK_CUDA(cudaFreeHost(taken->pinned_token));
        CHECK_CUDA(cudaFreeHost(taken->pinned_score));
        CHECK_CUDA(cudaEventDestroy(taken->done));
    }
    if (sampler->history) CHECK_CUDA(cudaFree(sampler->history));
    CHECK_CUDA(cudaFree(sampler->logit));
    CHECK_CUDA(cudaFree(sampler->count));
    CHECK_CUDA(cudaFree(sampler->clock));
    CHECK_CUDA(cudaFreeHost((void *)(uintptr_t)sampler->told));
    free(sampler->wishes);
    free(sampler->taken);
    free(sampler);
}

const int32_t *sample_tokens(const struct device *device, int slot, int step) {
    return device->sampler ? device->sampler->taken[2 * slot + step % 2].token : NULL;
}

void cuda_put_history(struct device *device, int sequence, const int32_t *id, int n_tokens) {
    size_t context = (size_t)device->limits.context;
    CHECK_CUDA(cudaMemcpyAsync(device->sampler->history + (size_t)sequence * context, id,
                               (size_t)n_tokens * sizeof *id, cudaMemcpyHostToDevice,
                               device->stream));
    CHECK_CUDA(cudaStreamSynchronize(device->stream));
}

int32_t *sample_history(const struct device *device) {
    return device->sampler ? device->sampler->history : NULL;
}

/* ---- a step begins ----------------------------------------------------------------------------
 */

/* Stop ids that are not to be chosen yet. */
static int count_masked(const struct sample_wish *wish) {
    bool masks = wish->position - wish->n_prompt < wish->sampling->min_tokens;
    return masks ? wish->sampling->n_stop_ids : 0;
}

/* Room for what this step pools. Recorded runs know where the pool was. */
static void grow_pool(struct device *device, struct wishes *wishes, const struct rows *rows) {
    size_t n = 0;
    for (int row = 0; row < rows->n_picked; row++)
        n += (size_t)(rows->wish[row].sampling->n_bias + count_masked(&rows->wish[row]));
    if (n <= wishes->most_pooled) return;
    cuda_settle(device);
    replay_forget(device);
    close_pool(wishes);
    open_pool(wishes, 2 * n);
}

static int write_wish(struct cuda_wish *to, const struct sample_wish *wish, struct pool_entry *pool,
                      int n_pooled) {
    const struct sampling *sampling = wish->sampling;
    int n_masked = count_masked(wish);
    struct cuda_wish made = {};
    made.temperature = sampling->temperature;
    made.top_p = sampling->top_p;
    made.min_p = sampling->min_p;
    made.presence = sampling->presence_penalty;
    made.frequency = sampling->frequency_penalty;
    made.repetition = sampling->repetition_penalty;
    made.top_k = sampling->top_k;
    made.n_logprobs = sampling->n_logprobs;
    made.sequence = wish->sequence;
    made.position = wish->position;
    made.n_prompt = wish->n_prompt;
    made.known_id = wish->known_id;
    made.key[0] = (uint32_t)sampling->seed;
    made.key[1] = (uint32_t)(sampling->seed >> 32);
    made.prompt_index = sampling->prompt_index;
    made.choice_index = sampling->choice_index;
    made.first_bias = n_pooled;
    made.n_bias = sampling->n_bias;
    for (int at = 0; at < sampling->n_bias; at++)
        pool[n_pooled++] = {sampling->bias[at].id, sampling->bias[at].bias};
    made.first_masked = n_pooled;
    made.n_masked = n_masked;
    for (int at = 0; at < n_masked; at++)
        pool[n_pooled++] = {sampling->stop_id[at], 0};
    *to = made;
    return n_pooled;
}

/* Of a row of padding: token 0, and no scores. */
static struct cuda_wish nothing_wished(void) {
    struct cuda_wish wish = {};
    wish.n_logprobs = -1;
    return wish;
}

void sample_begin(struct device *device, const struct rows *rows) {
    struct wishes *wishes = &device->sampler->wishes[rows->slot];
    if (rows->n_picked == 0 || !rows->wish) return;
    grow_pool(device, wishes, rows);
    int at = wishes->next++ % RING, n_pooled = 0;
    wait_for_event(device, wishes->copied[at]);
    struct cuda_wish *wish = wishes->pinned_wish[at];
    struct pool_entry *pool = wishes->pinned_pool[at];
    int n_padded = replay_most_rows(device), n = rows->n_picked;
    wishes->scored = false;
    for (int row = 0; row < n; row++) {
        n_pooled = write_wish(&wish[row], &rows->wish[row], pool, n_pooled);
        wishes->scored |= wish[row].n_logprobs >= 0;
    }
    for (; n < n_padded; n++)
        wish[n] = nothing_wished();
    CHECK_CUDA(cudaMemcpyAsync(wishes->wish, wish, (size_t)n * sizeof *wish,
                               cudaMemcpyHostToDevice, device->stream));
    if (n_pooled)
        CHECK_CUDA(cudaMemcpyAsync(wishes->pool, pool, (size_t)n_pooled * sizeof *pool,
                                   cudaMemcpyHostToDevice, device->stream));
    CHECK_CUDA(cudaEventRecord(wishes->copied[at], device->stream));
}

struct gap_clock *sample_gap_clock(const struct device *device) {
    return device->sampler ? device->sampler->clock : NULL;
}

struct device_times cuda_times(const struct device *device) {
    struct device_times times = {device->waited_ns, -1};
    if (device->sampler) times.idle_ns = (int64_t)*device->sampler->told;
    return times;
}

bool sample_is_scored(const struct device *device, int slot) {
    return device->sampler && device->sampler->wishes[slot].scored;
}

/* ---- pieces of the kernel, by whole blocks ----------------------------------------------------
 */

typedef unsigned long long word;

/* Larger keys come first in the order among ids. */
__device__ inline word key_of(float logit, int32_t id) {
    uint32_t bits = __float_as_uint(logit + 0.0f); /* -0 is 0 */
    bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (word)bits << 32 | (uint32_t)~(uint32_t)id;
}

__device__ inline int32_t id_of(word key) {
    return (int32_t)~(uint32_t)key;
}

__device__ inline float logit_of(word key) {
    uint32_t bits = (uint32_t)(key >> 32);
    return __uint_as_float(bits & 0x80000000u ? bits & 0x7fffffffu : ~bits);
}

__device__ inline word larger(word a, word b) {
    return a > b ? a : b;
}
__device__ inline word added(word a, word b) {
    return a + b;
}
__device__ inline float added(float a, float b) {
    return a + b;
}

/* The same value in every thread; the tree is fixed. */
template <class T, class F>
__device__ T reduce_block(T x, F f) {
    __shared__ T part[THREADS / 32];
    for (int apart = 16; apart > 0; apart /= 2)
        x = f(x, __shfl_xor_sync(0xffffffff, x, apart));
    __syncthreads(); /* the last one's parts have been read */
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = x;
    __syncthreads();
    x = part[threadIdx.x % 32];
    for (int apart = 16; apart > 0; apart /= 2)
        x = f(x, __shfl_xor_sync(0xffffffff, x, apart));
    return x;
}

__device__ inline word most_of_block(word x) {
    return reduce_block(x, [](word a, word b) { return larger(a, b); });
}
__device__ inline word sum_of_block(word x) {
    return reduce_block(x, [](word a, word b) { return added(a, b); });
}

/* One row of logits and what is left of it. */
struct row_view {
    const float *logit;
    int vocabulary;
    float least; /* min_p: logits below are out */
    word last;   /* keys below are out */
};

__device__ inline bool is_in(const struct row_view &view, int32_t id, word *key) {
    float logit = view.logit[id];
    *key = key_of(logit, id);
    return logit != -INFINITY && logit >= view.least && *key >= view.last;
}

/* exp of the distance to the best in units of 2^-40. */
__device__ inline word mass_of(word key, float most) {
    return (word)((double)expf(logit_of(key) - most) * 1099511627776.0);
}

/* The key at which the weights of those in the view, taken in order, reach `wanted` (at least 1, at
 * most their sum): eight rounds of eight bits. Weights are 1 (by_mass false) or masses. */
__device__ word select_key(const struct row_view &view, word wanted, bool by_mass, float most) {
    __shared__ word histogram[256];
    __shared__ word found[2]; /* prefix, weight before it */
    word prefix = 0, before = 0;
    for (int shift = 56; shift >= 0; shift -= 8) {
        for (int digit = threadIdx.x; digit < 256; digit += THREADS)
            histogram[digit] = 0;
        __syncthreads();
        for (int32_t id = threadIdx.x; id < view.vocabulary; id += THREADS) {
            word key;
            if (!is_in(view, id, &key)) continue;
            if (shift < 56 && key >> (shift + 8) != prefix) continue;
            atomicAdd(&histogram[key >> shift & 255], by_mass ? mass_of(key, most) : 1);
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            int digit = 255;
            while (digit > 0 && before + histogram[digit] < wanted)
                before += histogram[digit--];
            found[0] = prefix << 8 | (word)digit;
            found[1] = before;
        }
        __syncthreads();
        prefix = found[0];
        before = found[1];
        __syncthreads();
    }
    return prefix;
}

__device__ inline word count_in(const struct row_view &view, bool by_mass, float most) {
    word sum = 0, key;
    for (int32_t id = threadIdx.x; id < view.vocabulary; id += THREADS) {
        if (is_in(view, id, &key)) sum += by_mass ? mass_of(key, most) : 1;
    }
    return sum_of_block(sum);
}

__device__ inline word best_below(const float *logit, int vocabulary, word below) {
    word best = 0;
    for (int32_t id = threadIdx.x; id < vocabulary; id += THREADS) {
        word key = key_of(logit[id], id);
        if (key < below) best = larger(best, key);
    }
    return most_of_block(best);
}

/* ---- the noise: Philox 4x32-10 (Salmon et al., SC 2011) ---------------------------------------
 */

__device__ inline uint32_t noise_word(const struct cuda_wish &wish, int32_t id) {
    uint32_t c[4] = {(uint32_t)id / 4, (uint32_t)wish.position, wish.prompt_index,
                     wish.choice_index};
    uint32_t k0 = wish.key[0], k1 = wish.key[1];
    for (int round = 0; round < 10; round++) {
        uint32_t high0 = __umulhi(0xD2511F53u, c[0]), low0 = 0xD2511F53u * c[0];
        uint32_t high1 = __umulhi(0xCD9E8D57u, c[2]), low1 = 0xCD9E8D57u * c[2];
        c[0] = high1 ^ c[1] ^ k0;
        c[2] = high0 ^ c[3] ^ k1;
        c[1] = low1;
        c[3] = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    int place = id % 4;
    return place == 0 ? c[0] : place == 1 ? c[1] : place == 2 ? c[2] : c[3];
}

__device__ inline float gumbel(uint32_t noise) {
    double uniform = ((double)noise + 0.5) * 0x1p-32;
    return (float)-log(-log(uniform));
}

/* ---- choosing ---------------------------------------------------------------------------------
 */

__device__ inline bool changes(const struct cuda_wish &wish) {
    return wish.n_bias || wish.n_masked || wish.repetition != 1 || wish.frequency != 0 ||
           wish.presence != 0;
}

/* changed = the row after bias, penalties, mask and temperature. */
__device__ void change_row(const struct cuda_wish &wish, const struct pool_entry *pool,
                           const int32_t *history, const float *logit, int vocabulary,
                           float *changed, uint32_t *count) {
    const uint32_t seen = 0x80000000u;
    bool penalised = wish.repetition != 1 || wish.frequency != 0 || wish.presence != 0;
    for (int32_t id = threadIdx.x; id < vocabulary; id += THREADS) {
        changed[id] = logit[id];
        if (penalised) count[id] = 0;
    }
    __syncthreads();
    for (int at = threadIdx.x; at < wish.n_bias; at += THREADS) /* ids differ */
        changed[pool[wish.first_bias + at].id] += pool[wish.first_bias + at].bias;
    for (int token = threadIdx.x; penalised && token < wish.position; token += THREADS) {
        atomicOr(&count[history[token]], seen);
        if (token >= wish.n_prompt) atomicAdd(&count[history[token]], 1);
    }
    __syncthreads();
    for (int32_t id = threadIdx.x; penalised && id < vocabulary; id += THREADS) {
        float x = changed[id];
        uint32_t times = count[id] & ~seen;
        if (count[id] & seen) x = x > 0 ? x / wish.repetition : x * wish.repetition;
        if (times) x = fmaf(-wish.frequency, (float)times, x) - wish.presence;
        changed[id] = x;
    }
    __syncthreads();
    for (int at = threadIdx.x; at < wish.n_masked; at += THREADS)
        changed[pool[wish.first_masked + at].id] = -INFINITY;
    __syncthreads();
    if (wish.temperature > 0) {
        for (int32_t id = threadIdx.x; id < vocabulary; id += THREADS)
            changed[id] /= wish.temperature;
    }
    __syncthreads();
}

/* Cut the view by min_p, top_k and top_p. */
__device__ void filter(const struct cuda_wish &wish, struct row_view &view, float most) {
    if (wish.min_p > 0) view.least = most + (float)log((double)wish.min_p);
    if (wish.top_k > 0 && count_in(view, false, most) > (word)wish.top_k)
        view.last = select_key(view, (word)wish.top_k, false, most);
    if (wish.top_p < 1) {
        word total = count_in(view, true, most);
        word wanted = (word)ceil((double)wish.top_p * (double)total);
        if (wanted < 1) wanted = 1;
        if (wanted < total) view.last = larger(view.last, select_key(view, wanted, true, most));
    }
}

__device__ int32_t choose(const struct cuda_wish &wish, const struct pool_entry *pool,
                          const int32_t *history, const float *logit, int vocabulary,
                          float *changed, uint32_t *count) {
    if (wish.temperature == 0 && !changes(wish)) return id_of(best_below(logit, vocabulary, ~0ull));
    change_row(wish, pool, history, logit, vocabulary, changed, count);
    word first = best_below(changed, vocabulary, ~0ull);
    if (wish.temperature == 0) return id_of(first);
    struct row_view view = {changed, vocabulary, -INFINITY, 0};
    filter(wish, view, logit_of(first));
    word best = 0, key;
    for (int32_t id = threadIdx.x; id < vocabulary; id += THREADS) {
        if (!is_in(view, id, &key)) continue;
        best = larger(best, key_of(changed[id] + gumbel(noise_word(wish, id)), id));
    }
    best = most_of_block(best);
    return best ? id_of(best) : id_of(first);
}

/* ---- scoring ----------------------------------------------------------------------------------
 */

__device__ void score_row(const float *logit, int vocabulary, int n_logprobs, int32_t chosen,
                          struct token_score *score) {
    word key = best_below(logit, vocabulary, ~0ull), own = key_of(logit[chosen], chosen);
    float most = logit_of(key), sum = 0;
    word rank = 0;
    for (int32_t id = threadIdx.x; id < vocabulary; id += THREADS) {
        sum += expf(logit[id] - most);
        rank += key_of(logit[id], id) >= own;
    }
    sum = reduce_block(sum, [](float a, float b) { return added(a, b); });
    rank = sum_of_block(rank);
    double normaliser = (double)most + log((double)sum);
    if (threadIdx.x == 0)
        score[0] = {chosen, (float)((double)logit[chosen] - normaliser), (int32_t)rank};
    for (int place = 0; place < n_logprobs; place++) {
        if (threadIdx.x == 0 && key)
            score[1 + place] = {id_of(key), (float)((double)logit_of(key) - normaliser), place + 1};
        if (threadIdx.x == 0 && !key) score[1 + place] = {-1, -INFINITY, 0};
        if (key) key = best_below(logit, vocabulary, key);
    }
}

/* ---- the operator -----------------------------------------------------------------------------
 */

__global__ void __launch_bounds__(THREADS)
    sample_kernel(const float *logits, int stride, int vocabulary, const struct cuda_wish *wishes,
                  const struct pool_entry *pool, const int32_t *history, int context,
                  float *changed, uint32_t *count, int32_t *token, struct token_score *score,
                  struct gap_clock *clock) {
    follow_on();
    const struct cuda_wish wish = wishes[blockIdx.x];
    const float *logit = logits + (size_t)blockIdx.x * stride;
    size_t own = (size_t)blockIdx.x * vocabulary;
    int32_t id = wish.known_id;
    if (id < 0)
        id = choose(wish, pool, history + (size_t)wish.sequence * context, logit, vocabulary,
                    changed + own, count + own);
    if (threadIdx.x == 0) token[blockIdx.x] = id;
    if (wish.n_logprobs >= 0)
        score_row(logit, vocabulary, wish.n_logprobs, id, score + (size_t)blockIdx.x * SCORES);
    if (threadIdx.x == 0) gap_begins(clock);
}

void cuda_sample(struct device *device, const struct rows *rows, struct value logits) {
    struct sampler *sampler = device->sampler;
    const struct wishes *wishes = &sampler->wishes[rows->slot];
    struct taken *taken = &sampler->taken[2 * rows->slot + rows->step % 2];
    REQUIRE(logits.element == ELEMENT_F32, "logits are f32");
    int n_picked = launch_rows(device, rows->n_picked);
    if (n_picked == 0) return;
    launch_following(device, sample_kernel, (unsigned)n_picked, THREADS, 0,
                     (const float *)value_data(&logits), logits.stride, device->limits.vocabulary,
                     wishes->wish, wishes->pool, sampler->history, device->limits.context,
                     sampler->logit, sampler->count, taken->token, taken->score, sampler->clock);
    size_t n = (size_t)n_picked;
    CHECK_CUDA(cudaMemcpyAsync(taken->pinned_token, taken->token, n * sizeof(int32_t),
                               cudaMemcpyDeviceToHost, device->stream));
    if (wishes->scored)
        CHECK_CUDA(cudaMemcpyAsync(taken->pinned_score, taken->score,
                                   n * SCORES * sizeof(struct token_score), cudaMemcpyDeviceToHost,
                                   device->stream));
    CHECK_CUDA(cudaEventRecordWithFlags(
        taken->done, device->stream,
        device->capturing ? cudaEventRecordExternal : cudaEventRecordDefault));
}

/* The time is that of taking: the device's clock is not the host's. */
int64_t cuda_take_tokens(struct device *device, int slot, int step, int n_picked, int32_t *token,
                      struct token_score *score) {
    const struct taken *taken = &device->sampler->taken[2 * slot + step % 2];
    wait_for_event(device, taken->done);
    memcpy(token, taken->pinned_token, (size_t)n_picked * sizeof *token);
    memcpy(score, taken->pinned_score, (size_t)n_picked * SCORES * sizeof *score);
    return clock_now_ns();
}
