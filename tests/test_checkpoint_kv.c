/* checkpoint_kv: pages come back bit by bit, or the file is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>

#include "../src/job/checkpoint_hdf5.h"
#include "checkpoint_damage.h"
#include "checkpoint_kv.h"

/* ---- a disk that is full: this definition stands before the library's ---- */

static int n_writes_left = -1; /* -1: no end */

ssize_t pwrite(int fd, const void *bytes, size_t n_bytes, off_t place) {
    struct stat disk, file;
    bool is_disk =
        stat(scratch_folder, &disk) == 0 && fstat(fd, &file) == 0 && disk.st_dev == file.st_dev;
    if (n_writes_left == 0 && is_disk) {
        errno = ENOSPC;
        return -1;
    }
    if (n_writes_left > 0) n_writes_left--;
    return syscall(SYS_pwrite64, fd, bytes, n_bytes, place);
}

/* ---- pages that are made up ---- */

static uint64_t mix(uint64_t value) {
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
    return value ^ (value >> 31);
}

static size_t n_elements(const struct kv_file_shape *shape, int n_heads) {
    return (size_t)shape->n_layers * 2 * (size_t)n_heads * PAGE_TOKENS * (size_t)shape->head_dim;
}

/* The bits of one number of the model's cache: any, and often those that a conversion would lose
 * (infinities, quiet and signalling NaN, subnormal numbers, -0). */
static uint32_t bits_at(enum element element, int row, const int at[5]) {
    static const uint32_t rare[][8] = {
        [ELEMENT_F32] = {0x7f800000, 0xff800000, 0x7fc00001, 0x7f800001, 1, 0x807fffff, 0x80000000,
                         0xffffffff},
        [ELEMENT_F16] = {0x7c00, 0xfc00, 0x7e01, 0x7c01, 1, 0x83ff, 0x8000, 0xffff},
        [ELEMENT_BF16] = {0x7f80, 0xff80, 0x7fc1, 0x7f81, 1, 0x807f, 0x8000, 0xffff},
    };
    uint64_t value = (uint64_t)row + 1;
    for (int dimension = 0; dimension < 5; dimension++)
        value = mix(value * 1000003 + (uint64_t)at[dimension]);
    if (value % 5 == 0) return rare[element][(value >> 8) % 8];
    return (uint32_t)(value >> 32) & (element == ELEMENT_F32 ? 0xffffffff : 0xffff);
}

/* Heads first_head and on of a row: (layers, 2, n_heads, 64, head_dim). */
static void *make_page(const struct kv_file_shape *shape, int row, int first_head, int n_heads) {
    size_t n_bytes = element_bytes(shape->element), n = 0;
    char *page = malloc(n_elements(shape, n_heads) * n_bytes + KV_FILE_ROOM_BYTES);
    assert_non_null(page);
    int at[5];
    for (at[0] = 0; at[0] < shape->n_layers; at[0]++)
        for (at[1] = 0; at[1] < 2; at[1]++)
            for (at[2] = first_head; at[2] < first_head + n_heads; at[2]++)
                for (at[3] = 0; at[3] < PAGE_TOKENS; at[3]++)
                    for (at[4] = 0; at[4] < shape->head_dim; at[4]++) {
                        uint32_t bits = bits_at(shape->element, row, at);
                        memcpy(page + n_bytes * n++, &bits, n_bytes);
                    }
    return page;
}

static struct kv_file_about about_of(struct kv_file_shape shape, int first_head, int n_heads) {
    return (struct kv_file_about){.uuid = "0d1f9f3c-6b0e-4d8a-9a55-3f6a2f7d1c11",
                                  .number = 7,
                                  .rank = 3,
                                  .owner = 1,
                                  .first_head = first_head,
                                  .n_heads = n_heads,
                                  .shape = shape};
}

/* Write a file of `n_rows` rows, the last first. False with the fault. */
static bool write_file(const char *name, const struct kv_file_about *about, int n_rows,
                       const struct kv_file_page *page, size_t n_pages,
                       const struct kv_older *older, int n_older, struct fault *fault) {
    struct kv_file *file;
    int64_t n_bytes = -1;
    struct stat status;
    if (!kv_file_create(&file, scratch_folder, name, about, n_rows, fault)) return false;
    for (int row = n_rows - 1; row >= 0; row--) {
        void *made = make_page(&about->shape, row, about->first_head, about->n_heads);
        bool good = kv_file_write(file, row, made, fault);
        free(made);
        if (good) continue;
        kv_file_discard(file);
        return false;
    }
    if (!kv_file_commit(file, page, n_pages, older, n_older, &n_bytes, fault)) return false;
    assert_int_equal(stat(scratch_path(name), &status), 0);
    assert_int_equal(status.st_size, n_bytes);
    return true;
}

