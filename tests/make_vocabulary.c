/* make_vocabulary.c - the tokenizer of a random model. See make_gguf.h.
 *
 * Merges are drawn so that they happen in English text, in UTF-8 beyond ASCII and in runs of
 * newlines: letters by frequency, words that open with a space, lead bytes with continuation bytes.
 * Every part of a merge is a token with a lower id, and no two merges make the same token.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "make_gguf.h"

enum { CONTROL_TOKENS = 3, BYTE_TOKENS = 256, TOKEN_MOST = 32, KIND_NORMAL = 1, KIND_CONTROL = 3 };

static const char chat_template[] =
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}";

struct vocabulary {
    int n_tokens, n_merges;
    char (*token)[TOKEN_MOST]; /* (n_tokens), as the file writes them */
    int (*merge)[2];           /* (n_merges), ids of the parts */
    uint64_t random;
};

static int draw(struct vocabulary *vocabulary, int below) {
    return (int)(make_gguf_random(&vocabulary->random) >> 33) % below;
}

static int byte_token(int byte) {
    return CONTROL_TOKENS + byte;
}

/* GPT-2's letters for bytes: printable Latin-1 stands for itself, the rest for U+0100 onwards. */
static void write_byte_tokens(struct vocabulary *vocabulary) {
    int next = 256;
    for (int byte = 0; byte < BYTE_TOKENS; byte++) {
        bool is_plain = (byte > 32 && byte < 127) || (byte > 160 && byte < 256 && byte != 173);
        int letter = is_plain ? byte : next++;
        char *token = vocabulary->token[byte_token(byte)];
        if (letter < 128) {
            token[0] = (char)letter;
        } else {
            token[0] = (char)(0xc0 | letter >> 6);
            token[1] = (char)(0x80 | (letter & 63));
        }
    }
}

static bool is_taken(const struct vocabulary *vocabulary, const char *token) {
    for (int id = 0; id < vocabulary->n_tokens; id++) {
        if (strcmp(vocabulary->token[id], token) == 0) return true;
    }
    return false;
}

static bool is_letters(const char *token) {
    return token[strspn(token, "abcdefghijklmnopqrstuvwxyz")] == 0;
}

static int draw_letter(struct vocabulary *vocabulary) {
    static const char by_frequency[] = "etaoinshrdlucmfwygpbvk";
    int first = draw(vocabulary, 22), second = draw(vocabulary, 22);
    return byte_token(by_frequency[first < second ? first : second]);
}

/* A short merged token of letters alone; a letter while there are few merges to choose from. */
static int draw_piece(struct vocabulary *vocabulary) {
    int first_merged = CONTROL_TOKENS + BYTE_TOKENS;
    for (int attempt = 0; attempt < 8 && vocabulary->n_merges > 50; attempt++) {
        int id = first_merged + draw(vocabulary, vocabulary->n_merges);
        const char *token = vocabulary->token[id];
        if (is_letters(token) && strlen(token) <= 4) return id;
    }
    return draw_letter(vocabulary);
}

static void draw_merge(struct vocabulary *vocabulary, int part[2]) {
    int kind = draw(vocabulary, 16);
    if (kind < 8) { /* letters and pieces */
        part[0] = kind < 4 ? draw_letter(vocabulary) : draw_piece(vocabulary);
        part[1] = kind < 7 ? draw_letter(vocabulary) : draw_piece(vocabulary);
    } else if (kind < 13) { /* a word that opens with a space */
        part[0] = byte_token(' ');
        part[1] = kind < 10 ? draw_letter(vocabulary) : draw_piece(vocabulary);
    } else if (kind < 15) { /* two-byte characters U+00C0 to U+017F, or the beginning of a longer */
        part[0] = byte_token((kind == 13 ? 0xc3 : 0xe2) + draw(vocabulary, 3));
        part[1] = byte_token(0x80 + draw(vocabulary, 64));
    } else {
        static const char runs[] = "\n -=.";
        part[0] = part[1] = byte_token(runs[draw(vocabulary, 5)]);
    }
}

