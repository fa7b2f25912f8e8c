/* The command line: where values land, and every kind of refusal, word for word. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h> /* needs those above */

#include "options.h"

enum { MAX_WORDS = 64 };

/* A command line from one string, split at single blanks; "_" stands for an empty word. */
struct line {
    char text[1024];
    char *word[MAX_WORDS + 1];
    int n_words;
};

static void split(struct line *line, const char *text) {
    memset(line, 0, sizeof *line);
    snprintf(line->text, sizeof line->text, "%s", text);
    line->word[line->n_words++] = "lamina";
    for (char *rest = line->text, *word; (word = strsep(&rest, " "));)
        line->word[line->n_words++] = strcmp(word, "_") ? word : "";
}

static void assert_parses(struct options *options, struct line *line, const char *text) {
    struct fault fault = {0};
    split(line, text);
    if (!options_parse(options, line->n_words, line->word, &fault))
        fail_msg("%s: %s", text, fault.text);
}

static void assert_refused(const char *text, const char *expected) {
    struct options options;
    struct line line;
    struct fault fault = {0};
    split(&line, text);
    if (options_parse(&options, line.n_words, line.word, &fault)) fail_msg("%s was taken", text);
    assert_int_equal(fault.kind, FAULT_USER);
    assert_string_equal(fault.text, expected);
    assert_null(options.input);
}

/* `rest` behind a generate command that is complete without it. */
static void assert_generate_refused(const char *rest, const char *expected) {
    char text[512];
    snprintf(text, sizeof text, "generate -m m.gguf -i in.jsonl -o out.jsonl %s", rest);
    assert_refused(text, expected);
}

static void defaults_are_those_of_the_manual(void **state) {
    (void)state;
    struct options options;
    struct line line;
    assert_parses(&options, &line, "generate -m m.gguf -i in.jsonl -o out.jsonl");
    assert_int_equal(options.command, COMMAND_GENERATE);
    assert_string_equal(options.model, "m.gguf");
    assert_int_equal(options.n_inputs, 1);
    assert_string_equal(options.input[0], "in.jsonl");
    assert_string_equal(options.output, "out.jsonl");
    assert_null(options.errors);
    assert_null(options.system);
    assert_null(options.chat_template);
    assert_null(options.status);
    assert_null(options.timeline);
    assert_false(options.resume || options.overwrite || options.retry_failed || options.strict);
    assert_false(options.chat || options.ignore_eos || options.log_json || options.dry_run);
    assert_int_equal(options.output_order, OUTPUT_COMPLETION);
    assert_int_equal(options.order, ORDER_INPUT);
    assert_true(options.temperature == 0.0f && options.top_p == 1.0f && options.min_p == 0.0f);
    assert_true(options.presence_penalty == 0.0f && options.frequency_penalty == 0.0f);
    assert_true(options.repetition_penalty == 1.0f);
    assert_int_equal(options.top_k, 0);
    assert_int_equal(options.max_tokens, -1);
    assert_int_equal(options.min_tokens, 0);
    assert_int_equal(options.seed, 0);
    assert_int_equal(options.model_ranks, -1);
    assert_int_equal(options.attention_ranks, -1);
    assert_int_equal(options.heads, -1);
    assert_int_equal(options.sequences, -1);
    assert_int_equal(options.slots, -1);
    assert_int_equal(options.threads, -1);
    assert_int_equal(options.role, ROLE_WISH_AUTO);
    assert_int_equal(options.kv_type, KV_BF16);
    assert_int_equal(options.isa, ISA_WISH_AUTO);
    assert_true(options.q_first && options.wire_progress);
    assert_false(options.no_cache);
    assert_true(options.deadline_s == 60.0);
    assert_int_equal(options.kv_memory, -1);
    assert_int_equal(options.kv_tokens, -1);
    assert_int_equal(options.max_batch, -1);
    assert_int_equal(options.max_rows, -1);
    assert_int_equal(options.context, -1);
    assert_int_equal(options.log_level, LOG_NOTE);
    assert_true(options.progress_interval_s == -1.0);
    options_close(&options);
}

