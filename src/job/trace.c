/* trace.c - recording: from decode's thread to a journal. See trace.h.
 *
 * Decode puts records into a ring and goes on; one thread a rank writes them to the rank's journal.
 * The invariant: `put` is moved by decode alone, `taken` by the thread alone, and a record between
 * them is the thread's. Where the thread is too slow, or its disk has ended, records are dropped;
 * their serial numbers tell how many.
 *
 * Ranks may share a file system or not, so each writes where it is: beside the target, or, where
 * that folder is not there or not to be written, in /tmp. Names hold the first digits of the run's
 * uuid, so that a new run never writes over what a killed one left. Nothing is synced to the disk:
 * what was written survives the process, not the host. What is made of the journals stands in
 * trace_write.c.
 *
 * Rejected: one journal for all, which would cost the wire and the leader time in the loop; keeping
 * records in memory, which a kill would lose.
 */
#include "trace.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "log.h"
#include "trace_parts.h"
#include "uuid.h"
#include "version.h"

enum {
    RING_RECORDS = 1 << 16, /* 4 MiB: a second of the busiest rank seen */
    MOST_AT_ONCE = 1 << 12, /* records a write */
    PAUSE_NS = 10000000
};
static const double SECONDS_TO_END = 60;
static const int64_t ENERGY_INTERVAL_NS = 1000000000;

/* What the leader tells the others. */
struct plan {
    struct trace_head head;
    int64_t origin_ns;
    char path[PATH_MAX]; /* of the file the journals stand beside */
};

/* ---- decode's side ----------------------------------------------------------------------------
 */

static void put(struct trace *trace, struct record record) {
    uint64_t at = atomic_load_explicit(&trace->put, memory_order_relaxed);
    record.serial = trace->serial++;
    if (at - atomic_load_explicit(&trace->taken, memory_order_acquire) >= RING_RECORDS) return;
    trace->ring[at % RING_RECORDS] = record;
    atomic_store_explicit(&trace->put, at + 1, memory_order_release);
}

static void take_span(void *argument, const struct span *span) {
    struct trace *trace = argument;
    if (trace_wants(&trace->head.trace, span))
        put(trace, (struct record){.type = RECORD_SPAN, .as.span = *span});
}

static void take_step(void *argument, const struct step_span *step) {
    put(argument, (struct record){.type = RECORD_STEP, .as.step = *step});
}

/* ---- the thread's side ------------------------------------------------------------------------
 */

/* Append records; after the first failure, none. A torn one is cut off. */
static void append(struct trace *trace, struct record *record, size_t n) {
    size_t n_bytes = n * sizeof *record, n_done = 0;
    if (trace->write_error) return;
    journal_seal(record, n, trace->n_written);
    while (n_done < n_bytes) {
        ssize_t n_more = write(trace->fd, (char *)record + n_done, n_bytes - n_done);
        if (n_more < 0 && errno == EINTR) continue;
        if (n_more < 0) {
            trace->write_error = errno;
            break;
        }
        n_done += (size_t)n_more;
    }
    trace->n_written += (int64_t)(n_done / sizeof *record);
    off_t end = lseek(trace->fd, 0, SEEK_CUR) - (off_t)(n_done % sizeof *record);
    if (trace->write_error && ftruncate(trace->fd, end) != 0)
        log_debug("%s ends with a torn record: %s", trace->path, strerror(errno));
}

/* All that lies in the ring, in runs that end with it. */
static void empty_ring(struct trace *trace) {
    uint64_t at = atomic_load_explicit(&trace->taken, memory_order_relaxed);
    uint64_t end = atomic_load_explicit(&trace->put, memory_order_acquire);
    while (at < end) {
        uint64_t n = end - at, first = at % RING_RECORDS;
        if (n > RING_RECORDS - first) n = RING_RECORDS - first;
        if (n > MOST_AT_ONCE) n = MOST_AT_ONCE;
        append(trace, &trace->ring[first], n);
        at += n;
        atomic_store_explicit(&trace->taken, at, memory_order_release);
    }
}

/* Records of the thread's own take no serial number. */
static void append_energy(struct trace *trace) {
    struct record record[TRACE_PACKAGES];
    energy_read(&trace->energy);
    memset(record, 0, sizeof record);
    for (int package = 0; package < trace->energy.n; package++)
        record[package] = (struct record){.type = RECORD_ENERGY,
                                          .as.energy = {.at_ns = clock_now_ns(),
                                                        .energy_uj = trace->energy.sum_uj[package],
                                                        .package = package}};
    append(trace, record, (size_t)trace->energy.n);
}

