/* no_cuda.c - stands for the CUDA device and the wires between GPUs in a build without them: none
 * is there, so nothing else is asked of it. */
#include "device.h"
#include "wire.h"

static int no_count(void) {
    return 0;
}

static const char *no_version(void) {
    return "not built";
}

const struct device_ops device_cuda = {.name = "cuda", .version = no_version, .count = no_count};
