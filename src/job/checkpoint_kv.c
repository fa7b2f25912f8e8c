/* checkpoint_kv.c - a rank's pages and the index of them. See checkpoint_kv.h.
 *
 * The file, beside the root attributes of all files of a checkpoint:
 *   /kv        (rows, layers, K|V, heads, 64, head_dim), a chunk a row
 *   /index     the pages of the checkpoint that the rank holds
 *   /older     names of the older files, a line each, as bytes
 *   /attempts  of those, a number each (from format 1.1 on)
 *   attributes rank, owner, first_head, n_heads, n_layers, n_kv_heads, head_dim, page_tokens,
 *              element
 * A page is written as the chunk that HDF5's filter would make of it, checksum and all: through the
 * filter every byte is copied twice more and summed word by word, which takes longer than the disk.
 * Reading goes through the filter. Rejected: a data set that grows, since a checkpoint knows its
 * rows when it begins.
 */
#include "checkpoint_kv.h"

#include <endian.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint_fletcher.h"
#include "checkpoint_hdf5.h"
#include "checkpoint_manifest.h"

#define FORMAT "lamina checkpoint of KV"

enum { DIMENSIONS = 6, MOST_SIZE = 1 << 20, HELD_BYTES = 8 << 20 };
static const size_t MOST_ROW_BYTES = UINT32_MAX; /* of a chunk */
_Static_assert((int)KV_FILE_ROOM_BYTES == (int)FLETCHER_BYTES, "room for the checksum of a chunk");

static const char *const element_name[] = {
    [ELEMENT_F32] = "f32", [ELEMENT_F16] = "f16", [ELEMENT_BF16] = "bf16"};

const char *kv_element_name(enum element element) {
    return element_name[element];
}

static const struct hdf5_table older_names = {
    .name = "older",
    .row_bytes = 1,
    .n_columns = 1,
    .column = (const struct hdf5_column[]){{.type = HDF5_U8}},
};

static const struct hdf5_table older_attempts = {
    .name = "attempts",
    .row_bytes = sizeof(uint64_t),
    .n_columns = 1,
    .column = (const struct hdf5_column[]){{.type = HDF5_U64}},
};

