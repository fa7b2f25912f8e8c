/* The cut against brute force. On small random graphs every set of nodes that obeys the rules is
 * tried: the converter's must cost the least and be the union of all that do. Small and larger
 * random graphs are walked (program_walk.h). Random numbers are fixed, so are the graphs. */
#include "program_walk.h"

#include <stdio.h>

#include "../src/model/mincut.h"
#include "check.h"

static uint64_t random_state;

static int draw(int n) { /* 0 .. n - 1; a linear congruential generator, upper bits */
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (int)((random_state >> 33) % (uint64_t)n);
}

/* ---- random graphs, filled by hand: the converter looks at operators, inputs and columns */

enum { MOST_NODES = 64 };

struct sample_graph {
    struct graph graph;
    struct node node[MOST_NODES];
};

static const int widths[] = {1, 1, 2, 2, 3, 17, 40};

static struct node *add_node(struct sample_graph *sample, enum op op, int columns) {
    struct node *node = &sample->node[sample->graph.n_nodes++];
    *node = (struct node){.op = op, .columns = columns, .weight = -1, .bias = -1};
    return node;
}

/* An earlier value: often a recent one, so that graphs grow deep. */
static int draw_input(const struct sample_graph *sample) {
    int n_nodes = sample->graph.n_nodes;
    if (draw(2)) return n_nodes - 1 - draw(n_nodes - 2 < 3 ? n_nodes - 2 : 3);
    return 2 + draw(n_nodes - 2);
}

static void add_random_node(struct sample_graph *sample, int attention_percent) {
    int inputs[3] = {draw_input(sample), draw_input(sample), draw_input(sample)};
    int width = widths[draw(sizeof widths / sizeof *widths)], kind = draw(100);
    struct node *node = NULL;
    if (kind < attention_percent) {
        node = add_node(sample, OP_ATTENTION, sample->node[inputs[0]].columns);
        node->n_inputs = 3;
        node->as.attention.layer = sample->graph.n_attention++;
    } else if (kind < 50) {
        node = add_node(sample, OP_ADD, width);
        node->n_inputs = 2;
    } else if (kind < 60) {
        node = add_node(sample, OP_ROPE, sample->node[inputs[0]].columns);
        node->n_inputs = 2;
        inputs[1] = 1;
    } else if (kind < 75) {
        int columns = sample->node[inputs[0]].columns, first = draw(columns);
        node = add_node(sample, OP_COLUMNS, 1 + draw(columns - first));
        node->n_inputs = 1;
        node->as.columns_of.first = first;
    } else {
        node = add_node(sample, OP_MATMUL, width);
        node->n_inputs = 1;
    }
    memcpy(node->input, inputs, sizeof inputs);
}

static void make_graph(struct sample_graph *sample, int n_nodes, int attention_percent) {
    memset(sample, 0, sizeof *sample);
    sample->graph.node = sample->node;
    sample->graph.element_bytes = draw(2) ? 4 : 2;
    add_node(sample, OP_IDS, 1);
    add_node(sample, OP_POSITIONS, 1);
    add_node(sample, OP_EMBED, widths[draw(5)])->n_inputs = 1;
    while (sample->graph.n_nodes < n_nodes) {
        add_random_node(sample, attention_percent);
    }
    for (int node = 0; node < sample->graph.n_nodes; node++) {
        snprintf(sample->node[node].name, sizeof sample->node[node].name, "n%d", node);
    }
}

/* ... and at its end a head that samples: pick, matmul, sample. */
static void add_head(struct sample_graph *sample) {
    const enum op head[] = {OP_PICK, OP_MATMUL, OP_SAMPLE};
    int x = draw_input(sample);
    for (int nth = 0; nth < 3; nth++) {
        struct node *node = add_node(sample, head[nth], nth == 2 ? 1 : 2 + draw(30));
        node->n_inputs = 1;
        node->input[0] = nth == 0 ? x : sample->graph.n_nodes - 2;
    }
}

/* ---- the rules, restated over sets of nodes as bits */

