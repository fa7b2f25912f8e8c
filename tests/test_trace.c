/* The trace of a run as files: journals cut at every byte and with flipped bits, the HDF5 file read
 * back and damaged, turns, energy counters that begin again. What is expected was put there by
 * hand.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <hdf5.h>

#include "../src/job/trace_parts.h"
#include "graph.h"
#include "scratch.h"
#include "trace.h"
#include "wire.h"

enum { RECORDS = 9, RECORD_BYTES = 64 };

static const int64_t ORIGIN = 5000, OFFSET = 700; /* so that a journal's time t is t - 4300 */

/* ---- a journal made by hand -------------------------------------------------------------------
 */

static struct journal_head some_head(int rank) {
    struct journal_head head = {.origin_ns = ORIGIN,
                                .trace = {.uuid = "11111111-2222-4333-8444-555555555555",
                                          .created = "2026-01-02T03:04:05.000000Z",
                                          .creator = "lamina test",
                                          .model = "m\"odel",
                                          .fingerprint = "0123456789abcdef0123456789abcdef",
                                          .config = "{\"slots\":2}",
                                          .n_ranks = 3,
                                          .model_ranks = 1,
                                          .attention_ranks = 2,
                                          .heads = 2,
                                          .sequences = 1,
                                          .last_step = INT32_MAX},
                                .rank = {.rank = rank,
                                         .role = rank ? ROLE_ATTENTION : ROLE_MODEL,
                                         .head_index = rank > 0 ? rank - 1 : 0,
                                         .host = "somewhere",
                                         .energy_source = "none: a test",
                                         .clock_offset_ns = OFFSET}};
    return head;
}

/* Record `at`: spans, but for a step and an energy reading; the last ends the journal. */
static struct record some_record(int at) {
    struct record record = {.serial = at < 6 ? at : 7};
    memset(&record.as, 0xff, sizeof record.as); /* no byte is zero by chance */
    if (at == RECORDS - 1) {
        record.type = RECORD_END;
    } else if (at == 3) {
        record.type = RECORD_STEP;
        record.as.step = (struct step_span){10300, 10399, 8, 1, 5, 4, 3, 2, 2, 1};
    } else if (at == 6) {
        record.type = RECORD_ENERGY;
        record.serial = 6;
        record.as.energy = (struct trace_energy){10600, 123456789012345, 1};
    } else {
        record.type = RECORD_SPAN;
        record.serial = at < 6 ? at : 6;
        record.as.span = (struct span){.begin_ns = 10000 + 100 * at,
                                       .end_ns = 10050 + 100 * at,
                                       .n_bytes = INT64_C(1) << (30 + at),
                                       .step = 8,
                                       .slice = (int16_t)at,
                                       .slot = 1,
                                       .peer = -1,
                                       .kind = SPAN_COMPUTE,
                                       .label = OP_MATMUL};
    }
    return record;
}

/* In the folder; returns its size. */
static size_t make_journal(const char *name, int rank) {
    struct journal_head head = some_head(rank);
    struct record record[RECORDS];
    struct stat status;
    unlink(name);
    int fd = journal_make(name, &head);
    assert_true(fd >= 0);
    for (int at = 0; at < RECORDS; at++)
        record[at] = some_record(at);
    journal_seal(record, RECORDS, 0);
    assert_int_equal(write(fd, record, sizeof record), sizeof record);
    assert_int_equal(fstat(fd, &status), 0);
    close(fd);
    return (size_t)status.st_size;
}

/* What was said on standard error while a journal was read; NULL when reading failed. */
static char said[4096];
static struct fault fault;

