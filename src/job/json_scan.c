/* json_scan.c - walking JSON text without a document. See json_scan.h.
 *
 * Owns nothing. The invariant: `at` never passes `end`, and every loop moves it forward, so any
 * bytes are walked in one pass. Only brackets, quotes and backslashes are understood; whether
 * numbers, words and escapes are right is left to jansson. Rejected: parsing the whole document to
 * learn one member, which takes tens of bytes of memory for each byte of a line of token ids, and
 * says nothing of a document that is broken behind the member.
 */
#include "json_scan.h"

#include <string.h>

struct walk {
    const char *at, *end;
};

static void skip_space(struct walk *walk) {
    while (walk->at < walk->end && strchr(" \t\r\n", *walk->at) && *walk->at)
        walk->at++;
}

/* From an opening quote to behind its closing one. */
static bool skip_string(struct walk *walk) {
    walk->at++;
    while (walk->at < walk->end) {
        char c = *walk->at++;
        if (c == '"') return true;
        if (c == '\\' && walk->at < walk->end) walk->at++;
    }
    return false;
}

/* From an opening bracket to behind the one that closes it. */
static bool skip_nested(struct walk *walk) {
    size_t depth = 0;
    while (walk->at < walk->end) {
        char c = *walk->at;
        if (c == '"') {
            if (!skip_string(walk)) return false;
            continue;
        }
        walk->at++;
        if (c == '{' || c == '[') depth++;
        if (c == '}' || c == ']') depth--;
        if (depth == 0) return true;
    }
    return false;
}

static bool skip_value(struct walk *walk) {
    if (walk->at == walk->end) return false;
    char c = *walk->at;
    if (c == '"') return skip_string(walk);
    if (c == '{' || c == '[') return skip_nested(walk);
    const char *begin = walk->at;
    while (walk->at < walk->end && *walk->at && !strchr(",:}] \t\r\n\"{[", *walk->at))
        walk->at++;
    return walk->at > begin;
}

static bool take(struct walk *walk, char c) {
    skip_space(walk);
    if (walk->at == walk->end || *walk->at != c) return false;
    walk->at++;
    return true;
}

bool json_scan_member(const char *text, size_t n_bytes, const char *key, struct json_span *value) {
    struct walk walk = {text, text + n_bytes};
    size_t n_key = strlen(key);
    if (!take(&walk, '{')) return false;
    do {
        skip_space(&walk);
        const char *name = walk.at;
        if (walk.at == walk.end || *walk.at != '"' || !skip_string(&walk)) return false;
        bool found = (size_t)(walk.at - name) == n_key + 2 && memcmp(name + 1, key, n_key) == 0;
        if (!take(&walk, ':')) return false;
        skip_space(&walk);
        value->text = walk.at;
        if (!skip_value(&walk)) return false;
        value->n_bytes = (size_t)(walk.at - value->text);
        if (found) return true;
    } while (take(&walk, ','));
    return false;
}

bool json_scan_whole(const char *text, size_t n_bytes) {
    struct walk walk = {text, text + n_bytes};
    return n_bytes > 0 && text[0] == '{' && skip_nested(&walk) && walk.at == walk.end;
}

struct json_size json_scan_size(const char *text, size_t n_bytes) {
    struct walk walk = {text, text + n_bytes};
    struct json_size size = {0, 1};
    size_t depth = 0;
    while (walk.at < walk.end) {
        char c = *walk.at;
        if (c == '"') {
            if (!skip_string(&walk)) break;
            continue;
        }
        walk.at++;
        if (c == '{' || c == '[') depth++;
        if ((c == '}' || c == ']') && depth > 0) depth--;
        if (c == '{' || c == '[' || c == ',') size.n_values++;
        if (depth > size.depth) size.depth = depth;
    }
    return size;
}
