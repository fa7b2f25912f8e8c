/* options_table.c - every option of every command, one row each. See options_table.h.
 *
 * Owns names, defaults, ranges and help texts: parsing, help, the refusals and the hash over ranks
 * read them here, and a test holds the man pages against these rows, so an option is added by
 * adding a row (and its man page entry). Spelling follows vLLM for sampling and llama.cpp for the
 * letters; `also` lists what those and others call the same thing, for suggestions only: a second
 * accepted spelling would have to be kept for ever.
 *
 * An option of a part that is not built is a row with `unbuilt`, or a value with one. Reading such
 * an option and dropping it would change what a job does without a word; refusing it unknown would
 * send people looking for a typing mistake.
 */
#include "options_table.h"

#include <string.h>

#define TARGET(member) .target = (int)offsetof(struct options, member)
#define LENGTH(array)  (sizeof(array) / sizeof(array)[0])

enum {
    FOR_LOOP = FOR_GENERATE | FOR_BENCH_STEP,    /* decode over the ranks of a job */
    FOR_DEVICE = FOR_LOOP | FOR_BENCH_ATTENTION, /* computes */
    FOR_BENCHES = FOR_BENCH_STEP | FOR_BENCH_ATTENTION | FOR_BENCH_WIRE,
    FOR_LENGTHS = FOR_BENCH_STEP | FOR_BENCH_ATTENTION,
    FOR_ALL = FOR_GENERATE | FOR_SLICES | FOR_INSPECT | FOR_BENCHES
};

static const struct option_choice output_orders[] = {
    {"completion", OUTPUT_COMPLETION, NULL}, {"input", OUTPUT_INPUT, NULL}, {0}};
static const struct option_choice input_orders[] = {
    {"input", ORDER_INPUT, NULL}, {"longest", ORDER_LONGEST, NULL}, {0}};
static const struct option_choice roles[] = {{"auto", ROLE_WISH_AUTO, NULL},
                                             {"model", ROLE_WISH_MODEL, NULL},
                                             {"attention", ROLE_WISH_ATTENTION, NULL},
                                             {0}};
static const struct option_choice kv_types[] = {
    {"f32", KV_F32, NULL}, {"f16", KV_F16, NULL}, {"bf16", KV_BF16, NULL}, {0}};
static const struct option_choice checkpoint_kvs[] = {{"auto", CHECKPOINT_KV_AUTO, NULL},
                                                      {"always", CHECKPOINT_KV_ALWAYS, NULL},
                                                      {"never", CHECKPOINT_KV_NEVER, NULL},
                                                      {0}};
static const struct option_choice restores[] = {{"auto", RESTORE_AUTO, NULL},
                                                {"kv", RESTORE_KV, NULL},
                                                {"recompute", RESTORE_RECOMPUTE, NULL},
                                                {0}};
static const struct option_choice isas[] = {{"auto", ISA_WISH_AUTO, NULL},
                                            {"plain", ISA_WISH_PLAIN, NULL},
                                            {"avx2", ISA_WISH_AVX2, NULL},
                                            {"avx512", ISA_WISH_AVX512, NULL},
                                            {0}};
static const struct option_choice log_levels[] = {{"quiet", LOG_QUIET, NULL},
                                                  {"error", LOG_ERROR, NULL},
                                                  {"warning", LOG_WARNING, NULL},
                                                  {"note", LOG_NOTE, NULL},
                                                  {"info", LOG_INFO, NULL},
                                                  {"debug", LOG_DEBUG, NULL},
                                                  {0}};
static const struct option_choice devices[] = {{"auto", DEVICE_WISH_AUTO, NULL},
                                               {"cpu", DEVICE_WISH_CPU, NULL},
                                               {"cuda", DEVICE_WISH_CUDA, NULL},
                                               {0}};
static const struct option_choice wires[] = {{"auto", WIRE_WISH_AUTO, NULL},
                                             {"mpi", WIRE_WISH_MPI, NULL},
                                             {"nccl", WIRE_WISH_NCCL, NULL},
                                             {"device", WIRE_WISH_DEVICE, NULL},
                                             {0}};
static const struct option_choice prefills[] = {
    {"auto", 0, NULL},
    {"attention", 0, NULL},
    {"model", 0, "prefill prompts on model ranks and hand their KV cache over"},
    {0}};
