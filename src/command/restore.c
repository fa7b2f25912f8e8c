/* restore.c - going on with a run that was kept. See checkpoint.h.
 *
 * The desk has found the requests again and sends their choices first; the leader gives each a
 * place and, where their K and V are worth reading, pages; every rank reads its own heads of its
 * own sequences from files that other ranks of another layout may have written. What cannot be read
 * is computed again from the tokens, which gives the same bits.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint_parts.h"
#include "log.h"

bool checkpoint_lock(struct checkpoint **opened, const struct options *options,
                     struct fault *fault) {
    if (!options->checkpoint) return true;
    if (!checkpoint_folder_check(options, fault)) return false;
    struct checkpoint *checkpoint = check_alloc(1, sizeof *checkpoint);
    *opened = checkpoint;
    checkpoint->run.options = options;
    return checkpoint_folder_open(&checkpoint->folder, options, fault);
}

bool checkpoint_find(struct checkpoint *checkpoint, const char *uuid, const char *fingerprint,
                     const struct checkpoint_progress **progress, struct fault *fault) {
    *progress = NULL;
    if (!checkpoint) return true;
    const struct options *options = checkpoint->run.options;
    snprintf(checkpoint->uuid, sizeof checkpoint->uuid, "%s", uuid);
    if (!checkpoint_folder_claim(checkpoint->folder, uuid, fingerprint, fault)) return false;
    if (!options->resume) return true;
    checkpoint->found = checkpoint_folder_find(checkpoint->folder, &checkpoint->progress);
    if (checkpoint->found) *progress = &checkpoint->progress;
    return true;
}

/* ---- what it would take -----------------------------------------------------------------------
 */

void checkpoint_measure(struct checkpoint *checkpoint, const struct batch_counts *now) {
    if (!checkpoint) return;
    struct batch_counts *seen = &checkpoint->seen;
    int64_t now_ns = clock_now_ns(), n_rows = now->n_rows - seen->n_rows;
    int64_t n_prompt =
        now->n_prompt_rows + now->n_recomputed_rows - seen->n_prompt_rows - seen->n_recomputed_rows;
    if (n_rows == 0) return;
    if (2 * n_prompt > n_rows && checkpoint->seen_ns) {
        checkpoint->prompt_ns += now_ns - checkpoint->seen_ns;
        checkpoint->n_prompt_rows += n_rows;
    }
    *seen = *now;
    checkpoint->seen_ns = now_ns;
}

double checkpoint_prefill_rate(const struct checkpoint *checkpoint) {
    if (checkpoint->prompt_ns == 0) return checkpoint->progress.prefill_tokens_per_s;
    return (double)checkpoint->n_prompt_rows / ((double)checkpoint->prompt_ns * 1e-9);
}

/* Bytes of the checkpoint's own files, which is what was written in write_s. */
static int64_t bytes_written(const struct manifest_checkpoint *found) {
    int64_t n_bytes = 1;
    for (int file = 2; file < 2 + found->n_kv; file++)
        n_bytes += found->file[file].n_bytes;
    return n_bytes;
}

/* Read the K and V, or compute them again? Reading is taken to be as fast as writing was. */
static bool wants_kv(const struct checkpoint *checkpoint) {
    const struct checkpoint_progress *progress = &checkpoint->progress;
    const struct manifest_checkpoint *found = checkpoint->found;
    int64_t n_rows = 0;
    for (int at = 0; at < progress->n_choices; at++)
        n_rows += progress->choice[at].n_rows;
    enum restore_wish restore = checkpoint->run.options->restore;
    if (found->n_kv == 0 || n_rows == 0 || restore == RESTORE_RECOMPUTE) return false;
    double read_s = found->write_s * (double)found->kv_bytes / (double)bytes_written(found),
           rate = progress->prefill_tokens_per_s;
    double recompute_s = rate > 0 ? (double)n_rows / rate : 0;
    bool kv = restore == RESTORE_KV || rate <= 0 || read_s <= recompute_s;
    char recompute[64] = "computing it again cannot be estimated";
    if (rate > 0)
        snprintf(recompute, sizeof recompute, "computing it again about %.1f s", recompute_s);
    log_note("the KV cache of %lld tokens: reading %.1f MiB takes about %.1f s, %s: it is %s",
             (long long)n_rows, (double)found->kv_bytes / (1 << 20), read_s, recompute,
             kv ? "read" : "computed again");
    return kv;
}

/* ---- taking back ------------------------------------------------------------------------------
 */

/* The leader: find requests, *n_queued choices that go on, and give them places. Returns how many
 * sequences got one. */
static int take_back(struct checkpoint *checkpoint, bool with_kv, int *n_queued) {
    const struct checkpoint_run *run = &checkpoint->run;
    int n_found = 0;
    if (!desk_restored(run->desk, &n_found, n_queued, run->patience_s))
        check_fail("waited %g s for the requests of the checkpoint to be read again",
                   run->patience_s);
    if (n_found < checkpoint->progress.n_choices)
        log_warning("%d of %d choices in the checkpoint are of requests that are answered, or not "
                    "in the inputs any more",
                    checkpoint->progress.n_choices - n_found, checkpoint->progress.n_choices);
    return batch_restore(run->batch, with_kv, *n_queued, checkpoint->kept);
}

