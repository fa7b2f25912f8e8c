/* The front end: nodes and weights are recorded as written, and what does not fit ends the process
 * (in a child, seen from outside). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "check.h"
#include "graph.h"

/* ids, positions and x (24 columns), to try calls on. */
enum { IDS, POSITIONS, X };

static void open_graph(struct graph *graph) {
    graph_open(graph, (struct graph_options){.element_bytes = 4});
    assert_int_equal(graph_ids(graph), IDS);
    assert_int_equal(graph_positions(graph), POSITIONS);
    assert_int_equal(graph_embed(graph, "x", IDS, graph_weight(graph, "embed", 100, 24)), X);
}

static const struct rope rope = {
    .n_heads = 3, .head_dim = 8, .n_rotated = 8, .base = 1e4f, .scale = 1, .factors = -1};
static const struct attention attention = {
    .n_heads = 3, .n_kv_heads = 1, .head_dim = 8, .scale = 1};

static void calls_are_recorded(void **state) {
    (void)state;
    struct graph graph;
    open_graph(&graph);
    int wide = graph_weight(&graph, "wide", 40, 24), bias = graph_weight(&graph, "bias", 1, 40);
    int narrow = graph_weight(&graph, "narrow", 8, 24), group = graph_weight(&graph, "group", 1, 8);
    int y = graph_matmul(&graph, "y", X, wide, bias);
    int k = graph_matmul(&graph, "k", X, narrow, -1);
    int q = graph_rope(&graph, "q", graph_norm(&graph, "norm", X, group, 0.5f), POSITIONS, rope);
    int out = graph_attention(&graph, "out", q, k, graph_columns(&graph, "v", y, 32, 8), attention);
    int twice = graph_attention(&graph, "twice", out, k, k, attention);
    int picked = graph_pick(&graph, "picked", graph_add(&graph, "sum", out, twice));
    int token = graph_sample(&graph, "token", picked);

    assert_int_equal(graph_weight(&graph, "wide", 40, 24), wide);
    assert_int_equal(graph.node[y].columns, 40);
    assert_int_equal(graph.node[y].bias, bias);
    assert_int_equal(graph.node[graph.node[q].input[0]].as.norm.group, 8);
    assert_int_equal(graph.node[out].columns, 24);
    assert_int_equal(graph.node[out].as.attention.layer, 0);
    assert_int_equal(graph.node[twice].as.attention.layer, 1);
    assert_int_equal(graph.n_attention, 2);
    assert_int_equal(graph_row_bytes(&graph, IDS), 0);
    assert_int_equal(graph_row_bytes(&graph, POSITIONS), 0);
    assert_int_equal(graph_row_bytes(&graph, y), 160);
    assert_int_equal(graph_row_bytes(&graph, token), 4);
    assert_false(graph_is_picked(&graph, twice));
    assert_true(graph_is_picked(&graph, picked) && graph_is_picked(&graph, token));
    graph.element_bytes = 2;
    assert_int_equal(graph_row_bytes(&graph, y), 80);
    assert_int_equal(graph_row_bytes(&graph, token), 4);
    graph_close(&graph);
}

static const struct graph_weight part[] = {{.name = "one", .rows = 8, .columns = 24},
                                           {.name = "two", .rows = 16, .columns = 24}};
static const struct graph_weight vector[] = {{.name = "a", .rows = 1, .columns = 8},
                                             {.name = "b", .rows = 1, .columns = 16}};

