/* checkpoint_inspect.h - `lamina inspect` of a folder of checkpoints, or of one file in it.
 *
 * Takes no lock and changes nothing, so a folder may be looked at while its job runs; then a file
 * can be gone by the time it is looked for. Prints to stdout; text from files is escaped.
 */
#ifndef LAMINA_CHECKPOINT_INSPECT_H
#define LAMINA_CHECKPOINT_INSPECT_H

#include <stdbool.h>

#include "check.h"

/* Is it a folder, or named as a file of a checkpoint is (lamina-checkpoint(5))? */
bool checkpoint_inspect_is_for(const char *path);

/* Of a folder: job and model, every checkpoint, its files, and what --resume would go on from. Of a
 * file of progress: every choice. Of a rank's KV file: every page, all of them read, which verifies
 * their checksums. All that can be read is printed; False with the world's fault where something is
 * missing or damaged, the user's where there is no manifest, for a newer format and for the file
 * that only shows a checkpoint. */
bool checkpoint_inspect(const char *path, struct fault *fault);

#endif
