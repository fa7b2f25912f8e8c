/* prompts.c - the prompts of a request as tokens. See prompts.h.
 *
 * Owns the shapes a prompt may have and what is added around it. The invariant: request->n_prompts
 * counts prompts whose memory the request owns, at every moment, so a refusal half way leaks
 * nothing. How long a prompt may be is left to prepare.c. Text parts of one message are joined with
 * line ends, as vLLM does for templates that take a string. Rejected: adding BOS to token ids,
 * which are what the person wants to be decoded, exactly.
 */
#include "prompts.h"

#include <stdlib.h>
#include <string.h>

#include "json_text.h"
#include "log.h"

static bool wrong(struct request *request, const json_t *value, const char *allowed) {
    char shown[BODY_SHOWN_BYTES];
    return request_refuse(request, "prompt", "invalid_value", "prompt is %s: it must be %s",
                          body_show(shown, value), allowed);
}

static void keep_echo(struct prompt *prompt, const char *text, size_t n_bytes) {
    prompt->echo.text = check_alloc(n_bytes + 1, 1);
    memcpy(prompt->echo.text, text, n_bytes);
    prompt->echo.n_bytes = n_bytes;
}

/* Take over a list of tokens as the next prompt. */
static struct prompt *add_prompt(struct request *request, struct token_list *tokens) {
    struct prompt *prompt = &request->prompt[request->n_prompts++];
    prompt->id = tokens->id;
    prompt->n_tokens = (int32_t)tokens->n;
    return prompt;
}

/* Make room for one more token at either end. */
static void grow(struct token_list *tokens) {
    if (tokens->n < tokens->capacity) return;
    size_t capacity = tokens->n + 1;
    int32_t *id = check_alloc(capacity, sizeof *id);
    if (tokens->n) memcpy(id, tokens->id, tokens->n * sizeof *id);
    free(tokens->id);
    tokens->id = id;
    tokens->capacity = capacity;
}

static void add_special(struct token_list *tokens, const struct tokenizer *tokenizer, bool chat) {
    int32_t bos = tokenizer_bos(tokenizer), eos = tokenizer_eos_appended(tokenizer);
    if (bos >= 0 && (tokens->n == 0 || tokens->id[0] != bos)) {
        grow(tokens);
        memmove(tokens->id + 1, tokens->id, tokens->n * sizeof *tokens->id);
        tokens->id[0] = bos;
        tokens->n++;
    }
    /* A rendered chat ends where the assistant is to speak; EOS there would end it. */
    if (!chat && eos >= 0 && (tokens->n == 0 || tokens->id[tokens->n - 1] != eos)) {
        grow(tokens);
        tokens->id[tokens->n++] = eos;
    }
}

static bool add_text(struct request *request, const struct request_rules *rules,
                     const struct body *body, const char *text, size_t n_bytes) {
    struct token_list tokens = {0};
    struct fault fault = {0};
    bool chat = request->endpoint == ENDPOINT_CHAT;
    bool encoded = tokenizer_encode(rules->tokenizer, text, n_bytes, true, &tokens, &fault);
    if (encoded && body->add_special) add_special(&tokens, rules->tokenizer, chat);
    if (!encoded || tokens.n == 0 || tokens.n > INT32_MAX) {
        free(tokens.id);
        return request_refuse(request, chat ? "messages" : "prompt", "invalid_value",
                              "prompt cannot be decoded from: %s",
                              encoded ? "it has no tokens" : fault.text);
    }
    struct prompt *prompt = add_prompt(request, &tokens);
    if (body->echo && !chat) keep_echo(prompt, text, n_bytes);
    return true;
}

static bool add_ids(struct request *request, const struct request_rules *rules,
                    const struct body *body, const json_t *list) {
    int n_vocabulary = tokenizer_n_tokens(rules->tokenizer);
    size_t n_ids = json_array_size(list);
    if (n_ids == 0) return wrong(request, list, "at least one token id");
    struct token_list tokens = {.id = check_alloc(n_ids, sizeof(int32_t)), .n = n_ids};
    for (size_t at = 0; at < n_ids; at++) {
        const json_t *element = json_array_get(list, at);
        json_int_t id = json_integer_value(element);
        if (!json_is_integer(element) || id < 0 || id >= n_vocabulary) {
            free(tokens.id);
            char shown[BODY_SHOWN_BYTES];
            return request_refuse(request, "prompt", "invalid_value",
                                  "prompt holds %s at place %zu: token ids are integers from 0 to "
                                  "%d",
                                  body_show(shown, element), at, n_vocabulary - 1);
        }
        tokens.id[at] = (int32_t)id;
    }
    struct prompt *prompt = add_prompt(request, &tokens);
    if (!body->echo) return true;
    struct text_stream stream = {0};
    for (size_t at = 0; at < n_ids; at++)
        text_stream_push(&stream, rules->tokenizer, prompt->id[at]);
    text_stream_end(&stream);
    keep_echo(prompt, stream.text ? stream.text : "", stream.n_bytes);
    text_stream_close(&stream);
    return true;
}

