/* generate.h - `lamina generate`: answer a file of prompts. */
#ifndef LAMINA_GENERATE_H
#define LAMINA_GENERATE_H

#include "options.h"

/* Collective over MPI_COMM_WORLD, after MPI_Init. Returns the exit code, equal on all ranks. */
int generate_run(int argc, char **argv, const struct options *options);

#endif
