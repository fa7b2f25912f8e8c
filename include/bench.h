/* bench.h - `lamina bench step`, `bench attention` and `bench wire`: how fast, against what the
 * same memory gives in the same run.
 *
 * Each runs on all ranks and returns the exit code, the same on every rank. Results go to standard
 * output or -o, in the format asked for; all else to stderr. What they know of devices and wires is
 * device.h and wire.h: the same code measures a CPU and a GPU.
 */
#ifndef LAMINA_BENCH_H
#define LAMINA_BENCH_H

#include "options.h"

/* Full-batch steps of the loop that generate uses, at every --batch and --length. */
int bench_step_run(const struct options *options, uint64_t options_hash);
/* The operator attend alone, on one rank. */
int bench_attention_run(const struct options *options, uint64_t options_hash);
/* Messages to and fro between the leader and the other ranks, by every wire that is built. Exit
 * code 1 when a byte came back wrong. */
int bench_wire_run(const struct options *options, uint64_t options_hash);

#endif
