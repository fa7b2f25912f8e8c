/* checkpoint.h - what all ranks do to keep a run, and to go on with one that was kept.
 *
 * A checkpoint is made between two walks of the list of turns. The leader lists the requests in
 * flight, and decode goes on while every rank with KV writes its new pages behind; when all ranks'
 * files are in place the leader commits. A failure costs a warning and that checkpoint, never the
 * run. Without --checkpoint none of these does anything.
 */
#ifndef LAMINA_CHECKPOINT_H
#define LAMINA_CHECKPOINT_H

#include <stdbool.h>

#include "batch.h"
#include "check.h"
#include "checkpoint_progress.h"
#include "decode.h"
#include "desk.h"
#include "options.h"
#include "topology.h"

struct checkpoint;

/* The leader, before the output is touched: have the folder, and hear all that may be wrong with
 * it. Without --checkpoint nothing is opened. */
bool checkpoint_lock(struct checkpoint **checkpoint, const struct options *options,
                     struct fault *fault);

/* The leader, before the desk is opened: take the folder for the job `uuid`, and learn what the
 * newest usable checkpoint has to go on with. *progress is a view, for desk_open; NULL: nothing. */
bool checkpoint_find(struct checkpoint *checkpoint, const char *uuid, const char *fingerprint,
                     const struct checkpoint_progress **progress, struct fault *fault);

/* Bytes of host memory that checkpoint_open takes for every KV page of `page_bytes`. */
int64_t checkpoint_buffer_bytes(const struct options *options, int64_t page_bytes);

/* With --checkpoint: say how large a checkpoint of such a run can be, how much is free where it is
 * to be (or is to be made), and what follows; a warning where not even one page of KV fits. For
 * the leader, and for a dry run. */
void checkpoint_say_room(const struct options *options, const struct batch_limits *limits,
                         int n_layers);

/* What a run hands over; all borrowed. */
struct checkpoint_run {
    const struct options *options;
    const struct topology *topology;
    const struct batch_limits *limits;
    const struct service *service;
    const struct device_ops *device_ops;
    struct device *device;
    struct batch *batch;
    struct decode *decode;
    struct desk *desk; /* the leader's */
    double patience_s; /* of collective waits for files */
};

/* Collective, when decode is open: threads and buffers; then what was kept is taken back, and its K
 * and V are read or left to be computed again, as --restore says. */
bool checkpoint_open(struct checkpoint **checkpoint, const struct checkpoint_run *run,
                     struct fault *fault);

/* Every rank, once a step: files that are written are reported, and on the leader committed. */
void checkpoint_tick(struct checkpoint *checkpoint);

/* The leader, once a step: note how fast steps are that were mostly prompts, for estimates. */
void checkpoint_measure(struct checkpoint *checkpoint, const struct batch_counts *counts);

/* On the leader: the walk is to end so that a checkpoint can be made. */
bool checkpoint_due(const struct checkpoint *checkpoint);

/* Collective, when a walk has ended. `stop` (the leader's): the run ends here, and what is in
 * flight is kept for a resume; a walk that ended without it and without being due has nothing left
 * to do. True: walk on. False: the run is over, and files are in place. */
bool checkpoint_between(struct checkpoint *checkpoint, bool stop);

/* Seconds that the last checkpoint took from its drain to its commit; 0: none yet. */
double checkpoint_last_s(const struct checkpoint *checkpoint);

/* Release everything. `finished`: all is answered, so what was kept goes, unless --keep-checkpoint.
 * NULL does nothing. */
void checkpoint_close(struct checkpoint *checkpoint, bool finished);

#endif
