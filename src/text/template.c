/* template.c - the table of chat templates: names, texts, renderers. See template.h.
 *
 * A text is known by its XXH3-64 hash, one final newline left out (Jinja drops it too). Several
 * texts may stand for one renderer: makers write the same template in several ways. What the texts
 * are and where they come from: tests/templates/README.md, which also says how a hash is added.
 *
 * The texts themselves are not here: they are their makers'. An interpreter for Jinja will take in
 * what this table refuses.
 */
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "log.h"
#include "template_parts.h"

enum row {
    ROW_CHATML,
    ROW_SMOLLM2,
    ROW_QWEN2,
    ROW_QWEN2_BETA,
    ROW_QWEN2_5,
    ROW_QWEN3,
    ROW_QWEN3_NO_THINKING,
    ROW_LLAMA2,
    ROW_LLAMA3,
    ROW_LLAMA3_PROMPTS,
    ROW_LLAMA3_1,
    ROW_MISTRAL_V0,
    ROW_MISTRAL_V0_SPACE,
    ROW_MISTRAL_V1,
    ROW_MISTRAL_V3,
    ROW_MISTRAL_V3_TEKKEN,
    ROW_MISTRAL_V7,
    ROW_MISTRAL_V7_TEKKEN,
    ROW_PHI3,
    ROW_PHI3_MINI,
    ROW_PHI3_MEDIUM,
    ROW_PHI3_SMALL,
    ROW_PHI3_VISION,
    ROW_ZEPHYR,
    N_ROWS
};

#define LLAMA3_BOS "<|begin_of_text|>"
#define PHI3_EOS   "<|endoftext|>"

static const struct chat_template rows[N_ROWS] = {
    [ROW_CHATML] = {.name = "chatml", .render = render_chatml},
    [ROW_SMOLLM2] = {.name = "smollm2",
                     .render = render_chatml,
                     .default_system =
                         "You are a helpful AI assistant named SmolLM, trained by Hugging Face"},
    [ROW_QWEN2] = {.name = "qwen2",
                   .render = render_chatml,
                   .default_system = "You are a helpful assistant."},
    /* Without the full stop: Qwen 1.5 and the first Qwen 2 files. */
    [ROW_QWEN2_BETA] = {.name = "qwen2-beta",
                        .render = render_chatml,
                        .default_system = "You are a helpful assistant"},
    [ROW_QWEN2_5] = {.name = "qwen2.5",
                     .render = render_qwen2_5,
                     .default_system =
                         "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."},
    [ROW_QWEN3] = {.name = "qwen3", .render = render_qwen3},
    [ROW_QWEN3_NO_THINKING] = {.name = "qwen3-no-thinking",
                               .render = render_qwen3,
                               .variant = QWEN3_THINKS_NOT},
    [ROW_LLAMA2] = {.name = "llama2", .render = render_llama2, .bos = "<s>", .eos = "</s>"},
    [ROW_LLAMA3] = {.name = "llama3", .render = render_llama3, .bos = LLAMA3_BOS},
    [ROW_LLAMA3_PROMPTS] = {.name = "llama3-prompts",
                            .render = render_llama3,
                            .bos = LLAMA3_BOS,
                            .variant = LLAMA3_ALWAYS_PROMPTS},
    [ROW_LLAMA3_1] = {.name = "llama3.1", .render = render_llama3_1, .bos = LLAMA3_BOS},
    [ROW_MISTRAL_V0] = {.name = "mistral-v0",
                        .render = render_mistral_v0,
                        .bos = "<s>",
                        .eos = "</s>"},
    [ROW_MISTRAL_V0_SPACE] = {.name = "mistral-v0-space",
                              .render = render_mistral_v0,
                              .bos = "<s>",
                              .eos = "</s>",
                              .variant = MISTRAL_V0_SPACE},
    [ROW_MISTRAL_V1] = {.name = "mistral-v1",
                        .render = render_mistral_v1,
                        .bos = "<s>",
                        .eos = "</s>"},
    [ROW_MISTRAL_V3] = {.name = "mistral-v3",
                        .render = render_mistral_v3,
                        .bos = "<s>",
                        .eos = "</s>"},
    [ROW_MISTRAL_V3_TEKKEN] = {.name = "mistral-v3-tekken",
                               .render = render_mistral_v3,
                               .bos = "<s>",
                               .eos = "</s>",
                               .variant = MISTRAL_V3_TEKKEN},
    [ROW_MISTRAL_V7] = {.name = "mistral-v7",
                        .render = render_mistral_v7,
                        .bos = "<s>",
                        .eos = "</s>"},
    [ROW_MISTRAL_V7_TEKKEN] = {.name = "mistral-v7-tekken",
                               .render = render_mistral_v7_tekken,
                               .bos = "<s>",
                               .eos = "</s>"},
    [ROW_PHI3] = {.name = "phi3", .render = render_phi3_named, .eos = PHI3_EOS, .variant = PHI3_5},
    [ROW_PHI3_MINI] = {.name = "phi3-mini", .render = render_phi3, .bos = "<s>"},
    [ROW_PHI3_MEDIUM] = {.name = "phi3-medium", .render = render_phi3},
    [ROW_PHI3_SMALL] = {.name = "phi3-small",
                        .render = render_phi3_named,
                        .bos = PHI3_EOS,
                        .eos = PHI3_EOS,
                        .variant = PHI3_SMALL},
    [ROW_PHI3_VISION] = {.name = "phi3-vision",
                         .render = render_phi3_named,
                         .variant = PHI3_VISION},
    [ROW_ZEPHYR] = {.name = "zephyr", .render = render_zephyr, .eos = "</s>"},
};

