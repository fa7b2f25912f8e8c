/* checkpoint_master: one file shows what the ranks' files hold, read here through HDF5 and by h5py
 * (checkpoint_master.py), which knows nothing of lamina. Without h5py the program is skipped. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint_kv.h"
#include "checkpoint_master.h"
#include "checkpoint_progress.h"
#include "scratch.h"

#define UUID "0d1f9f3c-6b0e-4d8a-9a55-3f6a2f7d1c11"

static bool without_h5py;

/* ---- a checkpoint of two owners, one of two ranks of 2 and 1 heads, with older files ----
 *
 * Of K and V at (sequence, page, layer, side, head, token, dim) the bits are bits_at(); positions
 * of no token are zero. Every number is finite: h5py compares numbers, not bits. */

static const struct {
    int64_t sequence;
    int32_t page, n_tokens, owner;
    int older; /* 1: written by the checkpoint before */
} layout[] = {
    {0, 0, 64, 0, 1}, {0, 1, 64, 0, 1}, {0, 2, 9, 0, 0},  {3, 0, 64, 1, 0}, {3, 1, 1, 1, 0},
    {1, 0, 64, 0, 0}, {1, 1, 63, 0, 0}, {4, 0, 64, 1, 1}, {4, 1, 64, 1, 0},
};
enum { N_PAGES = sizeof layout / sizeof *layout };

static const struct { int owner, first_head, n_heads; } ranks[] = {{0, 0, 2}, {0, 2, 1}, {1, 0, 3}};
enum { N_RANKS = sizeof ranks / sizeof *ranks };

static uint32_t bits_at(enum element element, int entry, int layer, int side, int head, int token,
                        int dim) {
    if (token >= layout[entry].n_tokens) return 0;
    uint32_t value = (uint32_t)layout[entry].sequence * 31 + (uint32_t)layout[entry].page;
    const int at[] = {layer, side, head, token, dim};
    for (int dimension = 0; dimension < 5; dimension++)
        value = (value + (uint32_t)at[dimension] + 1) * 2654435761u;
    value ^= value >> 15;
    if (element == ELEMENT_F32) return (value & 0xbfffffff) | 0x10000000; /* no NaN, infinity */
    return element == ELEMENT_BF16 ? (value & 0xbfff) | 0x1000 : value & 0xbfff;
}

static char *make_page(const struct kv_file_shape *shape, int entry, int first_head, int n_heads) {
    size_t n_bytes = element_bytes(shape->element), n = 0;
    char *page = malloc((size_t)shape->n_layers * 2 * (size_t)n_heads * 64 *
                            (size_t)shape->head_dim * n_bytes +
                        KV_FILE_ROOM_BYTES);
    assert_non_null(page);
    for (int layer = 0; layer < shape->n_layers; layer++)
        for (int side = 0; side < 2; side++)
            for (int head = first_head; head < first_head + n_heads; head++)
                for (int token = 0; token < 64; token++)
                    for (int dim = 0; dim < shape->head_dim; dim++) {
                        uint32_t bits =
                            bits_at(shape->element, entry, layer, side, head, token, dim);
                        memcpy(page + n_bytes * n++, &bits, n_bytes);
                    }
    return page;
}

static void name_file(char name[32], int rank, int number) {
    snprintf(name, 32, "kv-%d-%d.h5", number, rank);
}

