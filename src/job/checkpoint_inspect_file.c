/* checkpoint_inspect_file.c - one file of a checkpoint: every choice, or every page. See
 * checkpoint_inspect.h.
 *
 * What a file is its name says (lamina-checkpoint(5)), so one that is too damaged to be opened is
 * still called a file of a checkpoint.
 */
#include "checkpoint_inspect_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "checkpoint_inspect.h"
#include "checkpoint_kv.h"
#include "checkpoint_progress.h"

/* ---- names ---- */

enum kind { KIND_OTHER, KIND_PROGRESS, KIND_KV, KIND_MASTER };

static const char *last_part(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static enum kind kind_of(const char *path) {
    const char *name = last_part(path);
    size_t n_digits = *name == 'c' ? strspn(name + 1, "0123456789") : 0, n_bytes = strlen(name);
    if (n_digits < 6 || strcmp(name + n_bytes - 3, ".h5") != 0) return KIND_OTHER;
    const char *rest = name + 1 + n_digits;
    if (strcmp(rest, "-progress.h5") == 0) return KIND_PROGRESS;
    if (strcmp(rest, ".h5") == 0) return KIND_MASTER;
    return strncmp(rest, "-kv-", 4) == 0 ? KIND_KV : KIND_OTHER;
}

bool inspect_is_file(const char *path) {
    return kind_of(path) != KIND_OTHER;
}

bool checkpoint_inspect_is_for(const char *path) {
    struct stat status;
    return inspect_is_file(path) || (stat(path, &status) == 0 && S_ISDIR(status.st_mode));
}

/* ---- progress ---- */

static bool inspect_progress(const char *folder, const char *name, struct fault *fault) {
    struct checkpoint_progress progress;
    char shown[INSPECT_SHOWN];
    if (!checkpoint_progress_read(&progress, folder, name, fault)) return false;
    printf("progress     of checkpoint %lld, %s\n", (long long)progress.number,
           inspect_escape(shown, progress.created));
    printf("job          %s\n", inspect_escape(shown, progress.uuid));
    printf("model        %s\n", inspect_escape(shown, progress.fingerprint));
    printf("written by   %s\n", inspect_escape(shown, progress.isa));
    printf("input        %lld lines read, %lld bytes of answers\n", (long long)progress.n_read,
           (long long)progress.output_bytes);
    printf("prefill      %.1f tokens/s\n", progress.prefill_tokens_per_s);
    printf("options      %s\n", inspect_escape(shown, progress.options));
    printf("\n%8s  %6s  %8s  %8s  %8s  %5s  %s\n", "SEQUENCE", "CHOICE", "PROMPT", "TOKENS",
           "K AND V", "OWNER", "CUSTOM_ID");
    for (int at = 0; at < progress.n_choices; at++) {
        const struct checkpoint_choice *choice = &progress.choice[at];
        printf("%8d  %6d  %8d  %8d  %8d  %5d  %s\n", at, choice->index, choice->n_prompt,
               choice->n_tokens, choice->n_rows, choice->owner,
               choice->custom_id ? inspect_escape(shown, choice->custom_id) : "-");
    }
    checkpoint_progress_close(&progress);
    return true;
}

/* ---- pages ---- */

static void print_index(const struct kv_index *index) {
    const struct kv_file_about *about = &index->about;
    char shown[INSPECT_SHOWN];
    printf("K and V      of checkpoint %lld, by rank %d\n", (long long)about->number, about->rank);
    printf("job          %s\n", inspect_escape(shown, about->uuid));
    printf("holds        heads %d to %d of %d, of sequences of owner %d\n", about->first_head,
           about->first_head + about->n_heads - 1, about->shape.n_kv_heads, about->owner);
    printf("shape        %d layers, %d KV heads of %d, %s\n", about->shape.n_layers,
           about->shape.n_kv_heads, about->shape.head_dim, kv_element_name(about->shape.element));
    printf("pages        %zu, %d of them in this file, others in %d older ones\n", index->n_pages,
           index->n_rows, index->n_older);
}

/* Read every row, which compares its checksum. good[row]; returns how many are not. */
static int read_rows(const char *folder, const char *name, const struct kv_index *index, bool *good,
                     struct fault *fault) {
    const struct kv_file_about *about = &index->about;
    struct kv_file_about again;
    struct kv_reader *reader;
    int n_bad = index->n_rows;
    size_t n_numbers = 2 * (size_t)about->shape.n_layers * (size_t)about->n_heads * PAGE_TOKENS *
                       (size_t)about->shape.head_dim;
    if (!kv_reader_open(&reader, folder, name, &again, fault)) return n_bad;
    void *page = check_alloc(n_numbers, element_bytes(about->shape.element));
    for (int row = 0; row < index->n_rows; row++) {
        good[row] = kv_reader_read(reader, row, about->first_head, about->n_heads, page, fault);
        n_bad -= good[row];
    }
    free(page);
    kv_reader_close(reader);
    return n_bad;
}

static void print_pages(const struct kv_index *index, const bool *good) {
    char shown[INSPECT_SHOWN];
    printf("\n%8s  %6s  %6s  %6s  %s\n", "SEQUENCE", "PAGE", "TOKENS", "ROW", "STATE");
    for (size_t at = 0; at < index->n_pages; at++) {
        const struct kv_file_page *page = &index->page[at];
        printf("%8lld  %6d  %6d  %6d  %s%s\n", (long long)page->sequence, page->page,
               page->n_tokens, page->row, page->file ? "in " : "",
               page->file        ? inspect_escape(shown, index->older[page->file - 1].name)
               : good[page->row] ? "good"
                                 : "damaged");
    }
}

static bool inspect_kv(const char *folder, const char *name, struct fault *fault) {
    struct kv_index index;
    struct fault reason = {0};
    if (!kv_index_read(&index, folder, name, fault)) return false;
    bool *good = check_alloc((size_t)index.n_rows + 1, sizeof *good);
    int n_bad = read_rows(folder, name, &index, good, &reason), n_rows = index.n_rows;
    print_index(&index);
    print_pages(&index, good);
    free(good);
    kv_index_close(&index);
    return n_bad == 0 ||
           fault_world(fault, "%d of %d pages in it are damaged: %s", n_bad, n_rows, reason.text);
}

bool inspect_file(const char *path, struct fault *fault) {
    const char *name = last_part(path);
    char shown[INSPECT_SHOWN];
    size_t n_folder = (size_t)(name - path);
    char *folder = check_alloc(n_folder + 2, 1);
    memcpy(folder, n_folder ? path : ".", n_folder ? n_folder : 1);
    if (n_folder > 1) folder[n_folder - 1] = '\0'; /* its slash */
    bool good;
    switch (kind_of(path)) {
    case KIND_PROGRESS: good = inspect_progress(folder, name, fault); break;
    case KIND_KV: good = inspect_kv(folder, name, fault); break;
    default:
        good = fault_user(fault,
                          "%s shows a checkpoint to h5py and h5dump: inspect its folder instead",
                          inspect_escape(shown, path));
    }
    free(folder);
    return good;
}
