/* main.c - the table of commands, and the life of the process around one of them.
 *
 * main owns what is once per process: MPI's start, the signals that are about the process itself
 * (SIGPIPE, SIGXFSZ, SIGBUS, the launcher's death) and the exit code. It knows nothing of models or
 * requests.
 *
 * The user's faults in options are found before anything is opened, and said once: under a launcher
 * the ranks agree on whose complaint is printed, since an MPMD launch may have given them different
 * ones.
 */
#include <errno.h>
#include <fcntl.h>
#include <mpi.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "bench.h"
#include "check.h"
#include "device.h"
#include "generate.h"
#include "inspect.h"
#include "log.h"
#include "options.h"
#include "slices.h"
#include "topology.h"
#include "version.h"
#include "wire.h"

/* Each returns an exit code (enum exit_code), the same on every rank. */
static int run_generate(int argc, char **argv, const struct options *options) {
    return generate_run(argc, argv, options);
}

static int run_slices(int argc, char **argv, const struct options *options) {
    (void)argc, (void)argv;
    return slices_run(options);
}

static int run_inspect(int argc, char **argv, const struct options *options) {
    (void)argc, (void)argv;
    return inspect_run(options);
}

static int run_bench_step(int argc, char **argv, const struct options *options) {
    return bench_step_run(options, options_hash(argc, argv));
}

static int run_bench_attention(int argc, char **argv, const struct options *options) {
    return bench_attention_run(options, options_hash(argc, argv));
}

static int run_bench_wire(int argc, char **argv, const struct options *options) {
    return bench_wire_run(options, options_hash(argc, argv));
}

static const struct {
    int (*run)(int argc, char **argv, const struct options *options);
    bool over_ranks; /* runs on every rank of MPI_COMM_WORLD */
} commands[COMMANDS] = {
    [COMMAND_GENERATE] = {run_generate, true},
    [COMMAND_SLICES] = {run_slices, false},
    [COMMAND_INSPECT] = {run_inspect, false},
    [COMMAND_BENCH_STEP] = {run_bench_step, true},
    [COMMAND_BENCH_ATTENTION] = {run_bench_attention, true},
    [COMMAND_BENCH_WIRE] = {run_bench_wire, true},
};

/* ---- signals about the process itself ---- */

static pid_t launcher;

/* The kernel sends this when the thread that started us ends. Launchers may start ranks from a
 * thread of its own, whose end means nothing: only a new parent says that the launcher has gone. */
static void on_parent_death(int signal) {
    (void)signal;
    if (getppid() != launcher) check_exit_now(EXIT_WORLD);
}

/* End at once when mpirun or srun has gone: an orphaned rank would hold the locks on the output,
 * and keep the next job from starting. A launcher that dies before this runs is noticed by
 * MPI_Init, which finds nobody to talk to; one that dies between getppid and prctl by the second
 * getppid. */
static void follow_launcher(void) {
    launcher = getppid();
    struct sigaction action = {.sa_handler = on_parent_death, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGRTMIN + 1, &action, NULL);
    if (prctl(PR_SET_PDEATHSIG, SIGRTMIN + 1) != 0)
        log_debug("cannot ask to be told of the launcher's end: %s", strerror(errno));
    if (getppid() != launcher) check_exit_now(EXIT_WORLD);
}

/* The model file is mapped: it may shrink, or its disk fail, while it is read. MPI maps shared
 * memory, which the kernel finds out to be full when it is first touched. */
static void on_bus_error(int signal) {
    static const char text[] = "lamina: bus error: a mapped file (the model) has become shorter or "
                               "cannot be read, or shared "
                               "memory (/dev/shm) is full\n";
    (void)signal;
    (void)!write(STDERR_FILENO, text, sizeof text - 1);
    check_exit_now(EXIT_WORLD);
}

/* Behind MPI_Init, which has a handler of its own for it. */
static void catch_bus_errors(void) {
    struct sigaction action = {.sa_handler = on_bus_error};
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, NULL);
}

/* ---- threads ---- */

/* The threads of a rank wait for each other hundreds of times a token. libgomp lets them spin for
 * milliseconds, which is best on cores of one's own and ruinous on shared ones, where a thread that
 * spins keeps the one it waits for from running: 100 times slower was seen. It reads its setting
 * before main, so the program starts itself again with a shorter spin, unless the user has set any.
 * About 0.2 ms: longer than the gaps within a step, shorter than a scheduler's time slice. */
