/* desk.h - the leader's helper thread: all file and text work, so that decode never waits for it.
 *
 * The thread reads and tokenises requests ahead of decode into a bounded queue of generations,
 * follows the tokens of running ones (detokenising, stop strings), and writes finished requests. It
 * makes no MPI calls. Decode's side of every call here is a few atomics and never waits, but for
 * desk_wait.
 */
#ifndef LAMINA_DESK_H
#define LAMINA_DESK_H

#include <stdbool.h>
#include <stdint.h>

#include "check.h"
#include "generation.h"
#include "requests.h"
#include "results.h"

struct desk;

struct desk_counts {
    struct result_counts results;
    int64_t n_read;    /* requests read so far */
    bool all_read;     /* the input has ended, so n_read is the total */
    int64_t n_ready;   /* generations waiting in the queue */
    int64_t n_running; /* requests handed out and not yet written */
};

/* Start the thread. `rules` and `results` are borrowed until desk_close. `ahead`: generations kept
 * ready beyond those running. */
bool desk_open(struct desk **desk, const struct request_rules *rules, struct results *results,
               int ahead, struct fault *fault);

/* The next generation to decode, or NULL when none is ready now. */
struct generation *desk_next(struct desk *desk);

/* True when desk_next will never give another generation. */
bool desk_exhausted(struct desk *desk);

/* Tokens were appended to some generations, or some finished: let the thread look. Once a step. */
void desk_poke(struct desk *desk);

/* Nothing to decode: wait until desk_next may have something, desk_exhausted, or `seconds` are
 * over. */
void desk_wait(struct desk *desk, double seconds);

/* Stop early: no more is read; requests whose generations are unfinished are not written. */
void desk_stop(struct desk *desk);

/* A failure of the world on the thread (disk full, read error), or a user's fault found late. */
bool desk_failed(struct desk *desk, struct fault *fault);

struct desk_counts desk_counts(struct desk *desk);

/* Write what is finished, sync, end the thread. False with a fault when something could not be
 * written. Decode must have ended. */
bool desk_close(struct desk *desk, struct desk_counts *counts, struct fault *fault);

#endif
