/* fuzz_journal.c - any records in a journal of right checksums: reading must give one clear line,
 * or a rank of which everything can be made.
 *
 * The input is the records, 64 bytes each; they are sealed here, since no fuzzer finds checksums,
 * and what is left over is a torn end. The head is a fixed one of a run of two ranks.
 *
 *   fuzz_journal -max_len=4096 CORPUS tests/fuzz/journal
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../src/job/trace_parts.h"
#include "../scratch.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

static char path[256], folder[256];
static struct replacement place;

static void remove_folder(void) {
    scratch_close(NULL);
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    if (scratch_open(NULL) != 0 || !freopen("/dev/null", "w", stdout)) abort();
    log_setup(LOG_QUIET, false);
    atexit(remove_folder);
    snprintf(path, sizeof path, "%s", scratch_path("journal"));
    snprintf(folder, sizeof folder, "%s", scratch_path("timeline"));
    place = (struct replacement){"--timeline", folder, strdup(scratch_path("temporary"))};
    return 0;
}

static struct journal_head head_of(int rank) {
    return (struct journal_head){.trace = {.uuid = "u",
                                           .config = "{}",
                                           .n_ranks = 2,
                                           .model_ranks = 1,
                                           .attention_ranks = 1,
                                           .heads = 1,
                                           .sequences = 1,
                                           .last_step = INT32_MAX},
                                 .rank = {.rank = rank, .role = rank}};
}

/* The same records for both ranks: a message may find its other end. */
static bool read_rank(int number, const uint8_t *data, size_t n_bytes, struct trace_rank *rank) {
    struct journal_head head = head_of(number);
    struct record record[64];
    struct fault fault = {0};
    if (n_bytes > sizeof record) n_bytes = sizeof record;
    memcpy(record, data, n_bytes);
    journal_seal(record, n_bytes / sizeof *record, 0);
    unlink(path);
    int fd = journal_make(path, &head);
    if (fd < 0 || write(fd, record, n_bytes) != (ssize_t)n_bytes) abort();
    close(fd);
    bool good = journal_read(path, &head, rank, &fault);
    if (good == (fault.kind != FAULT_NONE) || strchr(fault.text, '\n')) abort();
    return good;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
    struct journal_head head = head_of(0);
    struct fault fault = {0};
    struct trace_rank rank;
    struct timeline *timeline = timeline_begin(&place, &head.trace, &fault);
    struct summary *summary = summary_begin(&head.trace);
    if (!timeline) abort();
    for (int number = 0; number < 2; number++) {
        if (!read_rank(number, data, n_bytes, &rank)) continue;
        timeline_put(timeline, &rank);
        summary_put(summary, &rank);
        size_t n;
        free(trace_turns(&rank, &n));
        trace_rank_close(&rank);
    }
    summary_end(summary);
    return timeline_end(timeline, &fault) ? 0 : (abort(), 0);
}
