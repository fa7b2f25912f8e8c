/* wire_device.cu - messages that GPU kernels write into a peer's memory themselves (wire.h).
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
 * An epoch is the number of a place's use, so that what an earlier message left never looks like
 * this one; 0 is what a new window holds and is left out when the count wraps. Waits end with the
 * deadline: the kernel notes who waited for what in pinned memory, no later wait waits, nothing more is
 * sent, and the host ends the job at its next call here.
 *
 * Rejected: stores with one flag a message behind a fence, 2.4 times as slow up to 256 KiB; counts
 * in the peer's memory by atomics, which wait for the link and back.
 */
#include <stdlib.h>
#include <string.h>

#include "cuda_wire.h"

enum {
    FLAGGED_MOST = 1 << 20, /* bytes of a call to a peer that go flagged */
    CELL_BYTES = 8,         /* of payload in 16 bytes of a flagged place */
    GROUP_BYTES = 1 << 14,
    ALIGNMENT = 256,
    THREADS = 512,
    CELLS = 2,        /* that a thread takes at once */
    MOST_PIECES = 32, /* of a launch */
    MOST_GRID = 264,
    POLLS = 256, /* between two looks at the clock */
};

/* The first use but a few of a wrap, which so happens in every job. */
static const uint32_t FIRST_EPOCH = UINT32_MAX - 4;

/* Where the parts of a message's place lie, from its beginning. */
struct parts {
    size_t bulk, flags, end; /* the flagged part comes first */
};

/* What kernels tell the host, in pinned memory. */
struct told {
    int32_t is_expired; /* a wait, for: */
    int32_t message, slot, layer, lane, peer;
    int64_t waited_ns[MESSAGES];
};

/* What kernels of this rank tell each other. */
struct notes {
    int32_t n_expired;
    int32_t n_taken;             /* pieces of the gather that runs */
    int64_t waited_ns[MESSAGES]; /* from begin to end of gathers */
};

/* One message and peer of a slot. */
struct port {
    int peer;
    enum element element;
    size_t most_bytes;
    size_t place; /* in the receiver's window */
    uint32_t epoch;
    /* of the call that is being prepared */
    size_t n_bytes;
    int n_blocks;
    unsigned cell, group; /* where the next block begins */
};

struct wire {
    struct wire_options options;
    struct window *window;
    struct ports incoming, outgoing;
    struct port *receive, *send; /* (n_slots, n_incoming), (n_slots, n_outgoing) */
    struct told *told;           /* pinned */
    struct notes *notes;         /* on the device */
};

/* ---- kernels ------------------------------------------------------------------------------------
 */

/* A block of a fan on its way. */
struct piece {
    unsigned char *value;             /* its first element */
    size_t stride_bytes;              /* from row to row of the value */
    unsigned row_bytes, n_bytes;      /* of the block */
    unsigned first_cell, first_group; /* of the message, where the block begins */
    unsigned char *flagged, *bulk;    /* the message's parts; one of them NULL */
    uint32_t *flag;                   /* (groups) of the bulk part */
    uint32_t epoch;
    int32_t peer;
    unsigned first_block; /* of the grid, that works for it */
};

struct call {
    int n_pieces;
    struct piece piece[MOST_PIECES];
    int32_t message, slot, layer, lane;
    int64_t deadline_ns;
    struct notes *notes;
    struct told *told;
};

template <int BYTES> struct alignas(BYTES) few { uint32_t at[BYTES / 4]; };

/* `BYTES` of the packed block from byte `at`. UNIT: bytes that stand together in the value and
 * divide its rows. */
template <int BYTES, int UNIT>
__device__ inline struct few<BYTES> load_word(const struct piece &piece, unsigned at) {
    struct few<BYTES> word = {};
    if constexpr (UNIT == BYTES) {
        unsigned row = at / piece.row_bytes, column = at % piece.row_bytes;
        word = *(const struct few<BYTES> *)(piece.value + row * piece.stride_bytes + column);
    } else {
        uint16_t *to = (uint16_t *)&word;
        for (int k = 0; k < BYTES / 2; k++) {
            unsigned byte = at + 2 * k;
            unsigned row = byte / piece.row_bytes, column = byte % piece.row_bytes;
            if (byte < piece.n_bytes)
                to[k] = *(const uint16_t *)(piece.value + row * piece.stride_bytes + column);
        }
    }
    return word;
}

