/* What the converter makes of the families and of graphs no family has: which slices, what is kept,
 * what comes first. Expected step lists and bytes are written out by hand. */
#include "program_walk.h"

#include <stdio.h>

#include "check.h"
#include "model.h"

enum { HIDDEN = 200, HEADS = 9, KV_HEADS = 3, HEAD_DIM = 24, FFN = 328, VOCABULARY = 1031 };

static struct model small_model(int n_layers) {
    return (struct model){
        .n_layers = n_layers,
        .hidden = HIDDEN,
        .ffn = FFN,
        .n_heads = HEADS,
        .n_kv_heads = KV_HEADS,
        .head_dim = HEAD_DIM,
        .vocabulary = VOCABULARY,
        .context = 2048,
        .n_rotated = HEAD_DIM,
        .norm_eps = 1e-5f,
        .rope_base = 10000,
        .rope_scale = 1,
        .tied = true,
    };
}

/* The slice's steps as "name name >Q name >KV <OUT ...", without the "blk.N." in front; a plus
 * between those that are fused. */
static void spell_slice(const struct program *program, int index, char *out, size_t size) {
    const struct slice *slice = &program->slice[index];
    size_t length = 0;
    int run = 0; /* steps that are left of one */
    out[0] = 0;
    for (int step = 0; step < slice->n_steps; step++) {
        const char *between = run > 0 ? "+" : step ? " " : "";
        if (run == 0) run = fusion_steps(slice->step[step].fusion);
        run -= 1;
        const char *name = program->graph->node[slice->step[step].node].name;
        const char *part = strncmp(name, "blk.", 4) == 0 ? strchr(name + 4, '.') + 1 : name;
        switch (slice->step[step].kind) {
        case STEP_COMPUTE: break;
        case STEP_ATTEND: part = "attend"; break;
        case STEP_SCATTER_Q: part = ">Q"; break;
        case STEP_PACK: part = "pack"; break;
        case STEP_SCATTER_KV: part = ">KV"; break;
        case STEP_APPEND: part = "append"; break;
        case STEP_GATHER_OUT: part = "<OUT"; break;
        }
        length += snprintf(out + length, size - length, "%s%s", between, part);
    }
}

static void assert_slice(const struct program *program, int index, const char *expected) {
    char spelled[2048];
    spell_slice(program, index, spelled, sizeof spelled);
    assert_string_equal(spelled, expected);
}

static void assert_kept(const struct program *program, int gap, const char *name, size_t bytes) {
    const struct slice *slice = &program->slice[gap];
    assert_int_equal(slice->n_kept, 1);
    assert_string_equal(program->graph->node[slice->kept[0]].name, name);
    assert_int_equal(slice->kept_bytes, bytes);
}

/* ---- families */

/* Bytes a row of the messages of each gap. */
static void assert_messages(const struct program *program, size_t q, size_t k, size_t v,
                            size_t out) {
    const struct graph *graph = program->graph;
    for (int gap = 0; gap < program->n_slices - 1; gap++) {
        assert_int_equal(program->slice[gap].n_attention, 1);
        int attention = program->slice[gap].attention[0];
        const int *qkv = graph->node[attention].input;
        assert_int_equal(graph_row_bytes(graph, qkv[0]), q);
        assert_int_equal(graph_row_bytes(graph, qkv[1]), k);
        assert_int_equal(graph_row_bytes(graph, qkv[2]), v);
        assert_int_equal(graph_row_bytes(graph, attention), out);
    }
}

