/* checkpoint_progress: what is written is read, or the file is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>
#include <sys/stat.h>

#include "../src/job/checkpoint_hdf5.h"
#include "checkpoint_damage.h"
#include "checkpoint_progress.h"

/* ---- progress that is made up ---- */

static int32_t tokens[] = {5, 0, INT32_MAX, 7, 9, 11, 42, 2, 3, 1};
static struct token_score scores[10 * 3];

/* Ids of several bytes a character, empty, long, and none. */
static char long_id[1000];

static struct checkpoint_choice choices[] = {
    {.custom_id = "gr\xc3\xbc\xc3\x9f-\xf0\x9f\x8d\x89 \"17\"",
     .key = {UINT64_MAX, 1},
     .body_hash = 0x0123456789abcdef,
     .index = 3,
     .n_prompt = 2,
     .n_tokens = 5,
     .n_rows = 4,
     .owner = 2,
     .n_logprobs = 2,
     .n_scored = 1,
     .token = tokens,
     .score = scores},
    {.custom_id = NULL,
     .key = {2, UINT64_MAX},
     .n_prompt = 3,
     .n_tokens = 3,
     .n_rows = 2,
     .n_logprobs = -1,
     .token = tokens + 5},
    {.custom_id = "",
     .n_prompt = 1,
     .n_tokens = 2,
     .n_rows = 0,
     .n_logprobs = 0,
     .token = tokens + 8,
     .score = scores + 20},
    {.custom_id = long_id, .n_prompt = 1, .n_tokens = 1, .n_logprobs = 5, .token = tokens + 3},
};
enum { N_CHOICES = sizeof choices / sizeof *choices };

static struct checkpoint_progress progress = {
    .uuid = "0d1f9f3c-6b0e-4d8a-9a55-3f6a2f7d1c11",
    .fingerprint = "00112233445566778899aabbccddeeff",
    .created = "2026-11-23T13:32:04Z",
    .isa = "avx512",
    .options = "{\"seed\": 1, \"system\": \"\xe2\x82\xac\"}",
    .number = 12,
    .n_read = 1LL << 40,
    .output_bytes = 123456789012,
    .prefill_tokens_per_s = 1.0 / 3,
    .n_choices = N_CHOICES,
    .choice = choices,
};

static int make_progress(void **state) {
    for (int row = 0; row < 30; row++) {
        uint32_t bits = row == 4 ? 0xff800000 : row == 5 ? 0x7fc00123 : 0xbf000000u + (uint32_t)row;
        scores[row].id = row * 1000;
        memcpy(&scores[row].logprob, &bits, sizeof bits);
        scores[row].rank = 1 + row;
    }
    memset(long_id, 'x', sizeof long_id - 1);
    return scratch_open(state);
}

static void must_write(const char *name, const struct checkpoint_progress *written) {
    struct fault fault = {0};
    struct stat status;
    int64_t n_bytes = -1;
    if (!checkpoint_progress_write(written, scratch_folder, name, &n_bytes, &fault))
        fail_msg("%s", fault.text);
    assert_int_equal(stat(scratch_path(name), &status), 0);
    assert_int_equal(status.st_size, n_bytes);
}

static void same_choice(const struct checkpoint_choice *a, const struct checkpoint_choice *b) {
    assert_int_equal(a->custom_id != NULL, b->custom_id != NULL);
    if (a->custom_id) assert_string_equal(a->custom_id, b->custom_id);
    assert_true(a->key.high == b->key.high && a->key.low == b->key.low);
    assert_true(a->body_hash == b->body_hash);
    assert_int_equal(a->index, b->index);
    assert_int_equal(a->n_prompt, b->n_prompt);
    assert_int_equal(a->n_tokens, b->n_tokens);
    assert_int_equal(a->n_rows, b->n_rows);
    assert_int_equal(a->owner, b->owner);
    assert_int_equal(a->n_logprobs, b->n_logprobs);
    assert_int_equal(a->n_scored, b->n_scored);
    assert_memory_equal(a->token, b->token, (size_t)b->n_tokens * sizeof *b->token);
    assert_int_equal(a->score != NULL, b->score != NULL);
    if (a->score)
        assert_memory_equal(a->score, b->score,
                            (size_t)b->n_tokens * (size_t)(1 + b->n_logprobs) * sizeof *b->score);
}

