/* kernel_cache: what is put is found again by the next run, nothing but a whole file of the right
 * key and owner counts, and what cannot be written is only said. The layout of the file is written
 * here a second time, from the comment in kernel_cache.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <xxhash.h>

#include "device.h"
#include "kernel_cache.h"
#include "log.h"
#include "scratch.h"

static const char key[] = "a GPU, driver 1, library 2";
static char folder[256], path[512];

/* A folder of its own for a test, not there yet, and the file that will lie in it. */
static void use_folder(const char *name) {
    snprintf(folder, sizeof folder, "%s/%s/lamina", scratch_folder, name);
    snprintf(path, sizeof path, "%s/kernels-%016" PRIx64, folder, XXH3_64bits(key, strlen(key)));
}

static struct kernel_shape shape_of(int number) {
    return (struct kernel_shape){.n_rows = 1 + number,
                                 .n = 128,
                                 .k = 64,
                                 .x_stride = 64,
                                 .weight_stride = 72,
                                 .out_stride = 128,
                                 .x = ELEMENT_BF16,
                                 .weight = ELEMENT_BF16,
                                 .out = ELEMENT_F32,
                                 .epilogue = 3};
}

static struct kernel_choice choice_of(int number) {
    struct kernel_choice choice = {.kind = number % 2 ? KERNEL_OWN : KERNEL_LIBRARY,
                                   .variant = number % 2 ? number % 1024 : 0,
                                   .workspace_bytes = 1000 + number};
    for (int at = 0; at < KERNEL_CONFIG_BYTES; at++)
        choice.config[at] = (unsigned char)(number + 3 * at);
    return choice;
}

static bool finds(const struct kernel_cache *cache, int number) {
    struct kernel_shape shape = shape_of(number);
    struct kernel_choice choice, wanted = choice_of(number);
    memset(&choice, 0x55, sizeof choice);
    if (!kernel_cache_find(cache, &shape, &choice)) return false;
    assert_memory_equal(&choice, &wanted, sizeof choice);
    return true;
}

static void put(struct kernel_cache *cache, int number) {
    struct kernel_shape shape = shape_of(number);
    struct kernel_choice choice = choice_of(number);
    kernel_cache_put(cache, &shape, &choice);
}

static void keep(int first, int n) {
    struct kernel_cache *cache = kernel_cache_open(folder, key);
    for (int number = first; number < first + n; number++)
        put(cache, number);
    kernel_cache_close(cache);
}

/* How many of choices 0..n-1 a next run finds. */
static int n_found(const char *of_key, int n) {
    struct kernel_cache *cache = kernel_cache_open(folder, of_key);
    int found = 0;
    for (int number = 0; number < n; number++)
        found += finds(cache, number);
    kernel_cache_close(cache);
    return found;
}

static int n_files(void) {
    DIR *stream = opendir(folder);
    int n = 0;
    assert_non_null(stream);
    for (struct dirent *entry; (entry = readdir(stream));)
        n += entry->d_name[0] != '.';
    closedir(stream);
    return n;
}

/* What `keep` says on stderr, to be freed. */
static char *said_while_keeping(int first, int n) {
    size_t n_bytes;
    int kept = dup(STDERR_FILENO),
        fd = open(scratch_path("said"), O_RDWR | O_CREAT | O_TRUNC, 0600);
    assert_true(kept >= 0 && fd >= 0 && dup2(fd, STDERR_FILENO) >= 0);
    keep(first, n);
    assert_true(dup2(kept, STDERR_FILENO) >= 0);
    close(kept);
    close(fd);
    char *text = (char *)scratch_read(scratch_path("said"), &n_bytes);
    assert_non_null(text);
    text[n_bytes] = 0;
    return text;
}

static void says(int first, int n, const char *wanted) {
    char *text = said_while_keeping(first, n);
    if (wanted ? !strstr(text, wanted) : *text != 0) fail_msg("said: %s", text);
    free(text);
}

/* ---- what is kept -----------------------------------------------------------------------------
 */

