/* checkpoint_manifest: what is written is read, what cannot be is refused, and files are deleted
 * only where it says so. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <inttypes.h>
#include <jansson.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "checkpoint_damage.h"
#include "checkpoint_manifest.h"
#include "log.h"

static struct manifest_file newest[] = {{"progress-8.h5", 5000},
                                        {"all-8.h5", 0},
                                        {"kv-8-1.h5", INT64_MAX},
                                        {"kv-8-2.h5", 3},
                                        {"old", 4}};
static struct manifest_file older[] = {{"progress-7.h5", 1}, {"all-7.h5", 2}};
static const struct manifest both = {
    .uuid = "0d1f9f3c-6b0e-4d8a-9a55-3f6a2f7d1c11",
    .fingerprint = "00112233445566778899aabbccddeeff",
    .n_checkpoints = 2,
    .checkpoint = {{.number = 8,
                    .created = "2026-11-23T13:32:04Z",
                    .write_s = 1.0 / 3,
                    .kv_bytes = 1LL << 40,
                    .n_kv = 2,
                    .n_files = 5,
                    .file = newest},
                   {.number = 7, .created = "2026-11-23T13:22:04Z", .n_files = 2, .file = older}},
};

static void same(const struct manifest *a, const struct manifest *b) {
    assert_string_equal(a->uuid, b->uuid);
    assert_string_equal(a->fingerprint, b->fingerprint);
    assert_int_equal(a->n_checkpoints, b->n_checkpoints);
    for (int number = 0; number < b->n_checkpoints; number++) {
        const struct manifest_checkpoint *x = &a->checkpoint[number], *y = &b->checkpoint[number];
        assert_true(x->number == y->number && x->write_s == y->write_s &&
                    x->kv_bytes == y->kv_bytes && x->n_kv == y->n_kv && x->n_files == y->n_files);
        assert_string_equal(x->created, y->created);
        for (int file = 0; file < y->n_files; file++) {
            assert_string_equal(x->file[file].name, y->file[file].name);
            assert_true(x->file[file].n_bytes == y->file[file].n_bytes);
        }
    }
}

static void must_write(const struct manifest *manifest) {
    struct fault fault = {0};
    bool durable = false;
    if (!manifest_write(manifest, scratch_folder, &durable, &fault)) fail_msg("%s", fault.text);
    assert_true(durable);
}

static void comes_back(const struct manifest *manifest) {
    struct fault fault = {0};
    struct manifest read;
    must_write(manifest);
    if (!manifest_read(&read, scratch_folder, &fault)) fail_msg("%s", fault.text);
    same(&read, manifest);
    manifest_close(&read);
    manifest_close(&read);
}

static void all_comes_back(void **state) {
    (void)state;
    struct manifest none = {.uuid = "u"}, one = both, read;
    struct fault fault = {0};
    unlink(scratch_path("manifest.json"));
    assert_true(manifest_read(&read, scratch_folder, &fault)); /* no file */
    same(&read, &(struct manifest){0});
    one.n_checkpoints = 1;
    comes_back(&none);
    comes_back(&both);
    comes_back(&one);
}

static void a_killed_writer_is_no_matter(void **state) {
    (void)state;
    struct stat status;
    assert_true(scratch_write(scratch_path("elsewhere"), "kept", 4));
    assert_int_equal(symlink("elsewhere", scratch_path("manifest.json.tmp")), 0);
    comes_back(&both);
    assert_int_equal(stat(scratch_path("elsewhere"), &status), 0);
    assert_int_equal(status.st_size, 4);
    assert_int_equal(mkfifo(scratch_path("manifest.json.tmp"), 0666), 0);
    comes_back(&both);
    assert_int_not_equal(lstat(scratch_path("manifest.json.tmp"), &status), 0);
    struct fault fault = {0};
    bool durable;
    assert_false(manifest_write(&both, "no-such-folder", &durable, &fault));
    assert_int_equal(fault.kind, FAULT_USER);
    assert_non_null(strstr(fault.text, "no-such-folder/manifest.json: No such file"));
}

/* ---- what cannot be ---- */

static void is_refused(enum fault_kind kind, const char *reason) {
    struct fault fault = {0};
    struct manifest read;
    assert_false(manifest_read(&read, scratch_folder, &fault));
    if (fault.kind != kind || !strstr(fault.text, reason)) fail_msg("%s", fault.text);
    assert_non_null(strstr(fault.text, "manifest.json"));
    assert_int_equal(read.n_checkpoints, 0);
}

