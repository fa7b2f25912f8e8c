/* ports.c - a table from messages to ports, and what all wires do with blocks. See ports.h, wire.h.
 */
#include "ports.h"

#include <stdlib.h>

void ports_open(struct ports *ports, int n_ranks, int n_in_slot) {
    size_t n = (size_t)MESSAGES * PORTS_MOST_LANES * (size_t)n_ranks;
    *ports = (struct ports){n_ranks, n_in_slot, check_alloc(n, sizeof *ports->at)};
    for (size_t place = 0; place < n; place++)
        ports->at[place] = -1;
}

void ports_close(struct ports *ports) {
    free(ports->at);
    *ports = (struct ports){0};
}

static int *place_of(const struct ports *ports, enum message message, int lane, int peer) {
    REQUIRE(lane >= 0 && lane < PORTS_MOST_LANES && peer >= 0 && peer < ports->n_ranks,
            "lane %d, rank %d", lane, peer);
    return &ports->at[((int)message * PORTS_MOST_LANES + lane) * ports->n_ranks + peer];
}

void ports_put(struct ports *ports, enum message message, int lane, int peer, int at) {
    *place_of(ports, message, lane, peer) = at;
}

int ports_count(const struct ports *ports, struct address address) {
    int n = 0;
    for (int peer = 0; peer < ports->n_ranks; peer++)
        n += *place_of(ports, address.message, address.lane, peer) >= 0;
    return n;
}

int ports_find(const struct ports *ports, struct address address, int peer) {
    int at = *place_of(ports, address.message, address.lane, peer);
    REQUIRE(at >= 0, "no port for %s with rank %d", message_name(address.message), peer);
    return address.slot * ports->n_in_slot + at;
}

struct rectangle block_part(const struct block *block) {
    return (struct rectangle){block->row, block->n_rows, block->column, block->n_columns};
}

size_t block_bytes(const struct block *block, enum element element) {
    return (size_t)block->n_rows * (size_t)block->n_columns * element_bytes(element);
}
