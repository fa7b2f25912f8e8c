/* trace_journal.c - a rank's records on disk: written once from front to back, read after whatever
 * happened. See trace_parts.h.
 *
 * A head in blocks of 64 bytes, then records of 64 bytes. Every record has a checksum over itself
 * and its place, so that each stands for itself: what is torn at the end is known by it and cut
 * off, and a damaged one costs no other. Rejected: blocks of many records with one checksum, of
 * which a flipped bit loses all; and HDF5, a file of which is not promised to survive a kill. The
 * bytes are those of the host that wrote them: a journal lives from a run to its end, or to
 * `lamina inspect` after a kill, on the same kind of machine.
 *
 * The invariant: nothing of a file is used before its checksum was found right.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "output.h"
#include "trace_parts.h"

static const char magic[16] = "lamina journal\n";

/* The head as it lies in the file: a whole number of records. */
enum {
    HEAD_BYTES = (sizeof(struct journal_head) + 8 + sizeof(struct record) - 1) /
                 sizeof(struct record) * sizeof(struct record),
    CHUNK_RECORDS = 1 << 14
};
union head_block {
    struct {
        struct journal_head head;
        uint64_t checksum;
    } as;
    char bytes[HEAD_BYTES];
};

static uint64_t head_checksum(const struct journal_head *head) {
    return XXH3_64bits(head, sizeof *head);
}

static uint32_t record_checksum(const struct record *record, int64_t at) {
    return (uint32_t)XXH3_64bits_withSeed((const char *)record + sizeof record->checksum,
                                          sizeof *record - sizeof record->checksum, (uint64_t)at);
}

/* ---- writing ----------------------------------------------------------------------------------
 */

int journal_make(const char *path, const struct journal_head *head) {
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (fd < 0) return -1;
    union head_block block;
    memset(&block, 0, sizeof block);
    block.as.head = *head;
    memcpy(block.as.head.magic, magic, sizeof magic);
    block.as.head.major = TRACE_MAJOR;
    block.as.head.minor = TRACE_MINOR;
    while (trace_kind_name(block.as.head.n_kinds))
        block.as.head.n_kinds++;
    while (trace_label_name(block.as.head.n_labels))
        block.as.head.n_labels++;
    block.as.checksum = head_checksum(&block.as.head);
    ssize_t n_bytes = write(fd, &block, sizeof block);
    if (n_bytes == (ssize_t)sizeof block) return fd;
    int error = n_bytes < 0 ? errno : ENOSPC;
    close(fd);
    unlink(path);
    errno = error;
    return -1;
}

void journal_seal(struct record *record, size_t n, int64_t at) {
    for (size_t number = 0; number < n; number++)
        record[number].checksum = record_checksum(&record[number], at + (int64_t)number);
}

/* ---- reading ----------------------------------------------------------------------------------
 */

struct reading {
    const char *path;
    char shown[512];
    int fd;
    struct fault *fault;
};

static bool open_journal(struct reading *reading, const char *path, struct fault *fault) {
    *reading = (struct reading){.path = path, .fault = fault};
    log_escape(reading->shown, sizeof reading->shown, path, strlen(path));
    struct stat status;
    reading->fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC); /* of a FIFO nobody may write */
    if (reading->fd < 0) return output_fault(fault, "read", path);
    if (fstat(reading->fd, &status) == 0 && S_ISREG(status.st_mode)) return true;
    close(reading->fd);
    return fault_user(fault, "%s: not a journal of a lamina trace: no file", reading->shown);
}

/* Bytes that could be read, fewer than asked for only at the end; -1 with a fault. */
static ssize_t read_at(const struct reading *reading, void *bytes, size_t n_bytes, int64_t from) {
    size_t n_read = 0;
    while (n_read < n_bytes) {
        ssize_t n =
            pread(reading->fd, (char *)bytes + n_read, n_bytes - n_read, from + (int64_t)n_read);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            output_fault(reading->fault, "read", reading->path);
            return -1;
        }
        if (n == 0) break;
        n_read += (size_t)n;
    }
    return (ssize_t)n_read;
}

