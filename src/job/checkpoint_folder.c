/* checkpoint_folder.c - a folder of checkpoints. See checkpoint_folder.h.
 *
 * Owns the lock, the manifest as it stands on disk, and the order in which a checkpoint becomes
 * one. The invariant: what the manifest in memory lists is what manifest.json lists, so a file is
 * never deleted that the one on disk still names. What a job file is, job_file.c knows.
 */
#include "checkpoint_folder.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "checkpoint_master.h"
#include "clock.h"
#include "job_file.h"
#include "log.h"
#include "output.h"

static const double LOCK_WAIT_S = 30;

struct checkpoint_folder {
    const char *path; /* as typed */
    struct job_file job;
    struct manifest manifest;
    char *options; /* JSON of those that change tokens */
};

static char *join(const char *folder, const char *name) {
    size_t n_bytes = strlen(folder) + strlen(name) + 2;
    char *path = check_alloc(n_bytes, 1);
    snprintf(path, n_bytes, "%s/%s", folder, name);
    return path;
}

static bool belongs_to_another(const struct checkpoint_folder *folder, const char *theirs,
                               struct fault *fault) {
    char shown[512];
    return fault_user(fault,
                      "--checkpoint %s belongs to another job (%s): give a folder of its own, or "
                      "--overwrite",
                      log_escape(shown, sizeof shown, folder->path, strlen(folder->path)), theirs);
}

bool checkpoint_folder_check(const struct options *options, struct fault *fault) {
    struct checkpoint_folder folder = {.path = options->checkpoint};
    struct stat status;
    char shown[512];
    if (stat(folder.path, &status) != 0)
        return output_check_folder(folder.path, folder.path, fault);
    if (!S_ISDIR(status.st_mode))
        return fault_user(fault, "--checkpoint %s is not a folder",
                          log_escape(shown, sizeof shown, folder.path, strlen(folder.path)));
    if (access(folder.path, R_OK | W_OK | X_OK) != 0)
        return output_fault(fault, "write", folder.path);
    if (options->resume || options->overwrite) return true;
    bool good = manifest_read(&folder.manifest, folder.path, fault) &&
                (folder.manifest.n_checkpoints == 0 ||
                 belongs_to_another(&folder, folder.manifest.uuid, fault));
    manifest_close(&folder.manifest);
    return good;
}

/* Another job's checkpoints go when they may be overwritten. Nobody is at work on them: the lock is
 * ours. */
static bool take_over(struct checkpoint_folder *folder, const struct options *options,
                      const char *uuid, const char *fingerprint, struct fault *fault) {
    if (folder->manifest.n_checkpoints == 0 || strcmp(folder->manifest.uuid, uuid) == 0)
        return true;
    if (!options->overwrite) return belongs_to_another(folder, folder->manifest.uuid, fault);
    struct manifest none = {0};
    memcpy(none.uuid, uuid, sizeof none.uuid);
    memcpy(none.fingerprint, fingerprint, sizeof none.fingerprint);
    if (!manifest_write(&none, folder->path, fault)) return false;
    manifest_delete_unlisted(&folder->manifest, &none, folder->path);
    manifest_close(&folder->manifest);
    return true;
}

bool checkpoint_folder_open(struct checkpoint_folder **opened, const struct options *options,
                            const char *uuid, const char *fingerprint, struct fault *fault) {
    struct checkpoint_folder *folder = check_alloc(1, sizeof *folder);
    folder->path = options->checkpoint;
    char *job = join(folder->path, "checkpoint");
    bool made = mkdir(folder->path, 0700) == 0;
    bool good = (made || errno == EEXIST || output_fault(fault, "make", folder->path)) &&
                (!made || output_sync_folder(folder->path, fault)) &&
                job_file_open(&folder->job, job, LOCK_WAIT_S, fault) &&
                manifest_read(&folder->manifest, folder->path, fault) &&
                take_over(folder, options, uuid, fingerprint, fault) &&
                job_file_write(&folder->job, options, fingerprint, uuid, fault);
    free(job);
    if (!good) {
        checkpoint_folder_close(folder, false);
        return false;
    }
    snprintf(folder->manifest.uuid, sizeof folder->manifest.uuid, "%s", uuid);
    snprintf(folder->manifest.fingerprint, sizeof folder->manifest.fingerprint, "%s", fingerprint);
    folder->options = job_file_options(options);
    *opened = folder;
    return true;
}

