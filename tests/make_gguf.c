/* make_gguf.c - lays out and fills a random model. See make_gguf.h.
 *
 * A plan lists the tensors in the order of the file; types are given out, parts are cut, then each
 * part is built in memory and written. Weights of block types are random codes under scales chosen
 * for the wanted spread: for random weights that is as good as quantising, and it reaches every
 * code. Key and tensor names: llama.cpp's converter.
 */
#include "make_gguf.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quant.h"

enum { NAME_MOST = 64, TENSORS_A_LAYER_MOST = 14, DATA_ALIGNMENT = 32 };

/* One tensor to be: F32 vectors have rows 0. */
struct item {
    char name[NAME_MOST];
    uint64_t columns, rows;
    float mean, spread;
    bool is_factors; /* rope_freqs.weight */
    enum quant type;
    uint64_t offset; /* in its part's tensor data */
};

struct plan {
    const struct make_gguf_wish *wish;
    int n_items;
    struct item *item;
};

struct make_gguf_wish make_gguf_default(void) {
    return (struct make_gguf_wish){.seed = 1,
                                   .architecture = "llama",
                                   .layers = 3,
                                   .hidden = 200,
                                   .heads = 9,
                                   .kv_heads = 3,
                                   .head_dim = 40,
                                   .ffn = 328,
                                   .vocabulary = 1031,
                                   .context = 2048,
                                   .type = "F32",
                                   .parts = 1};
}

/* ---- random numbers */

uint64_t make_gguf_random(uint64_t *state) {
    uint64_t mixed = *state += 0x9e3779b97f4a7c15u;
    mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9u;
    mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111ebu;
    return mixed ^ mixed >> 31;
}

/* Mean 0, deviation 1, within +-3.47: four uniforms of variance (2^32 - 1) / 12 each. */
static float draw_normal(uint64_t *random) {
    uint64_t bits = make_gguf_random(random);
    int sum = (int)(bits & 0xffff) + (int)(bits >> 16 & 0xffff) + (int)(bits >> 32 & 0xffff) +
              (int)(bits >> 48);
    return (float)(sum - 2 * 0xffff) / 37837.2f;
}

/* ---- the plan */

__attribute__((format(printf, 3, 4))) static struct item *add(struct plan *plan, struct item item,
                                                              const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(item.name, sizeof item.name, format, arguments);
    va_end(arguments);
    struct item *added = &plan->item[plan->n_items++];
    *added = item;
    return added;
}

/* A matrix whose product with a vector of deviation 1 has deviation `gain`. */
static struct item matrix(int columns, int rows, float gain) {
    return (struct item){.columns = (uint64_t)columns,
                         .rows = (uint64_t)rows,
                         .spread = gain / sqrtf((float)columns)};
}

static struct item vector(int columns, float mean, float spread) {
    return (struct item){.columns = (uint64_t)columns, .mean = mean, .spread = spread};
}

static void add_layer(struct plan *plan, int layer) {
    const struct make_gguf_wish *w = plan->wish;
    int q_columns = w->heads * w->head_dim, kv_columns = w->kv_heads * w->head_dim;
    bool has_biases = strcmp(w->architecture, "qwen2") == 0;
    bool has_head_norms = strcmp(w->architecture, "qwen3") == 0;
    /* scores q k / sqrt(head_dim) then have a deviation of 1.75^2 */
    float peaked = 1.75f;
    add(plan, vector(w->hidden, 1, 0.1f), "blk.%d.attn_norm.weight", layer);
    add(plan, matrix(w->hidden, q_columns, peaked), "blk.%d.attn_q.weight", layer);
    add(plan, matrix(w->hidden, kv_columns, peaked), "blk.%d.attn_k.weight", layer);
    add(plan, matrix(w->hidden, kv_columns, 1), "blk.%d.attn_v.weight", layer);
    if (has_biases) {
        add(plan, vector(q_columns, 0, 0.3f), "blk.%d.attn_q.bias", layer);
        add(plan, vector(kv_columns, 0, 0.3f), "blk.%d.attn_k.bias", layer);
        add(plan, vector(kv_columns, 0, 0.3f), "blk.%d.attn_v.bias", layer);
    }
    if (has_head_norms) {
        add(plan, vector(w->head_dim, peaked, 0.2f), "blk.%d.attn_q_norm.weight", layer);
        add(plan, vector(w->head_dim, peaked, 0.2f), "blk.%d.attn_k_norm.weight", layer);
    }
    add(plan, matrix(q_columns, w->hidden, 1.5f), "blk.%d.attn_output.weight", layer);
    add(plan, vector(w->hidden, 1, 0.1f), "blk.%d.ffn_norm.weight", layer);
    add(plan, matrix(w->hidden, w->ffn, 1.25f), "blk.%d.ffn_gate.weight", layer);
    add(plan, matrix(w->hidden, w->ffn, 1.25f), "blk.%d.ffn_up.weight", layer);
    add(plan, matrix(w->ffn, w->hidden, 1.25f), "blk.%d.ffn_down.weight", layer);
}

