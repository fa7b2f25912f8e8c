/* desk.c - the helper thread between files and decode. See desk.h.
 *
 * Owns all requests from their line to their answer. The invariant: a member is written by one side
 * only. Decode's thread takes from the queue and counts what it took; the desk's thread does all
 * else; the two meet in the atomics of struct desk and of the generations. The story is `work`:
 * look at what decode did and write what is finished, fill the queue, read one line, sync, renew
 * the status file, rest. Finished answers thus go out before another line is read. What a line
 * means, what an answer says and where it goes is left to requests, choice and results. Rejected: a
 * thread for syncs of their own (two writers of one file), and a condition variable for desk_poke
 * (its mutex could make decode wait).
 */
#include "desk.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "clock.h"
#include "line_reader.h"
#include "pending.h"
#include "ready_queue.h"
#include "saved.h"

#define SYNC_EVERY_NS 5000000000
enum { LONGEST_WINDOW = 16 }; /* times `ahead` */

struct desk {
    /* constant */
    const struct request_rules *rules;
    struct results *results;
    size_t ahead;
    bool longest_first, input_order;
    pthread_t thread;
    int wake_fd;

    /* the thread's */
    struct line_reader *reader;
    struct pending pending;     /* requests that are not written */
    size_t most_in_flight;      /* generations with decode at once, so far */
    struct generation **active; /* in the queue or with decode */
    size_t n_active, active_capacity;
    struct saved saved; /* choices of a checkpoint, until all are found; zeroed without */
    int n_restored;     /* of these, put in the queue */
    bool waiting_for_input, unsynced;
    int64_t unsynced_since_ns;
    struct fault fault;

    /* decode's */
    int64_t n_started; /* requests handed out */

    /* between the two */
    struct ready_queue queue;
    _Atomic bool woken, poked, stopping, closing;
    _Atomic bool complete; /* nothing will be put in the queue any more */
    _Atomic bool failed;   /* and `fault` is set */
    _Atomic bool all_read;
    _Atomic bool restoring; /* the choices of a checkpoint are not all found yet */
    _Atomic int64_t n_read, n_started_written, n_waiting;
    _Atomic int64_t n_settled; /* requests handed out so far that their first choice was ended */
    struct desk_kept *_Atomic wanted; /* to be filled with what is in flight */
    _Atomic int64_t n_answered, n_failed, n_kept, n_kept_failed, n_changed;
    struct status_file *_Atomic status; /* with a text to be written */
    pthread_mutex_t news_mutex;         /* for desk_wait only; decode takes it nowhere else */
    pthread_cond_t news;
};

/* ---- shared ---- */

static void wake(struct desk *desk) {
    if (atomic_exchange(&desk->woken, true)) return;
    uint64_t one = 1;
    ssize_t n_bytes = write(desk->wake_fd, &one, sizeof one);
    (void)n_bytes; /* the counter cannot be full: it is written once a wake */
}

static void tell_news(struct desk *desk) {
    pthread_mutex_lock(&desk->news_mutex);
    pthread_cond_signal(&desk->news);
    pthread_mutex_unlock(&desk->news_mutex);
}

/* ---- the thread: writing ---- */

static void fail(struct desk *desk) {
    atomic_store(&desk->failed, true);
    tell_news(desk);
}

static void publish_counts(struct desk *desk) {
    struct result_counts counts = results_counts(desk->results);
    atomic_store(&desk->n_answered, counts.n_answered);
    atomic_store(&desk->n_failed, counts.n_failed);
    atomic_store(&desk->n_kept, counts.n_kept);
    atomic_store(&desk->n_kept_failed, counts.n_kept_failed);
    atomic_store(&desk->n_changed, counts.n_changed);
}

static void write_entry(struct desk *desk, struct pending_entry *entry) {
    if (!results_write(desk->results, &entry->request, desk->rules, &desk->fault)) {
        fail(desk);
        return;
    }
    if (!desk->unsynced) desk->unsynced_since_ns = clock_now_ns();
    desk->unsynced = true;
    if (entry->n_begun > 0) atomic_fetch_add(&desk->n_started_written, 1);
    pending_release(&desk->pending, entry);
    publish_counts(desk);
}