static bool read_journal(const char *name, struct trace_rank *rank) {
    struct journal_head head;
    char log[256];
    snprintf(log, sizeof log, "%s", scratch_path("said"));
    int kept = dup(STDERR_FILENO);
    FILE *file = fopen(log, "w+");
    assert_true(kept >= 0 && file && dup2(fileno(file), STDERR_FILENO) >= 0);
    fault = (struct fault){0};
    bool good = journal_read(name, &head, rank, &fault);
    assert_true(dup2(kept, STDERR_FILENO) >= 0);
    close(kept);
    rewind(file);
    size_t n_bytes = fread(said, 1, sizeof said - 1, file);
    said[n_bytes] = 0;
    fclose(file);
    return good;
}

static void says(const char *wanted) {
    if (!strstr(said, wanted)) fail_msg("'%s' is not in: %s", wanted, said);
}

/* The spans among the first `n` records but `without`, shifted to the leader's time 0. */
static void holds_spans(const struct trace_rank *rank, int n, int without) {
    size_t n_spans = 0, n_steps = 0, n_energy = 0;
    for (int at = 0; at < n; at++) {
        struct record record = some_record(at);
        if (at == without) continue;
        n_steps += record.type == RECORD_STEP;
        n_energy += record.type == RECORD_ENERGY;
        if (record.type != RECORD_SPAN) continue;
        assert_true(n_spans < rank->n_spans);
        const struct span *span = &rank->span[n_spans++];
        assert_true(span->begin_ns == 10000 + 100 * at - 4300);
        assert_true(span->end_ns == 10050 + 100 * at - 4300);
        assert_true(span->n_bytes == INT64_C(1) << (30 + at) && span->slice == at);
    }
    assert_int_equal(rank->n_spans, n_spans);
    assert_int_equal(rank->n_steps, n_steps);
    assert_int_equal(rank->n_energy, n_energy);
}

/* ---- journals ---------------------------------------------------------------------------------
 */

static void whole_journals_are_read(void **state) {
    (void)state;
    struct trace_rank rank;
    char name[256];
    snprintf(name, sizeof name, "%s", scratch_path("whole"));
    make_journal(name, 2);
    assert_true(read_journal(name, &rank));
    assert_string_equal(said, "");
    holds_spans(&rank, RECORDS, -1);
    assert_true(rank.step[0].begin_ns == 6000 && rank.step[0].end_ns == 6099);
    assert_true(rank.step[0].n_pages_used == 3 && rank.step[0].n_recomputed_rows == 1);
    assert_true(rank.energy[0].at_ns == 6300 && rank.energy[0].energy_uj == 123456789012345);
    assert_true(rank.head.rank == 2 && rank.head.complete == 1 && rank.head.n_missing == 0);
    assert_string_equal(rank.head.host, "somewhere");
    trace_rank_close(&rank);
}

/* A run that was killed: any number of bytes of the last four records is there. */
static void torn_ends_are_cut_off(void **state) {
    (void)state;
    char name[256], offset[64];
    snprintf(name, sizeof name, "%s", scratch_path("torn"));
    size_t size = make_journal(name, 0), head_bytes = size - RECORDS * RECORD_BYTES;
    for (size_t n_bytes = size - 4 * RECORD_BYTES; n_bytes < size; n_bytes++) {
        struct trace_rank rank;
        make_journal(name, 0);
        assert_int_equal(truncate(name, (off_t)n_bytes), 0);
        assert_true(read_journal(name, &rank));
        int n_whole = (int)((n_bytes - head_bytes) / RECORD_BYTES);
        holds_spans(&rank, n_whole, -1);
        assert_int_equal(rank.head.complete, 0);
        assert_int_equal(rank.head.n_missing, 0);
        size_t end = head_bytes + (size_t)n_whole * RECORD_BYTES;
        snprintf(offset, sizeof offset, "torn: torn at byte %zu: the last %zu bytes", end,
                 n_bytes - end);
        if (n_bytes > end) says(offset);
        if (n_bytes == end) assert_string_equal(said, "");
        trace_rank_close(&rank);
    }
}

