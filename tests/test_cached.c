/* Generations that begin in the middle of what is cached, and caches filled with made-up K and V.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h> /* needs those above */

#include "make_gguf.h"
#include "rig.h"
#include "scratch.h"

enum { CONTEXT = 300, N_NEW = 8 };

static struct rig_model model;
static struct rig_group group;

static int open_model(void **state) {
    struct make_gguf_wish made = make_gguf_default();
    struct fault fault = {0};
    made.context = CONTEXT;
    if (scratch_open(state) != 0) return -1;
    if (!make_gguf_write(&made, scratch_path("model.gguf"), &fault)) return -1;
    rig_model_open(&model, scratch_path("model.gguf"), CONTEXT);
    rig_group_open(&group, 0, 0, 0, &model);
    return 0;
}

static int close_model(void **state) {
    rig_group_close(&group);
    rig_model_close(&model);
    return scratch_close(state);
}

static struct rig_wish wish_of(int n_prompt, int max_new) {
    struct rig_wish wish = {n_prompt, max_new, 9, false, rig_greedy(), NULL};
    wish.sampling.n_logprobs = 1;
    return wish;
}

static const struct rig_case alone = {
    .kv_type = KV_BF16, .n_threads = 1, .n_slots = 1, .max_batch = 1, .max_rows = 32};

/* A first generation computes a prompt and ends. The second has that prompt and one token more, and
 * gets the same pages, given back a moment ago and not yet written: it computes only the rest, and
 * is in every bit what a computation of the whole prompt gives. */
static void what_is_cached_is_used_as_if_it_were_computed(void **state) {
    (void)state;
    static const int cached[] = {1, 63, 64, 65, 200};
    for (size_t at = 0; at < sizeof cached / sizeof *cached; at++) {
        int n_cached = cached[at];
        struct rig_wish whole = wish_of(n_cached + 1, N_NEW);
        struct rig_wish wish[2] = {wish_of(n_cached, 1), whole};
        struct rig_list list, expected;
        char text[512];
        rig_list_open(&expected, &whole, 1, model.model.vocabulary);
        struct rig_counts all = rig_run(&group, &alone, &expected);
        assert_int_equal(all.batch.n_rows, n_cached + N_NEW);
        rig_list_open(&list, wish, 2, model.model.vocabulary);
        list.generation[1]->n_cached = n_cached;
        struct rig_counts counts = rig_run(&group, &alone, &list);
        assert_int_equal(counts.batch.n_rows, n_cached + N_NEW); /* the first's, the second's */
        struct rig_list second = {1, list.generation + 1};
        if (!rig_list_equal(&second, &expected, text, sizeof text)) fail_msg("%s", text);
        rig_list_close(&list);
        rig_list_close(&expected);
    }
}

/* The same seed gives the same scores, another gives others, and zeros others still. */
static void made_up_keys_and_values_come_from_the_seed(void **state) {
    (void)state;
    static const uint64_t seed[] = {1, 1, 2, 0};
    struct rig_list list[4];
    char text[512];
    for (int at = 0; at < 4; at++) {
        struct rig_wish wish = wish_of(130, N_NEW);
        struct rig_case what = alone;
        what.kv_noise = seed[at];
        rig_list_open(&list[at], &wish, 1, model.model.vocabulary);
        list[at].generation[0]->n_cached = 129;
        rig_run(&group, &what, &list[at]);
    }
    assert_true(rig_list_equal(&list[1], &list[0], text, sizeof text));
    assert_false(rig_list_equal(&list[2], &list[0], text, sizeof text));
    assert_false(rig_list_equal(&list[3], &list[0], text, sizeof text));
    for (int at = 0; at < 4; at++)
        rig_list_close(&list[at]);
}

/* Pages of what is cached are held from the first row on: where there are five, two that need three
 * each come one after the other. */
static void what_is_cached_takes_pages(void **state) {
    (void)state;
    struct rig_wish wish[2] = {wish_of(130, N_NEW), wish_of(130, N_NEW)};
    struct rig_case what = alone;
    struct rig_list list;
    what.max_batch = 2;
    what.n_pages = 5;
    rig_list_open(&list, wish, 2, model.model.vocabulary);
    list.generation[0]->n_cached = list.generation[1]->n_cached = 129;
    struct rig_counts counts = rig_run(&group, &what, &list);
    assert_int_equal(counts.batch.n_steps, 2 * N_NEW);
    assert_int_equal(counts.batch.n_pages_peak, 3);
    assert_int_equal(counts.batch.n_preemptions, 0);
    rig_list_close(&list);
    wish[0].max_new = 1; /* a single step holds them already */
    rig_list_open(&list, wish, 1, model.model.vocabulary);
    list.generation[0]->n_cached = 129;
    assert_int_equal(rig_run(&group, &what, &list).batch.n_pages_peak, 3);
    rig_list_close(&list);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_cached_is_used_as_if_it_were_computed),
        cmocka_unit_test(what_is_cached_takes_pages),
        cmocka_unit_test(made_up_keys_and_values_come_from_the_seed),
    };
    return cmocka_run_group_tests(tests, open_model, close_model);
}