/* The manifest of `both` as JSON, changed, with the checksum that it then has. */
static void write_changed(void (*change)(json_t *record)) {
    char digits[17];
    must_write(&both);
    json_t *record = json_load_file(scratch_path("manifest.json"), 0, NULL);
    assert_non_null(record);
    change(record);
    json_object_del(record, "sum");
    char *text = json_dumps(record, JSON_COMPACT | JSON_SORT_KEYS);
    snprintf(digits, sizeof digits, "%016" PRIx64, (uint64_t)XXH3_64bits(text, strlen(text)));
    json_object_set_new(record, "sum", json_string(digits));
    assert_int_equal(json_dump_file(record, scratch_path("manifest.json"), JSON_INDENT(1)), 0);
    free(text);
    json_decref(record);
}

static json_t *list(json_t *record) {
    return json_object_get(record, "checkpoints");
}
static json_t *first(json_t *record) {
    return json_array_get(list(record), 0);
}
static json_t *first_file(json_t *record) {
    return json_array_get(json_object_get(first(record), "files"), 2);
}
static void nothing(json_t *record) {
    (void)record;
}
static void newer(json_t *record) {
    json_object_set_new(record, "format_version", json_string("2.0"));
}
static void older_major(json_t *record) {
    json_object_set_new(record, "format_version", json_string("0.9"));
}
static void no_version(json_t *record) {
    json_object_set_new(record, "format_version", json_string("1"));
}
static void newer_minor(json_t *record) {
    json_object_set_new(record, "format_version", json_string("1.7"));
    json_object_set_new(record, "colour", json_string("unknown to us"));
}
static void other(json_t *record) {
    json_object_set_new(record, "format", json_string("recipes"));
}
static void third(json_t *record) {
    json_array_append(list(record), json_array_get(list(record), 1));
}
static void turned(json_t *record) {
    json_t *newest_one = json_incref(first(record));
    json_array_remove(list(record), 0);
    json_array_append_new(list(record), newest_one);
}
static void slash(json_t *record) {
    json_object_set_new(first_file(record), "name", json_string("../kv.h5"));
}
static void itself(json_t *record) {
    json_object_set_new(first_file(record), "name", json_string("manifest.json"));
}
static void parent(json_t *record) {
    json_object_set_new(first_file(record), "name", json_string(".."));
}
static void nameless(json_t *record) {
    json_object_set_new(first_file(record), "name", json_string(""));
}
static void negative(json_t *record) {
    json_object_set_new(first_file(record), "bytes", json_integer(-1));
}
static void real(json_t *record) {
    json_object_set_new(first_file(record), "bytes", json_real(3.0));
}
static void few_files(json_t *record) {
    json_object_set_new(first(record), "n_kv", json_integer(4));
}
static void no_files(json_t *record) {
    json_object_set_new(first(record), "files", json_array());
}
static void long_uuid(json_t *record) {
    json_object_set_new(record, "uuid", json_string("0123456789012345678901234567890123456"));
}
static void negative_number(json_t *record) {
    json_object_set_new(first(record), "number", json_integer(-8));
}
static void negative_time(json_t *record) {
    json_object_set_new(first(record), "write_s", json_real(-0.5));
}

static void what_cannot_be_is_refused(void **state) {
    (void)state;
    static const struct {
        void (*change)(json_t *record);
        enum fault_kind kind;
        const char *reason;
    } row[] = {
        {newer, FAULT_USER, "format 2, and this lamina reads format 1: use the newer one"},
        {older_major, FAULT_USER, "format 0, and this lamina reads format 1: use the older one"},
        {no_version, FAULT_WORLD, "no format_version"},
        {other, FAULT_WORLD, "not a manifest"},
        {third, FAULT_WORLD, "at most two checkpoints; delete it, and what was in flight is"},
        {turned, FAULT_WORLD, "the newest"},
        {slash, FAULT_WORLD, "entry"},
        {itself, FAULT_WORLD, "entry"},
        {parent, FAULT_WORLD, "entry"},
        {nameless, FAULT_WORLD, "entry"},
        {negative, FAULT_WORLD, "entry"},
        {real, FAULT_WORLD, "entry"},
        {few_files, FAULT_WORLD, "entry"},
        {no_files, FAULT_WORLD, "entry"},
        {negative_number, FAULT_WORLD, "entry"},
        {negative_time, FAULT_WORLD, "entry"},
        {long_uuid, FAULT_WORLD, "uuid"},
    };
    struct fault fault = {0};
    struct manifest read;
    for (size_t number = 0; number < sizeof row / sizeof *row; number++) {
        write_changed(row[number].change);
        is_refused(row[number].kind, row[number].reason);
    }
    /* what is still of our format is read */
    write_changed(nothing);
    assert_true(manifest_read(&read, scratch_folder, &fault));
    manifest_close(&read);
    write_changed(newer_minor);
    assert_true(manifest_read(&read, scratch_folder, &fault));
    manifest_close(&read);
}

