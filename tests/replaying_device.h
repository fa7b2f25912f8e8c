/* replaying_device.h - device_cpu that keeps runs, and wire_mpi whose calls may stand in them: what
 * a GPU does with graphs, done by writing calls down and making them again.
 *
 * Arguments are kept as they were given, so a run that is made again works on the addresses, layers
 * and numbers of rows of the first time; only what a `struct rows` holds is of the step. One device
 * and one wire a process.
 */
#ifndef LAMINA_REPLAYING_DEVICE_H
#define LAMINA_REPLAYING_DEVICE_H

#include "device.h"
#include "wire.h"

struct device_ops replaying_device(void);
struct wire_ops replaying_wire(void);

/* Since the last call: runs that were made again, and all. Forgets every run. */
struct replaying_counts {
    int n_replayed, n_runs;
};
struct replaying_counts replaying_end(void);

#endif
