/* checkpoint_pages.c - pages on their way to files. See checkpoint_pages.h.
 *
 * Owns, for every page of the cache, where its content was last written, and the buffers between
 * the decoding thread, which copies pages out, and the background, which writes them. The
 * invariant: `place` speaks of files of committed checkpoints only; what the file being written
 * adds stands in `index` until that one counts. A page's content is known by how often the page was
 * handed out and how many positions of it are filled: positions are only ever appended. Rejected:
 * copying the cache as a whole, which takes as much memory again; writing from the cache while
 * decode goes on, which must hold back every page that is given up meanwhile.
 */
#include "checkpoint_pages_parts.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "checkpoint_manifest.h"
#include "clock.h"

enum { ALIGNMENT = 64 /* of a page in memory */ };

/* ---- the pages of a checkpoint ----------------------------------------------------------------
 */

/* Where the content of a page was written before, or NULL. */
static const struct page_place *find_place(const struct checkpoint_pages *pages, int32_t physical,
                                           int n_tokens) {
    const struct page_place *place = &pages->place[physical];
    bool same = place->file >= 0 && place->n_uses == pages->options.kv->n_uses[physical] &&
                place->n_tokens == n_tokens;
    return same ? place : NULL;
}

/* Count what of each older file is still needed; one that is mostly dead is written off. */
static void count_live(struct checkpoint_pages *pages, const struct kept *kept, int n_kept) {
    for (int file = 0; file < pages->n_files; file++)
        pages->file[file].n_live = 0;
    for (int at = 0; at < n_kept; at++) {
        if (!pages_own(pages, &kept[at])) continue;
        const int32_t *physical = kv_pages(pages->options.kv, kept[at].handle);
        for (int page = 0; page < kv_pages_for(kept[at].n_rows); page++) {
            const struct page_place *place =
                find_place(pages, physical[page], pages_filled(&kept[at], page));
            if (place) pages->file[place->file].n_live += 1;
        }
    }
    for (int file = 0; file < pages->n_files; file++)
        pages->file[file].kept = pages->file[file].n_live > 0 &&
                                 2 * pages->file[file].n_live >= pages->file[file].n_rows;
}

/* Older files that stay, as the index numbers them. */
static void list_older(struct checkpoint_pages *pages) {
    pages->n_older = 0;
    for (int file = 0; file < pages->n_files; file++) {
        if (!pages->file[file].kept) continue;
        pages->older[pages->n_older++] =
            (struct kv_older){pages->file[file].name, pages->file[file].attempt};
        pages->file[file].number = pages->n_older; /* 0 is the new file */
    }
}

/* The index of the checkpoint; pages to be written get the new file's rows in order. */
static void make_index(struct checkpoint_pages *pages, const struct kept *kept, int n_kept) {
    pages->n_index = pages->n_new = 0;
    for (int at = 0; at < n_kept; at++) {
        if (!pages_own(pages, &kept[at])) continue;
        const int32_t *physical = kv_pages(pages->options.kv, kept[at].handle);
        for (int page = 0; page < kv_pages_for(kept[at].n_rows); page++) {
            int n_tokens = pages_filled(&kept[at], page);
            const struct page_place *place = find_place(pages, physical[page], n_tokens);
            bool old = place && pages->file[place->file].kept;
            pages->physical[pages->n_index] = physical[page];
            pages->index[pages->n_index++] =
                (struct kv_file_page){.sequence = kept[at].saved,
                                      .page = page,
                                      .n_tokens = n_tokens,
                                      .file = old ? pages->file[place->file].number : 0,
                                      .row = old ? place->row : pages->n_new};
            pages->n_new += !old;
        }
    }
}

/* ---- buffers ----------------------------------------------------------------------------------
 */

/* (n_heads, K|V, 64, dim) of each layer as the cache has them -> (layer, K|V, n_heads, 64, dim),
 * what is not filled zeroed. */
static void copy_out(struct checkpoint_pages *pages, int32_t physical, int n_tokens,
                     unsigned char *to) {
    const struct checkpoint_pages_options *o = &pages->options;
    const struct kv_cache *cache = o->cache;
    size_t token = (size_t)cache->head_dim * element_bytes(cache->element);
    size_t piece = PAGE_TOKENS * token, filled = (size_t)n_tokens * token;
    for (int layer = 0; layer < cache->n_layers; layer++) {
        size_t at =
            ((size_t)layer * (size_t)cache->n_pages + (size_t)physical) * pages->layer_bytes;
        o->device_ops->download(o->device, pages->layer, cache->buffer, at, pages->layer_bytes);
        for (int head = 0; head < cache->n_kv_heads; head++) {
            for (int which = 0; which < 2; which++) {
                const unsigned char *from = pages->layer + (size_t)(2 * head + which) * piece;
                unsigned char *out = to + (size_t)(which * cache->n_kv_heads + head) * piece;
                memcpy(out, from, filled);
                memset(out + filled, 0, piece - filled);
            }
        }
        to += pages->layer_bytes;
    }
}

