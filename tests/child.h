/* child.h - calls that are to end the process, made in a child. */
#ifndef LAMINA_CHILD_H
#define LAMINA_CHILD_H

#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

/* The exit code of a child that makes the call, 0 when the call returns, -1 when a signal ended it;
 * what it said on stderr in text[size]. */
static inline int child_code(void (*call)(const void *argument), const void *argument, char *text,
                             size_t size) {
    int talk[2], status = 0;
    if (pipe(talk) != 0) abort();
    pid_t child = fork();
    if (child == 0) {
        dup2(talk[1], STDERR_FILENO);
        call(argument);
        _exit(0);
    }
    close(talk[1]);
    size_t n = 0;
    for (ssize_t got = 1; got > 0 && n + 1 < size; n += (size_t)got) {
        got = read(talk[0], text + n, size - 1 - n);
        if (got < 0) got = 0;
    }
    text[n] = 0;
    close(talk[0]);
    if (waitpid(child, &status, 0) != child) abort();
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

#endif
