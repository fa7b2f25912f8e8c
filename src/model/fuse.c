/* fuse.c - steps that stand one behind the other and that one operator of a device does at once.
 *
 * Owns what such a run looks like in a graph. What its operator gives is what the single ones
 * would (device.h); only values that nobody else reads may be left out on the way. All devices have all of
 * them, so a program is the same for each. Runs are marked before places are given, for what a run
 * reads must lie on nothing that it makes.
 *
 * Rejected: operators of their own in the graph. Families would have to know what devices are good
 * at, and which nodes are neighbours is known once the graph is cut.
 */
#include "check.h"
#include "convert.h"

static bool is_compute(const struct graph *graph, struct step step, enum op op) {
    return step.kind == STEP_COMPUTE && graph->node[step.node].op == op;
}

static int count_readers(const struct graph *graph, int value) {
    int n = 0;
    for (int node = value + 1; node < graph->n_nodes; node++) {
        for (int input = 0; input < graph->node[node].n_inputs; input++)
            n += graph->node[node].input[input] == value;
    }
    return n;
}

static bool is_add_norm(const struct graph *graph, const struct step *step) {
    return is_compute(graph, step[0], OP_ADD) && is_compute(graph, step[1], OP_NORM) &&
           graph->node[step[1].node].input[0] == step[0].node;
}

/* Gate and up are the halves of a product without bias, and nobody else reads them. */
static bool is_matmul_swiglu(const struct graph *graph, const struct step *step) {
    if (!is_compute(graph, step[0], OP_MATMUL) || !is_compute(graph, step[1], OP_COLUMNS) ||
        !is_compute(graph, step[2], OP_COLUMNS) || !is_compute(graph, step[3], OP_SWIGLU))
        return false;
    int both = step[0].node, half = graph->node[both].columns / 2;
    for (int at = 0; at < 2; at++) {
        const struct node *part = &graph->node[step[1 + at].node];
        if (part->input[0] != both || part->as.columns_of.first != at * half ||
            part->columns != half || graph->node[step[3].node].input[at] != step[1 + at].node ||
            count_readers(graph, step[1 + at].node) != 1)
            return false;
    }
    return graph->node[both].bias < 0 && graph->node[both].columns == 2 * half &&
           count_readers(graph, both) == 2;
}

/* Rope of the k of an attention node, which alone reads it. */
static bool is_rope_of_k(const struct graph *graph, struct step step, int attention) {
    const struct node *node = &graph->node[attention];
    return is_compute(graph, step, OP_ROPE) && node->input[1] == step.node &&
           graph->node[step.node].as.rope.head_dim == node->as.attention.head_dim &&
           count_readers(graph, step.node) == 1;
}

static bool is_rope_pack(const struct graph *graph, const struct step *step) {
    return step[1].kind == STEP_PACK && is_rope_of_k(graph, step[0], step[1].node);
}

static bool turn_alike(const struct rope *a, const struct rope *b) {
    return a->head_dim == b->head_dim && a->n_rotated == b->n_rotated &&
           a->interleaved == b->interleaved;
}

/* Neither k nor v may come of the turned q. */
static bool is_rope_append(const struct graph *graph, const struct step *step) {
    if (step[2].kind != STEP_APPEND || !is_compute(graph, step[0], OP_ROPE)) return false;
    const struct node *attention = &graph->node[step[2].node];
    const struct node *q = &graph->node[step[0].node], *k = &graph->node[step[1].node];
    return attention->input[0] == step[0].node && is_rope_of_k(graph, step[1], step[2].node) &&
           turn_alike(&q->as.rope, &k->as.rope) && graph_root(graph, k->input[0]) != step[0].node &&
           graph_root(graph, attention->input[2]) != step[0].node;
}

static const struct {
    int n_steps;
    bool (*is)(const struct graph *graph, const struct step *step);
} fusions[] = {
    [FUSION_NONE] = {1, NULL},
    [FUSION_ADD_NORM] = {2, is_add_norm},
    [FUSION_MATMUL_SWIGLU] = {4, is_matmul_swiglu},
    [FUSION_ROPE_PACK] = {2, is_rope_pack},
    [FUSION_ROPE_APPEND] = {3, is_rope_append},
};
enum { N_FUSIONS = sizeof fusions / sizeof *fusions };

int fusion_steps(enum fusion fusion) {
    return fusions[fusion].n_steps;
}

static enum fusion find_fusion(const struct graph *graph, const struct step *step, int n_left) {
    for (int fusion = FUSION_NONE + 1; fusion < N_FUSIONS; fusion++) {
        if (fusions[fusion].n_steps <= n_left && fusions[fusion].is(graph, step))
            return (enum fusion)fusion;
    }
    return FUSION_NONE;
}

void fuse_steps(struct program *program) {
    for (int index = 0; index < program->n_slices; index++) {
        struct slice *slice = &program->slice[index];
        for (int at = 0; at < slice->n_steps; at += fusion_steps(slice->step[at].fusion))
            slice->step[at].fusion =
                find_fusion(program->graph, &slice->step[at], slice->n_steps - at);
    }
}
