/* compose.h - opening what decodes, or what is measured: private to src/command.
 *
 * Opening goes in stages, each agreed over the ranks before the next, so that a fault on one rank
 * is said once and ends all of them. The leader reads the model; attention ranks never open a file.
 * A command composes a run out of these stages, puts its own between them, and walks it.
 */
#ifndef LAMINA_COMPOSE_H
#define LAMINA_COMPOSE_H

#include <signal.h>

#include "batch.h"
#include "budget.h"
#include "decode.h"
#include "desk.h"
#include "report.h"
#include "resources.h"
#include "results.h"
#include "source.h"
#include "time_limit.h"
#include "topology.h"
#include "weights.h"

/* Start and end of a run may read and write whole files: their waits get this many deadlines. */
enum { PATIENCE = 30 };

/* Everything a run holds, in the order it is opened; zero-initialise with the options. */
struct run {
    const struct options *options;
    int64_t begin_ns; /* of the process, for the spans of the start */
    struct environment environment;
    struct topology topology;
    struct resources resources;
    struct budget budget;
    /* model ranks */
    struct source source;
    struct model model;
    struct graph graph;
    struct program program;
    struct weights weights;
    /* all ranks */
    struct service service;
    struct batch_limits limits;
    const struct device_ops *device_ops;
    struct device *device;
    char device_id[DEVICE_ID_BYTES]; /* device_ops->identify */
    int n_sharing;                   /* ranks with that device, this one included */
    struct device_place device_place;
    const struct wire_ops *wire_ops; /* NULL when colocated */
    struct wire *wire;
    struct control *control;
    struct trace *trace; /* NULL without --trace and --timeline */
    struct batch *batch;
    struct decode *decode;
    struct checkpoint *checkpoint; /* NULL without --checkpoint */
    volatile sig_atomic_t halt;    /* the walk of the list of turns is to end */
    /* the leader of generate */
    struct tokenizer *tokenizer;
    const struct chat_template *chat_template;
    struct fault template_fault;
    struct request_rules rules;
    struct results *results;
    struct desk *desk;
    struct supply supply; /* the desk */
    struct desk_counts desk_counts;
    const struct checkpoint_progress *progress; /* what a checkpoint has to go on with, or NULL */
    struct report *report;
    struct time_limit time_limit;
    bool all_answered; /* a resume found nothing left to do */
};

/* Whether no rank has a fault; else *fault is the same on all. Collective, as all that follow. */
bool compose_agree(struct run *run, struct fault *fault, const char *what);

/* Environment and ranks. `options_hash` as topology_open. */
bool compose_ranks(struct run *run, uint64_t options_hash, struct fault *fault);
/* Processors, memory and the device of every rank: all that a measurement without a model needs. */
bool compose_device(struct run *run, struct fault *fault);
/* The same and what decoding needs besides: model, program, layout, sizes. */
bool compose_machine(struct run *run, struct fault *fault);
/* The wires, all at once; then tables and weights. Faults are not agreed yet. */
void compose_wire(struct run *run, struct fault *fault);
void compose_weights(struct run *run);
/* Books and loop. `supply` is the leader's; `stop` and `tick` as batch_options have them. */
void compose_decode(struct run *run, const struct supply *supply, const volatile sig_atomic_t *stop,
                    void (*tick)(void *), void *tick_argument);
void compose_close_decode(struct run *run);
void compose_close(struct run *run);

bool compose_is_model(const struct run *run);

/* The tokenizer and the chat template of a model: those of its file, and the template that the
 * options name. Without a template *template_fault says why, for requests that want one. The
 * tokenizer is the caller's to close. */
bool compose_text(const struct source *source, const struct model *model,
                  const struct options *options, struct tokenizer **tokenizer,
                  const struct chat_template **chat_template, struct fault *template_fault,
                  struct fault *fault);

#endif
