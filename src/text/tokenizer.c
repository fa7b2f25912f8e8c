/* tokenizer.c - opening a tokenizer, its special ids, and cutting text at added tokens. See
 * tokenizer.h; the two models are in tokenizer_bpe.c and tokenizer_spm.c.
 *
 * Invariant: control tokens come out of text only where they are written out in full and
 * parse_special is given; neither model can make one by merging.
 *
 * Added tokens are matched leftmost, then longest, before anything else sees the text, as the
 * tokenizers of the model families do it.
 *
 * Source: the GGUF specification's tokenizer keys; defaults where a file is silent as in llama.cpp.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"
#include "tokenizer_parts.h"
#include "utf8.h"

/* Longer texts are refused: offsets are 32 bits wide and composing may triple a text. */
enum { MAX_TEXT_BYTES = 1 << 29 };

void tokenizer_append(struct token_list *list, int32_t id) {
    if (list->n == list->capacity) {
        size_t capacity = list->capacity ? 2 * list->capacity : 64;
        int32_t *wider = check_alloc(capacity, sizeof *wider);
        if (list->n > 0) memcpy(wider, list->id, list->n * sizeof *wider);
        free(list->id);
        list->id = wider;
        list->capacity = capacity;
    }
    list->id[list->n++] = id;
}

bool tokenizer_word_too_long(size_t n_bytes, struct fault *fault) {
    return fault_user(fault,
                      "text has %zu bytes without a place to cut; at most %d can be tokenised",
                      n_bytes, MERGE_MAX_BYTES);
}

/* ---- special ids */

/* The id under `key`, or `standard` where the file has no such key. */
static bool read_id(const struct tokenizer *tokenizer, const struct gguf *gguf, const char *key,
                    int32_t standard, int32_t *id, struct fault *fault) {
    *id = standard;
    if (!gguf_find(gguf, key)) return true;
    uint32_t value;
    if (!gguf_read_u32(gguf, key, &value, fault)) return false;
    if (value >= (uint32_t)tokenizer->vocabulary.n_tokens) {
        return vocabulary_fault(gguf, fault, "%s is %u, but there are only %d tokens", key, value,
                                tokenizer->vocabulary.n_tokens);
    }
    *id = (int32_t)value;
    return true;
}

static bool read_flag(const struct gguf *gguf, const char *key, bool *flag, struct fault *fault) {
    return !gguf_find(gguf, key) || gguf_read_bool(gguf, key, flag, fault);
}

/* The control token written so, or -1. */
static int32_t find_control(const struct tokenizer *tokenizer, const char *text) {
    int32_t id = vocabulary_find_added(&tokenizer->vocabulary, text, strlen(text));
    return id >= 0 && tokenizer->vocabulary.type[id] == TOKEN_CONTROL ? id : -1;
}

static void add_stop_id(struct tokenizer *tokenizer, int32_t id) {
    if (id < 0) return;
    tokenizer->special[id] = true;
    for (size_t at = 0; at < tokenizer->n_stop_ids; at++) {
        if (tokenizer->stop_id[at] == id) return;
    }
    REQUIRE(tokenizer->n_stop_ids < TOKENIZER_MAX_STOP_IDS, "too many stop ids");
    tokenizer->stop_id[tokenizer->n_stop_ids++] = id;
}

/* End-of-turn tokens of well-known chat formats, for files that do not declare theirs. */
static void add_turn_ends(struct tokenizer *tokenizer) {
    add_stop_id(tokenizer, find_control(tokenizer, "<|eot_id|>"));
    add_stop_id(tokenizer, find_control(tokenizer, "<|im_end|>"));
    add_stop_id(tokenizer, find_control(tokenizer, "<end_of_turn>"));
    /* Where "<|return|>" ends a turn (harmony), "<|end|>" only ends one message of it. */
    if (find_control(tokenizer, "<|return|>") < 0) {
        add_stop_id(tokenizer, find_control(tokenizer, "<|end|>"));
    }
}

