/* checkpoint_master.h - one HDF5 file that shows a whole checkpoint, for h5py and h5dump.
 *
 * /kv is a virtual data set (pages, layers, K|V, kv heads of the model, 64, head_dim) over the
 * ranks' files, /index says whose page each is and how many of its positions are valid, /progress
 * leads to the leader's file. Nothing reads it back: a resume reads the files themselves.
 */
#ifndef LAMINA_CHECKPOINT_MASTER_H
#define LAMINA_CHECKPOINT_MASTER_H

#include "checkpoint_kv.h"

struct master_about {
    const char *uuid;
    int64_t number;
    uint64_t attempt; /* of which the ranks' files must be too */
    struct kv_file_shape shape;
    const char *progress;    /* file name */
    int n_files;             /* the ranks' newest files, whose indexes say all; 0: no KV was kept */
    const char *const *file; /* (n_files) */
};
/* Durable when it returns true; *n_bytes is its size. */
bool master_write(const struct master_about *about, const char *folder, const char *name,
                  int64_t *n_bytes, struct fault *fault);

#endif
