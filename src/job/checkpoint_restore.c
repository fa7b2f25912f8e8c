/* checkpoint_restore.c - pages from a checkpoint's files into the cache. See checkpoint_pages.h.
 *
 * The files were written by other ranks, of another layout perhaps: a page's heads may lie in
 * several files, a file may hold more heads than this rank. So every newest file's index is read,
 * and what overlaps with this rank's heads and sequences is read from where it says. The invariant:
 * a sequence whose every page did not come whole, all heads of it, is reported as failed. Layouts
 * of several ranks an owner hold the same pages, by heads; which owner had them does not matter.
 * A file is read only if it is of the attempt that the checkpoint is of, or its index says, and has
 * the size that the manifest says: a name alone proves nothing.
 */
#include "checkpoint_pages_parts.h"

#include <stdlib.h>
#include <string.h>

/* What is being restored. */
struct restore {
    struct checkpoint_pages *pages;
    const struct checkpoint_pages_source *source;
    const struct kept *kept;
    int n_kept;
    unsigned char *failed; /* (n_kept) */
    int **n_heads;         /* (n_kept, pages of each) heads that have come */
    unsigned char *part;   /* a page of any number of heads, as a file has it */
    struct fault *fault;

    /* files of one index that are open */
    const struct kv_index *index;
    struct kv_reader **reader; /* (1 + n_older), NULL: not yet */
    struct kv_file_about *about;
    bool *bad;
};

static bool same_shape(const struct kv_file_shape *a, const struct kv_file_shape *b) {
    return a->n_layers == b->n_layers && a->n_kv_heads == b->n_kv_heads &&
           a->head_dim == b->head_dim && a->element == b->element;
}

/* Of this job, of a model of this shape, and of that attempt at a checkpoint. */
static bool check_about(const struct restore *restore, const struct kv_file_about *about,
                        uint64_t attempt, const char *name) {
    const struct kv_file_about *own = &restore->pages->options.about;
    if (!same_shape(&about->shape, &own->shape) || strcmp(about->uuid, own->uuid) != 0)
        return fault_world(restore->fault, "%s holds the KV of another job or model", name);
    return about->attempt == attempt ||
           fault_world(restore->fault, "%s is of another attempt than the checkpoint", name);
}

/* As the manifest has it. */
static bool check_file(const struct restore *restore, const char *name) {
    const struct checkpoint_pages_source *source = restore->source;
    for (int file = 0; file < source->n_files; file++) {
        if (strcmp(source->file[file].name, name) == 0)
            return manifest_check(&source->file[file], restore->pages->options.folder,
                                  restore->fault);
    }
    return fault_world(restore->fault, "%s is in no list of the manifest", name);
}

/* The file an index entry names, open; NULL when it cannot be read. */
static struct kv_reader *find_reader(struct restore *restore, const char *newest, int file) {
    const struct kv_older own = {(char *)newest, restore->source->attempt};
    const struct kv_older *of = file == 0 ? &own : &restore->index->older[file - 1];
    const char *name = of->name;
    if (restore->reader[file] || restore->bad[file]) return restore->reader[file];
    struct kv_file_about *about = &restore->about[file];
    const struct kv_file_about *index = &restore->index->about;
    bool good = check_file(restore, name) &&
                kv_reader_open(&restore->reader[file], restore->pages->options.folder, name, about,
                               restore->fault) &&
                check_about(restore, about, of->attempt, name);
    if (good && (about->first_head != index->first_head || about->n_heads != index->n_heads))
        good = fault_world(restore->fault, "%s holds other heads than the file that refers to it",
                           name);
    if (!good && restore->reader[file]) kv_reader_close(restore->reader[file]);
    if (!good) restore->reader[file] = NULL;
    restore->bad[file] = !good;
    return restore->reader[file];
}

/* Put heads first .. first + n - 1 of the model, (layer, K|V, n, 64, dim), where the cache has
 * them. */
static void put_heads(const struct restore *restore, int32_t physical, int first, int n) {
    const struct checkpoint_pages *pages = restore->pages;
    const struct checkpoint_pages_options *o = &pages->options;
    const struct kv_cache *cache = o->cache;
    size_t piece = pages->layer_bytes / (2 * (size_t)cache->n_kv_heads);
    const unsigned char *from = restore->part;
    for (int layer = 0; layer < cache->n_layers; layer++) {
        for (int head = 0; head < n; head++) {
            for (int which = 0; which < 2; which++)
                memcpy(pages->layer + (size_t)(2 * head + which) * piece,
                       from + (size_t)(which * n + head) * piece, piece);
        }
        size_t at =
            ((size_t)layer * (size_t)cache->n_pages + (size_t)physical) * pages->layer_bytes +
            2 * (size_t)(first - o->about.first_head) * piece;
        o->device_ops->upload(o->device, cache->buffer, at, pages->layer, 2 * (size_t)n * piece);
        from += 2 * (size_t)n * piece;
    }
}

