/* mpi_5_bits.c - the contract "same tokens whatever the layout" (docs/design.md section 6) on tiny
 * random models: tokens, finishes and the bits of all log-probabilities equal those of each request
 * alone, colocated, one slot, one thread, at the same KV type.
 *
 * The fastest instruction set of this host walks the whole product of layout, KV type, slots,
 * threads, rows a step, Q-first and preemption; with the argument `whole` (label long) all of them
 * do. One of the four long prompts stands in each run, but with a row a step only in every 18th.
 * The other instruction sets, each request alone on every layout, and then quantised weights and
 * other families, have a small set of runs that holds every pair of values. Last, a sequence of
 * more than a span gives up its pages. The argument `pairs` leaves the product out.
 *
 * What a run is meant to show is looked at: that it preempted, that both slots computed.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cells.h"
#include "clock.h"
#include "make_gguf.h"
#include "mixed_requests.h"
#include "rig.h"

enum factor { LAYOUT, KV, ISA, SLOTS, THREADS, ROWS, Q_FIRST, PREEMPT, ALONE };
enum { LAYOUTS = 6, WORLD = 5, MAX_CELLS = 4000 };

static const struct {
    int heads, sequences;
    const char *name;
} layouts[LAYOUTS] = {{0, 0, "colocated"},      {1, 1, "1"},          {2, 1, "2 by heads"},
                      {1, 2, "2 by sequences"}, {3, 1, "3 by heads"}, {2, 2, "2x2"}};
static const int rows_of[] = {512, 16, 1};

/* Instruction sets of this host, the fastest first. */
static enum isa_wish isas[3];
static int n_isas;

static int rank, n_runs, n_bad;
static bool only_pairs; /* leave out the product */
static bool whole;      /* the product with every instruction set */
static int64_t n_preemptions;

/* ---- cells ------------------------------------------------------------------------------------
 */

static bool is_possible(const struct cell *cell) {
    const int *v = cell->value;
    int owners = layouts[v[LAYOUT]].sequences;
    if (v[LAYOUT] == 0 && v[Q_FIRST]) return false; /* nothing comes first without a wire */
    if (v[ALONE]) return v[SLOTS] == 0 && !v[PREEMPT];
    /* a row a step is a sequence a slot: two must meet at one owner */
    if (v[PREEMPT] && rows_of[v[ROWS]] == 1) return v[SLOTS] == 1 && owners < 2;
    return true;
}

static struct cells every_cell(void) {
    return (struct cells){.n_values = {[LAYOUT] = LAYOUTS,
                                       [KV] = 3,
                                       [ISA] = n_isas,
                                       [SLOTS] = 2,
                                       [THREADS] = 3,
                                       [ROWS] = 3,
                                       [Q_FIRST] = 2,
                                       [PREEMPT] = 2,
                                       [ALONE] = 2},
                          .possible = is_possible};
}

static void describe(const struct cell *cell, char *text, size_t size) {
    const int *v = cell->value;
    snprintf(text, size, "%s, kv %s, %s, %d slots, %d threads, %d rows, Q-first %s%s%s",
             layouts[v[LAYOUT]].name, kv_type_name((enum kv_type)v[KV]), rig_isa_name(isas[v[ISA]]),
             v[SLOTS] + 1, v[THREADS] + 1, rows_of[v[ROWS]], v[Q_FIRST] ? "off" : "on",
             v[PREEMPT] ? ", preempting" : "", v[ALONE] ? ", alone" : "");
}

/* Old and young in different slots: pages are asked for across slots. */
static bool asks_across(const struct cell *cell) {
    const int *v = cell->value;
    return v[PREEMPT] && v[SLOTS] == 1 && rows_of[v[ROWS]] == 16;
}

