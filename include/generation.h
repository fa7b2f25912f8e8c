/* generation.h - one choice of one prompt: the unit that decode works on.
 *
 * Made by the desk (text side, helper thread), decoded by the batch (leader's main thread), read by
 * the desk again as tokens come. Each member has one writer; the two threads meet in the atomics.
 */
#ifndef LAMINA_GENERATION_H
#define LAMINA_GENERATION_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "sampling.h"

enum finish {
    FINISH_NONE,     /* still running */
    FINISH_STOP,     /* a stop id was chosen (the last token) */
    FINISH_LENGTH,   /* max_new tokens were made */
    FINISH_CANCELLED /* the desk wanted no more (a stop string is complete) or the job stops early
                      */
};

struct generation {
    /* Written by the desk before desk_next hands it over, constant afterwards. */
    int32_t *token;            /* (n_prompt + max_new): the prompt, then what the batch appends */
    int32_t n_prompt;          /* >= 1 */
    int32_t n_cached;          /* < n_prompt: leading tokens whose K and V are taken to lie in the
                                  cache; they are not computed. 0 but in benches, which fill the
                                  cache with made-up ones */
    int32_t max_new;           /* >= 1; n_prompt + max_new <= context */
    struct sampling sampling;  /* stop_id holds every id that ends this generation */
    bool score_prompt;         /* log-probabilities of the prompt's tokens are wanted too */
    struct token_score *score; /* (n_prompt + max_new, 1 + n_logprobs): of token t in row t, the
                                  token itself first, then the likeliest; row 0 is never filled;
                                  NULL unless n_logprobs >= 0 */

    /* Of one that a checkpoint kept, likewise; zero of any other. */
    bool restored;    /* n_tokens starts with those made before */
    int32_t saved;    /* its number in the checkpoint */
    int32_t n_rows;   /* positions whose K and V were computed */
    int32_t n_scored; /* prompt tokens whose scores are known */

    /* Written by the batch. Release-store n_tokens after the token and its scores are in place. */
    _Atomic int32_t n_tokens; /* valid tokens, prompt included; starts at n_prompt */
    _Atomic int finish;       /* enum finish; no token follows one that is not FINISH_NONE */
    int64_t admitted_ns, first_token_ns, last_token_ns; /* clock_now_ns; 0 until it happens */

    /* Written by the desk. */
    _Atomic bool cancelled; /* no more tokens are wanted */
    int64_t submitted_ns;   /* when the desk had it ready */
    void *owner;            /* the desk's record */
};

/* Where the leader's generations come from: the desk, or a list (benches, tests). Each call is
 * given `of`; none of the first four waits. What they promise stands in desk.h. */
struct supply {
    struct generation *(*next)(void *of);
    bool (*exhausted)(void *of);
    int64_t (*n_ready)(void *of); /* generations that next would give now */
    void (*poke)(void *of);
    void (*wait)(void *of, double seconds);
    void *of;
};

#endif
