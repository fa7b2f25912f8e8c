/* report.h - what a run says on stderr: who started where and why so, progress, and at the end the
 * summary and what to do next.
 *
 * The order of a run's calls: report_check, report_start, report_open, report_begin, report_tick
 * once a step, report_summary, report_close. Only the leader has a struct report; report_start and
 * report_summary are collective.
 */
#ifndef LAMINA_REPORT_H
#define LAMINA_REPORT_H

#include "batch.h"
#include "budget.h"
#include "desk.h"
#include "options.h"
#include "resources.h"
#include "topology.h"

struct report;

/* What a rank runs with; all borrowed until report_close. */
struct report_run {
    const struct options *options;
    const struct topology *topology;
    const struct resources *resources;
    const struct batch_limits *limits;
    const struct service *service;
    const char *device;    /* this rank's, described */
    const char *device_id; /* device_ops->identify */
    const struct device_place *device_place;
    const char *wire; /* its name, NULL when colocated */
    struct budget budget;
    const char *model; /* what the file says it is; the leader's */
    double patience_s; /* longest wait for a rank that may be busy with files */
};

/* Before anything is made: can --status, --timeline and --trace be written where they are to be,
 * and are they files of their own? */
bool report_check(const struct options *options, struct fault *fault);

/* Collective: the leader prints one line a rank, then every derived choice with its reason. */
void report_start(const struct report_run *run);

/* The leader's progress lines and --status file, which is written at once: false with a fault when
 * it cannot be, or is a file this run reads or writes. Then too there is a report to be closed. */
bool report_open(struct report **report, const struct report_run *run, struct fault *fault);

/* The loop begins: time counts from here. `desk` is borrowed until report_summary. */
void report_begin(struct report *report, struct desk *desk);

/* Once a step; prints when a line is due, and has the desk write --status. Never allocates, never
 * waits for a file. */
void report_tick(struct report *report, const struct batch_counts *counts);

/* How the loop went on this rank. */
struct report_end {
    double loop_s;
    /* the leader's */
    const struct batch_counts *counts;
    const struct latencies *latencies;
    const struct desk_counts *desk; /* what desk_close gave */
};

/* Collective, after the loop: throughput, latencies, time by role, bytes by message. `report` is
 * NULL but on the leader. */
void report_summary(struct report *report, const struct report_run *run,
                    const struct report_end *end);

/* Write the last --status, say what to do next when there was a summary, and release the report. It
 * must be the last thing said. */
void report_close(struct report *report, int code);

/* Instead of all that from report_open on: a resume that found nothing to do. Returns the exit
 * code.
 */
int report_all_answered(const struct report_run *run, struct result_counts counts);

#endif
