/* time_limit.c - when a job has to stop so that it ends before its allocation. See time_limit.h.
 *
 * squeue is the portable way to know the end of a Slurm job: SLURM_JOB_END_TIME is newer than many
 * sites' Slurm, and the time limit itself does not tell when the job began. It is asked once, at
 * the start, by a process of its own (posix_spawn: a fork would copy what MPI has pinned) with a
 * deadline, because a controller that is busy answers late or never.
 */
#include "time_limit.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "log.h"

/* ---- what squeue prints -------------------------------------------------------------------------
 */

bool time_limit_parse_left(const char *text, double *seconds) {
    static const struct {
        const char *word;
        double seconds;
    } words[] = {{"UNLIMITED", -1}, {"NOT_SET", -1}, {"INVALID", 0}};
    size_t n_bytes = strlen(text);
    for (size_t at = 0; at < sizeof words / sizeof *words; at++) {
        if (strlen(words[at].word) != n_bytes || memcmp(text, words[at].word, n_bytes)) continue;
        *seconds = words[at].seconds;
        return true;
    }
    /* a clock with hours is a duration as people type it; Slurm leaves out hours that are 0 */
    char clock[64];
    const char *colon = memchr(text, ':', n_bytes);
    bool has_hours = colon && memchr(colon + 1, ':', n_bytes - (size_t)(colon + 1 - text));
    if (!colon || n_bytes > 40) return false;
    const char *hours = has_hours ? "" : "00:";
    const char *dash = memchr(text, '-', n_bytes);
    const char *first = dash ? dash + 1 : text;
    if (dash && !has_hours) return false;
    const char *zero = first[0] && first[1] == ':' ? "0" : ""; /* 1:02:03 */
    snprintf(clock, sizeof clock, "%.*s%s%s%.*s", (int)(first - text), text, hours, zero,
             (int)(text + n_bytes - first), first);
    return parse_duration(clock, seconds);
}

/* ---- asking it ----------------------------------------------------------------------------------
 */

/* Read what the process writes until it closes the pipe. NULL, or why that is not all. */
static const char *read_until(int fd, struct deadline deadline, char *text, size_t size) {
    size_t n_bytes = 0;
    while (!clock_expired(deadline)) {
        struct pollfd wait = {.fd = fd, .events = POLLIN};
        if (poll(&wait, 1, 100) <= 0) continue;
        ssize_t n = read(fd, text + n_bytes, size - 1 - n_bytes);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return strerror(errno);
        n_bytes += (size_t)n;
        text[n_bytes] = 0;
        if (n == 0) return NULL;
        if (n_bytes == size - 1) return "it says more than a job's time";
    }
    return "no answer in time";
}

/* Run squeue for a job, its standard output into `text`. NULL, or why there is no answer. */
static const char *ask_squeue(const char *job, char *text, size_t size) {
    char id[64];
    char *const words[] = {"squeue", "-h", "-j", id, "-o", "%L", NULL};
    posix_spawn_file_actions_t actions;
    int pipe_fd[2], status = 0;
    pid_t process;
    snprintf(id, sizeof id, "%s", job);
    if (pipe2(pipe_fd, O_CLOEXEC) != 0) return strerror(errno);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, pipe_fd[1], STDOUT_FILENO);
    int error = posix_spawnp(&process, words[0], &actions, NULL, words, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(pipe_fd[1]);
    const char *torn =
        error ? strerror(error) : read_until(pipe_fd[0], clock_deadline(SQUEUE_WAIT_S), text, size);
    close(pipe_fd[0]);
    if (error) return torn;
    if (torn) kill(process, SIGKILL);
    while (waitpid(process, &status, 0) < 0 && errno == EINTR)
        continue;
    if (torn) return torn;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? NULL : "it failed";
}

/* The least of the times in what squeue printed: a heterogeneous job has a line for each part.
 * Negative: none of them ends. */
static bool parse_least(char *text, double *seconds) {
    double least = -1, left;
    bool good = *text != 0;
    for (char *line; good && (line = strsep(&text, "\n")) && (*line || text);) {
        good = time_limit_parse_left(line, &left);
        if (good && left >= 0 && (least < 0 || left < least)) least = left;
    }
    *seconds = least;
    return good;
}

/* The end of this Slurm job. False when it is not known, which has been said; 0: there is none. */
static bool find_slurm_end(struct time_limit *limit, const struct environment *environment) {
    int64_t now = clock_now_ns();
    char text[1024] = "";
    double left_s = environment->slurm_end_time - (double)time(NULL);
    limit->from = "SLURM_JOB_END_TIME";
    if (environment->slurm_end_time < 0) {
        const char *reason = ask_squeue(environment->slurm_job, text, sizeof text);
        limit->from = "squeue";
        char shown[128];
        log_escape(shown, sizeof shown, text, strcspn(text, "\n"));
        if (!reason && !parse_least(text, &left_s)) reason = "not a time";
        if (reason) {
            log_warning("--time-limit auto: squeue -h -j %s -o %%L: %s%s%s; the job will not stop "
                        "by itself before its time is over",
                        environment->slurm_job, reason, *shown ? ": " : "", shown);
            return false;
        }
        if (left_s < 0) return true;
    }
    if (left_s > DURATION_MOST_S) return true; /* what stands for "unlimited" */
    limit->end_ns = now + (int64_t)(left_s * 1e9);
    return true;
}

/* ---- the limit ----------------------------------------------------------------------------------
 */

static int64_t stop_ns(const struct time_limit *limit, double checkpoint_s) {
    return limit->end_ns - (int64_t)((limit->lead_s + 2 * checkpoint_s) * 1e9);
}

/* The wall clock's time of a moment. */
static const char *moment(int64_t ns, char *text, size_t size) {
    time_t when = time(NULL) + (time_t)((ns - clock_now_ns()) / 1000000000);
    struct tm parts;
    localtime_r(&when, &parts);
    strftime(text, size, "%Y-%m-%d %H:%M:%S", &parts);
    return text;
}

bool time_limit_open(struct time_limit *limit, const struct options *options,
                     const struct environment *environment, int64_t begin_ns, struct fault *fault) {
    char stop[64], end[64];
    *limit = (struct time_limit){.lead_s = options->time_limit_lead_s, .from = "--time-limit"};
    if (options->time_limit_s < 0) return true;
    if (options->time_limit_s > 0) {
        limit->end_ns = begin_ns + (int64_t)(options->time_limit_s * 1e9);
    } else if (!environment->slurm_job) {
        return fault_user(fault, "--time-limit auto asks Slurm, and this is no job of it "
                                 "(SLURM_JOB_ID is not set): give a duration, as 1h30m");
    } else if (!find_slurm_end(limit, environment)) {
        return true;
    }
    if (limit->end_ns == 0) {
        log_note("time limit: none (%s)", limit->from);
        return true;
    }
    log_note("time limit: stops at %s, %.0f s and twice the time of a checkpoint before %s (%s)",
             moment(stop_ns(limit, 0), stop, sizeof stop), limit->lead_s,
             moment(limit->end_ns, end, sizeof end), limit->from);
    return true;
}

bool time_limit_due(struct time_limit *limit, double checkpoint_s) {
    if (limit->end_ns == 0 || clock_now_ns() < stop_ns(limit, checkpoint_s)) return false;
    if (!limit->said) {
        char end[64];
        log_note("time limit: stopping now, %.0f s and twice %.1f s for a checkpoint before %s "
                 "(%s)",
                 limit->lead_s, checkpoint_s, moment(limit->end_ns, end, sizeof end), limit->from);
    }
    limit->said = true;
    return true;
}