/* What rank `rank` writes in checkpoint 1 (older) and 2, with rows in an order of its own. */
static void write_rank(const struct kv_file_shape *shape, int rank, int number) {
    struct kv_file_about about = {.uuid = UUID,
                                  .number = number,
                                  .rank = rank,
                                  .owner = ranks[rank].owner,
                                  .first_head = ranks[rank].first_head,
                                  .n_heads = ranks[rank].n_heads,
                                  .shape = *shape};
    struct kv_file_page page[N_PAGES];
    struct kv_file *file;
    struct fault fault = {0};
    char name[32], before[32];
    const struct kv_older older[] = {{before, 0}};
    size_t n_pages = 0;
    int64_t n_bytes;
    int n_rows[3] = {0}; /* of checkpoint 1 and 2 */
    name_file(name, rank, number);
    name_file(before, rank, 1);
    assert_true(kv_file_create(&file, scratch_folder, name, &about, N_PAGES, &fault));
    for (int turn = 0; turn < N_PAGES; turn++) {
        int entry = rank == 1 ? N_PAGES - 1 - turn : turn, in = layout[entry].older ? 1 : 2;
        if (layout[entry].owner != about.owner || in > number) continue;
        int row = n_rows[in]++;
        page[n_pages++] = (struct kv_file_page){.sequence = layout[entry].sequence,
                                                .page = layout[entry].page,
                                                .n_tokens = layout[entry].n_tokens,
                                                .file = in == number ? 0 : 1,
                                                .row = row};
        if (in != number) continue;
        char *made = make_page(shape, entry, about.first_head, about.n_heads);
        assert_true(kv_file_write(file, row, made, &fault));
        free(made);
    }
    if (!kv_file_commit(file, page, n_pages, older, number - 1, &n_bytes, &fault))
        fail_msg("%s", fault.text);
}

static void write_progress(void) {
    int32_t token[] = {11, 12, 13};
    struct checkpoint_choice choice = {.custom_id = "gr\xc3\xbc\xc3\x9f",
                                       .n_prompt = 2,
                                       .n_tokens = 3,
                                       .n_logprobs = -1,
                                       .token = token};
    struct checkpoint_progress progress = {
        .uuid = UUID, .number = 2, .options = "{}", .n_choices = 1, .choice = &choice};
    struct fault fault = {0};
    int64_t n_bytes;
    assert_true(
        checkpoint_progress_write(&progress, scratch_folder, "progress.h5", &n_bytes, &fault));
}

static int by_place(const void *a, const void *b) {
    int x = *(const int *)a, y = *(const int *)b;
    if (layout[x].sequence != layout[y].sequence)
        return layout[x].sequence < layout[y].sequence ? -1 : 1;
    return layout[x].page - layout[y].page;
}

/* expected.bin: the bits of /kv, made from the formula; expected.txt: of /index. */
static void write_expected(const struct kv_file_shape *shape) {
    int order[N_PAGES];
    for (int entry = 0; entry < N_PAGES; entry++)
        order[entry] = entry;
    qsort(order, N_PAGES, sizeof *order, by_place);
    FILE *bits = fopen(scratch_path("expected.bin"), "wb");
    FILE *text = fopen(scratch_path("expected.txt"), "w");
    size_t n = (size_t)shape->n_layers * 2 * 3 * 64 * (size_t)shape->head_dim;
    for (int place = 0; place < N_PAGES; place++) {
        char *page = make_page(shape, order[place], 0, 3);
        assert_int_equal(fwrite(page, element_bytes(shape->element), n, bits), n);
        fprintf(text, "%d %d %d\n", (int)layout[order[place]].sequence, layout[order[place]].page,
                layout[order[place]].n_tokens);
        free(page);
    }
    fclose(bits);
    fclose(text);
}

static void write_checkpoint(const struct kv_file_shape *shape) {
    struct fault fault = {0};
    char name[N_RANKS][32];
    const char *file[N_RANKS];
    struct stat status;
    int64_t n_bytes;
    for (int rank = 0; rank < N_RANKS; rank++) {
        write_rank(shape, rank, 1);
        write_rank(shape, rank, 2);
        name_file(name[rank], rank, 2);
        file[rank] = name[rank];
    }
    write_progress();
    write_expected(shape);
    const struct master_about about = {.uuid = UUID,
                                       .number = 2,
                                       .shape = *shape,
                                       .progress = "progress.h5",
                                       .n_files = N_RANKS,
                                       .file = file};
    if (!master_write(&about, scratch_folder, "all.h5", &n_bytes, &fault))
        fail_msg("%s", fault.text);
    assert_int_equal(stat(scratch_path("all.h5"), &status), 0);
    assert_int_equal(status.st_size, n_bytes);
}