static void what_is_no_manifest_is_refused(void **state) {
    (void)state;
    const char *path = scratch_path("manifest.json");
    assert_true(scratch_write(path, "", 0));
    is_refused(FAULT_WORLD, "damaged: not a manifest of checkpoints; delete it, and what was");
    assert_true(scratch_write(path, "[1, 2", 5));
    is_refused(FAULT_WORLD, "damaged: not a manifest of checkpoints; delete it, and what was");
    assert_true(scratch_write(path, "{\"mine\": 1}", 11));
    is_refused(FAULT_WORLD, "not a manifest of checkpoints: give a folder of its own");
    assert_int_equal(truncate(path, (16 << 20) + 1), 0);
    is_refused(FAULT_WORLD, "16 MiB");
    unlink(path);
    assert_int_equal(mkfifo(path, 0666), 0);
    is_refused(FAULT_WORLD, "no file");
    unlink(path);
    assert_int_equal(mkdir(path, 0777), 0);
    is_refused(FAULT_WORLD, "no file");
    assert_int_equal(rmdir(path), 0);
}

static bool read_both(void) {
    struct fault fault = {0};
    struct manifest read;
    if (!manifest_read(&read, scratch_folder, &fault)) {
        assert_int_not_equal(fault.kind, FAULT_NONE);
        return false;
    }
    same(&read, &both);
    manifest_close(&read);
    return true;
}

static void a_changed_byte_is_never_another_manifest(void **state) {
    (void)state;
    must_write(&both);
    assert_true(read_both());
    struct damage_count count = damage_bytes("manifest.json", read_both);
    assert_true(count.n_refused > count.n_bytes / 2);
    /* without the last newline it is whole */
    assert_true(damage_lengths("manifest.json", 1, read_both) <= 1);
}

/* ---- files ---- */

static void put(const char *name, size_t n_bytes) {
    char bytes[64] = "";
    assert_true(scratch_write(scratch_path(name), bytes, n_bytes));
}

static bool is_there(const char *name) {
    struct stat status;
    return stat(scratch_path(name), &status) == 0;
}

static void files_are_checked_by_size(void **state) {
    (void)state;
    struct manifest_file file[] = {{"a", 3}, {"b", 0}, {"c", 5}};
    struct fault none = {0};
    struct fault fault = {0};
    put("a", 3);
    put("b", 0);
    put("c", 5);
    for (size_t row = 0; row < sizeof file / sizeof *file; row++)
        assert_true(manifest_check(&file[row], scratch_folder, &none));
    put("c", 4);
    assert_false(manifest_check(&file[2], scratch_folder, &fault));
    assert_true(manifest_check(&file[1], scratch_folder, &none));
    assert_non_null(strstr(fault.text, "/c: has 4 bytes, not the 5"));
    unlink(scratch_path("b"));
    fault = (struct fault){0};
    assert_false(manifest_check(&file[1], scratch_folder, &fault));
    assert_non_null(strstr(fault.text, "/b: No such file"));
    assert_int_equal(fault.kind, FAULT_WORLD);
}

/* A copy whose names are to be freed. */
static char **copy_names(const char *const *name, int n) {
    char **copy = check_alloc((size_t)n, sizeof *copy);
    for (int row = 0; row < n; row++)
        copy[row] = strcpy(check_alloc(strlen(name[row]) + 1, 1), name[row]);
    return copy;
}

static struct manifest_checkpoint checkpoint_of(int64_t number, const char *const *name, int n) {
    struct manifest_checkpoint made = {
        .number = number, .n_files = n, .file = check_alloc((size_t)n, sizeof *made.file)};
    char **names = copy_names(name, n);
    for (int row = 0; row < n; row++)
        made.file[row] = (struct manifest_file){names[row], 1};
    free(names);
    return made;
}