static bool read_stop_ids(struct tokenizer *tokenizer, const struct gguf *gguf, int32_t eos,
                          struct fault *fault) {
    int32_t eot, eom;
    if (!read_id(tokenizer, gguf, "tokenizer.ggml.eot_token_id", -1, &eot, fault) ||
        !read_id(tokenizer, gguf, "tokenizer.ggml.eom_token_id",
                 find_control(tokenizer, "<|eom_id|>"), &eom, fault)) {
        return false;
    }
    add_stop_id(tokenizer, eos);
    add_stop_id(tokenizer, eom);
    if (eot >= 0) {
        add_stop_id(tokenizer, eot);
    } else {
        add_turn_ends(tokenizer);
    }
    return true;
}

/* True where the file says, or is silent and `standard`, that `id` goes onto prompts. */
static bool read_added_id(const struct gguf *gguf, const char *key, bool standard, int32_t *id,
                          struct fault *fault) {
    bool added = standard;
    if (!read_flag(gguf, key, &added, fault)) return false;
    if (added && *id < 0 && gguf_find(gguf, key)) {
        return vocabulary_fault(gguf, fault, "%s is true, but the file names no such token", key);
    }
    if (!added) *id = -1;
    return true;
}

static bool read_special_ids(struct tokenizer *tokenizer, const struct gguf *gguf,
                             struct fault *fault) {
    const struct vocabulary *vocabulary = &tokenizer->vocabulary;
    bool is_spm = tokenizer->script == SCRIPT_SENTENCEPIECE;
    bool usual = is_spm && vocabulary->n_tokens > 2 && vocabulary->type[1] == TOKEN_CONTROL &&
                 vocabulary->type[2] == TOKEN_CONTROL;
    tokenizer->special = check_alloc((size_t)vocabulary->n_tokens, sizeof *tokenizer->special);
    for (int32_t id = 0; id < vocabulary->n_tokens; id++) {
        uint8_t type = vocabulary->type[id];
        tokenizer->special[id] = type == TOKEN_CONTROL || type == TOKEN_UNKNOWN;
    }
    int32_t *bos = &tokenizer->bos, *eos = &tokenizer->eos;
    if (!read_id(tokenizer, gguf, "tokenizer.ggml.bos_token_id", usual ? 1 : -1, bos, fault) ||
        !read_id(tokenizer, gguf, "tokenizer.ggml.eos_token_id", usual ? 2 : -1, eos, fault) ||
        !read_stop_ids(tokenizer, gguf, *eos, fault)) {
        return false;
    }
    if (*bos >= 0) tokenizer->special[*bos] = true;
    bool adds_bos = is_spm || tokenizer->rules->add_bos;
    return read_added_id(gguf, "tokenizer.ggml.add_bos_token", adds_bos, bos, fault) &&
           read_added_id(gguf, "tokenizer.ggml.add_eos_token", false, eos, fault);
}

/* Phi-3's own tokenizer swallows white space after its added tokens, which GGUF cannot say. */
static bool is_phi3(const struct gguf *gguf) {
    struct gguf_string name;
    if (!gguf_read_string(gguf, "general.name", &name, NULL)) return false;
    for (size_t at = 0; at + 4 <= name.n_bytes; at++) {
        if (strncasecmp(name.text + at, "phi3", 4) == 0) return true;
        if (at + 5 <= name.n_bytes && strncasecmp(name.text + at, "phi-3", 5) == 0) return true;
    }
    return false;
}

/* ---- open and close */

