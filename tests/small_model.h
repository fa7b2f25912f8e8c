/* small_model.h - a made model of some ten kilobytes, most of it header, for tests that write it
 * many times. */
#ifndef LAMINA_SMALL_MODEL_H
#define LAMINA_SMALL_MODEL_H

#include "make_gguf.h"

static inline struct make_gguf_wish small_model(void) {
    struct make_gguf_wish wish = make_gguf_default();
    wish.layers = 2;
    wish.hidden = 32;
    wish.heads = 2;
    wish.kv_heads = 1;
    wish.head_dim = 16;
    wish.ffn = 64;
    wish.vocabulary = 320; /* a multiple of 32: no padding behind output.weight */
    wish.type = "mix";
    return wish;
}

#endif
