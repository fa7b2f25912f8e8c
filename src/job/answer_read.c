/* answer_read.c - what an answered line tells a resume (answer_read). See answer.h.
 *
 * Owns reading back what answer.c writes. The invariant: nothing is built from the line but the few
 * members that count, however large the answer. A line whose custom_id is null is known by the key
 * in its own id, which was made from FILE:LINE.
 */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "answer.h"
#include "json_scan.h"

static bool is_null(const struct json_span *span) {
    return span->n_bytes == 4 && memcmp(span->text, "null", 4) == 0;
}

static bool read_hex(const char *text, uint64_t *number) {
    *number = 0;
    for (int digit = 0; digit < 16; digit++) {
        const char *place = text[digit] ? strchr("0123456789abcdef", text[digit]) : NULL;
        if (!place) return false;
        *number = *number << 4 | (uint64_t)(*place <= '9' ? *place - '0' : *place - 'a' + 10);
    }
    return true;
}

/* "prefix" and 32 hexadecimal digits, in quotes. */
static bool read_mark(const struct json_span *span, const char *prefix, uint64_t *high,
                      uint64_t *low) {
    size_t n_prefix = strlen(prefix);
    return span->n_bytes == n_prefix + 34 && span->text[0] == '"' &&
           memcmp(span->text + 1, prefix, n_prefix) == 0 &&
           read_hex(span->text + 1 + n_prefix, high) && read_hex(span->text + 17 + n_prefix, low);
}

static bool read_key(struct answer_mark *mark, const char *text, size_t n_bytes) {
    struct json_span id, custom_id;
    if (!json_scan_member(text, n_bytes, "custom_id", &custom_id)) return false;
    if (is_null(&custom_id))
        return json_scan_member(text, n_bytes, "id", &id) &&
               read_mark(&id, "batch_req_", &mark->key.high, &mark->key.low);
    json_t *value = json_loadb(custom_id.text, custom_id.n_bytes, JSON_DECODE_ANY, NULL);
    bool read = json_is_string(value);
    if (read) mark->key = request_key_of(json_string_value(value), json_string_length(value));
    json_decref(value);
    return read;
}

bool answer_read(struct answer_mark *mark, const char *text, size_t n_bytes) {
    *mark = (struct answer_mark){.failed = true};
    struct json_span response, error, status, request_id;
    if (!json_scan_whole(text, n_bytes) || !read_key(mark, text, n_bytes) ||
        !json_scan_member(text, n_bytes, "response", &response) ||
        !json_scan_member(text, n_bytes, "error", &error))
        return false;
    if (is_null(&response)) return true;
    uint64_t id_hash;
    if (json_scan_member(response.text, response.n_bytes, "request_id", &request_id) &&
        !read_mark(&request_id, "req_", &id_hash, &mark->body_hash))
        mark->body_hash = 0;
    if (json_scan_member(response.text, response.n_bytes, "status_code", &status))
        mark->failed = status.n_bytes != 3 || memcmp(status.text, "200", 3) != 0;
    return true;
}
