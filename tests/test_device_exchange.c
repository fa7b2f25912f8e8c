/* Parts of values to and from host memory: every pair of elements, against their definitions. Pages
 * of the cache. */
#include "device_plain.h"
#include "plain_elements.h"

static const struct device_limits limits = {.n_slots = 1, .max_rows = 8, .max_picked = 1};
static const enum element elements[] = {ELEMENT_F32, ELEMENT_F16, ELEMENT_BF16};
enum { N_ELEMENTS = 3, AROUND = 64 };

/* A value of (rows, columns), `gap` elements behind each row, and a part of it. */
static const struct shape {
    int rows, columns, gap;
    struct rectangle part;
} shapes[] = {
    {1, 1, 0, {0, 1, 0, 1}},         {7, 64, 0, {0, 7, 0, 64}}, {7, 64, 0, {3, 4, 0, 64}},
    {9, 192, 8, {2, 5, 64, 128}},    {5, 37, 3, {1, 3, 2, 31}}, {6, 64, 0, {1, 4, 3, 8}},
    {4, 2000, 8, {0, 4, 8, 1600}},   {4, 16, 0, {2, 0, 0, 16}}, {300, 256, 0, {10, 280, 16, 200}},
    {300, 257, 2, {0, 300, 0, 257}},
};

static size_t value_elements(const struct shape *shape) {
    return (size_t)shape->rows * (size_t)(shape->columns + shape->gap);
}

/* An element of the value's buffer, which `part` counts from 0 row by row; -1: not in the part. */
static long place_in_part(const struct shape *shape, size_t at) {
    int row = (int)(at / (size_t)(shape->columns + shape->gap)) - shape->part.row;
    int column = (int)(at % (size_t)(shape->columns + shape->gap)) - shape->part.column;
    if (row < 0 || row >= shape->part.n_rows || column < 0 || column >= shape->part.n_columns)
        return -1;
    return (long)row * shape->part.n_columns + column;
}

/* Bits of every kind: any at all, those halfway between two numbers of 16 bits, small integers. */
static void roll_bits(struct dice *dice, void *to, size_t n_bytes) {
    static const uint32_t halfway[] = {0x3f808000, 0x3f818000, 0x3f801000, 0x3f803000,
                                       0x33000000, 0x33800000, 0x33c00000, 0x477fefff,
                                       0x477ff000, 0x7f7f8000, 0x7f7f7fff, 0x00008000,
                                       0x00018000, 0x7f800000, 0x80000000, 0xc0490fdb};
    for (size_t at = 0; at + 4 <= n_bytes; at += 4) {
        uint64_t rolled = roll(dice);
        uint32_t word = (uint32_t)rolled;
        float number = (float)(word % 1000);
        if (rolled >> 62 == 0) word = halfway[word % 16];
        if (rolled >> 62 == 1) memcpy(&word, &number, sizeof word);
        memcpy((unsigned char *)to + at, &word, sizeof word);
    }
}

/* Where a test's bytes lie: the value's buffer, and packed memory with room around it. */
struct bench {
    const struct subject *subject;
    const struct shape *shape;
    struct value value;
    enum element as;
    size_t n_value_bytes, n_packed_bytes;
    unsigned char *stored; /* what the value was filled with */
    unsigned char *packed; /* AROUND before and behind; the device's */
    unsigned char *before; /* what it was filled with */
};

static struct bench open_bench(const struct subject *subject, const struct shape *shape,
                               enum element element, enum element as, uint64_t seed) {
    struct dice dice = {seed};
    size_t size = element_bytes(element), n = value_elements(shape) * size;
    struct bench bench = {.subject = subject, .shape = shape, .as = as};
    bench.n_value_bytes = (2 * AROUND + n + 3) / 4 * 4;
    bench.n_packed_bytes =
        (size_t)shape->part.n_rows * (size_t)shape->part.n_columns * element_bytes(as);
    bench.stored = take(bench.n_value_bytes, 1);
    roll_bits(&dice, bench.stored, bench.n_value_bytes);
    bench.value =
        (struct value){.buffer = subject->ops->alloc(subject->device, bench.n_value_bytes),
                       .offset = AROUND,
                       .columns = shape->columns,
                       .stride = shape->columns + shape->gap,
                       .element = element};
    subject->ops->upload(subject->device, bench.value.buffer, 0, bench.stored, bench.n_value_bytes);
    size_t room = (bench.n_packed_bytes + 3) / 4 * 4 + 2 * AROUND;
    bench.packed = subject->ops->alloc_host(subject->device, room);
    for (size_t at = 0; at < room; at++)
        assert_int_equal(bench.packed[at], 0);
    bench.before = take(room, 1);
    roll_bits(&dice, bench.before, room);
    memcpy(bench.packed, bench.before, room);
    return bench;
}