static void must_write(const char *name, const struct kv_file_about *about, int n_rows,
                       const struct kv_file_page *page, size_t n_pages,
                       const struct kv_older *older, int n_older) {
    struct fault fault = {0};
    if (!write_file(name, about, n_rows, page, n_pages, older, n_older, &fault))
        fail_msg("%s", fault.text);
}

/* Pages 0 to n_rows - 1 of a sequence, all in this file. */
static struct kv_file_page *whole_index(int n_rows) {
    struct kv_file_page *page = calloc((size_t)n_rows + 1, sizeof *page);
    for (int row = 0; row < n_rows; row++)
        page[row] = (struct kv_file_page){.sequence = 5, .page = row, .n_tokens = 64, .row = row};
    return page;
}

static bool same_about(const struct kv_file_about *a, const struct kv_file_about *b) {
    return strcmp(a->uuid, b->uuid) == 0 && a->number == b->number && a->attempt == b->attempt &&
           a->rank == b->rank && a->owner == b->owner && a->first_head == b->first_head &&
           a->n_heads == b->n_heads && a->shape.n_layers == b->shape.n_layers &&
           a->shape.n_kv_heads == b->shape.n_kv_heads && a->shape.head_dim == b->shape.head_dim &&
           a->shape.element == b->shape.element;
}

/* ---- what is written is read ---- */

static void row_is(struct kv_reader *reader, const struct kv_file_about *about, int row,
                   int first_head, int n_heads) {
    struct fault fault = {0};
    size_t n_bytes = n_elements(&about->shape, n_heads) * element_bytes(about->shape.element);
    void *wanted = make_page(&about->shape, row, first_head, n_heads), *page = malloc(n_bytes);
    if (!kv_reader_read(reader, row, first_head, n_heads, page, &fault)) fail_msg("%s", fault.text);
    assert_memory_equal(page, wanted, n_bytes);
    free(page);
    free(wanted);
}

static void comes_back(struct kv_file_shape shape, int first_head, int n_heads, int n_rows) {
    struct kv_file_about about = about_of(shape, first_head, n_heads), read;
    struct fault fault = {0};
    struct kv_index index;
    struct kv_reader *reader;
    struct kv_file_page *page = whole_index(n_rows);
    must_write("odd", &about, n_rows, page, (size_t)n_rows, NULL, 0);
    if (!kv_index_read(&index, scratch_folder, "odd", &fault)) fail_msg("%s", fault.text);
    assert_true(same_about(&index.about, &about));
    assert_int_equal(index.n_rows, n_rows);
    assert_int_equal(index.n_older, 0);
    assert_int_equal(index.n_pages, n_rows);
    assert_memory_equal(index.page, page, (size_t)n_rows * sizeof *page);
    kv_index_close(&index);
    if (!kv_reader_open(&reader, scratch_folder, "odd", &read, &fault)) fail_msg("%s", fault.text);
    assert_true(same_about(&read, &about));
    for (int row = 0; row < n_rows; row++)
        for (int head = first_head; head < first_head + n_heads; head++)
            for (int n = 1; n <= first_head + n_heads - head; n++)
                row_is(reader, &about, row, head, n);
    struct fault beyond = {0};
    assert_false(kv_reader_read(reader, n_rows, first_head, 1, NULL, &beyond));
    assert_int_equal(beyond.kind, FAULT_WORLD);
    kv_reader_close(reader);
    free(page);
}

static void odd_sizes_come_back(void **state) {
    (void)state;
    for (enum element element = ELEMENT_F32; element <= ELEMENT_BF16; element++) {
        comes_back((struct kv_file_shape){30, 3, 64, element}, 0, 3, 2);
        comes_back((struct kv_file_shape){2, 9, 5, element}, 4, 5, 3);
        comes_back((struct kv_file_shape){1, 1, 1, element}, 0, 1, 1);
        comes_back((struct kv_file_shape){3, 7, 33, element}, 6, 1, 4);
        comes_back((struct kv_file_shape){3, 4, 80, element}, 0, 2, 0);
        /* as many numbers as there are patterns of 16 bits, and many of them */
        comes_back((struct kv_file_shape){4, 2, 128, element}, 0, 2, 1);
    }
}

