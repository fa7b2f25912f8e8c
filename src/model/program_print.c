/* program_print.c - a program for people: text, and a picture for Graphviz. See program.h.
 *
 * Both fold runs of like slices (same steps, same shapes, names equal but for their numbers), so
 * that a deep model prints as three slices. Bytes are per row; Q and OUT cross in the graph's own
 * element type, K and V in the KV type. What the header gives costs nothing and is not drawn.
 * Names are escaped: they are ours today, but a picture is opened by other programs.
 */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "log.h"
#include "program.h"

/* Bytes a row of one attention node's messages. */
struct traffic {
    size_t q, kv, out;
};

static struct traffic traffic_of(const struct graph *graph, int attention, int kv_bytes) {
    const struct node *node = &graph->node[attention];
    size_t k_columns = graph->node[node->input[1]].columns;
    size_t v_columns = graph->node[node->input[2]].columns;
    return (struct traffic){
        .q = graph_row_bytes(graph, node->input[0]),
        .kv = (k_columns + v_columns) * (size_t)kv_bytes,
        .out = graph_row_bytes(graph, attention),
    };
}

/* Equal but for the numbers in them: "blk.3.attn_q" and "blk.12.attn_q". */
static bool is_like_name(const char *a, const char *b) {
    while (*a && *b) {
        if (isdigit((unsigned char)*a) && isdigit((unsigned char)*b)) {
            a += strspn(a, "0123456789");
            b += strspn(b, "0123456789");
        } else if (*a++ != *b++) {
            return false;
        }
    }
    return *a == *b;
}

static bool is_like_node(const struct graph *graph, int a, int b) {
    const struct node *left = &graph->node[a], *right = &graph->node[b];
    return left->op == right->op && left->columns == right->columns &&
           is_like_name(left->name, right->name);
}

static bool is_like_list(const struct graph *graph, const int *a, const int *b, int n) {
    for (int index = 0; index < n; index++) {
        if (!is_like_node(graph, a[index], b[index])) return false;
    }
    return true;
}

static bool is_like_slice(const struct graph *graph, const struct slice *a, const struct slice *b) {
    if (a->n_steps != b->n_steps || a->n_attention != b->n_attention || a->n_kept != b->n_kept ||
        a->kept_bytes != b->kept_bytes) {
        return false;
    }
    for (int step = 0; step < a->n_steps; step++) {
        if (a->step[step].kind != b->step[step].kind) return false;
        if (!is_like_node(graph, a->step[step].node, b->step[step].node)) return false;
    }
    return is_like_list(graph, a->attention, b->attention, a->n_attention) &&
           is_like_list(graph, a->kept, b->kept, a->n_kept);
}

/* The slice behind the run of slices that are like `slice`; slice + 1 when the next one differs. */
static int end_of_run(const struct program *program, int slice) {
    int end = slice + 1;
    while (end < program->n_slices &&
           is_like_slice(program->graph, &program->slice[slice], &program->slice[end])) {
        end++;
    }
    return end;
}

static const char *escape(char out[160], const char *name) {
    return log_escape(out, 160, name, strlen(name));
}

static void print_step(const struct program *program, struct step step, int kv_bytes, FILE *out) {
    const struct graph *graph = program->graph;
    const struct node *node = &graph->node[step.node];
    char name[160];
    size_t bytes = graph_row_bytes(graph, step.node);
    if (step.kind == STEP_SCATTER_Q) bytes = traffic_of(graph, step.node, kv_bytes).q;
    if (step.kind == STEP_PACK || step.kind == STEP_SCATTER_KV || step.kind == STEP_APPEND)
        bytes = traffic_of(graph, step.node, kv_bytes).kv;
    bool message =
        step.kind == STEP_SCATTER_Q || step.kind == STEP_SCATTER_KV || step.kind == STEP_GATHER_OUT;
    fprintf(out, "  %-11s %-28s %-9s %10zu%s\n", step_name(step.kind), escape(name, node->name),
            message ? "" : op_name(node->op), bytes,
            program->place[step.node].picked ? "  (picked rows)" : "");
}

