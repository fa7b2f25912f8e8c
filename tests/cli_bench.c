/* The benches on a tiny shape, run as people run them: every format parses and says the same kind
 * of thing, numbers that have a closed form have it, and what cannot be is refused. No time is
 * judged.
 *
 *   cli_bench LAMINA MPIEXEC
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

#include "cli.h"

static const char config[] =
    "{\"model_type\": \"qwen3\", \"hidden_size\": 64, \"intermediate_size\": 96,"
    "\"num_hidden_layers\": 3, \"num_attention_heads\": 4, \"num_key_value_heads\": 2,"
    "\"head_dim\": 32, \"vocab_size\": 300, \"max_position_embeddings\": 2000,"
    "\"rms_norm_eps\": 1e-6}";

static int open_folder(void **state) {
    if (scratch_open(state) != 0) return -1;
    return scratch_write(scratch_path("tiny.json"), config, sizeof config - 1) ? 0 : -1;
}

static int close_folder(void **state) {
    free(said);
    free(printed);
    free(lamina);
    return scratch_close(state);
}

/* `lamina COMMAND OPTIONS` on so many ranks; its exit code. */
static int run(int n_ranks, const char *name, const char *options) {
    char command[4096], launcher[1024] = "";
    if (n_ranks > 1) snprintf(launcher, sizeof launcher, "'%s' -n %d", mpiexec, n_ranks);
    snprintf(command, sizeof command, "cd %s && exec %s '%s' %s %s >out 2>err </dev/null",
             scratch_folder, launcher, lamina, name, options);
    int status = system(command);
    assert_true(WIFEXITED(status));
    free(said);
    free(printed);
    said = read_text("err");
    printed = read_text("out");
    return WEXITSTATUS(status);
}

static int bench(int n_ranks, const char *options) {
    return run(n_ranks, "bench", options);
}

static void assert_done(int n_ranks, const char *options) {
    int code = bench(n_ranks, options);
    if (code != 0) fail_msg("bench %s: %d\n%s", options, code, said);
}

/* ---- the formats, as a reader of each would take them -----------------------------------------
 */

static const char *const step_columns[] = {
    "batch",        "length",   "step_ms",  "p10_ms",        "p90_ms",        "tok_per_s",
    "weight_bytes", "kv_bytes", "GB_per_s", "read_GB_per_s", "copy_GB_per_s", "ratio",
    "host_us",      "idle",     "model_us", "attention_us",  "of_ideal",      NULL};
static const char *const attention_columns[] = {
    "batch",    "length",        "shortest",      "longest",  "time_us",
    "min_us",   "max_us",        "calls",         "replayed", "kv_bytes",
    "GB_per_s", "read_GB_per_s", "copy_GB_per_s", "ratio",    NULL};
static const char *const wire_columns[] = {"wire",   "blocks", "peers",    "size",  "time_us",
                                           "min_us", "max_us", "GB_per_s", "wrong", NULL};

static json_t *parse(const char *text) {
    json_error_t error;
    json_t *value = json_loads(text, JSON_REJECT_DUPLICATES, &error);
    if (!value) fail_msg("%s (line %d) in:\n%s", error.text, error.line, text);
    return value;
}

static bool may_be_nan(const char *name) {
    static const char *const names[] = {"idle", "model_us", "attention_us", "of_ideal"};
    for (size_t at = 0; at < sizeof names / sizeof *names; at++)
        if (strcmp(name, names[at]) == 0) return true;
    return false;
}

/* The words of a line, split at commas or at blanks, as a row of named values: "wire" is text, the
 * others numbers, but those that may be nan, as JSON says by null. */
