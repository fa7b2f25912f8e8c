/* Outputs are opened with care, survive kills and full disks, and tell a resume what is done. */
#include <fcntl.h>
#include <jansson.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "fake_text.h"
#include "job_file.h"
#include "output.h"
#include "results.h"
#include "scratch.h"

/* ---- what happens while the lock is waited for: this definition stands before the library's ----
 */

static void (*while_waiting)(void); /* once */

int usleep(useconds_t us) {
    void (*happens)(void) = while_waiting;
    while_waiting = NULL;
    if (happens) happens();
    return nanosleep(&(struct timespec){us / 1000000, us % 1000000 * 1000L}, NULL);
}

/* ---- in which order files become durable: these definitions too ---- */

static char durable[4096]; /* "sync NAME BYTES\n" and "rename NAME 0\n", since it was emptied */

static void note(const char *what, const char *path, long long n_bytes) {
    const char *slash = strrchr(path, '/');
    size_t n_noted = strlen(durable);
    snprintf(durable + n_noted, sizeof durable - n_noted, "%s %s %lld\n", what,
             slash ? slash + 1 : path, n_bytes);
}

int fsync(int fd) {
    char link[64], path[4096] = "";
    struct stat status;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (readlink(link, path, sizeof path - 1) > 0 && fstat(fd, &status) == 0)
        note("sync", path, S_ISREG(status.st_mode) ? status.st_size : 0);
    return (int)syscall(SYS_fsync, fd);
}

int rename(const char *old, const char *new) {
    note("rename", new, 0);
    return (int)syscall(SYS_rename, old, new);
}

/* ---- a job ---- */

static const char fingerprint[33] = "0123456789abcdef0123456789abcdef";
static struct options options;
static struct request_rules rules;
static const char *input[2];
static struct fault fault;

/* A path in the scratch folder that outlives a test. */
static const char *path_of(const char *name) {
    static char path[16][256];
    static unsigned next;
    return strcpy(path[next++ % 16], scratch_path(name));
}

static const char *put_file(const char *name, const char *text) {
    const char *path = path_of(name);
    assert_true(scratch_write(path, text, strlen(text)));
    return path;
}

/* Every test has names of its own in the folder. */
static int reset(void **state) {
    (void)state;
    static int number;
    static char name[4][32];
    snprintf(name[0], sizeof name[0], "%d.jsonl", ++number);
    snprintf(name[1], sizeof name[1], "%d.out", number);
    snprintf(name[2], sizeof name[2], "%d.err", number);
    snprintf(name[3], sizeof name[3], "%d.b.jsonl", number);
    options = fake_options();
    input[0] = put_file(name[0], "{\"prompt\":\"a\"}\n{\"prompt\":\"b\"}\n{\"prompt\":7}\n");
    input[1] = put_file(name[3], "");
    options.input = input;
    options.n_inputs = 1;
    options.output = path_of(name[1]);
    rules = (struct request_rules){
        .tokenizer = &fake_tokenizer,
        .chat_template = &fake_template,
        .options = &options,
        .context = 64,
        .kv_tokens = INT64_MAX,
        .model_name = "fake",
    };
    fault = (struct fault){0};
    return 0;
}

static void expect_fault(bool result, enum fault_kind kind, const char *fragment) {
    assert_false(result);
    assert_int_equal(fault.kind, kind);
    if (!strstr(fault.text, fragment)) fail_msg("\"%s\" does not say \"%s\"", fault.text, fragment);
    fault = (struct fault){0};
}

static struct results *open_results(void) {
    struct results *results;
    if (!results_open(&results, &options, fingerprint, &fault)) fail_msg("%s", fault.text);
    return results;
}

static void refuse_results(enum fault_kind kind, const char *fragment) {
    struct results *results;
    expect_fault(results_open(&results, &options, fingerprint, &fault), kind, fragment);
}