static void weights_are_joined(void **state) {
    (void)state;
    struct graph graph;
    open_graph(&graph);
    int rows = graph_joined_weight(&graph, "rows", 24, 24, part, 2);
    int columns = graph_joined_weight(&graph, "columns", 1, 24, vector, 2);
    int pair =
        graph_joined_weight(&graph, "pair", 2, 8, (struct graph_weight[]){vector[0], vector[0]}, 2);
    int y = graph_matmul(&graph, "y", X, rows, columns);
    assert_int_equal(graph.node[y].columns, 24);
    assert_int_equal(
        graph.node[graph_matmul(&graph, "z", graph_columns(&graph, "some", y, 0, 8), pair, -1)]
            .columns,
        2);
    assert_int_equal(graph.weight[graph.node[X].weight].n_parts, 0);
    assert_int_equal(graph.weight[columns].n_parts, 2);
    assert_string_equal(graph.weight[rows].part[1].name, "two");
    assert_int_equal(graph.weight[rows].part[1].rows, 16);
    graph_close(&graph);
}

static void graphs_grow(void **state) {
    (void)state;
    struct graph graph;
    char name[48];
    open_graph(&graph);
    int x = X;
    for (int layer = 0; layer < 1000; layer++) {
        snprintf(name, sizeof name, "layer.%d", layer);
        x = graph_matmul(&graph, name, x, graph_weight(&graph, name, 24, 24), -1);
    }
    assert_int_equal(graph.n_nodes, 1003);
    assert_int_equal(graph.n_weights, 1001);
    assert_string_equal(graph.node[502].name, "layer.499");
    assert_string_equal(graph.weight[graph.node[502].weight].name, "layer.499");
    assert_int_equal(graph.node[502].input[0], 501);
    graph_close(&graph);
}

/* ---- what must not be written */

static void matmul_of_other_columns(struct graph *graph) {
    graph_matmul(graph, "bad", X, graph_weight(graph, "w", 10, 23), -1);
}
static void matmul_of_ids(struct graph *graph) {
    graph_matmul(graph, "bad", IDS, graph_weight(graph, "w", 10, 1), -1);
}
static void bias_of_other_columns(struct graph *graph) {
    graph_matmul(graph, "bad", X, graph_weight(graph, "w", 10, 24),
                 graph_weight(graph, "b", 1, 24));
}
static void weight_of_two_shapes(struct graph *graph) {
    graph_weight(graph, "embed", 24, 100);
}
static void norm_that_does_not_divide(struct graph *graph) {
    graph_norm(graph, "bad", X, graph_weight(graph, "w", 1, 7), 1e-5f);
}
static void rope_of_other_heads(struct graph *graph) {
    struct rope other = rope;
    other.n_heads = 2;
    graph_rope(graph, "bad", X, POSITIONS, other);
}
static void rope_of_odd_dimensions(struct graph *graph) {
    struct rope other = rope;
    other.n_rotated = 7;
    graph_rope(graph, "bad", X, POSITIONS, other);
}
static void rope_by_ids(struct graph *graph) {
    graph_rope(graph, "bad", X, IDS, rope);
}
static void rope_of_picked_rows(struct graph *graph) {
    graph_rope(graph, "bad", graph_pick(graph, "picked", X), POSITIONS, rope);
}
static void add_of_picked_and_all_rows(struct graph *graph) {
    graph_add(graph, "bad", X, graph_pick(graph, "picked", X));
}
static void add_of_other_columns(struct graph *graph) {
    graph_add(graph, "bad", X, graph_columns(graph, "some", X, 0, 23));
}
static void columns_past_the_end(struct graph *graph) {
    graph_columns(graph, "bad", X, 20, 5);
}
static void attention_with_k_too_wide(struct graph *graph) {
    graph_attention(graph, "bad", X, X, graph_columns(graph, "v", X, 0, 8), attention);
}
static void heads_that_do_not_divide(struct graph *graph) {
    struct attention other = attention;
    other.n_kv_heads = 2;
    int kv = graph_columns(graph, "kv", X, 0, 16);
    graph_attention(graph, "bad", X, kv, kv, other);
}
static void sample_of_all_rows(struct graph *graph) {
    graph_sample(graph, "bad", X);
}
static void input_from_the_future(struct graph *graph) {
    graph_pick(graph, "bad", 17);
}
static void embed_of_positions(struct graph *graph) {
    graph_embed(graph, "bad", POSITIONS, 0);
}

