/* checkpoint_progress.c - who was in flight, and how far. See checkpoint_progress.h.
 *
 * The file, beside the root attributes of all files of a checkpoint:
 *   /choices     a row a choice, with where its parts begin in the flat arrays
 *   /tokens      of all choices, one behind the other
 *   /scores      of those that have them, (n_tokens, 1 + n_logprobs) each
 *   /custom_ids  UTF-8, one behind the other
 *   /options     JSON
 *   attributes   fingerprint, isa, n_read, output_bytes, prefill_tokens_per_s
 * Flat, because HDF5 has no checksums for what is of variable length (checkpoint_hdf5.c).
 */
#include "checkpoint_progress.h"

#include <stdlib.h>
#include <string.h>

#include "checkpoint_hdf5.h"

#define FORMAT "lamina checkpoint of progress"

/* A choice in the file. */
struct choice_row {
    uint64_t key_high, key_low, body_hash;
    int64_t first_token, first_score, first_byte; /* in the flat arrays */
    int32_t index, n_prompt, n_tokens, n_rows, owner, n_logprobs, n_scored;
    int32_t n_id_bytes; /* -1: without custom_id */
    int32_t has_scores;
};

#define COLUMN(record, field, kind, unit)                                                          \
    { .name = #field, .type = kind, .offset = offsetof(record, field), .units = unit }
static const struct hdf5_column choice_column[] = {
    COLUMN(struct choice_row, key_high, HDF5_U64, NULL),
    COLUMN(struct choice_row, key_low, HDF5_U64, NULL),
    COLUMN(struct choice_row, body_hash, HDF5_U64, NULL),
    COLUMN(struct choice_row, first_token, HDF5_I64, "rows of tokens"),
    COLUMN(struct choice_row, first_score, HDF5_I64, "rows of scores"),
    COLUMN(struct choice_row, first_byte, HDF5_I64, "bytes of custom_ids"),
    COLUMN(struct choice_row, index, HDF5_I32, NULL),
    COLUMN(struct choice_row, n_prompt, HDF5_I32, "tokens"),
    COLUMN(struct choice_row, n_tokens, HDF5_I32, "tokens"),
    COLUMN(struct choice_row, n_rows, HDF5_I32, "positions"),
    COLUMN(struct choice_row, owner, HDF5_I32, NULL),
    COLUMN(struct choice_row, n_logprobs, HDF5_I32, NULL),
    COLUMN(struct choice_row, n_scored, HDF5_I32, "positions"),
    COLUMN(struct choice_row, n_id_bytes, HDF5_I32, "bytes"),
    COLUMN(struct choice_row, has_scores, HDF5_I32, NULL),
};
static const struct hdf5_column score_column[] = {
    COLUMN(struct token_score, id, HDF5_I32, NULL),
    COLUMN(struct token_score, logprob, HDF5_F32, "nat"),
    COLUMN(struct token_score, rank, HDF5_I32, NULL),
};
static const struct hdf5_column token_column = {.type = HDF5_I32}, byte_column = {.type = HDF5_U8};

enum part { CHOICES, TOKENS, SCORES, CUSTOM_IDS, OPTIONS, PARTS };
static const struct hdf5_table part_table[] = {
    [CHOICES] = {"choices", sizeof(struct choice_row), sizeof choice_column / sizeof *choice_column,
                 choice_column},
    [TOKENS] = {"tokens", sizeof(int32_t), 1, &token_column},
    [SCORES] = {"scores", sizeof(struct token_score), sizeof score_column / sizeof *score_column,
                score_column},
    [CUSTOM_IDS] = {"custom_ids", 1, 1, &byte_column},
    [OPTIONS] = {"options", 1, 1, &byte_column},
};

/* The tables as they lie in memory. */
struct flat {
    void *row[PARTS];
    size_t n_rows[PARTS];
};

static void flat_close(struct flat *flat) {
    for (int part = 0; part < PARTS; part++)
        free(flat->row[part]);
}

static size_t n_scores(const struct checkpoint_choice *choice) {
    return (size_t)choice->n_tokens * (size_t)(1 + choice->n_logprobs);
}

/* ---- writing ---- */

static void count(const struct checkpoint_progress *progress, struct flat *flat) {
    flat->n_rows[CHOICES] = (size_t)progress->n_choices;
    flat->n_rows[OPTIONS] = strlen(progress->options);
    for (int number = 0; number < progress->n_choices; number++) {
        const struct checkpoint_choice *choice = &progress->choice[number];
        flat->n_rows[TOKENS] += (size_t)choice->n_tokens;
        flat->n_rows[SCORES] += choice->score ? n_scores(choice) : 0;
        flat->n_rows[CUSTOM_IDS] += choice->custom_id ? strlen(choice->custom_id) : 0;
    }
}

/* Put `n` rows behind those of a part; where they begin. */
static int64_t append(struct flat *flat, enum part part, const void *row, size_t n_rows) {
    size_t row_bytes = part_table[part].row_bytes, first = flat->n_rows[part];
    if (n_rows > 0) memcpy((char *)flat->row[part] + first * row_bytes, row, n_rows * row_bytes);
    flat->n_rows[part] += n_rows;
    return (int64_t)first;
}

static void flatten(const struct checkpoint_progress *progress, struct flat *flat) {
    *flat = (struct flat){0};
    count(progress, flat);
    for (int part = 0; part < PARTS; part++) {
        flat->row[part] = check_alloc(flat->n_rows[part], part_table[part].row_bytes);
        flat->n_rows[part] = 0;
    }
    for (int number = 0; number < progress->n_choices; number++) {
        const struct checkpoint_choice *choice = &progress->choice[number];
        size_t n_id_bytes = choice->custom_id ? strlen(choice->custom_id) : 0;
        size_t scores = choice->score ? n_scores(choice) : 0;
        const struct choice_row row = {
            .key_high = choice->key.high,
            .key_low = choice->key.low,
            .body_hash = choice->body_hash,
            .first_token = append(flat, TOKENS, choice->token, (size_t)choice->n_tokens),
            .first_score = append(flat, SCORES, choice->score, scores),
            .first_byte = append(flat, CUSTOM_IDS, choice->custom_id, n_id_bytes),
            .index = choice->index,
            .n_prompt = choice->n_prompt,
            .n_tokens = choice->n_tokens,
            .n_rows = choice->n_rows,
            .owner = choice->owner,
            .n_logprobs = choice->n_logprobs,
            .n_scored = choice->n_scored,
            .n_id_bytes = choice->custom_id ? (int32_t)n_id_bytes : -1,
            .has_scores = choice->score != NULL,
        };
        append(flat, CHOICES, &row, 1);
    }
    append(flat, OPTIONS, progress->options, strlen(progress->options));
}

static bool put_about(struct hdf5_file *hdf5, const struct checkpoint_progress *progress,
                      struct fault *fault) {
    struct hdf5_root root = {
        .format = FORMAT, .number = progress->number, .attempt = progress->attempt};
    memcpy(root.uuid, progress->uuid, sizeof root.uuid);
    memcpy(root.created, progress->created, sizeof root.created);
    return hdf5_put_root(hdf5, &root, fault) &&
           hdf5_put_text(hdf5, hdf5->id, "fingerprint", progress->fingerprint, fault) &&
           hdf5_put_text(hdf5, hdf5->id, "isa", progress->isa, fault) &&
           hdf5_put(hdf5, "n_read", HDF5_I64, &progress->n_read, fault) &&
           hdf5_put(hdf5, "output_bytes", HDF5_I64, &progress->output_bytes, fault) &&
           hdf5_put(hdf5, "prefill_tokens_per_s", HDF5_F64, &progress->prefill_tokens_per_s, fault);
}

bool checkpoint_progress_write(const struct checkpoint_progress *progress, const char *folder,
                               const char *name, int64_t *n_bytes, struct fault *fault) {
    struct hdf5_file hdf5;
    struct flat flat;
    if (!hdf5_create(&hdf5, folder, name, fault)) return false;
    flatten(progress, &flat);
    bool good = put_about(&hdf5, progress, fault);
    for (int part = 0; good && part < PARTS; part++)
        good = hdf5_put_table(&hdf5, &part_table[part], flat.row[part], flat.n_rows[part], fault);
    flat_close(&flat);
    return hdf5_commit(&hdf5, good, n_bytes, fault);
}

/* ---- reading ---- */

static bool get_about(struct hdf5_file *hdf5, struct checkpoint_progress *progress,
                      struct fault *fault) {
    struct hdf5_root root = {.format = FORMAT};
    bool good =
        hdf5_get_root(hdf5, &root, fault) &&
        hdf5_get_text(hdf5, "fingerprint", progress->fingerprint, sizeof progress->fingerprint,
                      fault) &&
        hdf5_get_text(hdf5, "isa", progress->isa, sizeof progress->isa, fault) &&
        hdf5_get(hdf5, "n_read", HDF5_I64, &progress->n_read, fault) &&
        hdf5_get(hdf5, "output_bytes", HDF5_I64, &progress->output_bytes, fault) &&
        hdf5_get(hdf5, "prefill_tokens_per_s", HDF5_F64, &progress->prefill_tokens_per_s, fault);
    if (!good) return false;
    memcpy(progress->uuid, root.uuid, sizeof progress->uuid);
    memcpy(progress->created, root.created, sizeof progress->created);
    progress->number = root.number;
    progress->attempt = root.attempt;
    bool sound = progress->n_read >= 0 && progress->output_bytes >= 0 &&
                 progress->prefill_tokens_per_s >= 0 && progress->prefill_tokens_per_s < 1e18;
    return sound || hdf5_refuse(hdf5, fault, "damaged: what it says of the run cannot be");
}

/* Rows first .. first + n - 1 of a part, or NULL where it has not so many. */
static const void *view(const struct flat *flat, enum part part, int64_t first, size_t n_rows) {
    size_t there = flat->n_rows[part];
    if (first < 0 || (uint64_t)first > there || n_rows > there - (size_t)first) return NULL;
    return (const char *)flat->row[part] + (size_t)first * part_table[part].row_bytes;
}

static bool counts_are_good(const struct choice_row *row) {
    return row->index >= 0 && row->n_prompt > 0 && row->n_prompt <= row->n_tokens &&
           row->n_rows >= 0 && row->n_rows < row->n_tokens && row->owner >= 0 &&
           row->n_logprobs >= -1 && row->n_logprobs <= SAMPLING_MAX_LOGPROBS &&
           row->n_scored >= 0 && row->n_scored < row->n_prompt && row->n_id_bytes >= -1 &&
           (row->has_scores == 0 || (row->has_scores == 1 && row->n_logprobs >= 0));
}

static void *copy(const void *from, size_t n_bytes) {
    return memcpy(check_alloc(n_bytes, 1), from, n_bytes);
}

/* False where the row or what it leads to cannot be. */
static bool take_choice(const struct flat *flat, const struct choice_row *row,
                        struct checkpoint_choice *choice) {
    if (!counts_are_good(row)) return false;
    *choice = (struct checkpoint_choice){
        .key = {row->key_high, row->key_low},
        .body_hash = row->body_hash,
        .index = row->index,
        .n_prompt = row->n_prompt,
        .n_tokens = row->n_tokens,
        .n_rows = row->n_rows,
        .owner = row->owner,
        .n_logprobs = row->n_logprobs,
        .n_scored = row->n_scored,
    };
    size_t n_tokens = (size_t)row->n_tokens, scores = row->has_scores ? n_scores(choice) : 0;
    size_t n_id_bytes = row->n_id_bytes < 0 ? 0 : (size_t)row->n_id_bytes;
    const int32_t *token = view(flat, TOKENS, row->first_token, n_tokens);
    const struct token_score *score = view(flat, SCORES, row->first_score, scores);
    const char *id = view(flat, CUSTOM_IDS, row->first_byte, n_id_bytes);
    if (!token || !score || !id || memchr(id, 0, n_id_bytes)) return false;
    for (size_t position = 0; position < n_tokens; position++) {
        if (token[position] < 0) return false;
    }
    choice->token = copy(token, n_tokens * sizeof *token);
    if (row->has_scores) choice->score = copy(score, scores * sizeof *score);
    if (row->n_id_bytes >= 0) {
        choice->custom_id = check_alloc(n_id_bytes + 1, 1);
        memcpy(choice->custom_id, id, n_id_bytes);
    }
    return true;
}

static bool take(struct hdf5_file *hdf5, const struct flat *flat,
                 struct checkpoint_progress *progress, struct fault *fault) {
    const struct choice_row *row = flat->row[CHOICES];
    if (flat->n_rows[CHOICES] > INT32_MAX)
        return hdf5_refuse(hdf5, fault, "damaged: too many choices");
    progress->choice = check_alloc(flat->n_rows[CHOICES], sizeof *progress->choice);
    for (size_t number = 0; number < flat->n_rows[CHOICES]; number++) {
        if (!take_choice(flat, &row[number], &progress->choice[number]))
            return hdf5_refuse(hdf5, fault, "damaged: row %zu of choices cannot be", number);
        progress->n_choices++;
    }
    progress->options = check_alloc(flat->n_rows[OPTIONS] + 1, 1);
    memcpy(progress->options, flat->row[OPTIONS], flat->n_rows[OPTIONS]);
    return true;
}

bool checkpoint_progress_read(struct checkpoint_progress *progress, const char *folder,
                              const char *name, struct fault *fault) {
    struct hdf5_file hdf5;
    struct flat flat = {0};
    *progress = (struct checkpoint_progress){0};
    if (!hdf5_open(&hdf5, folder, name, fault)) return false;
    bool good = get_about(&hdf5, progress, fault);
    for (int part = 0; good && part < PARTS; part++)
        good = hdf5_get_table(&hdf5, &part_table[part], &flat.row[part], &flat.n_rows[part], fault);
    good = good && take(&hdf5, &flat, progress, fault);
    flat_close(&flat);
    hdf5_close(&hdf5);
    if (!good) checkpoint_progress_close(progress);
    return good;
}

void checkpoint_choice_close(struct checkpoint_choice *choice) {
    free(choice->custom_id);
    free(choice->token);
    free(choice->score);
    *choice = (struct checkpoint_choice){0};
}

void checkpoint_progress_close(struct checkpoint_progress *progress) {
    for (int number = 0; number < progress->n_choices; number++)
        checkpoint_choice_close(&progress->choice[number]);
    free(progress->choice);
    free(progress->options);
    *progress = (struct checkpoint_progress){0};
}
