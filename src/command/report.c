/* report.c - progress lines, the status file and the last word of a run. See report.h.
 *
 * Owns the pace: on a terminal one live line a second, elsewhere a line every 5 s for a minute and
 * every 60 s from then on, and the text of the status file with it, which the desk's thread writes.
 * The invariant: report_tick, called once a step, reads a clock, adds a few numbers, and does more
 * only when a line is due; it never allocates or opens a file. Numbers as text are left to
 * progress.c, the table at the start to report_start.c, the summary to report_summary.c. Rejected:
 * a thread of its own, which would have to share the batch's books with decode.
 */
#include "report.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "json_text.h"
#include "log.h"
#include "progress.h"
#include "replacement.h"
#include "report_parts.h"
#include "status_file.h"
#include "trace.h"

static const double LIVE_S = 1, SOON_S = 5, LATER_S = 60;

struct report {
    struct report_run run;
    struct desk *desk;
    double started_s; /* since the epoch */
    int64_t begin_ns, tick_ns, due_ns;
    double prefill_s, decode_s; /* the time of steps, shared out among their rows */
    struct rate rate;
    struct progress progress;
    struct status_file status; /* zeroed without --status */
    struct json_text names;    /* of model and output, for the status file */
    bool ended;                /* the summary is said */
};

/* ---- the status file --------------------------------------------------------------------------
 */

static void put_member(struct json_text *text, const char *key, const char *value) {
    json_text_string(text, key, strlen(key));
    json_text_literal(text, ":");
    json_text_string(text, value, value ? strlen(value) : 0);
    json_text_literal(text, ",");
}

static double wall_clock_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* To be written by whoever writes the file now. */
static void give_status(struct report *report, const char *state, int code) {
    struct progress_frame frame = {.state = state,
                                   .code = code,
                                   .started_s = report->started_s,
                                   .updated_s = wall_clock_s(),
                                   .names = report->names.text};
    status_file_give(&report->status,
                     progress_json(status_file_text(&report->status), STATUS_FILE_MOST_BYTES,
                                   &report->progress, &frame));
}

/* ---- opening ----------------------------------------------------------------------------------
 */

bool report_check(const struct options *options, struct fault *fault) {
    struct replacement status = {0};
    bool good = (!options->status ||
                 replacement_find(&status, "--status", options->status, options, fault)) &&
                trace_check(options, fault);
    replacement_close(&status);
    return good;
}

bool report_open(struct report **opened, const struct report_run *run, struct fault *fault) {
    struct report *report = check_alloc(1, sizeof *report);
    const struct options *options = run->options;
    report->run = *run;
    report->started_s = wall_clock_s();
    report->begin_ns = clock_now_ns();
    put_member(&report->names, "host", run->topology->host);
    put_member(&report->names, "model", options->model);
    put_member(&report->names, "output", options->output);
    *opened = report;
    if (!options->status) return true;
    if (!status_file_open(&report->status, options, fault)) return false;
    char word[1200];
    report_word(word, sizeof word, options->status);
    give_status(report, "running", -1);
    return status_file_write(&report->status) ||
           fault_user(fault, "--status %s: %s", word, strerror(errno));
}

static double interval_s(const struct report *report, double elapsed_s) {
    double asked_s = report->run.options->progress_interval_s;
    if (asked_s >= 0) return asked_s;
    if (log_is_terminal()) return LIVE_S;
    return elapsed_s < LATER_S ? SOON_S : LATER_S;
}

void report_begin(struct report *report, struct desk *desk) {
    report->desk = desk;
    report->begin_ns = report->tick_ns = clock_now_ns();
    report->due_ns = report->begin_ns + (int64_t)(interval_s(report, 0) * 1e9);
    rate_add(&report->rate, report->begin_ns, 0);
}

/* ---- progress ---------------------------------------------------------------------------------
 */

