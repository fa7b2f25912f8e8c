/* Sizes, durations and numbers as people type them, and what the environment says. Expected values
 * are arithmetic written out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h> /* needs those above */

#include "options.h"

static void sizes_are_powers_of_1024(void **state) {
    (void)state;
    static const struct {
        const char *text;
        int64_t bytes; /* -1: not a size */
    } cases[] = {
        {"0", 0},
        {"1000", 1000},
        {"512M", 536870912},
        {"40G", 42949672960},
        {"40g", 42949672960},
        {"1K", 1024},
        {"1.5K", 1536},
        {"2T", 2199023255552},
        {"3MiB", 3145728},
        {"3Mi", 3145728},
        {"9223372036854775807", INT64_MAX},
        {"9223372036854775808", -1},
        {"8191P", 9222246136947933184},
        {"8192P", -1},
        {"", -1},
        {"G", -1},
        {"3GB", -1},
        {"3 G", -1},
        {" 3G", -1},
        {"-3G", -1},
        {"+3", -1},
        {"0x10", -1},
        {"1.5", -1},
        {"3X", -1},
        {"3GG", -1},
        {"1e3", -1},
    };
    for (size_t index = 0; index < sizeof cases / sizeof *cases; index++) {
        int64_t bytes = -1;
        bool parsed = parse_size(cases[index].text, &bytes);
        if (parsed != (cases[index].bytes >= 0) || bytes != cases[index].bytes)
            fail_msg("\"%s\" gave %lld", cases[index].text, (long long)bytes);
    }
}

static void durations_are_seconds(void **state) {
    (void)state;
    static const struct {
        const char *text;
        double seconds; /* -1: not a duration */
    } cases[] = {
        {"90", 90},
        {"90s", 90},
        {"0", 0},
        {"0.5", 0.5},
        {"10m", 600},
        {"1h30m", 5400},
        {"1d2h3m4s", 86400 + 7200 + 180 + 4},
        {"250ms", 0.25},
        {"1s500ms", 1.5},
        {"1.5h", 5400},
        {"2-03:04:05", 2 * 86400 + 3 * 3600 + 4 * 60 + 5},
        {"00:10:00", 600},
        {"48:00:00", 172800},
        {"", -1},
        {"s", -1},
        {"1h30", -1},
        {"30m1h", -1},
        {"1m1m", -1},
        {"1h 30m", -1},
        {"-5", -1},
        {"1e3", -1},
        {"10:00", -1},
        {"1-24:00:00", -1},
        {"1-00:60:00", -1},
        {"1.5-00:00:00", -1},
        {"1-0:0:0", -1},
        {"99999999999", -1},
        {"soon", -1},
        {".", -1},
    };
    for (size_t index = 0; index < sizeof cases / sizeof *cases; index++) {
        double seconds = -1;
        bool parsed = parse_duration(cases[index].text, &seconds);
        if (parsed != (cases[index].seconds >= 0) || seconds != cases[index].seconds)
            fail_msg("\"%s\" gave %g", cases[index].text, seconds);
    }
}

static void numbers_are_whole_words_in_range(void **state) {
    (void)state;
    int64_t whole = 7;
    assert_true(parse_int("-5", -5, 5, &whole));
    assert_int_equal(whole, -5);
    assert_true(parse_int("+5", -5, 5, &whole));
    assert_int_equal(whole, 5);
    assert_true(parse_int("-9223372036854775808", INT64_MIN, 0, &whole));
    static const char *const bad_ints[] = {
        "", "-", "6", "-6", "5 ", " 5", "0x5", "5.0", "5k", "--5", "99999999999999999999999"};
    for (size_t index = 0; index < sizeof bad_ints / sizeof *bad_ints; index++) {
        whole = 7;
        assert_false(parse_int(bad_ints[index], -5, 5, &whole));
        assert_int_equal(whole, 7);
    }
    double real = 7;
    assert_true(parse_real("2.5e-1", 0, 1, &real));
    assert_true(real == 0.25);
    assert_true(parse_real("-.5", -1, 1, &real));
    assert_true(real == -0.5);
    static const char *const bad_reals[] = {"",    "nan", "inf", "1e999", "0x1p-1", "1.1",
                                            "-.1", "1 ",  " 1",  "1,0",   "1e",     "."};
    for (size_t index = 0; index < sizeof bad_reals / sizeof *bad_reals; index++) {
        real = 7;
        assert_false(parse_real(bad_reals[index], 0, 1, &real));
        assert_true(real == 7);
    }
}

