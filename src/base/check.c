/* check.c - the three kinds of failure and the only way out of the process. See check.h. */
#include "check.h"

#include <mpi.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "log.h"

/* Of the thread that decodes; others stand nowhere. */
static _Thread_local struct { int slot, slice; } place = {-1, -1};

static _Thread_local bool alloc_forbidden;

static bool fault_set(struct fault *fault, enum fault_kind kind, const char *format,
                      va_list arguments) {
    if (fault->kind == FAULT_NONE) {
        fault->kind = kind;
        vsnprintf(fault->text, sizeof fault->text, format, arguments);
    }
    return false;
}

bool fault_user(struct fault *fault, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fault_set(fault, FAULT_USER, format, arguments);
    va_end(arguments);
    return false;
}

bool fault_world(struct fault *fault, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fault_set(fault, FAULT_WORLD, format, arguments);
    va_end(arguments);
    return false;
}

void check_identity(int rank, const char *role) {
    char identity[64];
    snprintf(identity, sizeof identity, "rank %d %s", rank, role);
    log_identity(identity);
}

void check_place(int slot, int slice) {
    place.slot = slot;
    place.slice = slice;
}

static bool mpi_is_running(void) {
    int started = 0, finished = 0;
    MPI_Initialized(&started);
    MPI_Finalized(&finished);
    return started && !finished;
}

/* Under MPI_THREAD_FUNNELED only the main thread may abort the job. When another fails the process
 * ends without having left MPI, for which the launcher ends the others. */
static _Noreturn void end_job(void) {
    int is_main = 0;
    if (mpi_is_running()) MPI_Is_thread_main(&is_main); /* these three any thread may ask */
    if (is_main) MPI_Abort(MPI_COMM_WORLD, EXIT_WORLD);
    _exit(EXIT_WORLD);
}

static void say_with_place(const char *text) {
    if (place.slot >= 0) {
        log_error("%s (slot %d, slice %d)", text, place.slot, place.slice);
    } else {
        log_error("%s", text);
    }
}

_Noreturn void check_fail(const char *format, ...) {
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    say_with_place(text);
    end_job();
}

_Noreturn void check_fail_mpi(int error, const char *call) {
    char reason[MPI_MAX_ERROR_STRING] = "";
    int length = 0;
    MPI_Error_string(error, reason, &length);
    check_fail("%s failed: %s", call, reason);
}

_Noreturn void check_fail_ours(const char *file, int line, const char *condition,
                               const char *format, ...) {
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    check_fail("internal error at %s:%d: %s [%s]", file, line, text, condition);
}

_Noreturn void check_exit(int code) {
    if (mpi_is_running()) MPI_Finalize();
    exit(code);
}

_Noreturn void check_exit_now(int code) {
    _exit(code);
}

void *check_alloc(size_t count, size_t size) {
    REQUIRE(!alloc_forbidden, "allocation of %zu x %zu bytes inside the decode loop", count, size);
    void *memory = calloc(count ? count : 1, size ? size : 1);
    if (!memory) check_fail("out of memory: %zu x %zu bytes", count, size);
    return memory;
}

void check_forbid_alloc(bool forbidden) {
    alloc_forbidden = forbidden;
}

bool check_multiply(size_t a, size_t b, size_t *product) {
    return !__builtin_mul_overflow(a, b, product);
}