/* A host that went down may leave a file that is longer than what was written into it. */
static void ends_without_content_are_cut_off(void **state) {
    (void)state;
    char name[256];
    struct trace_rank rank;
    snprintf(name, sizeof name, "%s", scratch_path("zeros"));
    size_t size = make_journal(name, 0);
    for (size_t n_lost = 1; n_lost <= 3 * RECORD_BYTES; n_lost++) {
        make_journal(name, 0);
        assert_int_equal(truncate(name, (off_t)(size - n_lost)), 0);
        assert_int_equal(truncate(name, (off_t)(size + 1000)), 0); /* zeros */
        assert_true(read_journal(name, &rank));
        holds_spans(&rank, RECORDS - (int)((n_lost + RECORD_BYTES - 1) / RECORD_BYTES), -1);
        says("zeros: torn at byte ");
        trace_rank_close(&rank);
    }
}

static void flip(const char *name, size_t byte, int bit) {
    size_t n_bytes;
    unsigned char *bytes = scratch_read(name, &n_bytes);
    assert_true(bytes && byte < n_bytes);
    bytes[byte] ^= (unsigned char)(1 << bit);
    assert_true(scratch_write(name, bytes, n_bytes));
    free(bytes);
}

/* Any bit of a record in the middle: it alone is left out, and named. */
static void flipped_bits_are_named(void **state) {
    (void)state;
    char name[256], wanted[400];
    snprintf(name, sizeof name, "%s", scratch_path("flipped"));
    size_t size = make_journal(name, 1), head_bytes = size - RECORDS * RECORD_BYTES;
    size_t begin = head_bytes + 4 * RECORD_BYTES;
    snprintf(wanted, sizeof wanted, "%s: damaged at byte %zu: 1 of %d records", name, begin,
             RECORDS);
    for (size_t byte = 0; byte < RECORD_BYTES; byte++) {
        struct trace_rank rank;
        make_journal(name, 1);
        flip(name, begin + byte, (int)(byte % 8));
        assert_true(read_journal(name, &rank));
        holds_spans(&rank, RECORDS, 4);
        says(wanted);
        assert_int_equal(rank.head.n_missing, 1);
        assert_int_equal(rank.head.complete, 1);
        trace_rank_close(&rank);
    }
}

/* Right by itself, but not where it stands. */
static void records_in_other_places_are_damaged(void **state) {
    (void)state;
    char name[256];
    struct trace_rank rank;
    size_t n_bytes;
    snprintf(name, sizeof name, "%s", scratch_path("moved"));
    size_t head_bytes = make_journal(name, 1) - RECORDS * RECORD_BYTES;
    unsigned char *bytes = scratch_read(name, &n_bytes);
    memcpy(bytes + head_bytes + 2 * RECORD_BYTES, bytes + head_bytes + RECORD_BYTES, RECORD_BYTES);
    assert_true(scratch_write(name, bytes, n_bytes));
    free(bytes);
    assert_true(read_journal(name, &rank));
    holds_spans(&rank, RECORDS, 2);
    says("moved: damaged at byte ");
    trace_rank_close(&rank);
}

/* Sealed as it should be, by another program than ours. */
static void impossible_spans_are_refused(void **state) {
    (void)state;
    char name[256];
    snprintf(name, sizeof name, "%s", scratch_path("impossible"));
    for (int wrong = 0; wrong < 7; wrong++) {
        struct journal_head head = some_head(0);
        struct record record = some_record(0);
        struct span *span = &record.as.span;
        struct trace_rank rank;
        if (wrong == 0) span->kind = SPAN_KINDS;
        if (wrong == 1) span->label = OPS;
        if (wrong == 2) span->slot = 100;
        if (wrong == 3) span->end_ns = span->begin_ns - 1;
        if (wrong == 4) span->step = INT32_MAX;
        if (wrong == 5) span->n_bytes = -1;
        journal_seal(&record, 1, 0);
        unlink(name);
        int fd = journal_make(name, &head);
        assert_true(fd >= 0);
        assert_int_equal(write(fd, &record, sizeof record), sizeof record);
        close(fd);
        bool good = read_journal(name, &rank);
        if (good != (wrong == 6)) fail_msg("number %d", wrong);
        if (!good) assert_non_null(strstr(fault.text, "impossible: numbers that cannot be"));
        trace_rank_close(&rank);
    }
}

