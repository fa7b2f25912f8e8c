/* `lamina inspect` of checkpoints: a folder and its files made by hand, with the numbers they have,
 * and what it says when they are damaged. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sys/stat.h>

#include "checkpoint_kv.h"
#include "checkpoint_manifest.h"
#include "checkpoint_progress.h"
#include "log.h"
#include "printed.h"

#define UUID "0d1f9f3c-6b0e-4d8a-9a55-3f6a2f7d1c11"

/* Checkpoints 7 and 8 of two owners of two ranks, with 2 and 1 heads. */
static const struct kv_file_shape shape = {2, 3, 4, ELEMENT_BF16};
static const struct {
    int owner, first_head, n_heads;
} ranks[] = {{0, 0, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 1}};
enum { N_RANKS = 4 };
static const struct {
    int sequence, page, n_tokens, owner, written; /* by which checkpoint */
} pages[] = {{0, 0, 64, 0, 7}, {0, 1, 6, 0, 8}, {1, 0, 64, 1, 8}};
enum { N_PAGES = 3 };
/* 3 pages of (2 layers, K|V, 3 heads, 64, 4) of 2 bytes, which is 6144 a page */
static const int64_t kv_bytes = 18432;

static const char *written_uuid = UUID;
static uint64_t written_attempt; /* 0: ten times the checkpoint's number, as in its progress */

static void name_kv(char name[64], int number, int rank) {
    snprintf(name, 64, "c%06d-kv-owner%d-share%d.h5", number, ranks[rank].owner, rank % 2);
}

static const char *kv_path(int number, int rank) {
    char name[64];
    name_kv(name, number, rank);
    return scratch_path(name);
}

static int64_t write_kv(int number, int rank) {
    struct kv_file_about about = {.number = number,
                                  .attempt =
                                      written_attempt ? written_attempt : 10 * (uint64_t)number,
                                  .rank = 1 + rank,
                                  .owner = ranks[rank].owner,
                                  .first_head = ranks[rank].first_head,
                                  .n_heads = ranks[rank].n_heads,
                                  .shape = shape};
    char name[64], before[64];
    const struct kv_older older[] = {{before, 70}};
    uint16_t page[2 * 2 * 2 * 64 * 4 + KV_FILE_ROOM_BYTES / 2];
    struct kv_file_page index[N_PAGES];
    struct kv_file *file;
    struct fault fault = {0};
    int64_t n_bytes;
    int n_index = 0, n_rows = 0, n_older = number == 8 && about.owner == 0;
    name_kv(name, number, rank);
    name_kv(before, 7, rank);
    strcpy(about.uuid, written_uuid);
    memset(page, 0x3f, sizeof page);
    for (int at = 0; at < N_PAGES; at++)
        n_rows += pages[at].owner == about.owner && pages[at].written == number;
    assert_true(kv_file_create(&file, scratch_folder, name, &about, n_rows, &fault));
    n_rows = 0;
    for (int at = 0; at < N_PAGES; at++) {
        if (pages[at].owner != about.owner || pages[at].written > number) continue;
        bool here = pages[at].written == number;
        index[n_index++] = (struct kv_file_page){.sequence = pages[at].sequence,
                                                 .page = pages[at].page,
                                                 .n_tokens = pages[at].n_tokens,
                                                 .file = here ? 0 : 1,
                                                 .row = here ? n_rows : 0};
        if (here) assert_true(kv_file_write(file, n_rows++, page, &fault));
    }
    assert_true(kv_file_commit(file, index, (size_t)n_index, older, n_older, &n_bytes, &fault));
    return n_bytes;
}

static int64_t write_progress(int number) {
    static int32_t token[80];
    struct checkpoint_choice choice[] = {
        {.custom_id = "first", .n_prompt = 5, .n_tokens = 71, .n_rows = 70},
        {.custom_id = "\033[2Jcleared", .index = 2, .n_prompt = 3, .n_tokens = 65, .n_rows = 64},
        {.n_prompt = 2, .n_tokens = 4, .owner = 1},
    };
    struct checkpoint_progress progress = {.uuid = UUID,
                                           .fingerprint = "00112233445566778899aabbccddeeff",
                                           .created = "2026-11-23T13:32:04Z",
                                           .isa = "avx2\a",
                                           .options = "{\"seed\": 7}",
                                           .number = number,
                                           .attempt = 10 * (uint64_t)number,
                                           .n_read = 12,
                                           .output_bytes = 3456,
                                           .prefill_tokens_per_s = 250,
                                           .n_choices = number == 7 ? 1 : 3,
                                           .choice = choice};
    struct fault fault = {0};
    int64_t n_bytes;
    char name[64];
    choice[1].owner = 1;
    for (int at = 0; at < 3; at++) {
        choice[at].n_logprobs = -1;
        choice[at].token = token;
    }
    if (number == 7) choice[0].n_rows = 64, choice[0].n_tokens = 65;
    snprintf(name, sizeof name, "c%06d-progress.h5", number);
    assert_true(checkpoint_progress_write(&progress, scratch_folder, name, &n_bytes, &fault));
    return n_bytes;
}