static void file_and_text_options_land(void **state) {
    (void)state;
    struct options options;
    struct line line;
    assert_parses(
        &options, &line,
        "generate -m=a.gguf -i one.jsonl two.txt --output=o --errors e --resume "
        "--retry-failed --strict --output-order input --order longest -i three.jsonl "
        "--chat --system Be-brief. --chat-template=chatml --status s --timeline t --trace h "
        "--trace-steps 20-39 "
        "--log-json --log-level debug --progress-interval 1m30s");
    assert_string_equal(options.model, "a.gguf");
    assert_int_equal(options.n_inputs, 3);
    assert_string_equal(options.input[0], "one.jsonl");
    assert_string_equal(options.input[1], "two.txt");
    assert_string_equal(options.input[2], "three.jsonl");
    assert_string_equal(options.output, "o");
    assert_string_equal(options.errors, "e");
    assert_true(options.resume && options.retry_failed && options.strict && options.chat);
    assert_int_equal(options.output_order, OUTPUT_INPUT);
    assert_int_equal(options.order, ORDER_LONGEST);
    assert_string_equal(options.system, "Be-brief.");
    assert_string_equal(options.chat_template, "chatml");
    assert_string_equal(options.status, "s");
    assert_string_equal(options.timeline, "t");
    assert_string_equal(options.trace, "h");
    assert_true(options.trace_steps.first == 20 && options.trace_steps.last == 39);
    assert_true(options.log_json);
    assert_int_equal(options.log_level, LOG_DEBUG);
    assert_true(options.progress_interval_s == 90.0);
    options_close(&options);
}

static void sampling_options_land(void **state) {
    (void)state;
    struct options options;
    struct line line;
    assert_parses(&options, &line,
                  "generate -mm -i - -o - --temperature 0.75 --top-p .5 --min-p 25e-2 --top-k 40 "
                  "--presence-penalty -1.5 --frequency-penalty 2 --repetition-penalty 1.25 -n256 "
                  "--min-tokens 3 --ignore-eos -s 18446744073709551615 --quiet");
    assert_string_equal(options.model, "m");
    assert_string_equal(options.input[0], "-");
    assert_string_equal(options.output, "-");
    assert_true(options.temperature == 0.75f && options.top_p == 0.5f && options.min_p == 0.25f);
    assert_int_equal(options.top_k, 40);
    assert_true(options.presence_penalty == -1.5f && options.frequency_penalty == 2.0f);
    assert_true(options.repetition_penalty == 1.25f && options.ignore_eos);
    assert_int_equal(options.max_tokens, 256);
    assert_int_equal(options.min_tokens, 3);
    assert_true(options.seed == UINT64_MAX);
    assert_int_equal(options.log_level, LOG_ERROR);
    options_close(&options);
}

