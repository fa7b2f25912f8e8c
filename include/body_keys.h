/* body_keys.h - the table of body keys: one row says what a key may hold and where it goes.
 *
 * Private to body.c and body_keys.c, which are one module in two files: how a body is read, and
 * what there is to read.
 */
#ifndef LAMINA_BODY_KEYS_H
#define LAMINA_BODY_KEYS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "body.h"

/* A body being read, at one of its keys. */
struct reading {
    struct body *body;
    struct request *request;
    const struct request_rules *rules;
    const char *name;           /* the key as the request spells it */
    const struct body_key *key; /* its row */
};

enum key_endpoints { KEY_BOTH, KEY_COMPLETIONS, KEY_CHAT };

struct body_key {
    const char *name; /* a trailing * stands for any ending */
    /* Take the value, which is not null, or refuse the request and return false. */
    bool (*read)(struct reading *reading, const json_t *value);
    size_t offset;      /* in struct body, where a number or truth goes */
    double least, most; /* range of a number */
    bool above;         /* `least` itself is not allowed */
    enum key_endpoints endpoints;
    const char *instead; /* of a refused key: what helps; of an alias: the name to use */
    const char *neutral; /* of a refused key: a JSON value that asks for nothing */
};

/* The row of `name`, or NULL. */
const struct body_key *body_keys_find(const char *name);

/* True the first time it is asked of `name`; false too when very many names were asked for, so that
 * what people hand in cannot fill the log. */
bool body_first_time(const char *name);

#endif