struct rules {
    const struct graph *graph;
    uint32_t ancestors[32]; /* of each node */
    int level[32];          /* of attention nodes */
    uint32_t at_level[32];  /* attention nodes */
    uint32_t header;        /* costs nothing, is everywhere */
    int n_levels;
};

static void find_rules(struct rules *rules, const struct graph *graph) {
    memset(rules, 0, sizeof *rules);
    rules->graph = graph;
    for (int node = 0; node < graph->n_nodes; node++) {
        const struct node *made = &graph->node[node];
        if (walk_is_header(graph, node)) rules->header |= 1u << node;
        for (int input = 0; input < made->n_inputs; input++) {
            rules->ancestors[node] |=
                1u << made->input[input] | rules->ancestors[made->input[input]];
        }
        if (made->op != OP_ATTENTION) continue;
        for (int other = 0; other < node; other++) {
            bool above =
                rules->ancestors[node] >> other & 1 && graph->node[other].op == OP_ATTENTION;
            if (above && rules->level[other] >= rules->level[node]) {
                rules->level[node] = rules->level[other] + 1;
            }
        }
        rules->at_level[rules->level[node]] |= 1u << node;
        if (rules->level[node] >= rules->n_levels) rules->n_levels = rules->level[node] + 1;
    }
}

static bool is_allowed(const struct rules *rules, int level, uint32_t set) {
    for (int node = 0; node < rules->graph->n_nodes; node++) {
        uint32_t bit = 1u << node, ancestors = rules->ancestors[node];
        bool inside = set & bit;
        bool attention = rules->graph->node[node].op == OP_ATTENTION;
        if (inside && (ancestors & ~set)) return false;                   /* not closed */
        if (inside && (ancestors & rules->at_level[level])) return false; /* a descendant */
        if (attention && rules->level[node] == level && inside) return false;
        if (attention && rules->level[node] == level && (ancestors & ~set)) return false;
        if (attention && rules->level[node] < level && !inside) return false;
    }
    return true;
}

/* A value crosses the gap when it is in the set and a node outside it, other than the gap's
 * attention, reads it. */
static uint32_t crossing(const struct rules *rules, int level, uint32_t set) {
    uint32_t crosses = 0;
    for (int node = 0; node < rules->graph->n_nodes; node++) {
        if ((set | rules->at_level[level]) >> node & 1) continue;
        for (int input = 0; input < rules->graph->node[node].n_inputs; input++) {
            crosses |= 1u << rules->graph->node[node].input[input];
        }
    }
    return crosses & set & ~rules->header;
}

static size_t cost(const struct rules *rules, uint32_t values) {
    size_t bytes = 0;
    for (int node = 0; node < rules->graph->n_nodes; node++) {
        if (!(values >> node & 1)) continue;
        bytes += (size_t)rules->graph->node[node].columns * rules->graph->element_bytes;
    }
    return bytes;
}

/* The least cost over all allowed sets, and the union of those that have it. */
static size_t try_all(const struct rules *rules, int level, uint32_t *largest) {
    size_t least = SIZE_MAX;
    uint32_t n_sets = 1u << rules->graph->n_nodes;
    for (uint32_t set = rules->header; set < n_sets; set++) {
        if ((set & rules->header) != rules->header || !is_allowed(rules, level, set)) continue;
        size_t bytes = cost(rules, crossing(rules, level, set));
        if (bytes < least) {
            least = bytes;
            *largest = 0;
        }
        if (bytes == least) *largest |= set;
    }
    return least;
}

static uint32_t done_by(const struct program *program, int slice) {
    uint32_t done = 0;
    for (int step = 0; step < program->slice[slice].n_steps; step++) {
        struct step made = program->slice[slice].step[step];
        if (made.kind == STEP_COMPUTE || made.kind == STEP_GATHER_OUT) done |= 1u << made.node;
    }
    return done;
}

static uint32_t bits(const int *list, int n) {
    uint32_t set = 0;
    for (int nth = 0; nth < n; nth++) {
        set |= 1u << list[nth];
    }
    return set;
}

