/* checkpoint.c - keeping a run. See checkpoint.h.
 *
 * The story is checkpoint_between: what was written before is settled, the leader says what comes
 * next, and every rank does its half. The invariant: at most one checkpoint is being written, from
 * the drain that began it to the order that tells all ranks whether it counts; so ranks agree on
 * which older files later ones may refer to. Which files there are the folder knows, what is in
 * them the files; how a run is taken back stands in restore.c.
 */
#include "checkpoint_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "clock.h"
#include "log.h"

/* What the leader tells all ranks between two walks. */
enum action { ACTION_END, ACTION_GO_ON, ACTION_SAVE, ACTION_SAVE_AND_END };
struct order {
    int32_t action;
    int32_t counts; /* the checkpoint written before was committed */
    int32_t with_kv;
    int32_t n_kept; /* sequences whose K and V are to be kept */
    int64_t number;
    uint64_t attempt; /* at that number: what all files of it have in common */
};

/* Share of the KV cache that can wait in memory when it was given away before it was written. The
 * disk takes these pages first, so what a few steps hand out is enough. */
enum { BUFFER_SHARE = 64, LEAST_BUFFERS = 8 };
/* For the files of a checkpoint to be written while nothing else goes on; all ranks wait so long.
 */
enum { SETTLE_S = 3600 };

int64_t checkpoint_buffer_bytes(const struct options *options, int64_t page_bytes) {
    return checkpoint_keeps_kv(options) ? page_bytes / BUFFER_SHARE : 0;
}

/* ---- opening ----------------------------------------------------------------------------------
 */

static struct kv_file_about about_rank(const struct checkpoint_run *run) {
    const struct topology *topology = run->topology;
    struct head_share heads =
        layout_rank_heads(&topology->layout, run->limits->n_kv_heads, topology->rank);
    struct kv_file_about about = {.rank = topology->rank,
                                  .owner = topology->owner,
                                  .first_head = heads.first,
                                  .n_heads = heads.n};
    about.shape = checkpoint_shape(run->options, run->limits, run->service->n_layers);
    return about;
}

static void open_pages(struct checkpoint *checkpoint, const char *uuid) {
    const struct checkpoint_run *run = &checkpoint->run;
    const struct kv *kv = batch_kv(run->batch);
    struct checkpoint_pages_options options = {.folder = run->options->checkpoint,
                                               .about = about_rank(run),
                                               .head_index = run->topology->head_index,
                                               .device_ops = run->device_ops,
                                               .device = run->device,
                                               .cache = decode_cache(run->decode),
                                               .kv = kv,
                                               .background = checkpoint->background,
                                               .patience_s = run->topology->deadline_s / 2};
    checkpoint->shape = options.about.shape;
    if (!kv) return;
    memcpy(options.about.uuid, uuid, sizeof options.about.uuid);
    int n_buffers = checkpoint_keeps_kv(run->options) ? run->limits->n_pages / BUFFER_SHARE : 0;
    options.n_buffers = n_buffers < LEAST_BUFFERS ? LEAST_BUFFERS : n_buffers;
    checkpoint_pages_open(&checkpoint->pages, &options);
    batch_watch(run->batch, checkpoint_pages_save, checkpoint->pages);
}

/* The folder, or a warning why there is none yet. */
static bool begin_folder(struct checkpoint *checkpoint, struct fault *fault) {
    const struct layout *layout = &checkpoint->run.topology->layout;
    if (checkpoint_folder_begin(checkpoint->folder, layout->heads, layout->sequences, fault))
        return true;
    return checkpoint_folder_forgive(fault);
}

bool checkpoint_open(struct checkpoint **opened, const struct checkpoint_run *run,
                     struct fault *fault) {
    if (!run->options->checkpoint) return true;
    if (!*opened) *opened = check_alloc(1, sizeof **opened);
    struct checkpoint *checkpoint = *opened;
    checkpoint->run = *run;
    const struct topology *topology = run->topology;
    checkpoint->kept = check_alloc((size_t)run->limits->n_slots * (size_t)run->limits->max_batch,
                                   sizeof *checkpoint->kept);
    topology_broadcast(topology, checkpoint->uuid, sizeof checkpoint->uuid, "the job's uuid",
                       topology->deadline_s);
    bool good = background_open(&checkpoint->background, "lamina keep", fault) &&
                (!topology->leader || begin_folder(checkpoint, fault));
    if (!topology_agree(topology, fault, "opening of checkpoints", topology->deadline_s) || !good)
        return false;
    open_pages(checkpoint, checkpoint->uuid);
    checkpoint_restore(checkpoint);
    checkpoint_plan_next(checkpoint);
    return true;
}

