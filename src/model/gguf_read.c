/* gguf_read.c - asking an open GGUF file: keys by name, typed reads, arrays, the fingerprint.
 *
 * The invariant: nothing here looks outside what gguf_header.c has checked; what can still be wrong
 * is that a key is missing, of another kind, or too large for its reader, and that is a fault which
 * names file, key and value. Names are looked up front to back: a model has tens of keys and
 * hundreds of tensors, and is asked once; an index was not worth its state.
 *
 * The fingerprint samples weights because hashing all of a large model would read all of it from
 * disk on every rank that asks; keys (the vocabulary among them) and shapes go in whole.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "gguf_header.h"
#include "log.h"

const struct gguf_value *gguf_find(const struct gguf *gguf, const char *key) {
    size_t n_bytes = strlen(key);
    for (size_t at = 0; at < gguf->n_keys; at++) {
        const struct gguf_string *name = &gguf->key[at].name;
        if (name->n_bytes == n_bytes && memcmp(name->text, key, n_bytes) == 0)
            return &gguf->key[at].value;
    }
    return NULL;
}

const struct gguf_tensor *gguf_find_tensor(const struct gguf *gguf, const char *name) {
    for (size_t tensor = 0; tensor < gguf->n_tensors; tensor++) {
        if (strcmp(gguf->tensor[tensor].name, name) == 0) return &gguf->tensor[tensor];
    }
    return NULL;
}

/* ---- one element */

static enum gguf_kind element_kind(const struct gguf_value *value) {
    return value->kind == GGUF_ARRAY ? value->element : value->kind;
}

static bool is_integer(enum gguf_kind kind) {
    switch (kind) {
    case GGUF_U8:
    case GGUF_I8:
    case GGUF_U16:
    case GGUF_I16:
    case GGUF_U32:
    case GGUF_I32:
    case GGUF_U64:
    case GGUF_I64: return true;
    default: return false;
    }
}

/* The bits of one scalar from unaligned bytes, the upper ones 0. */
static uint64_t load_bits(const struct gguf_value *value, size_t index) {
    size_t n_bytes = gguf_kind_bytes(element_kind(value));
    uint64_t bits = 0;
    memcpy(&bits, (const unsigned char *)value->data + index * n_bytes, n_bytes);
    return bits;
}

static double load_real(const struct gguf_value *value, size_t index) {
    uint64_t bits = load_bits(value, index);
    float single;
    double real;
    memcpy(&single, &bits, sizeof single);
    memcpy(&real, &bits, sizeof real);
    return element_kind(value) == GGUF_F32 ? (double)single : real;
}

static int64_t integer_of_real(double real) {
    if (!(real >= -0x1p63)) return real < 0 ? INT64_MIN : 0; /* NaN: 0 */
    return real < 0x1p63 ? (int64_t)real : INT64_MAX;
}

int64_t gguf_array_int(const struct gguf_value *array, size_t index) {
    REQUIRE(index < array->n_elements, "element %zu of %zu", index, array->n_elements);
    enum gguf_kind kind = element_kind(array);
    REQUIRE(kind != GGUF_STRING, "a string is no number");
    if (kind == GGUF_F32 || kind == GGUF_F64) return integer_of_real(load_real(array, index));
    uint64_t bits = load_bits(array, index);
    switch (kind) {
    case GGUF_I8: return (int8_t)bits;
    case GGUF_I16: return (int16_t)bits;
    case GGUF_I32: return (int32_t)bits;
    case GGUF_U64: return bits > INT64_MAX ? INT64_MAX : (int64_t)bits;
    default: return (int64_t)bits;
    }
}

double gguf_array_float(const struct gguf_value *array, size_t index) {
    REQUIRE(index < array->n_elements, "element %zu of %zu", index, array->n_elements);
    enum gguf_kind kind = element_kind(array);
    if (kind == GGUF_F32 || kind == GGUF_F64) return load_real(array, index);
    if (kind == GGUF_U64) return (double)load_bits(array, index);
    return (double)gguf_array_int(array, index);
}

/* ---- typed reads */

/* The value when it is there; else a fault where one is wanted. */
static const struct gguf_value *wanted(const struct gguf *gguf, const char *key,
                                       struct fault *fault) {
    const struct gguf_value *value = gguf_find(gguf, key);
    if (!value && fault) {
        char path[256];
        fault_user(fault, "%s: key '%s' is missing",
                   log_escape(path, sizeof path, gguf->path, strlen(gguf->path)), key);
    }
    return value;
}

static bool wrong(const struct gguf *gguf, const char *key, const char *found, const char *right,
                  struct fault *fault) {
    if (!fault) return false;
    char path[256];
    return fault_user(fault, "%s: key '%s' is %s, not %s",
                      log_escape(path, sizeof path, gguf->path, strlen(gguf->path)), key, found,
                      right);
}

