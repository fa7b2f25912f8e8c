/* clock: percentiles of a histogram against the sorted samples themselves, the counting of
 * spans and the handing on of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "clock.h"
#include "make_gguf.h"

static int compare(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* numpy.percentile(sample, percent): linear interpolation at rank percent / 100 (n - 1). */
static double percentile_of(const int64_t *sorted, int n, double percent) {
    double rank = percent / 100 * (n - 1);
    int below = (int)rank, above = below + 1 < n ? below + 1 : below;
    return (double)sorted[below] + (rank - below) * (double)(sorted[above] - sorted[below]);
}

/* Lengths spread over `n_octaves` octaves, every octave as likely. */
static void percentiles_are_close(int n, int n_octaves, uint64_t seed) {
    static const double percents[] = {0, 1, 10, 50, 90, 99, 99.9, 100};
    static struct histogram histogram;
    histogram = (struct histogram){0};
    int64_t *sample = calloc((size_t)n, sizeof *sample);
    double sum = 0;
    for (int at = 0; at < n; at++) {
        uint64_t random = make_gguf_random(&seed);
        int octave = (int)(random % (uint64_t)n_octaves);
        sample[at] = (int64_t)((make_gguf_random(&seed) | UINT64_C(1) << 63) >> (63 - octave));
        histogram_add(&histogram, sample[at]);
        sum += (double)sample[at];
    }
    qsort(sample, (size_t)n, sizeof *sample, compare);
    for (size_t at = 0; at < sizeof percents / sizeof *percents; at++) {
        double wanted = percentile_of(sample, n, percents[at]);
        double found = histogram_percentile(&histogram, percents[at]);
        if (found < wanted * (1 - 1.0 / 128) || found > wanted * (1 + 1.0 / 128))
            fail_msg("p%g of %d samples: %.3f instead of %.3f", percents[at], n, found, wanted);
    }
    assert_true(histogram.n == n);
    assert_true(histogram.least_ns == sample[0] && histogram.most_ns == sample[n - 1]);
    double mean = histogram_mean(&histogram);
    assert_true(mean > 0.999999 * sum / n && mean < 1.000001 * sum / n);
    free(sample);
}

static void histogram_knows_percentiles_to_a_128th(void **state) {
    (void)state;
    percentiles_are_close(10000, 40, 1);
    percentiles_are_close(10000, 5, 2);
    percentiles_are_close(100, 45, 3);
    percentiles_are_close(2, 50, 4);
    percentiles_are_close(1, 50, 5);
}

static void histogram_is_exact_below_128(void **state) {
    (void)state;
    static struct histogram histogram;
    for (int64_t ns = 0; ns < 128; ns++)
        histogram_add(&histogram, ns);
    for (int percent = 0; percent <= 100; percent++) /* numpy.percentile(range(128), p) */
        assert_float_equal(histogram_percentile(&histogram, percent), 1.27 * percent, 1e-9);
    assert_float_equal(histogram_mean(&histogram), 63.5, 1e-12);
}

static void histogram_takes_any_number(void **state) {
    (void)state;
    static struct histogram histogram, four;
    assert_float_equal(histogram_percentile(&histogram, 50), 0, 0);
    assert_float_equal(histogram_mean(&histogram), 0, 0);
    histogram_add(&histogram, -5);
    histogram_add(&histogram, INT64_MAX);
    assert_float_equal(histogram_percentile(&histogram, 0), 0, 0);
    assert_float_equal(histogram_percentile(&histogram, 100), (double)INT64_MAX, 1e12);
    for (int64_t ns = 1; ns <= 4; ns++)
        histogram_add(&four, ns);
    assert_float_equal(histogram_percentile(&four, 90), 3.7, 1e-12); /* numpy's */
}

static struct span heard[8];
static int n_heard;
static struct step_span heard_step;

static void hear_span(void *argument, const struct span *span) {
    assert_ptr_equal(argument, heard);
    heard[n_heard++] = *span;
}

