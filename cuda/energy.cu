/* energy.cu - what a GPU has used, as the driver's library of counters has it (device.h,
 * energy_uj).
 *
 * NVML is opened when it is asked for: it comes with the driver and not with the toolkit, so a
 * program that was linked with it would not start where there is no driver. It stays open for good,
 * for the thread that asks may outlive the device. GPUs before Volta have no such counter.
 */
#include <dlfcn.h>

#include "cuda_device.h"

/* nvml.h's nvmlReturn_t, 0 for success, and nvmlDevice_t, a pointer. */
struct nvml {
    int (*find)(const char *bus_id, void **gpu);
    int (*read_mj)(void *gpu, unsigned long long *used_mj); /* NULL: there is none */
};

static struct nvml open_nvml(void) {
    struct nvml nvml = {};
    void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library) return nvml;
    int (*init)(void) = (int (*)(void))dlsym(library, "nvmlInit_v2");
    nvml.find = (int (*)(const char *, void **))dlsym(library, "nvmlDeviceGetHandleByPciBusId_v2");
    if (!init || !nvml.find || init() != 0) return nvml;
    nvml.read_mj = (int (*)(void *, unsigned long long *))dlsym(
        library, "nvmlDeviceGetTotalEnergyConsumption");
    return nvml;
}

int64_t cuda_energy_uj(int index) {
    static const struct nvml nvml = open_nvml();
    char bus_id[32];
    int n_gpus = 0;
    void *gpu;
    unsigned long long used_mj;
    if (!nvml.read_mj || cudaGetDeviceCount(&n_gpus) != cudaSuccess || n_gpus == 0 ||
        cudaDeviceGetPCIBusId(bus_id, sizeof bus_id, index % n_gpus) != cudaSuccess ||
        nvml.find(bus_id, &gpu) != 0 || nvml.read_mj(gpu, &used_mj) != 0)
        return -1;
    return (int64_t)used_mj * 1000;
}
