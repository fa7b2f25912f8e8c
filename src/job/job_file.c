/* job_file.c - OUT.job.json and the lock on it. See job_file.h.
 *
 * Owns the record of a job. The invariant: while a run lives, the file at the path is locked by it;
 * so the lock of a new version is taken before the rename, and whoever gets a lock looks whether
 * the file is still the one at the path. Which differences matter is decided here; what is done
 * with the answers, in results.c. Rejected: a lock file of its own, one more thing to be left
 * behind; and a lock on OUT, which --retry-failed replaces. Source: fcntl(2), OFD locks.
 */
#include "job_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "log.h"
#include "output.h"
#include "uuid.h"

enum { FORMAT = 1, MOST_BYTES = 16 << 20 };

/* ---- the lock ---- */

enum lock { LOCK_TAKEN, LOCK_BUSY, LOCK_NONE };

static enum lock try_lock(int fd) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(fd, F_OFD_SETLK, &lock) == 0) return LOCK_TAKEN;
    return errno == EAGAIN || errno == EACCES ? LOCK_BUSY : LOCK_NONE;
}

/* True when `fd` is still the file at `path`: its holder may have replaced it meanwhile. */
static bool is_at_path(int fd, const char *path) {
    struct stat mine, there;
    return fstat(fd, &mine) == 0 && stat(path, &there) == 0 && mine.st_ino == there.st_ino &&
           mine.st_dev == there.st_dev;
}

static json_t *read_record(int fd) {
    struct stat status;
    if (fstat(fd, &status) != 0 || status.st_size < 1 || status.st_size > MOST_BYTES) return NULL;
    char *text = check_alloc((size_t)status.st_size, 1);
    ssize_t n_bytes = pread(fd, text, (size_t)status.st_size, 0);
    json_t *record = n_bytes > 0 ? json_loadb(text, (size_t)n_bytes, 0, NULL) : NULL;
    free(text);
    return record;
}

static void name_holder(int fd, char *out, size_t size) {
    json_t *record = read_record(fd);
    const char *host = "", *since = "";
    json_int_t pid = 0;
    if (json_unpack(record, "{s:{s:s,s:I,s:s}}", "holder", "host", &host, "pid", &pid, "since",
                    &since) == 0) {
        char shown_host[128], shown_since[64];
        snprintf(out, size, "process %lld on %s since %s", (long long)pid,
                 log_escape(shown_host, sizeof shown_host, host, strlen(host)),
                 log_escape(shown_since, sizeof shown_since, since, strlen(since)));
    } else {
        snprintf(out, size, "another process that has just begun");
    }
    json_decref(record);
}

static const int FILE_FLAGS = O_RDWR | O_NOFOLLOW | O_CLOEXEC;

/* Open and lock once. LOCK_BUSY: somebody else has it, now or a moment ago. */
static enum lock attempt(struct job_file *job, char *holder, size_t size, struct fault *fault) {
    job->created = false;
    job->fd = open(job->path, FILE_FLAGS);
    if (job->fd < 0 && errno == ENOENT) {
        job->fd = open(job->path, FILE_FLAGS | O_CREAT | O_EXCL, 0666);
        job->created = job->fd >= 0;
    }
    if (job->fd < 0) {
        if (errno != EEXIST) output_fault(fault, "write", job->path);
        snprintf(holder, size, "another process that has just begun");
        return LOCK_BUSY;
    }
    enum lock lock = try_lock(job->fd);
    if (lock == LOCK_BUSY) name_holder(job->fd, holder, size);
    int error = errno;
    char shown[512];
    if (lock == LOCK_NONE)
        log_warning("%s: this file system has no locks (%s): two jobs on one output would not see "
                    "each other",
                    log_escape(shown, sizeof shown, job->path, strlen(job->path)), strerror(error));
    if (lock != LOCK_BUSY && is_at_path(job->fd, job->path)) return lock;
    close(job->fd);
    return LOCK_BUSY;
}

static void name_path(struct job_file *job, const char *output_path) {
    size_t n_path = strlen(output_path) + sizeof ".job.json";
    *job = (struct job_file){.path = check_alloc(n_path, 1), .fd = -1};
    snprintf(job->path, n_path, "%s.job.json", output_path);
}

bool job_file_look(struct job_file *job, const char *output_path, struct fault *fault) {
    name_path(job, output_path);
    job->fd = open(job->path, FILE_FLAGS);
    if (job->fd < 0 && errno != ENOENT) return output_fault(fault, "write", job->path);
    if (job->fd >= 0) job->record = read_record(job->fd);
    return output_check_folder(job->path, job->path, fault);
}

