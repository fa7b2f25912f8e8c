/* The set finds what was put in, through growth and collisions, and keeps marks apart. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "answered.h"

enum { N_KEYS = 50000 };

/* All keys share their low ten bits, so the first table would be one chain; number 0 is all zero.
 */
static struct request_key key_of(uint64_t number) {
    return (struct request_key){.high = (number / 100) << 3, .low = (number % 100) << 10};
}

static void marks_are_found_again(void **state) {
    (void)state;
    struct answered answered = {0};
    for (uint64_t number = 0; number < N_KEYS; number++) {
        struct answered_entry *entry = answered_find(&answered, key_of(number));
        assert_false(answered_has(entry, ANSWERED_BEFORE | ANSWERED_FAILED | ANSWERED_SEEN));
        entry->body_hash = number;
        if (number % 2) answered_mark(entry, ANSWERED_BEFORE);
        if (number % 3) answered_mark(entry, ANSWERED_SEEN);
    }
    assert_int_equal(answered.n_entries, N_KEYS);
    assert_true(4 * answered.n_entries <= 3 * answered.capacity);
    for (int pass = 0; pass < 2; pass++) {
        for (uint64_t number = 0; number < N_KEYS; number++) {
            const struct answered_entry *entry = answered_find(&answered, key_of(number));
            assert_int_equal(entry->body_hash, number);
            assert_int_equal(answered_has(entry, ANSWERED_BEFORE), number % 2 != 0);
            assert_int_equal(answered_has(entry, ANSWERED_SEEN), number % 3 != 0 && pass == 0);
            assert_false(answered_has(entry, ANSWERED_FAILED));
        }
        answered_unsee(&answered);
    }
    assert_int_equal(answered.n_entries, N_KEYS);
    answered_close(&answered);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(marks_are_found_again)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
