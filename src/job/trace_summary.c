/* trace_summary.c - what a trace comes to, printed for people. See trace_parts.h.
 *
 * Times are of the spans that were recorded, so of the steps asked for; batches, pages and energy
 * are of the whole run. The loop of a rank lasts from the beginning of its first span in a slot to
 * the end of its last. A role is busy when one of its ranks is: the overlap is the time in which
 * both roles are, compared with that of the one that is busy for less.
 */
#include <stdlib.h>
#include <string.h>

#include "log.h"
#include "trace_parts.h"
#include "wire.h"

enum { ROLES = ROLE_ATTENTION + 1 };

/* Moments in which somebody was busy: disjoint, rising. */
struct busy {
    size_t n;
    struct stretch {
        int64_t begin_ns, end_ns;
    } * stretch;
};

struct summary {
    struct trace_head head;
    struct busy busy[ROLES];
    int n_ranks[ROLES];
    int64_t loop_ns[ROLES], first_ns, last_ns; /* first > last: no span in a slot */
    int64_t n_spans[ROLES][SPAN_KINDS], ns[ROLES][SPAN_KINDS];
    int64_t n_messages[MESSAGES], n_message_bytes[MESSAGES];
    int64_t n_missing;
    /* of the leader */
    int64_t n_steps, n_rows, n_prompt, n_decode, n_recomputed, n_sequences;
    int most_sequences, most_pages;
    struct histogram step_ns;
    /* of all */
    int64_t energy_uj, energy_ns;
};

static void print_text(const char *title, const char *text) {
    char shown[4200];
    printf("%-12s %s\n", title, log_escape(shown, sizeof shown, text, strlen(text)));
}

struct summary *summary_begin(const struct trace_head *head) {
    struct summary *summary = check_alloc(1, sizeof *summary);
    summary->head = *head;
    summary->first_ns = INT64_MAX;
    summary->last_ns = INT64_MIN;
    print_text("run", head->uuid);
    print_text("created", head->created);
    print_text("creator", head->creator);
    print_text("model", head->model);
    print_text("fingerprint", head->fingerprint);
    print_text("config", head->config);
    printf("layout       %d model, %d attention (heads %d x sequences %d)\n", head->model_ranks,
           head->attention_ranks, head->heads, head->sequences);
    printf("spans        of steps %d to ", head->first_step);
    printf(head->last_step == INT32_MAX ? "the last\n" : "%d\n", head->last_step);
    printf("\n%5s  %-9s  %-20s  %9s  %9s  %9s  %-8s  %10s  %s\n", "RANK", "ROLE", "HOST", "SPANS",
           "STEPS", "MISSING", "COMPLETE", "JOULES", "ENERGY FROM");
    return summary;
}

/* ---- overlap ----------------------------------------------------------------------------------
 */

static void add_stretch(struct busy *busy, int64_t begin_ns, int64_t end_ns) {
    struct stretch *last = busy->n ? &busy->stretch[busy->n - 1] : NULL;
    if (last && begin_ns <= last->end_ns) {
        if (end_ns > last->end_ns) last->end_ns = end_ns;
    } else {
        busy->stretch[busy->n++] = (struct stretch){begin_ns, end_ns};
    }
}

/* What one or the other is busy in; both are released. */
static struct busy unite(struct busy a, struct busy b) {
    struct busy both = {.stretch = check_alloc(a.n + b.n, sizeof *both.stretch)};
    size_t at_a = 0, at_b = 0;
    while (at_a < a.n || at_b < b.n) {
        bool first =
            at_b == b.n || (at_a < a.n && a.stretch[at_a].begin_ns <= b.stretch[at_b].begin_ns);
        struct stretch next = first ? a.stretch[at_a++] : b.stretch[at_b++];
        add_stretch(&both, next.begin_ns, next.end_ns);
    }
    free(a.stretch);
    free(b.stretch);
    return both;
}

static int64_t sum_of(const struct busy *busy) {
    int64_t sum = 0;
    for (size_t at = 0; at < busy->n; at++)
        sum += busy->stretch[at].end_ns - busy->stretch[at].begin_ns;
    return sum;
}

