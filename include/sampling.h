/* sampling.h - how one generation's tokens are chosen: vLLM's parameters, by vLLM's names.
 *
 * Order of work on a row of logits (vLLM's): bias; stop ids masked below min_tokens; repetition,
 * frequency and presence penalties; temperature; min_p; top_k; top_p; choice. Greedy skips all that
 * cannot change the argmax. Order among ids is (logit descending, id ascending) everywhere.
 * A penalty on the frequency of tokens is one fma(-penalty, count, logit) an id.
 *
 * The choice is the largest of logit + g, rounded to float32, of equal sums the lowest id. The
 * noise is counter-based, so that no batch, layout or restart can change a token: Philox 4x32-10
 * with key = seed (low word first) and counter = (id / 4, position, prompt_index, choice_index)
 * gives the word of id in place id mod 4; u = (word + 1/2) / 2^32; g = -log(-log(u)), computed in
 * double and rounded to float32.
 */
#ifndef LAMINA_SAMPLING_H
#define LAMINA_SAMPLING_H

#include <stdbool.h>
#include <stdint.h>

enum { SAMPLING_MAX_LOGPROBS = 20 };

struct logit_bias {
    int32_t id;
    float bias; /* added to the logit */
};

struct sampling {
    float temperature;        /* 0: greedy */
    float top_p;              /* in (0, 1]; 1: off */
    float min_p;              /* in [0, 1]; 0: off */
    int32_t top_k;            /* 0: off */
    float presence_penalty;   /* over generated tokens */
    float frequency_penalty;  /* over generated tokens */
    float repetition_penalty; /* over prompt and generated tokens; 1: off */
    int32_t min_tokens;       /* generated before any stop id may be chosen */
    int32_t n_logprobs;       /* -1: none wanted; else that many likeliest besides the chosen */
    uint64_t seed;
    uint32_t prompt_index, choice_index;
    int32_t n_bias, n_stop_ids;
    const struct logit_bias *bias; /* (n_bias), borrowed from the request */
    const int32_t *stop_id;        /* (n_stop_ids), rising; borrowed from the request */
};

/* Whether choosing `id` ends the generation. */
static inline bool sampling_is_stop(const struct sampling *sampling, int32_t id) {
    int32_t low = 0, high = sampling->n_stop_ids;
    while (low < high) {
        int32_t middle = low + (high - low) / 2;
        if (sampling->stop_id[middle] < id) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < sampling->n_stop_ids && sampling->stop_id[low] == id;
}

/* Log-probability of a token under the model's own logits (before bias, penalties, temperature). */
struct token_score {
    int32_t id;
    float logprob; /* natural logarithm */
    int32_t rank;  /* 1: the likeliest */
};

#endif
