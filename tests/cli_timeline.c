/* The timeline of real runs: valid JSON, lanes and bars that do not overlap, every message paired
 * with the bar that sent it and the bar that took it.
 *
 *   cli_timeline LAMINA MPIEXEC
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cli.h"

struct bar {
    int pid, tid;
    double begin, end; /* us */
    const char *name;
    int64_t bytes;
    bool turn;
    int slot, step, slice; /* of a turn */
};

static struct {
    json_t *file;
    struct bar *bar;
    size_t n_bars;
} timeline;

static double number_of(const json_t *event, const char *key) {
    const json_t *value = json_object_get(event, key);
    if (!json_is_number(value)) fail_msg("an event has no %s", key);
    return json_number_value(value);
}

static const char *text_of(const json_t *event, const char *key) {
    const json_t *value = json_object_get(event, key);
    if (!json_is_string(value)) fail_msg("an event has no %s", key);
    return json_string_value(value);
}

static bool is_phase(const json_t *event, const char *phase) {
    return strcmp(text_of(event, "ph"), phase) == 0;
}

static json_t *events(void) {
    return json_object_get(timeline.file, "traceEvents");
}

static int compare_bars(const void *a, const void *b) {
    const struct bar *x = a, *y = b;
    if (x->pid != y->pid) return x->pid - y->pid;
    if (x->tid != y->tid) return x->tid - y->tid;
    return (x->begin > y->begin) - (x->begin < y->begin);
}

static void open_timeline(const char *name) {
    size_t at;
    json_t *event;
    timeline.file = load(name);
    assert_true(json_is_array(events()));
    timeline.bar = calloc(json_array_size(events()), sizeof *timeline.bar);
    timeline.n_bars = 0;
    json_array_foreach(events(), at, event) {
        if (!is_phase(event, "X")) continue;
        double begin = number_of(event, "ts"), us = number_of(event, "dur");
        assert_true(begin >= 0 && us >= 0);
        const json_t *args = json_object_get(event, "args");
        timeline.bar[timeline.n_bars++] = (struct bar){
            .pid = (int)number_of(event, "pid"),
            .tid = (int)number_of(event, "tid"),
            .begin = begin,
            .end = begin + us,
            .name = text_of(event, "name"),
            .bytes = json_integer_value(json_object_get(args, "bytes")),
            .turn = strcmp(text_of(event, "cat"), "turn") == 0,
            .slot = (int)json_integer_value(json_object_get(args, "slot")),
            .step = (int)json_integer_value(json_object_get(args, "step")),
            .slice = (int)json_integer_value(json_object_get(args, "slice")),
        };
    }
    qsort(timeline.bar, timeline.n_bars, sizeof *timeline.bar, compare_bars);
}

static void close_timeline(void) {
    free(timeline.bar);
    json_decref(timeline.file);
}

static int n_bars(const char *name, int pid_above) {
    int n = 0;
    for (size_t at = 0; at < timeline.n_bars; at++)
        n += timeline.bar[at].pid > pid_above && strcmp(timeline.bar[at].name, name) == 0;
    return n;
}

static int64_t bytes_of(const char *name) {
    int64_t n_bytes = 0;
    for (size_t at = 0; at < timeline.n_bars; at++)
        n_bytes += strcmp(timeline.bar[at].name, name) == 0 ? timeline.bar[at].bytes : 0;
    return n_bytes;
}

/* A rank does one thing at a time: bars of a lane follow each other, but for the turn around them.
 */
static void bars_do_not_overlap(void) {
    const struct bar *before = NULL;
    for (size_t at = 0; at < timeline.n_bars; at++) {
        const struct bar *bar = &timeline.bar[at];
        if (bar->turn) continue;
        if (before && before->pid == bar->pid && before->tid == bar->tid &&
            bar->begin < before->end - 0.002)
            fail_msg("%s at %.3f begins before %s ends at %.3f", bar->name, bar->begin,
                     before->name, before->end);
        before = bar;
    }
}

