/* checkpoint_folder.c - a folder of checkpoints. See checkpoint_folder.h.
 *
 * Owns the lock, the manifest as it stands on disk, and the order in which a checkpoint becomes
 * one. The invariants: what the manifest in memory lists, manifest.json lists too, or will as soon
 * as the disk tells the truth, so a file is never deleted that the one on disk still needs; and
 * numbers only rise, over failures and over runs, so no file is ever written in the place of
 * another attempt's. What a job file is, job_file.c knows.
 */
#include "checkpoint_folder.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "checkpoint_master.h"
#include "checkpoint_pages.h"
#include "clock.h"
#include "job_file.h"
#include "log.h"
#include "output.h"
#include "uuid.h"

static const double LOCK_WAIT_S = 30;

struct checkpoint_folder {
    const char *path; /* as typed */
    bool made;        /* by this process, and not the job's yet */
    const struct options *typed;
    char uuid[UUID_BYTES], fingerprint[33];
    bool taken; /* there, locked and read */
    bool ours;  /* no other job's, or no more */
    bool noted; /* so in the job file */
    bool begun; /* which files come next, in the manifest */
    struct job_file job;
    struct manifest manifest;
    int64_t number;       /* the highest of all attempts there were */
    uint64_t run;         /* random */
    char *options;        /* JSON of those that change tokens */
    int heads, sequences; /* ranks with KV: heads x sequences */
};

static bool belongs_to_another(const struct checkpoint_folder *folder, const char *theirs,
                               struct fault *fault) {
    char shown[512];
    return fault_user(fault,
                      "--checkpoint %s belongs to another job (%s): give a folder of its own, or "
                      "--overwrite",
                      log_escape(shown, sizeof shown, folder->path, strlen(folder->path)), theirs);
}

/* The output, whose answers are what a checkpoint goes on from. */
static bool find_output(struct output *place, const struct options *options, struct fault *fault) {
    *place = (struct output){.fd = -1};
    if (options->output && !output_find(place, options->output, fault)) return false;
    return !place->is_stream ||
           fault_user(fault, "--checkpoint needs an output that is a file: a checkpoint goes "
                             "on from the answers in it");
}

/* The uuid of the job that made the output, as its record has it; not set where there is none. */
static bool look_up_uuid(char uuid[UUID_BYTES], const struct options *options,
                         struct fault *fault) {
    struct output place;
    struct job_file job = {0};
    bool good = find_output(&place, options, fault) &&
                (!place.path || job_file_look(&job, place.path, fault));
    const char *found = good && place.path ? job_file_uuid(&job) : NULL;
    if (found) memcpy(uuid, found, UUID_BYTES);
    job_file_close(&job);
    output_close(&place);
    return good;
}

/* A new job's folder has no checkpoints, a resumed one's those of the job that made the output. */
static bool check_manifest(const struct checkpoint_folder *folder, const struct options *options,
                           struct fault *fault) {
    char own[UUID_BYTES] = "";
    if (options->overwrite || folder->manifest.n_checkpoints == 0) return true;
    memcpy(own, folder->uuid, sizeof own); /* known once the output is open */
    if (options->resume && !*own && !look_up_uuid(own, options, fault)) return false;
    return strcmp(own, folder->manifest.uuid) == 0 ||
           belongs_to_another(folder, folder->manifest.uuid, fault);
}

/* The folder that holds another, to be freed: what stands before the last name. */
static char *copy_parent(const char *path) {
    char *parent = manifest_path(path, "");
    size_t n_bytes = strlen(path);
    while (n_bytes > 1 && path[n_bytes - 1] == '/')
        n_bytes--;
    while (n_bytes > 0 && path[n_bytes - 1] != '/')
        n_bytes--;
    parent[n_bytes] = 0;
    return *parent ? parent : strcpy(parent, ".");
}

/* Something like what a run will make, made and taken away again. */
static bool try_to_make(const char *path, bool is_there, struct fault *fault) {
    char *parent = is_there ? manifest_path(path, "") : copy_parent(path);
    char *file = manifest_path(path, "checkpoint.job.json");
    char *trial = manifest_path(parent, ".lamina.XXXXXX");
    bool made = mkdtemp(trial) != NULL;
    if (made) rmdir(trial);
    if (!made) output_fault(fault, is_there ? "write" : "make", is_there ? file : path);
    free(parent);
    free(file);
    free(trial);
    return made || checkpoint_folder_forgive(fault);
}