static void make_room(struct request *request, size_t n_prompts) {
    request->prompt = check_alloc(n_prompts, sizeof *request->prompt);
}

static bool read_prompt(struct request *request, const struct request_rules *rules,
                        const struct body *body) {
    const json_t *value = body_member(request->body, "prompt");
    const char *allowed = "a string, a list of strings, a list of token ids, or a list of such "
                          "lists, not empty";
    if (!value)
        return request_refuse(request, "prompt", "missing_parameter",
                              "neither prompt nor messages is given");
    bool is_list = json_is_array(value) && json_array_size(value) > 0;
    if (!json_is_string(value) && !is_list) return wrong(request, value, allowed);
    if (json_is_integer(json_array_get(value, 0))) {
        make_room(request, 1);
        return add_ids(request, rules, body, value);
    }
    size_t n_prompts = is_list ? json_array_size(value) : 1;
    if (n_prompts * (size_t)body->n > REQUEST_MOST_GENERATIONS)
        return request_refuse(request, "prompt", "invalid_value",
                              "%zu prompts with n = %lld are more than %d answers in one request",
                              n_prompts, (long long)body->n, REQUEST_MOST_GENERATIONS);
    make_room(request, n_prompts);
    for (size_t number = 0; number < n_prompts; number++) {
        const json_t *one = is_list ? json_array_get(value, number) : value;
        const json_t *first = is_list ? json_array_get(value, 0) : value;
        if (json_typeof(one) != json_typeof(first) || (!json_is_string(one) && !json_is_array(one)))
            return wrong(request, value, allowed);
        bool added = json_is_string(one) ? add_text(request, rules, body, json_string_value(one),
                                                    json_string_length(one))
                                         : add_ids(request, rules, body, one);
        if (!added) return false;
    }
    return true;
}

/* ---- chat ---- */

static bool join_parts(struct request *request, size_t number, const json_t *parts,
                       struct json_text *joined) {
    char shown[BODY_SHOWN_BYTES];
    json_text_append(joined, "", 0);
    for (size_t at = 0; at < json_array_size(parts); at++) {
        const json_t *part = json_array_get(parts, at);
        const json_t *type = json_object_get(part, "type");
        const json_t *text = json_object_get(part, "text");
        if (!json_is_string(type))
            return request_refuse(request, "messages", "invalid_type",
                                  "messages[%zu].content[%zu] is %s: it must be an object with "
                                  "type and text",
                                  number, at, body_show(shown, part));
        if (strcmp(json_string_value(type), "text") != 0)
            return request_refuse(request, "messages", "unsupported_parameter",
                                  "messages[%zu].content[%zu] has type %s: only text is supported",
                                  number, at, body_show(shown, type));
        if (!json_is_string(text))
            return request_refuse(request, "messages", "invalid_type",
                                  "messages[%zu].content[%zu].text must be a string", number, at);
        if (at > 0) json_text_append(joined, "\n", 1);
        json_text_append(joined, json_string_value(text), json_string_length(text));
    }
    return true;
}

/* Keys of a message beside role and content. */
static bool check_message_key(struct request *request, const struct request_rules *rules,
                              size_t number, const char *key, const json_t *value) {
    static const char *const refused[] = {"tool_calls", "function_call", "audio",
                                          "images",     "reasoning",     "reasoning_content"};
    static const char *const accepted[] = {"role",    "content",     "name",
                                           "refusal", "annotations", "tool_call_id"};
    char shown[BODY_SHOWN_BYTES];
    if (json_is_null(value) || (json_is_array(value) && json_array_size(value) == 0)) return true;
    for (size_t row = 0; row < sizeof refused / sizeof *refused; row++) {
        if (strcmp(key, refused[row]) == 0)
            return request_refuse(request, "messages", "unsupported_parameter",
                                  "messages[%zu].%s is %s, which is not supported", number, key,
                                  body_show(shown, value));
    }
    for (size_t row = 0; row < sizeof accepted / sizeof *accepted; row++) {
        if (strcmp(key, accepted[row]) == 0) return true;
    }
    return body_unknown(request, rules->options, "messages[].", key);
}