static const struct {
    uint64_t hash;
    enum row row;
} texts[] = {
    {0x4c6e807ee5fe9f4a, ROW_CHATML},           /* chatml.hermes */
    {0xa04f41d813a07b13, ROW_CHATML},           /* chatml.hermes, newlines spelled otherwise */
    {0xda206a9e46a4ac01, ROW_CHATML},           /* chatml.set-default */
    {0x846f9032c2079ea2, ROW_CHATML},           /* chatml.set-default, newlines spelled otherwise */
    {0x24f6d97f87d647f5, ROW_LLAMA2},           /* llama2 */
    {0xcb7c5112dfc4a3b0, ROW_LLAMA2},           /* llama2, newlines spelled otherwise */
    {0xb97891b7adc1beb8, ROW_LLAMA3_PROMPTS},   /* llama3-prompts */
    {0x80e4830e93c6d9f7, ROW_LLAMA3_PROMPTS},   /* llama3-prompts, newlines spelled otherwise */
    {0x6ca7779b7730196a, ROW_LLAMA3_1},         /* llama3.1.8b */
    {0xda8ae4616203881a, ROW_LLAMA3_1},         /* llama3.1.8b, newlines spelled otherwise */
    {0xc3d57e38f5ff0756, ROW_LLAMA3_1},         /* llama3.1.llama3.2 */
    {0xba28f0d41aa45594, ROW_LLAMA3_1},         /* llama3.1.llama3.2, newlines spelled otherwise */
    {0x9799ad6e2dea0594, ROW_LLAMA3},           /* llama3 */
    {0x866fc8fa50da12fe, ROW_LLAMA3},           /* llama3, newlines spelled otherwise */
    {0xb7f52373b11c60d7, ROW_MISTRAL_V0_SPACE}, /* mistral-v0-space */
    {0xa5d004210ebce758, ROW_MISTRAL_V0},       /* mistral-v0 */
    {0xf89cfc57f651ff3d, ROW_MISTRAL_V1},       /* mistral-v1 */
    {0xfa42ef759a4066ef, ROW_MISTRAL_V1},       /* mistral-v1, newlines spelled otherwise */
    {0xcae647ce0048756b, ROW_MISTRAL_V3_TEKKEN}, /* mistral-v3-tekken */
    {0xa5438a4278f4c2ee, ROW_MISTRAL_V3_TEKKEN}, /* mistral-v3-tekken, newlines spelled otherwise */
    {0xc6614466504d495b, ROW_MISTRAL_V3},        /* mistral-v3 */
    {0xda83cc145815d4a5, ROW_MISTRAL_V3},        /* mistral-v3, newlines spelled otherwise */
    {0xdf8ea8c96e21d4e6, ROW_MISTRAL_V7_TEKKEN}, /* mistral-v7-tekken */
    {0xb5670a888f6a72ec, ROW_MISTRAL_V7_TEKKEN}, /* mistral-v7-tekken, newlines spelled otherwise */
    {0x11381d1c62000f60, ROW_MISTRAL_V7},        /* mistral-v7 */
    {0x874eeb59684ce46e, ROW_PHI3_MEDIUM},       /* phi3-medium */
    {0x52edc2ec9a3bb104, ROW_PHI3_MEDIUM},       /* phi3-medium, newlines spelled otherwise */
    {0x551cbfd01fcc4680, ROW_PHI3_MINI},         /* phi3-mini */
    {0x14d4394ea06f86ed, ROW_PHI3_MINI},         /* phi3-mini, newlines spelled otherwise */
    {0x0b89d0be2a99c9d6, ROW_PHI3_SMALL},        /* phi3-small */
    {0xc2267e9242799e38, ROW_PHI3_SMALL},        /* phi3-small, newlines spelled otherwise */
    {0xa7a03066f0ed13e9, ROW_PHI3_VISION},       /* phi3-vision */
    {0xb1573771e17e0171, ROW_PHI3_VISION},       /* phi3-vision, newlines spelled otherwise */
    {0xcd8aff863abd4554, ROW_PHI3},              /* phi3 */
    {0x57b9f91cf031b03a, ROW_PHI3},              /* phi3, newlines spelled otherwise */
    {0x20f20c2b5139eaee, ROW_QWEN2_BETA},        /* qwen2-beta */
    {0x8dc1c6775f9ced80, ROW_QWEN2_BETA},        /* qwen2-beta, newlines spelled otherwise */
    {0x2469c9508f79506e, ROW_QWEN2_5},           /* qwen2.5 */
    {0xf9a29021c9d093ad, ROW_QWEN2_5},           /* qwen2.5, newlines spelled otherwise */
    {0xd5d943bd0bd9082f, ROW_QWEN2},             /* qwen2 */
    {0xc79034a9d5f0ae58, ROW_QWEN2},             /* qwen2, newlines spelled otherwise */
    {0x0283f874ff58d644, ROW_QWEN3},             /* qwen3.first */
    {0x5a33498785c53d45, ROW_QWEN3},             /* qwen3.first, newlines spelled otherwise */
    {0xc9e0155c80737cf2, ROW_QWEN3},             /* qwen3.later */
    {0x4372a702009a6e39, ROW_QWEN3},             /* qwen3.later, newlines spelled otherwise */
    {0x99ab995e9629dacd, ROW_SMOLLM2},           /* smollm2 */
    {0x83059ddcb62b07a0, ROW_SMOLLM2},           /* smollm2, newlines spelled otherwise */
    {0x1db34e9fc60441d8, ROW_ZEPHYR},            /* zephyr */
};