template <int BYTES, int UNIT>
__device__ inline void store_word(const struct piece &piece, unsigned at, struct few<BYTES> word) {
    if constexpr (UNIT == BYTES) {
        unsigned row = at / piece.row_bytes, column = at % piece.row_bytes;
        *(struct few<BYTES> *)(piece.value + row * piece.stride_bytes + column) = word;
    } else {
        const uint16_t *from = (const uint16_t *)&word;
        for (int k = 0; k < BYTES / 2; k++) {
            unsigned byte = at + 2 * k;
            unsigned row = byte / piece.row_bytes, column = byte % piece.row_bytes;
            if (byte < piece.n_bytes)
                *(uint16_t *)(piece.value + row * piece.stride_bytes + column) = from[k];
        }
    }
}

__device__ inline void store_cell(uint4 *to, uint4 cell) {
    asm volatile("st.volatile.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(cell.x),
                 "r"(cell.y), "r"(cell.z), "r"(cell.w)
                 : "memory");
}

__device__ inline uint4 load_cell(const uint4 *from) {
    uint4 cell;
    asm volatile("ld.volatile.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(cell.x), "=r"(cell.y), "=r"(cell.z), "=r"(cell.w)
                 : "l"(from)
                 : "memory");
    return cell;
}

__device__ inline void release_flag(uint32_t *flag, uint32_t epoch) {
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(flag), "r"(epoch) : "memory");
}

__device__ inline uint32_t acquire_flag(const uint32_t *flag) {
    uint32_t epoch;
    asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(epoch) : "l"(flag) : "memory");
    return epoch;
}