/* The files with pages, from the leader to all. */
struct shared_file {
    char name[CHECKPOINT_NAME_BYTES];
    int64_t n_bytes;
};
struct shared_files {
    struct checkpoint_pages_source source;
    struct manifest_file *file; /* what the source views; names borrowed from shared */
    struct shared_file *shared;
};

static void share_files(const struct checkpoint *checkpoint, struct shared_files *files) {
    const struct topology *topology = checkpoint->run.topology;
    const struct manifest_checkpoint *found = checkpoint->found;
    struct {
        int64_t number;
        uint64_t attempt;
        int32_t n_newest, n_files;
    } about = {0};
    if (topology->leader) {
        about.number = found->number;
        about.attempt = checkpoint->progress.attempt;
        about.n_newest = found->n_kv;
        about.n_files = found->n_files - 2;
    }
    topology_broadcast(topology, &about, sizeof about, "the checkpoint's files",
                       topology->deadline_s);
    size_t n = (size_t)about.n_files;
    files->shared = check_alloc(n + 1, sizeof *files->shared);
    for (size_t file = 0; topology->leader && file < n; file++) {
        snprintf(files->shared[file].name, CHECKPOINT_NAME_BYTES, "%s", found->file[2 + file].name);
        files->shared[file].n_bytes = found->file[2 + file].n_bytes;
    }
    topology_broadcast(topology, files->shared, n * sizeof *files->shared, "the checkpoint's files",
                       topology->deadline_s);
    files->file = check_alloc(n + 1, sizeof *files->file);
    for (size_t file = 0; file < n; file++)
        files->file[file] =
            (struct manifest_file){files->shared[file].name, files->shared[file].n_bytes};
    files->source = (struct checkpoint_pages_source){.number = about.number,
                                                     .attempt = about.attempt,
                                                     .n_newest = about.n_newest,
                                                     .n_files = about.n_files,
                                                     .file = files->file};
}

/* Which sequences some rank could not read: on all ranks. */
static void share_failed(const struct checkpoint *checkpoint, unsigned char *failed, int n_kept) {
    const struct topology *topology = checkpoint->run.topology;
    size_t n = (size_t)n_kept;
    unsigned char *all = check_alloc((size_t)topology->n_ranks, n + 1);
    topology_collect(topology, failed, n, all, "reading of the KV cache",
                     checkpoint->run.patience_s);
    for (int rank = 0; topology->leader && rank < topology->n_ranks; rank++) {
        for (size_t at = 0; at < n; at++)
            failed[at] |= all[(size_t)rank * n + at];
    }
    topology_broadcast(topology, failed, n, "what of the KV cache could be read",
                       checkpoint->run.patience_s);
    free(all);
}

/* Every rank reads what is its own; a sequence that did not come whole is computed again. */
static void read_kv(struct checkpoint *checkpoint, int n_kept) {
    const struct checkpoint_run *run = &checkpoint->run;
    struct kept *kept = checkpoint->kept;
    struct fault fault = {0};
    struct shared_files files;
    int n_failed = 0;
    share_files(checkpoint, &files);
    unsigned char *failed = check_alloc((size_t)n_kept + 1, 1);
    batch_hold(run->batch, kept, n_kept);
    if (checkpoint->pages)
        checkpoint_pages_restore(checkpoint->pages, &files.source, kept, n_kept, failed, &fault);
    if (fault.kind)
        log_warning("rank %d: %s: what was kept there is computed again", run->topology->rank,
                    fault.text);
    share_failed(checkpoint, failed, n_kept);
    struct kept *forgotten = check_alloc((size_t)n_kept + 1, sizeof *forgotten);
    for (int at = 0; at < n_kept; at++) {
        if (!failed[at]) continue;
        forgotten[n_failed++] = kept[at];
        kept[at].n_rows = 0;
    }
    batch_forget(run->batch, forgotten, n_failed);
    free(forgotten);
    free(failed);
    free(files.file);
    free(files.shared);
}

/* Say what came of it. Of a choice without K and V, or without a place yet, these are computed
 * again. */
static void report(const struct checkpoint *checkpoint, int n_queued, int n_kept) {
    int n_with_kv = 0;
    for (int at = 0; at < n_kept; at++)
        n_with_kv += checkpoint->kept[at].n_rows > 0;
    log_note("checkpoint %lld of %s: %d choices go on where they stopped, %d of them with their K "
             "and V",
             (long long)checkpoint->found->number, checkpoint->found->created, n_queued, n_with_kv);
}

void checkpoint_restore(struct checkpoint *checkpoint) {
    const struct topology *topology = checkpoint->run.topology;
    struct {
        int32_t n_kept, with_kv;
    } order = {0};
    int n_queued = 0, n_kept = 0;
    if (topology->leader && checkpoint->found) {
        order.with_kv = wants_kv(checkpoint);
        n_kept = take_back(checkpoint, order.with_kv, &n_queued);
        order.n_kept = n_kept;
    }
    topology_broadcast(topology, &order, sizeof order, "what is taken back",
                       checkpoint->run.patience_s);
    if (order.with_kv) {
        topology_broadcast(topology, checkpoint->kept,
                           (size_t)order.n_kept * sizeof *checkpoint->kept, "what is taken back",
                           topology->deadline_s);
        read_kv(checkpoint, order.n_kept);
    }
    if (topology->leader && checkpoint->found) report(checkpoint, n_queued, n_kept);
}
