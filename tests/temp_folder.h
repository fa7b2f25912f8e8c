/* temp_folder.h - a folder of a test program's own, under the folder it runs in. */
#ifndef LAMINA_TEMP_FOLDER_H
#define LAMINA_TEMP_FOLDER_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char temp_folder[64];

static inline int temp_folder_make(void **state) {
    (void)state;
    snprintf(temp_folder, sizeof temp_folder, "test_XXXXXX");
    return mkdtemp(temp_folder) ? 0 : -1;
}

static inline int temp_folder_remove(void **state) {
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -r '%s'", temp_folder);
    return system(command);
}

/* Path of `name` in the folder, valid for the next fifteen calls. */
static inline const char *temp_path(const char *name) {
    static char path[16][256];
    static unsigned next;
    char *made = path[next++ % 16];
    snprintf(made, sizeof path[0], "%s/%s", temp_folder, name);
    return made;
}

static inline const char *temp_file(const char *name, const char *text, size_t n_bytes) {
    const char *path = temp_path(name);
    FILE *file = fopen(path, "w");
    if (!file || fwrite(text, 1, n_bytes, file) != n_bytes || fclose(file) != 0) abort();
    return path;
}

#endif
