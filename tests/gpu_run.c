/* gpu_run.c - run a test program on the CUDA device alone: gpu_run PROGRAM [ARGUMENT...]
 *
 * The tests of device operators take every device there is; ctest's label `gpu` is for those that
 * would be nothing without one. Exit code 77, which ctest counts as skipped, where there is none.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "device.h"

int main(int argc, char **argv) {
    if (argc < 2) return 2;
    if (device_cuda.count() == 0) {
        puts("skipped: no CUDA device");
        return 77;
    }
    setenv("LAMINA_TEST_DEVICE", device_cuda.name, 1);
    execv(argv[1], argv + 1);
    perror(argv[1]);
    return 1;
}
