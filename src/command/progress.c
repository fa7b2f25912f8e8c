/* progress.c - where a run stands. See progress.h.
 *
 * Requests are what people count (done, failed, total); sequences are what runs (one prompt may
 * have several answers), and what the estimate counts. It is made of tokens, not of finished
 * requests: with many sequences in flight hardly one is finished until most are nearly so. Those
 * that ended first are the short ones, so their length would promise too much: what a sequence
 * still makes is taken as all tokens so far over all ends so far, the mean of a constant chance to
 * end, or as what max_tokens leaves it, whichever is less.
 */
#include "progress.h"

#include <stdio.h>

#define MINUTE_NS 60000000000
#define SECOND_NS 1000000000

void rate_add(struct rate *rate, int64_t now_ns, int64_t count) {
    const struct rate_sample *newest = &rate->sample[(rate->n + RATE_SAMPLES - 1) % RATE_SAMPLES];
    if (rate->n > 0 && now_ns - newest->at_ns < SECOND_NS) return;
    rate->sample[rate->n % RATE_SAMPLES] = (struct rate_sample){now_ns, count};
    rate->n += 1;
}

double rate_per_s(const struct rate *rate, int64_t now_ns, int64_t count) {
    int at = rate->n > RATE_SAMPLES ? rate->n - RATE_SAMPLES : 0;
    while (at < rate->n - 1 && now_ns - rate->sample[at % RATE_SAMPLES].at_ns > MINUTE_NS)
        at++; /* to the newest at last: a step may take more than a minute */
    const struct rate_sample *sample = &rate->sample[at % RATE_SAMPLES];
    if (rate->n == 0 || now_ns <= sample->at_ns) return 0;
    return (double)(count - sample->count) * 1e9 / (double)(now_ns - sample->at_ns);
}

double progress_mean_per_s(const struct progress *progress) {
    return progress->elapsed_s > 0 ? (double)progress->batch.n_tokens / progress->elapsed_s : 0;
}

double progress_eta_s(const struct progress *progress) {
    const struct desk_counts *desk = &progress->desk;
    const struct batch_counts *batch = &progress->batch;
    int64_t n_left = batch->n_running + batch->n_waiting + desk->n_ready;
    double per_s =
        progress->minute_per_s > 0 ? progress->minute_per_s : progress_mean_per_s(progress);
    if (!desk->all_read) return -1;
    if (n_left == 0) return 0;
    if (batch->n_ended == 0 || per_s <= 0) return -1;
    double mean = (double)batch->n_tokens / (double)batch->n_ended;
    int n_begun = batch->n_running + batch->n_waiting;
    double most = (double)batch->n_most_left, left = mean * n_begun, length = mean;
    if (left > most) left = most;
    if (n_begun > 0) { /* those to come may make as many as these on average */
        double made = (double)(batch->n_tokens - batch->n_ended_tokens);
        if (length > (made + most) / n_begun) length = (made + most) / n_begun;
    }
    return (left + length * (double)desk->n_ready) / per_s;
}

const char *progress_duration(char out[PROGRESS_TEXT_BYTES], double seconds) {
    if (!(seconds >= 0) || seconds > 1e12) {
        snprintf(out, PROGRESS_TEXT_BYTES, "?");
        return out;
    }
    long long s = (long long)seconds, day = s / 86400;
    int hour = (int)(s / 3600 % 24), minute = (int)(s / 60 % 60), second = (int)(s % 60);
    if (day > 0) {
        snprintf(out, PROGRESS_TEXT_BYTES, "%lld-%02d:%02d:%02d", day, hour, minute, second);
    } else if (hour > 0) {
        snprintf(out, PROGRESS_TEXT_BYTES, "%d:%02d:%02d", hour, minute, second);
    } else {
        snprintf(out, PROGRESS_TEXT_BYTES, "%02d:%02d", minute, second);
    }
    return out;
}

const char *progress_size(char out[PROGRESS_TEXT_BYTES], int64_t n_bytes) {
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    double size = (double)n_bytes;
    int at = 0;
    while (at < 5 && size >= 1023.95) {
        size /= 1024;
        at++;
    }
    snprintf(out, PROGRESS_TEXT_BYTES, at ? "%.1f %s" : "%.0f %s", size, unit[at]);
    return out;
}

