/* header.c - step headers as bytes. See batch.h. All words are int32 in host order: ranks of a job
 * run the same build on the same kind of host. */
#include <stdlib.h>
#include <string.h>

#include "batch.h"
#include "check.h"

enum { HEADER_WORDS = 6 };

static int max_sequences(const struct batch_limits *limits) {
    return limits->n_slots * limits->max_batch;
}

void header_open(struct header *header, const struct batch_limits *limits) {
    *header = (struct header){0};
    header->released = check_alloc((size_t)max_sequences(limits), sizeof *header->released);
    header->chunk = check_alloc((size_t)limits->max_batch, sizeof *header->chunk);
    header->id = check_alloc((size_t)limits->max_rows, sizeof *header->id);
    header->pick = check_alloc((size_t)limits->max_picked, sizeof *header->pick);
}

void header_close(struct header *header) {
    free(header->released);
    free(header->chunk);
    free(header->id);
    free(header->pick);
}

size_t header_most_bytes(const struct batch_limits *limits) {
    return (HEADER_WORDS + (size_t)max_sequences(limits) + 4 * (size_t)limits->max_batch +
            (size_t)limits->max_rows + 2 * (size_t)limits->max_picked) *
           sizeof(int32_t);
}

static unsigned char *put(unsigned char *to, const void *from, size_t n_bytes) {
    memcpy(to, from, n_bytes);
    return to + n_bytes;
}

size_t header_write(const struct header *header, void *bytes) {
    int32_t word[HEADER_WORDS] = {header->step,     header->last,   header->n_released,
                                  header->n_chunks, header->n_rows, header->n_picked};
    unsigned char *at = put(bytes, word, sizeof word);
    at = put(at, header->released, (size_t)header->n_released * sizeof *header->released);
    at = put(at, header->chunk, (size_t)header->n_chunks * sizeof *header->chunk);
    at = put(at, header->id, (size_t)header->n_rows * sizeof *header->id);
    at = put(at, header->pick, (size_t)header->n_picked * sizeof *header->pick);
    return (size_t)(at - (unsigned char *)bytes);
}

static const unsigned char *get(const unsigned char *from, void *to, size_t n_bytes) {
    memcpy(to, from, n_bytes);
    return from + n_bytes;
}

/* No more of anything than there is room for. */
static void check_counts(const struct header *header, const struct batch_limits *limits) {
    REQUIRE(header->n_released >= 0 && header->n_released <= max_sequences(limits) &&
                header->n_chunks >= 0 && header->n_chunks <= limits->max_batch &&
                header->n_rows >= 0 && header->n_rows <= limits->max_rows &&
                header->n_picked >= 0 && header->n_picked <= limits->max_picked,
            "a header past the limits");
}

/* Chunks lie in sequences that there can be, in order of owner, within the context, and have all
 * the header's rows. */
static void check_chunks(const struct header *header, const struct batch_limits *limits) {
    int64_t n_rows = 0;
    for (int at = 0, owner = 0; at < header->n_chunks; at++) {
        const struct header_chunk *chunk = &header->chunk[at];
        REQUIRE(chunk->sequence >= 0 && chunk->sequence < max_sequences(limits),
                "a chunk of sequence %d", chunk->sequence);
        REQUIRE(chunk->owner >= owner && chunk->owner < limits->n_owners,
                "a chunk of owner %d behind one of %d", chunk->owner, owner);
        REQUIRE(chunk->n_rows > 0 && chunk->n_rows <= limits->context &&
                    chunk->first_position >= 0 &&
                    chunk->first_position <= limits->context - chunk->n_rows,
                "a chunk of %d rows from position %d", chunk->n_rows, chunk->first_position);
        owner = chunk->owner;
        n_rows += chunk->n_rows;
    }
    REQUIRE(n_rows == header->n_rows, "%lld rows in chunks of a header with %d", (long long)n_rows,
            header->n_rows);
}

void header_check(const struct header *header, const struct batch_limits *limits) {
    check_counts(header, limits);
    REQUIRE(!header->last || header->n_rows == 0, "%d rows in the last header", header->n_rows);
    for (int at = 0; at < header->n_released; at++)
        REQUIRE(header->released[at] >= 0 && header->released[at] < max_sequences(limits),
                "pages given back by sequence %d", header->released[at]);
    check_chunks(header, limits);
    for (int row = 0; row < header->n_rows; row++)
        REQUIRE(header->id[row] >= -limits->max_picked, "row %d is of pick %d", row,
                -1 - header->id[row]);
    for (int at = 0, next = 0; at < header->n_picked; at++) {
        REQUIRE(header->pick[at].row >= next && header->pick[at].row < header->n_rows,
                "pick %d of row %d", at, header->pick[at].row);
        next = header->pick[at].row + 1;
    }
}

void header_read(struct header *header, const struct batch_limits *limits, const void *bytes,
                 size_t n_bytes) {
    int32_t word[HEADER_WORDS];
    REQUIRE(n_bytes >= sizeof word, "a header of %zu bytes", n_bytes);
    const unsigned char *at = get(bytes, word, sizeof word);
    header->step = word[0];
    header->last = word[1];
    header->n_released = word[2];
    header->n_chunks = word[3];
    header->n_rows = word[4];
    header->n_picked = word[5];
    check_counts(header, limits);
    size_t expected = sizeof word + ((size_t)word[2] + 4 * (size_t)word[3] + (size_t)word[4] +
                                     2 * (size_t)word[5]) *
                                        sizeof(int32_t);
    REQUIRE(n_bytes == expected, "a header of %zu bytes instead of %zu", n_bytes, expected);
    at = get(at, header->released, (size_t)header->n_released * sizeof *header->released);
    at = get(at, header->chunk, (size_t)header->n_chunks * sizeof *header->chunk);
    at = get(at, header->id, (size_t)header->n_rows * sizeof *header->id);
    get(at, header->pick, (size_t)header->n_picked * sizeof *header->pick);
    header_check(header, limits);
}
