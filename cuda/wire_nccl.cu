/* wire_nccl.cu - messages as sends and receives of NCCL (wire.h).
 *
 * They run on a stream of their own beside compute, in the order of the list of turns: NCCL has no
 * tags and pairs by order, so the order is total and replies are mirrored. Blocks are packed into and
 * unpacked from buffers, one a (slot, message, lane, peer), by kernels on the compute stream; events
 * join the two. So a receive does not wait for compute that still uses the value it is meant for, and
 * a value may change as soon as its scatter was enqueued. A buffer is free again when the reply is
 * here, by the order of the stream.
 *
 * A peer that does not come leaves NCCL's kernel waiting for ever: whoever waits on the host looks
 * after the oldest call that has not ended, and ends the job when its deadline is over.
 */
#include <nccl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_wire.h"

enum { MOST_WATCHED = 4096 };

struct port {
    int peer;
    enum element element;
    size_t most_bytes;
    unsigned char *buffer; /* (most_bytes) on the device */
    size_t n_bytes;        /* of the call that is being prepared */
    cudaEvent_t ready;     /* a send: packed; a receive: unpacked, and free again */
};

/* A call on its way. */
struct watched {
    cudaEvent_t done;
    struct address address;
    int peer; /* of its first block */
};

struct wire {
    struct wire_options options;
    struct ncclComm *comm;
    cudaStream_t stream;
    struct ports incoming, outgoing;
    struct port *receive, *send; /* (n_slots, n_incoming), (n_slots, n_outgoing) */
    struct fan *fan;             /* (n_slots, MESSAGES) of the slots' steps */
    struct watched *watched;     /* (MOST_WATCHED), a ring */
    unsigned n_begun, n_done;    /* calls */
    struct deadline deadline;    /* of call number n_done */
};

static const char *version(void) {
    static char text[64];
    snprintf(text, sizeof text, "%s (compiled for %d.%d.%d)", nccl_version(), NCCL_MAJOR,
             NCCL_MINOR, NCCL_PATCH);
    return text;
}

/* ---- opening ------------------------------------------------------------------------------------
 */

static bool available(const struct device_ops *device_ops, struct fault *fault) {
    if (device_ops != &device_cuda)
        return fault_user(fault, "--wire nccl is for ranks on GPUs");
    return nccl_available(fault);
}

static size_t message_bytes(size_t most_bytes, bool comes) {
    (void)comes;
    return most_bytes;
}

static struct port open_port(int peer, enum element element, size_t most_bytes) {
    struct port port = {};
    port.peer = peer;
    port.element = element;
    port.most_bytes = most_bytes;
    CHECK_CUDA(cudaMalloc((void **)&port.buffer, most_bytes));
    CHECK_CUDA(cudaEventCreateWithFlags(&port.ready, cudaEventDisableTiming));
    return port;
}

static void close_ports(struct port *port, int n) {
    for (int at = 0; port && at < n; at++) {
        CHECK_CUDA(cudaFree(port[at].buffer));
        CHECK_CUDA(cudaEventDestroy(port[at].ready));
    }
    free(port);
}

static void open_ports(struct wire *wire) {
    const struct wire_options *options = &wire->options;
    int n_in = options->n_incoming, n_out = options->n_outgoing;
    ports_open(&wire->incoming, options->topology->n_ranks, n_in);
    ports_open(&wire->outgoing, options->topology->n_ranks, n_out);
    wire->receive =
        (struct port *)check_alloc((size_t)(options->n_slots * n_in) + 1, sizeof(struct port));
    wire->send =
        (struct port *)check_alloc((size_t)(options->n_slots * n_out) + 1, sizeof(struct port));
    for (int slot = 0; slot < options->n_slots; slot++) {
        for (int at = 0; at < n_in; at++) {
            const struct incoming *in = &options->incoming[at];
            ports_put(&wire->incoming, in->message, in->lane, in->peer, at);
            wire->receive[slot * n_in + at] = open_port(in->peer, in->element, in->most_bytes);
        }
        for (int at = 0; at < n_out; at++) {
            const struct outgoing *out = &options->outgoing[at];
            ports_put(&wire->outgoing, out->message, out->lane, out->peer, at);
            wire->send[slot * n_out + at] = open_port(out->peer, out->element, out->most_bytes);
        }
    }
}