static void what_is_put_is_found_by_the_next_run(void **state) {
    (void)state;
    use_folder("round");
    assert_int_equal(n_found(key, 3), 0);
    assert_int_equal(access(folder, F_OK), -1); /* nothing to keep: nothing made */
    says(0, 3, NULL);
    assert_int_equal(n_found(key, 4), 3);
    says(3, 1, NULL); /* beside what is there */
    assert_int_equal(n_found(key, 5), 4);
    assert_int_equal(n_files(), 1);
    struct stat status;
    mode_t mask = umask(0);
    umask(mask);
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(status.st_size, 256 + 4 * 120 + 8); /* each once */
    assert_int_equal(status.st_mode & 0777, 0666 & ~mask);
    assert_int_equal(stat(folder, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0700);
}

static void every_number_of_a_shape_counts(void **state) {
    (void)state;
    use_folder("shape");
    keep(0, 1);
    struct kernel_cache *cache = kernel_cache_open(folder, key);
    assert_true(finds(cache, 0));
    for (size_t at = 0; at < sizeof(struct kernel_shape) / sizeof(int32_t); at++) {
        struct kernel_shape shape = shape_of(0);
        struct kernel_choice choice;
        ((int32_t *)&shape)[at] += 1;
        assert_false(kernel_cache_find(cache, &shape, &choice));
    }
    kernel_cache_close(cache);
}

static void a_new_choice_replaces_the_old(void **state) {
    (void)state;
    use_folder("replace");
    keep(0, 2);
    struct kernel_cache *cache = kernel_cache_open(folder, key);
    struct kernel_shape shape = shape_of(1);
    struct kernel_choice choice = choice_of(7), found;
    kernel_cache_put(cache, &shape, &choice);
    kernel_cache_close(cache);
    cache = kernel_cache_open(folder, key);
    assert_true(kernel_cache_find(cache, &shape, &found));
    assert_memory_equal(&found, &choice, sizeof found);
    assert_true(finds(cache, 0));
    kernel_cache_close(cache);
}

static void as_many_as_a_file_holds(void **state) {
    (void)state;
    use_folder("many");
    keep(0, KERNEL_MOST + 2);
    assert_int_equal(n_found(key, KERNEL_MOST + 2), KERNEL_MOST);
    struct stat status;
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(status.st_size, 256 + KERNEL_MOST * 120 + 8);
}

/* Both had the file open before either wrote. */
static void two_at_once_keep_each_others(void **state) {
    (void)state;
    use_folder("two");
    struct kernel_cache *one = kernel_cache_open(folder, key);
    struct kernel_cache *other = kernel_cache_open(folder, key);
    put(one, 0);
    put(other, 1);
    kernel_cache_close(one);
    kernel_cache_close(other);
    assert_int_equal(n_found(key, 2), 2);
}

static void no_folder_is_no_cache(void **state) {
    (void)state;
    struct kernel_cache *cache = kernel_cache_open(NULL, key);
    assert_null(cache);
    put(cache, 0);
    assert_false(finds(cache, 0));
    kernel_cache_close(cache);
}

/* ---- what is not taken ------------------------------------------------------------------------
 */

static void put_number(unsigned char *to, uint64_t number, int n_bytes) {
    for (int at = 0; at < n_bytes; at++)
        to[at] = (unsigned char)(number >> 8 * at);
}

/* The file of choices 0 and 1, from the description. */
enum { FILE_BYTES = 256 + 2 * 120 + 8 };
static void lay_out(unsigned char *file) {
    memset(file, 0, FILE_BYTES);
    memcpy(file, "LAMINAKC", 8);
    put_number(file + 8, 1, 4);
    put_number(file + 12, 2, 4);
    memcpy(file + 16, key, strlen(key));
    for (int number = 0; number < 2; number++) {
        unsigned char *at = file + 256 + 120 * number;
        struct kernel_shape shape = shape_of(number);
        struct kernel_choice choice = choice_of(number);
        const int32_t numbers[] = {
            shape.n_rows,        shape.n,          shape.k,     shape.x_stride,
            shape.weight_stride, shape.out_stride, shape.x,     shape.weight,
            shape.out,           shape.epilogue,   choice.kind, choice.variant};
        for (int word = 0; word < 12; word++)
            put_number(at + 4 * word, (uint32_t)numbers[word], 4);
        put_number(at + 48, (uint64_t)choice.workspace_bytes, 8);
        memcpy(at + 56, choice.config, KERNEL_CONFIG_BYTES);
    }
}

static void sum_up(unsigned char *file) {
    put_number(file + FILE_BYTES - 8, XXH3_64bits(file, FILE_BYTES - 8), 8);
}

static void the_file_is_as_described(void **state) {
    (void)state;
    unsigned char file[FILE_BYTES];
    size_t n_bytes;
    use_folder("described");
    keep(0, 2);
    lay_out(file);
    sum_up(file);
    unsigned char *written = scratch_read(path, &n_bytes);
    assert_int_equal(n_bytes, FILE_BYTES);
    assert_memory_equal(written, file, FILE_BYTES);
    free(written);
    assert_int_equal(n_found(key, 2), 2);
}

/* The file in its place finds nothing and says why, and the next run puts a whole one there. */
static void is_ignored(const unsigned char *file, size_t n_bytes, const char *why) {
    assert_true(scratch_write(path, file, n_bytes));
    assert_int_equal(n_found(key, 2), 0);
    if (!why) return;
    says(1, 1, why);
    assert_int_equal(n_found(key, 2), 1);
}

static void a_file_cut_anywhere_is_ignored(void **state) {
    (void)state;
    unsigned char file[FILE_BYTES + 1] = {0};
    use_folder("cut");
    keep(0, 1);
    lay_out(file);
    sum_up(file);
    log_setup(LOG_ERROR, false);
    for (size_t n_bytes = 0; n_bytes < FILE_BYTES; n_bytes++)
        is_ignored(file, n_bytes, NULL);
    log_setup(LOG_NOTE, false);
    is_ignored(file, FILE_BYTES + 1, NULL);
    is_ignored(file, 100, "is ignored: it is not as long as such files are");
    is_ignored(file, FILE_BYTES - 1, "is ignored: it is not as long as it says");
}

static void a_flipped_bit_anywhere_is_seen(void **state) {
    (void)state;
    unsigned char file[FILE_BYTES];
    use_folder("flipped");
    keep(0, 1);
    lay_out(file);
    sum_up(file);
    log_setup(LOG_ERROR, false);
    for (int bit = 0; bit < 8 * FILE_BYTES; bit++) {
        file[bit / 8] ^= (unsigned char)(1 << bit % 8);
        is_ignored(file, FILE_BYTES, NULL);
        file[bit / 8] ^= (unsigned char)(1 << bit % 8);
    }
    log_setup(LOG_NOTE, false);
    file[300] ^= 1;
    is_ignored(file, FILE_BYTES, "is ignored: it is damaged");
    file[300] ^= 1;
    assert_true(scratch_write(path, file, FILE_BYTES));
    assert_int_equal(n_found(key, 2), 2);
}

/* One number of choice 1 out of its limits, under a checksum that is right. */
static void numbers_out_of_range_are_ignored(void **state) {
    (void)state;
    static const struct {
        int offset, n_bytes;
        int64_t number;
    } bad[] = {
        {0, 4, 0},   {0, 4, -1},    {4, 4, 0},    {8, 4, 0},          {12, 4, 63},
        {16, 4, 63}, {20, 4, 127},  {24, 4, -1},  {24, 4, 3},         {28, 4, 1000},
        {32, 4, 3},  {36, 4, -1},   {36, 4, 256}, {40, 4, -1},        {40, 4, 2},
        {44, 4, -1}, {44, 4, 1024}, {48, 8, -1},  {48, 8, 1ll << 32}, {40, 4, 0},
    };
    unsigned char file[FILE_BYTES];
    use_folder("range");
    keep(0, 1);
    for (size_t at = 0; at < sizeof bad / sizeof *bad; at++) {
        lay_out(file);
        put_number(file + 256 + 120 + bad[at].offset, (uint64_t)bad[at].number, bad[at].n_bytes);
        sum_up(file);
        is_ignored(file, FILE_BYTES, "is ignored: a number in it is out of range");
    }
}

static void foreign_files_are_ignored(void **state) {
    (void)state;
    unsigned char file[FILE_BYTES];
    use_folder("foreign");
    keep(0, 1);
    lay_out(file);
    file[16] = 'b'; /* under a name that is ours */
    sum_up(file);
    is_ignored(file, FILE_BYTES, "is ignored: it is of another machine");
    lay_out(file);
    file[8] = 2;
    sum_up(file);
    is_ignored(file, FILE_BYTES, "is ignored: it is of another version");
    lay_out(file);
    file[0] = 'l';
    sum_up(file);
    is_ignored(file, FILE_BYTES, "is ignored: it is another kind of file");
    lay_out(file);
    put_number(file + 12, UINT32_MAX, 4);
    sum_up(file);
    is_ignored(file, FILE_BYTES, "is ignored: it is not as long as it says");
    assert_int_equal(n_found("a GPU, driver 2, library 2", 2), 0); /* has a file of its own */
    assert_int_equal(n_found(key, 2), 1);
    if (geteuid() != 0) return; /* files cannot be given away */
    assert_int_equal(chown(path, 65534, 65534), 0);
    assert_int_equal(n_found(key, 2), 0);
    says(0, 1, "is ignored: it belongs to another user");
    assert_int_equal(n_found(key, 2), 1);
}

static void what_is_no_file_is_ignored(void **state) {
    (void)state;
    char elsewhere[600];
    struct stat status;
    use_folder("links");
    keep(0, 2);
    snprintf(elsewhere, sizeof elsewhere, "%s/elsewhere", folder);
    assert_int_equal(rename(path, elsewhere), 0);
    assert_int_equal(symlink("elsewhere", path), 0);
    assert_int_equal(n_found(key, 2), 0);
    says(0, 1, "is ignored: it is a link"); /* which gives way to a file */
    assert_int_equal(lstat(path, &status), 0);
    assert_true(S_ISREG(status.st_mode));
    assert_int_equal(n_found(key, 2), 1);
    assert_int_equal(stat(elsewhere, &status), 0);
    assert_int_equal(status.st_size, FILE_BYTES);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0); /* which nobody writes to: no wait */
    says(0, 1, "is ignored: it is no file");
    assert_int_equal(n_found(key, 2), 1);
}

