/* mpi_2_trace.c - every record that decode makes is in the trace or counted as missing, in order,
 * whether the ring overflows or the disk takes no more; and ranks with different clocks meet on the
 * leader's. A device that both use is read by the first.
 *
 * The numbers recorded are 0, 1, 2, ... as bytes of spans, so what is kept is known without asking
 * the code that keeps it. The HDF5 file is read by the library itself.
 */
#include <hdf5.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "clock.h"
#include "rig.h"
#include "trace.h"

enum { BURST = 1 << 19, FEW = 5000, ROOM_BYTES = 100000 };

static const int64_t MINUTE_NS = INT64_C(60) * 1000000000;

static int rank;
static bool good = true;
static int64_t ahead_ns; /* rank 1's clock is before the leader's by so much */

static void expect(bool condition, const char *what, int64_t got, int64_t wanted) {
    if (condition) return;
    printf("FAILED %s: %lld, expected %lld\n", what, (long long)got, (long long)wanted);
    good = false;
}

/* A column of a rank, to be freed. */
static int64_t *read_column(hid_t file, int of_rank, const char *column, int64_t *n) {
    char name[128];
    snprintf(name, sizeof name, "/ranks/%d/%s", of_rank, column);
    hid_t data_set = H5Dopen2(file, name, H5P_DEFAULT), space = H5Dget_space(data_set);
    REQUIRE(data_set >= 0 && space >= 0, "no %s", name);
    *n = (int64_t)H5Sget_simple_extent_npoints(space);
    int64_t *number = check_alloc((size_t)*n, sizeof *number);
    herr_t read = H5Dread(data_set, H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, number);
    REQUIRE(*n == 0 || read >= 0, "cannot read %s", name);
    H5Sclose(space);
    H5Dclose(data_set);
    return number;
}

static int64_t read_attribute(hid_t file, int of_rank, const char *attribute) {
    char name[64];
    int64_t number = -1;
    snprintf(name, sizeof name, "/ranks/%d", of_rank);
    hid_t opened = H5Aopen_by_name(file, name, attribute, H5P_DEFAULT, H5P_DEFAULT);
    REQUIRE(opened >= 0 && H5Aread(opened, H5T_NATIVE_INT64, &number) >= 0, "no %s", attribute);
    H5Aclose(opened);
    return number;
}

/* What was kept of `n` is rising and, with what is missing, all; times are between these. Returns
 * how many are missing. */
static int64_t check_rank(hid_t file, int of_rank, int64_t n, int64_t least_ns, int64_t most_ns) {
    int64_t n_kept, n_times;
    int64_t *number = read_column(file, of_rank, "spans/bytes", &n_kept);
    int64_t *begin_ns = read_column(file, of_rank, "spans/begin", &n_times);
    int64_t n_missing = read_attribute(file, of_rank, "records_missing");
    for (int64_t at = 0; at < n_kept; at++) {
        bool follows = at == 0 ? number[at] >= 0 : number[at] > number[at - 1];
        expect(follows, "order", number[at], at ? number[at - 1] + 1 : 0);
        expect(begin_ns[at] >= least_ns - MINUTE_NS && begin_ns[at] >= 0 && begin_ns[at] <= most_ns,
               "time", begin_ns[at], least_ns);
        if (!good) break;
    }
    expect(n_kept + n_missing == n, "kept and missing", n_kept + n_missing, n);
    free(number);
    free(begin_ns);
    return n_missing;
}

enum { READING_UJ = 1000000000 };

/* The device's counter: so much more at every reading. */
static int64_t read_device(int index) {
    static int64_t used_uj;
    return index == 7 ? used_uj += READING_UJ : -1;
}