static void heads_are_checked(void **state) {
    (void)state;
    char name[256];
    struct trace_rank rank;
    snprintf(name, sizeof name, "%s", scratch_path("head"));
    size_t head_bytes = make_journal(name, 1) - RECORDS * RECORD_BYTES;
    for (size_t byte = 0; byte < sizeof(struct journal_head); byte += 7) {
        make_journal(name, 1);
        flip(name, byte, 3);
        if (read_journal(name, &rank)) fail_msg("a bit of byte %zu was flipped", byte);
        assert_int_equal(fault.kind, FAULT_USER);
        assert_non_null(strstr(fault.text, name));
    }
    for (size_t n_bytes = 0; n_bytes < head_bytes; n_bytes += 5) {
        make_journal(name, 1);
        assert_int_equal(truncate(name, (off_t)n_bytes), 0);
        assert_false(read_journal(name, &rank));
        assert_int_equal(fault.kind, FAULT_USER);
    }
    make_journal(name, 1);
    flip(name, 16, 1); /* major 1 -> 3 */
    assert_false(read_journal(name, &rank));
    assert_non_null(strstr(fault.text, "a journal of version 3.0"));
}

static bool inspect(const char *first, const char *const *more, int n_more, const char *output) {
    struct options options = {.command = COMMAND_INSPECT,
                              .model = first,
                              .input = more,
                              .n_inputs = n_more,
                              .output = output,
                              .trace_steps = {0, INT32_MAX}};
    fault = (struct fault){0};
    return trace_inspect(&options, &fault);
}

static void journals_are_of_one_run_and_of_other_ranks(void **state) {
    (void)state;
    char first[256], again[256], other[256], plain[256];
    snprintf(first, sizeof first, "%s", scratch_path("rank0"));
    snprintf(again, sizeof again, "%s", scratch_path("rank0-again"));
    snprintf(other, sizeof other, "%s", scratch_path("other-run"));
    snprintf(plain, sizeof plain, "%s", scratch_path("plain"));
    make_journal(first, 0);
    make_journal(again, 0);
    struct journal_head head = some_head(1);
    head.trace.uuid[0] = '9';
    unlink(other);
    close(journal_make(other, &head));
    assert_true(scratch_write(plain, "GGUF or so", 10));
    assert_false(inspect(first, (const char *[]){again}, 1, NULL));
    assert_non_null(strstr(fault.text, "are both of rank 0"));
    assert_false(inspect(first, (const char *[]){other}, 1, NULL));
    assert_non_null(strstr(fault.text, "is of run 91111111-"));
    assert_false(inspect(first, (const char *[]){plain}, 1, NULL));
    assert_non_null(strstr(fault.text, "plain: not a journal"));
    assert_int_equal(fault.kind, FAULT_USER);
}

/* ---- HDF5 -------------------------------------------------------------------------------------
 */

/* Made of journals of ranks 0 and 2; that of rank 1 is not there. */
static const char *make_hdf5(void) {
    static char name[256], zero[256], two[256];
    snprintf(name, sizeof name, "%s", scratch_path("made.h5"));
    snprintf(zero, sizeof zero, "%s", scratch_path("made.0"));
    snprintf(two, sizeof two, "%s", scratch_path("made.2"));
    make_journal(zero, 0);
    make_journal(two, 2);
    if (!inspect(two, (const char *[]){zero}, 1, name)) fail_msg("%s", fault.text);
    return name;
}