/* The manifest last: a run killed here leaves one that says what is left. */
static void delete_all(struct checkpoint_folder *folder) {
    struct manifest none = {0};
    char *manifest = join(folder->path, "manifest.json");
    manifest_delete_unlisted(&folder->manifest, &none, folder->path);
    const char *last[] = {manifest, folder->job.path};
    for (int at = 0; at < 2; at++) {
        struct fault fault = {0};
        if (unlink(last[at]) == 0 || errno == ENOENT) continue;
        output_fault(&fault, "delete", last[at]);
        log_warning("%s", fault.text);
    }
    free(manifest);
}

void checkpoint_folder_close(struct checkpoint_folder *folder, bool finished) {
    if (!folder) return;
    if (finished) delete_all(folder);
    manifest_close(&folder->manifest);
    job_file_close(&folder->job);
    free(folder->options);
    free(folder);
}

const struct manifest_checkpoint *checkpoint_folder_find(const struct checkpoint_folder *folder,
                                                         struct checkpoint_progress *progress) {
    for (int at = 0; at < folder->manifest.n_checkpoints; at++) {
        const struct manifest_checkpoint *checkpoint = &folder->manifest.checkpoint[at];
        struct fault fault = {0};
        bool good =
            checkpoint_progress_read(progress, folder->path, checkpoint->file[0].name, &fault);
        if (good && strcmp(progress->uuid, folder->manifest.uuid) != 0) {
            fault_world(&fault, "%s is of another job", checkpoint->file[0].name);
            checkpoint_progress_close(progress);
            good = false;
        }
        if (good) return checkpoint;
        log_warning("checkpoint %lld cannot be used: %s", (long long)checkpoint->number,
                    fault.text);
    }
    return NULL;
}

int64_t checkpoint_folder_next(const struct checkpoint_folder *folder) {
    return folder->manifest.n_checkpoints ? folder->manifest.checkpoint[0].number + 1 : 1;
}

int64_t checkpoint_folder_free(const struct checkpoint_folder *folder) {
    struct statvfs status;
    if (statvfs(folder->path, &status) != 0) return -1;
    return (int64_t)status.f_bavail * (int64_t)status.f_frsize;
}

/* ---- a commit ---------------------------------------------------------------------------------
 */

static void add_file(struct manifest_checkpoint *checkpoint, const char *name, int64_t n_bytes) {
    size_t length = strlen(name) + 1;
    char *copy = check_alloc(length, 1);
    memcpy(copy, name, length);
    checkpoint->file[checkpoint->n_files++] =
        (struct manifest_file){.name = copy, .n_bytes = n_bytes};
}

static bool is_listed(const struct manifest_checkpoint *checkpoint, const char *name) {
    for (int file = 0; file < checkpoint->n_files; file++) {
        if (strcmp(checkpoint->file[file].name, name) == 0) return true;
    }
    return false;
}

static bool size_of(const struct checkpoint_folder *folder, const char *name, int64_t *n_bytes,
                    struct fault *fault) {
    struct stat status;
    char *path = join(folder->path, name);
    bool good = stat(path, &status) == 0 || fault_world(fault, "%s: %s", name, strerror(errno));
    if (good) *n_bytes = status.st_size;
    free(path);
    return good;
}

