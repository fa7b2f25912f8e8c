/* checkpoint_inspect.c - what checkpoints a folder has, and whether they are whole. See
 * checkpoint_inspect.h.
 *
 * Sizes are compared with the manifest, the leader's files and the ranks' indexes are read; K and V
 * are not, for there may be many GiB: checkpoint_inspect_file.c reads those of one file. What of
 * them could be taken back is counted as a restore would: a sequence needs every head of every
 * page.
 */
#include "checkpoint_inspect.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint_folder.h"
#include "checkpoint_inspect_parts.h"
#include "checkpoint_kv.h"
#include "checkpoint_manifest.h"
#include "checkpoint_progress.h"
#include "log.h"

enum { PROGRESS, MASTER, FIRST_KV };

/* A checkpoint, and what was found of it. */
struct examined {
    const char *folder;
    const struct manifest *manifest;
    const struct manifest_checkpoint *checkpoint;
    struct checkpoint_progress progress; /* n_choices 0 where it cannot be read */
    struct kv_index *index;              /* (n_kv), n_pages 0 where it cannot be read */
    char **wrong;                        /* (n_files) what is wrong with it; NULL: nothing */
    int n_wrong;
};

char *inspect_escape(char shown[INSPECT_SHOWN], const char *text) {
    return log_escape(shown, INSPECT_SHOWN, text, strlen(text));
}

/* ---- looking ---- */

static bool open_kv(struct examined *of, int kv, struct fault *fault) {
    struct kv_index *index = &of->index[kv];
    const char *name = of->checkpoint->file[FIRST_KV + kv].name;
    if (!kv_index_read(index, of->folder, name, fault)) return false;
    bool same_attempt = of->wrong[PROGRESS] || index->about.attempt == of->progress.attempt;
    if (strcmp(index->about.uuid, of->manifest->uuid) == 0 &&
        index->about.number == of->checkpoint->number && same_attempt)
        return true;
    kv_index_close(index);
    return fault_world(fault, "%s is of another job, checkpoint or attempt", name);
}

static bool look_at(struct examined *of, int file, struct fault *fault) {
    int kv = file - FIRST_KV;
    if (file == PROGRESS)
        return checkpoint_folder_progress(of->folder, of->manifest, of->checkpoint, &of->progress,
                                          fault);
    bool there = manifest_check(&of->checkpoint->file[file], of->folder, fault);
    return (kv < 0 || kv >= of->checkpoint->n_kv || open_kv(of, kv, fault)) && there;
}

static void examine(struct examined *of) {
    of->index = check_alloc((size_t)of->checkpoint->n_kv + 1, sizeof *of->index);
    of->wrong = check_alloc((size_t)of->checkpoint->n_files, sizeof *of->wrong);
    for (int file = 0; file < of->checkpoint->n_files; file++) {
        struct fault fault = {0};
        if (look_at(of, file, &fault)) continue;
        of->wrong[file] = strcpy(check_alloc(strlen(fault.text) + 1, 1), fault.text);
        of->n_wrong++;
    }
}

static void forget(struct examined *of) {
    checkpoint_progress_close(&of->progress);
    for (int kv = 0; kv < of->checkpoint->n_kv; kv++)
        kv_index_close(&of->index[kv]);
    for (int file = 0; file < of->checkpoint->n_files; file++)
        free(of->wrong[file]);
    free(of->index);
    free(of->wrong);
}

/* ---- what a restore could take ---- */

static bool is_good_name(const struct examined *of, const char *name) {
    for (int file = 0; file < of->checkpoint->n_files; file++) {
        if (strcmp(of->checkpoint->file[file].name, name) == 0) return !of->wrong[file];
    }
    return false;
}

/* Add to covered[sequence] positions x heads of the pages whose file is good. */
static void cover(const struct examined *of, int kv, int64_t *covered) {
    const struct kv_index *index = &of->index[kv];
    bool *good = check_alloc((size_t)index->n_older + 1, sizeof *good);
    good[0] = !of->wrong[FIRST_KV + kv];
    for (int older = 0; older < index->n_older; older++)
        good[1 + older] = is_good_name(of, index->older[older].name);
    for (size_t at = 0; at < index->n_pages; at++) {
        const struct kv_file_page *page = &index->page[at];
        if (good[page->file] && page->sequence < of->progress.n_choices)
            covered[page->sequence] += (int64_t)page->n_tokens * index->about.n_heads;
    }
    free(good);
}

/* Choices whose K and V are all there. */
static int count_whole(const struct examined *of) {
    int n_whole = 0, n_kv_heads = 0;
    int64_t *covered = check_alloc((size_t)of->progress.n_choices + 1, sizeof *covered);
    for (int kv = 0; kv < of->checkpoint->n_kv; kv++) {
        if (of->index[kv].n_pages > 0) n_kv_heads = of->index[kv].about.shape.n_kv_heads;
        cover(of, kv, covered);
    }
    for (int choice = 0; choice < of->progress.n_choices; choice++) {
        int64_t n_rows = of->progress.choice[choice].n_rows;
        n_whole += n_rows > 0 && covered[choice] == n_rows * n_kv_heads;
    }
    free(covered);
    return n_whole;
}

/* ---- printing ---- */

static void print_progress(const struct checkpoint_progress *progress) {
    char shown[INSPECT_SHOWN];
    long long n_prompt = 0, n_tokens = 0;
    for (int choice = 0; choice < progress->n_choices; choice++) {
        n_prompt += progress->choice[choice].n_prompt;
        n_tokens += progress->choice[choice].n_tokens;
    }
    printf("written by   %s\n", inspect_escape(shown, progress->isa));
    printf("input        %lld lines read, %lld bytes of answers\n", (long long)progress->n_read,
           (long long)progress->output_bytes);
    printf("in flight    %d choices: %lld tokens of prompts, %lld generated\n", progress->n_choices,
           n_prompt, n_tokens - n_prompt);
}

