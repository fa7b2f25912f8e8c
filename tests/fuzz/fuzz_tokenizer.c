/* fuzz_tokenizer: byte 0 picks what is tried with the rest.
 *
 *   0..9    text through a known vocabulary under pre-tokenizer byte 0 / 2 (or SPM), special tokens
 *           parsed when odd: the pieces must give the text back, the stream valid UTF-8
 *   10..11  token ids, two bytes each, through the stream of the BPE or SPM vocabulary
 *   else    a vocabulary made of the input (tokens, then merges, then a text: lines with blank
 * lines between), opened as BPE or, where odd, SPM; then the text through it
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "gguf.h"
#include "log.h"
#include "tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

enum { N_BPE = 4, SPM = N_BPE, N_TOKENIZERS };
static const char *const pre_names[N_BPE] = {"smollm", "qwen2", "deepseek-llm", "gpt-4o"};
static struct gguf vocabularies[N_TOKENIZERS];
static struct tokenizer *tokenizers[N_TOKENIZERS];
static bool has_token[256]; /* of the BPE vocabulary: bytes that are a token */

#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                        \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc;
    (void)argv;
    log_setup(LOG_QUIET, false);
    for (int model = 0; model < N_TOKENIZERS; model++) {
        const char *path = model == SPM ? TESTS_DIR "/oracle/sentencepiece/vocabulary.gguf"
                                        : TESTS_DIR "/oracle/smollm2/vocabulary.gguf";
        struct fault fault = {0};
        MUST(gguf_open(&vocabularies[model], path, &fault));
        struct gguf_value *pre =
            (struct gguf_value *)gguf_find(&vocabularies[model], "tokenizer.ggml.pre");
        if (model != SPM) {
            *(struct gguf_string *)pre->string =
                (struct gguf_string){pre_names[model], strlen(pre_names[model])};
        }
        MUST(tokenizer_open(&tokenizers[model], &vocabularies[model], &fault));
    }
    for (int32_t id = 0; id < tokenizer_n_tokens(tokenizers[0]); id++) {
        size_t n_bytes;
        const char *piece = tokenizer_piece(tokenizers[0], id, &n_bytes);
        if (n_bytes == 1) has_token[(unsigned char)*piece] = true;
    }
    return 0;
}

static bool is_utf8(const char *text, size_t n_bytes) {
    for (size_t at = 0; at < n_bytes;) {
        utf8proc_int32_t code_point;
        utf8proc_ssize_t length = utf8proc_iterate((const utf8proc_uint8_t *)text + at,
                                                   (utf8proc_ssize_t)(n_bytes - at), &code_point);
        if (length <= 0) return false;
        at += (size_t)length;
    }
    return true;
}

/* Streams must hold valid UTF-8 after every token. */
static void stream_ids(const struct tokenizer *tokenizer, const int32_t *id, size_t n, bool skip) {
    struct text_stream stream = {.skip_special = skip};
    size_t checked = 0;
    for (size_t token = 0; token < n; token++) {
        text_stream_push(&stream, tokenizer, id[token]);
        MUST(stream.n_held < 4 && stream.n_bytes >= checked);
        MUST(is_utf8(stream.text ? stream.text + checked : "", stream.n_bytes - checked));
        checked = stream.n_bytes;
    }
    text_stream_end(&stream);
    MUST(stream.n_held == 0 && is_utf8(stream.text, stream.n_bytes));
    MUST(stream.text[stream.n_bytes] == 0);
    text_stream_close(&stream);
}

static char *join_pieces(const struct tokenizer *tokenizer, const struct token_list *list,
                         size_t *n_joined) {
    size_t n_bytes, capacity = 1;
    for (size_t token = 0; token < list->n; token++) {
        MUST(list->id[token] >= 0 && list->id[token] < tokenizer_n_tokens(tokenizer));
        tokenizer_piece(tokenizer, list->id[token], &n_bytes);
        capacity += n_bytes;
    }
    char *joined = calloc(capacity, 1);
    *n_joined = 0;
    for (size_t token = 0; token < list->n; token++) {
        const char *piece = tokenizer_piece(tokenizer, list->id[token], &n_bytes);
        memcpy(joined + *n_joined, piece, n_bytes);
        *n_joined += n_bytes;
    }
    return joined;
}

/* Keep the bytes that are tokens. */
static size_t drop_missing(char *text, size_t n_bytes) {
    size_t n_left = 0;
    for (size_t byte = 0; byte < n_bytes; byte++) {
        if (has_token[(unsigned char)text[byte]]) text[n_left++] = text[byte];
    }
    return n_left;
}

/* Drop spaces in both spellings: SPM puts one before each stretch of text. */
static size_t drop_spaces(char *text, size_t n_bytes) {
    size_t n_left = 0;
    for (size_t at = 0; at < n_bytes;) {
        if (n_bytes - at >= 3 && memcmp(text + at, "\xe2\x96\x81", 3) == 0) {
            at += 3;
        } else if (text[at] == ' ') {
            at++;
        } else {
            text[n_left++] = text[at++];
        }
    }
    return n_left;
}

