/* checkpoint_inspect_parts.h - what the two halves of checkpoint_inspect share: the folder and one
 * file of it. */
#ifndef LAMINA_CHECKPOINT_INSPECT_PARTS_H
#define LAMINA_CHECKPOINT_INSPECT_PARTS_H

#include <stdbool.h>

#include "check.h"

enum { INSPECT_SHOWN = 512 };

/* `text` of a file as a terminal may have it. Returns shown. */
char *inspect_escape(char shown[INSPECT_SHOWN], const char *text);

/* Is it named as a file of a checkpoint is, and what there is in it. */
bool inspect_is_file(const char *path);
bool inspect_file(const char *path, struct fault *fault);

#endif