/* NCCL connects two ranks when they first speak, which takes a while: here, not in the first step. */
static void connect(struct wire *wire) {
    const struct topology *topology = wire->options.topology;
    unsigned char *byte;
    CHECK_CUDA(cudaMalloc((void **)&byte, 2 * (size_t)topology->n_ranks));
    ncclResult_t result = ncclGroupStart();
    for (int peer = 0; peer < topology->n_ranks && result == ncclSuccess; peer++) {
        result = ncclSend(byte, 1, ncclInt8, peer, wire->comm, wire->stream);
        if (result == ncclSuccess || result == ncclInProgress)
            result = ncclRecv(byte + topology->n_ranks + peer, 1, ncclInt8, peer, wire->comm,
                              wire->stream);
        if (result == ncclInProgress) result = ncclSuccess;
    }
    if (result == ncclSuccess) result = ncclGroupEnd();
    nccl_finish(wire->comm, result, &wire->options, "connecting ranks");
    struct deadline deadline = clock_deadline(wire->options.deadline_s);
    while (cudaStreamQuery(wire->stream) == cudaErrorNotReady)
        if (clock_expired(deadline))
            check_fail("waited %g s for NCCL to connect all ranks: are they alive? (--deadline)",
                       wire->options.deadline_s);
    CHECK_CUDA(cudaStreamSynchronize(wire->stream));
    CHECK_CUDA(cudaFree(byte));
}

static bool open(struct wire **opened, const struct wire_options *options, struct fault *fault) {
    struct wire *wire = (struct wire *)check_alloc(1, sizeof *wire);
    int least, greatest;
    wire->options = *options;
    *opened = wire;
    open_ports(wire);
    wire->fan = (struct fan *)check_alloc((size_t)options->n_slots * MESSAGES, sizeof *wire->fan);
    wire->options.incoming = NULL;
    wire->options.outgoing = NULL;
    CHECK_CUDA(cudaDeviceGetStreamPriorityRange(&least, &greatest));
    CHECK_CUDA(cudaStreamCreateWithPriority(&wire->stream, cudaStreamNonBlocking, greatest));
    wire->watched = (struct watched *)check_alloc(MOST_WATCHED, sizeof *wire->watched);
    for (int at = 0; at < MOST_WATCHED; at++)
        CHECK_CUDA(cudaEventCreateWithFlags(&wire->watched[at].done, cudaEventDisableTiming));
    if (!nccl_group_open(&wire->comm, options, fault)) return false;
    connect(wire);
    return true;
}

/* ---- watching -----------------------------------------------------------------------------------
 */

static void progress(void *argument) {
    struct wire *wire = (struct wire *)argument;
    ncclResult_t state = ncclSuccess;
    while (wire->n_done != wire->n_begun) {
        const struct watched *oldest = &wire->watched[wire->n_done % MOST_WATCHED];
        cudaError_t error = cudaEventQuery(oldest->done);
        if (error == cudaErrorNotReady) break;
        CHECK_CUDA(error);
        wire->n_done += 1;
        wire->deadline = clock_deadline(wire->options.deadline_s);
    }
    if (wire->n_done == wire->n_begun) return;
    const struct watched *oldest = &wire->watched[wire->n_done % MOST_WATCHED];
    if (ncclCommGetAsyncError(wire->comm, &state) != ncclSuccess ||
        (state != ncclSuccess && state != ncclInProgress))
        check_fail("NCCL: %s with rank %d: %s (%s)", message_name(oldest->address.message),
                   oldest->peer, ncclGetErrorString(state), ncclGetLastError(wire->comm));
    if (clock_expired(wire->deadline))
        check_fail("waited %g s for %s of layer %d, slot %d with rank %d: is that rank alive? "
                   "(--deadline)",
                   wire->options.deadline_s, message_name(oldest->address.message),
                   oldest->address.layer, oldest->address.slot, oldest->peer);
}

/* The call that was enqueued on the wire's stream ends here. */
static void watch(struct wire *wire, struct address address, const struct fan *fan) {
    progress(wire);
    while (wire->n_begun - wire->n_done == MOST_WATCHED)
        progress(wire);
    if (wire->n_done == wire->n_begun) wire->deadline = clock_deadline(wire->options.deadline_s);
    struct watched *watched = &wire->watched[wire->n_begun++ % MOST_WATCHED];
    watched->address = address;
    watched->peer = fan->block[0].peer;
    CHECK_CUDA(cudaEventRecord(watched->done, wire->stream));
}

/* ---- scatter and gather -------------------------------------------------------------------------
 */

/* A direction's port of a block. */
static struct port *port_of(const struct ports *ports, struct port *port, struct address address,
                            const struct block *block) {
    return &port[ports_find(ports, address, block->peer)];
}

static void clear(const struct ports *ports, struct port *port, struct address address,
                  const struct fan *fan) {
    for (int at = 0; at < fan->n_blocks; at++)
        port_of(ports, port, address, &fan->block[at])->n_bytes = 0;
}

/* Where the block lies in its port's buffer. */
static unsigned char *place_of(struct port *port, const struct block *block) {
    size_t n_bytes = block_bytes(block, port->element);
    REQUIRE(port->n_bytes + n_bytes <= port->most_bytes, "%zu bytes with rank %d, at most %zu",
            port->n_bytes + n_bytes, port->peer, port->most_bytes);
    unsigned char *place = port->buffer + port->n_bytes;
    port->n_bytes += n_bytes;
    return place;
}