/* The environment of this process, emptied of all that is read. */
static void clear(void) {
    static const char *const names[] = {"OMP_NUM_THREADS",
                                        "SLURM_CPUS_PER_TASK",
                                        "SLURM_NTASKS",
                                        "SLURM_NPROCS",
                                        "SLURM_HET_SIZE",
                                        "SLURM_NTASKS_HET_GROUP_0",
                                        "SLURM_NTASKS_HET_GROUP_1",
                                        "SLURM_JOB_ID",
                                        "SLURM_JOB_END_TIME",
                                        "SLURM_MEM_PER_NODE",
                                        "SLURM_MEM_PER_CPU",
                                        "SLURM_STEP_ID",
                                        "SLURM_PROCID",
                                        "PMIX_RANK",
                                        "OMPI_COMM_WORLD_SIZE",
                                        "OMPI_COMM_WORLD_RANK",
                                        "PMI_RANK",
                                        "PMI_SIZE",
                                        "SLURM_STEP_NUM_TASKS",
                                        "XDG_CACHE_HOME",
                                        "HOME"};
    for (size_t index = 0; index < sizeof names / sizeof *names; index++)
        unsetenv(names[index]);
}

static void assert_list(const char *text, bool sizes, int n, const int64_t *value) {
    struct number_list list;
    memset(&list, 0xff, sizeof list);
    if (!parse_list(text, sizes, 0, INT64_MAX, &list)) fail_msg("%s was refused", text);
    assert_int_equal(list.n, n);
    for (int at = 0; at < LIST_MOST; at++) /* the hash over ranks reads all of it */
        assert_int_equal(list.value[at], at < n ? value[at] : 0);
}
#define LIST(...)                                                                                  \
    (int)(sizeof(int64_t[]){__VA_ARGS__} / sizeof(int64_t)), (int64_t[]) {                         \
        __VA_ARGS__                                                                                \
    }

static void lists_are_numbers_and_ranges(void **state) {
    (void)state;
    assert_list("7", false, LIST(7));
    assert_list("1,8,32", false, LIST(1, 8, 32));
    assert_list("32,8,8", false, LIST(32, 8, 8)); /* as typed */
    assert_list("1-4", false, LIST(1, 2, 3, 4));
    assert_list("5-5", false, LIST(5));
    assert_list("0-100+25", false, LIST(0, 25, 50, 75, 100));
    assert_list("0-99+25", false, LIST(0, 25, 50, 75));
    assert_list("512-8192*2", false, LIST(512, 1024, 2048, 4096, 8192));
    assert_list("512-8191*2", false, LIST(512, 1024, 2048, 4096));
    assert_list("3,10-12,100-1000*10", false, LIST(3, 10, 11, 12, 100, 1000));
    assert_list("16,4K,1M", true, LIST(16, 4096, 1048576));
    assert_list(
        "16-64M*4", true,
        LIST(16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864));
    assert_list("4K-16K+4K", true, LIST(4096, 8192, 12288, 16384));
    assert_list("9223372036854775806-9223372036854775807", false, LIST(INT64_MAX - 1, INT64_MAX));
    assert_list("4611686018427387904-9223372036854775807*2", false, LIST((int64_t)1 << 62));
}