bool gguf_read_u32(const struct gguf *gguf, const char *key, uint32_t *out, struct fault *fault) {
    const struct gguf_value *value = wanted(gguf, key, fault);
    if (!value) return false;
    if (!is_integer(value->kind))
        return wrong(gguf, key, gguf_kind_name(value->kind), "an integer", fault);
    int64_t read = gguf_array_int(value, 0);
    if (read < 0 || read > UINT32_MAX) {
        char found[32];
        if (value->kind == GGUF_U64) {
            snprintf(found, sizeof found, "%" PRIu64, load_bits(value, 0));
        } else {
            snprintf(found, sizeof found, "%" PRId64, read);
        }
        return wrong(gguf, key, found, "between 0 and 4294967295", fault);
    }
    *out = (uint32_t)read;
    return true;
}

bool gguf_read_f32(const struct gguf *gguf, const char *key, float *out, struct fault *fault) {
    const struct gguf_value *value = wanted(gguf, key, fault);
    if (!value) return false;
    if (value->kind != GGUF_F32 && value->kind != GGUF_F64)
        return wrong(gguf, key, gguf_kind_name(value->kind), "a float", fault);
    double read = load_real(value, 0);
    if (value->kind == GGUF_F64 && (read > 0x1.fffffep127 || read < -0x1.fffffep127)) {
        char found[32];
        snprintf(found, sizeof found, "%.17g", read);
        return wrong(gguf, key, found, "in the range of a 32-bit float", fault);
    }
    *out = (float)read;
    return true;
}

bool gguf_read_bool(const struct gguf *gguf, const char *key, bool *out, struct fault *fault) {
    const struct gguf_value *value = wanted(gguf, key, fault);
    if (!value) return false;
    if (value->kind != GGUF_BOOL)
        return wrong(gguf, key, gguf_kind_name(value->kind), "a bool", fault);
    *out = load_bits(value, 0) != 0;
    return true;
}

bool gguf_read_string(const struct gguf *gguf, const char *key, struct gguf_string *out,
                      struct fault *fault) {
    const struct gguf_value *value = wanted(gguf, key, fault);
    if (!value) return false;
    if (value->kind != GGUF_STRING)
        return wrong(gguf, key, gguf_kind_name(value->kind), "a string", fault);
    *out = value->string[0];
    return true;
}

/* ---- the fingerprint */

static void hash_count(XXH3_state_t *hash, uint64_t count) {
    XXH3_128bits_update(hash, &count, sizeof count);
}

/* With its length, so that neighbours cannot trade bytes. */
static void hash_string(XXH3_state_t *hash, const char *text, size_t n_bytes) {
    hash_count(hash, n_bytes);
    XXH3_128bits_update(hash, text, n_bytes);
}

static void hash_key(XXH3_state_t *hash, const struct gguf_key *key) {
    const struct gguf_value *value = &key->value;
    hash_string(hash, key->name.text, key->name.n_bytes);
    hash_count(hash, value->kind);
    hash_count(hash, element_kind(value));
    hash_count(hash, value->n_elements);
    if (value->string) {
        for (size_t element = 0; element < value->n_elements; element++)
            hash_string(hash, value->string[element].text, value->string[element].n_bytes);
    } else {
        XXH3_128bits_update(hash, value->data,
                            value->n_elements * gguf_kind_bytes(element_kind(value)));
    }
}

static void hash_tensor(XXH3_state_t *hash, const struct gguf_tensor *tensor) {
    enum { WINDOWS = 4, WINDOW_BYTES = 256 };
    hash_string(hash, tensor->name, strlen(tensor->name));
    hash_count(hash, quant_types[tensor->type].gguf_id);
    for (int dim = 0; dim < 4; dim++)
        hash_count(hash, tensor->dim[dim]);
    const unsigned char *data = tensor->data;
    if (tensor->n_bytes <= WINDOWS * WINDOW_BYTES) {
        XXH3_128bits_update(hash, data, tensor->n_bytes);
        return;
    }
    size_t last = tensor->n_bytes - WINDOW_BYTES;
    for (size_t window = 0; window < WINDOWS; window++) {
        size_t begin = window == WINDOWS - 1 ? last : last / (WINDOWS - 1) * window;
        XXH3_128bits_update(hash, data + begin, WINDOW_BYTES);
    }
}

void gguf_fingerprint(const struct gguf *gguf, char hex[33]) {
    XXH3_state_t *hash = XXH3_createState();
    if (!hash) check_fail("out of memory: a hash state");
    XXH3_128bits_reset(hash);
    for (size_t key = 0; key < gguf->n_keys; key++) {
        const struct gguf_string *name = &gguf->key[key].name;
        bool is_split = name->n_bytes > 6 && memcmp(name->text, "split.", 6) == 0;
        if (!is_split) hash_key(hash, &gguf->key[key]); /* a model split is the same model */
    }
    for (size_t tensor = 0; tensor < gguf->n_tensors; tensor++)
        hash_tensor(hash, &gguf->tensor[tensor]);
    XXH128_hash_t digest = XXH3_128bits_digest(hash);
    XXH3_freeState(hash);
    snprintf(hex, 33, "%016" PRIx64 "%016" PRIx64, (uint64_t)digest.high64, (uint64_t)digest.low64);
}