static void layout_and_memory_options_land(void **state) {
    (void)state;
    struct options options;
    struct line line;
    assert_parses(&options, &line,
                  "generate -m m -i a --dry-run --model-ranks 1 --attention-ranks 6 --role "
                  "attention --partition sequences=2,heads=3 --slots 2 -t 4 --kv-type f16 "
                  "--q-first off --wire-progress off --deadline 1h --cpu-isa avx2 --kv-memory 40G "
                  "--kv-tokens 5000000000 --max-batch 8 --max-rows 512 -c 4096 --wire mpi "
                  "--model-device cpu --attention-device auto --prefill attention --shares auto "
                  "--no-cache");
    assert_true(options.dry_run && options.no_cache);
    assert_null(options.output);
    assert_int_equal(options.model_ranks, 1);
    assert_int_equal(options.attention_ranks, 6);
    assert_int_equal(options.role, ROLE_WISH_ATTENTION);
    assert_int_equal(options.heads, 3);
    assert_int_equal(options.sequences, 2);
    assert_int_equal(options.slots, 2);
    assert_int_equal(options.threads, 4);
    assert_int_equal(options.kv_type, KV_F16);
    assert_false(options.q_first || options.wire_progress);
    assert_true(options.deadline_s == 3600.0);
    assert_int_equal(options.isa, ISA_WISH_AVX2);
    assert_true(options.kv_memory == (int64_t)40 * 1024 * 1024 * 1024);
    assert_true(options.kv_tokens == 5000000000);
    assert_int_equal(options.max_batch, 8);
    assert_int_equal(options.max_rows, 512);
    assert_int_equal(options.context, 4096);
    options_close(&options);

    assert_parses(&options, &line,
                  "generate -m m -i a -o b --partition heads=3 --attention-ranks 0");
    assert_int_equal(options.heads, 3);
    assert_int_equal(options.sequences, 1);
    assert_int_equal(options.attention_ranks, 0);
    options_close(&options);

    assert_parses(&options, &line, "generate -m m -i a -o b --time-limit auto");
    assert_true(options.time_limit_s == TIME_LIMIT_AUTO && options.time_limit_lead_s == 60);
    options_close(&options);
    assert_parses(&options, &line, "generate -m m -i a -o b --time-limit 1-00:02:00");
    assert_true(options.time_limit_s == 86520);
    options_close(&options);
    assert_parses(&options, &line, "generate -m m -i a -o b");
    assert_true(options.time_limit_s == -1);
    options_close(&options);
}

static void steps_are_all_or_some(void **state) {
    (void)state;
    struct options options;
    options_defaults(&options, COMMAND_GENERATE);
    assert_true(options.trace_steps.first == 0 && options.trace_steps.last == 99);
    options_defaults(&options, COMMAND_INSPECT);
    assert_true(options.trace_steps.first == 0 && options.trace_steps.last == INT32_MAX);
    struct line line;
    assert_parses(&options, &line, "inspect --trace-steps 7 t.h5");
    assert_true(options.trace_steps.first == 7 && options.trace_steps.last == 7);
    options_close(&options);
    assert_parses(&options, &line, "inspect --trace-steps all a.journal b.journal c.journal");
    assert_true(options.trace_steps.first == 0 && options.trace_steps.last == INT32_MAX);
    assert_string_equal(options.model, "a.journal");
    assert_int_equal(options.n_inputs, 2);
    assert_string_equal(options.input[1], "c.journal");
    options_close(&options);
    static const char *const wrong[] = {"x",   "",      "-",   "-5",           "3-",
                                        "5-4", "1-2-3", "1-x", "0-2147483647", "1.5"};
    for (size_t at = 0; at < sizeof wrong / sizeof *wrong; at++) {
        char typed[64], expected[160];
        snprintf(typed, sizeof typed, "inspect --trace-steps=%s t.h5", wrong[at]);
        snprintf(expected, sizeof expected,
                 "--trace-steps %s: expected all, a step (7), or the first and the last one "
                 "(100-199)",
                 wrong[at]);
        assert_refused(typed, expected);
    }
}

static void other_commands_take_their_file_as_a_word(void **state) {
    (void)state;
    struct options options;
    struct line line;
    assert_parses(&options, &line, "slices --dot m.gguf --kv-type f32");
    assert_int_equal(options.command, COMMAND_SLICES);
    assert_string_equal(options.model, "m.gguf");
    assert_true(options.dot);
    assert_int_equal(options.kv_type, KV_F32);
    options_close(&options);
    assert_parses(&options, &line, "inspect -- --odd-name.gguf");
    assert_int_equal(options.command, COMMAND_INSPECT);
    assert_string_equal(options.model, "--odd-name.gguf");
    options_close(&options);
    assert_parses(&options, &line, "slices -m m.gguf");
    assert_string_equal(options.model, "m.gguf");
    options_close(&options);
}