static void lists_that_are_none_are_refused(void **state) {
    (void)state;
    static const char *const refused[] = {"",
                                          ",",
                                          "1,",
                                          ",1",
                                          "1,,2",
                                          "a",
                                          "1-",
                                          "-1",
                                          "1-2-3",
                                          "2-1",
                                          "1-8*1",
                                          "1-8*0",
                                          "0-8*2",
                                          "1-8+0",
                                          "1-8+",
                                          "1-8*",
                                          "1 2",
                                          "1, 2",
                                          "1-8*-2",
                                          "0x8",
                                          "1.5",
                                          "1K",
                                          "1-8/2",
                                          "+1",
                                          "1-100",
                                          "5-70",
                                          "200",
                                          "1-64,65",
                                          "99999999999999999999",
                                          "1-8*9999999999999999999999"};
    for (size_t at = 0; at < sizeof refused / sizeof *refused; at++) {
        struct number_list list = {.n = -7};
        if (parse_list(refused[at], false, 0, 99, &list)) fail_msg("%s was taken", refused[at]);
        assert_int_equal(list.n, -7);
    }
    struct number_list list;
    assert_true(parse_list("1-64", false, 1, 64, &list)); /* as many as there may be */
    assert_false(parse_list("0-64", false, 1, 64, &list));
    assert_false(parse_list("16-64M*4.5", true, 0, INT64_MAX, &list));
}

static void a_bare_environment_says_nothing(void **state) {
    (void)state;
    struct environment environment;
    clear();
    environment_read(&environment);
    assert_int_equal(environment.omp_threads, -1);
    assert_int_equal(environment.slurm_cpus_per_task, -1);
    assert_int_equal(environment.slurm_tasks, -1);
    assert_int_equal(environment.slurm_het_tasks, -1);
    assert_null(environment.slurm_job);
    assert_int_equal(environment.slurm_end_time, -1);
    assert_int_equal(environment.slurm_mem_node_bytes, -1);
    assert_int_equal(environment.slurm_mem_cpu_bytes, -1);
    assert_false(environment.launched);
    assert_int_equal(environment.launcher_size, -1);
    assert_int_equal(environment.launcher_rank, -1);
    assert_string_equal(environment.cache_folder, "");
}

static void assert_caches(const char *caches, const char *home, const char *expected) {
    struct environment environment;
    clear();
    if (caches) setenv("XDG_CACHE_HOME", caches, 1);
    if (home) setenv("HOME", home, 1);
    environment_read(&environment);
    assert_string_equal(environment.cache_folder, expected);
}

static void caches_lie_where_xdg_says(void **state) {
    (void)state;
    char deep[1100] = "/";
    assert_caches("/scratch/me", "/home/me", "/scratch/me/lamina");
    assert_caches(NULL, "/home/me", "/home/me/.cache/lamina");
    assert_caches("", "/home/me", "/home/me/.cache/lamina");
    assert_caches("scratch", "/home/me", "/home/me/.cache/lamina"); /* relative: not valid */
    assert_caches("scratch", "me", "");
    assert_caches("scratch", "", "");
    memset(deep + 1, 'a', sizeof deep - 2);
    assert_caches(deep, "/home/me", "");
}

static void a_batch_script_is_not_a_launcher(void **state) {
    (void)state;
    struct environment environment;
    clear();
    setenv("SLURM_PROCID", "0", 1);
    setenv("SLURM_NTASKS", "6", 1);
    setenv("SLURM_CPUS_PER_TASK", "8", 1);
    setenv("SLURM_MEM_PER_NODE", "2048", 1); /* MiB */
    setenv("SLURM_MEM_PER_CPU", "3G", 1);
    setenv("OMP_NUM_THREADS", "4,2", 1);
    environment_read(&environment);
    assert_false(environment.launched);
    assert_int_equal(environment.slurm_tasks, 6);
    assert_int_equal(environment.slurm_cpus_per_task, 8);
    assert_true(environment.slurm_mem_node_bytes == 2147483648);
    assert_true(environment.slurm_mem_cpu_bytes == 3221225472);
    assert_int_equal(environment.omp_threads, 4);
    assert_int_equal(environment.launcher_rank, -1);
}