static void pick_of_picked_rows(struct graph *graph) {
    graph_pick(graph, "bad", graph_pick(graph, "picked", X));
}
static void attention_over_picked_rows(struct graph *graph) {
    struct attention other = attention;
    other.n_kv_heads = 3;
    int picked = graph_pick(graph, "picked", X);
    graph_attention(graph, "bad", picked, picked, picked, other);
}
static void weight_that_is_not_there(struct graph *graph) {
    graph->weight[2] = (struct graph_weight){.name = "stale", .rows = 10, .columns = 24};
    graph_matmul(graph, "bad", X, 2, -1);
}
static void parts_of_fewer_rows(struct graph *graph) {
    graph_joined_weight(graph, "bad", 25, 24, part, 2);
}
static void parts_of_other_columns(struct graph *graph) {
    graph_joined_weight(graph, "bad", 24, 23, part, 2);
}
static void parts_of_a_shorter_vector(struct graph *graph) {
    graph_joined_weight(graph, "bad", 1, 25, vector, 2);
}
static void parts_that_are_no_vectors(struct graph *graph) {
    graph_joined_weight(graph, "bad", 1, 48, part, 2);
}
static void weight_joined_twice(struct graph *graph) {
    graph_joined_weight(graph, "joined", 24, 24, part, 2);
    graph_joined_weight(graph, "joined", 24, 24, part, 2);
}
static void weight_of_nothing(struct graph *graph) {
    graph_weight(graph, "w", 0, 24);
}
static void names_that_do_not_fit(struct graph *graph) {
    char name[100];
    memset(name, 'n', sizeof name);
    name[50] = 0;
    graph_pick(graph, name, X);
}
static void weight_names_that_do_not_fit(struct graph *graph) {
    char name[100];
    memset(name, 'n', sizeof name);
    name[70] = 0;
    graph_weight(graph, name, 1, 1);
}
static void elements_of_three_bytes(struct graph *graph) {
    graph_close(graph);
    graph_open(graph, (struct graph_options){.element_bytes = 3});
}

/* Exit code of the call in a child without a voice. */
static int code_of(void (*call)(struct graph *graph)) {
    pid_t child = fork();
    if (child == 0) {
        struct graph graph;
        if (!freopen("/dev/null", "w", stderr)) _exit(99);
        open_graph(&graph);
        call(&graph);
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void misfits_are_ours(void **state) {
    (void)state;
    void (*const bad[])(struct graph *) = {
        matmul_of_other_columns,    matmul_of_ids,
        bias_of_other_columns,      weight_of_two_shapes,
        norm_that_does_not_divide,  rope_of_other_heads,
        rope_of_odd_dimensions,     rope_by_ids,
        rope_of_picked_rows,        add_of_picked_and_all_rows,
        add_of_other_columns,       columns_past_the_end,
        attention_with_k_too_wide,  heads_that_do_not_divide,
        sample_of_all_rows,         input_from_the_future,
        embed_of_positions,         pick_of_picked_rows,
        attention_over_picked_rows, weight_that_is_not_there,
        parts_of_fewer_rows,        parts_of_other_columns,
        parts_of_a_shorter_vector,  parts_that_are_no_vectors,
        weight_joined_twice,        weight_of_nothing,
        names_that_do_not_fit,      weight_names_that_do_not_fit,
        elements_of_three_bytes,
    };
    for (size_t nth = 0; nth < sizeof bad / sizeof *bad; nth++) {
        if (code_of(bad[nth]) != EXIT_WORLD) fail_msg("misfit %zu was taken", nth);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(calls_are_recorded),
        cmocka_unit_test(weights_are_joined),
        cmocka_unit_test(graphs_grow),
        cmocka_unit_test(misfits_are_ours),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
