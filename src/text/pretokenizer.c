/* pretokenizer.c - names, patterns and flags of pre-tokenizers, run by PCRE2. See pretokenizer.h.
 *
 * The table holds what the model families' own tokenizer.json files say, as PCRE2 spells it; names
 * and flags as llama.cpp's converter writes and reads them. Three traps between regex engines are
 * kept out of it: white space is always spelled as a set (PCRE2's \s holds U+180E, others' do not),
 * no bounded repeat is followed by + (PCRE2 reads that as possessive), and no class holds && (PCRE2
 * reads that as two ampersands).
 *
 * Invariant: words are never empty, cover the text and end at characters; a pattern sees one word
 * at a time, so its lookaheads stop where an earlier pattern cut.
 *
 * A pattern that could not be verified against another engine is not in the table: an unknown name
 * stops with the list of known ones.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "pretokenizer.h"

#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"

/* What \s means to the tokenizers these patterns were written for: Unicode's White_Space. */
#define WHITE                                                                                      \
    "\\t-\\r \\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"

/* Alternatives that several families share. */
#define SUFFIX     "'s|'t|'re|'ve|'m|'ll|'d"
#define ANY_SUFFIX "(?i:" SUFFIX ")"
#define WORD       "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"
#define MARKS      " ?[^" WHITE "\\p{L}\\p{N}]+"
#define LINE_ENDS  "[" WHITE "]*[\\r\\n]+"
#define SPACE_RUNS "[" WHITE "]+(?![^" WHITE "])|[" WHITE "]+"
#define HIGH       "\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}"
#define LOW        "\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}"
#define CASED(after)                                                                               \
    "[^\\r\\n\\p{L}\\p{N}]?[" HIGH "]*[" LOW "]+" after "|[^\\r\\n\\p{L}\\p{N}]?[" HIGH "]+[" LOW  \
    "]*" after

/* Whole patterns. */
#define GPT2   SUFFIX "| ?\\p{L}+| ?\\p{N}+|" MARKS "|" SPACE_RUNS
#define LLAMA3 ANY_SUFFIX "|" WORD "|\\p{N}{1,3}|" MARKS "[\\r\\n]*|" LINE_ENDS "|" SPACE_RUNS
#define QWEN2  ANY_SUFFIX "|" WORD "|\\p{N}|" MARKS "[\\r\\n]*|" LINE_ENDS "|" SPACE_RUNS
#define QWEN35                                                                                     \
    ANY_SUFFIX "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^" WHITE                          \
               "\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" LINE_ENDS "|" SPACE_RUNS
#define TEKKEN CASED("") "|\\p{N}|" MARKS "[\\r\\n/]*|" LINE_ENDS "|" SPACE_RUNS
#define GPT4O  CASED(ANY_SUFFIX "?") "|\\p{N}{1,3}|" MARKS "[\\r\\n/]*|" LINE_ENDS "|" SPACE_RUNS
#define DEEPSEEK_V3                                                                                \
    "[!-/:-@\\[-`{-~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+"      \
    "[\\r\\n]*|" LINE_ENDS "|" SPACE_RUNS
/* Latin, Greek, Cyrillic, Armenian, Georgian, Cherokee and Deseret letters, as DeepSeek lists them.
 */
