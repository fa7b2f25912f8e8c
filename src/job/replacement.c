/* replacement.c - files replaced as a whole. See replacement.h.
 *
 * The temporary file lies in the same folder (a rename does not cross file systems), is made new
 * and never through a link, so that nobody who may write to that folder can have another file
 * overwritten. Rejected: writing in place when the target is a pipe or a device; renaming onto
 * those would replace them.
 */
#include "replacement.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "log.h"
#include "output.h"

/* A file the run reads or writes for another purpose. */
static bool check_other(const struct output *place, const char *option, const char *other,
                        const char *what, struct fault *fault) {
    struct stat status;
    if (!other || strcmp(other, "-") == 0) return true;
    bool same = strcmp(other, place->name) == 0;
    if (place->exists && stat(other, &status) == 0)
        same = same ||
               (status.st_dev == place->status.st_dev && status.st_ino == place->status.st_ino);
    char shown[512];
    return !same ||
           fault_user(fault, "%s %s is the same file as the %s: name another", option,
                      log_escape(shown, sizeof shown, place->name, strlen(place->name)), what);
}

static bool check_kind(const struct output *place, const char *option,
                       const struct options *options, struct fault *fault) {
    char shown[512];
    log_escape(shown, sizeof shown, place->name, strlen(place->name));
    if (place->is_stream)
        return fault_user(fault, "%s %s is not a file: it must be one that can be replaced", option,
                          shown);
    for (int number = 0; number < options->n_inputs; number++) {
        if (!check_other(place, option, options->input[number], "input", fault)) return false;
    }
    const char *read = options->command == COMMAND_INSPECT ? "trace" : "model";
    const struct {
        const char *option, *name, *what;
    } others[] = {
        {"--model", options->model, read},
        {"--output", options->output, "output"},
        {"--errors", options->errors, "file of errors"},
        {"--status", options->status, "status file"},
        {"--timeline", options->timeline, "timeline"},
        {"--trace", options->trace, "trace"},
    };
    for (size_t at = 0; at < sizeof others / sizeof *others; at++) {
        if (strcmp(option, others[at].option) != 0 &&
            !check_other(place, option, others[at].name, others[at].what, fault))
            return false;
    }
    return true;
}

bool replacement_find(struct replacement *replacement, const char *option, const char *name,
                      const struct options *options, struct fault *fault) {
    struct output place;
    bool good = output_find(&place, name, fault) && check_kind(&place, option, options, fault) &&
                output_check_folder(place.path, name, fault);
    if (good) {
        size_t size = strlen(place.path) + 32;
        *replacement = (struct replacement){
            .option = option, .path = place.path, .temporary = check_alloc(size, 1)};
        place.path = NULL; /* ours now */
        snprintf(replacement->temporary, size, "%s.%ld.tmp", replacement->path, (long)getpid());
    }
    output_close(&place);
    return good;
}

void replacement_close(struct replacement *replacement) {
    free(replacement->path);
    free(replacement->temporary);
    *replacement = (struct replacement){0};
}

int replacement_begin(const struct replacement *replacement) {
    int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
    int fd = open(replacement->temporary, flags, 0666);
    if (fd >= 0 || errno != EEXIST) return fd;
    /* left by a process of our number that was killed */
    return unlink(replacement->temporary) == 0 ? open(replacement->temporary, flags, 0666) : -1;
}

bool replacement_end(const struct replacement *replacement, int fd, bool good) {
    int error = errno;
    if (fd >= 0 && close(fd) != 0 && good) {
        good = false;
        error = errno;
    }
    if (good && rename(replacement->temporary, replacement->path) == 0) return true;
    if (good) error = errno;
    unlink(replacement->temporary);
    errno = error;
    return false;
}
