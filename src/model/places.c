/* places.c - where each value lives in a slot's arenas.
 *
 * Owns lifetimes and offsets. Over the order of all slices, an allocation lives from the step that
 * makes its value to the last step that reads it or a view of it, both included, so that a value
 * never lies on one it is made from. Fused steps count as one. What crosses to the attention ranks
 * lives longer: q, k and v until OUT is gathered, since the reply is what says they arrived; OUT's
 * place from the moment its Q leaves, since the reply may arrive while the slice before still
 * computes. A sample lives always: it is the next step's input and may still be on its way to the
 * leader. In each arena, first fit in order of birth among what is alive then.
 *
 * Invariant: sizes are multiples of 64 bytes a row, so an offset times any number of rows is
 * aligned for vectors. Rejected: computing in place. It is right for row-wise operators, but saves
 * one residual stream of memory and makes every kernel promise to allow it.
 */
#include <stdlib.h>

#include "check.h"
#include "convert.h"

enum { ALIGNMENT = 64 }; /* bytes: a cache line, a 512-bit vector */

struct life {
    int node;
    int born, dies; /* steps, counted over all slices; dies < born: never lived */
    size_t row_bytes;
};

/* The value of `node` is there at `now`. */
static void extend(struct life *life, const struct graph *graph, int node, int now) {
    struct life *root = &life[graph_root(graph, node)];
    if (root->dies < root->born) root->born = root->dies = now;
    if (now < root->born) root->born = now;
    if (now > root->dies) root->dies = now;
}

static void extend_inputs(struct life *life, const struct graph *graph, int node, int now) {
    for (int input = 0; input < graph->node[node].n_inputs; input++) {
        extend(life, graph, graph->node[node].input[input], now);
    }
}

static void live_through(struct life *life, const struct graph *graph, struct step step, int now) {
    switch (step.kind) {
    case STEP_COMPUTE:
    case STEP_ATTEND:
    case STEP_GATHER_OUT: /* until here q, k and v may still be read by the wire */
        extend(life, graph, step.node, now);
        extend_inputs(life, graph, step.node, now);
        break;
    case STEP_SCATTER_Q: /* from here on the reply may be written */
        extend(life, graph, step.node, now);
        extend(life, graph, graph->node[step.node].input[0], now);
        break;
    case STEP_PACK:
    case STEP_SCATTER_KV:
    case STEP_APPEND:
        extend(life, graph, graph->node[step.node].input[1], now);
        extend(life, graph, graph->node[step.node].input[2], now);
        break;
    }
}

/* Fused steps are one: all that they read and make is there from the first to the last. */
static void live_through_run(struct life *life, const struct graph *graph, const struct step *run,
                             int first) {
    int n = fusion_steps(run->fusion);
    for (int at = 0; at < n; at++) {
        live_through(life, graph, run[at], first);
        live_through(life, graph, run[at], first + n - 1);
    }
}

static struct life *find_lives(const struct program *program) {
    const struct graph *graph = program->graph;
    struct life *life = check_alloc(graph->n_nodes, sizeof *life);
    for (int node = 0; node < graph->n_nodes; node++) {
        size_t bytes = graph_row_bytes(graph, node);
        life[node] = (struct life){.node = node, .born = 0, .dies = -1};
        life[node].row_bytes = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    }
    int now = 0;
    for (int slice = 0; slice < program->n_slices; slice++) {
        const struct slice *whole = &program->slice[slice];
        for (int at = 0; at < whole->n_steps;) {
            const struct step *run = &whole->step[at];
            live_through_run(life, graph, run, now + at);
            at += fusion_steps(run->fusion);
        }
        now += whole->n_steps;
    }
    for (int node = 0; node < graph->n_nodes; node++) {
        if (graph->node[node].op != OP_SAMPLE) continue;
        life[node].born = 0;
        life[node].dies = now;
    }
    return life;
}

static int compare_births(const void *a, const void *b) {
    const struct life *left = a, *right = b;
    if (left->born != right->born) return left->born < right->born ? -1 : 1;
    return left->node < right->node ? -1 : left->node > right->node;
}

/* What lies in an arena at one time, by rising offset. */
struct tenant {
    size_t offset, end;
    int dies;
};

/* Give `life` the lowest free offset; those dead before it make room. */
static size_t first_fit(struct tenant *tenant, int *n_tenants, const struct life *life) {
    int n_alive = 0;
    for (int old = 0; old < *n_tenants; old++) {
        if (tenant[old].dies >= life->born) tenant[n_alive++] = tenant[old];
    }
    size_t offset = 0;
    int before = 0;
    while (before < n_alive && tenant[before].offset - offset < life->row_bytes) {
        offset = tenant[before++].end;
    }
    for (int moved = n_alive; moved > before; moved--) {
        tenant[moved] = tenant[moved - 1];
    }
    tenant[before] = (struct tenant){offset, offset + life->row_bytes, life->dies};
    *n_tenants = n_alive + 1;
    return offset;
}

/* Place every allocation of one arena; returns the arena's bytes a row. */
static size_t fill_arena(struct program *program, const struct life *by_birth, bool picked) {
    const struct graph *graph = program->graph;
    struct tenant *tenant = check_alloc(graph->n_nodes, sizeof *tenant);
    int n_tenants = 0;
    size_t row_bytes = 0;
    for (int index = 0; index < graph->n_nodes; index++) {
        const struct life *life = &by_birth[index];
        struct place *place = &program->place[life->node];
        if (life->row_bytes == 0 || life->dies < life->born || place->picked != picked) continue;
        place->offset = first_fit(tenant, &n_tenants, life);
        if (place->offset + life->row_bytes > row_bytes) {
            row_bytes = place->offset + life->row_bytes;
        }
    }
    free(tenant);
    return row_bytes;
}

/* A view lies in its input's allocation, which has a place by now. */
static void place_view(struct program *program, int node) {
    const struct node *view = &program->graph->node[node];
    const struct place *whole = &program->place[view->input[0]];
    program->place[node] = *whole;
    program->place[node].first_column = whole->first_column + view->as.columns_of.first;
}

void places_assign(struct program *program) {
    const struct graph *graph = program->graph;
    program->place = check_alloc(graph->n_nodes, sizeof *program->place);
    struct life *life = find_lives(program);
    for (int node = 0; node < graph->n_nodes; node++) {
        program->place[node].picked = graph_is_picked(graph, node);
        program->place[node].stride = graph->node[node].columns;
    }
    qsort(life, graph->n_nodes, sizeof *life, compare_births);
    program->row_bytes = fill_arena(program, life, false);
    program->picked_row_bytes = fill_arena(program, life, true);
    for (int node = 0; node < graph->n_nodes; node++) {
        if (graph->node[node].op == OP_COLUMNS) place_view(program, node);
    }
    free(life);
}
