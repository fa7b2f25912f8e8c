/* options_hash.c - what every rank of a job must agree on, as one number. See options.h.
 *
 * Over the parsed values, not over argv: `--slots=2` and `--slots 2` are the same job. --role is
 * left out, since the components of an MPMD launch differ in it by design.
 */
#include <string.h>
#include <xxhash.h>

#include "options_table.h"
#include "version.h"

static void hash_bytes(XXH64_state_t *state, const void *bytes, size_t n_bytes) {
    REQUIRE(XXH64_update(state, bytes, n_bytes) == XXH_OK, "hash of %zu bytes", n_bytes);
}

static void hash_text(XXH64_state_t *state, const char *text) {
    hash_bytes(state, text ? text : "", text ? strlen(text) + 1 : 1);
}

static void hash_row(XXH64_state_t *state, const struct option_row *row,
                     const struct options *options) {
    static const size_t sizes[] = {
        [OPTION_FLAG] = sizeof(bool),
        [OPTION_CONSTANT] = sizeof(int),
        [OPTION_INT] = sizeof(int),
        [OPTION_COUNT] = sizeof(int64_t),
        [OPTION_SEED] = sizeof(uint64_t),
        [OPTION_REAL] = sizeof(float),
        [OPTION_SIZE] = sizeof(int64_t),
        [OPTION_DURATION] = sizeof(double),
        [OPTION_SWITCH] = sizeof(bool),
        [OPTION_CHOICE] = sizeof(int),
        [OPTION_STEPS] = sizeof(struct step_range),
        [OPTION_LIST] = sizeof(struct number_list),
        [OPTION_SIZES] = sizeof(struct number_list),
    };
    if (row->target == NO_TARGET) return;
    const void *target = (const char *)options + row->target;
    if (row->kind == OPTION_TEXT) {
        hash_text(state, *(const char *const *)target);
    } else {
        hash_bytes(state, target, sizes[row->kind]);
    }
}

uint64_t options_hash(int argc, char **argv) {
    struct options options;
    struct fault fault = {0};
    XXH64_state_t *state = XXH64_createState();
    REQUIRE(state && XXH64_reset(state, 0) == XXH_OK, "no memory for a hash");
    hash_text(state, LAMINA_VERSION " " LAMINA_COMMIT);
    REQUIRE(options_parse(&options, argc, argv, &fault), "options that do not parse: %s",
            fault.text);
    options.role = ROLE_WISH_AUTO;
    size_t n_rows;
    const struct option_row *row = options_rows(&n_rows);
    for (const struct option_row *end = row + n_rows; row < end; row++)
        hash_row(state, row, &options);
    hash_bytes(state, &options.command, sizeof options.command);
    hash_bytes(state, &options.heads, sizeof options.heads);
    hash_bytes(state, &options.sequences, sizeof options.sequences);
    for (int index = 0; index < options.n_inputs; index++)
        hash_text(state, options.input[index]);
    options_close(&options);
    uint64_t hash = XXH64_digest(state);
    XXH64_freeState(state);
    return hash;
}
