/* image.c - see image.h. Appending doubles the memory; nothing is written before image_write. */
#include "image.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

unsigned char *image_room(struct image *image, size_t n_bytes) {
    if (image->capacity - image->n_bytes < n_bytes) {
        size_t capacity = 2 * (image->n_bytes + n_bytes) + 4096;
        unsigned char *grown = check_alloc(capacity, 1);
        if (image->n_bytes) memcpy(grown, image->byte, image->n_bytes);
        free(image->byte);
        image->byte = grown;
        image->capacity = capacity;
    }
    unsigned char *room = image->byte + image->n_bytes;
    memset(room, 0, n_bytes);
    image->n_bytes += n_bytes;
    return room;
}

void image_put(struct image *image, const void *bytes, size_t n_bytes) {
    memcpy(image_room(image, n_bytes), bytes, n_bytes);
}

void image_u32(struct image *image, uint32_t value) {
    image_put(image, &value, sizeof value);
}

void image_u64(struct image *image, uint64_t value) {
    image_put(image, &value, sizeof value);
}

void image_f32(struct image *image, float value) {
    image_put(image, &value, sizeof value);
}

void image_string(struct image *image, const char *text) {
    image_u64(image, strlen(text));
    image_put(image, text, strlen(text));
}

void image_align(struct image *image, size_t alignment) {
    size_t past = image->n_bytes % alignment;
    if (past) image_room(image, alignment - past);
}

void image_header(struct image *image, uint64_t n_tensors, uint64_t n_keys) {
    image_put(image, "GGUF", 4);
    image_u32(image, 3);
    image_u64(image, n_tensors);
    image_u64(image, n_keys);
}

void image_key(struct image *image, const char *name, enum gguf_kind kind) {
    image_string(image, name);
    image_u32(image, kind);
}

void image_key_u32(struct image *image, const char *name, uint32_t value) {
    image_key(image, name, GGUF_U32);
    image_u32(image, value);
}

void image_key_f32(struct image *image, const char *name, float value) {
    image_key(image, name, GGUF_F32);
    image_f32(image, value);
}

void image_key_bool(struct image *image, const char *name, bool value) {
    image_key(image, name, GGUF_BOOL);
    image_put(image, &(unsigned char){value}, 1);
}

void image_key_string(struct image *image, const char *name, const char *text) {
    image_key(image, name, GGUF_STRING);
    image_string(image, text);
}

void image_key_array(struct image *image, const char *name, enum gguf_kind element,
                     uint64_t n_elements) {
    image_key(image, name, GGUF_ARRAY);
    image_u32(image, element);
    image_u64(image, n_elements);
}

void image_tensor(struct image *image, const char *name, uint64_t columns, uint64_t rows,
                  uint32_t gguf_id, uint64_t offset) {
    image_string(image, name);
    image_u32(image, rows ? 2 : 1);
    image_u64(image, columns);
    if (rows) image_u64(image, rows);
    image_u32(image, gguf_id);
    image_u64(image, offset);
}

bool image_write(const struct image *image, const char *path, struct fault *fault) {
    FILE *file = fopen(path, "wb");
    if (!file) return fault_user(fault, "%s: cannot create: %s", path, strerror(errno));
    bool good = fwrite(image->byte, 1, image->n_bytes, file) == image->n_bytes;
    good = fclose(file) == 0 && good;
    return good || fault_world(fault, "%s: cannot write: %s", path, strerror(errno));
}

void image_close(struct image *image) {
    free(image->byte);
    *image = (struct image){0};
}