static void hear_step(void *argument, const struct step_span *step) {
    assert_ptr_equal(argument, heard);
    heard_step = *step;
}

static void spans_are_counted_by_kind_and_label(void **state) {
    (void)state;
    clock_record_open();
    int64_t begin = clock_now_ns();
    clock_span(SPAN_START, 0, 0, begin);
    clock_arrived(2, 1, 0, 5, 100);
    clock_arrived(2, 1, 0, 5, 11);
    clock_arrived(SPAN_LABELS, 1, 0, 5, 1); /* counted, but by no label */
    const struct span_totals *totals = clock_totals();
    assert_true(totals->n_spans[SPAN_ARRIVED] == 3 && totals->n_bytes[SPAN_ARRIVED] == 112);
    assert_true(totals->n_arrived[2] == 2 && totals->arrived_bytes[2] == 111);
    for (int label = 0; label < SPAN_LABELS; label++)
        assert_true(label == 2 ||
                    (totals->n_arrived[label] == 0 && totals->arrived_bytes[label] == 0));
    clock_record_close();
}

static void listeners_hear_what_and_where(void **state) {
    (void)state;
    clock_record_open();
    int64_t begin = clock_now_ns();
    clock_span(SPAN_START, 0, 0, begin); /* nobody listens yet */
    clock_listen(&(struct clock_listener){hear_span, hear_step, heard});
    clock_span(SPAN_LOAD, 0, 77, begin);
    clock_place(1, 7, 3, 2);
    clock_span(SPAN_COMPUTE, 4, 0, begin);
    clock_message(SPAN_GATHER_KV, 2, 5, 100, begin);
    clock_place(1, 8, 0, 0);
    clock_arrived(3, 0, 2, 6, 9);
    clock_step((struct step_span){.begin_ns = begin, .step = 7, .n_rows = 2});
    clock_listen(NULL);
    clock_span(SPAN_COMPUTE, 4, 0, begin);
    clock_step((struct step_span){.step = 8});
    assert_int_equal(n_heard, 4);
    assert_true(heard[0].slot == -1 && heard[0].step == -1 && heard[0].n_bytes == 77);
    assert_true(heard[1].slot == 1 && heard[1].step == 7 && heard[1].slice == 3);
    assert_true(heard[1].label == 4 && heard[1].peer == -1 && !heard[1].empty);
    assert_true(heard[1].begin_ns == begin && heard[1].end_ns >= begin);
    assert_true(heard[2].lane == 2 && heard[2].peer == 5 && heard[2].label == 0);
    /* a message is of its own slot, wherever this rank stands when it comes */
    assert_true(heard[3].slot == 0 && heard[3].step == 8 && heard[3].empty);
    assert_true(heard[3].label == 3 && heard[3].lane == 2 && heard[3].peer == 6);
    assert_true(heard_step.step == 7 && heard_step.end_ns >= begin && heard_step.n_rows == 2);
    clock_record_close();
}

/* It goes on while the thread works, and stands while it sleeps. */
static void a_thread_has_a_clock_of_its_own(void **state) {
    (void)state;
    const struct timespec pause = {.tv_nsec = 50000000};
    struct deadline deadline = clock_deadline(60);
    int64_t begin = clock_thread_ns();
    while (clock_thread_ns() < begin + 5000000)
        assert_false(clock_expired(deadline));
    int64_t before = clock_thread_ns();
    assert_int_equal(nanosleep(&pause, NULL), 0);
    assert_true(clock_thread_ns() < before + pause.tv_nsec);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(histogram_knows_percentiles_to_a_128th),
        cmocka_unit_test(histogram_is_exact_below_128),
        cmocka_unit_test(histogram_takes_any_number),
        cmocka_unit_test(spans_are_counted_by_kind_and_label),
        cmocka_unit_test(listeners_hear_what_and_where),
        cmocka_unit_test(a_thread_has_a_clock_of_its_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
