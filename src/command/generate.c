/* generate.c - `lamina generate`: compose a run, walk it, say how it ended.
 *
 * What decodes is opened by the stages of compose.h; between them stands the leader's text side.
 * The leader reads the requests; attention ranks never open a file.
 */
#include "generate.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint.h"
#include "clock.h"
#include "compose.h"
#include "dry_run.h"
#include "json_text.h"
#include "log.h"
#include "time_limit.h"
#include "trace.h"

/* ---- signals ----------------------------------------------------------------------------------
 */

static volatile sig_atomic_t stop_requested; /* the signal's number, or 1 for a reason of our own */

static void on_stop(int number) {
    bool again = stop_requested > 1 && number != SIGUSR1;
    if (again) check_exit_now(128 + number);
    stop_requested = number;
}

static void on_stop_elsewhere(int number) {
    (void)number; /* the leader decides; the headers tell */
}

/* Only the leader acts on a signal. */
static void catch_signals(bool leader) {
    static const int caught[] = {SIGINT, SIGTERM, SIGUSR1};
    struct sigaction action = {.sa_handler = leader ? on_stop : on_stop_elsewhere,
                               .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    for (size_t at = 0; at < sizeof caught / sizeof *caught; at++)
        sigaction(caught[at], &action, NULL);
}

/* ---- stages of opening ------------------------------------------------------------------------
 */

/* Tokenizer, template and output: the leader's side of the desk. */
static void open_text(struct run *run, struct fault *fault) {
    const struct options *options = run->options;
    if (!run->topology.leader) return;
    char fingerprint[33], shown[512];
    source_fingerprint(&run->source, &run->model, fingerprint);
    if (!compose_text(&run->source, &run->model, options, &run->tokenizer, &run->chat_template,
                      &run->template_fault, fault))
        return;
    if (!time_limit_open(&run->time_limit, options, &run->environment, run->begin_ns, fault) ||
        !checkpoint_lock(&run->checkpoint, options, fault))
        return;
    if (!results_open(&run->results, options, fingerprint, fault)) return;
    if (options->resume && !results_all_answered(run->results, &run->all_answered, fault)) return;
    if (!checkpoint_find(run->checkpoint, results_uuid(run->results), fingerprint, &run->progress,
                         fault))
        return;
    if (options->checkpoint && !run->progress && results_goes_on(run->results) &&
        !run->all_answered)
        log_warning(
            "--checkpoint %s holds no checkpoint of this job that can be used: anything that was "
            "in flight is computed again",
            log_escape(shown, sizeof shown, options->checkpoint, strlen(options->checkpoint)));
    run->rules = (struct request_rules){
        .tokenizer = run->tokenizer,
        .chat_template = run->chat_template,
        .template_fault = &run->template_fault,
        .options = options,
        .context = run->limits.context,
        .kv_tokens = (int64_t)run->limits.n_pages * PAGE_TOKENS,
        .model_name = run->model.name,
    };
}

static void open_desk(struct run *run, struct fault *fault) {
    if (!run->topology.leader) return;
    int ahead = 4 * run->limits.n_slots * run->limits.max_batch;
    if (!desk_open(&run->desk, &run->rules, run->results, run->progress, ahead < 256 ? 256 : ahead,
                   fault))
        return;
    run->supply = desk_supply(run->desk);
}

/* What the report has to know of this rank. */
static struct report_run describe(const struct run *run) {
    return (struct report_run){.options = run->options,
                               .topology = &run->topology,
                               .resources = &run->resources,
                               .limits = &run->limits,
                               .service = &run->service,
                               .device = run->device ? run->device_ops->describe(run->device) : "",
                               .device_id = run->device_id,
                               .device_place = &run->device_place,
                               .wire = run->wire_ops ? run->wire_ops->name : NULL,
                               .budget = run->budget,
                               .model = run->model.name,
                               .patience_s = run->options->deadline_s * PATIENCE};
}

/* What a reader of the trace has to know beside the layout, as JSON. */
static char *describe_config(const struct run *run) {
    static const char *const isas[] = {[ISA_WISH_AUTO] = "auto",
                                       [ISA_WISH_PLAIN] = "plain",
                                       [ISA_WISH_AVX2] = "avx2",
                                       [ISA_WISH_AVX512] = "avx512"};
    const struct options *options = run->options;
    const struct batch_limits *limits = &run->limits;
    const char *device = run->device_ops->describe(run->device);
    struct json_text text = {0};
    char numbers[512];
    snprintf(numbers, sizeof numbers,
             "\"slots\":%d,\"max_batch\":%d,\"max_rows\":%d,\"context\":%d,\"kv_pages\":%d,"
             "\"page_tokens\":%d,\"layers\":%d,\"heads\":%d,\"kv_heads\":%d,\"head_dim\":%d,"
             "\"threads\":%d,\"q_first\":%s,\"wire_progress\":%s,\"kv_type\":\"%s\","
             "\"cpu_isa\":\"%s\",\"wire\":\"%s\"",
             limits->n_slots, limits->max_batch, limits->max_rows, limits->context, limits->n_pages,
             PAGE_TOKENS, run->service.n_layers, limits->n_heads, limits->n_kv_heads,
             limits->head_dim, run->resources.n_threads, options->q_first ? "true" : "false",
             options->wire_progress ? "true" : "false", kv_type_name(options->kv_type),
             isas[options->isa], run->wire_ops ? run->wire_ops->name : "none");
    json_text_literal(&text, "{\"command\":\"generate\",\"device\":");
    json_text_string(&text, device, strlen(device));
    json_text_literal(&text, ",");
    json_text_literal(&text, numbers);
    json_text_literal(&text, "}");
    return text.text;
}

static void open_trace(struct run *run, struct fault *fault) {
    char fingerprint[33] = "", *config = NULL;
    if (run->topology.leader) {
        source_fingerprint(&run->source, &run->model, fingerprint);
        config = describe_config(run);
    }
    struct trace_options options = {
        .options = run->options,
        .topology = &run->topology,
        .begin_ns = run->begin_ns,
        .model = run->model.name,
        .model_fingerprint = fingerprint,
        .config = config,
        .meter = {run->device_id, run->device_ops->energy_uj, run->topology.local_rank}};
    trace_open(&run->trace, &options, fault);
    free(config);
}

static void open_report(struct run *run, struct fault *fault) {
    struct report_run about = describe(run);
    report_start(&about);
    if (run->topology.leader && run->options->checkpoint)
        checkpoint_say_room(run->options, &run->limits, run->service.n_layers);
    open_trace(run, fault);
    if (!run->topology.leader || fault->kind) return;
    report_open(&run->report, &about, fault);
}

/* ---- the loop ---------------------------------------------------------------------------------
 */

/* Once a step: what a checkpoint has to do meanwhile; on the leader progress lines, and ending the
 * walk for a stop, when the desk cannot go on, or for a checkpoint. */
static void tick(void *argument) {
    struct run *run = argument;
    struct fault fault = {0};
    checkpoint_tick(run->checkpoint);
    if (!run->topology.leader) return;
    double checkpoint_s = checkpoint_last_s(run->checkpoint);
    if (!stop_requested && desk_failed(run->desk, &fault)) stop_requested = 1;
    if (!stop_requested && time_limit_due(&run->time_limit, checkpoint_s)) stop_requested = 1;
    struct batch_counts counts = batch_counts(run->batch);
    report_tick(run->report, &counts);
    checkpoint_measure(run->checkpoint, &counts);
    run->halt = stop_requested || checkpoint_due(run->checkpoint);
}

/* Last of all, when the loop could begin: what a checkpoint kept takes its place in it. */
static bool open_checkpoint(struct run *run, struct fault *fault) {
    struct checkpoint_run checkpoint = {.options = run->options,
                                        .topology = &run->topology,
                                        .limits = &run->limits,
                                        .service = &run->service,
                                        .device_ops = run->device_ops,
                                        .device = run->device,
                                        .batch = run->batch,
                                        .decode = run->decode,
                                        .desk = run->desk,
                                        .patience_s = run->options->deadline_s * PATIENCE};
    return checkpoint_open(&run->checkpoint, &checkpoint, fault);
}

/* Open everything up to the loop. False with a fault agreed by all ranks. */
static bool open_run(struct run *run, struct fault *fault) {
    if (!compose_machine(run, fault)) return false;
    open_text(run, fault); /* last of what may be refused, for it may empty an output */
    if (!compose_agree(run, fault, "opening of the output")) return false;
    topology_broadcast(&run->topology, &run->all_answered, sizeof run->all_answered,
                       "what is answered already", run->options->deadline_s);
    if (run->all_answered) return true;
    open_report(run, fault);
    if (!compose_agree(run, fault, "opening of the status file")) return false;
    compose_wire(run, fault); /* all at once, not one by one when they have read their weights */
    int64_t now = clock_span(SPAN_START, 0, 0, run->begin_ns);
    compose_weights(run);
    now = clock_span(SPAN_LOAD, 0, (int64_t)run->weights.file_bytes, now);
    if (!compose_agree(run, fault, "loading of weights")) return false;
    open_desk(run, fault); /* last of what may fail: its thread is the loop's to end */
    if (!compose_agree(run, fault, "opening of the input")) return false;
    compose_decode(run, &run->supply, &run->halt, tick, run);
    if (!open_checkpoint(run, fault)) return false;
    clock_span(SPAN_START, 0, 0, now);
    return true;
}

static void close_run(struct run *run, int code) {
    if (run->desk) { /* the loop was not reached */
        struct fault fault = {0};
        desk_stop(run->desk);
        desk_close(run->desk, &run->desk_counts, &fault);
    }
    checkpoint_close(run->checkpoint, code == EXIT_DONE || code == EXIT_REQUESTS);
    compose_close_decode(run);
    trace_close(run->trace);
    if (run->results) results_close(run->results);
    tokenizer_close(run->tokenizer);
    compose_close(run);
    clock_record_close();
}

/* The leader's exit code, after the desk has written what is finished. */
static int end_desk(struct run *run) {
    struct fault fault = {0};
    if (stop_requested) desk_stop(run->desk);
    struct desk *desk = run->desk;
    run->desk = NULL;
    if (!desk_close(desk, &run->desk_counts, &fault)) {
        log_error("%s", fault.text);
        return (int)fault.kind;
    }
    const struct result_counts *results = &run->desk_counts.results;
    bool unfinished = run->desk_counts.n_running > 0 || !run->desk_counts.all_read ||
                      run->desk_counts.n_ready > 0;
    return stop_requested && unfinished                     ? EXIT_RESUMABLE
           : results->n_failed + results->n_kept_failed > 0 ? EXIT_REQUESTS
                                                            : EXIT_DONE;
}

/* Walk the list of turns to its end, with a checkpoint between one walk and the next. */
static void walk(struct run *run) {
    bool stop;
    do {
        run->halt = stop_requested;
        decode_run(run->decode);
        stop = run->topology.leader && stop_requested;
        if (stop) batch_stop(run->batch);
    } while (checkpoint_between(run->checkpoint, stop));
}

/* The loop, and what is said and written of it. Returns the leader's exit code. */
static int decode(struct run *run) {
    int code = EXIT_DONE;
    struct report_run about = describe(run);
    struct batch_counts counts;
    if (run->report) report_begin(run->report, run->desk);
    int64_t begin_ns = clock_now_ns();
    walk(run);
    struct report_end end = {.loop_s = (double)(clock_now_ns() - begin_ns) * 1e-9};
    if (run->topology.leader) {
        counts = batch_counts(run->batch); /* of generations that the desk releases */
        code = end_desk(run);
        end.counts = &counts;
        end.latencies = batch_latencies(run->batch);
        end.desk = &run->desk_counts;
    }
    report_summary(run->report, &about, &end);
    trace_write(run->trace);
    return code;
}

/* An exit code that all ranks agree on, everything closed; what to do next is said last of all. */
static int end_run(struct run *run, int code) {
    topology_broadcast(&run->topology, &code, sizeof code, "the end of the job",
                       run->options->deadline_s * PATIENCE);
    struct report *report = run->report;
    close_run(run, code);
    report_close(report, code);
    return code;
}

int generate_run(int argc, char **argv, const struct options *options) {
    if (options->dry_run) return dry_run(options, options_hash(argc, argv));
    struct run run = {.options = options, .begin_ns = clock_now_ns()};
    struct fault fault = {0};
    if (!compose_ranks(&run, options_hash(argc, argv), &fault)) return (int)fault.kind;
    catch_signals(run.topology.leader);
    clock_record_open();
    int code = EXIT_DONE;
    if (!open_run(&run, &fault)) {
        if (run.topology.leader) log_error("%s", fault.text);
        code = (int)fault.kind;
    } else if (!run.all_answered) {
        code = decode(&run);
    } else if (run.topology.leader) {
        struct report_run about = describe(&run);
        code = report_all_answered(&about, results_counts(run.results));
    }
    return end_run(&run, code);
}
