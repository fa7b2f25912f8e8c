/* topology.c - ranks, roles and partitions. See topology.h.
 *
 * Waits are non-blocking collectives tested in a loop with a deadline: a rank that died or never
 * came must end the job with a name, not hang it.
 */
#include "topology.h"

#include <mpi.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"

const char *role_name(enum role role) {
    return role == ROLE_MODEL ? "model" : "attention";
}

/* ---- layouts (pure) ---------------------------------------------------------------------------
 */

bool layout_ranks(struct layout *layout, const struct options *options, int n_ranks,
                  struct fault *fault) {
    int a = options->model_ranks, b = options->attention_ranks;
    if (a < 0 && b < 0) {
        a = 1;
        b = n_ranks - 1;
    } else if (a < 0) {
        a = n_ranks - b;
    } else if (b < 0) {
        b = n_ranks - a;
    }
    if (a < 1 && options->model_ranks < 0)
        return fault_user(
            fault,
            "--attention-ranks %d leaves no rank for the model: 1 + %d = %d MPI ranks are needed, "
            "and there %s %d",
            b, b, b + 1, n_ranks == 1 ? "is" : "are", n_ranks);
    if (a + b != n_ranks || a < 1 || b < 0) {
        return fault_user(
            fault,
            "--model-ranks %d + --attention-ranks %d must be the number of MPI ranks: "
            "%d + %d = %d, but mpirun started %d",
            a, b, a, b, a + b, n_ranks);
    }
    if (a > 1) {
        return fault_user(
            fault,
            "--model-ranks %d: more than one model rank (--model-width, --replicas) is "
            "not built yet; use 1, and give the other %d ranks to attention",
            a, a - 1);
    }
    *layout = (struct layout){.model_ranks = a, .attention_ranks = b, .heads = 1, .sequences = 1};
    return true;
}

/* The most head shares that divide b and do not exceed the KV heads. */
static int derive_heads(int n_attention, int n_kv_heads) {
    int heads = 1;
    for (int share = 2; share <= n_attention && share <= n_kv_heads; share++) {
        if (n_attention % share == 0) heads = share;
    }
    return heads;
}

bool layout_partition(struct layout *layout, const struct options *options, int n_kv_heads,
                      struct fault *fault) {
    int b = layout->attention_ranks, heads = options->heads, sequences = options->sequences;
    if (b == 0) {
        if (heads > 1 || sequences > 1)
            return fault_user(
                fault,
                "--partition heads=%d,sequences=%d needs attention ranks, and there are "
                "none: start more MPI ranks",
                heads < 1 ? 1 : heads, sequences < 1 ? 1 : sequences);
        return true;
    }
    if (heads < 0 && sequences < 0) {
        heads = derive_heads(b, n_kv_heads);
        sequences = b / heads;
    } else { /* parts left out are 1 */
        if (heads < 0) heads = 1;
        if (sequences < 0) sequences = 1;
    }
    if (heads * sequences != b)
        return fault_user(
            fault,
            "--partition heads=%d,sequences=%d: %d x %d = %d, but there are %d attention "
            "ranks",
            heads, sequences, heads, sequences, heads * sequences, b);
    if (heads > n_kv_heads)
        return fault_user(
            fault,
            "--partition heads=%d: the model has %d KV heads, so %d attention ranks would "
            "have nothing to do; use heads=%d or fewer, and sequences= for the rest",
            heads, n_kv_heads, heads - n_kv_heads, n_kv_heads);
    layout->heads = heads;
    layout->sequences = sequences;
    return true;
}

struct head_share layout_heads(const struct layout *layout, int n_kv_heads, int head_index) {
    int each = n_kv_heads / layout->heads, more = n_kv_heads % layout->heads;
    struct head_share share = {
        .first = head_index * each + (head_index < more ? head_index : more),
        .n = each + (head_index < more),
    };
    return share;
}

struct head_share layout_rank_heads(const struct layout *layout, int n_kv_heads, int rank) {
    if (rank < layout->model_ranks) return (struct head_share){0, n_kv_heads};
    return layout_heads(layout, n_kv_heads, (rank - layout->model_ranks) % layout->heads);
}

int layout_attention_rank(const struct layout *layout, int owner, int head_index) {
    return layout->model_ranks + owner * layout->heads + head_index;
}

/* ---- waiting ----------------------------------------------------------------------------------
 */

/* Of point-to-point messages on the group's communicator, which only this file uses. */
enum { TAG_COLLECT, TAG_CLOCK, TAG_MAIL };

static MPI_Comm comm_of(const struct topology *topology) {
    return MPI_Comm_f2c(topology->comm);
}