static void shorten_spinning(char **argv) {
    if (getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT")) return;
    setenv("GOMP_SPINCOUNT", "10000", 1);
    execv("/proc/self/exe", argv);
    log_debug("cannot start again with GOMP_SPINCOUNT set: %s", strerror(errno));
}

/* ---- MPI ---- */

static void start_mpi(void) {
    int provided = 0;
    int error = MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided);
    if (error != MPI_SUCCESS) check_fail_mpi(error, "MPI_Init_thread");
    CHECK_MPI(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
    if (provided < MPI_THREAD_FUNNELED)
        check_fail(
            "this MPI library does not allow threads beside MPI calls (MPI_THREAD_FUNNELED)");
}

/* Collective: the fault of the first rank that has one is said once, and its kind known to all.
 * `first`: rank 0 of the launcher, which is not every rank 0 where each rank is a world of its own.
 */
static enum fault_kind agree(struct fault *fault, bool first, double deadline_s) {
    int rank;
    CHECK_MPI(MPI_Comm_rank(MPI_COMM_WORLD, &rank));
    if (topology_agree_world(fault, "comparison of command lines", deadline_s)) return FAULT_NONE;
    if (rank == 0 && first) log_error("%s", fault->text);
    return fault->kind;
}

/* ---- what is printed instead of running ---- */

static void print_version(void) {
    char library[MPI_MAX_LIBRARY_VERSION_STRING] = "";
    int length = 0, version = 0, subversion = 0;
    MPI_Get_library_version(library, &length);
    MPI_Get_version(&version, &subversion);
    library[strcspn(library, ",\n")] = 0; /* Open MPI adds its packager and build host */
    printf("lamina %s (%s)\n", LAMINA_VERSION, LAMINA_COMMIT);
    printf("MPI    %s (standard %d.%d)\n", library, version, subversion);
    printf("HDF5   %s\n", LAMINA_HDF5);
    printf("CUDA   %s\n", device_cuda.version());
    printf("NCCL   %s\n", wire_nccl.version());
}

static void print_wish(enum options_wish wish, enum command command) {
    if (wish == OPTIONS_VERSION) print_version();
    if (wish == OPTIONS_HELP) options_print_help(stdout);
    if (wish == OPTIONS_COMMAND_HELP) options_print_command_help(command, stdout);
}

/* `code`, unless what was printed did not reach standard output. */
static int flush_stdout(int code) {
    bool lost = ferror(stdout) != 0;
    if (fflush(stdout) == 0 && !lost) return code;
    log_error("cannot write to standard output: %s", errno ? strerror(errno) : "write error");
    return code == EXIT_DONE ? EXIT_WORLD : code;
}

/* What is opened in the place of a closed standard stream would be read or written as that stream:
 * answers among messages, MPI's sockets as requests. With this in its place a use of it fails. */
static void fill_closed_streams(void) {
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        if (fcntl(fd, F_GETFD) < 0)
            (void)!open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
    }
}

int main(int argc, char **argv) {
    fill_closed_streams();
    shorten_spinning(argv);
    /* A closed pipe or a file at its limit is a failed write, said and counted as such. */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    struct environment environment;
    environment_read(&environment);
    if (environment.launched) follow_launcher();
    bool first = environment.launcher_rank <= 0;

    enum command command = COMMANDS;
    enum options_wish wish = options_wants(argc, argv, &command);
    if (wish != OPTIONS_RUN) {
        if (first) print_wish(wish, command);
        return flush_stdout(EXIT_DONE);
    }
    struct options options;
    struct fault fault = {0};
    options_parse(&options, argc, argv, &fault);
    bool over_ranks = command_find(argc, argv, &command) && commands[command].over_ranks;
    if (fault.kind != FAULT_NONE && !(over_ranks && environment.launched)) {
        if (first) log_error("%s", fault.text);
        return (int)fault.kind;
    }
    if (over_ranks) {
        start_mpi();
        if (fault.kind != FAULT_NONE) options_defaults(&options, command); /* their deadline */
        topology_check_launch(&environment, &fault);
        enum fault_kind kind = agree(&fault, first, options.deadline_s);
        if (kind != FAULT_NONE) check_exit((int)kind);
    }
    catch_bus_errors();
    log_setup(options.log_level, options.log_json);
    int code = commands[options.command].run(argc, argv, &options);
    options_close(&options);
    check_exit(flush_stdout(code));
}
