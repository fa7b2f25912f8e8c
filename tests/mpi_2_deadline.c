/* mpi_2_deadline.c - whoever waits for a rank that does not come says so and ends the job.
 *
 * Rank 1 comes only when rank 0 has given up. MPI_Abort is ours, as MPI allows: it leads back into
 * the test, which looks at what was said and goes on.
 */
#include <mpi.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "rig.h"
#include "topology.h"

static int rank, n_bad;
static jmp_buf given_up;

int MPI_Abort(MPI_Comm comm, int code) {
    (void)comm;
    longjmp(given_up, code);
}

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
    struct wire_options options = {
        .comm = comm, .rank = rank, .n_slots = 1, .deadline_s = seconds, .device = &device_cpu};
    struct fault fault = {0};
    struct wire *wire;
    wire_mpi.open(&wire, &options, &fault);
    wire_mpi.close(wire);
}

/* Rank 0 gives up, with `wanted` as its words; then rank 1 comes, and finds what it waits for. */
static void wait_in_vain(void (*wait)(double seconds), const char *wanted) {
    enum { CODE_GONE = 1, TAG = 1 };
    if (rank == 1) {
        CHECK_MPI(MPI_Recv(NULL, 0, MPI_BYTE, 0, TAG, MPI_COMM_WORLD, MPI_STATUS_IGNORE));
        wait(60);
        rig_wait_all();
        return;
    }
    char text[512] = "";
    int said[2], voice = dup(STDERR_FILENO);
    REQUIRE(voice >= 0 && pipe(said) == 0, "no pipe");
    dup2(said[1], STDERR_FILENO);
    int code = setjmp(given_up);
    if (code == 0) wait(1);
    dup2(voice, STDERR_FILENO);
    close(said[1]);
    if (read(said[0], text, sizeof text - 1) < 0) text[0] = 0;
    close(said[0]);
    close(voice);
    expect(code == CODE_GONE && strstr(text, wanted), wanted);
    CHECK_MPI(MPI_Send(NULL, 0, MPI_BYTE, 1, TAG, MPI_COMM_WORLD));
    rig_wait_all();
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
    wait_in_vain(agree_world,
                 "waited 1 s for the other ranks to reach: comparison of command lines");
    wait_in_vain(open_wire, "waited 1 s for the other ranks to open a wire");
    return rig_end(n_bad == 0);
}