static void compare(const struct graph *graph, const struct program *program) {
    struct rules rules;
    find_rules(&rules, graph);
    assert_int_equal(program->n_slices, rules.n_levels + 1);
    uint32_t done = rules.header;
    for (int gap = 0; gap < rules.n_levels; gap++) {
        const struct slice *slice = &program->slice[gap];
        uint32_t largest = 0;
        size_t least = try_all(&rules, gap, &largest);
        done |= done_by(program, gap); /* adds only: the sets nest */
        assert_int_equal(bits(slice->attention, slice->n_attention), rules.at_level[gap]);
        assert_int_equal(slice->kept_bytes, least);
        assert_int_equal(done, largest);
        assert_int_equal(bits(slice->kept, slice->n_kept), crossing(&rules, gap, done));
    }
}

static void small_graphs_match_brute_force(void **state) {
    (void)state;
    static struct sample_graph sample;
    int n_gaps = 0, n_shared = 0;
    random_state = 1;
    for (int round = 0; round < 2000; round++) {
        struct program program;
        make_graph(&sample, 5 + draw(10), 20 + draw(20));
        program_open(&program, &sample.graph, false);
        compare(&sample.graph, &program);
        walk_program(&program);
        n_gaps += program.n_slices - 1;
        n_shared += sample.graph.n_attention > program.n_slices - 1;
        program_close(&program);
    }
    assert_true(n_gaps > 3000 && n_shared > 300); /* the graphs are not all trivial */
}

static void larger_graphs_run(void **state) {
    (void)state;
    static struct sample_graph sample;
    random_state = 2;
    for (int round = 0; round < 300; round++) {
        struct program program;
        make_graph(&sample, 20 + draw(40), 5 + draw(25));
        add_head(&sample);
        for (int colocated = 0; colocated < 2; colocated++) {
            program_open(&program, &sample.graph, colocated);
            walk_program(&program);
            program_close(&program);
        }
    }
}

/* ---- the flow alone, on networks worked out by hand */

static void cut_prefers_the_source_side(void **state) {
    (void)state;
    struct mincut mincut;
    bool source_side[5];
    /* 0 -3-> 1 -2-> 2 -2-> 3 -5-> 4: two cuts of 2; the one nearer the sink keeps more */
    mincut_open(&mincut, 5);
    mincut_add(&mincut, 0, 1, 3);
    mincut_add(&mincut, 1, 2, 2);
    mincut_add(&mincut, 2, 3, 2);
    mincut_add(&mincut, 3, 4, 5);
    assert_int_equal(mincut_solve(&mincut, 0, 4, source_side), 2);
    const bool expected[5] = {true, true, true, false, false};
    assert_memory_equal(source_side, expected, sizeof expected);
    mincut_close(&mincut);
}

static void flow_is_sent_back_where_it_must(void **state) {
    (void)state;
    struct mincut mincut;
    bool source_side[6];
    /* Cormen and others, figure 26.1 of the third edition: maximum flow 23 */
    const int arc[][3] = {{0, 1, 16}, {0, 2, 13}, {1, 3, 12}, {2, 1, 4}, {3, 2, 9},
                          {2, 4, 14}, {4, 3, 7},  {3, 5, 20}, {4, 5, 4}};
    mincut_open(&mincut, 6);
    for (size_t nth = 0; nth < sizeof arc / sizeof *arc; nth++) {
        mincut_add(&mincut, arc[nth][0], arc[nth][1], arc[nth][2]);
    }
    assert_int_equal(mincut_solve(&mincut, 0, 5, source_side), 23);
    const bool expected[6] = {true, true, true, false, true, false};
    assert_memory_equal(source_side, expected, sizeof expected);
    mincut_close(&mincut);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_graphs_match_brute_force),
        cmocka_unit_test(larger_graphs_run),
        cmocka_unit_test(cut_prefers_the_source_side),
        cmocka_unit_test(flow_is_sent_back_where_it_must),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