static const char *const was[] = {"p1", "m1", "kept", "gone", "stuck"};
static const char *const is[] = {"p2", "m2", "kept"};
static const char *const both_have[] = {"p0", "m0"};
static const char *const was_next[] = {"p2", "left"}, *const is_next[] = {"p3"};

/* Two that follow each other: 1 goes, 2 comes, 0 stays. */
static void open_two(struct manifest *before, struct manifest *now) {
    *before = (struct manifest){.n_checkpoints = 2, .n_next = 2, .next = copy_names(was_next, 2)};
    before->checkpoint[0] = checkpoint_of(1, was, 5);
    before->checkpoint[1] = checkpoint_of(0, both_have, 2);
    *now = (struct manifest){.n_checkpoints = 2, .n_next = 1, .next = copy_names(is_next, 1)};
    now->checkpoint[0] = checkpoint_of(2, is, 3);
    now->checkpoint[1] = before->checkpoint[1];
    static const char *const name[] = {"p0", "m0", "p1",   "m1",       "kept", "p2",
                                       "m2", "p3", "left", "left.tmp", "mine"};
    for (size_t row = 0; row < sizeof name / sizeof *name; row++)
        put(name[row], 1);
    mkdir(scratch_path("stuck"), 0777); /* cannot be unlinked */
}

static void only_what_was_listed_is_deleted(void **state) {
    (void)state;
    struct manifest before, now;
    struct fault fault = {0};
    open_two(&before, &now);
    if (!manifest_replace(&before, &now, scratch_folder, &fault)) fail_msg("%s", fault.text);
    static const char *const there[] = {"p0", "m0", "kept", "p2", "m2", "p3", "mine", "stuck"};
    static const char *const gone[] = {"p1", "m1", "left", "left.tmp"};
    for (size_t row = 0; row < sizeof there / sizeof *there; row++)
        assert_true(is_there(there[row]));
    for (size_t row = 0; row < sizeof gone / sizeof *gone; row++)
        assert_false(is_there(gone[row]));
    assert_int_equal(before.checkpoint[0].number, 2);
    assert_int_equal(before.n_next, 1);
    /* on disk stands what was then to be deleted, for whoever comes after a kill */
    struct manifest read;
    assert_true(manifest_read(&read, scratch_folder, &fault));
    static const char *const listed[] = {"p3", "p1", "m1", "gone", "stuck", "left"};
    assert_int_equal(read.n_next, 6);
    for (int row = 0; row < 6; row++)
        assert_string_equal(read.next[row], listed[row]);
    manifest_close(&read);
    /* all of them */
    manifest_delete_all(&before, scratch_folder);
    for (size_t row = 0; row + 2 < sizeof there / sizeof *there; row++)
        assert_false(is_there(there[row]));
    assert_true(is_there("mine"));
    manifest_close(&before);
}

static void nothing_is_deleted_for_a_manifest_that_cannot_be(void **state) {
    (void)state;
    struct manifest before, now;
    struct fault fault = {0};
    open_two(&before, &now);
    assert_int_equal(unlink(scratch_path("manifest.json")), 0);
    assert_int_equal(mkdir(scratch_path("manifest.json"), 0777), 0);
    assert_false(manifest_replace(&before, &now, scratch_folder, &fault));
    for (size_t row = 0; row < 3; row++)
        assert_true(is_there(was[row]));
    assert_true(is_there("left"));
    assert_int_equal(before.checkpoint[0].number, 1);
    assert_int_equal(now.n_next, 1);
    assert_int_equal(rmdir(scratch_path("manifest.json")), 0);
    now.checkpoint[1] = (struct manifest_checkpoint){0}; /* the other's */
    manifest_close(&now);
    manifest_close(&before);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_comes_back),
        cmocka_unit_test(a_killed_writer_is_no_matter),
        cmocka_unit_test(what_cannot_be_is_refused),
        cmocka_unit_test(what_is_no_manifest_is_refused),
        cmocka_unit_test(a_changed_byte_is_never_another_manifest),
        cmocka_unit_test(files_are_checked_by_size),
        cmocka_unit_test(only_what_was_listed_is_deleted),
        cmocka_unit_test(nothing_is_deleted_for_a_manifest_that_cannot_be),
    };
    log_setup(LOG_QUIET, false);
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