static void add_all(struct plan *plan) {
    const struct make_gguf_wish *w = plan->wish;
    /* as a head the embedding makes logits of deviation 2; as an input it is small beside what the
     * layers add, so that a tied model does not merely repeat its input */
    add(plan, matrix(w->hidden, w->vocabulary, 2), "token_embd.weight");
    if (w->rope_factors) {
        struct item *factors = add(plan, vector(w->head_dim / 2, 0, 0), "rope_freqs.weight");
        factors->is_factors = true;
    }
    for (int layer = 0; layer < w->layers; layer++)
        add_layer(plan, layer);
    add(plan, vector(w->hidden, 1, 0.1f), "output_norm.weight");
    if (!w->tied) add(plan, matrix(w->hidden, w->vocabulary, 2), "output.weight");
}

static bool choose_types(struct plan *plan, struct fault *fault) {
    const char *wanted = plan->wish->type;
    bool is_mix = strcmp(wanted, "mix") == 0;
    int type = 0;
    while (!is_mix && type < QUANT_TYPES && strcmp(quant_types[type].name, wanted) != 0)
        type++;
    if (type == QUANT_TYPES) return fault_user(fault, "--type %s: no such type", wanted);
    for (int at = 0; at < plan->n_items; at++) {
        struct item *item = &plan->item[at];
        if (item->rows == 0) continue; /* vectors stay F32 */
        while (is_mix && item->columns % (uint64_t)quant_types[type].block_elements != 0)
            type = (type + 1) % QUANT_TYPES; /* ends: F32's block is 1 */
        if (item->columns % (uint64_t)quant_types[type].block_elements != 0) {
            return fault_user(fault, "--type %s: %s has %d columns, not whole blocks of %d", wanted,
                              item->name, (int)item->columns, quant_types[type].block_elements);
        }
        item->type = (enum quant)type;
        if (is_mix) type = (type + 1) % QUANT_TYPES;
    }
    return true;
}

static uint64_t item_elements(const struct item *item) {
    return item->columns * (item->rows ? item->rows : 1);
}

/* ---- filling */

/* Where a block keeps its halves, and what its other bytes make of them when they are random:
 * value / d has a mean that the second half, `ratio` * d, takes away, and then a deviation. */
static const struct {
    int d_at, m_at; /* -1: there is none */
    float ratio, deviation;
} blocks[QUANT_TYPES] = {
    [QUANT_Q8_0] = {0, -1, 0, 73.9f},     [QUANT_Q4_0] = {0, -1, 0, 4.61f},
    [QUANT_Q4_1] = {0, 2, -7.5f, 4.61f},  [QUANT_Q5_0] = {0, -1, 0, 9.23f},
    [QUANT_Q5_1] = {0, 2, -15.5f, 9.23f}, [QUANT_Q4_K] = {0, 2, 7.5f, 258},
    [QUANT_Q5_K] = {0, 2, 15.5f, 527},    [QUANT_Q6_K] = {208, -1, 0, 1365},
};

static void put_half(unsigned char *at, float value) {
    uint16_t half = quant_to_f16(value);
    memcpy(at, &half, sizeof half);
}

static void fill_block(unsigned char *block, enum quant type, float spread, uint64_t *random) {
    for (int at = 0; at < quant_types[type].block_bytes; at++)
        block[at] = (unsigned char)(make_gguf_random(random) >> 56);
    /* scales differ from block to block by up to a quarter */
    float unequal = 0.75f + (float)(make_gguf_random(random) >> 48) / 131072.0f;
    float d = spread * unequal / blocks[type].deviation;
    put_half(block + blocks[type].d_at, d);
    if (blocks[type].m_at >= 0) put_half(block + blocks[type].m_at, d * blocks[type].ratio);
}

