/* inspect.c - `lamina inspect FILE`: a model file or a shape printed for people, checkpoints, or a
 * trace. See inspect.h.
 *
 * The invariant: everything that came from the file goes through log_escape, so that a hostile name
 * cannot drive a terminal. Nothing is judged here: a file opens, so it is well-formed; whether it
 * is a model that lamina runs is model.c's to say. A JSON form was left out: gguf_dump.py of
 * llama.cpp is that already.
 */
#include "inspect.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "checkpoint_inspect.h"
#include "gguf.h"
#include "log.h"
#include "source.h"
#include "trace.h"

enum {
    SHOWN_NUMBERS = 8, /* of an array */
    SHOWN_STRINGS = 4,
    SHOWN_BYTES = 96, /* of a text, after escaping */
    NAME_WIDTH = 44
};

static size_t count_parameters(const struct gguf *gguf) {
    size_t n_parameters = 0;
    for (size_t tensor = 0; tensor < gguf->n_tensors; tensor++) {
        const size_t *dim = gguf->tensor[tensor].dim;
        n_parameters += dim[0] * dim[1] * dim[2] * dim[3];
    }
    return n_parameters;
}

static void print_file(const struct gguf *gguf) {
    char path[512], fingerprint[33];
    gguf_fingerprint(gguf, fingerprint);
    printf("file         %s\n", log_escape(path, sizeof path, gguf->path, strlen(gguf->path)));
    printf("format       GGUF version %d, %d part%s, %zu bytes (%.1f MiB)\n", gguf->version,
           gguf->n_parts, gguf->n_parts == 1 ? "" : "s", gguf->file_bytes,
           (double)gguf->file_bytes / 1048576);
    printf("alignment    %zu bytes\n", gguf->alignment);
    printf("keys         %zu\n", gguf->n_keys);
    printf("tensors      %zu, %zu parameters\n", gguf->n_tensors, count_parameters(gguf));
    printf("fingerprint  %s\n", fingerprint);
}

static void print_string(const struct gguf_string *string) {
    char text[SHOWN_BYTES + 4];
    printf("\"%s\"", log_escape(text, sizeof text, string->text, string->n_bytes));
    if (string->n_bytes > SHOWN_BYTES) printf(" (%zu bytes)", string->n_bytes);
}

static void print_element(const struct gguf_value *value, enum gguf_kind kind, size_t index) {
    switch (kind) {
    case GGUF_STRING: print_string(&value->string[index]); break;
    case GGUF_BOOL: fputs(gguf_array_int(value, index) ? "true" : "false", stdout); break;
    case GGUF_F32: printf("%.9g", gguf_array_float(value, index)); break;
    case GGUF_F64: printf("%.17g", gguf_array_float(value, index)); break;
    case GGUF_U64: {
        uint64_t number;
        memcpy(&number, (const unsigned char *)value->data + index * sizeof number, sizeof number);
        printf("%" PRIu64, number);
        break;
    }
    default: printf("%" PRId64, gguf_array_int(value, index)); break;
    }
}

static void print_key(const struct gguf_key *key) {
    const struct gguf_value *value = &key->value;
    bool is_array = value->kind == GGUF_ARRAY;
    enum gguf_kind kind = is_array ? value->element : value->kind;
    char name[256], kind_text[64];
    log_escape(name, sizeof name, key->name.text, key->name.n_bytes);
    snprintf(kind_text, sizeof kind_text, is_array ? "%s[%zu]" : "%s", gguf_kind_name(kind),
             value->n_elements);
    printf("%-*s  %-14s  ", NAME_WIDTH, name, kind_text);
    if (is_array) {
        size_t n_shown = kind == GGUF_STRING ? SHOWN_STRINGS : SHOWN_NUMBERS;
        putchar('[');
        for (size_t element = 0; element < value->n_elements && element < n_shown; element++) {
            if (element) fputs(", ", stdout);
            print_element(value, kind, element);
        }
        fputs(value->n_elements > n_shown ? ", ...]" : "]", stdout);
    } else {
        print_element(value, kind, 0);
    }
    putchar('\n');
}

static void print_tensor(const struct gguf_tensor *tensor) {
    char name[512], shape[96];
    int at = 0;
    for (int dim = 0; dim < tensor->n_dims; dim++) {
        at += snprintf(shape + at, sizeof shape - (size_t)at, "%s%zu", dim ? " x " : "",
                       tensor->dim[dim]);
    }
    printf("%-*s  %-5s  %-23s  %12zu\n", NAME_WIDTH,
           log_escape(name, sizeof name, tensor->name, strlen(tensor->name)),
           quant_types[tensor->type].name, shape, tensor->n_bytes);
}

static void print_totals(const struct gguf *gguf) {
    struct {
        size_t n_tensors, n_parameters, n_bytes;
    } total[QUANT_TYPES + 1] = {{0}};
    for (size_t at = 0; at < gguf->n_tensors; at++) {
        const struct gguf_tensor *tensor = &gguf->tensor[at];
        int rows[2] = {(int)tensor->type, QUANT_TYPES};
        for (int row = 0; row < 2; row++) {
            total[rows[row]].n_tensors++;
            total[rows[row]].n_parameters +=
                tensor->dim[0] * tensor->dim[1] * tensor->dim[2] * tensor->dim[3];
            total[rows[row]].n_bytes += tensor->n_bytes;
        }
    }
    printf("\n%-5s  %8s  %14s  %14s\n", "TYPE", "TENSORS", "PARAMETERS", "BYTES");
    for (int type = 0; type <= QUANT_TYPES; type++) {
        if (total[type].n_tensors == 0 && type != QUANT_TYPES) continue;
        printf("%-5s  %8zu  %14zu  %14zu\n", type == QUANT_TYPES ? "all" : quant_types[type].name,
               total[type].n_tensors, total[type].n_parameters, total[type].n_bytes);
    }
}

