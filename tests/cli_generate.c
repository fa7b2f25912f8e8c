/* What `lamina generate` says: start lines, summary, status file, last lines, dry run, silence and
 * JSON, on one process and on three ranks, with a made model.
 *
 *   cli_generate LAMINA MPIEXEC
 *
 * Prompts are token ids and answers have fixed lengths, so that tokens, rows and bytes of messages
 * are known beforehand: 9 heads on 3 KV heads of 40 (make_gguf_default).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <jansson.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"

enum { N_REQUESTS = 12, N_NEW = 40 };

static void last_line_says(const char *wanted) {
    size_t n_bytes = strlen(said);
    assert_true(n_bytes > 0 && said[n_bytes - 1] == '\n');
    said[n_bytes - 1] = 0;
    const char *line = strrchr(said, '\n');
    line = line ? line + 1 : said;
    if (!strstr(line, wanted)) fail_msg("the last line is '%s', without '%s'", line, wanted);
    said[n_bytes - 1] = '\n';
}

/* The number behind the first `label`. */
static double number_after(const char *text, const char *label) {
    const char *at = strstr(text, label);
    if (!at) fail_msg("no '%s' in:\n%s", label, text);
    return strtod(at + strlen(label), NULL);
}

/* ---- inputs -----------------------------------------------------------------------------------
 */

static int prompt_tokens(int request) {
    return 3 + 17 * request;
}

static int all_prompt_tokens(void) {
    int n = 0;
    for (int request = 0; request < N_REQUESTS; request++)
        n += prompt_tokens(request);
    return n;
}

static void write_request(FILE *file, int request) {
    write_prompt(file, request, prompt_tokens(request), N_NEW);
}

static int make_inputs(void **state) {
    if (cli_open(state) != 0) return -1;
    FILE *good = fopen(scratch_path("good.jsonl"), "w");
    FILE *bad = fopen(scratch_path("bad.jsonl"), "w");
    FILE *growing = fopen(scratch_path("growing.jsonl"), "w");
    if (!good || !bad || !growing) return -1;
    for (int request = 0; request < 6; request++) /* from one page to four */
        write_prompt(growing, request, 10, 200);
    for (int request = 0; request < N_REQUESTS; request++)
        write_request(good, request);
    write_request(bad, 0);
    fprintf(bad, "not json\n");
    write_request(bad, 1);
    write_request(bad, 1);
    fprintf(bad, "{\"prompt\":[1],\"max_tokens\":100000}\n");
    return fclose(good) | fclose(bad) | fclose(growing);
}

/* ---- what is said -----------------------------------------------------------------------------
 */

static void totals_are_right(void) {
    assert_float_equal(number_after(said, "Successful requests:"), N_REQUESTS, 0);
    assert_float_equal(number_after(said, "Failed requests:"), 0, 0);
    assert_float_equal(number_after(said, "Total input tokens:"), all_prompt_tokens(), 0);
    assert_float_equal(number_after(said, "Total generated tokens:"), N_REQUESTS * N_NEW, 0);
    double seconds = number_after(said, "Benchmark duration (s):");
    double per_s = number_after(said, "Output token throughput (tok/s):");
    assert_true(per_s * (seconds - 0.01) < N_REQUESTS * N_NEW + 1);
    assert_true((per_s + 0.01) * (seconds + 0.01) > N_REQUESTS * N_NEW - 1);
    static const char *const metric[] = {"TTFT", "TPOT", "E2EL"};
    for (int at = 0; at < 3; at++) {
        char label[3][32];
        snprintf(label[0], sizeof label[0], "Median %s (ms):", metric[at]);
        snprintf(label[1], sizeof label[1], "P90 %s (ms):", metric[at]);
        snprintf(label[2], sizeof label[2], "P99 %s (ms):", metric[at]);
        double median = number_after(said, label[0]), p90 = number_after(said, label[1]);
        assert_true(median > 0 && median <= p90 && p90 <= number_after(said, label[2]));
    }
    says(said, "Mean TPOT (ms):");
    says(said, "Time by role");
}

