/* gguf_header.c - the bytes of one GGUF file to its tables of keys and tensors.
 *
 * The invariant: when gguf_header_parse succeeds every string, array and tensor lies inside the
 * map, no key stands twice, and every tensor is a whole number of blocks of a known type at the
 * file's alignment; so nobody behind it checks an offset again. A cursor walks the header from
 * front to back; each read says what it is for, so that the fault can. Counts are held against the
 * bytes that follow before anything is allocated for them.
 *
 * Left to gguf.c: the files themselves, and what concerns all tensors of a model together. Left to
 * others: what keys and names mean.
 *
 * Beyond the format's words, as llama.cpp has it: names are not empty, arrays do not nest, a tensor
 * has one to four dimensions; and none of them is 0. Source: ggml docs/gguf.md.
 */
#include "gguf_header.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "views of the map are little-endian");
_Static_assert(sizeof(size_t) == 8, "counts in a file are 64 bits");

enum {
    HEADER_BYTES = 24,       /* magic, version, counts */
    KEY_LEAST_BYTES = 14,    /* length, one character, kind, one byte */
    TENSOR_LEAST_BYTES = 33, /* length, one character, one dimension, type, offset */
    KEY_NAME_MOST = 65535,   /* bytes, from the specification */
    DEFAULT_ALIGNMENT = 32,  /* without general.alignment */
    LEAST_ALIGNMENT = 8,     /* the specification wants a multiple of 8 */
};

/* Where reading stands in one file. */
struct cursor {
    const unsigned char *map;
    size_t n_bytes, at;
    char shown[256]; /* the path, escaped */
    char about[192]; /* what is being read, escaped: "key 'general.name'" */
    struct fault *fault;
};

static const struct {
    const char *name;
    size_t n_bytes; /* of a scalar; 0 where the file says */
} kinds[GGUF_KINDS] = {
    [GGUF_U8] = {"u8", 1},       [GGUF_I8] = {"i8", 1},     [GGUF_U16] = {"u16", 2},
    [GGUF_I16] = {"i16", 2},     [GGUF_U32] = {"u32", 4},   [GGUF_I32] = {"i32", 4},
    [GGUF_F32] = {"f32", 4},     [GGUF_BOOL] = {"bool", 1}, [GGUF_STRING] = {"string", 0},
    [GGUF_ARRAY] = {"array", 0}, [GGUF_U64] = {"u64", 8},   [GGUF_I64] = {"i64", 8},
    [GGUF_F64] = {"f64", 8},
};

/* Types of ggml that quant_types lacks, so that a refusal can name them. */
static const char *const unsupported_types[] = {
    [9] = "Q8_1",    [10] = "Q2_K",    [11] = "Q3_K",  [15] = "Q8_K",   [16] = "IQ2_XXS",
    [17] = "IQ2_XS", [18] = "IQ3_XXS", [19] = "IQ1_S", [20] = "IQ4_NL", [21] = "IQ3_S",
    [22] = "IQ2_S",  [23] = "IQ4_XS",  [24] = "I8",    [25] = "I16",    [26] = "I32",
    [27] = "I64",    [28] = "F64",     [29] = "IQ1_M", [34] = "TQ1_0",  [35] = "TQ2_0",
    [39] = "MXFP4",  [40] = "NVFP4",   [41] = "Q1_0",  [42] = "Q2_0",
};

const char *gguf_kind_name(enum gguf_kind kind) {
    return kinds[kind].name;
}

size_t gguf_kind_bytes(enum gguf_kind kind) {
    return kinds[kind].n_bytes;
}

/* ---- reading forward */

