/* body_keys.c - the table of body keys and the readers of their values. See body_keys.h.
 *
 * Owns what every key may hold. The invariant: a key has one row, and a value outside its range
 * never reaches struct body. Rejected: ignoring keys that are not supported, as servers do: an
 * answer that silently is not what was asked for is worse than none. Names and ranges: vLLM's
 * protocol and sampling parameters, OpenAI's API reference, and the spellings that llama.cpp and
 * SGLang have for what would change an answer here.
 */
#include "body_keys.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"
#include "sampling.h"

static bool wrong(struct reading *reading, const json_t *value, const char *allowed) {
    char shown[BODY_SHOWN_BYTES];
    return request_refuse(reading->request, reading->name, "invalid_value",
                          "%s is %s: it must be %s", reading->name, body_show(shown, value),
                          allowed);
}

static bool check_int(struct reading *reading, const json_t *value, int64_t *out) {
    char allowed[96];
    snprintf(allowed, sizeof allowed, "an integer from %.0f to %.0f", reading->key->least,
             reading->key->most);
    if (!json_is_integer(value)) return wrong(reading, value, allowed);
    json_int_t number = json_integer_value(value);
    if ((double)number < reading->key->least || (double)number > reading->key->most)
        return wrong(reading, value, allowed);
    *out = number;
    return true;
}

static bool read_int(struct reading *reading, const json_t *value) {
    return check_int(reading, value, (int64_t *)((char *)reading->body + reading->key->offset));
}

static bool read_real(struct reading *reading, const json_t *value) {
    char allowed[96];
    const char *least = reading->key->above ? "a number above" : "a number from";
    if (reading->key->most >= FLT_MAX) {
        snprintf(allowed, sizeof allowed, "%s %g%s", least, reading->key->least,
                 reading->key->above ? "" : " up");
    } else {
        snprintf(allowed, sizeof allowed, "%s %g to %g", least, reading->key->least,
                 reading->key->most);
    }
    if (!json_is_number(value)) return wrong(reading, value, allowed);
    /* Sampling works in float32, where a number above the least may round to it. */
    double number = json_number_value(value);
    if (number < reading->key->least || number > reading->key->most ||
        (reading->key->above && (float)number <= reading->key->least))
        return wrong(reading, value, allowed);
    memcpy((char *)reading->body + reading->key->offset, &number, sizeof number);
    return true;
}

static bool read_bool(struct reading *reading, const json_t *value) {
    if (!json_is_boolean(value)) return wrong(reading, value, "true or false");
    *(bool *)((char *)reading->body + reading->key->offset) = json_is_true(value);
    return true;
}

static bool read_seed(struct reading *reading, const json_t *value) {
    if (!json_is_integer(value)) return wrong(reading, value, "an integer of 64 bits");
    reading->body->seed = json_integer_value(value);
    reading->body->seed_own = true;
    return true;
}

static bool read_logprobs(struct reading *reading, const json_t *value) {
    struct body *body = reading->body;
    if (reading->request->endpoint == ENDPOINT_COMPLETIONS)
        return check_int(reading, value, &body->n_logprobs);
    if (!json_is_boolean(value)) return wrong(reading, value, "true or false");
    const json_t *top = body_member(reading->request->body, "top_logprobs");
    body->n_logprobs = json_is_false(value)   ? -1
                       : json_is_integer(top) ? json_integer_value(top)
                                              : 0;
    return true;
}

/* The number itself is taken by read_logprobs, whichever key stands first. */
static bool check_top_logprobs(struct reading *reading, const json_t *value) {
    int64_t n_logprobs;
    if (!check_int(reading, value, &n_logprobs)) return false;
    if (n_logprobs > 0 && !json_is_true(json_object_get(reading->request->body, "logprobs")))
        return wrong(reading, value, "0 unless logprobs is true");
    return true;
}

static bool check_max_tokens(struct reading *reading, const json_t *value) {
    int64_t max_tokens;
    return check_int(reading, value, &max_tokens);
}

static void copy_text(struct request_text *text, const json_t *value) {
    text->n_bytes = json_string_length(value);
    text->text = check_alloc(text->n_bytes + 1, 1);
    memcpy(text->text, json_string_value(value), text->n_bytes);
}

static bool read_model(struct reading *reading, const json_t *value) {
    if (!json_is_string(value) || strlen(json_string_value(value)) != json_string_length(value))
        return wrong(reading, value, "a string without U+0000");
    struct request_text name;
    copy_text(&name, value);
    reading->request->model = name.text;
    return true;
}

