/* mpi.c - values and headers over MPI (wire.h).
 *
 * Every message this rank can receive has a buffer and a receive posted in it from the start, one
 * per (slot, message, lane, peer). Sends have buffers of their own: the reply from the same peer
 * proves the buffer free, so no send is ever waited for in the loop. The device copies between
 * values and these buffers, which lie in memory that it reaches fastest, and converts where the
 * ends of a message compute in different elements; MPI never sees an address of the device. A
 * scatter waits once for the copies of all its blocks. A gather does not wait: receives that it
 * took are posted again behind the next scatter's wait, which comes before the peer can answer. A
 * small header in front of the payload says what the message is, and is compared: MPI's tags pair,
 * the list of turns orders, the header proves. MPI moves nothing while a rank computes, so
 * progress() is called from inside long operators. Every wire has a communicator of its own, so
 * that its tags are nobody else's. MPI_THREAD_FUNNELED: only the thread that opened the wire calls
 * in here.
 */
#include <mpi.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "clock.h"
#include "ports.h"

enum { PROGRESS_INTERVAL_NS = 10000 };

/* In front of every payload, which stays aligned as the buffer is. */
struct envelope {
    int32_t message, slot, layer, lane;
    uint32_t use; /* counts the messages of this (slot, message, lane, peer) */
    uint32_t n_bytes;
    char unused[40];
};
_Static_assert(sizeof(struct envelope) == WIRE_ENVELOPE_BYTES, "an envelope of other size");

struct port {
    struct envelope *envelope; /* then most_bytes of payload */
    size_t most_bytes;
    enum message message;
    enum element element; /* of the payload */
    int slot, lane, peer;
    uint32_t n_uses;
    bool active;  /* a receive is posted, or a send is on its way */
    bool arrived; /* the receive is complete and not yet taken */
    bool filled;  /* the payload of a send is being copied */
};

struct wire {
    MPI_Comm comm; /* this wire's own: nobody else's tags are on it */
    struct wire_options options;
    int n_receives, n_sends;
    struct port *receive, *send; /* (n_slots, n_incoming), (n_slots, n_outgoing) */
    MPI_Request *receive_request, *send_request;
    struct ports incoming, outgoing;
    struct fan *fan; /* (n_slots, MESSAGES) of the slots' steps */
    int *index;      /* of completed receives, for MPI_Testsome */
    MPI_Status *status;
    int *taken; /* (n_taken of n_receives) receives whose payload is being copied */
    int n_taken;
    int64_t last_progress_ns;
    int64_t waited_ns[MESSAGES];
};

const char *message_name(enum message message) {
    static const char *const name[MESSAGES] = {
        [MESSAGE_STEP] = "STEP", [MESSAGE_Q] = "Q", [MESSAGE_KV] = "KV", [MESSAGE_OUT] = "OUT"};
    return name[message];
}

static int tag_of(enum message message, int slot, int lane) {
    return ((int)message * 64 + slot) * PORTS_MOST_LANES + lane;
}

/* ---- opening ----------------------------------------------------------------------------------
 */

static void post_receive(struct wire *wire, int at) {
    struct port *port = &wire->receive[at];
    port->active = true;
    port->arrived = false;
    CHECK_MPI(MPI_Irecv(port->envelope, (int)(sizeof *port->envelope + port->most_bytes), MPI_BYTE,
                        port->peer, tag_of(port->message, port->slot, port->lane), wire->comm,
                        &wire->receive_request[at]));
}

/* Between two tests of a wait: spin a little, then let other ranks on this core run, then sleep.
 * False when the deadline is over. */
static bool pause_wait(struct deadline deadline, int round) {
    if (round % 64 == 63 && clock_expired(deadline)) return false;
    if (round < 20000) {
        if (round > 20) sched_yield();
    } else {
        nanosleep(&(struct timespec){0, 100000}, NULL);
    }
    return true;
}