static bool has_lane(int pid, int tid, const char *kind, const char *wanted) {
    size_t at;
    json_t *event;
    json_array_foreach(events(), at, event) {
        if (is_phase(event, "M") && (int)number_of(event, "pid") == pid &&
            (tid < 0 || (int)number_of(event, "tid") == tid) &&
            strcmp(text_of(event, "name"), kind) == 0 &&
            strncmp(text_of(json_object_get(event, "args"), "name"), wanted, strlen(wanted)) == 0)
            return true;
    }
    return false;
}

/* A turn is on its slot's lane, and reaches from the first of its bars to the last. */
static void turns_enclose_their_bars(void) {
    int n_turns = 0;
    for (size_t at = 0; at < timeline.n_bars; at++) {
        const struct bar *turn = &timeline.bar[at];
        char lane[32];
        double begin = 0, end = 0;
        if (!turn->turn) continue;
        snprintf(lane, sizeof lane, "slot %d", turn->slot);
        assert_true(has_lane(turn->pid, turn->tid, "thread_name", lane));
        for (size_t other = 0; other < timeline.n_bars; other++) {
            const struct bar *bar = &timeline.bar[other];
            if (bar->turn || bar->pid != turn->pid || bar->tid != turn->tid ||
                bar->begin < turn->begin - 0.0005 || bar->end > turn->end + 0.0005)
                continue;
            if (end == 0) begin = bar->begin;
            end = bar->end;
        }
        assert_float_equal(turn->begin, begin, 0.0015);
        assert_float_equal(turn->end, end, 0.0015);
        n_turns++;
    }
    assert_true(n_turns > 0);
}

static const struct bar *bar_at(const json_t *event, const char *name) {
    double moment = number_of(event, "ts");
    int pid = (int)number_of(event, "pid"), tid = (int)number_of(event, "tid");
    for (size_t at = 0; at < timeline.n_bars; at++) {
        const struct bar *bar = &timeline.bar[at];
        if (bar->pid == pid && bar->tid == tid && bar->begin - 0.0005 <= moment &&
            moment <= bar->end + 0.0005 && strcmp(bar->name, name) == 0)
            return bar;
    }
    return NULL;
}

/* Events `first` and `second` of the same id are pairs, in this order of time; calls `visit` for
 * those named `message`. Returns how many these are. */
static int each_pair(const char *first, const char *second, const char *message,
                     void (*visit)(const json_t *begin, const json_t *end)) {
    size_t at, n_ids = json_array_size(events());
    json_t *event, **begin = calloc(n_ids, sizeof *begin);
    int n = 0, n_open = 0;
    json_array_foreach(events(), at, event) {
        if (!is_phase(event, first) && !is_phase(event, second)) continue;
        size_t id = (size_t)number_of(event, "id");
        assert_true(id < n_ids);
        if (is_phase(event, first)) {
            assert_null(begin[id]);
            begin[id] = event;
            n_open++;
            continue;
        }
        assert_non_null(begin[id]);
        n_open--;
        assert_string_equal(text_of(begin[id], "name"), text_of(event, "name"));
        assert_true(number_of(begin[id], "ts") <= number_of(event, "ts"));
        if (strcmp(text_of(event, "name"), message) != 0) continue;
        visit(begin[id], event);
        n++;
    }
    assert_int_equal(n_open, 0);
    free(begin);
    return n;
}

static const char *sent_by, *taken_by; /* names of bars */
static int64_t n_flown;                /* bytes */

static void arrow_joins_bars(const json_t *begin, const json_t *end) {
    if (!bar_at(begin, sent_by)) fail_msg("an arrow begins outside %s", sent_by);
    if (!bar_at(end, taken_by)) fail_msg("an arrow ends outside %s", taken_by);
    assert_true(number_of(begin, "pid") != number_of(end, "pid"));
}

static void count_flight(const json_t *begin, const json_t *end) {
    (void)end;
    n_flown += json_integer_value(json_object_get(json_object_get(begin, "args"), "bytes"));
}

/* All `n` messages have an arrow between the bars named, and were on their way. */
static void messages_are_joined(const char *message, const char *sends, const char *takes, int n) {
    sent_by = sends;
    taken_by = takes;
    n_flown = 0;
    assert_true(n > 0);
    assert_int_equal(each_pair("s", "f", message, arrow_joins_bars), n);
    assert_int_equal(each_pair("b", "e", message, count_flight), n);
    if (strcmp(message, "STEP") != 0) assert_int_equal(n_flown, bytes_of(sends));
}

