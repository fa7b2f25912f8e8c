/* checkpoint_manifest.c - which checkpoints there are. See checkpoint_manifest.h.
 *
 * The checksum is XXH3-64 of the object without it, keys sorted, no spaces: whoever has JSON can
 * make it again. Rejected: hashes of the listed files, which would have them read twice; they hold
 * checksums of what is in them.
 */
#include "checkpoint_manifest.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "log.h"
#include "output.h"
#include "replacement.h"
#include "version.h"

#define NAME   "manifest.json"
#define FORMAT "lamina checkpoints"
enum { MOST_BYTES = 16 << 20, MOST_FILES = 1 << 20, SUM_DIGITS = 16 };

bool manifest_name_is_good(const char *name) {
    if (!name || !*name || strlen(name) > NAME_MAX || strcmp(name, NAME) == 0) return false;
    for (const char *at = name; *at; at++) {
        if (*at == '/' || (unsigned char)*at < ' ' || *at == 0x7f) return false;
    }
    return strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

char *manifest_path(const char *folder, const char *name) {
    size_t size = strlen(folder) + strlen(name) + sizeof "/";
    char *path = check_alloc(size, 1);
    snprintf(path, size, "%s/%s", folder, name);
    return path;
}

static bool refuse(const char *path, const char *reason, struct fault *fault) {
    char shown[512];
    return fault_world(fault, "%s: %s", log_escape(shown, sizeof shown, path, strlen(path)),
                       reason);
}

static void sum_record(const json_t *record, char digits[SUM_DIGITS + 1]) {
    json_t *rest = json_copy((json_t *)record);
    json_object_del(rest, "sum");
    char *text = json_dumps(rest, JSON_COMPACT | JSON_SORT_KEYS);
    REQUIRE(text != NULL, "no memory for the manifest");
    snprintf(digits, SUM_DIGITS + 1, "%016" PRIx64, (uint64_t)XXH3_64bits(text, strlen(text)));
    free(text);
    json_decref(rest);
}

/* ---- reading ---- */

/* The file's text, to be freed, *n_bytes being 0; NULL with errno, 0 where the reason is its kind
 * or size. */
static char *read_text(const char *path, size_t *n_bytes) {
    struct stat status;
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) return NULL;
    char *text = NULL;
    bool stated = fstat(fd, &status) == 0;
    if (stated) errno = 0;
    if (stated && S_ISREG(status.st_mode) && status.st_size <= MOST_BYTES) {
        text = check_alloc((size_t)status.st_size + 1, 1);
        ssize_t n_read;
        do { /* a signal or a server may give less than there is */
            n_read = read(fd, text + *n_bytes, (size_t)status.st_size - *n_bytes);
            if (n_read > 0) *n_bytes += (size_t)n_read;
        } while (n_read > 0 || (n_read < 0 && errno == EINTR));
        if (n_read < 0) {
            free(text);
            text = NULL;
        }
    }
    int error = errno;
    close(fd);
    errno = error;
    return text;
}

static bool take_text(const json_t *object, const char *key, char *out, size_t size) {
    const char *text = json_string_value(json_object_get(object, key));
    if (!text || strlen(text) >= size) return false;
    strcpy(out, text);
    return true;
}

static bool take_count(const json_t *object, const char *key, int64_t most, int64_t *out) {
    const json_t *value = json_object_get(object, key);
    *out = json_integer_value(value);
    return json_is_integer(value) && *out >= 0 && *out <= most;
}

static bool take_files(const json_t *list, struct manifest_checkpoint *checkpoint) {
    if (json_array_size(list) < 2 || json_array_size(list) > MOST_FILES) return false;
    checkpoint->n_files = (int)json_array_size(list);
    checkpoint->file = check_alloc((size_t)checkpoint->n_files, sizeof *checkpoint->file);
    for (int number = 0; number < checkpoint->n_files; number++) {
        const json_t *entry = json_array_get(list, (size_t)number);
        const char *name = json_string_value(json_object_get(entry, "name"));
        struct manifest_file *file = &checkpoint->file[number];
        if (!manifest_name_is_good(name) || !take_count(entry, "bytes", INT64_MAX, &file->n_bytes))
            return false;
        file->name = strcpy(check_alloc(strlen(name) + 1, 1), name);
    }
    return true;
}

