/* program.h - a graph cut at its attention operators: what the converter makes and decode walks.
 *
 * A program is a list of slices, one more than there are gaps; a gap is one or more attention nodes
 * not ordered by ancestry. Slice k runs on a model rank between the attention of gap k-1 and that
 * of gap k. Device-independent; printable (`lamina slices`).
 *
 * The cut (paper section 4.2; docs/design.md section 3): for each gap the set S of nodes done
 * before it holds all ancestors of the gap's attention nodes, none of their descendants, is closed
 * under inputs, and has the least bytes per row of values made in S and read outside it, readers
 * inside the gap's attention not counted. Among minimum cuts the largest S is taken, so that free
 * work falls before the gap, where it overlaps the attention. The sets nest.
 */
#ifndef LAMINA_PROGRAM_H
#define LAMINA_PROGRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "graph.h"

enum step_kind {
    STEP_COMPUTE,    /* run the node's operator */
    STEP_GATHER_OUT, /* the attention node's value arrives from the attention ranks */
    STEP_SCATTER_Q,  /* the attention node's q leaves */
    STEP_PACK,       /* its k and v are rounded to the KV type */
    STEP_SCATTER_KV, /* and leave */
    STEP_APPEND,     /* colocated: its k and v, rounded likewise, go into the cache */
    STEP_ATTEND,     /* and the attention node runs here */
};
const char *step_name(enum step_kind kind);

/* Steps that stand one behind the other and that devices have one operator for (device.h). */
enum fusion {
    FUSION_NONE,
    FUSION_ADD_NORM,      /* add; norm of the sum */
    FUSION_MATMUL_SWIGLU, /* matmul of gate and up joined; columns; columns; swiglu of them */
    FUSION_ROPE_PACK,     /* rope of k; pack */
    FUSION_ROPE_APPEND,   /* rope of q; rope of k; append */
};
/* How many steps that is; 1 of FUSION_NONE. */
int fusion_steps(enum fusion fusion);

struct step {
    enum step_kind kind;
    int node;           /* the operator, or the attention node the step belongs to */
    enum fusion fusion; /* of the steps from here on */
};

struct slice {
    int n_steps;
    struct step *step;
    int n_attention;   /* of the gap behind this slice; 0 behind the last */
    int *attention;    /* its attention nodes, in the order their messages go: Q, KV of each */
    int n_kept;        /* values kept across the gap behind this slice */
    int *kept;         /* node indices, rising */
    size_t kept_bytes; /* a row; what the minimum cut minimised */
};

/* Where a node's value lives in a slot's arena. Offsets and sizes are in bytes per row, multiples
 * of 64; multiply by the arena's rows. A view (OP_COLUMNS) lies inside its input. What the header
 * gives (ids, positions) has no place: offset 0, not to be used.
 *
 * A place is reused once its value is read for the last time. q, k and v stay until their OUT is
 * gathered; OUT's place is its own from SCATTER_Q on, so a receive may stand open there; a sample
 * stays through the next step. No operator's output overlaps its inputs, nor does any output of
 * fused steps overlap an input of any of them. */
struct place {
    size_t offset;    /* of the allocation's first byte, per row */
    int first_column; /* of a view within the allocation's row */
    int stride;       /* columns of the allocation's row */
    bool picked;      /* in the arena of picked rows */
};

struct program {
    const struct graph *graph; /* borrowed */
    bool colocated;            /* attention left in as a step: one slice */
    int n_slices;
    struct slice *slice;
    struct place *place;     /* (n_nodes) */
    size_t row_bytes;        /* of the arena of rows in flight */
    size_t picked_row_bytes; /* of the arena of picked rows */
};

/* Cut `graph` into slices, or with `colocated` leave it whole with attention as a step. The graph
 * is borrowed until program_close. */
void program_open(struct program *program, const struct graph *graph, bool colocated);
void program_close(struct program *program);

/* For people: every slice, its steps, what is kept across each gap, bytes of every message.
 * `kv_bytes` is the size of one cached element. program_print_dot writes the same as a Graphviz
 * digraph. */
void program_print(const struct program *program, int kv_bytes, FILE *out);
void program_print_dot(const struct program *program, int kv_bytes, FILE *out);

#endif