/* `qkv` and `ffn`: the steps between a layer's input and its KV, and between attention and down. */
static void check_family(void (*write)(struct graph *, const struct model *), bool joins_weights,
                         const char *qkv, const char *ffn) {
    char expected[1024], ffn_half[256];
    struct model model = small_model(3);
    struct graph graph;
    struct program program;
    graph_open(&graph, (struct graph_options){.element_bytes = 4, .joins_weights = joins_weights});
    write(&graph, &model);
    assert_int_equal(graph.n_attention, 3);
    program_open(&program, &graph, false);
    assert_int_equal(program.n_slices, 4);
    snprintf(ffn_half, sizeof ffn_half, "<OUT attn_output attn_add+ffn_norm %s ffn_down ffn_add",
             ffn);
    snprintf(expected, sizeof expected, "token_embd %s", qkv);
    assert_slice(&program, 0, expected);
    snprintf(expected, sizeof expected, "%s+%s", ffn_half, qkv);
    assert_slice(&program, 1, expected);
    assert_slice(&program, 2, expected);
    snprintf(expected, sizeof expected, "%s pick output_norm output sample", ffn_half);
    assert_slice(&program, 3, expected);
    assert_kept(&program, 0, "token_embd", HIDDEN * 4);
    assert_kept(&program, 1, "blk.0.ffn_add", HIDDEN * 4);
    assert_kept(&program, 2, "blk.1.ffn_add", HIDDEN * 4);
    assert_int_equal(program.slice[3].n_kept, 0);
    assert_int_equal(program.slice[3].n_attention, 0);
    assert_messages(&program, 9 * 24 * 4, 3 * 24 * 4, 3 * 24 * 4, 9 * 24 * 4);
    walk_program(&program);
    program_close(&program);
    graph_close(&graph);
}

static void check_both(void (*write)(struct graph *, const struct model *), const char *plain,
                       const char *joined) {
    check_family(write, false, plain, "ffn_gate ffn_up ffn_swiglu");
    check_family(write, true, joined, "ffn_gate_up+ffn_gate+ffn_up+ffn_swiglu");
}

static void llama_keeps_the_residual(void **state) {
    (void)state;
    check_both(family_llama_write,
               "attn_norm attn_q attn_q_rope >Q attn_k attn_v attn_k_rope+pack >KV",
               "attn_norm attn_qkv attn_q attn_q_rope >Q attn_k attn_v attn_k_rope+pack >KV");
}

static void qwen2_keeps_the_residual(void **state) {
    (void)state;
    check_both(family_qwen2_write,
               "attn_norm attn_q attn_q_rope >Q attn_k attn_v attn_k_rope+pack >KV",
               "attn_norm attn_qkv attn_q attn_q_rope >Q attn_k attn_v attn_k_rope+pack >KV");
}

static void qwen3_keeps_the_residual(void **state) {
    (void)state;
    check_both(family_qwen3_write,
               "attn_norm attn_q attn_q_norm attn_q_rope >Q attn_k attn_v attn_k_norm "
               "attn_k_rope+pack >KV",
               "attn_norm attn_qkv attn_q attn_q_norm attn_q_rope >Q attn_k attn_v attn_k_norm "
               "attn_k_rope+pack >KV");
}

static void ropes_and_biases_are_the_familys(void **state) {
    (void)state;
    const struct {
        void (*write)(struct graph *, const struct model *);
        bool interleaved, biased, factors;
    } family[] = {
        {family_llama_write, true, false, true},
        {family_qwen2_write, false, true, false},
        {family_qwen3_write, false, false, false},
    };
    for (int which = 0; which < 3; which++) {
        struct model model = small_model(1);
        struct graph graph;
        model.rope_factors = true;
        graph_open(&graph, (struct graph_options){.element_bytes = 4});
        family[which].write(&graph, &model);
        int n_ropes = 0, n_biases = 0;
        for (int node = 0; node < graph.n_nodes; node++) {
            const struct node *made = &graph.node[node];
            if (made->bias >= 0) n_biases++;
            if (made->op != OP_ROPE) continue;
            n_ropes++;
            assert_int_equal(made->as.rope.interleaved, family[which].interleaved);
            assert_int_equal(made->as.rope.factors >= 0, family[which].factors);
        }
        assert_int_equal(n_ropes, 2);
        assert_int_equal(n_biases, family[which].biased ? 3 : 0);
        graph_close(&graph);
    }
}