static void print_gap(const struct program *program, int index, FILE *out) {
    const struct graph *graph = program->graph;
    const struct slice *slice = &program->slice[index];
    char name[160];
    for (int nth = 0; nth < slice->n_attention; nth++) {
        const struct node *node = &graph->node[slice->attention[nth]];
        fprintf(out, "  -- gap %d   %s: %d heads on %d KV heads of %d\n", index,
                escape(name, node->name), node->as.attention.n_heads, node->as.attention.n_kv_heads,
                node->as.attention.head_dim);
    }
    for (int nth = 0; nth < slice->n_kept; nth++) {
        int kept = slice->kept[nth];
        fprintf(out, "  -- kept    %-28s %-9s %10zu\n", escape(name, graph->node[kept].name),
                op_name(graph->node[kept].op), graph_row_bytes(graph, kept));
    }
    if (slice->n_kept != 1) fprintf(out, "  -- kept    %zu in all\n", slice->kept_bytes);
}

/* True when all attention nodes have the same heads, so that the paper's formula applies. */
static bool is_uniform(const struct graph *graph, struct attention *shape) {
    bool found = false;
    for (int node = 0; node < graph->n_nodes; node++) {
        if (graph->node[node].op != OP_ATTENTION) continue;
        const struct attention *attention = &graph->node[node].as.attention;
        if (!found) *shape = *attention;
        if (attention->n_heads != shape->n_heads || attention->n_kv_heads != shape->n_kv_heads ||
            attention->head_dim != shape->head_dim) {
            return false;
        }
        found = true;
    }
    return found;
}

static void print_totals(const struct program *program, int kv_bytes, FILE *out) {
    const struct graph *graph = program->graph;
    struct traffic sum = {0};
    size_t kept_bytes = 0;
    for (int node = 0; node < graph->n_nodes; node++) {
        if (graph->node[node].op != OP_ATTENTION) continue;
        struct traffic traffic = traffic_of(graph, node, kv_bytes);
        sum.q += traffic.q;
        sum.kv += traffic.kv;
        sum.out += traffic.out;
    }
    for (int slice = 0; slice < program->n_slices; slice++) {
        if (program->slice[slice].kept_bytes > kept_bytes) {
            kept_bytes = program->slice[slice].kept_bytes;
        }
    }
    size_t total = sum.q + sum.kv + sum.out;
    fprintf(out, "per token and step: Q %zu + KV %zu + OUT %zu = %zu bytes on the wire\n", sum.q,
            sum.kv, sum.out, total);
    struct attention shape;
    if (is_uniform(graph, &shape)) {
        size_t q_columns = (size_t)shape.n_heads * (size_t)shape.head_dim;
        size_t kv_columns = (size_t)shape.n_kv_heads * (size_t)shape.head_dim;
        size_t element = graph->element_bytes, layers = graph->n_attention;
        size_t mixed = (2 * element * q_columns + 2 * (size_t)kv_bytes * kv_columns) * layers;
        fprintf(out,
                "  the paper's (2 + 2/G) e d L, G %d, d %zu, L %zu: %zu at e %zu throughout; "
                "%zu with K and V at %d bytes, %s\n",
                shape.n_heads / shape.n_kv_heads, q_columns, layers,
                2 * (q_columns + kv_columns) * element * layers, element, mixed, kv_bytes,
                mixed == total ? "as here" : "not as here");
    } else if (graph->n_attention > 0) {
        fprintf(out, "  attention nodes differ: the paper's (2 + 2/G) e d L does not apply\n");
    }
    fprintf(out, "kept across a gap: at most %zu bytes a row\n", kept_bytes);
}

