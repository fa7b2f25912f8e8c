/* convert.c - cut a graph at its attention nodes, and order each slice.
 *
 * Owns the choice of what runs before each gap. For gap k with attention nodes A the set S of nodes
 * done before it holds every ancestor of A and every earlier attention node, no node of A and no
 * descendant of one, and with a node all its inputs. Of these sets the one is taken that keeps the
 * fewest bytes per row: a value is kept when it is made in S and read outside S and A, once however
 * many readers it has. Of equally good sets the largest is taken, so that work that costs nothing
 * to keep runs while the attention ranks are busy. The best sets of successive gaps nest (the cost
 * is submodular and later gaps only add constraints); this is REQUIREd, not repaired.
 *
 * As a network: each value is two vertices, in (it is made in S) and out (its readers that count
 * are, too), with an arc of its cost between them; infinite arcs out -> reader and reader ->
 * inputs.
 *
 * Rejected: weighing edges instead of values, which charges a value once per reader and so may move
 * work across the gap for nothing; and cutting at module borders, which needs a rule per family.
 * Source: Lamina, arXiv 2405.01814v2, section 4.2.
 */
#include "convert.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "mincut.h"

/* Attention nodes by level: how many attention nodes the longest path to it passes. Nodes of one
 * level are never ordered by ancestry. */
static void find_gaps(struct cut *cut, const struct graph *graph) {
    int *passed = check_alloc(graph->n_nodes, sizeof *passed);
    for (int node = 0; node < graph->n_nodes; node++) {
        const struct node *made = &graph->node[node];
        for (int input = 0; input < made->n_inputs; input++) {
            int from = made->input[input];
            int behind = passed[from] + (graph->node[from].op == OP_ATTENTION);
            if (behind > passed[node]) passed[node] = behind;
        }
        cut->gap[node] = made->op == OP_ATTENTION ? passed[node] : -1;
        if (cut->gap[node] >= cut->n_gaps) cut->n_gaps = cut->gap[node] + 1;
    }
    free(passed);
}

/* What must be done before `gap`: earlier attention nodes, their ancestors, the gap's ancestors. */
static void mark_before(const struct graph *graph, const struct cut *cut, int gap, bool *before) {
    for (int node = 0; node < graph->n_nodes; node++) {
        before[node] = cut->gap[node] >= 0 && cut->gap[node] < gap;
    }
    for (int node = graph->n_nodes - 1; node >= 0; node--) {
        if (!before[node] && cut->gap[node] != gap) continue;
        for (int input = 0; input < graph->node[node].n_inputs; input++) {
            before[graph->node[node].input[input]] = true;
        }
    }
}

/* What cannot be done before `gap`: its attention nodes and their descendants. */
static void mark_behind(const struct graph *graph, const struct cut *cut, int gap, bool *behind) {
    for (int node = 0; node < graph->n_nodes; node++) {
        behind[node] = cut->gap[node] == gap;
        for (int input = 0; input < graph->node[node].n_inputs; input++) {
            if (behind[graph->node[node].input[input]]) behind[node] = true;
        }
    }
}

static int in_vertex(int node) {
    return 2 * node;
}

static int out_vertex(int node) {
    return 2 * node + 1;
}

/* done[node] = the node is in the gap's set S. Returns the bytes a row kept. */
static size_t cut_gap(const struct graph *graph, const struct cut *cut, int gap, bool *done) {
    int n_vertices = 2 * graph->n_nodes + 2, source = n_vertices - 2, sink = n_vertices - 1;
    bool *before = check_alloc(graph->n_nodes, sizeof *before);
    bool *behind = check_alloc(graph->n_nodes, sizeof *behind);
    bool *source_side = check_alloc(n_vertices, sizeof *source_side);
    mark_before(graph, cut, gap, before);
    mark_behind(graph, cut, gap, behind);

    struct mincut mincut;
    mincut_open(&mincut, n_vertices);
    for (int node = 0; node < graph->n_nodes; node++) {
        REQUIRE(!(before[node] && behind[node]), "%s is before and behind gap %d",
                graph->node[node].name, gap);
        if (before[node]) mincut_add(&mincut, source, in_vertex(node), MINCUT_INFINITE);
        if (behind[node]) mincut_add(&mincut, in_vertex(node), sink, MINCUT_INFINITE);
        mincut_add(&mincut, in_vertex(node), out_vertex(node), graph_row_bytes(graph, node));
        for (int input = 0; input < graph->node[node].n_inputs; input++) {
            int from = graph->node[node].input[input];
            mincut_add(&mincut, in_vertex(node), in_vertex(from), MINCUT_INFINITE);
            if (cut->gap[node] == gap) continue; /* it leaves for the attention, it is not kept */
            mincut_add(&mincut, out_vertex(from), in_vertex(node), MINCUT_INFINITE);
        }
    }
    size_t kept_bytes = mincut_solve(&mincut, source, sink, source_side);
    for (int node = 0; node < graph->n_nodes; node++) {
        done[node] = source_side[in_vertex(node)];
    }
    mincut_close(&mincut);
    free(source_side);
    free(behind);
    free(before);
    return kept_bytes;
}

