/* trace_inspect.c - a trace that is there, or the journals of a run that was killed. See trace.h.
 *
 * Both are read rank by rank and given to whatever was asked for, as trace_write does behind a run:
 * what a killed run left is made into the same files by the same code.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "log.h"
#include "trace.h"
#include "trace_parts.h"

/* Where ranks come from: an HDF5 file, or a journal of each. */
struct source {
    struct trace_head head;
    struct trace_hdf5_reader *hdf5; /* NULL: journals */
    const char **journal;           /* (head.n_ranks) by rank; NULL: not given */
};

static const unsigned char hdf5_magic[8] = {0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n'};

enum kind { KIND_OTHER, KIND_HDF5, KIND_JOURNAL };

static enum kind kind_of(const char *path) {
    char byte[16] = "";
    struct stat status;
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC); /* of a FIFO nobody may write */
    bool is_file = fd >= 0 && fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
    ssize_t n_read = is_file ? read(fd, byte, sizeof byte) : 0;
    size_t n_bytes = n_read > 0 ? (size_t)n_read : 0;
    if (fd >= 0) close(fd);
    if (n_bytes >= sizeof hdf5_magic && !memcmp(byte, hdf5_magic, sizeof hdf5_magic))
        return KIND_HDF5;
    return n_bytes > 0 && !memcmp(byte, "lamina journal\n", n_bytes < 15 ? n_bytes : 15)
               ? KIND_JOURNAL
               : KIND_OTHER;
}

bool trace_is_file(const char *path) {
    return kind_of(path) != KIND_OTHER;
}

/* ---- opening ----------------------------------------------------------------------------------
 */

static const char *file_at(const struct options *options, int at) {
    return at == 0 ? options->model : options->input[at - 1];
}

/* One journal more. All are of one run, and each of another rank. */
static bool add_journal(struct source *source, const char *path, bool first, struct fault *fault) {
    struct journal_head *head = check_alloc(1, sizeof *head);
    char shown[512], before[512];
    bool good = journal_read_head(path, head, fault);
    log_escape(shown, sizeof shown, path, strlen(path));
    if (good && first) {
        source->head = head->trace;
        source->journal = check_alloc((size_t)source->head.n_ranks, sizeof *source->journal);
    }
    if (good && strcmp(source->head.uuid, head->trace.uuid) != 0)
        good = fault_user(fault,
                          "%s is of run %s, and the journals before it of run %s: give "
                          "those of one run",
                          shown, head->trace.uuid, source->head.uuid);
    if (good && source->head.n_ranks != head->trace.n_ranks)
        good = fault_user(fault, "%s is of a run of %d ranks, and the journals before it of %d",
                          shown, head->trace.n_ranks, source->head.n_ranks);
    int rank = good ? head->rank.rank : 0;
    if (good && source->journal[rank])
        good = fault_user(
            fault, "%s and %s are both of rank %d",
            log_escape(before, sizeof before, source->journal[rank], strlen(source->journal[rank])),
            shown, rank);
    if (good) source->journal[rank] = path;
    free(head);
    return good;
}

static bool open_source(struct source *source, const struct options *options, struct fault *fault) {
    int n_files = 1 + options->n_inputs;
    bool journals = kind_of(options->model) == KIND_JOURNAL, good = true;
    *source = (struct source){.hdf5 = NULL};
    for (int at = 0; good && at < n_files && n_files > 1; at++) {
        char shown[512];
        const char *path = file_at(options, at);
        if (kind_of(path) == KIND_JOURNAL) continue;
        log_escape(shown, sizeof shown, path, strlen(path));
        return fault_user(fault, "%s: not a journal: several files must be the journals of one run",
                          shown);
    }
    if (!journals && options->output)
        return fault_user(fault,
                          "-o makes the HDF5 file of the journals of a killed run; %s is "
                          "one already",
                          options->model);
    if (!journals) {
        source->hdf5 = trace_hdf5_open(options->model, &source->head, fault);
        return source->hdf5 != NULL;
    }
    for (int at = 0; good && at < n_files; at++)
        good = add_journal(source, file_at(options, at), at == 0, fault);
    for (int rank = 0; good && rank < source->head.n_ranks; rank++)
        if (!source->journal[rank])
            log_warning("the journal of rank %d is not among them: its records are missing", rank);
    return good;
}

