/* output.c - an append-only file of lines. See output.h.
 *
 * Owns the descriptor and how much of the file is whole lines. The invariant: between calls the
 * file holds n_bytes, the last of them a newline, or, after a crash, at most one torn line more.
 * What a line says is left to the visitor. Rejected: stdio, which splits a line over several writes
 * at its buffer's pleasure, and a file renamed into place at the end, which a kill would lose.
 */
#include "output.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "log.h"

enum { CHUNK_BYTES = 1 << 20 };

bool output_fault(struct fault *fault, const char *what, const char *name) {
    static const int users[] = {EACCES, EPERM, ENOENT, ENOTDIR,      EISDIR,
                                EROFS,  ELOOP, EEXIST, ENAMETOOLONG, ETXTBSY};
    int error = errno;
    char shown[512];
    log_escape(shown, sizeof shown, name, strlen(name));
    for (size_t row = 0; row < sizeof users / sizeof *users; row++) {
        if (error == users[row])
            return fault_user(fault, "cannot %s %s: %s", what, shown, strerror(error));
    }
    if (!fault->kind) fault->no_room = error == ENOSPC || error == EDQUOT;
    return fault_world(fault, "cannot %s %s: %s", what, shown, strerror(error));
}

static char *copy(const char *text) {
    char *made = check_alloc(strlen(text) + 1, 1);
    return strcpy(made, text);
}

/* ---- opening ---- */

/* What a path names, and the folder that holds it. */
static const char *split(const char *path, char folder[PATH_MAX]) {
    const char *slash = strrchr(path, '/');
    int n_bytes = slash ? (int)(slash - path) + 1 : 1;
    snprintf(folder, PATH_MAX, "%.*s", n_bytes, slash ? path : ".");
    return slash ? slash + 1 : path;
}

bool output_check_folder(const char *path, const char *name, struct fault *fault) {
    char folder[PATH_MAX];
    split(path, folder);
    return access(folder, W_OK | X_OK) == 0 || output_fault(fault, "write to", name);
}

/* The path of a file that is to be made, through no link but its folder's. */
static bool find_place(struct output *output, struct fault *fault) {
    char folder[PATH_MAX], resolved[PATH_MAX], shown[512];
    struct stat status;
    const char *name = output->name, *base = split(name, folder);
    if (!*base) errno = EISDIR;
    if (!*base || !realpath(folder, resolved)) return output_fault(fault, "write to", name);
    size_t n_path = strlen(resolved) + strlen(base) + 2;
    output->path = check_alloc(n_path, 1);
    snprintf(output->path, n_path, "%s/%s", resolved, base);
    if (lstat(output->path, &status) == 0 && S_ISLNK(status.st_mode))
        return fault_user(fault, "cannot write to %s: it is a link to nothing",
                          log_escape(shown, sizeof shown, name, strlen(name)));
    return output_check_folder(output->path, name, fault);
}

bool output_find(struct output *output, const char *name, struct fault *fault) {
    *output = (struct output){.name = name, .fd = -1};
    if (strcmp(name, "-") == 0) {
        output->exists = output->is_stream = true;
        output->path = copy("stdout");
        if (fstat(STDOUT_FILENO, &output->status) != 0)
            return output_fault(fault, "write to", "stdout");
        return true;
    }
    if (stat(name, &output->status) == 0) {
        output->exists = true;
        output->is_stream = !S_ISREG(output->status.st_mode);
        if (S_ISDIR(output->status.st_mode)) errno = EISDIR;
        char resolved[PATH_MAX];
        if (S_ISDIR(output->status.st_mode) || !realpath(name, resolved))
            return output_fault(fault, "write to", name);
        output->path = copy(resolved);
        return true;
    }
    return errno == ENOENT ? find_place(output, fault) : output_fault(fault, "write to", name);
}

static const int FILE_FLAGS = O_RDWR | O_APPEND | O_CLOEXEC;

bool output_look(struct output *output, struct fault *fault) {
    if (output->is_stream) {
        bool may = strcmp(output->name, "-") == 0 || access(output->path, W_OK) == 0;
        return may || output_fault(fault, "write to", output->name);
    }
    output->fd = open(output->path, FILE_FLAGS);
    if (output->fd < 0) return errno == ENOENT || output_fault(fault, "write to", output->name);
    if (fstat(output->fd, &output->status) != 0)
        return output_fault(fault, "write to", output->name);
    output->n_bytes = output->status.st_size;
    return true;
}

