/* checkpoint_master.c - a whole checkpoint in one file, for people. See checkpoint_master.h.
 *
 * A row of /kv is a page of /index, sorted by sequence and page; its heads come from as many files
 * as ranks hold some of them. Rows that stand one behind the other in both are mapped together, for
 * HDF5 opens a mapping at a time. What no file holds reads as NaN.
 */
#include "checkpoint_master.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint_hdf5.h"

#define FORMAT "lamina checkpoint"

enum { DIMENSIONS = 6 };

struct row {
    int64_t sequence;
    int32_t page, n_tokens;
};

#define COLUMN(field, kind, unit)                                                                  \
    { .name = #field, .type = kind, .offset = offsetof(struct row, field), .units = unit }
static const struct hdf5_column row_column[] = {
    COLUMN(sequence, HDF5_I64, NULL),
    COLUMN(page, HDF5_I32, "64 tokens"),
    COLUMN(n_tokens, HDF5_I32, "tokens"),
};
static const struct hdf5_table rows = {"index", sizeof(struct row),
                                       sizeof row_column / sizeof *row_column, row_column};

struct master {
    struct hdf5_file hdf5;
    const struct master_about *about;
    struct kv_index *index; /* (about->n_files) */
    size_t n_rows;
    struct row *row; /* (n_rows) rising */
};

/* ---- whose pages there are ---- */

static int compare(const void *a, const void *b) {
    const struct row *x = a, *y = b;
    if (x->sequence != y->sequence) return x->sequence < y->sequence ? -1 : 1;
    return (x->page > y->page) - (x->page < y->page);
}

/* The files' indexes, which must be of this checkpoint. */
static bool read_indexes(struct master *master, const char *folder, struct fault *fault) {
    const struct master_about *about = master->about;
    for (int file = 0; file < about->n_files; file++) {
        const struct kv_file_about *of = &master->index[file].about;
        if (!kv_index_read(&master->index[file], folder, about->file[file], fault)) return false;
        if (strcmp(of->uuid, about->uuid) != 0 || of->number != about->number ||
            of->attempt != about->attempt || of->shape.n_layers != about->shape.n_layers ||
            of->shape.n_kv_heads != about->shape.n_kv_heads ||
            of->shape.head_dim != about->shape.head_dim ||
            of->shape.element != about->shape.element)
            return hdf5_refuse(&master->hdf5, fault, "%s is of another checkpoint or model",
                               about->file[file]);
    }
    return true;
}

/* Every page once, however many ranks hold heads of it. */
static void gather_rows(struct master *master) {
    size_t n_pages = 0;
    for (int file = 0; file < master->about->n_files; file++)
        n_pages += master->index[file].n_pages;
    master->row = check_alloc(n_pages, sizeof *master->row);
    n_pages = 0;
    for (int file = 0; file < master->about->n_files; file++) {
        const struct kv_index *index = &master->index[file];
        for (size_t number = 0; number < index->n_pages; number++)
            master->row[n_pages++] = (struct row){.sequence = index->page[number].sequence,
                                                  .page = index->page[number].page,
                                                  .n_tokens = index->page[number].n_tokens};
    }
    qsort(master->row, n_pages, sizeof *master->row, compare);
    for (size_t number = 0; number < n_pages; number++) {
        const struct row *row = &master->row[number];
        if (master->n_rows > 0 && compare(row, &master->row[master->n_rows - 1]) == 0) continue;
        master->row[master->n_rows++] = *row;
    }
}

static size_t find_row(const struct master *master, const struct kv_file_page *page) {
    const struct row wanted = {.sequence = page->sequence, .page = page->page};
    const struct row *found = bsearch(&wanted, master->row, master->n_rows, sizeof wanted, compare);
    REQUIRE(found != NULL, "a page of an index is missing from all of them");
    return (size_t)(found - master->row);
}

/* ---- where they are ---- */

struct run {
    int file; /* as in struct kv_file_page */
    hsize_t from, to, n_rows;
};

static bool map_run(struct master *master, const struct kv_index *index, const char *name,
                    const struct run *run, hid_t list, struct fault *fault) {
    struct hdf5_file *hdf5 = &master->hdf5;
    const struct kv_file_shape *shape = &index->about.shape;
    int n_kept = hdf5->n_kept;
    hsize_t layers = (hsize_t)shape->n_layers, dim = (hsize_t)shape->head_dim;
    hsize_t heads = (hsize_t)shape->n_kv_heads, part = (hsize_t)index->about.n_heads;
    hsize_t whole[DIMENSIONS] = {master->n_rows, layers, 2, heads, PAGE_TOKENS, dim};
    hsize_t source[DIMENSIONS] = {run->from + run->n_rows, layers, 2, part, PAGE_TOKENS, dim};
    hsize_t count[DIMENSIONS] = {run->n_rows, layers, 2, part, PAGE_TOKENS, dim};
    hsize_t from[DIMENSIONS] = {run->from};
    hsize_t to[DIMENSIONS] = {run->to, 0, 0, (hsize_t)index->about.first_head};
    hid_t there = hdf5_keep(hdf5, H5Screate_simple(DIMENSIONS, source, NULL), fault);
    hid_t here = hdf5_keep(hdf5, H5Screate_simple(DIMENSIONS, whole, NULL), fault);
    bool good =
        hdf5_good(hdf5, H5Sselect_hyperslab(there, H5S_SELECT_SET, from, NULL, count, NULL),
                  fault) &&
        hdf5_good(hdf5, H5Sselect_hyperslab(here, H5S_SELECT_SET, to, NULL, count, NULL), fault) &&
        hdf5_good(hdf5, H5Pset_virtual(list, here, name, "/kv", there), fault);
    return hdf5_release(hdf5, n_kept, fault) && good;
}

/* The pages of one rank. */
static bool map_file(struct master *master, int file, hid_t list, struct fault *fault) {
    const struct kv_index *index = &master->index[file];
    struct run run = {0};
    for (size_t number = 0; number <= index->n_pages; number++) {
        const struct kv_file_page *page = number < index->n_pages ? &index->page[number] : NULL;
        size_t to = page ? find_row(master, page) : 0;
        if (page && run.n_rows > 0 && page->file == run.file &&
            (hsize_t)page->row == run.from + run.n_rows && to == run.to + run.n_rows) {
            run.n_rows++;
            continue;
        }
        const char *name = run.file ? index->older[run.file - 1].name : master->about->file[file];
        if (run.n_rows > 0 && !map_run(master, index, name, &run, list, fault)) return false;
        if (page) run = (struct run){page->file, (hsize_t)page->row, to, 1};
    }
    return true;
}

/* ---- the file ---- */

static bool put_kv(struct master *master, struct fault *fault) {
    struct hdf5_file *hdf5 = &master->hdf5;
    const struct kv_file_shape *shape = &master->about->shape;
    const float missing = NAN;
    hsize_t extent[DIMENSIONS] = {
        master->n_rows, (hsize_t)shape->n_layers, 2, (hsize_t)shape->n_kv_heads,
        PAGE_TOKENS,    (hsize_t)shape->head_dim};
    hid_t type = hdf5_element_type(hdf5, shape->element, fault);
    hid_t space = hdf5_keep(hdf5, H5Screate_simple(DIMENSIONS, extent, NULL), fault);
    hid_t list = hdf5_keep(hdf5, H5Pcreate(H5P_DATASET_CREATE), fault);
    bool good = hdf5_good(hdf5, H5Pset_fill_value(list, H5T_NATIVE_FLOAT, &missing), fault);
    for (int file = 0; good && file < master->about->n_files; file++)
        good = map_file(master, file, list, fault);
    hid_t set = hdf5_keep(
        hdf5, H5Dcreate2(hdf5->id, "kv", type, space, H5P_DEFAULT, list, H5P_DEFAULT), fault);
    return good && set >= 0 &&
           hdf5_put_text(hdf5, set, "dimensions", "page, layer, K|V, head, token, dim", fault);
}

static bool put_all(struct master *master, struct fault *fault) {
    struct hdf5_file *hdf5 = &master->hdf5;
    const struct master_about *about = master->about;
    struct hdf5_root root = {.format = FORMAT, .number = about->number, .attempt = about->attempt};
    strncpy(root.uuid, about->uuid, sizeof root.uuid - 1);
    return hdf5_put_root(hdf5, &root, fault) &&
           hdf5_good(hdf5,
                     H5Lcreate_external(about->progress, "/", hdf5->id, "progress", H5P_DEFAULT,
                                        H5P_DEFAULT),
                     fault) &&
           hdf5_put_table(hdf5, &rows, master->row, master->n_rows, fault) &&
           (master->n_rows == 0 || put_kv(master, fault));
}

bool master_write(const struct master_about *about, const char *folder, const char *name,
                  int64_t *n_bytes, struct fault *fault) {
    struct master master = {.about = about};
    if (!hdf5_create(&master.hdf5, folder, name, fault)) return false;
    master.index = check_alloc((size_t)about->n_files, sizeof *master.index);
    bool good = read_indexes(&master, folder, fault);
    if (good) gather_rows(&master);
    good = good && put_all(&master, fault);
    for (int file = 0; file < about->n_files; file++)
        kv_index_close(&master.index[file]);
    free(master.index);
    free(master.row);
    return hdf5_commit(&master.hdf5, good, n_bytes, fault);
}