static void encode_known(int model, const char *text, size_t n_bytes, bool parse_special) {
    struct tokenizer *tokenizer = tokenizers[model];
    struct token_list list = {0};
    struct fault fault = {0};
    if (!tokenizer_encode(tokenizer, text, n_bytes, parse_special, &list, &fault)) {
        MUST(list.n == 0 && fault.text[0]);
        MUST(!is_utf8(text, n_bytes) || strstr(fault.text, "combining marks"));
        free(list.id);
        return;
    }
    MUST(is_utf8(text, n_bytes));
    size_t n_joined, n_expected = n_bytes;
    char *joined = join_pieces(tokenizer, &list, &n_joined);
    bool composes = model == 1;
    char *expected;
    if (composes) {
        utf8proc_ssize_t length =
            utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)n_bytes,
                         (utf8proc_uint8_t **)&expected, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
        MUST(length >= 0);
        n_expected = (size_t)length;
    } else {
        expected = malloc(n_bytes + 1);
        memcpy(expected, text, n_bytes);
    }
    if (model == SPM) {
        n_expected = drop_spaces(expected, n_expected);
        n_joined = drop_spaces(joined, n_joined);
    } else {
        n_expected = drop_missing(expected, n_expected);
    }
    /* Composing stops at special tokens, which this simple expectation does not know. */
    if (!composes || !parse_special) {
        MUST(n_joined == n_expected && memcmp(joined, expected, n_joined) == 0);
    }
    stream_ids(tokenizer, list.id, list.n, parse_special);
    free(expected);
    free(joined);
    free(list.id);
}

static void stream_input(int model, const uint8_t *data, size_t size) {
    size_t n = size / 2;
    int32_t *id = calloc(n + 1, sizeof *id);
    for (size_t token = 0; token < n; token++) {
        id[token] = data[2 * token] | data[2 * token + 1] << 8;
        if (id[token] == 0xffff) id[token] = -1;
    }
    stream_ids(tokenizers[model], id, n, size & 1);
    free(id);
}

/* Lines up to a blank one; moves *at behind it. */
static size_t read_lines(const char *text, size_t n_bytes, size_t *at, struct gguf_string *line,
                         size_t n_lines) {
    size_t n = 0;
    while (*at < n_bytes && n < n_lines) {
        const char *end = memchr(text + *at, '\n', n_bytes - *at);
        size_t length = end ? (size_t)(end - text) - *at : n_bytes - *at;
        const char *begin = text + *at;
        *at += length + (end != NULL);
        if (length == 0) break;
        line[n++] = (struct gguf_string){begin, length};
    }
    return n;
}

static struct gguf_key make_key(const char *name, enum gguf_kind kind, enum gguf_kind element,
                                size_t n_elements) {
    return (struct gguf_key){.name = {name, strlen(name)},
                             .value = {.kind = kind, .element = element, .n_elements = n_elements}};
}

static void try_vocabulary(const char *text, size_t n_bytes, bool is_spm) {
    enum { MOST = 512, N_KEYS = 8 };
    static struct gguf_string token[MOST], merge[MOST];
    static int32_t type[MOST];
    static float score[MOST];
    struct gguf_string model = {is_spm ? "llama" : "gpt2", is_spm ? 5 : 4}, pre = {"gpt-2", 5};
    size_t at = 0;
    size_t n_tokens = read_lines(text, n_bytes, &at, token, MOST);
    size_t n_merges = read_lines(text, n_bytes, &at, merge, MOST);
    for (size_t id = 0; id < n_tokens; id++) {
        /* The last byte of a line is its type, the one before also its score. */
        type[id] = token[id].text[--token[id].n_bytes] & 7;
        score[id] = token[id].n_bytes ? (float)token[id].text[token[id].n_bytes - 1] : 0;
    }
    uint32_t eos = n_tokens > 3 ? (uint32_t)token[3].n_bytes : 1;
    struct gguf_key key[N_KEYS] = {
        make_key("tokenizer.ggml.model", GGUF_STRING, 0, 1),
        make_key("tokenizer.ggml.pre", GGUF_STRING, 0, 1),
        make_key("tokenizer.ggml.tokens", GGUF_ARRAY, GGUF_STRING, n_tokens),
        make_key("tokenizer.ggml.token_type", GGUF_ARRAY, GGUF_I32, n_tokens),
        make_key("tokenizer.ggml.scores", GGUF_ARRAY, GGUF_F32, n_tokens),
        make_key("tokenizer.ggml.merges", GGUF_ARRAY, GGUF_STRING, n_merges),
        make_key("tokenizer.ggml.eos_token_id", GGUF_U32, 0, 1),
        make_key("general.name", GGUF_STRING, 0, 1)};
    key[0].value.string = &model;
    key[1].value.string = &pre;
    key[2].value.string = token;
    key[3].value.data = type;
    key[4].value.data = score;
    key[5].value.string = merge;
    key[6].value.data = &eos;
    key[7].value.string = n_tokens & 1 ? &(struct gguf_string){"my Phi-3", 8} : &model;
    struct gguf gguf = {.path = "input", .version = 3, .n_keys = N_KEYS, .key = key};
    struct tokenizer *tokenizer;
    struct token_list list = {0};
    struct fault fault = {0};
    if (!tokenizer_open(&tokenizer, &gguf, &fault)) {
        MUST(fault.text[0]);
        return;
    }
    size_t n_joined;
    if (tokenizer_encode(tokenizer, text + at, n_bytes - at, is_spm, &list, &fault)) {
        free(join_pieces(tokenizer, &list, &n_joined));
        stream_ids(tokenizer, list.id, list.n, false);
    }
    free(list.id);
    tokenizer_close(tokenizer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    char *text = malloc(size);
    memcpy(text, data + 1, size - 1);
    if (data[0] < 2 * N_TOKENIZERS) {
        encode_known(data[0] / 2, text, size - 1, data[0] & 1);
    } else if (data[0] < 2 * N_TOKENIZERS + 2) {
        stream_input(data[0] & 1 ? SPM : 0, data + 1, size - 1);
    } else {
        try_vocabulary(text, size - 1, data[0] & 1);
    }
    free(text);
    return 0;
}