/* An entry has its answer or refusal: write it now, or when its turn in the input has come. */
static void finish_entry(struct desk *desk, struct pending_entry *entry) {
    struct pending *pending = &desk->pending;
    pending_finish(pending, entry);
    if (!desk->input_order) {
        write_entry(desk, entry);
        return;
    }
    while (pending->first && pending->first->finished && !atomic_load(&desk->failed))
        write_entry(desk, pending->first);
}

/* ---- the thread: following decode ---- */

/* True when decode has let go of the generation. */
static bool follow(struct desk *desk, struct generation *generation) {
    struct pending_entry *entry = generation->owner;
    size_t index = (size_t)(generation - entry->request.generation);
    struct choice *choice = &entry->request.choice[index];
    if (!choice_follow(choice, &entry->request, generation, desk->rules->tokenizer)) return false;
    entry->interrupted |= choice->ending == ENDING_NONE;
    entry->n_ended++;
    request_trim(&entry->request, index);
    return true;
}

static void look(struct desk *desk) {
    size_t place = 0;
    while (place < desk->n_active && !atomic_load(&desk->failed)) {
        struct generation *generation = desk->active[place];
        struct pending_entry *entry = generation->owner;
        if (!follow(desk, generation)) {
            place++;
            continue;
        }
        desk->active[place] = desk->active[--desk->n_active];
        bool all_ended = entry->n_ended == request_n_generations(&entry->request);
        if (all_ended && !entry->interrupted) finish_entry(desk, entry);
    }
}

/* ---- the thread: filling the queue ---- */

/* Answers in input order wait for the first one: how many requests may wait, and so may begin. */
static size_t most_held(const struct desk *desk) {
    if (!desk->input_order) return SIZE_MAX;
    return 2 * (desk->most_in_flight > desk->ahead ? desk->most_in_flight : desk->ahead);
}

static bool wants_line(struct desk *desk) {
    if (atomic_load(&desk->all_read)) return false;
    if (atomic_load(&desk->restoring)) return true;
    const struct pending *pending = &desk->pending;
    if (pending->n_held >= most_held(desk)) return false;
    if (desk->longest_first) return pending->n_unbegun < LONGEST_WINDOW * desk->ahead;
    return pending->n_unbegun == 0 && ready_queue_has_room(&desk->queue);
}

/* Tokens that a generation had before a checkpoint. True when they were its last: decode has
 * nothing to do with it. */
static bool give_saved(struct desk *desk, struct pending_entry *entry,
                       struct generation *generation) {
    size_t index = (size_t)(generation - entry->request.generation);
    if (index >= entry->n_saved || !saved_give(&desk->saved, &entry->request, index)) return false;
    int32_t n_tokens = atomic_load(&generation->n_tokens);
    int32_t n_new = n_tokens - generation->n_prompt;
    enum finish finish = FINISH_NONE;
    choice_follow(&entry->request.choice[index], &entry->request, generation,
                  desk->rules->tokenizer);
    if (n_new > 0 && sampling_is_stop(&generation->sampling, generation->token[n_tokens - 1])) {
        finish = FINISH_STOP;
    } else if (n_new == generation->max_new) {
        finish = FINISH_LENGTH;
    } else if (atomic_load(&generation->cancelled)) {
        finish = FINISH_CANCELLED;
    }
    atomic_store(&generation->finish, finish);
    if (finish != FINISH_NONE && index == 0) atomic_fetch_add(&desk->n_settled, 1);
    return finish != FINISH_NONE;
}

