/* budget: defaults and contradictions of the batch, what ranks hold, and KV pages, against numbers
 * worked out by hand for a model of 30 layers, 9 heads on 3 KV heads of 64. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "budget.h"
#include "graph.h"

static const struct service service = {
    .n_gaps = 30, .n_lanes = 1, .n_layers = 30, .n_heads = 9, .n_kv_heads = 3, .head_dim = 64};
static const struct layout colocated = {.model_ranks = 1, .heads = 1, .sequences = 1};
static const struct layout two = {
    .model_ranks = 1, .attention_ranks = 2, .heads = 2, .sequences = 1};
static const struct layout four = {
    .model_ranks = 1, .attention_ranks = 4, .heads = 2, .sequences = 2};

static struct options defaults(void) {
    struct options options;
    options_defaults(&options, COMMAND_GENERATE);
    return options;
}

static struct batch_limits limits_of(const struct options *options, const struct layout *layout) {
    struct batch_limits limits;
    struct fault fault = {0};
    assert_true(budget_limits(&limits, options, layout, &service, 2048, &fault));
    return limits;
}

static void batch_has_defaults(void **state) {
    (void)state;
    struct options options = defaults();
    struct batch_limits limits = limits_of(&options, &colocated);
    assert_int_equal(limits.n_slots, 1);
    assert_int_equal(limits.max_batch, 32);
    assert_int_equal(limits.max_rows, 256);
    assert_int_equal(limits.max_picked, 32);
    assert_int_equal(limits.context, 2048);
    assert_int_equal(limits.n_owners, 1);
    assert_int_equal(limits_of(&options, &two).n_slots, 2);
    assert_int_equal(limits_of(&options, &four).n_owners, 2);
    options.max_batch = 200; /* rows for the batch and as many of prompts */
    assert_int_equal(limits_of(&options, &two).max_rows, 400);
    options.max_batch = -1;
    options.max_rows = 8; /* fewer rows than the default batch: the batch gives way */
    assert_int_equal(limits_of(&options, &two).max_batch, 8);
    options.slots = 1;
    options.context = 100;
    limits = limits_of(&options, &two);
    assert_int_equal(limits.n_slots, 1);
    assert_int_equal(limits.context, 100);
}

static void refused(struct options options, const char *wanted) {
    struct batch_limits limits;
    struct fault fault = {0};
    assert_false(budget_limits(&limits, &options, &two, &service, 2048, &fault));
    assert_int_equal(fault.kind, FAULT_USER);
    assert_string_equal(fault.text, wanted);
}

static void contradictions_are_refused(void **state) {
    (void)state;
    struct options options = defaults();
    options.max_batch = 9;
    options.max_rows = 8;
    refused(options, "--max-rows 8 is less than --max-batch 9: every running sequence has a row");
    options = defaults();
    options.context = 2049;
    refused(options, "--context 2049 exceeds the model's 2048 tokens");
}

/* MPI counts the bytes of a message in an int: of Q and OUT of two KV heads on a rank, 6 heads of
 * 64 floats, 1398101 rows fit (1536 bytes each); of one, twice as many. */
static void messages_that_mpi_cannot_carry_are_refused(void **state) {
    (void)state;
    struct options options = defaults();
    struct batch_limits limits;
    struct fault fault = {0};
    options.max_rows = 1398101;
    assert_true(budget_limits(&limits, &options, &two, &service, 2048, &fault));
    options.max_rows += 1;
    refused(options, "--max-rows 1398102: a message of a step would have 2147484672 bytes, and MPI "
                     "carries at most 2147483583: at most 1398101 rows, or more head shares "
                     "(--partition)");
    struct layout three = {.model_ranks = 1, .attention_ranks = 3, .heads = 3, .sequences = 1};
    assert_true(budget_limits(&limits, &options, &three, &service, 2048, &fault));
    assert_true(budget_limits(&limits, &options, &colocated, &service, 2048, &fault));
    /* with as many KV heads as heads, and 4 bytes an element, K and V are twice as large as Q */
    struct service square = service;
    square.n_kv_heads = 9;
    options.kv_type = KV_F32;
    options.max_rows = 1000000; /* 5 heads of 9 on the first rank: 2560 bytes */
    assert_false(budget_limits(&limits, &options, &two, &square, 2048, &fault));
    assert_non_null(strstr(fault.text, "would have 2560000000 bytes"));
}

