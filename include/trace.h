/* trace.h - the recorded spans of all ranks as a picture: Chrome's trace event format, which
 * Perfetto and chrome://tracing read. */
#ifndef LAMINA_TRACE_H
#define LAMINA_TRACE_H

#include "replacement.h"
#include "topology.h"

/* Spans each rank can record: about 19 MiB. */
enum { TRACE_SPANS = 400000 };

/* Collective: every rank's spans, on the leader's clock, into `file` (the leader's; not looked at
 * elsewhere). One process a rank, in it one lane a slot and one for the start, messages as bars of
 * their own and as arrows. A file that cannot be written is logged, not fatal. */
void trace_write_timeline(const struct topology *topology, const struct replacement *file);

#endif