/* Both checkpoints and the manifest, in place of whatever lies there. */
static void begin(void) {
    static char name[2][8][64];
    static struct manifest_file file[2][8];
    struct manifest manifest = {
        .uuid = UUID, .fingerprint = "00112233445566778899aabbccddeeff", .n_checkpoints = 2};
    struct fault fault = {0};
    bool durable;
    for (int number = 7; number <= 8; number++) {
        struct manifest_file *of = file[8 - number];
        struct manifest_checkpoint *checkpoint = &manifest.checkpoint[8 - number];
        snprintf(name[8 - number][0], 64, "c%06d-progress.h5", number);
        snprintf(name[8 - number][1], 64, "c%06d.h5", number);
        of[0].n_bytes = write_progress(number);
        of[1].n_bytes = 4;
        assert_true(scratch_write(scratch_path(name[8 - number][1]), "shows", 4));
        for (int rank = 0; rank < N_RANKS; rank++) {
            name_kv(name[8 - number][2 + rank], number, rank);
            of[2 + rank].n_bytes = write_kv(number, rank);
        }
        for (int older = 0; older < 2 && number == 8; older++) {
            name_kv(name[0][6 + older], 7, older);
            of[6 + older].n_bytes = file[1][2 + older].n_bytes;
        }
        *checkpoint = (struct manifest_checkpoint){.number = number,
                                                   .write_s = 0.5,
                                                   .kv_bytes = number == 8 ? kv_bytes : 6144,
                                                   .n_kv = N_RANKS,
                                                   .n_files = number == 8 ? 8 : 6,
                                                   .file = of};
        strcpy(checkpoint->created, "2026-11-23T13:32:04Z");
        for (int at = 0; at < checkpoint->n_files; at++)
            of[at].name = name[8 - number][at];
    }
    assert_true(manifest_write(&manifest, scratch_folder, &durable, &fault));
}

static void cut(const char *path) {
    struct stat status;
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(truncate(path, status.st_size - 1000), 0);
}

/* ---- what is whole ---- */

static void a_folder_is_printed(void **state) {
    (void)state;
    begin();
    char *text = printed(scratch_folder, EXIT_DONE), wanted[256];
    struct stat status;
    assert_int_equal(stat(kv_path(8, 0), &status), 0);
    printed_line_is(text, "job ", "job " UUID);
    printed_line_is(text, "model ", "model 00112233445566778899aabbccddeeff");
    printed_line_is(text, "checkpoints ", "checkpoints 2");
    printed_line_is(text, "created ", "created 2026-11-23T13:32:04Z, in 0.50 s");
    printed_line_is(text, "written by ", "written by avx2\\x07");
    printed_line_is(text, "input ", "input 12 lines read, 3456 bytes of answers");
    printed_line_is(text, "in flight ", "in flight 3 choices: 10 tokens of prompts, 130 generated");
    printed_line_is(text, "K and V ", "K and V 134 positions in 3 pages, 18432 bytes (0.0 MiB)");
    printed_line_is(text, "shape ", "shape 2 layers, 3 KV heads of 4, bf16");
    printed_line_is(text, "layout ", "layout heads=2,sequences=2");
    snprintf(wanted, sizeof wanted, "c000008-kv-owner0-share0.h5 %lld 2 pages, 1 of them new good",
             (long long)status.st_size);
    printed_line_is(text, "c000008-kv-owner0-share0", wanted);
    printed_line_is(text, "c000008.h5", "c000008.h5 4 shows all good");
    assert_non_null(strstr(strstr(text, "c000007-kv-owner0-share0.h5"), "older pages"));
    const char *second = strstr(text, "CHECKPOINT 7");
    assert_non_null(second);
    printed_line_is(second, "in flight ", "in flight 1 choices: 5 tokens of prompts, 60 generated");
    printed_line_is(second, "--resume ",
                    "--resume goes on from checkpoint 8: 2 choices with K and V, 1 from their "
                    "tokens");
    free(text);
}

static void a_file_of_progress_is_printed(void **state) {
    (void)state;
    begin();
    char *text = printed(scratch_path("c000008-progress.h5"), EXIT_DONE);
    printed_line_is(text, "progress ", "progress of checkpoint 8, 2026-11-23T13:32:04Z");
    printed_line_is(text, "prefill ", "prefill 250.0 tokens/s");
    printed_line_is(text, "options ", "options {\"seed\": 7}");
    printed_line_is(text, "       0", "0 0 5 71 70 0 first");
    printed_line_is(text, "       1", "1 2 3 65 64 1 \\x1b[2Jcleared");
    printed_line_is(text, "       2", "2 0 2 4 0 1 -");
    free(text);
}