static void one_process_says_what_it_does(void **state) {
    (void)state;
    assert_int_equal(generate(1, "-i good.jsonl -o one.jsonl --max-batch 4 --kv-type f32"), 0);
    says(said, "rank  role");
    says(said, "layout: 1 model + 0 attention = 1 rank, colocated");
    says(said, "slots: 1 (default");
    says(said, "max-batch: 4 sequences a slot (--max-batch)");
    says(said, "max-rows: 256 rows a slot and step (default");
    says(said, "context: 2048 tokens (the model's)");
    says(said, "kv-type: f32");
    says(said, "wire: none");
    says(said, "KV budget: 128 pages of 64 tokens = 8192 tokens an owner"); /* 4 of 2048 */
    says(said, "  1 OMP_NUM_THREADS  ");                                    /* in the table */
    says(said, "threads: rank 0: 1 each (OMP_NUM_THREADS)");
    says(said, "memory: rank 0:");
    totals_are_right();
    assert_float_equal(number_after(said, "Preemptions:"), 0, 0);
    last_line_says("done: the answers are in one.jsonl; to read them: jq -r '");
}

/* Bytes of a message a row and layer, from the last column of its line. */
static double bytes_a_row(const char *message) {
    char label[32];
    double count, bytes, layer, row;
    snprintf(label, sizeof label, "lamina: %-8s ", message);
    const char *line = strstr(said, label);
    if (!line) fail_msg("no line of %s", message);
    assert_int_equal(sscanf(line + strlen(label), "%lf %lf %lf %lf", &count, &bytes, &layer, &row),
                     4);
    assert_float_equal(layer * 3, bytes, 1.5); /* of 3 layers */
    return row;
}

static void three_ranks_say_what_they_do(void **state) {
    (void)state;
    assert_int_equal(generate(3, "-i good.jsonl -o three.jsonl --max-batch 4 --max-rows 64"), 0);
    says(said, "layout: 1 model + 2 attention = 3 ranks");
    says(said, "partition: heads=2,sequences=1: 2 x 1 = 2 attention ranks");
    says(said, "KV heads 0-1\n");
    says(said, "KV head 2\n");
    says(said, "slots: 2 (default");
    says(said, "wire: mpi");
    says(said, "q-first: on");
    says(said, "prefill: on the attention ranks");
    totals_are_right();
    assert_float_equal(bytes_a_row("Q"), 9 * 40 * 4, 0.05);
    assert_float_equal(bytes_a_row("KV"), 3 * 40 * 2 * 2, 0.05);
    assert_float_equal(bytes_a_row("OUT"), 9 * 40 * 4, 0.05);
    says(said, "gather OUT");
    says(said, "append KV");
    last_line_says("done: the answers are in three.jsonl");
}

static void preemption_is_counted(void **state) {
    (void)state;
    assert_int_equal(generate(1, "-i growing.jsonl -o few.jsonl --max-batch 8 --kv-tokens 384"), 0);
    says(said, "KV budget: 6 pages of 64 tokens = 384 tokens an owner, 384 in all over 1 owner "
               "(--kv-tokens)");
    assert_true(number_after(said, "Preemptions:") > 0);
    assert_true(number_after(said, "Rows recomputed after preemption:") > 0);
    /* what is computed again is no input, and is generated once */
    assert_float_equal(number_after(said, "Total input tokens:"), 6 * 10, 0);
    assert_float_equal(number_after(said, "Total generated tokens:"), 6 * 200, 0);
    says(said, "6 of 6\n"); /* the peak */
}

static int64_t int_at(const json_t *object, const char *key, const char *member) {
    const json_t *value = json_object_get(object, key);
    if (member) value = json_object_get(value, member);
    if (!json_is_integer(value)) fail_msg("%s %s is no integer", key, member ? member : "");
    return json_integer_value(value);
}