/* Elements of a column as the library itself reads them. */
static int64_t read_column(const char *name, const char *column, int64_t *number, hsize_t most) {
    hid_t file = H5Fopen(name, H5F_ACC_RDONLY, H5P_DEFAULT);
    hid_t data_set = H5Dopen2(file, column, H5P_DEFAULT), space = H5Dget_space(data_set);
    hsize_t n = (hsize_t)H5Sget_simple_extent_npoints(space);
    assert_true(file >= 0 && data_set >= 0 && n <= most);
    if (n > 0)
        assert_true(H5Dread(data_set, H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, number) >=
                    0);
    hid_t unit = H5Aopen(data_set, "unit", H5P_DEFAULT);
    assert_true(unit >= 0);
    H5Aclose(unit);
    H5Sclose(space);
    H5Dclose(data_set);
    H5Fclose(file);
    return (int64_t)n;
}

static void hdf5_has_the_records(void **state) {
    (void)state;
    const char *name = make_hdf5();
    int64_t number[RECORDS];
    assert_int_equal(read_column(name, "/ranks/2/spans/begin", number, RECORDS), 6);
    assert_true(number[0] == 5700 && number[5] == 6400);
    assert_int_equal(read_column(name, "/ranks/2/spans/bytes", number, RECORDS), 6);
    assert_true(number[0] == INT64_C(1) << 30 && number[5] == INT64_C(1) << 37);
    assert_int_equal(read_column(name, "/ranks/0/steps/rows", number, RECORDS), 1);
    assert_true(number[0] == 5);
    assert_int_equal(read_column(name, "/ranks/0/energy/energy", number, RECORDS), 1);
    assert_true(number[0] == 123456789012345);
    assert_int_equal(read_column(name, "/ranks/1/spans/begin", number, RECORDS), 0);
    assert_int_equal(read_column(name, "/role_map/rank", number, RECORDS), 3);
    assert_true(number[0] == 0 && number[1] == 1 && number[2] == 2);
    assert_int_equal(read_column(name, "/ranks/2/turns/busy", number, RECORDS), 6);
    assert_true(number[0] == 50 && number[5] == 50);
}

static void hdf5_comes_back_as_it_was(void **state) {
    (void)state;
    const char *name = make_hdf5();
    struct trace_head head;
    struct trace_rank rank;
    fault = (struct fault){0};
    struct trace_hdf5_reader *reader = trace_hdf5_open(name, &head, &fault);
    if (!reader) fail_msg("%s", fault.text);
    struct trace_head wanted = some_head(0).trace;
    assert_memory_equal(&head, &wanted, sizeof head);
    if (!trace_hdf5_get(reader, 2, &rank, &fault)) fail_msg("%s", fault.text);
    holds_spans(&rank, RECORDS, -1);
    struct span span = some_record(7).as.span;
    span.begin_ns -= 4300;
    span.end_ns -= 4300;
    assert_memory_equal(&rank.span[5], &span, sizeof span);
    assert_true(rank.head.role == ROLE_ATTENTION && rank.head.head_index == 1 &&
                rank.head.clock_offset_ns == OFFSET && rank.head.complete == 1);
    trace_rank_close(&rank);
    assert_true(trace_hdf5_get(reader, 1, &rank, &fault)); /* in no journal */
    assert_true(rank.n_spans == 0 && rank.head.role == ROLE_ATTENTION && !rank.head.complete);
    trace_rank_close(&rank);
    trace_hdf5_close(reader);
}

/* Write an attribute anew as this text. */
static void set_attribute(const char *name, const char *attribute, const char *text) {
    hid_t file = H5Fopen(name, H5F_ACC_RDWR, H5P_DEFAULT), type = H5Tcopy(H5T_C_S1);
    hid_t space = H5Screate(H5S_SCALAR);
    H5Tset_size(type, strlen(text) + 1);
    assert_true(H5Adelete(file, attribute) >= 0);
    hid_t made = H5Acreate2(file, attribute, type, space, H5P_DEFAULT, H5P_DEFAULT);
    assert_true(H5Awrite(made, type, text) >= 0);
    H5Aclose(made);
    H5Sclose(space);
    H5Tclose(type);
    H5Fclose(file);
}