/* ---- finding */

enum { NAMES_BYTES = 512 };

/* The names of all rows, for messages. */
static const char *list_names(char names[static NAMES_BYTES]) {
    size_t used = 0;
    for (int row = 0; row < N_ROWS; row++) {
        used += (size_t)snprintf(names + used, NAMES_BYTES - used, "%s%s", row ? ", " : "",
                                 rows[row].name);
        REQUIRE(used < NAMES_BYTES, "the names of templates do not fit a message");
    }
    return names;
}

const char *template_name(const struct chat_template *chat_template) {
    return chat_template->name;
}

bool template_find_name(const struct chat_template **found, const char *name, struct fault *fault) {
    for (int row = 0; row < N_ROWS; row++) {
        if (strcmp(rows[row].name, name) != 0) continue;
        *found = &rows[row];
        return true;
    }
    char names[NAMES_BYTES], shown[64];
    return fault_user(fault, "chat template \"%s\" is not known; known are: %s",
                      log_escape(shown, sizeof shown, name, strlen(name)), list_names(names));
}

static const struct chat_template *find_text(struct gguf_string text) {
    if (text.n_bytes > 0 && text.text[text.n_bytes - 1] == '\n') text.n_bytes--;
    uint64_t hash = XXH3_64bits(text.text, text.n_bytes);
    for (size_t known = 0; known < sizeof texts / sizeof *texts; known++) {
        if (texts[known].hash == hash) return &rows[texts[known].row];
    }
    return NULL;
}