static struct rig_case case_of(const struct cell *cell) {
    const int *v = cell->value;
    struct rig_case what = {.kv_type = (enum kv_type)v[KV],
                            .isa = isas[v[ISA]],
                            .n_threads = v[THREADS] + 1,
                            .n_slots = v[SLOTS] + 1,
                            .max_rows = rows_of[v[ROWS]],
                            .q_first = !v[Q_FIRST]};
    what.max_batch = v[ALONE] || what.max_rows == 1 ? 1 : 8;
    if (asks_across(cell)) what.max_batch = layouts[v[LAYOUT]].sequences == 2 ? 2 : 1;
    if (v[PREEMPT]) what.n_pages = 3;
    return what;
}

/* ---- which requests a run answers -------------------------------------------------------------
 */

static int add(int *request, int n, int first, int end) {
    for (int at = first; at < end; at++)
        request[n++] = at;
    return n;
}

/* The requests of a cell; returns how many. */
static int requests_of(const struct cell *cell, bool with_long, int *request) {
    static const int longs[] = {MIXED_511, MIXED_512, MIXED_513, MIXED_1100};
    const int *v = cell->value;
    bool slow = rows_of[v[ROWS]] == 1, two = layouts[v[LAYOUT]].sequences == 2;
    int turn = v[LAYOUT] + v[KV] + v[SLOTS] + v[THREADS] + v[ROWS] + v[Q_FIRST], n = 0;
    if (v[PREEMPT] && slow) {
        n = add(request, n, MIXED_OLD_SLOW, MIXED_YOUNG_SLOW + 1);
        return add(request, n, MIXED_GREEDY, MIXED_MIN_P);
    }
    if (v[PREEMPT]) {
        n = add(request, n, MIXED_OLD, MIXED_OLD + 1 + two);
        /* prompt scores of one row a step would take the young one too long */
        int young = two || asks_across(cell) ? MIXED_YOUNG : MIXED_YOUNG_SCORED;
        n = add(request, n, young, young + 1 + two);
        return add(request, n, MIXED_GREEDY, MIXED_SHORT_END);
    }
    n = add(request, n, MIXED_GREEDY, MIXED_SHORT_END);
    if (slow) {
        request[n++] = MIXED_63 + turn % 3;
    } else {
        n = add(request, n, MIXED_63, MIXED_65 + 1);
    }
    if (with_long && (!slow || turn % 18 == 0)) request[n++] = longs[turn % 4];
    return n;
}

/* ---- one model --------------------------------------------------------------------------------
 */

struct subject {
    const char *name;
    bool with_long; /* prompts of more than 65 tokens stand among the requests */
    struct rig_model *model;
    struct rig_group group[LAYOUTS];   /* of those this rank is in */
    struct rig_list made, expected[3]; /* (MIXED_END), by KV type; the leader's */
};

static bool is_member(int layout) {
    return rank < 1 + layouts[layout].heads * layouts[layout].sequences;
}

static void expect(struct subject *subject, enum kv_type kv_type, const struct rig_wish *wish) {
    struct rig_case alone = {.kv_type = kv_type,
                             .isa = isas[0],
                             .n_threads = 1,
                             .n_slots = 1,
                             .max_batch = 1,
                             .max_rows = 512};
    struct rig_list *expected = &subject->expected[kv_type];
    rig_list_open(expected, wish, MIXED_END, subject->model->model.vocabulary);
    rig_run(&subject->group[0], &alone, expected);
}

static void open_subject(struct subject *subject, const char *name,
                         const struct make_gguf_wish *made) {
    static int comm[LAYOUTS];
    static struct rig_model model;
    struct rig_wish wish[MIXED_END];
    struct fault fault = {0};
    char path[64];
    *subject = (struct subject){.name = name, .model = rank == 0 ? &model : NULL};
    mixed_requests(wish);
    if (rank == 0) {
        snprintf(path, sizeof path, "bits_%d.gguf", (int)getpid());
        if (!make_gguf_write(made, path, &fault)) check_fail("%s", fault.text);
        rig_model_open(&model, path, MIXED_CONTEXT);
        unlink(path); /* the map keeps it */
        rig_list_open(&subject->made, wish, MIXED_END, model.model.vocabulary);
    }
    for (int layout = 0; layout < LAYOUTS; layout++) {
        int heads = layouts[layout].heads, sequences = layouts[layout].sequences;
        if (heads && !comm[layout]) comm[layout] = rig_comm(0, 1 + heads * sequences);
        if (heads > made->kv_heads || !is_member(layout)) continue;
        rig_group_open(&subject->group[layout], comm[layout], heads, sequences, subject->model);
    }
    for (int kv = 0; rank == 0 && kv < 3; kv++)
        expect(subject, (enum kv_type)kv, wish);
}