#define COLUMN(field, kind, unit)                                                                  \
    { .name = #field, .type = kind, .offset = offsetof(struct kv_file_page, field), .units = unit }
static const struct hdf5_column page_column[] = {
    COLUMN(sequence, HDF5_I64, NULL),     COLUMN(page, HDF5_I32, "64 tokens"),
    COLUMN(n_tokens, HDF5_I32, "tokens"), COLUMN(file, HDF5_I32, NULL),
    COLUMN(row, HDF5_I32, NULL),
};
static const struct hdf5_table pages = {
    .name = "index",
    .row_bytes = sizeof(struct kv_file_page),
    .n_columns = sizeof page_column / sizeof *page_column,
    .column = page_column,
};

/* ---- shapes ---- */

/* Of `n_rows` rows of `n_heads` heads. */
static void set_shape(hsize_t shape[DIMENSIONS], const struct kv_file_shape *model, size_t n_rows,
                      int n_heads) {
    shape[0] = n_rows;
    shape[1] = (hsize_t)model->n_layers;
    shape[2] = 2;
    shape[3] = (hsize_t)n_heads;
    shape[4] = PAGE_TOKENS;
    shape[5] = (hsize_t)model->head_dim;
}

/* Bytes of one head in one layer: (64, head_dim). */
static size_t head_bytes(const struct kv_file_shape *model) {
    return PAGE_TOKENS * (size_t)model->head_dim * element_bytes(model->element);
}

/* ---- writing ---- */

struct kv_file {
    struct hdf5_file hdf5;
    struct kv_file_about about;
    int n_rows;
    hid_t type, set;
    size_t row_bytes, n_held; /* written since the system was told to begin */
    bool *written;            /* (n_rows) */
};

static bool put_about(struct kv_file *file, struct fault *fault) {
    const struct kv_file_about *about = &file->about;
    const struct {
        const char *name;
        int64_t value;
    } number[] = {
        {"rank", about->rank},
        {"owner", about->owner},
        {"first_head", about->first_head},
        {"n_heads", about->n_heads},
        {"n_layers", about->shape.n_layers},
        {"n_kv_heads", about->shape.n_kv_heads},
        {"head_dim", about->shape.head_dim},
        {"page_tokens", PAGE_TOKENS},
    };
    struct hdf5_root root = {.format = FORMAT, .number = about->number, .attempt = about->attempt};
    memcpy(root.uuid, about->uuid, sizeof root.uuid);
    bool good = hdf5_put_root(&file->hdf5, &root, fault);
    for (size_t row = 0; good && row < sizeof number / sizeof *number; row++)
        good = hdf5_put(&file->hdf5, number[row].name, HDF5_I64, &number[row].value, fault);
    return good && hdf5_put_text(&file->hdf5, file->hdf5.id, "element",
                                 element_name[about->shape.element], fault);
}

/* The data set stays open until the file is closed. */
static bool create_kv(struct kv_file *file, struct fault *fault) {
    struct hdf5_file *hdf5 = &file->hdf5;
    hsize_t extent[DIMENSIONS], most[DIMENSIONS], chunk[DIMENSIONS];
    set_shape(chunk, &file->about.shape, 1, file->about.n_heads);
    set_shape(extent, &file->about.shape, (size_t)file->n_rows, file->about.n_heads);
    set_shape(most, &file->about.shape, file->n_rows ? (size_t)file->n_rows : 1,
              file->about.n_heads);
    file->type = hdf5_element_type(hdf5, file->about.shape.element, fault);
    hid_t space = hdf5_keep(hdf5, H5Screate_simple(DIMENSIONS, extent, most), fault);
    hid_t chunks = hdf5_chunks(hdf5, DIMENSIONS, chunk, fault);
    file->set = hdf5_keep(
        hdf5, H5Dcreate2(hdf5->id, "kv", file->type, space, H5P_DEFAULT, chunks, H5P_DEFAULT),
        fault);
    return file->set >= 0 &&
           hdf5_put_text(hdf5, file->set, "dimensions", "row, layer, K|V, head, token, dim", fault);
}

bool kv_file_create(struct kv_file **file, const char *folder, const char *name,
                    const struct kv_file_about *about, int n_rows, struct fault *fault) {
    REQUIRE(n_rows >= 0 && about->first_head >= 0 && about->n_heads > 0 &&
                about->first_head + about->n_heads <= about->shape.n_kv_heads,
            "a KV file of %d rows and %d heads from %d on", n_rows, about->n_heads,
            about->first_head);
    struct kv_file *made = *file = check_alloc(1, sizeof *made);
    made->about = *about;
    made->n_rows = n_rows;
    made->row_bytes =
        2 * (size_t)about->shape.n_layers * (size_t)about->n_heads * head_bytes(&about->shape);
    made->written = check_alloc((size_t)n_rows, sizeof *made->written);
    if (hdf5_create(&made->hdf5, folder, name, fault) && put_about(made, fault) &&
        create_kv(made, fault))
        return true;
    kv_file_discard(made);
    *file = NULL;
    return false;
}

bool kv_file_write(struct kv_file *file, int row, void *page, struct fault *fault) {
    REQUIRE(row >= 0 && row < file->n_rows && !file->written[row],
            "row %d of %d of a KV file is not to be written now", row, file->n_rows);
    const hsize_t start[DIMENSIONS] = {(hsize_t)row};
    uint32_t sum = htole32(fletcher32(page, file->row_bytes));
    memcpy((unsigned char *)page + file->row_bytes, &sum, sizeof sum);
    bool good = hdf5_good(
        &file->hdf5,
        H5Dwrite_chunk(file->set, H5P_DEFAULT, 0, start, file->row_bytes + sizeof sum, page),
        fault);
    file->written[row] = good;
    file->n_held += file->row_bytes;
    if (file->n_held >= HELD_BYTES) {
        hdf5_hurry(&file->hdf5);
        file->n_held = 0;
    }
    return good;
}

/* The names, each with a newline, to be freed. */
static char *join_names(const struct kv_older *older, int n_older, size_t *n_bytes) {
    size_t n_text = 0;
    for (int number = 0; number < n_older; number++)
        n_text += strlen(older[number].name) + 1;
    char *text = check_alloc(n_text + 1, 1);
    for (int number = 0; number < n_older; number++)
        *n_bytes += (size_t)sprintf(text + *n_bytes, "%s\n", older[number].name);
    return text;
}

static bool put_older(struct hdf5_file *hdf5, const struct kv_older *older, int n_older,
                      struct fault *fault) {
    size_t n_text = 0;
    char *text = join_names(older, n_older, &n_text);
    uint64_t *attempt = check_alloc((size_t)n_older + 1, sizeof *attempt);
    for (int number = 0; number < n_older; number++)
        attempt[number] = older[number].attempt;
    bool good = hdf5_put_table(hdf5, &older_names, text, n_text, fault) &&
                hdf5_put_table(hdf5, &older_attempts, attempt, (size_t)n_older, fault);
    free(attempt);
    free(text);
    return good;
}

bool kv_file_commit(struct kv_file *file, const struct kv_file_page *page, size_t n_pages,
                    const struct kv_older *older, int n_older, int64_t *n_bytes,
                    struct fault *fault) {
    for (size_t number = 0; number < n_pages; number++)
        REQUIRE(page[number].file != 0 || file->written[page[number].row],
                "page %zu of a KV file is in row %d, which was not written", number,
                (int)page[number].row);
    bool good = hdf5_put_table(&file->hdf5, &pages, page, n_pages, fault) &&
                put_older(&file->hdf5, older, n_older, fault);
    good = hdf5_commit(&file->hdf5, good, n_bytes, fault);
    kv_file_discard(file);
    return good;
}

void kv_file_discard(struct kv_file *file) {
    if (!file) return;
    if (file->hdf5.place.path) hdf5_commit(&file->hdf5, false, NULL, NULL);
    free(file->written);
    free(file);
}

/* ---- reading ---- */

static bool get_about(struct hdf5_file *hdf5, struct kv_file_about *about, struct fault *fault) {
    struct hdf5_root root = {.format = FORMAT};
    char element[8];
    int page_tokens;
    bool good =
        hdf5_get_root(hdf5, &root, fault) &&
        hdf5_get_count(hdf5, "rank", 0, INT_MAX, &about->rank, fault) &&
        hdf5_get_count(hdf5, "owner", 0, INT_MAX, &about->owner, fault) &&
        hdf5_get_count(hdf5, "n_layers", 1, MOST_SIZE, &about->shape.n_layers, fault) &&
        hdf5_get_count(hdf5, "n_kv_heads", 1, MOST_SIZE, &about->shape.n_kv_heads, fault) &&
        hdf5_get_count(hdf5, "head_dim", 1, MOST_SIZE, &about->shape.head_dim, fault) &&
        hdf5_get_count(hdf5, "first_head", 0, about->shape.n_kv_heads - 1, &about->first_head,
                       fault) &&
        hdf5_get_count(hdf5, "n_heads", 1, about->shape.n_kv_heads - about->first_head,
                       &about->n_heads, fault) &&
        hdf5_get_count(hdf5, "page_tokens", PAGE_TOKENS, PAGE_TOKENS, &page_tokens, fault) &&
        hdf5_get_text(hdf5, "element", element, sizeof element, fault);
    if (!good) return false;
    memcpy(about->uuid, root.uuid, sizeof about->uuid);
    about->number = root.number;
    about->attempt = root.attempt;
    for (size_t row = 0; row < sizeof element_name / sizeof *element_name; row++) {
        if (strcmp(element, element_name[row]) != 0) continue;
        about->shape.element = (enum element)row;
        return true;
    }
    return hdf5_refuse(hdf5, fault, "damaged: no such element");
}

/* Open /kv, whose shape must be the one that `about` tells. */
static hid_t open_kv(struct hdf5_file *hdf5, const struct kv_file_about *about, int *n_rows,
                     struct fault *fault) {
    size_t n_bytes = head_bytes(&about->shape);
    bool fits = check_multiply(n_bytes, 2 * (size_t)about->shape.n_layers, &n_bytes) &&
                check_multiply(n_bytes, (size_t)about->n_heads, &n_bytes) &&
                n_bytes <= MOST_ROW_BYTES;
    hid_t set = hdf5_keep(hdf5, H5Dopen2(hdf5->id, "kv", H5P_DEFAULT), fault);
    int n_kept = hdf5->n_kept;
    hid_t space = hdf5_keep(hdf5, H5Dget_space(set), fault);
    hid_t type = hdf5_keep(hdf5, H5Dget_type(set), fault);
    hid_t wanted_type = hdf5_element_type(hdf5, about->shape.element, fault);
    if (wanted_type < 0) return -1;
    hsize_t extent[H5S_MAX_RANK] = {0}, wanted[DIMENSIONS];
    bool same = fits && H5Sget_simple_extent_dims(space, extent, NULL) == DIMENSIONS &&
                extent[0] <= INT32_MAX && H5Tequal(type, wanted_type) > 0;
    set_shape(wanted, &about->shape, extent[0], about->n_heads);
    if (!same || memcmp(extent, wanted, sizeof wanted) != 0) {
        hdf5_refuse(hdf5, fault, "damaged: kv has not the shape or type it should");
        return -1;
    }
    *n_rows = (int)extent[0];
    return hdf5_release(hdf5, n_kept, fault) ? set : -1;
}

/* False when they are no lines. */
static bool split_names(struct kv_index *index, char *text, size_t n_bytes) {
    if (n_bytes == 0) return true;
    if (text[n_bytes - 1] != '\n') return false;
    for (const char *at = text; at < text + n_bytes; at++)
        index->n_older += *at == '\n';
    index->older = check_alloc((size_t)index->n_older, sizeof *index->older);
    char *line = text;
    for (int older = 0; older < index->n_older; older++) {
        char *end = memchr(line, '\n', (size_t)(text + n_bytes - line));
        *end = 0;
        index->older[older].name = strcpy(check_alloc((size_t)(end - line) + 1, 1), line);
        line = end + 1;
    }
    return true;
}

static bool get_older(struct hdf5_file *hdf5, struct kv_index *index, struct fault *fault) {
    void *text = NULL, *attempt = NULL;
    size_t n_text = 0, n_attempts = 0;
    bool good = hdf5_get_table(hdf5, &older_names, &text, &n_text, fault);
    if (good && !split_names(index, text, n_text))
        good = hdf5_refuse(hdf5, fault, "damaged: older is not of lines");
    if (good && H5Lexists(hdf5->id, older_attempts.name, H5P_DEFAULT) != 0) {
        good = hdf5_get_table(hdf5, &older_attempts, &attempt, &n_attempts, fault);
        if (good && n_attempts != (size_t)index->n_older)
            good = hdf5_refuse(hdf5, fault, "damaged: %zu attempts for %d older files", n_attempts,
                               index->n_older);
        for (int older = 0; good && older < index->n_older; older++)
            index->older[older].attempt = ((const uint64_t *)attempt)[older];
    }
    free(attempt);
    free(text);
    return good;
}

static bool page_is_good(const struct kv_index *index, const struct kv_file_page *page) {
    return page->sequence >= 0 && page->page >= 0 && page->page < INT32_MAX / PAGE_TOKENS &&
           page->n_tokens >= 1 && page->n_tokens <= PAGE_TOKENS && page->file >= 0 &&
           page->file <= index->n_older && page->row >= 0 &&
           (page->file > 0 || page->row < index->n_rows);
}

static bool check_index(struct hdf5_file *hdf5, const struct kv_index *index, struct fault *fault) {
    for (size_t number = 0; number < index->n_pages; number++) {
        if (!page_is_good(index, &index->page[number]))
            return hdf5_refuse(hdf5, fault, "damaged: row %zu of index cannot be", number);
    }
    for (int number = 0; number < index->n_older; number++) {
        if (!manifest_name_is_good(index->older[number].name))
            return hdf5_refuse(hdf5, fault, "damaged: row %d of older is no file's name", number);
    }
    return true;
}

/* All but the pages. *index is to be closed whatever comes of it. Returns /kv, kept, or -1. */
static hid_t read_index(struct hdf5_file *hdf5, struct kv_index *index, struct fault *fault) {
    void *page = NULL;
    if (!get_about(hdf5, &index->about, fault)) return -1;
    hid_t set = open_kv(hdf5, &index->about, &index->n_rows, fault);
    bool good = set >= 0 && hdf5_get_table(hdf5, &pages, &page, &index->n_pages, fault) &&
                get_older(hdf5, index, fault);
    index->page = page;
    return good && check_index(hdf5, index, fault) ? set : -1;
}

bool kv_index_read(struct kv_index *index, const char *folder, const char *name,
                   struct fault *fault) {
    struct hdf5_file hdf5;
    *index = (struct kv_index){0};
    if (!hdf5_open(&hdf5, folder, name, fault)) return false;
    bool good = read_index(&hdf5, index, fault) >= 0;
    hdf5_close(&hdf5);
    if (!good) kv_index_close(index);
    return good;
}

void kv_index_close(struct kv_index *index) {
    free(index->page);
    for (int older = 0; older < index->n_older; older++)
        free(index->older[older].name);
    free(index->older);
    *index = (struct kv_index){0};
}

struct kv_reader {
    struct hdf5_file hdf5;
    struct kv_file_about about;
    int n_rows;
    hid_t type, set;
};

bool kv_reader_open(struct kv_reader **reader, const char *folder, const char *name,
                    struct kv_file_about *about, struct fault *fault) {
    struct kv_reader *opened = check_alloc(1, sizeof *opened);
    struct kv_index index = {0};
    opened->set = -1;
    if (hdf5_open(&opened->hdf5, folder, name, fault))
        opened->set = read_index(&opened->hdf5, &index, fault);
    if (opened->set >= 0)
        opened->type = hdf5_element_type(&opened->hdf5, index.about.shape.element, fault);
    bool good = opened->set >= 0 && opened->type >= 0;
    *about = opened->about = index.about;
    opened->n_rows = index.n_rows;
    kv_index_close(&index);
    if (!good) kv_reader_close(opened);
    *reader = good ? opened : NULL;
    return good;
}

/* Rows from `row` on of the data set, and of memory. */
static bool select_row(struct hdf5_file *hdf5, hid_t set, const hsize_t start[DIMENSIONS],
                       const hsize_t count[DIMENSIONS], hid_t space[2], struct fault *fault) {
    space[0] = hdf5_keep(hdf5, H5Dget_space(set), fault);
    space[1] = hdf5_keep(hdf5, H5Screate_simple(DIMENSIONS, count, NULL), fault);
    return space[1] >= 0 &&
           hdf5_good(hdf5, H5Sselect_hyperslab(space[0], H5S_SELECT_SET, start, NULL, count, NULL),
                     fault);
}

bool kv_reader_read(struct kv_reader *reader, int row, int first_head, int n_heads, void *page,
                    struct fault *fault) {
    const struct kv_file_about *about = &reader->about;
    int skipped = first_head - about->first_head;
    REQUIRE(skipped >= 0 && n_heads > 0 && n_heads <= about->n_heads - skipped,
            "heads %d to %d are not in a KV file", first_head, first_head + n_heads - 1);
    struct hdf5_file *hdf5 = &reader->hdf5;
    if (row < 0 || row >= reader->n_rows)
        return hdf5_refuse(hdf5, fault, "has %d rows, not %d", reader->n_rows, row + 1);
    int n_kept = hdf5->n_kept;
    hsize_t start[DIMENSIONS] = {(hsize_t)row, 0, 0, (hsize_t)skipped}, count[DIMENSIONS];
    hid_t space[2];
    set_shape(count, &about->shape, 1, n_heads);
    bool good =
        select_row(hdf5, reader->set, start, count, space, fault) &&
        hdf5_good(hdf5, H5Dread(reader->set, reader->type, space[1], space[0], H5P_DEFAULT, page),
                  fault);
    return hdf5_release(hdf5, n_kept, fault) && good;
}

void kv_reader_close(struct kv_reader *reader) {
    if (!reader) return;
    hdf5_close(&reader->hdf5);
    free(reader);
}
