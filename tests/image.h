/* image.h - a file being built in memory, in GGUF's scalars, strings and keys.
 *
 * For files made by tests: whole models (make_gguf.h) and malformed headers by hand. Little-endian,
 * as the host is.
 */
#ifndef LAMINA_IMAGE_H
#define LAMINA_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "check.h"
#include "gguf.h"

/* Zero-initialise; image_close releases. */
struct image {
    unsigned char *byte;
    size_t n_bytes, capacity;
};

/* Append. image_room appends `n_bytes` zeros and returns them, valid until the next append. */
unsigned char *image_room(struct image *image, size_t n_bytes);
void image_put(struct image *image, const void *bytes, size_t n_bytes);
void image_u32(struct image *image, uint32_t value);
void image_u64(struct image *image, uint64_t value);
void image_f32(struct image *image, float value);
void image_string(struct image *image, const char *text);
void image_align(struct image *image, size_t alignment);

/* "GGUF", version 3 and the counts. */
void image_header(struct image *image, uint64_t n_tensors, uint64_t n_keys);

/* A key's name and kind; its value is appended next. */
void image_key(struct image *image, const char *name, enum gguf_kind kind);
void image_key_u32(struct image *image, const char *name, uint32_t value);
void image_key_f32(struct image *image, const char *name, float value);
void image_key_bool(struct image *image, const char *name, bool value);
void image_key_string(struct image *image, const char *name, const char *text);
/* An array's elements are appended next. */
void image_key_array(struct image *image, const char *name, enum gguf_kind element,
                     uint64_t n_elements);

/* The record of a tensor of one or two dimensions (rows 0: one). */
void image_tensor(struct image *image, const char *name, uint64_t columns, uint64_t rows,
                  uint32_t gguf_id, uint64_t offset);

/* Write all of it to `path`, replacing what is there. */
bool image_write(const struct image *image, const char *path, struct fault *fault);
void image_close(struct image *image);

#endif