/* Test until done: yield at first, then sleep, so that ranks sharing a core let each other run. */
static void wait_named(MPI_Request *request, const char *what, double seconds) {
    struct deadline deadline = clock_deadline(seconds);
    for (int round = 0;; round++) {
        int done = 0;
        CHECK_MPI(MPI_Test(request, &done, MPI_STATUS_IGNORE));
        if (done) return;
        if (clock_expired(deadline))
            check_fail("waited %.0f s for the other ranks to reach: %s", seconds, what);
        if (round < 1000) {
            sched_yield();
        } else {
            nanosleep(&(struct timespec){0, 200000}, NULL);
        }
    }
}

void topology_broadcast(const struct topology *topology, void *data, size_t n_bytes,
                        const char *what, double seconds) {
    MPI_Request request;
    REQUIRE(n_bytes <= INT32_MAX, "broadcast of %zu bytes", n_bytes);
    CHECK_MPI(MPI_Ibcast(data, (int)n_bytes, MPI_BYTE, 0, comm_of(topology), &request));
    wait_named(&request, what, seconds);
}

void topology_collect(const struct topology *topology, const void *mine, size_t n_bytes, void *all,
                      const char *what, double seconds) {
    MPI_Request request;
    REQUIRE(n_bytes <= INT32_MAX, "collection of %zu bytes", n_bytes);
    CHECK_MPI(MPI_Igather(mine, (int)n_bytes, MPI_BYTE, all, (int)n_bytes, MPI_BYTE, 0,
                          comm_of(topology), &request));
    wait_named(&request, what, seconds);
}

void topology_share(const struct topology *topology, const void *mine, size_t n_bytes, void *all,
                    const char *what, double seconds) {
    topology_collect(topology, mine, n_bytes, all, what, seconds);
    topology_broadcast(topology, all, (size_t)topology->n_ranks * n_bytes, what, seconds);
}

int topology_count_same(const struct topology *topology, const void *mine, size_t n_bytes,
                        const char *what, double seconds) {
    unsigned char *all = check_alloc((size_t)topology->n_ranks, n_bytes);
    int n_same = 0;
    topology_share(topology, mine, n_bytes, all, what, seconds);
    for (int rank = 0; rank < topology->n_ranks; rank++)
        n_same += memcmp(all + (size_t)rank * n_bytes, mine, n_bytes) == 0;
    free(all);
    return n_same;
}

void topology_send_to_leader(const struct topology *topology, int from, void *data, size_t n_bytes,
                             const char *what, double seconds) {
    size_t most = 1u << 30;
    if (topology->rank != from && !topology->leader) return;
    if (from == 0) return;
    for (size_t at = 0; at < n_bytes; at += most) {
        int n = (int)(n_bytes - at < most ? n_bytes - at : most);
        MPI_Request request;
        if (topology->leader) {
            CHECK_MPI(MPI_Irecv((char *)data + at, n, MPI_BYTE, from, TAG_COLLECT,
                                comm_of(topology), &request));
        } else {
            CHECK_MPI(MPI_Isend((char *)data + at, n, MPI_BYTE, 0, TAG_COLLECT, comm_of(topology),
                                &request));
        }
        wait_named(&request, what, seconds);
    }
}

static bool agree(MPI_Comm comm, struct fault *fault, const char *what, double seconds) {
    int rank, n_ranks, first;
    CHECK_MPI(MPI_Comm_rank(comm, &rank));
    CHECK_MPI(MPI_Comm_size(comm, &n_ranks));
    int mine = fault->kind == FAULT_NONE ? n_ranks : rank;
    MPI_Request request;
    CHECK_MPI(MPI_Iallreduce(&mine, &first, 1, MPI_INT, MPI_MIN, comm, &request));
    wait_named(&request, what, seconds);
    if (first == n_ranks) return true;
    CHECK_MPI(MPI_Ibcast(fault, (int)sizeof *fault, MPI_BYTE, first, comm, &request));
    wait_named(&request, what, seconds);
    return false;
}

bool topology_agree_world(struct fault *fault, const char *what, double seconds) {
    return agree(MPI_COMM_WORLD, fault, what, seconds);
}

bool topology_agree(const struct topology *topology, struct fault *fault, const char *what,
                    double seconds) {
    return agree(comm_of(topology), fault, what, seconds);
}

/* ---- mail -------------------------------------------------------------------------------------
 */

/* The last one posted, until it has left. */
static struct mail posted;
static MPI_Request posted_request = MPI_REQUEST_NULL;

