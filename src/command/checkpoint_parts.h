/* checkpoint_parts.h - keeping a run as its two halves see it: private to src/command/checkpoint.c,
 * which keeps, and src/command/restore.c, which takes back. */
#ifndef LAMINA_CHECKPOINT_PARTS_H
#define LAMINA_CHECKPOINT_PARTS_H

#include "background.h"
#include "checkpoint.h"
#include "checkpoint_folder.h"
#include "checkpoint_pages.h"
#include "clock.h"

/* How far the checkpoint being written has come on this rank. */
enum stage {
    STAGE_IDLE,    /* none is being written */
    STAGE_PAGES,   /* this rank's pages are being written */
    STAGE_REPORTS, /* leader: other ranks' are */
    STAGE_COMMIT,  /* leader: its own files and the manifest are */
};

struct checkpoint {
    struct checkpoint_run run;
    char uuid[37];
    struct background *background;
    struct checkpoint_pages *pages; /* NULL on a rank without KV */
    struct kv_file_shape shape;
    struct kept *kept; /* (all handles) */
    struct deadline next;

    /* the checkpoint being written */
    enum stage stage;
    bool writes_pages; /* this rank */
    bool begun;        /* by the last order: then it may still be the leader's work */
    int64_t number;
    double stall_s; /* between the walks */

    /* the leader's */
    struct checkpoint_folder *folder;
    const struct manifest_checkpoint *found; /* what the run goes on with, or NULL */
    struct checkpoint_progress progress;     /* of that */
    struct checkpoint_commit commit;
    struct fault fault;
    bool committed;
    int n_missing; /* reports of ranks */
    int64_t n_pages, n_new, n_bytes;
    double held_s; /* the most of any rank, in the walk */
    double last_s;

    /* how fast prompts are computed, for estimates */
    struct batch_counts seen;
    int64_t seen_ns, prompt_ns, n_prompt_rows;
};

/* Collective: take back what was found, if anything was. */
void checkpoint_restore(struct checkpoint *checkpoint);

double checkpoint_prefill_rate(const struct checkpoint *checkpoint); /* tokens/s; 0: not known */

/* Sizes: checkpoint_room.c. */
bool checkpoint_keeps_kv(const struct options *options);
struct kv_file_shape checkpoint_shape(const struct options *options,
                                      const struct batch_limits *limits, int n_layers);
int64_t checkpoint_page_bytes(const struct kv_file_shape *shape); /* over all heads and layers */
/* Whether a checkpoint may keep the K and V of the first n_kept of `kept`; a warning where not. */
bool checkpoint_has_room(const struct checkpoint *checkpoint, int n_kept);

void checkpoint_plan_next(struct checkpoint *checkpoint);
void checkpoint_commit_close(struct checkpoint *checkpoint);

#endif