/* Read a line as the desk does and, unless it is answered, answer it with one token. */
static bool run_line(struct results *results, const char *text, int64_t number) {
    struct request request;
    struct input_line line = {
        .file = input[0], .line = number, .text = text, .n_bytes = strlen(text)};
    request_read(&request, &options, &line);
    bool answered = results_answered(results, &request, &fault);
    if (!answered) {
        request_prepare(&request, &rules);
        if (!request.refusal.refused) {
            struct generation *generation = request_begin(&request, 0);
            generation->token[generation->n_prompt] = FAKE_EOS;
            atomic_store(&generation->n_tokens, generation->n_prompt + 1);
            atomic_store(&generation->finish, FINISH_STOP);
            choice_follow(request.choice, &request, generation, &fake_tokenizer);
        }
        results_write(results, &request, &rules, &fault);
    }
    request_close(&request);
    return !answered;
}

static char *read_whole(const char *path) {
    static char text[1 << 16];
    FILE *file = fopen(path, "r");
    if (!file) return NULL;
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    return text;
}

static void holds(const char *path, const char *wanted) {
    const char *text = read_whole(path);
    if (!text) fail_msg("%s is not there", path);
    assert_string_equal(text, wanted);
}

static int n_lines(const char *path) {
    int n = 0;
    for (const char *at = read_whole(path); at && (at = strchr(at, '\n')); at++)
        n++;
    return n;
}

static void append_to(const char *path, const char *text) {
    FILE *file = fopen(path, "a");
    fputs(text, file);
    fclose(file);
}

static const char *job_path(void) {
    static char path[300];
    snprintf(path, sizeof path, "%s.job.json", options.output);
    return path;
}

/* The job's name for itself, as OUT.job.json has it. */
static void read_uuid(char uuid[37]) {
    json_t *record = json_load_file(job_path(), 0, NULL);
    const char *text = json_string_value(json_object_get(record, "uuid"));
    if (!text || strlen(text) != 36) fail_msg("%s has no uuid", job_path());
    strcpy(uuid, text);
    json_decref(record);
}

/* ---- opening ---- */

static void an_existing_output_is_not_touched(void **state) {
    (void)state;
    append_to(options.output, "mine\n");
    refuse_results(FAULT_USER, "exists: --resume continues it, --overwrite replaces it");
    assert_string_equal(read_whole(options.output), "mine\n");
    assert_null(read_whole(job_path()));
    options.resume = true;
    refuse_results(FAULT_USER, "which says what the answers were made with, is not there");
    assert_string_equal(read_whole(options.output), "mine\n");
    assert_null(read_whole(job_path()));
    options.overwrite = true;
    options.resume = false;
    results_close(open_results());
    assert_string_equal(read_whole(options.output), "");
}

static void answers_outlive_a_missing_input(void **state) {
    (void)state;
    const char *missing[] = {input[0], path_of("mistyped.jsonl")};
    append_to(options.output, "answers\n");
    options.overwrite = true;
    options.input = missing;
    options.n_inputs = 2;
    refuse_results(FAULT_USER, "mistyped.jsonl: No such file or directory");
    assert_string_equal(read_whole(options.output), "answers\n");
    options.output = path_of("fresh.jsonl");
    refuse_results(FAULT_USER, "mistyped.jsonl: No such file or directory");
    assert_null(read_whole(options.output));
    assert_null(read_whole(job_path()));
}

static void outputs_are_not_inputs(void **state) {
    (void)state;
    const char *link_name = path_of("link.jsonl");
    assert_int_equal(link(input[0], link_name), 0);
    options.output = link_name;
    options.overwrite = true;
    refuse_results(FAULT_USER, "is the same file as the input");
    options.model = link_name;
    options.n_inputs = 0;
    refuse_results(FAULT_USER, "is the same file as the model");
    assert_int_equal(unlink(link_name), 0);
    options.model = NULL;
    options.output = input[1];
    options.errors = input[1];
    refuse_results(FAULT_USER, "--errors is the same file as the output");
}

static void places_that_cannot_be(void **state) {
    (void)state;
    options.output = scratch_folder;
    refuse_results(FAULT_USER, "Is a directory");
    options.output = "no/such/folder/out";
    refuse_results(FAULT_USER, "No such file or directory");
    options.output = path_of("fine");
    options.errors = "no/such/folder/err";
    refuse_results(FAULT_USER, "No such file or directory");
    assert_null(read_whole(options.output)); /* nothing is left behind */
    assert_null(read_whole(job_path()));
}