/* The ranks' new files, then the older ones these refer to. */
static bool list_kv(struct checkpoint_folder *folder, const struct checkpoint_commit *commit,
                    struct manifest_checkpoint *checkpoint, struct fault *fault) {
    struct kv_index *index = check_alloc((size_t)commit->n_kv + 1, sizeof *index);
    size_t n_most = 2 + (size_t)commit->n_kv;
    bool good = true;
    for (int file = 0; file < commit->n_kv && good; file++) {
        good = kv_index_read(&index[file], folder->path, commit->kv[file], fault);
        n_most += (size_t)index[file].n_older;
        checkpoint->kv_bytes += (int64_t)index[file].n_pages * 2 * commit->shape.n_layers *
                                index[file].about.n_heads * PAGE_TOKENS * commit->shape.head_dim *
                                (int64_t)element_bytes(commit->shape.element);
    }
    struct manifest_file *larger = check_alloc(n_most, sizeof *larger);
    memcpy(larger, checkpoint->file, (size_t)checkpoint->n_files * sizeof *larger);
    free(checkpoint->file);
    checkpoint->file = larger;
    int64_t n_bytes = 0;
    for (int file = 0; file < commit->n_kv && good; file++) {
        good = size_of(folder, commit->kv[file], &n_bytes, fault);
        if (good) add_file(checkpoint, commit->kv[file], n_bytes);
    }
    checkpoint->n_kv = commit->n_kv;
    for (int file = 0; file < commit->n_kv; file++) {
        for (int older = 0; older < index[file].n_older && good; older++) {
            const char *name = index[file].older[older];
            if (is_listed(checkpoint, name)) continue;
            good = size_of(folder, name, &n_bytes, fault);
            if (good) add_file(checkpoint, name, n_bytes);
        }
        kv_index_close(&index[file]);
    }
    free(index);
    return good;
}

static void stamp(char text[32]) {
    time_t now = time(NULL);
    struct tm utc;
    strftime(text, 32, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
}

/* The leader's two files. */
static bool write_files(struct checkpoint_folder *folder, struct checkpoint_commit *commit,
                        struct manifest_checkpoint *checkpoint, struct fault *fault) {
    char progress[64], master[64];
    int64_t n_bytes;
    snprintf(progress, sizeof progress, "c%06lld-progress.h5", (long long)checkpoint->number);
    snprintf(master, sizeof master, "c%06lld.h5", (long long)checkpoint->number);
    struct master_about about = {.uuid = folder->manifest.uuid,
                                 .number = checkpoint->number,
                                 .shape = commit->shape,
                                 .progress = progress,
                                 .n_files = commit->n_kv,
                                 .file = (const char *const *)commit->kv};
    checkpoint->file = check_alloc(2, sizeof *checkpoint->file);
    if (!checkpoint_progress_write(&commit->progress, folder->path, progress, &n_bytes, fault))
        return false;
    add_file(checkpoint, progress, n_bytes);
    if (!master_write(&about, folder->path, master, &n_bytes, fault)) return false;
    add_file(checkpoint, master, n_bytes);
    return true;
}

static void close_checkpoint(struct manifest_checkpoint *checkpoint) {
    for (int file = 0; file < checkpoint->n_files; file++)
        free(checkpoint->file[file].name);
    free(checkpoint->file);
    *checkpoint = (struct manifest_checkpoint){0};
}

/* The new one in front; of those before, the newest. */
static bool put_in_front(struct checkpoint_folder *folder, struct manifest_checkpoint *checkpoint,
                         struct fault *fault) {
    struct manifest now = folder->manifest, *before = &folder->manifest;
    now.checkpoint[0] = *checkpoint;
    now.checkpoint[1] = before->checkpoint[0];
    now.n_checkpoints = before->n_checkpoints ? 2 : 1;
    if (!manifest_write(&now, folder->path, fault)) return false;
    manifest_delete_unlisted(before, &now, folder->path);
    close_checkpoint(&before->checkpoint[1]);
    *before = now;
    return true;
}

bool checkpoint_folder_commit(struct checkpoint_folder *folder, struct checkpoint_commit *commit,
                              int64_t number, int64_t *written, struct fault *fault) {
    struct manifest_checkpoint checkpoint = {.number = number};
    struct checkpoint_progress *progress = &commit->progress;
    stamp(checkpoint.created);
    memcpy(progress->uuid, folder->manifest.uuid, sizeof progress->uuid);
    memcpy(progress->fingerprint, folder->manifest.fingerprint, sizeof progress->fingerprint);
    memcpy(progress->created, checkpoint.created, sizeof progress->created);
    progress->number = number;
    progress->options = folder->options;
    bool good = write_files(folder, commit, &checkpoint, fault) &&
                list_kv(folder, commit, &checkpoint, fault);
    progress->options = NULL;
    checkpoint.write_s = (double)(clock_now_ns() - commit->begin_ns) * 1e-9;
    *written = 0;
    for (int file = 0; good && file < 2 + commit->n_kv; file++)
        *written += checkpoint.file[file].n_bytes;
    good = good && put_in_front(folder, &checkpoint, fault);
    if (!good) close_checkpoint(&checkpoint);
    return good;
}