static void is_refused(const char *name, const char *wanted) {
    assert_false(inspect(name, NULL, 0, NULL));
    assert_int_equal(fault.kind, FAULT_USER);
    if (!strstr(fault.text, wanted) || !strstr(fault.text, "made.h5"))
        fail_msg("'%s' is not in: %s", wanted, fault.text);
}

static void newer_formats_are_refused(void **state) {
    (void)state;
    set_attribute(make_hdf5(), "format_version", "2.0");
    is_refused(scratch_path("made.h5"), "format_version 2.0 is newer than this lamina reads (1.x)");
    set_attribute(make_hdf5(), "format_version", "1.7");
    struct trace_head head;
    fault = (struct fault){0};
    struct trace_hdf5_reader *reader = trace_hdf5_open(scratch_path("made.h5"), &head, &fault);
    assert_non_null(reader);
    trace_hdf5_close(reader);
    set_attribute(make_hdf5(), "format_version", "none");
    is_refused(scratch_path("made.h5"), "format_version is missing or damaged");
    set_attribute(make_hdf5(), "format", "other\033[2J");
    is_refused(scratch_path("made.h5"), "not a trace of lamina (attribute format: other\\x1b[2J)");
}

static void damaged_files_are_refused(void **state) {
    (void)state;
    size_t n_bytes;
    unsigned char *bytes = scratch_read(make_hdf5(), &n_bytes);
    char name[256];
    snprintf(name, sizeof name, "%s", scratch_path("made.h5"));
    assert_true(scratch_write(name, bytes, n_bytes / 2));
    is_refused(name, "cannot be opened as HDF5: ");
    free(bytes);
    hid_t file = H5Fopen(make_hdf5(), H5F_ACC_RDWR, H5P_DEFAULT);
    hid_t data_set = H5Dopen2(file, "/ranks/2/spans/end", H5P_DEFAULT);
    hid_t space = H5Dget_space(data_set);
    hsize_t n = 0, first = 0;
    haddr_t where = 0;
    unsigned mask;
    assert_true(H5Dget_num_chunks(data_set, space, &n) >= 0 && n == 1);
    assert_true(H5Dget_chunk_info(data_set, space, 0, &first, &mask, &where, &n) >= 0);
    H5Sclose(space);
    H5Dclose(data_set);
    H5Fclose(file);
    flip(name, where + n / 2, 5);
    is_refused(name, "dataset /ranks/2/spans/end is missing or damaged");
    file = H5Fopen(make_hdf5(), H5F_ACC_RDWR, H5P_DEFAULT);
    assert_true(H5Ldelete(file, "/ranks/2/steps/slot", H5P_DEFAULT) >= 0);
    H5Fclose(file);
    is_refused(name, "dataset /ranks/2/steps/slot is missing or damaged");
}

/* ---- what is derived --------------------------------------------------------------------------
 */

static struct span span_of(int kind, int step, int slice, int64_t begin_ns, int64_t end_ns,
                           int64_t n_bytes) {
    return (struct span){.begin_ns = begin_ns,
                         .end_ns = end_ns,
                         .n_bytes = n_bytes,
                         .step = step,
                         .slice = (int16_t)slice,
                         .slot = step < 0 ? -1 : 0,
                         .peer = -1,
                         .kind = (uint8_t)kind};
}