static json_t *row_of(char *line, const char *separators, const char *const *names) {
    json_t *row = json_object();
    for (char *word; (word = strsep(&line, separators));) {
        if (!*word) continue;
        if (!*names) fail_msg("more values than names: %s", word);
        char *end;
        double number = strtod(word, &end);
        bool text = strcmp(*names, "wire") == 0;
        bool none = may_be_nan(*names) && strcmp(word, "nan") == 0;
        if (!text && !none && (*end || !isfinite(number))) fail_msg("%s is %s", *names, word);
        json_object_set_new(row, *names++,
                            none   ? json_null()
                            : text ? json_string(word)
                                   : json_real(number));
    }
    if (*names) fail_msg("no value of %s", *names);
    return row;
}

/* Rows of a table or of CSV: facts, then names, then rows. */
static json_t *rows_of_text(char *text, bool csv, const char *const *names) {
    json_t *rows = json_array();
    bool named = false, version = false;
    for (char *line; (line = strsep(&text, "\n"));) {
        if (!*line) continue;
        char *words = line + (line[0] == '#' ? 2 : 0);
        version = version || strncmp(line, "# version: lamina ", 18) == 0;
        bool is_names = csv ? line[0] != '#' && !named : line[0] == '#' && !strchr(line, ':');
        if (is_names) {
            assert_false(named);
            named = true;
            for (const char *const *name = names; *name;) {
                char *word = strsep(&words, csv ? "," : " ");
                assert_non_null(word);
                if (*word) assert_string_equal(word, *name++);
            }
        } else if (line[0] != '#') {
            assert_true(named);
            json_array_append_new(rows, row_of(line, csv ? "," : " ", names));
        }
    }
    assert_true(version);
    return rows;
}

static json_t *rows_of_json(const char *text, int n_ranks) {
    json_t *all = parse(text), *rows = json_incref(json_object_get(all, "results"));
    json_t *ranks = json_object_get(all, "ranks");
    assert_true(json_is_string(json_object_get(all, "version")));
    assert_int_equal(json_array_size(ranks), n_ranks);
    assert_true(json_is_array(rows));
    json_decref(all);
    return rows;
}

static json_t *rows_of_jsonl(char *text) {
    json_t *rows = json_array();
    for (char *line; (line = strsep(&text, "\n"));) {
        if (!*line) continue;
        json_t *row = parse(line);
        says(json_string_value(json_object_get(row, "command")), "lamina bench");
        json_array_append_new(rows, row);
    }
    return rows;
}

static double number(const json_t *row, const char *name) {
    const json_t *value = json_object_get(row, name);
    if (!json_is_number(value)) fail_msg("%s is no number", name);
    return json_number_value(value);
}

/* Run in each format; `judge` every row. JSON goes to a file. */
static void in_every_format(int n_ranks, const char *options, const char *const *names,
                            size_t n_rows, void (*judge)(const json_t *row)) {
    static const char *const formats[] = {"table", "csv", "json -o results.json", "jsonl"};
    for (int format = 0; format < 4; format++) {
        char with[512];
        size_t at;
        json_t *row;
        snprintf(with, sizeof with, "%s --format %s", options, formats[format]);
        assert_done(n_ranks, with);
        char *file = format == 2 ? read_text("results.json") : NULL;
        if (file) assert_string_equal(printed, "");
        json_t *rows = format < 2    ? rows_of_text(printed, format == 1, names)
                       : format == 2 ? rows_of_json(file, n_ranks)
                                     : rows_of_jsonl(printed);
        free(file);
        assert_int_equal(json_array_size(rows), n_rows);
        json_array_foreach(rows, at, row) {
            for (const char *const *name = names; *name; name++)
                assert_non_null(json_object_get(row, *name));
            judge(row);
        }
        json_decref(rows);
    }
}

/* ---- what the numbers must be -----------------------------------------------------------------
 */

static void assert_near(double a, double b) {
    if (fabs(a - b) > 0.02 * fabs(b) + 0.02) fail_msg("%g instead of %g", a, b);
}

/* 3 layers; a layer's matrices have 64 x 128, 2 of 64 x 64, 128 x 64 and 3 of 64 x 96 numbers in
 * bf16, its vectors 2 of 64 and 2 of 32 in f32; then the head of 300 x 64, the last norm, and of
 * the embedding the rows of the batch. */
