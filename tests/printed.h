/* printed.h - what `lamina inspect` prints of a file, and with which exit code. */
#ifndef LAMINA_PRINTED_H
#define LAMINA_PRINTED_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "inspect.h"
#include "scratch.h"

/* Run the command with stdout going to `target`; returns its exit code. */
static inline int printed_run(const char *path, const char *target) {
    struct options options = {.command = COMMAND_INSPECT, .model = path};
    fflush(stdout);
    int kept = dup(STDOUT_FILENO);
    assert_true(kept >= 0);
    FILE *file = fopen(target, "w");
    assert_non_null(file);
    assert_true(dup2(fileno(file), STDOUT_FILENO) >= 0);
    int code = inspect_run(&options);
    fflush(stdout);
    clearerr(stdout);
    assert_true(dup2(kept, STDOUT_FILENO) >= 0);
    close(kept);
    fclose(file);
    return code;
}

/* What it prints, to be freed; no character of it drives a terminal. */
static inline char *printed(const char *path, int code) {
    size_t n_printed;
    assert_int_equal(printed_run(path, scratch_path("printed")), code);
    char *text = (char *)scratch_read(scratch_path("printed"), &n_printed);
    assert_non_null(text);
    text[n_printed] = 0; /* scratch_read leaves room */
    for (size_t at = 0; at < n_printed; at++)
        assert_true(text[at] == '\n' || (unsigned char)text[at] >= 0x20);
    return text;
}

/* The first line from `printed` on that begins with `name`, its runs of spaces made one. */
static inline void printed_line_is(const char *text, const char *name, const char *wanted) {
    char line[512] = "";
    size_t n_line = 0;
    const char *at = text;
    while (at && strncmp(at, name, strlen(name)) != 0) {
        at = strchr(at, '\n');
        if (at) at++;
    }
    if (!at) fail_msg("no line begins with '%s'", name);
    for (; *at && *at != '\n' && n_line + 1 < sizeof line; at++) {
        if (*at != ' ' || (n_line > 0 && line[n_line - 1] != ' ')) line[n_line++] = *at;
    }
    assert_string_equal(line, wanted);
}

#endif