/* A duplicate of the group's communicator, once all its ranks want one. */
static void open_comm(struct wire *wire) {
    MPI_Request request;
    struct deadline deadline = clock_deadline(wire->options.deadline_s);
    CHECK_MPI(MPI_Comm_idup(MPI_Comm_f2c(wire->options.topology->comm), &wire->comm, &request));
    for (int round = 0, done = 0;; round++) {
        CHECK_MPI(MPI_Test(&request, &done, MPI_STATUS_IGNORE));
        if (done) break;
        if (!pause_wait(deadline, round))
            check_fail("waited %g s for the other ranks to open a wire: are they alive? "
                       "(--deadline)",
                       wire->options.deadline_s);
    }
    CHECK_MPI(MPI_Comm_set_errhandler(wire->comm, MPI_ERRORS_RETURN));
}

/* `port` says all but the buffer. */
static void open_port(const struct wire *wire, struct port *port) {
    REQUIRE(port->most_bytes <= WIRE_MOST_BYTES, "a message of %zu bytes", port->most_bytes);
    port->envelope = wire->options.device_ops->alloc_host(
        wire->options.device, sizeof *port->envelope + port->most_bytes);
}

static void open_receives(struct wire *wire) {
    const struct wire_options *options = &wire->options;
    wire->n_receives = options->n_slots * options->n_incoming;
    wire->receive = check_alloc((size_t)wire->n_receives, sizeof *wire->receive);
    wire->receive_request = check_alloc((size_t)wire->n_receives, sizeof(MPI_Request));
    wire->index = check_alloc((size_t)wire->n_receives, sizeof *wire->index);
    wire->status = check_alloc((size_t)wire->n_receives, sizeof *wire->status);
    wire->taken = check_alloc((size_t)wire->n_receives, sizeof *wire->taken);
    ports_open(&wire->incoming, options->topology->n_ranks, options->n_incoming);
    for (int at = 0; at < options->n_incoming; at++) {
        const struct incoming *in = &options->incoming[at];
        ports_put(&wire->incoming, in->message, in->lane, in->peer, at);
        for (int slot = 0; slot < options->n_slots; slot++) {
            int port = slot * options->n_incoming + at;
            wire->receive[port] = (struct port){.most_bytes = in->most_bytes,
                                                .message = in->message,
                                                .element = in->element,
                                                .slot = slot,
                                                .lane = in->lane,
                                                .peer = in->peer};
            open_port(wire, &wire->receive[port]);
            post_receive(wire, port);
        }
    }
}

static void open_sends(struct wire *wire) {
    const struct wire_options *options = &wire->options;
    wire->n_sends = options->n_slots * options->n_outgoing;
    wire->send = check_alloc((size_t)wire->n_sends, sizeof *wire->send);
    wire->send_request = check_alloc((size_t)wire->n_sends, sizeof(MPI_Request));
    ports_open(&wire->outgoing, options->topology->n_ranks, options->n_outgoing);
    for (int at = 0; at < options->n_outgoing; at++) {
        const struct outgoing *out = &options->outgoing[at];
        ports_put(&wire->outgoing, out->message, out->lane, out->peer, at);
        for (int slot = 0; slot < options->n_slots; slot++) {
            int port = slot * options->n_outgoing + at;
            wire->send[port] = (struct port){.most_bytes = out->most_bytes,
                                             .message = out->message,
                                             .element = out->element,
                                             .slot = slot,
                                             .lane = out->lane,
                                             .peer = out->peer};
            open_port(wire, &wire->send[port]);
            wire->send_request[port] = MPI_REQUEST_NULL;
        }
    }
}

static bool mpi_available(const struct device_ops *device_ops, struct fault *fault) {
    (void)device_ops;
    (void)fault;
    return true;
}

static size_t mpi_message_bytes(size_t most_bytes, bool comes) {
    (void)comes;
    return sizeof(struct envelope) + most_bytes;
}