static void fill_float(unsigned char *at, enum quant type, float value) {
    uint16_t narrow = type == QUANT_F16 ? quant_to_f16(value) : quant_to_bf16(value);
    if (type == QUANT_F32) {
        memcpy(at, &value, sizeof value);
    } else {
        memcpy(at, &narrow, sizeof narrow);
    }
}

/* Llama 3 leaves the fast third of the frequencies alone and slows the slow third eightfold. */
static float rope_factor(uint64_t at, uint64_t n_factors) {
    float place = (float)at / (float)n_factors;
    if (place < 1.0f / 3) return 1;
    return place > 2.0f / 3 ? 8 : 1 + 21 * (place - 1.0f / 3);
}

static void fill_item(unsigned char *data, const struct item *item, uint64_t random) {
    const struct quant_type *type = &quant_types[item->type];
    uint64_t n_blocks = item_elements(item) / (uint64_t)type->block_elements;
    for (uint64_t block = 0; block < n_blocks; block++) {
        unsigned char *at = data + block * (uint64_t)type->block_bytes;
        if (item->is_factors) {
            fill_float(at, item->type, rope_factor(block, n_blocks));
        } else if (type->block_elements == 1) {
            fill_float(at, item->type, item->mean + item->spread * draw_normal(&random));
        } else {
            fill_block(at, item->type, item->spread, &random);
        }
    }
}

/* ---- writing */

static int append_model_keys(struct image *image, const struct make_gguf_wish *w) {
    bool is_qwen = strncmp(w->architecture, "qwen", 4) == 0;
    const struct {
        const char *name;
        int value;
    } numbers[] = {
        {"block_count", w->layers},
        {"context_length", w->context},
        {"embedding_length", w->hidden},
        {"feed_forward_length", w->ffn},
        {"attention.head_count", w->heads},
        {"attention.head_count_kv", w->kv_heads},
        {"attention.key_length", w->head_dim},
        {"attention.value_length", w->head_dim},
        {"rope.dimension_count", w->head_dim},
        {"vocab_size", w->vocabulary},
    };
    int n_numbers = sizeof numbers / sizeof numbers[0];
    char key[128];
    image_key_string(image, "general.architecture", w->architecture);
    image_key_string(image, "general.type", "model");
    snprintf(key, sizeof key, "random %s %llu", w->architecture, (unsigned long long)w->seed);
    image_key_string(image, "general.name", key);
    for (int number = 0; number < n_numbers; number++) {
        snprintf(key, sizeof key, "%s.%s", w->architecture, numbers[number].name);
        image_key_u32(image, key, (uint32_t)numbers[number].value);
    }
    snprintf(key, sizeof key, "%s.rope.freq_base", w->architecture);
    image_key_f32(image, key, is_qwen ? 1000000.0f : 10000.0f);
    snprintf(key, sizeof key, "%s.attention.layer_norm_rms_epsilon", w->architecture);
    image_key_f32(image, key, is_qwen ? 1e-6f : 1e-5f);
    image_key_u32(image, "general.quantization_version", 2);
    return 3 + n_numbers + 3;
}

static int append_keys(struct image *image, const struct plan *plan, int part) {
    const struct make_gguf_wish *w = plan->wish;
    int n_keys = 0;
    if (part == 0) {
        n_keys += append_model_keys(image, w);
        n_keys += make_vocabulary(image, w->seed, w->vocabulary);
    }
    if (w->alignment) {
        image_key_u32(image, "general.alignment", (uint32_t)w->alignment);
        n_keys++;
    }
    if (w->parts > 1) {
        image_key(image, "split.no", GGUF_U16);
        image_put(image, &(uint16_t){(uint16_t)part}, 2);
        image_key(image, "split.count", GGUF_U16);
        image_put(image, &(uint16_t){(uint16_t)w->parts}, 2);
        image_key(image, "split.tensors.count", GGUF_I32);
        image_u32(image, (uint32_t)plan->n_items);
        n_keys += 3;
    }
    return n_keys;
}

