/* checkpoint_manifest.h - FOLDER/manifest.json: which checkpoints there are. Its rename is the
 * commit of a checkpoint.
 *
 * At most two, the newest first, each with every file it needs, older ranks' files included; and
 * the files that no checkpoint needs but that may be there: those the next one will make, and those
 * that have yet to be deleted. Only files that a manifest lists are ever deleted. Names have no
 * slash. JSON, at most 16 MiB, with a checksum of itself: a changed digit in it is a damaged
 * manifest.
 */
#ifndef LAMINA_CHECKPOINT_MANIFEST_H
#define LAMINA_CHECKPOINT_MANIFEST_H

#include <stdbool.h>
#include <stdint.h>

#include "check.h"

enum { MANIFEST_CHECKPOINTS = 2, CHECKPOINT_FORMAT = 1 /* major of manifest and files */ };
#define MANIFEST_MOST_NUMBER INT64_C(1000000000000000) /* of a checkpoint */

struct manifest_file {
    char *name;
    int64_t n_bytes;
};
struct manifest_checkpoint {
    int64_t number;
    char created[32];           /* RFC 3339, UTC */
    double write_s;             /* from the drain until it was committed */
    int64_t kv_bytes;           /* of pages, over all ranks, as a restore reads them */
    int n_kv;                   /* the ranks' newest files: file[2 .. 2 + n_kv - 1] */
    int n_files;                /* file[0]: progress, file[1]: master, then n_kv, then older ones */
    struct manifest_file *file; /* (n_files) */
};
struct manifest {
    char uuid[37], fingerprint[33];
    int n_checkpoints;                                           /* 0: none */
    struct manifest_checkpoint checkpoint[MANIFEST_CHECKPOINTS]; /* newest first */
    int n_next;
    char **next; /* (n_next) names of files that may be there, whole or not, and are not needed */
};

/* Can what is of format_version `version` ("MAJOR.MINOR") at `path` be read? Of our major it can,
 * whatever the minor: what a minor adds may be left unread. Another major, older or newer, is the
 * user's fault naming both; no version at all the world's. */
bool manifest_check_version(const char *version, const char *path, struct fault *fault);

/* Read it. No such file: zeroed and true. Another format's major is the user's fault; one that
 * cannot be understood is the world's, with the reason and the cure. */
bool manifest_read(struct manifest *manifest, const char *folder, struct fault *fault);
/* Replace it: temporary file, fsync, rename, fsync of the folder. True when it has taken its place;
 * *durable: for good. It is not where the folder could not be synced, which is logged: the one
 * before may be back after a crash. False: most likely the one before is in place; a server whose
 * answer was lost may have done what it was told. */
bool manifest_write(const struct manifest *manifest, const char *folder, bool *durable,
                    struct fault *fault);
/* Put `now` in the place of *manifest, on disk and then in memory. now->next holds what is to be
 * made, to be freed; other files that *manifest lists and `now` does not are added to it, deleted
 * when `now` is durable, and taken from it again; so nothing is deleted that whatever manifest the
 * disk comes back with needs. False: *manifest stays, and names added are freed; now->next is the
 * caller's. Checkpoints in both (of the same number) are moved. */
bool manifest_replace(struct manifest *manifest, struct manifest *now, const char *folder,
                      struct fault *fault);
/* Is a file of a checkpoint there, with its size? */
bool manifest_check(const struct manifest_file *file, const char *folder, struct fault *fault);
/* Delete all files that it lists. What cannot be deleted is logged. */
void manifest_delete_all(const struct manifest *manifest, const char *folder);
/* Delete one file of the folder, if it is there; log where that cannot be. */
void manifest_delete(const char *folder, const char *name);
void manifest_checkpoint_close(struct manifest_checkpoint *checkpoint);
void manifest_close(struct manifest *manifest);

/* FOLDER/NAME, to be freed. */
char *manifest_path(const char *folder, const char *name);

/* Whether a name read from a file may be that of another in the checkpoint's folder: 1 to 255 bytes
 * without a slash, no control characters, neither "." nor ".." nor the manifest's own. */
bool manifest_name_is_good(const char *name);

#endif