static double step_weight_bytes(double batch) {
    double matrices = 64 * 128 + 2 * 64 * 64 + 128 * 64 + 3 * 64 * 96;
    double vectors = 2 * 64 + 2 * 32;
    return 3 * (2 * matrices + 4 * vectors) + 2 * 300 * 64 + 4 * 64 + batch * 2 * 64;
}

static int n_slots;

/* K and V of 3 layers, 2 heads of 32, bf16; steps 1 to 3 of the run are measured, whose rows see
 * length + 2, + 3 and + 4 positions. */
static void judge_step(const json_t *row) {
    double batch = number(row, "batch"), length = number(row, "length");
    assert_true(number(row, "weight_bytes") == n_slots * step_weight_bytes(batch));
    assert_true(number(row, "kv_bytes") == n_slots * batch * (length + 3) * 3 * 2 * 2 * 32 * 2);
    double ms = number(row, "step_ms");
    assert_true(ms > 0 && number(row, "p10_ms") <= ms && ms <= number(row, "p90_ms"));
    assert_near(number(row, "tok_per_s") * ms, 1000 * batch * n_slots);
    double read = number(row, "read_GB_per_s");
    assert_true(read > 0 && number(row, "ratio") >= 0);
    assert_near(number(row, "ratio") * read, number(row, "GB_per_s"));
    assert_true(number(row, "host_us") > 0);
    assert_true(json_is_null(json_object_get(row, "idle"))); /* CPUs have no clock of their own */
    if (n_slots == 1) {                                      /* colocated */
        assert_true(json_is_null(json_object_get(row, "of_ideal")));
        return;
    }
    double model = number(row, "model_us"), attention = number(row, "attention_us");
    assert_true(model > 0 && attention > 0);
    assert_true(number(row, "of_ideal") > 0); /* of the mean of the steps, not the median */
}

static void steps_on_one_rank(void **state) {
    (void)state;
    n_slots = 1;
    in_every_format(1,
                    "step -m shape:tiny.json --batch 1,3 --length 1,64,700 -r 3 --footprint 4M "
                    "--threads 2",
                    step_columns, 6, judge_step);
}

/* Heads and sequences on ranks of their own, two slots; uneven shares of sequences. */
static void steps_on_several_ranks(void **state) {
    (void)state;
    n_slots = 2;
    in_every_format(3,
                    "step -m shape:tiny.json --batch 1,3 --length 100 -r 3 --footprint 2M "
                    "--partition sequences=2",
                    step_columns, 2, judge_step);
    n_slots = 1;
    assert_done(3, "step -m shape:tiny.json --batch 3 --length 100 -r 3 --footprint 2M --slots 1");
    says(printed, "heads=2,sequences=1, 1 slot");
    assert_done(3, "step -m shape:tiny.json --batch 5 --length 63-65 -r 2 --warmup 0 "
                   "--footprint 2M --partition sequences=2 --slots 1 --kv-type f32");
}

enum { RAGGED = 8 };

/* Of lengths from a = mean / RAGGED to b = mean * RAGGED with density x^(-3/2), what those have
 * together that are shorter than a share `part` of all: F(x) = (a^-1/2 - x^-1/2) / (a^-1/2 -
 * b^-1/2) by bisection, and the integral of x up to there, which is linear in sqrt x. */
static double tokens_below(double part, double mean, double batch) {
    double a = mean / RAGGED, b = mean * RAGGED, low = a, high = b;
    for (int round = 0; round < 100; round++) {
        double x = (low + high) / 2;
        double below = (1 / sqrt(a) - 1 / sqrt(x)) / (1 / sqrt(a) - 1 / sqrt(b));
        *(below < part ? &low : &high) = x;
    }
    return batch * mean * (sqrt(low) - sqrt(a)) / (sqrt(b) - sqrt(a));
}

