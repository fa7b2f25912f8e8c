/* checkpoint_progress.h - the leader's file of a checkpoint: who was in flight, and how far.
 *
 * One entry a choice (generation) of every request that is begun and not answered, with its tokens
 * and their scores; what else a request is, a resume reads from the input again. Random numbers are
 * counted by position, so the tokens are the sampler's whole state. HDF5, durable when written
 * (temporary name, fsync, rename). Every fault is the world's, but for a newer format, which is the
 * user's.
 */
#ifndef LAMINA_CHECKPOINT_PROGRESS_H
#define LAMINA_CHECKPOINT_PROGRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "check.h"
#include "requests.h"
#include "sampling.h"

struct checkpoint_choice {
    char *custom_id;           /* for people; NULL where the request has none */
    struct request_key key;    /* of the request */
    uint64_t body_hash;        /* of the request: 0 is never matched */
    int32_t index;             /* of the generation in its request */
    int32_t n_prompt;          /* tokens of the prompt */
    int32_t n_tokens;          /* known, prompt included */
    int32_t n_rows;            /* positions whose K and V are in the checkpoint; 0: none */
    int32_t owner;             /* that holds them */
    int32_t n_logprobs;        /* as in struct sampling: -1 none */
    int32_t n_scored;          /* prompt tokens 1 .. n_scored have scores; < n_prompt */
    int32_t *token;            /* (n_tokens) */
    struct token_score *score; /* (n_tokens, 1 + n_logprobs), row 0 unused; NULL without */
};

struct checkpoint_progress {
    char uuid[37], fingerprint[33]; /* of the job, of the model */
    char created[32];               /* RFC 3339, UTC */
    char isa[32];                   /* instruction set of the writing leader, or its device */
    char *options;                  /* JSON: the options that change tokens */
    int64_t number;                 /* of the checkpoint */
    uint64_t attempt;               /* at it: the same in all files that were made together */
    int64_t n_read, output_bytes;   /* lines read; bytes of answers then durable */
    double prefill_tokens_per_s;    /* measured by the run; 0: not yet */
    int n_choices;
    struct checkpoint_choice *choice; /* (n_choices) */
};

/* Write FOLDER/NAME; *n_bytes is its size. */
bool checkpoint_progress_write(const struct checkpoint_progress *progress, const char *folder,
                               const char *name, int64_t *n_bytes, struct fault *fault);
/* Read it into *progress, which
 * checkpoint_progress_close releases. Checked: counts against the sizes of the
 * data sets, tokens not negative, 0 < n_prompt <= n_tokens, 0 <= n_rows < n_tokens, 0 <= n_scored <
 * n_prompt, checksums. */
bool checkpoint_progress_read(struct checkpoint_progress *progress, const char *folder,
                              const char *name, struct fault *fault);
void checkpoint_progress_close(struct checkpoint_progress *progress);
void checkpoint_choice_close(struct checkpoint_choice *choice);

#endif
