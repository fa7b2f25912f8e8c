/* status_file.c - a slot of one text between two threads, and the file behind it. See
 * status_file.h.
 *
 * The invariant: of the three texts one is the giving side's, one the writing side's, and one lies
 * between; they change hands by exchanging numbers, so each text has one owner at any time.
 * Rejected: a lock around one text, which the writing side could hold while it is put aside; and a
 * queue, since nobody wants to see an old status first.
 */
#include "status_file.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "log.h"

enum { NEWER = 4 }; /* beside the number of a text */

bool status_file_open(struct status_file *file, const struct options *options,
                      struct fault *fault) {
    *file = (struct status_file){.giving = 0, .writing = 1};
    atomic_init(&file->between, 2);
    return replacement_find(&file->place, "--status", options->status, options, fault);
}

void status_file_close(struct status_file *file) {
    replacement_close(&file->place);
}

char *status_file_text(struct status_file *file) {
    return file->text[file->giving].bytes;
}

void status_file_give(struct status_file *file, size_t n_bytes) {
    file->text[file->giving].n_bytes = n_bytes;
    file->giving = atomic_exchange(&file->between, file->giving | NEWER) & ~NEWER;
}

bool status_file_write(struct status_file *file) {
    if (!(atomic_load(&file->between) & NEWER)) return true;
    file->writing = atomic_exchange(&file->between, file->writing) & ~NEWER;
    size_t n_bytes = file->text[file->writing].n_bytes;
    int fd = replacement_begin(&file->place);
    if (fd < 0) return false;
    errno = ENAMETOOLONG; /* of the names in it, when there is no text */
    bool good =
        n_bytes > 0 && write(fd, file->text[file->writing].bytes, n_bytes) == (ssize_t)n_bytes;
    return replacement_end(&file->place, fd, good);
}

void status_file_renew(struct status_file *file) {
    if (file->lost || status_file_write(file)) return;
    char shown[512];
    const char *reason = strerror(errno);
    file->lost = true;
    log_warning("--status %s: %s; it will not be written again",
                log_escape(shown, sizeof shown, file->place.path, strlen(file->place.path)),
                reason);
}
