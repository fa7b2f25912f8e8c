/* late_cuda.c - takes the place of device_cuda in a lamina of its own (lamina_late), so that what
 * is said and decided of GPU ranks is tested where there is no GPU: one made-up device in the host,
 * of which 64 MiB are free and which keeps a choice of kernels. Attention ranks only: the device is
 * late_device.h's. */
#define device_cuda device_cuda_as_declared /* const there, and filled in here */
#include "../late_device.h"
#undef device_cuda

#include <stdio.h>
#include <stdlib.h>

#include "kernel_cache.h"

struct device_ops device_cuda;

static const char *version(void) {
    return "made up";
}

static int count(void) {
    return 1;
}

/* LATE_CAPABILITY: this lamina has no code for the device, whose compute capability is that. */
static bool available(const struct device_options *options, struct fault *fault) {
    const char *capability = getenv("LATE_CAPABILITY");
    (void)options;
    if (!capability) return true;
    return fault_user(fault, "late 0 has compute capability %s", capability);
}

static void identify(const struct device_options *options, char id[DEVICE_ID_BYTES]) {
    (void)options;
    snprintf(id, DEVICE_ID_BYTES, "made up");
}

static void locate(const struct device_options *options, struct device_place *place) {
    (void)options;
    *place = (struct device_place){.bus = "made:up", .n_visible = 9, .index = 3, .links = 0x126};
}

static int64_t free_bytes(const struct device_options *options) {
    (void)options;
    return 64 << 20;
}

static bool open_and_keep(struct device **device, const struct device_options *options,
                          struct fault *fault) {
    struct kernel_cache *cache = kernel_cache_open(options->cache_folder, "made up");
    struct kernel_shape shape = {1, 1, 1, 1, 1, 1, 0, 0, 0, 0};
    struct kernel_choice choice = {.kind = KERNEL_OWN};
    kernel_cache_put(cache, &shape, &choice);
    kernel_cache_close(cache);
    return device_cpu.open(device, options, fault);
}

static const char *describe(const struct device *device) {
    (void)device;
    return "late 0, made up";
}

__attribute__((constructor)) static void fill_in(void) {
    device_cuda = late_device();
    device_cuda.version = version;
    device_cuda.count = count;
    device_cuda.available = available;
    device_cuda.open = open_and_keep;
    device_cuda.identify = identify;
    device_cuda.locate = locate;
    device_cuda.free_bytes = free_bytes;
    device_cuda.describe = describe;
}