/* The decoding thread fills buffer after buffer, the background empties them in the same order.
 * NULL: the file cannot be written in time, or decode has given it up. */
static unsigned char *begin_buffer(struct checkpoint_pages *pages) {
    const struct checkpoint_pages_options *o = &pages->options;
    struct timespec until = {pages->until_ns / 1000000000, pages->until_ns % 1000000000};
    int error = 0;
    pthread_mutex_lock(&pages->mutex);
    while (pages->n_copied - pages->n_written == o->n_buffers && error == 0)
        error = pthread_cond_timedwait(&pages->news, &pages->mutex, &until);
    pages->given_up = pages->n_copied - pages->n_written == o->n_buffers;
    int at = pages->given_up ? -1 : pages->n_copied % o->n_buffers;
    pthread_cond_signal(&pages->news);
    pthread_mutex_unlock(&pages->mutex);
    return at < 0 ? NULL : pages->buffer + (size_t)at * pages->buffer_bytes;
}

static unsigned char *wait_buffer(struct checkpoint_pages *pages) {
    pthread_mutex_lock(&pages->mutex);
    while (pages->n_copied == pages->n_written && !pages->given_up)
        pthread_cond_wait(&pages->news, &pages->mutex);
    int at = pages->given_up ? -1 : pages->n_written % pages->options.n_buffers;
    pthread_mutex_unlock(&pages->mutex);
    return at < 0 ? NULL : pages->buffer + (size_t)at * pages->buffer_bytes;
}

/* One more buffer is filled, or emptied. */
static void count_buffer(struct checkpoint_pages *pages, int *counter) {
    pthread_mutex_lock(&pages->mutex);
    *counter += 1;
    pthread_cond_signal(&pages->news);
    pthread_mutex_unlock(&pages->mutex);
}

/* ---- the background ---------------------------------------------------------------------------
 */

/* Write the file of this checkpoint. After a failure the buffers are still emptied, so that decode
 * can go on. */
static void write_file(void *argument) {
    struct checkpoint_pages *pages = argument;
    const struct checkpoint_pages_options *o = &pages->options;
    struct kv_file *file = NULL;
    int64_t n_bytes;
    bool good =
        kv_file_create(&file, o->folder, pages->name, &pages->about, pages->n_new, &pages->fault);
    for (int row = 0; row < pages->n_new; row++) {
        unsigned char *page = wait_buffer(pages);
        if (!page) {
            good = fault_world(&pages->fault, "%s could not be written within %g s", pages->name,
                               o->patience_s);
            break;
        }
        good = good && kv_file_write(file, row, page, &pages->fault);
        count_buffer(pages, &pages->n_written);
    }
    if (good) {
        good = kv_file_commit(file, pages->index, (size_t)pages->n_index, pages->older,
                              pages->n_older, &n_bytes, &pages->fault);
    } else {
        kv_file_discard(file);
    }
    pages->good = good;
}

/* ---- the decoding thread ----------------------------------------------------------------------
 */

void checkpoint_pages_name(char name[CHECKPOINT_NAME_BYTES], int64_t number, int owner,
                           int head_index) {
    snprintf(name, CHECKPOINT_NAME_BYTES, "c%06lld-kv-owner%d-share%d.h5", (long long)number, owner,
             head_index);
}

static void forget_places(struct checkpoint_pages *pages) {
    for (int page = 0; page < pages->options.cache->n_pages; page++)
        pages->place[page].file = -1;
}

