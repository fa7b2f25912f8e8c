/* replacement: the file is whole before and after, what must not be replaced is not, and nothing is
 * left behind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "replacement.h"
#include "scratch.h"

static const struct options none = {.model = "/nowhere/model.gguf"};

static void holds(const char *name, const char *wanted) {
    size_t n_bytes;
    unsigned char *text = scratch_read(scratch_path(name), &n_bytes);
    assert_non_null(text);
    assert_int_equal(n_bytes, strlen(wanted));
    assert_memory_equal(text, wanted, n_bytes);
    free(text);
}

static int n_files(void) {
    DIR *folder = opendir(scratch_folder);
    int n = 0;
    assert_non_null(folder);
    for (struct dirent *entry; (entry = readdir(folder));)
        n += entry->d_name[0] != '.';
    closedir(folder);
    return n;
}

static void put(const struct replacement *file, const char *text, bool good) {
    int fd = replacement_begin(file);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    assert_int_equal(replacement_end(file, fd, good), good);
}

static void files_are_replaced_whole(void **state) {
    (void)state;
    struct replacement file;
    struct fault fault = {0};
    int n_before = n_files();
    assert_true(replacement_find(&file, "--status", scratch_path("status"), &none, &fault));
    assert_int_equal(n_files(), n_before); /* finding makes nothing */
    put(&file, "one", true);
    holds("status", "one");
    int fd = replacement_begin(&file);
    assert_int_equal(write(fd, "tw", 2), 2);
    holds("status", "one"); /* until it is whole */
    assert_int_equal(write(fd, "o", 1), 1);
    assert_true(replacement_end(&file, fd, true));
    holds("status", "two");
    put(&file, "three", false); /* what could not be written whole is taken away */
    holds("status", "two");
    assert_int_equal(n_files(), n_before + 1);
    replacement_close(&file);
    replacement_close(&file);
}

static void leftovers_and_links_do_not_matter(void **state) {
    (void)state;
    struct replacement file;
    struct fault fault = {0};
    struct stat status;
    assert_true(scratch_write(scratch_path("elsewhere"), "kept", 4));
    assert_true(scratch_write(scratch_path("target"), "old", 3));
    assert_int_equal(symlink("target", scratch_path("link")), 0);
    assert_true(replacement_find(&file, "--status", scratch_path("link"), &none, &fault));
    /* somebody laid a link where the temporary file is to be */
    assert_int_equal(symlink("elsewhere", file.temporary), 0);
    put(&file, "new", true);
    holds("elsewhere", "kept");
    holds("target", "new"); /* the link is followed, not replaced */
    assert_int_equal(lstat(scratch_path("link"), &status), 0);
    assert_true(S_ISLNK(status.st_mode));
    replacement_close(&file);
}

static void is_refused(const struct options *options, const char *option, const char *name,
                       const char *reason) {
    struct replacement file = {0};
    struct fault fault = {0};
    assert_false(replacement_find(&file, option, name, options, &fault));
    assert_int_equal(fault.kind, FAULT_USER);
    if (!strstr(fault.text, reason)) fail_msg("%s", fault.text);
    assert_null(file.path);
}

static void what_is_needed_is_not_replaced(void **state) {
    (void)state;
    char input[256], twin[300];
    snprintf(input, sizeof input, "%s", scratch_path("input"));
    snprintf(twin, sizeof twin, "./%s", input);
    assert_true(scratch_write(input, "{}", 2));
    const char *inputs[] = {"-", input};
    struct options options = {.model = input};
    is_refused(&options, "--status", twin, "same file as the model");
    options = (struct options){.model = "m", .input = inputs, .n_inputs = 2};
    is_refused(&options, "--timeline", twin, "same file as the input");
    options = (struct options){.model = "m", .output = input};
    is_refused(&options, "--status", twin, "same file as the output");
    options = (struct options){.model = "m", .errors = input};
    is_refused(&options, "--status", twin, "same file as the file of errors");
    options = (struct options){.model = "m", .output = "not-yet", .status = "s", .timeline = "s"};
    is_refused(&options, "--status", "not-yet", "same file as the output");
    is_refused(&options, "--timeline", "s", "same file as the status file");
    is_refused(&options, "--status", "s", "same file as the timeline");
    holds("input", "{}");
}

static void places_that_cannot_be_are_refused(void **state) {
    (void)state;
    is_refused(&none, "--status", "-", "not a file");
    is_refused(&none, "--status", "/dev/null", "not a file");
    is_refused(&none, "--status", scratch_folder, "directory");
    is_refused(&none, "--status", "no-such-folder/status", "No such file");
    struct stat status;
    assert_int_equal(stat("/dev/null", &status), 0);
    assert_true(S_ISCHR(status.st_mode));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_are_replaced_whole),
        cmocka_unit_test(leftovers_and_links_do_not_matter),
        cmocka_unit_test(what_is_needed_is_not_replaced),
        cmocka_unit_test(places_that_cannot_be_are_refused),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
