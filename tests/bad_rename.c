/* bad_rename.c - a disk on which taking a place goes wrong, for LD_PRELOAD.
 *
 * The environment says what. BAD_RENAME_SYNC=N: from the N-th rename onto manifest.json on, the
 * sync of the folder that follows one fails, so the new file is in place and nobody knows for how
 * long. BAD_RENAME_LOST=N: from the N-th on, such a rename is done and said to have failed, as by a
 * server whose answer was lost. BAD_RENAME_KILL=N: the process is killed before the N-th rename
 * onto
 * ...-progress.h5. BAD_RENAME_STALL=S: every rename onto ...-progress.h5 takes S seconds.
 */
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "preload.h"

static atomic_int n_manifests, n_progresses;
static atomic_bool sync_fails;

static bool ends_with(const char *path, const char *end) {
    size_t n_path = strlen(path), n_end = strlen(end);
    return n_path >= n_end && strcmp(path + n_path - n_end, end) == 0;
}

/* The number that a variable holds; 0 without it. */
static int number_of(const char *name) {
    const char *text = getenv(name);
    return text ? atoi(text) : 0;
}

static bool is_reached(const char *name, int n) {
    int first = number_of(name);
    return first > 0 && n >= first;
}

int rename(const char *old, const char *new) {
    REAL(rename);
    if (ends_with(new, "-progress.h5")) {
        if (is_reached("BAD_RENAME_KILL", ++n_progresses)) raise(SIGKILL);
        nanosleep(&(struct timespec){.tv_sec = number_of("BAD_RENAME_STALL")}, NULL);
    }
    int result = real.function(old, new);
    if (result != 0 || !ends_with(new, "/manifest.json")) return result;
    n_manifests++;
    if (is_reached("BAD_RENAME_SYNC", n_manifests)) sync_fails = true;
    if (!is_reached("BAD_RENAME_LOST", n_manifests)) return result;
    errno = EIO;
    return -1;
}

int fsync(int fd) {
    REAL(fsync);
    struct stat status;
    if (sync_fails && fstat(fd, &status) == 0 && S_ISDIR(status.st_mode)) {
        sync_fails = false;
        errno = EIO;
        return -1;
    }
    return real.function(fd);
}
