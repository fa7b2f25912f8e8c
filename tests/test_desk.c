/* The desk feeds a decoder and writes what it makes, whatever the order and the timing. */
#include <fcntl.h>
#include <jansson.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "clock.h"
#include "desk.h"
#include "fake_text.h"
#include "scratch.h"

/* ---- fsync as slow as a test wants it: this definition stands before the library's ---- */

static _Atomic bool hold_sync;
static _Atomic int n_syncs;
static sem_t sync_begun, sync_may_end;

int fsync(int fd) {
    atomic_fetch_add(&n_syncs, 1);
    if (atomic_load(&hold_sync)) {
        sem_post(&sync_begun);
        sem_wait(&sync_may_end);
    }
    return (int)syscall(SYS_fsync, fd);
}

/* ---- a decoder that says, behind the prompt "K", "K:" so and so often, " STOP", "K", EOS ---- */

enum { MOST_RUNNING = 64 };

struct decoder {
    struct desk *desk;
    int width; /* generations at once */
    int n_running;
    struct generation *running[MOST_RUNNING];
    int64_t n_taken, n_steps;
};

static int number_of(const struct generation *generation) {
    int number = 0;
    for (int32_t token = 0; token < generation->n_prompt; token++)
        number = 10 * number + generation->token[token] - '0';
    return number;
}

static void say(char *text, size_t size, int number, int choice) {
    size_t n_bytes = 0;
    for (int turn = 0; turn <= number % 4 + choice; turn++)
        n_bytes += (size_t)snprintf(text + n_bytes, size - n_bytes, "%d:", number);
    snprintf(text + n_bytes, size - n_bytes, " STOP%d", number);
}

/* One token more; true when it was the last. */
static bool step_generation(struct generation *generation) {
    char text[256];
    say(text, sizeof text, number_of(generation), (int)generation->sampling.choice_index);
    int32_t n_tokens = atomic_load_explicit(&generation->n_tokens, memory_order_relaxed);
    size_t place = (size_t)(n_tokens - generation->n_prompt);
    if (atomic_load_explicit(&generation->cancelled, memory_order_acquire)) {
        atomic_store_explicit(&generation->finish, FINISH_CANCELLED, memory_order_release);
        return true;
    }
    bool stops = place == strlen(text);
    bool full = n_tokens + 1 == generation->n_prompt + generation->max_new;
    generation->token[n_tokens] = stops ? FAKE_EOS : (unsigned char)text[place];
    atomic_store_explicit(&generation->n_tokens, n_tokens + 1, memory_order_release);
    if (!stops && !full) return false;
    atomic_store_explicit(&generation->finish, stops ? FINISH_STOP : FINISH_LENGTH,
                          memory_order_release);
    return true;
}

static struct generation *take(struct decoder *decoder) {
    struct generation *generation = desk_next(decoder->desk);
    decoder->n_taken += generation != NULL;
    return generation;
}

static void step(struct decoder *decoder) {
    while (decoder->n_running < decoder->width) {
        struct generation *generation = take(decoder);
        if (!generation) break;
        decoder->running[decoder->n_running++] = generation;
    }
    for (int place = 0; place < decoder->n_running;) {
        if (step_generation(decoder->running[place])) {
            decoder->running[place] = decoder->running[--decoder->n_running];
        } else {
            place++;
        }
    }
    decoder->n_steps++;
    if (decoder->n_steps % 3) desk_poke(decoder->desk);
    if (decoder->n_running == 0) {
        desk_poke(decoder->desk);
        desk_wait(decoder->desk, 0.05);
    }
}

static void decode_all(struct decoder *decoder) {
    struct deadline deadline = clock_deadline(120);
    struct fault fault = {0};
    while (!(desk_exhausted(decoder->desk) && decoder->n_running == 0)) {
        step(decoder);
        if (desk_failed(decoder->desk, &fault)) fail_msg("%s", fault.text);
        if (clock_expired(deadline)) fail_msg("the desk gives nothing");
    }
}

/* ---- a job ---- */

static struct options options;
static struct request_rules rules;
static struct results *results;
static const char *input[1];
static struct fault fault;
static const struct checkpoint_progress *progress; /* for open_job */