bool job_file_open(struct job_file *job, const char *output_path, double wait_s,
                   struct fault *fault) {
    name_path(job, output_path);
    char holder[256] = "another process", shown[512];
    log_escape(shown, sizeof shown, job->path, strlen(job->path));
    struct deadline deadline = clock_deadline(wait_s);
    bool told = false;
    while (attempt(job, holder, sizeof holder, fault) == LOCK_BUSY) {
        if (!fault->kind && clock_expired(deadline))
            fault_world(fault, "%s is held by %s; waited %g s", shown, holder, wait_s);
        if (fault->kind) {
            free(job->path);
            *job = (struct job_file){0};
            return false;
        }
        if (!told) log_note("%s is held by %s: waiting up to %g s", shown, holder, wait_s);
        told = true;
        usleep(100000);
    }
    job->record = read_record(job->fd);
    return true;
}

void job_file_close(struct job_file *job) {
    if (!job->path) return;
    if (job->created) unlink(job->path);
    if (job->fd >= 0) close(job->fd);
    json_decref(job->record);
    free(job->path);
    *job = (struct job_file){0};
}

/* ---- the record ---- */

static json_t *text_or_null(const char *text) {
    /* A name need not be UTF-8, a JSON string must. */
    char shown[4096];
    return text ? json_string(log_escape(shown, sizeof shown, text, strlen(text))) : json_null();
}

/* Options that change tokens: a resume must find them as they were. */
static json_t *make_options(const struct options *options) {
    return json_pack(
        "{s:f,s:f,s:f,s:i,s:f,s:f,s:f,s:i,s:i,s:b,s:o,s:s,s:i,s:b,s:o,s:o}", "temperature",
        (double)options->temperature, "top_p", (double)options->top_p, "min_p",
        (double)options->min_p, "top_k", options->top_k, "presence_penalty",
        (double)options->presence_penalty, "frequency_penalty", (double)options->frequency_penalty,
        "repetition_penalty", (double)options->repetition_penalty, "max_tokens",
        options->max_tokens, "min_tokens", options->min_tokens, "ignore_eos", options->ignore_eos,
        "seed", json_sprintf("%" PRIu64, options->seed), "kv_type", kv_type_name(options->kv_type),
        "context", options->context, "chat", options->chat, "system", text_or_null(options->system),
        "chat_template", text_or_null(options->chat_template));
}

static json_t *make_inputs(const struct options *options) {
    json_t *inputs = json_array();
    for (int number = 0; number < options->n_inputs; number++) {
        struct stat status;
        bool is_file = stat(options->input[number], &status) == 0 && S_ISREG(status.st_mode);
        json_t *bytes = is_file ? json_integer(status.st_size) : json_null();
        json_array_append_new(
            inputs,
            json_pack("{s:o,s:o}", "name", text_or_null(options->input[number]), "bytes", bytes));
    }
    return inputs;
}

static json_t *make_holder(void) {
    char host[256] = "", since[32];
    gethostname(host, sizeof host - 1);
    clock_stamp(since);
    return json_pack("{s:o,s:I,s:s}", "host", text_or_null(host), "pid", (json_int_t)getpid(),
                     "since", since);
}

static json_t *make_record(const struct options *options, const char *model_fingerprint) {
    json_t *record =
        json_pack("{s:i,s:s,s:o,s:o,s:o,s:o}", "version", FORMAT, "model", model_fingerprint,
                  "options", make_options(options), "inputs", make_inputs(options), "errors",
                  text_or_null(options->errors), "holder", make_holder());
    REQUIRE(record != NULL, "no memory for the job's record");
    return record;
}

static void show(char *out, size_t size, const json_t *value) {
    bool given = value && !json_is_null(value) &&
                 !(json_is_integer(value) && json_integer_value(value) == -1);
    char *text = given ? json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT) : NULL;
    log_escape(out, size, text ? text : "not given", strlen(text ? text : "not given"));
    free(text);
}

static bool check_same(const struct job_file *job, const char *what, const json_t *was,
                       const json_t *is, struct fault *fault) {
    if (json_equal(was, is)) return true;
    char old[256], new[256], shown[512];
    show(old, sizeof old, was);
    show(new, sizeof new, is);
    return fault_user(fault,
                      "cannot resume: %s was %s and is now %s (%s); give what was, or another "
                      "output, or --overwrite",
                      what, old, new,
                      log_escape(shown, sizeof shown, job->path, strlen(job->path)));
}

/* Names and their number must be as they were, for ids count from them; a size may change, new
 * lines are run. */
