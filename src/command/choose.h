/* choose.h - which device a rank computes on and which wire carries messages: private to
 * src/command. The only place that names them all.
 */
#ifndef LAMINA_CHOOSE_H
#define LAMINA_CHOOSE_H

#include "options.h"
#include "topology.h"
#include "wire.h"

/* What a rank of `role` computes on, one of `n_local` on its host. */
const struct device_ops *choose_device_ops(const struct options *options, enum role role,
                                           int n_local, struct fault *fault);

/* Whether ranks have GPUs of their own, as wires between GPUs need it. */
enum gpus { GPUS_NOT_ALL, GPUS_SHARED, GPUS_OWN };

/* What carries the messages of several ranks: what the options name, else by what there is. A fault
 * says what is missing for what was named. */
const struct wire_ops *choose_wire_ops(const struct options *options, enum gpus gpus, bool one_host,
                                       struct fault *fault);

/* All wires of this program, *n of them. */
const struct wire_ops *const *choose_wires(int *n);

#endif