static void close_subject(struct subject *subject) {
    for (int layout = 0; layout < LAYOUTS; layout++)
        rig_group_close(&subject->group[layout]);
    if (rank != 0) return;
    rig_list_close(&subject->made);
    for (int kv = 0; kv < 3; kv++)
        rig_list_close(&subject->expected[kv]);
    rig_model_close(subject->model);
}

/* ---- runs -------------------------------------------------------------------------------------
 */

static void complain(const struct subject *subject, const char *run, const char *text) {
    printf("FAILED %s: %s: %s\n", subject->name, run, text);
    n_bad += 1;
}

/* Answer `request` as `what` says and compare. Collective over the layout's group. */
static struct rig_counts run(struct subject *subject, int layout, const struct rig_case *what,
                             const char *name, const int *request, int n) {
    struct generation *made[MIXED_END], *expected[MIXED_END];
    struct rig_list run = {n, made}, reference = {n, expected};
    char text[512];
    for (int at = 0; rank == 0 && at < n; at++) {
        made[at] = subject->made.generation[request[at]];
        expected[at] = subject->expected[what->kv_type].generation[request[at]];
    }
    struct rig_counts counts = rig_run(&subject->group[layout], what, rank == 0 ? &run : NULL);
    n_runs += 1;
    n_preemptions += counts.batch.n_preemptions;
    if (rank == 0 && !rig_list_equal(&run, &reference, text, sizeof text))
        complain(subject, name, text);
    return counts;
}

static void run_cell(struct subject *subject, const struct cell *cell) {
    struct rig_case what = case_of(cell);
    int request[MIXED_END], n = requests_of(cell, subject->with_long, request);
    char name[256];
    describe(cell, name, sizeof name);
    struct rig_counts counts = run(subject, cell->value[LAYOUT], &what, name, request, n);
    if (rank != 0) return;
    if ((counts.batch.n_preemptions > 0) != (cell->value[PREEMPT] == 1))
        complain(subject, name, "preempted, or not, against the plan");
    if (what.n_slots == 2 && (counts.n_rows[0] == 0 || counts.n_rows[1] == 0))
        complain(subject, name, "a slot had no rows");
}

/* Run cells layout by layout, so that ranks without a part sleep long instead of often. */
static void run_cells(struct subject *subject, const char *what, const struct cell *cell, int n) {
    int64_t begin = clock_now_ns();
    int before = n_runs;
    for (int layout = 0; layout < LAYOUTS; layout++) {
        for (int at = 0; at < n && is_member(layout); at++) {
            if (cell[at].value[LAYOUT] == layout) run_cell(subject, &cell[at]);
        }
        rig_wait_all();
    }
    if (rank == 0)
        printf("%-24s %-40s %4d runs, %5.1f s\n", subject->name, what, n_runs - before,
               (double)(clock_now_ns() - begin) * 1e-9);
}