static void every_pattern_of_16_bits_comes_back(void **state) {
    (void)state;
    for (enum element element = ELEMENT_F16; element <= ELEMENT_BF16; element++) {
        struct kv_file_about about = about_of((struct kv_file_shape){2, 2, 128, element}, 0, 2);
        struct kv_file_about read;
        struct fault fault = {0};
        struct kv_file *file;
        struct kv_reader *reader;
        int64_t n_bytes;
        static uint16_t pattern[65536 + KV_FILE_ROOM_BYTES / 2], got[65536];
        for (unsigned bits = 0; bits < 65536; bits++)
            pattern[bits] = (uint16_t)bits;
        assert_true(kv_file_create(&file, scratch_folder, "bits", &about, 1, &fault));
        assert_true(kv_file_write(file, 0, pattern, &fault));
        assert_true(kv_file_commit(file, NULL, 0, NULL, 0, &n_bytes, &fault));
        assert_true(kv_reader_open(&reader, scratch_folder, "bits", &read, &fault));
        assert_true(kv_reader_read(reader, 0, 0, 2, got, &fault));
        assert_memory_equal(got, pattern, sizeof got);
        kv_reader_close(reader);
    }
}

/* HDF5 checks the sums when it reads: of pages whose sums are the largest, of zeros, and of few
 * bytes and many. */
static void checksums_are_those_of_hdf5(void **state) {
    (void)state;
    static const int head_dim[] = {1, 3, 45, 90, 200, 5000};
    for (size_t row = 0; row < 3 * sizeof head_dim / sizeof *head_dim; row++) {
        struct kv_file_about about =
            about_of((struct kv_file_shape){1, 1, head_dim[row / 3], ELEMENT_BF16}, 0, 1);
        struct kv_file_about read;
        struct fault fault = {0};
        struct kv_file *file;
        struct kv_reader *reader;
        int64_t n_file;
        size_t n_bytes = n_elements(&about.shape, 1) * 2;
        unsigned char *page = malloc(n_bytes + KV_FILE_ROOM_BYTES), *got = malloc(n_bytes);
        for (size_t at = 0; at < n_bytes; at++)
            page[at] = row % 3 == 2 ? (unsigned char)(at * 2654435761u >> 24)
                                    : (unsigned char)(row % 3 * 0xff);
        assert_true(kv_file_create(&file, scratch_folder, "sums", &about, 1, &fault));
        assert_true(kv_file_write(file, 0, page, &fault));
        assert_true(kv_file_commit(file, NULL, 0, NULL, 0, &n_file, &fault));
        assert_true(kv_reader_open(&reader, scratch_folder, "sums", &read, &fault));
        if (!kv_reader_read(reader, 0, 0, 1, got, &fault))
            fail_msg("%zu bytes, kind %zu: %s", n_bytes, row % 3, fault.text);
        assert_memory_equal(got, page, n_bytes);
        kv_reader_close(reader);
        free(page);
        free(got);
    }
}

static void pages_of_older_files_are_named(void **state) {
    (void)state;
    const struct kv_file_shape shape = {2, 3, 4, ELEMENT_BF16};
    const struct kv_file_about low = about_of(shape, 0, 2), high = about_of(shape, 2, 1);
    const struct kv_older older[] = {
        {"kv-000003-0001.h5", 0}, {"kv-000005-0001.h5", UINT64_MAX}, {"gr\xc3\xbc\xc3\x9f", 7}};
    const struct kv_file_page page[] = {
        {.sequence = 0, .page = 0, .n_tokens = 64, .file = 1, .row = 9},
        {.sequence = 0, .page = 1, .n_tokens = 1, .file = 0, .row = 1},
        {.sequence = 1LL << 40, .page = 33554430, .n_tokens = 63, .file = 3, .row = INT32_MAX},
    };
    struct fault fault = {0};
    struct kv_index index;
    must_write("low", &low, 2, page, 3, older, 3);
    must_write("high", &high, 2, page, 3, older, 3);
    if (!kv_index_read(&index, scratch_folder, "low", &fault)) fail_msg("%s", fault.text);
    assert_int_equal(index.n_pages, 3);
    assert_memory_equal(index.page, page, sizeof page);
    assert_int_equal(index.n_older, 3);
    for (int number = 0; number < 3; number++) {
        assert_string_equal(index.older[number].name, older[number].name);
        assert_true(index.older[number].attempt == older[number].attempt);
    }
    kv_index_close(&index);
    kv_index_close(&index);
    /* a rank of heads 1 and 2 takes them from two files */
    struct kv_reader *reader;
    struct kv_file_about about;
    assert_true(kv_reader_open(&reader, scratch_folder, "low", &about, &fault));
    row_is(reader, &about, 1, 1, 1);
    kv_reader_close(reader);
    assert_true(kv_reader_open(&reader, scratch_folder, "high", &about, &fault));
    row_is(reader, &about, 1, 2, 1);
    kv_reader_close(reader);
    kv_reader_close(NULL);
}

