/* choose.h - which device a rank computes on and which wire carries messages: private to
 * src/command. The only place that chooses among them all.
 */
#ifndef LAMINA_CHOOSE_H
#define LAMINA_CHOOSE_H

#include "options.h"
#include "topology.h"
#include "wire.h"

/* Whether a rank of `role` may compute on a GPU, as far as its options and its host say. */
bool choose_may_use_gpu(const struct options *options, enum role role);
/* What a rank of `role` computes on, which may be the processor that `device` names; `own`: no
 * other rank of the job may use that. A GPU that was asked for and cannot be is a fault; one that
 * would only be taken unasked is left with a warning. */
const struct device_ops *choose_device_ops(const struct options *options, enum role role,
                                           const struct device_options *device, bool own,
                                           struct fault *fault);

/* Whether ranks have GPUs of their own, as wires between GPUs need it. */
enum gpus { GPUS_NOT_ALL, GPUS_SHARED, GPUS_OWN };

/* What a wire is chosen by; the same on all ranks. */
struct wire_ground {
    bool alone; /* one rank and no messages; the rest is of no meaning then */
    enum gpus gpus;
    bool one_host;
    bool nccl, device; /* every rank has what the wire needs of its host */
};

/* What carries the messages of several ranks: what the options name, else by what there is; NULL
 * for a rank alone. A fault says what is missing for what was named. */
const struct wire_ops *choose_wire_ops(const struct options *options, struct wire_ground ground,
                                       struct fault *fault);

/* All wires of this program, *n of them. */
const struct wire_ops *const *choose_wires(int *n);

#endif