static void *work(void *argument) {
    struct trace *trace = argument;
    int64_t energy_ns = 0;
    pthread_setname_np(pthread_self(), "lamina trace");
    for (bool last = false; !last;) {
        last = atomic_load(&trace->ending);
        int64_t now = clock_now_ns();
        empty_ring(trace);
        if (last || now - energy_ns >= ENERGY_INTERVAL_NS) {
            append_energy(trace);
            energy_ns = now;
        }
        if (!last) nanosleep(&(struct timespec){0, PAUSE_NS}, NULL);
    }
    return NULL;
}

/* Signals are for the main thread. */
static int start_thread(struct trace *trace) {
    sigset_t all, before;
    sigfillset(&all);
    sigdelset(&all, SIGBUS);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&trace->thread, NULL, work, trace);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

bool trace_end(struct trace *trace) {
    if (!trace->running) return true;
    struct timespec until;
    clock_listen(NULL);
    atomic_store(&trace->ending, true);
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += (time_t)SECONDS_TO_END;
    if (pthread_timedjoin_np(trace->thread, NULL, &until) != 0) {
        trace->write_error = ETIMEDOUT;
        return false;
    }
    struct record end = {.type = RECORD_END, .serial = trace->serial};
    append(trace, &end, 1);
    trace->running = false;
    return true;
}

/* ---- opening ----------------------------------------------------------------------------------
 */

static bool find_places(struct trace *trace, const struct options *options, struct fault *fault) {
    return (!options->trace ||
            replacement_find(&trace->file, "--trace", options->trace, options, fault)) &&
           (!options->timeline ||
            replacement_find(&trace->timeline, "--timeline", options->timeline, options, fault));
}

bool trace_check(const struct options *options, struct fault *fault) {
    struct trace trace = {0};
    bool good = find_places(&trace, options, fault);
    replacement_close(&trace.file);
    replacement_close(&trace.timeline);
    return good;
}

/* When time 0 was, by the wall clock. */
static void write_created(char *text, size_t size, int64_t origin_ns) {
    struct timespec wall;
    struct tm parts;
    clock_gettime(CLOCK_REALTIME, &wall);
    int64_t ns = (int64_t)wall.tv_sec * 1000000000 + wall.tv_nsec - (clock_now_ns() - origin_ns);
    time_t seconds = (time_t)(ns / 1000000000);
    gmtime_r(&seconds, &parts);
    size_t n = strftime(text, size, "%Y-%m-%dT%H:%M:%S", &parts);
    snprintf(text + n, size - n, ".%06dZ", (int)(ns % 1000000000 / 1000));
}

static void make_plan(struct plan *plan, const struct trace *trace,
                      const struct trace_options *options, struct fault *fault) {
    const struct layout *layout = &options->topology->layout;
    const struct replacement *beside = trace->file.path ? &trace->file : &trace->timeline;
    plan->head = (struct trace_head){.n_ranks = options->topology->n_ranks,
                                     .model_ranks = layout->model_ranks,
                                     .attention_ranks = layout->attention_ranks,
                                     .heads = layout->heads,
                                     .sequences = layout->sequences,
                                     .first_step = options->options->trace_steps.first,
                                     .last_step = options->options->trace_steps.last};
    struct trace_head *head = &plan->head;
    if (!uuid_make(head->uuid, fault)) return;
    write_created(head->created, sizeof head->created, plan->origin_ns);
    snprintf(head->creator, sizeof head->creator, "lamina %s (%s)", LAMINA_VERSION, LAMINA_COMMIT);
    snprintf(head->model, sizeof head->model, "%s", options->model ? options->model : "");
    snprintf(head->fingerprint, sizeof head->fingerprint, "%s",
             options->model_fingerprint ? options->model_fingerprint : "");
    bool fits = options->config && strlen(options->config) < sizeof head->config;
    snprintf(head->config, sizeof head->config, "%s", fits ? options->config : "{}");
    snprintf(plan->path, sizeof plan->path, "%s", beside->path);
}

/* What ranks tell the leader, and it all of them: who began when, where and on what. */
struct identity {
    int64_t begin_ns; /* on the leader's clock */
    char host[64];
    char device[64]; /* "": the host's processors */
};

static struct identity *share_identities(const struct trace_options *options) {
    const struct topology *topology = options->topology;
    size_t n_ranks = (size_t)topology->n_ranks;
    struct identity *all = check_alloc(n_ranks, sizeof *all);
    struct identity mine = {.begin_ns = options->begin_ns + topology->clock_offset_ns};
    snprintf(mine.host, sizeof mine.host, "%s", topology->host);
    snprintf(mine.device, sizeof mine.device, "%s", options->meter.id);
    topology_collect(topology, &mine, sizeof mine, all, "opening of the trace",
                     topology->deadline_s);
    topology_broadcast(topology, all, n_ranks * sizeof *all, "opening of the trace",
                       topology->deadline_s);
    return all;
}

