/* cpu_weight.c - tensors into panels.
 *
 * A panel holds 16 output rows; a vector lane is an output row (cpu_kernels.h lists the layouts).
 * Codes stay as narrow as in the file: this is a transposition of bits, done once, so that one load
 * brings the same k of 16 rows. Rows beyond the tensor's last are zero codes with zero scales.
 */
#include <stdlib.h>
#include <string.h>

#include "cpu_device.h"

/* GGUF blocks (ggml-common.h), little-endian, unaligned. */
enum { SUPER = 256, SUB = 32 };

static enum panel panel_of(enum quant type) {
    switch (type) {
    case QUANT_F16: return PANEL_F16;
    case QUANT_BF16: return PANEL_BF16;
    case QUANT_Q8_0: return PANEL_Q8;
    case QUANT_Q4_0: return PANEL_Q4_0;
    case QUANT_Q4_1: return PANEL_Q4_1;
    case QUANT_Q5_0: return PANEL_Q5_0;
    case QUANT_Q5_1: return PANEL_Q5_1;
    case QUANT_Q4_K: return PANEL_Q4_K;
    case QUANT_Q5_K: return PANEL_Q5_K;
    case QUANT_Q6_K: return PANEL_Q6_K;
    default: return PANEL_F32;
    }
}

/* Bytes that stand for one group of k, and the k in a group. */
static const struct {
    int group, bytes;
} panel_shape[] = {
    [PANEL_F32] = {1, 64},
    [PANEL_F16] = {1, 32},
    [PANEL_BF16] = {1, 32},
    [PANEL_Q8] = {32, 32 + 512},
    [PANEL_Q4_0] = {32, 32 + 256},
    [PANEL_Q4_1] = {32, 64 + 256},
    [PANEL_Q5_0] = {32, 32 + 320},
    [PANEL_Q5_1] = {32, 64 + 320},
    [PANEL_Q4_K] = {256, 320 + 8 * 256},
    [PANEL_Q5_K] = {256, 320 + 8 * 320},
    [PANEL_Q6_K] = {256, 288 + 8 * 384},
};

static void put_half(unsigned char *at, int lane, uint16_t half) {
    memcpy(at + 2 * lane, &half, 2);
}

static uint16_t get_half(const unsigned char *at) {
    uint16_t half;
    memcpy(&half, at, 2);
    return half;
}

/* Code of k (0..31) of a lane: four bits into the words of 8 nibbles, the fifth and sixth apart. */
static void put_nibble(unsigned char *codes, int lane, int k, unsigned code) {
    codes[64 * (k / 8) + 4 * lane + k % 8 / 2] |= (unsigned char)((code & 15) << (k % 2 * 4));
}

static void put_bit5(unsigned char *high, int lane, int k, unsigned code) {
    high[4 * lane + k / 8] |= (unsigned char)((code >> 4 & 1) << k % 8);
}

static void put_bits56(unsigned char *high, int lane, int k, unsigned code) {
    high[64 * (k / 16) + 4 * lane + k % 16 / 4] |= (unsigned char)((code >> 4 & 3) << (k % 4 * 2));
}

/* Scale and minimum `part` (0..7) of a K block's 12 bytes of 6-bit pairs. */
static void k_scale(const unsigned char *packed, int part, unsigned char *scale,
                    unsigned char *minimum) {
    if (part < 4) {
        *scale = packed[part] & 63;
        *minimum = packed[part + 4] & 63;
    } else {
        *scale = (unsigned char)((packed[part + 4] & 15) | packed[part - 4] >> 6 << 4);
        *minimum = (unsigned char)(packed[part + 4] >> 4 | packed[part] >> 6 << 4);
    }
}

static void pack_small(enum quant type, const unsigned char *block, unsigned char *to, int lane) {
    uint16_t d = get_half(block);
    put_half(to, lane, d);
    if (type == QUANT_Q8_0) {
        for (int k = 0; k < SUB; k++)
            to[32 + 16 * k + lane] = block[2 + k];
        return;
    }
    bool five = type == QUANT_Q5_0 || type == QUANT_Q5_1;
    bool minimum = type == QUANT_Q4_1 || type == QUANT_Q5_1;
    if (minimum) put_half(to + 32, lane, get_half(block + 2));
    unsigned char *codes = to + (minimum ? 64 : 32);
    const unsigned char *high = block + (minimum ? 4 : 2);
    const unsigned char *low = high + (five ? 4 : 0);
    for (int k = 0; k < SUB; k++) {
        unsigned code = k < 16 ? low[k] & 15u : low[k - 16] >> 4;
        if (five) code |= (high[k / 8] >> k % 8 & 1u) << 4;
        put_nibble(codes, lane, k, code);
        if (five) put_bit5(codes + 256, lane, k, code);
    }
}