static void colocated_is_the_ordinary_order(void **state) {
    (void)state;
    struct model model = small_model(1);
    struct graph graph;
    struct program program;
    graph_open(&graph, (struct graph_options){.element_bytes = 4});
    family_llama_write(&graph, &model);
    program_open(&program, &graph, true);
    assert_int_equal(program.n_slices, 1);
    assert_slice(&program, 0,
                 "token_embd attn_norm attn_q attn_k attn_v attn_q_rope+attn_k_rope+append attend "
                 "attn_output attn_add+ffn_norm ffn_gate ffn_up ffn_swiglu ffn_down ffn_add "
                 "pick output_norm output sample");
    walk_program(&program);
    program_close(&program);
    graph_close(&graph);
}

static void deeper_models_need_no_larger_arena(void **state) {
    (void)state;
    size_t row_bytes[2], picked_row_bytes[2];
    for (int deep = 0; deep < 2; deep++) {
        struct model model = small_model(deep ? 40 : 4);
        struct graph graph;
        struct program program;
        graph_open(&graph, (struct graph_options){.element_bytes = 4});
        family_llama_write(&graph, &model);
        program_open(&program, &graph, false);
        row_bytes[deep] = program.row_bytes;
        picked_row_bytes[deep] = program.picked_row_bytes;
        program_close(&program);
        graph_close(&graph);
    }
    assert_int_equal(row_bytes[0], row_bytes[1]);
    assert_int_equal(picked_row_bytes[0], picked_row_bytes[1]);
    assert_true(picked_row_bytes[0] >= VOCABULARY * 4 + 4);
}

/* ---- graphs no family has; one head of HIDDEN columns */

static const struct attention one_head = {
    .n_heads = 1, .n_kv_heads = 1, .head_dim = HIDDEN, .scale = 1};

static int matmul(struct graph *graph, const char *name, int x, int columns) {
    char weight[64];
    snprintf(weight, sizeof weight, "%s.weight", name);
    int index = graph_weight(graph, weight, columns, graph->node[x].columns);
    return graph_matmul(graph, name, x, index, -1);
}

static int norm(struct graph *graph, const char *name, int x) {
    char weight[64];
    snprintf(weight, sizeof weight, "%s.weight", name);
    int index = graph_weight(graph, weight, 1, graph->node[x].columns);
    return graph_norm(graph, name, x, index, 1e-5f);
}

static int embed(struct graph *graph) {
    graph_open(graph, (struct graph_options){.element_bytes = 4});
    int weight = graph_weight(graph, "embed.weight", VOCABULARY, HIDDEN);
    return graph_embed(graph, "embed", graph_ids(graph), weight);
}

/* Attention of x's q, k and v; names end in `number`. */
static int attend(struct graph *graph, int number, int x) {
    char name[4][48];
    const char *part[4] = {"q", "k", "v", "attention"};
    int qkv[3];
    for (int nth = 0; nth < 4; nth++) {
        snprintf(name[nth], sizeof name[nth], "%s%d", part[nth], number);
        if (nth < 3) qkv[nth] = matmul(graph, name[nth], x, HIDDEN);
    }
    return graph_attention(graph, name[3], qkv[0], qkv[1], qkv[2], one_head);
}

static void fused_qkv_is_sent_as_views(void **state) {
    (void)state;
    struct graph graph;
    struct program program;
    int x = embed(&graph);
    int fused = matmul(&graph, "qkv", norm(&graph, "norm", x), 3 * HIDDEN);
    int q = graph_columns(&graph, "q", fused, 0, HIDDEN);
    int k = graph_columns(&graph, "k", fused, HIDDEN, HIDDEN);
    int v = graph_columns(&graph, "v", fused, 2 * HIDDEN, HIDDEN);
    int out = graph_attention(&graph, "attention", q, k, v, one_head);
    graph_add(&graph, "add", x, out);
    program_open(&program, &graph, false);
    assert_int_equal(program.n_slices, 2);
    assert_slice(&program, 0, "embed norm qkv q >Q k v pack >KV");
    assert_slice(&program, 1, "<OUT add");
    assert_kept(&program, 0, "embed", HIDDEN * 4);
    assert_int_equal(program.place[v].offset, program.place[fused].offset);
    assert_int_equal(program.place[v].first_column, 2 * HIDDEN);
    assert_int_equal(program.place[v].stride, 3 * HIDDEN);
    walk_program(&program);
    program_close(&program);
    graph_close(&graph);
}

