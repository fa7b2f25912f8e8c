/* fuzz_kernel_cache.c - any bytes as a file of kept choices: all that is found lies in its limits.
 *
 * The input is a file without its checksum, which is put behind it here, since no fuzzer finds one.
 * A file that was taken is written again by the next run, and then holds the same.
 *
 *   fuzz_kernel_cache -max_len=4096 CORPUS tests/fuzz/kernel_cache
 */
#include <inttypes.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "device.h"
#include "kernel_cache.h"
#include "log.h"

#include "../scratch.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

static const char key[] = "fuzz";
static char path[256];
enum { HEAD_BYTES = 256, RECORD_BYTES = 120 };

static void remove_folder(void) {
    scratch_close(NULL);
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    if (scratch_open(NULL) != 0) abort();
    log_setup(LOG_QUIET, false);
    atexit(remove_folder);
    snprintf(path, sizeof path, "%s/kernels-%016" PRIx64, scratch_folder,
             XXH3_64bits(key, strlen(key)));
    return 0;
}

static bool is_within(int64_t number, int64_t least, int64_t most) {
    return number >= least && number <= most;
}

static void check_found(const struct kernel_shape *shape, const struct kernel_choice *choice) {
    bool good = shape->n_rows >= 1 && shape->n >= 1 && shape->k >= 1 &&
                shape->x_stride >= shape->k && shape->weight_stride >= shape->k &&
                shape->out_stride >= shape->n && is_within(shape->x, 0, 2) &&
                is_within(shape->weight, 0, 2) && is_within(shape->out, 0, 2) &&
                is_within(shape->epilogue, 0, 255) && is_within(choice->kind, 0, 1) &&
                is_within(choice->variant, 0, choice->kind == KERNEL_LIBRARY ? 0 : 1023) &&
                is_within(choice->workspace_bytes, 0, UINT32_MAX);
    if (!good) abort();
}

/* Every shape that stands in the input is asked for. */
static int ask_all(struct kernel_cache *cache, const uint8_t *data, size_t n_bytes) {
    int n_found = 0;
    for (size_t at = HEAD_BYTES; at + RECORD_BYTES <= n_bytes; at += RECORD_BYTES) {
        struct kernel_shape shape;
        struct kernel_choice choice;
        memcpy(&shape, data + at, sizeof shape);
        if (!kernel_cache_find(cache, &shape, &choice)) continue;
        check_found(&shape, &choice);
        kernel_cache_put(cache, &shape, &choice);
        n_found += 1;
    }
    return n_found;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
    if (n_bytes > 1 << 20) return 0;
    uint64_t sum = XXH3_64bits(data, n_bytes);
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(data, 1, n_bytes, file) != n_bytes ||
        fwrite(&sum, sizeof sum, 1, file) != 1 || fclose(file) != 0)
        abort();
    struct kernel_cache *cache = kernel_cache_open(scratch_folder, key);
    int n_found = ask_all(cache, data, n_bytes);
    kernel_cache_close(cache);
    if (n_found == 0) return 0;
    cache = kernel_cache_open(scratch_folder, key);
    if (ask_all(cache, data, n_bytes) != n_found) abort();
    kernel_cache_close(cache);
    return 0;
}