/* Read what of a page of sequence `at` is this rank's. */
static void take_page(struct restore *restore, const char *newest, const struct kv_file_page *page,
                      int at) {
    const struct checkpoint_pages_options *o = &restore->pages->options;
    const struct kept *kept = &restore->kept[at];
    const struct kv_file_about *about = &restore->index->about;
    int first = about->first_head > o->about.first_head ? about->first_head : o->about.first_head;
    int end = about->first_head + about->n_heads, own_end = o->about.first_head + o->about.n_heads;
    if (own_end < end) end = own_end;
    bool wanted = page->page < kv_pages_for(kept->n_rows) && first < end;
    if (!wanted || restore->failed[at]) return;
    if (page->n_tokens < pages_filled(kept, page->page)) return;
    struct kv_reader *reader = find_reader(restore, newest, page->file);
    if (!reader ||
        !kv_reader_read(reader, page->row, first, end - first, restore->part, restore->fault)) {
        restore->failed[at] = true;
        return;
    }
    put_heads(restore, kv_pages(o->kv, kept->handle)[page->page], first, end - first);
    restore->n_heads[at][page->page] += end - first;
}

static int compare_saved(const void *a, const void *b, void *context) {
    const struct kept *kept = context;
    int64_t first = kept[*(const int *)a].saved, second = kept[*(const int *)b].saved;
    return (first > second) - (first < second);
}

/* The own sequence of that number in the checkpoint, or -1. */
static int find_kept(const struct restore *restore, const int *order, int n, int64_t saved) {
    int low = 0, high = n;
    while (low < high) {
        int middle = low + (high - low) / 2;
        if (restore->kept[order[middle]].saved < saved) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < n && restore->kept[order[low]].saved == saved ? order[low] : -1;
}

/* Of the checkpoint itself. */
static bool check_newest(const struct restore *restore, const struct kv_file_about *about,
                         const char *name) {
    const struct checkpoint_pages_source *source = restore->source;
    return check_about(restore, about, source->attempt, name) &&
           (about->number == source->number ||
            fault_world(restore->fault, "%s is of checkpoint %lld, not %lld", name,
                        (long long)about->number, (long long)source->number));
}

static void read_file(struct restore *restore, const char *name, const int *order, int n_own) {
    struct kv_index index = {0};
    if (!check_file(restore, name) ||
        !kv_index_read(&index, restore->pages->options.folder, name, restore->fault) ||
        !check_newest(restore, &index.about, name)) {
        kv_index_close(&index); /* its sequences stay incomplete */
        return;
    }
    size_t n_files = (size_t)index.n_older + 1;
    restore->index = &index;
    restore->reader = check_alloc(n_files, sizeof(struct kv_reader *));
    restore->about = check_alloc(n_files, sizeof *restore->about);
    restore->bad = check_alloc(n_files, sizeof *restore->bad);
    for (size_t at = 0; at < index.n_pages; at++) {
        int own = find_kept(restore, order, n_own, index.page[at].sequence);
        if (own >= 0) take_page(restore, name, &index.page[at], own);
    }
    for (size_t file = 0; file < n_files; file++)
        kv_reader_close(restore->reader[file]);
    free(restore->reader);
    free(restore->about);
    free(restore->bad);
    kv_index_close(&index);
}

/* Every head of every page must have come. */
static void check_whole(struct restore *restore, int at) {
    const struct checkpoint_pages_options *o = &restore->pages->options;
    for (int page = 0; page < kv_pages_for(restore->kept[at].n_rows); page++) {
        if (restore->n_heads[at][page] == o->about.n_heads) continue;
        if (!restore->failed[at])
            fault_world(restore->fault,
                        "the checkpoint does not hold all of the KV of sequence %lld",
                        (long long)restore->kept[at].saved);
        restore->failed[at] = true;
    }
}

void checkpoint_pages_restore(struct checkpoint_pages *pages,
                              const struct checkpoint_pages_source *source, const struct kept *kept,
                              int n_kept, unsigned char *failed, struct fault *fault) {
    const struct kv_file_shape *shape = &pages->options.about.shape;
    size_t piece = pages->layer_bytes / (2 * (size_t)pages->options.about.n_heads);
    struct restore restore = {
        .pages = pages,
        .source = source,
        .kept = kept,
        .n_kept = n_kept,
        .failed = failed,
        .n_heads = check_alloc((size_t)n_kept + 1, sizeof *restore.n_heads),
        .part = check_alloc(2 * (size_t)shape->n_layers * (size_t)shape->n_kv_heads, piece),
        .fault = fault,
    };
    int n_own = 0, *order = check_alloc((size_t)n_kept + 1, sizeof *order);
    for (int at = 0; at < n_kept; at++) {
        failed[at] = false;
        if (!pages_own(pages, &kept[at])) continue;
        order[n_own++] = at;
        restore.n_heads[at] = check_alloc((size_t)kv_pages_for(kept[at].n_rows), sizeof(int));
    }
    qsort_r(order, (size_t)n_own, sizeof *order, compare_saved, (void *)kept);
    for (int file = 0; file < source->n_newest && n_own > 0; file++)
        read_file(&restore, source->file[file].name, order, n_own);
    for (int own = 0; own < n_own; own++) {
        check_whole(&restore, order[own]);
        free(restore.n_heads[order[own]]);
    }
    free(order);
    free(restore.n_heads);
    free(restore.part);
}
