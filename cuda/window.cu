/* window.cu - memory of each rank's GPU that kernels of all ranks reach (cuda_wire.h).
 *
 * With NCCL a window is registered once, on one allocation, by NCCL_WIN_DEFAULT: other flags would
 * start its collective kernels and with them multicast. In its 2.28 the addresses at which peers'
 * memory is mapped are known to kernels only, so one asks for them, and all others take plain
 * addresses. The bytes of all ranks are rounded to the largest, as NCCL wants it.
 *
 * GIN is asked for only where some rank is outside the NVLink domain: NCCL 2.28 brings it up for
 * every device communicator across hosts, and fails where it cannot. What uses it has been compiled
 * and never run, for want of RDMA devices.
 */
#include <dirent.h>
#include <nccl.h>
#include <nccl_device.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "message.h"

static const double REGISTER_S = 20;

/* Puts and signals of one context keep their order between two ranks. A context has one network
 * device; whether more of them pay could not be measured. */
enum { GIN_CONTEXT = 0 };

struct window {
    struct wire_options options;
    unsigned char *own;
    unsigned char **of;        /* (n_ranks) */
    struct ncclComm *comm;     /* NULL: by CUDA IPC */
    ncclWindow_t registered;
    bool has_gin;
    struct ncclDevComm gin;
};

/* ---- NCCL ---------------------------------------------------------------------------------------
 */

__global__ void find_addresses(ncclWindow_t window, struct ncclTeam world, struct ncclTeam lsa,
                               unsigned char **of) {
    for (int rank = threadIdx.x; rank < world.nRanks; rank += blockDim.x)
        of[rank] = ncclTeamRankIsMember(lsa, world, rank)
                       ? (unsigned char *)ncclGetPeerPointer(window, 0, rank)
                       : NULL;
}