__attribute__((format(printf, 3, 4))) static bool damaged(const struct cursor *cursor, size_t at,
                                                          const char *format, ...) {
    char text[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return fault_user(cursor->fault, "%s: damaged at byte %zu, in %s: %s", cursor->shown, at,
                      cursor->about, text);
}

static size_t left(const struct cursor *cursor) {
    return cursor->n_bytes - cursor->at;
}

/* The next `n_bytes` in the map, or NULL with a fault. */
static const unsigned char *take(struct cursor *cursor, size_t n_bytes, const char *what) {
    if (n_bytes > left(cursor)) {
        damaged(cursor, cursor->at, "%s is %zu bytes, but the file ends after %zu", what, n_bytes,
                left(cursor));
        return NULL;
    }
    const unsigned char *taken = cursor->map + cursor->at;
    cursor->at += n_bytes;
    return taken;
}

static bool take_u32(struct cursor *cursor, uint32_t *out, const char *what) {
    const unsigned char *taken = take(cursor, sizeof *out, what);
    if (taken) memcpy(out, taken, sizeof *out);
    return taken != NULL;
}

static bool take_u64(struct cursor *cursor, uint64_t *out, const char *what) {
    const unsigned char *taken = take(cursor, sizeof *out, what);
    if (taken) memcpy(out, taken, sizeof *out);
    return taken != NULL;
}

/* A count of things of at least `least_bytes` each, all still to come in the file. */
static bool take_count(struct cursor *cursor, size_t *count, size_t least_bytes, const char *what) {
    size_t at = cursor->at;
    uint64_t taken;
    if (!take_u64(cursor, &taken, what)) return false;
    if (taken > left(cursor) / least_bytes) {
        return damaged(cursor, at, "%s is %" PRIu64 ", too many for the %zu bytes that follow",
                       what, taken, left(cursor));
    }
    *count = (size_t)taken;
    return true;
}

static bool take_string(struct cursor *cursor, struct gguf_string *string, const char *what) {
    size_t n_bytes;
    if (!take_count(cursor, &n_bytes, 1, what)) return false;
    string->text = (const char *)take(cursor, n_bytes, what);
    string->n_bytes = n_bytes;
    return true;
}

/* ---- keys */

static bool take_kind(struct cursor *cursor, enum gguf_kind *kind, const char *what) {
    size_t at = cursor->at;
    uint32_t taken;
    if (!take_u32(cursor, &taken, what)) return false;
    if (taken >= GGUF_KINDS)
        return damaged(cursor, at, "%s is %" PRIu32 ", which is no kind of value", what, taken);
    *kind = (enum gguf_kind)taken;
    return true;
}

static bool take_strings(struct cursor *cursor, struct gguf_value *value) {
    struct gguf_string *string = check_alloc(value->n_elements, sizeof *string);
    value->string = string;
    for (size_t element = 0; element < value->n_elements; element++) {
        if (!take_string(cursor, &string[element], "the length of a string")) return false;
    }
    return true;
}

static bool take_scalars(struct cursor *cursor, struct gguf_value *value, enum gguf_kind element) {
    size_t at = cursor->at, n_bytes = value->n_elements * kinds[element].n_bytes;
    const unsigned char *data = take(cursor, n_bytes, "the value");
    if (!data) return false;
    for (size_t k = 0; element == GGUF_BOOL && k < n_bytes; k++) {
        if (data[k] > 1) return damaged(cursor, at + k, "a bool is %d, not 0 or 1", data[k]);
    }
    value->data = data;
    return true;
}

static bool take_value(struct cursor *cursor, struct gguf_value *value) {
    if (!take_kind(cursor, &value->kind, "the kind of the value")) return false;
    enum gguf_kind element = value->kind;
    value->n_elements = 1;
    if (value->kind == GGUF_ARRAY) {
        size_t at = cursor->at;
        if (!take_kind(cursor, &element, "the kind of the array's elements")) return false;
        if (element == GGUF_ARRAY)
            return damaged(cursor, at, "an array of arrays is not supported");
        size_t least_bytes = element == GGUF_STRING ? 8 : kinds[element].n_bytes;
        if (!take_count(cursor, &value->n_elements, least_bytes, "the array's length"))
            return false;
        value->element = element;
    }
    if (element == GGUF_STRING) return take_strings(cursor, value);
    return take_scalars(cursor, value, element);
}

static bool take_key(struct cursor *cursor, struct gguf_key *key) {
    size_t at = cursor->at;
    if (!take_string(cursor, &key->name, "the length of the name")) return false;
    if (key->name.n_bytes == 0) return damaged(cursor, at, "the name is empty");
    if (key->name.n_bytes > KEY_NAME_MOST) {
        return damaged(cursor, at, "the name is %zu bytes long, more than %d", key->name.n_bytes,
                       KEY_NAME_MOST);
    }
    char name[128];
    log_escape(name, sizeof name, key->name.text, key->name.n_bytes);
    snprintf(cursor->about, sizeof cursor->about, "key '%s'", name);
    return take_value(cursor, &key->value);
}

static int compare_keys(const void *a, const void *b) {
    const struct gguf_string *left_name = &(*(const struct gguf_key *const *)a)->name;
    const struct gguf_string *right_name = &(*(const struct gguf_key *const *)b)->name;
    if (left_name->n_bytes != right_name->n_bytes)
        return left_name->n_bytes < right_name->n_bytes ? -1 : 1;
    return memcmp(left_name->text, right_name->text, left_name->n_bytes);
}

/* Sorting pointers finds twins in n log n steps; a hostile file may have millions of keys. */
static bool check_unique_keys(struct cursor *cursor, const struct gguf *gguf) {
    const struct gguf_key **sorted = check_alloc(gguf->n_keys, sizeof *sorted);
    for (size_t key = 0; key < gguf->n_keys; key++)
        sorted[key] = &gguf->key[key];
    qsort(sorted, gguf->n_keys, sizeof *sorted, compare_keys);
    bool unique = true;
    for (size_t key = 1; unique && key < gguf->n_keys; key++) {
        if (compare_keys(&sorted[key - 1], &sorted[key]) != 0) continue;
        const struct gguf_string *name = &sorted[key]->name;
        char shown[128];
        log_escape(shown, sizeof shown, name->text, name->n_bytes);
        unique = damaged(cursor, (size_t)((const unsigned char *)name->text - cursor->map),
                         "key '%s' stands twice", shown);
    }
    free(sorted);
    return unique;
}

static bool take_keys(struct cursor *cursor, struct gguf *gguf, size_t n_keys) {
    gguf->key = check_alloc(n_keys, sizeof *gguf->key);
    while (gguf->n_keys < n_keys) {
        snprintf(cursor->about, sizeof cursor->about, "key %zu of %zu", gguf->n_keys + 1, n_keys);
        gguf->n_keys++; /* before it is read: a half-read value is released by gguf_close */
        if (!take_key(cursor, &gguf->key[gguf->n_keys - 1])) return false;
    }
    snprintf(cursor->about, sizeof cursor->about, "the keys");
    return check_unique_keys(cursor, gguf);
}

/* ---- tensors */

static bool refuse_type(const struct cursor *cursor, const char *tensor, uint32_t gguf_id) {
    char supported[200] = "";
    size_t at = 0;
    for (int type = 0; type < QUANT_TYPES; type++) {
        at += (size_t)snprintf(supported + at, sizeof supported - at, "%s%s", type ? ", " : "",
                               quant_types[type].name);
    }
    size_t n_known = sizeof unsupported_types / sizeof unsupported_types[0];
    const char *name = gguf_id < n_known ? unsupported_types[gguf_id] : NULL;
    return fault_user(cursor->fault,
                      "%s: %s has type %s (number %" PRIu32
                      "), which is not supported; supported are %s",
                      cursor->shown, tensor, name ? name : "unknown", gguf_id, supported);
}

static bool take_type(struct cursor *cursor, enum quant *type) {
    uint32_t gguf_id;
    if (!take_u32(cursor, &gguf_id, "the type")) return false;
    for (*type = 0; *type < QUANT_TYPES; (*type)++) {
        if (quant_types[*type].gguf_id == gguf_id) return true;
    }
    return refuse_type(cursor, cursor->about, gguf_id);
}

static bool take_tensor_name(struct cursor *cursor, struct gguf_tensor *tensor) {
    size_t at = cursor->at;
    struct gguf_string name;
    if (!take_string(cursor, &name, "the length of the name")) return false;
    if (name.n_bytes == 0 || name.n_bytes >= sizeof tensor->name) {
        return damaged(cursor, at, "the name is %zu bytes long, not 1 to %zu", name.n_bytes,
                       sizeof tensor->name - 1);
    }
    if (memchr(name.text, 0, name.n_bytes))
        return damaged(cursor, at, "the name holds a zero byte");
    memcpy(tensor->name, name.text, name.n_bytes);
    char shown[sizeof tensor->name];
    log_escape(shown, sizeof shown, name.text, name.n_bytes);
    snprintf(cursor->about, sizeof cursor->about, "tensor '%s'", shown);
    return true;
}

/* Dimensions, and how many elements they make. */
static bool take_shape(struct cursor *cursor, struct gguf_tensor *tensor, size_t *n_elements) {
    size_t at = cursor->at;
    uint32_t n_dims;
    if (!take_u32(cursor, &n_dims, "the number of dimensions")) return false;
    if (n_dims < 1 || n_dims > 4)
        return damaged(cursor, at, "it has %" PRIu32 " dimensions, not 1 to 4", n_dims);
    tensor->n_dims = (int)n_dims;
    *n_elements = 1;
    for (int dim = 0; dim < 4; dim++) {
        at = cursor->at;
        uint64_t length = 1;
        if (dim < tensor->n_dims && !take_u64(cursor, &length, "a dimension")) return false;
        if (length == 0) return damaged(cursor, at, "dimension %d is 0", dim);
        if (!check_multiply(*n_elements, (size_t)length, n_elements))
            return damaged(cursor, at, "its elements are too many to count");
        tensor->dim[dim] = (size_t)length;
    }
    return true;
}

/* `offset` counts from the start of tensor data, which is known when all records are read. */
static bool take_tensor(struct cursor *cursor, struct gguf_tensor *tensor, uint64_t *offset) {
    size_t n_elements, at = cursor->at;
    if (!take_tensor_name(cursor, tensor)) return false;
    if (!take_shape(cursor, tensor, &n_elements)) return false;
    if (!take_type(cursor, &tensor->type)) return false;
    const struct quant_type *type = &quant_types[tensor->type];
    size_t block_elements = (size_t)type->block_elements;
    if (tensor->dim[0] % block_elements != 0) {
        return damaged(cursor, at, "its rows have %zu elements, not whole blocks of %zu (%s)",
                       tensor->dim[0], block_elements, type->name);
    }
    if (!check_multiply(n_elements / block_elements, (size_t)type->block_bytes, &tensor->n_bytes))
        return damaged(cursor, at, "its bytes are too many to count");
    return take_u64(cursor, offset, "the offset");
}

static bool place_tensor(struct cursor *cursor, struct gguf_tensor *tensor, uint64_t offset,
                         size_t alignment) {
    char shown[sizeof tensor->name];
    log_escape(shown, sizeof shown, tensor->name, strlen(tensor->name));
    snprintf(cursor->about, sizeof cursor->about, "tensor '%s'", shown);
    if (offset % alignment != 0) {
        return damaged(cursor, cursor->at,
                       "its data is %" PRIu64 " bytes into the tensor data, not a multiple of %zu",
                       offset, alignment);
    }
    if (offset > left(cursor) || tensor->n_bytes > left(cursor) - (size_t)offset) {
        return damaged(cursor, cursor->at,
                       "its %zu bytes begin %" PRIu64 " bytes into the tensor data, "
                       "but the file has only %zu there (cut short?)",
                       tensor->n_bytes, offset, left(cursor));
    }
    tensor->data = cursor->map + cursor->at + offset;
    return true;
}

static bool take_tensors(struct cursor *cursor, struct gguf *gguf, size_t n_tensors) {
    gguf->tensor = check_alloc(n_tensors, sizeof *gguf->tensor);
    gguf->n_tensors = n_tensors;
    if (n_tensors == 0) return true;
    uint64_t *offset = check_alloc(n_tensors, sizeof *offset);
    bool good = true;
    for (size_t tensor = 0; good && tensor < n_tensors; tensor++) {
        snprintf(cursor->about, sizeof cursor->about, "tensor %zu of %zu", tensor + 1, n_tensors);
        good = take_tensor(cursor, &gguf->tensor[tensor], &offset[tensor]);
    }
    size_t past = cursor->at % gguf->alignment, padding = past ? gguf->alignment - past : 0;
    snprintf(cursor->about, sizeof cursor->about, "the header");
    good = good && take(cursor, padding, "the padding before the tensor data");
    for (size_t tensor = 0; good && tensor < n_tensors; tensor++)
        good = place_tensor(cursor, &gguf->tensor[tensor], offset[tensor], gguf->alignment);
    free(offset);
    return good;
}

/* ---- the whole header */

static bool take_version(struct cursor *cursor, struct gguf *gguf) {
    uint32_t version;
    if (cursor->n_bytes < HEADER_BYTES) {
        return fault_user(cursor->fault, "%s: not a GGUF file: only %zu bytes long", cursor->shown,
                          cursor->n_bytes);
    }
    const unsigned char *magic = take(cursor, 4, "the magic");
    if (!magic || !take_u32(cursor, &version, "the version")) return false;
    bool is_big_endian = memcmp(magic, "GGUF", 4) == 0 && version && (version & 0xffff) == 0;
    if (is_big_endian || memcmp(magic, "FUGG", 4) == 0) {
        return fault_user(cursor->fault,
                          "%s: a big-endian GGUF file; supported are little-endian ones (convert "
                          "it with gguf_convert_endian.py of llama.cpp)",
                          cursor->shown);
    }
    if (memcmp(magic, "GGUF", 4) != 0) {
        char found[20];
        return fault_user(cursor->fault, "%s: not a GGUF file: begins with '%s', not 'GGUF'",
                          cursor->shown, log_escape(found, sizeof found, (const char *)magic, 4));
    }
    if (version != 2 && version != 3) {
        return fault_user(cursor->fault,
                          "%s: GGUF version %" PRIu32 "; supported are versions 2 and 3",
                          cursor->shown, version);
    }
    gguf->version = (int)version;
    return true;
}

static bool read_alignment(struct cursor *cursor, struct gguf *gguf) {
    uint32_t alignment = DEFAULT_ALIGNMENT;
    if (gguf_find(gguf, "general.alignment") &&
        !gguf_read_u32(gguf, "general.alignment", &alignment, cursor->fault)) {
        return false;
    }
    if (alignment < LEAST_ALIGNMENT || (alignment & (alignment - 1)) != 0) {
        return fault_user(cursor->fault,
                          "%s: key 'general.alignment' is %" PRIu32
                          ", not a power of two of at least %d",
                          cursor->shown, alignment, LEAST_ALIGNMENT);
    }
    gguf->alignment = alignment;
    return true;
}

bool gguf_header_parse(struct gguf *gguf, const void *map, size_t n_bytes, struct fault *fault) {
    struct cursor cursor = {.map = map, .n_bytes = n_bytes, .about = "the header", .fault = fault};
    log_escape(cursor.shown, sizeof cursor.shown, gguf->path, strlen(gguf->path));
    size_t n_tensors, n_keys;
    if (!take_version(&cursor, gguf)) return false;
    if (!take_count(&cursor, &n_tensors, TENSOR_LEAST_BYTES, "the number of tensors")) return false;
    if (!take_count(&cursor, &n_keys, KEY_LEAST_BYTES, "the number of keys")) return false;
    if (!take_keys(&cursor, gguf, n_keys)) return false;
    if (!read_alignment(&cursor, gguf)) return false;
    return take_tensors(&cursor, gguf, n_tensors);
}
