/* checkpoint_pages.c - pages on their way to files. See checkpoint_pages.h.
 *
 * Owns, for every page of the cache, where its content was last written, and which pages the
 * background has yet to read. The invariants: `place` speaks of files of committed checkpoints
 * only; what the file being written adds stands in `index` until that one counts. A page's content
 * is known by how often the page was handed out and how many positions of it are filled: positions
 * are only ever appended, so what a checkpoint wants of a page stays in the cache until the page is
 * handed out again, whatever decode does meanwhile. The background therefore reads pages straight
 * from the cache, one by one, as it comes to write them; only a page that is about to be handed out
 * before that is copied by the decoding thread, into one of a few buffers, and written next.
 * Rejected: copying all that is new before decode goes on, which stands still for what the buffers
 * do not hold; keeping such pages back, which the books of all ranks would have to agree on.
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
            if (!old) {
                pages->wanted[pages->n_new] =
                    (struct wanted_page){physical[page], n_tokens, WANTED_CACHED};
                pages->wanted_row[physical[page]] = pages->n_new;
            }
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

/* ---- the background ---------------------------------------------------------------------------
 */

static unsigned char *buffer_at(const struct checkpoint_pages *pages, int number) {
    return pages->buffer + (size_t)(number % pages->options.n_buffers) * pages->buffer_bytes;
}

/* To memory, by either thread; the page is WANTED_READING meanwhile. */
static void read_page(const struct checkpoint_pages *pages, int row, unsigned char *to) {
    const struct checkpoint_pages_options *o = &pages->options;
    const struct wanted_page *wanted = &pages->wanted[row];
    o->device_ops->read_page(o->device, to, o->cache, wanted->physical, wanted->n_tokens);
}

/* Wait for a page and take it: the oldest of those that the decoding thread has copied, else the
 * next that lies in the cache. -1: the file is given up. *page is its content, in a buffer if
 * *buffered. */
static int take_page(struct checkpoint_pages *pages, unsigned char **page, bool *buffered) {
    int row = -1;
    pthread_mutex_lock(&pages->mutex);
    for (;;) {
        while (pages->n_passed < pages->n_new &&
               pages->wanted[pages->n_passed].state != WANTED_CACHED)
            pages->n_passed++;
        *buffered = pages->n_copied > pages->n_written;
        if (pages->given_up || *buffered || pages->n_passed < pages->n_new) break;
        pthread_cond_wait(&pages->news, &pages->mutex);
    }
    if (!pages->given_up && *buffered) {
        row = pages->buffer_row[pages->n_written % pages->options.n_buffers];
        *page = buffer_at(pages, pages->n_written);
    } else if (!pages->given_up) {
        row = pages->n_passed;
        *page = pages->page;
        pages->wanted[row].state = WANTED_READING;
    }
    pthread_mutex_unlock(&pages->mutex);
    return row;
}

/* Say that a page was read, or that a buffer is free, or that nothing is wanted any more. */
static void tell(struct checkpoint_pages *pages, enum wanted_state *state, int *counter,
                 bool given_up) {
    pthread_mutex_lock(&pages->mutex);
    if (state) *state = WANTED_READ;
    if (counter) *counter += 1;
    pages->given_up |= given_up;
    pthread_cond_broadcast(&pages->news);
    pthread_mutex_unlock(&pages->mutex);
}

static bool write_pages(struct checkpoint_pages *pages, struct kv_file *file) {
    for (int n = 0; n < pages->n_new; n++) {
        unsigned char *page;
        bool buffered;
        int row = take_page(pages, &page, &buffered);
        if (row < 0)
            return fault_world(&pages->fault,
                               "%s is written too slowly: decode waited %g s for a page to be free",
                               pages->name, pages->options.patience_s);
        if (!buffered) {
            read_page(pages, row, page);
            tell(pages, &pages->wanted[row].state, NULL, false);
        }
        if (!kv_file_write(file, row, page, &pages->fault)) return false;
        if (buffered) tell(pages, NULL, &pages->n_written, false);
    }
    return true;
}

/* Write the file of this checkpoint. After a failure no page is wanted any more, so that decode can
 * go on. */
