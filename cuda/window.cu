/* window.cu - memory of each rank's GPU that kernels of all ranks reach (cuda_wire.h).
 *
 * With NCCL a window is registered once, on one allocation, by NCCL_WIN_DEFAULT: other flags would
 * start its collective kernels and with them multicast. In its 2.28 the addresses at which peers'
 * memory is mapped are known to kernels only, so one asks for them, and all others take plain
 * addresses. The bytes of all ranks are rounded to the largest, as NCCL wants it.
 */
#include <nccl.h>
#include <nccl_device.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cuda_wire.h"

static const double REGISTER_S = 20;

struct window {
    struct wire_options options;
    unsigned char *own;
    unsigned char **of;        /* (n_ranks) */
    struct ncclComm *comm;     /* NULL: by CUDA IPC */
    ncclWindow_t registered;
};

/* ---- NCCL ---------------------------------------------------------------------------------------
 */

__global__ void find_addresses(ncclWindow_t window, unsigned char **of, int n) {
    for (int rank = threadIdx.x; rank < n; rank += blockDim.x)
        of[rank] = (unsigned char *)ncclGetLsaPointer(window, 0, rank);
}

static void ask_addresses(struct window *window, struct device *device) {
    size_t n_bytes = (size_t)window->options.topology->n_ranks * sizeof *window->of;
    unsigned char **of;
    CHECK_CUDA(cudaMalloc((void **)&of, n_bytes));
    find_addresses<<<1, 32, 0, device->stream>>>(window->registered, of,
                                                 window->options.topology->n_ranks);
    CHECK_LAUNCH();
    CHECK_CUDA(cudaMemcpyAsync(window->of, of, n_bytes, cudaMemcpyDeviceToHost, device->stream));
    CHECK_CUDA(cudaStreamSynchronize(device->stream));
    CHECK_CUDA(cudaFree(of));
}

/* NCCL 2.28 may call a window registered while a thread of its own still does it, and where it has no
 * symmetric memory says that all went well: so the window itself is waited for, and not for long. */
static void register_own(struct window *window, size_t n_bytes) {
    struct deadline deadline = clock_deadline(REGISTER_S);
    ncclWindow_t volatile *registered = &window->registered;
    ncclResult_t result = ncclCommWindowRegister(window->comm, window->own, n_bytes,
                                                 &window->registered, NCCL_WIN_DEFAULT);
    nccl_finish(window->comm, result, &window->options, "registering a window");
    while (!*registered && !clock_expired(deadline)) {
        struct timespec pause = {0, 100000};
        nanosleep(&pause, NULL);
    }
}

static bool open_nccl(struct window *window, struct device *device, size_t n_bytes,
                      struct fault *fault) {
    const struct wire_options *options = &window->options;
    int n_ranks = options->topology->n_ranks;
    if (!nccl_group_open(&window->comm, options, fault)) return false;
    nccl_finish(window->comm, ncclMemAlloc((void **)&window->own, n_bytes), options,
                "memory for messages");
    CHECK_CUDA(cudaMemsetAsync(window->own, 0, n_bytes, device->stream));
    CHECK_CUDA(cudaStreamSynchronize(device->stream));
    register_own(window, n_bytes);
    if (!window->registered)
        return fault_world(fault, "--wire device: NCCL has no symmetric memory here (it needs peer access "
                                  "between all GPUs and the driver's virtual memory): try --wire nccl");
    int n_near = ncclTeamLsa(window->comm).nRanks;
    if (n_near != n_ranks)
        return fault_world(fault,
                           "--wire device: GPUs of %d ranks of %d are reached by loads and stores; "
                           "puts over RDMA (NCCL GIN) are not built: try --wire nccl",
                           n_near, n_ranks);
    ask_addresses(window, device);
    return true;
}

/* ---- CUDA IPC -----------------------------------------------------------------------------------
 */