static bool open_stream(struct output *output, struct fault *fault) {
    bool is_stdout = strcmp(output->name, "-") == 0;
    output->fd = is_stdout ? STDOUT_FILENO : open(output->path, O_WRONLY | O_CLOEXEC);
    return output->fd >= 0 || output_fault(fault, "write to", output->name);
}

/* Made is what this call made, by O_EXCL: a file that came since output_find is somebody else's. */
bool output_open(struct output *output, bool must_be_new, struct fault *fault) {
    if (output->is_stream) return open_stream(output, fault);
    if (!must_be_new && !output_look(output, fault)) return false;
    if (output->fd >= 0) return true;
    output->fd = open(output->path, FILE_FLAGS | O_CREAT | O_EXCL, 0666);
    output->made = output->fd >= 0;
    if (!output->made || fstat(output->fd, &output->status) != 0)
        return output_fault(fault, "write to", output->name);
    return true;
}

/* ---- what an earlier run left ---- */

struct scan {
    char *text; /* [0, n_held) was read and is not yet a line */
    size_t n_held, capacity, n_seen;
    int64_t place; /* in the file, of text[0] */
    struct output_line line;
    int64_t bad_line; /* the first bad line since the last good one, or 0 */
};

/* The next line with its end in the file. False at the end of whole lines. */
static bool scan_next(struct output *output, struct scan *scan, struct fault *fault) {
    if (scan->line.number > 0) {
        size_t n_given = scan->line.n_bytes + 1;
        scan->place += (int64_t)n_given;
        scan->n_held -= n_given;
        memmove(scan->text, scan->text + n_given, scan->n_held);
    }
    scan->n_seen = 0;
    for (;;) {
        char *newline = scan->n_held > scan->n_seen
                            ? memchr(scan->text + scan->n_seen, '\n', scan->n_held - scan->n_seen)
                            : NULL;
        if (newline) {
            scan->line.text = scan->text;
            scan->line.n_bytes = (size_t)(newline - scan->text);
            scan->line.number++;
            return true;
        }
        scan->n_seen = scan->n_held;
        if (scan->capacity - scan->n_held < CHUNK_BYTES) {
            size_t capacity = 2 * scan->capacity + 2 * (size_t)CHUNK_BYTES;
            char *larger = check_alloc(capacity, 1);
            if (scan->n_held) memcpy(larger, scan->text, scan->n_held);
            free(scan->text);
            scan->text = larger;
            scan->capacity = capacity;
        }
        ssize_t n_bytes = pread(output->fd, scan->text + scan->n_held, CHUNK_BYTES,
                                scan->place + (int64_t)scan->n_held);
        if (n_bytes < 0 && errno == EINTR) continue;
        if (n_bytes < 0) return output_fault(fault, "read", output->name);
        if (n_bytes == 0) return false;
        scan->n_held += (size_t)n_bytes;
    }
}

bool output_scan(struct output *output, output_visit *visit, void *context, struct fault *fault) {
    struct scan scan = {0};
    struct fault world = {0};
    output->n_bytes = 0;
    while (output->fd >= 0 && !fault->kind && scan_next(output, &scan, &world)) {
        if (!visit(context, &scan.line)) {
            if (!scan.bad_line) scan.bad_line = scan.line.number;
        } else if (scan.bad_line) {
            char shown[512];
            fault_user(fault,
                       "%s:%lld: not an answer of lamina, though answers follow: --resume cannot "
                       "tell what is done",
                       log_escape(shown, sizeof shown, output->name, strlen(output->name)),
                       (long long)scan.bad_line);
        } else {
            output->n_bytes = scan.place + (int64_t)scan.line.n_bytes + 1;
        }
    }
    free(scan.text);
    if (world.kind && !fault->kind) *fault = world;
    return !fault->kind;
}