static void status_is_left_behind(void **state) {
    (void)state;
    assert_int_equal(generate(3, "-i good.jsonl -o s.jsonl --status status.json"), 0);
    json_t *status = load("status.json");
    assert_string_equal(json_string_value(json_object_get(status, "state")), "done");
    assert_int_equal(int_at(status, "exit_code", NULL), 0);
    assert_int_equal(int_at(status, "request_counts", "total"), N_REQUESTS);
    assert_int_equal(int_at(status, "request_counts", "completed"), N_REQUESTS);
    assert_int_equal(int_at(status, "output_tokens", NULL), N_REQUESTS * N_NEW);
    assert_int_equal(int_at(status, "running", NULL), 0);
    json_decref(status);
    /* a place that cannot be is found before the output is made */
    assert_int_equal(generate(1, "-i good.jsonl -o none.jsonl --status no-folder/s"), 2);
    assert_int_equal(access(scratch_path("none.jsonl"), F_OK), -1);
    assert_int_equal(generate(1, "-i good.jsonl -o none.jsonl --timeline model.gguf"), 2);
    assert_int_equal(access(scratch_path("none.jsonl"), F_OK), -1);
}

static void last_lines_say_what_to_do_next(void **state) {
    (void)state;
    assert_int_equal(generate(1, "-i bad.jsonl -o bad.out"), 3);
    assert_float_equal(number_after(said, "Failed requests:"), 3, 0);
    last_line_says("3 requests failed; for the reasons: jq -r '");
    last_line_says("bad.out; when they are cured, the same command with --resume --retry-failed");
    assert_int_equal(generate(1, "-i bad.jsonl -o bad.out --resume"), 3);
    says(said, "nothing left to do: all 5 requests");
    last_line_says("the same command with --retry-failed");
    assert_int_equal(generate(1, "-i good.jsonl -o again.jsonl"), 0);
    assert_int_equal(generate(1, "-i good.jsonl -o again.jsonl --resume --status r.json"), 0);
    says(said, "nothing left to do: all 12 requests");
    last_line_says("done: the answers are in again.jsonl");
    json_t *status = load("r.json");
    assert_string_equal(json_string_value(json_object_get(status, "state")), "done");
    assert_int_equal(int_at(status, "request_counts", "answered_before"), N_REQUESTS);
    json_decref(status);
    assert_int_equal(generate(1, "-i good.jsonl -o -"), 0);
    last_line_says("done: the answers went to standard output");
}

/* ---- stopping: the input is a pipe that stays open, so that the run cannot end by itself ------
 */

static bool status_has_answers(int wanted) {
    json_t *status = json_load_file(scratch_path("stop.json"), 0, NULL);
    bool has = status && int_at(status, "request_counts", "completed") >= wanted;
    json_decref(status);
    return has;
}

static void a_stopped_run_says_how_to_go_on(void **state) {
    (void)state;
    assert_int_equal(mkfifo(scratch_path("pipe.jsonl"), 0600), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        if (chdir(scratch_folder) != 0 || !freopen("err", "w", stderr)) _exit(99);
        execl(lamina, lamina, "generate", "-m", "model.gguf", "-i", "pipe.jsonl", "-o",
              "stop.jsonl", "--status", "stop.json", "--progress-interval", "0.05s", (char *)NULL);
        _exit(99);
    }
    FILE *pipe = fopen(scratch_path("pipe.jsonl"), "w"); /* waits for the reader */
    assert_non_null(pipe);
    write_request(pipe, 0);
    write_request(pipe, 1);
    fflush(pipe);
    for (int look = 0; look < 1200 && !status_has_answers(2); look++)
        nanosleep(&(struct timespec){0, 50000000}, NULL);
    assert_true(status_has_answers(2));
    assert_int_equal(kill(pid, SIGUSR1), 0);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    fclose(pipe);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 75);
    free(said);
    said = read_text("err");
    says(said, "2 done, 0 failed of 2 read so far");
    says(said, "ETA unknown: the input is still being read");
    last_line_says("stopped early with 2 requests done and the input not read to its end; requests "
                   "from a pipe cannot be read again: use -i FILE");
    json_t *left = load("stop.json");
    assert_string_equal(json_string_value(json_object_get(left, "state")), "stopped");
    assert_int_equal(int_at(left, "exit_code", NULL), 75);
    json_decref(left);
}

/* ---- silence, and JSON ------------------------------------------------------------------------
 */

