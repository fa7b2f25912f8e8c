/* ports.h - where a wire finds what it has set aside for a message.
 *
 * A wire's messages of one direction are known from the start (wire.h, incoming and outgoing):
 * number i of the list has port slot * n + i in each slot. The table gives i for what a message
 * carries, its lane and its peer.
 */
#ifndef LAMINA_PORTS_H
#define LAMINA_PORTS_H

#include "wire.h"

enum { PORTS_MOST_LANES = 16 };

struct ports {
    int n_ranks, n_in_slot;
    int *at; /* (MESSAGES, PORTS_MOST_LANES, n_ranks) number in the list, or -1; owned */
};

/* A list of `n_in_slot` messages with the ranks of a group of `n_ranks`, none entered yet. */
void ports_open(struct ports *ports, int n_ranks, int n_in_slot);
void ports_close(struct ports *ports);

/* Number `at` of the list is this message. */
void ports_put(struct ports *ports, enum message message, int lane, int peer, int at);
/* Of how many peers the list has this message and lane. */
int ports_count(const struct ports *ports, struct address address);
/* The port of a message, which must have been entered. */
int ports_find(const struct ports *ports, struct address address, int peer);

#endif