static void streams_cannot_be_resumed(void **state) {
    (void)state;
    static const char *const dash[] = {"-"};
    options.resume = true;
    options.output = "-";
    refuse_results(FAULT_USER, "--resume cannot continue -, which is not a file");
    options.output = "/dev/null";
    refuse_results(FAULT_USER, "--resume cannot continue /dev/null, which is not a file");
    options.output = path_of("o");
    options.errors = "/dev/null";
    refuse_results(FAULT_USER, "--resume cannot continue /dev/null, which is not a file");
    options.errors = NULL;
    options.input = dash;
    refuse_results(FAULT_USER, "--resume needs files: input - cannot be read again");
    static const char *pipes[2];
    pipes[0] = input[0];
    pipes[1] = path_of("pipe");
    assert_int_equal(mkfifo(pipes[1], 0600), 0);
    options.input = pipes;
    options.n_inputs = 2;
    refuse_results(FAULT_USER, "pipe cannot be read again");
    assert_null(read_whole(options.output));
}

static void files_get_the_umasks_mode(void **state) {
    (void)state;
    mode_t before = umask(027);
    results_close(open_results());
    umask(before);
    struct stat status;
    assert_int_equal(stat(options.output, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0640);
    assert_int_equal(stat(job_path(), &status), 0);
    assert_int_equal(status.st_mode & 0777, 0640);
}

/* After a power loss: no answers, or answers under their own record. */
static void an_output_is_emptied_before_its_record_changes(void **state) {
    (void)state;
    options.errors = path_of("emptied.err");
    struct results *results = open_results();
    run_line(results, "{\"custom_id\":\"a\",\"prompt\":\"x\"}", 1);
    run_line(results, "{\"custom_id\":\"b\",\"prompt\":7}", 2);
    results_close(results);
    options.overwrite = true;
    durable[0] = 0;
    results_close(open_results());
    char expected[2][256];
    snprintf(expected[0], sizeof expected[0], "sync %s 0\nsync emptied.err 0\n",
             strrchr(options.output, '/') + 1);
    snprintf(expected[1], sizeof expected[1], "rename %s 0\n", strrchr(job_path(), '/') + 1);
    const char *emptied = strstr(durable, expected[0]), *renamed = strstr(durable, expected[1]);
    if (!emptied || !renamed || renamed < emptied) fail_msg("the order was:\n%s", durable);
}

/* ---- resuming ---- */

static void a_resume_knows_what_is_answered(void **state) {
    (void)state;
    struct results *results = open_results();
    char uuid[37], uuid_now[37];
    read_uuid(uuid);
    assert_true(run_line(results, "{\"custom_id\":\"a\",\"prompt\":\"x\"}", 1));
    assert_true(run_line(results, "{\"custom_id\":\"b\",\"prompt\":7}", 2));
    assert_true(run_line(results, "{", 3));
    assert_int_equal(results_counts(results).n_answered, 1);
    assert_int_equal(results_counts(results).n_failed, 2);
    results_close(results);
    options.resume = true;
    results = open_results();
    read_uuid(uuid_now);
    assert_string_equal(uuid_now, uuid);
    assert_false(run_line(results, "{\"custom_id\":\"a\",\"prompt\":\"changed\"}", 1));
    assert_false(run_line(results, "{\"custom_id\":\"b\",\"prompt\":7}", 2));
    assert_false(run_line(results, "{", 3));
    assert_true(run_line(results, "{", 4));
    assert_true(run_line(results, "{\"custom_id\":\"c\",\"prompt\":\"x\"}", 5));
    struct result_counts counts = results_counts(results);
    assert_int_equal(counts.n_kept, 3);
    assert_int_equal(counts.n_kept_failed, 2);
    assert_int_equal(counts.n_changed, 1);
    results_close(results);
    assert_int_equal(n_lines(options.output), 5);
}

static void strict_refuses_changed_requests(void **state) {
    (void)state;
    struct results *results = open_results();
    run_line(results, "{\"custom_id\":\"a\",\"prompt\":\"x\"}", 1);
    results_close(results);
    options.resume = options.strict = true;
    results = open_results();
    run_line(results, "{\"custom_id\":\"a\",\"prompt\":\"y\"}", 4);
    expect_fault(false, FAULT_USER, ":4: request a has changed since it was answered (--strict)");
    results_close(results);
}

static void each_id_appears_once(void **state) {
    (void)state;
    struct results *results = open_results();
    run_line(results, "{\"custom_id\":\"a\",\"prompt\":\"x\"}", 1);
    run_line(results, "{\"custom_id\":\"a\",\"prompt\":\"x\"}", 2);
    run_line(results, "{\"custom_id\":\"a\",\"prompt\":\"x", 3);
    results_close(results);
    const char *text = read_whole(options.output);
    const char *id = strstr(text, "\"custom_id\":\"a\"");
    assert_non_null(id);
    assert_null(strstr(id + 1, "\"custom_id\":\"a\""));
    assert_non_null(strstr(text, ":2: custom_id \\\"a\\\" is that of an earlier request"));
    options.resume = true;
    results = open_results();
    assert_false(run_line(results, "{\"custom_id\":\"a\",\"prompt\":\"x\"}", 1));
    assert_false(run_line(results, "{\"custom_id\":\"a\",\"prompt\":\"x\"}", 2));
    assert_false(run_line(results, "{\"custom_id\":\"a\",\"prompt\":\"x", 3));
    results_close(results);
    assert_int_equal(n_lines(options.output), 3);
}

static void a_torn_line_is_cut_off(void **state) {
    (void)state;
    struct results *results = open_results();
    run_line(results, "{\"custom_id\":\"a\",\"prompt\":\"x\"}", 1);
    run_line(results, "{\"custom_id\":\"b\",\"prompt\":\"x\"}", 2);
    results_close(results);
    char whole[4096];
    strcpy(whole, read_whole(options.output));
    size_t n_first = strcspn(whole, "\n") + 1, n_whole = strlen(whole);
    options.resume = true;
    for (size_t n_left = n_first; n_left <= n_whole; n_left++) { /* a kill at every byte */
        assert_int_equal(truncate(options.output, (off_t)n_left), 0);
        results = open_results();
        assert_int_equal(strlen(read_whole(options.output)), n_left == n_whole ? n_whole : n_first);
        assert_false(run_line(results, "{\"custom_id\":\"a\",\"prompt\":\"x\"}", 1));
        assert_int_equal(run_line(results, "{\"custom_id\":\"b\",\"prompt\":\"x\"}", 2),
                         n_left < n_whole);
        results_close(results);
        assert_int_equal(n_lines(options.output), 2);
    }
    /* What a power failure leaves: whole lines of garbage behind the answers are cut too; before
     * answers they are not ours to judge. */
    append_to(options.output, "garbage\n{}\n");
    results_close(open_results());
    assert_int_equal(n_lines(options.output), 2);
    append_to(options.output, "garbage\n");
    append_to(options.output, whole);
    refuse_results(FAULT_USER, ":3: not an answer of lamina, though answers follow");
    assert_int_equal(n_lines(options.output), 5);
}

static void failed_requests_can_be_run_again(void **state) {
    (void)state;
    struct results *results = open_results();
    run_line(results, "{\"custom_id\":\"a\",\"prompt\":7}", 1);
    run_line(results, "{\"custom_id\":\"b\",\"prompt\":\"x\"}", 2);
    run_line(results, "{", 3);
    results_close(results);
    options.resume = options.retry_failed = true;
    results = open_results();
    assert_int_equal(n_lines(options.output), 1);
    assert_true(run_line(results, "{\"custom_id\":\"a\",\"prompt\":\"now good\"}", 1));
    assert_false(run_line(results, "{\"custom_id\":\"b\",\"prompt\":\"x\"}", 2));
    assert_true(run_line(results, "{", 3));
    results_close(results);
    assert_int_equal(n_lines(options.output), 3);
    options.retry_failed = false;
    results = open_results();
    assert_false(run_line(results, "{\"custom_id\":\"a\",\"prompt\":\"now good\"}", 1));
    assert_int_equal(results_counts(results).n_changed, 0);
    results_close(results);
}

static void errors_have_their_own_file(void **state) {
    (void)state;
    options.errors = path_of("errors");
    struct results *results = open_results();
    run_line(results, "{\"custom_id\":\"a\",\"prompt\":7}", 1);
    run_line(results, "{\"custom_id\":\"b\",\"prompt\":\"x\"}", 2);
    results_close(results);
    assert_int_equal(n_lines(options.output), 1);
    assert_int_equal(n_lines(options.errors), 1);
    options.resume = true;
    results = open_results();
    assert_false(run_line(results, "{\"custom_id\":\"a\",\"prompt\":7}", 1));
    assert_false(run_line(results, "{\"custom_id\":\"b\",\"prompt\":\"x\"}", 2));
    results_close(results);
    options.retry_failed = true;
    results = open_results();
    assert_int_equal(n_lines(options.errors), 0);
    assert_true(run_line(results, "{\"custom_id\":\"a\",\"prompt\":\"good\"}", 1));
    results_close(results);
    assert_int_equal(n_lines(options.output), 2);
    options.errors = NULL;
    options.retry_failed = false;
    refuse_results(FAULT_USER, "errors was \"");
}

static void a_different_job_is_named(void **state) {
    (void)state;
    struct results *results = open_results();
    run_line(results, "{\"custom_id\":\"a\",\"prompt\":\"x\"}", 1);
    results_close(results);
    char before[8192];
    strcpy(before, read_whole(job_path()));
    options.resume = true;
    options.temperature = 0.5f;
    refuse_results(FAULT_USER, "--temperature was 0.0 and is now 0.5");
    options.temperature = 0;
    options.kv_type = KV_F32;
    refuse_results(FAULT_USER, "--kv-type was \"f16\" and is now \"f32\"");
    options.kv_type = KV_F16;
    options.seed = UINT64_MAX;
    refuse_results(FAULT_USER, "--seed was \"0\" and is now \"18446744073709551615\"");
    options.seed = 0;
    options.system = "\x1b[2J";
    refuse_results(FAULT_USER, "--system was not given and is now ");
    options.system = NULL;
    options.n_inputs = 2;
    refuse_results(FAULT_USER, "the number of inputs was 1 and is now 2");
    options.n_inputs = 1;
    input[0] = input[1];
    refuse_results(FAULT_USER, "input 1 was \"");
    assert_string_equal(read_whole(job_path()), before); /* refusing changes nothing */
}

static void another_model_is_named(void **state) {
    (void)state;
    struct results *results = open_results();
    run_line(results, "{\"custom_id\":\"a\",\"prompt\":\"x\"}", 1);
    results_close(results);
    options.resume = true;
    expect_fault(results_open(&results, &options, "ffffffffffffffffffffffffffffffff", &fault),
                 FAULT_USER,
                 "model was \"0123456789abcdef0123456789abcdef\" and is now \"ffffffffffffffff");
    options.threads = 7; /* the layout may differ freely */
    options.slots = 2;
    append_to(input[0], "{\"prompt\":\"new\"}\n"); /* and inputs may grow */
    results_close(open_results());
}

/* A job that was killed before its first answer: with another temperature it is another job. */
static void without_answers_a_resume_starts_fresh(void **state) {
    (void)state;
    options.resume = true;
    struct results *results = open_results();
    char uuid[37], uuid_now[37];
    read_uuid(uuid);
    results_close(results);
    results = open_results();
    read_uuid(uuid_now);
    assert_string_equal(uuid_now, uuid);
    results_close(results);
    options.temperature = 1;
    results = open_results();
    read_uuid(uuid_now);
    assert_string_not_equal(uuid_now, uuid);
    results_close(results);
    assert_int_equal(truncate(job_path(), 10), 0);
    results_close(open_results());
}

static void all_answered_is_known_without_the_model(void **state) {
    (void)state;
    struct results *results = open_results();
    bool all = true;
    assert_true(results_all_answered(results, &all, &fault));
    assert_false(all);
    run_line(results, "{\"prompt\":\"a\"}", 1);
    run_line(results, "{\"prompt\":\"b\"}", 2);
    results_close(results);
    options.resume = true;
    results = open_results();
    assert_true(results_all_answered(results, &all, &fault));
    assert_false(all);
    assert_int_equal(results_counts(results).n_kept, 0);
    assert_false(run_line(results, "{\"prompt\":\"a\"}", 1)); /* not taken for a duplicate */
    assert_true(run_line(results, "{\"prompt\":7}", 3));
    results_close(results);
    results = open_results();
    assert_true(results_all_answered(results, &all, &fault));
    assert_true(all);
    assert_int_equal(results_counts(results).n_kept, 3);
    assert_int_equal(results_counts(results).n_kept_failed, 1);
    results_close(results);
}

/* ---- the lock ---- */

static void a_second_job_names_the_holder(void **state) {
    (void)state;
    struct results *results = open_results();
    struct job_file job;
    char expected[256], host[128];
    gethostname(host, sizeof host);
    snprintf(expected, sizeof expected, "is held by process %d on %s since 2", getpid(), host);
    expect_fault(job_file_open(&job, options.output, 0.2, &fault), FAULT_WORLD, expected);
    results_close(results);
    assert_true(job_file_open(&job, options.output, 0.2, &fault));
    job_file_close(&job);
}

/* The holder is killed while the second job waits: the lock passes on at once. */
static void a_lock_ends_with_its_process(void **state) {
    (void)state;
    int ready[2];
    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    if (child == 0) {
        struct results *results;
        if (!results_open(&results, &options, fingerprint, &fault)) _exit(1);
        if (write(ready[1], "x", 1) != 1) _exit(1);
        for (;;)
            pause();
    }
    char byte;
    assert_int_equal(read(ready[0], &byte, 1), 1);
    pid_t killer = fork();
    if (killer == 0) {
        usleep(300000);
        kill(child, SIGKILL);
        _exit(0);
    }
    options.resume = true;
    results_close(open_results());
    int status;
    waitpid(child, &status, 0);
    assert_true(WIFSIGNALED(status));
    waitpid(killer, &status, 0);
    close(ready[0]);
    close(ready[1]);
}

static struct job_file holder;
static const char *aside; /* what comes to be the output while the lock is waited for */

static void output_comes(void) {
    if (rename(aside, options.output) == 0) job_file_close(&holder);
}

/* A job whose output is not there takes the lock; what comes with its end is somebody's answers. */
static void answers_that_came_while_waiting_stay(void **state) {
    (void)state;
    struct results *results = open_results();
    run_line(results, "{\"custom_id\":\"a\",\"prompt\":\"x\"}", 1);
    results_close(results);
    char answers[4096];
    strcpy(answers, read_whole(options.output));
    aside = path_of("aside");
    static const struct {
        bool resume;
        uint64_t seed;
        const char *reason;
    } late[] = {{true, 7, "--seed was \"0\" and is now \"7\""},
                {false, 0, "exists: --resume continues it, --overwrite replaces it"}};
    for (size_t at = 0; at < sizeof late / sizeof *late; at++) {
        assert_int_equal(rename(options.output, aside), 0);
        assert_true(job_file_open(&holder, options.output, 0, &fault));
        options.resume = late[at].resume;
        options.seed = late[at].seed;
        while_waiting = output_comes;
        refuse_results(FAULT_USER, late[at].reason);
        assert_null(while_waiting);
        holds(options.output, answers);
        assert_non_null(read_whole(job_path()));
    }
}

/* And what came may be the input under another name. */
static void an_input_that_came_while_waiting_stays(void **state) {
    (void)state;
    aside = path_of("aside");
    assert_int_equal(link(input[0], aside), 0);
    assert_true(job_file_open(&holder, options.output, 0, &fault));
    options.overwrite = true;
    while_waiting = output_comes;
    refuse_results(FAULT_USER, "is the same file as the input");
    assert_int_equal(n_lines(input[0]), 3);
}

/* A program without lamina's lock makes the file at the last moment. */
static void what_others_made_is_not_taken_away(void **state) {
    (void)state;
    struct output output;
    assert_true(output_find(&output, options.output, &fault));
    append_to(options.output, "mine\n");
    expect_fault(output_open(&output, true, &fault), FAULT_USER, "File exists");
    output_discard(&output);
    assert_true(output_find(&output, path_of("new"), &fault));
    append_to(path_of("new"), "mine\n");
    assert_true(output_open(&output, false, &fault));
    output_discard(&output);
    holds(options.output, "mine\n");
    holds(path_of("new"), "mine\n");
    assert_true(output_find(&output, path_of("newer"), &fault));
    assert_true(output_open(&output, false, &fault));
    output_discard(&output);
    assert_null(read_whole(path_of("newer")));
}

static void the_job_file_follows_no_link(void **state) {
    (void)state;
    const char *target = put_file("target", "keep");
    assert_int_equal(symlink(strrchr(target, '/') + 1, job_path()), 0);
    refuse_results(FAULT_USER, "Too many levels of symbolic links");
    assert_string_equal(read_whole(target), "keep");
}

/* ---- failing ---- */

/* A file size limit stands for a full disk: the write comes back short, then fails. */
static void a_full_disk_leaves_whole_lines(void **state) {
    (void)state;
    struct results *results = open_results();
    run_line(results, "{\"custom_id\":\"a\",\"prompt\":\"x\"}", 1);
    assert_int_equal(fault.kind, FAULT_NONE);
    char whole[4096];
    strcpy(whole, read_whole(options.output));
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit before, limit;
    getrlimit(RLIMIT_FSIZE, &before);
    limit = before;
    limit.rlim_cur = strlen(whole) + 20;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    run_line(results, "{\"custom_id\":\"b\",\"prompt\":\"x\"}", 2);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    expect_fault(false, FAULT_WORLD, "File too large; the answers in it are whole");
    assert_string_equal(read_whole(options.output), whole);
    results_close(results);
}

static void a_closed_pipe_is_the_worlds(void **state) {
    (void)state;
    int out[2], saved = dup(STDOUT_FILENO);
    assert_int_equal(pipe(out), 0);
    signal(SIGPIPE, SIG_IGN);
    fflush(stdout);
    dup2(out[1], STDOUT_FILENO);
    close(out[1]);
    options.output = "-";
    struct results *results = open_results();
    run_line(results, "{\"custom_id\":\"a\",\"prompt\":\"x\"}", 1);
    enum fault_kind kind_open = fault.kind;
    close(out[0]);
    run_line(results, "{\"custom_id\":\"b\",\"prompt\":\"x\"}", 2);
    results_close(results);
    dup2(saved, STDOUT_FILENO);
    close(saved);
    assert_int_equal(kind_open, FAULT_NONE);
    expect_fault(false, FAULT_WORLD, "cannot write to stdout: Broken pipe");
    assert_null(read_whole("stdout.job.json"));
}

static void devices_are_streams(void **state) {
    (void)state;
    options.output = "/dev/full";
    struct results *results = open_results();
    run_line(results, "{\"custom_id\":\"a\",\"prompt\":\"x\"}", 1);
    expect_fault(false, FAULT_WORLD, "cannot write to /dev/full: No space left on device");
    results_close(results);
}

#define CASE(name) cmocka_unit_test_setup(name, reset)

int main(void) {
    const struct CMUnitTest tests[] = {
        CASE(an_existing_output_is_not_touched),
        CASE(answers_outlive_a_missing_input),
        CASE(outputs_are_not_inputs),
        CASE(places_that_cannot_be),
        CASE(streams_cannot_be_resumed),
        CASE(files_get_the_umasks_mode),
        CASE(an_output_is_emptied_before_its_record_changes),
        CASE(a_resume_knows_what_is_answered),
        CASE(strict_refuses_changed_requests),
        CASE(each_id_appears_once),
        CASE(a_torn_line_is_cut_off),
        CASE(failed_requests_can_be_run_again),
        CASE(errors_have_their_own_file),
        CASE(a_different_job_is_named),
        CASE(another_model_is_named),
        CASE(without_answers_a_resume_starts_fresh),
        CASE(all_answered_is_known_without_the_model),
        CASE(a_second_job_names_the_holder),
        CASE(a_lock_ends_with_its_process),
        CASE(answers_that_came_while_waiting_stay),
        CASE(an_input_that_came_while_waiting_stays),
        CASE(what_others_made_is_not_taken_away),
        CASE(the_job_file_follows_no_link),
        CASE(a_full_disk_leaves_whole_lines),
        CASE(a_closed_pipe_is_the_worlds),
        CASE(devices_are_streams),
    };
    log_setup(LOG_QUIET, false);
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