/* Items first..last-1 as part `part`. */
static void build_part(struct image *image, struct plan *plan, int part, int first, int last) {
    const struct make_gguf_wish *w = plan->wish;
    size_t alignment = w->alignment ? (size_t)w->alignment : DATA_ALIGNMENT;
    image_header(image, (uint64_t)(last - first), 0);
    uint64_t n_keys = (uint64_t)append_keys(image, plan, part);
    memcpy(image->byte + 16, &n_keys, sizeof n_keys);
    uint64_t offset = 0;
    for (int at = first; at < last; at++) {
        struct item *item = &plan->item[at];
        item->offset = offset;
        image_tensor(image, item->name, item->columns, item->rows, quant_types[item->type].gguf_id,
                     offset);
        offset += quant_bytes(item->type, item_elements(item));
        offset = (offset + alignment - 1) / alignment * alignment;
    }
    image_align(image, alignment);
    unsigned char *data = image_room(image, offset);
    for (int at = first; at < last; at++) {
        uint64_t seed = w->seed, index = (uint64_t)at + 1;
        uint64_t start = make_gguf_random(&seed) ^ make_gguf_random(&index);
        fill_item(data + plan->item[at].offset, &plan->item[at], start);
    }
}

static bool write_parts(struct plan *plan, const char *path, struct fault *fault) {
    int parts = plan->wish->parts, n_path = (int)strlen(path);
    if (n_path > 5 && strcmp(path + n_path - 5, ".gguf") == 0) n_path -= 5;
    bool good = true;
    for (int part = 0; good && part < parts; part++) {
        char name[4096];
        struct image image = {0};
        if (parts == 1) {
            snprintf(name, sizeof name, "%s", path);
        } else {
            snprintf(name, sizeof name, "%.*s-%05d-of-%05d.gguf", n_path, path, part + 1, parts);
        }
        build_part(&image, plan, part, plan->n_items * part / parts,
                   plan->n_items * (part + 1) / parts);
        good = image_write(&image, name, fault);
        image_close(&image);
    }
    return good;
}

static bool check_wish(const struct make_gguf_wish *w, struct fault *fault) {
    const struct {
        const char *name;
        int value, least, most;
    } ranges[] = {
        {"--layers", w->layers, 1, 1000},
        {"--hidden", w->hidden, 1, 1 << 16},
        {"--heads", w->heads, 1, 1024},
        {"--kv-heads", w->kv_heads, 1, 1024},
        {"--head-dim", w->head_dim, 2, 1024},
        {"--ffn", w->ffn, 1, 1 << 20},
        {"--vocabulary", w->vocabulary, MAKE_VOCABULARY_LEAST, 1 << 20},
        {"--context", w->context, 1, 1 << 24},
        {"--split", w->parts, 1, 999},
        {"--alignment", w->alignment, 0, 1 << 20},
    };
    for (size_t at = 0; at < sizeof ranges / sizeof ranges[0]; at++) {
        if (ranges[at].value < ranges[at].least || ranges[at].value > ranges[at].most) {
            return fault_user(fault, "%s %d: not %d to %d", ranges[at].name, ranges[at].value,
                              ranges[at].least, ranges[at].most);
        }
    }
    bool is_llama = strcmp(w->architecture, "llama") == 0;
    if (!is_llama && strcmp(w->architecture, "qwen2") != 0 && strcmp(w->architecture, "qwen3") != 0)
        return fault_user(fault, "--architecture %s: not llama, qwen2, qwen3", w->architecture);
    if (w->rope_factors && !is_llama) return fault_user(fault, "--rope-factors: llama only");
    if (w->heads % w->kv_heads != 0 || w->head_dim % 2 != 0)
        return fault_user(fault, "--heads must be a multiple of --kv-heads, --head-dim even");
    if (w->alignment & (w->alignment - 1))
        return fault_user(fault, "--alignment %d: not a power of two", w->alignment);
    return true;
}

bool make_gguf_write(const struct make_gguf_wish *wish, const char *path, struct fault *fault) {
    if (!check_wish(wish, fault)) return false;
    struct plan plan = {.wish = wish};
    plan.item = check_alloc((size_t)wish->layers * TENSORS_A_LAYER_MOST + 4, sizeof *plan.item);
    add_all(&plan);
    bool good = choose_types(&plan, fault) && write_parts(&plan, path, fault);
    free(plan.item);
    return good;
}
