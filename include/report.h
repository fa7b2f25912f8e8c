/* report.h - what a run says on stderr: who started where, progress, and the summary at the end. */
#ifndef LAMINA_REPORT_H
#define LAMINA_REPORT_H

#include "batch.h"
#include "decode.h"
#include "desk.h"
#include "options.h"
#include "resources.h"
#include "topology.h"

struct report;

/* Collective: the leader prints each rank's host, role, device, cores, threads, memory and KV
 * tokens, then every derived choice. `device` describes this rank's. */
void report_start(const struct topology *topology, const struct resources *resources,
                  const struct batch_limits *limits, const struct service *service,
                  const struct options *options, const char *device);

/* The leader's progress lines and --status file. `desk` is borrowed until report_end. */
void report_open(struct report **report, const struct options *options, struct desk *desk);
/* Once a step; prints when a line is due. Never allocates, never blocks on a file but --status. */
void report_tick(struct report *report, const struct batch_counts *counts);
/* The summary, and as the last line what to do next. Releases the report. */
void report_end(struct report *report, const struct batch_counts *counts,
                const struct desk_counts *desk, int code);
/* A resume that found nothing to do; returns the exit code. */
int report_all_answered(const struct options *options, struct result_counts counts);
/* Collective: time per role by span kind, bytes per message kind and layer. */
void report_roles(const struct topology *topology, const struct service *service);

#endif