static bool check_folder(const struct options *options, struct fault *fault) {
    struct checkpoint_folder folder = {.path = options->checkpoint};
    struct stat status;
    char shown[512];
    if (stat(folder.path, &status) != 0)
        return errno == ENOENT ? try_to_make(folder.path, lstat(folder.path, &status) == 0, fault)
                               : output_fault(fault, "make", folder.path);
    if (!S_ISDIR(status.st_mode))
        return fault_user(fault, "--checkpoint %s is not a folder",
                          log_escape(shown, sizeof shown, folder.path, strlen(folder.path)));
    if (access(folder.path, R_OK | W_OK | X_OK) != 0)
        return output_fault(fault, "write", folder.path);
    if (!try_to_make(folder.path, true, fault)) return false;
    bool good = manifest_read(&folder.manifest, folder.path, fault) &&
                check_manifest(&folder, options, fault);
    manifest_close(&folder.manifest);
    return good;
}

bool checkpoint_folder_check(const struct options *options, struct fault *fault) {
    struct output place;
    bool good = find_output(&place, options, fault) && check_folder(options, fault);
    output_close(&place);
    return good;
}

/* Another job's checkpoints go when they may be overwritten. Nobody is at work on them: the lock is
 * ours. */
static bool take_over(struct checkpoint_folder *folder, struct fault *fault) {
    if (folder->manifest.n_checkpoints == 0 || strcmp(folder->manifest.uuid, folder->uuid) == 0)
        return true;
    if (!folder->typed->overwrite) return belongs_to_another(folder, folder->manifest.uuid, fault);
    struct manifest none = {0};
    memcpy(none.uuid, folder->uuid, sizeof none.uuid);
    memcpy(none.fingerprint, folder->fingerprint, sizeof none.fingerprint);
    if (manifest_replace(&folder->manifest, &none, folder->path, fault)) return true;
    manifest_close(&none);
    return false;
}

/* ---- numbers ----------------------------------------------------------------------------------
 */

/* Of the checkpoint that a name is a file of, or 0. No job comes to make more than MOST_DIGITS say,
 * and a name of somebody else's must not lead past what a manifest can hold. */
static int64_t number_of(const char *name) {
    enum { MOST_DIGITS = 9 };
    if (name[0] != 'c') return 0;
    size_t n_digits = strspn(name + 1, "0123456789");
    char next = name[1 + n_digits];
    if (n_digits < 1 || n_digits > MOST_DIGITS || (next != '-' && next != '.')) return 0;
    return strtoll(name + 1, NULL, 10);
}

static void pass(struct checkpoint_folder *folder, int64_t number) {
    if (number > folder->number) folder->number = number;
}

/* The highest that the manifest lists, promises or a file bears. */
static bool find_number(struct checkpoint_folder *folder, struct fault *fault) {
    const struct manifest *manifest = &folder->manifest;
    for (int at = 0; at < manifest->n_checkpoints; at++)
        pass(folder, manifest->checkpoint[at].number);
    for (int at = 0; at < manifest->n_next; at++)
        pass(folder, number_of(manifest->next[at]));
    DIR *entries = opendir(folder->path);
    if (!entries) return output_fault(fault, "read", folder->path);
    errno = 0;
    for (struct dirent *entry; (entry = readdir(entries));)
        pass(folder, number_of(entry->d_name));
    bool good = errno == 0 || output_fault(fault, "read", folder->path);
    closedir(entries);
    return good;
}

static bool draw_run(struct checkpoint_folder *folder, struct fault *fault) {
    return getrandom(&folder->run, sizeof folder->run, 0) == (ssize_t)sizeof folder->run ||
           fault_world(fault, "no random numbers: %s", strerror(errno));
}

int64_t checkpoint_folder_next(const struct checkpoint_folder *folder) {
    return folder->number + 1;
}

uint64_t checkpoint_folder_attempt(const struct checkpoint_folder *folder, int64_t number) {
    return folder->run + (uint64_t)number;
}

/* ---- opening ----------------------------------------------------------------------------------
 */

bool checkpoint_folder_forgive(struct fault *fault) {
    if (!fault->no_room) return false;
    log_warning("%s: the run goes on, and every checkpoint tries again", fault->text);
    *fault = (struct fault){0};
    return true;
}

