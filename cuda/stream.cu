/* stream.cu - memory read and copied as fast as the GPU can, and its clock: what benches compare
 * with (device.h).
 *
 * Which way of reading keeps memory busiest differs from card to card and with the number of bytes,
 * by several per cent, so there are several and the caller keeps the best. Most are grids of blocks
 * that take pieces of the bytes in turn, each thread with some loads of 16 bytes in flight; one
 * copies pieces into a ring in shared memory, as the attention kernels do. All XOR what they see.
 * The block that arrives last hands the sum on and clears it for the next read, so that a read is
 * one launch and nothing between two of them is counted as reading. Laps are times of events on the
 * compute stream.
 */
#include "attend_ring.cuh"

/* Where blocks meet, zero between launches. */
struct meeting {
    unsigned long long sum;
    unsigned n_arrived;
};

/* ---- the ways ---------------------------------------------------------------------------------
 */

struct way {
    const char *name;
    size_t piece_bytes; /* of a block at a time; 0: an equal run for each block */
    int n_threads;
    int a_processor; /* blocks; 0: as many as there are pieces */
    int n_loads;     /* of a thread in flight; 0: the ring */
};
static constexpr struct way ways[] = {
    {"strides, 4 loads, 2 blocks of 512", 4 * 512 * 16, 512, 2, 4},
    {"strides, 8 loads, 2 blocks of 512", 8 * 512 * 16, 512, 2, 8},
    {"strides, 4 loads, 8 blocks of 512", 4 * 512 * 16, 512, 8, 4},
    {"pieces of 128 KiB, a block of 256 each", 128 << 10, 256, 0, 8},
    {"runs, 8 blocks of 256", 0, 256, 8, 4},
    {"ring of 6 x 16 KiB, 2 blocks of 256", 16 << 10, 256, 2, 0},
};
enum { WAYS = sizeof ways / sizeof *ways };

extern "C" const char *const cuda_read_ways[WAYS + 1] = {ways[0].name, ways[1].name, ways[2].name,
                                                         ways[3].name, ways[4].name, ways[5].name};
static_assert(WAYS == 6, "every way has its name in the list");

/* ---- the kernels ------------------------------------------------------------------------------
 */

__device__ __forceinline__ unsigned long long fold_word(uint4 word) {
    return ((unsigned long long)word.y << 32 | word.x) ^
           ((unsigned long long)word.w << 32 | word.z);
}

/* Every thread's part into the sum; the last block takes it out. */
__device__ void meet(struct meeting *meeting, unsigned long long *sum, unsigned long long part) {
    __shared__ bool is_last;
    for (int apart = 16; apart > 0; apart /= 2)
        part ^= __shfl_xor_sync(0xffffffff, part, apart);
    if (threadIdx.x % 32 == 0) {
        atomicXor(&meeting->sum, part);
        __threadfence();
    }
    __syncthreads();
    if (threadIdx.x == 0) is_last = atomicInc(&meeting->n_arrived, gridDim.x - 1) == gridDim.x - 1;
    __syncthreads();
    if (!is_last || threadIdx.x != 0) return;
    __threadfence();
    *sum = atomicExch(&meeting->sum, 0);
}

/* `n` and `piece` count words of 16 bytes. Unless told that two blocks of a processor are enough,
 * the compiler saves registers and keeps three loads in flight, however many are asked for. */
template <int LOADS>
__global__ void __launch_bounds__(512, 2)
    read_kernel(struct meeting *meeting, unsigned long long *sum, const uint4 *from, size_t n,
                size_t piece) {
    follow_on();
    unsigned long long part = 0;
    for (size_t first = blockIdx.x * piece; first < n; first += gridDim.x * piece) {
        size_t end = first + piece < n ? first + piece : n, at = first + threadIdx.x;
        for (; at + (LOADS - 1) * blockDim.x < end; at += LOADS * blockDim.x) {
            uint4 word[LOADS];
#pragma unroll
            for (int load = 0; load < LOADS; load++)
                word[load] = __ldcs(from + at + load * blockDim.x);
#pragma unroll
            for (int load = 0; load < LOADS; load++)
                part ^= fold_word(word[load]);
        }
        for (; at < end; at += blockDim.x)
            part ^= fold_word(__ldcs(from + at));
    }
    meet(meeting, sum, part);
}

enum { STAGES = 6, STAGE_BYTES = 16 << 10, RING_THREADS = 256 };

struct ring {
    uint4 stage[STAGES][STAGE_BYTES / sizeof(uint4)];
    uint64_t full[STAGES];
};

/* Bytes of the block's piece `at`, 0 behind its last. */
__device__ __forceinline__ int piece_bytes(size_t n_bytes, size_t at) {
    size_t first = (blockIdx.x + at * gridDim.x) * STAGE_BYTES;
    if (first >= n_bytes) return 0;
    return (int)(n_bytes - first < STAGE_BYTES ? n_bytes - first : STAGE_BYTES);
}