static bool mpi_open(struct wire **opened, const struct wire_options *options,
                     struct fault *fault) {
    (void)fault;
    struct wire *wire = check_alloc(1, sizeof *wire);
    wire->options = *options;
    open_comm(wire);
    open_receives(wire);
    open_sends(wire);
    wire->fan = check_alloc((size_t)options->n_slots * MESSAGES, sizeof *wire->fan);
    wire->options.incoming = NULL;
    wire->options.outgoing = NULL;
    *opened = wire;
    return true;
}

/* ---- progress and waits -----------------------------------------------------------------------
 */

/* Complete what has arrived, noting when. Any test also drives the sends. */
static void drive(struct wire *wire) {
    int n = 0;
    if (wire->n_receives == 0) return;
    CHECK_MPI(MPI_Testsome(wire->n_receives, wire->receive_request, &n, wire->index, wire->status));
    if (n == MPI_UNDEFINED) return;
    for (int done = 0; done < n; done++) {
        struct port *port = &wire->receive[wire->index[done]];
        int n_bytes = 0;
        CHECK_MPI(MPI_Get_count(&wire->status[done], MPI_BYTE, &n_bytes));
        const struct envelope *envelope = port->envelope;
        if ((size_t)n_bytes != sizeof *envelope + envelope->n_bytes ||
            envelope->message != (int32_t)port->message || envelope->slot != port->slot ||
            envelope->lane != port->lane || envelope->use != port->n_uses)
            check_fail("rank %d: out of turn: expected %s number %u of slot %d from rank %d, got "
                       "message %d number %u of slot %d with %d bytes",
                       wire->options.topology->rank, message_name(port->message), port->n_uses,
                       port->slot, port->peer, envelope->message, envelope->use, envelope->slot,
                       n_bytes);
        port->active = false;
        port->arrived = true;
        clock_arrived((int)port->message, port->slot, port->lane, port->peer, envelope->n_bytes);
    }
}

static void mpi_progress(void *argument) {
    struct wire *wire = argument;
    if (!wire->options.progress) return;
    int64_t now = clock_now_ns();
    if (now - wire->last_progress_ns < PROGRESS_INTERVAL_NS) return;
    wire->last_progress_ns = now;
    drive(wire);
}

static void wait_arrival(struct wire *wire, struct port *port, struct address address) {
    struct deadline deadline = clock_deadline(wire->options.deadline_s);
    int64_t begin = clock_now_ns();
    for (int round = 0; !port->arrived; round++) {
        drive(wire);
        if (port->arrived) break;
        if (!pause_wait(deadline, round))
            check_fail("waited %g s for %s of layer %d, slot %d from rank %d: is that rank alive? "
                       "(--deadline)",
                       wire->options.deadline_s, message_name(address.message), address.layer,
                       address.slot, port->peer);
    }
    wire->waited_ns[address.message] += clock_now_ns() - begin;
}

/* A send buffer may be used again when its message has left; the reply normally proved that
 * already. */
static void wait_sent(struct wire *wire, int at) {
    struct port *port = &wire->send[at];
    struct deadline deadline = clock_deadline(wire->options.deadline_s);
    for (int round = 0; port->active; round++) {
        int done = 0;
        CHECK_MPI(MPI_Test(&wire->send_request[at], &done, MPI_STATUS_IGNORE));
        if (done) {
            port->active = false;
            return;
        }
        drive(wire);
        if (!pause_wait(deadline, round))
            check_fail("waited %g s for rank %d to take %s of slot %d: is that rank alive? "
                       "(--deadline)",
                       wire->options.deadline_s, port->peer, message_name(port->message),
                       port->slot);
    }
}

/* ---- scatter and gather -----------------------------------------------------------------------
 */

/* The copies that were enqueued are done: what was taken may come again. */
static void settle(struct wire *wire) {
    wire->options.device_ops->settle(wire->options.device);
    for (int at = 0; at < wire->n_taken; at++)
        post_receive(wire, wire->taken[at]);
    wire->n_taken = 0;
}

