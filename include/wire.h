/* wire.h - the second seam: how bytes reach a peer.
 *
 * Messages are named by what they carry; the enum is the whole protocol (and gives MPI its tags). A
 * value is scattered or gathered as a fan of blocks: rows by owner of the sequence, columns by
 * head. Decoding has one block a peer; several to one peer go in their order. One call covers all
 * peers, so that an implementation can group them or write to all from one kernel. Two calls for
 * the same pair and direction keep their order. The fans are those of the slot's step, which begin
 * names once for all its layers.
 *
 * Rules (docs/design.md section 4): every message has one place in the list of turns; OUT from a
 * peer acknowledges the Q and KV sent to it; every wait has a deadline and a name, and on expiry
 * the job ends saying rank, role, slot, layer, message and peer.
 */
#ifndef LAMINA_WIRE_H
#define LAMINA_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "check.h"
#include "device.h"
#include "topology.h"

enum message {
    MESSAGE_STEP, /* leader to all: the step header (host bytes) */
    MESSAGE_Q,    /* model to attention: queries, (rows, heads x head_dim) */
    MESSAGE_KV,   /* model to attention: packed K and V, (rows, kv heads x 2 x head_dim) */
    MESSAGE_OUT,  /* attention to model: attention output, shaped as Q */
    MESSAGES
};
const char *message_name(enum message message);

/* Payload bytes a message may have, on any wire: MPI counts them in an int, with an envelope. And
 * blocks of one call to one peer. */
enum { WIRE_ENVELOPE_BYTES = 64, WIRE_MOST_BYTES = INT32_MAX - WIRE_ENVELOPE_BYTES };
enum { WIRE_MOST_BLOCKS = 32 };

/* One peer's share of a value, in rows and columns of the value as it lies on this rank. */
struct block {
    int peer; /* rank in the group */
    int row, n_rows, column, n_columns;
};
struct fan {
    int n_blocks;
    const struct block *block;
};
struct rectangle block_part(const struct block *block);
/* As elements that cross. */
size_t block_bytes(const struct block *block, enum element element);

/* A message this rank will receive in every slot, so that receives can be posted ahead. */
struct incoming {
    enum message message;
    int lane; /* index among the attention nodes of a gap */
    int peer;
    size_t most_bytes; /* of a call, all blocks of the peer; ditto below */
    enum element
        element; /* as which it crosses, whatever the values of both ends are; ditto below */
};
/* Likewise one it will send. */
struct outgoing {
    enum message message;
    int lane;
    int peer;
    size_t most_bytes;
    enum element element;
};

struct wire_options {
    const struct topology *topology; /* of the group; borrowed, as all here */
    int n_slots;
    int n_layers; /* addresses have layers below it */
    double deadline_s;
    bool progress; /* false: wire->progress moves nothing (to measure what it is worth) */
    const struct device_ops *device_ops; /* which holds the values */
    struct device *device;
    int n_incoming, n_outgoing;
    const struct incoming *incoming;
    const struct outgoing *outgoing;
};

/* What a call belongs to. */
struct address {
    enum message message;
    int slot, layer, lane;
};

struct wire;

struct wire_ops {
    const char *name; /* "mpi" */
    /* Of the library behind it, for people; "not built". NULL: one that the whole program needs. */
    const char *(*version)(void);
    bool total_order; /* needs one message order on all ranks; replies are mirrored */
    /* Its calls only enqueue, the same for every step whose rows a device can replay, so they may
     * stand in runs (device.h, replay). */
    bool in_runs;
    /* Whether it can carry values of such a device, as far as one rank can tell before it is
     * opened; a fault says what is missing. */
    bool (*available)(const struct device_ops *device_ops, struct fault *fault);
    /* Bytes of the rank's memory that it sets aside for a message in each slot. */
    size_t (*message_bytes)(size_t most_bytes, bool comes);
    /* Collective over the group, for a wire has channels of its own: ends the job when some rank
     * has not come within the deadline. */
    bool (*open)(struct wire **wire, const struct wire_options *options, struct fault *fault);
    /* A slot's step begins: fan[message], of (MESSAGES), is what its messages are made of; the
     * blocks are borrowed until the slot's next begin. `step` is the same on all ranks and rises
     * from begin to begin. Each message of a layer and lane crosses once a step at most. */
    void (*begin)(struct wire *wire, int slot, int step, const struct fan *fan);
    /* Send the value as sealed; waits for no receiver. Returns payload bytes, as they cross. */
    size_t (*scatter)(struct wire *wire, struct address address, const struct value *value);
    /* Compute enqueued afterwards sees the bytes. Returns payload bytes. */
    size_t (*gather)(struct wire *wire, struct address address, const struct value *value);
    /* Drive outstanding messages; cheap, callable from inside long operators. Takes a struct wire.
     */
    void (*progress)(void *wire);
    /* Wait until everything sent has left. */
    void (*drain)(struct wire *wire);
    /* Seconds since opening in which compute of this rank stood still for messages of a kind, those
     * that have come; less than 0 where the wire cannot tell. Waits for nothing. */
    double (*waited)(struct wire *wire, enum message message);
    void (*close)(struct wire *wire);
};

extern const struct wire_ops wire_mpi;
/* In cuda/, where it is built: between GPUs only, one a rank. */
extern const struct wire_ops wire_nccl; /* sends and receives of NCCL on a stream beside compute */
extern const struct wire_ops wire_device; /* kernels write into the peer's memory and poll */

/* Step headers: small host messages from the leader to every other rank, always over MPI whatever
 * carries the values. `most_bytes` bounds a header. Opening is collective, as a wire's. */
struct control;
struct control *control_open(const struct wire_options *options, int n_ranks, size_t most_bytes);
/* Leader: send `n_bytes` for `slot` to all other ranks; the bytes are copied. */
void control_post(struct control *control, int slot, const void *data, size_t n_bytes);
/* Others: take the next header of `slot`; returns its size. */
size_t control_take(struct control *control, int slot, void *data);
void control_close(struct control *control);

#endif
