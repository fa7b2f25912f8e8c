/* dry_run.h - `lamina generate --dry-run`: would this job run, and what would it take? */
#ifndef LAMINA_DRY_RUN_H
#define LAMINA_DRY_RUN_H

#include "options.h"

/* Collective over MPI_COMM_WORLD, after MPI_Init. Checks options, the model's header, the chat
 * template, the output and every line of input that is not answered in it, and prints to stdout:
 * bad lines ("FILE:LINE: reason"; nothing else with --quiet), counts, lengths, and who would hold
 * what. The layout is the one asked for, whatever the number of processes; without one it is that
 * of the processes started. Loads no weights, writes no file. Returns the exit code, equal on all
 * ranks: 0, 1, 2, or 3 when lines are bad or were answered with an error. */
int dry_run(const struct options *options, uint64_t options_hash);

#endif