void program_print(const struct program *program, int kv_bytes, FILE *out) {
    const struct graph *graph = program->graph;
    fprintf(out, "%d nodes, %d attention, %d slices; bytes are per row, %d an element, %d in KV\n",
            graph->n_nodes, graph->n_attention, program->n_slices, graph->element_bytes, kv_bytes);
    for (int slice = 0; slice < program->n_slices;) {
        int end = end_of_run(program, slice);
        fprintf(out, "\nslice %d\n", slice);
        for (int step = 0; step < program->slice[slice].n_steps; step++) {
            print_step(program, program->slice[slice].step[step], kv_bytes, out);
        }
        if (slice + 1 < program->n_slices) print_gap(program, slice, out);
        if (end == slice + 2) fprintf(out, "\nslice %d like slice %d\n", slice + 1, slice);
        if (end > slice + 2) {
            fprintf(out, "\nslices %d..%d like slice %d\n", slice + 1, end - 1, slice);
        }
        slice = end;
    }
    fprintf(out, "\n");
    if (program->colocated) {
        fprintf(out, "colocated: attention runs in the slice, nothing crosses\n");
    } else {
        print_totals(program, kv_bytes, out);
    }
    fprintf(out, "arena: %zu bytes a row in flight, %zu a picked row\n", program->row_bytes,
            program->picked_row_bytes);
}

/* ---- the picture */

/* Where a node is drawn. */
struct drawing {
    const struct program *program;
    int kv_bytes;
    int *slice; /* (n_nodes) that makes the value, -1 when none does */
    int *fold;  /* (n_nodes) first slice of the folded run it is hidden in, or -1 */
    FILE *out;
};

/* A label inside double quotes: log_escape's backslashes and quotes again, for Graphviz. */
static void draw_text(FILE *out, const char *text) {
    char name[160];
    for (const char *at = escape(name, text); *at; at++) {
        if (*at == '"' || *at == '\\') fputc('\\', out);
        fputc(*at, out);
    }
}

static void draw_node(const struct drawing *drawing, int node, const char *style) {
    const struct node *made = &drawing->program->graph->node[node];
    fprintf(drawing->out, "    n%d [label=\"", node);
    draw_text(drawing->out, made->name);
    fprintf(drawing->out, "\\n%s\"%s];\n", op_name(made->op), style);
}

static void draw_id(const struct drawing *drawing, int node) {
    if (drawing->fold[node] >= 0) {
        fprintf(drawing->out, "f%d", drawing->fold[node]);
    } else {
        fprintf(drawing->out, "n%d", node);
    }
}

static void draw_slice(struct drawing *drawing, int index) {
    const struct slice *slice = &drawing->program->slice[index];
    fprintf(drawing->out, "  subgraph cluster_%d {\n    label=\"slice %d\";\n", index, index);
    for (int step = 0; step < slice->n_steps; step++) {
        enum step_kind kind = slice->step[step].kind;
        if (kind != STEP_COMPUTE && kind != STEP_ATTEND) continue;
        draw_node(drawing, slice->step[step].node, "");
    }
    fprintf(drawing->out, "  }\n");
    for (int nth = 0; nth < slice->n_attention; nth++) {
        int node = slice->attention[nth];
        if (drawing->fold[node] < 0) {
            draw_node(drawing, node, ", shape=hexagon, style=filled, fillcolor=lightblue");
        }
    }
}

/* Slices first + 1 .. end - 1 are like `first`: hide them, with the attention between them and
 * behind the last of them, in one box. */
static void fold_run(struct drawing *drawing, int first, int end) {
    for (int index = first + 1; index < end; index++) {
        const struct slice *slice = &drawing->program->slice[index];
        for (int step = 0; step < slice->n_steps; step++) {
            if (slice->step[step].kind == STEP_COMPUTE) {
                drawing->fold[slice->step[step].node] = first + 1;
            }
        }
        for (int nth = 0; nth < slice->n_attention; nth++) {
            drawing->fold[slice->attention[nth]] = first + 1;
        }
    }
}

static void draw_fold(const struct drawing *drawing, int first, int end) {
    if (end == first + 1) return;
    fprintf(drawing->out,
            "  f%d [label=\"slices %d..%d\\nlike slice %d\", shape=box3d, style=filled, "
            "fillcolor=lightgrey];\n",
            first + 1, first + 1, end - 1, first);
}

