/* wire_device.cu - messages that GPU kernels write into a peer's memory themselves (wire.h); the
 * kernels are message.cu's.
 *
 * A message has a place in the receiver's window for each (slot, message, lane, peer). One kernel a
 * call packs the blocks of all peers and writes them there, one kernel a call waits for them and
 * unpacks; both stand on the compute stream, and the host only enqueues. So a value is sealed by its
 * place on the stream, and nothing waits for a receiver: the reply proved that the place is free. Two
 * protocols, by the bytes of a call to a peer, each with a part of the window of its own:
 *
 *   flagged  each 16 bytes hold {data, epoch, data, epoch} and are stored at once. The receiver
 *            polls the data itself: one flight, no fence, half the bandwidth (NCCL's LL).
 *   bulk     groups of 16 KiB, each with a flag that is released when the group is written; the blocks
 *            of the receiving kernel wait for the flags of their own groups.
 *
 * A peer that loads and stores do not reach is *far*: the packing kernel writes to this rank's
 * outbox, a second one has NCCL put the message from there into its place, and the receiver's first
 * kernel waits for the signal that counts puts, before the other unpacks (window.cu). The blocks of
 * the message stand one behind another where the flagged part would be, or the bulk part if
 * messages of its kind may be that large, and have no flags. The outbox needs no word of its own
 * either: the peer replies when the message has come, so it has been read by then, and it is packed
 * again behind the reply.
 *
 * An epoch follows from the step and the layer, so that what an earlier message left never looks like
 * this one, and both ends know it without counting; 0 is what a new window holds and no epoch. Which
 * blocks a message has, where they go and the step's first epoch stand in a table of the slot that
 * begin copies to the device, so that calls that were recorded serve every later step. Waits end with the
 * deadline: the kernel notes who waited for what in pinned memory, no later wait waits, nothing more is
 * sent, and the host ends the job at its next call here.
 *
 * Rejected: stores with one flag a message behind a fence, 2.4 times as slow up to 256 KiB; counts
 * in the peer's memory by atomics, which wait for the link and back.
 */
#include <stdlib.h>
#include <string.h>

#include "message.h"

enum {
    FLAGGED_MOST = 1 << 20, /* bytes of a call to a peer that go flagged */
    ALIGNMENT = 256,
    MOST_GRID = 264,
    RING = 4, /* tables on their way to the device */
};

/* A few before a wrap, which so happens in every job. */
static const uint64_t FIRST_EPOCH = UINT32_MAX - 4;

/* Where the parts of a message's place lie, from its beginning. */
struct parts {
    size_t bulk, flags, end; /* the flagged part comes first */
};

/* One message and peer of a slot. */
struct port {
    int peer;
    enum element element;
    size_t most_bytes;
    size_t place;    /* in the receiver's window */
    unsigned signal; /* of the receiver, that counts it where it is put */
    size_t outbox;   /* in the sender's window, where it is put from */
    /* of the message that is being laid out */
    size_t n_bytes, put_bytes;
    int n_blocks;
    unsigned cell, group, put; /* where the next block begins */
};

/* The messages of a slot's step, as they lie in the table: its members one behind another. */
struct table {
    unsigned char *device, *pinned[RING];
    cudaEvent_t copied[RING];
    int next;
    struct piece_list *list; /* (n_lists) pinned, of the step that has begun */
    const struct piece *piece;
};

struct wire {
    struct wire_options options;
    struct window *window;
    struct ports incoming, outgoing;
    struct port *receive, *send; /* (n_slots, n_incoming), (n_slots, n_outgoing) */
    struct table *table;         /* (n_slots) */
    int n_lanes, n_lists, most_pieces; /* of a table */
    bool has_far;                /* peers */
    struct told *told;           /* pinned */
    struct notes *notes;         /* on the device */
};

/* ---- opening ------------------------------------------------------------------------------------
 */

