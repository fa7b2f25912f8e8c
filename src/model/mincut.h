/* mincut.h - the minimum cut of a small directed network.
 *
 * Private to src/model. Vertices are 0 .. n_vertices - 1. Arcs are added once, then the network is
 * solved once.
 */
#ifndef LAMINA_MINCUT_H
#define LAMINA_MINCUT_H

#include <stdbool.h>
#include <stdint.h>

/* Capacity of an arc that no finite cut crosses. */
#define MINCUT_INFINITE (UINT64_C(1) << 60)

struct mincut_arc {
    int to;
    int next;          /* of the arcs leaving the same vertex, or -1 */
    uint64_t residual; /* what can still flow; arc ^ 1 is its reverse */
};

struct mincut {
    int n_vertices;
    int n_arcs, arc_capacity;
    int *first; /* (n_vertices) first arc leaving the vertex, or -1 */
    struct mincut_arc *arc;
};

void mincut_open(struct mincut *mincut, int n_vertices);
void mincut_close(struct mincut *mincut);

void mincut_add(struct mincut *mincut, int from, int to, uint64_t capacity);

/* Capacity of the minimum cut between `source` and `sink`; source_side[vertex] says which vertices
 * lie on the source's side of the minimum cut whose source side is largest. A network without a
 * finite cut is ours (REQUIRE). */
uint64_t mincut_solve(struct mincut *mincut, int source, int sink, bool *source_side);

#endif