static void judge_lengths(const json_t *row, bool ragged) {
    double batch = number(row, "batch"), length = number(row, "length");
    double shortest = number(row, "shortest"), longest = number(row, "longest");
    if (ragged && batch > 1) {
        double last = batch * length - tokens_below(1 - 1 / batch, length, batch);
        assert_true(fabs(shortest - tokens_below(1 / batch, length, batch)) <= 1);
        assert_true(fabs(longest - last) <= 1 && longest > shortest);
    } else {
        assert_true(shortest == length && longest == length);
    }
}

static bool ragged_next; /* rows come in pairs: uniform, ragged */

static void judge_attention(const json_t *row) {
    judge_lengths(row, ragged_next);
    double kv_bytes = number(row, "batch") * number(row, "length") * 3 * 2 * 16 * 4;
    assert_true(number(row, "kv_bytes") == kv_bytes);
    double us = number(row, "time_us");
    assert_true(us > 0 && number(row, "min_us") <= us && us <= number(row, "max_us"));
    assert_near(number(row, "GB_per_s") * us * 1e3, kv_bytes);
    /* 4M of whole pages, walked through a whole number of times; a CPU replays nothing */
    double pages = number(row, "batch") * ceil(number(row, "length") / 64);
    double layers = ceil(4 * 1048576 / (pages * 3 * 2 * 64 * 16 * 4));
    assert_true(number(row, "calls") > 0);
    assert_true(ragged_next || fmod(number(row, "calls"), layers) == 0);
    ragged_next = !ragged_next;
    assert_true(number(row, "replayed") == 0);
    assert_near(number(row, "ratio") * number(row, "read_GB_per_s"), number(row, "GB_per_s"));
}

static void attention_on_one_rank(void **state) {
    (void)state;
    in_every_format(1,
                    "attention --heads 6 --kv-heads 3 --head-dim 16 --kv-type f32 --batch 1,5 "
                    "--length 64-512*2 --ragged 8 --footprint 4M -r 3",
                    attention_columns, 16, judge_attention);
    assert_done(1, "attention -m shape:tiny.json --batch 2 --length 70 --footprint 1M");
    says(printed, "# heads: 4 on 2 KV heads of 32, bf16");
}

static void judge_wire(const json_t *row) {
    double blocks = number(row, "blocks"), peers = number(row, "peers");
    assert_true(number(row, "wrong") == 0);
    assert_true(peers == (blocks < 2 ? blocks : 2));
    assert_string_equal(json_string_value(json_object_get(row, "wire")), "mpi");
    double us = number(row, "time_us"), bytes = blocks * number(row, "size");
    assert_true(us > 0 && number(row, "min_us") <= us && us <= number(row, "max_us"));
    if (bytes > 1e5) assert_near(number(row, "GB_per_s") * us * 1e3 / bytes, 1);
}

static void messages_between_three_ranks(void **state) {
    (void)state;
    in_every_format(3, "wire --sizes 16,4K,1M --fan 1-4 -r 2", wire_columns, 12, judge_wire);
    assert_done(2, "wire --sizes 48,256K --fan 3 -r 1 --warmup 0");
    says(printed, "# summary: 0 wrong bytes");
}

static void what_cannot_be_is_refused(void **state) {
    (void)state;
    assert_int_equal(bench(1, "wire"), 2);
    says(said, "bench wire needs two ranks or more");
    assert_int_equal(bench(2, "attention"), 2);
    says(said, "bench attention runs on one rank, here are 2");
    assert_int_equal(bench(1, "attention --heads 5 --kv-heads 3"), 2);
    says(said, "--heads 5 is not a multiple of --kv-heads 3");
    assert_int_equal(bench(1, "step -m shape:none"), 2);
    says(said, "shape:none is no known shape");
    assert_int_equal(bench(2, "step -m shape:none"), 2);
    assert_int_equal(bench(1, "step -m shape:tiny.json --length 1999"), 2);
    says(said, "--length 1999 and 6 steps take a context of 2070 tokens, the model has 2000");
    assert_int_equal(bench(1, "step -m shape:tiny.json --footprint 900T"), 2);
    says(said, "a smaller --footprint");
    assert_int_equal(bench(1, "attention --batch 1000000 --length 1000000 --footprint 1M"), 2);
    says(said, "--batch 1000000 --length 1000000 takes");
    assert_int_equal(bench(1, "step -m shape:tiny.json -o tiny.json"), 2);
    says(said, "is the same file as the model");
    assert_int_equal(bench(1, "attention --footprint 1M -o no/such/folder"), 2);
}