/* The port's buffer, free to be filled with `n_bytes` of payload. */
static unsigned char *begin_send(struct wire *wire, int at, int layer, size_t n_bytes) {
    struct port *port = &wire->send[at];
    REQUIRE(n_bytes <= port->most_bytes, "%zu bytes of %s, at most %zu", n_bytes,
            message_name(port->message), port->most_bytes);
    wait_sent(wire, at);
    *port->envelope = (struct envelope){.message = (int32_t)port->message,
                                        .slot = port->slot,
                                        .layer = layer,
                                        .lane = port->lane,
                                        .use = port->n_uses++,
                                        .n_bytes = (uint32_t)n_bytes};
    port->filled = true;
    return (unsigned char *)(port->envelope + 1);
}

static void end_send(struct wire *wire, int at) {
    struct port *port = &wire->send[at];
    port->filled = false;
    port->active = true;
    CHECK_MPI(MPI_Isend(port->envelope, (int)(sizeof *port->envelope + port->envelope->n_bytes),
                        MPI_BYTE, port->peer, tag_of(port->message, port->slot, port->lane),
                        wire->comm, &wire->send_request[at]));
}

/* Wait for the copies of some blocks and send them. */
static void send_blocks(struct wire *wire, struct address address, const struct block *block,
                        int n_blocks) {
    settle(wire);
    for (int at = 0; at < n_blocks; at++)
        end_send(wire, ports_find(&wire->outgoing, address, block[at].peer));
}

static void mpi_begin(struct wire *wire, int slot, int step, const struct fan *fan) {
    (void)step;
    memcpy(&wire->fan[slot * MESSAGES], fan, MESSAGES * sizeof *fan);
}

static const struct fan *fan_of(const struct wire *wire, struct address address) {
    return &wire->fan[address.slot * MESSAGES + (int)address.message];
}

static size_t mpi_scatter(struct wire *wire, struct address address, const struct value *value) {
    const struct wire_options *options = &wire->options;
    const struct fan *fan = fan_of(wire, address);
    size_t total = 0;
    int n_sent = 0;
    for (int at = 0; at < fan->n_blocks; at++) {
        const struct block *block = &fan->block[at];
        int which = ports_find(&wire->outgoing, address, block->peer);
        if (wire->send[which].filled) { /* a second block to this peer */
            send_blocks(wire, address, fan->block + n_sent, at - n_sent);
            n_sent = at;
        }
        size_t n_bytes = block_bytes(block, wire->send[which].element);
        options->device_ops->read_rows(options->device,
                                       begin_send(wire, which, address.layer, n_bytes),
                                       wire->send[which].element, value, block_part(block));
        total += n_bytes;
    }
    send_blocks(wire, address, fan->block + n_sent, fan->n_blocks - n_sent);
    return total;
}

static size_t mpi_gather(struct wire *wire, struct address address, const struct value *value) {
    const struct wire_options *options = &wire->options;
    const struct fan *fan = fan_of(wire, address);
    size_t total = 0;
    for (int at = 0; at < fan->n_blocks; at++) {
        const struct block *block = &fan->block[at];
        int which = ports_find(&wire->incoming, address, block->peer);
        struct port *port = &wire->receive[which];
        if (!port->active && !port->arrived) settle(wire); /* taken, and not posted since */
        wait_arrival(wire, port, address);
        size_t n_bytes = block_bytes(block, port->element);
        if (port->envelope->layer != address.layer || port->envelope->n_bytes != n_bytes)
            check_fail(
                "rank %d: %s from rank %d: expected layer %d with %zu bytes, got layer %d with "
                "%u bytes",
                options->topology->rank, message_name(address.message), block->peer, address.layer,
                n_bytes, port->envelope->layer, port->envelope->n_bytes);
        options->device_ops->write_rows(options->device, value, block_part(block),
                                        port->envelope + 1, port->element);
        port->n_uses += 1;
        port->arrived = false;
        wire->taken[wire->n_taken++] = which;
        total += n_bytes;
    }
    return total;
}

