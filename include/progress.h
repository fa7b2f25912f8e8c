/* progress.h - where a run stands, as a line for people and as JSON for programs, and the rates and
 * estimates in it. Pure: the moment is always given. Nothing here allocates.
 */
#ifndef LAMINA_PROGRESS_H
#define LAMINA_PROGRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "batch.h"
#include "desk.h"

/* Tokens per second over the last minute: one sample a second, the oldest forgotten.
 * Zero-initialise.
 */
enum { RATE_SAMPLES = 61 };
struct rate {
    int n; /* samples ever taken */
    struct rate_sample {
        int64_t at_ns, count;
    } sample[RATE_SAMPLES]; /* a ring */
};

/* `count` has been reached at `now_ns`; times and counts never fall. */
void rate_add(struct rate *rate, int64_t now_ns, int64_t count);

/* Per second since the oldest sample of the last 60 s; 0 before anything is known. */
double rate_per_s(const struct rate *rate, int64_t now_ns, int64_t count);

/* One moment of a run. */
struct progress {
    double elapsed_s;
    struct desk_counts desk;
    struct batch_counts batch;
    double minute_per_s; /* output tokens */
};

/* Output tokens per second from the start. */
double progress_mean_per_s(const struct progress *progress);

/* Seconds until the last token, if answers to come are as long as those so far and tokens come as
 * fast as in the last minute; negative when it is unknown: no sequence has come to its end, or the
 * input is still being read. */
double progress_eta_s(const struct progress *progress);

/* The line: "02:03 | 12 done, 1 failed of 500 | ...". Cut to fit. Returns out. */
char *progress_line(char *out, size_t size, const struct progress *progress);

/* What a status file says besides. `names` are members with their commas, ready to be put in. */
struct progress_frame {
    const char *state;           /* "running", "done", "stopped" */
    int code;                    /* exit code, -1 while running */
    double started_s, updated_s; /* since the epoch */
    const char *names;           /* "\"model\":...,\"output\":...," */
};

/* The same as one JSON object and a newline. Returns its length, or 0 when it does not fit. */
size_t progress_json(char *out, size_t size, const struct progress *progress,
                     const struct progress_frame *frame);

/* "00:07", "02:03", "1:02:03", "2-03:04:05": Slurm's spelling; "?" when negative or not finite. */
enum { PROGRESS_TEXT_BYTES = 32 };
const char *progress_duration(char out[PROGRESS_TEXT_BYTES], double seconds);

/* "131 B", "94.3 MiB". */
const char *progress_size(char out[PROGRESS_TEXT_BYTES], int64_t n_bytes);

#endif
