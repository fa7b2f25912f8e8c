/* source.h - where a model comes from: a file, or a shape whose weights are made up.
 *
 * Who loads weights asks here and need not know which it is. A tensor is held by the source from
 * take to release, those of one weight at a time, so that a model is never in memory twice.
 */
#ifndef LAMINA_SOURCE_H
#define LAMINA_SOURCE_H

#include "device.h"
#include "gguf.h"
#include "model.h"
#include "shape.h"

struct source {
    struct gguf gguf; /* the file; zeroed for a shape */
    bool made;        /* a shape */
    struct shape shape;
    int n_threads; /* that make up weights; 1 unless set */
};

/* Open what -m named, GGUF file or shape:..., and read its hyperparameters. `seed` is a shape's.
 * False with the user's fault; then nothing is held. */
bool source_open(struct source *source, struct model *model, const char *name, uint64_t seed,
                 struct fault *fault);
void source_close(struct source *source);

/* How `weight`, a tensor, is stored; its data is NULL. REQUIREs that the source has it (source_open
 * saw to that for a model's own graph). The name is the weight's. */
struct tensor source_find(const struct source *source, const struct graph_weight *weight);

/* The same with its data, until release. */
struct tensor source_take(const struct source *source, const struct graph_weight *weight);
void source_release(const struct source *source, struct tensor *tensor);

/* The stream that a matrix is made of, which then need not be taken (shape_noise); false for all
 * that a file holds. */
bool source_noise(const struct source *source, const struct graph_weight *weight,
                  struct noise *noise);

/* 32 hexadecimal digits that name the model: a file's contents (gguf_fingerprint), or a shape's
 * dimensions and seed. */
void source_fingerprint(const struct source *source, const struct model *model, char hex[33]);

/* Bytes of a tensor as stored. */
size_t source_tensor_bytes(const struct tensor *tensor);

#endif