/* Format 1.0 knew no attempts: they read as 0. */
static void an_older_format_is_read(void **state) {
    (void)state;
    struct kv_file_about about = about_of((struct kv_file_shape){1, 1, 4, ELEMENT_F32}, 0, 1);
    const struct kv_older older[] = {{"one", 5}, {"two", 6}};
    const struct kv_file_page page = {.n_tokens = 64, .file = 2, .row = 3};
    struct fault fault = {0};
    struct kv_index index;
    about.attempt = 9;
    must_write("then", &about, 0, &page, 1, older, 2);
    hid_t file = H5Fopen(scratch_path("then"), H5F_ACC_RDWR, H5P_DEFAULT);
    assert_true(H5Adelete(file, "attempt") >= 0);
    assert_true(H5Ldelete(file, "attempts", H5P_DEFAULT) >= 0);
    assert_true(H5Fclose(file) >= 0);
    if (!kv_index_read(&index, scratch_folder, "then", &fault)) fail_msg("%s", fault.text);
    assert_true(index.about.attempt == 0);
    assert_int_equal(index.n_older, 2);
    for (int number = 0; number < 2; number++) {
        assert_string_equal(index.older[number].name, older[number].name);
        assert_true(index.older[number].attempt == 0);
    }
    kv_index_close(&index);
}

/* ---- damage ---- */

static const struct kv_file_about small = {.uuid = "small",
                                           .number = 1,
                                           .attempt = 0x8badf00d8badf00d,
                                           .rank = 2,
                                           .owner = 1,
                                           .first_head = 1,
                                           .n_heads = 2,
                                           .shape = {1, 3, 2, ELEMENT_BF16}};
static const struct kv_older small_older[] = {{"kv-1.h5", 1}, {"kv-2.h5", 1ull << 63}};
static const struct kv_file_page small_page[] = {
    {.sequence = 0, .page = 0, .n_tokens = 64, .file = 0, .row = 0},
    {.sequence = 0, .page = 1, .n_tokens = 64, .file = 0, .row = 1},
    {.sequence = 0, .page = 2, .n_tokens = 7, .file = 0, .row = 2},
    {.sequence = 1, .page = 0, .n_tokens = 3, .file = 2, .row = 2},
};
enum { SMALL_ROWS = 3, SMALL_PAGES = 4, SMALL_OLDER = 2 };

static void write_small(void) {
    must_write("small", &small, SMALL_ROWS, small_page, SMALL_PAGES, small_older, SMALL_OLDER);
}

static bool read_small_index(void) {
    struct fault fault = {0};
    struct kv_index index;
    if (!kv_index_read(&index, scratch_folder, "small", &fault)) {
        assert_int_not_equal(fault.kind, FAULT_NONE);
        return false;
    }
    assert_true(same_about(&index.about, &small));
    assert_int_equal(index.n_rows, SMALL_ROWS);
    assert_int_equal(index.n_pages, SMALL_PAGES);
    assert_memory_equal(index.page, small_page, sizeof small_page);
    assert_int_equal(index.n_older, SMALL_OLDER);
    for (int number = 0; number < SMALL_OLDER; number++) {
        assert_string_equal(index.older[number].name, small_older[number].name);
        assert_true(index.older[number].attempt == small_older[number].attempt);
    }
    kv_index_close(&index);
    return true;
}