/* All that needs no room, but for a folder that is not there. */
static bool take(struct checkpoint_folder *folder, double wait_s, struct fault *fault) {
    if (folder->taken) return true;
    char *job = manifest_path(folder->path, "checkpoint");
    bool made = mkdir(folder->path, 0700) == 0;
    folder->made = folder->made || made;
    folder->taken = (made || errno == EEXIST || output_fault(fault, "make", folder->path)) &&
                    (!made || output_sync_folder(folder->path, fault)) &&
                    job_file_open(&folder->job, job, wait_s, fault) &&
                    manifest_read(&folder->manifest, folder->path, fault) &&
                    check_manifest(folder, folder->typed, fault) && find_number(folder, fault) &&
                    draw_run(folder, fault);
    free(job);
    if (!folder->taken) {
        manifest_close(&folder->manifest);
        job_file_close(&folder->job);
    }
    return folder->taken;
}

/* Make it the job's, when that is known. */
static bool own(struct checkpoint_folder *folder, struct fault *fault) {
    if (folder->noted) return true;
    folder->ours = folder->ours || take_over(folder, fault);
    if (!folder->ours) return false;
    memcpy(folder->manifest.uuid, folder->uuid, sizeof folder->uuid);
    memcpy(folder->manifest.fingerprint, folder->fingerprint, sizeof folder->fingerprint);
    folder->noted =
        job_file_write(&folder->job, folder->typed, folder->fingerprint, folder->uuid, fault);
    if (folder->noted) folder->made = false; /* it stays */
    return folder->noted;
}

bool checkpoint_folder_open(struct checkpoint_folder **opened, const struct options *options,
                            struct fault *fault) {
    struct checkpoint_folder *folder = check_alloc(1, sizeof *folder);
    folder->path = options->checkpoint;
    folder->typed = options;
    bool good = take(folder, LOCK_WAIT_S, fault) || fault->no_room;
    if (good) *opened = folder;
    if (good) *fault = (struct fault){0}; /* without room: checkpoint_folder_begin will tell */
    if (!good) checkpoint_folder_close(folder, false);
    return good;
}

bool checkpoint_folder_claim(struct checkpoint_folder *folder, const char *uuid,
                             const char *fingerprint, struct fault *fault) {
    snprintf(folder->uuid, sizeof folder->uuid, "%s", uuid);
    snprintf(folder->fingerprint, sizeof folder->fingerprint, "%s", fingerprint);
    if (folder->taken && !own(folder, fault) && !fault->no_room) return false;
    *fault = (struct fault){0};
    folder->options = job_file_options(folder->typed);
    return true;
}

/* The manifest last: a run killed here leaves one that says what is left. */
static void delete_all(struct checkpoint_folder *folder) {
    char *manifest = manifest_path(folder->path, "manifest.json");
    manifest_delete_all(&folder->manifest, folder->path);
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
    if (finished && folder->ours) delete_all(folder);
    manifest_close(&folder->manifest);
    job_file_close(&folder->job);
    if (folder->made) rmdir(folder->path); /* and nobody's file in it */
    free(folder->options);
    free(folder);
}

bool checkpoint_folder_progress(const char *path, const struct manifest *manifest,
                                const struct manifest_checkpoint *checkpoint,
                                struct checkpoint_progress *progress, struct fault *fault) {
    const char *name = checkpoint->file[0].name;
    *progress = (struct checkpoint_progress){0};
    if (!manifest_check(&checkpoint->file[0], path, fault) ||
        !checkpoint_progress_read(progress, path, name, fault))
        return false;
    if (strcmp(progress->uuid, manifest->uuid) == 0 && progress->number == checkpoint->number)
        return true;
    checkpoint_progress_close(progress);
    return fault_world(fault, "%s is of another job or checkpoint", name);
}

const struct manifest_checkpoint *checkpoint_folder_find(const struct checkpoint_folder *folder,
                                                         struct checkpoint_progress *progress) {
    for (int at = 0; at < folder->manifest.n_checkpoints; at++) {
        const struct manifest_checkpoint *checkpoint = &folder->manifest.checkpoint[at];
        struct fault fault = {0};
        if (checkpoint_folder_progress(folder->path, &folder->manifest, checkpoint, progress,
                                       &fault))
            return checkpoint;
        log_warning("checkpoint %lld cannot be used: %s", (long long)checkpoint->number,
                    fault.text);
    }
    return NULL;
}

