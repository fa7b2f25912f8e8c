/* program_walk.h - run a program on paper, for tests: what would go wrong on a rank is asserted.
 *
 * Walks the steps as a rank would, with a label in every byte of the arenas instead of numbers.
 * Asserts: every node has one step, after its inputs; what a slice reads was made in it or kept
 * across the gap before it; Q leaves before anything it does not need is computed, K and V before
 * the rest; every value is whole whenever it is read, with q, k and v read until OUT is gathered
 * and OUT written as early as its Q leaves; samples are whole through all of the next step; what
 * fused steps make lies on nothing that any of them reads.
 */
#ifndef LAMINA_PROGRAM_WALK_H
#define LAMINA_PROGRAM_WALK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "program.h"

struct walk {
    const struct program *program;
    const struct graph *graph;
    int *n_runs;     /* (n_nodes) steps seen for the node */
    bool *here;      /* (n_nodes) in this slice's hands */
    bool *q_sent;    /* (n_nodes) of attention nodes */
    bool *kv_sent;   /* (n_nodes) of attention nodes */
    int *label[2];   /* rows in flight, picked rows: which node wrote each byte, -1 for none */
    bool first_pass; /* the second finds the samples of the first */
};

static bool walk_is_header(const struct graph *graph, int node) {
    return graph->node[node].op == OP_IDS || graph->node[node].op == OP_POSITIONS;
}

/* True when `node` is `value` or one of its ancestors. */
static bool walk_is_needed(const struct graph *graph, int node, int value) {
    if (node == value) return true;
    for (int input = 0; input < graph->node[value].n_inputs; input++) {
        int from = graph->node[value].input[input];
        if (from >= node && walk_is_needed(graph, node, from)) return true;
    }
    return false;
}

static int walk_root(const struct graph *graph, int node) {
    while (graph->node[node].op == OP_COLUMNS) {
        node = graph->node[node].input[0];
    }
    return node;
}

static int walk_element_bytes(const struct graph *graph, int node) {
    const struct node *made = &graph->node[node];
    return made->op == OP_SAMPLE || made->logits ? 4 : graph->element_bytes;
}

static void walk_write(struct walk *walk, int node) {
    const struct place *place = &walk->program->place[node];
    int bytes = graph_row_bytes(walk->graph, node);
    if (walk->graph->node[node].op == OP_COLUMNS) return;
    assert_int_equal(place->first_column, 0);
    assert_int_equal(place->stride, walk->graph->node[node].columns);
    assert_int_equal(place->offset % 64, 0);
    size_t arena_bytes = place->picked ? walk->program->picked_row_bytes : walk->program->row_bytes;
    assert_true(place->offset + bytes <= arena_bytes);
    for (int byte = 0; byte < bytes; byte++) {
        walk->label[place->picked][place->offset + byte] = node;
    }
}

/* The value of `node` lies where its place says, untouched since it was written. */
static void walk_read(struct walk *walk, int node) {
    if (walk_is_header(walk->graph, node)) return;
    const struct place *place = &walk->program->place[node];
    int bytes = graph_row_bytes(walk->graph, node), root = walk_root(walk->graph, node);
    int first = place->first_column * walk_element_bytes(walk->graph, root);
    int first_column = 0;
    for (int view = node; view != root; view = walk->graph->node[view].input[0]) {
        first_column += walk->graph->node[view].as.columns_of.first;
    }
    assert_int_equal(place->first_column, first_column);
    assert_int_equal(place->stride, walk->graph->node[root].columns);
    for (int byte = 0; byte < bytes; byte++) {
        assert_int_equal(walk->label[place->picked][place->offset + first + byte], root);
    }
}

static void walk_compute(struct walk *walk, int node) {
    const struct node *made = &walk->graph->node[node];
    assert_int_not_equal(made->op, OP_ATTENTION);
    for (int input = 0; input < made->n_inputs; input++) {
        assert_true(walk_is_header(walk->graph, made->input[input]) ||
                    walk->here[made->input[input]]);
    }
    walk_write(walk, node);
    for (int input = 0; input < made->n_inputs; input++) {
        walk_read(walk, made->input[input]);
    }
    walk->here[node] = true;
    walk->n_runs[node]++;
}

/* The last computed nodes before Q leaves, or K and V are packed, must all be needed by it, in
 * rising order. */
static void walk_message(struct walk *walk, const struct slice *slice, int step, int a, int b) {
    int later = walk->graph->n_nodes;
    for (int before = step - 1; before >= 0; before--) {
        struct step made = slice->step[before];
        if (made.kind != STEP_COMPUTE) break;
        bool needed =
            walk_is_needed(walk->graph, made.node, a) || walk_is_needed(walk->graph, made.node, b);
        assert_true(needed);
        assert_true(made.node < later);
        later = made.node;
    }
    walk_read(walk, a);
    walk_read(walk, b);
    assert_true(walk->here[a] && walk->here[b]);
}

/* The allocations of two values share no byte; they may be the same one. */
static void walk_is_apart(const struct walk *walk, int a, int b) {
    const struct place *place = walk->program->place;
    if (walk_is_header(walk->graph, a) || walk_is_header(walk->graph, b)) return;
    a = walk_root(walk->graph, a), b = walk_root(walk->graph, b);
    if (a == b || place[a].picked != place[b].picked) return;
    assert_true(place[a].offset + graph_row_bytes(walk->graph, a) <= place[b].offset ||
                place[b].offset + graph_row_bytes(walk->graph, b) <= place[a].offset);
}