/* Each row, all heads and one of them. */
static bool read_small(void) {
    struct fault fault = {0};
    struct kv_reader *reader;
    struct kv_file_about about;
    bool all = read_small_index();
    if (!kv_reader_open(&reader, scratch_folder, "small", &about, &fault)) {
        assert_null(reader);
        return false;
    }
    assert_true(same_about(&about, &small));
    for (int row = 0; row < SMALL_ROWS; row++) {
        for (int n_heads = 1; n_heads <= 2; n_heads++) {
            char page[2 * 2 * 64 * 2 * 2];
            void *wanted = make_page(&small.shape, row, 1, n_heads);
            bool good = kv_reader_read(reader, row, 1, n_heads, page, &fault);
            if (good) assert_memory_equal(page, wanted, n_elements(&small.shape, n_heads) * 2);
            all = all && good;
            free(wanted);
        }
    }
    kv_reader_close(reader);
    return all;
}

static void a_changed_byte_is_never_other_data(void **state) {
    (void)state;
    write_small();
    assert_true(read_small());
    struct damage_count count = damage_bytes("small", read_small);
    print_message("%zu bytes changed in turn, %zu refused\n", count.n_bytes, count.n_refused);
    assert_true(count.n_refused > 3 * 2 * 2 * 64 * 2 * 2); /* the pages alone */
    assert_true(read_small());
}

static void a_file_that_was_cut_is_refused(void **state) {
    (void)state;
    write_small();
    assert_int_equal(damage_lengths("small", 7, read_small), 0);
    assert_true(read_small());
}

/* ---- what cannot be ---- */

static void is_refused(const char *name, enum fault_kind kind, const char *reason) {
    struct fault fault = {0}, again = {0};
    struct kv_index index;
    struct kv_reader *reader;
    struct kv_file_about about;
    assert_false(kv_index_read(&index, scratch_folder, name, &fault));
    if (fault.kind != kind || !strstr(fault.text, reason) || !strstr(fault.text, name))
        fail_msg("%s", fault.text);
    assert_null(index.page);
    assert_false(kv_reader_open(&reader, scratch_folder, name, &about, &again));
    assert_string_equal(again.text, fault.text);
    assert_null(reader);
}

static void indexes_that_cannot_be_are_refused(void **state) {
    (void)state;
    const struct kv_file_page bad[] = {
        {.sequence = -1, .n_tokens = 1, .file = 1},
        {.page = -1, .n_tokens = 1, .file = 1},
        {.page = INT32_MAX / 64, .n_tokens = 1, .file = 1},
        {.n_tokens = 0, .file = 1},
        {.n_tokens = 65, .file = 1},
        {.n_tokens = 1, .file = 3},
        {.n_tokens = 1, .file = -1},
        {.n_tokens = 1, .file = 1, .row = -1},
    };
    for (size_t row = 0; row < sizeof bad / sizeof *bad; row++) {
        struct kv_file_page page[] = {small_page[0], bad[row]};
        must_write("bad", &small, 1, page, 2, small_older, 2);
        is_refused("bad", FAULT_WORLD, "row 1 of index cannot be");
    }
    static char *const names[] = {"", "..", ".", "a/b", "/etc/passwd", "manifest.json", "a\tb"};
    for (size_t row = 0; row < sizeof names / sizeof *names; row++) {
        const struct kv_older older[] = {{"good", 1}, {names[row], 2}};
        must_write("bad", &small, 1, small_page, 1, older, 2);
        is_refused("bad", FAULT_WORLD, "row 1 of older is no file's name");
    }
}

