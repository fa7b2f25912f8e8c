/* pending: what is begun next, in either order, and how many are open and held. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "fake_text.h"
#include "pending.h"

static struct options options;
static struct request_rules rules;
static struct pending pending;

static int reset(void **state) {
    (void)state;
    options = fake_options();
    options.log_level = LOG_QUIET;
    rules = (struct request_rules){
        .tokenizer = &fake_tokenizer,
        .chat_template = &fake_template,
        .options = &options,
        .context = 64,
        .kv_tokens = INT64_MAX,
        .model_name = "fake",
    };
    pending = (struct pending){0};
    return 0;
}

static int release(void **state) {
    (void)state;
    while (pending.first)
        pending_release(&pending, pending.first);
    assert_null(pending.last);
    assert_null(pending.unbegun);
    assert_int_equal(pending.n_unbegun + pending.n_open + pending.n_held, 0);
    return 0;
}

enum { TOO_MANY = 99 }; /* tokens for the context */

/* A request of `n` generations that make `max_tokens` behind one token; refused with TOO_MANY. */
static struct pending_entry *append(int n, int max_tokens) {
    char text[128];
    int n_bytes =
        snprintf(text, sizeof text, "{\"prompt\":\"a\",\"n\":%d,\"max_tokens\":%d}", n, max_tokens);
    struct input_line line = {.file = "a", .line = 1, .text = text, .n_bytes = (size_t)n_bytes};
    struct pending_entry *entry = check_alloc(1, sizeof *entry);
    request_read(&entry->request, &options, &line);
    request_prepare(&entry->request, &rules);
    assert_int_equal(entry->request.refusal.refused, max_tokens == TOO_MANY);
    pending_append(&pending, entry);
    return entry;
}

/* Begin what is chosen, which must be the next generation of `wanted`. */
static void begins(struct pending_entry *wanted, bool longest, size_t most_open) {
    size_t n_bytes, index = wanted->n_begun;
    assert_ptr_equal(pending_choose(&pending, longest, most_open), wanted);
    struct generation *generation = pending_begin(&pending, wanted, &n_bytes);
    assert_ptr_equal(generation, &wanted->request.generation[index]);
    assert_ptr_equal(generation->owner, wanted);
    assert_int_equal(generation->token[0], 'a');
    assert_int_equal(n_bytes, (size_t)(1 + generation->max_new) * sizeof(int32_t));
}

static void the_input_order_is_kept(void **state) {
    (void)state;
    assert_null(pending_choose(&pending, false, SIZE_MAX));
    struct pending_entry *refused = append(1, TOO_MANY), *two = append(2, 3),
                         *also = append(1, TOO_MANY), *one = append(1, 8);
    assert_int_equal(pending.n_unbegun, 3);
    begins(two, false, SIZE_MAX);
    begins(two, false, SIZE_MAX);
    begins(one, false, SIZE_MAX);
    assert_null(pending_choose(&pending, false, SIZE_MAX));
    assert_int_equal(pending.n_unbegun, 0);
    assert_int_equal(pending.n_open, 2);
    pending_finish(&pending, refused);
    pending_finish(&pending, also);
    pending_finish(&pending, one);
    assert_int_equal(pending.n_held, 3);
    pending_release(&pending, also); /* from the middle, the ends */
    pending_release(&pending, one);
    pending_release(&pending, refused);
    assert_int_equal(pending.n_held, 0);
    assert_int_equal(pending.n_open, 1);
    assert_ptr_equal(pending.first, two);
    assert_ptr_equal(pending.last, two);
    begins(append(1, 1), false, SIZE_MAX);
}

static void the_longest_can_come_first(void **state) {
    (void)state;
    struct pending_entry *shorter = append(1, 3), *longest = append(2, 8), *equal = append(1, 8);
    append(1, TOO_MANY);
    begins(longest, true, SIZE_MAX);
    begins(longest, true, SIZE_MAX);
    begins(equal, true, SIZE_MAX);
    struct pending_entry *late = append(1, 5);
    begins(late, true, SIZE_MAX);
    begins(shorter, true, SIZE_MAX);
    assert_null(pending_choose(&pending, true, SIZE_MAX));
}

/* With two open no third is begun; but all of an open one, and the first, for which all wait. */
static void open_requests_are_bounded(void **state) {
    (void)state;
    struct pending_entry *first = append(1, 1), *second = append(2, 8), *third = append(1, 9),
                         *fourth = append(1, 2);
    begins(third, true, 2);
    begins(second, true, 2);
    begins(second, true, 2);
    begins(first, true, 2);
    assert_null(pending_choose(&pending, true, 2));
    assert_null(pending_choose(&pending, false, 2));
    assert_int_equal(pending.n_open, 3);
    pending_release(&pending, second);
    assert_null(pending_choose(&pending, false, 2));
    pending_release(&pending, first);
    begins(fourth, false, 2);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, reset, release)

int main(void) {
    const struct CMUnitTest tests[] = {
        CASE(the_input_order_is_kept),
        CASE(the_longest_can_come_first),
        CASE(open_requests_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
