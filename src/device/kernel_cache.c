/* kernel_cache.c - choices of kernels in a file. See kernel_cache.h.
 *
 *   bytes 0-7      "LAMINAKC"
 *   8-11           the format, 1
 *   12-15          n, the number of choices
 *   16-255         the key, zeros behind it
 *   256-           n records of 120 bytes: shape, choice
 *   then           XXH3_64bits of all before
 *
 * all little-endian, as the processors are that this runs on. The name is a hash of the key, so
 * that machines with other GPUs can share a home. A file is written beside its place, under a name
 * that nobody else takes, and renamed: processes that write at once leave the file of one of them,
 * whole. Each adds what it finds there first, so that little is lost. Rejected: a lock, which on
 * network file systems may wait for ever; a database, for what is at most half a megabyte.
 *
 * A library may trust what it is given to describe a kernel. So a file counts only if its owner is
 * whoever runs this: a checksum tells damage, not malice.
 */
#include "kernel_cache.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "check.h"
#include "device.h"
#include "log.h"
#include "uuid.h"

static const char mark[8] = {'L', 'A', 'M', 'I', 'N', 'A', 'K', 'C'};
enum { FORMAT = 1 };

struct head {
    char mark[8];
    uint32_t format, n;
    char key[KERNEL_KEY_BYTES];
};
struct record {
    struct kernel_shape shape;
    struct kernel_choice choice;
};
_Static_assert(sizeof(struct head) == 256 && sizeof(struct record) == 120, "as in the file");

enum { MOST_BYTES = sizeof(struct head) + KERNEL_MOST * sizeof(struct record) + sizeof(uint64_t) };

struct kernel_cache {
    char *folder, *path;
    char key[KERNEL_KEY_BYTES]; /* zeros behind it */
    bool changed;
    int n;
    struct record *record; /* (KERNEL_MOST) */
    unsigned char *bytes;  /* (MOST_BYTES) a file on its way in or out */
};

/* ---- limits -----------------------------------------------------------------------------------
 */

static bool is_within(int64_t number, int64_t least, int64_t most) {
    return number >= least && number <= most;
}

static bool is_sound(const struct record *record) {
    const struct kernel_shape *shape = &record->shape;
    const struct kernel_choice *choice = &record->choice;
    return shape->n_rows >= 1 && shape->n >= 1 && shape->k >= 1 && shape->x_stride >= shape->k &&
           shape->weight_stride >= shape->k && shape->out_stride >= shape->n &&
           is_within(shape->x, 0, ELEMENT_BF16) && is_within(shape->weight, 0, ELEMENT_BF16) &&
           is_within(shape->out, 0, ELEMENT_BF16) && is_within(shape->epilogue, 0, 255) &&
           is_within(choice->kind, 0, KERNEL_KINDS - 1) &&
           is_within(choice->variant, 0,
                     choice->kind == KERNEL_LIBRARY ? 0 : KERNEL_MOST_VARIANT) &&
           is_within(choice->workspace_bytes, 0, UINT32_MAX);
}

/* ---- reading ----------------------------------------------------------------------------------
 */

/* All of a file into cache->bytes; how many, or 0 with *why. */
static size_t read_bytes(struct kernel_cache *cache, int fd, const char **why) {
    struct stat status;
    *why = "it cannot be read";
    if (fstat(fd, &status) != 0) return 0;
    *why = "it is no file";
    if (!S_ISREG(status.st_mode)) return 0;
    *why = "it belongs to another user";
    if (status.st_uid != geteuid()) return 0;
    *why = "it is not as long as such files are";
    if (!is_within(status.st_size, sizeof(struct head) + sizeof(uint64_t), MOST_BYTES)) return 0;
    size_t n_bytes = (size_t)status.st_size, n_read = 0;
    for (ssize_t n = 1; n > 0 && n_read<n_bytes; n_read += n> 0 ? (size_t)n : 0)
        n = read(fd, cache->bytes + n_read, n_bytes - n_read);
    *why = "it cannot be read";
    return n_read == n_bytes ? n_bytes : 0;
}

/* NULL, or what is wrong with the file in cache->bytes. */
static const char *find_damage(const struct kernel_cache *cache, size_t n_bytes) {
    struct head head;
    uint64_t sum;
    size_t end = n_bytes - sizeof sum;
    memcpy(&head, cache->bytes, sizeof head);
    memcpy(&sum, cache->bytes + end, sizeof sum);
    if (memcmp(head.mark, mark, sizeof mark) != 0) return "it is another kind of file";
    if (head.format != FORMAT) return "it is of another version";
    if (head.n > KERNEL_MOST || end != sizeof head + head.n * sizeof(struct record))
        return "it is not as long as it says";
    if (XXH3_64bits(cache->bytes, end) != sum) return "it is damaged";
    if (memcmp(head.key, cache->key, sizeof head.key) != 0) return "it is of another machine";
    for (uint32_t at = 0; at < head.n; at++) {
        struct record record;
        memcpy(&record, cache->bytes + sizeof head + at * sizeof record, sizeof record);
        if (!is_sound(&record)) return "a number in it is out of range";
    }
    return NULL;
}

static int place_of(const struct kernel_cache *cache, const struct kernel_shape *shape) {
    for (int at = 0; at < cache->n; at++) {
        if (memcmp(&cache->record[at].shape, shape, sizeof *shape) == 0) return at;
    }
    return -1;
}