/* Attention and FFN side by side. In layer 0 they share a norm: keeping the FFN's sum with the
 * residual is cheaper than keeping residual and norm. In layer 1 the FFN has its own: the sum and
 * the residual cost the same, and the FFN runs while attention does because ties go that way. */
static void parallel_ffn_overlaps_attention(void **state) {
    (void)state;
    struct graph graph;
    struct program program;
    int x = embed(&graph);
    for (int layer = 0; layer < 2; layer++) {
        char name[48];
        snprintf(name, sizeof name, "norm%d", layer);
        int normed = norm(&graph, name, x);
        int out = attend(&graph, layer, normed);
        snprintf(name, sizeof name, "up%d", layer);
        int up = matmul(&graph, name, layer == 0 ? normed : norm(&graph, "own1", x), FFN);
        snprintf(name, sizeof name, "down%d", layer);
        int down = matmul(&graph, name, up, HIDDEN);
        snprintf(name, sizeof name, "sum%d", layer);
        int sum = graph_add(&graph, name, x, down);
        snprintf(name, sizeof name, "add%d", layer);
        x = graph_add(&graph, name, sum, out);
    }
    program_open(&program, &graph, false);
    assert_int_equal(program.n_slices, 3);
    assert_slice(&program, 0, "embed norm0 q0 >Q k0 v0 pack >KV up0 down0 sum0");
    assert_slice(&program, 1, "<OUT add0+norm1 q1 >Q k1 v1 pack >KV own1 up1 down1 sum1");
    assert_slice(&program, 2, "<OUT add1");
    assert_kept(&program, 0, "sum0", HIDDEN * 4);
    assert_kept(&program, 1, "sum1", HIDDEN * 4);
    walk_program(&program);
    program_close(&program);
    graph_close(&graph);
}

/* With a norm of its own and summed as (residual + attention) + ffn, an early FFN would be a second
 * value to keep beside the residual: the fewest bytes win over the overlap. */
static void a_second_value_is_not_kept_for_overlap(void **state) {
    (void)state;
    struct graph graph;
    struct program program;
    int x = embed(&graph);
    int out = attend(&graph, 0, norm(&graph, "norm", x));
    int ffn = matmul(&graph, "ffn", norm(&graph, "ffn_norm", x), HIDDEN);
    graph_add(&graph, "add", graph_add(&graph, "sum", x, out), ffn);
    program_open(&program, &graph, false);
    assert_slice(&program, 0, "embed norm q0 >Q k0 v0 pack >KV");
    assert_slice(&program, 1, "<OUT ffn_norm ffn sum add");
    assert_kept(&program, 0, "embed", HIDDEN * 4);
    walk_program(&program);
    program_close(&program);
    graph_close(&graph);
}

static void two_parallel_attentions_share_a_gap(void **state) {
    (void)state;
    struct graph graph;
    struct program program;
    int x = embed(&graph);
    int local = attend(&graph, 0, x);
    int global = attend(&graph, 1, x);
    graph_add(&graph, "add", graph_add(&graph, "both", local, global), x);
    program_open(&program, &graph, false);
    assert_int_equal(program.n_slices, 2);
    assert_int_equal(program.slice[0].n_attention, 2);
    assert_int_equal(program.slice[0].attention[0], local);
    assert_int_equal(program.slice[0].attention[1], global);
    assert_slice(&program, 0, "embed q0 >Q k0 v0 pack >KV q1 >Q k1 v1 pack >KV");
    assert_slice(&program, 1, "<OUT <OUT both add");
    assert_kept(&program, 0, "embed", HIDDEN * 4);
    walk_program(&program);
    program_close(&program);
    graph_close(&graph);
}