/* A file of small's kind in which one attribute is another. */
static void write_attribute(const char *name, int64_t value, const char *reason) {
    static const struct {
        const char *name;
        int64_t value;
    } usual[] = {{"rank", 2},     {"owner", 1},      {"first_head", 1}, {"n_heads", 2},
                 {"n_layers", 1}, {"n_kv_heads", 3}, {"head_dim", 2},   {"page_tokens", 64}};
    struct hdf5_file file;
    struct fault fault = {0};
    struct hdf5_root root = {.format = "lamina checkpoint of KV", .uuid = "u", .number = 1};
    int64_t n_bytes;
    assert_true(hdf5_create(&file, scratch_folder, "attribute", &fault));
    assert_true(hdf5_put_root(&file, &root, &fault));
    for (size_t row = 0; row < sizeof usual / sizeof *usual; row++) {
        bool is_it = strcmp(usual[row].name, name) == 0;
        assert_true(
            hdf5_put(&file, usual[row].name, HDF5_I64, is_it ? &value : &usual[row].value, &fault));
    }
    assert_true(hdf5_put_text(&file, file.id, "element", "bf16", &fault));
    hsize_t extent[6] = {1, 1, 2, 2, 64, 2};
    hid_t space = hdf5_keep(&file, H5Screate_simple(6, extent, NULL), &fault);
    hid_t type = hdf5_element_type(&file, ELEMENT_BF16, &fault);
    hdf5_keep(&file, H5Dcreate2(file.id, "kv", type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT),
              &fault);
    if (!hdf5_commit(&file, true, &n_bytes, &fault) || fault.kind) fail_msg("%s", fault.text);
    is_refused("attribute", FAULT_WORLD, reason);
}

static void sizes_that_cannot_be_are_refused(void **state) {
    (void)state;
    write_attribute("none of them", 0, "index"); /* all is well but that there is no index */
    write_attribute("rank", -1, "rank is -1");
    write_attribute("owner", 1LL << 31, "owner is 2147483648");
    write_attribute("first_head", 3, "first_head is 3, not from 0 to 2");
    write_attribute("n_heads", 3, "n_heads is 3, not from 1 to 2");
    write_attribute("n_heads", 0, "n_heads is 0");
    write_attribute("n_layers", 0, "n_layers is 0");
    write_attribute("n_kv_heads", 0, "n_kv_heads is 0");
    write_attribute("page_tokens", 32, "page_tokens is 32");
    write_attribute("n_layers", 2, "shape");
    write_attribute("n_heads", 1, "shape");
    write_attribute("head_dim", 1 << 20, "shape"); /* and its bytes overflow no size */
    write_attribute("head_dim", INT64_MAX, "head_dim is");
}

static void other_files_are_refused(void **state) {
    (void)state;
    struct hdf5_file file;
    struct fault fault = {0};
    int64_t n_bytes;
    assert_true(hdf5_create(&file, scratch_folder, "newer", &fault));
    assert_true(hdf5_put_text(&file, file.id, "format", "lamina checkpoint of KV", &fault));
    assert_true(hdf5_put_text(&file, file.id, "format_version", "12.3", &fault));
    assert_true(hdf5_commit(&file, true, &n_bytes, &fault));
    is_refused("newer", FAULT_USER, "format 12, and this lamina reads format 1");
    is_refused("missing", FAULT_WORLD, "No such file");
    assert_int_equal(mkfifo(scratch_path("fifo"), 0666), 0);
    is_refused("fifo", FAULT_WORLD, "not a file");
    assert_true(scratch_write(scratch_path("empty"), "", 0));
    is_refused("empty", FAULT_WORLD, "");
}

/* ---- what stands in the way ---- */

static int n_files(void) {
    DIR *folder = opendir(scratch_folder);
    int n = 0;
    assert_non_null(folder);
    for (struct dirent *entry; (entry = readdir(folder));)
        n += entry->d_name[0] != '.';
    closedir(folder);
    return n;
}

static void leftovers_are_replaced(void **state) {
    (void)state;
    struct stat status;
    assert_true(scratch_write(scratch_path("elsewhere"), "kept", 4));
    write_small();
    int n_before = n_files();
    assert_true(scratch_write(scratch_path("small.tmp"), "left by a killed run", 20));
    write_small();
    assert_int_equal(symlink("elsewhere", scratch_path("small.tmp")), 0);
    write_small();
    assert_int_equal(mkfifo(scratch_path("small.tmp"), 0666), 0);
    write_small();
    assert_true(read_small());
    assert_int_equal(stat(scratch_path("elsewhere"), &status), 0);
    assert_int_equal(status.st_size, 4);
    assert_int_equal(n_files(), n_before);
    umask(027);
    write_small();
    umask(022);
    assert_int_equal(stat(scratch_path("small"), &status), 0);
    assert_int_equal(status.st_mode & 0777, 0640);
    struct fault fault = {0};
    assert_int_equal(mkdir(scratch_path("dir.tmp"), 0777), 0);
    assert_false(write_file("dir", &small, 1, NULL, 0, NULL, 0, &fault));
    assert_int_equal(fault.kind, FAULT_WORLD);
    assert_int_equal(rmdir(scratch_path("dir.tmp")), 0);
}

