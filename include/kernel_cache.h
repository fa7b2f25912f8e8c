/* kernel_cache.h - which kernel was the fastest for a product, kept from run to run.
 *
 * A device that times several kernels for a shape asks here first, and leaves here what it found.
 * One file holds all that was found under one key, in which the device says what its findings
 * depend on besides the shape: processor, driver, library, its own list of kernels. What is read is
 * a hint: its numbers lie in the limits below, and whoever takes a choice still asks the library
 * whether it fits.
 *
 * Nothing here can fail a run. A file that is missing, damaged, somebody else's or of another key
 * counts as empty and is replaced; where a file cannot be written, the log says so.
 */
#ifndef LAMINA_KERNEL_CACHE_H
#define LAMINA_KERNEL_CACHE_H

#include <stdbool.h>
#include <stdint.h>

enum {
    KERNEL_KEY_BYTES = 240,     /* with the 0 at its end */
    KERNEL_CONFIG_BYTES = 64,   /* of a library's description of a kernel */
    KERNEL_MOST = 4096,         /* choices under one key */
    KERNEL_MOST_VARIANT = 1023, /* see struct kernel_choice */
};

/* out (n_rows, n) = x (n_rows, k) W^T, W (n, k). Sizes are at least 1; strides, in elements, at
 * least the columns they step over. */
struct kernel_shape {
    int32_t n_rows, n, k;
    int32_t x_stride, weight_stride, out_stride;
    int32_t x, weight, out; /* enum element */
    int32_t epilogue; /* what is done to the sums: 0 nothing, up to 255 as the device has it */
};

enum kernel_kind {
    KERNEL_LIBRARY, /* `config` describes it, for the version of the library that the key names */
    KERNEL_OWN,     /* the device's own, number `variant` of them */
    KERNEL_KINDS
};

struct kernel_choice {
    int32_t kind;            /* enum kernel_kind */
    int32_t variant;         /* 0..KERNEL_MOST_VARIANT; 0 of KERNEL_LIBRARY */
    int64_t workspace_bytes; /* that it needs, less than 4 GiB */
    unsigned char config[KERNEL_CONFIG_BYTES];
};

struct kernel_cache;

/* What `folder` has under `key`, a text for people. The folder and the one above it are made when
 * something is to be kept. NULL where `folder` is NULL: then nothing is found or kept. */
struct kernel_cache *kernel_cache_open(const char *folder, const char *key);

/* Keep what was put, beside what other processes have put meanwhile, and let go. */
void kernel_cache_close(struct kernel_cache *cache);

/* False where nothing is known of the shape; `choice` is then left alone. */
bool kernel_cache_find(const struct kernel_cache *cache, const struct kernel_shape *shape,
                       struct kernel_choice *choice);

/* Replaces what is known of the shape; dropped where there are KERNEL_MOST already. Allocates
 * nothing and touches no file. REQUIREs the limits above. */
void kernel_cache_put(struct kernel_cache *cache, const struct kernel_shape *shape,
                      const struct kernel_choice *choice);

#endif
