/* choose.c - devices and wires by name, or by what there is. See choose.h.
 *
 * A GPU is taken unasked by a rank that need not share it, and a wire between
 * GPUs where every rank of the job has: kernels that write into each other's memory inside a host,
 * NCCL across hosts.
 */
#include "choose.h"

#include "log.h"

const struct wire_ops *const *choose_wires(int *n) {
    static const struct wire_ops *const wires[] = {&wire_mpi, &wire_nccl, &wire_device};
    *n = (int)(sizeof wires / sizeof *wires);
    return wires;
}

static enum device_wish wish_of(const struct options *options, bool model) {
    return model ? options->model_device : options->attention_device;
}

static bool is_model(const struct options *options, enum role role) {
    return role == ROLE_MODEL && options->command != COMMAND_BENCH_ATTENTION;
}

bool choose_may_use_gpu(const struct options *options, enum role role) {
    return wish_of(options, is_model(options, role)) != DEVICE_WISH_CPU && device_cuda.count() > 0;
}

const struct device_ops *choose_device_ops(const struct options *options, enum role role,
                                           const struct device_options *device, bool own,
                                           struct fault *fault) {
    bool model = is_model(options, role);
    enum device_wish wish = wish_of(options, model);
    struct fault why = {0};
    if (wish == DEVICE_WISH_CPU || (wish == DEVICE_WISH_AUTO && !own)) return &device_cpu;
    if (device_cuda.available(device, &why)) return &device_cuda;
    if (wish == DEVICE_WISH_CUDA) {
        fault_user(fault, "--%s-device cuda: %s", model ? "model" : "attention", why.text);
    } else {
        log_warning("%s: the CPU computes instead", why.text);
    }
    return &device_cpu;
}

/* What was named; NULL for auto. */
static const struct wire_ops *find_wire(enum wire_wish wish) {
    static const struct wire_ops *const wires[] = {[WIRE_WISH_AUTO] = NULL,
                                                   [WIRE_WISH_MPI] = &wire_mpi,
                                                   [WIRE_WISH_NCCL] = &wire_nccl,
                                                   [WIRE_WISH_DEVICE] = &wire_device};
    return wires[wish];
}

const struct wire_ops *choose_wire_ops(const struct options *options, struct wire_ground ground,
                                       struct fault *fault) {
    const struct wire_ops *wire = find_wire(options->wire);
    if (ground.alone) {
        if (wire)
            fault_user(fault,
                       "--wire %s needs attention ranks, and there are none: start more MPI ranks, "
                       "or leave it out",
                       wire->name);
        return NULL;
    }
    if (wire == &wire_mpi) return wire;
    if (!wire) {
        if (ground.gpus != GPUS_OWN) return &wire_mpi;
        if (ground.one_host && ground.device) return &wire_device;
        return ground.nccl ? &wire_nccl : &wire_mpi;
    }
    if (ground.gpus == GPUS_OWN) {
        wire->available(&device_cuda, fault);
    } else if (ground.gpus == GPUS_SHARED) {
        fault_user(fault,
                   "--wire %s: two ranks share a GPU: start as many ranks on a host as it has GPUs "
                   "(mpirun --map-by ppr:GPUS:node), or --wire mpi",
                   wire->name);
    } else {
        fault_user(fault,
                   "--wire %s joins GPUs, and a rank computes on its CPU: --model-device cuda "
                   "--attention-device cuda, or --wire mpi",
                   wire->name);
    }
    return wire;
}
