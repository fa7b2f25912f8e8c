/* nccl_group.cu - a communicator of NCCL over the ranks of a group (cuda_wire.h).
 *
 * It is not blocking: every call is followed by a wait of ours, which has a deadline and a name, and
 * by none of NCCL's. NVLink multicast (NVLS) is switched off before NCCL is first called: nothing
 * here needs it, and its objects outlive a process that is killed.
 */
#include <nccl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "cuda_wire.h"

const char *nccl_version(void) {
    static char text[32];
    int code = 0;
    if (ncclGetVersion(&code) != ncclSuccess) return "unknown";
    snprintf(text, sizeof text, "%d.%d.%d", code / 10000, code / 100 % 100, code % 100);
    return text;
}

bool nccl_available(struct fault *fault) {
    int code = 0;
    setenv("NCCL_NVLS_ENABLE", "0", 1);
    if (ncclGetVersion(&code) == ncclSuccess && code == NCCL_VERSION_CODE) return true;
    return fault_user(fault,
                      "NCCL %s is installed, and this lamina was compiled for %d.%d.%d, whose "
                      "kernels it shares: install that, or compile again",
                      nccl_version(), NCCL_MAJOR, NCCL_MINOR, NCCL_PATCH);
}

int nccl_await(struct ncclComm *comm, int result, const struct wire_options *options,
               const char *what) {
    struct deadline deadline = clock_deadline(options->deadline_s);
    ncclResult_t state = (ncclResult_t)result;
    while (state == ncclInProgress) {
        if (ncclCommGetAsyncError(comm, &state) != ncclSuccess) break;
        if (state != ncclInProgress) break;
        if (clock_expired(deadline))
            check_fail("waited %g s for NCCL: %s: are all ranks alive? (--deadline)",
                       options->deadline_s, what);
        struct timespec pause = {0, 20000};
        nanosleep(&pause, NULL);
    }
    return (int)state;
}

void nccl_finish(struct ncclComm *comm, int result, const struct wire_options *options,
                 const char *what) {
    ncclResult_t state = (ncclResult_t)nccl_await(comm, result, options, what);
    if (state != ncclSuccess)
        check_fail("NCCL: %s: %s (%s)", what, ncclGetErrorString(state), ncclGetLastError(comm));
}

bool nccl_group_open(struct ncclComm **opened, const struct wire_options *options,
                     struct fault *fault) {
    const struct topology *topology = options->topology;
    ncclUniqueId id = {};
    nccl_available(fault);
    if (topology->leader && fault->kind == FAULT_NONE && ncclGetUniqueId(&id) != ncclSuccess)
        fault_world(fault, "NCCL: ncclGetUniqueId: %s", ncclGetLastError(NULL));
    if (!topology_agree(topology, fault, "NCCL's id", options->deadline_s)) return false;
    topology_broadcast(topology, &id, sizeof id, "NCCL's id", options->deadline_s);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    ncclComm_t comm = NULL;
    ncclResult_t result =
        ncclCommInitRankConfig(&comm, topology->n_ranks, id, topology->rank, &config);
    nccl_finish(comm, result, options, "opening a communicator");
    *opened = comm;
    return true;
}

void nccl_group_close(struct ncclComm *comm, const struct wire_options *options) {
    if (!comm) return;
    nccl_finish(comm, ncclCommFinalize(comm), options, "closing a communicator");
    ncclResult_t result = ncclCommDestroy(comm);
    if (result != ncclSuccess) check_fail("NCCL: ncclCommDestroy: %s", ncclGetErrorString(result));
}