static void what_is_discarded_leaves_nothing(void **state) {
    (void)state;
    struct kv_file *file;
    struct fault fault = {0};
    int n_before = n_files();
    void *page = make_page(&small.shape, 0, 1, 2);
    assert_true(kv_file_create(&file, scratch_folder, "discarded", &small, 2, &fault));
    assert_int_equal(n_files(), n_before + 1);
    assert_true(kv_file_write(file, 0, page, &fault));
    kv_file_discard(file);
    kv_file_discard(NULL);
    free(page);
    assert_int_equal(n_files(), n_before);
    assert_int_equal(H5Fget_obj_count(H5F_OBJ_ALL, H5F_OBJ_ALL), 0);
}

static bool mount_small_disk(const char *folder) {
    return unshare(CLONE_NEWNS) == 0 && mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
           mkdir(folder, 0777) == 0 && mount("none", folder, "tmpfs", 0, "size=4k") == 0;
}

/* A disk of 4 KiB, 8, 12: until the file fits, each leaves all its room behind, and nothing open.
 */
static void a_full_disk_is_left_empty(void **state) {
    (void)state;
    char folder[256], size[32];
    struct statvfs disk;
    struct kv_file *file;
    int n_full = 0;
    snprintf(folder, sizeof folder, "%s", scratch_path("disk"));
    if (!mount_small_disk(folder)) skip();
    void *page = make_page(&small.shape, 0, 1, 2);
    for (bool good = false; !good; n_full += !good) {
        struct fault fault = {0};
        int64_t n_bytes = 0;
        snprintf(size, sizeof size, "size=%dk", 4 * (n_full + 1));
        assert_int_equal(mount("none", folder, "tmpfs", MS_REMOUNT, size), 0);
        good = kv_file_create(&file, folder, "full", &small, 64, &fault);
        for (int row = 0; good && row < 64; row++)
            good = kv_file_write(file, row, page, &fault);
        if (good) {
            good = kv_file_commit(file, NULL, 0, NULL, 0, &n_bytes, &fault);
        } else {
            kv_file_discard(file);
        }
        assert_int_equal(statvfs(folder, &disk), 0);
        if (good) break;
        assert_true(disk.f_bfree == disk.f_blocks);
        if (!strstr(fault.text, "full: No space left")) fail_msg("%s", fault.text);
    }
    free(page);
    umount2(folder, MNT_DETACH);
    print_message("it fits on %s\n", size);
    assert_true(n_full > 64 / 4);
}

/* The file that was there stays, whichever write of the new one fails. */
static void a_write_that_fails_leaves_what_was(void **state) {
    (void)state;
    struct fault fault = {0};
    int n_failed = 0;
    write_small();
    int n_before = n_files();
    for (bool good = false; !good; n_failed += !good) {
        fault = (struct fault){0};
        n_writes_left = n_failed;
        good = write_file("small", &small, SMALL_ROWS, small_page, SMALL_PAGES, small_older,
                          SMALL_OLDER, &fault);
        n_writes_left = -1;
        if (!good && (fault.kind != FAULT_WORLD || !strstr(fault.text, "No space left")))
            fail_msg("%s", fault.text);
        assert_int_equal(n_files(), n_before);
        assert_true(read_small());
    }
    print_message("%d writes failed in turn\n", n_failed);
    assert_true(n_failed > SMALL_ROWS);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(odd_sizes_come_back),
        cmocka_unit_test(every_pattern_of_16_bits_comes_back),
        cmocka_unit_test(checksums_are_those_of_hdf5),
        cmocka_unit_test(pages_of_older_files_are_named),
        cmocka_unit_test(an_older_format_is_read),
        cmocka_unit_test(a_changed_byte_is_never_other_data),
        cmocka_unit_test(a_file_that_was_cut_is_refused),
        cmocka_unit_test(indexes_that_cannot_be_are_refused),
        cmocka_unit_test(sizes_that_cannot_be_are_refused),
        cmocka_unit_test(other_files_are_refused),
        cmocka_unit_test(leftovers_are_replaced),
        cmocka_unit_test(what_is_discarded_leaves_nothing),
        cmocka_unit_test(a_full_disk_is_left_empty),
        cmocka_unit_test(a_write_that_fails_leaves_what_was),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
