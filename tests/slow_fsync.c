/* slow_fsync.c - a disk that takes its time, for LD_PRELOAD, and a witness of who waits for it.
 *
 * SLOW_FSYNC_MS: every fsync, fdatasync and rename takes that much longer. SLOW_FSYNC_NAME: the end
 * of a file's name; what is done to descriptors of such files is counted by thread, and written at
 * the end of the process to SLOW_FSYNC_REPORT, one line a pair of a call and a thread:
 *
 *     CALL THREAD NUMBER        write main 0, fsync "lamina desk" 3, ...
 *
 * THREAD is main or the thread's name. CALL "late-fsync" and "late-rename" are those of any file
 * behind the first write to the named one: while a job runs, its main thread should have none.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#include "preload.h"

enum call { CALL_WRITE, CALL_FSYNC, CALL_LATE_FSYNC, CALL_LATE_RENAME, CALLS };
enum { MOST_THREADS = 16 };

static struct {
    pthread_mutex_t mutex;
    bool written;
    struct thread {
        pid_t id;
        char name[17];
        long n[CALLS];
    } thread[MOST_THREADS];
    int n_threads;
} seen = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static bool is_named(int fd) {
    const char *name = getenv("SLOW_FSYNC_NAME");
    char link[64], path[4096];
    if (!name) return false;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n_path = readlink(link, path, sizeof path), n_name = (ssize_t)strlen(name);
    return n_path >= n_name && memcmp(path + n_path - n_name, name, (size_t)n_name) == 0;
}

static void count(enum call call) {
    pid_t id = gettid();
    int at = 0;
    while (at < seen.n_threads && seen.thread[at].id != id)
        at++;
    if (at == MOST_THREADS) return;
    if (at == seen.n_threads) {
        seen.n_threads++;
        seen.thread[at].id = id;
        prctl(PR_GET_NAME, seen.thread[at].name);
        if (id == getpid()) strcpy(seen.thread[at].name, "main");
    }
    seen.thread[at].n[call]++;
}

static void count_write(int fd) {
    if (!is_named(fd)) return;
    pthread_mutex_lock(&seen.mutex);
    seen.written = true;
    count(CALL_WRITE);
    pthread_mutex_unlock(&seen.mutex);
}

static void take_time(void) {
    const char *ms = getenv("SLOW_FSYNC_MS");
    long wait_ms = ms ? atol(ms) : 0;
    struct timespec wait = {wait_ms / 1000, wait_ms % 1000 * 1000000};
    if (wait_ms > 0) nanosleep(&wait, NULL);
}

static void count_sync(int fd) {
    bool named = is_named(fd);
    pthread_mutex_lock(&seen.mutex);
    if (named) count(CALL_FSYNC);
    if (seen.written) count(CALL_LATE_FSYNC);
    pthread_mutex_unlock(&seen.mutex);
    take_time();
}

static void count_rename(void) {
    pthread_mutex_lock(&seen.mutex);
    if (seen.written) count(CALL_LATE_RENAME);
    pthread_mutex_unlock(&seen.mutex);
    take_time();
}

int fsync(int fd) {
    REAL(fsync);
    count_sync(fd);
    return real.function(fd);
}

int fdatasync(int fd) {
    REAL(fdatasync);
    count_sync(fd);
    return real.function(fd);
}

int rename(const char *old, const char *new) {
    REAL(rename);
    count_rename();
    return real.function(old, new);
}

ssize_t write(int fd, const void *bytes, size_t n_bytes) {
    REAL(write);
    count_write(fd);
    return real.function(fd, bytes, n_bytes);
}

ssize_t pwrite(int fd, const void *bytes, size_t n_bytes, off_t offset) {
    REAL(pwrite);
    count_write(fd);
    return real.function(fd, bytes, n_bytes, offset);
}

__attribute__((destructor)) static void report(void) {
    static const char *const name[CALLS] = {"write", "fsync", "late-fsync", "late-rename"};
    const char *path = getenv("SLOW_FSYNC_REPORT");
    FILE *file = path && seen.written ? fopen(path, "w") : NULL;
    for (int at = 0; file && at < seen.n_threads; at++) {
        for (int call = 0; call < CALLS; call++)
            fprintf(file, "%s %s %ld\n", name[call], seen.thread[at].name, seen.thread[at].n[call]);
    }
    if (file) fclose(file);
}