/* Between two polls of a wait that began at *begin_ns (0: now). False: wait no longer. */
__device__ bool go_on(const struct call &call, const struct piece &piece, unsigned n_polls,
                      int64_t *begin_ns) {
    if (n_polls % POLLS != 0) return true;
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

/* The part of a call that this block of the grid works for: its number there, of how many. */
struct share {
    int piece;
    unsigned number, n;
};

__device__ inline struct share find_share(const struct call &call) {
    int piece = 0;
    while (piece + 1 < call.n_pieces && call.piece[piece + 1].first_block <= blockIdx.x)
        piece++;
    unsigned first = call.piece[piece].first_block;
    unsigned end = piece + 1 < call.n_pieces ? call.piece[piece + 1].first_block : gridDim.x;
    return (struct share){piece, blockIdx.x - first, end - first};
}

template <int UNIT>
__device__ void send_flagged(const struct piece &piece, const struct share &share) {
    unsigned n = (piece.n_bytes + CELL_BYTES - 1) / CELL_BYTES;
    uint4 *place = (uint4 *)piece.flagged + piece.first_cell;
    for (unsigned cell = share.number * THREADS + threadIdx.x; cell < n; cell += share.n * THREADS) {
        struct few<CELL_BYTES> word = load_word<CELL_BYTES, UNIT>(piece, cell * CELL_BYTES);
        store_cell(place + cell, make_uint4(word.at[0], piece.epoch, word.at[1], piece.epoch));
    }
}

template <int UNIT>
__device__ void take_flagged(const struct call &call, const struct piece &piece,
                             const struct share &share) {
    unsigned n = (piece.n_bytes + CELL_BYTES - 1) / CELL_BYTES, step = share.n * THREADS;
    const uint4 *place = (const uint4 *)piece.flagged + piece.first_cell;
    int64_t begin_ns = 0;
    for (unsigned first = share.number * THREADS + threadIdx.x; first < n; first += CELLS * step) {
        uint4 cell[CELLS];
        bool here;
        unsigned n_polls = 0;
        do {
            here = true;
#pragma unroll
            for (int k = 0; k < CELLS; k++) {
                if (first + k * step >= n) continue;
                cell[k] = load_cell(place + first + k * step);
                here = here && cell[k].y == piece.epoch && cell[k].w == piece.epoch;
            }
        } while (!here && go_on(call, piece, n_polls++, &begin_ns));
        if (!here) return;
#pragma unroll
        for (int k = 0; k < CELLS; k++) {
            unsigned at = first + k * step;
            struct few<CELL_BYTES> word = {{cell[k].x, cell[k].z}};
            if (at < n) store_word<CELL_BYTES, UNIT>(piece, at * CELL_BYTES, word);
        }
    }
}

template <int UNIT> __device__ void send_bulk(const struct piece &piece, const struct share &share) {
    enum { BYTES = 16 };
    unsigned n = (piece.n_bytes + GROUP_BYTES - 1) / GROUP_BYTES;
    for (unsigned group = share.number; group < n; group += share.n) {
        unsigned place = piece.first_group + group;
        for (unsigned at = threadIdx.x * BYTES; at < GROUP_BYTES; at += THREADS * BYTES) {
            if (group * GROUP_BYTES + at >= piece.n_bytes) break;
            struct few<BYTES> word = load_word<BYTES, UNIT>(piece, group * GROUP_BYTES + at);
            *(struct few<BYTES> *)(piece.bulk + (size_t)place * GROUP_BYTES + at) = word;
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            __threadfence_system();
            release_flag(&piece.flag[place], piece.epoch);
        }
    }
}

template <int UNIT>
__device__ void take_bulk(const struct call &call, const struct piece &piece,
                          const struct share &share) {
    enum { BYTES = 16 };
    __shared__ bool here;
    unsigned n = (piece.n_bytes + GROUP_BYTES - 1) / GROUP_BYTES;
    int64_t begin_ns = 0;
    for (unsigned group = share.number; group < n; group += share.n) {
        unsigned place = piece.first_group + group;
        if (threadIdx.x == 0) {
            unsigned n_polls = 0;
            do {
                here = acquire_flag(&piece.flag[place]) == piece.epoch;
            } while (!here && go_on(call, piece, n_polls++, &begin_ns));
        }
        __syncthreads();
        if (!here) return;
        for (unsigned at = threadIdx.x * BYTES; at < GROUP_BYTES; at += THREADS * BYTES) {
            if (group * GROUP_BYTES + at >= piece.n_bytes) break;
            uint4 from = __ldcg((const uint4 *)(piece.bulk + (size_t)place * GROUP_BYTES + at));
            struct few<BYTES> word = {{from.x, from.y, from.z, from.w}};
            store_word<BYTES, UNIT>(piece, group * GROUP_BYTES + at, word);
        }
        __syncthreads(); /* before `here` is written again */
    }
}

template <bool WHOLE>
__global__ void __launch_bounds__(THREADS) scatter_kernel(const __grid_constant__ struct call call) {
    struct share share = find_share(call);
    const struct piece &piece = call.piece[share.piece];
    follow_on();
    /* What was computed from a message that did not come goes nowhere. */
    if (*(volatile int32_t *)&call.notes->n_expired) return;
    if (piece.flagged) {
        send_flagged<WHOLE ? CELL_BYTES : 2>(piece, share);
    } else {
        send_bulk<WHOLE ? 16 : 2>(piece, share);
    }
}

template <bool WHOLE>
__global__ void __launch_bounds__(THREADS) gather_kernel(const __grid_constant__ struct call call) {
    struct share share = find_share(call);
    const struct piece &piece = call.piece[share.piece];
    follow_on();
    bool is_clock = share.number == share.n - 1 && threadIdx.x == 0; /* one a piece */
    int64_t begin_ns = is_clock ? device_now_ns() : 0;
    if (piece.flagged) {
        take_flagged<WHOLE ? CELL_BYTES : 2>(call, piece, share);
    } else {
        take_bulk<WHOLE ? 16 : 2>(call, piece, share);
    }
    /* The last piece says how long it took; the stream's gathers come one after another. */
    if (is_clock && atomicAdd(&call.notes->n_taken, 1) == call.n_pieces - 1) {
        call.notes->n_taken = 0;
        int64_t waited_ns = call.notes->waited_ns[call.message] + device_now_ns() - begin_ns;
        call.notes->waited_ns[call.message] = waited_ns;
        *(volatile int64_t *)&call.told->waited_ns[call.message] = waited_ns;
    }
}

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

static size_t message_bytes(size_t most_bytes, bool comes) {
    return comes ? parts_of(most_bytes).end : 0;
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
                (size_t)(notice[at].place + (uint64_t)slot * notice[at].slot_bytes), FIRST_EPOCH};
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

static void open_sends(struct wire *wire, const struct notice *all, int n_notices) {
    const struct wire_options *options = &wire->options;
    int n = options->n_outgoing;
    ports_open(&wire->outgoing, options->topology->n_ranks, n);
    wire->send = (struct port *)check_alloc((size_t)(options->n_slots * n) + 1, sizeof(struct port));
    for (int at = 0; at < n; at++) {
        const struct outgoing *out = &options->outgoing[at];
        const struct notice *notice = find_notice(all + (size_t)out->peer * (size_t)n_notices,
                                                  n_notices, out, options->topology->rank);
        ports_put(&wire->outgoing, out->message, out->lane, out->peer, at);
        for (int slot = 0; slot < options->n_slots; slot++)
            wire->send[slot * n + at] = (struct port){
                out->peer, out->element, out->most_bytes,
                (size_t)(notice->place + (uint64_t)slot * notice->slot_bytes), FIRST_EPOCH};
    }
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

static bool open(struct wire **opened, const struct wire_options *options, struct fault *fault) {
    struct wire *wire = (struct wire *)check_alloc(1, sizeof *wire);
    wire->options = *options;
    *opened = wire;
    int n = count_notices(options);
    struct notice *own = (struct notice *)check_alloc((size_t)n, sizeof *own);
    struct notice *all = (struct notice *)check_alloc(
        (size_t)n * (size_t)options->topology->n_ranks, sizeof *all);
    size_t slot_bytes = lay_out(wire, own);
    topology_share(options->topology, own, (size_t)n * sizeof *own, all, "places of messages",
                   options->deadline_s);
    open_receives(wire, own);
    open_sends(wire, all, n);
    free(own);
    free(all);
    CHECK_CUDA(cudaMallocHost((void **)&wire->told, sizeof *wire->told));
    memset(wire->told, 0, sizeof *wire->told);
    CHECK_CUDA(cudaMalloc((void **)&wire->notes, sizeof *wire->notes));
    CHECK_CUDA(cudaMemset(wire->notes, 0, sizeof *wire->notes));
    wire->options.incoming = NULL;
    wire->options.outgoing = NULL;
    return window_open(&wire->window, options->device, options,
                       (size_t)options->n_slots * slot_bytes, fault);
}

/* ---- scatter and gather -------------------------------------------------------------------------
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

/* Bytes of the call to each peer, which choose its protocol; and the next epoch. */
static size_t begin_call(const struct direction *direction, struct address address,
                         const struct value *value, const struct fan *fan) {
    size_t total = 0;
    for (int at = 0; at < fan->n_blocks; at++) {
        struct port *port =
            &direction->port[ports_find(direction->ports, address, fan->block[at].peer)];
        port->n_bytes = 0;
        port->n_blocks = 0;
        port->cell = port->group = 0;
    }
    for (int at = 0; at < fan->n_blocks; at++) {
        const struct block *block = &fan->block[at];
        struct port *port = &direction->port[ports_find(direction->ports, address, block->peer)];
        size_t n_bytes = block_bytes(block, value->element);
        REQUIRE(port->element == value->element, "%s crosses as element %d, not %d",
                message_name(address.message), (int)port->element, (int)value->element);
        if (port->n_blocks++ == 0 && ++port->epoch == 0) port->epoch = 1;
        port->n_bytes += n_bytes;
        REQUIRE(port->n_bytes <= port->most_bytes && port->n_blocks <= WIRE_MOST_BLOCKS,
                "%zu bytes of %s in %d blocks, at most %zu in %d", port->n_bytes,
                message_name(address.message), port->n_blocks, port->most_bytes, WIRE_MOST_BLOCKS);
        total += n_bytes;
    }
    return total;
}

static struct piece piece_of(const struct wire *wire, const struct direction *direction,
                             const struct value *value, const struct block *block,
                             struct port *port) {
    size_t size = element_bytes(value->element);
    struct parts parts = parts_of(port->most_bytes);
    int owner = direction->comes ? wire->options.topology->rank : port->peer;
    unsigned char *place = window_of(wire->window, owner) + port->place;
    bool flagged = port->n_bytes <= FLAGGED_MOST;
    struct piece piece = {};
    piece.value = (unsigned char *)value_data(value) +
                  ((size_t)block->row * (size_t)value->stride + (size_t)block->column) * size;
    piece.stride_bytes = (size_t)value->stride * size;
    piece.row_bytes = (unsigned)((size_t)block->n_columns * size);
    piece.n_bytes = piece.row_bytes * (unsigned)block->n_rows;
    piece.first_cell = port->cell;
    piece.first_group = port->group;
    piece.flagged = flagged ? place : NULL;
    piece.bulk = flagged ? NULL : place + parts.bulk;
    piece.flag = (uint32_t *)(place + parts.flags);
    piece.epoch = port->epoch;
    piece.peer = port->peer;
    port->cell += (piece.n_bytes + CELL_BYTES - 1) / CELL_BYTES;
    port->group += (piece.n_bytes + GROUP_BYTES - 1) / GROUP_BYTES;
    return piece;
}

/* Whether both protocols can take whole words of a block. */
static bool is_whole(const struct piece *piece) {
    size_t unit = piece->flagged ? CELL_BYTES : 16;
    return (uintptr_t)piece->value % unit == 0 && piece->stride_bytes % unit == 0 &&
           piece->row_bytes % unit == 0;
}

/* Blocks of the grid for a piece: each about a cell or two a thread, or a group. */
static unsigned count_blocks(const struct piece *piece, int n_pieces) {
    unsigned cells = (piece->n_bytes + CELL_BYTES - 1) / CELL_BYTES;
    unsigned n = piece->flagged ? (cells + CELLS * THREADS - 1) / (CELLS * THREADS)
                                : (piece->n_bytes + GROUP_BYTES - 1) / GROUP_BYTES;
    unsigned most = (unsigned)(MOST_GRID / n_pieces);
    return n > most ? most : n;
}

static void launch(struct device *device, const struct direction *direction, struct call *call,
                   unsigned n_blocks, bool whole) {
    void (*kernel)(struct call) = direction->comes
                                      ? (whole ? gather_kernel<true> : gather_kernel<false>)
                                      : (whole ? scatter_kernel<true> : scatter_kernel<false>);
    if (n_blocks > 0) launch_following(device, kernel, n_blocks, THREADS, 0, *call);
    call->n_pieces = 0;
}

/* Enqueue all blocks of a fan, MOST_PIECES a launch. */
static size_t carry(struct wire *wire, const struct direction *direction, struct address address,
                    const struct value *value, const struct fan *fan) {
    struct device *device = wire->options.device;
    int most = fan->n_blocks < MOST_PIECES ? fan->n_blocks : MOST_PIECES;
    unsigned n_blocks = 0;
    bool whole = true;
    struct call call = {};
    progress(wire);
    size_t total = begin_call(direction, address, value, fan);
    call.message = (int32_t)address.message;
    call.slot = address.slot;
    call.layer = address.layer;
    call.lane = address.lane;
    call.deadline_ns = (int64_t)(wire->options.deadline_s * 1e9);
    call.notes = wire->notes;
    call.told = wire->told;
    for (int at = 0; at < fan->n_blocks; at++) {
        const struct block *block = &fan->block[at];
        int which = ports_find(direction->ports, address, block->peer);
        struct piece piece = piece_of(wire, direction, value, block, &direction->port[which]);
        if (direction->comes)
            clock_arrived((int)address.message, address.slot, address.lane, block->peer,
                          piece.n_bytes);
        if (piece.n_bytes == 0) continue;
        whole = whole && is_whole(&piece);
        piece.first_block = n_blocks;
        n_blocks += count_blocks(&piece, most);
        call.piece[call.n_pieces++] = piece;
        if (call.n_pieces < MOST_PIECES) continue;
        launch(device, direction, &call, n_blocks, whole);
        n_blocks = 0;
        whole = true;
    }
    launch(device, direction, &call, n_blocks, whole);
    return total;
}

static size_t scatter(struct wire *wire, struct address address, const struct value *value,
                      const struct fan *fan) {
    struct direction direction = {&wire->outgoing, wire->send, false};
    return carry(wire, &direction, address, value, fan);
}

static size_t gather(struct wire *wire, struct address address, const struct value *value,
                     const struct fan *fan) {
    struct direction direction = {&wire->incoming, wire->receive, true};
    return carry(wire, &direction, address, value, fan);
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
    ops.available = available;
    ops.message_bytes = message_bytes;
    ops.open = open;
    ops.scatter = scatter;
    ops.gather = gather;
    ops.progress = progress;
    ops.drain = drain;
    ops.waited = waited;
    ops.close = close;
    return ops;
}

extern "C" const struct wire_ops wire_device = make_ops();