void checkpoint_plan_next(struct checkpoint *checkpoint) {
    double interval_s = checkpoint->run.options->checkpoint_interval_s;
    checkpoint->next = clock_deadline(interval_s);
}

void checkpoint_close(struct checkpoint *checkpoint, bool finished) {
    if (!checkpoint) return;
    background_close(checkpoint->background);
    checkpoint_pages_close(checkpoint->pages);
    checkpoint_commit_close(checkpoint);
    checkpoint_progress_close(&checkpoint->progress);
    bool delete = finished && !checkpoint->run.options->keep_checkpoint;
    checkpoint_folder_close(checkpoint->folder, delete);
    free(checkpoint->kept);
    free(checkpoint);
}

/* ---- while files are written ------------------------------------------------------------------
 */

static bool is_leader(const struct checkpoint *checkpoint) {
    return checkpoint->run.topology->leader;
}

/* What became of this rank's file. */
static struct mail own_mail(const struct checkpoint *checkpoint) {
    struct checkpoint_pages_written written;
    struct fault fault = {0};
    bool good = checkpoint_pages_result(checkpoint->pages, &written, &fault);
    struct mail mail = {
        .good = good, .n_pages = written.n_pages, .n_new = written.n_new, .held_s = written.held_s};
    memcpy(mail.text, fault.text, sizeof mail.text - 1); /* what fits */
    return mail;
}

static void take_mail(struct checkpoint *checkpoint, const struct mail *mail) {
    checkpoint->n_missing -= 1;
    checkpoint->n_pages += mail->n_pages;
    checkpoint->n_new += mail->n_new;
    if (mail->held_s > checkpoint->held_s) checkpoint->held_s = mail->held_s;
    if (!mail->good)
        fault_world(&checkpoint->fault, "rank %d: %.*s", mail->rank, (int)sizeof mail->text - 1,
                    mail->text);
}

static void commit(void *argument) {
    struct checkpoint *checkpoint = argument;
    if (checkpoint->fault.kind) {
        checkpoint_folder_give_up(checkpoint->folder, checkpoint->number);
        return;
    }
    checkpoint->committed =
        checkpoint_folder_commit(checkpoint->folder, &checkpoint->commit, checkpoint->number,
                                 &checkpoint->n_bytes, &checkpoint->fault);
}

/* Say what came of it. */
static void report(struct checkpoint *checkpoint) {
    double seconds = (double)(clock_now_ns() - checkpoint->commit.begin_ns) * 1e-9;
    checkpoint->stage = STAGE_IDLE;
    if (!checkpoint->committed) {
        log_warning("checkpoint %lld failed, the one before stays: %s",
                    (long long)checkpoint->number, checkpoint->fault.text);
        return;
    }
    checkpoint->last_s = seconds;
    log_note("checkpoint %lld: %d choices in flight, %lld pages of KV, %lld of them new, %.1f MiB "
             "in %.2f s; decode stood still for %.3f s",
             (long long)checkpoint->number, checkpoint->commit.progress.n_choices,
             (long long)checkpoint->n_pages, (long long)checkpoint->n_new,
             (double)checkpoint->n_bytes / (1 << 20), seconds,
             checkpoint->stall_s + checkpoint->held_s);
}

