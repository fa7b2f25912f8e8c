/* requests.c - a line of input becomes a request. See requests.h.
 *
 * Owns who a request is (custom_id, key, hash of the body), which endpoint it means, and the life
 * of struct request. The invariant: whatever the line holds, the request has a place to be named
 * by, and either a refusal or a body that is an object. What the body says is left to body.c, its
 * prompts to prompts.c. Duplicate keys in an object are refused: which of the two was meant cannot
 * be known. Rejected: refusing a line without looking for its custom_id, which would leave the
 * person to count lines. Source: OpenAI's Batch file format; reference of jansson 2.14.
 */
#include "requests.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "body.h"
#include "json_scan.h"
#include "log.h"
#include "prompts.h"

/* Seeds that keep hashes of different things apart. */
enum { KEY_OF_ID = 0, KEY_OF_PLACE = 1 };

static bool refuse(struct request *request, const char *param, const char *code, const char *format,
                   va_list arguments) {
    struct refusal *refusal = &request->refusal;
    if (refusal->refused) return false;
    refusal->refused = true;
    snprintf(refusal->param, sizeof refusal->param, "%s", param ? param : "");
    snprintf(refusal->code, sizeof refusal->code, "%s", code);
    char place[256];
    log_escape(place, sizeof place, request->file, strlen(request->file));
    int n_bytes = snprintf(refusal->message, sizeof refusal->message, "%s:%lld: ", place,
                           (long long)request->line);
    vsnprintf(refusal->message + n_bytes, sizeof refusal->message - (size_t)n_bytes, format,
              arguments);
    return false;
}

bool request_refuse(struct request *request, const char *param, const char *code,
                    const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    refuse(request, param, code, format, arguments);
    va_end(arguments);
    return false;
}