#define DEEPSEEK_LETTERS                                                                           \
    "A-Za-z\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}\\x{1bc}-\\x{1bf}"                 \
    "\\x{1c4}-\\x{293}\\x{295}-\\x{2af}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37b}-\\x{37d}"         \
    "\\x{37f}\\x{386}\\x{388}-\\x{38a}\\x{38c}\\x{38e}-\\x{3a1}\\x{3a3}-\\x{3f5}"                  \
    "\\x{3f7}-\\x{481}\\x{48a}-\\x{52f}\\x{531}-\\x{556}\\x{10a0}-\\x{10c5}"                       \
    "\\x{13a0}-\\x{13f5}\\x{13f8}-\\x{13fd}\\x{1c90}-\\x{1cba}\\x{1cbd}-\\x{1cbf}"                 \
    "\\x{1d00}-\\x{1d2b}\\x{1d6b}-\\x{1d77}\\x{1d79}-\\x{1d9a}\\x{1e00}-\\x{1f15}"                 \
    "\\x{1f18}-\\x{1f1d}\\x{1f20}-\\x{1f45}\\x{1f48}-\\x{1f4d}\\x{1f50}-\\x{1f57}"                 \
    "\\x{1f59}\\x{1f5b}\\x{1f5d}\\x{1f5f}-\\x{1f7d}\\x{1f80}-\\x{1fb4}\\x{1fb6}-\\x{1fbc}"         \
    "\\x{1fbe}\\x{1fc2}-\\x{1fc4}\\x{1fc6}-\\x{1fcc}\\x{1fd0}-\\x{1fd3}"                           \
    "\\x{1fd6}-\\x{1fdb}\\x{1fe0}-\\x{1fec}\\x{1ff2}-\\x{1ff4}\\x{1ff6}-\\x{1ffc}"                 \
    "\\x{2102}\\x{2107}\\x{210a}-\\x{2113}\\x{2115}\\x{2119}-\\x{211d}\\x{2124}\\x{2126}"          \
    "\\x{2128}\\x{212a}-\\x{212d}\\x{212f}-\\x{2134}\\x{2139}\\x{213c}-\\x{213f}"                  \
    "\\x{2145}-\\x{2149}\\x{214e}\\x{2183}\\x{2184}\\x{2c00}-\\x{2c7b}\\x{2c7e}-\\x{2ce4}"         \
    "\\x{2ceb}-\\x{2cee}\\x{2cf2}\\x{2cf3}\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}"                  \
    "\\x{a722}-\\x{a76f}\\x{a771}-\\x{a787}\\x{a78b}-\\x{a78e}\\x{ab70}-\\x{abbf}"                 \
    "\\x{fb00}-\\x{fb06}\\x{fb13}-\\x{fb17}\\x{ff21}-\\x{ff3a}\\x{ff41}-\\x{ff5a}"                 \
    "\\x{10400}-\\x{1044f}\\x{104b0}-\\x{104d3}\\x{104d8}-\\x{104fb}\\x{10c80}-\\x{10cb2}"         \
    "\\x{10cc0}-\\x{10cf2}\\x{118a0}-\\x{118df}\\x{1e900}-\\x{1e943}"