static const struct option_choice formats[] = {{"table", SHEET_TABLE, NULL},
                                               {"csv", SHEET_CSV, NULL},
                                               {"json", SHEET_JSON, NULL},
                                               {"jsonl", SHEET_JSONL, NULL},
                                               {0}};
static const struct option_choice shares[] = {{"auto", 0, NULL}, {0}};
static const struct option_choice time_limits[] = {{"auto", TIME_LIMIT_AUTO, NULL}, {0}};

/* clang-format off */
static const struct option_row rows[] = {
    /* ---- files ---- */
    {.name = "model", .letter = 'm', .group = GROUP_FILES,
     .commands = FOR_GENERATE | FOR_SLICES | FOR_INSPECT | FOR_LENGTHS, .kind = OPTION_TEXT,
     .argument = "FILE|shape:SHAPE", TARGET(model),
     .help = "model file (GGUF), any part of a split one; or a shape: llama-3-8b, others in the "
             "man page, or a config.json",
     .also = "model-path hf-model"},
    {.name = "input", .letter = 'i', .group = GROUP_FILES, .commands = FOR_GENERATE,
     .kind = OPTION_FILES, .argument = "FILE...", .target = NO_TARGET,
     .help = "requests: OpenAI Batch JSONL, simple JSONL or .txt; several files in order; - is "
             "standard input",
     .also = "input-file prompt-file file"},
    {.name = "output", .letter = 'o', .group = GROUP_FILES, .commands = FOR_GENERATE,
     .kind = OPTION_TEXT, .argument = "FILE", TARGET(output),
     .help = "answers, one line a request; - is standard output", .also = "output-file out"},
    {.name = "errors", .group = GROUP_FILES, .commands = FOR_GENERATE, .kind = OPTION_TEXT,
     .argument = "FILE", TARGET(errors), .derived = "the output",
     .help = "lines of failed requests go here", .also = "error-file"},
    {.name = "output", .letter = 'o', .group = GROUP_FILES, .commands = FOR_INSPECT,
     .kind = OPTION_TEXT, .argument = "FILE", TARGET(output),
     .help = "of the journals of a killed run: make its HDF5 trace"},
    {.name = "output-order", .group = GROUP_FILES, .commands = FOR_GENERATE, .kind = OPTION_CHOICE,
     .argument = "completion|input", TARGET(output_order), .choice = output_orders,
     .initial = "completion",
     .help = "write answers as they finish, or in the order of the input"},
    {.name = "order", .group = GROUP_FILES, .commands = FOR_GENERATE, .kind = OPTION_CHOICE,
     .argument = "input|longest", TARGET(order), .choice = input_orders, .initial = "input",
     .help = "start requests as they come, or the longest of those at hand first"},
    {.name = "resume", .group = GROUP_FILES, .commands = FOR_GENERATE, .kind = OPTION_FLAG,
     TARGET(resume), .constant = true,
     .help = "go on with an output that is there: only requests without an answer are run",
     .also = "continue"},
    {.name = "overwrite", .group = GROUP_FILES, .commands = FOR_GENERATE, .kind = OPTION_FLAG,
     TARGET(overwrite), .constant = true,
     .help = "replace an output that is there", .also = "force"},
    {.name = "retry-failed", .group = GROUP_FILES, .commands = FOR_GENERATE, .kind = OPTION_FLAG,
     TARGET(retry_failed), .constant = true, .needs = "resume",
     .help = "with --resume: run requests again whose line is an error"},
    {.name = "strict", .group = GROUP_FILES, .commands = FOR_GENERATE, .kind = OPTION_FLAG,
     TARGET(strict), .constant = true,
     .help = "unknown keys fail a request; with --resume, so do requests that have changed"},
    {.name = "dry-run", .group = GROUP_FILES, .commands = FOR_GENERATE, .kind = OPTION_FLAG,
     TARGET(dry_run), .constant = true,
     .help = "check options, model header and every input line, print what would be done, stop"},
    {.name = "dot", .group = GROUP_FILES, .commands = FOR_SLICES, .kind = OPTION_FLAG, TARGET(dot),
     .constant = true,
     .help = "print a Graphviz digraph instead of text"},
    {.name = "output", .letter = 'o', .group = GROUP_FILES, .commands = FOR_BENCHES,
     .kind = OPTION_TEXT, .argument = "FILE", TARGET(output), .derived = "standard output",
     .help = "the results; a file that is there is replaced when they are complete"},

    /* ---- measurement ---- */
    {.name = "batch", .group = GROUP_MEASURE, .commands = FOR_LENGTHS, .kind = OPTION_LIST,
     .argument = "LIST", TARGET(batch), .least = 1, .most = 1e6, .initial = "1",
     .help = "sequences (of each slot); LIST is 1,8,32, 1-8, 0-100+25 or 512-8192*2"},
    {.name = "length", .group = GROUP_MEASURE, .commands = FOR_LENGTHS, .kind = OPTION_LIST,
     .argument = "LIST", TARGET(length), .least = 1, .most = 1e9, .initial = "512",
     .help = "tokens of each sequence in the cache"},
    {.name = "ragged", .group = GROUP_MEASURE, .commands = FOR_BENCH_ATTENTION,
     .kind = OPTION_INT, .argument = "N", TARGET(ragged), .least = 1, .most = 1024, .initial = "1",
     .help = "every point once more with lengths from 1/N to N times --length and the same total",
     .also = "random-range-ratio random-actual-seq-len spread"},
    {.name = "sizes", .group = GROUP_MEASURE, .commands = FOR_BENCH_WIRE, .kind = OPTION_SIZES,
     .argument = "LIST", TARGET(sizes), .least = 16, .most = 1 << 30, .initial = "16-64M*4",
     .help = "bytes of a block, multiples of 16"},
    {.name = "fan", .group = GROUP_MEASURE, .commands = FOR_BENCH_WIRE, .kind = OPTION_LIST,
     .argument = "LIST", TARGET(fan), .least = 1, .most = 64, .initial = "1,2,4",
     .help = "blocks of a message, dealt to the other ranks in turn"},
    {.name = "heads", .group = GROUP_MEASURE, .commands = FOR_BENCH_ATTENTION, .kind = OPTION_INT,
     .argument = "N", TARGET(n_heads), .least = 1, .most = 4096,
     .derived = "the model's, or 32", .help = "query heads"},
    {.name = "kv-heads", .group = GROUP_MEASURE, .commands = FOR_BENCH_ATTENTION,
     .kind = OPTION_INT, .argument = "N", TARGET(n_kv_heads), .least = 1, .most = 4096,
     .derived = "the model's, or 8", .help = "KV heads"},
    {.name = "head-dim", .group = GROUP_MEASURE, .commands = FOR_BENCH_ATTENTION,
     .kind = OPTION_INT, .argument = "N", TARGET(head_dim), .least = 1, .most = 4096,
     .derived = "the model's, or 128", .help = "numbers of a head"},
    {.name = "repeat", .letter = 'r', .group = GROUP_MEASURE, .commands = FOR_BENCHES,
     .kind = OPTION_INT, .argument = "N", TARGET(repeat), .least = 1, .most = 1e6, .initial = "5",
     .help = "measurements of each point"},
    {.name = "warmup", .group = GROUP_MEASURE, .commands = FOR_BENCHES, .kind = OPTION_INT,
     .argument = "N", TARGET(warmup), .most = 1e6, .initial = "1",
     .help = "measurements before them that are not counted"},
    {.name = "footprint", .group = GROUP_MEASURE, .commands = FOR_LENGTHS, .kind = OPTION_SIZE,
     .argument = "SIZE", TARGET(footprint), .initial = "1G",
     .help = "bytes to walk through before any is read again: several times the caches"},
    {.name = "seed", .letter = 's', .group = GROUP_MEASURE, .commands = FOR_BENCHES,
     .kind = OPTION_SEED, .argument = "N", TARGET(seed), .initial = "0",
     .help = "of weights, caches and messages that are made up"},
    {.name = "format", .group = GROUP_MEASURE, .commands = FOR_BENCHES, .kind = OPTION_CHOICE,
     .argument = "table|csv|json|jsonl", TARGET(format), .choice = formats, .initial = "table",
     .help = "how results are written", .also = "output-format"},

    /* ---- text ---- */
    {.name = "chat", .group = GROUP_TEXT, .commands = FOR_GENERATE, .kind = OPTION_FLAG,
     TARGET(chat), .constant = true,
     .help = "plain prompts (.txt) become user messages", .also = "conversation"},
    {.name = "system", .group = GROUP_TEXT, .commands = FOR_GENERATE, .kind = OPTION_TEXT,
     .argument = "TEXT", TARGET(system), .needs = "chat",
     .help = "with --chat: the system message in front of them",
     .also = "system-prompt system-message"},
    {.name = "chat-template", .group = GROUP_TEXT, .commands = FOR_GENERATE, .kind = OPTION_TEXT,
     .argument = "NAME", TARGET(chat_template), .derived = "the model file's",
     .help = "a recognised template by name"},

    /* ---- sampling ---- */
    {.name = "max-tokens", .letter = 'n', .group = GROUP_SAMPLING, .commands = FOR_GENERATE,
     .kind = OPTION_INT, .argument = "N", TARGET(max_tokens), .least = 1, .most = 1e9,
     .derived = "the rest of the context",
     .help = "tokens generated for each choice at most",
     .also = "n-predict predict max-new-tokens max-completion-tokens"},
    {.name = "min-tokens", .group = GROUP_SAMPLING, .commands = FOR_GENERATE, .kind = OPTION_INT,
     .argument = "N", TARGET(min_tokens), .most = 1e9, .initial = "0",
     .help = "tokens generated before any may end the answer", .also = "min-new-tokens"},
    {.name = "ignore-eos", .group = GROUP_SAMPLING, .commands = FOR_GENERATE, .kind = OPTION_FLAG,
     TARGET(ignore_eos), .constant = true,
     .help = "the model's end tokens do not end an answer"},
    {.name = "temperature", .group = GROUP_SAMPLING, .commands = FOR_GENERATE, .kind = OPTION_REAL,
     .argument = "T", TARGET(temperature), .most = 100, .initial = "0",
     .help = "0 is greedy", .also = "temp"},
    {.name = "top-p", .group = GROUP_SAMPLING, .commands = FOR_GENERATE, .kind = OPTION_REAL,
     .argument = "P", TARGET(top_p), .most = 1, .above_least = true, .initial = "1",
     .help = "the likeliest tokens whose probabilities reach P; 1 is all"},
    {.name = "top-k", .group = GROUP_SAMPLING, .commands = FOR_GENERATE, .kind = OPTION_INT,
     .argument = "K", TARGET(top_k), .most = 1e9, .initial = "0",
     .help = "the K likeliest tokens; 0 is all"},
    {.name = "min-p", .group = GROUP_SAMPLING, .commands = FOR_GENERATE, .kind = OPTION_REAL,
     .argument = "P", TARGET(min_p), .most = 1, .initial = "0",
     .help = "tokens at least P times as likely as the likeliest; 0 is all"},
    {.name = "presence-penalty", .group = GROUP_SAMPLING, .commands = FOR_GENERATE,
     .kind = OPTION_REAL, .argument = "X", TARGET(presence_penalty), .least = -2, .most = 2,
     .initial = "0",
     .help = "off the logit of every token generated before"},
    {.name = "frequency-penalty", .group = GROUP_SAMPLING, .commands = FOR_GENERATE,
     .kind = OPTION_REAL, .argument = "X", TARGET(frequency_penalty), .least = -2, .most = 2,
     .initial = "0",
     .help = "the same, times how often it was generated"},
    {.name = "repetition-penalty", .group = GROUP_SAMPLING, .commands = FOR_GENERATE,
     .kind = OPTION_REAL, .argument = "X", TARGET(repetition_penalty), .most = 100,
     .above_least = true, .initial = "1",
     .help = "divides positive logits of tokens in prompt or answer, multiplies negative ones; 1 "
             "is off",
     .also = "repeat-penalty"},
    {.name = "seed", .letter = 's', .group = GROUP_SAMPLING, .commands = FOR_GENERATE,
     .kind = OPTION_SEED, .argument = "N", TARGET(seed), .initial = "0",
     .help = "a request without a seed gets one made from this and its custom_id"},

    /* ---- layout ---- */
    {.name = "model-ranks", .group = GROUP_LAYOUT, .commands = FOR_LOOP, .kind = OPTION_INT,
     .argument = "A", TARGET(model_ranks), .least = 1, .most = 1e6, .derived = "1",
     .help = "ranks that hold the weights", .built_most = 1,
     .beyond = "split or replicate the model over several model ranks"},
    {.name = "attention-ranks", .group = GROUP_LAYOUT, .commands = FOR_LOOP, .kind = OPTION_INT,
     .argument = "B", TARGET(attention_ranks), .most = 1e6, .derived = "all other ranks",
     .help = "ranks that hold the KV cache; 0 is colocated: the model rank does attention itself"},
    {.name = "role", .group = GROUP_LAYOUT, .commands = FOR_LOOP, .kind = OPTION_CHOICE,
     .argument = "auto|model|attention", TARGET(role), .choice = roles, .initial = "auto",
     .help = "role of the ranks of this MPMD component; auto: the first ranks are model ranks"},
    {.name = "partition", .group = GROUP_LAYOUT, .commands = FOR_LOOP, .kind = OPTION_PARTITION,
     .argument = "auto|heads=H,sequences=S", .target = NO_TARGET, .initial = "auto",
     .help = "how attention ranks share the cache: by KV heads, by sequences, or both (H x S = "
             "B); a part left out is 1"},
    {.name = "slots", .group = GROUP_LAYOUT, .commands = FOR_LOOP, .kind = OPTION_INT,
     .argument = "N", TARGET(slots), .least = 1, .most = 1024, .derived = "from the layout",
     .help = "batches in flight: with 2, one computes while the other's attention runs",
     .built_most = 2, .beyond = "rotate more batches over replicated model ranks"},
    {.name = "threads", .letter = 't', .group = GROUP_LAYOUT,
     .commands = FOR_DEVICE | FOR_BENCH_WIRE, .kind = OPTION_INT, .argument = "N", TARGET(threads), .least = 1, .most = 4096,
     .derived = "OMP_NUM_THREADS, SLURM_CPUS_PER_TASK, or the rank's cores",
     .help = "threads of a rank"},
    {.name = "kv-type", .group = GROUP_LAYOUT, .commands = FOR_DEVICE | FOR_SLICES,
     .kind = OPTION_CHOICE, .argument = "f32|f16|bf16", TARGET(kv_type), .choice = kv_types,
     .initial = "bf16",
     .help = "type of the KV cache", .also = "cache-type-k cache-type-v kv-cache-dtype"},
    {.name = "q-first", .group = GROUP_LAYOUT, .commands = FOR_LOOP, .kind = OPTION_SWITCH,
     .argument = "on|off", TARGET(q_first), .initial = "on",
     .help = "attention starts on Q, over what is cached, before K and V are there"},
    {.name = "wire-progress", .group = GROUP_LAYOUT, .commands = FOR_LOOP,
     .kind = OPTION_SWITCH, .argument = "on|off", TARGET(wire_progress), .initial = "on",
     .help = "messages are driven while a rank computes"},
    {.name = "deadline", .group = GROUP_LAYOUT, .commands = FOR_DEVICE | FOR_BENCH_WIRE, .kind = OPTION_DURATION,
     .argument = "DURATION", TARGET(deadline_s), .initial = "60s",
     .help = "longest wait for a message before the job stops, saying for what", .also = "timeout"},
    {.name = "cpu-isa", .group = GROUP_LAYOUT, .commands = FOR_DEVICE, .kind = OPTION_CHOICE,
     .argument = "auto|plain|avx2|avx512", TARGET(isa), .choice = isas, .initial = "auto",
     .help = "instructions of the CPU kernels; all give the same bits"},
    {.name = "model-device", .group = GROUP_LAYOUT, .commands = FOR_LOOP | FOR_BENCH_WIRE,
     .kind = OPTION_CHOICE,
     .argument = "auto|cpu|cuda", TARGET(model_device), .choice = devices, .initial = "auto",
     .help = "what model ranks compute on; auto: a GPU that no other rank has to share"},
    {.name = "attention-device", .group = GROUP_LAYOUT, .commands = FOR_DEVICE | FOR_BENCH_WIRE,
     .kind = OPTION_CHOICE, .argument = "auto|cpu|cuda", TARGET(attention_device),
     .choice = devices, .initial = "auto",
     .help = "what attention ranks compute on; auto: as for model ranks"},
    {.name = "no-cache", .group = GROUP_LAYOUT, .commands = FOR_LOOP, .kind = OPTION_FLAG,
     TARGET(no_cache), .constant = true,
     .help = "GPU kernels are timed anew: choices kept by earlier runs are neither read nor written"},
    {.name = "wire", .group = GROUP_LAYOUT, .commands = FOR_LOOP | FOR_BENCH_WIRE, .kind = OPTION_CHOICE,
     .argument = "auto|mpi|nccl|device", TARGET(wire), .choice = wires, .initial = "auto",
     .help = "what carries messages between ranks; auto: device or nccl between GPUs, else mpi"},
    {.name = "prefill", .group = GROUP_LAYOUT, .commands = FOR_GENERATE, .kind = OPTION_CHOICE,
     .argument = "auto|attention", .target = NO_TARGET, .choice = prefills, .initial = "auto",
     .help = "which ranks do the attention of prompts"},
    {.name = "shares", .group = GROUP_LAYOUT, .commands = FOR_LOOP, .kind = OPTION_CHOICE,
     .argument = "auto", .target = NO_TARGET, .choice = shares, .initial = "auto",
     .help = "how much of the cache each attention rank takes",
     .beyond = "give attention ranks equal or stated shares of the cache"},
    {.name = "model-width", .group = GROUP_LAYOUT, .commands = FOR_LOOP, .kind = OPTION_INT,
     .argument = "W", .target = NO_TARGET,
     .unbuilt = "split the model over W model ranks", .also = "tensor-parallel-size"},
    {.name = "replicas", .group = GROUP_LAYOUT, .commands = FOR_LOOP, .kind = OPTION_INT,
     .argument = "R", .target = NO_TARGET,
     .unbuilt = "rotate batches over R copies of the model", .also = "data-parallel-size"},
    {.name = "groups", .group = GROUP_LAYOUT, .commands = FOR_LOOP, .kind = OPTION_INT,
     .argument = "G", .target = NO_TARGET,
     .unbuilt = "run G independent groups of ranks, fed from the same requests"},
    {.name = "no-prefix-cache", .group = GROUP_LAYOUT, .commands = FOR_GENERATE,
     .kind = OPTION_FLAG, .target = NO_TARGET,
     .unbuilt = "turn off the sharing of cached prompt beginnings, which is not there yet either",
     .also = "no-enable-prefix-caching"},

    /* ---- memory and batch ---- */
    {.name = "context", .letter = 'c', .group = GROUP_MEMORY, .commands = FOR_GENERATE,
     .kind = OPTION_INT, .argument = "N", TARGET(context), .least = 1, .most = 1e9,
     .derived = "the model's",
     .help = "tokens of prompt and answer together at most",
     .also = "ctx-size max-model-len context-length"},
    {.name = "kv-memory", .group = GROUP_MEMORY, .commands = FOR_GENERATE, .kind = OPTION_SIZE,
     .argument = "SIZE", TARGET(kv_memory), .derived = "what the node has left",
     .help = "KV cache of one attention rank"},
    {.name = "kv-tokens", .group = GROUP_MEMORY, .commands = FOR_GENERATE, .kind = OPTION_COUNT,
     .argument = "N", TARGET(kv_tokens), .least = 1, .most = 1e15, .derived = "from the memory",
     .help = "KV cache of all attention ranks, in tokens"},
    {.name = "max-batch", .group = GROUP_MEMORY, .commands = FOR_GENERATE, .kind = OPTION_INT,
     .argument = "N", TARGET(max_batch), .least = 1, .most = 1e6, .derived = "32",
     .help = "sequences of a slot at most", .also = "max-num-seqs parallel batch-size"},
    {.name = "max-rows", .group = GROUP_MEMORY, .commands = FOR_GENERATE, .kind = OPTION_INT,
     .argument = "N", TARGET(max_rows), .least = 1, .most = 1e6,
     .derived = "from the batch",
     .help = "tokens computed in one step of a slot, prompt chunks included, at most",
     .also = "max-num-batched-tokens ubatch-size"},

    /* ---- checkpoint ---- */
    {.name = "checkpoint", .group = GROUP_CHECKPOINT, .commands = FOR_GENERATE, .kind = OPTION_TEXT,
     .argument = "DIR", TARGET(checkpoint),
     .help = "keep requests in flight and their KV cache in this folder, for --resume to go on with"},
    {.name = "checkpoint-interval", .group = GROUP_CHECKPOINT, .commands = FOR_GENERATE,
     .kind = OPTION_DURATION, .argument = "DURATION", TARGET(checkpoint_interval_s),
     .initial = "10m", .needs = "checkpoint", .help = "from one checkpoint to the next"},
    {.name = "checkpoint-kv", .group = GROUP_CHECKPOINT, .commands = FOR_GENERATE,
     .kind = OPTION_CHOICE, .argument = "WHEN", TARGET(checkpoint_kv), .initial = "auto",
     .choice = checkpoint_kvs, .needs = "checkpoint",
     .help = "keep the KV cache too: auto while the folder has room for it; without it resumed "
             "requests are computed again from their tokens"},
    {.name = "keep-checkpoint", .group = GROUP_CHECKPOINT, .commands = FOR_GENERATE,
     .kind = OPTION_FLAG, TARGET(keep_checkpoint), .constant = true, .needs = "checkpoint",
     .help = "leave the last checkpoints when everything is answered"},
    {.name = "restore", .group = GROUP_CHECKPOINT, .commands = FOR_GENERATE, .kind = OPTION_CHOICE,
     .argument = "HOW", TARGET(restore), .initial = "auto", .choice = restores,
     .needs = "checkpoint resume",
     .help = "get the KV cache back from the checkpoint's files or from the tokens; auto: what is "
             "estimated to be faster"},
    {.name = "time-limit", .group = GROUP_CHECKPOINT, .commands = FOR_GENERATE,
     .kind = OPTION_DURATION, .argument = "DURATION|auto", TARGET(time_limit_s),
     .choice = time_limits, .derived = "none",
     .help = "stop, as on USR1, in time before this is over; auto asks Slurm when the job ends",
     .also = "time walltime max-time"},
    {.name = "time-limit-lead", .group = GROUP_CHECKPOINT, .commands = FOR_GENERATE,
     .kind = OPTION_DURATION, .argument = "DURATION", TARGET(time_limit_lead_s), .initial = "60s",
     .needs = "time-limit",
     .help = "the stop comes this and twice the time of the last checkpoint before the limit"},

    /* ---- talk ---- */
    {.name = "progress-interval", .group = GROUP_TALK, .commands = FOR_GENERATE,
     .kind = OPTION_DURATION, .argument = "DURATION", TARGET(progress_interval_s),
     .derived = "5s for a minute, then 60s",
     .help = "between progress lines in a log"},
    {.name = "status", .group = GROUP_TALK, .commands = FOR_GENERATE, .kind = OPTION_TEXT,
     .argument = "FILE", TARGET(status),
     .help = "the progress line as JSON, replaced atomically"},
    {.name = "timeline", .group = GROUP_TALK, .commands = FOR_GENERATE, .kind = OPTION_TEXT,
     .argument = "FILE", TARGET(timeline),
     .help = "what every rank did when, as JSON for Perfetto or chrome://tracing"},
    {.name = "trace", .group = GROUP_TALK, .commands = FOR_GENERATE, .kind = OPTION_TEXT,
     .argument = "FILE", TARGET(trace),
     .help = "the same with batch sizes, KV pages and energy, as HDF5; lamina inspect reads it"},
    {.name = "trace-steps", .group = GROUP_TALK, .commands = FOR_GENERATE, .kind = OPTION_STEPS,
     .argument = "A-B|all", TARGET(trace_steps), .initial = "0-99", .needs = "trace|timeline",
     .help = "steps of a slot whose every part is recorded; of the others, clocks and sizes"},
    {.name = "timeline", .group = GROUP_TALK, .commands = FOR_INSPECT, .kind = OPTION_TEXT,
     .argument = "FILE", TARGET(timeline),
     .help = "of a trace: write it as JSON for Perfetto or chrome://tracing"},
    {.name = "csv", .group = GROUP_TALK, .commands = FOR_INSPECT, .kind = OPTION_TEXT,
     .argument = "DIR", TARGET(csv),
     .help = "of a trace: write its tables as CSV files into this folder"},
    {.name = "trace-steps", .group = GROUP_TALK, .commands = FOR_INSPECT, .kind = OPTION_STEPS,
     .argument = "A-B|all", TARGET(trace_steps), .initial = "all",
     .help = "of a trace: only the spans of these steps"},
    {.name = "log-level", .group = GROUP_TALK, .commands = FOR_ALL, .kind = OPTION_CHOICE,
     .argument = "LEVEL", TARGET(log_level), .choice = log_levels, .initial = "note",
     .help = "quiet, error, warning, note, info or debug"},
    {.name = "log-json", .group = GROUP_TALK, .commands = FOR_ALL, .kind = OPTION_FLAG,
     TARGET(log_json), .constant = true,
     .help = "every message is a JSON object"},
    {.name = "quiet", .letter = 'q', .group = GROUP_TALK, .commands = FOR_ALL,
     .kind = OPTION_CONSTANT, TARGET(log_level), .constant = LOG_ERROR,
     .help = "the same as --log-level error", .also = "silent"},
};
/* clang-format on */

