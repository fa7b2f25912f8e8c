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
/* Wait until a call that returned `result` is done, for NCCL's calls do not block here. `what`
 * names it where it fails or takes longer than the deadline, which ends the job. */
void nccl_finish(struct ncclComm *comm, int result, const struct wire_options *options,
                 const char *what);

/* ---- window.cu -------------------------------------------------------------------------------- */

/* Zeroed memory of each rank's GPU, reached by kernels of all ranks. Where each rank has a GPU of
 * its own these are windows of NCCL (nccl_device.h, LSA: loads and stores inside an NVLink domain);
 * ranks that share a GPU, as in tests, where NCCL refuses, reach each other by CUDA IPC. */
struct window;

/* Collective; every rank says how many bytes of its own it wants. A fault names what is missing. */
bool window_open(struct window **window, struct device *device, const struct wire_options *options,
                 size_t n_bytes, struct fault *fault);
/* Where kernels of this rank find the memory of `rank`. */
unsigned char *window_of(const struct window *window, int rank);
/* Collective: no rank may use it any more. */
void window_close(struct window *window);

#endif
