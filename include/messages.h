/* messages.h - which messages a rank exchanges with which peer, and how large they get.
 *
 * A wire posts its receives and sets buffers aside before the loop, so it has to know them all:
 * for each lane (attention node of a gap) Q and KV from every model rank to every attention rank,
 * and OUT back. Sizes follow from the head share of the attention rank and the rows of a step. Q
 * and OUT cross as what model ranks compute in, K and V as the cache holds them.
 */
#ifndef LAMINA_MESSAGES_H
#define LAMINA_MESSAGES_H

#include "decode.h"

struct messages {
    int n_incoming, n_outgoing;
    struct incoming *incoming; /* (n_incoming) */
    struct outgoing *outgoing; /* (n_outgoing) */
};

/* Those of this rank, with `max_rows` rows of a slot's step at most. None when colocated. */
void messages_open(struct messages *messages, const struct topology *topology,
                   const struct service *service, int max_rows, enum kv_type kv_type);
void messages_close(struct messages *messages);

/* Bytes that a wire sets aside for them in each slot, and those of the largest. */
size_t messages_bytes(const struct messages *messages, const struct wire_ops *wire_ops);
size_t messages_largest(const struct messages *messages);

#endif
