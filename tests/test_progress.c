/* progress: durations and sizes as people write them, the rate over a minute, the estimate, the
 * line, and the status file as another JSON reader (jansson) understands it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "progress.h"

static void durations_are_slurms(void **state) {
    (void)state;
    char text[PROGRESS_TEXT_BYTES];
    assert_string_equal(progress_duration(text, 0), "00:00");
    assert_string_equal(progress_duration(text, 59.99), "00:59");
    assert_string_equal(progress_duration(text, 60), "01:00");
    assert_string_equal(progress_duration(text, 3599), "59:59");
    assert_string_equal(progress_duration(text, 3600), "1:00:00");
    assert_string_equal(progress_duration(text, 86399), "23:59:59");
    assert_string_equal(progress_duration(text, 86400), "1-00:00:00");
    assert_string_equal(progress_duration(text, 2 * 86400 + 3 * 3600 + 4 * 60 + 5), "2-03:04:05");
    assert_string_equal(progress_duration(text, -1), "?");
    assert_string_equal(progress_duration(text, 0.0 / 0.0), "?");
    assert_string_equal(progress_duration(text, 1.0 / 0.0), "?");
}

static void sizes_have_units(void **state) {
    (void)state;
    char text[PROGRESS_TEXT_BYTES];
    assert_string_equal(progress_size(text, 0), "0 B");
    assert_string_equal(progress_size(text, 1023), "1023 B");
    assert_string_equal(progress_size(text, 1024), "1.0 KiB");
    assert_string_equal(progress_size(text, 1024 * 1024 - 1), "1.0 MiB"); /* never 1024.0 KiB */
    assert_string_equal(progress_size(text, INT64_C(5) << 30), "5.0 GiB");
    assert_string_equal(progress_size(text, INT64_MAX), "8192.0 PiB");
}

#define SECOND INT64_C(1000000000)

static void rate_is_of_the_last_minute(void **state) {
    (void)state;
    struct rate rate = {0};
    assert_float_equal(rate_per_s(&rate, 5 * SECOND, 100), 0, 0);
    int64_t count = 0;
    /* ten a second for 100 s, then two a second; looked at four times a second */
    for (int64_t quarter = 0; quarter <= 400; quarter++) {
        rate_add(&rate, quarter * SECOND / 4, count);
        if (quarter == 20) assert_float_equal(rate_per_s(&rate, 5 * SECOND, 50), 10, 1e-9);
        count = (quarter + 1) * 10 / 4;
    }
    for (int64_t second = 101; second <= 130; second++)
        rate_add(&rate, second * SECOND, 1000 + 2 * (second - 100));
    /* at 130 s the minute began at 70 s: 30 s of ten, 30 s of two */
    assert_float_equal(rate_per_s(&rate, 130 * SECOND, 1060), (300 + 60) / 60.0, 1e-9);
    /* nothing for an hour: all that is known is the newest sample */
    assert_float_equal(rate_per_s(&rate, 3730 * SECOND, 1060 + 3600), 1, 1e-9);
    assert_float_equal(rate_per_s(&rate, 130 * SECOND, 1060), 6, 1e-9);
}

static void rate_of_slow_steps_is_of_a_minute_too(void **state) {
    (void)state;
    struct rate rate = {0};
    for (int64_t second = 0; second <= 240; second += 3)
        rate_add(&rate, second * SECOND, second);
    for (int64_t second = 243; second <= 300; second += 3)
        rate_add(&rate, second * SECOND, 240 + 5 * (second - 240));
    assert_float_equal(rate_per_s(&rate, 300 * SECOND, 540), 5, 1e-9);
}

/* 100 s on, 30 of 100 requests done; answers of 50 tokens so far, 20 running with 400 made. */
static struct progress halfway(void) {
    return (struct progress){
        .elapsed_s = 100,
        .minute_per_s = 25,
        .desk = {.results = {.n_answered = 28, .n_failed = 2, .n_kept = 10, .n_kept_failed = 1},
                 .n_read = 100,
                 .all_read = true,
                 .n_ready = 38},
        .batch = {.n_tokens = 30 * 50 + 400,
                  .n_ended = 30,
                  .n_ended_tokens = 30 * 50,
                  .n_running = 20,
                  .n_waiting = 2,
                  .n_most_left = 22 * 128 - 400,
                  .n_preemptions = 3,
                  .n_pages_used = 7,
                  .n_pages_peak = 9,
                  .n_pages = 16},
    };
}

static void estimate_counts_tokens(void **state) {
    (void)state;
    struct progress progress = halfway();
    /* 1900 tokens and 30 ends: 60 sequences with 1900 / 30 to make each, at 25 a second */
    assert_float_equal(progress_eta_s(&progress), 60 * (1900 / 30.0) / 25.0, 1e-9);
    progress.batch.n_most_left = 500; /* max_tokens leaves less: (400 + 500) / 22 for a new one */
    assert_float_equal(progress_eta_s(&progress), (500 + 38 * (900 / 22.0)) / 25.0, 1e-9);
    progress.minute_per_s = 0; /* then the mean: 1900 tokens in 100 s */
    assert_float_equal(progress_eta_s(&progress), (500 + 38 * (900 / 22.0)) / 19.0, 1e-9);
    /* all make 128; one was first, by a token */
    progress.batch = (struct batch_counts){.n_tokens = 128 + 31 * 127,
                                           .n_ended = 1,
                                           .n_ended_tokens = 128,
                                           .n_running = 31,
                                           .n_most_left = 31};
    assert_float_equal(progress_eta_s(&progress), (31 + 38 * 128) / (4065 / 100.0), 1e-9);
}

