#include "trace.h"

void trace_write_timeline(const struct topology *topology, const char *path) {
    (void)topology, (void)path;
}
