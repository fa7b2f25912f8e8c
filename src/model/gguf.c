/* gguf.c - opening GGUF files: map, check, put split files together.
 *
 * Owns the maps and, once parsed, the tables of keys and tensors. The invariant: an open model has
 * all parts that its first one promises, in order, and no two of its tensors share a name or a
 * byte. Each file is opened as a model of one part by gguf_header.c; a split one is the first with
 * the others adopted.
 *
 * Left to others: what keys and names mean (model, tokenizer), and the values of weights. A file
 * cut short by somebody else while it is mapped still kills the process (SIGBUS); copying whole
 * models into memory to avoid that was rejected.
 *
 * Source: ggml docs/gguf.md; keys and names of split files as llama.cpp's gguf-split writes them.
 */
#include "gguf.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gguf_header.h"
#include "log.h"

enum { SUFFIX_BYTES = 15 + 5 + 1 }; /* "-00001-of-00003", ".gguf" and a terminator */

struct gguf_part {
    void *map;
    size_t n_bytes;
};

static int compare_tensor_names(const void *a, const void *b) {
    return strcmp((*(const struct gguf_tensor *const *)a)->name,
                  (*(const struct gguf_tensor *const *)b)->name);
}

static int compare_tensor_places(const void *a, const void *b) {
    uintptr_t left_place = (uintptr_t)(*(const struct gguf_tensor *const *)a)->data;
    uintptr_t right_place = (uintptr_t)(*(const struct gguf_tensor *const *)b)->data;
    return left_place < right_place ? -1 : left_place > right_place;
}

static bool check_distinct_tensors(const struct gguf *gguf, struct fault *fault) {
    const struct gguf_tensor **sorted = check_alloc(gguf->n_tensors, sizeof *sorted);
    for (size_t tensor = 0; tensor < gguf->n_tensors; tensor++)
        sorted[tensor] = &gguf->tensor[tensor];
    const char *trouble = NULL;
    size_t at = 0;
    qsort(sorted, gguf->n_tensors, sizeof *sorted, compare_tensor_names);
    for (size_t tensor = 1; !trouble && tensor < gguf->n_tensors; tensor++) {
        at = tensor;
        if (strcmp(sorted[tensor - 1]->name, sorted[tensor]->name) == 0) trouble = "stands twice";
    }
    if (!trouble) qsort(sorted, gguf->n_tensors, sizeof *sorted, compare_tensor_places);
    for (size_t tensor = 1; !trouble && tensor < gguf->n_tensors; tensor++) {
        at = tensor;
        uintptr_t end = (uintptr_t)sorted[tensor - 1]->data + sorted[tensor - 1]->n_bytes;
        if ((uintptr_t)sorted[tensor]->data < end) trouble = "overlaps another one";
    }
    if (trouble) {
        char path[256], shown[160];
        fault_user(fault, "%s: damaged: tensor '%s' %s",
                   log_escape(path, sizeof path, gguf->path, strlen(gguf->path)),
                   log_escape(shown, sizeof shown, sorted[at]->name, strlen(sorted[at]->name)),
                   trouble);
    }
    free(sorted);
    return !trouble;
}

/* ---- one file */

static bool refuse(struct fault *fault, const char *path, const char *why) {
    char shown[256];
    return fault_user(fault, "%s: %s", log_escape(shown, sizeof shown, path, strlen(path)), why);
}

static bool cannot(struct fault *fault, const char *verb, const char *path, int error) {
    char shown[256];
    log_escape(shown, sizeof shown, path, strlen(path));
    bool is_world = error == EIO || error == ENOMEM || error == EMFILE || error == ENFILE;
    return (is_world ? fault_world : fault_user)(fault, "%s: cannot %s: %s", shown, verb,
                                                 strerror(error));
}