static void two_attentions_in_a_row_are_two_gaps(void **state) {
    (void)state;
    struct graph graph;
    struct program program;
    int x = embed(&graph);
    int first = attend(&graph, 0, x);
    int second = attend(&graph, 1, first);
    graph_add(&graph, "add", x, second);
    program_open(&program, &graph, false);
    assert_int_equal(program.n_slices, 3);
    assert_slice(&program, 0, "embed q0 >Q k0 v0 pack >KV");
    assert_slice(&program, 1, "<OUT q1 >Q k1 v1 pack >KV");
    assert_slice(&program, 2, "<OUT add");
    assert_kept(&program, 0, "embed", HIDDEN * 4);
    assert_kept(&program, 1, "embed", HIDDEN * 4);
    walk_program(&program);
    program_close(&program);
    graph_close(&graph);
}

/* Norms behind attention and FFN as well as in front, and on q and k. */
static void sandwich_norms_keep_the_residual(void **state) {
    (void)state;
    struct graph graph;
    struct program program;
    int x = embed(&graph);
    for (int layer = 0; layer < 2; layer++) {
        char name[9][48];
        const char *part[9] = {"pre",    "post", "add",      "pre_ffn", "gate",
                               "swiglu", "down", "post_ffn", "add_ffn"};
        for (int nth = 0; nth < 9; nth++) {
            snprintf(name[nth], sizeof name[nth], "%s%d", part[nth], layer);
        }
        int out = attend(&graph, layer, norm(&graph, name[0], x));
        x = graph_add(&graph, name[2], x, norm(&graph, name[1], out));
        int gate = matmul(&graph, name[4], norm(&graph, name[3], x), FFN);
        int down = matmul(&graph, name[6], graph_swiglu(&graph, name[5], gate, gate), HIDDEN);
        x = graph_add(&graph, name[8], x, norm(&graph, name[7], down));
    }
    program_open(&program, &graph, false);
    assert_int_equal(program.n_slices, 3);
    assert_slice(&program, 1,
                 "<OUT post0 add0+pre_ffn0 gate0 swiglu0 down0 post_ffn0 add_ffn0+pre1 q1 >Q k1 v1 "
                 "pack >KV");
    assert_kept(&program, 0, "embed", HIDDEN * 4);
    assert_kept(&program, 1, "add_ffn0", HIDDEN * 4);
    walk_program(&program);
    program_close(&program);
    graph_close(&graph);
}

/* ---- steps that are fused, and those that only look like it */

enum odd_turn { TURN_ALIKE, K_TURNS_OTHERWISE, V_IS_K, V_IS_Q, K_IS_OF_Q, K_IS_READ_AGAIN };

static void check_turn(enum odd_turn odd, const char *whole, const char *cut) {
    struct graph graph;
    struct program program;
    int x = embed(&graph), positions = graph_positions(&graph);
    struct rope rope = {1, HIDDEN, HIDDEN, false, 10000, 1, -1};
    int q = matmul(&graph, "q", x, HIDDEN), k = matmul(&graph, "k", x, HIDDEN);
    int v = matmul(&graph, "v", x, HIDDEN);
    q = graph_rope(&graph, "turned_q", q, positions, rope);
    rope.interleaved = odd == K_TURNS_OTHERWISE;
    k = graph_rope(&graph, "turned_k", odd == K_IS_OF_Q ? q : k, positions, rope);
    v = odd == V_IS_K ? k : odd == V_IS_Q ? q : v;
    int out = graph_attention(&graph, "attention", q, k, v, one_head);
    graph_add(&graph, "add", out, odd == K_IS_READ_AGAIN ? k : x);
    program_open(&program, &graph, true);
    assert_slice(&program, 0, whole);
    walk_program(&program);
    program_close(&program);
    program_open(&program, &graph, false);
    assert_slice(&program, 0, cut);
    walk_program(&program);
    program_close(&program);
    graph_close(&graph);
}

