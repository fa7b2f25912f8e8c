/* time_limit.h - when a job has to stop so that it ends before its allocation does.
 *
 * `--time-limit D` counts from the start of the program; `auto` asks Slurm, once:
 * SLURM_JOB_END_TIME where the site sets it, else `squeue -h -j ID -o %L`. The stop comes a lead
 * before the end:
 * --time-limit-lead, for the answers and for the launcher to end, and twice what the last
 * checkpoint took, since a stop may write one more. All of it is the leader's; other ranks learn of
 * a stop from the headers. Times are clock_now_ns.
 */
#ifndef LAMINA_TIME_LIMIT_H
#define LAMINA_TIME_LIMIT_H

#include <stdbool.h>
#include <stdint.h>

#include "check.h"
#include "options.h"

struct time_limit {
    int64_t end_ns;   /* of the allocation; 0: none is known */
    double lead_s;    /* --time-limit-lead */
    const char *from; /* who said when the end is: "--time-limit", ...; static */
    bool said;        /* that it is due */
};

/* Find the end, and say when the job will stop and how that is known. `begin_ns` is the program's
 * start. False with a fault (the user's): auto outside of Slurm. A Slurm that does not answer
 * within SQUEUE_WAIT_S seconds, or not with a time, gets a warning, and the job has no limit of its
 * own. Leader. */
enum { SQUEUE_WAIT_S = 20 };
bool time_limit_open(struct time_limit *limit, const struct options *options,
                     const struct environment *environment, int64_t begin_ns, struct fault *fault);

/* Whether the job has to stop now, where the last checkpoint took so long (0: none yet); said once.
 * Leader, once a step: looks at the clock only. */
bool time_limit_due(struct time_limit *limit, double checkpoint_s);

/* What `squeue -o %L` prints on a line, as seconds: [[D-]HH:]MM:SS, UNLIMITED or NOT_SET (both give
 * a negative number), INVALID (past its end: 0). False for anything else, *seconds
 * untouched. */
bool time_limit_parse_left(const char *text, double *seconds);

#endif
