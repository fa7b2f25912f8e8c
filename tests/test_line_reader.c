/* Lines come out as they went in, from files and pipes, whatever their ends and lengths. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "line_reader.h"
#include "scratch.h"

static const char *put_file(const char *name, const char *text, size_t n_bytes) {
    const char *path = scratch_path(name);
    assert_true(scratch_write(path, text, n_bytes));
    return path;
}

static void expect_line(struct line_reader *reader, int64_t line, const char *text) {
    struct input_line got;
    struct fault fault = {0};
    assert_true(line_reader_next(reader, &got, &fault));
    assert_int_equal(got.line, line);
    assert_int_equal(got.n_bytes, strlen(text));
    assert_memory_equal(got.text, text, got.n_bytes);
}

static void expect_end(struct line_reader *reader) {
    struct input_line got;
    struct fault fault = {0};
    assert_false(line_reader_next(reader, &got, &fault));
    assert_int_equal(fault.kind, FAULT_NONE);
    line_reader_close(reader);
}

static void ends_blanks_and_marks(void **state) {
    (void)state;
    const char text[] = "\xef\xbb\xbf{1}\r\n\n  \t\r\n{2}\n\xef\xbb\xbf{3}\nlast";
    const char *file[] = {put_file("a.jsonl", text, sizeof text - 1)};
    struct line_reader *reader;
    struct fault fault = {0};
    assert_true(line_reader_open(&reader, file, 1, &fault));
    expect_line(reader, 1, "{1}");
    expect_line(reader, 4, "{2}");
    expect_line(reader, 5, "\xef\xbb\xbf{3}");
    expect_line(reader, 6, "last");
    expect_end(reader);
}

static void several_files_are_numbered(void **state) {
    (void)state;
    const char *file[] = {put_file("a.jsonl", "x", 1), put_file("empty", "", 0),
                          put_file("b.TXT", "y\n", 2)};
    struct line_reader *reader;
    struct input_line line;
    struct fault fault = {0};
    assert_true(line_reader_open(&reader, file, 3, &fault));
    assert_true(line_reader_next(reader, &line, &fault));
    assert_int_equal(line.file_number, 1);
    assert_false(line.is_text);
    assert_true(line_reader_next(reader, &line, &fault));
    assert_int_equal(line.file_number, 3);
    assert_int_equal(line.line, 1);
    assert_true(line.is_text);
    assert_string_equal(line.file, file[2]);
    expect_end(reader);
}

/* A line of exactly the limit is read, one byte more is cut there, and the next line is whole. */
static void the_limit_is_exact(void **state) {
    (void)state;
    size_t n_bytes = 2 * (size_t)LINE_MOST_BYTES + 16;
    char *text = malloc(n_bytes);
    memset(text, 'a', n_bytes);
    text[LINE_MOST_BYTES] = '\n';
    text[2 * (size_t)LINE_MOST_BYTES + 2] = '\n';
    const char *file[] = {put_file("long", text, n_bytes)};
    free(text);
    struct line_reader *reader;
    struct input_line line;
    struct fault fault = {0};
    assert_true(line_reader_open(&reader, file, 1, &fault));
    assert_true(line_reader_next(reader, &line, &fault));
    assert_int_equal(line.n_bytes, LINE_MOST_BYTES);
    assert_false(line.too_long);
    assert_true(line_reader_next(reader, &line, &fault));
    assert_int_equal(line.n_bytes, LINE_MOST_BYTES);
    assert_true(line.too_long);
    assert_true(line_reader_next(reader, &line, &fault));
    assert_int_equal(line.line, 3);
    assert_int_equal(line.n_bytes, 13);
    assert_false(line.too_long);
    expect_end(reader);
    unlink(file[0]);
}

static void pipes_need_not_be_waited_for(void **state) {
    (void)state;
    const char *path = scratch_path("pipe");
    assert_int_equal(mkfifo(path, 0600), 0);
    const char *file[] = {path};
    struct line_reader *reader;
    struct input_line line;
    struct fault fault = {0};
    assert_true(line_reader_open(&reader, file, 1, &fault));
    assert_int_equal(line_reader_poll(reader, &line, &fault), LINE_NOT_YET);
    int writer = open(path, O_WRONLY);
    assert_int_equal(line_reader_poll(reader, &line, &fault), LINE_NOT_YET);
    assert_int_equal(write(writer, "ab", 2), 2);
    assert_int_equal(line_reader_poll(reader, &line, &fault), LINE_NOT_YET);
    assert_int_equal(write(writer, "c\nd", 3), 3);
    assert_int_equal(line_reader_poll(reader, &line, &fault), LINE_READ);
    assert_memory_equal(line.text, "abc", 3);
    assert_int_equal(line_reader_poll(reader, &line, &fault), LINE_NOT_YET);
    close(writer);
    expect_line(reader, 2, "d");
    expect_end(reader);
}

static void bad_inputs_are_the_users(void **state) {
    (void)state;
    struct line_reader *reader;
    const char *missing[] = {"/no/such\n.jsonl"}, *is_folder[] = {scratch_folder},
               *twice[] = {"-", "-"};
    struct fault fault = {0};
    assert_false(line_reader_open(&reader, missing, 1, &fault));
    assert_int_equal(fault.kind, FAULT_USER);
    assert_string_equal(fault.text, "cannot read input /no/such\\x0a.jsonl: No such file or "
                                    "directory");
    fault = (struct fault){0};
    assert_false(line_reader_open(&reader, is_folder, 1, &fault));
    assert_non_null(strstr(fault.text, "is a folder"));
    fault = (struct fault){0};
    assert_false(line_reader_open(&reader, twice, 2, &fault));
    assert_non_null(strstr(fault.text, "named 2 times"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ends_blanks_and_marks),    cmocka_unit_test(several_files_are_numbered),
        cmocka_unit_test(the_limit_is_exact),       cmocka_unit_test(pipes_need_not_be_waited_for),
        cmocka_unit_test(bad_inputs_are_the_users),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
