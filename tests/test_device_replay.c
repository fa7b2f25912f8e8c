/* replay: runs of operators that a device makes again by itself give what fresh calls would.
 *
 * A model whose every number is known: token t is followed by next(t), through a table of unit
 * vectors and a matrix that permutes them; keys are 0, so attention gives how often each token has
 * occurred, over the length. Sequences come with a prompt of some rows and leave from the front, so
 * rows move, pages grow and the number of rows changes between steps.
 */
#include <dirent.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "clock.h"
#include "device_plain.h"
#include "scratch.h"

enum { VOCABULARY = 64, MOST_ROWS = 24, MOST_SEQUENCES = 12, CONTEXT = 256, PROMPT = 3 };
/* Of a product whose columns are no multiple of 64: a GPU takes such another way. */
enum { PADDED = VOCABULARY + 8 };
enum { N_PAGES = MOST_SEQUENCES * CONTEXT / PAGE_TOKENS };

static const struct device_limits limits = {.n_slots = 1,
                                            .max_rows = MOST_ROWS,
                                            .max_picked = MOST_SEQUENCES,
                                            .max_sequences = MOST_SEQUENCES,
                                            .context = CONTEXT,
                                            .vocabulary = VOCABULARY,
                                            .n_heads = 1,
                                            .n_kv_heads = 1,
                                            .head_dim = VOCABULARY};

static int32_t next_of(int32_t token) {
    return (token * 13 + 5) % VOCABULARY; /* 13 and 64 have no common divisor */
}

/* Handle `handle`: its tokens so far, and its row of the step before. */
struct told {
    int n_tokens, row_before;
    int32_t token[CONTEXT], page[CONTEXT / PAGE_TOKENS];
};

/* Device memory of the model. */
struct model {
    struct weight *table, *follow, *angles;
    struct value x, twice, padded, zero, kv, turned, attended, logits, picked;
    struct kv_cache cache;
};

static void model_open(struct model *model, const struct subject *subject) {
    float *table = take(VOCABULARY * VOCABULARY, sizeof *table);
    float *follow = take(VOCABULARY * PADDED, sizeof *follow);
    float *zero = take(MOST_ROWS * PADDED, sizeof *zero);
    memset(zero, 0, MOST_ROWS * PADDED * sizeof *zero);
    for (int at = 0; at < VOCABULARY * VOCABULARY; at++)
        table[at] = 0;
    for (int at = 0; at < VOCABULARY * PADDED; at++)
        follow[at] = 0;
    for (int token = 0; token < VOCABULARY; token++) {
        table[token * VOCABULARY + token] = 1;
        follow[next_of(token) * PADDED + token] = 1;
    }
    model->table = load_floats(subject, VOCABULARY, VOCABULARY, table);
    model->follow = load_floats(subject, VOCABULARY, PADDED, follow);
    model->angles = subject->ops->load_rope(subject->device, VOCABULARY, 1e4, 1, NULL, CONTEXT);
    model->zero = value_of(subject, MOST_ROWS, VOCABULARY, zero);
    struct value *values[] = {&model->x,        &model->twice,  &model->turned,
                              &model->attended, &model->logits, &model->picked};
    for (size_t at = 0; at < sizeof values / sizeof *values; at++)
        *values[at] = value_alloc(subject, MOST_ROWS, VOCABULARY);
    model->padded = value_of(subject, MOST_ROWS, PADDED, zero);
    int columns = 2 * VOCABULARY;
    model->kv = (struct value){.columns = columns, .stride = columns, .element = ELEMENT_BF16};
    model->kv.buffer = subject->ops->alloc(subject->device, (size_t)MOST_ROWS * columns * 2);
    model->cache = (struct kv_cache){.n_layers = 1,
                                     .n_pages = N_PAGES,
                                     .n_kv_heads = 1,
                                     .head_dim = VOCABULARY,
                                     .element = ELEMENT_BF16};
    model->cache.buffer =
        subject->ops->alloc(subject->device, (size_t)N_PAGES * PAGE_TOKENS * columns * 2);
    free(table);
    free(follow);
    free(zero);
}