static void turns_are_sums_of_spans(void **state) {
    (void)state;
    struct span span[] = {
        span_of(SPAN_LOAD, -1, -1, 0, 90, 1000),     span_of(SPAN_HEADER, 0, 0, 100, 110, 0),
        span_of(SPAN_ARRIVED, 0, 0, 105, 105, 5),    span_of(SPAN_GATHER_Q, 0, 0, 110, 140, 7),
        span_of(SPAN_ATTEND, 0, 0, 140, 240, 0),     span_of(SPAN_GATHER_KV, 0, 0, 240, 241, 11),
        span_of(SPAN_REPLY, 0, 0, 250, 260, 13),     span_of(SPAN_COMPUTE, 0, 1, 300, 400, 0),
        span_of(SPAN_SCATTER_Q, 0, 1, 400, 410, 17), span_of(SPAN_COMPUTE, 1, 1, 500, 600, 0),
    };
    struct trace_rank rank = {.n_spans = sizeof span / sizeof *span, .span = span};
    size_t n;
    struct trace_turn *turn = trace_turns(&rank, &n);
    assert_int_equal(n, 3);
    assert_true(turn[0].begin_ns == 100 && turn[0].end_ns == 260);
    assert_true(turn[0].wait_ns == 10 + 30 + 1 && turn[0].busy_ns == 100 + 10);
    assert_true(turn[0].received_bytes == 7 + 11 && turn[0].sent_bytes == 13);
    assert_true(turn[1].begin_ns == 300 && turn[1].end_ns == 410 && turn[1].sent_bytes == 17);
    assert_true(turn[2].step == 1 && turn[2].slice == 1 && turn[2].busy_ns == 100);
    free(turn);
}

static void steps_are_chosen(void **state) {
    (void)state;
    struct trace_head head = {.first_step = 2, .last_step = 3};
    struct span before = span_of(SPAN_START, -1, -1, 0, 1, 0), empty;
    assert_true(trace_wants(&head, &before));
    for (int step = 0; step < 6; step++) {
        struct span span = span_of(SPAN_COMPUTE, step, 0, 0, 1, 0);
        assert_int_equal(trace_wants(&head, &span), step == 2 || step == 3);
        empty = span;
        empty.empty = 1;
        assert_false(trace_wants(&head, &empty));
        span.kind = SPAN_ARRIVED; /* may come a step before it is taken, while there are no rows */
        span.empty = 1;
        assert_int_equal(trace_wants(&head, &span), step >= 1 && step <= 3);
    }
}

/* ---- energy -----------------------------------------------------------------------------------
 */

static void write_zone(const char *zone, const char *file, const char *text) {
    char path[512];
    snprintf(path, sizeof path, "%s/sys/class/powercap/%s", scratch_folder, zone);
    mkdir(path, 0777);
    snprintf(path, sizeof path, "%s/sys/class/powercap/%s/%s", scratch_folder, zone, file);
    assert_true(scratch_write(path, text, strlen(text)));
}

static void counters_that_begin_again_are_added_up(void **state) {
    (void)state;
    struct energy energy = {0};
    char source[160], command[256];
    energy_open(&energy, scratch_folder, source, sizeof source);
    assert_int_equal(energy.n, 0);
    assert_string_equal(source, "none: /sys/class/powercap has no package counter");
    snprintf(command, sizeof command, "mkdir -p %s/sys/class/powercap", scratch_folder);
    assert_int_equal(system(command), 0);
    write_zone("intel-rapl:0", "name", "package-0\n");
    write_zone("intel-rapl:0", "max_energy_range_uj", "1000\n");
    write_zone("intel-rapl:0", "energy_uj", "900\n");
    write_zone("intel-rapl:0:0", "name", "core\n"); /* is in its package */
    write_zone("intel-rapl:0:0", "energy_uj", "77\n");
    write_zone("intel-rapl:1", "name", "package-1\n");
    write_zone("intel-rapl:1", "max_energy_range_uj", "262143328850\n");
    write_zone("intel-rapl:1", "energy_uj", "262143000000\n");
    energy_open(&energy, scratch_folder, source, sizeof source);
    assert_int_equal(energy.n, 2);
    assert_string_equal(source, "RAPL: intel-rapl:0 intel-rapl:1");
    write_zone("intel-rapl:0", "energy_uj", "990\n");
    write_zone("intel-rapl:1", "energy_uj", "262143000005\n");
    energy_read(&energy);
    assert_true(energy.sum_uj[0] == 90 && energy.sum_uj[1] == 5);
    write_zone("intel-rapl:0", "energy_uj", "40\n"); /* 10 to the end, 40 from the beginning */
    write_zone("intel-rapl:1", "energy_uj", "7\n");
    energy_read(&energy);
    assert_true(energy.sum_uj[0] == 140 && energy.sum_uj[1] == 5 + 328845 + 7);
    energy_close(&energy);
    write_zone("intel-rapl:0", "energy_uj", "");
    write_zone("intel-rapl:1", "energy_uj", "what\n");
    energy_open(&energy, scratch_folder, source, sizeof source);
    assert_int_equal(energy.n, 0);
    assert_memory_equal(source, "none: counters in /sys/class/powercap: ", 39);
    energy_close(&energy);
}