static void begin_next(struct desk *desk, struct pending_entry *entry) {
    size_t n_bytes;
    struct generation *generation = pending_begin(&desk->pending, entry, &n_bytes);
    generation->submitted_ns = clock_now_ns();
    bool settled = give_saved(desk, entry, generation);
    desk->n_restored += !settled && generation->restored && atomic_load(&desk->restoring);
    if (desk->n_active == desk->active_capacity) {
        size_t capacity = 2 * desk->active_capacity + 64;
        struct generation **larger = check_alloc(capacity, sizeof *larger);
        if (desk->n_active) memcpy(larger, desk->active, desk->n_active * sizeof *larger);
        free(desk->active);
        desk->active = larger;
        desk->active_capacity = capacity;
    }
    desk->active[desk->n_active++] = generation;
    if (settled) {
        desk_poke(desk); /* it is for `look` to see */
    } else {
        ready_queue_append(&desk->queue, generation, n_bytes);
    }
}

/* All choices of the checkpoint that there are have been read: they go first. */
static void restore(struct desk *desk) {
    for (struct pending_entry *entry = desk->pending.first; entry; entry = entry->behind) {
        while (entry->n_begun < entry->n_saved && ready_queue_has_room(&desk->queue))
            begin_next(desk, entry);
    }
    atomic_store(&desk->restoring, false);
    tell_news(desk);
}

static void fill_queue(struct desk *desk) {
    if (atomic_load(&desk->restoring)) return;
    size_t n_in_flight = desk->n_active - ready_queue_length(&desk->queue);
    if (n_in_flight > desk->most_in_flight) desk->most_in_flight = n_in_flight;
    bool news = false;
    struct pending_entry *entry;
    /* The longest of a window is known when the window is full, or nothing can be read now. */
    bool known = !desk->longest_first || desk->waiting_for_input || !wants_line(desk);
    while (known && ready_queue_has_room(&desk->queue) &&
           (entry = pending_choose(&desk->pending, desk->longest_first, most_held(desk)))) {
        begin_next(desk, entry);
        news = true;
    }
    atomic_store(&desk->n_waiting, (int64_t)desk->pending.n_unbegun);
    if (atomic_load(&desk->all_read) && desk->pending.n_unbegun == 0 &&
        !atomic_load(&desk->complete)) {
        atomic_store(&desk->complete, true);
        news = true;
    }
    if (news) tell_news(desk);
}

/* ---- the thread: reading ---- */

static void admit(struct desk *desk, const struct input_line *line) {
    struct pending_entry *entry = check_alloc(1, sizeof *entry);
    request_read(&entry->request, desk->rules->options, line);
    bool answered = results_answered(desk->results, &entry->request, &desk->fault);
    if (answered || desk->fault.kind) {
        request_close(&entry->request);
        free(entry);
        publish_counts(desk);
        if (desk->fault.kind) fail(desk);
        return;
    }
    request_prepare(&entry->request, desk->rules);
    if (atomic_load(&desk->restoring)) entry->n_saved = saved_count(&desk->saved, &entry->request);
    pending_append(&desk->pending, entry);
    if (entry->request.refusal.refused) finish_entry(desk, entry);
}

/* True when there may be more to do at once. */
static bool read_one(struct desk *desk) {
    struct input_line line;
    bool waited = desk->waiting_for_input;
    desk->waiting_for_input = false;
    if (!wants_line(desk)) return false;
    switch (line_reader_poll(desk->reader, &line, &desk->fault)) {
    case LINE_READ:
        atomic_fetch_add(&desk->n_read, 1);
        admit(desk, &line);
        return true;
    case LINE_NOT_YET:
        desk->waiting_for_input = true;
        return !waited; /* the queue may be filled with what there is */
    case LINE_END: atomic_store(&desk->all_read, true); return true;
    case LINE_FAILED: fail(desk); return false;
    }
    return false;
}

/* ---- the thread: its life ---- */

/* What was written before a failure is worth keeping too; the first fault is the one told. */
static void sync_results(struct desk *desk) {
    struct fault fault = {0};
    desk->unsynced = false;
    if (results_sync(desk->results, &fault) || atomic_load(&desk->failed)) return;
    desk->fault = fault;
    fail(desk);
}