/* ---- where nothing can be written -------------------------------------------------------------
 */

static void a_folder_that_cannot_be_made_is_a_note(void **state) {
    (void)state;
    use_folder("file");
    char above[256];
    snprintf(above, sizeof above, "%s/file", scratch_folder);
    assert_true(scratch_write(above, "x", 1));
    says(0, 1, "the choice of kernels is not kept for the next run: ");
    snprintf(folder, sizeof folder, "%s/no/such/lamina",
             scratch_folder); /* two levels are missing */
    says(0, 1, "No such file or directory");
}

static void a_folder_without_leave_to_write_is_a_note(void **state) {
    (void)state;
    use_folder("locked");
    keep(0, 1);
    bool root = geteuid() == 0;
    if (root) {
        assert_int_equal(chmod(path, 0644), 0);
        assert_int_equal(chown(path, 65534, 65534), 0);
        assert_int_equal(chmod(scratch_folder, 0755), 0);
        char above[256];
        snprintf(above, sizeof above, "%s/locked", scratch_folder);
        assert_int_equal(chmod(above, 0755), 0);
    }
    assert_int_equal(chmod(folder, 0555), 0);
    if (root) assert_int_equal(seteuid(65534), 0);
    struct kernel_cache *cache = kernel_cache_open(folder, key);
    bool found = finds(cache, 0);
    put(cache, 1);
    kernel_cache_close(cache);
    if (root) assert_int_equal(seteuid(0), 0);
    assert_int_equal(chmod(folder, 0755), 0);
    assert_true(found); /* what is there is used */
    assert_int_equal(n_files(), 1);
    if (root) assert_int_equal(chown(path, 0, 0), 0);
    assert_int_equal(n_found(key, 2), 1);
}