static bool read_stop(struct reading *reading, const json_t *value) {
    struct request *request = reading->request;
    size_t n_strings = json_is_array(value) ? json_array_size(value) : 1;
    char allowed[96];
    snprintf(allowed, sizeof allowed, "a string, or a list of at most %d, none empty",
             REQUEST_MOST_STOP_STRINGS);
    if (n_strings > REQUEST_MOST_STOP_STRINGS)
        return request_refuse(request, reading->name, "invalid_value",
                              "stop has %zu strings: it must be %s", n_strings, allowed);
    request->stop_string = check_alloc(n_strings, sizeof *request->stop_string);
    for (size_t number = 0; number < n_strings; number++) {
        const json_t *string = json_is_array(value) ? json_array_get(value, number) : value;
        if (!json_is_string(string) || json_string_length(string) == 0)
            return wrong(reading, value, allowed);
        copy_text(&request->stop_string[request->n_stop_strings++], string);
    }
    return true;
}

static int compare_ids(const void *left, const void *right) {
    int32_t a = *(const int32_t *)left, b = *(const int32_t *)right;
    return (a > b) - (a < b);
}

static bool read_stop_ids(struct reading *reading, const json_t *value) {
    int n_vocabulary = tokenizer_n_tokens(reading->rules->tokenizer);
    char allowed[96];
    snprintf(allowed, sizeof allowed, "a list of token ids from 0 to %d", n_vocabulary - 1);
    if (!json_is_array(value)) return wrong(reading, value, allowed);
    size_t n_ids = json_array_size(value);
    int32_t *id = check_alloc(n_ids, sizeof *id);
    reading->request->stop_id = id;
    for (size_t at = 0; at < n_ids; at++) {
        const json_t *element = json_array_get(value, at);
        json_int_t number = json_integer_value(element);
        if (!json_is_integer(element) || number < 0 || number >= n_vocabulary)
            return wrong(reading, value, allowed);
        id[at] = (int32_t)number;
    }
    qsort(id, n_ids, sizeof *id, compare_ids);
    int32_t n_kept = 0;
    for (size_t at = 0; at < n_ids; at++) {
        if (n_kept == 0 || id[at] != id[n_kept - 1]) id[n_kept++] = id[at];
    }
    reading->body->n_stop_ids = n_kept;
    return true;
}

/* A token id as JSON keys spell it: digits, no sign, no leading zero. */
static bool parse_id(const char *text, int n_vocabulary, int32_t *id) {
    int64_t number = 0;
    if (!*text || (text[0] == '0' && text[1])) return false;
    for (const char *c = text; *c; c++) {
        if (*c < '0' || *c > '9' || number > INT32_MAX) return false;
        number = 10 * number + (*c - '0');
    }
    *id = (int32_t)number;
    return number < n_vocabulary;
}

static bool read_bias(struct reading *reading, const json_t *value) {
    struct request *request = reading->request;
    int n_vocabulary = tokenizer_n_tokens(reading->rules->tokenizer);
    char allowed[128];
    snprintf(allowed, sizeof allowed,
             "an object of token ids (\"0\" to \"%d\") with a bias from -100 to 100 each",
             n_vocabulary - 1);
    if (!json_is_object(value)) return wrong(reading, value, allowed);
    request->bias = check_alloc(json_object_size(value), sizeof *request->bias);
    const char *name;
    json_t *number;
    json_object_foreach((json_t *)value, name, number) {
        struct logit_bias *bias = &request->bias[reading->body->n_bias];
        double amount = json_number_value(number);
        if (!parse_id(name, n_vocabulary, &bias->id) || !json_is_number(number) ||
            fabs(amount) > 100)
            return wrong(reading, value, allowed);
        bias->bias = (float)amount;
        reading->body->n_bias++;
    }
    /* The id is the first member, so ids order the pairs; keys of an object are unique. */
    qsort(request->bias, (size_t)reading->body->n_bias, sizeof *request->bias, compare_ids);
    return true;
}

/* The recognised templates take one thing from outside, and it is a key of its own too. */
static bool read_template_kwargs(struct reading *reading, const json_t *value) {
    if (!json_is_object(value)) return wrong(reading, value, "an object");
    const char *name;
    json_t *member;
    json_object_foreach((json_t *)value, name, member) {
        char shown[128];
        if (strcmp(name, "add_generation_prompt") != 0)
            return request_refuse(reading->request, reading->key->name, "unsupported_parameter",
                                  "chat_template_kwargs holds %s: only add_generation_prompt is "
                                  "known to the templates",
                                  log_escape(shown, sizeof shown, name, strlen(name)));
        if (!json_is_boolean(member)) return wrong(reading, value, "of true or false");
        reading->body->add_generation_prompt = json_is_true(member);
    }
    return true;
}

static bool read_elsewhere(struct reading *reading, const json_t *value) {
    (void)reading, (void)value;
    return true;
}

