/* architectures.h - which GPUs a program runs on, from what it was compiled for: private to cuda/.
 *
 * `list` is CMAKE_CUDA_ARCHITECTURES with commas between its words, a compute capability without
 * its point each and what was made for it (CUDA C++ Programming Guide, "Compute Capabilities";
 * nvcc's manual, "GPU Compilation"):
 *
 *   90a, 100a      what is of that one alone: 9.0, and 10.0
 *   100f           what is of a family: 10.0 and later ones of major 10
 *   90-real        machine code: 9.0 and later ones of major 9
 *   90, 90-virtual PTX, with or without machine code: 9.0 and all later ones
 *
 * Other words (native, all) stand for lists that only the compiler knew: whoever gives them is
 * taken at their word, and a GPU that is not among them fails at the first launch.
 */
#ifndef LAMINA_ARCHITECTURES_H
#define LAMINA_ARCHITECTURES_H

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static inline bool architecture_runs(const char *word, int major, int minor) {
    char *end;
    long of = strtol(word, &end, 10), its_major = of / 10, its_minor = of % 10;
    if (end == word) return true;
    if (*end == 'a') return major == its_major && minor == its_minor;
    if (*end == 'f' || strncmp(end, "-real", 5) == 0)
        return major == its_major && minor >= its_minor;
    return major > its_major || (major == its_major && minor >= its_minor);
}

static inline bool architectures_run(const char *list, int major, int minor) {
    for (const char *comma; (comma = strchr(list, ',')) != NULL; list = comma + 1)
        if (architecture_runs(list, major, minor)) return true;
    return architecture_runs(list, major, minor);
}

#endif
