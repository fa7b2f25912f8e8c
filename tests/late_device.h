/* late_device.h - a second device made of device_cpu, for attention ranks and wires: its values are
 * bf16, and like a GPU it copies for a wire when it is waited for and not before; until then the
 * memory to be sent holds nonsense. One a process. */
#ifndef LAMINA_LATE_DEVICE_H
#define LAMINA_LATE_DEVICE_H

#include "device.h"

struct device_ops late_device(void);

/* How often it has been waited for. */
int late_n_settled(void);

#endif