static bool asks_nothing(const struct body_key *key, const json_t *value) {
    if (json_is_false(value) || (json_is_string(value) && json_string_length(value) == 0) ||
        (json_is_array(value) && json_array_size(value) == 0) ||
        (json_is_object(value) && json_object_size(value) == 0))
        return true;
    if (!key->neutral) return false;
    json_t *neutral = json_loads(key->neutral, JSON_DECODE_ANY, NULL);
    bool same = json_is_number(neutral) && json_is_number(value)
                    ? json_number_value(neutral) == json_number_value(value)
                    : json_equal(neutral, value) == 1;
    json_decref(neutral);
    return same;
}

static bool refuse_key(struct reading *reading, const json_t *value) {
    if (asks_nothing(reading->key, value)) return true;
    char name[128], shown[BODY_SHOWN_BYTES];
    log_escape(name, sizeof name, reading->name, strlen(reading->name));
    return request_refuse(reading->request, reading->name, "unsupported_parameter",
                          "%s is %s, which is not supported%s%s", name, body_show(shown, value),
                          reading->key->instead ? ": " : "",
                          reading->key->instead ? reading->key->instead : "");
}

/* Another program's name for a key; the key itself wins where both stand. */
static bool read_alias(struct reading *reading, const json_t *value) {
    const char *name = reading->key->instead;
    if (body_first_time(reading->name)) log_note("%s is taken as %s", reading->name, name);
    if (body_member(reading->request->body, name)) return true;
    reading->key = body_keys_find(name);
    return reading->key->read(reading, value);
}

/* llama.cpp's -1 means no limit, which is the default. */
static bool read_n_predict(struct reading *reading, const json_t *value) {
    bool unlimited = json_is_integer(value) && json_integer_value(value) == -1;
    return unlimited || read_alias(reading, value);
}

#define AT(member)             .offset = offsetof(struct body, member)
#define INT(member, from, to)  .read = read_int, AT(member), .least = from, .most = to
#define REAL(member, from, to) .read = read_real, AT(member), .least = from, .most = to
#define BOOL(member)           .read = read_bool, AT(member)
#define ACCEPTED               .read = read_elsewhere
#define REFUSED                .read = refuse_key