static void same(const struct checkpoint_progress *a, const struct checkpoint_progress *b) {
    assert_string_equal(a->uuid, b->uuid);
    assert_string_equal(a->fingerprint, b->fingerprint);
    assert_string_equal(a->created, b->created);
    assert_string_equal(a->isa, b->isa);
    assert_string_equal(a->options, b->options);
    assert_true(a->number == b->number && a->n_read == b->n_read &&
                a->output_bytes == b->output_bytes &&
                a->prefill_tokens_per_s == b->prefill_tokens_per_s);
    assert_int_equal(a->n_choices, b->n_choices);
    for (int number = 0; number < b->n_choices; number++)
        same_choice(&a->choice[number], &b->choice[number]);
}

static void comes_back(const char *name, const struct checkpoint_progress *written) {
    struct fault fault = {0};
    struct checkpoint_progress read;
    must_write(name, written);
    if (!checkpoint_progress_read(&read, scratch_folder, name, &fault)) fail_msg("%s", fault.text);
    same(&read, written);
    checkpoint_progress_close(&read);
    checkpoint_progress_close(&read);
}

static void all_comes_back(void **state) {
    (void)state;
    comes_back("all", &progress);
    struct checkpoint_progress none = progress;
    none.n_choices = 0;
    none.options = "";
    comes_back("none", &none);
    /* more tokens than a chunk of a table has rows */
    enum { MANY = 200001 };
    struct checkpoint_choice large = {.n_prompt = MANY, .n_tokens = MANY, .n_logprobs = -1};
    large.token = malloc(MANY * sizeof *large.token);
    for (int32_t position = 0; position < MANY; position++)
        large.token[position] = position * 3;
    struct checkpoint_progress one = progress;
    one.n_choices = 1;
    one.choice = &large;
    comes_back("many", &one);
    free(large.token);
}

/* ---- what cannot be ---- */

static void is_refused(const char *name, enum fault_kind kind, const char *reason) {
    struct fault fault = {0};
    struct checkpoint_progress read;
    assert_false(checkpoint_progress_read(&read, scratch_folder, name, &fault));
    assert_int_equal(fault.kind, kind);
    if (!strstr(fault.text, reason) || !strstr(fault.text, name)) fail_msg("%s", fault.text);
    assert_null(read.choice);
}

/* Each of these is written as it is, for nobody checks what the run hands over. */
static void counts_that_cannot_be_are_refused(void **state) {
    (void)state;
    int32_t negative[] = {1, -1};
    const struct checkpoint_choice bad[] = {
        {.n_prompt = 0, .n_tokens = 1, .n_logprobs = -1, .token = tokens},
        {.n_prompt = 3, .n_tokens = 2, .n_logprobs = -1, .token = tokens},
        {.n_prompt = 1, .n_tokens = 2, .n_rows = 2, .n_logprobs = -1, .token = tokens},
        {.n_prompt = 2, .n_tokens = 2, .n_rows = 2, .n_logprobs = -1, .token = tokens},
        {.n_prompt = 1, .n_tokens = 2, .n_rows = -1, .n_logprobs = -1, .token = tokens},
        {.n_prompt = 1, .n_tokens = 2, .n_logprobs = -1, .token = negative},
        {.n_prompt = 1, .n_tokens = 2, .n_logprobs = -2, .token = tokens},
        {.n_prompt = 1, .n_tokens = 1, .n_logprobs = SAMPLING_MAX_LOGPROBS + 1, .token = tokens},
        {.n_prompt = 1, .n_tokens = 2, .n_logprobs = -1, .n_scored = 1, .token = tokens},
        {.n_prompt = 1, .n_tokens = 2, .n_logprobs = -1, .owner = -1, .token = tokens},
        {.n_prompt = 1, .n_tokens = 2, .n_logprobs = -1, .index = -1, .token = tokens},
    };
    for (size_t row = 0; row < sizeof bad / sizeof *bad; row++) {
        struct checkpoint_choice pair[] = {choices[0], bad[row]};
        struct checkpoint_progress two = progress;
        two.n_choices = 2;
        two.choice = pair;
        must_write("bad", &two);
        is_refused("bad", FAULT_WORLD, "row 1 of choices");
    }
}