static int reset(void **state) {
    (void)state;
    static int number;
    static char name[32], path[256];
    snprintf(name, sizeof name, "%d.out", ++number);
    strcpy(path, scratch_path(name));
    options = fake_options();
    options.input = input;
    options.n_inputs = 1;
    options.output = path;
    rules = (struct request_rules){
        .tokenizer = &fake_tokenizer,
        .chat_template = &fake_template,
        .options = &options,
        .context = 64,
        .kv_tokens = INT64_MAX,
        .model_name = "fake",
    };
    fault = (struct fault){0};
    progress = NULL;
    return 0;
}

static int n_choices_of(int number) {
    return number % 5 == 0 ? 3 : 1;
}

static void print_line(FILE *file, int number) {
    fprintf(file, "{\"custom_id\":\"%d\",\"prompt\":\"%d\",\"n\":%d%s%s}\n", number, number,
            number % 7 == 3 ? 0 : n_choices_of(number), number % 3 ? "" : ",\"stop\":\" STOP\"",
            number % 4 == 1 ? ",\"max_tokens\":3" : "");
}

static void write_input(int n_lines) {
    input[0] = scratch_path("in.jsonl");
    FILE *file = fopen(input[0], "w");
    for (int number = 0; number < n_lines; number++)
        print_line(file, number);
    fclose(file);
}

static void open_job(struct decoder *decoder, int ahead, int width) {
    *decoder = (struct decoder){.width = width};
    if (!results_open(&results, &options, "0123456789abcdef0123456789abcdef", &fault) ||
        !desk_open(&decoder->desk, &rules, results, progress, ahead, &fault))
        fail_msg("%s", fault.text);
}

static struct desk_counts close_job(struct decoder *decoder) {
    struct desk_counts counts;
    bool closed = desk_close(decoder->desk, &counts, &fault);
    results_close(results);
    if (!closed) fail_msg("%s", fault.text);
    return counts;
}

/* What line `number` must have been answered with. */
static void check_line(const json_t *line, int number) {
    const json_t *response = json_object_get(line, "response");
    int status = (int)json_integer_value(json_object_get(response, "status_code"));
    const json_t *choices = json_object_get(json_object_get(response, "body"), "choices");
    assert_int_equal(status, number % 7 == 3 ? 400 : 200);
    if (number % 7 == 3) return;
    assert_int_equal(json_array_size(choices), n_choices_of(number));
    for (int choice = 0; choice < n_choices_of(number); choice++) {
        char text[256];
        say(text, sizeof text, number, choice);
        bool cut = false;
        if (number % 4 == 1) {
            cut = strlen(text) > 3;
            text[3] = 0;
        }
        char *stop = number % 3 ? NULL : strstr(text, " STOP");
        if (stop) *stop = 0;
        const char *got, *reason;
        assert_int_equal(json_unpack(json_array_get(choices, (size_t)choice), "{s:s,s:s}", "text",
                                     &got, "finish_reason", &reason),
                         0);
        assert_string_equal(got, text);
        assert_string_equal(reason, cut ? "length" : "stop");
    }
}

/* Each of `n_lines` appears at most once, and as it should be; returns how many there are. */
static int check_output(int n_lines, bool in_order) {
    static bool seen[4096];
    memset(seen, 0, sizeof seen);
    FILE *file = fopen(options.output, "r");
    char *text = NULL;
    size_t capacity = 0;
    int n_found = 0, last = -1;
    while (getline(&text, &capacity, file) > 0) {
        json_t *line = json_loads(text, 0, NULL);
        assert_non_null(line);
        int number = atoi(json_string_value(json_object_get(line, "custom_id")));
        assert_true(number >= 0 && number < n_lines && !seen[number]);
        if (in_order) assert_true(number > last);
        last = number;
        seen[number] = true;
        check_line(line, number);
        json_decref(line);
        n_found++;
    }
    free(text);
    fclose(file);
    return n_found;
}

static void run_all(int n_lines, int ahead, int width) {
    struct decoder decoder;
    write_input(n_lines);
    open_job(&decoder, ahead, width);
    int n_syncs_before = atomic_load(&n_syncs);
    int64_t begin_ns = clock_now_ns();
    decode_all(&decoder);
    struct desk_counts counts = close_job(&decoder);
    int64_t n_intervals = (clock_now_ns() - begin_ns) / 5000000000;
    assert_true(atomic_load(&n_syncs) - n_syncs_before <= 1 + n_intervals);
    assert_true(counts.all_read);
    assert_int_equal(counts.n_read, n_lines);
    assert_int_equal(counts.results.n_answered + counts.results.n_failed, n_lines);
    assert_int_equal(counts.n_ready, 0);
    assert_int_equal(counts.n_running, 0);
}

