/* convert.h - the parts a program is made of. Private to src/model.
 *
 * program_open calls these in the order they stand here.
 */
#ifndef LAMINA_CONVERT_H
#define LAMINA_CONVERT_H

#include <stddef.h>

#include "graph.h"
#include "program.h"

/* Which gap an attention node stands in, and which slice a value is made in. */
struct cut {
    int n_gaps;
    int *gap;           /* (n_nodes) of an attention node, else -1 */
    int *slice;         /* (n_nodes) an attention node's value is made where it is gathered, in the
                           slice behind its gap; what the header gives has no step and slice 0 */
    size_t *kept_bytes; /* (n_gaps) a row; the minimum cut */
};

/* Cut `graph` at its attention nodes. */
void convert_cut(struct cut *cut, const struct graph *graph);
void convert_close(struct cut *cut);

/* Fill program->slice: the steps of every slice in order, what is kept across every gap. */
void convert_order(struct program *program, const struct cut *cut);

/* The same for a colocated program: one slice in graph order, attention a step. */
void convert_whole(struct program *program);

/* Mark the steps that one operator of a device does at once. */
void fuse_steps(struct program *program);

/* Fill program->place and the arenas' sizes from the order of steps. */
void places_assign(struct program *program);

#endif