static bool check_inputs(const struct job_file *job, const json_t *was, const json_t *is,
                         struct fault *fault) {
    json_t *n_was = json_integer((json_int_t)json_array_size(was));
    json_t *n_is = json_integer((json_int_t)json_array_size(is));
    bool same = check_same(job, "the number of inputs", n_was, n_is, fault);
    json_decref(n_was);
    json_decref(n_is);
    for (size_t number = 0; same && number < json_array_size(is); number++) {
        const json_t *old = json_array_get(was, number), *new = json_array_get(is, number);
        char what[64];
        snprintf(what, sizeof what, "input %zu", number + 1);
        same = check_same(job, what, json_object_get(old, "name"), json_object_get(new, "name"),
                          fault);
        const json_t *bytes_was = json_object_get(old, "bytes");
        const json_t *bytes_is = json_object_get(new, "bytes");
        if (same && !json_equal(bytes_was, bytes_is))
            log_note("%s had %lld bytes and has %lld now: lines that are not answered are run",
                     json_string_value(json_object_get(new, "name")),
                     (long long)json_integer_value(bytes_was),
                     (long long)json_integer_value(bytes_is));
    }
    return same;
}

static bool check_options(const struct job_file *job, const json_t *was, json_t *is,
                          struct fault *fault) {
    const char *name;
    json_t *value;
    json_object_foreach(is, name, value) {
        char what[64];
        snprintf(what, sizeof what, "--%s", name);
        for (char *at = what; *at; at++)
            *at = *at == '_' ? '-' : *at; /* as it is typed */
        if (!check_same(job, what, json_object_get(was, name), value, fault)) return false;
    }
    return true;
}

bool job_file_check(const struct job_file *job, const struct options *options,
                    const char *model_fingerprint, struct fault *fault) {
    char shown[512];
    log_escape(shown, sizeof shown, job->path, strlen(job->path));
    if (!json_is_object(job->record))
        return fault_user(fault,
                          "cannot resume: %s, which says what the answers were made with, is %s; "
                          "give another output, or --overwrite",
                          shown, job->created || job->fd < 0 ? "not there" : "damaged");
    json_t *record = make_record(options, model_fingerprint);
    static const char *const single[] = {"version", "model", "errors"};
    bool same = true;
    for (size_t row = 0; same && row < sizeof single / sizeof *single; row++)
        same = check_same(job, single[row], json_object_get(job->record, single[row]),
                          json_object_get(record, single[row]), fault);
    same = same && check_options(job, json_object_get(job->record, "options"),
                                 json_object_get(record, "options"), fault);
    same = same && check_inputs(job, json_object_get(job->record, "inputs"),
                                json_object_get(record, "inputs"), fault);
    json_decref(record);
    return same;
}

static bool write_beside(int fd, const json_t *record) {
    char *text = json_dumps(record, JSON_INDENT(2));
    REQUIRE(text != NULL, "no memory for the job's record");
    size_t n_bytes = strlen(text);
    text[n_bytes] = '\n'; /* in place of its 0 */
    errno = ENOSPC;       /* of a write that ends early */
    bool written = write(fd, text, n_bytes + 1) == (ssize_t)n_bytes + 1 && fsync(fd) == 0;
    free(text);
    return written;
}

/* Put a new version in place, locked before anybody can see it. */
static bool replace(struct job_file *job, const json_t *record, struct fault *fault) {
    size_t n_path = strlen(job->path) + sizeof ".tmp";
    char *path = check_alloc(n_path, 1);
    snprintf(path, n_path, "%s.tmp", job->path);
    unlink(path); /* a killed run's; the lock says that none is at it now */
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    bool done = fd >= 0 && try_lock(fd) != LOCK_BUSY && write_beside(fd, record) &&
                rename(path, job->path) == 0;
    if (!done) {
        output_fault(fault, "write", path);
        if (fd >= 0) unlink(path);
        if (fd >= 0) close(fd);
    } else {
        close(job->fd);
        job->fd = fd;
        job->created = false;
        done = output_sync_folder(job->path, fault);
    }
    free(path);
    return done;
}

const char *job_file_uuid(const struct job_file *job) {
    const char *uuid = json_string_value(json_object_get(job->record, "uuid"));
    return uuid && strlen(uuid) == 36 ? uuid : NULL;
}

bool job_file_write(struct job_file *job, const struct options *options,
                    const char *model_fingerprint, const char *uuid, struct fault *fault) {
    char made[UUID_BYTES];
    if (!uuid && !uuid_make(made, fault)) return false;
    json_t *record = make_record(options, model_fingerprint);
    json_object_set_new(record, "uuid", json_string(uuid ? uuid : made));
    bool written = replace(job, record, fault);
    if (written) json_decref(job->record);
    if (written) job->record = json_incref(record);
    json_decref(record);
    return written;
}

char *job_file_options(const struct options *options) {
    json_t *object = make_options(options);
    char *text = json_dumps(object, JSON_COMPACT | JSON_SORT_KEYS);
    REQUIRE(text != NULL, "no memory for a job's options");
    json_decref(object);
    return text;
}