static void benches_are_commands_of_two_words(void **state) {
    (void)state;
    struct options options;
    struct line line;
    assert_parses(&options, &line,
                  "bench step -m shape:llama-3-8b --batch 1,32 -r 150 -o f.csv "
                  "--format csv --slots 2");
    assert_int_equal(options.command, COMMAND_BENCH_STEP);
    assert_string_equal(options.model, "shape:llama-3-8b");
    assert_int_equal(options.batch.n, 2);
    assert_int_equal(options.batch.value[1], 32);
    assert_int_equal(options.length.value[0], 512);
    assert_int_equal(options.repeat, 150);
    assert_int_equal(options.warmup, 1);
    assert_int_equal(options.format, SHEET_CSV);
    assert_int_equal(options.slots, 2);
    assert_int_equal(options.footprint, 1 << 30);
    assert_string_equal(options.typed,
                        "bench step -m shape:llama-3-8b --batch 1,32 -r 150 -o f.csv "
                        "--format csv --slots 2");
    options_close(&options);
    assert_parses(&options, &line, "bench wire --sizes 16-1K*4,2M");
    assert_int_equal(options.command, COMMAND_BENCH_WIRE);
    assert_int_equal(options.sizes.n, 5);
    assert_int_equal(options.sizes.value[4], 2 << 20);
    assert_int_equal(options.fan.n, 3);
    assert_string_equal(options.typed, "bench wire --sizes '16-1K*4,2M'");
    options_close(&options);
    assert_parses(&options, &line, "bench attention --heads 9 --kv-heads 3 --head-dim 64");
    assert_int_equal(options.command, COMMAND_BENCH_ATTENTION);
    assert_int_equal(options.n_kv_heads, 3);
    options_close(&options);
    assert_refused("bench", "lamina bench needs one word more: step, attention, wire");
    assert_refused("bench stp", "unknown command bench stp; there are: step, attention, wire");
    assert_refused("bench replay --requests f", "lamina bench replay is not built yet; it is to "
                                                "play the requests of a trace at their times");
    assert_refused("bench step", "no model: give lamina bench step -m FILE");
    assert_refused("bench step m", "unexpected m: it belongs to no option");
    assert_refused("bench step --batch 0", "--batch 0: expected whole numbers from 1 to 1000000, "
                                           "at most 64: 1,8,32, 1-8, 0-100+25 or 512-8192*2");
    assert_refused("bench wire --sizes 15", "--sizes 15: expected sizes from 16 to 1073741824, at "
                                            "most 64: 4K,1M, 4K-64K+4K or 16-64M*4");
    assert_refused("bench wire --sizes 24", "--sizes: 24 is not a multiple of 16");
    assert_refused("bench attention --footprint 1023K",
                   "--footprint 1047552 is less than 1M: it is to be larger than caches");
    assert_refused("bench attention --length 64,15 --ragged 16",
                   "--ragged 16: sequences of --length 15 would have from 15/16 to 240 tokens; "
                   "1 to 1000000000 are possible");
    assert_refused("bench attention --length 500000001 --ragged 2",
                   "--ragged 2: sequences of --length 500000001 would have from 500000001/2 to "
                   "1000000002 tokens; 1 to 1000000000 are possible");
    assert_refused("bench wire --batch 1", "--batch is an option of lamina bench step, not of "
                                           "lamina bench wire");
    assert_refused(
        "bench attention -m f --heads 8",
        "-m gives the heads of a model, and --heads, --kv-heads and --head-dim are heads "
        "without one: give one or the other");
}

