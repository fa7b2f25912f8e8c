/* mixed_requests.h - the requests of the bit-equality tests: every sampling option, prompts whose
 * lengths stand around the ends of pages (64) and spans (512), and some that make others yield
 * their pages.
 *
 * All may be asked for in one run or a few of them; each is what it is whatever stands beside it.
 */
#ifndef LAMINA_MIXED_REQUESTS_H
#define LAMINA_MIXED_REQUESTS_H

#include "rig.h"

enum mixed {
    /* a few tokens, each with options of its own */
    MIXED_GREEDY,
    MIXED_TOP,
    MIXED_MIN_P,
    MIXED_BIAS,
    MIXED_CHOICE, /* the second choice of the same request */
    MIXED_STOP,
    MIXED_SCORED,
    MIXED_SHORT_END,
    /* ends of pages and spans */
    MIXED_63 = MIXED_SHORT_END,
    MIXED_64,
    MIXED_65,
    MIXED_511,
    MIXED_512,
    MIXED_513,
    MIXED_1100,
    /* Pages run out. An old sequence reaches its second page after younger ones took theirs: with
     * three pages an owner, OLD takes a page from YOUNG. */
    MIXED_OLD,
    MIXED_OLD_2,
    MIXED_YOUNG,
    MIXED_YOUNG_SCORED,
    /* the same when every sequence grows one row a step: OLD_SLOW reaches its third page */
    MIXED_OLD_SLOW,
    MIXED_YOUNG_SLOW,
    /* the youngest is a long one: twelve pages an owner */
    MIXED_OLD_LATE,
    MIXED_OLD_LATE_2,
    MIXED_YOUNG_LATE,
    MIXED_YOUNG_LATE_2,
    MIXED_LONG,
    MIXED_LONG_2,
    MIXED_END
};

enum { MIXED_CONTEXT = 1152, MIXED_STOP_IDS = 343 };

/* All wishes, (MIXED_END). */
static inline void mixed_requests(struct rig_wish *wish) {
    static int32_t every_third[MIXED_STOP_IDS];
    static const struct logit_bias bias[] = {{7, 3.5f}, {100, -100}, {1030, 4}};
    struct sampling greedy = rig_greedy();
    for (int id = 0; id < MIXED_STOP_IDS; id++)
        every_third[id] = 3 * id + 1;

    struct sampling top = greedy;
    top.temperature = 0.8f, top.top_k = 20, top.top_p = 0.9f, top.seed = 11, top.n_logprobs = 1;
    struct sampling min_p = greedy;
    min_p.temperature = 1.3f, min_p.min_p = 0.02f, min_p.seed = 0x123456789abcdefu;
    min_p.presence_penalty = 0.6f, min_p.frequency_penalty = 0.4f, min_p.n_logprobs = 20;
    struct sampling biased = greedy;
    biased.temperature = 1, biased.n_bias = 3, biased.bias = bias, biased.repetition_penalty = 1.3f;
    biased.seed = 5, biased.prompt_index = 3, biased.n_logprobs = 2;
    struct sampling choice = biased;
    choice.choice_index = 1;
    struct sampling stop = greedy;
    stop.n_stop_ids = MIXED_STOP_IDS, stop.stop_id = every_third, stop.min_tokens = 3;
    stop.n_logprobs = 0;
    struct sampling scored = greedy;
    scored.n_logprobs = 5, scored.repetition_penalty = 1.2f;
    struct sampling nucleus = greedy;
    nucleus.temperature = 0.7f, nucleus.top_p = 0.8f, nucleus.seed = 3, nucleus.n_logprobs = 0;
    struct sampling hot = greedy;
    hot.temperature = 2, hot.top_k = 5, hot.seed = 77, hot.n_logprobs = 20;
    struct sampling sparse = greedy;
    sparse.presence_penalty = 1.5f, sparse.frequency_penalty = -0.5f, sparse.n_logprobs = 3;
    struct sampling plain = greedy;
    plain.n_logprobs = 3;

    struct rig_wish all[MIXED_END] = {
        [MIXED_GREEDY] = {1, 6, 101, false, plain, NULL},
        [MIXED_TOP] = {3, 6, 102, false, top, NULL},
        [MIXED_MIN_P] = {5, 6, 103, false, min_p, NULL},
        [MIXED_BIAS] = {2, 6, 104, false, biased, NULL},
        [MIXED_CHOICE] = {2, 6, 104, false, choice, NULL},
        [MIXED_STOP] = {7, 12, 105, false, stop, NULL},
        [MIXED_SCORED] = {17, 4, 106, true, scored, NULL},
        [MIXED_63] = {63, 5, 107, false, plain, NULL},
        [MIXED_64] = {64, 4, 108, false, nucleus, NULL},
        [MIXED_65] = {65, 4, 109, true, hot, NULL},
        [MIXED_511] = {511, 5, 110, false, sparse, NULL},
        [MIXED_512] = {512, 4, 111, false, nucleus, NULL},
        [MIXED_513] = {513, 4, 112, false, min_p, NULL},
        [MIXED_1100] = {1100, 4, 113, false, top, NULL},
        [MIXED_OLD] = {44, 24, 114, false, sparse, NULL},
        [MIXED_OLD_2] = {44, 24, 115, false, top, NULL},
        [MIXED_YOUNG] = {63, 24, 116, false, min_p, NULL},
        [MIXED_YOUNG_SCORED] = {63, 24, 117, true, scored, NULL},
        [MIXED_OLD_SLOW] = {63, 67, 118, false, plain, NULL},
        [MIXED_YOUNG_SLOW] = {64, 8, 119, false, min_p, NULL},
        [MIXED_OLD_LATE] = {16, 52, 120, false, plain, NULL},
        [MIXED_OLD_LATE_2] = {16, 52, 121, false, hot, NULL},
        [MIXED_YOUNG_LATE] = {63, 50, 122, false, biased, NULL},
        [MIXED_YOUNG_LATE_2] = {63, 50, 123, false, sparse, NULL},
        [MIXED_LONG] = {511, 52, 124, false, min_p, NULL},
        [MIXED_LONG_2] = {512, 52, 125, false, sparse, NULL},
    };
    for (int request = 0; request < MIXED_END; request++)
        wish[request] = all[request];
}

#endif
