/* no_wires.c - stands for the wires between GPUs in a build without CUDA. */
#include "wire.h"

static bool not_available(const struct device_ops *device_ops, struct fault *fault) {
    (void)device_ops;
    return fault_user(fault, "this lamina was built without CUDA (cmake --preset cuda)");
}

static const char *no_version(void) {
    return "not built";
}

const struct wire_ops wire_nccl = {
    .name = "nccl", .version = no_version, .available = not_available};
const struct wire_ops wire_device = {.name = "device", .available = not_available};
