/* checkpoint_damage.h - a file of a checkpoint with one byte changed or its end cut off: it is
 * refused, or it reads as what was written. */
#ifndef LAMINA_CHECKPOINT_DAMAGE_H
#define LAMINA_CHECKPOINT_DAMAGE_H

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "check.h"
#include "scratch.h"

/* Whether the file could be read; what it holds is compared inside. A fault must be the world's. */
typedef bool damage_read(void);

struct damage_count {
    size_t n_bytes, n_refused;
};

/* Change each byte of scratch file `name` on its own: one bit of most, all eight of every fourth.
 */
static inline struct damage_count damage_bytes(const char *name, damage_read *read) {
    struct damage_count count = {0};
    unsigned char *bytes = scratch_read(scratch_path(name), &count.n_bytes);
    int fd = open(scratch_path(name), O_WRONLY);
    if (!bytes || fd < 0) abort();
    for (size_t place = 0; place < count.n_bytes; place++) {
        unsigned char changed = bytes[place] ^ (place % 4 == 3 ? 0xff : 1u << (place * 5 % 8));
        if (pwrite(fd, &changed, 1, (off_t)place) != 1) abort();
        count.n_refused += !read();
        if (pwrite(fd, &bytes[place], 1, (off_t)place) != 1) abort();
    }
    close(fd);
    free(bytes);
    return count;
}

/* Cut it to each `step`th length. */
static inline size_t damage_lengths(const char *name, size_t step, damage_read *read) {
    size_t n_bytes, n_read = 0;
    unsigned char *bytes = scratch_read(scratch_path(name), &n_bytes);
    for (size_t length = 0; bytes && length < n_bytes; length += step) {
        if (!scratch_write(scratch_path(name), bytes, length)) abort();
        n_read += read();
    }
    if (!bytes || !scratch_write(scratch_path(name), bytes, n_bytes)) abort();
    free(bytes);
    return n_read;
}

#endif
