/* trace_hdf5.h - what the two halves of the HDF5 trace share: private to src/job/trace_hdf5*.c. */
#ifndef LAMINA_TRACE_HDF5_H
#define LAMINA_TRACE_HDF5_H

#include <hdf5.h>

#include "trace_parts.h"

static const char trace_hdf5_format[] = "lamina trace";

/* Root attributes that are strings or numbers of struct trace_head, and those of a rank's group of
 * struct trace_rank_head: one list for both directions. `size` 0: an int32_t; -1: an int64_t. */
struct trace_hdf5_member {
    const char *name;
    size_t offset;
    int size;
};
extern const struct trace_hdf5_member trace_hdf5_head_members[],
    trace_hdf5_rank_members[]; /* end without a name */

/* An HDF5 call on `path` failed: what, and why the first since trace_hdf5_prepare did. Returns
 * false. */
bool trace_hdf5_fault(struct fault *fault, const char *path, const char *what);

/* Before the calls on a file: failures are told through trace_hdf5_fault, not printed, and a file
 * that could not be closed is not tried again at exit. */
void trace_hdf5_prepare(void);

/* The type of a column in memory, 64 bits wide: a number, or one of names. To be closed. */
hid_t trace_hdf5_memory_type(enum trace_type type);

#endif