int64_t checkpoint_folder_free(const char *path) {
    struct statvfs status;
    char *parent = copy_parent(path);
    bool said = statvfs(path, &status) == 0 || statvfs(parent, &status) == 0;
    free(parent);
    if (!said) return -1;
    return (int64_t)status.f_bavail * (int64_t)status.f_frsize;
}

/* ---- names ------------------------------------------------------------------------------------
 */

static char *copy_name(const char *name) {
    size_t n_bytes = strlen(name) + 1;
    return memcpy(check_alloc(n_bytes, 1), name, n_bytes);
}

/* The files of a checkpoint as the manifest orders them: the leader's two, then the ranks', by
 * owner and head share. (2 + heads x sequences) names, to be freed by close_names. */
static char **make_names(const struct checkpoint_folder *folder, int64_t number) {
    int n_kv = folder->heads * folder->sequences;
    char text[CHECKPOINT_NAME_BYTES], **name = check_alloc((size_t)n_kv + 2, sizeof *name);
    snprintf(text, sizeof text, "c%06lld-progress.h5", (long long)number);
    name[0] = copy_name(text);
    snprintf(text, sizeof text, "c%06lld.h5", (long long)number);
    name[1] = copy_name(text);
    for (int file = 0; file < n_kv; file++) {
        checkpoint_pages_name(text, number, file / folder->heads, file % folder->heads);
        name[2 + file] = copy_name(text);
    }
    return name;
}

static void close_names(char **name, int n_names) {
    for (int at = 0; at < n_names; at++)
        free(name[at]);
    free(name);
}

/* No manifest could tell that these files will be made: they are known here, and go with a later
 * one. Takes the list. */
static void remember(struct manifest *manifest, char **name, int n_names) {
    size_t n = (size_t)manifest->n_next;
    char **larger = check_alloc(n + (size_t)n_names, sizeof *larger);
    if (n > 0) memcpy(larger, manifest->next, n * sizeof *larger);
    memcpy(larger + n, name, (size_t)n_names * sizeof *larger);
    free(manifest->next);
    free(name);
    manifest->next = larger;
    manifest->n_next += n_names;
}

/* Put the manifest in place that has these checkpoints, and tells the next one's files. */
static bool replace_manifest(struct checkpoint_folder *folder, struct manifest now,
                             struct fault *fault) {
    now.n_next = 2 + folder->heads * folder->sequences;
    now.next = make_names(folder, checkpoint_folder_next(folder));
    if (manifest_replace(&folder->manifest, &now, folder->path, fault)) return true;
    remember(&folder->manifest, now.next, now.n_next);
    return false;
}

bool checkpoint_folder_begin(struct checkpoint_folder *folder, int heads, int sequences,
                             struct fault *fault) {
    folder->heads = heads;
    folder->sequences = sequences;
    folder->begun = folder->begun || (take(folder, 0, fault) && own(folder, fault) &&
                                      replace_manifest(folder, folder->manifest, fault));
    return folder->begun;
}

void checkpoint_folder_give_up(struct checkpoint_folder *folder, int64_t number) {
    struct fault ignored = {0}; /* whatever keeps the manifest has been told of the checkpoint */
    pass(folder, number);
    replace_manifest(folder, folder->manifest, &ignored);
}

/* ---- a commit ---------------------------------------------------------------------------------
 */

static void add_file(struct manifest_checkpoint *checkpoint, const char *name, int64_t n_bytes) {
    checkpoint->file[checkpoint->n_files++] =
        (struct manifest_file){.name = copy_name(name), .n_bytes = n_bytes};
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
    char *path = manifest_path(folder->path, name);
    bool good = stat(path, &status) == 0 || fault_world(fault, "%s: %s", name, strerror(errno));
    if (good) *n_bytes = status.st_size;
    free(path);
    return good;
}

/* Read the indexes of the ranks' new files. */
static struct kv_index *read_indexes(struct checkpoint_folder *folder, char **name,
                                     struct manifest_checkpoint *checkpoint, struct fault *fault) {
    struct kv_index *index = check_alloc((size_t)checkpoint->n_kv + 1, sizeof *index);
    for (int file = 0; file < checkpoint->n_kv; file++) {
        if (!kv_index_read(&index[file], folder->path, name[file], fault)) break;
        const struct kv_file_about *about = &index[file].about;
        checkpoint->kv_bytes += (int64_t)index[file].n_pages * 2 * about->shape.n_layers *
                                about->n_heads * PAGE_TOKENS * about->shape.head_dim *
                                (int64_t)element_bytes(about->shape.element);
    }
    return index;
}