void topology_post(const struct topology *topology, const struct mail *mail) {
    wait_named(&posted_request, "taking of a rank's report", topology->deadline_s);
    posted = *mail;
    posted.rank = topology->rank;
    CHECK_MPI(MPI_Isend(&posted, sizeof posted, MPI_BYTE, 0, TAG_MAIL, comm_of(topology),
                        &posted_request));
}

bool topology_take(const struct topology *topology, struct mail *mail) {
    int here = 0;
    MPI_Status status;
    CHECK_MPI(MPI_Iprobe(MPI_ANY_SOURCE, TAG_MAIL, comm_of(topology), &here, &status));
    if (!here) return false;
    MPI_Request request;
    CHECK_MPI(MPI_Irecv(mail, sizeof *mail, MPI_BYTE, status.MPI_SOURCE, TAG_MAIL,
                        comm_of(topology), &request));
    wait_named(&request, "a rank's report", topology->deadline_s);
    return true;
}

/* ---- what the launcher meant -------------------------------------------------------------------
 */

bool topology_check_launch(const struct environment *environment, struct fault *fault) {
    int n_ranks;
    CHECK_MPI(MPI_Comm_size(MPI_COMM_WORLD, &n_ranks));
    if (!environment->launched) return true;
    if (n_ranks == 1 && environment->launcher_size > 1)
        return fault_user(fault,
                          "the launcher started %d ranks and each believes to be alone: it and "
                          "this MPI library do not know each other; start with `srun --mpi=pmix` "
                          "(srun --mpi=list shows whether it is there) or with the mpirun of the "
                          "MPI that `lamina --version` names",
                          environment->launcher_size);
    if (n_ranks < environment->slurm_het_tasks)
        return fault_user(fault,
                          "this heterogeneous Slurm job has %d tasks in its parts and only %d MPI "
                          "rank%s started: mpirun sees the first part only; start with `srun "
                          "--mpi=pmix --het-group=0 lamina ... : --het-group=1 lamina ...`",
                          environment->slurm_het_tasks, n_ranks, n_ranks == 1 ? " was" : "s were");
    return true;
}

/* ---- opening ----------------------------------------------------------------------------------
 */

/* What every rank tells the others before there are roles. */
struct claim {
    uint64_t options_hash;
    int32_t role; /* enum role_wish */
};

static bool check_claims(const struct claim *claim, int n_ranks, struct fault *fault) {
    for (int rank = 1; rank < n_ranks; rank++) {
        if (claim[rank].options_hash != claim[0].options_hash)
            return fault_user(
                fault,
                "rank %d was started with other options, or is another build of lamina, "
                "than rank 0: all components of a job take the same ones, but --role",
                rank);
    }
    return true;
}

/* Each rank's role. With --role on any component the counts of roles must be a and b. */
static bool assign_roles(const struct claim *claim, int n_ranks, struct layout *layout,
                         const struct options *options, enum role *role, struct fault *fault) {
    int n_model = 0, n_auto = 0;
    for (int rank = 0; rank < n_ranks; rank++) {
        n_model += claim[rank].role == ROLE_WISH_MODEL;
        n_auto += claim[rank].role == ROLE_WISH_AUTO;
        role[rank] = claim[rank].role == ROLE_WISH_MODEL ? ROLE_MODEL : ROLE_ATTENTION;
    }
    if (n_auto == n_ranks) {
        if (!layout_ranks(layout, options, n_ranks, fault)) return false;
        for (int rank = 0; rank < n_ranks; rank++)
            role[rank] = rank < layout->model_ranks ? ROLE_MODEL : ROLE_ATTENTION;
        return true;
    }
    if (n_auto)
        return fault_user(fault,
                          "--role is given for some components of the job and not for %d of its %d "
                          "ranks: give it for all or for none",
                          n_auto, n_ranks);
    if (n_model == 0)
        return fault_user(fault,
                          "all %d ranks were started with --role attention: one must have "
                          "--role model",
                          n_ranks);
    struct options counted = *options;
    if (counted.model_ranks < 0) counted.model_ranks = n_model;
    if (counted.attention_ranks < 0) counted.attention_ranks = n_ranks - n_model;
    if (counted.model_ranks != n_model)
        return fault_user(fault, "--model-ranks %d, but %d ranks were started with --role model",
                          counted.model_ranks, n_model);
    return layout_ranks(layout, &counted, n_ranks, fault);
}

/* The leader's clock minus ours: of several round trips the shortest, halved. Half of it is also
 * how far off that can be; an offset that may be 0 is 0, as on the leader's own host. */
