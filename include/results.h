/* results.h - what people get back: one OpenAI Batch line per request, and what a resume needs.
 *
 * Beside OUT lies OUT.job.json (written before the first answer: uuid, model fingerprint, options
 * that change tokens, inputs). The output is append-only while a job runs; a torn last line is
 * repaired on open; the leader holds a lock on it for its whole life.
 */
#ifndef LAMINA_RESULTS_H
#define LAMINA_RESULTS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "check.h"
#include "options.h"
#include "requests.h"

struct results;

struct result_counts {
    int64_t n_answered, n_failed; /* by this run */
    int64_t n_kept;               /* answered before, by an earlier run */
    int64_t n_changed;            /* answered before, but the request has changed since */
};

/* Open the output for options->output: refuses an existing one without --resume or --overwrite,
 * output that is also an input (by device and inode), a job file of other options (naming old and
 * new). Takes the lock, waiting up to 30 s. False with a fault; then nothing is held. */
bool results_open(struct results **results, const struct options *options,
                  const char model_fingerprint[33], struct fault *fault);

/* True when this request is answered already (a resume); counts it, and whether its body changed.
 * With --strict a changed body is a fault. Also true, with a refusal set, for a duplicate
 * custom_id. */
bool results_answered(struct results *results, struct request *request, struct fault *fault);

/* Append the answer of a finished request, or its refusal. Never blocks on fsync. A write error
 * (disk full) is a fault: the output is cut back to the last whole line. */
bool results_write(struct results *results, const struct request *request,
                   const struct request_rules *rules, struct fault *fault);

/* fsync what is written. */
bool results_sync(struct results *results, struct fault *fault);

struct result_counts results_counts(const struct results *results);

/* Sync, release the lock. */
void results_close(struct results *results);

#endif
