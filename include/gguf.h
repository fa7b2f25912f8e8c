/* gguf.h - reading GGUF v2 and v3 files (specification: ggml docs/gguf.md).
 *
 * The file is mapped, not read; keys, strings and tensors are views into the map and live until
 * gguf_close. Every count, offset, type and string is compared with the file before use: a damaged
 * file is a user's fault that names the file, the byte offset and what was found, never a crash.
 * Split files (NAME-00001-of-00003.gguf) open as one when any part is named.
 */
#ifndef LAMINA_GGUF_H
#define LAMINA_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "check.h"
#include "quant.h"

enum gguf_kind {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
    GGUF_KINDS
};

/* Bytes in the map, not terminated. */
struct gguf_string {
    const char *text;
    size_t n_bytes;
};

struct gguf_value {
    enum gguf_kind kind;
    enum gguf_kind element; /* of an array */
    size_t n_elements;      /* of an array, else 1 */
    const void *data; /* scalars and arrays of scalars: little-endian, unaligned, in the map */
    const struct gguf_string *string; /* GGUF_STRING: 1; array of strings: n_elements; owned here */
};

struct gguf_key {
    struct gguf_string name;
    struct gguf_value value;
};

struct gguf_tensor {
    char name[128];
    enum quant type;
    int n_dims;
    size_t dim[4];    /* dim[0] is innermost (columns), as in the file; 1 beyond n_dims */
    const void *data; /* in the map, at the file's alignment */
    size_t n_bytes;
};

struct gguf {
    char path[4096]; /* as named by the user (the first part's, when split) */
    int version;
    size_t alignment; /* of tensor data, bytes */
    size_t n_keys, n_tensors;
    struct gguf_key *key;       /* in file order; of the first part, when split */
    struct gguf_tensor *tensor; /* in file order over all parts */
    size_t file_bytes;          /* of all parts */
    struct gguf_part *part;     /* maps, private */
    int n_parts;
};

/* Map and check `path`. False with a fault when it cannot be opened, is not GGUF, is damaged, or
 * holds a tensor type not in quant_types (the fault lists the supported ones). On false nothing is
 * held. */
bool gguf_open(struct gguf *gguf, const char *path, struct fault *fault);
void gguf_close(struct gguf *gguf);

/* The value of a key, or NULL. */
const struct gguf_value *gguf_find(const struct gguf *gguf, const char *key);

/* Typed reads. Return false with *out untouched when the key is absent and `fault` is NULL; with a
 * fault given an absent key is the user's fault. A key of another kind, or out of the target's
 * range, is always a fault when `fault` is given, and false otherwise. Any integer kind reads as
 * any other. */
bool gguf_read_u32(const struct gguf *gguf, const char *key, uint32_t *out, struct fault *fault);
bool gguf_read_f32(const struct gguf *gguf, const char *key, float *out, struct fault *fault);
bool gguf_read_bool(const struct gguf *gguf, const char *key, bool *out, struct fault *fault);
bool gguf_read_string(const struct gguf *gguf, const char *key, struct gguf_string *out,
                      struct fault *fault);

/* Element `index` of an array of integers or floats, index < n_elements. */
int64_t gguf_array_int(const struct gguf_value *array, size_t index);
double gguf_array_float(const struct gguf_value *array, size_t index);

/* A tensor by name, or NULL. */
const struct gguf_tensor *gguf_find_tensor(const struct gguf *gguf, const char *name);

/* Kind names for messages ("u32", "array"). */
const char *gguf_kind_name(enum gguf_kind kind);

/* XXH3-128 over keys, tensor names, shapes, types and a fixed sample of tensor bytes, as 32 hex
 * digits and a terminator: what tells two models apart in job files and checkpoints. */
void gguf_fingerprint(const struct gguf *gguf, char hex[33]);

#endif