/* ---- tests ---- */

static void every_request_is_answered_once(void **state) {
    (void)state;
    run_all(600, 1, 1);
    assert_int_equal(check_output(600, false), 600);
    options.overwrite = true;
    run_all(600, 40, 8);
    assert_int_equal(check_output(600, false), 600);
}

static void the_input_order_can_be_kept(void **state) {
    (void)state;
    options.output_order = OUTPUT_INPUT;
    run_all(600, 16, 8);
    assert_int_equal(check_output(600, true), 600);
    options.overwrite = true;
    options.order = ORDER_LONGEST;
    run_all(600, 4, 8);
    assert_int_equal(check_output(600, true), 600);
}

/* The first request never ends: what waits for it is bounded, and comes when it does. */
static void answers_held_back_are_bounded(void **state) {
    (void)state;
    enum { AHEAD = 8, WIDTH = 4 };
    struct decoder decoder;
    options.output_order = OUTPUT_INPUT;
    write_input(600);
    open_job(&decoder, AHEAD, WIDTH);
    struct generation *first = NULL;
    while (!(first = take(&decoder)))
        desk_wait(decoder.desk, 1);
    for (int turn = 0; turn < 200; turn++)
        step(&decoder); /* until the desk gives no more */
    assert_int_equal(desk_counts(decoder.desk).results.n_answered, 0);
    int64_t n_taken = decoder.n_taken;
    assert_true(n_taken > WIDTH);
    /* At most twice the larger of ahead and in flight are begun; of five requests, one has three
     * choices. */
    assert_true(n_taken <= 2 * AHEAD * 7 / 5 + 3);
    while (!step_generation(first))
        continue;
    decode_all(&decoder);
    close_job(&decoder);
    assert_int_equal(check_output(600, true), 600);
}

static void the_longest_can_come_first(void **state) {
    (void)state;
    struct decoder decoder;
    input[0] = scratch_path("lengths.jsonl");
    FILE *file = fopen(input[0], "w");
    for (int number = 0; number < 16; number++) /* "0", "00", ... in no order */
        fprintf(file, "{\"prompt\":\"%.*s\",\"max_tokens\":1}\n", (number * 7) % 16 + 1,
                "0000000000000000");
    fclose(file);
    options.order = ORDER_LONGEST;
    open_job(&decoder, 1, 1);
    int32_t last = 1000, n_longer = 0;
    struct generation *generation;
    while (!desk_exhausted(decoder.desk)) {
        desk_wait(decoder.desk, 1);
        if (!(generation = take(&decoder))) continue;
        n_longer += generation->n_prompt > last;
        last = generation->n_prompt;
        while (!step_generation(generation))
            continue;
        desk_poke(decoder.desk);
    }
    close_job(&decoder);
    assert_int_equal(decoder.n_taken, 16);
    assert_int_equal(n_longer, 0);
}

/* While a sync hangs, decode takes all that was read ahead. */
static void a_slow_sync_does_not_starve_decode(void **state) {
    (void)state;
    enum { AHEAD = 32 };
    struct decoder decoder;
    write_input(2000);
    open_job(&decoder, AHEAD, 4);
    atomic_store(&hold_sync, true);
    struct deadline deadline = clock_deadline(60);
    while (sem_trywait(&sync_begun) != 0) { /* the first answer is five seconds old */
        if (decoder.n_taken < 100) step(&decoder);
        usleep(2000);
        assert_false(clock_expired(deadline));
    }
    for (int number = 0; number < AHEAD; number++) {
        struct generation *generation = take(&decoder);
        assert_non_null(generation);
        while (!step_generation(generation))
            continue;
        desk_poke(decoder.desk);
    }
    atomic_store(&hold_sync, false);
    sem_post(&sync_may_end);
    decode_all(&decoder);
    close_job(&decoder);
    assert_int_equal(check_output(2000, false), 2000);
}