/* One send or receive for each peer of the fan, all at once. */
static size_t exchange(struct wire *wire, const struct ports *ports, struct port *port,
                       struct address address, const struct fan *fan, bool comes) {
    size_t total = 0;
    ncclResult_t result = ncclGroupStart();
    for (int at = 0; at < fan->n_blocks && result == ncclSuccess; at++) {
        struct port *to = port_of(ports, port, address, &fan->block[at]);
        if (to->n_bytes == 0) continue; /* its peer had a block before */
        result = comes ? ncclRecv(to->buffer, to->n_bytes, ncclInt8, to->peer, wire->comm,
                                  wire->stream)
                       : ncclSend(to->buffer, to->n_bytes, ncclInt8, to->peer, wire->comm,
                                  wire->stream);
        if (result == ncclInProgress) result = ncclSuccess;
        total += to->n_bytes;
        to->n_bytes = 0;
    }
    if (result == ncclSuccess) result = ncclGroupEnd();
    nccl_finish(wire->comm, result, &wire->options, message_name(address.message));
    watch(wire, address, fan);
    return total;
}

static void begin(struct wire *wire, int slot, int step, const struct fan *fan) {
    (void)step;
    memcpy(&wire->fan[slot * MESSAGES], fan, MESSAGES * sizeof *fan);
}

static const struct fan *fan_of(const struct wire *wire, struct address address) {
    return &wire->fan[address.slot * MESSAGES + (int)address.message];
}

static size_t scatter(struct wire *wire, struct address address, const struct value *value) {
    struct device *device = wire->options.device;
    const struct fan *fan = fan_of(wire, address);
    if (fan->n_blocks == 0) return 0;
    clear(&wire->outgoing, wire->send, address, fan);
    for (int at = 0; at < fan->n_blocks; at++) {
        struct port *port = port_of(&wire->outgoing, wire->send, address, &fan->block[at]);
        cuda_read_rows(device, place_of(port, &fan->block[at]), port->element, value,
                       block_part(&fan->block[at]));
    }
    cudaEvent_t packed = port_of(&wire->outgoing, wire->send, address, &fan->block[0])->ready;
    CHECK_CUDA(cudaEventRecord(packed, device->stream));
    CHECK_CUDA(cudaStreamWaitEvent(wire->stream, packed, 0));
    return exchange(wire, &wire->outgoing, wire->send, address, fan, false);
}

static size_t gather(struct wire *wire, struct address address, const struct value *value) {
    struct device *device = wire->options.device;
    const struct fan *fan = fan_of(wire, address);
    if (fan->n_blocks == 0) return 0;
    clear(&wire->incoming, wire->receive, address, fan);
    for (int at = 0; at < fan->n_blocks; at++) {
        struct port *port = port_of(&wire->incoming, wire->receive, address, &fan->block[at]);
        CHECK_CUDA(cudaStreamWaitEvent(wire->stream, port->ready, 0));
        place_of(port, &fan->block[at]);
    }
    size_t total = exchange(wire, &wire->incoming, wire->receive, address, fan, true);
    const struct watched *received = &wire->watched[(wire->n_begun - 1) % MOST_WATCHED];
    CHECK_CUDA(cudaStreamWaitEvent(device->stream, received->done, 0));
    for (int at = 0; at < fan->n_blocks; at++) {
        struct port *port = port_of(&wire->incoming, wire->receive, address, &fan->block[at]);
        cuda_write_rows(device, value, block_part(&fan->block[at]), place_of(port, &fan->block[at]),
                        port->element);
        clock_arrived((int)address.message, address.slot, address.lane, port->peer,
                      (int64_t)block_bytes(&fan->block[at], port->element));
        CHECK_CUDA(cudaEventRecord(port->ready, device->stream));
    }
    return total;
}

static void drain(struct wire *wire) {
    while (cudaStreamQuery(wire->stream) == cudaErrorNotReady)
        progress(wire);
    CHECK_CUDA(cudaStreamSynchronize(wire->stream));
    CHECK_CUDA(cudaStreamSynchronize(wire->options.device->stream));
}

/* Events would have to be timed for it, which makes each of them dearer. */
static double waited(struct wire *wire, enum message message) {
    (void)wire;
    (void)message;
    return -1;
}

static void close(struct wire *wire) {
    if (!wire) return;
    nccl_group_close(wire->comm, &wire->options);
    close_ports(wire->receive, wire->options.n_slots * wire->options.n_incoming);
    close_ports(wire->send, wire->options.n_slots * wire->options.n_outgoing);
    ports_close(&wire->incoming);
    ports_close(&wire->outgoing);
    for (int at = 0; wire->watched && at < MOST_WATCHED; at++)
        CHECK_CUDA(cudaEventDestroy(wire->watched[at].done));
    if (wire->stream) CHECK_CUDA(cudaStreamDestroy(wire->stream));
    free(wire->watched);
    free(wire->fan);
    free(wire);
}

static struct wire_ops make_ops(void) {
    struct wire_ops ops = {};
    ops.name = "nccl";
    ops.version = version;
    ops.total_order = true;
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

extern "C" const struct wire_ops wire_nccl = make_ops();
