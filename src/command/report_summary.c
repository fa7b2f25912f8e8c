/* report_summary.c - how a run went: throughput, latencies, time by role, bytes by message. See
 * report_parts.h.
 *
 * Labels are those of vLLM's benchmarks where they have one, so that scripts that look for them
 * find them. Latencies count from admission to a slot: the queue of a batch job is as long as the
 * job, and a time to first token that counts it would say nothing of the engine; the mean wait in
 * the queue has a line of its own. Prefill and decode throughput are rows over the time of steps, a
 * step's time being shared evenly among its rows. Shares of roles are means over ranks, with the
 * least and the most where ranks differ.
 */
#include "report_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "clock.h"
#include "log.h"
#include "progress.h"
#include "wire.h"

/* ---- totals -----------------------------------------------------------------------------------
 */

static void print_count(const char *label, int64_t count) {
    log_note("%-40s %lld", label, (long long)count);
}

static void print_real(const char *label, double value) {
    log_note("%-40s %.2f", label, value);
}

static double per_s(int64_t count, double seconds) {
    return seconds > 0 ? (double)count / seconds : 0;
}

static void print_title(const char *title, char line) {
    char text[64];
    int n_bytes = (int)strlen(title), left = (50 - n_bytes) / 2;
    memset(text, line, 50);
    text[50] = 0;
    memcpy(text + left, title, (size_t)n_bytes);
    log_note("%s", text);
}

static void print_latency(const char *title, const char *name, const struct histogram *histogram) {
    char label[48];
    if (histogram->n == 0) return;
    print_title(title, '-');
    snprintf(label, sizeof label, "Mean %s (ms):", name);
    print_real(label, histogram_mean(histogram) * 1e-6);
    snprintf(label, sizeof label, "Median %s (ms):", name);
    print_real(label, histogram_percentile(histogram, 50) * 1e-6);
    snprintf(label, sizeof label, "P90 %s (ms):", name);
    print_real(label, histogram_percentile(histogram, 90) * 1e-6);
    snprintf(label, sizeof label, "P99 %s (ms):", name);
    print_real(label, histogram_percentile(histogram, 99) * 1e-6);
}

void report_print_totals(const struct report_totals *totals) {
    const struct batch_counts *counts = totals->counts;
    const struct result_counts *results = &totals->desk->results;
    int64_t n_prefill = counts->n_prompt_rows + counts->n_recomputed_rows;
    print_title(" Generation Result ", '=');
    print_count("Successful requests:", results->n_answered);
    print_count("Failed requests:", results->n_failed);
    if (results->n_kept > 0) print_count("Requests answered before:", results->n_kept);
    if (results->n_changed > 0) print_count("of these, changed since:", results->n_changed);
    print_real("Time to start (s):", totals->start_s);
    print_real("of it, loading weights (s):", totals->load_s);
    print_real("Benchmark duration (s):", totals->loop_s);
    print_count("Total input tokens:", counts->n_prompt_rows);
    print_count("Total generated tokens:", counts->n_tokens);
    print_real("Request throughput (req/s):", per_s(results->n_answered, totals->loop_s));
    print_real("Output token throughput (tok/s):", per_s(counts->n_tokens, totals->loop_s));
    print_real("Total token throughput (tok/s):",
               per_s(counts->n_prompt_rows + counts->n_tokens, totals->loop_s));
    print_real("Prefill throughput (tok/s):", per_s(n_prefill, totals->prefill_s));
    print_real("Decode throughput (tok/s):", per_s(counts->n_decode_rows, totals->decode_s));
    print_count("Steps:", counts->n_steps);
    print_count("Preemptions:", counts->n_preemptions);
    print_count("Rows recomputed after preemption:", counts->n_recomputed_rows);
    print_count("Rows past the end of their sequence:", counts->n_wasted_rows);
    log_note("%-40s %d of %d", "KV pages, peak:", counts->n_pages_peak, counts->n_pages);
    print_latency("Time to First Token", "TTFT", &totals->latencies->ttft);
    print_latency("Time per Output Token (excl. 1st token)", "TPOT", &totals->latencies->tpot);
    print_latency("End-to-end Latency", "E2EL", &totals->latencies->e2el);
    log_note("(TTFT and E2EL from admission to a slot; mean wait before it %.2f ms)",
             histogram_mean(&totals->latencies->queue) * 1e-6);
    print_title("", '=');
}

/* ---- time by role -----------------------------------------------------------------------------
 */