/* A disk that is full in the middle of the file: the old one stays, and nothing else. */
static void a_file_that_cannot_be_written_whole_leaves_the_old(void **state) {
    (void)state;
    use_folder("full");
    keep(0, 2);
    struct rlimit limit, small;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    small = (struct rlimit){400, limit.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    says(2, 1, "File too large");
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    assert_int_equal(n_files(), 1);
    assert_int_equal(n_found(key, 3), 2);
}

/* Several processes keep different choices at once, over and over; whoever looks meanwhile finds a
 * whole file. */
static void processes_at_once_leave_one_whole_file(void **state) {
    (void)state;
    enum { N_PROCESSES = 4, N_TIMES = 25 };
    use_folder("race");
    keep(0, 1);
    pid_t child[N_PROCESSES];
    for (int process = 0; process < N_PROCESSES; process++) {
        child[process] = fork();
        assert_true(child[process] >= 0);
        for (int time = 0; child[process] == 0 && time < N_TIMES; time++)
            keep(1 + process * N_TIMES + time, 1);
        if (child[process] == 0) _exit(0);
    }
    for (int left = N_PROCESSES; left > 0;) {
        assert_int_equal(n_found(key, 1), 1);
        int status;
        pid_t ended = waitpid(-1, &status, WNOHANG);
        assert_true(ended >= 0 && (ended == 0 || status == 0));
        left -= ended > 0;
    }
    assert_int_equal(n_files(), 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_put_is_found_by_the_next_run),
        cmocka_unit_test(every_number_of_a_shape_counts),
        cmocka_unit_test(a_new_choice_replaces_the_old),
        cmocka_unit_test(as_many_as_a_file_holds),
        cmocka_unit_test(two_at_once_keep_each_others),
        cmocka_unit_test(no_folder_is_no_cache),
        cmocka_unit_test(the_file_is_as_described),
        cmocka_unit_test(a_file_cut_anywhere_is_ignored),
        cmocka_unit_test(a_flipped_bit_anywhere_is_seen),
        cmocka_unit_test(numbers_out_of_range_are_ignored),
        cmocka_unit_test(foreign_files_are_ignored),
        cmocka_unit_test(what_is_no_file_is_ignored),
        cmocka_unit_test(a_folder_that_cannot_be_made_is_a_note),
        cmocka_unit_test(a_folder_without_leave_to_write_is_a_note),
        cmocka_unit_test(a_file_that_cannot_be_written_whole_leaves_the_old),
        cmocka_unit_test(processes_at_once_leave_one_whole_file),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
