/* mpi_2_deadline.c - whoever waits for a rank that does not come says so and ends the job.
 *
 * Rank 1 comes only when rank 0 has given up. MPI_Abort is ours, as MPI allows: it looks at what
 * was said and does the rest of the test. It never returns or jumps back: the collective given up
 * still writes into the frames that waited for it, once rank 1 comes.
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "rig.h"
#include "topology.h"

static int rank, n_bad;

static void expect(bool good, const char *what) {
    if (good) return;
    n_bad += 1;
    printf("FAILED rank %d: %s\n", rank, what);
}

/* Waits of `seconds` in which both ranks take part. */
static void agree_world(double seconds) {
    struct fault fault = {0};
    topology_agree_world(&fault, "comparison of command lines", seconds);
}

static int comm; /* for what is opened: what was given up there meets nothing of the test's own */

static void open_wire(double seconds) {
    struct topology topology = {.rank = rank, .n_ranks = 2, .comm = comm};
    struct wire_options options = {
        .topology = &topology, .n_slots = 1, .deadline_s = seconds, .device_ops = &device_cpu};
    struct fault fault = {0};
    struct wire *wire;
    wire_mpi.open(&wire, &options, &fault);
    wire_mpi.close(wire);
}

/* What rank 0 waits for in vain, and its words when it gives up. */
static const struct wait {
    void (*wait)(double seconds);
    const char *said;
} waits[] = {
    {agree_world, "waited 1 s for the other ranks to reach: comparison of command lines"},
    {open_wire, "waited 1 s for the other ranks to open a wire"},
};
enum { N_WAITS = sizeof waits / sizeof waits[0], CODE_GONE = 1, TAG = 1 };

static int at; /* the wait in progress */

/* Of rank 0's standard error, while it waits. */
static int said[2], voice;

/* Rank 1 finds what it waits for, having come late. */
static void come_late(void) {
    for (at = 0; at < N_WAITS; at++) {
        CHECK_MPI(MPI_Recv(NULL, 0, MPI_BYTE, 0, TAG, MPI_COMM_WORLD, MPI_STATUS_IGNORE));
        waits[at].wait(60);
        rig_wait_all();
    }
}

static void wait_in_vain(void) {
    if (at == N_WAITS) return;
    voice = dup(STDERR_FILENO);
    REQUIRE(voice >= 0 && pipe(said) == 0, "no pipe");
    dup2(said[1], STDERR_FILENO);
    waits[at].wait(1);
    dup2(voice, STDERR_FILENO);
    REQUIRE(false, "wait %d ended without the rank it waits for", at);
}

int MPI_Abort(MPI_Comm of, int code) {
    (void)of;
    if (rank != 0 || at == N_WAITS) _exit(code);
    char text[512] = "";
    dup2(voice, STDERR_FILENO);
    close(said[1]);
    if (read(said[0], text, sizeof text - 1) < 0) text[0] = 0;
    close(said[0]);
    close(voice);
    expect(code == CODE_GONE && strstr(text, waits[at].said), waits[at].said);
    CHECK_MPI(MPI_Send(NULL, 0, MPI_BYTE, 1, TAG, MPI_COMM_WORLD));
    rig_wait_all();
    at++;
    wait_in_vain();
    exit(rig_end(n_bad == 0));
}

static void agree_on_faults(void) {
    struct fault fault = {0};
    expect(topology_agree_world(&fault, "no fault", 60), "no rank has a fault");
    if (rank == 1) fault_user(&fault, "--slots 9");
    expect(!topology_agree_world(&fault, "a fault", 60), "rank 1 has a fault");
    expect(fault.kind == FAULT_USER && strcmp(fault.text, "--slots 9") == 0, "all know it");
    fault = (struct fault){0};
    fault_world(&fault, "rank %d's own", rank);
    expect(!topology_agree_world(&fault, "two faults", 60), "both have a fault");
    expect(fault.kind == FAULT_WORLD && strcmp(fault.text, "rank 0's own") == 0, "the first's");
}

int main(int argc, char **argv) {
    rank = rig_begin(&argc, &argv);
    comm = rig_comm(0, 2);
    agree_on_faults();
    if (rank == 0)
        wait_in_vain();
    else
        come_late();
    return rig_end(n_bad == 0);
}
