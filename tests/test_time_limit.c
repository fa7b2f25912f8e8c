/* What squeue prints, and when a job has to stop. Expected values are worked out by hand from
 * squeue(1) and the definition: end - lead - 2 x checkpoint. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h> /* needs those above */

#include "clock.h"
#include "time_limit.h"

static void squeue_prints_clocks_and_words(void **state) {
    (void)state;
    static const struct {
        const char *text;
        double seconds;
    } good[] = {
        {"0:00", 0},         {"0:05", 5},           {"59:30", 3570},         {"1:00:00", 3600},
        {"23:59:59", 86399}, {"1-00:00:00", 86400}, {"10-01:02:03", 867723}, {"UNLIMITED", -1},
        {"NOT_SET", -1},     {"INVALID", 0}};
    static const char *const bad[] = {"",          "5",       "1:2",   "a:bc",       "1:00\n",
                                      "1:60",      "1-00:00", "-1:00", " 1:00",      "1:00:00:00",
                                      "unlimited", ":30",     "1::00", "UNLIMITEDLY"};
    double seconds;
    for (size_t index = 0; index < sizeof good / sizeof *good; index++) {
        seconds = -7;
        if (!time_limit_parse_left(good[index].text, &seconds) || seconds != good[index].seconds)
            fail_msg("'%s' is %g", good[index].text, seconds);
    }
    for (size_t index = 0; index < sizeof bad / sizeof *bad; index++) {
        seconds = -7;
        if (time_limit_parse_left(bad[index], &seconds) || seconds != -7)
            fail_msg("'%s' is %g", bad[index], seconds);
    }
}

/* A duration of 1000 s with a lead of 60 s, begun so long ago. */
static bool is_due_after(double seconds, double checkpoint_s) {
    struct options options = {.time_limit_s = 1000, .time_limit_lead_s = 60};
    struct environment environment = {.slurm_end_time = -1};
    struct time_limit limit;
    struct fault fault = {0};
    int64_t begin_ns = clock_now_ns() - (int64_t)(seconds * 1e9);
    assert_true(time_limit_open(&limit, &options, &environment, begin_ns, &fault));
    return time_limit_due(&limit, checkpoint_s);
}

static void the_stop_comes_a_lead_before_the_end(void **state) {
    (void)state;
    assert_false(is_due_after(0, 0));
    assert_false(is_due_after(900, 0));
    assert_true(is_due_after(941, 0));
    assert_false(is_due_after(700, 100));
    assert_true(is_due_after(741, 100)); /* 1000 - 60 - 200 */
}

static void slurm_says_when_the_job_ends(void **state) {
    (void)state;
    struct options options = {.time_limit_s = TIME_LIMIT_AUTO, .time_limit_lead_s = 60};
    struct environment environment = {.slurm_job = "1"};
    struct time_limit limit;
    struct fault fault = {0};
    environment.slurm_end_time = time(NULL) + 1000;
    assert_true(time_limit_open(&limit, &options, &environment, clock_now_ns(), &fault));
    double left_s = (double)(limit.end_ns - clock_now_ns()) * 1e-9;
    assert_true(left_s > 990 && left_s < 1001);
    assert_false(time_limit_due(&limit, 0));
    environment.slurm_end_time = time(NULL) + 30;
    assert_true(time_limit_open(&limit, &options, &environment, clock_now_ns(), &fault));
    assert_true(time_limit_due(&limit, 0));
}

/* Times that no nanoseconds can hold, as "unlimited" is written where a number has to be. */
static void an_end_in_the_far_future_is_none(void **state) {
    (void)state;
    static const int64_t end_time[] = {99999999999, 4294967294 + 1700000000ll, INT64_MAX};
    struct options options = {.time_limit_s = TIME_LIMIT_AUTO, .time_limit_lead_s = 60};
    for (size_t row = 0; row < sizeof end_time / sizeof *end_time; row++) {
        struct environment environment = {.slurm_job = "1", .slurm_end_time = end_time[row]};
        struct time_limit limit;
        struct fault fault = {0};
        assert_true(time_limit_open(&limit, &options, &environment, clock_now_ns(), &fault));
        assert_int_equal(limit.end_ns, 0);
        assert_false(time_limit_due(&limit, 1e6));
    }
}

static void without_a_limit_nothing_is_due(void **state) {
    (void)state;
    struct options options = {.time_limit_s = -1, .time_limit_lead_s = 60};
    struct environment environment = {.slurm_end_time = 1};
    struct time_limit limit;
    struct fault fault = {0};
    assert_true(time_limit_open(&limit, &options, &environment, 0, &fault));
    assert_false(time_limit_due(&limit, 1e6));
    options.time_limit_s = TIME_LIMIT_AUTO; /* and no job to ask about */
    assert_false(time_limit_open(&limit, &options, &environment, 0, &fault));
    assert_int_equal(fault.kind, FAULT_USER);
    assert_non_null(strstr(fault.text, "SLURM_JOB_ID"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(squeue_prints_clocks_and_words),
        cmocka_unit_test(the_stop_comes_a_lead_before_the_end),
        cmocka_unit_test(slurm_says_when_the_job_ends),
        cmocka_unit_test(an_end_in_the_far_future_is_none),
        cmocka_unit_test(without_a_limit_nothing_is_due),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