static void measure_clock(struct topology *topology) {
    enum { ROUND_TRIPS = 8 };
    for (int peer = 1; peer < topology->n_ranks; peer++) {
        int64_t best = INT64_MAX, leader_clock = 0;
        for (int trip = 0; trip < ROUND_TRIPS; trip++) {
            int64_t begin = clock_now_ns();
            topology_send_to_leader(topology, peer, &begin, sizeof begin, "clock comparison",
                                    topology->deadline_s);
            if (!topology->leader && topology->rank != peer) continue;
            MPI_Request request;
            if (topology->leader) {
                leader_clock = clock_now_ns();
                CHECK_MPI(MPI_Isend(&leader_clock, 1, MPI_INT64_T, peer, TAG_CLOCK,
                                    comm_of(topology), &request));
            } else {
                CHECK_MPI(MPI_Irecv(&leader_clock, 1, MPI_INT64_T, 0, TAG_CLOCK, comm_of(topology),
                                    &request));
            }
            wait_named(&request, "clock comparison", topology->deadline_s);
            int64_t end = clock_now_ns();
            if (topology->rank == peer && end - begin < best) {
                best = end - begin;
                topology->clock_offset_ns = leader_clock - (begin + end) / 2;
            }
        }
        if (topology->rank == peer && llabs(topology->clock_offset_ns) <= best / 2 + 1)
            topology->clock_offset_ns = 0;
    }
}

static void count_local(struct topology *topology) {
    MPI_Comm local;
    CHECK_MPI(MPI_Comm_split_type(comm_of(topology), MPI_COMM_TYPE_SHARED, topology->rank,
                                  MPI_INFO_NULL, &local));
    CHECK_MPI(MPI_Comm_set_errhandler(local, MPI_ERRORS_RETURN));
    CHECK_MPI(MPI_Comm_size(local, &topology->n_local));
    CHECK_MPI(MPI_Comm_rank(local, &topology->local_rank));
    CHECK_MPI(MPI_Comm_free(&local));
}

bool topology_open(struct topology *topology, const struct options *options, uint64_t options_hash,
                   struct fault *fault) {
    CHECK_MPI(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
    *topology = (struct topology){.index = -1, .deadline_s = options->deadline_s};
    int world_rank, n_ranks;
    CHECK_MPI(MPI_Comm_rank(MPI_COMM_WORLD, &world_rank));
    CHECK_MPI(MPI_Comm_size(MPI_COMM_WORLD, &n_ranks));
    topology->rank = world_rank; /* until there is a group: who is to say a fault */
    struct claim mine = {options_hash, (int32_t)options->role};
    struct claim *claim = check_alloc((size_t)n_ranks, sizeof *claim);
    enum role *role = check_alloc((size_t)n_ranks, sizeof *role);
    MPI_Request request;
    CHECK_MPI(MPI_Iallgather(&mine, sizeof mine, MPI_BYTE, claim, sizeof mine, MPI_BYTE,
                             MPI_COMM_WORLD, &request));
    wait_named(&request, "comparison of options", options->deadline_s);
    bool good = check_claims(claim, n_ranks, fault) &&
                assign_roles(claim, n_ranks, &topology->layout, options, role, fault);
    topology->role = role[world_rank];
    free(claim);
    free(role);
    if (!topology_agree_world(fault, "agreement on roles", options->deadline_s) || !good)
        return false;
    MPI_Comm group;
    int key = (topology->role == ROLE_MODEL ? 0 : n_ranks) + world_rank;
    CHECK_MPI(MPI_Comm_split(MPI_COMM_WORLD, 0, key, &group));
    CHECK_MPI(MPI_Comm_set_errhandler(group, MPI_ERRORS_RETURN));
    topology->comm = MPI_Comm_c2f(group);
    CHECK_MPI(MPI_Comm_rank(group, &topology->rank));
    CHECK_MPI(MPI_Comm_size(group, &topology->n_ranks));
    topology->leader = topology->rank == 0;
    if (gethostname(topology->host, sizeof topology->host - 1) != 0)
        snprintf(topology->host, sizeof topology->host, "unknown");
    check_identity(topology->rank, role_name(topology->role));
    count_local(topology);
    measure_clock(topology);
    return true;
}

void topology_partition(struct topology *topology, const struct layout *layout) {
    topology->layout = *layout;
    if (topology->role == ROLE_MODEL) return;
    topology->index = topology->rank - layout->model_ranks;
    topology->owner = topology->index / layout->heads;
    topology->head_index = topology->index % layout->heads;
}

void topology_close(struct topology *topology) {
    if (topology->n_ranks == 0) return;
    MPI_Comm group = comm_of(topology);
    CHECK_MPI(MPI_Comm_free(&group));
    topology->n_ranks = 0;
}