/* The label of what `reader` reads: a message, a value kept across a gap, or just a value. */
static void draw_label(const struct drawing *drawing, int value, int reader) {
    const struct graph *graph = drawing->program->graph;
    const struct node *node = &graph->node[reader];
    size_t bytes = graph_row_bytes(graph, value);
    bool cut = !drawing->program->colocated;
    if (cut && node->op == OP_ATTENTION) {
        const char *part = node->input[0] == value ? "Q" : node->input[1] == value ? "K" : "V";
        if (*part != 'Q') bytes = bytes / graph->element_bytes * drawing->kv_bytes;
        fprintf(drawing->out, "label=\"%s %zu\", style=dashed, color=blue", part, bytes);
    } else if (drawing->slice[reader] > drawing->slice[value]) {
        fprintf(drawing->out, "label=\"kept %zu\", style=bold, color=red", bytes);
    } else if (cut && graph->node[value].op == OP_ATTENTION) {
        fprintf(drawing->out, "label=\"OUT %zu\", style=dashed, color=blue", bytes);
    }
}

/* True when an earlier reader's edge from `value` already ends in the same folded box. */
static bool is_drawn(const struct drawing *drawing, int value, int reader) {
    const struct graph *graph = drawing->program->graph;
    if (drawing->fold[reader] < 0) return false;
    for (int earlier = value + 1; earlier < reader; earlier++) {
        if (drawing->fold[earlier] != drawing->fold[reader]) continue;
        for (int input = 0; input < graph->node[earlier].n_inputs; input++) {
            if (graph->node[earlier].input[input] == value) return true;
        }
    }
    return false;
}

static void draw_edges(const struct drawing *drawing) {
    const struct graph *graph = drawing->program->graph;
    for (int reader = 0; reader < graph->n_nodes; reader++) {
        for (int input = 0; input < graph->node[reader].n_inputs; input++) {
            int value = graph->node[reader].input[input];
            bool hidden =
                drawing->fold[value] >= 0 && drawing->fold[value] == drawing->fold[reader];
            if (graph_row_bytes(graph, value) == 0 || hidden) continue;
            if (is_drawn(drawing, value, reader)) continue;
            fprintf(drawing->out, "  ");
            draw_id(drawing, value);
            fprintf(drawing->out, " -> ");
            draw_id(drawing, reader);
            fprintf(drawing->out, " [");
            draw_label(drawing, value, reader);
            fprintf(drawing->out, "];\n");
        }
    }
}

void program_print_dot(const struct program *program, int kv_bytes, FILE *out) {
    const struct graph *graph = program->graph;
    struct drawing drawing = {.program = program, .kv_bytes = kv_bytes, .out = out};
    drawing.slice = check_alloc(graph->n_nodes, sizeof *drawing.slice);
    drawing.fold = check_alloc(graph->n_nodes, sizeof *drawing.fold);
    for (int node = 0; node < graph->n_nodes; node++) {
        drawing.slice[node] = drawing.fold[node] = -1;
    }
    for (int slice = 0; slice < program->n_slices; slice++) {
        for (int step = 0; step < program->slice[slice].n_steps; step++) {
            struct step made = program->slice[slice].step[step];
            bool makes = made.kind == STEP_COMPUTE || made.kind == STEP_GATHER_OUT ||
                         made.kind == STEP_ATTEND;
            if (makes) drawing.slice[made.node] = slice;
        }
    }
    fprintf(out, "digraph lamina {\n"
                 "  label=\"bytes per row; blue: messages, red: kept across a gap\";\n"
                 "  node [shape=box, fontname=\"Helvetica\", fontsize=10];\n"
                 "  edge [fontname=\"Helvetica\", fontsize=9];\n");
    for (int slice = 0; slice < program->n_slices;) {
        int end = end_of_run(program, slice);
        fold_run(&drawing, slice, end);
        draw_slice(&drawing, slice);
        draw_fold(&drawing, slice, end);
        slice = end;
    }
    draw_edges(&drawing);
    fprintf(out, "}\n");
    free(drawing.slice);
    free(drawing.fold);
}