/* The time since the last step ended belongs to the rows of this one, to each the same. */
static void share_time(struct report *report, const struct batch_counts *counts, int64_t now_ns) {
    const struct batch_counts *before = &report->progress.batch;
    int64_t rows = counts->n_rows - before->n_rows;
    int64_t decode = counts->n_decode_rows - before->n_decode_rows;
    double seconds = (double)(now_ns - report->tick_ns) * 1e-9;
    if (rows > 0) {
        report->decode_s += seconds * (double)decode / (double)rows;
        report->prefill_s += seconds * (double)(rows - decode) / (double)rows;
    }
    report->tick_ns = now_ns;
    report->progress.batch = *counts;
}

static void take_stock(struct report *report, int64_t now_ns) {
    struct progress *progress = &report->progress;
    if (report->desk) progress->desk = desk_counts(report->desk);
    progress->elapsed_s = (double)(now_ns - report->begin_ns) * 1e-9;
    progress->minute_per_s = rate_per_s(&report->rate, now_ns, progress->batch.n_tokens);
}

/* A line longer than the terminal would wrap, and could not be taken back. */
static size_t line_bytes(size_t most) {
    struct winsize window;
    if (!log_is_terminal() || ioctl(STDERR_FILENO, TIOCGWINSZ, &window) != 0) return most;
    return window.ws_col > 0 && window.ws_col < most ? window.ws_col : most;
}

void report_tick(struct report *report, const struct batch_counts *counts) {
    int64_t now_ns = clock_now_ns();
    share_time(report, counts, now_ns);
    rate_add(&report->rate, now_ns, counts->n_tokens);
    if (now_ns < report->due_ns) return;
    take_stock(report, now_ns);
    char line[512];
    log_live("%s", progress_line(line, line_bytes(sizeof line), &report->progress));
    if (report->status.place.path) {
        give_status(report, "running", -1);
        desk_renew(report->desk, &report->status);
    }
    int64_t interval_ns = (int64_t)(interval_s(report, report->progress.elapsed_s) * 1e9);
    report->due_ns += interval_ns;
    if (report->due_ns <= now_ns) report->due_ns = now_ns + interval_ns; /* a slow step */
}

/* ---- the end ----------------------------------------------------------------------------------
 */

void report_summary(struct report *report, const struct report_run *run,
                    const struct report_end *end) {
    if (report) {
        int64_t now_ns = clock_now_ns();
        share_time(report, end->counts, now_ns);
        report->desk = NULL; /* it is closed: these were its last counts */
        report->progress.desk = *end->desk;
        take_stock(report, now_ns);
        report->progress.elapsed_s = end->loop_s;
        report->ended = true;
        const struct span_totals *spans = clock_totals();
        double load_s = (double)spans->busy_ns[SPAN_LOAD] * 1e-9;
        struct report_totals totals = {.start_s =
                                           (double)spans->busy_ns[SPAN_START] * 1e-9 + load_s,
                                       .load_s = load_s,
                                       .loop_s = end->loop_s,
                                       .prefill_s = report->prefill_s,
                                       .decode_s = report->decode_s,
                                       .counts = end->counts,
                                       .latencies = end->latencies,
                                       .desk = end->desk};
        report_print_totals(&totals);
    }
    report_print_roles(run, end->loop_s, report ? end->counts->n_rows : 0);
}

const char *report_word(char *out, size_t size, const char *name) {
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
                                "_./:=@%+,-";
    char shown[1024];
    log_escape(shown, sizeof shown, name, strlen(name));
    if (*shown && shown[strspn(shown, plain)] == 0) {
        snprintf(out, size, "%s", shown);
        return out;
    }
    size_t at = 0;
    if (size > 0) out[0] = 0;
    for (const char *c = shown; *c && at + 8 < size; c++) /* ' ends the quotes: '\'' */
        at += (size_t)snprintf(out + at, size - at, c == shown ? "'%s" : "%s",
                               *c == '\'' ? "'\\''" : (char[]){*c, 0});
    snprintf(out + at, size - at, "%s", *shown ? "'" : "''");
    return out;
}

