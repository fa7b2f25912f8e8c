/* check.h - how lamina fails.
 *
 * Three kinds of failure, one voice:
 *   the user's   found before work starts, carried as a `struct fault`, agreed over ranks and
 * printed once with file, line, value and what would be right; exit code 2 the world's  a disk, a
 * peer, a library call: one line with rank, role, place and reason; exit code 1 ours
 * REQUIRE(condition, ...): an invariant of this program, always compiled in; exit code 1
 *
 * Functions that read what people hand in return bool and fill a `struct fault`; nothing returns
 * a status number. Only this module ends the process.
 */
#ifndef LAMINA_CHECK_H
#define LAMINA_CHECK_H

#include <stdbool.h>
#include <stddef.h>

/* Exit codes of every command (docs/lamina.1, "EXIT STATUS"). */
enum exit_code {
    EXIT_DONE = 0,       /* everything asked for was done */
    EXIT_WORLD = 1,      /* the world's fault: disk, network, a peer */
    EXIT_USER = 2,       /* the user's fault: options, files */
    EXIT_REQUESTS = 3,   /* ran to the end, some requests failed */
    EXIT_RESUMABLE = 75, /* stopped early; --resume continues (EX_TEMPFAIL) */
};

enum fault_kind { FAULT_NONE = 0, FAULT_WORLD = EXIT_WORLD, FAULT_USER = EXIT_USER };

/* One failure that was not fatal where it was found. `text` is one line without a newline, already
 * escaped for a terminal where it quotes a file. Zero-initialise; the first fault set is kept. */
struct fault {
    enum fault_kind kind;
    bool no_room; /* the world's, of a file system or a quota that is full */
    char text[1024];
};

/* Fill *fault unless it already holds one. Always return false: `return fault_user(fault, ...)`. */
bool fault_user(struct fault *fault, const char *format, ...) __attribute__((format(printf, 2, 3)));
bool fault_world(struct fault *fault, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Who this process is, for every later message. `role` is borrowed and must outlive the program. */
void check_identity(int rank, const char *role);

/* Where decode stands, for every later message of the calling thread; -1: outside the loop. */
void check_place(int slot, int slice);

/* Print one line and end the whole job with exit code 1, from whatever thread. Used by the macros
 * below; call directly for a failure of the world that has no call to name. */
_Noreturn void check_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
_Noreturn void check_fail_mpi(int error, const char *call);
_Noreturn void check_fail_ours(const char *file, int line, const char *condition,
                               const char *format, ...) __attribute__((format(printf, 4, 5)));

/* An invariant of the program itself. */
#define REQUIRE(condition, ...)                                                                    \
    do {                                                                                           \
        if (!(condition)) check_fail_ours(__FILE__, __LINE__, #condition, __VA_ARGS__);            \
    } while (0)

/* An MPI call that must succeed; communicators carry MPI_ERRORS_RETURN, else this is dead code. */
#define CHECK_MPI(call)                                                                            \
    do {                                                                                           \
        int check_error = (call);                                                                  \
        if (check_error != 0) check_fail_mpi(check_error, #call);                                  \
    } while (0)

/* Leave with `code` on every rank. Finalises MPI when it is running, so all ranks must call it. */
_Noreturn void check_exit(int code);

/* End this process at once, without finalising anything (second INT or TERM). */
_Noreturn void check_exit_now(int code);

/* Zeroed memory of count * size bytes, or the end of the job when there is none; release with free.
 * REQUIREs that the calling thread has not forbidden allocation: the decode loop does. */
void *check_alloc(size_t count, size_t size);

/* Forbid or allow check_alloc on the calling thread. */
void check_forbid_alloc(bool forbidden);

/* *product = a * b. False when that does not fit. */
bool check_multiply(size_t a, size_t b, size_t *product);

#endif
