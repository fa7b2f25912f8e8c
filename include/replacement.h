/* replacement.h - a file that is always whole: written beside its place and renamed into it.
 *
 * For what a run writes besides its answers (--status, --timeline, --trace). Readers see the file before or
 * the file after, never half of one. Links are followed once, at the beginning.
 */
#ifndef LAMINA_REPLACEMENT_H
#define LAMINA_REPLACEMENT_H

#include <stdbool.h>

#include "check.h"
#include "options.h"

/* Zeroed: not asked for. */
struct replacement {
    const char *option; /* "--status", for messages */
    char *path, *temporary;
};

/* Find the place of `name`, which `option` named; nothing is made. False with a user's fault when
 * it is no file or its folder is not there, and when it is a file that the options name for
 * something else: the model, an input, the answers. To be called when the outputs are open. */
bool replacement_find(struct replacement *replacement, const char *option, const char *name,
                      const struct options *options, struct fault *fault);
void replacement_close(struct replacement *replacement);

/* Make the new file: its descriptor, or -1 with errno. Allocates nothing, like replacement_end. */
int replacement_begin(const struct replacement *replacement);

/* Close it (-1: it is closed) and put it in its place, or with `good` false take it away. False with
 * errno. */
bool replacement_end(const struct replacement *replacement, int fd, bool good);

#endif