static bool is_stream(const char *name) {
    struct stat status;
    return strcmp(name, "-") == 0 || (stat(name, &status) == 0 && !S_ISREG(status.st_mode));
}

static void say_read_with(const char *output) {
    char word[1200];
    report_word(word, sizeof word, output);
    if (is_stream(output)) {
        log_note("done: the answers went to %s", strcmp(output, "-") ? word : "standard output");
    } else {
        log_note("done: the answers are in %s; to read them: jq -r '.response.body.choices[]? | "
                 ".message.content // .text' %s",
                 word, word);
    }
}

/* How to go on with what is left, as far as the way it was started allows. */
static const char *resume_with(const struct options *options) {
    if (is_stream(options->output)) return "what went to a stream cannot be resumed: use -o FILE";
    for (int number = 0; number < options->n_inputs; number++) {
        if (is_stream(options->input[number]))
            return "requests from a pipe cannot be read again: use -i FILE";
    }
    if (options->resume) return "the same command goes on";
    if (options->overwrite) return "the same command with --resume instead of --overwrite goes on";
    return "the same command with --resume goes on";
}

static void say_failed(const struct options *options, int64_t n_failed) {
    char word[1200];
    const char *file = options->errors ? options->errors : options->output;
    const char *how = options->resume      ? "the same command with --retry-failed"
                      : options->overwrite ? "the same command with --resume --retry-failed "
                                             "instead of --overwrite"
                                           : "the same command with --resume --retry-failed";
    if (is_stream(options->output) || is_stream(file)) {
        log_note("%lld request%s failed; the reasons are where %s went", (long long)n_failed,
                 n_failed == 1 ? "" : "s", options->errors ? "--errors" : "the answers");
        return;
    }
    log_note("%lld request%s failed; for the reasons: jq -r '.error.message // "
             ".response.body.error.message // empty' %s; when they are cured, %s runs them again",
             (long long)n_failed, n_failed == 1 ? "" : "s", report_word(word, sizeof word, file),
             options->retry_failed ? "the same command" : how);
}

/* The last line of a run. */
static void say_next(const struct report *report, int code) {
    const struct options *options = report->run.options;
    const struct desk_counts *desk = &report->progress.desk;
    int64_t n_failed = desk->results.n_failed + desk->results.n_kept_failed;
    int64_t n_lines = desk->results.n_answered + desk->results.n_failed + desk->results.n_kept;
    switch (code) {
    case EXIT_DONE: say_read_with(options->output); break;
    case EXIT_REQUESTS: say_failed(options, n_failed); break;
    case EXIT_RESUMABLE:
        log_note("stopped early with %lld request%s done%s; %s", (long long)n_lines,
                 n_lines == 1 ? "" : "s",
                 desk->all_read ? "" : " and the input not read to its end", resume_with(options));
        break;
    default:
        log_note("%lld request%s done; when what is said above is cured, %s", (long long)n_lines,
                 n_lines == 1 ? " is" : "s are", resume_with(options));
    }
}

void report_close(struct report *report, int code) {
    if (!report) return;
    bool done = code == EXIT_DONE || code == EXIT_REQUESTS;
    if (report->status.place.path) {
        give_status(report, done ? "done" : "stopped", code);
        status_file_renew(&report->status);
    }
    if (report->ended) say_next(report, code);
    status_file_close(&report->status);
    free(report->names.text);
    free(report);
}

int report_all_answered(const struct report_run *run, struct result_counts counts) {
    struct report *report = NULL;
    struct fault fault = {0};
    if (!report_open(&report, run, &fault)) log_warning("%s", fault.text);
    report->progress.desk =
        (struct desk_counts){.results = counts, .n_read = counts.n_kept, .all_read = true};
    log_note("nothing left to do: all %lld requests have been answered before",
             (long long)counts.n_kept);
    int code = counts.n_kept_failed > 0 ? EXIT_REQUESTS : EXIT_DONE;
    report->ended = true;
    report_close(report, code);
    return code;
}
