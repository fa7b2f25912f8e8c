/* inspect.h - the command `lamina inspect`: what a file holds, for people.
 *
 * One process, no MPI. Text from the file is escaped before it is printed.
 */
#ifndef LAMINA_INSPECT_H
#define LAMINA_INSPECT_H

#include "options.h"

/* Print options->model to stdout. A GGUF file: the file, its keys (long texts and arrays cut), its
 * tensors, totals per storage type; or what stands for those in a shape. A folder or file of
 * checkpoints: checkpoint_inspect.h. Returns the exit code: EXIT_DONE, or after one line on stderr
 * EXIT_USER for a model that cannot be opened or is damaged, EXIT_WORLD for a checkpoint that is,
 * and when stdout cannot be written. */
int inspect_run(const struct options *options);

#endif