/* True when the token under `key` is written as the renderer writes it, or it writes none. */
static bool token_agrees(const struct gguf *gguf, const char *key, uint32_t standard,
                         const char *written) {
    if (!written) return true;
    uint32_t id = standard;
    const struct gguf_value *tokens = gguf_find(gguf, "tokenizer.ggml.tokens");
    gguf_read_u32(gguf, key, &id, NULL);
    if (!tokens || tokens->kind != GGUF_ARRAY || tokens->element != GGUF_STRING ||
        id >= tokens->n_elements) {
        return false;
    }
    struct gguf_string token = tokens->string[id];
    return token.n_bytes == strlen(written) && memcmp(token.text, written, token.n_bytes) == 0;
}

static const char way_round[] = "name one with --chat-template NAME, or give prompts as text or "
                                "token ids; known are";

bool template_find(const struct chat_template **found, const struct gguf *gguf,
                   struct fault *fault) {
    char names[NAMES_BYTES], path[200];
    log_escape(path, sizeof path, gguf->path, strlen(gguf->path));
    struct gguf_string text;
    if (!gguf_read_string(gguf, "tokenizer.chat_template", &text, NULL)) {
        return fault_user(fault, "%s has no chat template: %s: %s", path, way_round,
                          list_names(names));
    }
    *found = find_text(text);
    if (!*found) {
        return fault_user(fault, "the chat template in %s is not recognised: %s: %s", path,
                          way_round, list_names(names));
    }
    /* 1 and 2: what SentencePiece models have where the file is silent. */
    if (!token_agrees(gguf, "tokenizer.ggml.bos_token_id", 1, (*found)->bos) ||
        !token_agrees(gguf, "tokenizer.ggml.eos_token_id", 2, (*found)->eos)) {
        return fault_user(fault,
                          "the chat template in %s is \"%s\", but the file's BOS or EOS token is "
                          "not the %s %s it is known with: %s: %s",
                          path, (*found)->name, (*found)->bos ? (*found)->bos : "",
                          (*found)->eos ? (*found)->eos : "", way_round, list_names(names));
    }
    return true;
}

bool template_render(const struct chat_template *chat_template, const struct chat_message *message,
                     size_t n_messages, bool generation_prompt, struct template_text *text,
                     struct fault *fault) {
    struct chat chat = {.row = chat_template,
                        .message = message,
                        .n_messages = n_messages,
                        .generation_prompt = generation_prompt,
                        .text = text,
                        .fault = fault};
    size_t n_before = text->n_bytes;
    if (n_messages == 0) return fault_user(fault, "there are no messages");
    if (!text->text) { /* some templates write nothing for some messages */
        text->capacity = 256;
        text->text = check_alloc(text->capacity, 1);
    }
    if (chat_template->render(&chat)) return true;
    text->n_bytes = n_before;
    return false;
}