void checkpoint_tick(struct checkpoint *checkpoint) {
    if (!checkpoint) return;
    if (checkpoint->pages) checkpoint_pages_tick(checkpoint->pages);
    struct mail mail;
    while (checkpoint->n_missing > 0 && checkpoint->run.topology->n_ranks > 1 &&
           topology_take(checkpoint->run.topology, &mail))
        take_mail(checkpoint, &mail);
    if (checkpoint->stage == STAGE_IDLE || !background_idle(checkpoint->background)) return;
    switch (checkpoint->stage) {
    case STAGE_PAGES:
        if (checkpoint->writes_pages) {
            mail = own_mail(checkpoint);
            if (is_leader(checkpoint)) {
                take_mail(checkpoint, &mail);
            } else {
                topology_post(checkpoint->run.topology, &mail);
            }
        }
        checkpoint->stage = is_leader(checkpoint) ? STAGE_REPORTS : STAGE_IDLE;
        break;
    case STAGE_REPORTS:
        if (checkpoint->n_missing > 0) break;
        checkpoint->stage = STAGE_COMMIT;
        background_begin(checkpoint->background, commit, checkpoint);
        break;
    case STAGE_COMMIT: report(checkpoint); break;
    case STAGE_IDLE: break;
    }
}

bool checkpoint_due(const struct checkpoint *checkpoint) {
    return checkpoint && checkpoint->stage == STAGE_IDLE && clock_expired(checkpoint->next);
}

double checkpoint_last_s(const struct checkpoint *checkpoint) {
    return checkpoint ? checkpoint->last_s : 0;
}

/* ---- between two walks ------------------------------------------------------------------------
 */

static double settle_s(const struct checkpoint *checkpoint) {
    double patience_s = checkpoint->run.patience_s;
    return patience_s > SETTLE_S ? patience_s : SETTLE_S;
}