static void heads_are_fused_where_nobody_else_wants_them(void **state) {
    (void)state;
    const char *one_by_one = "embed q k v turned_q turned_k append attend add";
    check_turn(TURN_ALIKE, "embed q k v turned_q+turned_k+append attend add",
               "embed q turned_q >Q k v turned_k+pack >KV");
    check_turn(K_TURNS_OTHERWISE, one_by_one, "embed q turned_q >Q k v turned_k+pack >KV");
    check_turn(V_IS_K, one_by_one, "embed q turned_q >Q k turned_k pack >KV v");
    check_turn(V_IS_Q, one_by_one, "embed q turned_q >Q k turned_k+pack >KV v");
    check_turn(K_IS_OF_Q, one_by_one, "embed q turned_q >Q v turned_k+pack >KV k");
    check_turn(K_IS_READ_AGAIN, one_by_one, "embed q turned_q >Q k v turned_k pack >KV");
}

enum odd_gate {
    GATE_FIRST,
    UP_FIRST,
    BIASED,
    UNEQUAL,
    BOTH_READ_AGAIN,
    GATE_READ_AGAIN,
    UP_BEHIND
};

static void check_gates(enum odd_gate odd, const char *expected) {
    struct graph graph;
    struct program program;
    int x = embed(&graph), other = odd == UP_BEHIND ? matmul(&graph, "other", x, FFN) : -1;
    int weight = graph_weight(&graph, "both.weight", 2 * FFN, HIDDEN);
    int bias = odd == BIASED ? graph_weight(&graph, "both.bias", 1, 2 * FFN) : -1;
    int n = odd == UNEQUAL ? FFN / 2 : FFN;
    int both = graph_matmul(&graph, "both", x, weight, bias);
    int gate = graph_columns(&graph, "gate", both, 0, n);
    int up =
        graph_columns(&graph, "up", odd == UP_BEHIND ? other : both, odd == UP_BEHIND ? 0 : FFN, n);
    int out =
        graph_swiglu(&graph, "swiglu", odd == UP_FIRST ? up : gate, odd == UP_FIRST ? gate : up);
    if (odd == BOTH_READ_AGAIN) graph_columns(&graph, "again", both, 0, n);
    if (odd == GATE_READ_AGAIN) graph_add(&graph, "again", out, gate);
    program_open(&program, &graph, true);
    assert_slice(&program, 0, expected);
    walk_program(&program);
    program_close(&program);
    graph_close(&graph);
}

static void gates_are_fused_where_nobody_else_wants_them(void **state) {
    (void)state;
    check_gates(GATE_FIRST, "embed both+gate+up+swiglu");
    check_gates(UP_FIRST, "embed both gate up swiglu");
    check_gates(BIASED, "embed both gate up swiglu");
    check_gates(UNEQUAL, "embed both gate up swiglu");
    check_gates(BOTH_READ_AGAIN, "embed both gate up swiglu again");
    check_gates(GATE_READ_AGAIN, "embed both gate up swiglu again");
    check_gates(UP_BEHIND, "embed other both gate up swiglu");
}

/* ---- printing */

static char *print(const struct program *program, int kv_bytes, bool dot) {
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (dot) {
        program_print_dot(program, kv_bytes, out);
    } else {
        program_print(program, kv_bytes, out);
    }
    fclose(out);
    return text;
}