/* A line that never was a request. */
static bool unreadable(struct request *request, const char *code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static bool unreadable(struct request *request, const char *code, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    refuse(request, NULL, code, format, arguments);
    va_end(arguments);
    request->refusal.unreadable = true;
    return false;
}

static struct request_key hash_key(const char *text, size_t n_bytes, uint64_t seed) {
    XXH128_hash_t hash = XXH3_128bits_withSeed(text, n_bytes, seed);
    return (struct request_key){.high = hash.high64, .low = hash.low64};
}

struct request_key request_key_of(const char *custom_id, size_t n_bytes) {
    return hash_key(custom_id, n_bytes, KEY_OF_ID);
}

void request_forget_id(struct request *request) {
    free(request->custom_id);
    request->custom_id = NULL;
    size_t n_bytes = strlen(request->file) + 64;
    char *place = check_alloc(n_bytes, 1);
    snprintf(place, n_bytes, "%d:%lld:%s", request->file_number, (long long)request->line,
             request->file);
    request->key = hash_key(place, strlen(place), KEY_OF_PLACE);
    free(place);
}

static void set_id(struct request *request, const char *id) {
    request->custom_id = check_alloc(strlen(id) + 1, 1);
    strcpy(request->custom_id, id);
    request->key = request_key_of(id, strlen(id));
}

/* The id of a line that names none. */
static void set_default_id(struct request *request) {
    char id[64];
    if (request->file_number > 0) {
        snprintf(id, sizeof id, "%d:line-%lld", request->file_number, (long long)request->line);
    } else {
        snprintf(id, sizeof id, "line-%lld", (long long)request->line);
    }
    set_id(request, id);
}

static bool read_id(struct request *request, const json_t *value) {
    char shown[BODY_SHOWN_BYTES];
    if (!value) {
        set_default_id(request);
        return true;
    }
    if (!json_is_string(value) || json_string_length(value) == 0)
        return request_refuse(request, "custom_id", "invalid_type",
                              "custom_id is %s: it must be a string that is not empty",
                              body_show(shown, value));
    if (strlen(json_string_value(value)) != json_string_length(value))
        return request_refuse(request, "custom_id", "invalid_value",
                              "custom_id is %s: it must not hold U+0000", body_show(shown, value));
    set_id(request, json_string_value(value));
    return true;
}

/* The custom_id of a line that is not JSON as a whole, where the text as far as it goes has one. */
static void rescue_id(struct request *request, const char *text, size_t n_bytes) {
    struct json_span span;
    if (!json_scan_member(text, n_bytes, "custom_id", &span)) return;
    json_t *value = json_loadb(span.text, span.n_bytes, JSON_DECODE_ANY, NULL);
    if (json_is_string(value) && json_string_length(value) > 0)
        set_id(request, json_string_value(value));
    json_decref(value);
}

static int hash_more(const char *buffer, size_t n_bytes, void *state) {
    XXH3_64bits_update(state, buffer, n_bytes);
    return 0;
}

static uint64_t hash_body(enum endpoint endpoint, const json_t *body) {
    XXH3_state_t *state = XXH3_createState();
    REQUIRE(state != NULL, "no memory for a hash");
    XXH3_64bits_reset_withSeed(state, (uint64_t)endpoint);
    json_dump_callback(body, hash_more, state, JSON_SORT_KEYS | JSON_COMPACT);
    uint64_t hash = XXH3_64bits_digest(state);
    XXH3_freeState(state);
    return hash;
}

static bool read_method(struct request *request, const json_t *value) {
    char shown[BODY_SHOWN_BYTES];
    if (!value || (json_is_string(value) && strcmp(json_string_value(value), "POST") == 0))
        return true;
    return request_refuse(request, "method", "invalid_value", "method is %s: it must be \"POST\"",
                          body_show(shown, value));
}

/* The endpoint a line names, or the one its prompt means. */
static bool read_endpoint(struct request *request, const json_t *url, const json_t *body) {
    bool has_messages = body_member(body, "messages") != NULL;
    bool has_prompt = body_member(body, "prompt") != NULL;
    char shown[BODY_SHOWN_BYTES];
    if (has_messages && has_prompt)
        return request_refuse(request, "prompt", "invalid_value",
                              "prompt and messages are both given: a request has one of them");
    request->endpoint = has_messages ? ENDPOINT_CHAT : ENDPOINT_COMPLETIONS;
    if (!url) return true;
    const char *name = json_is_string(url) ? json_string_value(url) : "";
    if (strcmp(name, "/v1/chat/completions") == 0) {
        request->endpoint = ENDPOINT_CHAT;
    } else if (strcmp(name, "/v1/completions") == 0) {
        request->endpoint = ENDPOINT_COMPLETIONS;
    } else {
        return request_refuse(request, "url", "unsupported_url",
                              "url is %s: it must be \"/v1/completions\" or "
                              "\"/v1/chat/completions\"",
                              body_show(shown, url));
    }
    if (has_prompt && request->endpoint == ENDPOINT_CHAT)
        return request_refuse(request, "prompt", "invalid_value",
                              "url is /v1/chat/completions, which takes messages, not prompt");
    if (has_messages && request->endpoint == ENDPOINT_COMPLETIONS)
        return request_refuse(request, "messages", "invalid_value",
                              "url is /v1/completions, which takes prompt, not messages");
    return true;
}

/* --chat: a plain prompt is what the user says. */
static bool wrap_prompt(struct request *request) {
    const json_t *prompt = body_member(request->body, "prompt");
    if (!prompt) return true;
    char shown[BODY_SHOWN_BYTES];
    if (!json_is_string(prompt))
        return request_refuse(request, "prompt", "invalid_type",
                              "prompt is %s: with --chat it must be one string",
                              body_show(shown, prompt));
    request->wrapped = true;
    request->endpoint = ENDPOINT_CHAT;
    return true;
}

/* What stands beside the body. */
static bool read_frame(struct request *request, const struct options *options, json_t *object) {
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value) {
        bool known = strcmp(key, "custom_id") == 0 || strcmp(key, "method") == 0 ||
                     strcmp(key, "url") == 0 || strcmp(key, "body") == 0;
        if (!known && !body_unknown(request, options, "", key)) return false;
    }
    return true;
}

