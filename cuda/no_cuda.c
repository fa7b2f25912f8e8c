/* no_cuda.c - stands for the CUDA device in a build without it: none is there, so nothing else is
 * asked of it. */
#include "device.h"

static int no_count(void) {
    return 0;
}

static const char *no_version(void) {
    return "not built";
}

static bool not_available(const struct device_options *options, struct fault *fault) {
    (void)options;
    return fault_user(fault, "this lamina was built without CUDA (cmake --preset cuda)");
}

const struct device_ops device_cuda = {
    .name = "cuda", .version = no_version, .count = no_count, .available = not_available};
