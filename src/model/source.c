/* source.c - a file's tensors where they are mapped, a shape's in memory of their own. See
 * source.h. */
#include "source.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include "check.h"

bool source_open(struct source *source, struct model *model, const char *name, uint64_t seed,
                 struct fault *fault) {
    *source = (struct source){.made = shape_is(name), .n_threads = 1};
    if (source->made) return shape_read(&source->shape, model, name, seed, fault);
    if (!gguf_open(&source->gguf, name, fault)) return false;
    if (model_read(model, &source->gguf, fault)) return true;
    source_close(source);
    return false;
}

void source_close(struct source *source) {
    gguf_close(&source->gguf);
    *source = (struct source){0};
}

/* Everything that decides what a shape computes, as text. */
static void shape_fingerprint(const struct shape *shape, const struct model *model, char hex[33]) {
    char text[512];
    int n = snprintf(text, sizeof text,
                     "%s %d %d %d %d %d %d %d %d %d %a %a %a %d %d %d %" PRIu64 " %a %a %a %a",
                     model->family->architecture, model->n_layers, model->hidden, model->ffn,
                     model->n_heads, model->n_kv_heads, model->head_dim, model->vocabulary,
                     model->context, model->n_rotated, (double)model->norm_eps,
                     (double)model->rope_base, (double)model->rope_scale, model->rope_factors,
                     model->tied, (int)shape->type, shape->seed, shape->factors.factor,
                     shape->factors.low, shape->factors.high, shape->factors.original_context);
    REQUIRE(n > 0 && (size_t)n < sizeof text, "a shape of %d bytes", n);
    XXH128_hash_t digest = XXH3_128bits(text, (size_t)n);
    snprintf(hex, 33, "%016" PRIx64 "%016" PRIx64, (uint64_t)digest.high64, (uint64_t)digest.low64);
}

void source_fingerprint(const struct source *source, const struct model *model, char hex[33]) {
    if (source->made) {
        shape_fingerprint(&source->shape, model, hex);
    } else {
        gguf_fingerprint(&source->gguf, hex);
    }
}

size_t source_tensor_bytes(const struct tensor *tensor) {
    return quant_bytes(tensor->type, (size_t)tensor->rows * (size_t)tensor->columns);
}

struct tensor source_find(const struct source *source, const struct graph_weight *weight) {
    struct tensor tensor = {.name = weight->name, .rows = weight->rows, .columns = weight->columns};
    if (source->made) {
        tensor.type = shape_type(&source->shape, weight);
        return tensor;
    }
    const struct gguf_tensor *stored = gguf_find_tensor(&source->gguf, weight->name);
    REQUIRE(stored, "tensor %s is missing", weight->name);
    tensor.type = stored->type;
    return tensor;
}

bool source_noise(const struct source *source, const struct graph_weight *weight,
                  struct noise *noise) {
    return source->made && shape_noise(&source->shape, weight, noise);
}

struct tensor source_take(const struct source *source, const struct graph_weight *weight) {
    struct tensor tensor = source_find(source, weight);
    if (source->made) {
        void *data = check_alloc(1, source_tensor_bytes(&tensor));
        shape_fill(&source->shape, weight, data, source->n_threads);
        tensor.data = data;
    } else {
        tensor.data = gguf_find_tensor(&source->gguf, weight->name)->data;
    }
    return tensor;
}

/* The device's copy is what is used from here on: mapped pages of the file would only count against
 * the memory limit of the job. */
static void let_go(const struct tensor *tensor) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = ((uintptr_t)tensor->data + page - 1) / page * page;
    uintptr_t end = ((uintptr_t)tensor->data + source_tensor_bytes(tensor)) / page * page;
    if (end > begin) madvise((void *)begin, end - begin, MADV_DONTNEED);
}

void source_release(const struct source *source, struct tensor *tensor) {
    if (source->made) {
        free((void *)tensor->data);
    } else {
        let_go(tensor);
    }
    tensor->data = NULL;
}
