/* walk_gguf.h - touch everything an open GGUF file offers: for tests of damaged files and the fuzz
 * target. An access outside the map is the sanitizer's to find; what can be said of a well-formed
 * model is checked here. */
#ifndef LAMINA_WALK_GGUF_H
#define LAMINA_WALK_GGUF_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "gguf.h"

static inline uint64_t walk_bytes(const void *bytes, size_t n_bytes) {
    const unsigned char *at = bytes;
    uint64_t sum = 0;
    for (size_t k = 0; k < n_bytes; k++)
        sum = sum * 31 + at[k];
    return sum;
}

/* All typed reads of a key, with and without a fault; at most one kind may succeed. */
static inline bool walk_reads(const struct gguf *gguf, const struct gguf_key *key) {
    uint32_t number;
    float real;
    bool yes;
    struct gguf_string string;
    char *name = calloc(1, key->name.n_bytes + 1);
    if (!name) return true;
    memcpy(name, key->name.text, key->name.n_bytes);
    bool findable = strlen(name) == key->name.n_bytes;
    int n_good = 0;
    for (int with_fault = 0; findable && with_fault < 2; with_fault++) {
        struct fault fault[4] = {{0}};
        n_good += gguf_read_u32(gguf, name, &number, with_fault ? &fault[0] : NULL);
        n_good += gguf_read_f32(gguf, name, &real, with_fault ? &fault[1] : NULL);
        n_good += gguf_read_bool(gguf, name, &yes, with_fault ? &fault[2] : NULL);
        n_good += gguf_read_string(gguf, name, &string, with_fault ? &fault[3] : NULL);
    }
    bool good = !findable || (gguf_find(gguf, name) == &key->value && n_good <= 2);
    free(name);
    return good;
}

static inline bool walk_key(const struct gguf *gguf, const struct gguf_key *key, uint64_t *sum) {
    const struct gguf_value *value = &key->value;
    bool is_array = value->kind == GGUF_ARRAY;
    enum gguf_kind element = is_array ? value->element : value->kind;
    *sum += walk_bytes(key->name.text, key->name.n_bytes);
    if (value->kind >= GGUF_KINDS || element >= GGUF_KINDS || element == GGUF_ARRAY) return false;
    if (!is_array && value->n_elements != 1) return false;
    for (size_t at = 0; at < value->n_elements; at++) {
        if (element == GGUF_STRING) {
            *sum += walk_bytes(value->string[at].text, value->string[at].n_bytes);
        } else {
            double real = gguf_array_float(value, at);
            *sum += (uint64_t)gguf_array_int(value, at) + walk_bytes(&real, sizeof real);
        }
    }
    return walk_reads(gguf, key);
}

static inline bool walk_tensor(const struct gguf *gguf, const struct gguf_tensor *tensor,
                               uint64_t *sum) {
    if (tensor->type >= QUANT_TYPES || tensor->n_dims < 1 || tensor->n_dims > 4) return false;
    const struct quant_type *type = &quant_types[tensor->type];
    size_t n_elements = 1;
    for (int dim = 0; dim < 4; dim++) {
        if (tensor->dim[dim] == 0 || (dim >= tensor->n_dims && tensor->dim[dim] != 1)) return false;
        n_elements *= tensor->dim[dim];
    }
    size_t block_elements = (size_t)type->block_elements, block_bytes = (size_t)type->block_bytes;
    if (tensor->dim[0] % block_elements != 0) return false;
    if (tensor->n_bytes != quant_bytes(tensor->type, n_elements)) return false;
    if ((uintptr_t)tensor->data % (gguf->alignment < 4096 ? gguf->alignment : 4096)) return false;
    if (gguf_find_tensor(gguf, tensor->name) != tensor) return false;
    float values[256];
    type->unpack(tensor->data, block_elements, values);
    *sum += walk_bytes(values, block_elements * sizeof *values);
    const unsigned char *last = (const unsigned char *)tensor->data + tensor->n_bytes - block_bytes;
    type->unpack(last, block_elements, values);
    *sum += walk_bytes(values, block_elements * sizeof *values);
    return true;
}

/* True when everything in *gguf is as gguf.h promises. */
static inline bool walk_gguf(const struct gguf *gguf) {
    uint64_t sum = 0;
    char hex[33];
    for (size_t key = 0; key < gguf->n_keys; key++) {
        if (!walk_key(gguf, &gguf->key[key], &sum)) return false;
    }
    for (size_t tensor = 0; tensor < gguf->n_tensors; tensor++) {
        if (!walk_tensor(gguf, &gguf->tensor[tensor], &sum)) return false;
    }
    gguf_fingerprint(gguf, hex);
    __asm__ volatile("" : : "r"(sum)); /* so that no read is optimised away */
    return strlen(hex) == 32 && strspn(hex, "0123456789abcdef") == 32;
}

/* A refusal as people should see it: the user's fault (or, of a disk, the world's), one printable
 * line that begins with the path. */
static inline bool walk_fault(const struct fault *fault, const char *path) {
    if (fault->kind != FAULT_USER && fault->kind != FAULT_WORLD) return false;
    for (const char *at = fault->text; *at; at++) {
        if ((unsigned char)*at < 0x20 || *at == 0x7f) return false;
    }
    return strncmp(fault->text, path, strlen(path)) == 0 && strlen(fault->text) > strlen(path) + 2;
}

#endif