static size_t align(size_t n_bytes) {
    return (n_bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

/* Blocks of one call to a peer begin at whole cells and groups, so several take a little more. */
static struct parts parts_of(size_t most_bytes) {
    size_t flagged = most_bytes < FLAGGED_MOST ? most_bytes : FLAGGED_MOST;
    size_t n_groups = most_bytes > FLAGGED_MOST
                          ? (most_bytes + GROUP_BYTES - 1) / GROUP_BYTES + WIRE_MOST_BLOCKS
                          : 0;
    struct parts parts;
    parts.bulk = align((flagged / CELL_BYTES + WIRE_MOST_BLOCKS) * sizeof(uint4));
    parts.flags = parts.bulk + n_groups * GROUP_BYTES;
    parts.end = align(parts.flags + n_groups * sizeof(uint32_t));
    return parts;
}

/* Which peers are far is known when NCCL is open: memory is counted as if all were. */
static size_t message_bytes(size_t most_bytes, bool comes) {
    (void)comes;
    return parts_of(most_bytes).end;
}

static bool available(const struct device_ops *device_ops, struct fault *fault) {
    if (device_ops != &device_cuda)
        return fault_user(fault, "--wire device is for ranks on GPUs: it carries messages from "
                                 "kernel to kernel");
    return nccl_available(fault);
}

/* A message as its receiver tells the sender of it. */
struct notice {
    int32_t message, lane, peer;
    uint64_t place, slot_bytes, most_bytes;
};

/* Lay the messages to come out in this rank's window. Returns the bytes of a slot. */
static size_t lay_out(const struct wire *wire, struct notice *notice) {
    const struct wire_options *options = &wire->options;
    size_t end = 0;
    for (int at = 0; at < options->n_incoming; at++) {
        const struct incoming *in = &options->incoming[at];
        notice[at].message = (int32_t)in->message;
        notice[at].lane = in->lane;
        notice[at].peer = in->peer;
        notice[at].place = end;
        notice[at].most_bytes = in->most_bytes;
        end += parts_of(in->most_bytes).end;
    }
    for (int at = 0; at < options->n_incoming; at++)
        notice[at].slot_bytes = end;
    return end;
}

/* Of message `at` that a rank expects in a slot. */
static unsigned signal_of(const struct wire_options *options, int at, int slot) {
    return (unsigned)(at * options->n_slots + slot);
}

static void open_receives(struct wire *wire, const struct notice *notice) {
    const struct wire_options *options = &wire->options;
    int n = options->n_incoming;
    ports_open(&wire->incoming, options->topology->n_ranks, n);
    wire->receive = (struct port *)check_alloc((size_t)(options->n_slots * n), sizeof(struct port));
    for (int at = 0; at < n; at++) {
        const struct incoming *in = &options->incoming[at];
        ports_put(&wire->incoming, in->message, in->lane, in->peer, at);
        for (int slot = 0; slot < options->n_slots; slot++)
            wire->receive[slot * n + at] = (struct port){
                in->peer, in->element, in->most_bytes,
                (size_t)(notice[at].place + (uint64_t)slot * notice[at].slot_bytes),
                signal_of(options, at, slot)};
    }
}

/* What `peer` says of a message of this rank. */
static const struct notice *find_notice(const struct notice *notice, int n,
                                        const struct outgoing *out, int rank) {
    for (int at = 0; at < n; at++)
        if (notice[at].message == (int32_t)out->message && notice[at].lane == out->lane &&
            notice[at].peer == rank && notice[at].most_bytes == out->most_bytes)
            return &notice[at];
    check_fail("rank %d does not expect %s of %zu bytes from rank %d", out->peer,
               message_name(out->message), out->most_bytes, rank);
}

/* The outbox begins at byte `outbox` of this rank's window. Returns its end. */
static size_t open_sends(struct wire *wire, const struct notice *all, int n_notices,
                         size_t outbox) {
    const struct wire_options *options = &wire->options;
    int n = options->n_outgoing;
    ports_open(&wire->outgoing, options->topology->n_ranks, n);
    wire->send = (struct port *)check_alloc((size_t)(options->n_slots * n) + 1, sizeof(struct port));
    for (int at = 0; at < n; at++) {
        const struct outgoing *out = &options->outgoing[at];
        const struct notice *of_peer = all + (size_t)out->peer * (size_t)n_notices;
        const struct notice *notice =
            find_notice(of_peer, n_notices, out, options->topology->rank);
        ports_put(&wire->outgoing, out->message, out->lane, out->peer, at);
        for (int slot = 0; slot < options->n_slots; slot++) {
            wire->send[slot * n + at] = (struct port){
                out->peer, out->element, out->most_bytes,
                (size_t)(notice->place + (uint64_t)slot * notice->slot_bytes),
                signal_of(options, (int)(notice - of_peer), slot), outbox};
            outbox += parts_of(out->most_bytes).end;
        }
    }
    return outbox;
}

static bool has_far(const struct wire *wire) {
    for (int at = 0; at < wire->options.n_incoming; at++)
        if (!window_of(wire->window, wire->receive[at].peer)) return true;
    for (int at = 0; at < wire->options.n_outgoing; at++)
        if (!window_of(wire->window, wire->send[at].peer)) return true;
    return false;
}

/* The most messages that any rank expects. */
static int count_notices(const struct wire_options *options) {
    const struct topology *topology = options->topology;
    int *all = (int *)check_alloc((size_t)topology->n_ranks, sizeof *all);
    int most = 1;
    topology_share(topology, &options->n_incoming, sizeof(int), all, "counts of messages",
                   options->deadline_s);
    for (int rank = 0; rank < topology->n_ranks; rank++)
        most = all[rank] > most ? all[rank] : most;
    free(all);
    return most;
}

/* ---- tables -------------------------------------------------------------------------------------
 */

/* Where a table's members lie: the first epoch is at its beginning. */
struct members {
    size_t list, first_block, piece, end; /* pieces last: only what is used travels */
};

static struct members members_of(const struct wire *wire) {
    struct members members;
    members.list = 16;
    members.first_block = align(members.list + (size_t)wire->n_lists * sizeof(struct piece_list));
    members.piece = align(members.first_block + (size_t)wire->most_pieces * sizeof(unsigned));
    members.end = members.piece + (size_t)wire->most_pieces * sizeof(struct piece);
    return members;
}

static int list_of(const struct wire *wire, bool comes, enum message message, int lane) {
    return ((comes ? MESSAGES : 0) + (int)message) * wire->n_lanes + lane;
}

static void open_tables(struct wire *wire) {
    const struct wire_options *options = &wire->options;
    for (int at = 0; at < options->n_incoming; at++)
        if (options->incoming[at].lane >= wire->n_lanes)
            wire->n_lanes = options->incoming[at].lane + 1;
    for (int at = 0; at < options->n_outgoing; at++)
        if (options->outgoing[at].lane >= wire->n_lanes)
            wire->n_lanes = options->outgoing[at].lane + 1;
    wire->n_lists = 2 * MESSAGES * wire->n_lanes;
    wire->most_pieces = (options->n_incoming + options->n_outgoing) * WIRE_MOST_BLOCKS;
    size_t n_bytes = members_of(wire).end;
    wire->table = (struct table *)check_alloc((size_t)options->n_slots, sizeof *wire->table);
    for (int slot = 0; slot < options->n_slots; slot++) {
        struct table *table = &wire->table[slot];
        CHECK_CUDA(cudaMalloc((void **)&table->device, n_bytes));
        for (int at = 0; at < RING; at++) {
            CHECK_CUDA(cudaMallocHost((void **)&table->pinned[at], n_bytes));
            CHECK_CUDA(cudaEventCreateWithFlags(&table->copied[at], cudaEventDisableTiming));
        }
    }
}

static void close_tables(struct wire *wire) {
    for (int slot = 0; wire->table && slot < wire->options.n_slots; slot++) {
        struct table *table = &wire->table[slot];
        CHECK_CUDA(cudaFree(table->device));
        for (int at = 0; at < RING; at++) {
            CHECK_CUDA(cudaFreeHost(table->pinned[at]));
            CHECK_CUDA(cudaEventDestroy(table->copied[at]));
        }
    }
    free(wire->table);
}

static bool open(struct wire **opened, const struct wire_options *options, struct fault *fault) {
    struct wire *wire = (struct wire *)check_alloc(1, sizeof *wire);
    wire->options = *options;
    *opened = wire;
    int n = count_notices(options);
    struct notice *own = (struct notice *)check_alloc((size_t)n, sizeof *own);
    struct notice *all = (struct notice *)check_alloc(
        (size_t)n * (size_t)options->topology->n_ranks, sizeof *all);
    struct window_size size = {};
    size.n_bytes = (size_t)options->n_slots * lay_out(wire, own);
    size.n_signals = n * options->n_slots;
    topology_share(options->topology, own, (size_t)n * sizeof *own, all, "places of messages",
                   options->deadline_s);
    open_receives(wire, own);
    size.outbox_bytes = open_sends(wire, all, n, size.n_bytes) - size.n_bytes;
    free(own);
    free(all);
    open_tables(wire);
    CHECK_CUDA(cudaMallocHost((void **)&wire->told, sizeof *wire->told));
    memset(wire->told, 0, sizeof *wire->told);
    CHECK_CUDA(cudaMalloc((void **)&wire->notes, sizeof *wire->notes));
    CHECK_CUDA(cudaMemset(wire->notes, 0, sizeof *wire->notes));
    wire->options.incoming = NULL;
    wire->options.outgoing = NULL;
    bool good = window_open(&wire->window, options->device, options, &size, fault);
    wire->has_far = good && has_far(wire);
    return good;
}

/* ---- a step begins ------------------------------------------------------------------------------
 */

static void progress(void *argument) {
    struct wire *wire = (struct wire *)argument;
    const volatile struct told *told = wire->told;
    if (!told->is_expired) return;
    check_fail("waited %g s for %s of layer %d, slot %d from rank %d: is that rank alive? "
               "(--deadline)",
               wire->options.deadline_s, message_name((enum message)told->message),
               told->layer, told->slot, told->peer);
}

/* One direction of a wire. */
struct direction {
    struct ports *ports;
    struct port *port;
    bool comes;
};

static struct direction direction_of(struct wire *wire, bool comes) {
    if (comes) return (struct direction){&wire->incoming, wire->receive, true};
    return (struct direction){&wire->outgoing, wire->send, false};
}

static struct port *port_of(const struct direction *direction, struct address address,
                            const struct block *block) {
    return &direction->port[ports_find(direction->ports, address, block->peer)];
}

/* As a block takes them in a put: the next begins at a word that kernels store at once. */
static size_t whole_words(size_t n_bytes) {
    return (n_bytes + sizeof(uint4) - 1) / sizeof(uint4) * sizeof(uint4);
}

/* Bytes of the message to each peer, which choose its protocol. */
static void count_bytes(const struct direction *direction, struct address address,
                        const struct fan *fan) {
    for (int at = 0; at < fan->n_blocks; at++) {
        struct port *port = port_of(direction, address, &fan->block[at]);
        port->n_bytes = port->put_bytes = 0;
        port->n_blocks = 0;
        port->cell = port->group = port->put = 0;
    }
    for (int at = 0; at < fan->n_blocks; at++) {
        struct port *port = port_of(direction, address, &fan->block[at]);
        size_t n_bytes = block_bytes(&fan->block[at], port->element);
        port->n_bytes += n_bytes;
        port->put_bytes += whole_words(n_bytes);
        port->n_blocks += 1;
        REQUIRE(port->n_bytes <= port->most_bytes && port->n_blocks <= WIRE_MOST_BLOCKS,
                "%zu bytes of %s in %d blocks, at most %zu in %d", port->n_bytes,
                message_name(address.message), port->n_blocks, port->most_bytes, WIRE_MOST_BLOCKS);
    }
}

/* The piece in the peer's window, or where it comes in this rank's. */
static void place_near(const struct wire *wire, const struct direction *direction,
                       struct port *port, struct piece *piece) {
    struct parts parts = parts_of(port->most_bytes);
    int owner = direction->comes ? wire->options.topology->rank : port->peer;
    unsigned char *place = window_of(wire->window, owner) + port->place;
    bool flagged = port->n_bytes <= FLAGGED_MOST;
    piece->first_cell = port->cell;
    piece->first_group = port->group;
    piece->flagged = flagged ? place : NULL;
    piece->bulk = flagged ? NULL : place + parts.bulk;
    piece->flag = (uint32_t *)(place + parts.flags);
    port->cell += (piece->n_bytes + CELL_BYTES - 1) / CELL_BYTES;
    port->group += (piece->n_bytes + GROUP_BYTES - 1) / GROUP_BYTES;
}

/* The piece of a far peer, in this rank's window either way. */
static void place_far(const struct wire *wire, const struct direction *direction,
                      struct port *port, struct piece *piece) {
    size_t part = port->most_bytes > FLAGGED_MOST ? parts_of(port->most_bytes).bulk : 0;
    unsigned char *own = window_of(wire->window, wire->options.topology->rank);
    piece->bulk = own + (direction->comes ? port->place : port->outbox) + part + port->put;
    piece->put_bytes = port->put == 0 ? (unsigned)port->put_bytes : 0;
    piece->signal = port->signal;
    piece->put_from = port->outbox + part;
    piece->put_to = port->place + part;
    port->put += (unsigned)whole_words(piece->n_bytes);
}

static struct piece piece_of(const struct wire *wire, const struct direction *direction,
                             const struct block *block, struct port *port) {
    struct piece piece = {};
    piece.row = block->row;
    piece.column = block->column;
    piece.row_bytes = (unsigned)((size_t)block->n_columns * element_bytes(port->element));
    piece.n_bytes = piece.row_bytes * (unsigned)block->n_rows;
    piece.peer = port->peer;
    bool far = !window_of(wire->window, port->peer);
    (far ? place_far : place_near)(wire, direction, port, &piece);
    return piece;
}

/* Bytes for one block of the grid: each thread takes its cells once, or a group has a block. */
static constexpr unsigned BLOCK_BYTES = MESSAGE_CELLS * MESSAGE_THREADS * CELL_BYTES;
static_assert(BLOCK_BYTES <= (unsigned)GROUP_BYTES, "grid_of bounds both");

static unsigned count_blocks(const struct piece *piece, int n_pieces) {
    unsigned bytes = piece->flagged ? BLOCK_BYTES : (unsigned)GROUP_BYTES;
    unsigned n = (piece->n_bytes + bytes - 1) / bytes;
    unsigned most = n_pieces < MOST_GRID ? (unsigned)(MOST_GRID / n_pieces) : 1;
    return n < most ? n : most;
}

/* Lay a message out behind `n_before` pieces. Returns how many there are then. */
static int put_list(struct wire *wire, const struct direction *direction, struct address address,
                    const struct fan *fan, unsigned char *pinned, int n_before) {
    struct members members = members_of(wire);
    int which = list_of(wire, direction->comes, address.message, address.lane);
    struct piece_list *list = (struct piece_list *)(pinned + members.list) + which;
    struct piece *piece = (struct piece *)(pinned + members.piece) + n_before;
    unsigned *first_block = (unsigned *)(pinned + members.first_block) + n_before;
    *list = {n_before, 0, 0};
    count_bytes(direction, address, fan);
    for (int at = 0; at < fan->n_blocks; at++) {
        struct port *port = port_of(direction, address, &fan->block[at]);
        piece[list->n] = piece_of(wire, direction, &fan->block[at], port);
        if (piece[list->n].n_bytes == 0) continue;
        first_block[list->n++] = list->n_blocks;
        list->n_blocks += count_blocks(&piece[list->n - 1], fan->n_blocks);
    }
    return n_before + list->n;
}

static void begin(struct wire *wire, int slot, int step, const struct fan *fan) {
    struct device *device = wire->options.device;
    struct table *table = &wire->table[slot];
    struct members members = members_of(wire);
    int at = table->next++ % RING, n_pieces = 0;
    progress(wire);
    wait_for_event(device, table->copied[at]);
    unsigned char *pinned = table->pinned[at];
    uint64_t first = FIRST_EPOCH + (uint64_t)step * (uint64_t)wire->options.n_layers;
    *(uint32_t *)pinned = (uint32_t)(first % UINT32_MAX);
    table->list = (struct piece_list *)(pinned + members.list);
    table->piece = (struct piece *)(pinned + members.piece);
    memset(table->list, 0, (size_t)wire->n_lists * sizeof *table->list);
    for (int comes = 0; comes <= 1; comes++) {
        struct direction direction = direction_of(wire, comes);
        for (int message = MESSAGE_Q; message <= MESSAGE_OUT; message++)
            for (int lane = 0; lane < wire->n_lanes; lane++) {
                struct address address = {(enum message)message, slot, 0, lane};
                if (ports_count(direction.ports, address) == 0) continue;
                n_pieces = put_list(wire, &direction, address, &fan[message], pinned, n_pieces);
            }
    }
    CHECK_CUDA(cudaMemcpyAsync(table->device, pinned,
                               members.piece + (size_t)n_pieces * sizeof(struct piece),
                               cudaMemcpyHostToDevice, device->stream));
    CHECK_CUDA(cudaEventRecord(table->copied[at], device->stream));
}

/* ---- scatter and gather -------------------------------------------------------------------------
 */

/* Blocks of the grid for a call of a value. A run that is recorded may serve steps with other rows
 * for the peers, up to the rows that it is recorded with. */
static unsigned grid_of(const struct wire *wire, const struct direction *direction,
                        struct address address, const struct value *value,
                        const struct piece_list *list) {
    const struct device *device = wire->options.device;
    if (!device->padded) return list->n_blocks;
    size_t row_bytes = (size_t)value->columns * element_bytes(value->element);
    size_t n_bytes = (size_t)device->padded * row_bytes;
    size_t most = n_bytes / BLOCK_BYTES + (size_t)ports_count(direction->ports, address);
    return most < MOST_GRID ? (unsigned)most : MOST_GRID;
}

static size_t carry(struct wire *wire, bool comes, struct address address,
                    const struct value *value) {
    struct device *device = wire->options.device;
    const struct table *table = &wire->table[address.slot];
    struct members members = members_of(wire);
    struct direction direction = direction_of(wire, comes);
    int which = list_of(wire, comes, address.message, address.lane);
    const struct piece_list *list = &table->list[which];
    size_t total = 0;
    struct message_call call = {};
    progress(wire);
    REQUIRE(address.layer >= 0 && address.layer < wire->options.n_layers, "layer %d of %d",
            address.layer, wire->options.n_layers);
    call.first_epoch = (const uint32_t *)table->device;
    call.list = (const struct piece_list *)(table->device + members.list) + which;
    call.first_block = (const unsigned *)(table->device + members.first_block);
    call.piece = (const struct piece *)(table->device + members.piece);
    call.value = (unsigned char *)value_data(value);
    call.size = (unsigned)element_bytes(value->element);
    call.stride_bytes = (size_t)value->stride * call.size;
    call.message = (int32_t)address.message;
    call.slot = address.slot;
    call.layer = address.layer;
    call.lane = address.lane;
    call.deadline_ns = (int64_t)(wire->options.deadline_s * 1e9);
    call.notes = wire->notes;
    call.told = wire->told;
    for (int at = 0; at < list->n; at++) {
        const struct piece *piece = &table->piece[list->first + at];
        enum element crosses =
            direction.port[ports_find(direction.ports, address, piece->peer)].element;
        REQUIRE(crosses == value->element, "%s crosses as element %d, not %d",
                message_name(address.message), (int)crosses, (int)value->element);
        total += piece->n_bytes;
        if (comes)
            clock_arrived((int)address.message, address.slot, address.lane, piece->peer,
                          piece->n_bytes);
    }
    unsigned n_blocks = grid_of(wire, &direction, address, value, list);
    if (comes) {
        if (wire->has_far) window_await(wire->window, device, &call);
        message_gather(device, n_blocks, &call);
    } else {
        message_scatter(device, n_blocks, &call);
        if (wire->has_far) window_put(wire->window, device, &call);
    }
    return total;
}

static size_t scatter(struct wire *wire, struct address address, const struct value *value) {
    return carry(wire, false, address, value);
}

static size_t gather(struct wire *wire, struct address address, const struct value *value) {
    return carry(wire, true, address, value);
}

static void drain(struct wire *wire) {
    cuda_settle(wire->options.device);
    progress(wire);
}

static double waited(struct wire *wire, enum message message) {
    const volatile struct told *told = wire->told;
    return (double)told->waited_ns[message] * 1e-9;
}

static void close(struct wire *wire) {
    if (!wire) return;
    CHECK_CUDA(cudaStreamSynchronize(wire->options.device->stream));
    window_close(wire->window);
    close_tables(wire);
    CHECK_CUDA(cudaFree(wire->notes));
    CHECK_CUDA(cudaFreeHost(wire->told));
    ports_close(&wire->incoming);
    ports_close(&wire->outgoing);
    free(wire->receive);
    free(wire->send);
    free(wire);
}

static struct wire_ops make_ops(void) {
    struct wire_ops ops = {};
    ops.name = "device";
    ops.in_runs = true;
    ops.available = available;
    ops.message_bytes = message_bytes;
    ops.open = open;
    ops.begin = begin;
    ops.scatter = scatter;
    ops.gather = gather;
    ops.progress = progress;
    ops.drain = drain;
    ops.waited = waited;
    ops.close = close;
    return ops;
}

extern "C" const struct wire_ops wire_device = make_ops();