bool output_cut(struct output *output, struct fault *fault) {
    if (output->is_stream || output->n_bytes == output->status.st_size) return true;
    char shown[512];
    log_note("%s: cut off %lld bytes behind the last whole answer",
             log_escape(shown, sizeof shown, output->name, strlen(output->name)),
             (long long)(output->status.st_size - output->n_bytes));
    if (ftruncate(output->fd, output->n_bytes) != 0 || fsync(output->fd) != 0)
        return output_fault(fault, "repair", output->name);
    output->status.st_size = output->n_bytes;
    return true;
}

static bool copy_good(struct output *output, struct output *kept, output_visit *visit,
                      void *context, struct fault *fault) {
    struct scan scan = {0};
    struct fault failed = {0};
    while (!failed.kind && scan_next(output, &scan, &failed)) {
        /* A line is given without its newline, which stands right behind it. */
        if (visit(context, &scan.line))
            output_write(kept, scan.line.text, scan.line.n_bytes + 1, &failed);
    }
    free(scan.text);
    if (failed.kind && !fault->kind) *fault = failed;
    return !failed.kind;
}

bool output_filter(struct output *output, output_visit *visit, void *context, struct fault *fault) {
    size_t n_path = strlen(output->path) + 8;
    struct output kept = {.name = output->name, .path = check_alloc(n_path, 1), .fd = -1};
    snprintf(kept.path, n_path, "%s.tmp", output->path);
    unlink(kept.path); /* a killed run's; the lock says that none is at it now */
    kept.fd = open(kept.path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_APPEND | O_CLOEXEC,
                   output->status.st_mode & 0777);
    bool done = kept.fd >= 0 && fchmod(kept.fd, output->status.st_mode & 0777) == 0;
    if (!done) output_fault(fault, "rewrite", output->name);
    done = done && copy_good(output, &kept, visit, context, fault) && output_sync(&kept, fault);
    if (done && rename(kept.path, output->path) != 0)
        done = output_fault(fault, "replace", output->name);
    if (done) {
        close(output->fd);
        output->fd = kept.fd;
        output->n_bytes = output->status.st_size = kept.n_bytes;
        done = output_sync_folder(output->path, fault);
    } else if (kept.fd >= 0) {
        unlink(kept.path);
        close(kept.fd);
    }
    free(kept.path);
    return done;
}

/* ---- appending ---- */

bool output_write(struct output *output, const char *text, size_t n_bytes, struct fault *fault) {
    size_t n_written = 0;
    while (n_written < n_bytes) {
        ssize_t n_more = write(output->fd, text + n_written, n_bytes - n_written);
        if (n_more >= 0) {
            n_written += (size_t)n_more;
        } else if (errno == EAGAIN) {
            struct pollfd room = {.fd = output->fd, .events = POLLOUT};
            poll(&room, 1, -1);
        } else if (errno != EINTR) {
            int error = errno;
            char shown[512];
            log_escape(shown, sizeof shown, output->name, strlen(output->name));
            if (!output->is_stream && ftruncate(output->fd, output->n_bytes) != 0)
                log_warning("%s may end with a torn line; --resume repairs it", shown);
            return fault_world(fault, "cannot write to %s: %s%s",
                               strcmp(shown, "-") == 0 ? "stdout" : shown, strerror(error),
                               output->is_stream ? "" : "; the answers in it are whole");
        }
    }
    output->n_bytes += (int64_t)n_bytes;
    output->dirty = true;
    return true;
}

bool output_sync(struct output *output, struct fault *fault) {
    if (!output->dirty || output->is_stream) return true;
    output->dirty = false;
    return fsync(output->fd) == 0 || output_fault(fault, "make durable", output->name);
}

bool output_sync_folder(const char *path, struct fault *fault) {
    char folder[PATH_MAX];
    split(path, folder);
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool synced = fd >= 0 && fsync(fd) == 0;
    /* Some file systems cannot sync a folder; then there is nothing more to do. */
    if (!synced && fd >= 0 && (errno == EINVAL || errno == EBADF)) synced = true;
    if (!synced) output_fault(fault, "make durable the folder of", path);
    if (fd >= 0) close(fd);
    return synced;
}

void output_discard(struct output *output) {
    if (output->made) unlink(output->path);
    output_close(output);
}

void output_close(struct output *output) {
    if (output->fd > STDOUT_FILENO) close(output->fd);
    free(output->path);
    *output = (struct output){.fd = -1};
}