/* A request longer than a span is the youngest and is computed again. */
static void run_long(struct subject *subject) {
    for (int layout = 0; layout < LAYOUTS; layout++) {
        bool two = layouts[layout].sequences == 2;
        int request[MIXED_END], n = 0;
        n = add(request, n, MIXED_OLD_LATE, MIXED_OLD_LATE + 1 + two);
        n = add(request, n, MIXED_YOUNG_LATE, MIXED_YOUNG_LATE + 1 + two);
        n = add(request, n, MIXED_LONG, MIXED_LONG + 1 + two);
        for (int variant = 0; is_member(layout) && variant < 4; variant++) {
            struct rig_case what = {.kv_type = (enum kv_type)((layout + variant) % 3),
                                    .isa = isas[0],
                                    .n_threads = 1,
                                    .n_slots = 1 + variant % 2,
                                    .max_batch = 8,
                                    .max_rows = variant < 2 ? 512 : 16,
                                    .n_pages = 12,
                                    .q_first = variant % 2 == 0};
            if (two && what.max_rows == 16 && what.n_slots == 1)
                continue; /* OLD is done too soon */
            char name[128];
            snprintf(name, sizeof name, "a long one yields: %s, %d slots, %d rows",
                     layouts[layout].name, what.n_slots, what.max_rows);
            struct rig_counts counts = run(subject, layout, &what, name, request, n);
            if (rank == 0 && counts.batch.n_preemptions == 0)
                complain(subject, name, "nothing was preempted");
        }
        rig_wait_all();
    }
}

/* The expectation itself holds what it is to show. */
static void look_at(const struct subject *subject) {
    int n_stopped = 0, n_full = 0;
    for (int request = 0; rank == 0 && request < MIXED_END; request++) {
        struct generation *generation = subject->expected[0].generation[request];
        n_stopped += atomic_load(&generation->finish) == FINISH_STOP;
        n_full += atomic_load(&generation->finish) == FINISH_LENGTH;
    }
    if (rank == 0 && (n_stopped == 0 || n_full == 0))
        complain(subject, "expectation", "no request ends by a stop id, or none by length");
}

static void test_floats(void) {
    static struct cell cell[MAX_CELLS];
    struct make_gguf_wish made = make_gguf_default();
    struct subject subject;
    open_subject(&subject, "llama F32", &made);
    subject.with_long = true;
    look_at(&subject);
    struct cells together = every_cell(), all = every_cell();
    together.n_values[ALONE] = 1;
    if (!whole) together.n_values[ISA] = 1;
    if (!only_pairs)
        run_cells(&subject, "every possible cell", cell, cells_all(&together, cell, MAX_CELLS));
    run_cells(&subject, "every pair, also alone", cell,
              cells_pairwise(&all, cell, MAX_CELLS));
    run_long(&subject);
    close_subject(&subject);
}

static bool is_small(const struct cell *cell) {
    return is_possible(cell) && layouts[cell->value[LAYOUT]].heads < 3;
}

static void test_types(const char *architecture, const char *name, const char *type) {
    static struct cell cell[MAX_CELLS];
    struct make_gguf_wish made = make_gguf_default();
    struct subject subject;
    made.architecture = architecture, made.type = type;
    made.layers = 2, made.hidden = made.ffn = 256;
    made.heads = 4, made.kv_heads = 2, made.head_dim = 64;
    made.tied = made.rope_factors = strcmp(architecture, "llama") == 0;
    open_subject(&subject, name, &made);
    struct cells all = every_cell();
    all.possible = is_small;
    run_cells(&subject, "every pair, also alone", cell,
              cells_pairwise(&all, cell, MAX_CELLS));
    close_subject(&subject);
}

int main(int argc, char **argv) {
    rank = rig_begin(&argc, &argv);
    only_pairs = argc > 1 && strcmp(argv[1], "pairs") == 0;
    whole = argc > 1 && strcmp(argv[1], "whole") == 0;
    for (int isa = ISA_WISH_AVX512; isa >= ISA_WISH_PLAIN; isa--) {
        if (rig_has_isa((enum isa_wish)isa)) isas[n_isas++] = (enum isa_wish)isa;
    }
    for (int isa = 0; rank == 0 && isa < n_isas; isa++)
        printf("instruction set: %s\n", rig_isa_name(isas[isa]));
    test_floats();
    test_types("llama", "llama, tied, mixed types", "mix");
    test_types("qwen2", "qwen2, mixed types", "mix");
    test_types("qwen3", "qwen3, mixed types", "mix");
    if (rank == 0)
        printf("%d runs, %lld preemptions, %d failures\n", n_runs, (long long)n_preemptions, n_bad);
    return rig_end(n_bad == 0);
}
