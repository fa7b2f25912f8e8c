/* cuda_wire.h - what the two wires between GPUs share: private to cuda/.
 *
 * nccl_group.cu holds a communicator of NCCL over the ranks of a group, window.cu memory of each
 * rank's GPU that kernels of all ranks write. Headers of NCCL's host are included there and in
 * wire_nccl.cu, those of its device API in window.cu alone.
 */
#ifndef LAMINA_CUDA_WIRE_H
#define LAMINA_CUDA_WIRE_H

#include "cuda_device.h"

#define _Noreturn [[noreturn]]
extern "C" {
#include "ports.h"
#include "topology.h"
#include "wire.h"
}
#undef _Noreturn

struct ncclComm;

/* ---- nccl_group.cu ---------------------------------------------------------------------------- */

/* Whether NCCL can be used: the library is of the version that this program was compiled for. */
bool nccl_available(struct fault *fault);
/* "2.28.9", of the library. */
const char *nccl_version(void);

/* Collective: a communicator over the ranks of options->topology, one GPU each. False with an
 * agreed fault where a rank has no NCCL that fits. A rank that does not come within the deadline,
 * and whatever else NCCL refuses (two ranks on one GPU, say), ends the job. */
bool nccl_group_open(struct ncclComm **comm, const struct wire_options *options,
                     struct fault *fault);
/* Collective; NULL does nothing. */
void nccl_group_close(struct ncclComm *comm, const struct wire_options *options);
/* Wait until a call that returned `result` is done, for NCCL's calls do not block here; returns
 * what came of it. `what` names it where it takes longer than the deadline, which ends the job. */
int nccl_await(struct ncclComm *comm, int result, const struct wire_options *options,
               const char *what);
/* Likewise, and a failure ends the job too. */
void nccl_finish(struct ncclComm *comm, int result, const struct wire_options *options,
                 const char *what);

/* ---- window.cu -------------------------------------------------------------------------------- */

/* Zeroed memory of each rank's GPU, reached by kernels of all ranks. Where each rank has a GPU of
 * its own these are windows of NCCL (nccl_device.h, LSA: loads and stores inside an NVLink domain);
 * ranks that share a GPU, as in tests, where NCCL refuses, reach each other by CUDA IPC. Ranks
 * outside the domain, on other hosts, are *far*: NCCL's GIN puts messages into their memory over
 * RDMA, out of this rank's own. */
struct window;

struct window_size {
    size_t n_bytes;      /* that a rank wants of its own */
    size_t outbox_bytes; /* ditto behind them, to put from, where some rank of the job is far */
    int n_signals;       /* counts of puts that have come, of each rank; the same on all */
};

/* Collective. A fault names what is missing: GIN, say, where there are far ranks. */
bool window_open(struct window **window, struct device *device, const struct wire_options *options,
                 const struct window_size *size, struct fault *fault);
/* Where kernels of this rank find the memory of `rank`. NULL: it is far. */
unsigned char *window_of(const struct window *window, int rank);
struct message_call;
/* Enqueue on the compute stream, where a rank has far peers: behind message_scatter, the puts of
 * the call's messages to far peers; before message_gather, a wait for those from far peers. Both
 * take what they need from the call's table. */
void window_put(const struct window *window, struct device *device,
                const struct message_call *call);
void window_await(const struct window *window, struct device *device,
                  const struct message_call *call);
/* Collective: no rank may use it any more. */
void window_close(struct window *window);

#endif