static void slurm_says_job_end_and_parts(void **state) {
    (void)state;
    struct environment environment;
    clear();
    setenv("SLURM_JOB_ID", "4711", 1);
    setenv("SLURM_JOB_END_TIME", "1800000000", 1);
    setenv("SLURM_HET_SIZE", "2", 1);
    setenv("SLURM_NTASKS_HET_GROUP_0", "1", 1);
    environment_read(&environment);
    assert_string_equal(environment.slurm_job, "4711");
    assert_true(environment.slurm_end_time == 1800000000);
    assert_int_equal(environment.slurm_het_tasks, -1); /* a part does not say */
    setenv("SLURM_NTASKS_HET_GROUP_1", "4", 1);
    setenv("SLURM_JOB_ID", "4711; true", 1);
    environment_read(&environment);
    assert_int_equal(environment.slurm_het_tasks, 5);
    assert_null(environment.slurm_job);
    setenv("SLURM_HET_SIZE", "1", 1);
    environment_read(&environment);
    assert_int_equal(environment.slurm_het_tasks, -1);
}

static void launchers_say_rank_and_size(void **state) {
    (void)state;
    struct environment environment;
    clear();
    setenv("OMPI_COMM_WORLD_SIZE", "3", 1);
    setenv("OMPI_COMM_WORLD_RANK", "2", 1);
    environment_read(&environment);
    assert_true(environment.launched);
    assert_int_equal(environment.launcher_size, 3);
    assert_int_equal(environment.launcher_rank, 2);

    clear();
    setenv("SLURM_STEP_ID", "0", 1);
    setenv("SLURM_PROCID", "1", 1);
    setenv("SLURM_NTASKS", "4", 1);
    environment_read(&environment);
    assert_true(environment.launched);
    assert_int_equal(environment.launcher_size, 4);
    assert_int_equal(environment.launcher_rank, 1);

    clear();
    setenv("PMI_RANK", "0", 1);
    setenv("PMI_SIZE", "5", 1);
    environment_read(&environment);
    assert_true(environment.launched);
    assert_int_equal(environment.launcher_size, 5);
}

static void nonsense_counts_as_not_set(void **state) {
    (void)state;
    struct environment environment;
    clear();
    setenv("OMP_NUM_THREADS", "many", 1);
    setenv("SLURM_CPUS_PER_TASK", "0", 1);
    setenv("SLURM_MEM_PER_NODE", "99999999999999999999", 1);
    setenv("SLURM_NTASKS", "", 1);
    environment_read(&environment);
    assert_int_equal(environment.omp_threads, -1);
    assert_int_equal(environment.slurm_cpus_per_task, -1);
    assert_int_equal(environment.slurm_mem_node_bytes, -1);
    assert_int_equal(environment.slurm_tasks, -1);
    setenv("OMP_NUM_THREADS", "123456789012345678901234567890", 1);
    environment_read(&environment);
    assert_int_equal(environment.omp_threads, -1);
    clear();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_are_powers_of_1024),
        cmocka_unit_test(durations_are_seconds),
        cmocka_unit_test(numbers_are_whole_words_in_range),
        cmocka_unit_test(lists_are_numbers_and_ranges),
        cmocka_unit_test(lists_that_are_none_are_refused),
        cmocka_unit_test(a_bare_environment_says_nothing),
        cmocka_unit_test(caches_lie_where_xdg_says),
        cmocka_unit_test(a_batch_script_is_not_a_launcher),
        cmocka_unit_test(slurm_says_job_end_and_parts),
        cmocka_unit_test(launchers_say_rank_and_size),
        cmocka_unit_test(nonsense_counts_as_not_set),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