static void check_energy(hid_t file, int of_rank) {
    int64_t n, n_packages, of_device = 0, last_uj = 0;
    int64_t *uj = read_column(file, of_rank, "energy/energy", &n);
    int64_t *package = read_column(file, of_rank, "energy/package", &n_packages);
    for (int64_t at = 0; at < n; at++) {
        if (package[at] != package[n - 1]) continue; /* the device is the last */
        of_device++;
        last_uj = uj[at];
    }
    expect((of_device > 0) == (of_rank == 0), "readings of the device", of_device, of_rank == 0);
    expect(last_uj == of_device * READING_UJ, "energy", last_uj, of_device * READING_UJ);
    free(uj);
    free(package);
}

static void limit_files(rlim_t n_bytes) {
    struct rlimit limit;
    REQUIRE(getrlimit(RLIMIT_FSIZE, &limit) == 0, "no limits");
    limit.rlim_cur = n_bytes;
    REQUIRE(setrlimit(RLIMIT_FSIZE, &limit) == 0, "no limit of %llu", (unsigned long long)n_bytes);
}

/* Record `n` spans as fast as can be; rank 1's journal ends at `room` bytes (0: nowhere). */
static void record(struct topology *topology, int n, rlim_t room, const char *name) {
    struct options options;
    struct trace *trace;
    struct fault fault = {0};
    int64_t begin_ns = clock_now_ns();
    options_defaults(&options, COMMAND_GENERATE);
    options.trace = name;
    options.trace_steps.last = INT32_MAX;
    clock_record_open();
    struct trace_options wish = {.options = &options,
                                 .topology = topology,
                                 .begin_ns = begin_ns,
                                 .config = "{}",
                                 .meter = {"the device of both", read_device, 7}};
    trace_open(&trace, &wish, &fault);
    REQUIRE(fault.kind == FAULT_NONE, "%s", fault.text);
    if (room && rank == 1) limit_files(room);
    clock_place(0, 0, 0, 1);
    check_forbid_alloc(true);
    for (int64_t number = 0; number < n; number++)
        clock_span(SPAN_COMPUTE, 0, number, clock_now_ns());
    check_forbid_alloc(false);
    if (room) usleep(200000); /* until the journal's thread has met its limit */
    limit_files(RLIM_INFINITY);
    trace_write(trace);
    trace_close(trace);
    clock_record_close();
    if (rank != 0) return;
    hid_t file = H5Fopen(name, H5F_ACC_RDONLY, H5P_DEFAULT);
    REQUIRE(file >= 0, "no %s", name);
    for (int of_rank = 0; of_rank < 2; of_rank++) {
        int64_t least_ns = of_rank == 0 ? ahead_ns : 0;
        int64_t n_missing = check_rank(file, of_rank, n, least_ns, least_ns + MINUTE_NS);
        printf("%s, rank %d: %lld of %d are missing\n", name, of_rank, (long long)n_missing, n);
        check_energy(file, of_rank);
        if (!room) continue;
        int64_t n_most = of_rank == 1 ? (int64_t)room / 64 : n;
        int64_t least = n - n_most; /* the head takes some of the room besides */
        expect(of_rank == 1 ? n_missing >= least && n_missing < least + 200 : n_missing == 0,
               "missing for want of room", n_missing, least);
    }
    H5Fclose(file);
    unlink(name);
}

int main(int argc, char **argv) {
    rank = rig_begin(&argc, &argv);
    signal(SIGXFSZ, SIG_IGN);
    struct options options;
    struct topology topology;
    struct fault fault = {0};
    options_defaults(&options, COMMAND_GENERATE);
    REQUIRE(topology_open(&topology, &options, 0, &fault), "%s", fault.text);
    record(&topology, FEW, 0, "few.h5");
    record(&topology, BURST, 0, "burst.h5");
    record(&topology, FEW, ROOM_BYTES, "room.h5");
    /* As if rank 1 were of a host whose clock is an hour ahead: it begins an hour before rank 0. */
    ahead_ns = 60 * MINUTE_NS;
    if (rank == 1) topology.clock_offset_ns -= ahead_ns;
    record(&topology, FEW, 0, "hosts.h5");
    topology_close(&topology);
    return rig_end(good);
}