static void unknown_words_are_named(void **state) {
    (void)state;
    assert_refused("genrate -m x", "unknown command genrate; did you mean lamina generate?");
    assert_refused("chat", "unknown command chat; lamina --help lists the commands");
    assert_generate_refused("--modle x", "unknown option --modle; did you mean --model?");
    assert_generate_refused("--temprature=1", "unknown option --temprature; did you mean "
                                              "--temperature?");
    assert_generate_refused("--n-predict 5", "unknown option --n-predict; did you mean "
                                             "--max-tokens?");
    assert_generate_refused("--ctx_size 5", "unknown option --ctx_size; did you mean --context?");
    assert_generate_refused("--out x", "unknown option --out; did you mean --output?");
    assert_generate_refused("-resume", "unknown option -resume; did you mean --resume?");
    assert_generate_refused("-temperature 1", "unknown option -temperature; did you mean "
                                              "--temperature?");
    assert_generate_refused("--frobnicate", "unknown option --frobnicate; lamina generate --help "
                                            "lists the options");
    assert_generate_refused("-x", "unknown option -x; lamina generate --help lists the options");
    assert_generate_refused("--\033[2J", "unknown option --\\x1b[2J; lamina generate --help lists "
                                         "the options");
    assert_generate_refused("--dot", "--dot is an option of lamina slices, not of lamina generate");
    assert_refused("slices a b", "unexpected b: lamina slices takes one file, and a is it");
    assert_generate_refused("--strict x.jsonl", "unexpected x.jsonl: it belongs to no option "
                                                "(requests are given with -i FILE)");
}

static void missing_values_are_named(void **state) {
    (void)state;
    assert_generate_refused("--slots", "--slots needs a value: --slots N");
    assert_generate_refused("--errors --resume",
                            "--errors needs a value: --errors FILE; found --resume (if that is the "
                            "value, write --errors=--resume)");
    assert_refused("generate -m m -i -o x", "--input needs a value: --input FILE...");
    assert_refused("generate -m m -i _ -o x", "--input was given an empty file name");
    assert_generate_refused("--errors=", "--errors : expected something that is not empty");
    assert_generate_refused("--resume=1", "--resume takes no value, found 1");
}

static void bad_values_are_named_with_what_is_allowed(void **state) {
    (void)state;
    static const char *const size = "a size: bytes, or 512M, 40G (powers of 1024)";
    static const char *const duration = "a duration above 0: 90, 90s, 10m, 1h30m or D-HH:MM:SS";
    static const char *const seed = "a whole number from 0 to 18446744073709551615";
    static const char *const partition =
        "auto, or heads=H,sequences=S with numbers from 1; one of the two may be left out";
    const struct {
        const char *option, *value, *expected;
    } cases[] = {
        {"slots", "0", "a whole number from 1 to 2"},
        {"slots", "1.5", "a whole number from 1 to 2"},
        {"slots", "99999999999999999999", "a whole number from 1 to 2"},
        {"model-ranks", "0", "1"},
        {"threads", "4097", "a whole number from 1 to 4096"},
        {"top-k", "-1", "a whole number from 0 to 1000000000"},
        {"kv-type", "q8_0", "one of f32, f16, bf16"},
        {"wire", "ucx", "one of auto, mpi, nccl, device"},
        {"model-device", "CPU", "one of auto, cpu, cuda"},
        {"q-first", "yes", "on or off"},
        {"temperature", "inf", "a number from 0 to 100"},
        {"temperature", "-0.1", "a number from 0 to 100"},
        {"top-p", "0", "a number above 0 up to 1"},
        {"top-p", "1e-60", "a number above 0 up to 1"}, /* 0 as a float */
        {"presence-penalty", "2.5", "a number from -2 to 2"},
        {"seed", "-1", seed},
        {"seed", "18446744073709551616", seed},
        {"kv-memory", "3GB", size},
        {"kv-memory", "0", size},
        {"deadline", "soon", duration},
        {"deadline", "0", duration},
        {"time-limit", "autos", "auto, or a duration above 0: 90, 90s, 10m, 1h30m or D-HH:MM:SS"},
        {"time-limit-lead", "auto", duration},
        {"partition", "heads=0", partition},
        {"partition", "heads=2,heads=3", partition},
        {"partition", "columns=2", partition},
        {"partition", "2x2", partition},
    };
    for (size_t index = 0; index < sizeof cases / sizeof *cases; index++) {
        char rest[128], expected[256];
        snprintf(rest, sizeof rest, "--%s %s", cases[index].option, cases[index].value);
        snprintf(expected, sizeof expected, "%s: expected %s", rest, cases[index].expected);
        assert_generate_refused(rest, expected);
    }
}

