/* results.h - what people get back: one OpenAI Batch line per request, and what a resume needs.
 *
 * The output is append-only while a job runs; beside it lies OUT.job.json (job_file.h), whose lock
 * the leader holds for its whole life. An output that is not a file (stdout, a pipe, a device) is a
 * stream: no job file, no lock, no resume. Failed requests go to --errors FILE, which is kept in
 * the same way, or among the answers.
 */
#ifndef LAMINA_RESULTS_H
#define LAMINA_RESULTS_H

#include <stdbool.h>
#include <stdint.h>

#include "check.h"
#include "options.h"
#include "requests.h"

struct results;

struct result_counts {
    int64_t n_answered, n_failed; /* written by this run: answers, refusals */
    int64_t n_kept;               /* answered before, by an earlier run */
    int64_t n_kept_failed;        /* of these, with an error: the job as a whole has failures */
    int64_t n_changed;            /* of n_kept, those whose request has changed since */
};

/* Open the output for options->output and options->errors. Refuses (user's fault): an existing one
 * without --resume or --overwrite, one that is also an input or the model (by device and inode), a
 * place that cannot be written, inputs that cannot be read; with --resume also a stream as output,
 * an input that is no regular file and so cannot be read again, and answers of a job that differs
 * in model, inputs' names, or options that change tokens (naming old and new). Takes the lock,
 * waiting up to 30 s. With --resume: repairs torn last lines, learns what is answered, and with
 * --retry-failed takes the failed lines out. No or empty output starts fresh. False holds nothing.
 */
bool results_open(struct results **results, const struct options *options,
                  const char model_fingerprint[33], struct fault *fault);

/* The same as a question: nothing is touched and no lock waited for, but what this lets pass
 * results_open does too, as long as nobody changes anything. Without options->output nothing is
 * answered. Only results_answered, results_counts and results_close may follow. */
bool results_look(struct results **results, const struct options *options,
                  const char model_fingerprint[33], struct fault *fault);

/* Read the inputs (not the model) to learn whether nothing is left to do. Stops at the first
 * request that is not answered; only after a resume can the result be true. Faults as
 * results_answered has, or for an input that cannot be read. The counts are as if all had been
 * read when it is true, and untouched else. */
bool results_all_answered(struct results *results, bool *all, struct fault *fault);

/* True when this request, as request_read left it, is answered already; it is counted. False when
 * it is to be run or, being refused, written. A custom_id that this run has seen before is refused
 * and taken away, so that the line has an id of its own and each custom_id appears once. With
 * --strict a request that changed since it was answered is a user's fault. */
bool results_answered(struct results *results, struct request *request, struct fault *fault);

/* Append the answer of a finished request, or its refusal. Never waits for a sync. A failed write
 * (disk full, closed pipe) is the world's fault; the file is cut back to the last whole line. */
bool results_write(struct results *results, const struct request *request,
                   const struct request_rules *rules, struct fault *fault);

/* fsync what is written. */
bool results_sync(struct results *results, struct fault *fault);

/* Of the job that the output belongs to; NULL of a stream. A view until results_close. */
const char *results_uuid(const struct results *results);

/* Whether this is a resume of a job that was begun before, and not its beginning. */
bool results_goes_on(const struct results *results);

/* Bytes of whole lines in the output; 0 of a stream. */
int64_t results_output_bytes(const struct results *results);

struct result_counts results_counts(const struct results *results);

/* Close the files and release the lock. Sync first: nothing can be reported here. */
void results_close(struct results *results);

#endif
