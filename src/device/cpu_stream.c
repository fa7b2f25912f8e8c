/* cpu_stream.c - memory read and copied as fast as the threads can: what benches compare with.
 *
 * Each thread takes one run of the bytes, as it does of a weight. The read keeps eight sums apart,
 * so that loads wait for no addition and the compiler may use whole vectors; baseline instructions
 * are enough for that, for memory is many times slower than they are.
 */
#include <omp.h>
#include <string.h>

#include "clock.h"
#include "cpu_device.h"

enum { LINE_BYTES = 64 };

/* A thread's run of `n_bytes`, in whole lines. */
static size_t run_begin(size_t n_bytes, int thread, int n_threads) {
    size_t lines = n_bytes / LINE_BYTES, n = (size_t)n_threads;
    return (lines / n * (size_t)thread + lines % n * (size_t)thread / n) * LINE_BYTES;
}

const char *const cpu_read_ways[] = {"a run a thread", NULL};

void cpu_read_stream(struct device *device, int way, struct buffer *sum, struct buffer *from,
                     size_t offset, size_t n_bytes) {
    REQUIRE(way == 0, "no way %d of reading", way);
    REQUIRE(offset + n_bytes <= from->n_bytes, "read past the end of a buffer");
    const unsigned char *data = from->data + offset;
    uint64_t all = 0;
#pragma omp parallel num_threads(device->options.n_threads)
    {
        int thread = omp_get_thread_num(), n_threads = omp_get_num_threads();
        const unsigned char *at = data + run_begin(n_bytes, thread, n_threads);
        const unsigned char *end = data + run_begin(n_bytes, thread + 1, n_threads);
        uint64_t part[8] = {0};
        for (; at < end; at += LINE_BYTES) {
            uint64_t word[8];
            memcpy(word, at, sizeof word);
            for (int lane = 0; lane < 8; lane++)
                part[lane] ^= word[lane];
        }
        uint64_t mine = 0;
        for (int lane = 0; lane < 8; lane++)
            mine ^= part[lane];
#pragma omp atomic
        all ^= mine;
    }
    memcpy(sum->data, &all, sizeof all);
}

void cpu_copy(struct device *device, struct buffer *to, struct buffer *from, size_t n_bytes) {
    REQUIRE(n_bytes <= from->n_bytes && n_bytes <= to->n_bytes, "copy past the end of a buffer");
#pragma omp parallel num_threads(device->options.n_threads)
    {
        int thread = omp_get_thread_num(), n_threads = omp_get_num_threads();
        size_t begin = run_begin(n_bytes, thread, n_threads);
        memcpy(to->data + begin, from->data + begin,
               run_begin(n_bytes, thread + 1, n_threads) - begin);
    }
}

/* Operators return when they are done. */
double cpu_lap(struct device *device) {
    int64_t now = clock_now_ns(), before = device->lap_ns;
    device->lap_ns = now;
    return (double)(now - before) * 1e-9;
}

struct device_times cpu_times(const struct device *device) {
    (void)device;
    return (struct device_times){.waited_ns = 0, .idle_ns = -1};
}
