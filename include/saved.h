/* saved.h - the choices of a checkpoint, found again among the requests of a resume.
 *
 * A request is the same when its key and the hash of its body are, a choice when its prompt has the
 * same tokens; what has changed since is not found and starts afresh. One thread's, without locks.
 */
#ifndef LAMINA_SAVED_H
#define LAMINA_SAVED_H

#include "checkpoint_progress.h"
#include "generation.h"
#include "requests.h"

struct saved {
    const struct checkpoint_progress *progress; /* borrowed */
    int *order;                      /* (n_choices) choices by key and index */
    int n_found;                     /* choices whose request was looked up */
};

void saved_open(struct saved *saved, const struct checkpoint_progress *progress);
void saved_close(struct saved *saved);

/* Generations of the request, as request_prepare left it, that had begun: the first so many. Each
 * choice is counted as found, once. */
size_t saved_count(struct saved *saved, const struct request *request);

/* Give a generation that has its buffers the tokens and scores it had, where the checkpoint kept
 * some of this very prompt. False leaves it as it was. */
bool saved_give(const struct saved *saved, const struct request *request, size_t index);

#endif