static void text_folds_and_counts(void **state) {
    (void)state;
    struct model model = small_model(6);
    struct graph graph;
    struct program program;
    char expected[256];
    graph_open(&graph, (struct graph_options){.element_bytes = 4});
    family_llama_write(&graph, &model);
    program_open(&program, &graph, false);
    char *text = print(&program, 2, false);
    assert_non_null(strstr(text, "slices 2..5 like slice 1"));
    assert_null(strstr(text, "\nslice 2\n"));
    assert_non_null(strstr(text, "\nslice 6\n"));
    int q = 4 * HEADS * HEAD_DIM * 6, kv = 2 * 2 * KV_HEADS * HEAD_DIM * 6;
    snprintf(expected, sizeof expected, "Q %d + KV %d + OUT %d = %d bytes", q, kv, q, 2 * q + kv);
    assert_non_null(strstr(text, expected));
    /* (2 + 2/G) e d L with G 3, e 4, d 216, L 6 */
    assert_non_null(strstr(text, "13824 at e 4"));
    assert_non_null(strstr(text, "as here"));
    assert_null(strstr(text, "not as here"));
    free(text);
    program_close(&program);
    graph_close(&graph);
}

/* The third layer's FFN is wider: neither it nor its neighbours fold. */
static void text_folds_only_what_is_alike(void **state) {
    (void)state;
    struct graph graph;
    struct program program;
    int x = embed(&graph);
    for (int layer = 0; layer < 5; layer++) {
        char name[2][48];
        snprintf(name[0], sizeof name[0], "up%d", layer);
        snprintf(name[1], sizeof name[1], "down%d", layer);
        int up = matmul(&graph, name[0], attend(&graph, layer, x), layer == 2 ? 2 * FFN : FFN);
        x = matmul(&graph, name[1], up, HIDDEN);
    }
    program_open(&program, &graph, false);
    char *text = print(&program, 2, false);
    assert_non_null(strstr(text, "\nslice 2 like slice 1\n"));
    assert_non_null(strstr(text, "\nslice 3\n"));
    assert_non_null(strstr(text, "\nslice 4\n"));
    assert_non_null(strstr(text, "\nslice 5\n"));
    free(text);
    program_close(&program);
    graph_close(&graph);
}

static void pictures_escape_names(void **state) {
    (void)state;
    struct graph graph;
    struct program program;
    int x = embed(&graph);
    int out = attend(&graph, 0, norm(&graph, "a\"b\\c\nd", x));
    graph_add(&graph, "add", x, out);
    program_open(&program, &graph, false);
    char *text = print(&program, 2, true);
    assert_non_null(strstr(text, "[label=\"a\\\"b\\\\\\\\c\\\\x0ad\\nnorm\"]"));
    assert_non_null(strstr(text, "label=\"kept 800\""));
    assert_non_null(strstr(text, "label=\"Q 800\""));
    assert_non_null(strstr(text, "label=\"K 400\""));
    assert_non_null(strstr(text, "label=\"OUT 800\""));
    free(text);
    program_close(&program);
    graph_close(&graph);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(llama_keeps_the_residual),
        cmocka_unit_test(qwen2_keeps_the_residual),
        cmocka_unit_test(qwen3_keeps_the_residual),
        cmocka_unit_test(ropes_and_biases_are_the_familys),
        cmocka_unit_test(colocated_is_the_ordinary_order),
        cmocka_unit_test(deeper_models_need_no_larger_arena),
        cmocka_unit_test(fused_qkv_is_sent_as_views),
        cmocka_unit_test(parallel_ffn_overlaps_attention),
        cmocka_unit_test(a_second_value_is_not_kept_for_overlap),
        cmocka_unit_test(two_parallel_attentions_share_a_gap),
        cmocka_unit_test(two_attentions_in_a_row_are_two_gaps),
        cmocka_unit_test(sandwich_norms_keep_the_residual),
        cmocka_unit_test(heads_are_fused_where_nobody_else_wants_them),
        cmocka_unit_test(gates_are_fused_where_nobody_else_wants_them),
        cmocka_unit_test(text_folds_and_counts),
        cmocka_unit_test(text_folds_only_what_is_alike),
        cmocka_unit_test(pictures_escape_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
