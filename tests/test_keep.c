/* keep: what the leader takes back of a checkpoint: every choice in it, whatever stands between
 * them in the queue. Expected is what the queue was made of. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "../src/run/leader.h"

enum { N_PROMPT = 3, N_TOKENS = 70, MOST = 8, N_PAGES = 8 };

static int32_t token[2 * N_TOKENS];
static struct generation queue[MOST];
static int n_queued, n_given, n_histories;

static struct generation *next(void *of) {
    (void)of;
    return n_given < n_queued ? &queue[n_given++] : NULL;
}

static void put_history(struct device *device, int sequence, const int32_t *id, int n_tokens) {
    (void)device;
    (void)sequence;
    assert_ptr_equal(id, token);
    assert_int_equal(n_tokens, N_TOKENS - 1);
    n_histories++;
}

/* A letter a generation: `r` restored with K and V, `t` with tokens only, `-` new. */
static void fill(const char *text) {
    n_given = n_histories = 0;
    n_queued = (int)strlen(text);
    for (int at = 0; at < n_queued; at++) {
        bool restored = text[at] != '-';
        queue[at] = (struct generation){.token = token,
                                        .n_prompt = N_PROMPT,
                                        .max_new = N_TOKENS,
                                        .restored = restored,
                                        .saved = restored ? 10 + at : 0,
                                        .n_rows = text[at] == 'r' ? N_TOKENS - 1 : 0};
        queue[at].n_tokens = restored ? N_TOKENS : N_PROMPT;
    }
}

/* Take back what a queue has, with room for so many; as letters, `r` for those with K and V. */
static void taken_is(const char *text, int n_restored, int n_handles, int n_pages,
                     const char *expected) {
    struct supply supply = {.next = next};
    struct device_ops ops = {.put_history = put_history};
    struct batch_options options = {.limits = {.n_slots = 1,
                                               .max_batch = n_handles,
                                               .max_rows = 4,
                                               .max_picked = n_handles,
                                               .context = 2 * N_TOKENS,
                                               .n_owners = 1,
                                               .n_pages = n_pages},
                                    .supply = &supply,
                                    .device_ops = &ops};
    struct leader *leader;
    struct kept kept[MOST];
    char got[MOST + 1] = "";
    fill(text);
    leader_open(&leader, &options);
    int n = leader_restore(leader, true, n_restored, kept), n_with_kv = 0;
    for (int at = 0; at < n; at++) {
        assert_ptr_equal(kept[at].generation, &queue[at]);
        assert_int_equal(kept[at].handle, at);
        if (queue[at].restored) assert_int_equal(kept[at].saved, 10 + at);
        got[at] = kept[at].n_rows > 0 ? 'r' : queue[at].restored ? 't' : '-';
        n_with_kv += kept[at].n_rows > 0;
    }
    assert_string_equal(got, expected);
    assert_int_equal(n_given, n); /* the others are the queue's still */
    assert_int_equal(n_histories, n_with_kv);
    struct batch_counts counts = leader_counts(leader);
    assert_int_equal(counts.n_running, n_with_kv);
    assert_int_equal(counts.n_waiting, n - n_with_kv);
    leader_close(leader);
}

static void every_choice_of_a_checkpoint_is_taken_back(void **state) {
    (void)state;
    taken_is("rrr--", 3, MOST, N_PAGES, "rrr");
    taken_is("rtr-", 3, MOST, N_PAGES, "rtr");
    taken_is("----", 0, MOST, N_PAGES, "");
    taken_is("", 0, MOST, N_PAGES, "");
}

static void one_that_had_not_begun_stands_in_no_ones_way(void **state) {
    (void)state;
    taken_is("r-r-", 2, MOST, N_PAGES, "r-r");
    taken_is("-rr", 2, MOST, N_PAGES, "-rr");
    taken_is("r--tr", 3, MOST, N_PAGES, "r--tr");
}

static void room_is_a_limit(void **state) {
    (void)state;
    taken_is("rrrr", 4, 2, N_PAGES, "rr");
    taken_is("r-rr", 3, 3, N_PAGES, "r-r");
    taken_is("rrr", 3, MOST, 5, "rrt"); /* two pages each, and one to go on */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_choice_of_a_checkpoint_is_taken_back),
        cmocka_unit_test(one_that_had_not_begun_stands_in_no_ones_way),
        cmocka_unit_test(room_is_a_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