static void close_source(struct source *source) {
    trace_hdf5_close(source->hdf5);
    free(source->journal);
}

/* A rank of which nothing is known but its place in the layout. */
static struct trace_rank unknown_rank(const struct trace_head *head, int rank) {
    struct trace_rank unknown = {.head = {.rank = rank, .host = "unknown"}};
    int index = rank - head->model_ranks, heads = head->heads > 0 ? head->heads : 1;
    bool attention = index >= 0;
    unknown.head.role = attention ? ROLE_ATTENTION : ROLE_MODEL;
    unknown.head.head_index = attention ? index % heads : 0;
    unknown.head.owner = attention ? index / heads : 0;
    snprintf(unknown.head.energy_source, sizeof unknown.head.energy_source,
             "none: no journal of this rank");
    return unknown;
}

static bool get_rank(struct source *source, int number, struct trace_rank *rank,
                     struct fault *fault) {
    struct journal_head *head;
    if (source->hdf5) return trace_hdf5_get(source->hdf5, number, rank, fault);
    *rank = unknown_rank(&source->head, number);
    if (!source->journal[number]) return true;
    head = check_alloc(1, sizeof *head);
    bool good = journal_read(source->journal[number], head, rank, fault);
    free(head);
    return good;
}

/* ---- what is made of it -----------------------------------------------------------------------
 */

struct products {
    struct replacement timeline_place, hdf5_place;
    struct timeline *timeline;
    struct trace_hdf5_writer *hdf5;
    struct csv *csv;
    struct summary *summary;
};

static bool begin_products(struct products *products, const struct options *options,
                           const struct trace_head *head, struct fault *fault) {
    bool good = (!options->timeline || replacement_find(&products->timeline_place, "--timeline",
                                                        options->timeline, options, fault)) &&
                (!options->output || replacement_find(&products->hdf5_place, "--output",
                                                      options->output, options, fault));
    if (good && options->timeline)
        good = (products->timeline = timeline_begin(&products->timeline_place, head, fault));
    if (good && options->output) {
        products->hdf5 = trace_hdf5_begin(&products->hdf5_place, head, fault);
        good = fault->kind == FAULT_NONE;
    }
    if (good && options->csv) good = (products->csv = csv_begin(options->csv, fault));
    if (good && !options->timeline && !options->output && !options->csv)
        products->summary = summary_begin(head);
    return good;
}

static bool put_products(struct products *products, const struct trace_rank *rank,
                         struct fault *fault) {
    if (products->timeline) timeline_put(products->timeline, rank);
    if (products->csv) csv_put(products->csv, rank);
    if (products->summary) summary_put(products->summary, rank);
    return !products->hdf5 || trace_hdf5_put(products->hdf5, rank, fault);
}

static bool end_products(struct products *products, struct fault *fault) {
    bool good = fault->kind == FAULT_NONE;
    if (products->timeline) good = timeline_end(products->timeline, fault) && good;
    if (products->csv) good = csv_end(products->csv, fault) && good;
    if (products->hdf5) good = trace_hdf5_end(products->hdf5, fault) && good;
    if (products->summary) summary_end(products->summary);
    replacement_close(&products->timeline_place);
    replacement_close(&products->hdf5_place);
    return good;
}

bool trace_inspect(const struct options *options, struct fault *fault) {
    struct source source;
    struct products products = {.timeline = NULL};
    bool good = open_source(&source, options, fault);
    if (good) {
        if (options->trace_steps.first > source.head.first_step)
            source.head.first_step = options->trace_steps.first;
        if (options->trace_steps.last < source.head.last_step)
            source.head.last_step = options->trace_steps.last;
        good = begin_products(&products, options, &source.head, fault);
    }
    for (int number = 0; good && number < source.head.n_ranks; number++) {
        struct trace_rank rank;
        good = get_rank(&source, number, &rank, fault);
        if (!good) break;
        trace_rank_choose(&rank, &source.head);
        good = put_products(&products, &rank, fault);
        trace_rank_close(&rank);
    }
    good = end_products(&products, fault) && good;
    close_source(&source);
    return good;
}