static const struct body_key keys[] = {
    /* followed */
    {"prompt", ACCEPTED},
    {"messages", ACCEPTED},
    {"model", .read = read_model},
    {"max_tokens", .read = check_max_tokens, .most = INT32_MAX},
    {"max_completion_tokens", .read = check_max_tokens, .most = INT32_MAX},
    {"min_tokens", INT(min_tokens, 0, INT32_MAX)},
    {"temperature", REAL(temperature, 0, FLT_MAX)},
    {"top_p", REAL(top_p, 0, 1), .above = true},
    {"top_k", INT(top_k, -1, INT32_MAX)},
    {"min_p", REAL(min_p, 0, 1)},
    {"seed", .read = read_seed},
    {"n", INT(n, 1, REQUEST_MOST_CHOICES)},
    {"stop", .read = read_stop},
    {"stop_token_ids", .read = read_stop_ids},
    {"ignore_eos", BOOL(ignore_eos)},
    {"presence_penalty", REAL(presence_penalty, -2, 2)},
    {"frequency_penalty", REAL(frequency_penalty, -2, 2)},
    {"repetition_penalty", REAL(repetition_penalty, 0, FLT_MAX), .above = true},
    {"logit_bias", .read = read_bias},
    {"logprobs", .read = read_logprobs, .most = SAMPLING_MAX_LOGPROBS},
    {"top_logprobs", .read = check_top_logprobs, .most = SAMPLING_MAX_LOGPROBS,
     .endpoints = KEY_CHAT},
    {"prompt_logprobs", INT(n_prompt_logprobs, 0, SAMPLING_MAX_LOGPROBS)},
    {"echo", BOOL(echo)},
    {"return_token_ids", BOOL(return_token_ids)},
    {"skip_special_tokens", BOOL(skip_special)},
    {"include_stop_str_in_output", BOOL(include_stop)},
    {"add_special_tokens", BOOL(add_special)},
    {"add_generation_prompt", BOOL(add_generation_prompt), .endpoints = KEY_CHAT},
    {"chat_template_kwargs", .read = read_template_kwargs, .endpoints = KEY_CHAT},

    /* other programs' names */
    {"max_new_tokens", .read = read_alias, .instead = "max_tokens"},
    {"n_predict", .read = read_n_predict, .instead = "max_tokens"},
    {"repeat_penalty", .read = read_alias, .instead = "repetition_penalty"},

    /* of no effect on an answer */
    {"user", ACCEPTED},
    {"metadata", ACCEPTED},
    {"store", ACCEPTED},
    {"service_tier", ACCEPTED},
    {"priority", ACCEPTED},
    {"request_id", ACCEPTED},
    {"session_id", ACCEPTED},
    {"safety_identifier", ACCEPTED},
    {"prompt_cache_key", ACCEPTED},
    {"prompt_cache_retention", ACCEPTED},
    {"cache_salt", ACCEPTED},
    {"cache_prompt", ACCEPTED},
    {"stream_options", ACCEPTED},
    {"stream_interval", ACCEPTED},
    {"tool_choice", ACCEPTED}, /* without tools there is nothing to choose */
    {"parallel_tool_calls", ACCEPTED},
    {"truncation_side", ACCEPTED}, /* nothing is truncated */
    {"include_reasoning", ACCEPTED},
    {"spaces_between_special_tokens", ACCEPTED}, /* there are none to leave out */

    /* would change the answer */
    {"response_format", REFUSED, .neutral = "{\"type\":\"text\"}"},
    {"structured_outputs", REFUSED},
    {"guided_*", REFUSED},
    {"grammar", REFUSED},
    {"json_schema", REFUSED},
    {"regex", REFUSED},
    {"ebnf", REFUSED},
    {"tools", REFUSED},
    {"functions", REFUSED},
    {"function_call", REFUSED, .neutral = "\"none\""},
    {"stream", REFUSED, .instead = "answers are lines of a file"},
    {"best_of", REFUSED, .neutral = "1", .instead = "n gives several choices"},
    {"use_beam_search", REFUSED},
    {"num_beams", REFUSED, .neutral = "1"},
    {"length_penalty", REFUSED, .neutral = "1"},
    {"suffix", REFUSED},
    {"bad_words", REFUSED, .instead = "logit_bias can forbid tokens"},
    {"allowed_token_ids", REFUSED},
    {"logit_processors", REFUSED},
    {"logits_processors", REFUSED},
    {"logprob_token_ids", REFUSED},
    {"return_tokens_as_token_ids", REFUSED, .instead = "return_token_ids gives ids"},
    {"truncate_prompt_tokens", REFUSED},
    {"images", REFUSED},
    {"image_data", REFUSED},
    {"audio", REFUSED},
    {"modalities", REFUSED, .neutral = "[\"text\"]"},
    {"prediction", REFUSED},
    {"prompt_embeds", REFUSED},
    {"input_embeds", REFUSED},
    {"mm_processor_kwargs", REFUSED},
    {"media_io_kwargs", REFUSED},
    {"documents", REFUSED},
    {"chat_template", REFUSED, .instead = "--chat-template names a recognised one"},
    {"continue_final_message", REFUSED},
    {"reasoning_effort", REFUSED, .neutral = "\"none\""},
    {"reasoning", REFUSED},
    {"thinking", REFUSED},
    {"thinking_token_budget", REFUSED, .neutral = "-1"},
    {"verbosity", REFUSED},
    {"web_search_options", REFUSED},
    {"repetition_detection", REFUSED},
    {"watermarking", REFUSED},
    {"vllm_xargs", REFUSED},
    {"kv_transfer_params", REFUSED},
    {"custom_params", REFUSED},
    {"lora_path", REFUSED},
    {"min_new_tokens", REFUSED, .neutral = "0", .instead = "min_tokens is its name"},
    {"do_sample", REFUSED, .instead = "a temperature above 0 samples"},
    {"no_stop_trim", REFUSED, .instead = "include_stop_str_in_output is its name"},
    {"no_repeat_ngram_size", REFUSED, .neutral = "0"},
    {"repeat_last_n", REFUSED, .neutral = "-1", .instead = "penalties see the whole text"},
    {"typical_p", REFUSED, .neutral = "1"},
    {"tfs_z", REFUSED, .neutral = "1"},
    {"top_n_sigma", REFUSED, .neutral = "-1"},
    {"mirostat*", REFUSED, .neutral = "0"},
    {"dynatemp_*", REFUSED, .neutral = "0"},
    {"dry_*", REFUSED, .neutral = "0"},
    {"xtc_*", REFUSED, .neutral = "0"},
    {"samplers", REFUSED},
    {"n_probs", REFUSED, .neutral = "0", .instead = "logprobs is its name"},
    {"n_keep", REFUSED, .neutral = "0"},
};

const struct body_key *body_keys_find(const char *name) {
    for (size_t row = 0; row < sizeof keys / sizeof *keys; row++) {
        size_t n_fixed = strcspn(keys[row].name, "*");
        bool any_ending = keys[row].name[n_fixed] == '*';
        if (any_ending ? strncmp(name, keys[row].name, n_fixed) == 0
                       : strcmp(name, keys[row].name) == 0)
            return &keys[row];
    }
    return NULL;
}
