/* message.cu - the kernels of the device wire: pack blocks into a peer's window, wait for them and
 * unpack (message.h; wire_device.cu says what the protocols are).
 *
 * Tables were copied by begin, so they are read before the dependency wait.
 */
#include "message.h"

template <int BYTES> struct alignas(BYTES) few { uint32_t at[BYTES / 4]; };

/* What a block of the grid works for: a piece of the call, as it lies in the value, and its number
 * among the blocks that do, of how many. */
struct share {
    struct piece piece;
    unsigned char *value; /* the piece's first element */
    size_t stride_bytes;
    uint32_t epoch;
    int n_pieces; /* of the call */
    unsigned number, n;
};

/* Blocks behind the last piece's have none: n is 0. */
__device__ inline struct share find_share(const struct message_call &call) {
    struct share share = {};
    struct piece_list list = *call.list;
    const unsigned *first_block = call.first_block + list.first;
    int at = -1; /* the last piece that begins at this block or before */
    for (int first = 0; first < list.n; first += 32) {
        int mine = first + (int)threadIdx.x % 32;
        bool begun = mine < list.n && first_block[mine] <= blockIdx.x;
        at += __popc(__ballot_sync(0xffffffff, begun));
    }
    if (blockIdx.x >= list.n_blocks || at < 0) return share;
    unsigned end = at + 1 < list.n ? first_block[at + 1] : list.n_blocks;
    share.piece = call.piece[list.first + at];
    share.value = call.value + (size_t)share.piece.row * call.stride_bytes +
                  (size_t)share.piece.column * call.size;
    share.stride_bytes = call.stride_bytes;
    share.epoch = epoch_at(*call.first_epoch, (uint64_t)call.layer);
    share.n_pieces = list.n;
    share.number = blockIdx.x - first_block[at];
    share.n = end - first_block[at];
    return share;
}

/* Whether the piece can be taken by `unit` bytes. */
__device__ inline bool is_whole(const struct share &share, unsigned unit) {
    return ((uintptr_t)share.value | share.stride_bytes | share.piece.row_bytes) % unit == 0;
}

/* `BYTES` of the packed block from byte `at`. UNIT: bytes that stand together in the value and
 * divide its rows. */
template <int BYTES, int UNIT>
__device__ inline struct few<BYTES> load_word(const struct share &share, unsigned at) {
    const struct piece &piece = share.piece;
    struct few<BYTES> word = {};
    if constexpr (UNIT == BYTES) {
        unsigned row = at / piece.row_bytes, column = at % piece.row_bytes;
        word = *(const struct few<BYTES> *)(share.value + row * share.stride_bytes + column);
    } else {
        uint16_t *to = (uint16_t *)&word;
        for (int k = 0; k < BYTES / 2; k++) {
            unsigned byte = at + 2 * k;
            unsigned row = byte / piece.row_bytes, column = byte % piece.row_bytes;
            if (byte < piece.n_bytes)
                to[k] = *(const uint16_t *)(share.value + row * share.stride_bytes + column);
        }
    }
    return word;
}

