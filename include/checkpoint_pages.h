/* checkpoint_pages.h - a rank's KV pages on their way to files and back.
 *
 * What a checkpoint keeps is settled between two walks of the list of turns; the background reads
 * pages from the cache and writes them while decode goes on. A page that is to be handed out before
 * the background has read it is copied first, into one of a few buffers: decode stands still only
 * for that, and for the disk where no buffer is free. A page is written again only when it has
 * grown or was given to another sequence since the last checkpoint that counts; older files that
 * are more than half dead are not read any more, what lives in them is written again. All calls but
 * the thread's own work by the decoding thread.
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
    int n_buffers;     /* copied pages that can wait to be written, 1 and up */
    double patience_s; /* of decode in one step, for pages that are to be handed out; then the
                          checkpoint is given up */
};

struct checkpoint_pages;

void checkpoint_pages_open(struct checkpoint_pages **pages,
                           const struct checkpoint_pages_options *options);
void checkpoint_pages_close(struct checkpoint_pages *pages); /* NULL does nothing */

/* Name of the file of a checkpoint that holds head share `head_index` of `owner`. */
enum { CHECKPOINT_NAME_BYTES = 64 };
void checkpoint_pages_name(char name[CHECKPOINT_NAME_BYTES], int64_t number, int owner,
                           int head_index);

/* Begin to write checkpoint `number` by this attempt at it: the pages of those of `kept` that lie
 * on this rank; `kept[i].saved` names them in the file. The file before must be ended, and no step
 * be in flight. */
void checkpoint_pages_begin(struct checkpoint_pages *pages, int64_t number, uint64_t attempt,
                            const struct kept *kept, int n_kept);

/* Until the file is ended: save what the checkpoint wants of a page of the cache before that is
 * handed out. `pages` is a struct checkpoint_pages (batch_watch). */
void checkpoint_pages_save(void *pages, int32_t physical);
/* Once a step: what was waited in the one before is forgotten. */
void checkpoint_pages_tick(struct checkpoint_pages *pages);

/* What became of the file, once the background is idle. False with the fault of the world. */
struct checkpoint_pages_written {
    int32_t n_pages, n_new; /* of the checkpoint; written to this file */
    double held_s;          /* decode was held up by checkpoint_pages_save */
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
