/* Faults keep the first message, sizes multiply with care, foreign text is escaped, and a check
 * that fails ends the job as its thread may.
 *
 * MPI's functions are replaced by ours, which say what was asked of them: MPI allows that, and a
 * job that is aborted could not be observed. */
#include <mpi.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "check.h"
#include "child.h"
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

/* ---- failing ---- */

enum { CODE_ABORTED = 77 };

static pthread_t main_thread;

int MPI_Initialized(int *flag) {
    *flag = 1;
    return MPI_SUCCESS;
}

int MPI_Finalized(int *flag) {
    *flag = 0;
    return MPI_SUCCESS;
}

int MPI_Is_thread_main(int *flag) {
    *flag = pthread_equal(pthread_self(), main_thread);
    return MPI_SUCCESS;
}

int MPI_Abort(MPI_Comm comm, int code) {
    (void)comm, (void)code;
    _exit(CODE_ABORTED);
}

static void *give_up(void *unused) {
    (void)unused;
    check_fail("the disk is gone");
}

static void fail_here(const void *unused) {
    (void)unused;
    check_place(1, 7);
    give_up(NULL);
}

static void fail_in_another_thread(const void *unused) {
    (void)unused;
    pthread_t thread;
    check_place(1, 7);
    pthread_create(&thread, NULL, give_up, NULL);
    pthread_join(thread, NULL);
}

static void only_the_main_thread_aborts_the_job(void **state) {
    (void)state;
    char text[256];
    main_thread = pthread_self();
    assert_int_equal(child_code(fail_here, NULL, text, sizeof text), CODE_ABORTED);
    assert_string_equal(text, "lamina: the disk is gone (slot 1, slice 7)\n");
    assert_int_equal(child_code(fail_in_another_thread, NULL, text, sizeof text), EXIT_WORLD);
    assert_string_equal(text, "lamina: the disk is gone\n");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_fault_is_kept),
        cmocka_unit_test(products_are_checked),
        cmocka_unit_test(foreign_text_is_escaped),
        cmocka_unit_test(only_the_main_thread_aborts_the_job),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