static int64_t common_of(const struct busy *a, const struct busy *b) {
    int64_t sum = 0;
    for (size_t at_a = 0, at_b = 0; at_a < a->n && at_b < b->n;) {
        const struct stretch *x = &a->stretch[at_a], *y = &b->stretch[at_b];
        int64_t begin = x->begin_ns > y->begin_ns ? x->begin_ns : y->begin_ns;
        int64_t end = x->end_ns < y->end_ns ? x->end_ns : y->end_ns;
        if (end > begin) sum += end - begin;
        if (x->end_ns < y->end_ns) {
            at_a++;
        } else {
            at_b++;
        }
    }
    return sum;
}

/* ---- adding up --------------------------------------------------------------------------------
 */

static void add_spans(struct summary *summary, const struct trace_rank *rank) {
    int role = rank->head.role;
    struct busy busy = {.stretch = check_alloc(rank->n_spans, sizeof *busy.stretch)};
    int64_t first_ns = INT64_MAX, last_ns = INT64_MIN;
    for (size_t at = 0; at < rank->n_spans; at++) {
        const struct span *span = &rank->span[at];
        summary->n_spans[role][span->kind] += 1;
        summary->ns[role][span->kind] += span->end_ns - span->begin_ns;
        if (span->kind == SPAN_ARRIVED) {
            summary->n_messages[span->label] += 1;
            summary->n_message_bytes[span->label] += span->n_bytes;
            continue;
        }
        if (span->slot < 0) continue;
        if (span->begin_ns < first_ns) first_ns = span->begin_ns;
        if (span->end_ns > last_ns) last_ns = span->end_ns;
        if (!trace_is_wait((enum span_kind)span->kind))
            add_stretch(&busy, span->begin_ns, span->end_ns);
    }
    summary->busy[role] = unite(summary->busy[role], busy);
    if (last_ns < first_ns) return;
    summary->loop_ns[role] += last_ns - first_ns;
    if (first_ns < summary->first_ns) summary->first_ns = first_ns;
    if (last_ns > summary->last_ns) summary->last_ns = last_ns;
}

static void add_steps(struct summary *summary, const struct trace_rank *rank) {
    for (size_t at = 0; at < rank->n_steps; at++) {
        const struct step_span *step = &rank->step[at];
        summary->n_steps += 1;
        summary->n_rows += step->n_rows;
        summary->n_prompt += step->n_prompt_rows;
        summary->n_decode += step->n_decode_rows;
        summary->n_recomputed += step->n_recomputed_rows;
        summary->n_sequences += step->n_sequences;
        if (step->n_sequences > summary->most_sequences)
            summary->most_sequences = step->n_sequences;
        if (step->n_pages_used > summary->most_pages) summary->most_pages = step->n_pages_used;
        histogram_add(&summary->step_ns, step->end_ns - step->begin_ns);
    }
}

/* The last reading of each package is its sum. Returns the rank's. */
static int64_t add_energy(struct summary *summary, const struct trace_rank *rank) {
    int64_t last_uj[TRACE_PACKAGES] = {0};
    for (size_t at = 0; at < rank->n_energy; at++) {
        const struct trace_energy *energy = &rank->energy[at];
        if (energy->package >= 0 && energy->package < TRACE_PACKAGES)
            last_uj[energy->package] = energy->energy_uj;
        int64_t ns = energy->at_ns - rank->energy[0].at_ns;
        if (ns > summary->energy_ns) summary->energy_ns = ns;
    }
    int64_t sum_uj = 0;
    for (int package = 0; package < TRACE_PACKAGES; package++)
        sum_uj += last_uj[package];
    summary->energy_uj += sum_uj;
    return sum_uj;
}

void summary_put(struct summary *summary, const struct trace_rank *rank) {
    const struct trace_rank_head *head = &rank->head;
    char host[128], source[256];
    log_escape(host, sizeof host, head->host, strlen(head->host));
    log_escape(source, sizeof source, head->energy_source, strlen(head->energy_source));
    printf("%5d  %-9s  %-20s  %9zu  %9zu  %9lld  %-8s  %10.1f  %s\n", head->rank,
           role_name((enum role)head->role), host, rank->n_spans, rank->n_steps,
           (long long)head->n_missing, head->complete ? "yes" : "no",
           (double)add_energy(summary, rank) * 1e-6, source);
    summary->n_ranks[head->role] += 1;
    summary->n_missing += head->n_missing;
    add_spans(summary, rank);
    if (head->rank == 0) add_steps(summary, rank);
}

