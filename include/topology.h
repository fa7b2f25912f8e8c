/* topology.h - who is who: ranks, roles, partitions; and the few collective calls the rest may use.
 *
 * MPI_COMM_WORLD becomes one group of a model ranks and b attention ranks, model ranks first; rank
 * 0 of the group is the leader. b = heads x sequences: attention rank `index` holds head share
 * index % heads of the sequences of owner index / heads. Communicators carry MPI_ERRORS_RETURN. MPI
 * is called from here, wire/mpi.c, base/check.c and main only, so the communicator is kept as a
 * Fortran handle.
 *
 * Every wait has a deadline, but for those that MPI offers no way to put one to: MPI_Init,
 * MPI_Finalize, and the splitting and freeing of communicators in topology_open and topology_close.
 * All but MPI_Init come right behind a collective call that has one.
 */
#ifndef LAMINA_TOPOLOGY_H
#define LAMINA_TOPOLOGY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "check.h"
#include "options.h"

enum role { ROLE_MODEL, ROLE_ATTENTION };
const char *role_name(enum role role);

/* The layout all ranks share. */
struct layout {
    int model_ranks, attention_ranks; /* a, b; b = 0: colocated */
    int heads, sequences;             /* b = heads x sequences; 1 x 1 when colocated */
};

/* KV heads [first, first + n) of an attention rank. */
struct head_share {
    int first, n;
};

struct topology {
    int rank, n_ranks; /* in the group */
    enum role role;
    bool leader;
    struct layout layout;
    int index;             /* among the attention ranks; -1 on a model rank */
    int owner, head_index; /* of an attention rank */
    char host[64];
    int n_local, local_rank; /* ranks of this host, and this one's place among them */
    int64_t clock_offset_ns; /* leader's clock_now_ns minus ours */
    double deadline_s;
    int comm; /* MPI_Comm_c2f of the group's communicator */
};

/* a and b from what was asked and the number of ranks (pure). Contradictions are the user's fault,
 * with the equation and its numbers. */
bool layout_ranks(struct layout *layout, const struct options *options, int n_ranks,
                  struct fault *fault);

/* heads x sequences from what was asked (pure); heads first, then sequences. */
bool layout_partition(struct layout *layout, const struct options *options, int n_kv_heads,
                      struct fault *fault);

/* Share of an attention rank; the first n_kv_heads % heads shares hold one more. */
struct head_share layout_heads(const struct layout *layout, int n_kv_heads, int head_index);

/* KV heads whose K and V pass through or stay on a rank: a model rank's are all. */
struct head_share layout_rank_heads(const struct layout *layout, int n_kv_heads, int rank);

/* Group rank of the attention rank that holds head share `head_index` of `owner`. */
int layout_attention_rank(const struct layout *layout, int owner, int head_index);

/* Local, before all else: whether MPI_COMM_WORLD is what the launcher meant. A fault, the user's,
 * where each rank is a world of its own (srun without PMIx), or mpirun left parts of a
 * heterogeneous Slurm job out. A process that no launcher started may be alone wherever it is. */
bool topology_check_launch(const struct environment *environment, struct fault *fault);

/* Collective over MPI_COMM_WORLD. `options_hash` must be equal on every rank. Faults are agreed. */
bool topology_open(struct topology *topology, const struct options *options, uint64_t options_hash,
                   struct fault *fault);
/* Fill in layout.heads and sequences and what follows from them. Local. */
void topology_partition(struct topology *topology, const struct layout *layout);
void topology_close(struct topology *topology);

/* Collective calls over the group; each ends the job when `what` has not happened within `seconds`.
 */
/* True when no rank has a fault; else *fault is the lowest faulty rank's on every rank. */
bool topology_agree(const struct topology *topology, struct fault *fault, const char *what,
                    double seconds);
/* The same over MPI_COMM_WORLD, before there is a group. */
bool topology_agree_world(struct fault *fault, const char *what, double seconds);
/* The leader's bytes to all. */
void topology_broadcast(const struct topology *topology, void *data, size_t n_bytes,
                        const char *what, double seconds);
/* Every rank's n_bytes to the leader, one behind another in rank order: (n_ranks, n_bytes). */
void topology_collect(const struct topology *topology, const void *mine, size_t n_bytes, void *all,
                      const char *what, double seconds);
/* Every rank's n_bytes to every rank: (n_ranks, n_bytes). */
void topology_share(const struct topology *topology, const void *mine, size_t n_bytes, void *all,
                    const char *what, double seconds);
/* How many ranks, this one included, have the same n_bytes in `mine`. No rank returns before all
 * have called. */
int topology_count_same(const struct topology *topology, const void *mine, size_t n_bytes,
                        const char *what, double seconds);
/* What a rank tells the leader while decode goes on; nobody waits for it. */
struct mail {
    int32_t rank, good;
    int64_t n_pages, n_new;
    double held_s;  /* decode was held up there */
    char text[256]; /* why it is not good */
};
/* Not on the leader: post *mail, once the one before was taken. */
void topology_post(const struct topology *topology, const struct mail *mail);
/* On the leader: take one that has come; false when none has. */
bool topology_take(const struct topology *topology, struct mail *mail);

/* One rank's bytes to the leader (point to point); both must call it, others need not. */
void topology_send_to_leader(const struct topology *topology, int from, void *data, size_t n_bytes,
                             const char *what, double seconds);

#endif