static int64_t device_uj[3];

static int64_t read_device(int index) {
    return device_uj[index];
}

/* Behind the packages, here none; a reading that fails is passed over. */
static void a_device_is_read_beside_the_processors(void **state) {
    (void)state;
    struct energy energy = {0};
    struct trace_meter meter = {"one", read_device, 2};
    char source[160] = "none: a test", root[600];
    energy_open_device(&energy, &(struct trace_meter){"other", read_device, 1}, source,
                       sizeof source);
    assert_int_equal(energy.n, 1);
    assert_string_equal(source, "none: a test; GPU");
    energy_close(&energy);
    device_uj[2] = -1;
    energy_open_device(&energy, &meter, source, sizeof source);
    assert_int_equal(energy.n, 0);
    assert_string_equal(source, "none: a test; GPU; GPU: cannot be read");
    snprintf(root, sizeof root, "mkdir -p %s/sys/class/powercap", scratch_folder);
    assert_int_equal(system(root), 0);
    write_zone("intel-rapl:0", "name", "package-0\n");
    write_zone("intel-rapl:0", "max_energy_range_uj", "1000\n");
    write_zone("intel-rapl:0", "energy_uj", "900\n");
    write_zone("intel-rapl:1", "energy_uj", "what\n"); /* of the test before */
    device_uj[2] = 7000000000000;
    energy_open(&energy, scratch_folder, source, sizeof source);
    energy_open_device(&energy, &meter, source, sizeof source);
    assert_int_equal(energy.n, 2);
    assert_string_equal(source, "RAPL: intel-rapl:0; GPU");
    device_uj[2] += 42000;
    energy_read(&energy);
    device_uj[2] = -1;
    energy_read(&energy);
    assert_true(energy.sum_uj[0] == 0 && energy.sum_uj[1] == 42000);
    device_uj[2] = 7000000043000;
    write_zone("intel-rapl:0", "energy_uj", "905\n");
    energy_read(&energy);
    assert_true(energy.sum_uj[0] == 5 && energy.sum_uj[1] == 43000);
    energy_close(&energy);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whole_journals_are_read),
        cmocka_unit_test(torn_ends_are_cut_off),
        cmocka_unit_test(ends_without_content_are_cut_off),
        cmocka_unit_test(flipped_bits_are_named),
        cmocka_unit_test(records_in_other_places_are_damaged),
        cmocka_unit_test(impossible_spans_are_refused),
        cmocka_unit_test(heads_are_checked),
        cmocka_unit_test(journals_are_of_one_run_and_of_other_ranks),
        cmocka_unit_test(hdf5_has_the_records),
        cmocka_unit_test(hdf5_comes_back_as_it_was),
        cmocka_unit_test(newer_formats_are_refused),
        cmocka_unit_test(damaged_files_are_refused),
        cmocka_unit_test(turns_are_sums_of_spans),
        cmocka_unit_test(steps_are_chosen),
        cmocka_unit_test(counters_that_begin_again_are_added_up),
        cmocka_unit_test(a_device_is_read_beside_the_processors),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
