/* choose.c - devices and wires by name, or by what there is. See choose.h.
 *
 * A GPU is taken unasked where every rank of the host can have one of its own, and a wire between
 * GPUs where every rank of the job has: kernels that write into each other's memory inside a host,
 * NCCL across hosts.
 */
#include "choose.h"

const struct wire_ops *const *choose_wires(int *n) {
    static const struct wire_ops *const wires[] = {&wire_mpi, &wire_nccl, &wire_device};
    *n = (int)(sizeof wires / sizeof *wires);
    return wires;
}

const struct device_ops *choose_device_ops(const struct options *options, enum role role,
                                           int n_local, struct fault *fault) {
    bool model = role == ROLE_MODEL && options->command != COMMAND_BENCH_ATTENTION;
    enum device_wish wish = model ? options->model_device : options->attention_device;
    int n_here = device_cuda.count();
    if (wish == DEVICE_WISH_CUDA && n_here == 0)
        fault_user(fault,
                   "--%s-device cuda: no GPU is visible, or this lamina was built without CUDA "
                   "(cmake --preset cuda)",
                   model ? "model" : "attention");
    bool own = n_here >= n_local;
    bool gpu = n_here > 0 && (wish == DEVICE_WISH_CUDA || (wish == DEVICE_WISH_AUTO && own));
    return gpu ? &device_cuda : &device_cpu;
}

static bool is_available(const struct wire_ops *wire) {
    struct fault ignored = {0};
    return wire->available(&device_cuda, &ignored);
}

const struct wire_ops *choose_wire_ops(const struct options *options, enum gpus gpus, bool one_host,
                                       struct fault *fault) {
    const struct wire_ops *wire = options->wire == WIRE_WISH_NCCL ? &wire_nccl : &wire_device;
    if (options->wire == WIRE_WISH_MPI) return &wire_mpi;
    if (options->wire == WIRE_WISH_AUTO) {
        if (gpus != GPUS_OWN) return &wire_mpi;
        if (one_host && is_available(&wire_device)) return &wire_device;
        return is_available(&wire_nccl) ? &wire_nccl : &wire_mpi;
    }
    if (gpus == GPUS_OWN) {
        wire->available(&device_cuda, fault);
    } else if (gpus == GPUS_SHARED) {
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