static void print_tensors(const struct gguf *gguf) {
    printf("\n%-*s  %-5s  %-23s  %12s\n", NAME_WIDTH, "TENSOR", "TYPE", "SHAPE (innermost first)",
           "BYTES");
    for (size_t tensor = 0; tensor < gguf->n_tensors; tensor++)
        print_tensor(&gguf->tensor[tensor]);
    print_totals(gguf);
}

static void print_gguf(const struct gguf *gguf) {
    print_file(gguf);
    printf("\n%-*s  %-14s  %s\n", NAME_WIDTH, "KEY", "KIND", "VALUE");
    for (size_t key = 0; key < gguf->n_keys; key++)
        print_key(&gguf->key[key]);
    print_tensors(gguf);
}

/* ---- shapes: what a file of them would hold ---- */

static struct gguf_tensor tensor_of(const struct source *source,
                                    const struct graph_weight *weight) {
    struct tensor found = source_find(source, weight);
    struct gguf_tensor tensor = {.type = found.type,
                                 .n_dims = weight->rows == 1 ? 1 : 2,
                                 .dim = {(size_t)weight->columns, (size_t)weight->rows, 1, 1},
                                 .n_bytes = source_tensor_bytes(&found)};
    snprintf(tensor.name, sizeof tensor.name, "%s", weight->name);
    return tensor;
}

static void print_model(const struct model *model, const struct gguf *tensors) {
    printf("model        %s\n", model->name);
    printf("family       %s\n", model->family->architecture);
    printf("layers       %d\n", model->n_layers);
    printf("hidden       %d, feed-forward %d\n", model->hidden, model->ffn);
    printf("heads        %d on %d KV heads of %d\n", model->n_heads, model->n_kv_heads,
           model->head_dim);
    printf("vocabulary   %d%s\n", model->vocabulary,
           model->tied ? ", head tied to the embedding" : "");
    printf("context      %d\n", model->context);
    printf("rope         base %.9g, positions times %.9g%s\n", (double)model->rope_base,
           (double)model->rope_scale, model->rope_factors ? ", factors of Llama 3" : "");
    printf("norm         epsilon %.9g\n", (double)model->norm_eps);
    printf("tensors      %zu, %zu parameters, made up from a seed\n", tensors->n_tensors,
           count_parameters(tensors));
}

static void print_shape(const struct source *source, const struct model *model) {
    struct graph graph;
    graph_open(&graph, (struct graph_options){.element_bytes = (int)sizeof(float)});
    model_write_graph(&graph, model);
    struct gguf tensors = {.n_tensors = (size_t)graph.n_weights};
    tensors.tensor = check_alloc(tensors.n_tensors, sizeof *tensors.tensor);
    for (int at = 0; at < graph.n_weights; at++)
        tensors.tensor[at] = tensor_of(source, &graph.weight[at]);
    print_model(model, &tensors);
    print_tensors(&tensors);
    free(tensors.tensor);
    graph_close(&graph);
}

/* Not with options that only traces have. */
static bool is_for_no_trace(const struct options *options, struct fault *fault) {
    char shown[512];
    if (options->n_inputs == 0 && !options->timeline && !options->csv && !options->output)
        return true;
    log_escape(shown, sizeof shown, options->model, strlen(options->model));
    return fault_user(fault, "%s: not a trace of lamina: %s", shown,
                      options->n_inputs > 0 ? "several files must be the journals of one run"
                                            : "--timeline, --csv and -o are for traces");
}

/* A file is printed whether or not it is a model that lamina runs; a shape always is one. */
static void inspect_model(const struct options *options, struct fault *fault) {
    struct source source = {0};
    struct model model;
    if (!is_for_no_trace(options, fault)) return;
    if (shape_is(options->model)) {
        if (source_open(&source, &model, options->model, 0, fault)) print_shape(&source, &model);
    } else if (gguf_open(&source.gguf, options->model, fault)) {
        print_gguf(&source.gguf);
    }
    source_close(&source);
}

int inspect_run(const struct options *options) {
    struct fault fault = {0};
    if (!options->model) {
        fault_user(&fault, "inspect: no file named (lamina inspect FILE)");
    } else if (checkpoint_inspect_is_for(options->model)) {
        if (is_for_no_trace(options, &fault)) checkpoint_inspect(options->model, &fault);
    } else if (trace_is_file(options->model)) {
        trace_inspect(options, &fault);
    } else {
        inspect_model(options, &fault);
    }
    if (fflush(stdout) != 0 || ferror(stdout))
        fault_world(&fault, "inspect: cannot write to stdout: %s", strerror(errno));
    if (fault.kind == FAULT_NONE) return EXIT_DONE;
    log_error("%s", fault.text);
    return (int)fault.kind;
}