static void draw_merges(struct vocabulary *vocabulary, int n_merges) {
    int failures = 0; /* small spaces run out of new tokens */
    while (vocabulary->n_merges < n_merges && failures < 1000) {
        int part[2];
        char joined[2 * TOKEN_MOST];
        draw_merge(vocabulary, part);
        snprintf(joined, sizeof joined, "%s%s", vocabulary->token[part[0]],
                 vocabulary->token[part[1]]);
        if (strlen(joined) > 12 || is_taken(vocabulary, joined)) {
            failures++;
            continue;
        }
        failures = 0;
        memcpy(vocabulary->merge[vocabulary->n_merges++], part, sizeof part);
        memcpy(vocabulary->token[vocabulary->n_tokens++], joined, strlen(joined) + 1);
    }
}

static void append(struct image *image, const struct vocabulary *vocabulary) {
    image_key_array(image, "tokenizer.ggml.tokens", GGUF_STRING, (uint64_t)vocabulary->n_tokens);
    for (int id = 0; id < vocabulary->n_tokens; id++)
        image_string(image, vocabulary->token[id]);
    image_key_array(image, "tokenizer.ggml.token_type", GGUF_I32, (uint64_t)vocabulary->n_tokens);
    for (int id = 0; id < vocabulary->n_tokens; id++)
        image_u32(image, id < CONTROL_TOKENS ? KIND_CONTROL : KIND_NORMAL);
    image_key_array(image, "tokenizer.ggml.merges", GGUF_STRING, (uint64_t)vocabulary->n_merges);
    for (int merge = 0; merge < vocabulary->n_merges; merge++) {
        char text[2 * TOKEN_MOST + 1];
        snprintf(text, sizeof text, "%s %s", vocabulary->token[vocabulary->merge[merge][0]],
                 vocabulary->token[vocabulary->merge[merge][1]]);
        image_string(image, text);
    }
}

int make_vocabulary(struct image *image, uint64_t seed, int n_tokens) {
    struct vocabulary vocabulary = {.random = seed ^ 0x766f636162756c61u};
    vocabulary.token = check_alloc((size_t)n_tokens, sizeof *vocabulary.token);
    vocabulary.merge = check_alloc((size_t)n_tokens, sizeof *vocabulary.merge);
    strcpy(vocabulary.token[0], "<|endoftext|>");
    strcpy(vocabulary.token[1], "<|im_start|>");
    strcpy(vocabulary.token[2], "<|im_end|>");
    write_byte_tokens(&vocabulary);
    vocabulary.n_tokens = CONTROL_TOKENS + BYTE_TOKENS;
    draw_merges(&vocabulary, (n_tokens - vocabulary.n_tokens) / 4 * 3);
    for (int id = vocabulary.n_tokens; id < n_tokens; id++)
        snprintf(vocabulary.token[id], TOKEN_MOST, "[%d]", id);
    vocabulary.n_tokens = n_tokens;

    image_key_string(image, "tokenizer.ggml.model", "gpt2");
    image_key_string(image, "tokenizer.ggml.pre", "smollm");
    append(image, &vocabulary);
    image_key_u32(image, "tokenizer.ggml.bos_token_id", 1);
    image_key_u32(image, "tokenizer.ggml.eos_token_id", 2);
    image_key_u32(image, "tokenizer.ggml.unknown_token_id", 0);
    image_key_u32(image, "tokenizer.ggml.padding_token_id", 2);
    image_key_bool(image, "tokenizer.ggml.add_bos_token", false);
    image_key_bool(image, "tokenizer.ggml.add_space_prefix", false);
    image_key_string(image, "tokenizer.chat_template", chat_template);
    free(vocabulary.token);
    free(vocabulary.merge);
    return 12;
}