static bool is_text(const char *text, size_t size) {
    return memchr(text, 0, size) != NULL;
}

/* Strings end, and what is an index or a count is one. */
static bool is_sound(const struct journal_head *head) {
    const struct trace_head *trace = &head->trace;
    const struct trace_rank_head *rank = &head->rank;
    return is_text(trace->uuid, sizeof trace->uuid) &&
           is_text(trace->created, sizeof trace->created) &&
           is_text(trace->creator, sizeof trace->creator) &&
           is_text(trace->model, sizeof trace->model) &&
           is_text(trace->fingerprint, sizeof trace->fingerprint) &&
           is_text(trace->config, sizeof trace->config) && is_text(rank->host, sizeof rank->host) &&
           is_text(rank->energy_source, sizeof rank->energy_source) && trace->n_ranks > 0 &&
           rank->rank >= 0 && rank->rank < trace->n_ranks &&
           (rank->role == ROLE_MODEL || rank->role == ROLE_ATTENTION);
}

static bool read_head(const struct reading *reading, struct journal_head *head) {
    union head_block block;
    struct journal_head known = {.n_kinds = 0};
    ssize_t n_bytes = read_at(reading, &block, sizeof block, 0);
    if (n_bytes < 0) return false;
    if (n_bytes < (ssize_t)sizeof magic || memcmp(block.bytes, magic, sizeof magic) != 0)
        return fault_user(reading->fault, "%s: not a journal of a lamina trace", reading->shown);
    size_t numbers = offsetof(struct journal_head, origin_ns);
    if (n_bytes < (ssize_t)numbers)
        return fault_user(reading->fault, "%s: ends within its head, at byte %zd", reading->shown,
                          n_bytes);
    *head = block.as.head;
    while (trace_kind_name(known.n_kinds))
        known.n_kinds++;
    while (trace_label_name(known.n_labels))
        known.n_labels++;
    if (head->major != TRACE_MAJOR || head->n_kinds != known.n_kinds ||
        head->n_labels != known.n_labels)
        return fault_user(reading->fault,
                          "%s: a journal of version %d.%d, written by another lamina; this one "
                          "reads its own (%d.%d)",
                          reading->shown, head->major, head->minor, TRACE_MAJOR, TRACE_MINOR);
    if (n_bytes < (ssize_t)sizeof block)
        return fault_user(reading->fault, "%s: ends within its head, at byte %zd", reading->shown,
                          n_bytes);
    if (block.as.checksum != head_checksum(head) || !is_sound(head))
        return fault_user(reading->fault,
                          "%s: damaged in its head (bytes 0 to %d): nothing behind it can be told",
                          reading->shown, HEAD_BYTES);
    return true;
}

bool journal_read_head(const char *path, struct journal_head *head, struct fault *fault) {
    struct reading reading;
    if (!open_journal(&reading, path, fault)) return false;
    bool good = read_head(&reading, head);
    close(reading.fd);
    return good;
}

/* What is known of the records while they are walked. */
struct walk {
    int64_t n_records, n_whole; /* in the file; up to the last good one */
    int64_t n_damaged, n_last_damaged, first_damaged, first_last_damaged;
    int64_t n_kept, next_serial; /* spans and steps; the serial of the next one */
    bool ended;
    int64_t shift_ns;
};

static void keep_span(struct trace_rank *rank, struct span span, int64_t shift_ns) {
    span.begin_ns += shift_ns;
    span.end_ns += shift_ns;
    rank->span[rank->n_spans++] = span;
}

