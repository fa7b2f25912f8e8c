/* desk.h - the leader's helper thread: all file and text work, so that decode never waits for it.
 *
 * The thread reads and tokenises requests ahead of decode into a bounded queue of generations,
 * follows the tokens of running ones (detokenising, stop strings), and writes finished requests and
 * the status file. It makes no MPI calls. Decode's side of every call here is a few atomics and
 * never waits, but for desk_open, desk_wait and desk_close. All of them are called by one thread.
 *
 * What decode promises: it stores `finish` of a generation (release) as the last thing it ever does
 * with it, its token and score buffers included; the desk may free them at once.
 *
 * Memory is bounded whatever the input holds: at most the generations asked for ahead and those
 * handed out have buffers, of which at most 256 MiB wait in the queue (but always one); answers
 * that wait for the others of their request keep only the tokens made. With --output-order input
 * finished requests wait for earlier ones; no new generation is handed out while there are twice as
 * many of those as generations were ever handed out and unfinished at once, or twice `ahead`. What
 * grows with the input is one entry of 24 bytes a request (answered.h).
 */
#ifndef LAMINA_DESK_H
#define LAMINA_DESK_H

#include <stdbool.h>
#include <stdint.h>

#include "check.h"
#include "checkpoint_progress.h"
#include "generation.h"
#include "requests.h"
#include "results.h"
#include "status_file.h"

struct desk;

struct desk_counts {
    struct result_counts results;
    int64_t n_read;    /* requests read so far */
    bool all_read;     /* the input has ended, so n_read is the total */
    int64_t n_ready;   /* generations waiting in the queue */
    int64_t n_running; /* requests handed out and not yet written */
};

/* Open the inputs of rules->options and start the thread, with all signals but SIGBUS blocked in
 * it. `rules` and `results` are borrowed until desk_close. `ahead` (1 and up): generations kept
 * ready beyond those running; enough is what decode can admit in the time of one slow fsync (200
 * ms: at least 256, and four times the sequences in flight). `progress`: what a checkpoint kept of
 * requests in flight, or NULL; borrowed until desk_close. False with a fault when an input
 * cannot be read. */
bool desk_open(struct desk **desk, const struct request_rules *rules, struct results *results,
               const struct checkpoint_progress *progress, int ahead, struct fault *fault);

/* What is in flight, for a checkpoint. Generations are borrowed, all else is owned. */
struct desk_kept {
    int n_choices;
    struct checkpoint_choice *choice;     /* (n_choices) rows and owners are not filled in */
    const struct generation **generation; /* (n_choices) */
    int64_t n_read, output_bytes;         /* lines read; bytes of answers, synced */
    _Atomic bool done;
};

/* List every choice that is begun and whose request is not written, and sync what is. Decode must
 * be between two walks. Ends the job when the thread takes more than `seconds`. False when the desk
 * has failed. Either way to be released with desk_kept_close. */
bool desk_keep(struct desk *desk, struct desk_kept *kept, double seconds);
void desk_kept_close(struct desk_kept *kept);

/* Wait until the choices of a checkpoint are in the queue, *n_queued, as many as fit, before all
 * requests that are not in it; other choices of the same requests may stand between them. *n_found
 * were among the inputs, those that had their last token too. False when `seconds` are over. */
bool desk_restored(struct desk *desk, int *n_found, int *n_queued, double seconds);

/* The desk as the leader's supply, until desk_close: the four calls below, and n_ready of the
 * counts. */
struct supply desk_supply(struct desk *desk);

/* The next generation to decode, or NULL when none is ready now. In input order, or with --order
 * longest the longest (prompt and most answer) of sixteen times `ahead`. */
struct generation *desk_next(struct desk *desk);

/* True when desk_next will never give another generation. */
bool desk_exhausted(struct desk *desk);

/* Tokens were appended to some generations, or some finished: let the thread look. Once a step. */
void desk_poke(struct desk *desk);

/* A text was given to `status`, which is borrowed until desk_close: let the thread write it. What
 * it has not come to by desk_close it leaves. */
void desk_renew(struct desk *desk, struct status_file *status);

/* Nothing to decode: wait until desk_next may have something, desk_exhausted, desk_failed, or
 * `seconds` are over. */
void desk_wait(struct desk *desk, double seconds);

/* Stop early: no more is read or handed out; requests whose generations are unfinished are not
 * written, and with --output-order input neither are those that wait for such. */
void desk_stop(struct desk *desk);

/* A failure of the world on the thread (disk full, read error), or a user's fault found late. */
bool desk_failed(struct desk *desk, struct fault *fault);

struct desk_counts desk_counts(struct desk *desk);

/* Write what is finished, sync, end the thread and release everything. False with a fault when
 * something could not be read or written. Decode must have ended: every generation handed out has
 * its finish set, or is touched no more. */
bool desk_close(struct desk *desk, struct desk_counts *counts, struct fault *fault);

#endif
