/* fake_text.h - a tokenizer and a chat template small enough to know by heart.
 *
 * Token ids 0..255 are bytes; 256.. are those of `fake_piece`. All functions of tokenizer.h and
 * template.h that the job side calls are defined here, so tests of it need no model file and their
 * expected values can be written down by hand. To be included by one file of a program.
 */
#ifndef LAMINA_FAKE_TEXT_H
#define LAMINA_FAKE_TEXT_H

#include <stdlib.h>
#include <string.h>

#include "options.h"
#include "template.h"
#include "tokenizer.h"

enum {
    FAKE_BOS = 256,
    FAKE_EOS,
    FAKE_EOT,
    FAKE_HELLO,
    FAKE_STO,
    FAKE_P_OVER,
    FAKE_SPACE_WORLD,
    FAKE_HALF_EURO, /* two of the three bytes of U+20AC */
    FAKE_N_TOKENS
};

static const char *const fake_piece[] = {"<bos>", "<eos>",  "<eot>",  "hello",
                                         " STO",  "P over", " world", "\xe2\x82"};

/* What a test may change: which tokens are added around text, and how many there are said to be. */
struct tokenizer {
    int32_t bos, eos_appended;
    int n_tokens;
};
static struct tokenizer fake_tokenizer = {.bos = -1, .eos_appended = -1, .n_tokens = FAKE_N_TOKENS};

int tokenizer_n_tokens(const struct tokenizer *tokenizer) {
    return tokenizer->n_tokens;
}
int32_t tokenizer_bos(const struct tokenizer *tokenizer) {
    return tokenizer->bos;
}
int32_t tokenizer_eos_appended(const struct tokenizer *tokenizer) {
    return tokenizer->eos_appended;
}
const int32_t *tokenizer_stop_ids(const struct tokenizer *tokenizer, size_t *n) {
    static const int32_t id[] = {FAKE_EOS, FAKE_EOT};
    (void)tokenizer;
    *n = 2;
    return id;
}
bool tokenizer_is_special(const struct tokenizer *tokenizer, int32_t id) {
    (void)tokenizer;
    return id >= FAKE_BOS && id <= FAKE_EOT;
}
const char *tokenizer_piece(const struct tokenizer *tokenizer, int32_t id, size_t *n_bytes) {
    static char byte[256];
    (void)tokenizer;
    if (id < 256) {
        byte[id] = (char)id;
        *n_bytes = 1;
        return &byte[id];
    }
    *n_bytes = strlen(fake_piece[id - 256]);
    return fake_piece[id - 256];
}

static void fake_append(struct token_list *list, int32_t id) {
    if (list->n == list->capacity) {
        list->capacity = 2 * list->capacity + 16;
        list->id = realloc(list->id, list->capacity * sizeof *list->id);
    }
    list->id[list->n++] = id;
}

bool tokenizer_encode(struct tokenizer *tokenizer, const char *text, size_t n_bytes,
                      bool parse_special, struct token_list *list, struct fault *fault) {
    (void)tokenizer, (void)fault;
    for (size_t at = 0; at < n_bytes;) {
        int32_t found = -1;
        for (int32_t id = FAKE_BOS; parse_special && id <= FAKE_EOT; id++) {
            size_t n_piece = strlen(fake_piece[id - 256]);
            if (n_bytes - at >= n_piece && memcmp(text + at, fake_piece[id - 256], n_piece) == 0)
                found = id;
        }
        fake_append(list, found >= 0 ? found : (unsigned char)text[at]);
        at += found >= 0 ? strlen(fake_piece[found - 256]) : 1;
    }
    return true;
}

/* ---- text_stream: bytes are held back until a character is whole ---- */

static void fake_put(struct text_stream *stream, const char *bytes, size_t n_bytes) {
    if (stream->n_bytes + n_bytes + 1 > stream->capacity) {
        stream->capacity = 2 * (stream->n_bytes + n_bytes + 1);
        stream->text = realloc(stream->text, stream->capacity);
    }
    memcpy(stream->text + stream->n_bytes, bytes, n_bytes);
    stream->n_bytes += n_bytes;
    stream->text[stream->n_bytes] = 0;
}

static int fake_width(unsigned char lead) {
    return lead < 0x80 ? 1 : lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc2 ? 2 : 0;
}

static void fake_byte(struct text_stream *stream, unsigned char byte) {
    bool continues = (byte & 0xc0) == 0x80;
    if (stream->n_held > 0 && !continues) {
        fake_put(stream, "\xef\xbf\xbd", 3);
        stream->n_held = 0;
    }
    if (stream->n_held == 0 && (continues || fake_width(byte) == 0)) {
        fake_put(stream, "\xef\xbf\xbd", 3);
        return;
    }
    stream->held[stream->n_held++] = (char)byte;
    if (stream->n_held == fake_width((unsigned char)stream->held[0])) {
        fake_put(stream, stream->held, (size_t)stream->n_held);
        stream->n_held = 0;
    }
}

void text_stream_push(struct text_stream *stream, const struct tokenizer *tokenizer, int32_t id) {
    if (stream->skip_special && tokenizer_is_special(tokenizer, id)) return;
    size_t n_bytes;
    const char *piece = tokenizer_piece(tokenizer, id, &n_bytes);
    for (size_t at = 0; at < n_bytes; at++)
        fake_byte(stream, (unsigned char)piece[at]);
}
void text_stream_end(struct text_stream *stream) {
    if (stream->n_held > 0) fake_put(stream, "\xef\xbf\xbd", 3);
    stream->n_held = 0;
}
void text_stream_close(struct text_stream *stream) {
    free(stream->text);
    *stream = (struct text_stream){0};
}

/* ---- a template: "[role]content\n" a message, then "[assistant]" ---- */

struct chat_template {
    int unused;
};
static const struct chat_template fake_template;

static void fake_render_text(struct template_text *text, const char *bytes, size_t n_bytes) {
    text->text = realloc(text->text, text->n_bytes + n_bytes + 1);
    memcpy(text->text + text->n_bytes, bytes, n_bytes);
    text->n_bytes += n_bytes;
}

bool template_render(const struct chat_template *chat_template, const struct chat_message *message,
                     size_t n_messages, bool generation_prompt, struct template_text *text,
                     struct fault *fault) {
    (void)chat_template;
    for (size_t number = 0; number < n_messages; number++) {
        if (message[number].n_role == 4 && memcmp(message[number].role, "tool", 4) == 0)
            return fault_user(fault, "the template has no role tool");
        fake_render_text(text, "[", 1);
        fake_render_text(text, message[number].role, message[number].n_role);
        fake_render_text(text, "]", 1);
        fake_render_text(text, message[number].content, message[number].n_content);
        fake_render_text(text, "\n", 1);
    }
    if (generation_prompt) fake_render_text(text, "[assistant]", 11);
    return true;
}

/* The one thing of options.c that the job side calls. */
__attribute__((weak)) const char *kv_type_name(enum kv_type type) {
    return type == KV_F32 ? "f32" : type == KV_F16 ? "f16" : "bf16";
}

/* What the command line gives when nothing is typed. */
static inline struct options fake_options(void) {
    return (struct options){
        .command = COMMAND_GENERATE,
        .top_p = 1,
        .repetition_penalty = 1,
        .max_tokens = -1,
        .context = -1,
        .kv_type = KV_F16,
        .kv_tokens = -1,
        .kv_memory = -1,
    };
}

#endif