static void estimate_knows_what_it_does_not(void **state) {
    (void)state;
    struct progress progress = halfway();
    progress.desk.all_read = false;
    assert_true(progress_eta_s(&progress) < 0);
    progress = halfway();
    progress.batch.n_ended = progress.batch.n_ended_tokens = 0;
    assert_true(progress_eta_s(&progress) < 0);
    progress = (struct progress){.desk = {.all_read = true}};
    assert_float_equal(progress_eta_s(&progress), 0, 0);
}

static void line_says_it_all(void **state) {
    (void)state;
    char line[512];
    struct progress progress = halfway();
    assert_string_equal(progress_line(line, sizeof line, &progress),
                        "01:40 | 37 done, 3 failed of 100, 10 answered before | 20 running, 40 "
                        "waiting | 25.0 tok/s (mean 19.0) | ETA 02:32 | KV 7/16 pages | 3 "
                        "preempted");
    progress.desk.all_read = false;
    progress.desk.results.n_kept = progress.desk.results.n_kept_failed = 0;
    assert_string_equal(progress_line(line, sizeof line, &progress),
                        "01:40 | 28 done, 2 failed of 100 read so far | 20 running, 40 waiting | "
                        "25.0 tok/s (mean 19.0) | ETA unknown: the input is still being read | KV "
                        "7/16 pages | 3 preempted");
    assert_string_equal(progress_line(line, 8, &progress), "01:40 |"); /* a narrow terminal */
}

static double number_at(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    if (!json_is_number(value)) fail_msg("%s is no number", key);
    return json_number_value(value);
}

static json_t *status_of(const struct progress *progress, const struct progress_frame *frame) {
    char text[4096];
    json_error_t error;
    size_t n_bytes = progress_json(text, sizeof text, progress, frame);
    assert_true(n_bytes > 0 && n_bytes == strlen(text) && text[n_bytes - 1] == '\n');
    json_t *object = json_loadb(text, n_bytes, JSON_REJECT_DUPLICATES, &error);
    if (!object) fail_msg("%s: %s", error.text, text);
    return object;
}

static void status_is_json(void **state) {
    (void)state;
    struct progress progress = halfway();
    struct progress_frame frame = {.state = "running",
                                   .code = -1,
                                   .started_s = 1700000000.25,
                                   .updated_s = 1700000100.25,
                                   .names = "\"model\":\"a\\\"b\","};
    json_t *status = status_of(&progress, &frame);
    json_t *requests = json_object_get(status, "request_counts");
    json_t *pages = json_object_get(status, "kv_pages");
    assert_string_equal(json_string_value(json_object_get(status, "state")), "running");
    assert_string_equal(json_string_value(json_object_get(status, "model")), "a\"b");
    assert_true(json_is_null(json_object_get(status, "exit_code")));
    assert_float_equal(number_at(status, "started"), 1700000000.25, 1e-6);
    assert_float_equal(number_at(status, "elapsed_s"), 100, 0);
    assert_float_equal(number_at(requests, "total"), 100, 0);
    assert_float_equal(number_at(requests, "completed"), 37, 0);
    assert_float_equal(number_at(requests, "failed"), 3, 0);
    assert_float_equal(number_at(requests, "answered_before"), 10, 0);
    assert_float_equal(number_at(status, "running"), 20, 0);
    assert_float_equal(number_at(status, "waiting"), 40, 0);
    assert_float_equal(number_at(status, "output_tokens"), 1900, 0);
    assert_float_equal(number_at(status, "output_throughput"), 19, 0);
    assert_float_equal(number_at(status, "output_throughput_last_minute"), 25, 0);
    assert_float_equal(number_at(status, "eta_s"), 152, 0);
    assert_float_equal(number_at(pages, "used"), 7, 0);
    assert_float_equal(number_at(pages, "peak"), 9, 0);
    assert_float_equal(number_at(pages, "total"), 16, 0);
    assert_float_equal(number_at(status, "preemptions"), 3, 0);
    json_decref(status);

    frame.code = 75;
    frame.state = "stopped";
    progress.desk.all_read = false;
    status = status_of(&progress, &frame);
    assert_float_equal(number_at(status, "exit_code"), 75, 0);
    assert_true(json_is_null(json_object_get(status, "eta_s")));
    requests = json_object_get(status, "request_counts");
    assert_true(json_is_null(json_object_get(requests, "total")));
    assert_float_equal(number_at(requests, "read"), 100, 0);
    json_decref(status);

    char small[100];
    assert_true(progress_json(small, sizeof small, &progress, &frame) == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(durations_are_slurms),
        cmocka_unit_test(sizes_have_units),
        cmocka_unit_test(rate_is_of_the_last_minute),
        cmocka_unit_test(rate_of_slow_steps_is_of_a_minute_too),
        cmocka_unit_test(estimate_counts_tokens),
        cmocka_unit_test(estimate_knows_what_it_does_not),
        cmocka_unit_test(line_says_it_all),
        cmocka_unit_test(status_is_json),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