static bool read_model(struct tokenizer *tokenizer, const struct gguf *gguf, struct fault *fault) {
    struct gguf_string model;
    if (!gguf_read_string(gguf, "tokenizer.ggml.model", &model, fault)) return false;
    if (model.n_bytes == 4 && memcmp(model.text, "gpt2", 4) == 0) {
        tokenizer->script = SCRIPT_BYTE_LEVEL;
    } else if (model.n_bytes == 5 && memcmp(model.text, "llama", 5) == 0) {
        tokenizer->script = SCRIPT_SENTENCEPIECE;
    } else {
        char shown[64];
        return vocabulary_fault(gguf, fault,
                                "tokenizer model \"%s\" (tokenizer.ggml.model) is not supported; "
                                "supported are gpt2 (byte-level BPE) and llama (SentencePiece BPE)",
                                log_escape(shown, sizeof shown, model.text, model.n_bytes));
    }
    if (!vocabulary_open(&tokenizer->vocabulary, gguf, tokenizer->script, fault)) return false;
    if (tokenizer->script == SCRIPT_BYTE_LEVEL) return tokenizer_open_bpe(tokenizer, gguf, fault);
    tokenizer->adds_space = true;
    return read_flag(gguf, "tokenizer.ggml.add_space_prefix", &tokenizer->adds_space, fault) &&
           tokenizer_open_spm(tokenizer, gguf, fault);
}

bool tokenizer_open(struct tokenizer **tokenizer, const struct gguf *gguf, struct fault *fault) {
    struct tokenizer *opened = check_alloc(1, sizeof *opened);
    if (!read_model(opened, gguf, fault) || !read_special_ids(opened, gguf, fault)) {
        tokenizer_close(opened);
        *tokenizer = NULL;
        return false;
    }
    opened->strips_after = is_phi3(gguf);
    *tokenizer = opened;
    return true;
}

void tokenizer_open_numbers(struct tokenizer **tokenizer, int n_tokens) {
    enum { MOST_BYTES = sizeof "<2147483647>" };
    struct tokenizer *opened = check_alloc(1, sizeof *opened);
    struct vocabulary *vocabulary = &opened->vocabulary;
    size_t n = (size_t)n_tokens, at = 0;
    opened->script = SCRIPT_NUMBERS;
    opened->bos = opened->eos = -1;
    opened->special = check_alloc(n, sizeof *opened->special);
    vocabulary->n_tokens = n_tokens;
    vocabulary->unknown_token = -1;
    vocabulary->piece = check_alloc(n, sizeof *vocabulary->piece);
    vocabulary->bytes = check_alloc(n, MOST_BYTES);
    for (int id = 0; id < n_tokens; id++) {
        int n_bytes = snprintf(vocabulary->bytes + at, MOST_BYTES, "<%d>", id);
        vocabulary->piece[id] = (struct gguf_string){vocabulary->bytes + at, (size_t)n_bytes};
        at += (size_t)n_bytes;
    }
    *tokenizer = opened;
}

void tokenizer_close(struct tokenizer *tokenizer) {
    if (!tokenizer) return;
    merge_close(&tokenizer->work);
    pretokenizer_close(tokenizer->pretokenizer);
    free(tokenizer->merges.pair);
    free(tokenizer->merges.entry);
    free(tokenizer->score);
    free(tokenizer->special);
    vocabulary_close(&tokenizer->vocabulary);
    free(tokenizer);
}

/* ---- encoding */

static bool strips_after(const struct tokenizer *tokenizer, int32_t id) {
    static const char *const keeping[] = {"<unk>", "<s>", "<|endoftext|>"};
    if (!tokenizer->strips_after) return false;
    const struct gguf_string *piece = &tokenizer->vocabulary.piece[id];
    for (size_t token = 0; token < sizeof keeping / sizeof *keeping; token++) {
        if (piece->n_bytes == strlen(keeping[token]) &&
            memcmp(piece->text, keeping[token], piece->n_bytes) == 0) {
            return false;
        }
    }
    return true;
}