static bool take_checkpoint(const json_t *object, struct manifest_checkpoint *checkpoint) {
    int64_t n_kv;
    const json_t *write_s = json_object_get(object, "write_s");
    bool good = take_count(object, "number", MANIFEST_MOST_NUMBER, &checkpoint->number) &&
                take_text(object, "created", checkpoint->created, sizeof checkpoint->created) &&
                take_count(object, "kv_bytes", INT64_MAX, &checkpoint->kv_bytes) &&
                json_is_number(write_s) && json_number_value(write_s) >= 0 &&
                take_files(json_object_get(object, "files"), checkpoint) &&
                take_count(object, "n_kv", checkpoint->n_files - 2, &n_kv);
    if (!good) return false;
    checkpoint->write_s = json_number_value(write_s);
    checkpoint->n_kv = (int)n_kv;
    return true;
}

static bool take_next(const json_t *list, struct manifest *manifest) {
    size_t n = json_array_size(list);
    if (!json_is_array(list) || n > MOST_FILES) return false;
    manifest->next = check_alloc(n + 1, sizeof *manifest->next);
    for (; manifest->n_next < (int)n; manifest->n_next++) {
        const char *name = json_string_value(json_array_get(list, (size_t)manifest->n_next));
        if (!manifest_name_is_good(name)) return false;
        manifest->next[manifest->n_next] = strcpy(check_alloc(strlen(name) + 1, 1), name);
    }
    return true;
}

/* NULL, or what is wrong. */
static const char *take_record(const json_t *record, struct manifest *manifest) {
    char digits[SUM_DIGITS + 1];
    const char *sum = json_string_value(json_object_get(record, "sum"));
    const json_t *list = json_object_get(record, "checkpoints");
    sum_record(record, digits);
    if (!sum || strcmp(sum, digits) != 0) return "damaged: its checksum is another";
    if (!take_text(record, "uuid", manifest->uuid, sizeof manifest->uuid) ||
        !take_text(record, "fingerprint", manifest->fingerprint, sizeof manifest->fingerprint))
        return "damaged: no uuid or fingerprint";
    if (!json_is_array(list) || json_array_size(list) > MANIFEST_CHECKPOINTS)
        return "damaged: no list of at most two checkpoints";
    for (size_t number = 0; number < json_array_size(list); number++) {
        manifest->n_checkpoints = (int)number + 1; /* its names are to be freed */
        if (!take_checkpoint(json_array_get(list, number), &manifest->checkpoint[number]))
            return "damaged: a checkpoint's entry cannot be";
    }
    if (!take_next(json_object_get(record, "next"), manifest))
        return "damaged: no list of the next files";
    if (manifest->n_checkpoints == 2 &&
        manifest->checkpoint[0].number <= manifest->checkpoint[1].number)
        return "damaged: the newest checkpoint is not the first";
    return NULL;
}

bool manifest_check_version(const char *version, const char *path, struct fault *fault) {
    char shown[512], *end;
    long major = strtol(version, &end, 10);
    if (end == version || major < 0 || *end != '.')
        return refuse(path, "damaged: no format_version", fault);
    return major == CHECKPOINT_FORMAT ||
           fault_user(fault, "%s is of format %ld, and this lamina reads format %d: use the %s one",
                      log_escape(shown, sizeof shown, path, strlen(path)), major, CHECKPOINT_FORMAT,
                      major > CHECKPOINT_FORMAT ? "newer" : "older");
}

static bool take_manifest(const json_t *record, const char *path, struct manifest *manifest,
                          struct fault *fault) {
    char reason[128];
    const char *format = json_string_value(json_object_get(record, "format"));
    const char *version = json_string_value(json_object_get(record, "format_version"));
    const char *wrong = record ? NULL : "damaged: not a manifest of checkpoints";
    if (record && (!format || strcmp(format, FORMAT) != 0 || !version))
        return refuse(path, "not a manifest of checkpoints: give a folder of its own", fault);
    if (!wrong && !manifest_check_version(version, path, fault)) return false;
    if (!wrong) wrong = take_record(record, manifest);
    if (!wrong) return true;
    manifest_close(manifest);
    snprintf(reason, sizeof reason, "%s; delete it, and what was in flight is computed again",
             wrong);
    return refuse(path, reason, fault);
}

