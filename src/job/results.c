/* results.c - the output as a whole: which files, what is answered, who may write. See results.h.
 *
 * Owns the order of opening: look, lock, look again, compare, only then touch. The invariant:
 * nothing on disk changes before every check has passed, but for a job file or an output made and
 * taken away again. An output is emptied for good before the new job file is written, so a kill or
 * a power loss between the two leaves "no answers", never answers under the wrong record. What a
 * line says is left to answer.c. Rejected: trusting the record without the lock, and answers
 * without the record.
 */
#include "results.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "answer.h"
#include "answered.h"
#include "job_file.h"
#include "line_reader.h"
#include "log.h"
#include "output.h"

#define LOCK_WAIT_S 30.0

struct results {
    const struct options *options;
    struct output out, err; /* err only with --errors */
    struct job_file job;    /* closed for a stream */
    struct answered answered;
    struct result_counts counts;
    bool goes_on;          /* a job that was begun before */
    struct json_text line; /* the line being written */
};

static bool is_dash(const char *name) {
    return strcmp(name, "-") == 0;
}

/* ---- checks before anything is touched ---- */

static bool is_same_file(const struct output *output, const char *name, const struct stat *status) {
    return output->exists && name && S_ISREG(status->st_mode) &&
           output->status.st_dev == status->st_dev && output->status.st_ino == status->st_ino;
}

/* An output that is an input would be read while it grows, or emptied before it is read. */
static bool check_apart(const struct output *output, const char *name, const char *what,
                        struct fault *fault) {
    struct stat status;
    if (!name || (is_dash(name) ? fstat(STDIN_FILENO, &status) : stat(name, &status)) != 0)
        return true;
    if (!is_same_file(output, name, &status)) return true;
    char shown[512];
    return fault_user(fault, "output %s is the same file as the %s",
                      log_escape(shown, sizeof shown, output->name, strlen(output->name)), what);
}

static bool check_output(const struct results *results, const struct output *output,
                         struct fault *fault) {
    const struct options *options = results->options;
    char shown[512];
    log_escape(shown, sizeof shown, output->name, strlen(output->name));
    if (!check_apart(output, options->model, "model", fault)) return false;
    for (int number = 0; number < options->n_inputs; number++) {
        if (!check_apart(output, options->input[number], "input", fault)) return false;
    }
    if (options->resume && output->is_stream)
        return fault_user(fault, "--resume cannot continue %s, which is not a file", shown);
    if (!output->is_stream && output->exists && !options->resume && !options->overwrite)
        return fault_user(fault, "%s exists: --resume continues it, --overwrite replaces it",
                          shown);
    return true;
}

static bool find_files(struct results *results, struct fault *fault) {
    const struct options *options = results->options;
    output_close(&results->out);
    output_close(&results->err);
    if (!output_find(&results->out, options->output, fault) ||
        !check_output(results, &results->out, fault))
        return false;
    if (!options->errors) return true;
    if (!output_find(&results->err, options->errors, fault) ||
        !check_output(results, &results->err, fault))
        return false;
    bool same = strcmp(results->err.path, results->out.path) == 0 ||
                is_same_file(&results->out, options->errors, &results->err.status);
    return !same ||
           fault_user(fault, "--errors is the same file as the output: leave it out to have "
                             "errors among the answers");
}

/* A resume reads its inputs twice: for what is left to do, and to do it. */
static bool check_rereadable(const struct options *options, struct fault *fault) {
    for (int number = 0; number < options->n_inputs; number++) {
        const char *name = options->input[number];
        struct stat status;
        if (!is_dash(name) && stat(name, &status) == 0 && S_ISREG(status.st_mode)) continue;
        char shown[512];
        return fault_user(fault, "--resume needs files: input %s cannot be read again",
                          log_escape(shown, sizeof shown, name, strlen(name)));
    }
    return true;
}

/* All that can be told without opening anything. */
static bool check_files(struct results *results, struct fault *fault) {
    const struct options *options = results->options;
    return find_files(results, fault) &&
           line_reader_check(options->input, options->n_inputs, fault) &&
           (!options->resume || check_rereadable(options, fault));
}

/* ---- what an earlier run left ---- */