/* A device that takes a million bytes a thread, a hundred a word of the vocabulary, ten a head and
 * one a dimension of a head. */
static size_t made_up_bytes(const struct device_options *options,
                            const struct device_limits *limits) {
    return (size_t)(options->n_threads * 1000000 + limits->vocabulary * 100 + limits->n_heads * 10 +
                    limits->head_dim);
}
static const struct device_ops made_up = {.prepare_bytes = made_up_bytes};

static size_t payload_bytes(size_t most_bytes, bool comes) {
    (void)comes;
    return most_bytes;
}
static const struct wire_ops plain_wire = {.message_bytes = payload_bytes};

static void ranks_hold_their_share(void **state) {
    (void)state;
    struct options options = defaults();
    options.kv_type = KV_BF16;
    struct batch_limits limits = limits_of(&options, &two);
    struct program program = {.row_bytes = 1000, .picked_row_bytes = 3};
    struct budget_basis basis = {.program = &program,
                                 .device_ops = &made_up,
                                 .wire_ops = &plain_wire,
                                 .service = &service,
                                 .layout = &two,
                                 .limits = &limits,
                                 .weight_bytes = 1000,
                                 .vocabulary = 500,
                                 .n_threads = 3,
                                 .options = &options};
    struct budget model = budget_of_rank(&basis, 0);
    assert_int_equal(model.weight_bytes, 1100);
    assert_int_equal(model.page_bytes, 0);
    /* two slots of 256 rows of activations and packed K and V (3 heads x 2 x 64 x 2 bytes), and 32
     * picked rows; messages of Q, OUT (9 heads x 64 x 4 bytes) and KV; a header for each peer: 6
     * words, 64 sequences, 32 chunks of 4, 256 rows, 32 picks of 2 */
    int header = 4 * (6 + 64 + 32 * 4 + 256 + 32 * 2);
    assert_int_equal(model.work_bytes, 2 * (256 * (1000 + 768) + 32 * 3) +
                                           2 * (256 * (2 * 2304 + 768) + 2 * header) + 3000000 +
                                           50000);
    struct budget first = budget_of_rank(&basis, 1), second = budget_of_rank(&basis, 2);
    assert_int_equal(first.weight_bytes, 0);
    /* Q and OUT of 6 heads, K and V of 2: the values, and the messages they come and go in */
    assert_int_equal(first.work_bytes,
                     2 * 2 * 256 * (2 * 1536 + 512) + 2 * header + 3000000 + 60 + 64);
    assert_int_equal(second.work_bytes,
                     2 * 2 * 256 * (2 * 768 + 256) + 2 * header + 3000000 + 30 + 64);
    /* layers x heads x K|V x 64 tokens x 64 x 2 bytes */
    assert_int_equal(first.page_bytes, 30 * 2 * 2 * 64 * 64 * 2);
    assert_int_equal(second.page_bytes, 30 * 1 * 2 * 64 * 64 * 2);
    basis.layout = &four;
    assert_int_equal(budget_of_rank(&basis, 3).page_bytes, first.page_bytes);
    assert_int_equal(budget_of_rank(&basis, 4).page_bytes, second.page_bytes);
    basis.layout = &colocated;
    options.kv_type = KV_F32;
    assert_int_equal(budget_of_rank(&basis, 0).page_bytes, 30 * 3 * 2 * 64 * 64 * 4);
    assert_int_equal(budget_of_rank(&basis, 0).weight_bytes, 1100);
    /* no messages; K and V of 4 bytes */
    assert_int_equal(budget_of_rank(&basis, 0).work_bytes,
                     2 * (256 * (1000 + 1536) + 32 * 3) + 3000000 + 50000 + 90 + 64);
}

/* A model rank that computes in two bytes, attention ranks that do in four or two: messages follow
 * the model rank, values the rank's own device. */