__device__ __forceinline__ void fetch(struct ring *ring, const unsigned char *from, size_t n_bytes,
                                      size_t at, uint64_t policy) {
    int these = piece_bytes(n_bytes, at);
    if (these == 0) return;
    uint64_t *full = &ring->full[at % STAGES];
    barrier_expect(full, these);
    bulk_copy(ring->stage[at % STAGES], from + (blockIdx.x + at * gridDim.x) * STAGE_BYTES, these,
              full, policy);
}

__global__ void __launch_bounds__(RING_THREADS, 2)
    ring_kernel(struct meeting *meeting, unsigned long long *sum, const unsigned char *from,
                size_t n_bytes) {
    extern __shared__ __align__(128) unsigned char memory[];
    struct ring *ring = (struct ring *)memory;
    uint64_t policy;
    unsigned long long part = 0;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < STAGES; stage++)
            barrier_init(&ring->full[stage], 1);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    follow_on();
    for (int at = 0; threadIdx.x == 0 && at < STAGES; at++)
        fetch(ring, from, n_bytes, at, policy);
    int these;
    for (size_t at = 0; (these = piece_bytes(n_bytes, at)) > 0; at++) {
        barrier_wait(&ring->full[at % STAGES], at / STAGES % 2);
        for (int word = threadIdx.x; word < these / (int)sizeof(uint4); word += RING_THREADS)
            part ^= fold_word(ring->stage[at % STAGES][word]);
        __syncthreads();
        if (threadIdx.x == 0) fetch(ring, from, n_bytes, at + STAGES, policy);
    }
    meet(meeting, sum, part);
}

/* ---- the operators ----------------------------------------------------------------------------
 */

static struct meeting *meeting_of(struct device *device) {
    if (device->meeting) return device->meeting;
    CHECK_CUDA(cudaMalloc((void **)&device->meeting, sizeof *device->meeting));
    CHECK_CUDA(cudaMemsetAsync(device->meeting, 0, sizeof *device->meeting, device->stream));
    CHECK_CUDA(cudaFuncSetAttribute(ring_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    sizeof(struct ring)));
    return device->meeting;
}

void cuda_read_stream(struct device *device, int number, struct buffer *sum, struct buffer *from,
                      size_t offset, size_t n_bytes) {
    REQUIRE(offset + n_bytes <= from->n_bytes, "read past the end of a buffer");
    REQUIRE(number >= 0 && number < WAYS, "no way %d of reading", number);
    const struct way *way = &ways[number];
    struct meeting *meeting = meeting_of(device);
    unsigned long long *to = (unsigned long long *)sum->data;
    const unsigned char *data = from->data + offset;
    size_t blocks = (size_t)(device->n_processors * way->a_processor);
    size_t piece = way->piece_bytes ? way->piece_bytes : (n_bytes / 16 / blocks + 1) * 16;
    if (blocks == 0) blocks = n_bytes ? (n_bytes + piece - 1) / piece : 1;
    dim3 grid((unsigned)blocks), block((unsigned)way->n_threads);
    if (way->n_loads == 0) {
        launch_following(device, ring_kernel, grid, block, sizeof(struct ring), meeting, to, data,
                         n_bytes);
    } else {
        launch_following(device, way->n_loads == 4 ? read_kernel<4> : read_kernel<8>, grid, block,
                         0, meeting, to, (const uint4 *)data, n_bytes / 16, piece / 16);
    }
}

void cuda_copy(struct device *device, struct buffer *to, struct buffer *from, size_t n_bytes) {
    REQUIRE(n_bytes <= from->n_bytes && n_bytes <= to->n_bytes, "copy past the end of a buffer");
    CHECK_CUDA(
        cudaMemcpyAsync(to->data, from->data, n_bytes, cudaMemcpyDeviceToDevice, device->stream));
}

double cuda_lap(struct device *device) {
    float ms = 0;
    bool first = device->lap_begin == NULL;
    if (first) {
        CHECK_CUDA(cudaEventCreate(&device->lap_begin));
        CHECK_CUDA(cudaEventCreate(&device->lap_end));
    }
    CHECK_CUDA(cudaEventRecord(device->lap_end, device->stream));
    wait_for_event(device, device->lap_end);
    if (!first) CHECK_CUDA(cudaEventElapsedTime(&ms, device->lap_begin, device->lap_end));
    CHECK_CUDA(cudaEventRecord(device->lap_begin, device->stream));
    return ms * 1e-3;
}

void stream_close(struct device *device) {
    if (device->meeting) CHECK_CUDA(cudaFree(device->meeting));
    if (!device->lap_begin) return;
    CHECK_CUDA(cudaEventDestroy(device->lap_begin));
    CHECK_CUDA(cudaEventDestroy(device->lap_end));
}
