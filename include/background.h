/* background.h - one helper thread that does one piece of work at a time, beside the loop.
 *
 * Of two checkpoints' files only one is written at a time, so one thread a process is enough, and
 * HDF5, which is not made for several threads, is called by one only. All calls by one thread.
 */
#ifndef LAMINA_BACKGROUND_H
#define LAMINA_BACKGROUND_H

#include <stdbool.h>

#include "check.h"

struct background;

/* Start the thread, with all signals blocked in it but SIGBUS. `name`: at most 15 characters. */
bool background_open(struct background **background, const char *name, struct fault *fault);

/* Let the thread call work(argument). It must be idle. */
void background_begin(struct background *background, void (*work)(void *), void *argument);

/* True when it has nothing to do; what the work wrote may then be read. */
bool background_idle(struct background *background);

/* End the thread, when it is done. NULL does nothing. */
void background_close(struct background *background);

#endif
