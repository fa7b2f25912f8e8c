/* rig.h - whole runs inside a test program: the composition of `lamina generate` with a list
 * in the desk's place, so that one launch can walk hundreds of configurations.
 *
 * A model is opened once on each rank that plays the model rank, a group once for each layout over
 * a communicator; a run opens device, wire, batch and decode, walks the list of turns to its end
 * and closes them again.
 */
#ifndef LAMINA_RIG_H
#define LAMINA_RIG_H

#include <stdbool.h>
#include <stdint.h>

#include "decode.h"
#include "generation.h"
#include "model.h"

/* ---- what is asked --------------------------------------------------------------------------- */

/* One generation to be made; ids of its prompt are random, from `text` alone. */
struct rig_wish {
    int n_prompt, max_new;
    uint64_t text; /* wishes of one text begin alike */
    bool score_prompt;
    struct sampling sampling; /* rig_greedy(), changed; arrays are borrowed */
    const int32_t *prompt;    /* (n_prompt) instead of `text`; copied; NULL: random */
};

/* Greedy, nothing changed, no scores. */
struct sampling rig_greedy(void);

struct rig_list {
    int n;
    struct generation **generation; /* (n) */
};
void rig_list_open(struct rig_list *list, const struct rig_wish *wish, int n, int vocabulary);
void rig_list_close(struct rig_list *list);

/* Elements of a generation's `score`. */
size_t rig_n_scores(const struct generation *generation);

/* True when tokens, finishes and the bits of all scores wanted are equal; else the first difference
 * stands in `text`. Generations are paired by index. */
bool rig_list_equal(const struct rig_list *made, const struct rig_list *expected, char *text,
                    size_t size);

/* ---- who answers ----------------------------------------------------------------------------- */

/* The device that LAMINA_TEST_DEVICE names (cuda is for label gpu), else device_cpu. */
const struct device_ops *rig_device(void);

struct rig_model {
    struct source source;
    struct model model;
    struct graph graph;
    struct program cut, whole; /* disaggregated; colocated */
    struct device *device;     /* loads the weights, which every later device of the process uses */
    struct weights weights;
    int context;
};

/* Ends the test when the file is not a model. `context` is that of all runs. */
void rig_model_open(struct rig_model *model, const char *path, int context);
/* The same with a graph of joined weights, whose parts are stored in one type each. */
void rig_model_open_as(struct rig_model *model, const char *path, int context, bool joins_weights);
void rig_model_close(struct rig_model *model);

/* One layout over a communicator of 1 + heads * sequences ranks; heads 0: colocated, and no MPI
 * call is made. Rank 0 is the model rank and gives `model`; the others learn what
 * attention ranks learn. */
struct rig_group {
    struct topology topology;
    struct service service;
    const struct rig_model *model; /* NULL on attention ranks */
    int context;
};
void rig_group_open(struct rig_group *group, int comm, int heads, int sequences,
                    const struct rig_model *model);
void rig_group_close(struct rig_group *group);

/* ---- runs ------------------------------------------------------------------------------------ */

struct rig_case {
    enum kv_type kv_type;
    enum isa_wish isa;
    int n_threads, n_slots;
    int max_batch, max_rows; /* max_batch <= max_rows, as options demand */
    int n_pages;             /* of each owner; 0: as many as can be used */
    bool q_first;
    uint64_t kv_noise; /* seed of made-up K and V in the cache; 0: none */
    bool no_progress;  /* messages move only when a rank waits */
    const struct device_ops
        *device_ops;                 /* a copy of rig_device's with operators wrapped, or NULL */
    const struct wire_ops *wire_ops; /* likewise of wire_mpi */
};

/* What the leader saw. */
struct rig_counts {
    struct batch_counts batch;
    int64_t n_rows[SCHEDULE_MAX_SLOTS]; /* computed in each slot */
};

/* Answer the list (the leader's; NULL elsewhere). Collective over the group. Generations are as new
 * before, whatever they held. */
struct rig_counts rig_run(const struct rig_group *group, const struct rig_case *what,
                          struct rig_list *list);

/* True when this host has the instruction set. */
bool rig_has_isa(enum isa_wish isa);
const char *rig_isa_name(enum isa_wish isa);

/* ---- MPI test programs ----------------------------------------------------------------------- */

/* Start MPI; returns the rank in the world. */
int rig_begin(int *argc, char ***argv);
/* Communicator of the world's ranks [first, first + n), as a Fortran handle; collective over the
 * world; only members may use it. */
int rig_comm(int first, int n);
/* Wait for the whole world without taking processor time from those that still work. */
void rig_wait_all(void);
/* One verdict for all ranks: the program's exit code. Finalises MPI. */
int rig_end(bool good);

#endif