/* The ranks' new files `name`, then the older ones these refer to. */
static bool list_kv(struct checkpoint_folder *folder, char **name,
                    struct manifest_checkpoint *checkpoint, struct fault *fault) {
    int64_t n_bytes = 0;
    struct kv_index *index = read_indexes(folder, name, checkpoint, fault);
    size_t n_most = 2 + (size_t)checkpoint->n_kv;
    for (int file = 0; file < checkpoint->n_kv; file++)
        n_most += (size_t)index[file].n_older;
    struct manifest_file *larger = check_alloc(n_most, sizeof *larger);
    memcpy(larger, checkpoint->file, (size_t)checkpoint->n_files * sizeof *larger);
    free(checkpoint->file);
    checkpoint->file = larger;
    for (int file = 0; file < checkpoint->n_kv && !fault->kind; file++) {
        if (size_of(folder, name[file], &n_bytes, fault)) add_file(checkpoint, name[file], n_bytes);
    }
    for (int file = 0; file < checkpoint->n_kv; file++) {
        for (int at = 0; at < index[file].n_older && !fault->kind; at++) {
            const char *older = index[file].older[at].name;
            if (!is_listed(checkpoint, older) && size_of(folder, older, &n_bytes, fault))
                add_file(checkpoint, older, n_bytes);
        }
        kv_index_close(&index[file]);
    }
    free(index);
    return !fault->kind;
}

/* The leader's two files, `name` and the one behind it. */
static bool write_files(struct checkpoint_folder *folder, struct checkpoint_commit *commit,
                        char **name, struct manifest_checkpoint *checkpoint, struct fault *fault) {
    int64_t n_bytes;
    struct master_about about = {.uuid = folder->manifest.uuid,
                                 .number = checkpoint->number,
                                 .attempt = commit->progress.attempt,
                                 .shape = commit->shape,
                                 .progress = name[0],
                                 .n_files = checkpoint->n_kv,
                                 .file = (const char *const *)name + 2};
    checkpoint->file = check_alloc(2, sizeof *checkpoint->file);
    if (!checkpoint_progress_write(&commit->progress, folder->path, name[0], &n_bytes, fault))
        return false;
    add_file(checkpoint, name[0], n_bytes);
    if (!master_write(&about, folder->path, name[1], &n_bytes, fault)) return false;
    add_file(checkpoint, name[1], n_bytes);
    return true;
}

/* The new one in front; of those before, the newest. */
static bool put_in_front(struct checkpoint_folder *folder, struct manifest_checkpoint *checkpoint,
                         struct fault *fault) {
    struct manifest now = folder->manifest, *before = &folder->manifest;
    now.checkpoint[0] = *checkpoint;
    now.checkpoint[1] = before->checkpoint[0];
    now.n_checkpoints = before->n_checkpoints ? 2 : 1;
    return replace_manifest(folder, now, fault);
}

bool checkpoint_folder_commit(struct checkpoint_folder *folder, struct checkpoint_commit *commit,
                              int64_t number, int64_t *written, struct fault *fault) {
    struct manifest_checkpoint checkpoint = {
        .number = number, .n_kv = commit->with_kv ? folder->heads * folder->sequences : 0};
    pass(folder, number);
    char **name = make_names(folder, number);
    struct checkpoint_progress *progress = &commit->progress;
    clock_stamp(checkpoint.created);
    memcpy(progress->uuid, folder->manifest.uuid, sizeof progress->uuid);
    memcpy(progress->fingerprint, folder->manifest.fingerprint, sizeof progress->fingerprint);
    memcpy(progress->created, checkpoint.created, sizeof progress->created);
    progress->number = number;
    progress->attempt = checkpoint_folder_attempt(folder, number);
    progress->options = folder->options;
    bool good = write_files(folder, commit, name, &checkpoint, fault) &&
                list_kv(folder, name + 2, &checkpoint, fault);
    close_names(name, 2 + folder->heads * folder->sequences);
    progress->options = NULL;
    checkpoint.write_s = (double)(clock_now_ns() - commit->begin_ns) * 1e-9;
    *written = 0;
    for (int file = 0; good && file < 2 + checkpoint.n_kv; file++)
        *written += checkpoint.file[file].n_bytes;
    good = good && put_in_front(folder, &checkpoint, fault);
    if (!good) {
        manifest_checkpoint_close(&checkpoint);
        checkpoint_folder_give_up(folder, number);
    }
    return good;
}