/* Run from another folder: names in the master are relative to it. */
static void h5py_reads(const char *how) {
    char command[1024];
    snprintf(command, sizeof command,
             "folder=$PWD/%s; cd / && for python in python3 /usr/bin/python3; do "
             "$python -c 'import h5py' 2>/dev/null && exec $python -B %s/checkpoint_master.py "
             "\"$folder\" %s; done; exit 77",
             scratch_folder, TESTS_DIR, how);
    int status = system(command);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
        without_h5py = true;
        skip();
    }
    assert_int_equal(status, 0);
}

static void h5py_reads_f32(void **state) {
    (void)state;
    write_checkpoint(&(struct kv_file_shape){2, 3, 5, ELEMENT_F32});
    h5py_reads("f32");
}

static void h5py_reads_f16(void **state) {
    (void)state;
    write_checkpoint(&(struct kv_file_shape){1, 3, 64, ELEMENT_F16});
    h5py_reads("f16");
}

static void h5py_reads_bf16(void **state) {
    (void)state;
    write_checkpoint(&(struct kv_file_shape){3, 3, 16, ELEMENT_BF16});
    h5py_reads("bf16");
}

static void what_is_missing_is_nan(void **state) {
    (void)state;
    write_checkpoint(&(struct kv_file_shape){2, 3, 5, ELEMENT_BF16});
    assert_int_equal(unlink(scratch_path("kv-1-2.h5")), 0);
    h5py_reads("missing");
}

static void a_checkpoint_without_kv_has_none(void **state) {
    (void)state;
    struct fault fault = {0};
    int64_t n_bytes;
    write_progress();
    const struct master_about about = {
        .uuid = UUID, .number = 2, .shape = {2, 3, 5, ELEMENT_F32}, .progress = "progress.h5"};
    assert_true(master_write(&about, scratch_folder, "all.h5", &n_bytes, &fault));
    h5py_reads("none");
}

static void files_of_another_checkpoint_are_refused(void **state) {
    (void)state;
    const struct kv_file_shape shape = {1, 3, 4, ELEMENT_F32};
    const char *file[] = {"kv-2-0.h5"};
    int64_t n_bytes;
    struct stat status;
    write_rank(&shape, 0, 1);
    write_rank(&shape, 0, 2);
    for (int way = 0; way < 4; way++) {
        struct fault fault = {0};
        struct master_about about = {.uuid = UUID,
                                     .number = 2,
                                     .shape = shape,
                                     .progress = "progress.h5",
                                     .n_files = 1,
                                     .file = file};
        if (way == 1) about.number = 3;
        if (way == 2) about.uuid = "another";
        if (way == 3) about.shape.head_dim = 5;
        unlink(scratch_path("all.h5"));
        assert_int_equal(master_write(&about, scratch_folder, "all.h5", &n_bytes, &fault),
                         way == 0);
        assert_int_equal(stat(scratch_path("all.h5"), &status) == 0, way == 0);
        if (way > 0) assert_non_null(strstr(fault.text, "kv-2-0.h5 is of another checkpoint"));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(h5py_reads_f32),
        cmocka_unit_test(h5py_reads_f16),
        cmocka_unit_test(h5py_reads_bf16),
        cmocka_unit_test(what_is_missing_is_nan),
        cmocka_unit_test(a_checkpoint_without_kv_has_none),
        cmocka_unit_test(files_of_another_checkpoint_are_refused),
    };
    int n_failed = cmocka_run_group_tests(tests, scratch_open, scratch_close);
    return n_failed == 0 && without_h5py ? 77 : n_failed;
}