static bool map_file(struct gguf_part *part, const char *path, struct fault *fault) {
    /* O_NONBLOCK: opening a FIFO nobody writes to would wait for ever */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return cannot(fault, "open", path, errno);
    struct stat status;
    int error = 0;
    if (fstat(fd, &status) != 0) {
        error = errno;
    } else if (!S_ISREG(status.st_mode)) {
        close(fd);
        return refuse(fault, path, "not a regular file");
    } else if (status.st_size >
               0) { /* an empty file cannot be mapped, and its header is refused as too short */
        part->n_bytes = (size_t)status.st_size;
        part->map = mmap(NULL, part->n_bytes, PROT_READ, MAP_PRIVATE, fd, 0);
        if (part->map == MAP_FAILED) {
            error = errno;
            part->map = NULL;
        }
    }
    close(fd);
    return error ? cannot(fault, "read", path, error) : true;
}

/* One file by itself, whether a part or whole. */
static bool open_one(struct gguf *gguf, const char *path, struct fault *fault) {
    memset(gguf, 0, sizeof *gguf);
    if (strlen(path) >= sizeof gguf->path) return cannot(fault, "open", path, ENAMETOOLONG);
    memcpy(gguf->path, path, strlen(path) + 1);
    gguf->part = check_alloc(1, sizeof *gguf->part);
    gguf->n_parts = 1;
    if (!map_file(&gguf->part[0], path, fault) ||
        !gguf_header_parse(gguf, gguf->part[0].map, gguf->part[0].n_bytes, fault)) {
        gguf_close(gguf);
        return false;
    }
    gguf->file_bytes = gguf->part[0].n_bytes;
    return true;
}

/* ---- split files */

/* Which part of how many a file says it is; 1 of 1 where it says nothing. */
static bool read_split(const struct gguf *gguf, uint32_t *number, uint32_t *count,
                       struct fault *fault) {
    *number = 0;
    *count = 1;
    if (!gguf_find(gguf, "split.count")) return true;
    if (!gguf_read_u32(gguf, "split.count", count, fault)) return false;
    if (*count <= 1) {
        *count = 1;
        return true;
    }
    if (!gguf_read_u32(gguf, "split.no", number, fault)) return false;
    char shown[256];
    log_escape(shown, sizeof shown, gguf->path, strlen(gguf->path));
    if (*number >= *count || *count > 65535) {
        return fault_user(fault, "%s: damaged: says it is part %" PRIu64 " of %" PRIu32, shown,
                          (uint64_t)*number + 1, *count);
    }
    return true;
}

static void suffix_of(char suffix[static SUFFIX_BYTES], uint32_t number, uint32_t count) {
    /* both below 65536 (read_split), so five digits do */
    snprintf(suffix, SUFFIX_BYTES, "-%05u-of-%05u.gguf", (number + 1) & 0xffffu, count & 0xffffu);
}

/* Move what `next` holds behind what `gguf` holds; its keys are released. */
static void adopt(struct gguf *gguf, struct gguf *next) {
    struct gguf_tensor *tensor = check_alloc(gguf->n_tensors + next->n_tensors, sizeof *tensor);
    memcpy(tensor, gguf->tensor, gguf->n_tensors * sizeof *tensor);
    memcpy(tensor + gguf->n_tensors, next->tensor, next->n_tensors * sizeof *tensor);
    free(gguf->tensor);
    gguf->tensor = tensor;
    gguf->n_tensors += next->n_tensors;
    struct gguf_part *part = check_alloc((size_t)gguf->n_parts + 1, sizeof *part);
    memcpy(part, gguf->part, (size_t)gguf->n_parts * sizeof *part);
    part[gguf->n_parts] = next->part[0];
    free(gguf->part);
    gguf->part = part;
    gguf->n_parts++;
    gguf->file_bytes += next->file_bytes;
    next->part[0] = (struct gguf_part){0};
    gguf_close(next);
}