struct rank_times {
    int32_t role;
    double loop_s;
    struct span_totals totals;
};

/* Kinds that are spent inside the loop; the last stands for what none of them covers. */
enum { LOOP_KINDS = SPAN_ARRIVED, OTHER = SPAN_ARRIVED };

static double share_of(const struct rank_times *times, int kind) {
    double seconds = 0;
    if (times->loop_s <= 0) return 0;
    if (kind != OTHER) return (double)times->totals.busy_ns[kind] * 1e-9 / times->loop_s;
    for (int other = 0; other < LOOP_KINDS; other++)
        seconds += (double)times->totals.busy_ns[other] * 1e-9;
    return seconds < times->loop_s ? 1 - seconds / times->loop_s : 0;
}

static void write_share(char *out, size_t size, const struct rank_times *times, int n_ranks,
                        int role, int kind) {
    double sum = 0, least = 1, most = 0;
    int n = 0;
    for (int rank = 0; rank < n_ranks; rank++) {
        if (times[rank].role != role) continue;
        double share = share_of(&times[rank], kind);
        sum += share;
        least = share < least ? share : least;
        most = share > most ? share : most;
        n++;
    }
    if (n == 0 || most == 0) {
        snprintf(out, size, "-");
    } else if (n == 1) {
        snprintf(out, size, "%.1f%%", 100 * sum);
    } else {
        snprintf(out, size, "%.1f%% (%.1f-%.1f)", 100 * sum / n, 100 * least, 100 * most);
    }
}

static void print_times(const struct report_run *run, const struct rank_times *times) {
    const struct layout *layout = &run->topology->layout;
    char title[64], model[48], attention[48];
    bool colocated = layout->attention_ranks == 0;
    snprintf(title, sizeof title, "Time by role (%% of %.2f s)", times[0].loop_s);
    if (colocated) {
        log_note("%-40s %s", title, "model");
    } else {
        log_note("%-40s %-20s %s", title, "model", "attention");
    }
    for (int kind = 0; kind <= LOOP_KINDS; kind++) {
        write_share(model, sizeof model, times, run->topology->n_ranks, ROLE_MODEL, kind);
        write_share(attention, sizeof attention, times, run->topology->n_ranks, ROLE_ATTENTION,
                    kind);
        if (strcmp(model, "-") == 0 && strcmp(attention, "-") == 0) continue;
        const char *name = kind == OTHER ? "other" : clock_span_name((enum span_kind)kind);
        if (colocated) {
            log_note("  %-38s %s", name, model);
        } else {
            log_note("  %-38s %-20s %s", name, model, attention);
        }
    }
}

_Static_assert((int)MESSAGES <= (int)SPAN_LABELS, "arrivals are counted by message");

/* ---- messages ---------------------------------------------------------------------------------
 */

/* As counted where they came, so that each is counted once. */
static void print_messages(const struct report_run *run, const struct rank_times *times,
                           int64_t n_rows) {
    log_note("%-8s %12s %14s %14s %20s", "Message", "count", "bytes", "a layer", "a row and layer");
    for (int message = 0; message < MESSAGES; message++) {
        int64_t n = 0, n_bytes = 0;
        for (int rank = 0; rank < run->topology->n_ranks; rank++) {
            n += times[rank].totals.n_arrived[message];
            n_bytes += times[rank].totals.arrived_bytes[message];
        }
        double layer = (double)n_bytes / run->service->n_layers;
        if (message == MESSAGE_STEP || n_rows == 0) {
            log_note("%-8s %12lld %14lld", message_name((enum message)message), (long long)n,
                     (long long)n_bytes);
        } else {
            log_note("%-8s %12lld %14lld %14.0f %20.1f", message_name((enum message)message),
                     (long long)n, (long long)n_bytes, layer, layer / (double)n_rows);
        }
    }
}

void report_print_roles(const struct report_run *run, double loop_s, int64_t n_rows) {
    const struct topology *topology = run->topology;
    struct rank_times mine = {
        .role = (int32_t)topology->role, .loop_s = loop_s, .totals = *clock_totals()};
    struct rank_times *times = check_alloc((size_t)topology->n_ranks, sizeof *times);
    topology_collect(topology, &mine, sizeof mine, times, "collection of times", run->patience_s);
    if (topology->leader) {
        print_times(run, times);
        if (topology->layout.attention_ranks > 0) print_messages(run, times, n_rows);
    }
    free(times);
}
