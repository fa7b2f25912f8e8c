/* no_cuda.c - stands for the CUDA device and the wires between GPUs in a build without them: none
 * is there, so nothing else is asked of it. */
#include "device.h"
#include "wire.h"

static int no_count(void) {
    return 0;
}

const struct device_ops device_cuda = {.name = "cuda", .count = no_count};