static void quiet_says_nothing(void **state) {
    (void)state;
    assert_int_equal(generate(1, "-i good.jsonl -o q.jsonl --quiet"), 0);
    assert_string_equal(said, "");
    assert_int_equal(generate(3, "-i good.jsonl -o q.jsonl --overwrite --quiet"), 0);
    assert_string_equal(said, "");
    assert_int_equal(generate(1, "-i good.jsonl -o q.jsonl --resume --quiet"), 0);
    assert_string_equal(said, "");
    assert_int_equal(generate(1, "-i bad.jsonl --dry-run --quiet"), 3);
    assert_string_equal(said, "");
    int n_lines = 0; /* the bad ones and no more */
    for (const char *at = printed; (at = strchr(at, '\n')); at++)
        n_lines++;
    assert_int_equal(n_lines, 3);
    assert_int_equal(generate(1, "-i good.jsonl -o q.jsonl --quiet"), 2); /* but errors are said */
    says(said, "q.jsonl exists");
}

static void every_line_is_json(int n_wanted) {
    int n_lines = 0;
    for (char *line = said, *end; (end = strchr(line, '\n')); line = end + 1, n_lines++) {
        json_error_t error;
        json_t *object = json_loadb(line, (size_t)(end - line), JSON_REJECT_DUPLICATES, &error);
        if (!object) fail_msg("%s: %.*s", error.text, (int)(end - line), line);
        assert_true(json_is_string(json_object_get(object, "text")));
        assert_true(json_is_string(json_object_get(object, "level")));
        json_decref(object);
    }
    assert_true(n_lines >= n_wanted);
}

static void log_json_is_json(void **state) {
    (void)state;
    assert_int_equal(generate(1, "-i good.jsonl -o j.jsonl --log-json --timeline j.json "
                                 "--progress-interval 0.01s"),
                     0);
    every_line_is_json(40);
    assert_int_equal(generate(3, "-i good.jsonl -o j.jsonl --overwrite --log-json "
                                 "--progress-interval 0.01s"),
                     0);
    every_line_is_json(50);
    assert_int_equal(generate(1, "-i 'a\"b\\c.jsonl' -o j2.jsonl --log-json"), 2);
    every_line_is_json(1);
    assert_int_equal(generate(1, "-i bad.jsonl --dry-run --log-json"), 3);
    every_line_is_json(1);
}

/* ---- the dry run ------------------------------------------------------------------------------
 */

static void dry_run_has_three_codes(void **state) {
    (void)state;
    assert_int_equal(generate(1, "--dry-run -i good.jsonl -o dry.jsonl"), 0);
    last_line_says("to run it leave out --dry-run, on");
    says(printed, "requests   12 good (0 chat), 0 bad; 12 prompts, 12 sequences to generate");
    /* lengths 3, 20, ..., 190: numpy.percentile gives 96.5, 171.3, 188.13 */
    says(printed, "tokens: least 3, p50 96, p90 171, p99 188, most 190");
    says(printed, "1158 of prompts to compute, at most 480 to generate; the longest sequence may "
                  "reach 230 of 2048");
    assert_int_equal(access(scratch_path("dry.jsonl"), F_OK), -1);
    assert_int_equal(access(scratch_path("dry.jsonl.job.json"), F_OK), -1);

    assert_int_equal(generate(1, "--dry-run -i bad.jsonl"), 3);
    assert_true(strncmp(printed, "bad.jsonl:2: not JSON", 21) == 0);
    says(printed, "\nbad.jsonl:4: custom_id \"r1\" is that of an earlier request\n");
    says(printed, "\nbad.jsonl:5: ");
    says(printed, "requests   2 good (0 chat), 3 bad");
    last_line_says("3 of 5 lines are bad");

    assert_int_equal(generate(1, "--dry-run -i nothing.jsonl"), 2);
    assert_int_equal(generate(1, "--dry-run -i good.jsonl --partition heads=4"), 2);
    assert_int_equal(generate(1, "--dry-run -i good.jsonl --context 4096"), 2);
    assert_int_equal(generate(1, "--dry-run -i good.jsonl --chat-template nonsense"), 2);
    assert_int_equal(generate(1, "--dry-run -i good.jsonl -o good.jsonl"), 2);
    assert_int_equal(generate(1, "--dry-run -i good.jsonl -o good.jsonl --overwrite"), 2);
    says(said, "output good.jsonl is the same file as the input");
    assert_int_equal(generate(1, "--dry-run -i good.jsonl -o bad.jsonl --resume"), 2);
    says(said, "which says what the answers were made with, is not there");
    assert_int_equal(access(scratch_path("bad.jsonl.job.json"), F_OK), -1);
}