static void write_file(void *argument) {
    struct checkpoint_pages *pages = argument;
    const struct checkpoint_pages_options *o = &pages->options;
    struct kv_file *file = NULL;
    int64_t n_bytes;
    bool good =
        kv_file_create(&file, o->folder, pages->name, &pages->about, pages->n_new, &pages->fault) &&
        write_pages(pages, file);
    if (good) {
        good = kv_file_commit(file, pages->index, (size_t)pages->n_index, pages->older,
                              pages->n_older, &n_bytes, &pages->fault);
    } else {
        tell(pages, NULL, NULL, true);
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

/* Wait for news from the background; false when decode has waited long enough in this step. Under
 * the mutex. */
static bool wait_for_news(struct checkpoint_pages *pages) {
    int64_t until_ns = clock_now_ns() + pages->left_ns, now_ns;
    struct timespec until = {until_ns / 1000000000, until_ns % 1000000000};
    int error = pthread_cond_timedwait(&pages->news, &pages->mutex, &until);
    now_ns = clock_now_ns();
    pages->left_ns = until_ns > now_ns ? until_ns - now_ns : 0;
    return error == 0;
}

/* Until the page has been read, or can be: returns true then, and it is this thread's to read. */
static bool claim(struct checkpoint_pages *pages, struct wanted_page *wanted) {
    pthread_mutex_lock(&pages->mutex);
    while (!pages->given_up && wanted->state != WANTED_READ) {
        bool room = pages->n_copied - pages->n_written < pages->options.n_buffers;
        if (wanted->state == WANTED_CACHED && room) break;
        if (!wait_for_news(pages)) pages->given_up = true;
    }
    bool claimed = !pages->given_up && wanted->state == WANTED_CACHED;
    if (claimed) wanted->state = WANTED_READING;
    pthread_cond_broadcast(&pages->news);
    pthread_mutex_unlock(&pages->mutex);
    return claimed;
}

void checkpoint_pages_save(void *argument, int32_t physical) {
    struct checkpoint_pages *pages = argument;
    int row = pages->wanted_row[physical];
    if (row < 0) return;
    int64_t begin_ns = clock_now_ns();
    pages->wanted_row[physical] = -1;
    if (claim(pages, &pages->wanted[row])) {
        read_page(pages, row, buffer_at(pages, pages->n_copied));
        pages->buffer_row[pages->n_copied % pages->options.n_buffers] = row;
        tell(pages, &pages->wanted[row].state, &pages->n_copied, false);
    }
    pages->held_ns += clock_now_ns() - begin_ns;
}

void checkpoint_pages_tick(struct checkpoint_pages *pages) {
    pages->left_ns = (int64_t)(pages->options.patience_s * 1e9);
}

static void forget_places(struct checkpoint_pages *pages) {
    for (int page = 0; page < pages->options.cache->n_pages; page++)
        pages->place[page].file = -1;
}

void checkpoint_pages_open(struct checkpoint_pages **opened,
                           const struct checkpoint_pages_options *options) {
    REQUIRE(options->n_buffers >= 1, "%d buffers", options->n_buffers);
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
    pages->wanted = check_alloc(n_pages, sizeof *pages->wanted);
    pages->wanted_row = check_alloc(n_pages, sizeof *pages->wanted_row);
    for (int page = 0; page < cache->n_pages; page++)
        pages->wanted_row[page] = -1;
    pages->layer = check_alloc(1, pages->layer_bytes);
    pages->buffer_row = check_alloc((size_t)options->n_buffers, sizeof *pages->buffer_row);
    size_t n_memory = ((size_t)options->n_buffers + 1) * pages->buffer_bytes;
    pages->buffer = options->device_ops->alloc_host(options->device, n_memory);
    pages->page = pages->buffer + (size_t)options->n_buffers * pages->buffer_bytes;
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
    free(pages->wanted);
    free(pages->wanted_row);
    free(pages->layer);
    free(pages->buffer_row);
    pages->options.device_ops->release_host(pages->options.device, pages->buffer);
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
    pages->n_copied = pages->n_written = pages->n_passed = 0;
    pages->held_ns = 0;
    checkpoint_pages_tick(pages);
    for (int at = 0; at < pages->n_index; at++) /* as handed out now, whatever comes */
        pages->n_uses[at] = pages->options.kv->n_uses[pages->physical[at]];
    pages->options.device_ops->settle(pages->options.device); /* all that is kept is in the cache */
    background_begin(pages->options.background, write_file, pages);
}

bool checkpoint_pages_result(const struct checkpoint_pages *pages,
                             struct checkpoint_pages_written *written, struct fault *fault) {
    *written = (struct checkpoint_pages_written){
        .n_pages = pages->n_index, .n_new = pages->n_new, .held_s = (double)pages->held_ns * 1e-9};
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
    for (int row = 0; row < pages->n_new; row++)
        pages->wanted_row[pages->wanted[row].physical] = -1;
    if (committed) {
        drop_dead_files(pages);
        learn_places(pages);
    } else if (pages->good) {
        manifest_delete(pages->options.folder, pages->name);
    }
    pages->name[0] = '\0';
}