static bool learn_line(void *context, const struct output_line *line) {
    struct results *results = context;
    struct answer_mark mark;
    if (!answer_read(&mark, line->text, line->n_bytes)) return false;
    if (mark.failed && results->options->retry_failed) return true;
    struct answered_entry *entry = answered_find(&results->answered, mark.key);
    entry->body_hash = mark.body_hash;
    answered_mark(entry, ANSWERED_BEFORE);
    if (mark.failed) answered_mark(entry, ANSWERED_FAILED);
    return true;
}

static bool is_answer(void *context, const struct output_line *line) {
    (void)context;
    struct answer_mark mark;
    return answer_read(&mark, line->text, line->n_bytes) && !mark.failed;
}

static bool learn(struct results *results, struct fault *fault) {
    return output_scan(&results->out, learn_line, results, fault) &&
           (!results->options->errors || output_scan(&results->err, learn_line, results, fault));
}

static bool repair(struct results *results, struct output *output, struct fault *fault) {
    if (!output_cut(output, fault)) return false;
    bool filter = results->options->retry_failed && output->n_bytes > 0;
    return !filter || output_filter(output, is_answer, NULL, fault);
}

/* Durably, before the record says what is in it. */
static bool empty(struct output *output, struct fault *fault) {
    if (output->status.st_size == 0) return true;
    output->n_bytes = output->status.st_size = 0;
    return (ftruncate(output->fd, 0) == 0 && fsync(output->fd) == 0) ||
           output_fault(fault, "empty", output->name);
}

/* May a resume go on with what is there? It is learnt, and `*same` when it is of the same job. */
static bool check_resume(struct results *results, const char *model_fingerprint, bool *same,
                         struct fault *fault) {
    if (!learn(results, fault)) return false;
    /* By what lies there, not by what was understood: a file of somebody's notes is not fresh. */
    bool is_fresh = results->out.status.st_size == 0 &&
                    (!results->options->errors || results->err.status.st_size == 0);
    struct fault difference = {0};
    *same = job_file_check(&results->job, results->options, model_fingerprint, &difference);
    if (!*same && !is_fresh) *fault = difference;
    return *same || is_fresh;
}

static bool resume(struct results *results, const char *model_fingerprint, struct fault *fault) {
    bool same;
    bool good = check_resume(results, model_fingerprint, &same, fault);
    results->goes_on = good && same;
    return good && repair(results, &results->out, fault) &&
           (!results->options->errors || repair(results, &results->err, fault)) &&
           job_file_write(&results->job, results->options, model_fingerprint,
                          same ? job_file_uuid(&results->job) : NULL, fault);
}

static bool start(struct results *results, const char *model_fingerprint, struct fault *fault) {
    return empty(&results->out, fault) &&
           (!results->options->errors || results->err.is_stream || empty(&results->err, fault)) &&
           job_file_write(&results->job, results->options, model_fingerprint, NULL, fault);
}

/* What was found before the lock may have changed while it was waited for: found and checked again,
 * it stays, for whoever would change it has to have the lock. */
static bool lock(struct results *results, struct fault *fault) {
    return results->out.is_stream ||
           (job_file_open(&results->job, results->out.path, LOCK_WAIT_S, fault) &&
            check_files(results, fault));
}

static bool open_files(struct results *results, const char *model_fingerprint,
                       struct fault *fault) {
    const struct options *options = results->options;
    bool must_be_new = !options->resume && !options->overwrite;
    if (!lock(results, fault)) return false;
    if (!output_open(&results->out, must_be_new, fault)) return false;
    if (options->errors && !output_open(&results->err, must_be_new, fault)) return false;
    if (results->err.made && !output_sync_folder(results->err.path, fault)) return false;
    if (results->out.is_stream)
        return !options->errors || results->err.is_stream || empty(&results->err, fault);
    return options->resume ? resume(results, model_fingerprint, fault)
                           : start(results, model_fingerprint, fault);
}

bool results_open(struct results **results, const struct options *options,
                  const char model_fingerprint[33], struct fault *fault) {
    struct results *made = check_alloc(1, sizeof *made);
    made->options = options;
    if (!check_files(made, fault) || !open_files(made, model_fingerprint, fault)) {
        output_discard(&made->out);
        output_discard(&made->err);
        results_close(made);
        return false;
    }
    *results = made;
    return true;
}

