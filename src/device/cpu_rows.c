/* cpu_rows.c - parts of values to and from host memory, for wires, and pages of the cache, for
 * checkpoints (device.h).
 *
 * Both lie in the same memory here, so a copy is done when it returns. Rows of equal elements are
 * bytes; others go through floats in pieces, by the conversions of quant.h.
 */
#include <string.h>

#include "cpu_device.h"

void *cpu_alloc_host(struct device *device, size_t n_bytes) {
    (void)device;
    return cpu_alloc(n_bytes);
}

void cpu_release_host(struct device *device, void *memory) {
    (void)device;
    cpu_free(memory);
}

void cpu_settle(struct device *device) {
    (void)device;
}

/* One side of a copy: elements, and bytes from row to row. */
struct side {
    unsigned char *data;
    enum element element;
    size_t row_bytes;
};

static struct side side_of(const struct value *value, struct rectangle part) {
    size_t size = element_bytes(value->element), stride = (size_t)value->stride;
    return (struct side){.data = value->buffer->data + value->offset +
                                 ((size_t)part.row * stride + (size_t)part.column) * size,
                         .element = value->element,
                         .row_bytes = stride * size};
}

static struct side side_packed(void *data, enum element element, struct rectangle part) {
    return (struct side){data, element, (size_t)part.n_columns * element_bytes(element)};
}

static void copy_bytes(struct side to, struct side from, struct rectangle part) {
    size_t n_bytes = (size_t)part.n_columns * element_bytes(to.element);
    if (to.row_bytes == n_bytes && from.row_bytes == n_bytes) {
        memcpy(to.data, from.data, (size_t)part.n_rows * n_bytes);
        return;
    }
    for (int row = 0; row < part.n_rows; row++)
        memcpy(to.data + (size_t)row * to.row_bytes, from.data + (size_t)row * from.row_bytes,
               n_bytes);
}

static void convert_row(const struct device *device, struct side to, struct side from, size_t n) {
    enum { PIECE = 512 };
    static const enum quant stored[] = {
        [ELEMENT_F32] = QUANT_F32, [ELEMENT_F16] = QUANT_F16, [ELEMENT_BF16] = QUANT_BF16};
    size_t to_size = element_bytes(to.element), from_size = element_bytes(from.element);
    float piece[PIECE];
    for (size_t first = 0; first < n; first += PIECE) {
        size_t these = n - first < PIECE ? n - first : PIECE;
        quant_types[stored[from.element]].unpack(from.data + first * from_size, these, piece);
        device->kernels->round_to(to.element, to.data + first * to_size, piece, these);
    }
}

static void copy_rows(const struct device *device, struct side to, struct side from,
                      struct rectangle part) {
    if (to.element == from.element) {
        copy_bytes(to, from, part);
        return;
    }
    REQUIRE(to.element != ELEMENT_I32 && from.element != ELEMENT_I32, "integers are not rounded");
    size_t n = (size_t)part.n_columns;
#pragma omp parallel for num_threads(cpu_team(device, part.n_rows, (size_t)part.n_rows *n))        \
    schedule(static)
    for (int row = 0; row < part.n_rows; row++) {
        struct side to_row = to, from_row = from;
        to_row.data += (size_t)row * to.row_bytes;
        from_row.data += (size_t)row * from.row_bytes;
        convert_row(device, to_row, from_row, n);
    }
}

void cpu_read_rows(struct device *device, void *to, enum element as, const struct value *from,
                   struct rectangle part) {
    copy_rows(device, side_packed(to, as, part), side_of(from, part), part);
}

void cpu_write_rows(struct device *device, const struct value *to, struct rectangle part,
                    const void *from, enum element as) {
    copy_rows(device, side_of(to, part), side_packed((void *)(uintptr_t)from, as, part), part);
}

void cpu_read_page(struct device *device, void *to, const struct kv_cache *cache, int page,
                   int n_tokens) {
    (void)device;
    size_t token = (size_t)cache->head_dim * element_bytes(cache->element);
    size_t piece = PAGE_TOKENS * token, filled = (size_t)n_tokens * token;
    size_t n_heads = (size_t)cache->n_kv_heads;
    unsigned char *out = to;
    for (int layer = 0; layer < cache->n_layers; layer++) {
        size_t at = (size_t)layer * (size_t)cache->n_pages + (size_t)page;
        const unsigned char *from = cache->buffer->data + at * n_heads * 2 * piece;
        for (size_t part = 0; part < 2 * n_heads; part++, out += piece) {
            size_t head = part % n_heads, which = part / n_heads;
            memcpy(out, from + (2 * head + which) * piece, filled);
            memset(out + filled, 0, piece - filled);
        }
    }
}