/* An answer is written while the desk waits for the next line of a pipe. */
static void feed_slowly(const char *name) {
    struct decoder decoder;
    const char *path = scratch_path(name);
    assert_int_equal(mkfifo(path, 0600), 0);
    input[0] = path;
    open_job(&decoder, 4, 4);
    int writer = open(path, O_WRONLY);
    FILE *file = fdopen(writer, "w");
    struct deadline deadline = clock_deadline(60);
    for (int number = 0; number < 10; number++) {
        print_line(file, number);
        fflush(file);
        while (desk_counts(decoder.desk).results.n_answered +
                   desk_counts(decoder.desk).results.n_failed <=
               number) {
            step(&decoder);
            if (clock_expired(deadline)) fail_msg("answer %d does not come", number);
        }
    }
    assert_int_equal(check_output(10, true), 10);
    assert_false(desk_exhausted(decoder.desk));
    fclose(file);
    decode_all(&decoder);
    close_job(&decoder);
}

static void a_slow_input_delays_no_answer(void **state) {
    (void)state;
    feed_slowly("pipe");
    options.overwrite = true;
    options.order = ORDER_LONGEST;
    feed_slowly("another pipe");
}

static void a_stop_writes_what_is_finished(void **state) {
    (void)state;
    struct decoder decoder;
    write_input(600);
    open_job(&decoder, 8, 8);
    while (desk_counts(decoder.desk).results.n_answered < 20 || decoder.n_running == 0)
        step(&decoder);
    desk_stop(decoder.desk);
    assert_true(desk_exhausted(decoder.desk));
    assert_null(desk_next(decoder.desk));
    for (int place = 0; place < decoder.n_running; place++)
        atomic_store(&decoder.running[place]->finish, FINISH_CANCELLED);
    struct desk_counts counts = close_job(&decoder);
    assert_false(counts.all_read);
    int n_found = check_output(600, false);
    assert_int_equal(n_found, counts.results.n_answered + counts.results.n_failed);
    assert_true(n_found < 600);
    options.resume = true;
    open_job(&decoder, 8, 8);
    decode_all(&decoder);
    counts = close_job(&decoder);
    assert_int_equal(counts.results.n_kept, n_found);
    assert_int_equal(check_output(600, false), 600);
}

static void a_full_disk_is_told(void **state) {
    (void)state;
    struct decoder decoder;
    struct rlimit before, limit;
    write_input(600);
    open_job(&decoder, 8, 8);
    getrlimit(RLIMIT_FSIZE, &before);
    limit = before;
    limit.rlim_cur = 5000;
    setrlimit(RLIMIT_FSIZE, &limit);
    struct deadline deadline = clock_deadline(60);
    while (!desk_failed(decoder.desk, &fault)) {
        step(&decoder);
        assert_false(clock_expired(deadline));
    }
    setrlimit(RLIMIT_FSIZE, &before);
    assert_int_equal(fault.kind, FAULT_WORLD);
    assert_non_null(strstr(fault.text, "File too large"));
    struct desk_counts counts;
    struct fault again = {0};
    assert_false(desk_close(decoder.desk, &counts, &again));
    assert_string_equal(again.text, fault.text);
    results_close(results);
    int n_found = check_output(600, false);
    assert_true(n_found > 0);
    assert_int_equal(n_found, counts.results.n_answered + counts.results.n_failed);
    options.resume = true; /* and goes on when there is room again */
    fault = (struct fault){0};
    open_job(&decoder, 8, 8);
    decode_all(&decoder);
    close_job(&decoder);
    assert_int_equal(check_output(600, false), 600);
}

/* An input that goes away once it was looked at. */
static void a_missing_input_starts_nothing(void **state) {
    (void)state;
    struct desk *desk;
    write_input(1);
    assert_true(results_open(&results, &options, "0123456789abcdef0123456789abcdef", &fault));
    input[0] = "no/such/file";
    assert_false(desk_open(&desk, &rules, results, NULL, 1, &fault));
    assert_int_equal(fault.kind, FAULT_USER);
    results_close(results);
}

/* What was in flight is listed as it stands, is told as found, comes first, and goes on from there.
 */