/* A line of OpenAI's Batch format has a body; of a simple line all else is the body. */
static bool read_object(struct request *request, const struct options *options, json_t *object) {
    json_t *body = json_object_get(object, "body");
    if (!read_id(request, body_member(object, "custom_id"))) return false;
    if (!read_method(request, body_member(object, "method"))) return false;
    const json_t *url = body_member(object, "url");
    if (body) {
        char shown[BODY_SHOWN_BYTES];
        if (!read_frame(request, options, object)) return false;
        if (!json_is_object(body))
            return request_refuse(request, "body", "invalid_type",
                                  "body is %s: it must be an object", body_show(shown, body));
        request->body = json_incref(body);
        if (!read_endpoint(request, url, body)) return false;
    } else {
        if (!read_endpoint(request, url, object)) return false;
        request->body = json_incref(object);
        json_object_del(object, "custom_id");
        json_object_del(object, "method");
        json_object_del(object, "url");
        if (options->chat && !url && !wrap_prompt(request)) return false;
    }
    request->body_hash = hash_body(request->endpoint, request->body);
    return true;
}

static bool read_json(struct request *request, const struct options *options,
                      const struct input_line *line) {
    struct json_size size = json_scan_size(line->text, line->n_bytes);
    if (size.depth > REQUEST_MOST_DEPTH || size.n_values > REQUEST_MOST_VALUES)
        return unreadable(request, "invalid_json",
                          "JSON of depth %zu with %zu values: at most depth %d and %d values",
                          size.depth, size.n_values, REQUEST_MOST_DEPTH, REQUEST_MOST_VALUES);
    json_error_t error;
    json_t *object =
        json_loadb(line->text, line->n_bytes, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    char shown[2 * sizeof error.text];
    if (!object)
        return unreadable(request, "invalid_json", "not JSON: %s (byte %d)",
                          log_escape(shown, sizeof shown, error.text, strlen(error.text)),
                          error.position);
    bool read = json_is_object(object)
                    ? read_object(request, options, object)
                    : unreadable(request, "invalid_json",
                                 "a JSON array: a line must be one object ({...})");
    json_decref(object);
    return read;
}

static bool read_text(struct request *request, const struct options *options,
                      const struct input_line *line) {
    set_default_id(request);
    json_t *prompt = json_stringn(line->text, line->n_bytes);
    if (!prompt) return unreadable(request, "invalid_utf8", "not valid UTF-8");
    request->body = json_object();
    REQUIRE(request->body && json_object_set_new(request->body, "prompt", prompt) == 0,
            "no memory for a prompt");
    if (options->chat && !wrap_prompt(request)) return false;
    request->body_hash = hash_body(request->endpoint, request->body);
    return true;
}

void request_read(struct request *request, const struct options *options,
                  const struct input_line *line) {
    *request = (struct request){
        .file = line->file,
        .file_number = line->file_number,
        .line = line->line,
        .n_logprobs = -1,
        .n_prompt_logprobs = -1,
    };
    if (line->too_long) {
        unreadable(request, "line_too_long", "longer than %d MiB, the most a line may have",
                   LINE_MOST_BYTES >> 20);
    } else if (line->is_text) {
        read_text(request, options, line);
    } else {
        read_json(request, options, line);
    }
    if (!request->custom_id && request->refusal.unreadable && !line->is_text)
        rescue_id(request, line->text, line->n_bytes);
    if (!request->custom_id) request_forget_id(request);
}

void request_close(struct request *request) {
    size_t n_generations = request->generation ? request_n_generations(request) : 0;
    for (size_t index = 0; index < n_generations; index++) {
        choice_close(&request->choice[index]);
        free(request->generation[index].token);
        free(request->generation[index].score);
    }
    for (int number = 0; request->prompt && number < request->n_prompts; number++) {
        free(request->prompt[number].id);
        free(request->prompt[number].echo.text);
    }
    for (int number = 0; request->stop_string && number < request->n_stop_strings; number++)
        free(request->stop_string[number].text);
    free(request->generation);
    free(request->choice);
    free(request->prompt);
    free(request->stop_string);
    free(request->bias);
    free(request->stop_id);
    free(request->model);
    free(request->custom_id);
    json_decref(request->body);
    *request = (struct request){0};
}