static void unbuilt_parts_are_refused_by_name(void **state) {
    (void)state;
    static const char *const refused[] = {
        "--model-width 2", "--replicas 2",        "--groups 2",     "--no-prefix-cache",
        "--slots 3",       "--prefill model",     "--shares equal", "--shares 1,2,1",
        "--model-ranks 2", "--partition tokens=2"};
    for (size_t index = 0; index < sizeof refused / sizeof *refused; index++) {
        struct options options;
        struct line line;
        struct fault fault = {0};
        char text[256];
        snprintf(text, sizeof text, "generate -m m -i a -o b %s", refused[index]);
        split(&line, text);
        assert_false(options_parse(&options, line.n_words, line.word, &fault));
        assert_int_equal(fault.kind, FAULT_USER);
        if (!strstr(fault.text, " is not built yet; it is to "))
            fail_msg("%s: %s", refused[index], fault.text);
    }
    assert_generate_refused("--groups 2", "--groups is not built yet; it is to run G independent "
                                          "groups of ranks, fed from the same requests");
    assert_refused("plan", "lamina plan is not built yet; it is to predict throughput and cost of "
                           "layouts from a few measurements");
}

static void contradictions_are_named(void **state) {
    (void)state;
    assert_refused("generate -i a -o b", "no model: give lamina generate -m FILE");
    assert_refused("inspect", "no model: give lamina inspect FILE");
    assert_refused("generate -m m -o b", "no requests: give -i FILE (- is standard input)");
    assert_refused("generate -m m -i a", "no place for answers: give -o FILE (- is standard "
                                         "output), or --dry-run to only check");
    assert_refused("generate -m m -i - a - -o b", "standard input (-) is given 2 times with -i; it "
                                                  "can be read once");
    assert_generate_refused("--resume --overwrite",
                            "--resume keeps the answers that are there and --overwrite drops them: "
                            "give one of the two");
    assert_generate_refused("--resume -i -", "--resume needs files: standard input cannot be read "
                                             "again");
    assert_generate_refused("--resume -o -", "--resume needs files: standard output cannot be read "
                                             "again");
    assert_generate_refused("-n 5 --min-tokens 6", "--min-tokens 6 is more than --max-tokens 5");
}

static void options_that_would_do_nothing_are_named(void **state) {
    (void)state;
    static const struct {
        const char *typed, *name, *without;
    } rows[] = {
        {"--retry-failed", "retry-failed", "resume"},
        {"--system x", "system", "chat"},
        {"--checkpoint-interval 10m", "checkpoint-interval", "checkpoint"},
        {"--checkpoint-kv=auto", "checkpoint-kv", "checkpoint"},
        {"--keep-checkpoint", "keep-checkpoint", "checkpoint"},
        {"--restore kv --resume", "restore", "checkpoint"},
        {"--restore auto --checkpoint d", "restore", "resume"},
        {"--time-limit-lead 1m", "time-limit-lead", "time-limit"},
        {"--trace-steps 0-99", "trace-steps", "trace or --timeline"},
    };
    for (size_t row = 0; row < sizeof rows / sizeof *rows; row++) {
        char expected[160];
        snprintf(expected, sizeof expected,
                 "--%s does nothing without --%s: leave it out, or give that too", rows[row].name,
                 rows[row].without);
        assert_generate_refused(rows[row].typed, expected);
    }
    static const char *const good[] = {
        "--checkpoint-interval 1m --checkpoint-kv never --keep-checkpoint --checkpoint d",
        "--restore kv --resume --checkpoint d", "--time-limit-lead 1m --time-limit auto",
        "--trace-steps 1 --trace t.h5", "--trace-steps 1 --timeline t.json"};
    for (size_t row = 0; row < sizeof good / sizeof *good; row++) {
        struct options options;
        struct line line;
        char typed[160];
        snprintf(typed, sizeof typed, "generate -m m -i i -o o %s", good[row]);
        assert_parses(&options, &line, typed);
        options_close(&options);
    }
}