/* A file as this lamina makes it, but of another format or version. */
static void write_root(const char *name, const char *format, const char *version) {
    struct hdf5_file file;
    struct fault fault = {0};
    int64_t n_bytes;
    assert_true(hdf5_create(&file, scratch_folder, name, &fault));
    assert_true(hdf5_put_text(&file, file.id, "format", format, &fault));
    assert_true(hdf5_put_text(&file, file.id, "format_version", version, &fault));
    assert_true(hdf5_commit(&file, true, &n_bytes, &fault));
}

static void other_formats_are_refused(void **state) {
    (void)state;
    write_root("newer", "lamina checkpoint of progress", "2.0");
    is_refused("newer", FAULT_USER, "format 2, and this lamina reads format 1");
    write_root("older", "lamina checkpoint of progress", "0.3");
    is_refused("older", FAULT_USER, "format 0, and this lamina reads format 1");
    write_root("other", "lamina checkpoint of KV", "1.0");
    is_refused("other", FAULT_WORLD, "not a lamina checkpoint of progress");
    write_root("odd", "lamina checkpoint of progress", "one");
    is_refused("odd", FAULT_WORLD, "no format_version");
    is_refused("missing", FAULT_WORLD, "No such file");
    assert_int_equal(mkdir(scratch_path("folder"), 0777), 0);
    is_refused("folder", FAULT_WORLD, "not a file");
    assert_int_equal(mkfifo(scratch_path("fifo"), 0666), 0);
    is_refused("fifo", FAULT_WORLD, "not a file");
    assert_true(scratch_write(scratch_path("text"), "{}", 2));
    is_refused("text", FAULT_WORLD, "");
}

static void text_that_does_not_fit_is_refused(void **state) {
    (void)state;
    struct hdf5_file file;
    struct fault fault = {0};
    char uuid[37];
    int64_t n_bytes;
    assert_true(hdf5_create(&file, scratch_folder, "long", &fault));
    assert_true(hdf5_put_text(&file, file.id, "uuid", long_id, &fault));
    assert_true(hdf5_commit(&file, true, &n_bytes, &fault));
    assert_true(hdf5_open(&file, scratch_folder, "long", &fault));
    assert_false(hdf5_get_text(&file, "uuid", uuid, sizeof uuid, &fault));
    assert_non_null(strstr(fault.text, "1000 bytes"));
    hdf5_close(&file);
    hdf5_close(&file);
}

/* ---- damage ---- */

static struct checkpoint_progress small;

static bool read_small(void) {
    struct fault fault = {0};
    struct checkpoint_progress read;
    if (!checkpoint_progress_read(&read, scratch_folder, "small", &fault)) {
        assert_int_not_equal(fault.kind, FAULT_NONE);
        return false;
    }
    same(&read, &small);
    checkpoint_progress_close(&read);
    return true;
}

static void a_changed_byte_is_never_other_data(void **state) {
    (void)state;
    small = progress;
    small.n_choices = 3;
    must_write("small", &small);
    assert_true(read_small());
    struct damage_count count = damage_bytes("small", read_small);
    print_message("%zu bytes changed in turn, %zu refused\n", count.n_bytes, count.n_refused);
    assert_true(count.n_refused > count.n_bytes / 2);
    assert_int_equal(damage_lengths("small", 5, read_small), 0);
    assert_true(read_small());
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_comes_back),
        cmocka_unit_test(counts_that_cannot_be_are_refused),
        cmocka_unit_test(other_formats_are_refused),
        cmocka_unit_test(text_that_does_not_fit_is_refused),
        cmocka_unit_test(a_changed_byte_is_never_other_data),
    };
    return cmocka_run_group_tests(tests, make_progress, scratch_close);
}
