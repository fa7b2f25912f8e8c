/* checkpoint_hdf5.h - what all HDF5 files of a checkpoint have in common.
 *
 * A file is made beside its place and appears there whole and durable (replacement.h, then fsync of
 * file and folder). It is opened by its descriptor, so that neither a link, a FIFO nor a rename can
 * put another one under HDF5. Ids are kept in the order they were made and closed in one place; a
 * call on an id that could not be had fails too, and the first fault stays: so a file is written as
 * a row of calls of which the last tells.
 *
 * Every file has the root attributes format, format_version, creator, created, uuid, number, and
 * from format 1.1 on attempt.
 */
#ifndef LAMINA_CHECKPOINT_HDF5_H
#define LAMINA_CHECKPOINT_HDF5_H

#include <hdf5.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "check.h"
#include "device.h"
#include "replacement.h"

enum { HDF5_MOST_KEPT = 32 };

/* Zeroed is closed. */
struct hdf5_file {
    struct replacement place; /* path: FOLDER/NAME; temporary: of a file that is being made */
    int fd, inner_fd;         /* ours; HDF5's own of a file that is being made */
    hid_t id;
    int64_t n_bytes; /* of a file that is read */
    int n_kept;
    hid_t kept[HDF5_MOST_KEPT];
};

/* Begin FOLDER/NAME. What a killed run left at its temporary name is taken away. False holds
 * nothing, like hdf5_open. */
bool hdf5_create(struct hdf5_file *file, const char *folder, const char *name, struct fault *fault);
/* Let the system begin to write what it holds of the file. Otherwise it may hold all of it until
 * hdf5_commit waits for that, and the disk does nothing meanwhile. */
void hdf5_hurry(const struct hdf5_file *file);
/* Close it, make it durable and give it its name, if `good` and nothing fails; else take it away.
 * *n_bytes is its size. */
bool hdf5_commit(struct hdf5_file *file, bool good, int64_t *n_bytes, struct fault *fault);

/* Open a regular file for reading. */
bool hdf5_open(struct hdf5_file *file, const char *folder, const char *name, struct fault *fault);
void hdf5_close(struct hdf5_file *file);

/* ---- calls of HDF5 ---- */

/* Keep an id of any kind until the file is closed or released; -1 with a fault where it is none. */
hid_t hdf5_keep(struct hdf5_file *file, hid_t id, struct fault *fault);
/* Close what was kept since `n_kept` was its number, the last first. Data may be written now. */
bool hdf5_release(struct hdf5_file *file, int n_kept, struct fault *fault);
/* Whether a call went well; what HDF5 says of it is the fault. */
bool hdf5_good(const struct hdf5_file *file, int64_t result, struct fault *fault);
/* "FILE: " and the text. Returns false. */
bool hdf5_refuse(const struct hdf5_file *file, struct fault *fault, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* ---- types ---- */

enum hdf5_number { HDF5_U8, HDF5_I32, HDF5_I64, HDF5_U64, HDF5_F32, HDF5_F64 };

/* Of numbers of the KV cache: f32, f16, and bf16 as a float type of its own. Kept. */
hid_t hdf5_element_type(struct hdf5_file *file, enum element element, struct fault *fault);

/* ---- attributes of the root ---- */

bool hdf5_put(struct hdf5_file *file, const char *name, enum hdf5_number type, const void *value,
              struct fault *fault);
bool hdf5_put_text(struct hdf5_file *file, hid_t object, const char *name, const char *text,
                   struct fault *fault);
bool hdf5_get(struct hdf5_file *file, const char *name, enum hdf5_number type, void *value,
              struct fault *fault);
/* An integer from 0 (`low` of others) to `high`, else a fault that names it. */
bool hdf5_get_count(struct hdf5_file *file, const char *name, int low, int high, int *value,
                    struct fault *fault);
/* False where it does not fit into text[size]. */
bool hdf5_get_text(struct hdf5_file *file, const char *name, char *text, size_t size,
                   struct fault *fault);

struct hdf5_root {
    const char *format;
    char created[32]; /* RFC 3339, UTC; "": now */
    char uuid[37];
    int64_t number;
    uint64_t attempt; /* at a checkpoint: the same in all its files. 0 in format 1.0, without it */
};
bool hdf5_put_root(struct hdf5_file *file, const struct hdf5_root *root, struct fault *fault);
/* False for another format, or a version that manifest_check_version refuses. */
bool hdf5_get_root(struct hdf5_file *file, struct hdf5_root *root, struct fault *fault);

/* ---- tables: data sets of one dimension, in chunks with fletcher32 ---- */

struct hdf5_column {
    const char *name;
    enum hdf5_number type;
    size_t offset;     /* in the row */
    const char *units; /* NULL: a number of no unit */
};
/* One column without a name: plain numbers, no compound. */
struct hdf5_table {
    const char *name;
    size_t row_bytes;
    int n_columns;
    const struct hdf5_column *column; /* (n_columns) */
};
bool hdf5_put_table(struct hdf5_file *file, const struct hdf5_table *table, const void *row,
                    size_t n_rows, struct fault *fault);
/* All rows, to be freed whatever comes of it, and their number, which the file has room for. */
bool hdf5_get_table(struct hdf5_file *file, const struct hdf5_table *table, void **row,
                    size_t *n_rows, struct fault *fault);

/* A list for data sets of such chunks, kept. */
hid_t hdf5_chunks(struct hdf5_file *file, int n_dimensions, const hsize_t *chunk,
                  struct fault *fault);

#endif