static void keep(struct trace_rank *rank, const struct record *record, struct walk *walk) {
    bool counts = record->type == RECORD_SPAN || record->type == RECORD_STEP;
    if (record->type == RECORD_SPAN) keep_span(rank, record->as.span, walk->shift_ns);
    if (record->type == RECORD_STEP) {
        struct step_span *step = &rank->step[rank->n_steps++];
        *step = record->as.step;
        step->begin_ns += walk->shift_ns;
        step->end_ns += walk->shift_ns;
    }
    if (record->type == RECORD_ENERGY) {
        rank->energy[rank->n_energy] = record->as.energy;
        rank->energy[rank->n_energy++].at_ns += walk->shift_ns;
    }
    walk->ended = record->type == RECORD_END;
    walk->n_kept += counts;
    bool possible = record->serial >= 0 && record->serial < INT64_MAX;
    walk->next_serial = possible ? record->serial + counts : INT64_MAX;
}

/* A good record shows that bad ones before it were not torn, but damaged. */
static void take(struct trace_rank *rank, struct record *record, struct walk *walk) {
    int64_t at = walk->n_records++;
    if (record->checksum != record_checksum(record, at)) {
        if (walk->n_last_damaged++ == 0) walk->first_last_damaged = at;
        return;
    }
    if (walk->n_last_damaged > 0 && walk->n_damaged == 0)
        walk->first_damaged = walk->first_last_damaged;
    walk->n_damaged += walk->n_last_damaged;
    walk->n_last_damaged = 0;
    walk->n_whole = at + 1;
    keep(rank, record, walk);
}

static void say_losses(const struct reading *reading, const struct walk *walk, int64_t n_bytes) {
    int64_t end = HEAD_BYTES + walk->n_whole * (int64_t)sizeof(struct record);
    if (walk->n_damaged > 0)
        log_warning("%s: damaged at byte %lld: %lld of %lld records are left out", reading->shown,
                    (long long)(HEAD_BYTES + walk->first_damaged * (int64_t)sizeof(struct record)),
                    (long long)walk->n_damaged, (long long)walk->n_records);
    if (n_bytes > end)
        log_warning("%s: torn at byte %lld: the last %lld bytes are cut off", reading->shown,
                    (long long)end, (long long)(n_bytes - end));
}

/* Room for as many of each kind as the file could hold. */
static void make_room(struct trace_rank *rank, size_t n) {
    rank->span = check_alloc(n, sizeof *rank->span);
    rank->step = check_alloc(n, sizeof *rank->step);
    rank->energy = check_alloc(n, sizeof *rank->energy);
}

static bool read_records(const struct reading *reading, struct trace_rank *rank, struct walk *walk,
                         int64_t n_bytes) {
    struct record *record = check_alloc(CHUNK_RECORDS, sizeof *record);
    int64_t from = HEAD_BYTES;
    ssize_t n_read;
    do {
        int64_t left = n_bytes - from, most = CHUNK_RECORDS * (int64_t)sizeof *record;
        n_read = read_at(reading, record, (size_t)(left < most ? left : most), from);
        for (ssize_t at = 0; at < n_read / (ssize_t)sizeof *record; at++)
            take(rank, &record[at], walk);
        from += n_read;
    } while (n_read > 0);
    free(record);
    return n_read == 0;
}

bool journal_read(const char *path, struct journal_head *head, struct trace_rank *rank,
                  struct fault *fault) {
    struct reading reading;
    struct stat status;
    struct walk walk = {0};
    *rank = (struct trace_rank){0};
    if (!open_journal(&reading, path, fault)) return false;
    bool good = read_head(&reading, head);
    if (good && fstat(reading.fd, &status) != 0) good = output_fault(fault, "read", path);
    if (good) {
        rank->head = head->rank;
        walk.shift_ns = head->rank.clock_offset_ns - head->origin_ns;
        make_room(rank, (size_t)status.st_size / sizeof(struct record));
        good = read_records(&reading, rank, &walk, status.st_size);
        rank->head.n_missing = walk.next_serial - walk.n_kept;
        rank->head.complete = walk.ended;
        good = good && (trace_rank_sound(rank) ||
                        fault_user(fault, "%s: numbers that cannot be", reading.shown));
    }
    if (good) {
        say_losses(&reading, &walk, status.st_size);
    } else {
        trace_rank_close(rank);
    }
    close(reading.fd);
    return good;
}