/* Steps that are fused write when they begin and read until they end. */
static void walk_fused(struct walk *walk, const struct step *step) {
    int n = fusion_steps(step->fusion);
    for (int writer = 0; writer < n; writer++) {
        if (step[writer].kind != STEP_COMPUTE) continue;
        int root = walk_root(walk->graph, step[writer].node);
        for (int reader = 0; reader < n; reader++) {
            const struct node *node = &walk->graph->node[step[reader].node];
            for (int input = 0; input < node->n_inputs; input++)
                walk_is_apart(walk, root, node->input[input]);
        }
    }
}

static void walk_step(struct walk *walk, const struct slice *slice, int step) {
    int node = slice->step[step].node;
    const int *input = walk->graph->node[node].input;
    switch (slice->step[step].kind) {
    case STEP_COMPUTE: walk_compute(walk, node); break;
    case STEP_PACK: walk_message(walk, slice, step, input[1], input[2]); break;
    case STEP_APPEND:
        walk_read(walk, input[1]);
        walk_read(walk, input[2]);
        break;
    case STEP_SCATTER_Q:
        walk_message(walk, slice, step, input[0], input[0]);
        walk_write(walk, node); /* as early as the reply could come */
        assert_false(walk->q_sent[node]);
        walk->q_sent[node] = true;
        break;
    case STEP_SCATTER_KV:
        assert_true(slice->step[step - 1].kind == STEP_PACK && slice->step[step - 1].node == node);
        assert_true(walk->q_sent[node] && !walk->kv_sent[node]);
        walk->kv_sent[node] = true;
        break;
    case STEP_GATHER_OUT:
    case STEP_ATTEND:
        if (slice->step[step].kind == STEP_ATTEND) {
            assert_true(slice->step[step - 1].kind == STEP_APPEND &&
                        slice->step[step - 1].node == node);
            walk_write(walk, node);
        } else {
            assert_true(walk->q_sent[node] && walk->kv_sent[node]);
        }
        for (int part = 0; part < 3; part++) {
            walk_read(walk, input[part]);
        }
        walk_read(walk, node);
        walk->here[node] = true;
        walk->n_runs[node]++;
        break;
    }
}

/* Forget all that is not kept across the gap behind the slice. */
static void walk_gap(struct walk *walk, const struct slice *slice) {
    bool *kept = calloc(walk->graph->n_nodes, sizeof *kept);
    size_t kept_bytes = 0;
    for (int nth = 0; nth < slice->n_kept; nth++) {
        int node = slice->kept[nth];
        assert_true(walk->here[node]);
        assert_true(nth == 0 || slice->kept[nth - 1] < node);
        kept[node] = true;
        kept_bytes += graph_row_bytes(walk->graph, node);
    }
    assert_int_equal(kept_bytes, slice->kept_bytes);
    for (int nth = 0; nth < slice->n_attention; nth++) {
        int node = slice->attention[nth];
        assert_true(walk->q_sent[node] && walk->kv_sent[node]);
    }
    memcpy(walk->here, kept, walk->graph->n_nodes * sizeof *kept);
    free(kept);
}

static void walk_pass(struct walk *walk) {
    const struct graph *graph = walk->graph;
    memset(walk->n_runs, 0, graph->n_nodes * sizeof *walk->n_runs);
    memset(walk->here, 0, graph->n_nodes * sizeof *walk->here);
    memset(walk->q_sent, 0, graph->n_nodes * sizeof *walk->q_sent);
    memset(walk->kv_sent, 0, graph->n_nodes * sizeof *walk->kv_sent);
    for (int index = 0; index < walk->program->n_slices; index++) {
        const struct slice *slice = &walk->program->slice[index];
        for (int step = 0; step < slice->n_steps; step++) {
            walk_step(walk, slice, step);
            walk_fused(walk, &slice->step[step]);
            for (int node = 0; node < graph->n_nodes && !walk->first_pass; node++) {
                if (graph->node[node].op == OP_SAMPLE) walk_read(walk, node);
            }
        }
        if (index + 1 < walk->program->n_slices) walk_gap(walk, slice);
    }
    for (int node = 0; node < graph->n_nodes; node++) {
        assert_int_equal(walk->n_runs[node], walk_is_header(graph, node) ? 0 : 1);
    }
}

static void walk_program(const struct program *program) {
    const struct graph *graph = program->graph;
    struct walk walk = {.program = program, .graph = graph, .first_pass = true};
    walk.n_runs = calloc(graph->n_nodes, sizeof *walk.n_runs);
    walk.here = calloc(graph->n_nodes, sizeof *walk.here);
    walk.q_sent = calloc(graph->n_nodes, sizeof *walk.q_sent);
    walk.kv_sent = calloc(graph->n_nodes, sizeof *walk.kv_sent);
    const size_t bytes[2] = {program->row_bytes, program->picked_row_bytes};
    for (int arena = 0; arena < 2; arena++) {
        assert_int_equal(bytes[arena] % 64, 0);
        walk.label[arena] = malloc((bytes[arena] + 1) * sizeof *walk.label[arena]);
        memset(walk.label[arena], 0xff, bytes[arena] * sizeof *walk.label[arena]);
    }
    walk_pass(&walk);
    walk.first_pass = false;
    walk_pass(&walk);
    free(walk.label[0]);
    free(walk.label[1]);
    free(walk.n_runs);
    free(walk.here);
    free(walk.q_sent);
    free(walk.kv_sent);
}

#endif