static void ask_addresses(struct window *window, struct device *device) {
    size_t n_bytes = (size_t)window->options.topology->n_ranks * sizeof *window->of;
    unsigned char **of;
    CHECK_CUDA(cudaMalloc((void **)&of, n_bytes));
    find_addresses<<<1, 32, 0, device->stream>>>(window->registered, ncclTeamWorld(window->comm),
                                                 ncclTeamLsa(window->comm), of);
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

/* NCCL says no more than "not supported", and where one host has a device and another has none its
 * ranks would wait for each other: so what is known without it comes first. */
static bool has_rdma_device(void) {
    DIR *folder = opendir("/sys/class/infiniband");
    bool found = false;
    if (!folder) return false;
    for (const struct dirent *entry; !found && (entry = readdir(folder));)
        found = entry->d_name[0] != '.';
    closedir(folder);
    return found;
}

static bool miss_gin(const struct topology *topology, const char *why, struct fault *fault) {
    return fault_user(fault,
                      "--wire device: the GPUs are in several NVLink domains, and between those it "
                      "needs GIN (NCCL's puts over RDMA), which host %s does not have: %s: "
                      "try --wire nccl",
                      topology->host, why);
}

/* Counts begin at 0, which the headers do not promise. */
__global__ void reset_signals(const __grid_constant__ struct ncclDevComm comm, int n) {
    ncclGin gin(comm, GIN_CONTEXT);
    for (int signal = threadIdx.x; signal < n; signal += blockDim.x)
        gin.resetSignal(signal);
}

/* Collective, with what the rank has not found before in `fault`. */
static bool open_gin(struct window *window, struct device *device, int n_signals,
                     struct fault *fault) {
    const struct wire_options *options = &window->options;
    const struct topology *topology = options->topology;
    if (!has_rdma_device()) miss_gin(topology, "no RDMA device in /sys/class/infiniband", fault);
    if (!topology_agree(topology, fault, "RDMA devices", options->deadline_s)) return false;
    struct ncclDevCommRequirements needs = {};
    needs.ginContextCount = 1;
    needs.ginSignalCount = n_signals;
    int result = ncclDevCommCreate(window->comm, &needs, &window->gin);
    if (nccl_await(window->comm, result, options, "GIN, puts over RDMA") != ncclSuccess) {
        miss_gin(topology, ncclGetLastError(window->comm), fault);
        /* The communicator can only be aborted now. The window goes with the process. */
        ncclCommAbort(window->comm);
        window->comm = NULL;
        window->own = NULL;
        return false;
    }
    window->has_gin = true;
    reset_signals<<<1, 32, 0, device->stream>>>(window->gin, n_signals);
    CHECK_LAUNCH();
    CHECK_CUDA(cudaStreamSynchronize(device->stream));
    return true;
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

static bool open_nccl(struct window *window, struct device *device, const struct window_size *size,
                      struct fault *fault) {
    const struct wire_options *options = &window->options;
    if (!nccl_group_open(&window->comm, options, fault)) return false;
    bool some_far = ncclTeamLsa(window->comm).nRanks != options->topology->n_ranks;
    size_t n_bytes = agree_bytes(options, size->n_bytes + (some_far ? size->outbox_bytes : 0));
    nccl_finish(window->comm, ncclMemAlloc((void **)&window->own, n_bytes), options,
                "memory for messages");
    CHECK_CUDA(cudaMemsetAsync(window->own, 0, n_bytes, device->stream));
    CHECK_CUDA(cudaStreamSynchronize(device->stream));
    register_own(window, n_bytes);
    if (window->registered) {
        ask_addresses(window, device);
    } else {
        fault_world(fault, "--wire device: NCCL has no symmetric memory here (it needs peer access "
                           "between all GPUs and the driver's virtual memory): try --wire nccl");
    }
    if (some_far) return open_gin(window, device, size->n_signals, fault);
    return fault->kind == FAULT_NONE;
}

/* ---- puts ---------------------------------------------------------------------------------------
 */

enum { PUT_THREADS = 128 };

/* NCCL's put waits where its queue is full, without a deadline of ours. It is not: of a slot,
 * message and lane one put at most is on its way to a peer, for the reply proves that it left. */
__global__ void __launch_bounds__(PUT_THREADS)
    put_kernel(const __grid_constant__ struct message_call call,
               const __grid_constant__ struct ncclDevComm comm, ncclWindow_t window) {
    follow_on();
    if (*(volatile int32_t *)&call.notes->n_expired) return;
    struct piece_list list = *call.list;
    ncclGin gin(comm, GIN_CONTEXT);
    /* The network reads what the kernel before this one wrote. The back ends of NCCL 2.28 take the
     * scopes of release that put is given differently, so it is released here. */
    __threadfence_system();
    for (int at = threadIdx.x; at < list.n; at += PUT_THREADS) {
        const struct piece &piece = call.piece[list.first + at];
        if (piece.put_bytes > 0)
            gin.put(ncclTeamWorld(comm), piece.peer, window, piece.put_to, window, piece.put_from,
                    piece.put_bytes, ncclGin_SignalInc{piece.signal});
    }
}

/* A signal counts the puts that have come, its shadow those that were taken. Both are in device
 * memory and change only with a message that crosses, so steps without rows for a peer and replays
 * need no word; 64 bits do not wrap. */
__global__ void __launch_bounds__(PUT_THREADS)
    await_kernel(const __grid_constant__ struct message_call call,
                 const __grid_constant__ struct ncclDevComm comm) {
    follow_on();
    struct piece_list list = *call.list;
    ncclGin gin(comm, GIN_CONTEXT);
    int64_t begin_ns = device_now_ns(), wait_ns = begin_ns;
    for (int at = threadIdx.x; at < list.n; at += PUT_THREADS) {
        const struct piece &piece = call.piece[list.first + at];
        if (piece.put_bytes == 0) continue;
        uint64_t *taken = gin.getSignalShadowPtr(piece.signal);
        unsigned n_polls = 0;
        bool here;
        do {
            here = gin.readSignal(piece.signal) > *taken;
        } while (!here && go_on(call, piece, n_polls++, &wait_ns));
        if (here) *taken += 1;
    }
    __syncthreads();
    if (threadIdx.x == 0) call.notes->waited_ns[call.message] += device_now_ns() - begin_ns;
}

void window_put(const struct window *window, struct device *device,
                const struct message_call *call) {
    launch_following(device, put_kernel, 1, PUT_THREADS, 0, *call, window->gin, window->registered);
}

void window_await(const struct window *window, struct device *device,
                  const struct message_call *call) {
    launch_following(device, await_kernel, 1, PUT_THREADS, 0, *call, window->gin);
}

/* ---- CUDA IPC -----------------------------------------------------------------------------------
 */

static bool open_ipc(struct window *window, struct device *device, const struct window_size *size) {
    const struct topology *topology = window->options.topology;
    size_t n_bytes = agree_bytes(&window->options, size->n_bytes);
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

bool window_open(struct window **opened, struct device *device, const struct wire_options *options,
                 const struct window_size *size, struct fault *fault) {
    struct window *window = (struct window *)check_alloc(1, sizeof *window);
    window->options = *options;
    window->of = (unsigned char **)check_alloc((size_t)options->topology->n_ranks,
                                               sizeof *window->of);
    *opened = window;
    bool good = shares_gpu(options, device) ? open_ipc(window, device, size)
                                            : open_nccl(window, device, size, fault);
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
        if (window->has_gin)
            nccl_finish(window->comm, ncclDevCommDestroy(window->comm, &window->gin), options,
                        "giving up GIN");
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
