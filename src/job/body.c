/* body.c - how a body is read. See body.h; what there is to read stands in body_keys.c.
 *
 * Owns precedence and the words of messages. The invariant: struct body is whole (every member has
 * a value from the body, the command line or here) before the first key is read. What prompts mean
 * is left to prompts.c, limits that need the prompt's length to prepare.c. Rejected: asking the
 * body for every key of the table, which would not see the keys that are not in it.
 */
#include "body.h"

#include <stdio.h>
#include <string.h>

#include "body_keys.h"
#include "log.h"

const json_t *body_member(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

struct shown {
    char text[64];
    size_t n_bytes;
    bool cut;
};

static int show_more(const char *buffer, size_t n_bytes, void *data) {
    struct shown *shown = data;
    size_t room = sizeof shown->text - shown->n_bytes;
    shown->cut = n_bytes > room;
    if (shown->cut) n_bytes = room;
    memcpy(shown->text + shown->n_bytes, buffer, n_bytes);
    shown->n_bytes += n_bytes;
    return shown->cut ? -1 : 0;
}

const char *body_show(char out[BODY_SHOWN_BYTES], const json_t *value) {
    struct shown shown = {.n_bytes = 0};
    json_dump_callback(value, show_more, &shown,
                       JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(12));
    log_escape(out, BODY_SHOWN_BYTES - 4, shown.text, shown.n_bytes);
    size_t n_bytes = strlen(out);
    if (shown.cut && (n_bytes < 3 || strcmp(out + n_bytes - 3, "...") != 0)) strcat(out, "...");
    return out;
}

bool body_first_time(const char *name) {
    enum { MOST_NAMES = 64 };
    static char seen[MOST_NAMES][64];
    static int n_seen;
    for (int number = 0; number < n_seen; number++) {
        if (strncmp(seen[number], name, sizeof seen[number] - 1) == 0) return false;
    }
    if (n_seen == MOST_NAMES) return false;
    snprintf(seen[n_seen++], sizeof seen[0], "%s", name);
    return true;
}

bool body_unknown(struct request *request, const struct options *options, const char *where,
                  const char *key) {
    char shown[128], file[256];
    log_escape(shown, sizeof shown, key, strlen(key));
    if (options->strict)
        return request_refuse(request, key, "unknown_parameter", "%s%s is not known (--strict)",
                              where, shown);
    if (body_first_time(key))
        log_warning("%s:%lld: %s%s is not known and is ignored, here and in other requests",
                    log_escape(file, sizeof file, request->file, strlen(request->file)),
                    (long long)request->line, where, shown);
    return true;
}

static struct body from_options(const struct options *options) {
    return (struct body){
        .temperature = (double)options->temperature,
        .top_p = (double)options->top_p,
        .min_p = (double)options->min_p,
        .presence_penalty = (double)options->presence_penalty,
        .frequency_penalty = (double)options->frequency_penalty,
        .repetition_penalty = (double)options->repetition_penalty,
        .top_k = options->top_k,
        .n = 1,
        .min_tokens = options->min_tokens,
        .max_tokens = options->max_tokens,
        .ignore_eos = options->ignore_eos,
        .skip_special = true,
        .add_special = true,
        .add_generation_prompt = true,
        .n_logprobs = -1,
        .n_prompt_logprobs = -1,
    };
}

static bool read_key(struct reading *reading, const json_t *value) {
    struct request *request = reading->request;
    const struct body_key *key = body_keys_find(reading->name);
    bool other = key && key->endpoints != KEY_BOTH &&
                 (key->endpoints == KEY_CHAT) != (request->endpoint == ENDPOINT_CHAT);
    if (!key || other) return body_unknown(request, reading->rules->options, "", reading->name);
    reading->key = key;
    return json_is_null(value) || key->read(reading, value);
}

/* The newer spelling wins, as in vLLM; aliases stand behind both. */
static bool choose_max_tokens(struct reading *reading) {
    static const char *const name[] = {"max_completion_tokens", "max_tokens", "max_new_tokens",
                                       "n_predict"};
    struct body *body = reading->body;
    for (size_t choice = 0; choice < sizeof name / sizeof *name; choice++) {
        const json_t *value = body_member(reading->request->body, name[choice]);
        if (!value) continue;
        body->max_tokens = json_integer_value(value);
        body->max_tokens_own = body->max_tokens >= 0;
        bool prompt_only = body->echo && reading->request->endpoint == ENDPOINT_COMPLETIONS;
        if (body->max_tokens == 0 && !prompt_only)
            return request_refuse(reading->request, name[choice], "invalid_value",
                                  "%s is 0: it must be at least 1 (0 only with echo, to score a "
                                  "prompt)",
                                  name[choice]);
        break;
    }
    return true;
}

static void settle(struct reading *reading) {
    struct body *body = reading->body;
    if (body->temperature > 0 && body->temperature < BODY_LEAST_TEMPERATURE) {
        if (body_first_time("a temperature near 0"))
            log_note("temperatures between 0 and %g are taken as %g (0 is greedy)",
                     BODY_LEAST_TEMPERATURE, BODY_LEAST_TEMPERATURE);
        body->temperature = BODY_LEAST_TEMPERATURE;
    }
    if (body->top_k < 0) body->top_k = 0;
    bool completions = reading->request->endpoint == ENDPOINT_COMPLETIONS;
    if (completions && body->echo && body->n_prompt_logprobs < 0)
        body->n_prompt_logprobs = body->n_logprobs;
}

bool body_read(struct body *body, struct request *request, const struct request_rules *rules) {
    *body = from_options(rules->options);
    struct reading reading = {.body = body, .request = request, .rules = rules};
    json_t *value;
    json_object_foreach(request->body, reading.name, value) {
        if (!read_key(&reading, value)) return false;
    }
    if (!choose_max_tokens(&reading)) return false;
    settle(&reading);
    return true;
}
