/* checkpoint_kv.h - the KV cache of one rank in HDF5 files.
 *
 * A rank writes one new file a checkpoint, with the pages that are new or have grown since the one
 * before, and an index of all pages it holds: each is in this file or in an older one. Pages lie in
 * logical coordinates, (layer, K|V, head, token, dim), so that any layout can read them. Names are
 * those of files in the checkpoint's folder, without it.
 *
 * Numbers are kept in the KV type: bf16 as an HDF5 float type of 16 bits. A page is a chunk with a
 * fletcher32 checksum, and what describes the data has checksums too: a bit that changed on
 * disk is an error when it is read. A file appears under its name when it is whole and durable
 * (temporary name, fsync, rename). HDF5 1.10; all calls of one process from one thread at a time.
 * Every fault here is the world's, but for a newer format, which is the user's.
 */
#ifndef LAMINA_CHECKPOINT_KV_H
#define LAMINA_CHECKPOINT_KV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "check.h"
#include "device.h"

/* Of the model: the same for all files of a job. */
struct kv_file_shape {
    int n_layers, n_kv_heads, head_dim;
    enum element element;
};
/* "f32", "f16" or "bf16", as the files have it. */
const char *kv_element_name(enum element element);

/* Whose pages a file holds. */
struct kv_file_about {
    char uuid[37];    /* of the job */
    int64_t number;   /* of the checkpoint */
    uint64_t attempt; /* at it: the same in all files that were made together */
    int rank;         /* that wrote it */
    int owner;        /* of the sequences */
    int first_head, n_heads;
    struct kv_file_shape shape;
};

/* A page of the checkpoint, and where it is. */
struct kv_file_page {
    int64_t sequence; /* index of the choice in the checkpoint's progress file */
    int32_t page;     /* positions 64 * page and on */
    int32_t n_tokens; /* of these, 1 to 64; the rest of the page is zero */
    int32_t file;     /* 0: this file; n: the n-1 th of the older files' names */
    int32_t row;      /* there */
};

/* ---- writing ---- */

struct kv_file;

/* A file of an earlier checkpoint that this one refers to. Format 1.0 does not tell the attempt: 0,
 * as in files of that format. */
struct kv_older {
    char *name;
    uint64_t attempt;
};

/* Begin FOLDER/NAME with room for `n_rows` pages (0 and up). */
bool kv_file_create(struct kv_file **file, const char *folder, const char *name,
                    const struct kv_file_about *about, int n_rows, struct fault *fault);
/* Write a page: (n_layers, 2, n_heads of the file, 64, head_dim), and behind it room that is used.
 * Each row once, in any order. */
enum { KV_FILE_ROOM_BYTES = 4 };
bool kv_file_write(struct kv_file *file, int row, void *page, struct fault *fault);
/* Write the index, (n_pages), and the older files, (n_older), make the file durable and give
 * it its name. *n_bytes is its size. The file is closed and freed whatever comes of it. */
bool kv_file_commit(struct kv_file *file, const struct kv_file_page *page, size_t n_pages,
                    const struct kv_older *older, int n_older, int64_t *n_bytes,
                    struct fault *fault);
/* Take back what was begun. NULL does nothing. */
void kv_file_discard(struct kv_file *file);

/* ---- reading ---- */

struct kv_index {
    struct kv_file_about about;
    int n_rows; /* pages in this file */
    int n_older;
    struct kv_older *older; /* (n_older) */
    size_t n_pages;
    struct kv_file_page *page; /* (n_pages) */
};
/* What is read is within its limits: counts, rows, files, head ranges, names without a slash. */
bool kv_index_read(struct kv_index *index, const char *folder, const char *name,
                   struct fault *fault);
void kv_index_close(struct kv_index *index);

struct kv_reader;
/* Open a file to read pages of it. *about says what it holds. */
bool kv_reader_open(struct kv_reader **reader, const char *folder, const char *name,
                    struct kv_file_about *about, struct fault *fault);
/* Read heads first_head .. first_head + n_heads - 1 of the model (all within the file's) of a page:
 * (n_layers, 2, n_heads, 64, head_dim). False where the file is damaged. */
bool kv_reader_read(struct kv_reader *reader, int row, int first_head, int n_heads, void *page,
                    struct fault *fault);
void kv_reader_close(struct kv_reader *reader); /* NULL does nothing */

#endif