void convert_cut(struct cut *cut, const struct graph *graph) {
    *cut = (struct cut){0};
    cut->gap = check_alloc(graph->n_nodes, sizeof *cut->gap);
    cut->slice = check_alloc(graph->n_nodes, sizeof *cut->slice);
    find_gaps(cut, graph);
    cut->kept_bytes = check_alloc(cut->n_gaps, sizeof *cut->kept_bytes);
    for (int node = 0; node < graph->n_nodes; node++) {
        cut->slice[node] = cut->n_gaps;
    }
    bool *done = check_alloc(graph->n_nodes, sizeof *done);
    for (int gap = 0; gap < cut->n_gaps; gap++) {
        cut->kept_bytes[gap] = cut_gap(graph, cut, gap, done);
        for (int node = 0; node < graph->n_nodes; node++) {
            bool earlier = cut->slice[node] < gap;
            REQUIRE(!earlier || done[node], "%s is done before gap %d but not before gap %d",
                    graph->node[node].name, gap - 1, gap);
            if (done[node] && !earlier) cut->slice[node] = gap;
        }
    }
    free(done);
}

void convert_close(struct cut *cut) {
    free(cut->gap);
    free(cut->slice);
    free(cut->kept_bytes);
    *cut = (struct cut){0};
}

/* The slice being written. */
struct writer {
    const struct graph *graph;
    const struct cut *cut;
    int slice;
    bool *written; /* (n_nodes) has its step, in this slice or an earlier one */
    bool *needed;  /* (n_nodes) scratch of write_needed */
    struct step *step;
    int n_steps;
};

static void write_step(struct writer *writer, enum step_kind kind, int node) {
    writer->step[writer->n_steps++] = (struct step){.kind = kind, .node = node};
    if (kind == STEP_COMPUTE || kind == STEP_GATHER_OUT) writer->written[node] = true;
}

/* True when the node is a step of this slice that is not written yet. */
static bool is_waiting(const struct writer *writer, int node) {
    return writer->cut->slice[node] == writer->slice && !writer->written[node];
}

/* Write what two values need and nothing else, in graph order. */
static void write_needed(struct writer *writer, int a, int b) {
    int last = a > b ? a : b;
    memset(writer->needed, 0, ((size_t)last + 1) * sizeof *writer->needed);
    writer->needed[a] = is_waiting(writer, a);
    writer->needed[b] = is_waiting(writer, b);
    for (int node = last; node >= 0; node--) {
        if (!writer->needed[node]) continue;
        for (int input = 0; input < writer->graph->node[node].n_inputs; input++) {
            int from = writer->graph->node[node].input[input];
            if (is_waiting(writer, from)) writer->needed[from] = true;
        }
    }
    for (int node = 0; node <= last; node++) {
        if (writer->needed[node]) write_step(writer, STEP_COMPUTE, node);
    }
}

/* Replies first; then, for each attention node, the shortest way to its Q, and its K and V; what
 * is left runs while the attention ranks work. */
static void write_slice(struct writer *writer) {
    const struct graph *graph = writer->graph;
    const int *gap = writer->cut->gap;
    for (int node = 0; node < graph->n_nodes; node++) {
        if (gap[node] >= 0 && gap[node] == writer->slice - 1) {
            write_step(writer, STEP_GATHER_OUT, node);
        }
    }
    for (int node = 0; node < graph->n_nodes; node++) {
        if (gap[node] != writer->slice) continue;
        const int *qkv = graph->node[node].input;
        write_needed(writer, qkv[0], qkv[0]);
        write_step(writer, STEP_SCATTER_Q, node);
        write_needed(writer, qkv[1], qkv[2]);
        write_step(writer, STEP_PACK, node);
        write_step(writer, STEP_SCATTER_KV, node);
    }
    for (int node = 0; node < graph->n_nodes; node++) {
        if (is_waiting(writer, node)) write_step(writer, STEP_COMPUTE, node);
    }
}