/* The path without "-00002-of-00003.gguf", which must be what the file says it is. */
static bool read_prefix(const struct gguf *gguf, uint32_t number, uint32_t count, size_t *n_prefix,
                        struct fault *fault) {
    char suffix[SUFFIX_BYTES];
    suffix_of(suffix, number, count);
    size_t n_path = strlen(gguf->path), n_suffix = strlen(suffix);
    if (n_path < n_suffix || strcmp(gguf->path + n_path - n_suffix, suffix) != 0) {
        char shown[256];
        return fault_user(
            fault,
            "%s: part %" PRIu32 " of a model in %" PRIu32
            " parts, but its name does not end in '%s', so the others cannot be found",
            log_escape(shown, sizeof shown, gguf->path, n_path), number + 1, count, suffix);
    }
    *n_prefix = n_path - n_suffix;
    return true;
}

/* Open part `number` of `count`, beside the others, and see that it says so. */
static bool open_part(struct gguf *part, const char *prefix, uint32_t number, uint32_t count,
                      struct fault *fault) {
    char path[sizeof part->path + SUFFIX_BYTES], suffix[SUFFIX_BYTES];
    suffix_of(suffix, number, count);
    snprintf(path, sizeof path, "%s%s", prefix, suffix);
    if (!open_one(part, path, fault)) return false;
    uint32_t said_number, said_count;
    bool good = read_split(part, &said_number, &said_count, fault);
    if (good && (said_number != number || said_count != count)) {
        char shown[256];
        good = fault_user(fault, "%s: says it is part %" PRIu32 " of %" PRIu32,
                          log_escape(shown, sizeof shown, path, strlen(path)), said_number + 1,
                          said_count);
    }
    if (!good) gguf_close(part);
    return good;
}

static bool check_tensor_count(const struct gguf *gguf, struct fault *fault) {
    uint32_t promised;
    if (!gguf_find(gguf, "split.tensors.count")) return true;
    if (!gguf_read_u32(gguf, "split.tensors.count", &promised, fault)) return false;
    if (promised == gguf->n_tensors) return true;
    char shown[256];
    return fault_user(fault, "%s: promises %" PRIu32 " tensors, but its %d parts have %zu",
                      log_escape(shown, sizeof shown, gguf->path, strlen(gguf->path)), promised,
                      gguf->n_parts, gguf->n_tensors);
}

/* Replace the one part in *gguf by all of them. On false *gguf is closed. */
static bool open_parts(struct gguf *gguf, uint32_t number, uint32_t count, struct fault *fault) {
    size_t n_prefix = 0;
    bool good = read_prefix(gguf, number, count, &n_prefix, fault);
    char prefix[sizeof gguf->path];
    if (good) {
        memcpy(prefix, gguf->path, n_prefix);
        prefix[n_prefix] = 0;
    }
    gguf_close(gguf);
    if (!good || !open_part(gguf, prefix, 0, count, fault)) return false;
    for (uint32_t part = 1; good && part < count; part++) {
        struct gguf next;
        good = open_part(&next, prefix, part, count, fault);
        if (good) adopt(gguf, &next);
    }
    good = good && check_tensor_count(gguf, fault);
    if (!good) gguf_close(gguf);
    return good;
}

bool gguf_open(struct gguf *gguf, const char *path, struct fault *fault) {
    uint32_t number, count;
    if (!open_one(gguf, path, fault)) return false;
    bool good = read_split(gguf, &number, &count, fault);
    if (good && count > 1 && !open_parts(gguf, number, count, fault)) return false;
    good = good && check_distinct_tensors(gguf, fault);
    if (!good) gguf_close(gguf);
    return good;
}

void gguf_close(struct gguf *gguf) {
    for (size_t key = 0; key < gguf->n_keys; key++)
        free((void *)gguf->key[key].value.string); /* const for readers; owned here */
    free(gguf->key);
    free(gguf->tensor);
    for (int part = 0; part < gguf->n_parts; part++) {
        if (gguf->part[part].map) munmap(gguf->part[part].map, gguf->part[part].n_bytes);
    }
    free(gguf->part);
    memset(gguf, 0, sizeof *gguf);
}