static void model_close(struct model *model, const struct subject *subject) {
    struct value *values[] = {&model->x,        &model->twice,  &model->padded,
                              &model->zero,     &model->kv,     &model->turned,
                              &model->attended, &model->logits, &model->picked};
    for (size_t at = 0; at < sizeof values / sizeof *values; at++)
        value_release(subject, values[at]);
    subject->ops->release(subject->device, model->cache.buffer);
    subject->ops->unload(subject->device, model->angles);
    subject->ops->unload(subject->device, model->table);
    subject->ops->unload(subject->device, model->follow);
}

/* Calls of a step, or the device's own. True: its own. */
static bool run_step(const struct subject *subject, const struct model *model,
                     const struct rows *rows) {
    const struct device_ops *ops = subject->ops;
    struct device *device = subject->device;
    const struct attend_shape shape = {0, 1, 1, VOCABULARY, 1};
    int n = rows->n_rows;
    ops->begin(device, rows);
    bool replayed = ops->replay(device, 1u << rows->slot, 7);
    if (replayed) return true;
    ops->embed(device, rows, model->x, model->table);
    ops->add(device, n, model->twice, model->x, model->x);
    struct turned q = {model->turned, model->x, {1, VOCABULARY, VOCABULARY, true}, model->angles};
    struct turned k = {model->attended, model->zero, q.shape, model->angles};
    ops->rope_append(device, rows, q, k, model->x, model->kv, &model->cache, 0);
    ops->attend(device, rows, &model->cache, shape, ATTEND_WHOLE, model->turned, model->attended);
    struct value same = model->padded;
    same.columns = VOCABULARY;
    ops->matmul(device, n, same, model->twice, model->table, NULL);
    ops->matmul(device, n, model->logits, model->padded, model->follow, NULL);
    ops->pick(device, rows, model->picked, model->logits);
    ops->sample(device, rows, model->picked);
    ops->recorded(device);
    return false;
}

/* The rows of a step, from the sequences [first, end): those without tokens bring their prompt. */
struct step {
    struct rows rows;
    int32_t id[MOST_ROWS], position[MOST_ROWS], sequence[MOST_ROWS], picked[MOST_SEQUENCES];
    struct chunk chunk[MOST_SEQUENCES];
    struct sample_wish wish[MOST_SEQUENCES];
};

static void put_row(struct step *step, int32_t id, int position, int handle) {
    int row = step->rows.n_rows++;
    step->id[row] = id;
    step->position[row] = position;
    step->sequence[row] = handle;
}

static void make_step(struct step *step, struct told *told, int first, int end, int number,
                      const struct sampling *sampling) {
    *step = (struct step){.rows = {.step = number}};
    for (int handle = first; handle < end; handle++) {
        struct told *t = &told[handle % MOST_SEQUENCES];
        int h = handle % MOST_SEQUENCES, first_row = step->rows.n_rows;
        bool fresh = t->n_tokens == 0;
        int first_position = fresh ? 0 : t->n_tokens - 1;
        for (int token = 0; fresh && token < PROMPT; token++) {
            t->token[t->n_tokens++] = (handle * 7 + token * 3) % VOCABULARY;
            put_row(step, t->token[token], token, h);
        }
        if (!fresh) put_row(step, -1 - t->row_before, first_position, h);
        int at = step->rows.n_chunks++;
        step->chunk[at] =
            (struct chunk){first_row, step->rows.n_rows - first_row, first_position, t->page};
        step->picked[at] = step->rows.n_rows - 1;
        step->wish[at] = (struct sample_wish){.sampling = sampling,
                                              .sequence = h,
                                              .position = t->n_tokens,
                                              .n_prompt = PROMPT,
                                              .known_id = -1};
        t->row_before = at;
    }
    step->rows.n_picked = step->rows.n_chunks;
    step->rows.id = step->id;
    step->rows.position = step->position;
    step->rows.sequence = step->sequence;
    step->rows.chunk = step->chunk;
    step->rows.picked = step->picked;
    step->rows.wish = step->wish;
}

