/* header: what is written is read again; bytes that are not a header within the limits end the run.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "batch.h"
#include "check.h"
#include "child.h"

static const struct batch_limits limits = {
    .n_slots = 2, .max_batch = 4, .max_rows = 16, .max_picked = 4, .context = 100, .n_owners = 3};

enum { MOST_WORDS = 64, N_RELEASED = 2, N_CHUNKS = 3, N_ROWS = 8, N_PICKED = 2 };

/* A header as batch.h lays it out, word by word. */
enum { STEP, LAST, RELEASED_COUNT, CHUNK_COUNT, ROW_COUNT, PICK_COUNT, RELEASED };
enum { CHUNK = RELEASED + N_RELEASED, ID = CHUNK + 4 * N_CHUNKS, PICK = ID + N_ROWS };
enum { WORDS = PICK + 2 * N_PICKED };
enum { SEQUENCE, OWNER, FIRST, ROWS }; /* of a chunk */

static const int32_t good[WORDS] = {
    7,  0,  N_RELEASED, N_CHUNKS, N_ROWS, N_PICKED,                           /* counts */
    0,  7,                                                                    /* released */
    1,  0,  95,         5,        /**/ 2, 0,        0,  2,  /**/ 3, 2, 99, 1, /* chunks */
    11, 12, 13,         14,       15,     0,        16, -4, /* ids; the last is pick 3 of the step
                                                               before */
    4,  -1, /**/ 7,     11,                                 /* picks */
};

static void read_words(const void *words) {
    struct header header;
    header_open(&header, &limits);
    header_read(&header, &limits, words, WORDS * sizeof(int32_t));
    header_close(&header);
}

static void read_again(void **state) {
    (void)state;
    struct header header;
    int32_t again[MOST_WORDS];
    header_open(&header, &limits);
    header_read(&header, &limits, good, sizeof good);
    assert_int_equal(header.step, 7);
    assert_false(header.last);
    assert_int_equal(header.released[1], 7);
    assert_int_equal(header.chunk[2].first_position, 99);
    assert_int_equal(header.pick[1].known_id, 11);
    assert_true(header_most_bytes(&limits) >= sizeof good);
    assert_int_equal(header_write(&header, again), sizeof good);
    assert_memory_equal(again, good, sizeof good);
    header_close(&header);
}

static void headers_past_the_limits(void **state) {
    (void)state;
    static const struct {
        int word;
        int32_t value;
        const char *wanted;
    } bad[] = {
        {RELEASED_COUNT, 9, "past the limits"},
        {RELEASED_COUNT, -1, "past the limits"},
        {CHUNK_COUNT, 5, "past the limits"},
        {ROW_COUNT, 17, "past the limits"},
        {PICK_COUNT, 5, "past the limits"},
        {ROW_COUNT, 7, "bytes instead of"},
        {LAST, 1, "the last"},
        {RELEASED + 1, 8, "pages given back by sequence 8"},
        {RELEASED, -1, "pages given back by sequence -1"},
        {CHUNK + SEQUENCE, 8, "a chunk of sequence 8"},
        {CHUNK + SEQUENCE, -1, "a chunk of sequence -1"},
        {CHUNK + 8 + OWNER, 3, "a chunk of owner 3"},
        {CHUNK + OWNER, -1, "a chunk of owner -1"},
        {CHUNK + OWNER, 1, "a chunk of owner 0 behind one of 1"},
        {CHUNK + FIRST, 96, "a chunk of 5 rows from position 96"},
        {CHUNK + FIRST, -1, "a chunk of 5 rows from position -1"},
        {CHUNK + FIRST, INT32_MAX, "a chunk of 5 rows from position 2147483647"},
        {CHUNK + 8 + ROWS, 0, "a chunk of 0 rows"},
        {CHUNK + 8 + ROWS, INT32_MAX, "a chunk of 2147483647 rows"},
        {CHUNK + 4 + ROWS, 3, "9 rows in chunks of a header with 8"},
        {CHUNK + 4 + ROWS, 1, "7 rows in chunks of a header with 8"},
        {ID + 7, -5, "row 7 is of pick 4"},
        {PICK, -1, "pick 0 of row -1"},
        {PICK + 2, 8, "pick 1 of row 8"},
        {PICK + 2, 4, "pick 1 of row 4"},
    };
    char text[512];
    assert_int_equal(child_code(read_words, good, text, sizeof text), EXIT_DONE);
    for (size_t at = 0; at < sizeof bad / sizeof *bad; at++) {
        int32_t words[MOST_WORDS] = {0};
        memcpy(words, good, sizeof good);
        words[bad[at].word] = bad[at].value;
        int code = child_code(read_words, words, text, sizeof text);
        if (code != EXIT_WORLD || !strstr(text, "internal error") || !strstr(text, bad[at].wanted))
            fail_msg("word %d as %d: code %d, %s", bad[at].word, bad[at].value, code, text);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(read_again),
        cmocka_unit_test(headers_past_the_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