/* The last gap or slice that reads each value: -1 when none does. An attention node reads in its
 * gap, before it answers. */
static int *find_last_reads(const struct graph *graph, const struct cut *cut) {
    int *last_read = check_alloc(graph->n_nodes, sizeof *last_read);
    for (int node = 0; node < graph->n_nodes; node++) {
        last_read[node] = -1;
        int read = cut->gap[node] >= 0 ? cut->gap[node] : cut->slice[node];
        for (int input = 0; input < graph->node[node].n_inputs; input++) {
            int from = graph->node[node].input[input];
            if (read > last_read[from]) last_read[from] = read;
        }
    }
    return last_read;
}

/* The gap behind slice `index`: its attention nodes, and the values read behind it. */
static void write_gap(struct slice *slice, int index, const struct graph *graph,
                      const struct cut *cut, const int *last_read) {
    if (index == cut->n_gaps) return;
    slice->attention = check_alloc(graph->n_nodes, sizeof *slice->attention);
    slice->kept = check_alloc(graph->n_nodes, sizeof *slice->kept);
    for (int node = 0; node < graph->n_nodes; node++) {
        if (cut->gap[node] == index) slice->attention[slice->n_attention++] = node;
        size_t bytes = graph_row_bytes(graph, node);
        if (bytes == 0 || cut->slice[node] > index || last_read[node] <= index) continue;
        slice->kept[slice->n_kept++] = node;
        slice->kept_bytes += bytes;
    }
    REQUIRE(slice->kept_bytes == cut->kept_bytes[index],
            "%zu bytes are kept across gap %d, the cut has %zu", slice->kept_bytes, index,
            cut->kept_bytes[index]);
}

static void copy_steps(struct slice *slice, const struct step *step, int n_steps) {
    slice->n_steps = n_steps;
    slice->step = check_alloc(n_steps, sizeof *slice->step);
    if (n_steps > 0) memcpy(slice->step, step, (size_t)n_steps * sizeof *step);
}

void convert_order(struct program *program, const struct cut *cut) {
    const struct graph *graph = program->graph;
    int *last_read = find_last_reads(graph, cut);
    struct writer writer = {.graph = graph, .cut = cut};
    writer.written = check_alloc(graph->n_nodes, sizeof *writer.written);
    writer.needed = check_alloc(graph->n_nodes, sizeof *writer.needed);
    writer.step = check_alloc((size_t)graph->n_nodes + 3 * graph->n_attention, sizeof *writer.step);
    for (int node = 0; node < graph->n_nodes; node++) {
        writer.written[node] = graph_row_bytes(graph, node) == 0; /* the header brings it */
    }
    program->n_slices = cut->n_gaps + 1;
    program->slice = check_alloc(program->n_slices, sizeof *program->slice);
    for (writer.slice = 0; writer.slice < program->n_slices; writer.slice++) {
        struct slice *slice = &program->slice[writer.slice];
        writer.n_steps = 0;
        write_slice(&writer);
        copy_steps(slice, writer.step, writer.n_steps);
        write_gap(slice, writer.slice, graph, cut, last_read);
    }
    free(writer.step);
    free(writer.needed);
    free(writer.written);
    free(last_read);
}

void convert_whole(struct program *program) {
    const struct graph *graph = program->graph;
    struct step *step = check_alloc((size_t)graph->n_nodes + graph->n_attention, sizeof *step);
    int n_steps = 0;
    for (int node = 0; node < graph->n_nodes; node++) {
        if (graph_row_bytes(graph, node) == 0) continue;
        bool attention = graph->node[node].op == OP_ATTENTION;
        if (attention) step[n_steps++] = (struct step){.kind = STEP_APPEND, .node = node};
        step[n_steps++] =
            (struct step){.kind = attention ? STEP_ATTEND : STEP_COMPUTE, .node = node};
    }
    program->n_slices = 1;
    program->slice = check_alloc(1, sizeof *program->slice);
    copy_steps(&program->slice[0], step, n_steps);
    free(step);
}