/* Attention over a sequence: how often each token occurred, over the length. */
static void check_attention(const struct subject *subject, const struct model *model,
                            const struct step *step, const struct told *told) {
    float *got = take(MOST_ROWS * VOCABULARY, sizeof *got), expected[VOCABULARY];
    value_read(subject, &model->attended, MOST_ROWS, got);
    for (int at = 0; at < step->rows.n_chunks; at++) {
        const struct told *t = &told[step->wish[at].sequence];
        int length = step->wish[at].position;
        for (int token = 0; token < VOCABULARY; token++)
            expected[token] = 0;
        for (int position = 0; position < length; position++)
            expected[t->token[position]] += 1.0f / (float)length;
        check_floats(subject, "attention of a step", expected, got + step->picked[at] * VOCABULARY,
                     VOCABULARY, 1e-5f + subject->rounding);
    }
    free(got);
}

static void check_tokens(const struct subject *subject, const struct step *step, struct told *told,
                         bool scored) {
    int32_t token[MOST_SEQUENCES];
    struct token_score score[MOST_SEQUENCES * (1 + SAMPLING_MAX_LOGPROBS)];
    int n = step->rows.n_picked;
    subject->ops->take_tokens(subject->device, 0, step->rows.step, n, token, score);
    for (int at = 0; at < n; at++) {
        struct told *t = &told[step->wish[at].sequence];
        int32_t expected = next_of(t->token[t->n_tokens - 1]);
        assert_int_equal(token[at], expected);
        if (scored) {
            assert_int_equal(score[(size_t)at * (1 + SAMPLING_MAX_LOGPROBS)].id, expected);
            assert_int_equal(score[(size_t)at * (1 + SAMPLING_MAX_LOGPROBS)].rank, 1);
        }
        t->token[t->n_tokens++] = expected;
    }
}

static void check_walk(const struct subject *subject) {
    /* how many sequences a step has; they leave and come in turn */
    static const int alive[] = {5, 5, 5, 5, 5, 5, 5, 3, 3, 3, 3, 8,  8,  8,  8, 8,
                                8, 7, 7, 7, 7, 1, 1, 1, 1, 1, 1, 12, 12, 12, 9, 9,
                                9, 9, 9, 9, 2, 2, 2, 2, 2, 2, 2, 4,  4,  4,  4, 4};
    enum { N_STEPS = sizeof alive / sizeof *alive, ROUNDS = 4 };
    struct sampling sampling = {.top_p = 1, .repetition_penalty = 1};
    struct told *told = take(MOST_SEQUENCES, sizeof *told);
    struct step *step = take(1, sizeof *step);
    struct model model;
    int first = 0, end = 0, n_replayed = 0;
    int64_t begin_ns = clock_now_ns();
    model_open(&model, subject);
    memset(told, 0, MOST_SEQUENCES * sizeof *told);
    for (int handle = 0; handle < MOST_SEQUENCES; handle++) {
        for (int page = 0; page < CONTEXT / PAGE_TOKENS; page++) /* strewn: 12 x 4 pages */
            told[handle].page[page] = page * MOST_SEQUENCES + (handle * 5 + page) % MOST_SEQUENCES;
    }
    for (int number = 0; number < ROUNDS * N_STEPS; number++) {
        int wanted = alive[number % N_STEPS];
        bool scored = number % 11 > 7;
        sampling.n_logprobs = scored ? 0 : -1;
        for (; end - first > wanted; first++)
            told[first % MOST_SEQUENCES].n_tokens = 0;
        for (; end - first < wanted && (end - first + 1) * PROMPT <= MOST_ROWS; end++)
            told[end % MOST_SEQUENCES].n_tokens = 0;
        make_step(step, told, first, end, number, &sampling);
        n_replayed += run_step(subject, &model, &step->rows);
        check_attention(subject, &model, step, told);
        check_tokens(subject, step, told, scored);
    }
    struct device_times times = subject->ops->times(subject->device);
    int64_t since_ns = clock_now_ns() - begin_ns;
    if (subject->ops == &device_cuda) {
        assert_true(times.idle_ns > 0 && times.idle_ns < since_ns);
        assert_true(times.waited_ns > 0 && times.waited_ns < since_ns);
    } else {
        assert_true(times.idle_ns == -1 && times.waited_ns == 0);
    }
    /* only a device whose calls cost something gains by it */
    assert_int_equal(n_replayed > ROUNDS * N_STEPS / 4, subject->ops == &device_cuda);
    model_close(&model, subject);
    free(step);
    free(told);
}