template <int BYTES, int UNIT>
__device__ inline void store_word(const struct share &share, unsigned at, struct few<BYTES> word) {
    const struct piece &piece = share.piece;
    if constexpr (UNIT == BYTES) {
        unsigned row = at / piece.row_bytes, column = at % piece.row_bytes;
        *(struct few<BYTES> *)(share.value + row * share.stride_bytes + column) = word;
    } else {
        const uint16_t *from = (const uint16_t *)&word;
        for (int k = 0; k < BYTES / 2; k++) {
            unsigned byte = at + 2 * k;
            unsigned row = byte / piece.row_bytes, column = byte % piece.row_bytes;
            if (byte < piece.n_bytes)
                *(uint16_t *)(share.value + row * share.stride_bytes + column) = from[k];
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

template <int UNIT>
__device__ void send_flagged(const struct share &share) {
    const struct piece &piece = share.piece;
    unsigned n = (piece.n_bytes + CELL_BYTES - 1) / CELL_BYTES;
    uint4 *place = (uint4 *)piece.flagged + piece.first_cell;
    for (unsigned cell = share.number * MESSAGE_THREADS + threadIdx.x; cell < n; cell += share.n * MESSAGE_THREADS) {
        struct few<CELL_BYTES> word = load_word<CELL_BYTES, UNIT>(share, cell * CELL_BYTES);
        store_cell(place + cell, make_uint4(word.at[0], share.epoch, word.at[1], share.epoch));
    }
}

template <int UNIT>
__device__ void take_flagged(const struct message_call &call, const struct share &share) {
    const struct piece &piece = share.piece;
    unsigned n = (piece.n_bytes + CELL_BYTES - 1) / CELL_BYTES, step = share.n * MESSAGE_THREADS;
    const uint4 *place = (const uint4 *)piece.flagged + piece.first_cell;
    int64_t begin_ns = 0;
    for (unsigned first = share.number * MESSAGE_THREADS + threadIdx.x; first < n; first += MESSAGE_CELLS * step) {
        uint4 cell[MESSAGE_CELLS];
        bool here;
        unsigned n_polls = 0;
        do {
            here = true;
#pragma unroll
            for (int k = 0; k < MESSAGE_CELLS; k++) {
                if (first + k * step >= n) continue;
                cell[k] = load_cell(place + first + k * step);
                here = here && cell[k].y == share.epoch && cell[k].w == share.epoch;
            }
        } while (!here && go_on(call, piece, n_polls++, &begin_ns));
        if (!here) return;
#pragma unroll
        for (int k = 0; k < MESSAGE_CELLS; k++) {
            unsigned at = first + k * step;
            struct few<CELL_BYTES> word = {{cell[k].x, cell[k].z}};
            if (at < n) store_word<CELL_BYTES, UNIT>(share, at * CELL_BYTES, word);
        }
    }
}

template <int UNIT> __device__ void send_bulk(const struct share &share) {
    const struct piece &piece = share.piece;
    enum { BYTES = 16 };
    unsigned n = (piece.n_bytes + GROUP_BYTES - 1) / GROUP_BYTES;
    for (unsigned group = share.number; group < n; group += share.n) {
        unsigned place = piece.first_group + group;
        for (unsigned at = threadIdx.x * BYTES; at < GROUP_BYTES; at += MESSAGE_THREADS * BYTES) {
            if (group * GROUP_BYTES + at >= piece.n_bytes) break;
            struct few<BYTES> word = load_word<BYTES, UNIT>(share, group * GROUP_BYTES + at);
            *(struct few<BYTES> *)(piece.bulk + (size_t)place * GROUP_BYTES + at) = word;
        }
        if (!piece.flag) continue; /* a put will take it from here */
        __syncthreads();
        if (threadIdx.x == 0) {
            __threadfence_system();
            release_flag(&piece.flag[place], share.epoch);
        }
    }
}

template <int UNIT>
__device__ void take_bulk(const struct message_call &call, const struct share &share) {
    const struct piece &piece = share.piece;
    enum { BYTES = 16 };
    __shared__ bool here;
    unsigned n = (piece.n_bytes + GROUP_BYTES - 1) / GROUP_BYTES;
    int64_t begin_ns = 0;
    for (unsigned group = share.number; group < n; group += share.n) {
        unsigned place = piece.first_group + group;
        if (threadIdx.x == 0) {
            unsigned n_polls = 0;
            do {
                here = !piece.flag || acquire_flag(&piece.flag[place]) == share.epoch;
            } while (!here && go_on(call, piece, n_polls++, &begin_ns));
        }
        __syncthreads();
        if (!here) return;
        for (unsigned at = threadIdx.x * BYTES; at < GROUP_BYTES; at += MESSAGE_THREADS * BYTES) {
            if (group * GROUP_BYTES + at >= piece.n_bytes) break;
            uint4 from = __ldcg((const uint4 *)(piece.bulk + (size_t)place * GROUP_BYTES + at));
            struct few<BYTES> word = {{from.x, from.y, from.z, from.w}};
            store_word<BYTES, UNIT>(share, group * GROUP_BYTES + at, word);
        }
        __syncthreads(); /* before `here` is written again */
    }
}

__global__ void __launch_bounds__(MESSAGE_THREADS)
    scatter_kernel(const __grid_constant__ struct message_call call) {
    struct share share = find_share(call);
    follow_on();
    /* What was computed from a message that did not come goes nowhere. */
    if (share.n == 0 || *(volatile int32_t *)&call.notes->n_expired) return;
    if (share.piece.flagged) {
        if (is_whole(share, CELL_BYTES)) {
            send_flagged<CELL_BYTES>(share);
        } else {
            send_flagged<2>(share);
        }
    } else if (is_whole(share, 16)) {
        send_bulk<16>(share);
    } else {
        send_bulk<2>(share);
    }
}

__global__ void __launch_bounds__(MESSAGE_THREADS)
    gather_kernel(const __grid_constant__ struct message_call call) {
    struct share share = find_share(call);
    follow_on();
    if (share.n == 0) return;
    bool is_clock = share.number == share.n - 1 && threadIdx.x == 0; /* one a piece */
    int64_t begin_ns = is_clock ? device_now_ns() : 0;
    if (share.piece.flagged) {
        if (is_whole(share, CELL_BYTES)) {
            take_flagged<CELL_BYTES>(call, share);
        } else {
            take_flagged<2>(call, share);
        }
    } else if (is_whole(share, 16)) {
        take_bulk<16>(call, share);
    } else {
        take_bulk<2>(call, share);
    }
    /* The last piece says how long it took; the stream's gathers come one after another. */
    if (is_clock && atomicAdd(&call.notes->n_taken, 1) == share.n_pieces - 1) {
        call.notes->n_taken = 0;
        int64_t waited_ns = call.notes->waited_ns[call.message] + device_now_ns() - begin_ns;
        call.notes->waited_ns[call.message] = waited_ns;
        *(volatile int64_t *)&call.told->waited_ns[call.message] = waited_ns;
    }
}

void message_scatter(struct device *device, unsigned n_blocks, const struct message_call *call) {
    if (n_blocks > 0) launch_following(device, scatter_kernel, n_blocks, MESSAGE_THREADS, 0, *call);
}

void message_gather(struct device *device, unsigned n_blocks, const struct message_call *call) {
    if (n_blocks > 0) launch_following(device, gather_kernel, n_blocks, MESSAGE_THREADS, 0, *call);
}