static const struct pretokenizer_rules table[] = {
    {.names = "gpt-2, phi-2, jina-es, jina-de, gigachat, jina-v2-es, jina-v2-de, a.x-4.0, mellum, "
              "modern-bert, exaone4, jais, trillion, granite-docling",
     .pattern = {GPT2}},
    /* GPT-NeoX's vocabulary: its tokenizer composes first. */
    {.names = "mpt, olmo", .pattern = {GPT2}, .compose = true},
    {.names = "smollm, starcoder, refact, codeshell, exaone, minerva-7b, mellum2",
     .pattern = {"\\p{N}", GPT2}},
    {.names = "command-r", .pattern = {"\\p{N}", GPT2}, .compose = true},
    {.names =
         "llama-bpe, llama3, llama-v3, falcon3, falcon-h1, pixtral, midm-2.0, lfm2, jina-v5-nano",
     .pattern = {LLAMA3},
     .ignore_merges = true,
     .add_bos = true},
    {.names = "dbrx, smaug-bpe", .pattern = {LLAMA3}},
    {.names = "qwen2, deepseek-r1-qwen", .pattern = {QWEN2}, .compose = true},
    {.names = "stablelm2, megrez, hunyuan, grok-2, solar-open, kormo, f2llmv2", .pattern = {QWEN2}},
    /* Not composed: the expected tokens published with its vocabulary keep decomposed text so. */
    {.names = "qwen35", .pattern = {QWEN35}},
    {.names = "tekken", .pattern = {TEKKEN}, .ignore_merges = true, .add_bos = true},
    {.names = "gpt-4o, llama4, kanana2, talkie", .pattern = {GPT4O}},
    /* The lookbehind changes no match (the first one of a run begins at its first space), but
     * without it each space of a long run would be tried. */
    {.names = "deepseek-llm",
     .pattern = {"[\\r\\n]", "[" WHITE "]?[" DEEPSEEK_LETTERS "]+",
                 "[" WHITE "]?[!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}"
                 "\\x{3000}-\\x{3002}]+",
                 "(?<![" WHITE "])[" WHITE "]+$", "[\\x{800}-\\x{9fa5}\\x{ac00}-\\x{d7ff}]+",
                 "\\p{N}+"}},
    {.names = "deepseek-coder",
     .pattern = {"[\\r\\n]", "[" WHITE "]?\\p{L}+", "[" WHITE "]?\\p{P}+",
                 "[\\x{800}-\\x{9fa5}\\x{ac00}-\\x{d7ff}]+", "\\p{N}"}},
    {.names = "deepseek-v3",
     .pattern = {"\\p{N}{1,3}", "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{30ff}]+", DEEPSEEK_V3}},
    {.names = "falcon", .pattern = {"[\\p{P}\\$\\+<=>\\^~\\|`]+", GPT2, "[0-9][0-9][0-9]"}},
    {.names = "default",
     .pattern = {"[\\p{P}\\$\\+<=>\\^~\\|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}},
};

/* The name at *at in a row's list, without the comma and the space before it; moves *at past it. */
static size_t next_name(const char **at, const char **name) {
    *at += strspn(*at, ", ");
    *name = *at;
    *at += strcspn(*at, ",");
    return (size_t)(*at - *name);
}

static bool row_has(const struct pretokenizer_rules *row, const char *name, size_t n_bytes) {
    const char *at = row->names, *known;
    size_t length;
    while ((length = next_name(&at, &known)) > 0) {
        if (length == n_bytes && memcmp(known, name, n_bytes) == 0) return true;
    }
    return false;
}

const struct pretokenizer_rules *pretokenizer_find(const char *name, size_t n_bytes,
                                                   struct fault *fault) {
    enum { N_ROWS = sizeof table / sizeof *table };
    char known[900] = "", shown[64];
    size_t used = 0;
    for (int row = 0; row < N_ROWS; row++) {
        if (row_has(&table[row], name, n_bytes)) return &table[row];
        int more =
            snprintf(known + used, sizeof known - used, "%s%s", row ? ", " : "", table[row].names);
        REQUIRE((size_t)more < sizeof known - used, "the names do not fit a message");
        used += (size_t)more;
    }
    fault_user(fault, "pre-tokenizer \"%s\" (tokenizer.ggml.pre) is not known; known are: %s",
               log_escape(shown, sizeof shown, name, n_bytes), known);
    return NULL;
}

/* ---- running the patterns */

struct pretokenizer {
    pcre2_code *code[PRETOKENIZER_MAX_PATTERNS];
    int n_codes;
    pcre2_match_data *match;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
    struct word_list words, cut; /* of the patterns so far; of the present one */
};

/* A match costs at most a few steps a byte in every pattern above; these bounds leave room for the
 * longest text there can be in a request and end anything worse with a message. */
enum { MATCH_LIMIT = 500 * 1000 * 1000, DEPTH_LIMIT = 1000 * 1000, HEAP_LIMIT_KIB = 64 * 1024 };
enum { JIT_STACK_FIRST = 32 * 1024, JIT_STACK_MOST = 16 * 1024 * 1024 };

static bool compile(struct pretokenizer *pretokenizer, const char *pattern, struct fault *fault) {
    int error;
    size_t offset;
    pcre2_code *code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                                     PCRE2_UTF | PCRE2_UCP, &error, &offset, NULL);
    if (!code) {
        char reason[128];
        pcre2_get_error_message(error, (PCRE2_UCHAR *)reason, sizeof reason);
        return fault_world(fault, "PCRE2 refuses the pre-tokenizer's pattern at %zu: %s", offset,
                           reason);
    }
    /* Where the library has no JIT for this processor, matching goes on without. */
    pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
    pretokenizer->code[pretokenizer->n_codes++] = code;
    return true;
}

bool pretokenizer_open(struct pretokenizer **pretokenizer, const struct pretokenizer_rules *rules,
                       struct fault *fault) {
    struct pretokenizer *opened = check_alloc(1, sizeof *opened);
    *pretokenizer = opened;
    for (int pattern = 0; pattern < PRETOKENIZER_MAX_PATTERNS; pattern++) {
        if (rules->pattern[pattern] && !compile(opened, rules->pattern[pattern], fault)) {
            pretokenizer_close(opened);
            *pretokenizer = NULL;
            return false;
        }
    }
    opened->match = pcre2_match_data_create(1, NULL);
    opened->context = pcre2_match_context_create(NULL);
    opened->stack = pcre2_jit_stack_create(JIT_STACK_FIRST, JIT_STACK_MOST, NULL);
    if (!opened->match || !opened->context || !opened->stack) check_fail("out of memory: PCRE2");
    pcre2_set_match_limit(opened->context, MATCH_LIMIT);
    pcre2_set_depth_limit(opened->context, DEPTH_LIMIT);
    pcre2_set_heap_limit(opened->context, HEAP_LIMIT_KIB);
    pcre2_jit_stack_assign(opened->context, NULL, opened->stack);
    return true;
}

void pretokenizer_close(struct pretokenizer *pretokenizer) {
    if (!pretokenizer) return;
    for (int code = 0; code < pretokenizer->n_codes; code++) {
        pcre2_code_free(pretokenizer->code[code]);
    }
    pcre2_match_data_free(pretokenizer->match);
    pcre2_match_context_free(pretokenizer->context);
    pcre2_jit_stack_free(pretokenizer->stack);
    free(pretokenizer->words.end);
    free(pretokenizer->cut.end);
    free(pretokenizer);
}

static void add_word(struct word_list *words, size_t end) {
    if (words->n == words->capacity) {
        size_t capacity = words->capacity ? 2 * words->capacity : 256;
        int32_t *wider = check_alloc(capacity, sizeof *wider);
        if (words->n > 0) memcpy(wider, words->end, words->n * sizeof *wider);
        free(words->end);
        words->end = wider;
        words->capacity = capacity;
    }
    words->end[words->n++] = (int32_t)end;
}

/* Cut text[begin..end) at the matches of one pattern, into `cut`. */
static bool cut_word(struct pretokenizer *pretokenizer, const pcre2_code *code, const char *text,
                     size_t begin, size_t end, struct fault *fault) {
    size_t done = begin;
    while (done < end) {
        int found = pcre2_match(code, (PCRE2_SPTR)(text + begin), end - begin, done - begin,
                                PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY, pretokenizer->match,
                                pretokenizer->context);
        if (found == PCRE2_ERROR_NOMATCH) break;
        if (found < 0) {
            char reason[128];
            pcre2_get_error_message(found, (PCRE2_UCHAR *)reason, sizeof reason);
            return fault_user(fault, "text cannot be cut into words: %s, at byte %zu", reason,
                              done);
        }
        const PCRE2_SIZE *bounds = pcre2_get_ovector_pointer(pretokenizer->match);
        if (begin + bounds[0] > done) add_word(&pretokenizer->cut, begin + bounds[0]);
        add_word(&pretokenizer->cut, begin + bounds[1]);
        done = begin + bounds[1];
    }
    if (done < end) add_word(&pretokenizer->cut, end);
    return true;
}

const struct word_list *pretokenizer_split(struct pretokenizer *pretokenizer, const char *text,
                                           size_t n_bytes, struct fault *fault) {
    pretokenizer->words.n = 0;
    if (n_bytes > 0) add_word(&pretokenizer->words, n_bytes);
    for (int pattern = 0; pattern < pretokenizer->n_codes; pattern++) {
        size_t begin = 0;
        pretokenizer->cut.n = 0;
        for (size_t word = 0; word < pretokenizer->words.n; word++) {
            size_t end = (size_t)pretokenizer->words.end[word];
            if (!cut_word(pretokenizer, pretokenizer->code[pattern], text, begin, end, fault)) {
                return NULL;
            }
            begin = end;
        }
        struct word_list done = pretokenizer->words;
        pretokenizer->words = pretokenizer->cut;
        pretokenizer->cut = done;
    }
    return &pretokenizer->words;
}