static void replayed_steps_are_as_good_as_new(void **state) {
    (void)state;
    struct subjects subjects = subjects_open(&limits);
    for (int at = 0; at < subjects.n; at++)
        check_walk(&subjects.at[at]);
    subjects_close(&subjects);
}

/* ---- choices that are kept (kernel_cache.h) ---------------------------------------------------
 */

/* A walk on a GPU of its own, which keeps choices in `folder`. */
static void walk_and_keep(const char *folder) {
    struct device_options options = {.n_threads = 1, .cache_folder = folder};
    struct subject subject = {.ops = &device_cuda, .rounding = 0x1p-8f};
    struct fault fault = {0};
    assert_true(device_cuda.open(&subject.device, &options, &fault));
    device_cuda.prepare(subject.device, &limits);
    check_walk(&subject);
    device_cuda.close(subject.device);
}

/* The one file in `folder`. */
static struct stat only_file(const char *folder, char *path, size_t size) {
    struct stat status;
    int n = 0;
    DIR *stream = opendir(folder);
    assert_non_null(stream);
    for (struct dirent *entry; (entry = readdir(stream));) {
        if (entry->d_name[0] == '.') continue;
        snprintf(path, size, "%s/%s", folder, entry->d_name);
        n += 1;
    }
    closedir(stream);
    assert_int_equal(n, 1);
    assert_int_equal(stat(path, &status), 0);
    return status;
}

/* Replace the library's description of every kernel, under a checksum that is right. */
static void write_nonsense(const char *path) {
    size_t n_bytes;
    unsigned char *file = scratch_read(path, &n_bytes);
    assert_non_null(file);
    for (size_t at = 256; at + 120 + 8 <= n_bytes; at += 120)
        memset(file + at + 56, 0xff, 64);
    uint64_t sum = XXH3_64bits(file, n_bytes - 8);
    memcpy(file + n_bytes - 8, &sum, sizeof sum);
    assert_true(scratch_write(path, file, n_bytes));
    free(file);
}

/* A file that is written again is another one. */
static void choices_are_kept_for_the_next_device(void **state) {
    (void)state;
    if (device_cuda.count() == 0) skip();
    char folder[256], path[1024];
    snprintf(folder, sizeof folder, "%s/cache/lamina", scratch_folder);
    walk_and_keep(folder);
    struct stat first = only_file(folder, path, sizeof path);
    assert_true(first.st_size >= 256 + 120 + 8);
    walk_and_keep(folder);
    assert_int_equal(only_file(folder, path, sizeof path).st_ino, first.st_ino);
    write_nonsense(path);
    struct stat bad = only_file(folder, path, sizeof path);
    walk_and_keep(folder);
    struct stat again = only_file(folder, path, sizeof path);
    assert_int_equal(again.st_size, first.st_size);
    assert_true(again.st_ino != bad.st_ino);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(replayed_steps_are_as_good_as_new),
                                       cmocka_unit_test(choices_are_kept_for_the_next_device)};
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