static void messages_are_what_the_model_computes_in(void **state) {
    (void)state;
    struct options options = defaults();
    options.kv_type = KV_BF16;
    struct batch_limits limits = limits_of(&options, &two);
    struct service mixed = service;
    mixed.activation = ELEMENT_BF16;
    struct device_ops brief = made_up;
    brief.activation = ELEMENT_BF16;
    struct program program = {.row_bytes = 1000, .picked_row_bytes = 3};
    struct budget_basis basis = {.program = &program,
                                 .device_ops = &made_up,
                                 .wire_ops = &plain_wire,
                                 .service = &mixed,
                                 .layout = &two,
                                 .limits = &limits,
                                 .n_threads = 1,
                                 .options = &options};
    int header = 4 * (6 + 64 + 32 * 4 + 256 + 32 * 2), own = 1000000 + 60 + 64;
    /* 6 heads of 64 are 1536 bytes in f32 and 768 in bf16; K and V of 2 heads are 512 */
    assert_int_equal(budget_of_rank(&basis, 1).work_bytes,
                     2 * 256 * (2 * 1536 + 512) + 2 * 256 * (2 * 768 + 512) + 2 * header + own);
    basis.device_ops = &brief;
    assert_int_equal(budget_of_rank(&basis, 1).work_bytes,
                     2 * 256 * (2 * 768 + 512) + 2 * 256 * (2 * 768 + 512) + 2 * header + own);
    /* Q and OUT of 9 heads: 1152 bytes */
    assert_int_equal(budget_of_rank(&basis, 0).work_bytes, 2 * (256 * (1000 + 768) + 32 * 3) +
                                                               2 * 256 * (2 * 1152 + 768) +
                                                               2 * 2 * header + 1000000);
}

static void pages_follow_memory(void **state) {
    (void)state;
    struct options options = defaults();
    struct batch_limits limits = limits_of(&options, &two);
    struct budget attention = {.work_bytes = 500, .page_bytes = 100};
    struct budget model = {.weight_bytes = 600, .work_bytes = 500};
    assert_int_equal(budget_most_pages(&limits), 2 * 32 * 32); /* slots x batch x 2048 / 64 */
    assert_int_equal(budget_own_pages(&attention, &options, 1299), 7);
    assert_int_equal(budget_own_pages(&model, &options, 1101), INT32_MAX);
    assert_int_equal(budget_own_pages(&model, &options, 1100), -1);
    assert_int_equal(budget_own_pages(&attention, &options, 400), -1);
    assert_int_equal(budget_pages(&limits, &options, 7), 7);
    assert_int_equal(budget_pages(&limits, &options, INT32_MAX), 2048);
    assert_int_equal(budget_pages(&limits, &options, -1), 0);
    options.kv_memory = 350;
    assert_int_equal(budget_own_pages(&attention, &options, 1299), 3);
}

static void pages_as_asked_for(void **state) {
    (void)state;
    struct options options = defaults();
    options.kv_tokens = 1000; /* of two owners: 500 each, 7 whole pages */
    struct batch_limits limits = limits_of(&options, &four);
    struct budget attention = {.work_bytes = 500, .page_bytes = 100};
    assert_int_equal(budget_own_pages(&attention, &options, 600), INT32_MAX);
    assert_int_equal(budget_pages(&limits, &options, INT32_MAX), 7);
    options.kv_tokens = 127; /* not a page each */
    assert_int_equal(budget_pages(&limits, &options, INT32_MAX), 0);
    options.kv_tokens = INT64_MAX; /* more than can be used */
    assert_int_equal(budget_pages(&limits, &options, INT32_MAX), 2048);
    limits.max_batch = limits.context = 1 << 30; /* pages of all owners are an int */
    assert_int_equal(budget_pages(&limits, &options, INT32_MAX), INT32_MAX / 2);
}

static void more_than_there_is_does_not_fit(void **state) {
    (void)state;
    struct budget attention = {.work_bytes = 500, .page_bytes = 100};
    assert_true(budget_fits(&attention, 4, 900));
    assert_true(budget_fits(&attention, 5, 900)); /* into the tenth: 900 is nine of ten */
    assert_false(budget_fits(&attention, 6, 900));
    assert_false(budget_fits(&attention, INT32_MAX, 900));
    struct budget model = {.weight_bytes = 600, .work_bytes = 300};
    assert_true(budget_fits(&model, INT32_MAX, 900)); /* holds none of them */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(batch_has_defaults),
        cmocka_unit_test(contradictions_are_refused),
        cmocka_unit_test(messages_that_mpi_cannot_carry_are_refused),
        cmocka_unit_test(ranks_hold_their_share),
        cmocka_unit_test(messages_are_what_the_model_computes_in),
        cmocka_unit_test(pages_follow_memory),
        cmocka_unit_test(pages_as_asked_for),
        cmocka_unit_test(more_than_there_is_does_not_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
