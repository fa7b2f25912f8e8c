/* slices.h - `lamina slices`: what the converter makes of a model.
 *
 * Reads the model file's header or a shape, no weights and no MPI; one process.
 */
#ifndef LAMINA_SLICES_H
#define LAMINA_SLICES_H

#include "options.h"

/* Print the slices of options->model to stdout, as text or with options->dot as a Graphviz digraph.
 * Returns the exit code; what is wrong with the file has been said on stderr. */
int slices_run(const struct options *options);

#endif
