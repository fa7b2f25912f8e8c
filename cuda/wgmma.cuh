/* wgmma.cuh - products of Hopper's tensor cores by four warps, with both factors in shared memory.
 *
 * wgmma<WIDTH>::add: d (64, WIDTH) += a (64, 16) b (WIDTH, 16)^T, bf16 in f32. Both factors lie in
 * boxes of rows of 128 bytes that a tensor map has swizzled, and are told by describe(). Row 16 w +
 * r of d belongs to warp w; of eights of columns, d[eight] of thread (g, t) = (lane / 4, lane % 4)
 * is columns 2t and 2t + 1 of row g, and then of row g + 8.
 */
#ifndef LAMINA_WGMMA_CUH
#define LAMINA_WGMMA_CUH

#include "attend_parts.cuh"

/* Eights of rows stand eight_bytes apart, a multiple of 1024, as `p` is. 16 of K further is 2 more.
 */
__device__ __forceinline__ uint64_t describe(const void *p, int eight_bytes) {
    return (uint64_t)((shared_address(p) & 0x3ffff) >> 4) | (uint64_t)1 << 16 |
           (uint64_t)(eight_bytes >> 4) << 32 | (uint64_t)1 << 62;
}

/* Before the first add, and where registers of d were written otherwise. */
__device__ __forceinline__ void wgmma_fence() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/* All but the last N committed have read their factors and are in d. */
template <int N> __device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

template <int WIDTH> struct wgmma;

#define TWO(t)   "%" #t "0,%" #t "1"
#define FOUR(t)  TWO(t) ",%" #t "2,%" #t "3"
#define SIX(t)   FOUR(t) ",%" #t "4,%" #t "5"
#define EIGHT(t) SIX(t) ",%" #t "6,%" #t "7"
#define TEN(t)   EIGHT(t) ",%" #t "8,%" #t "9,"
#define FORTY    TEN() TEN(1) TEN(2) TEN(3)
#define EIGHTY   FORTY TEN(4) TEN(5) TEN(6) TEN(7)
#define D8(k)    "+f"(d[k][0]), "+f"(d[k][1]), "+f"(d[k][2]), "+f"(d[k][3])
#define D16(k)   D8(k), D8(k + 1)
#define D32(k)   D16(k), D16(k + 2)
#define D64(k)   D32(k), D32(k + 4)
#define D128(k)  D64(k), D64(k + 8)

/* D: WIDTH / 2 registers; A and B: the two numbers behind theirs. */
#define WGMMA(WIDTH, D, A, B, ...)                                                                 \
    template <> struct wgmma<WIDTH> {                                                              \
        static __device__ __forceinline__ void add(float (&d)[WIDTH / 8][4], uint64_t a,           \
                                                   uint64_t b) {                                   \
            asm volatile("wgmma.mma_async.sync.aligned.m64n" #WIDTH "k16.f32.bf16.bf16 {" D        \
                         "}, %" #A ", %" #B ", 1, 1, 1, 0, 0;"                                     \
                         : __VA_ARGS__                                                             \
                         : "l"(a), "l"(b));                                                        \
        }                                                                                          \
    }

WGMMA(32, TEN() SIX(1), 16, 17, D32(0));
WGMMA(48, TEN() TEN(1) FOUR(2), 24, 25, D32(0), D16(4));
WGMMA(64, TEN() TEN(1) TEN(2) TWO(3), 32, 33, D64(0));
WGMMA(80, TEN() TEN(1) TEN(2) EIGHT(3) ",%38,%39", 40, 41, D64(0), D16(8));
WGMMA(96, FORTY EIGHT(4), 48, 49, D64(0), D32(8));
WGMMA(112, FORTY TEN(4) SIX(5), 56, 57, D64(0), D32(8), D16(12));
WGMMA(128, FORTY TEN(4) TEN(5) FOUR(6), 64, 65, D128(0));
WGMMA(160, FORTY TEN(4) TEN(5) TEN(6) EIGHT(7) ",%78,%79", 80, 81, D128(0), D32(16));
WGMMA(192, EIGHTY TEN(8) SIX(9), 96, 97, D128(0), D64(16));
WGMMA(224, EIGHTY TEN(8) TEN(9) TEN(10) TWO(11), 112, 113, D128(0), D64(16), D32(24));

#undef TWO
#undef FOUR
#undef SIX
#undef EIGHT
#undef TEN
#undef FORTY
#undef EIGHTY
#undef D8
#undef D16
#undef D32
#undef D64
#undef D128
#undef WGMMA

#endif
