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
    int64_t until_ns;           /* clock_now_ns: all must be copied by then */
    uint32_t *n_uses;           /* (n_index) how often that was handed out */
    struct kv_older *older;     /* (n_older), names borrowed from file */

    /* between the threads: pages wait in (n_buffers, buffer_bytes) */
    unsigned char *buffer;
    pthread_mutex_t mutex;
    pthread_cond_t news;
    int n_copied, n_written; /* under the mutex, */
    bool given_up;           /* as this: no buffer came free in time */

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