static bool open_ipc(struct window *window, struct device *device, size_t n_bytes) {
    const struct topology *topology = window->options.topology;
    double seconds = window->options.deadline_s;
    cudaIpcMemHandle_t own;
    cudaIpcMemHandle_t *all =
        (cudaIpcMemHandle_t *)check_alloc((size_t)topology->n_ranks, sizeof *all);
    CHECK_CUDA(cudaMalloc((void **)&window->own, n_bytes));
    CHECK_CUDA(cudaMemsetAsync(window->own, 0, n_bytes, device->stream));
    CHECK_CUDA(cudaStreamSynchronize(device->stream));
    CHECK_CUDA(cudaIpcGetMemHandle(&own, window->own));
    topology_share(topology, &own, sizeof own, all, "handles of windows", seconds);
    for (int rank = 0; rank < topology->n_ranks; rank++) {
        if (rank == topology->rank) {
            window->of[rank] = window->own;
        } else {
            CHECK_CUDA(cudaIpcOpenMemHandle((void **)&window->of[rank], all[rank],
                                            cudaIpcMemLazyEnablePeerAccess));
        }
    }
    free(all);
    return true;
}

/* ---- either --------------------------------------------------------------------------------------
 */

static bool shares_gpu(const struct wire_options *options, struct device *device) {
    const struct topology *topology = options->topology;
    size_t n_ranks = (size_t)topology->n_ranks;
    char id[DEVICE_ID_BYTES] = "";
    char *all = (char *)check_alloc(n_ranks, DEVICE_ID_BYTES);
    bool shares = false;
    options->device_ops->identify(&device->options, id);
    topology_share(topology, id, DEVICE_ID_BYTES, all, "comparison of GPUs", options->deadline_s);
    for (size_t a = 0; a < n_ranks; a++)
        for (size_t b = 0; b < a; b++)
            shares |= memcmp(all + a * DEVICE_ID_BYTES, all + b * DEVICE_ID_BYTES,
                             DEVICE_ID_BYTES) == 0;
    free(all);
    return shares;
}

static size_t agree_bytes(const struct wire_options *options, size_t n_bytes) {
    const struct topology *topology = options->topology;
    size_t *all = (size_t *)check_alloc((size_t)topology->n_ranks, sizeof *all);
    topology_share(topology, &n_bytes, sizeof n_bytes, all, "sizes of windows",
                   options->deadline_s);
    size_t most = NCCL_WIN_REQUIRED_ALIGNMENT;
    for (int rank = 0; rank < topology->n_ranks; rank++)
        most = all[rank] > most ? all[rank] : most;
    free(all);
    return (most + NCCL_WIN_REQUIRED_ALIGNMENT - 1) / NCCL_WIN_REQUIRED_ALIGNMENT *
           NCCL_WIN_REQUIRED_ALIGNMENT;
}

bool window_open(struct window **opened, struct device *device, const struct wire_options *options,
                 size_t n_bytes, struct fault *fault) {
    struct window *window = (struct window *)check_alloc(1, sizeof *window);
    window->options = *options;
    window->of = (unsigned char **)check_alloc((size_t)options->topology->n_ranks,
                                               sizeof *window->of);
    *opened = window;
    n_bytes = agree_bytes(options, n_bytes);
    bool good = shares_gpu(options, device) ? open_ipc(window, device, n_bytes)
                                            : open_nccl(window, device, n_bytes, fault);
    /* No rank writes before all have zeroed theirs. */
    return topology_agree(options->topology, fault, "opening of windows", options->deadline_s) && good;
}

unsigned char *window_of(const struct window *window, int rank) {
    return window->of[rank];
}

void window_close(struct window *window) {
    if (!window) return;
    const struct wire_options *options = &window->options;
    struct fault fault = {};
    topology_agree(options->topology, &fault, "closing of windows", options->deadline_s);
    if (window->comm) {
        if (window->registered)
            nccl_finish(window->comm, ncclCommWindowDeregister(window->comm, window->registered),
                        options, "giving up a window");
        if (window->own)
            nccl_finish(window->comm, ncclMemFree(window->own), options, "memory for messages");
        nccl_group_close(window->comm, options);
    } else if (window->own) {
        for (int rank = 0; rank < options->topology->n_ranks; rank++)
            if (window->of[rank] && rank != options->topology->rank)
                CHECK_CUDA(cudaIpcCloseMemHandle(window->of[rank]));
        topology_agree(options->topology, &fault, "closing of windows", options->deadline_s);
        CHECK_CUDA(cudaFree(window->own));
    }
    free(window->of);
    free(window);
}