/* All that was in flight has been read again, as far as it is still there: lines behind those that
 * were read then are left for their time. */
static bool is_all_found(struct desk *desk) {
    const struct checkpoint_progress *progress = desk->saved.progress;
    return desk->saved.n_found == progress->n_choices || atomic_load(&desk->all_read) ||
           atomic_load(&desk->n_read) >= progress->n_read;
}

static void *copy(const void *from, size_t n_bytes) {
    void *to = check_alloc(n_bytes, 1);
    memcpy(to, from, n_bytes);
    return to;
}

/* A choice as far as it has come. */
static struct checkpoint_choice keep_choice(const struct request *request, size_t index) {
    const struct generation *generation = &request->generation[index];
    int32_t n_tokens = atomic_load_explicit(&generation->n_tokens, memory_order_acquire);
    struct checkpoint_choice choice = {
        .custom_id =
            request->custom_id ? copy(request->custom_id, strlen(request->custom_id) + 1) : NULL,
        .key = request->key,
        .body_hash = request->body_hash,
        .index = (int32_t)index,
        .n_prompt = generation->n_prompt,
        .n_tokens = n_tokens,
        .n_logprobs = generation->sampling.n_logprobs,
        .token = copy(generation->token, (size_t)n_tokens * sizeof *generation->token),
    };
    if (generation->score)
        choice.score = copy(generation->score, (size_t)n_tokens * (1 + (size_t)choice.n_logprobs) *
                                                   sizeof *generation->score);
    return choice;
}

/* Every choice that has begun, of requests that are not written. */
static void keep(struct desk *desk, struct desk_kept *kept) {
    size_t n = 0;
    look(desk);
    for (const struct pending_entry *entry = desk->pending.first; entry; entry = entry->behind)
        n += entry->n_begun;
    kept->choice = check_alloc(n + 1, sizeof *kept->choice);
    kept->generation = check_alloc(n + 1, sizeof *kept->generation);
    for (const struct pending_entry *entry = desk->pending.first; entry; entry = entry->behind) {
        for (size_t index = 0; index < entry->n_begun; index++) {
            kept->generation[kept->n_choices] = &entry->request.generation[index];
            kept->choice[kept->n_choices++] = keep_choice(&entry->request, index);
        }
    }
    kept->n_read = atomic_load(&desk->n_read);
    kept->output_bytes = results_output_bytes(desk->results);
    sync_results(desk); /* answers given are durable before a checkpoint without them is */
    atomic_store(&kept->done, true);
    tell_news(desk);
}

/* Until something happens, or a sync is due. */
static void rest(struct desk *desk) {
    struct pollfd news[2] = {{.fd = desk->wake_fd, .events = POLLIN}, {.events = POLLIN}};
    news[1].fd = desk->waiting_for_input ? line_reader_fd(desk->reader) : -1;
    int wait_ms = -1;
    if (desk->unsynced && !atomic_load(&desk->failed)) {
        int64_t left_ns = desk->unsynced_since_ns + SYNC_EVERY_NS - clock_now_ns();
        wait_ms = left_ns > 0 ? (int)(left_ns / 1000000) + 1 : 0;
    }
    if (poll(news, 2, wait_ms) > 0 && news[0].revents) {
        uint64_t count;
        ssize_t n_bytes = read(desk->wake_fd, &count, sizeof count);
        (void)n_bytes; /* it only makes poll wait again */
    }
}

static void *work(void *argument) {
    struct desk *desk = argument;
    pthread_setname_np(pthread_self(), "lamina desk");
    for (;;) {
        bool more = false;
        /* Before anything is looked at: what changes behind this line wakes the next rest. */
        atomic_store(&desk->woken, false);
        if (atomic_load(&desk->closing)) break;
        if (atomic_exchange(&desk->poked, false)) look(desk);
        if (!atomic_load(&desk->failed) && !atomic_load(&desk->stopping)) {
            fill_queue(desk);
            more = read_one(desk);
            if (atomic_load(&desk->restoring) && is_all_found(desk)) restore(desk);
        }
        struct desk_kept *wanted = atomic_exchange(&desk->wanted, NULL);
        if (wanted) keep(desk, wanted);
        bool due = desk->unsynced && clock_now_ns() - desk->unsynced_since_ns >= SYNC_EVERY_NS;
        if (due && !atomic_load(&desk->failed)) sync_results(desk);
        struct status_file *status = atomic_exchange(&desk->status, NULL);
        if (status) status_file_renew(status);
        if (!more) rest(desk);
    }
    look(desk);
    sync_results(desk);
    return NULL;
}