/* Take the file's choices for shapes of which nothing is known here. */
static void read_file(struct kernel_cache *cache, bool again) {
    const char *why;
    char shown[512];
    int fd = open(cache->path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT) return;
    size_t n_bytes = fd < 0 ? 0 : read_bytes(cache, fd, &why);
    if (fd < 0) why = errno == ELOOP ? "it is a link" : strerror(errno);
    if (n_bytes > 0) why = find_damage(cache, n_bytes);
    if (fd >= 0) close(fd);
    if (why && again) return;
    if (why) {
        log_note("stored choice of kernels: %s is ignored: %s",
                 log_escape(shown, sizeof shown, cache->path, strlen(cache->path)), why);
        return;
    }
    uint32_t n;
    memcpy(&n, cache->bytes + offsetof(struct head, n), sizeof n);
    for (uint32_t at = 0; at < n && cache->n < KERNEL_MOST; at++) {
        struct record record;
        memcpy(&record, cache->bytes + sizeof(struct head) + at * sizeof record, sizeof record);
        if (place_of(cache, &record.shape) < 0) cache->record[cache->n++] = record;
    }
}

/* ---- writing ----------------------------------------------------------------------------------
 */

/* Lay the file out in cache->bytes; returns its length. */
static size_t lay_out(struct kernel_cache *cache) {
    struct head head = {.format = FORMAT, .n = (uint32_t)cache->n};
    memcpy(head.mark, mark, sizeof mark);
    memcpy(head.key, cache->key, sizeof head.key);
    size_t n_records = (size_t)cache->n * sizeof *cache->record;
    size_t end = sizeof head + n_records;
    memcpy(cache->bytes, &head, sizeof head);
    memcpy(cache->bytes + sizeof head, cache->record, n_records);
    uint64_t sum = XXH3_64bits(cache->bytes, end);
    memcpy(cache->bytes + end, &sum, sizeof sum);
    return end + sizeof sum;
}

static bool write_all(int fd, const unsigned char *bytes, size_t n_bytes) {
    while (n_bytes > 0) {
        ssize_t n = write(fd, bytes, n_bytes);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        bytes += n;
        n_bytes -= (size_t)n;
    }
    return true;
}

/* The folder and the one above it, as the XDG base directories want them. False with errno. */
static bool make_folder(const char *folder) {
    char above[4096];
    const char *slash = strrchr(folder, '/');
    int n_bytes = slash ? (int)(slash - folder) : 0;
    if (n_bytes > 0 && snprintf(above, sizeof above, "%.*s", n_bytes, folder) == n_bytes)
        mkdir(above, 0700); /* mostly there */
    return mkdir(folder, 0700) == 0 || errno == EEXIST;
}

/* False with errno; then nothing is left behind. */
static bool write_file(struct kernel_cache *cache) {
    char uuid[UUID_BYTES];
    struct fault fault = {0};
    size_t size = strlen(cache->path) + sizeof uuid + 8;
    if (!make_folder(cache->folder) || !uuid_make(uuid, &fault)) return false;
    char *temporary = check_alloc(size, 1);
    snprintf(temporary, size, "%s.%s.tmp", cache->path, uuid);
    int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    bool good = fd >= 0 && write_all(fd, cache->bytes, lay_out(cache)) && fsync(fd) == 0;
    int error = errno;
    if (fd >= 0 && close(fd) != 0 && good) {
        good = false;
        error = errno;
    }
    if (good && rename(temporary, cache->path) != 0) {
        good = false;
        error = errno;
    }
    if (fd >= 0 && !good) unlink(temporary);
    free(temporary);
    errno = error;
    return good;
}

/* ---- the choices ------------------------------------------------------------------------------
 */

struct kernel_cache *kernel_cache_open(const char *folder, const char *key) {
    if (!folder) return NULL;
    struct kernel_cache *cache = check_alloc(1, sizeof *cache);
    REQUIRE(strlen(key) < sizeof cache->key, "a key of %zu bytes", strlen(key));
    strcpy(cache->key, key);
    cache->record = check_alloc(KERNEL_MOST, sizeof *cache->record);
    cache->bytes = check_alloc(MOST_BYTES, 1);
    size_t size = strlen(folder) + 32;
    cache->folder = check_alloc(size, 1);
    strcpy(cache->folder, folder);
    cache->path = check_alloc(size, 1);
    snprintf(cache->path, size, "%s/kernels-%016" PRIx64, folder, XXH3_64bits(key, strlen(key)));
    read_file(cache, false);
    log_info("stored choice of kernels: %d for %s", cache->n, key);
    return cache;
}

void kernel_cache_close(struct kernel_cache *cache) {
    if (!cache) return;
    if (cache->changed) {
        char shown[512];
        read_file(cache, true);
        if (!write_file(cache))
            log_note("the choice of kernels is not kept for the next run: %s: %s",
                     log_escape(shown, sizeof shown, cache->path, strlen(cache->path)),
                     strerror(errno));
    }
    free(cache->folder);
    free(cache->path);
    free(cache->record);
    free(cache->bytes);
    free(cache);
}

bool kernel_cache_find(const struct kernel_cache *cache, const struct kernel_shape *shape,
                       struct kernel_choice *choice) {
    int at = cache ? place_of(cache, shape) : -1;
    if (at >= 0) *choice = cache->record[at].choice;
    return at >= 0;
}

void kernel_cache_put(struct kernel_cache *cache, const struct kernel_shape *shape,
                      const struct kernel_choice *choice) {
    struct record record = {*shape, *choice};
    REQUIRE(is_sound(&record), "a choice for (%d, %d) and %d rows out of range", shape->n, shape->k,
            shape->n_rows);
    if (!cache) return;
    int at = place_of(cache, shape);
    if (at < 0 && cache->n == KERNEL_MOST) return;
    cache->record[at < 0 ? cache->n++ : at] = record;
    cache->changed = true;
}