void checkpoint_pages_open(struct checkpoint_pages **opened,
                           const struct checkpoint_pages_options *options) {
    REQUIRE(options->n_buffers >= 2, "%d buffers", options->n_buffers);
    struct checkpoint_pages *pages = check_alloc(1, sizeof *pages);
    const struct kv_cache *cache = options->cache;
    size_t n_pages = (size_t)cache->n_pages;
    pages->options = *options;
    pages->layer_bytes = 2 * (size_t)cache->n_kv_heads * PAGE_TOKENS * (size_t)cache->head_dim *
                         element_bytes(cache->element);
    size_t page_bytes = (size_t)cache->n_layers * pages->layer_bytes;
    pages->buffer_bytes = (page_bytes + KV_FILE_ROOM_BYTES + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    pages->place = check_alloc(n_pages, sizeof *pages->place);
    forget_places(pages);
    pages->index = check_alloc(n_pages, sizeof *pages->index);
    pages->physical = check_alloc(n_pages, sizeof *pages->physical);
    pages->n_uses = check_alloc(n_pages, sizeof *pages->n_uses);
    pages->layer = check_alloc(1, pages->layer_bytes);
    pages->buffer = check_alloc((size_t)options->n_buffers, pages->buffer_bytes);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&pages->news, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_mutex_init(&pages->mutex, NULL);
    *opened = pages;
}

void checkpoint_pages_close(struct checkpoint_pages *pages) {
    if (!pages) return;
    for (int file = 0; file < pages->n_files; file++)
        free(pages->file[file].name);
    pthread_mutex_destroy(&pages->mutex);
    pthread_cond_destroy(&pages->news);
    free(pages->file);
    free(pages->older);
    free(pages->place);
    free(pages->index);
    free(pages->physical);
    free(pages->n_uses);
    free(pages->layer);
    free(pages->buffer);
    free(pages);
}

void checkpoint_pages_begin(struct checkpoint_pages *pages, int64_t number, uint64_t attempt,
                            const struct kept *kept, int n_kept) {
    const struct kv_file_about *about = &pages->options.about;
    REQUIRE(!pages->name[0], "a checkpoint before the last one was ended");
    checkpoint_pages_name(pages->name, number, about->owner, pages->options.head_index);
    pages->about = *about;
    pages->about.number = number;
    pages->about.attempt = attempt;
    free(pages->older);
    pages->older = check_alloc((size_t)pages->n_files + 1, sizeof *pages->older);
    count_live(pages, kept, n_kept);
    list_older(pages);
    make_index(pages, kept, n_kept);
    pages->good = pages->given_up = false;
    pages->fault = (struct fault){0};
    pages->n_copied = pages->n_written = 0;
    pages->until_ns = clock_now_ns() + (int64_t)(pages->options.patience_s * 1e9);
    background_begin(pages->options.background, write_file, pages);
    for (int at = 0; at < pages->n_index; at++) {
        if (pages->index[at].file != 0) continue;
        unsigned char *buffer = begin_buffer(pages);
        if (!buffer) break;
        copy_out(pages, pages->physical[at], pages->index[at].n_tokens, buffer);
        count_buffer(pages, &pages->n_copied);
    }
    for (int at = 0; at < pages->n_index; at++) /* as handed out now, whatever comes */
        pages->n_uses[at] = pages->options.kv->n_uses[pages->physical[at]];
}

bool checkpoint_pages_result(const struct checkpoint_pages *pages,
                             struct checkpoint_pages_written *written, struct fault *fault) {
    *written = (struct checkpoint_pages_written){.n_pages = pages->n_index, .n_new = pages->n_new};
    if (!pages->good && !fault->kind) *fault = pages->fault;
    return pages->good;
}

/* Forget files of which nothing is needed any more. The others then stand in the list as the index
 * numbers them, from 1. */
static void drop_dead_files(struct checkpoint_pages *pages) {
    int n = 0;
    for (int file = 0; file < pages->n_files; file++) {
        if (pages->file[file].kept) {
            pages->file[n++] = pages->file[file];
        } else {
            free(pages->file[file].name);
        }
    }
    pages->n_files = n;
}

/* Rows of the new file, and its place at the end of the list. */
static void learn_places(struct checkpoint_pages *pages) {
    struct page_file *larger = check_alloc((size_t)pages->n_files + 1, sizeof *larger);
    if (pages->n_files) memcpy(larger, pages->file, (size_t)pages->n_files * sizeof *larger);
    free(pages->file);
    pages->file = larger;
    int newest = pages->n_files++;
    size_t n_bytes = strlen(pages->name) + 1;
    pages->file[newest] = (struct page_file){.name = check_alloc(n_bytes, 1),
                                             .attempt = pages->about.attempt,
                                             .n_rows = pages->n_new,
                                             .kept = true};
    memcpy(pages->file[newest].name, pages->name, n_bytes);
    forget_places(pages);
    for (int at = 0; at < pages->n_index; at++) {
        const struct kv_file_page *index = &pages->index[at];
        pages->place[pages->physical[at]] =
            (struct page_place){.file = index->file == 0 ? newest : index->file - 1,
                                .row = index->row,
                                .n_tokens = index->n_tokens,
                                .n_uses = pages->n_uses[at]};
    }
}

void checkpoint_pages_forget(struct checkpoint_pages *pages) {
    for (int file = 0; file < pages->n_files; file++)
        free(pages->file[file].name);
    pages->n_files = 0;
    forget_places(pages);
}

void checkpoint_pages_end(struct checkpoint_pages *pages, bool committed) {
    if (!pages->name[0]) return;
    if (committed) {
        drop_dead_files(pages);
        learn_places(pages);
    } else if (pages->good) {
        manifest_delete(pages->options.folder, pages->name);
    }
    pages->name[0] = '\0';
}
