/* uuid.h - names that nobody else gives: of a job, of a trace.
 *
 * Version 4, which is random (RFC 9562, section 5.4).
 */
#ifndef LAMINA_UUID_H
#define LAMINA_UUID_H

#include <stdbool.h>

#include "check.h"

enum { UUID_BYTES = 37 }; /* as text, terminated */

/* False, the world's fault, where the system has no random numbers. */
bool uuid_make(char uuid[UUID_BYTES], struct fault *fault);

#endif