static void dry_run_knows_what_is_answered(void **state) {
    (void)state;
    assert_int_equal(generate(1, "-i bad.jsonl -o half.jsonl"), 3);
    char *before = read_text("half.jsonl");
    assert_int_equal(generate(1, "--dry-run -i bad.jsonl -o half.jsonl --resume"), 3);
    says(printed, "answered   5 lines by an earlier run, 3 of them with an error\n"
                  "requests   0 good (0 chat), 0 bad; 0 prompts, 0 sequences to generate\n");
    assert_int_equal(
        generate(1, "--dry-run -i bad.jsonl -o half.jsonl --resume --retry-failed --errors e"), 2);
    says(said, "errors was not given and is now \"e\"");
    assert_int_equal(generate(1, "--dry-run -i bad.jsonl -o half.jsonl --resume --retry-failed"),
                     3);
    says(printed, "answered   2 lines by an earlier run, 0 of them with an error\n");
    says(printed, "requests   0 good (0 chat), 3 bad;");
    char *after = read_text("half.jsonl");
    assert_string_equal(after, before);
    free(before);
    free(after);
}

static void dry_run_takes_any_layout(void **state) {
    (void)state;
    static const char *const layouts[] = {
        "--attention-ranks 4 --partition heads=2,sequences=2", "--partition heads=2,sequences=2",
        "--model-ranks 1 --attention-ranks 4 --partition heads=2,sequences=2"};
    for (int at = 0; at < 3; at++) {
        char options[256];
        snprintf(options, sizeof options,
                 "--dry-run -i good.jsonl --kv-tokens 2048 --kv-type f32 --threads 2 %s",
                 layouts[at]);
        assert_int_equal(generate(1, options), 0);
        says(printed, "layout     1 model + 4 attention = 5 ranks, heads=2,sequences=2 (started "
                      "now: 1)\n");
        says(printed, "wire       mpi, taking all ranks to be on this host\n");
        says(printed, "1024 tokens an owner of sequences, 2048 in all");
        /* 2 slots x 256 rows x (Q and OUT of 6 heads, K and V of 2) x 40 x 4 bytes, as values and
         * as messages: 2.5 MiB; for each row and head two states of 64 floats: 1.5; 2 threads'
         * scratch, 0.25. 3 layers x 2 heads x K|V x 1024 tokens x 40 x 4 bytes = 1.9 MiB. Half of
         * all but the scratch for one head */
        says(printed, " 4.3 MiB     1.9 MiB     6.1 MiB  KV heads 0-1, sequences of owner 0\n");
        says(printed, " 2.3 MiB   960.0 KiB     3.2 MiB  KV head 2, sequences of owner 0\n");
        says(printed, "KV head 2, sequences of owner 1\n");
    }
    assert_int_equal(generate(3, "--dry-run -i good.jsonl"), 0);
    says(printed, "layout     1 model + 2 attention = 3 ranks, heads=2,sequences=1\n");
    says(printed, "wire       mpi\n");
}

int main(int argc, char **argv) {
    if (!cli_take(argc, argv)) return 2;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_process_says_what_it_does),
        cmocka_unit_test(three_ranks_say_what_they_do),
        cmocka_unit_test(preemption_is_counted),
        cmocka_unit_test(status_is_left_behind),
        cmocka_unit_test(last_lines_say_what_to_do_next),
        cmocka_unit_test(a_stopped_run_says_how_to_go_on),
        cmocka_unit_test(quiet_says_nothing),
        cmocka_unit_test(log_json_is_json),
        cmocka_unit_test(dry_run_has_three_codes),
        cmocka_unit_test(dry_run_knows_what_is_answered),
        cmocka_unit_test(dry_run_takes_any_layout),
    };
    return cmocka_run_group_tests(tests, make_inputs, cli_close);
}