static bool has_turn(int pid, int slot, int step) {
    for (size_t at = 0; at < timeline.n_bars; at++) {
        const struct bar *bar = &timeline.bar[at];
        if (bar->turn && bar->pid == pid && bar->slot == slot && bar->step == step) return true;
    }
    return false;
}

/* Steps that an attention rank begins and whose headers were sent in a step that is drawn too: the
 * first header of a slot is sent before the loop, others may be in a step without rows. */
static int n_headers_drawn(void) {
    int n = 0;
    for (size_t at = 0; at < timeline.n_bars; at++) {
        const struct bar *bar = &timeline.bar[at];
        n += bar->turn && bar->pid > 1 && bar->slice == 0 && has_turn(1, bar->slot, bar->step - 1);
    }
    return n;
}

static int make_inputs(void **state) {
    if (cli_open(state) != 0) return -1;
    FILE *file = fopen(scratch_path("in.jsonl"), "w");
    if (!file) return -1;
    for (int request = 0; request < 5; request++)
        write_prompt(file, request, 3 + 40 * request, 6 + request);
    return fclose(file);
}

/* ---- tests ------------------------------------------------------------------------------------
 */

static void ranks_and_messages_are_drawn(int n_ranks, const char *options) {
    char all[256];
    snprintf(all, sizeof all,
             "-i in.jsonl -o out.jsonl --overwrite --max-rows 64 "
             "--timeline t.json %s",
             options);
    assert_int_equal(generate(n_ranks, all), 0);
    says(said, "timeline: ");
    open_timeline("t.json");
    assert_true(has_lane(1, -1, "process_name", "rank 0 model"));
    for (int pid = 1; pid <= n_ranks; pid++) {
        if (pid > 1) assert_true(has_lane(pid, -1, "process_name", "rank"));
        assert_true(has_lane(pid, -1, "thread_name", "slot 0"));
        assert_true(has_lane(pid, -1, "thread_name", "slot 1"));
        assert_true(has_lane(pid, -1, "thread_name", "start"));
    }
    bars_do_not_overlap();
    turns_enclose_their_bars();
    assert_true(n_bars("load weights", 0) > 0 && n_bars("matmul", 0) > 0 &&
                n_bars("attend cached", 1) > 0 && n_bars("attend newest", 1) > 0 &&
                n_bars("append KV", 1) > 0 && n_bars("sample", 0) > 0);
    messages_are_joined("Q", "scatter Q", "gather Q", n_bars("gather Q", 1));
    messages_are_joined("KV", "scatter KV", "gather KV", n_bars("gather KV", 1));
    messages_are_joined("OUT", "scatter OUT", "gather OUT", n_bars("scatter OUT", 1));
    messages_are_joined("STEP", "books", "take header", n_headers_drawn());
    close_timeline();
}

static void heads_are_drawn(void **state) {
    (void)state;
    ranks_and_messages_are_drawn(3, "--slots 2");
}

/* With three owners and few sequences, most turns leave some owner out. */
static void owners_left_out_are_no_matter(void **state) {
    (void)state;
    ranks_and_messages_are_drawn(4, "--slots 2 --partition sequences=3 --max-batch 2");
}

static void one_process_is_drawn(void **state) {
    (void)state;
    assert_int_equal(generate(1, "-i in.jsonl -o alone.jsonl --timeline t.json"), 0);
    open_timeline("t.json");
    bars_do_not_overlap();
    turns_enclose_their_bars();
    assert_true(n_bars("attend", 0) > 0 && n_bars("load weights", 0) == 1);
    assert_int_equal(n_bars("gather OUT", 0), 0);
    assert_true(has_lane(1, -1, "thread_name", "slot 0") &&
                !has_lane(1, -1, "thread_name", "slot 1"));
    close_timeline();
}

int main(int argc, char **argv) {
    if (!cli_take(argc, argv)) return 2;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(heads_are_drawn),
        cmocka_unit_test(owners_left_out_are_no_matter),
        cmocka_unit_test(one_process_is_drawn),
    };
    return cmocka_run_group_tests(tests, make_inputs, cli_close);
}