static void a_file_of_pages_is_printed(void **state) {
    (void)state;
    begin();
    char *text = printed(kv_path(8, 1), EXIT_DONE);
    printed_line_is(text, "K and V ", "K and V of checkpoint 8, by rank 2");
    printed_line_is(text, "holds ", "holds heads 2 to 2 of 3, of sequences of owner 0");
    printed_line_is(text, "pages ", "pages 2, 1 of them in this file, others in 1 older ones");
    printed_line_is(text, "       0       0", "0 0 64 0 in c000007-kv-owner0-share1.h5");
    printed_line_is(text, "       0       1", "0 1 6 0 good");
    free(text);
}

/* ---- what is not ---- */

/* The folder is damaged: a line that begins with `name` is so, and `resume` is the last. */
static void is_damaged(const char *part, const char *resume) {
    char *text = printed(scratch_folder, EXIT_WORLD);
    if (!strstr(text, part)) fail_msg("not said: %s\n%s", part, text);
    printed_line_is(text, "--resume ", resume);
    free(text);
}

static void damage_is_said(void **state) {
    (void)state;
    begin();
    unlink(kv_path(7, 1)); /* an older page of one head of the first choice */
    is_damaged("/c000007-kv-owner0-share1.h5: No such file",
               "--resume goes on from checkpoint 8: 1 choices with K and V, 2 from their tokens");
    begin();
    cut(kv_path(8, 2)); /* the second choice */
    is_damaged("/c000008-kv-owner1-share0.h5: has ",
               "--resume goes on from checkpoint 8: 1 choices with K and V, 2 from their tokens");
    begin();
    unlink(scratch_path("c000008.h5")); /* nothing reads it */
    is_damaged("/c000008.h5: No such file",
               "--resume goes on from checkpoint 8: 2 choices with K and V, 1 from their tokens");
    begin();
    cut(scratch_path("c000008-progress.h5"));
    is_damaged("/c000008-progress.h5: has ",
               "--resume goes on from checkpoint 7: 1 choices with K and V, 0 from their tokens");
    unlink(scratch_path("c000007-progress.h5"));
    is_damaged("/c000007-progress.h5: No such file", "--resume goes on from the answers alone");
}

/* A file of another job in the place of one. */
static void a_strange_file_is_said(void **state) {
    (void)state;
    begin();
    written_uuid = "ffffffff-6b0e-4d8a-9a55-3f6a2f7d1c11";
    write_kv(8, 3); /* of the same size */
    written_uuid = UUID;
    is_damaged("c000008-kv-owner1-share1.h5 is of another job, checkpoint or attempt",
               "--resume goes on from checkpoint 8: 1 choices with K and V, 2 from their tokens");
    begin();
    written_attempt = 81;
    write_kv(8, 3);
    written_attempt = 0;
    is_damaged("c000008-kv-owner1-share1.h5 is of another job, checkpoint or attempt",
               "--resume goes on from checkpoint 8: 1 choices with K and V, 2 from their tokens");
}

/* One bit of a page changes: its file has its size, and only reading it tells. */
static void a_changed_page_is_said(void **state) {
    (void)state;
    begin();
    size_t n_bytes;
    const char *path = kv_path(8, 0);
    unsigned char *bytes = scratch_read(path, &n_bytes), pattern[256];
    assert_non_null(bytes);
    memset(pattern, 0x3f, sizeof pattern);
    unsigned char *found = memmem(bytes, n_bytes, pattern, sizeof pattern);
    assert_non_null(found);
    found[100] ^= 4;
    assert_true(scratch_write(path, bytes, n_bytes));
    free(bytes);
    char *text = printed(path, EXIT_WORLD);
    printed_line_is(text, "       0       1", "0 1 6 0 damaged");
    free(text);
}

static void what_is_none_is_refused(void **state) {
    (void)state;
    begin();
    free(printed(scratch_path("c000008.h5"), EXIT_USER));
    assert_true(scratch_write(scratch_path("c000009-kv-x.h5"), "", 0));
    free(printed(scratch_path("c000009-kv-x.h5"), EXIT_WORLD));
    free(printed(scratch_path("c000009-progress.h5"), EXIT_WORLD)); /* not there */
    assert_true(scratch_write(scratch_path("manifest.json"), "{", 1));
    free(printed(scratch_folder, EXIT_WORLD));
    unlink(scratch_path("manifest.json"));
    free(printed(scratch_folder, EXIT_USER));
}

/* --csv and the like are for traces. */
static void options_of_traces_are_refused(void **state) {
    (void)state;
    begin();
    const struct options options = {
        .command = COMMAND_INSPECT, .model = scratch_folder, .csv = "tables"};
    assert_int_equal(inspect_run(&options), EXIT_USER);
}

int main(void) {
    log_setup(LOG_QUIET, false);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_folder_is_printed),
        cmocka_unit_test(a_file_of_progress_is_printed),
        cmocka_unit_test(a_file_of_pages_is_printed),
        cmocka_unit_test(damage_is_said),
        cmocka_unit_test(a_strange_file_is_said),
        cmocka_unit_test(a_changed_page_is_said),
        cmocka_unit_test(what_is_none_is_refused),
        cmocka_unit_test(options_of_traces_are_refused),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
