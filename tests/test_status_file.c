/* status_file: the newest text wins, whole, and who gives one never waits for who writes. */
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "scratch.h"
#include "status_file.h"

/* ---- a file system that can hang: this definition stands before the library's ---- */

static _Atomic bool hangs;
static _Atomic int n_renames;
static sem_t rename_begun, rename_may_end;

int rename(const char *old, const char *new) {
    atomic_fetch_add(&n_renames, 1);
    if (atomic_load(&hangs)) {
        sem_post(&rename_begun);
        sem_wait(&rename_may_end);
    }
    return (int)syscall(SYS_rename, old, new);
}

/* ---- a status file ---- */

static struct status_file file;
static char name[256];

static void open_file(const char *path) {
    struct fault fault = {0};
    snprintf(name, sizeof name, "%s", scratch_path(path));
    struct options options = {.model = "model", .status = name};
    if (!status_file_open(&file, &options, &fault)) fail_msg("%s", fault.text);
}

/* A text of `number` alone, longer the larger it is. */
static void give(int number) {
    char *text = status_file_text(&file);
    size_t n_bytes = 0;
    while (n_bytes < 1000 + (size_t)number % 5000)
        n_bytes += (size_t)sprintf(text + n_bytes, "%d ", number);
    status_file_give(&file, n_bytes);
}

enum { NO_FILE = -1, TORN = -2 };

/* The number of which the file is whole. */
static int number_in_file(void) {
    size_t n_bytes, at = 0;
    unsigned char *text = scratch_read(name, &n_bytes);
    if (!text) return NO_FILE;
    text[n_bytes] = 0;
    int number = atoi((char *)text), again, n_read;
    while (at < n_bytes && sscanf((char *)text + at, "%d %n", &again, &n_read) == 1 &&
           again == number)
        at += (size_t)n_read;
    free(text);
    return at == n_bytes && n_bytes >= 1000 + (size_t)number % 5000 ? number : TORN;
}

static void the_newest_text_is_written_once(void **state) {
    (void)state;
    open_file("newest");
    status_file_renew(&file); /* nothing was given */
    assert_int_equal(number_in_file(), NO_FILE);
    give(1);
    give(2);
    give(3);
    assert_int_equal(number_in_file(), NO_FILE); /* giving writes nothing */
    assert_true(status_file_write(&file));
    assert_int_equal(number_in_file(), 3);
    int n_before = atomic_load(&n_renames);
    assert_true(status_file_write(&file));
    assert_int_equal(atomic_load(&n_renames), n_before);
    give(4);
    status_file_renew(&file);
    assert_int_equal(number_in_file(), 4);
    status_file_close(&file);
    status_file_close(&file);
}

static void *renew(void *argument) {
    (void)argument;
    status_file_renew(&file);
    return NULL;
}

static void a_file_system_that_hangs_keeps_nobody_from_giving(void **state) {
    (void)state;
    pthread_t thread;
    open_file("hanging");
    give(1);
    atomic_store(&hangs, true);
    assert_int_equal(pthread_create(&thread, NULL, renew, NULL), 0);
    sem_wait(&rename_begun);
    for (int number = 2; number <= 1000; number++)
        give(number);
    atomic_store(&hangs, false);
    sem_post(&rename_may_end);
    pthread_join(thread, NULL);
    assert_int_equal(number_in_file(), 1); /* what was being written was left alone */
    status_file_renew(&file);
    assert_int_equal(number_in_file(), 1000);
    status_file_close(&file);
}

static _Atomic bool all_given;

struct follower {
    int last, n_torn, n_fallen;
};

/* Writes what comes and looks whether it is whole, and no older than what was there. */
static void *follow(void *argument) {
    struct follower *follower = argument;
    for (bool ended = false; !ended;) {
        ended = atomic_load(&all_given);
        status_file_renew(&file);
        int number = number_in_file();
        follower->n_torn += number == TORN;
        follower->n_fallen += number < follower->last;
        follower->last = number;
    }
    return NULL;
}

static void texts_are_whole_whatever_the_timing(void **state) {
    (void)state;
    enum { N_TEXTS = 50000 };
    pthread_t thread;
    struct follower follower = {.last = NO_FILE};
    int n_before = atomic_load(&n_renames);
    open_file("racing");
    assert_int_equal(pthread_create(&thread, NULL, follow, &follower), 0);
    for (int number = 1; number <= N_TEXTS; number++)
        give(number);
    atomic_store(&all_given, true);
    pthread_join(thread, NULL);
    assert_int_equal(follower.last, N_TEXTS);
    assert_int_equal(follower.n_torn, 0);
    assert_int_equal(follower.n_fallen, 0);
    assert_true(atomic_load(&n_renames) > n_before + 10);
    status_file_close(&file);
}

static void a_place_that_is_lost_is_left_alone(void **state) {
    (void)state;
    char folder[256];
    snprintf(folder, sizeof folder, "%s", scratch_path("folder"));
    assert_int_equal(mkdir(folder, 0700), 0);
    open_file("folder/status");
    assert_int_equal(rmdir(folder), 0);
    give(1);
    status_file_renew(&file);
    assert_int_equal(mkdir(folder, 0700), 0);
    give(2);
    status_file_renew(&file);
    assert_int_equal(number_in_file(), NO_FILE);
    status_file_close(&file);
}

static void a_text_that_did_not_fit_is_told(void **state) {
    (void)state;
    open_file("large");
    give(1);
    assert_true(status_file_write(&file));
    status_file_give(&file, 0);
    assert_false(status_file_write(&file));
    assert_int_equal(number_in_file(), 1);
    status_file_close(&file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_newest_text_is_written_once),
        cmocka_unit_test(a_file_system_that_hangs_keeps_nobody_from_giving),
        cmocka_unit_test(texts_are_whole_whatever_the_timing),
        cmocka_unit_test(a_place_that_is_lost_is_left_alone),
        cmocka_unit_test(a_text_that_did_not_fit_is_told),
    };
    log_setup(LOG_QUIET, false);
    alarm(120); /* who waits for the file system waits for ever */
    sem_init(&rename_begun, 0, 0);
    sem_init(&rename_may_end, 0, 0);
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