static void close_bench(struct bench *bench) {
    bench->subject->ops->release_host(bench->subject->device, bench->packed);
    bench->subject->ops->release(bench->subject->device, bench->value.buffer);
    free(bench->stored);
    free(bench->before);
}

static void expect_number(const struct bench *bench, const char *what, size_t at, uint32_t from,
                          enum element from_element, uint32_t got, enum element element) {
    double expected = plain_nearest(element, plain_value(from_element, from));
    bool same = from_element == element && bench->subject->exact
                    ? from == got
                    : plain_same(expected, plain_value(element, got));
    if (!same)
        fail_msg("%s, %s, elements %d and %d, %d columns: number %zu is 0x%x, from 0x%x",
                 subject_name(bench->subject), what, (int)from_element, (int)element,
                 bench->shape->part.n_columns, at, got, from);
}

static void check_read(const struct bench *bench) {
    const struct subject *subject = bench->subject;
    subject->ops->read_rows(subject->device, bench->packed + AROUND, bench->as, &bench->value,
                            bench->shape->part);
    subject->ops->settle(subject->device);
    for (size_t at = 0; at < value_elements(bench->shape); at++) {
        long place = place_in_part(bench->shape, at);
        if (place < 0) continue;
        expect_number(bench, "read", at,
                      plain_bits_at(bench->value.element, bench->stored + AROUND, at),
                      bench->value.element,
                      plain_bits_at(bench->as, bench->packed + AROUND, (size_t)place), bench->as);
    }
    assert_memory_equal(bench->packed, bench->before, AROUND);
    assert_memory_equal(bench->packed + AROUND + bench->n_packed_bytes,
                        bench->before + AROUND + bench->n_packed_bytes, AROUND);
}

static void check_write(const struct bench *bench) {
    const struct subject *subject = bench->subject;
    unsigned char *got = take(bench->n_value_bytes, 1);
    size_t size = element_bytes(bench->value.element), n = value_elements(bench->shape);
    subject->ops->write_rows(subject->device, &bench->value, bench->shape->part,
                             bench->packed + AROUND, bench->as);
    subject->ops->settle(subject->device);
    subject->ops->download(subject->device, got, bench->value.buffer, 0, bench->n_value_bytes);
    for (size_t at = 0; at < n; at++) {
        long place = place_in_part(bench->shape, at);
        uint32_t number = plain_bits_at(bench->value.element, got + AROUND, at);
        if (place < 0) {
            assert_int_equal(number,
                             plain_bits_at(bench->value.element, bench->stored + AROUND, at));
            continue;
        }
        expect_number(bench, "write", at,
                      plain_bits_at(bench->as, bench->packed + AROUND, (size_t)place), bench->as,
                      number, bench->value.element);
    }
    assert_memory_equal(got, bench->stored, AROUND);
    assert_memory_equal(got + AROUND + n * size, bench->stored + AROUND + n * size, AROUND);
    free(got);
}

static void for_all(void (*check)(const struct bench *bench)) {
    struct subjects subjects = subjects_open(&limits);
    uint64_t seed = 1;
    for (int at = 0; at < subjects.n; at++)
        for (size_t shape = 0; shape < sizeof shapes / sizeof *shapes; shape++)
            for (int pair = 0; pair < N_ELEMENTS * N_ELEMENTS; pair++) {
                struct bench bench =
                    open_bench(&subjects.at[at], &shapes[shape], elements[pair / N_ELEMENTS],
                               elements[pair % N_ELEMENTS], seed++);
                check(&bench);
                close_bench(&bench);
            }
    subjects_close(&subjects);
}

static void parts_are_read_and_nothing_beside_them(void **state) {
    (void)state;
    for_all(check_read);
}

static void parts_are_written_and_nothing_beside_them(void **state) {
    (void)state;
    for_all(check_write);
}

