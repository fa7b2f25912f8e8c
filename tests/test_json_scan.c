/* Members are found in JSON that is whole, broken behind them, or cut. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "json_scan.h"

static void expect_member(const char *text, const char *value) {
    struct json_span span = {0};
    bool found = json_scan_member(text, strlen(text), "custom_id", &span);
    assert_int_equal(found, value != NULL);
    if (!value) return;
    assert_int_equal(span.n_bytes, strlen(value));
    assert_memory_equal(span.text, value, span.n_bytes);
}

static void members_are_found(void **state) {
    (void)state;
    expect_member("{\"custom_id\":\"a\"}", "\"a\"");
    expect_member(" { \"x\" : [1,{\"custom_id\":2},\"]\"] , \"custom_id\" : null }", "null");
    expect_member("{\"a\\\"\":1,\"custom_id\":\"q\\\"}\"}", "\"q\\\"}\"");
    expect_member("{\"custom_id\":\"a\",\"prompt\":1e999", "\"a\"");
    expect_member("{\"custom_id\":\"a\"", "\"a\"");
    expect_member("{\"custom_id\":\"a", NULL);
    expect_member("{\"prompt\":[[[", NULL);
    expect_member("{\"prompt\" \"custom_id\":\"a\"}", NULL);
    expect_member("[{\"custom_id\":\"a\"}]", NULL);
    expect_member("{\"custom_id\":}", NULL);
    expect_member("", NULL);
}

static void whole_objects_are_told_from_torn_ones(void **state) {
    (void)state;
    const char *text = "{\"a\":[1,\"}\"],\"b\":{}}";
    for (size_t n_bytes = 0; n_bytes < strlen(text); n_bytes++)
        assert_false(json_scan_whole(text, n_bytes));
    assert_true(json_scan_whole(text, strlen(text)));
    assert_false(json_scan_whole("{} {}", 5));
    assert_false(json_scan_whole("\0\0\0\0", 4));
}

static void size_bounds_depth_and_values(void **state) {
    (void)state;
    struct json_size size = json_scan_size("{\"a\":[1,2,[\"[[,\"]]}", 19);
    assert_int_equal(size.depth, 3);
    assert_true(size.n_values >= 6); /* object, list, 1, 2, list, string */
    size = json_scan_size("]]]]", 4);
    assert_int_equal(size.depth, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(members_are_found),
        cmocka_unit_test(whole_objects_are_told_from_torn_ones),
        cmocka_unit_test(size_bounds_depth_and_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
