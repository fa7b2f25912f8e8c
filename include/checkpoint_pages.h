/* checkpoint_pages.h - a rank's KV pages on their way to files and back.
 *
 * Pages are copied out between two walks of the list of turns and written behind while decode goes
 * on: the copies wait in a few buffers, so decode stands still only for what is more than these
 * hold. A page is written again only when it has grown or was given to another sequence since the
 * last checkpoint that counts; older files that are more than half dead are not read any more, what
 * lives in them is written again. All calls but the thread's own work by the decoding thread.
 */
#ifndef LAMINA_CHECKPOINT_PAGES_H
#define LAMINA_CHECKPOINT_PAGES_H

#include <stdbool.h>
#include <stdint.h>

#include "background.h"
#include "batch.h"
#include "check.h"
#include "checkpoint_kv.h"
#include "checkpoint_manifest.h"
#include "device.h"
#include "kv.h"

/* All borrowed until checkpoint_pages_close. */
struct checkpoint_pages_options {
    const char *folder;
    struct kv_file_about about; /* of this rank's files; number and attempt are each checkpoint's */
    int head_index;             /* of this rank's head share */
    const struct device_ops *device_ops;
    struct device *device;
    const struct kv_cache *cache;
    const struct kv *kv;
    struct background *background;
    int n_buffers;     /* pages that can wait to be written, 2 and up */
    double patience_s; /* for all to be copied; then the checkpoint is given up */
};

struct checkpoint_pages;

void checkpoint_pages_open(struct checkpoint_pages **pages,
                           const struct checkpoint_pages_options *options);
void checkpoint_pages_close(struct checkpoint_pages *pages); /* NULL does nothing */

/* Name of the file of a checkpoint that holds head share `head_index` of `owner`. */
enum { CHECKPOINT_NAME_BYTES = 64 };
void checkpoint_pages_name(char name[CHECKPOINT_NAME_BYTES], int64_t number, int owner,
                           int head_index);

/* Copy out and begin to write checkpoint `number` by this attempt at it: the pages of those of
 * `kept` that lie on this rank; `kept[i].saved` names them in the file. The file before must be
 * ended. Returns when all is copied. */
void checkpoint_pages_begin(struct checkpoint_pages *pages, int64_t number, uint64_t attempt,
                            const struct kept *kept, int n_kept);

/* What became of the file, once the background is idle. False with the fault of the world. */
struct checkpoint_pages_written {
    int32_t n_pages, n_new; /* of the checkpoint; written to this file */
};
bool checkpoint_pages_result(const struct checkpoint_pages *pages,
                             struct checkpoint_pages_written *written, struct fault *fault);

/* The file counts (its checkpoint was committed): later ones build on it. Or it does not, and is
 * deleted. */
void checkpoint_pages_end(struct checkpoint_pages *pages, bool committed);

/* A checkpoint without KV is being made: files of earlier ones may be gone when the next comes. */
void checkpoint_pages_forget(struct checkpoint_pages *pages);

/* A checkpoint's files with pages, as its manifest has them; the newest are those whose indexes
 * say what there is. */
struct checkpoint_pages_source {
    int64_t number;
    uint64_t attempt; /* at it; a file of another one is not the checkpoint's, whatever its name */
    int n_newest, n_files;
    const struct manifest_file *file; /* (n_files) the newest first */
};

/* Read the K and V of those of `kept` that lie on this rank into their pages (batch_hold).
 * failed[i] is set for those that could not be read, the first reason is in *fault. */
void checkpoint_pages_restore(struct checkpoint_pages *pages,
                              const struct checkpoint_pages_source *source, const struct kept *kept,
                              int n_kept, unsigned char *failed, struct fault *fault);

#endif