/* Until what was begun is in place, or has failed. A slow folder is no reason to lose it. */
static void settle(struct checkpoint *checkpoint) {
    double most_s = settle_s(checkpoint);
    struct deadline deadline = clock_deadline(most_s);
    while (checkpoint->stage != STAGE_IDLE) {
        checkpoint_tick(checkpoint);
        if (clock_expired(deadline))
            check_fail("waited %g s for checkpoint %lld to be written (%s)", most_s,
                       (long long)checkpoint->number, checkpoint->run.options->checkpoint);
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
}

/* Fill in what the leader's books say of each choice, and number those with K and V. */
static int match(struct checkpoint *checkpoint, struct desk_kept *listed, int n_kept) {
    struct kept *kept = checkpoint->kept;
    int n_choices = 0, n_with_kv = 0;
    for (int at = 0; at < listed->n_choices; at++) {
        struct checkpoint_choice *choice = &listed->choice[at];
        int own = 0;
        while (own < n_kept && kept[own].generation != listed->generation[at])
            own++;
        if (own < n_kept) {
            choice->n_rows = kept[own].n_rows;
            choice->owner = kept[own].owner;
            choice->n_scored = kept[own].n_scored;
            kept[own].saved = n_choices;
        }
        if (choice->n_tokens == choice->n_prompt && choice->n_rows == 0) {
            checkpoint_choice_close(choice);
            continue;
        }
        listed->choice[n_choices++] = *choice;
    }
    listed->n_choices = n_choices;
    for (int own = 0; own < n_kept; own++) {
        if (kept[own].n_rows > 0) kept[n_with_kv++] = kept[own];
    }
    return n_with_kv;
}

/* The leader's list of what is in flight. False when the desk has failed. */
static bool list(struct checkpoint *checkpoint, struct order *order) {
    const struct checkpoint_run *run = &checkpoint->run;
    struct desk_kept listed;
    bool good = desk_keep(run->desk, &listed, run->patience_s);
    int n_kept = match(checkpoint, &listed, batch_keep(run->batch, checkpoint->kept));
    bool with_kv = checkpoint_keeps_kv(run->options) && checkpoint_has_room(checkpoint, n_kept);
    order->with_kv = with_kv;
    order->n_kept = with_kv ? n_kept : 0;
    checkpoint_commit_close(checkpoint);
    struct checkpoint_progress *progress = &checkpoint->commit.progress;
    for (int at = 0; at < listed.n_choices && !with_kv; at++)
        listed.choice[at].n_rows = 0;
    *progress =
        (struct checkpoint_progress){.n_read = listed.n_read,
                                     .output_bytes = listed.output_bytes,
                                     .n_choices = listed.n_choices,
                                     .choice = listed.choice,
                                     .prefill_tokens_per_s = checkpoint_prefill_rate(checkpoint)};
    snprintf(progress->isa, sizeof progress->isa, "%s", run->device_ops->describe(run->device));
    listed.choice = NULL; /* the commit's from here on */
    listed.n_choices = 0;
    desk_kept_close(&listed);
    checkpoint->commit.shape = checkpoint->shape;
    checkpoint->commit.with_kv = with_kv;
    return good;
}

void checkpoint_commit_close(struct checkpoint *checkpoint) {
    checkpoint_progress_close(&checkpoint->commit.progress);
    checkpoint->commit = (struct checkpoint_commit){0};
}

/* The leader's decision. */
static struct order decide(struct checkpoint *checkpoint, bool stop) {
    int64_t begin_ns = clock_now_ns();
    bool due = checkpoint_due(checkpoint) && !batch_over(checkpoint->run.batch);
    struct order order = {.action = stop  ? ACTION_SAVE_AND_END
                                    : due ? ACTION_SAVE
                                          : ACTION_END,
                          .counts = checkpoint->committed};
    if (order.action == ACTION_END) return order;
    const struct layout *layout = &checkpoint->run.topology->layout;
    checkpoint->fault = (struct fault){0};
    checkpoint->committed = false;
    bool begun = checkpoint_folder_begin(checkpoint->folder, layout->heads, layout->sequences,
                                         &checkpoint->fault);
    order.number = checkpoint->number = checkpoint_folder_next(checkpoint->folder);
    order.attempt = checkpoint_folder_attempt(checkpoint->folder, order.number);
    if (!begun) {
        report(checkpoint);
        checkpoint_plan_next(checkpoint);
    }
    if (!begun || !list(checkpoint, &order)) order.action = stop ? ACTION_END : ACTION_GO_ON;
    checkpoint->commit.begin_ns = begin_ns;
    checkpoint->n_pages = checkpoint->n_new = 0;
    checkpoint->held_s = 0;
    checkpoint->n_missing = checkpoint->commit.with_kv ? layout->heads * layout->sequences : 0;
    return order;
}

/* Begin to write. */
static void save(struct checkpoint *checkpoint, const struct order *order) {
    const struct topology *topology = checkpoint->run.topology;
    topology_broadcast(topology, checkpoint->kept, (size_t)order->n_kept * sizeof *checkpoint->kept,
                       "the sequences to be kept", topology->deadline_s);
    checkpoint->number = order->number;
    checkpoint->writes_pages = order->with_kv && checkpoint->pages;
    if (!order->with_kv && checkpoint->pages) checkpoint_pages_forget(checkpoint->pages);
    if (checkpoint->writes_pages)
        checkpoint_pages_begin(checkpoint->pages, order->number, order->attempt, checkpoint->kept,
                               order->n_kept);
    checkpoint->stage = STAGE_PAGES;
    checkpoint_plan_next(checkpoint);
}

bool checkpoint_between(struct checkpoint *checkpoint, bool stop) {
    if (!checkpoint) return false;
    const struct topology *topology = checkpoint->run.topology;
    int64_t begin_ns = clock_now_ns();
    struct order order = {0};
    /* where a checkpoint was begun the leader may be at its files when all others are done */
    double wait_s = checkpoint->run.patience_s + (checkpoint->begun ? settle_s(checkpoint) : 0);
    settle(checkpoint);
    if (topology->leader) order = decide(checkpoint, stop);
    topology_broadcast(topology, &order, sizeof order, "what comes after a walk", wait_s);
    if (checkpoint->pages) checkpoint_pages_end(checkpoint->pages, order.counts);
    bool saves = order.action == ACTION_SAVE || order.action == ACTION_SAVE_AND_END;
    if (saves) save(checkpoint, &order);
    checkpoint->begun = saves;
    checkpoint->stall_s = (double)(clock_now_ns() - begin_ns) * 1e-9;
    if (order.action == ACTION_SAVE_AND_END) {
        struct fault fault = {0};
        settle(checkpoint);
        topology_agree(topology, &fault, "writing of the last checkpoint",
                       checkpoint->run.patience_s + settle_s(checkpoint));
    }
    return order.action == ACTION_SAVE || order.action == ACTION_GO_ON;
}