/* ---- decode's side ---- */

static void open_news(struct desk *desk) {
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&desk->news, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_mutex_init(&desk->news_mutex, NULL);
}

static void release(struct desk *desk) {
    while (desk->pending.first)
        pending_release(&desk->pending, desk->pending.first);
    line_reader_close(desk->reader);
    pthread_cond_destroy(&desk->news);
    pthread_mutex_destroy(&desk->news_mutex);
    if (desk->wake_fd >= 0) close(desk->wake_fd);
    free(desk->active);
    ready_queue_close(&desk->queue);
    saved_close(&desk->saved);
    free(desk);
}

/* Signals are for the main thread, which decides what they mean; but a bus error is the fault of
 * the thread that it happens to, and blocked it could not be said. */
static int start_thread(struct desk *desk) {
    sigset_t all, before;
    sigfillset(&all);
    sigdelset(&all, SIGBUS);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&desk->thread, NULL, work, desk);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

bool desk_open(struct desk **desk, const struct request_rules *rules, struct results *results,
               const struct checkpoint_progress *progress, int ahead, struct fault *fault) {
    REQUIRE(ahead > 0, "a desk that reads %d ahead", ahead);
    struct desk *made = check_alloc(1, sizeof *made);
    made->rules = rules;
    made->results = results;
    made->ahead = (size_t)ahead;
    made->longest_first = rules->options->order == ORDER_LONGEST;
    made->input_order = rules->options->output_order == OUTPUT_INPUT;
    ready_queue_open(&made->queue, (size_t)ahead);
    made->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    open_news(made);
    if (progress) saved_open(&made->saved, progress);
    atomic_init(&made->restoring, progress != NULL);
    publish_counts(made);
    bool opened = made->wake_fd >= 0 || fault_world(fault, "no eventfd: %s", strerror(errno));
    opened = opened && line_reader_open(&made->reader, rules->options->input,
                                        rules->options->n_inputs, fault);
    int error = opened ? start_thread(made) : 0;
    if (error) opened = fault_world(fault, "cannot start a thread: %s", strerror(error));
    if (!opened) {
        release(made);
        return false;
    }
    *desk = made;
    return true;
}

struct generation *desk_next(struct desk *desk) {
    if (atomic_load(&desk->stopping)) return NULL;
    struct generation *generation = ready_queue_next(&desk->queue);
    if (!generation) return NULL;
    const struct pending_entry *entry = generation->owner;
    if (generation == entry->request.generation) desk->n_started++;
    wake(desk);
    return generation;
}

bool desk_exhausted(struct desk *desk) {
    if (atomic_load(&desk->stopping)) return true;
    return atomic_load(&desk->complete) && ready_queue_length(&desk->queue) == 0;
}

void desk_poke(struct desk *desk) {
    atomic_store(&desk->poked, true);
    wake(desk);
}

void desk_renew(struct desk *desk, struct status_file *status) {
    atomic_store(&desk->status, status);
    wake(desk);
}

void desk_wait(struct desk *desk, double seconds) {
    int64_t until_ns = clock_now_ns() + (int64_t)(seconds * 1e9);
    struct timespec until = {until_ns / 1000000000, until_ns % 1000000000};
    int error = 0;
    pthread_mutex_lock(&desk->news_mutex);
    while (error == 0 && ready_queue_length(&desk->queue) == 0 && !desk_exhausted(desk) &&
           !atomic_load(&desk->failed))
        error = pthread_cond_timedwait(&desk->news, &desk->news_mutex, &until);
    pthread_mutex_unlock(&desk->news_mutex);
}