static void pack_k45(enum quant type, const unsigned char *block, unsigned char *to, int lane) {
    bool five = type == QUANT_Q5_K;
    put_half(to, lane, get_half(block));
    put_half(to + 32, lane, get_half(block + 2));
    const unsigned char *high = block + 16, *low = high + (five ? 32 : 0);
    for (int part = 0; part < 8; part++) {
        k_scale(block + 4, part, to + 64 + 16 * part + lane, to + 192 + 16 * part + lane);
        unsigned char *codes = to + 320 + part * (five ? 320 : 256);
        for (int k = 0; k < SUB; k++) {
            unsigned char pair = low[part / 2 * 32 + k];
            unsigned code = part % 2 ? pair >> 4 : pair & 15u;
            if (five) code |= (high[k] >> part & 1u) << 4;
            put_nibble(codes, lane, k, code);
            if (five) put_bit5(codes + 256, lane, k, code);
        }
    }
}

static void pack_q6(const unsigned char *block, unsigned char *to, int lane) {
    const unsigned char *low = block, *high = block + 128, *scale = block + 192;
    put_half(to, lane, get_half(block + 208));
    for (int group = 0; group < 16; group++)
        to[32 + 16 * group + lane] = scale[group];
    for (int k = 0; k < SUPER; k++) {
        int half = k / 128, quarter = k % 128 / 32, at = k % 32;
        unsigned char pair = low[64 * half + 32 * (quarter % 2) + at];
        unsigned code = quarter / 2 ? pair >> 4 : pair & 15u;
        code |= (high[32 * half + at] >> (2 * quarter) & 3u) << 4;
        unsigned char *codes = to + 288 + k / 32 * 384;
        put_nibble(codes, lane, k % 32, code);
        put_bits56(codes + 256, lane, k % 32, code);
    }
}

/* One row of the tensor into its lane of a panel. */
static void pack_row(enum quant type, const unsigned char *row, int columns, unsigned char *panel,
                     int lane) {
    enum panel kind = panel_of(type);
    int n_groups = columns / panel_shape[kind].group;
    for (int group = 0; group < n_groups; group++) {
        unsigned char *to = panel + (size_t)group * (size_t)panel_shape[kind].bytes;
        const unsigned char *block = row + (size_t)group * (size_t)quant_types[type].block_bytes;
        switch (kind) {
        case PANEL_F32: memcpy(to + 4 * lane, block, 4); break;
        case PANEL_F16:
        case PANEL_BF16: memcpy(to + 2 * lane, block, 2); break;
        case PANEL_Q4_K:
        case PANEL_Q5_K: pack_k45(type, block, to, lane); break;
        case PANEL_Q6_K: pack_q6(block, to, lane); break;
        default: pack_small(type, block, to, lane); break;
        }
    }
}

/* Row `row` of tensors that stand one behind another, as stored. */
static const unsigned char *find_row(const struct tensor *part, int row) {
    while (row >= part->rows)
        row -= part++->rows;
    return (const unsigned char *)part->data +
           (size_t)row * quant_bytes(part->type, (size_t)part->columns);
}

struct weight *cpu_load(struct device *device, const struct tensor *part, int n_parts) {
    const struct quant_type *type = &quant_types[part->type];
    REQUIRE(part->columns % type->block_elements == 0, "%s: %d columns in blocks of %d", part->name,
            part->columns, type->block_elements);
    struct weight *weight = check_alloc(1, sizeof *weight);
    weight->columns = part->columns;
    for (int at = 0; at < n_parts; weight->rows += part[at++].rows)
        REQUIRE(part[at].columns == part->columns && part[at].type == part->type,
                "%s: %d columns of %s beside %d of %s", part[at].name, part[at].columns,
                quant_types[part[at].type].name, part->columns, type->name);
    if (weight->rows == 1) { /* a norm or a bias, used element by element; or a rank's only row */
        weight->panel = PANEL_VECTOR;
        weight->data = cpu_alloc((size_t)part->columns * sizeof(float));
        type->unpack(part->data, (size_t)part->columns, (float *)weight->data);
        return weight;
    }
    weight->panel = panel_of(part->type);
    weight->panel_bytes = (size_t)(part->columns / panel_shape[weight->panel].group) *
                          (size_t)panel_shape[weight->panel].bytes;
    int n_panels = (weight->rows + PANEL_ROWS - 1) / PANEL_ROWS;
    weight->data = cpu_alloc((size_t)n_panels * weight->panel_bytes);
    /* each thread touches first the panels it will multiply with later */
#pragma omp parallel for num_threads(device->options.n_threads) schedule(static)
    for (int panel = 0; panel < n_panels; panel++) {
        for (int lane = 0; lane < PANEL_ROWS; lane++) {
            int row = panel * PANEL_ROWS + lane;
            if (row >= weight->rows) break;
            pack_row(part->type, find_row(part, row), part->columns,
                     weight->data + (size_t)panel * weight->panel_bytes, lane);
        }
    }
    return weight;
}

void cpu_unload(struct device *device, struct weight *weight) {
    (void)device;
    if (!weight) return;
    cpu_free(weight->data);
    free(weight);
}
