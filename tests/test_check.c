/* Faults keep the first message, sizes multiply with care, foreign text is escaped. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "check.h"
#include "log.h"

static void first_fault_is_kept(void **state) {
    (void)state;
    struct fault fault = {0};
    assert_false(fault_user(&fault, "%s:%d: bad", "a.jsonl", 3));
    assert_false(fault_world(&fault, "later"));
    assert_int_equal(fault.kind, FAULT_USER);
    assert_string_equal(fault.text, "a.jsonl:3: bad");
}

static void products_are_checked(void **state) {
    (void)state;
    size_t product = 7;
    assert_true(check_multiply(3, 4, &product));
    assert_int_equal(product, 12);
    assert_false(check_multiply(SIZE_MAX / 2, 3, &product));
}

static void foreign_text_is_escaped(void **state) {
    (void)state;
    char out[64];
    assert_string_equal(log_escape(out, sizeof out, "a\033[2Jb\n", 7), "a\\x1b[2Jb\\x0a");
    assert_string_equal(log_escape(out, sizeof out, "gr\xc3\xbc\xc3\x9f\xff", 7),
                        "gr\xc3\xbc\xc3\x9f\\xff");
    assert_string_equal(log_escape(out, 8, "abcdefghijkl", 12), "abcd...");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_fault_is_kept),
        cmocka_unit_test(products_are_checked),
        cmocka_unit_test(foreign_text_is_escaped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