static void what_is_in_flight_goes_on(void **state) {
    (void)state;
    struct decoder decoder;
    struct desk_kept kept;
    write_input(60);
    open_job(&decoder, 8, 8);
    while (decoder.n_running == 0)
        step(&decoder);
    const struct generation *first = decoder.running[0]; /* of three choices, the shortest */
    while (atomic_load(&first->finish) == FINISH_NONE)
        step(&decoder);
    assert_true(desk_keep(decoder.desk, &kept, 60));
    struct checkpoint_progress made = {.n_read = kept.n_read};
    made.choice = calloc((size_t)kept.n_choices, sizeof *made.choice);
    int n_running = 0, n_settled = 0; /* a cancelled one has said all that it is to say */
    for (int at = 0; at < kept.n_choices; at++) {
        const struct generation *generation = kept.generation[at];
        assert_int_equal(kept.choice[at].n_tokens, atomic_load(&generation->n_tokens));
        assert_memory_equal(kept.choice[at].token, generation->token,
                            (size_t)kept.choice[at].n_tokens * sizeof(int32_t));
        if (kept.choice[at].n_tokens == kept.choice[at].n_prompt) continue;
        made.choice[made.n_choices++] = kept.choice[at];
        bool settled =
            atomic_load(&generation->finish) != FINISH_NONE || atomic_load(&generation->cancelled);
        n_running += !settled;
        n_settled += settled;
    }
    assert_true(n_running <= decoder.n_running);
    assert_true(n_running > 0 && n_settled > 0);
    desk_stop(decoder.desk);
    struct desk_counts before = close_job(&decoder);
    options.resume = true;
    progress = &made;
    open_job(&decoder, 8, 8);
    int n_found = -1, n_queued = -1;
    assert_true(desk_restored(decoder.desk, &n_found, &n_queued, 60));
    assert_int_equal(n_found, made.n_choices);
    assert_int_equal(n_queued, n_running);
    for (int turn = 0; turn < n_running; turn++) {
        struct generation *generation = take(&decoder);
        assert_non_null(generation);
        assert_true(generation->restored);
        assert_int_equal(atomic_load(&generation->n_tokens),
                         made.choice[generation->saved].n_tokens);
        decoder.running[decoder.n_running++] = generation;
    }
    decode_all(&decoder);
    struct desk_counts after = close_job(&decoder);
    assert_int_equal(after.n_running, 0);
    assert_int_equal(before.results.n_answered + after.results.n_answered +
                         before.results.n_failed + after.results.n_failed,
                     60);
    assert_int_equal(check_output(60, false), 60);
    free(made.choice);
    desk_kept_close(&kept);
}

/* A request that was in flight and is in the inputs no more is not looked for to their end: what is
 * read stays in memory. */
static void what_is_gone_is_not_sought_for_ever(void **state) {
    (void)state;
    struct decoder decoder;
    int32_t token[] = {'x', 'y'};
    struct checkpoint_choice choice = {
        .body_hash = 1, .n_prompt = 1, .n_tokens = 2, .token = token};
    struct checkpoint_progress made = {.n_read = 20, .n_choices = 1, .choice = &choice};
    write_input(2000);
    progress = &made;
    open_job(&decoder, 8, 8);
    int n_found = -1, n_queued = -1;
    assert_true(desk_restored(decoder.desk, &n_found, &n_queued, 60));
    assert_int_equal(n_found, 0);
    assert_int_equal(n_queued, 0);
    assert_true(desk_counts(decoder.desk).n_read < 60);
    decode_all(&decoder);
    close_job(&decoder);
    assert_int_equal(check_output(2000, false), 2000);
}

/* With the signal blocked here too, it must stay pending: nobody else may take it. */
static void signals_are_for_the_main_thread(void **state) {
    (void)state;
    struct decoder decoder;
    sigset_t usr1, before, pending;
    write_input(20);
    signal(SIGUSR1, SIG_DFL); /* taking it would end the process */
    open_job(&decoder, 4, 4);
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &usr1, &before);
    kill(getpid(), SIGUSR1);
    decode_all(&decoder);
    close_job(&decoder);
    sigpending(&pending);
    assert_true(sigismember(&pending, SIGUSR1));
    signal(SIGUSR1, SIG_IGN);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

#define CASE(name) cmocka_unit_test_setup(name, reset)

int main(void) {
    const struct CMUnitTest tests[] = {
        CASE(every_request_is_answered_once),      CASE(the_input_order_can_be_kept),
        CASE(answers_held_back_are_bounded),       CASE(the_longest_can_come_first),
        CASE(a_slow_sync_does_not_starve_decode),  CASE(a_slow_input_delays_no_answer),
        CASE(a_stop_writes_what_is_finished),      CASE(a_full_disk_is_told),
        CASE(a_missing_input_starts_nothing),      CASE(what_is_in_flight_goes_on),
        CASE(what_is_gone_is_not_sought_for_ever), CASE(signals_are_for_the_main_thread),
    };
    log_setup(LOG_QUIET, false);
    signal(SIGXFSZ, SIG_IGN);
    sem_init(&sync_begun, 0, 0);
    sem_init(&sync_may_end, 0, 0);
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