/* Ranks of one host would read the same counters: the first of them does, and of a GPU the first
 * that uses it. */
static void open_energy(struct trace *trace, const struct identity *all,
                        const struct trace_meter *meter) {
    struct trace_rank_head *head = &trace->head.rank;
    int host = head->rank, device = head->rank;
    for (int rank = head->rank - 1; rank >= 0; rank--) {
        if (strcmp(all[rank].host, head->host) != 0) continue;
        host = rank;
        if (strcmp(all[rank].device, meter->id) == 0) device = rank;
    }
    char *source = head->energy_source;
    size_t size = sizeof head->energy_source;
    if (host == head->rank) {
        energy_open(&trace->energy, "", source, size);
    } else {
        snprintf(source, size, "none: rank %d of this host reads its counters", host);
    }
    if (!meter->id[0]) return;
    if (device == head->rank) {
        energy_open_device(&trace->energy, meter, source, size);
    } else {
        size_t at = strlen(source);
        snprintf(source + at, size - at, "; GPU: rank %d reads it", device);
    }
}

/* Beside the target, else in /tmp, under a name nobody else has. */
static void open_journal(struct trace *trace, const char *beside) {
    const char *base = strrchr(beside, '/') ? strrchr(beside, '/') + 1 : beside;
    int rank = trace->head.rank.rank;
    snprintf(trace->path, sizeof trace->path, "%s.%.8s.rank%d.journal", beside,
             trace->head.trace.uuid, rank);
    trace->fd = journal_make(trace->path, &trace->head);
    if (trace->fd < 0) {
        trace->open_error = errno;
        snprintf(trace->path, sizeof trace->path, "/tmp/%.200s.%.8s.rank%d.journal", base,
                 trace->head.trace.uuid, rank);
        trace->fd = journal_make(trace->path, &trace->head);
    }
    if (trace->fd < 0) return;
    trace->open_error = start_thread(trace);
    trace->running = trace->open_error == 0;
    if (trace->running) {
        clock_listen(&(struct clock_listener){take_span, take_step, trace});
    } else {
        close(trace->fd);
        unlink(trace->path);
        trace->fd = -1;
    }
}

void trace_open(struct trace **opened, const struct trace_options *options, struct fault *fault) {
    const struct topology *topology = options->topology;
    *opened = NULL;
    if (!options->options->trace && !options->options->timeline) return;
    struct trace *trace = *opened = check_alloc(1, sizeof *trace);
    trace->topology = topology;
    trace->fd = -1;
    trace->ring = check_alloc(RING_RECORDS, sizeof *trace->ring);
    memset(trace->ring, 0, RING_RECORDS * sizeof *trace->ring); /* so that it is there */
    struct identity *all = share_identities(options);
    struct plan *plan = check_alloc(1, sizeof *plan);
    plan->origin_ns = INT64_MAX;
    for (int rank = 0; rank < topology->n_ranks; rank++)
        if (all[rank].begin_ns < plan->origin_ns) plan->origin_ns = all[rank].begin_ns;
    if (topology->leader && find_places(trace, options->options, fault))
        make_plan(plan, trace, options, fault);
    topology_broadcast(topology, plan, sizeof *plan, "opening of the trace", topology->deadline_s);
    trace->head = (struct journal_head){.origin_ns = plan->origin_ns,
                                        .trace = plan->head,
                                        .rank = {.rank = topology->rank,
                                                 .role = (int32_t)topology->role,
                                                 .head_index = topology->head_index,
                                                 .owner = topology->owner,
                                                 .clock_offset_ns = topology->clock_offset_ns}};
    snprintf(trace->head.rank.host, sizeof trace->head.rank.host, "%s", topology->host);
    if (plan->path[0]) { /* the leader has places */
        open_energy(trace, all, &options->meter);
        open_journal(trace, plan->path);
    }
    free(plan);
    free(all);
}

void trace_close(struct trace *trace) {
    if (!trace) return;
    bool ended = trace_end(trace);
    if (trace->fd >= 0 && !trace->kept) unlink(trace->path);
    replacement_close(&trace->file);
    replacement_close(&trace->timeline);
    if (!ended) return; /* the thread may still use the rest */
    if (trace->fd >= 0) close(trace->fd);
    energy_close(&trace->energy);
    free(trace->ring);
    free(trace);
}
