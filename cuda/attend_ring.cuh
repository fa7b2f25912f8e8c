/* attend_ring.cuh - what a ring of shared memory stages is made of on Hopper: barriers that count
 * arrivals and bytes (mbarrier), and copies that arrive on them by themselves (cp.async.bulk).
 */
#ifndef LAMINA_ATTEND_RING_CUH
#define LAMINA_ATTEND_RING_CUH

#include "attend_parts.cuh"

__device__ __forceinline__ void barrier_init(uint64_t *barrier, int n) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(n));
}

__device__ __forceinline__ void barrier_expect(uint64_t *barrier, int n_bytes) {
    asm volatile(
        "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
        "r"(n_bytes)
        : "memory");
}

__device__ __forceinline__ void barrier_arrive(uint64_t *barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
                 : "memory");
}

__device__ __forceinline__ void barrier_wait(uint64_t *barrier, unsigned parity) {
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;\n"
                 "}" ::"r"(shared_address(barrier)),
                 "r"(parity)
                 : "memory");
}

/* Global to shared; K and V are read once, so they go first from the L2. */
__device__ __forceinline__ void bulk_copy(void *to, const void *from, int n_bytes,
                                          uint64_t *barrier, uint64_t policy) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
                 "[%0], [%1], %2, [%3], %4;" ::"r"(shared_address(to)),
                 "l"(from), "r"(n_bytes), "r"(shared_address(barrier)), "l"(policy)
                 : "memory");
}

#endif
