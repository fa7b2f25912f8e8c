/* gguf_header.h - between gguf.c, gguf_header.c and gguf_read.c; others include gguf.h. */
#ifndef LAMINA_GGUF_HEADER_H
#define LAMINA_GGUF_HEADER_H

#include "gguf.h"

/* Fill version, alignment, keys and tensors of *gguf, which has its path and is else zero, from the
 * `n_bytes` of one file. False with a fault; then gguf_close releases what was filled so far. */
bool gguf_header_parse(struct gguf *gguf, const void *map, size_t n_bytes, struct fault *fault);

/* Bytes of a scalar of `kind`; 0 for strings and arrays. */
size_t gguf_kind_bytes(enum gguf_kind kind);

#endif
