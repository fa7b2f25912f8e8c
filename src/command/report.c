#include "report.h"

#include <stdlib.h>

#include "check.h"
#include "clock.h"
#include "log.h"

struct report {
    int64_t begin_ns;
};

void report_start(const struct topology *topology, const struct resources *resources,
                  const struct batch_limits *limits, const struct service *service,
                  const struct options *options, const char *device) {
    (void)service, (void)options;
    log_note("rank %d %s on %s: %s, %d pages, %lld MiB", topology->rank, role_name(topology->role),
             topology->host, device, limits->n_pages, (long long)resources->memory_bytes >> 20);
}

void report_open(struct report **opened, const struct options *options, struct desk *desk) {
    (void)options, (void)desk;
    *opened = check_alloc(1, sizeof **opened);
    (*opened)->begin_ns = clock_now_ns();
}
void report_tick(struct report *report, const struct batch_counts *counts) {
    (void)report, (void)counts;
}
void report_end(struct report *report, const struct batch_counts *counts,
                const struct desk_counts *desk, int code) {
    double seconds = (double)(clock_now_ns() - report->begin_ns) * 1e-9;
    log_note("%lld tokens in %.2f s = %.1f tok/s, steps %lld rows %lld decode %lld wasted %lld "
             "preempt %lld, answered %lld failed %lld, code %d",
             (long long)counts->n_tokens, seconds, (double)counts->n_tokens / seconds,
             (long long)counts->n_steps, (long long)counts->n_rows,
             (long long)counts->n_decode_rows, (long long)counts->n_wasted_rows,
             (long long)counts->n_preemptions, (long long)desk->results.n_answered,
             (long long)desk->results.n_failed, code);
    free(report);
}
int report_all_answered(const struct options *options, struct result_counts counts) {
    (void)options;
    log_note("all answered");
    return counts.n_kept_failed ? EXIT_REQUESTS : EXIT_DONE;
}
void report_roles(const struct topology *topology, const struct service *service) {
    (void)service;
    const struct span_totals *totals = clock_totals();
    for (int kind = 0; kind < SPAN_KINDS; kind++)
        if (totals->n_spans[kind])
            log_note("rank %d %-12s %8lld x %10.3f ms %10lld bytes", topology->rank,
                     clock_span_name((enum span_kind)kind), (long long)totals->n_spans[kind],
                     (double)totals->busy_ns[kind] * 1e-6, (long long)totals->n_bytes[kind]);
}