static bool look_at_files(struct results *results, const char *model_fingerprint,
                          struct fault *fault) {
    const struct options *options = results->options;
    bool same;
    return check_files(results, fault) &&
           (results->out.is_stream || job_file_look(&results->job, results->out.path, fault)) &&
           output_look(&results->out, fault) &&
           (!options->errors || output_look(&results->err, fault)) &&
           (!options->resume || check_resume(results, model_fingerprint, &same, fault));
}

bool results_look(struct results **results, const struct options *options,
                  const char model_fingerprint[33], struct fault *fault) {
    struct results *made = check_alloc(1, sizeof *made);
    made->options = options;
    if (options->output && !look_at_files(made, model_fingerprint, fault)) {
        results_close(made);
        return false;
    }
    *results = made;
    return true;
}

void results_close(struct results *results) {
    if (!results) return;
    output_close(&results->out);
    output_close(&results->err);
    job_file_close(&results->job); /* last: the lock covers the files */
    answered_close(&results->answered);
    free(results->line.text);
    free(results);
}

/* ---- while a job runs ---- */

/* The key of a request as it counts in this run: a custom_id seen before is taken away. */
static struct answered_entry *see(struct results *results, struct request *request) {
    struct answered_entry *entry = answered_find(&results->answered, request->key);
    if (request->custom_id && answered_has(entry, ANSWERED_SEEN)) {
        char shown[128];
        log_escape(shown, sizeof shown, request->custom_id, strlen(request->custom_id));
        request_refuse(request, "custom_id", "duplicate_custom_id",
                       "custom_id \"%s\" is that of an earlier request", shown);
        request_forget_id(request);
        entry = answered_find(&results->answered, request->key);
    }
    answered_mark(entry, ANSWERED_SEEN);
    return entry;
}

bool results_answered(struct results *results, struct request *request, struct fault *fault) {
    const struct answered_entry *entry = see(results, request);
    if (!answered_has(entry, ANSWERED_BEFORE)) return false;
    results->counts.n_kept++;
    results->counts.n_kept_failed += answered_has(entry, ANSWERED_FAILED);
    bool changed = entry->body_hash && request->body_hash && entry->body_hash != request->body_hash;
    results->counts.n_changed += changed;
    if (changed && results->options->strict) {
        char file[256], id[128];
        const char *shown = request->custom_id ? request->custom_id : "without id";
        fault_user(fault, "%s:%lld: request %s has changed since it was answered (--strict)",
                   log_escape(file, sizeof file, request->file, strlen(request->file)),
                   (long long)request->line, log_escape(id, sizeof id, shown, strlen(shown)));
    }
    return true;
}

bool results_all_answered(struct results *results, bool *all, struct fault *fault) {
    struct result_counts before = results->counts;
    struct line_reader *reader;
    *all = results->answered.n_entries > 0;
    if (!*all) return true;
    if (!line_reader_open(&reader, results->options->input, results->options->n_inputs, fault))
        return false;
    struct input_line line;
    while (*all && !fault->kind && line_reader_next(reader, &line, fault)) {
        struct request request;
        request_read(&request, results->options, &line);
        *all = results_answered(results, &request, fault);
        request_close(&request);
    }
    line_reader_close(reader);
    if (!*all) {
        results->counts = before;
        answered_unsee(&results->answered);
    }
    return !fault->kind;
}

bool results_write(struct results *results, const struct request *request,
                   const struct request_rules *rules, struct fault *fault) {
    bool failed = request->refusal.refused;
    struct output *output = failed && results->options->errors ? &results->err : &results->out;
    results->line.n_bytes = 0;
    answer_write(&results->line, request, rules->tokenizer, (int64_t)time(NULL));
    if (!output_write(output, results->line.text, results->line.n_bytes, fault)) return false;
    results->counts.n_answered += !failed;
    results->counts.n_failed += failed;
    return true;
}

bool results_sync(struct results *results, struct fault *fault) {
    bool synced = output_sync(&results->out, fault);
    return (!results->options->errors || output_sync(&results->err, fault)) && synced;
}

const char *results_uuid(const struct results *results) {
    return results->job.path ? job_file_uuid(&results->job) : NULL;
}

bool results_goes_on(const struct results *results) {
    return results->goes_on;
}

int64_t results_output_bytes(const struct results *results) {
    return results->out.n_bytes;
}

struct result_counts results_counts(const struct results *results) {
    return results->counts;
}
