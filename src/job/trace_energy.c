/* trace_energy.c - what the processors of this host use, where the kernel lets it be read, and what
 * a GPU uses, where its driver does.
 *
 * /sys/class/powercap holds a zone a package (RAPL, of Intel and AMD alike): a counter of
 * microjoules that begins again at a range of its own. Only root may read it on most systems. The
 * sub-zones (cores, memory) are left out: the package counts what is in them. The file system is
 * read by the journal's thread alone, never by decode.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "options.h"
#include "trace_parts.h"

static bool read_text(const char *folder, const char *zone, const char *name, char *text,
                      size_t size) {
    char path[1024];
    snprintf(path, sizeof path, "%s/%s/%s", folder, zone, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n_bytes = fd >= 0 ? read(fd, text, size - 1) : -1;
    if (fd >= 0) close(fd);
    text[n_bytes > 0 ? n_bytes : 0] = 0;
    text[strcspn(text, "\n")] = 0;
    return n_bytes > 0;
}

/* -1: cannot be read. */
static int64_t read_counter(int fd) {
    char text[32];
    ssize_t n_bytes = pread(fd, text, sizeof text - 1, 0);
    int64_t number;
    if (n_bytes <= 0) return -1;
    text[n_bytes] = 0;
    text[strcspn(text, "\n")] = 0;
    return parse_int(text, 0, INT64_MAX, &number) ? number : -1;
}

/* A zone that is a package, whose counter can be read. False with errno 0 when it is none. */
static bool open_package(struct energy *energy, const char *folder, const char *zone) {
    char path[1024], name[64], range[32];
    int64_t range_uj;
    errno = 0;
    if (!read_text(folder, zone, "name", name, sizeof name) || strncmp(name, "package-", 8) != 0) {
        errno = 0;
        return false;
    }
    if (!read_text(folder, zone, "max_energy_range_uj", range, sizeof range) ||
        !parse_int(range, 1, INT64_MAX, &range_uj))
        range_uj = 0;
    snprintf(path, sizeof path, "%s/%s/energy_uj", folder, zone);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int64_t now_uj = fd >= 0 ? read_counter(fd) : -1;
    if (now_uj < 0) {
        int error = errno ? errno : EIO;
        if (fd >= 0) close(fd);
        errno = error;
        return false;
    }
    energy->fd[energy->n] = fd;
    energy->range_uj[energy->n] = range_uj;
    energy->last_uj[energy->n++] = now_uj;
    return true;
}

void energy_open_device(struct energy *energy, const struct trace_meter *meter, char *source,
                        size_t size) {
    size_t at = strlen(source);
    int64_t now_uj = meter->read_uj(meter->index);
    snprintf(source + at, size - at, "; %s", now_uj < 0 ? "GPU: cannot be read" : "GPU");
    if (now_uj < 0 || energy->n == TRACE_PACKAGES) return;
    energy->device = *meter;
    energy->fd[energy->n] = -1;
    energy->last_uj[energy->n++] = now_uj;
}

void energy_open(struct energy *energy, const char *root, char *source, size_t size) {
    char folder[512];
    int error = 0;
    snprintf(folder, sizeof folder, "%s/sys/class/powercap", root);
    struct dirent **zone = NULL;
    int n_zones = scandir(folder, &zone, NULL, alphasort);
    int n = snprintf(source, size, "RAPL:");
    for (int at = 0; at < n_zones; at++) {
        if (zone[at]->d_name[0] != '.' && energy->n < TRACE_PACKAGES) {
            if (open_package(energy, folder, zone[at]->d_name)) {
                if ((size_t)n < size)
                    n += snprintf(source + n, size - (size_t)n, " %.32s", zone[at]->d_name);
            } else if (errno) {
                error = errno;
            }
        }
        free(zone[at]);
    }
    free(zone);
    if (energy->n > 0) return;
    if (error) {
        snprintf(source, size, "none: counters in /sys/class/powercap: %s", strerror(error));
    } else {
        snprintf(source, size, "none: /sys/class/powercap has no package counter");
    }
}

void energy_read(struct energy *energy) {
    for (int package = 0; package < energy->n; package++) {
        int fd = energy->fd[package];
        int64_t now_uj = fd < 0 ? energy->device.read_uj(energy->device.index) : read_counter(fd);
        if (now_uj < 0) continue;
        int64_t used_uj = now_uj - energy->last_uj[package];
        if (used_uj < 0) used_uj += energy->range_uj[package]; /* it began again */
        energy->sum_uj[package] += used_uj > 0 ? used_uj : 0;
        energy->last_uj[package] = now_uj;
    }
}

void energy_close(struct energy *energy) {
    for (int package = 0; package < energy->n; package++)
        if (energy->fd[package] >= 0) close(energy->fd[package]);
    *energy = (struct energy){0};
}