const struct option_row *options_rows(size_t *n) {
    *n = LENGTH(rows);
    return rows;
}

const char *options_group_title(enum option_group group) {
    static const char *const titles[OPTION_GROUPS] = {
        [GROUP_FILES] = "Files",
        [GROUP_MEASURE] = "Measurement",
        [GROUP_TEXT] = "Text",
        [GROUP_SAMPLING] = "Sampling (a request's own values come first)",
        [GROUP_LAYOUT] = "Layout",
        [GROUP_MEMORY] = "Memory and batch",
        [GROUP_CHECKPOINT] = "Checkpoint",
        [GROUP_TALK] = "Messages",
    };
    return titles[group];
}

static const struct command_row commands[] = {
    [COMMAND_GENERATE] = {"generate", "-m MODEL -i FILE... -o FILE [OPTION...]",
                          "answer files of prompts", NULL},
    [COMMAND_SLICES] = {"slices", "-m MODEL [--dot] [OPTION...]",
                        "print what the converter made of a model", NULL},
    [COMMAND_INSPECT] = {"inspect", "FILE...|DIR [OPTION...]",
                         "print what a model file, a checkpoint or a trace holds", NULL},
    [COMMAND_BENCH_STEP] = {"bench step", "-m MODEL [OPTION...]",
                            "time steps of decoding against what memory gives", NULL},
    [COMMAND_BENCH_ATTENTION] = {"bench attention", "[-m MODEL] [OPTION...]",
                                 "time the attention operator against what memory gives", NULL},
    [COMMAND_BENCH_WIRE] = {"bench wire", "[OPTION...]",
                            "time messages between ranks, and compare their bytes", NULL},
    [COMMANDS] = {"bench replay", "", "", "play the requests of a trace at their times"},
    {"sweep", "", "", "measure many layouts and price them"},
    {"plan", "", "", "predict throughput and cost of layouts from a few measurements"},
};