bool manifest_read(struct manifest *manifest, const char *folder, struct fault *fault) {
    size_t n_bytes = 0;
    char *path = manifest_path(folder, NAME);
    *manifest = (struct manifest){0};
    char *text = read_text(path, &n_bytes);
    bool good = text != NULL || errno == ENOENT;
    if (!good) refuse(path, errno ? strerror(errno) : "no file of at most 16 MiB", fault);
    if (text) {
        json_t *record = json_loadb(text, n_bytes, JSON_REJECT_DUPLICATES, NULL);
        good = take_manifest(record, path, manifest, fault);
        json_decref(record);
    }
    free(text);
    free(path);
    return good;
}

/* ---- writing ---- */

static json_t *pack_checkpoint(const struct manifest_checkpoint *checkpoint) {
    json_t *files = json_array();
    for (int number = 0; number < checkpoint->n_files; number++)
        json_array_append_new(files,
                              json_pack("{s:s,s:I}", "name", checkpoint->file[number].name, "bytes",
                                        (json_int_t)checkpoint->file[number].n_bytes));
    return json_pack("{s:I,s:s,s:f,s:I,s:i,s:o}", "number", (json_int_t)checkpoint->number,
                     "created", checkpoint->created, "write_s", checkpoint->write_s, "kv_bytes",
                     (json_int_t)checkpoint->kv_bytes, "n_kv", checkpoint->n_kv, "files", files);
}

/* The text, to be freed. */
static char *make_text(const struct manifest *manifest) {
    char version[16], digits[SUM_DIGITS + 1];
    json_t *list = json_array(), *next = json_array();
    snprintf(version, sizeof version, "%d.0", CHECKPOINT_FORMAT);
    for (int number = 0; number < manifest->n_checkpoints; number++)
        json_array_append_new(list, pack_checkpoint(&manifest->checkpoint[number]));
    for (int number = 0; number < manifest->n_next; number++)
        json_array_append_new(next, json_string(manifest->next[number]));
    json_t *record =
        json_pack("{s:s,s:s,s:s,s:s,s:s,s:o,s:o}", "format", FORMAT, "format_version", version,
                  "creator", "lamina " LAMINA_VERSION, "uuid", manifest->uuid, "fingerprint",
                  manifest->fingerprint, "checkpoints", list, "next", next);
    REQUIRE(record != NULL, "a manifest with a name that is not UTF-8");
    sum_record(record, digits);
    json_object_set_new(record, "sum", json_string(digits));
    char *text = json_dumps(record, JSON_INDENT(2));
    REQUIRE(text != NULL, "no memory for the manifest");
    json_decref(record);
    return text;
}

bool manifest_write(const struct manifest *manifest, const char *folder, bool *durable,
                    struct fault *fault) {
    struct fault loose = {0};
    struct replacement place = {.path = manifest_path(folder, NAME),
                                .temporary = manifest_path(folder, NAME ".tmp")};
    char *text = make_text(manifest);
    size_t n_bytes = strlen(text);
    text[n_bytes] = '\n'; /* in place of its 0 */
    int fd = replacement_begin(&place);
    if (fd >= 0) errno = ENOSPC; /* of a write that ends early */
    bool good = fd >= 0 && write(fd, text, n_bytes + 1) == (ssize_t)n_bytes + 1 && fsync(fd) == 0;
    if (fd >= 0) good = replacement_end(&place, fd, good);
    if (!good) output_fault(fault, "write", place.path);
    *durable = good && output_sync_folder(place.path, &loose);
    if (loose.kind) log_warning("%s", loose.text);
    free(text);
    replacement_close(&place);
    return good;
}

/* ---- the files that it lists ---- */

bool manifest_check(const struct manifest_file *file, const char *folder, struct fault *fault) {
    struct stat status;
    char *path = manifest_path(folder, file->name), reason[128] = "";
    if (stat(path, &status) != 0) {
        snprintf(reason, sizeof reason, "%s", strerror(errno));
    } else if (!S_ISREG(status.st_mode) || status.st_size != file->n_bytes) {
        snprintf(reason, sizeof reason, "has %lld bytes, not the %lld that were written",
                 (long long)status.st_size, (long long)file->n_bytes);
    }
    if (*reason) refuse(path, reason, fault);
    free(path);
    return !*reason;
}

static bool checkpoint_lists(const struct manifest_checkpoint *checkpoint, const char *name) {
    for (int file = 0; file < checkpoint->n_files; file++) {
        if (strcmp(checkpoint->file[file].name, name) == 0) return true;
    }
    return false;
}