/* Of the job as a whole, runs before this one included. */
static int64_t n_done(const struct result_counts *results) {
    return results->n_answered + results->n_kept - results->n_kept_failed;
}

static int64_t n_failed(const struct result_counts *results) {
    return results->n_failed + results->n_kept_failed;
}

/* Of how many, and how sure that is. */
static void write_total(char *out, size_t size, const struct desk_counts *desk) {
    int n = snprintf(out, size, desk->all_read ? "of %lld" : "of %lld read so far",
                     (long long)desk->n_read);
    if (desk->results.n_kept > 0 && n > 0 && (size_t)n < size)
        snprintf(out + n, size - (size_t)n, ", %lld answered before",
                 (long long)desk->results.n_kept);
}

static void write_eta(char *out, size_t size, const struct progress *progress) {
    char text[PROGRESS_TEXT_BYTES];
    double eta_s = progress_eta_s(progress);
    if (eta_s >= 0) {
        snprintf(out, size, "ETA %s", progress_duration(text, eta_s));
    } else {
        snprintf(out, size, "ETA unknown: %s",
                 progress->desk.all_read ? "no answer has come to its end"
                                         : "the input is still being read");
    }
}

char *progress_line(char *out, size_t size, const struct progress *progress) {
    const struct desk_counts *desk = &progress->desk;
    const struct batch_counts *batch = &progress->batch;
    char elapsed[PROGRESS_TEXT_BYTES], total[96], eta[96];
    write_total(total, sizeof total, desk);
    write_eta(eta, sizeof eta, progress);
    snprintf(out, size,
             "%s | %lld done, %lld failed %s | %d running, %lld waiting | %.1f tok/s (mean %.1f) | "
             "%s | KV %d/%d pages | %lld preempted",
             progress_duration(elapsed, progress->elapsed_s), (long long)n_done(&desk->results),
             (long long)n_failed(&desk->results), total, batch->n_running,
             (long long)(desk->n_ready + batch->n_waiting), progress->minute_per_s,
             progress_mean_per_s(progress), eta, batch->n_pages_used, batch->n_pages,
             (long long)batch->n_preemptions);
    return out;
}

size_t progress_json(char *out, size_t size, const struct progress *progress,
                     const struct progress_frame *frame) {
    const struct desk_counts *desk = &progress->desk;
    const struct batch_counts *batch = &progress->batch;
    char total[32] = "null", eta[32] = "null", code[16] = "null";
    double eta_s = progress_eta_s(progress);
    if (desk->all_read) snprintf(total, sizeof total, "%lld", (long long)desk->n_read);
    if (eta_s >= 0) snprintf(eta, sizeof eta, "%.1f", eta_s);
    if (frame->code >= 0) snprintf(code, sizeof code, "%d", frame->code);
    int n = snprintf(
        out, size,
        "{\"state\":\"%s\",\"exit_code\":%s,%s\"started\":%.3f,\"updated\":%.3f,\"elapsed_s\":%.3f,"
        "\"request_counts\":{\"total\":%s,\"read\":%lld,\"completed\":%lld,\"failed\":%lld,"
        "\"answered_before\":%lld},\"running\":%d,\"waiting\":%lld,\"output_tokens\":%lld,"
        "\"output_throughput\":%.3f,\"output_throughput_last_minute\":%.3f,\"eta_s\":%s,"
        "\"kv_pages\":{\"used\":%d,\"peak\":%d,\"total\":%d},\"preemptions\":%lld}\n",
        frame->state, code, frame->names, frame->started_s, frame->updated_s, progress->elapsed_s,
        total, (long long)desk->n_read, (long long)n_done(&desk->results),
        (long long)n_failed(&desk->results), (long long)desk->results.n_kept, batch->n_running,
        (long long)(desk->n_ready + batch->n_waiting), (long long)batch->n_tokens,
        progress_mean_per_s(progress), progress->minute_per_s, eta, batch->n_pages_used,
        batch->n_pages_peak, batch->n_pages, (long long)batch->n_preemptions);
    return n > 0 && (size_t)n < size ? (size_t)n : 0;
}