/* ---- printing ---------------------------------------------------------------------------------
 */

static double share(int64_t part, int64_t whole) {
    return whole > 0 ? 100 * (double)part / (double)whole : 0;
}

static double each(int64_t sum, int64_t n) {
    return n > 0 ? (double)sum / (double)n : 0;
}

static void print_kinds(const struct summary *summary) {
    printf("\n%-9s  %-12s  %10s  %12s  %8s  %12s\n", "ROLE", "SPAN", "COUNT", "SECONDS", "OF LOOP",
           "MEAN US");
    for (int role = 0; role < ROLES; role++) {
        for (int kind = 0; kind < SPAN_KINDS; kind++) {
            int64_t n = summary->n_spans[role][kind], ns = summary->ns[role][kind];
            if (n == 0 || kind == SPAN_ARRIVED) continue;
            bool in_loop = kind < SPAN_ARRIVED;
            printf("%-9s  %-12s  %10lld  %12.6f  ", role_name((enum role)role),
                   clock_span_name((enum span_kind)kind), (long long)n, (double)ns * 1e-9);
            if (in_loop) {
                printf("%6.1f %%", share(ns, summary->loop_ns[role]));
            } else {
                printf("%8s", "-");
            }
            printf("  %12.1f\n", each(ns, n) * 1e-3);
        }
    }
}

static void print_overlap(const struct summary *summary) {
    const struct busy *model = &summary->busy[ROLE_MODEL];
    const struct busy *attention = &summary->busy[ROLE_ATTENTION];
    if (summary->n_ranks[ROLE_ATTENTION] == 0 || summary->last_ns < summary->first_ns) return;
    int64_t loop = summary->last_ns - summary->first_ns;
    int64_t a = sum_of(model), b = sum_of(attention), both = common_of(model, attention);
    printf("\noverlap      model busy %.1f %%, attention busy %.1f %%, both %.1f %% of %.6f s: "
           "%.1f %% of the lesser\n",
           share(a, loop), share(b, loop), share(both, loop), (double)loop * 1e-9,
           share(both, a < b ? a : b));
}

static void print_messages(const struct summary *summary) {
    if (summary->n_ranks[ROLE_ATTENTION] == 0) return;
    printf("\n%-8s  %10s  %14s  %16s\n", "MESSAGE", "COUNT", "BYTES", "BYTES A MESSAGE");
    for (int message = 0; message < MESSAGES; message++)
        printf("%-8s  %10lld  %14lld  %16.1f\n", message_name((enum message)message),
               (long long)summary->n_messages[message],
               (long long)summary->n_message_bytes[message],
               each(summary->n_message_bytes[message], summary->n_messages[message]));
}

static void print_steps(const struct summary *summary) {
    printf("\nsteps        %lld\n", (long long)summary->n_steps);
    if (summary->n_steps == 0) return;
    printf("rows         %lld: %lld of prompts, %lld decoding, %lld computed again; %.2f a step\n",
           (long long)summary->n_rows, (long long)summary->n_prompt, (long long)summary->n_decode,
           (long long)summary->n_recomputed, each(summary->n_rows, summary->n_steps));
    printf("sequences    %.2f a step, %d at most\n", each(summary->n_sequences, summary->n_steps),
           summary->most_sequences);
    printf("KV pages     %d at most\n", summary->most_pages);
    printf("step time    mean %.3f ms, median %.3f ms, p99 %.3f ms\n",
           histogram_mean(&summary->step_ns) * 1e-6,
           histogram_percentile(&summary->step_ns, 50) * 1e-6,
           histogram_percentile(&summary->step_ns, 99) * 1e-6);
}

void summary_end(struct summary *summary) {
    print_kinds(summary);
    print_overlap(summary);
    print_messages(summary);
    print_steps(summary);
    if (summary->energy_uj > 0)
        printf("energy       %.3f J of processors and GPUs, mean %.1f W, %.4f J a decoding row\n",
               (double)summary->energy_uj * 1e-6,
               each(summary->energy_uj, summary->energy_ns) * 1e3,
               each(summary->energy_uj, summary->n_decode) * 1e-6);
    if (summary->n_missing > 0)
        printf("missing      %lld records: dropped, lost or damaged\n",
               (long long)summary->n_missing);
    for (int role = 0; role < ROLES; role++)
        free(summary->busy[role].stretch);
    free(summary);
}
