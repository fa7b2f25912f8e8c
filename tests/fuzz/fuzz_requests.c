/* Any bytes as input lines: each becomes a request or a refusal, and either gives an answer line
 * that can be read back. The first byte chooses options, the rest is the input. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../fake_text.h"
#include "answer.h"
#include "check.h"
#include "requests.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

/* Decode generation 0 from the bytes of the line, then look at what the desk makes of it. */
static void decode(struct request *request, const struct input_line *line) {
    struct generation *generation = request_begin(request, 0);
    int32_t n_tokens = generation->n_prompt, most = generation->n_prompt + generation->max_new;
    for (size_t at = 0; at < line->n_bytes && n_tokens < most; at++) {
        generation->token[n_tokens++] = (unsigned char)line->text[at] % FAKE_N_TOKENS;
        atomic_store(&generation->n_tokens, n_tokens);
        choice_follow(request->choice, request, generation, &fake_tokenizer);
    }
    for (int32_t token = 0; generation->score && token < n_tokens; token++) {
        int n_entries = 1 + generation->sampling.n_logprobs;
        for (int place = 0; place < n_entries; place++)
            generation->score[token * n_entries + place].id = generation->token[token];
    }
    atomic_store(&generation->finish, FINISH_CANCELLED);
    choice_follow(request->choice, request, generation, &fake_tokenizer);
    request_trim(request, 0);
}

static void run_line(const struct request_rules *rules, const struct input_line *line) {
    struct request request;
    struct json_text text = {0};
    struct answer_mark mark;
    request_read(&request, rules->options, line);
    request_prepare(&request, rules);
    bool refused = request.refusal.refused;
    if (!refused) decode(&request, line);
    bool single = !refused && request_n_generations(&request) == 1;
    if (refused || (single && request.choice[0].ending != ENDING_NONE)) {
        answer_write(&text, &request, &fake_tokenizer, 0);
        json_t *object =
            json_loadb(text.text, text.n_bytes, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
        REQUIRE(object != NULL, "an answer is not JSON: %s", text.text);
        json_decref(object);
        REQUIRE(memchr(text.text, '\n', text.n_bytes) == text.text + text.n_bytes - 1,
                "an answer is not one line");
        REQUIRE(answer_read(&mark, text.text, text.n_bytes - 1), "an answer cannot be read back");
        REQUIRE(memcmp(&mark.key, &request.key, sizeof mark.key) == 0, "an answer of another");
        REQUIRE(mark.failed == refused, "a failure is not told");
    }
    free(text.text);
    request_close(&request);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
    if (n_bytes == 0) return 0;
    struct options options = fake_options();
    options.chat = data[0] & 1;
    options.strict = data[0] & 2;
    options.system = data[0] & 4 ? "system" : NULL;
    fake_tokenizer.bos = data[0] & 8 ? FAKE_BOS : -1;
    fake_tokenizer.eos_appended = data[0] & 16 ? FAKE_EOS : -1;
    struct request_rules rules = {
        .tokenizer = &fake_tokenizer,
        .chat_template = data[0] & 32 ? NULL : &fake_template,
        .options = &options,
        .context = 256,
        .kv_tokens = data[0] & 64 ? 200 : INT64_MAX,
        .model_name = "fake",
    };
    log_setup(LOG_QUIET, false);
    const char *at = (const char *)data + 1, *end = (const char *)data + n_bytes;
    for (int64_t line = 1; at < end; line++) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        size_t n_line = (size_t)((newline ? newline : end) - at);
        char *text = malloc(n_line ? n_line : 1); /* of its own, so that reading beyond it shows */
        memcpy(text, at, n_line);
        run_line(&rules, &(struct input_line){.file = "fuzz",
                                              .line = line,
                                              .text = text,
                                              .n_bytes = n_line,
                                              .is_text = data[0] & 128});
        free(text);
        at += n_line + 1;
    }
    return 0;
}