const struct command_row *options_commands(size_t *n) {
    *n = LENGTH(commands);
    return commands;
}

const struct option_row *options_find(const char *name, size_t n_bytes, enum command command) {
    for (size_t row = 0; row < LENGTH(rows); row++) {
        bool taken = rows[row].commands & 1u << command;
        if (taken && strlen(rows[row].name) == n_bytes && !memcmp(rows[row].name, name, n_bytes))
            return &rows[row];
    }
    return NULL;
}

int options_match_command(const struct command_row *row, int argc, char **argv) {
    const char *name = row->name;
    for (int word = 1; word < argc; word++) {
        size_t n_bytes = strcspn(name, " ");
        if (strlen(argv[word]) != n_bytes || memcmp(argv[word], name, n_bytes)) return 0;
        if (!name[n_bytes]) return word;
        name += n_bytes + 1;
    }
    return 0;
}

int command_find(int argc, char **argv, enum command *command) {
    size_t n;
    const struct command_row *row = options_commands(&n);
    for (size_t index = 0; index < n; index++) {
        int n_words = row[index].unbuilt ? 0 : options_match_command(&row[index], argc, argv);
        if (n_words == 0) continue;
        *command = (enum command)index;
        return n_words;
    }
    return 0;
}

const char *command_name(enum command command) {
    size_t n;
    return options_commands(&n)[command].name;
}

const char *kv_type_name(enum kv_type type) {
    static const char *const names[] = {[KV_F32] = "f32", [KV_F16] = "f16", [KV_BF16] = "bf16"};
    return names[type];
}