/* Until the flag is as wanted, or, where that is good enough, the thread has failed. False when
 * `seconds` were not enough. */
static bool wait_for(struct desk *desk, const _Atomic bool *flag, bool wanted, bool or_failed,
                     double seconds) {
    int64_t until_ns = clock_now_ns() + (int64_t)(seconds * 1e9);
    struct timespec until = {until_ns / 1000000000, until_ns % 1000000000};
    int error = 0;
    pthread_mutex_lock(&desk->news_mutex);
    while (error == 0 && atomic_load(flag) != wanted && !(or_failed && atomic_load(&desk->failed)))
        error = pthread_cond_timedwait(&desk->news, &desk->news_mutex, &until);
    pthread_mutex_unlock(&desk->news_mutex);
    return error == 0;
}

bool desk_restored(struct desk *desk, int *n_found, int *n_queued, double seconds) {
    if (!wait_for(desk, &desk->restoring, false, true, seconds)) return false;
    *n_found = desk->saved.n_found;
    *n_queued = desk->n_restored;
    return true;
}

bool desk_keep(struct desk *desk, struct desk_kept *kept, double seconds) {
    *kept = (struct desk_kept){0};
    atomic_store(&desk->wanted, kept);
    wake(desk);
    /* also of a desk that has failed: it writes into *kept until it is done */
    if (!wait_for(desk, &kept->done, true, false, seconds))
        check_fail("waited %g s for the desk to list the requests in flight", seconds);
    return !atomic_load(&desk->failed);
}

void desk_kept_close(struct desk_kept *kept) {
    for (int at = 0; at < kept->n_choices; at++)
        checkpoint_choice_close(&kept->choice[at]);
    free(kept->choice);
    free(kept->generation);
    *kept = (struct desk_kept){0};
}

void desk_stop(struct desk *desk) {
    atomic_store(&desk->stopping, true);
    wake(desk);
}

bool desk_failed(struct desk *desk, struct fault *fault) {
    if (!atomic_load(&desk->failed)) return false;
    if (!fault->kind) *fault = desk->fault;
    return true;
}

struct desk_counts desk_counts(struct desk *desk) {
    struct desk_counts counts = {
        .results =
            {
                .n_answered = atomic_load(&desk->n_answered),
                .n_failed = atomic_load(&desk->n_failed),
                .n_kept = atomic_load(&desk->n_kept),
                .n_kept_failed = atomic_load(&desk->n_kept_failed),
                .n_changed = atomic_load(&desk->n_changed),
            },
        .all_read = atomic_load(&desk->all_read),
        .n_read = atomic_load(&desk->n_read),
        .n_ready = (int64_t)ready_queue_length(&desk->queue) + atomic_load(&desk->n_waiting),
        .n_running =
            desk->n_started + atomic_load(&desk->n_settled) - atomic_load(&desk->n_started_written),
    };
    return counts;
}

/* ---- the desk as a supply ---------------------------------------------------------------------
 */

static struct generation *supply_next(void *of) {
    return desk_next(of);
}

static bool supply_exhausted(void *of) {
    return desk_exhausted(of);
}

static int64_t supply_n_ready(void *of) {
    return desk_counts(of).n_ready;
}

static void supply_poke(void *of) {
    desk_poke(of);
}

static void supply_wait(void *of, double seconds) {
    desk_wait(of, seconds);
}

struct supply desk_supply(struct desk *desk) {
    return (struct supply){supply_next, supply_exhausted, supply_n_ready,
                           supply_poke, supply_wait,      desk};
}

bool desk_close(struct desk *desk, struct desk_counts *counts, struct fault *fault) {
    atomic_store(&desk->closing, true);
    wake(desk);
    pthread_join(desk->thread, NULL);
    *counts = desk_counts(desk);
    bool failed = desk_failed(desk, fault);
    release(desk);
    return !failed;
}