static void mpi_drain(struct wire *wire) {
    settle(wire);
    for (int at = 0; at < wire->n_sends; at++)
        wait_sent(wire, at);
}

static double mpi_waited(struct wire *wire, enum message message) {
    return (double)wire->waited_ns[message] * 1e-9;
}

static void mpi_close(struct wire *wire) {
    if (!wire) return;
    const struct wire_options *options = &wire->options;
    options->device_ops->settle(options->device);
    for (int at = 0; at < wire->n_receives; at++) {
        if (wire->receive[at].active) { /* a cancelled receive completes without its sender */
            CHECK_MPI(MPI_Cancel(&wire->receive_request[at]));
            CHECK_MPI(MPI_Wait(&wire->receive_request[at], MPI_STATUS_IGNORE));
        }
        options->device_ops->release_host(options->device, wire->receive[at].envelope);
    }
    for (int at = 0; at < wire->n_sends; at++)
        options->device_ops->release_host(options->device, wire->send[at].envelope);
    free(wire->receive);
    free(wire->send);
    free(wire->receive_request);
    free(wire->send_request);
    free(wire->fan);
    ports_close(&wire->incoming);
    ports_close(&wire->outgoing);
    free(wire->index);
    free(wire->status);
    free(wire->taken);
    CHECK_MPI(MPI_Comm_free(&wire->comm));
    free(wire);
}

const struct wire_ops wire_mpi = {
    .name = "mpi",
    .available = mpi_available,
    .message_bytes = mpi_message_bytes,
    .open = mpi_open,
    .begin = mpi_begin,
    .scatter = mpi_scatter,
    .gather = mpi_gather,
    .progress = mpi_progress,
    .drain = mpi_drain,
    .waited = mpi_waited,
    .close = mpi_close,
};

/* ---- headers: a wire of its own with one message --------------------------------------------- */

struct control {
    struct wire *wire;
    int n_peers; /* of the leader; 0 elsewhere */
};

struct control *control_open(const struct wire_options *options, int n_ranks, size_t most_bytes) {
    struct control *control = check_alloc(1, sizeof *control);
    struct wire_options own = *options;
    struct incoming in = {.message = MESSAGE_STEP, .most_bytes = most_bytes};
    struct outgoing *out = check_alloc((size_t)n_ranks, sizeof *out);
    bool leader = options->topology->rank == 0;
    control->n_peers = leader ? n_ranks - 1 : 0;
    for (int peer = 0; peer < control->n_peers; peer++)
        out[peer] =
            (struct outgoing){.message = MESSAGE_STEP, .peer = peer + 1, .most_bytes = most_bytes};
    own.incoming = &in;
    own.n_incoming = leader ? 0 : 1;
    own.outgoing = out;
    own.n_outgoing = control->n_peers;
    struct fault fault = {0};
    REQUIRE(mpi_open(&control->wire, &own, &fault), "%s", fault.text);
    free(out);
    return control;
}

void control_post(struct control *control, int slot, const void *data, size_t n_bytes) {
    for (int peer = 0; peer < control->n_peers; peer++) {
        int at = slot * control->n_peers + peer;
        memcpy(begin_send(control->wire, at, 0, n_bytes), data, n_bytes);
        end_send(control->wire, at);
    }
}

size_t control_take(struct control *control, int slot, void *data) {
    struct port *port = &control->wire->receive[slot];
    wait_arrival(control->wire, port, (struct address){MESSAGE_STEP, slot, 0, 0});
    size_t n_bytes = port->envelope->n_bytes;
    memcpy(data, port->envelope + 1, n_bytes);
    port->n_uses += 1;
    post_receive(control->wire, slot);
    return n_bytes;
}

void control_close(struct control *control) {
    if (!control) return;
    mpi_drain(control->wire);
    mpi_close(control->wire);
    free(control);
}
