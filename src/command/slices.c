/* slices.c - `lamina slices MODEL [--dot]`. See slices.h.
 *
 * Composes file, model, graph and program, and prints the result. Shapes are those of CPU ranks
 * (activations of 4 bytes); the KV type is the one asked for.
 */
#include "slices.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "check.h"
#include "kv.h"
#include "log.h"
#include "model.h"
#include "program.h"
#include "source.h"

enum { CPU_ELEMENT_BYTES = 4 };

static void print_model(const struct model *model) {
    printf(
        "%s (%s): %d layers, hidden %d, ffn %d, %d heads on %d KV heads of %d, vocabulary %d%s\n",
        model->name, model->family->architecture, model->n_layers, model->hidden, model->ffn,
        model->n_heads, model->n_kv_heads, model->head_dim, model->vocabulary,
        model->tied ? ", head tied to the embedding" : "");
}

static void print_program(const struct model *model, const struct options *options) {
    int kv_bytes = (int)element_bytes(kv_element(options->kv_type));
    struct graph graph;
    struct program program;
    graph_open(&graph, (struct graph_options){.element_bytes = CPU_ELEMENT_BYTES});
    model_write_graph(&graph, model);
    program_open(&program, &graph, false);
    if (options->dot) {
        program_print_dot(&program, kv_bytes, stdout);
    } else {
        print_model(model);
        program_print(&program, kv_bytes, stdout);
    }
    program_close(&program);
    graph_close(&graph);
}

int slices_run(const struct options *options) {
    struct fault fault = {0};
    struct source source;
    struct model model;
    if (!options->model) {
        log_error("slices needs a model: lamina slices MODEL.gguf");
        return EXIT_USER;
    }
    if (!source_open(&source, &model, options->model, 0, &fault)) {
        log_error("%s", fault.text);
        return fault.kind;
    }
    print_program(&model, options);
    source_close(&source);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        log_error("cannot write to stdout: %s", strerror(errno));
        return EXIT_WORLD;
    }
    return EXIT_DONE;
}