/* The next added token at or behind `from`; *at is where it stands, or n_bytes with -1. */
static int32_t find_added(const struct tokenizer *tokenizer, const char *text, size_t n_bytes,
                          bool parse_special, size_t *at) {
    const int32_t *begin = tokenizer->vocabulary.added_begin;
    for (; *at < n_bytes; ++*at) {
        unsigned char first = (unsigned char)text[*at];
        if (begin[first] == begin[first + 1]) continue;
        int32_t id = vocabulary_match_added(&tokenizer->vocabulary, text + *at, n_bytes - *at,
                                            parse_special);
        if (id >= 0) return id;
    }
    return -1;
}

static bool encode_fragment(struct tokenizer *tokenizer, const char *text, size_t n_bytes,
                            struct token_list *list, struct fault *fault) {
    if (n_bytes == 0) return true;
    if (tokenizer->script == SCRIPT_BYTE_LEVEL) {
        return tokenizer_encode_bpe(tokenizer, text, n_bytes, list, fault);
    }
    /* Every fragment begins the text or follows an added token. */
    return tokenizer_encode_spm(tokenizer, text, n_bytes, tokenizer->adds_space, list, fault);
}

static bool encode_valid(struct tokenizer *tokenizer, const char *text, size_t n_bytes,
                         bool parse_special, struct token_list *list, struct fault *fault) {
    size_t begin = 0;
    for (;;) {
        size_t at = begin;
        int32_t id = find_added(tokenizer, text, n_bytes, parse_special, &at);
        if (!encode_fragment(tokenizer, text + begin, at - begin, list, fault)) return false;
        if (id < 0) return true;
        tokenizer_append(list, id);
        begin = at + tokenizer->vocabulary.piece[id].n_bytes;
        if (!strips_after(tokenizer, id)) continue;
        while (begin < n_bytes && text[begin] && strchr(" \t\n\v\f\r", text[begin]))
            begin++;
    }
}

bool tokenizer_encode(struct tokenizer *tokenizer, const char *text, size_t n_bytes,
                      bool parse_special, struct token_list *list, struct fault *fault) {
    size_t bad_byte, n_before = list->n;
    if (tokenizer->script == SCRIPT_NUMBERS)
        return fault_user(fault,
                          "the model is a shape and has no vocabulary: a prompt is a list of "
                          "token ids");
    if (n_bytes > MAX_TEXT_BYTES) {
        return fault_user(fault, "text of %zu bytes is longer than the %d that can be tokenised",
                          n_bytes, MAX_TEXT_BYTES);
    }
    if (!utf8_valid(text, n_bytes, &bad_byte)) {
        return fault_user(fault, "text is not valid UTF-8 at byte %zu (0x%02x)", bad_byte,
                          (unsigned char)text[bad_byte]);
    }
    if (encode_valid(tokenizer, text, n_bytes, parse_special, list, fault)) return true;
    list->n = n_before;
    return false;
}

/* ---- asking */

int tokenizer_n_tokens(const struct tokenizer *tokenizer) {
    return tokenizer->vocabulary.n_tokens;
}

int32_t tokenizer_bos(const struct tokenizer *tokenizer) {
    return tokenizer->bos;
}

int32_t tokenizer_eos_appended(const struct tokenizer *tokenizer) {
    return tokenizer->eos;
}

const int32_t *tokenizer_stop_ids(const struct tokenizer *tokenizer, size_t *n) {
    *n = tokenizer->n_stop_ids;
    return tokenizer->stop_id;
}

static bool is_token(const struct tokenizer *tokenizer, int32_t id) {
    return id >= 0 && id < tokenizer->vocabulary.n_tokens;
}

bool tokenizer_is_special(const struct tokenizer *tokenizer, int32_t id) {
    return is_token(tokenizer, id) && tokenizer->special[id];
}

const char *tokenizer_piece(const struct tokenizer *tokenizer, int32_t id, size_t *n_bytes) {
    *n_bytes = 0;
    if (!is_token(tokenizer, id)) return "";
    *n_bytes = tokenizer->vocabulary.piece[id].n_bytes;
    return tokenizer->vocabulary.piece[id].text;
}
