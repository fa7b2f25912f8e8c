/* fuzz_shape.c - any bytes as a config.json: shape_read must give one clear line, or dimensions
 * that are within the limits of models and divide as they must.
 *
 *   fuzz_shape -max_len=2048 CORPUS tests/fuzz/shape
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../scratch.h"
#include "../walk_gguf.h"
#include "shape.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

static int file; /* in memory */
static char name[64];

static void remove_folder(void) {
    scratch_close(NULL);
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    char target[32];
    if (scratch_open(NULL) != 0) abort();
    atexit(remove_folder);
    file = memfd_create("config", 0);
    snprintf(target, sizeof target, "/proc/self/fd/%d", file);
    if (file < 0 || symlink(target, scratch_path("c.json")) != 0) abort();
    snprintf(name, sizeof name, "shape:%s", scratch_path("c.json"));
    return 0;
}

static bool within(int number, int most) {
    return number >= 1 && number <= most;
}

static bool positive(double number) {
    return isfinite(number) && number > 0;
}

static bool is_sound(const struct shape *shape, const struct model *model) {
    const struct rope_factors *factors = &shape->factors;
    bool scaled = !model->rope_factors ||
                  (positive(factors->factor) && positive(factors->low) &&
                   positive(factors->original_context) && factors->high > factors->low);
    return model->family && within(model->n_layers, MODEL_MOST_LAYERS) &&
           within(model->hidden, MODEL_MOST_COLUMNS) && within(model->ffn, MODEL_MOST_COLUMNS) &&
           within(model->vocabulary, MODEL_MOST_TOKENS) &&
           within(model->context, MODEL_MOST_CONTEXT) && within(model->n_heads, MODEL_MOST_HEADS) &&
           within(model->n_kv_heads, model->n_heads) && model->n_heads % model->n_kv_heads == 0 &&
           within(model->head_dim, MODEL_MOST_COLUMNS / model->n_heads) &&
           model->head_dim % 2 == 0 && model->n_rotated == model->head_dim &&
           positive((double)model->norm_eps) && positive((double)model->rope_base) &&
           positive((double)model->rope_scale) && scaled &&
           (shape->type == QUANT_BF16 || shape->type == QUANT_F16 || shape->type == QUANT_F32);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
    struct shape shape;
    struct model model;
    struct fault fault = {0};
    if (ftruncate(file, 0) != 0 || pwrite(file, data, n_bytes, 0) != (ssize_t)n_bytes) abort();
    if (!shape_read(&shape, &model, name, 0, &fault)) {
        if (!walk_fault(&fault, "shape:")) abort();
    } else if (!is_sound(&shape, &model)) {
        abort();
    }
    return 0;
}
