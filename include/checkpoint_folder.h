/* checkpoint_folder.h - the folder of a job's checkpoints, as the leader keeps it.
 *
 * The folder belongs to one job, whose uuid stands in checkpoint.job.json (a job file of its own,
 * whose lock the leader holds for its whole life) and in every file. manifest.json says which
 * checkpoints there are; the last two are kept. A checkpoint counts from the moment its manifest is
 * in place: answers are durable before the ranks' files, these before the leader's, these before
 * the manifest. Only files that a manifest lists are deleted.
 */
#ifndef LAMINA_CHECKPOINT_FOLDER_H
#define LAMINA_CHECKPOINT_FOLDER_H

#include <stdbool.h>
#include <stdint.h>

#include "check.h"
#include "checkpoint_kv.h"
#include "checkpoint_manifest.h"
#include "checkpoint_progress.h"
#include "options.h"

struct checkpoint_folder;

/* Could options->checkpoint be the folder of this job, new or resumed? A manifest that cannot be
 * understood is refused, with --overwrite too: nobody knows then what may be deleted. Leaves
 * nothing behind. A file system without room gets a warning. */
bool checkpoint_folder_check(const struct options *options, struct fault *fault);

/* Open it before the output is touched: made (mode 0700) where it is not there, locked (waiting up
 * to 30 s), and asked again what checkpoint_folder_check asks. No checkpoint is touched.
 * A file system without room is no fault, of claim neither: what is there can be read, and
 * checkpoint_folder_begin tries again. `options` are borrowed. */
bool checkpoint_folder_open(struct checkpoint_folder **folder, const struct options *options,
                            struct fault *fault);

/* Take it for the job `uuid`. One of another job is the user's fault, unless --overwrite was given:
 * then the files its manifest lists are deleted. `uuid` and `fingerprint` are copied. */
bool checkpoint_folder_claim(struct checkpoint_folder *folder, const char *uuid,
                             const char *fingerprint, struct fault *fault);

/* A file system without room is no reason not to run: say so, and forget the fault. False for any
 * other. */
bool checkpoint_folder_forgive(struct fault *fault);

/* Release the lock. With `finished` the job needs no checkpoint any more: all of it is deleted, but
 * for the folder. A folder that was made and never claimed is taken away. NULL does nothing. */
void checkpoint_folder_close(struct checkpoint_folder *folder, bool finished);

/* The newest checkpoint whose progress can be read, into *progress (progress_close); NULL when
 * there is none. One that is damaged is passed over with a warning. A view until the next commit.
 */
const struct manifest_checkpoint *checkpoint_folder_find(const struct checkpoint_folder *folder,
                                                         struct checkpoint_progress *progress);

/* Read the progress of one of the manifest's checkpoints in folder `path`: false where it is
 * damaged or of another job. */
bool checkpoint_folder_progress(const char *path, const struct manifest *manifest,
                                const struct manifest_checkpoint *checkpoint,
                                struct checkpoint_progress *progress, struct fault *fault);

/* The number of the next checkpoint: higher than that of any before, of this run or another,
 * whatever became of it; a file of one that failed can thus never pass for a later one's. */
int64_t checkpoint_folder_next(const struct checkpoint_folder *folder);

/* What tells files of an attempt at checkpoint `number` from all others: random for each run. */
uint64_t checkpoint_folder_attempt(const struct checkpoint_folder *folder, int64_t number);

/* Before every checkpoint of a run of heads x sequences ranks with KV, of which the first that goes
 * well does it: note in the manifest which files the first one will make, and delete what one that
 * was killed has left. */
bool checkpoint_folder_begin(struct checkpoint_folder *folder, int heads, int sequences,
                             struct fault *fault);

/* Bytes free where the folder `path` is, or would be made; -1 when the file system does not say. */
int64_t checkpoint_folder_free(const char *path);

/* A checkpoint whose ranks' files are in place. */
struct checkpoint_commit {
    struct checkpoint_progress
        progress; /* uuid, fingerprint, created, number and attempt are filled in here */
    bool with_kv;
    struct kv_file_shape shape;
    int64_t begin_ns; /* clock_now_ns of its drain */
};

/* Write the leader's files and the manifest, and delete what no kept checkpoint needs. May run on
 * another thread, while nothing else is called. *written: the checkpoint's own bytes, ranks' new
 * files and all. The number is used up, and a checkpoint that failed here given up. */
bool checkpoint_folder_commit(struct checkpoint_folder *folder, struct checkpoint_commit *commit,
                              int64_t number, int64_t *written, struct fault *fault);

/* Checkpoint `number` came to nothing: delete what the leader finds of it, and note in the manifest
 * which files the next will make. Likewise on another thread. */
void checkpoint_folder_give_up(struct checkpoint_folder *folder, int64_t number);

#endif