/* As a wire does: the parts of a value go out one behind another, and one wait is for all. */
static void many_copies_settle_at_once(void **state) {
    (void)state;
    enum { ROWS = 30, COLUMNS = 96, PARTS = 6, PART_BYTES = ROWS * COLUMNS / PARTS * 2 };
    struct subjects subjects = subjects_open(&limits);
    for (int at = 0; at < subjects.n; at++) {
        const struct subject *subject = &subjects.at[at];
        struct dice dice = {7};
        unsigned char sent[PARTS * PART_BYTES], got[PARTS * PART_BYTES];
        roll_bits(&dice, sent, sizeof sent);
        struct value value = {.columns = COLUMNS, .stride = COLUMNS, .element = ELEMENT_BF16};
        struct value back = value;
        value.buffer = subject->ops->alloc(subject->device, sizeof sent);
        back.buffer = subject->ops->alloc(subject->device, sizeof sent);
        unsigned char *host = subject->ops->alloc_host(subject->device, sizeof sent);
        subject->ops->upload(subject->device, value.buffer, 0, sent, sizeof sent);
        for (int step = 0; step < 2; step++) {
            for (int part = 0; part < PARTS; part++) { /* 3 runs of rows, 2 halves of columns */
                struct rectangle where = {part / 2 * 10, 10, part % 2 * 48, 48};
                if (step == 0) {
                    subject->ops->read_rows(subject->device, host + part * PART_BYTES, ELEMENT_BF16,
                                            &value, where);
                } else {
                    subject->ops->write_rows(subject->device, &back, where,
                                             host + part * PART_BYTES, ELEMENT_BF16);
                }
            }
            subject->ops->settle(subject->device);
        }
        subject->ops->download(subject->device, got, back.buffer, 0, sizeof got);
        assert_memory_equal(got, sent, sizeof sent);
        subject->ops->release_host(subject->device, host);
        subject->ops->release_host(subject->device, NULL);
        subject->ops->release(subject->device, value.buffer);
        subject->ops->release(subject->device, back.buffer);
    }
    subjects_close(&subjects);
}

/* A page of the cache as a checkpoint has it: every number from where device.h says that it lies,
 * zeros behind the positions that are wanted, and nothing beside it. */
static void check_page(const struct subject *subject, const struct kv_cache *shape, int n_tokens,
                       uint64_t seed) {
    struct dice dice = {seed};
    struct kv_cache cache = *shape;
    size_t size = element_bytes(cache.element), dim = (size_t)cache.head_dim;
    size_t n_page = 2 * (size_t)cache.n_layers * (size_t)cache.n_kv_heads * PAGE_TOKENS * dim;
    size_t n_bytes = n_page * size, page = (size_t)roll_below(&dice, cache.n_pages);
    unsigned char *stored = take((size_t)cache.n_pages, n_bytes);
    roll_bits(&dice, stored, (size_t)cache.n_pages * n_bytes);
    cache.buffer = subject->ops->alloc(subject->device, (size_t)cache.n_pages * n_bytes);
    subject->ops->upload(subject->device, cache.buffer, 0, stored, (size_t)cache.n_pages * n_bytes);
    unsigned char *got = take(1, n_bytes + 2 * AROUND);
    memset(got, 0x5a, n_bytes + 2 * AROUND);
    subject->ops->read_page(subject->device, got + AROUND, &cache, (int)page, n_tokens);
    for (size_t at = 0; at < AROUND; at++)
        assert_true(got[at] == 0x5a && got[AROUND + n_bytes + at] == 0x5a);
    for (size_t at = 0; at < n_page; at++) { /* (layers, K|V, heads, 64, dim) */
        size_t row = at / dim, token = row % PAGE_TOKENS, part = row / PAGE_TOKENS;
        size_t head = part % (size_t)cache.n_kv_heads, which = part / (size_t)cache.n_kv_heads;
        size_t layer = which / 2, place = layer * (size_t)cache.n_pages + page;
        place = (place * (size_t)cache.n_kv_heads + head) * 2 + which % 2;
        place = (place * PAGE_TOKENS + token) * dim + at % dim;
        uint32_t expected =
            token < (size_t)n_tokens ? plain_bits_at(cache.element, stored, place) : 0;
        if (plain_bits_at(cache.element, got + AROUND, at) != expected)
            fail_msg("%s: %d tokens of page %zu, element %d: number %zu", subject_name(subject),
                     n_tokens, page, (int)cache.element, at);
    }
    subject->ops->release(subject->device, cache.buffer);
    free(stored);
    free(got);
}

static void pages_are_read_and_nothing_beside_them(void **state) {
    (void)state;
    static const struct kv_cache caches[] = {{.n_layers = 1, .n_pages = 1, .n_kv_heads = 1},
                                             {.n_layers = 3, .n_pages = 5, .n_kv_heads = 2},
                                             {.n_layers = 2, .n_pages = 7, .n_kv_heads = 8}};
    static const int n_tokens[] = {1, 17, 63, 64}, head_dim[] = {40, 64, 128};
    struct subjects subjects = subjects_open(&limits);
    uint64_t seed = 100;
    for (int at = 0; at < subjects.n; at++)
        for (size_t row = 0; row < 3 * 3 * 4 * N_ELEMENTS; row++) {
            struct kv_cache cache = caches[row % 3];
            cache.head_dim = head_dim[row / 3 % 3];
            cache.element = elements[row / 36];
            check_page(&subjects.at[at], &cache, n_tokens[row / 9 % 4], seed++);
        }
    subjects_close(&subjects);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts_are_read_and_nothing_beside_them),
        cmocka_unit_test(parts_are_written_and_nothing_beside_them),
        cmocka_unit_test(many_copies_settle_at_once),
        cmocka_unit_test(pages_are_read_and_nothing_beside_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