static uint64_t hash_of(const char *text) {
    struct line line;
    split(&line, text);
    return options_hash(line.n_words, line.word);
}

static void ranks_agree_on_values_not_on_spelling(void **state) {
    (void)state;
    uint64_t hash = hash_of("generate -m m -i a b -o c --slots 2");
    assert_true(hash == hash_of("generate --slots=2 -o c -ia --input b --model m"));
    assert_true(hash == hash_of("generate -m m -i a b -o c --slots 2 --role model"));
    assert_true(hash == hash_of("generate -m m -i a b -o c --slots 2 --deadline 1m --seed 0"));
    assert_true(hash != hash_of("generate -m m -i a b -o c --slots 1"));
    assert_true(hash != hash_of("generate -m m -i b a -o c --slots 2"));
    assert_true(hash != hash_of("generate -m m -i a b -o c --slots 2 --seed 1"));
    assert_true(hash_of("generate -m m -i a -o c --partition heads=2") !=
                hash_of("generate -m m -i a -o c --partition heads=3"));
    assert_true(hash_of("generate -m m -i a -o c --partition heads=2") !=
                hash_of("generate -m m -i a -o c --partition sequences=2,heads=2"));
    assert_true(hash != hash_of("generate -m m -i a b -o c --slots 2 --errors c"));
}

static enum options_wish wish_of(const char *text, enum command *command) {
    struct line line;
    split(&line, text);
    return options_wants(line.n_words, line.word, command);
}

static void help_and_version_are_recognised(void **state) {
    (void)state;
    enum command command = COMMANDS;
    assert_int_equal(wish_of("--help", &command), OPTIONS_HELP);
    assert_int_equal(wish_of("help", &command), OPTIONS_HELP);
    assert_int_equal(wish_of("--version", &command), OPTIONS_VERSION);
    assert_int_equal(wish_of("version", &command), OPTIONS_VERSION);
    assert_int_equal(wish_of("help slices", &command), OPTIONS_COMMAND_HELP);
    assert_int_equal(command, COMMAND_SLICES);
    assert_int_equal(wish_of("generate -m x --help", &command), OPTIONS_COMMAND_HELP);
    assert_int_equal(command, COMMAND_GENERATE);
    assert_int_equal(wish_of("inspect -- --help", &command), OPTIONS_RUN);
    assert_int_equal(wish_of("generate -m x", &command), OPTIONS_RUN);
    assert_int_equal(wish_of("bench --help", &command), OPTIONS_HELP);
    assert_int_equal(wish_of("bench wire --help", &command), OPTIONS_COMMAND_HELP);
    assert_int_equal(command, COMMAND_BENCH_WIRE);
    assert_int_equal(wish_of("help bench step", &command), OPTIONS_COMMAND_HELP);
    assert_int_equal(command, COMMAND_BENCH_STEP);
    assert_int_equal(wish_of("sweep", &command), OPTIONS_RUN);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_those_of_the_manual),
        cmocka_unit_test(file_and_text_options_land),
        cmocka_unit_test(sampling_options_land),
        cmocka_unit_test(layout_and_memory_options_land),
        cmocka_unit_test(steps_are_all_or_some),
        cmocka_unit_test(other_commands_take_their_file_as_a_word),
        cmocka_unit_test(benches_are_commands_of_two_words),
        cmocka_unit_test(unknown_words_are_named),
        cmocka_unit_test(missing_values_are_named),
        cmocka_unit_test(bad_values_are_named_with_what_is_allowed),
        cmocka_unit_test(unbuilt_parts_are_refused_by_name),
        cmocka_unit_test(contradictions_are_named),
        cmocka_unit_test(options_that_would_do_nothing_are_named),
        cmocka_unit_test(ranks_agree_on_values_not_on_spelling),
        cmocka_unit_test(help_and_version_are_recognised),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