/* ---- a shape that answers ---------------------------------------------------------------------
 */

/* The texts of the answers in a file, one behind another. */
static void read_answers(const char *name, char *out, size_t size) {
    char *lines = read_text(name), *rest = NULL;
    size_t at = 0;
    out[0] = 0;
    for (char *line = strtok_r(lines, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        json_t *answer = parse(line), *choices = NULL;
        const char *text = NULL;
        assert_int_equal(
            json_unpack(answer, "{s:{s:{s:o}}}", "response", "body", "choices", &choices), 0);
        assert_int_equal(json_unpack(json_array_get(choices, 0), "{s:s}", "text", &text), 0);
        at += (size_t)snprintf(out + at, size - at, "%s\n", text);
        assert_true(at < size);
        json_decref(answer);
    }
    free(lines);
}

/* Prompts of ids get ids, written as numbers, the same on any layout; text has none. */
static void a_shape_answers_prompts_of_ids(void **state) {
    (void)state;
    enum { N_NEW = 9, N_PROMPTS = 2 };
    static const char prompts[] = "{\"prompt\":[1,299,7]}\n{\"prompt\":[250]}\n";
    static const char text[] = "{\"prompt\":\"hello\"}\n";
    char one[1024], three[1024], other[1024];
    assert_true(scratch_write(scratch_path("ids.jsonl"), prompts, sizeof prompts - 1));
    assert_true(scratch_write(scratch_path("text.jsonl"), text, sizeof text - 1));
    const char *same = "-m shape:tiny.json -i ids.jsonl --max-tokens 9 --order input";
    char options[256];
    snprintf(options, sizeof options, "%s -o one.jsonl", same);
    assert_int_equal(run(1, "generate", options), 0);
    snprintf(options, sizeof options, "%s -o three.jsonl", same);
    assert_int_equal(run(3, "generate", options), 0);
    snprintf(options, sizeof options, "%s -o other.jsonl --seed 1", same);
    assert_int_equal(run(1, "generate", options), 0);
    read_answers("one.jsonl", one, sizeof one);
    read_answers("three.jsonl", three, sizeof three);
    read_answers("other.jsonl", other, sizeof other);
    assert_string_equal(one, three);
    assert_string_not_equal(one, other); /* other weights */
    int n_tokens = 0, n_bytes = 0, id;
    for (const char *at = one; *at; at += n_bytes) {
        if (*at == '\n') at++;
        if (!*at) break;
        n_bytes = 0;
        assert_int_equal(sscanf(at, "<%d>%n", &id, &n_bytes), 1);
        assert_true(n_bytes > 0 && id >= 0 && id < 300);
        n_tokens++;
    }
    assert_int_equal(n_tokens, N_NEW * N_PROMPTS);
    assert_int_equal(run(1, "generate", "-m shape:tiny.json -i text.jsonl -o text_out.jsonl"), 3);
    char *refused = read_text("text_out.jsonl");
    says(refused, "a prompt is a list of token ids");
    free(refused);
}

int main(int argc, char **argv) {
    if (!cli_take(argc, argv)) return 2;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_on_one_rank),
        cmocka_unit_test(steps_on_several_ranks),
        cmocka_unit_test(attention_on_one_rank),
        cmocka_unit_test(messages_between_three_ranks),
        cmocka_unit_test(what_cannot_be_is_refused),
        cmocka_unit_test(a_shape_answers_prompts_of_ids),
    };
    return cmocka_run_group_tests(tests, open_folder, close_folder);
}