static bool lists(const struct manifest *manifest, const char *name) {
    for (int number = 0; number < manifest->n_checkpoints; number++) {
        if (checkpoint_lists(&manifest->checkpoint[number], name)) return true;
    }
    for (int number = 0; number < manifest->n_next; number++) {
        if (strcmp(manifest->next[number], name) == 0) return true;
    }
    return false;
}

void manifest_delete(const char *folder, const char *name) {
    char *path = manifest_path(folder, name), shown[512];
    if (unlink(path) != 0 && errno != ENOENT) {
        const char *reason = strerror(errno);
        log_warning("%s: %s; it is needed no more",
                    log_escape(shown, sizeof shown, path, strlen(path)), reason);
    }
    free(path);
}

/* One that a writer may have left, whole or at its temporary name. */
static void delete_left(const char *folder, const char *name) {
    char temporary[NAME_MAX + sizeof ".tmp"];
    snprintf(temporary, sizeof temporary, "%s.tmp", name);
    manifest_delete(folder, temporary);
    manifest_delete(folder, name);
}

void manifest_delete_all(const struct manifest *manifest, const char *folder) {
    for (int number = 0; number < manifest->n_checkpoints; number++) {
        const struct manifest_checkpoint *checkpoint = &manifest->checkpoint[number];
        for (int file = 0; file < checkpoint->n_files; file++)
            manifest_delete(folder, checkpoint->file[file].name);
    }
    for (int number = 0; number < manifest->n_next; number++)
        delete_left(folder, manifest->next[number]);
}

/* ---- one in the place of another ---- */

/* now->next has room. */
static void add_unlisted(struct manifest *now, const char *name) {
    if (lists(now, name)) return;
    now->next[now->n_next++] = strcpy(check_alloc(strlen(name) + 1, 1), name);
}

/* What `before` lists and `now` does not, behind the names in now->next. */
static void add_dropped(struct manifest *now, const struct manifest *before) {
    size_t n_most = (size_t)now->n_next + (size_t)before->n_next + 1;
    for (int number = 0; number < before->n_checkpoints; number++)
        n_most += (size_t)before->checkpoint[number].n_files;
    char **larger = check_alloc(n_most, sizeof *larger);
    if (now->n_next) memcpy(larger, now->next, (size_t)now->n_next * sizeof *larger);
    free(now->next);
    now->next = larger;
    for (int number = 0; number < before->n_checkpoints; number++) {
        const struct manifest_checkpoint *checkpoint = &before->checkpoint[number];
        for (int file = 0; file < checkpoint->n_files; file++)
            add_unlisted(now, checkpoint->file[file].name);
    }
    for (int number = 0; number < before->n_next; number++)
        add_unlisted(now, before->next[number]);
}

/* Let go of the names behind the first `n`. */
static void cut_next(struct manifest *manifest, int n) {
    while (manifest->n_next > n)
        free(manifest->next[--manifest->n_next]);
}

static bool has_number(const struct manifest *manifest, int64_t number) {
    for (int at = 0; at < manifest->n_checkpoints; at++) {
        if (manifest->checkpoint[at].number == number) return true;
    }
    return false;
}

bool manifest_replace(struct manifest *manifest, struct manifest *now, const char *folder,
                      struct fault *fault) {
    bool durable;
    int n_to_make = now->n_next;
    add_dropped(now, manifest);
    if (!manifest_write(now, folder, &durable, fault)) {
        cut_next(now, n_to_make);
        return false;
    }
    for (int number = n_to_make; durable && number < now->n_next; number++)
        delete_left(folder, now->next[number]);
    if (durable) cut_next(now, n_to_make);
    for (int at = 0; at < manifest->n_checkpoints; at++) {
        if (has_number(now, manifest->checkpoint[at].number))
            manifest->checkpoint[at] = (struct manifest_checkpoint){0}; /* moved */
    }
    manifest_close(manifest);
    *manifest = *now;
    return true;
}

/* ---- releasing ---- */

void manifest_checkpoint_close(struct manifest_checkpoint *checkpoint) {
    for (int file = 0; checkpoint->file && file < checkpoint->n_files; file++)
        free(checkpoint->file[file].name);
    free(checkpoint->file);
    *checkpoint = (struct manifest_checkpoint){0};
}

void manifest_close(struct manifest *manifest) {
    for (int number = 0; number < manifest->n_checkpoints; number++)
        manifest_checkpoint_close(&manifest->checkpoint[number]);
    for (int number = 0; number < manifest->n_next; number++)
        free(manifest->next[number]);
    free(manifest->next);
    *manifest = (struct manifest){0};
}
