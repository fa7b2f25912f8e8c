/* stream.cu - memory read and copied as fast as the GPU can, and its clock: what benches compare with
 * (device.h).
 *
 * The read is a grid of blocks that stride over the bytes with loads of 16 bytes that are not kept
 * in the cache, and XOR what they see. How many blocks a processor needs to keep memory busy differs
 * from part to part, so calls take 2, 4, 8 and 16 in turn and the caller keeps the best. Laps are
 * times of events on the compute stream.
 */
#include "cuda_device.h"

enum { STREAM_THREADS = 512 };

__global__ void read_kernel(unsigned long long *sum, const uint4 *from, size_t n) {
    unsigned long long part = 0;
    size_t step = (size_t)gridDim.x * blockDim.x, at = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
#pragma unroll 8
    for (; at < n; at += step) {
        uint4 word = __ldcs(from + at);
        part ^= ((unsigned long long)word.y << 32 | word.x) ^
                ((unsigned long long)word.w << 32 | word.z);
    }
    for (int apart = 16; apart > 0; apart /= 2)
        part ^= __shfl_xor_sync(0xffffffff, part, apart);
    if (threadIdx.x % 32 == 0) atomicXor(sum, part);
}

void cuda_read_stream(struct device *device, struct buffer *sum, struct buffer *from, size_t offset,
                      size_t n_bytes) {
    REQUIRE(offset + n_bytes <= from->n_bytes, "read past the end of a buffer");
    int a_processor = 2 << device->n_streams++ % 4;
    CHECK_CUDA(cudaMemsetAsync(sum->data, 0, sizeof(uint64_t), device->stream));
    read_kernel<<<(unsigned)(device->n_processors * a_processor), STREAM_THREADS, 0,
                  device->stream>>>((unsigned long long *)sum->data,
                                    (const uint4 *)(from->data + offset), n_bytes / sizeof(uint4));
    CHECK_LAUNCH();
}

void cuda_copy(struct device *device, struct buffer *to, struct buffer *from, size_t n_bytes) {
    REQUIRE(n_bytes <= from->n_bytes && n_bytes <= to->n_bytes, "copy past the end of a buffer");
    CHECK_CUDA(cudaMemcpyAsync(to->data, from->data, n_bytes, cudaMemcpyDeviceToDevice,
                               device->stream));
}

double cuda_lap(struct device *device) {
    float ms = 0;
    bool first = device->lap_begin == NULL;
    if (first) {
        CHECK_CUDA(cudaEventCreate(&device->lap_begin));
        CHECK_CUDA(cudaEventCreate(&device->lap_end));
    }
    CHECK_CUDA(cudaEventRecord(device->lap_end, device->stream));
    CHECK_CUDA(cudaStreamSynchronize(device->stream));
    if (!first) CHECK_CUDA(cudaEventElapsedTime(&ms, device->lap_begin, device->lap_end));
    CHECK_CUDA(cudaEventRecord(device->lap_begin, device->stream));
    return ms * 1e-3;
}

void stream_close(struct device *device) {
    if (!device->lap_begin) return;
    CHECK_CUDA(cudaEventDestroy(device->lap_begin));
    CHECK_CUDA(cudaEventDestroy(device->lap_end));
}
