/* fuzz_gguf.c - any bytes as a GGUF file: gguf_open must give one clear line or a model of which
 * everything can be read.
 *
 * An input that begins with "PART" and a 32-bit length is a model in two files: that many bytes are
 * the first, the rest the second. The files lie in memory behind names that a split model needs.
 *
 *   fuzz_gguf -max_len=4096 CORPUS tests/fuzz/gguf
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../scratch.h"
#include "../walk_gguf.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

static int part[2]; /* files in memory */
static char first_part[64];

static void remove_folder(void) {
    scratch_close(NULL);
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    if (scratch_open(NULL) != 0) abort();
    atexit(remove_folder);
    for (int at = 0; at < 2; at++) {
        char target[32], name[32];
        part[at] = memfd_create("part", 0);
        snprintf(target, sizeof target, "/proc/self/fd/%d", part[at]);
        snprintf(name, sizeof name, "m-%05d-of-00002.gguf", at + 1);
        if (part[at] < 0 || symlink(target, scratch_path(name)) != 0) abort();
    }
    snprintf(first_part, sizeof first_part, "%s", scratch_path("m-00001-of-00002.gguf"));
    return 0;
}

static void set_part(int at, const uint8_t *data, size_t n_bytes) {
    if (ftruncate(part[at], 0) != 0) abort();
    if (pwrite(part[at], data, n_bytes, 0) != (ssize_t)n_bytes) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
    size_t n_first = n_bytes, n_second = 0;
    if (n_bytes >= 8 && memcmp(data, "PART", 4) == 0) {
        uint32_t length;
        memcpy(&length, data + 4, sizeof length);
        data += 8;
        n_first = length < n_bytes - 8 ? length : n_bytes - 8;
        n_second = n_bytes - 8 - n_first;
    }
    set_part(0, data, n_first);
    set_part(1, data + n_first, n_second);

    struct gguf gguf;
    struct fault fault = {0};
    if (!gguf_open(&gguf, first_part, &fault)) {
        if (!walk_fault(&fault, scratch_folder)) abort();
        return 0;
    }
    if (!walk_gguf(&gguf)) abort();
    gguf_close(&gguf);
    return 0;
}
