/* checkpoint_pages_parts.h - a rank's pages as their two halves see them: private to
 * src/job/checkpoint_pages.c, which writes, and src/job/checkpoint_restore.c, which reads. */
#ifndef LAMINA_CHECKPOINT_PAGES_PARTS_H
#define LAMINA_CHECKPOINT_PAGES_PARTS_H

#include <pthread.h>

#include "checkpoint_pages.h"

/* Where the content of a page of the cache lies. */
struct page_place {
    int32_t file, row, n_tokens; /* file in the list of files; -1: nowhere */
    uint32_t n_uses;             /* of the page when it was written */
};

/* A file of committed checkpoints that pages are in. */
struct page_file {
    char *name;
    uint64_t attempt;
    int n_rows, n_live; /* pages in it; of these, still needed */
    bool kept;          /* the checkpoint being made refers to it */
    int number;         /* in that one's list of older files, from 1 */
};

/* A page that the file being written holds. */
struct wanted_page {
    int32_t physical, n_tokens; /* page of the cache; positions of it */
    enum wanted_state {
        WANTED_CACHED,  /* it lies in the cache only */
        WANTED_READING, /* one of the threads reads it */
        WANTED_READ     /* the cache may be overwritten */
    } state;            /* under the mutex */
};

struct checkpoint_pages {
    struct checkpoint_pages_options options;
    size_t layer_bytes;       /* of a page in one layer */
    size_t buffer_bytes;      /* of one in all, and room behind it */
    struct page_place *place; /* (n_pages of the cache) */
    int n_files;
    struct page_file *file; /* (n_files) */
    unsigned char *layer;   /* (layer_bytes) a page's layer as the cache has it */

    /* the checkpoint being made; name is empty when there is none */
    char name[CHECKPOINT_NAME_BYTES];
    struct kv_file_about about;
    int n_index, n_new, n_older;
    struct kv_file_page *index; /* (n_index) */
    int32_t *physical;          /* (n_index) page of the cache */
    struct wanted_page *wanted; /* (n_new) in the order of rows */
    int32_t *wanted_row;        /* (n_pages of the cache) the decoding thread's; -1: not wanted */
    int64_t left_ns, held_ns;   /* decode may wait for it in this step; was kept from going on */
    uint32_t *n_uses;           /* (n_index) how often that was handed out */
    struct kv_older *older;     /* (n_older), names borrowed from file */

    /* between the threads: copied pages wait in (n_buffers, buffer_bytes) */
    unsigned char *buffer; /* the device's, as this one behind it: */
    unsigned char *page;   /* (buffer_bytes) the background's */
    int *buffer_row;       /* (n_buffers) */
    pthread_mutex_t mutex;
    pthread_cond_t news;
    int n_passed;            /* the background's: of these rows none lies in the cache only */
    int n_copied, n_written; /* of buffers; under the mutex, */
    bool given_up;           /* as this: nothing is wanted any more */

    /* the background's, read when it is idle */
    bool good;
    struct fault fault;
};

/* Whether the K and V of a sequence lie on this rank. */
static inline bool pages_own(const struct checkpoint_pages *pages, const struct kept *kept) {
    return kept->n_rows > 0 && kept->owner == pages->options.about.owner;
}

/* Positions of a page of a sequence that are filled. */
static inline int pages_filled(const struct kept *kept, int page) {
    int left = kept->n_rows - page * PAGE_TOKENS;
    return left < PAGE_TOKENS ? left : PAGE_TOKENS;
}

#endif