static bool read_message(struct request *request, const struct request_rules *rules, size_t number,
                         struct chat_message *message, struct json_text *joined) {
    const json_t *value = json_array_get(body_member(request->body, "messages"), number);
    char shown[BODY_SHOWN_BYTES];
    if (!json_is_object(value))
        return request_refuse(request, "messages", "invalid_type",
                              "messages[%zu] is %s: it must be an object", number,
                              body_show(shown, value));
    const char *key;
    json_t *member;
    json_object_foreach((json_t *)value, key, member) {
        if (!check_message_key(request, rules, number, key, member)) return false;
    }
    const json_t *role = json_object_get(value, "role");
    if (!json_is_string(role) || json_string_length(role) == 0)
        return request_refuse(request, "messages", "invalid_type",
                              "messages[%zu].role must be a string, like \"user\"", number);
    const json_t *content = json_object_get(value, "content");
    if (json_is_array(content)) {
        if (!join_parts(request, number, content, joined)) return false;
    } else if (json_is_string(content)) {
        json_text_append(joined, json_string_value(content), json_string_length(content));
    } else {
        return request_refuse(request, "messages", "invalid_type",
                              "messages[%zu].content must be a string or a list of text parts",
                              number);
    }
    *message = (struct chat_message){
        .role = json_string_value(role),
        .n_role = json_string_length(role),
        .content = joined->text,
        .n_content = joined->n_bytes,
    };
    return true;
}

static bool render(struct request *request, const struct request_rules *rules,
                   const struct body *body, const struct chat_message *message, size_t n_messages) {
    struct template_text text = {0};
    struct fault fault = {0};
    bool added = false;
    if (!rules->chat_template) {
        request_refuse(request, "messages", "unsupported_template", "%s",
                       rules->template_fault ? rules->template_fault->text
                                             : "the model has no chat template");
    } else if (!template_render(rules->chat_template, message, n_messages,
                                body->add_generation_prompt, &text, &fault)) {
        request_refuse(request, "messages", "invalid_value", "%s", fault.text);
    } else {
        added = add_text(request, rules, body, text.text ? text.text : "", text.n_bytes);
    }
    free(text.text);
    const struct chat_message *last = &message[n_messages - 1];
    bool same_speaker = last->n_role == 9 && memcmp(last->role, "assistant", 9) == 0;
    if (added && body->echo && same_speaker)
        keep_echo(&request->prompt[0], last->content, last->n_content);
    return added;
}

static bool read_messages(struct request *request, const struct request_rules *rules,
                          const struct body *body) {
    const json_t *list = body_member(request->body, "messages");
    size_t n_messages = json_array_size(list);
    char shown[BODY_SHOWN_BYTES];
    if (!list)
        return request_refuse(request, "messages", "missing_parameter", "messages is not given");
    if (n_messages == 0)
        return request_refuse(request, "messages", "invalid_type",
                              "messages is %s: it must be a list of at least one message",
                              body_show(shown, list));
    struct chat_message *message = check_alloc(n_messages, sizeof *message);
    struct json_text *joined = check_alloc(n_messages, sizeof *joined);
    bool read = true;
    for (size_t number = 0; read && number < n_messages; number++)
        read = read_message(request, rules, number, &message[number], &joined[number]);
    read = read && render(request, rules, body, message, n_messages);
    for (size_t number = 0; number < n_messages; number++)
        free(joined[number].text);
    free(joined);
    free(message);
    return read;
}

static bool read_wrapped(struct request *request, const struct request_rules *rules,
                         const struct body *body) {
    const json_t *prompt = body_member(request->body, "prompt");
    const char *system = rules->options->system;
    struct chat_message message[2];
    size_t n_messages = 0;
    if (system) message[n_messages++] = (struct chat_message){"system", 6, system, strlen(system)};
    message[n_messages++] =
        (struct chat_message){"user", 4, json_string_value(prompt), json_string_length(prompt)};
    return render(request, rules, body, message, n_messages);
}

bool prompts_read(struct request *request, const struct request_rules *rules,
                  const struct body *body) {
    if (request->endpoint == ENDPOINT_COMPLETIONS) return read_prompt(request, rules, body);
    make_room(request, 1);
    return request->wrapped ? read_wrapped(request, rules, body)
                            : read_messages(request, rules, body);
}
