/* job_file.h - OUT.job.json: what the answers in OUT were made with, and who is at work on them.
 *
 * It holds a uuid, the model's fingerprint, the options that change tokens, the inputs' names and
 * sizes, and the holder of the lock. It is always whole: written beside its place, made durable,
 * renamed over it. The lock lies on it (an open file description lock, which ends with the process
 * however that ends) and moves to each new version before that takes its place.
 */
#ifndef LAMINA_JOB_FILE_H
#define LAMINA_JOB_FILE_H

#include <jansson.h>
#include <stdbool.h>

#include "check.h"
#include "options.h"

/* Zero-initialised is closed. */
struct job_file {
    char *path;
    int fd;         /* only when path is set; -1: only looked for, and not there */
    bool created;   /* by this process, and nothing written yet */
    json_t *record; /* what the file said when it was opened; NULL: nothing */
};

/* Lock PATH.job.json, made when it is not there, and read it. Another process's lock is waited for,
 * at most `wait_s`, then it is the world's fault that names the holder. False holds nothing. */
bool job_file_open(struct job_file *job, const char *output_path, double wait_s,
                   struct fault *fault);

/* Read it without a lock, and make nothing. False with a fault when job_file_open or job_file_write
 * would fail; to be closed all the same. */
bool job_file_look(struct job_file *job, const char *output_path, struct fault *fault);

/* Compare the record with what this run would write. False with a user's fault naming what was and
 * what is; also for a record that cannot be read. */
bool job_file_check(const struct job_file *job, const struct options *options,
                    const char *model_fingerprint, struct fault *fault);

/* The uuid in the record, or NULL where there is none. A view until the next write. */
const char *job_file_uuid(const struct job_file *job);

/* Write the record of this run, of the job `uuid`; NULL: of a new one. */
bool job_file_write(struct job_file *job, const struct options *options,
                    const char *model_fingerprint, const char *uuid, struct fault *fault);

/* The options that change tokens, as JSON text; released with free. */
char *job_file_options(const struct options *options);

/* Unlock. A file that was made and never written is taken away. */
void job_file_close(struct job_file *job);

#endif
