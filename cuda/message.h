/* message.h - what the device wire's host half (wire_device.cu) and its kernels (message.cu) share:
 * private to cuda/.
 *
 * What a slot's messages are made of in a step stands in a table in device memory, so that a kernel
 * that was recorded in a graph carries the messages of every later step.
 */
#ifndef LAMINA_MESSAGE_H
#define LAMINA_MESSAGE_H

#include "cuda_wire.h"

enum {
    CELL_BYTES = 8,        /* of payload in 16 bytes of a flagged place */
    GROUP_BYTES = 1 << 14, /* of a bulk place */
    MESSAGE_THREADS = 512, /* of a block of the grid */
    MESSAGE_CELLS = 2,     /* that a thread takes at once */
    MESSAGE_POLLS = 256,   /* between two looks at the clock */
};

/* A block of a fan on its way. */
struct piece {
    int32_t row, column;              /* where it begins in the value, elements */
    unsigned row_bytes, n_bytes;      /* of the block */
    unsigned first_cell, first_group; /* of the message, where the block begins */
    unsigned char *flagged, *bulk;    /* the message's parts; one of them NULL */
    uint32_t *flag;                   /* (groups) of the bulk part; NULL: the peer is far */
    int32_t peer;
    /* The whole message to or from a far peer, in the first of its pieces; else 0 bytes. */
    unsigned put_bytes, signal; /* which counts the puts, on the receiver */
    size_t put_from, put_to;    /* in the sender's window, in the receiver's */
};

/* The pieces of a message. */
struct piece_list {
    int32_t first, n; /* in the table */
    unsigned n_blocks; /* of the grid, that they take */
};

/* What kernels tell the host, in pinned memory. */
struct told {
    int32_t is_expired; /* a wait, for: */
    int32_t message, slot, layer, lane, peer;
    int64_t waited_ns[MESSAGES];
};

/* What kernels of a rank tell each other. */
struct notes {
    int32_t n_expired;
    int32_t n_taken;             /* pieces of the gather that runs */
    int64_t waited_ns[MESSAGES]; /* from begin to end of gathers */
};

/* A scatter or gather of a value. */
struct message_call {
    /* of the slot's table */
    const uint32_t *first_epoch; /* of layer 0 */
    const struct piece_list *list;
    const unsigned *first_block; /* (pieces) of the grid, that works for it; rising in a list */
    const struct piece *piece;
    /* of this call */
    unsigned char *value;
    size_t stride_bytes; /* from row to row of the value */
    unsigned size;       /* of an element */
    int32_t message, slot, layer, lane;
    int64_t deadline_ns;
    struct notes *notes;
    struct told *told;
};

/* Enqueue on the compute stream, by `n_blocks` blocks of the grid or more than the table has. */
void message_scatter(struct device *device, unsigned n_blocks, const struct message_call *call);
void message_gather(struct device *device, unsigned n_blocks, const struct message_call *call);

/* Number `layer` of a step's epochs, which are 1 to 2^32 - 1 round and round: 0 is what a new window
 * holds. */
__host__ __device__ inline uint32_t epoch_at(uint64_t first, uint64_t layer) {
    return (uint32_t)(1 + (first + layer) % UINT32_MAX);
}

/* Between two polls of a wait that began at *begin_ns (0: now). False: wait no longer. */
__device__ inline bool go_on(const struct message_call &call, const struct piece &piece,
                             unsigned n_polls, int64_t *begin_ns) {
    if (n_polls % MESSAGE_POLLS != 0) return true;
    int64_t now = device_now_ns();
    if (*begin_ns == 0) *begin_ns = now;
    if (*(volatile int32_t *)&call.notes->n_expired) return false;
    if (now - *begin_ns < call.deadline_ns) return true;
    if (atomicAdd(&call.notes->n_expired, 1) == 0) {
        volatile struct told *told = call.told;
        told->message = call.message;
        told->slot = call.slot;
        told->layer = call.layer;
        told->lane = call.lane;
        told->peer = piece.peer;
        __threadfence_system();
        told->is_expired = 1;
    }
    return false;
}

#endif