/* Of the layout only what the ranks' files say. */
static void print_shape(const struct examined *of) {
    int n_kv = of->checkpoint->n_kv, n_owners = 0, n_read = 0;
    const struct kv_file_about *about = NULL;
    for (int kv = 0; kv < n_kv; kv++) {
        if (of->index[kv].about.n_heads == 0) continue; /* could not be read */
        about = &of->index[kv].about;
        n_owners += about->first_head == 0;
        n_read++;
    }
    if (!about) return;
    printf("shape        %d layers, %d KV heads of %d, %s\n", about->shape.n_layers,
           about->shape.n_kv_heads, about->shape.head_dim, kv_element_name(about->shape.element));
    if (n_read == n_kv && n_owners > 0)
        printf("layout       heads=%d,sequences=%d\n", n_kv / n_owners, n_owners);
}

static void print_kv(const struct examined *of) {
    long long n_rows = 0, n_pages = 0, n_bytes = of->checkpoint->kv_bytes;
    for (int choice = 0; choice < of->progress.n_choices; choice++) {
        int32_t rows = of->progress.choice[choice].n_rows;
        n_rows += rows;
        n_pages += rows / PAGE_TOKENS + (rows % PAGE_TOKENS > 0);
    }
    if (of->checkpoint->n_kv == 0) {
        puts("K and V      none: tokens only");
        return;
    }
    if (of->progress.options)
        printf("K and V      %lld positions in %lld pages, %lld bytes (%.1f MiB)\n", n_rows,
               n_pages, n_bytes, (double)n_bytes / (1 << 20));
    print_shape(of);
}

/* What a file is for, into text[48]. */
static const char *name_purpose(const struct examined *of, int file, char text[48]) {
    if (file == PROGRESS) return "progress";
    if (file == MASTER) return "shows all";
    if (file >= FIRST_KV + of->checkpoint->n_kv) return "older pages";
    const struct kv_index *index = &of->index[file - FIRST_KV];
    if (index->about.n_heads == 0) return "pages";
    snprintf(text, 48, "%zu pages, %d of them new", index->n_pages, index->n_rows);
    return text;
}

static void print_files(const struct examined *of) {
    char name[INSPECT_SHOWN], text[48];
    printf("%-32s  %14s  %-26s  %s\n", "FILE", "BYTES", "HOLDS", "STATE");
    for (int file = 0; file < of->checkpoint->n_files; file++) {
        const struct manifest_file *listed = &of->checkpoint->file[file];
        printf("%-32s  %14lld  %-26s  %s\n", inspect_escape(name, listed->name),
               (long long)listed->n_bytes, name_purpose(of, file, text),
               of->wrong[file] ? of->wrong[file] : "good");
    }
}

static void print_checkpoint(const struct examined *of) {
    char shown[INSPECT_SHOWN];
    const struct manifest_checkpoint *checkpoint = of->checkpoint;
    printf("\nCHECKPOINT %lld\n", (long long)checkpoint->number);
    printf("created      %s, in %.2f s\n", inspect_escape(shown, checkpoint->created),
           checkpoint->write_s);
    if (of->progress.options) print_progress(&of->progress);
    print_kv(of);
    print_files(of);
}

/* The first that can be read: checkpoint_folder_find. */
static void print_resume(const struct examined *of, int n_checkpoints) {
    for (int at = 0; at < n_checkpoints; at++) {
        if (!of[at].progress.options) continue;
        int n_whole = count_whole(&of[at]), n_choices = of[at].progress.n_choices;
        printf(
            "\n--resume     goes on from checkpoint %lld: %d choices with K and V, %d from their "
            "tokens\n",
            (long long)of[at].checkpoint->number, n_whole, n_choices - n_whole);
        return;
    }
    puts("\n--resume     goes on from the answers alone");
}

static bool inspect_folder(const char *folder, struct fault *fault) {
    struct manifest manifest;
    struct examined of[MANIFEST_CHECKPOINTS] = {{0}};
    char shown[INSPECT_SHOWN];
    int n_wrong = 0, n_files = 0;
    inspect_escape(shown, folder);
    if (!manifest_read(&manifest, folder, fault)) return false;
    if (!*manifest.uuid)
        return fault_user(fault, "%s: a folder without manifest.json: no checkpoints", shown);
    printf("folder       %s\n", shown);
    printf("job          %s\n", inspect_escape(shown, manifest.uuid));
    printf("model        %s\n", inspect_escape(shown, manifest.fingerprint));
    printf("checkpoints  %d\n", manifest.n_checkpoints);
    for (int at = 0; at < manifest.n_checkpoints; at++) {
        of[at].folder = folder;
        of[at].manifest = &manifest;
        of[at].checkpoint = &manifest.checkpoint[at];
        examine(&of[at]);
        print_checkpoint(&of[at]);
        n_files += of[at].checkpoint->n_files;
        n_wrong += of[at].n_wrong;
    }
    print_resume(of, manifest.n_checkpoints);
    for (int at = 0; at < manifest.n_checkpoints; at++)
        forget(&of[at]);
    manifest_close(&manifest);
    return n_wrong == 0 || fault_world(fault, "%s: %d of %d files are missing or damaged",
                                       inspect_escape(shown, folder), n_wrong, n_files);
}

bool checkpoint_inspect(const char *path, struct fault *fault) {
    return inspect_is_file(path) ? inspect_file(path, fault) : inspect_folder(path, fault);
}
