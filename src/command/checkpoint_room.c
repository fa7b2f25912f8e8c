/* checkpoint_room.c - what checkpoints may take, and what there is. See checkpoint.h.
 *
 * One place knows the sizes, for what is said at the start and for what each checkpoint does. A
 * checkpoint refers to pages that the one before has written, so a second one costs less than the
 * first; how much less is not known before, and not counted on.
 */
#include <stdio.h>
#include <string.h>

#include "checkpoint_folder.h"
#include "checkpoint_parts.h"
#include "log.h"
#include "progress.h"

/* For what is not KV: tokens and scores of choices, the file that shows all, the manifest. */
static const int64_t REST_BYTES = 16 << 20;
/* Blocks of the smallest checkpoint's files and of the folder itself. */
static const int64_t LEAST_BYTES = 64 << 10;

bool checkpoint_keeps_kv(const struct options *options) {
    return options->checkpoint && options->checkpoint_kv != CHECKPOINT_KV_NEVER;
}

struct kv_file_shape checkpoint_shape(const struct options *options,
                                      const struct batch_limits *limits, int n_layers) {
    return (struct kv_file_shape){.n_layers = n_layers,
                                  .n_kv_heads = limits->n_kv_heads,
                                  .head_dim = limits->head_dim,
                                  .element = kv_element(options->kv_type)};
}

int64_t checkpoint_page_bytes(const struct kv_file_shape *shape) {
    return 2 * (int64_t)shape->n_layers * shape->n_kv_heads * PAGE_TOKENS * shape->head_dim *
           (int64_t)element_bytes(shape->element);
}

/* Room for the pages once more: those of the checkpoints that are kept are there already. */
bool checkpoint_has_room(const struct checkpoint *checkpoint, int n_kept) {
    int64_t needed = REST_BYTES, page = checkpoint_page_bytes(&checkpoint->shape);
    int64_t n_free = checkpoint_folder_free(checkpoint->run.options->checkpoint);
    for (int at = 0; at < n_kept; at++)
        needed += page * kv_pages_for(checkpoint->kept[at].n_rows);
    if (n_free < 0 || n_free >= needed) return true;
    log_warning("--checkpoint %s has %lld MiB free, and the KV cache needs %lld MiB: this "
                "checkpoint keeps tokens only",
                checkpoint->run.options->checkpoint, (long long)n_free >> 20,
                (long long)needed >> 20);
    return false;
}

void checkpoint_say_room(const struct options *options, const struct batch_limits *limits,
                         int n_layers) {
    char kv[PROGRESS_TEXT_BYTES + 64] = "", size[PROGRESS_TEXT_BYTES], folder[512], text[1024];
    char rest[PROGRESS_TEXT_BYTES], there[PROGRESS_TEXT_BYTES] = "an unknown size";
    struct kv_file_shape shape = checkpoint_shape(options, limits, n_layers);
    int64_t n_pages = (int64_t)limits->n_pages * limits->n_owners;
    int64_t page = checkpoint_keeps_kv(options) ? checkpoint_page_bytes(&shape) : 0;
    int64_t each = page * n_pages + REST_BYTES;
    int64_t n_free = checkpoint_folder_free(options->checkpoint);
    if (n_free >= 0) progress_size(there, n_free);
    if (page > 0)
        snprintf(kv, sizeof kv, "%s of KV cache (%lld pages) and ",
                 progress_size(size, page * n_pages), (long long)n_pages);
    bool none = n_free >= 0 && n_free < LEAST_BYTES;
    bool tokens = page > 0 && n_free >= 0 && n_free < REST_BYTES + page;
    bool enough = n_free < 0 || n_free >= 2 * each;
    const char *follows = none     ? "none is kept until there is room, and the run goes on"
                          : tokens ? "tokens only are kept"
                          : !page  ? "tokens only are kept, as --checkpoint-kv never says"
                          : enough ? "the KV cache is kept"
                                   : "the KV cache is kept where there is room, else tokens only";
    snprintf(text, sizeof text,
             "checkpoints: at most %s%s of tokens each, the last two stay; %s free in %s: %s", kv,
             progress_size(rest, REST_BYTES), there,
             log_escape(folder, sizeof folder, options->checkpoint, strlen(options->checkpoint)),
             follows);
    if (none || tokens) {
        log_warning("%s", text);
    } else {
        log_note("%s", text);
    }
}
