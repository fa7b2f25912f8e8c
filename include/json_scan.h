/* json_scan.h - what can be said of a line of JSON without building the document.
 *
 * A request line may hold 64 MiB and be broken anywhere; an answer line may be larger still. These
 * functions walk the bytes once, in constant memory, and never look behind the end given.
 */
#ifndef LAMINA_JSON_SCAN_H
#define LAMINA_JSON_SCAN_H

#include <stdbool.h>
#include <stddef.h>

/* A view of bytes, not terminated. */
struct json_span {
    const char *text;
    size_t n_bytes;
};

/* The value of the first member named `key` (no escapes) of the object that `text` begins with,
 * as it is written there. False when there is none before the end of the object, or before the
 * first place where the text is no longer JSON: what follows the member found is not looked at. */
bool json_scan_member(const char *text, size_t n_bytes, const char *key, struct json_span *value);

/* True when `text` is one object from its first brace to the last byte, as far as brackets and
 * quotes can tell. */
bool json_scan_whole(const char *text, size_t n_bytes);

/* How deep brackets nest, and a bound on the number of values: both cost memory when parsed. */
struct json_size {
    size_t depth, n_values;
};
struct json_size json_scan_size(const char *text, size_t n_bytes);

#endif
