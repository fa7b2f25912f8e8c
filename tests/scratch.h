/* scratch.h - a folder for the files that one test program makes, in the working directory (ctest
 * runs programs in the build tree), removed at the end. */
#ifndef LAMINA_SCRATCH_H
#define LAMINA_SCRATCH_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

static char scratch_folder[] = "scratch_XXXXXX";

/* Group setup and teardown for cmocka_run_group_tests. */
static inline int scratch_open(void **state) {
    (void)state;
    return mkdtemp(scratch_folder) ? 0 : -1;
}

static inline int scratch_close(void **state) {
    (void)state;
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", scratch_folder);
    return system(command);
}

/* A path in the folder; valid for the next three calls. */
static inline const char *scratch_path(const char *name) {
    static char path[4][256];
    static int next;
    next = (next + 1) % 4;
    snprintf(path[next], sizeof path[next], "%s/%s", scratch_folder, name);
    return path[next];
}

/* Replace a file. */
static inline bool scratch_write(const char *path, const void *bytes, size_t n_bytes) {
    FILE *file = fopen(path, "wb");
    bool good = file && fwrite(bytes, 1, n_bytes, file) == n_bytes;
    return file && fclose(file) == 0 && good;
}

/* All of a file, to be freed; NULL when it cannot be read. */
static inline unsigned char *scratch_read(const char *path, size_t *n_bytes) {
    *n_bytes = 0;
    FILE *file = fopen(path, "rb");
    if (!file) return NULL;
    fseek(file, 0, SEEK_END);
    *n_bytes = (size_t)ftell(file);
    rewind(file);
    unsigned char *bytes = malloc(*n_bytes + 1);
    bool good = bytes && fread(bytes, 1, *n_bytes, file) == *n_bytes;
    fclose(file);
    if (!good) free(bytes);
    return good ? bytes : NULL;
}

#endif
