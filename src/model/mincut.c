/* mincut.c - maximum flow by shortest augmenting paths (Edmonds and Karp). See mincut.h.
 *
 * Arcs come in pairs, an arc at an even index and its reverse right behind it, so that arc ^ 1 is
 * the other of the two. After the flow is maximal, the vertices that can still reach the sink are
 * the smallest sink side of any minimum cut; all others are the largest source side.
 *
 * Rejected: blocking flows or push-relabel. A gap's network has a handful of augmenting paths
 * (about one for each value kept), so the plainest method is also fast.
 */
#include "mincut.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"

void mincut_open(struct mincut *mincut, int n_vertices) {
    *mincut = (struct mincut){.n_vertices = n_vertices};
    mincut->first = check_alloc(n_vertices, sizeof *mincut->first);
    for (int vertex = 0; vertex < n_vertices; vertex++) {
        mincut->first[vertex] = -1;
    }
}

void mincut_close(struct mincut *mincut) {
    free(mincut->first);
    free(mincut->arc);
    *mincut = (struct mincut){0};
}

static void add_half(struct mincut *mincut, int from, int to, uint64_t capacity) {
    if (mincut->n_arcs == mincut->arc_capacity) {
        int wider = mincut->arc_capacity ? 2 * mincut->arc_capacity : 64;
        struct mincut_arc *moved = check_alloc(wider, sizeof *moved);
        if (mincut->n_arcs > 0) memcpy(moved, mincut->arc, mincut->n_arcs * sizeof *moved);
        free(mincut->arc);
        mincut->arc = moved;
        mincut->arc_capacity = wider;
    }
    mincut->arc[mincut->n_arcs] =
        (struct mincut_arc){.to = to, .next = mincut->first[from], .residual = capacity};
    mincut->first[from] = mincut->n_arcs++;
}

void mincut_add(struct mincut *mincut, int from, int to, uint64_t capacity) {
    REQUIRE(capacity <= MINCUT_INFINITE, "an arc wider than infinite");
    add_half(mincut, from, to, capacity);
    add_half(mincut, to, from, 0);
}

/* arc_to[vertex] = the arc a shortest path enters the vertex by, -1 where none does. False when
 * the sink is not reached. */
static bool find_path(const struct mincut *mincut, int source, int sink, int *arc_to, int *queue) {
    for (int vertex = 0; vertex < mincut->n_vertices; vertex++) {
        arc_to[vertex] = -1;
    }
    int n_queued = 0;
    queue[n_queued++] = source;
    for (int taken = 0; taken < n_queued; taken++) {
        for (int arc = mincut->first[queue[taken]]; arc >= 0; arc = mincut->arc[arc].next) {
            int to = mincut->arc[arc].to;
            if (mincut->arc[arc].residual == 0 || to == source || arc_to[to] >= 0) continue;
            arc_to[to] = arc;
            if (to == sink) return true;
            queue[n_queued++] = to;
        }
    }
    return false;
}

/* Send as much as the path allows. */
static uint64_t augment(struct mincut *mincut, int source, int sink, const int *arc_to) {
    uint64_t narrowest = MINCUT_INFINITE;
    for (int vertex = sink; vertex != source; vertex = mincut->arc[arc_to[vertex] ^ 1].to) {
        uint64_t residual = mincut->arc[arc_to[vertex]].residual;
        if (residual < narrowest) narrowest = residual;
    }
    for (int vertex = sink; vertex != source; vertex = mincut->arc[arc_to[vertex] ^ 1].to) {
        mincut->arc[arc_to[vertex]].residual -= narrowest;
        mincut->arc[arc_to[vertex] ^ 1].residual += narrowest;
    }
    return narrowest;
}

/* source_side = what cannot reach the sink any more, walking arcs backwards from it. */
static void find_source_side(const struct mincut *mincut, int sink, bool *source_side, int *queue) {
    for (int vertex = 0; vertex < mincut->n_vertices; vertex++) {
        source_side[vertex] = true;
    }
    int n_queued = 0;
    source_side[sink] = false;
    queue[n_queued++] = sink;
    for (int taken = 0; taken < n_queued; taken++) {
        for (int arc = mincut->first[queue[taken]]; arc >= 0; arc = mincut->arc[arc].next) {
            int from = mincut->arc[arc].to;
            if (mincut->arc[arc ^ 1].residual == 0 || !source_side[from]) continue;
            source_side[from] = false;
            queue[n_queued++] = from;
        }
    }
}

uint64_t mincut_solve(struct mincut *mincut, int source, int sink, bool *source_side) {
    int *arc_to = check_alloc(mincut->n_vertices, sizeof *arc_to);
    int *queue = check_alloc(mincut->n_vertices, sizeof *queue);
    uint64_t flow = 0;
    while (find_path(mincut, source, sink, arc_to, queue)) {
        flow += augment(mincut, source, sink, arc_to);
        REQUIRE(flow < MINCUT_INFINITE, "no finite cut between %d and %d", source, sink);
    }
    find_source_side(mincut, sink, source_side, queue);
    free(queue);
    free(arc_to);
    return flow;
}
