/* damaged_model.c - the program, given model files that are cut or have one changed byte in their
 * header: each run must end by itself with one clear line that names the file and exit code 2, or
 * with answers where the byte did not matter, never by a signal, a sanitizer, or the time limit.
 *
 *   damaged_model LAMINA CUTS CORRUPTIONS
 *
 * A driver of its own, because a shell is slow at changing bytes. The reader alone is tested in
 * process (test_gguf_damage.c); here what counts is all that lies behind it: model, tokenizer,
 * template, sizes, and the exit code. A changed byte may also change what text means (a piece of
 * the vocabulary), so that the request fails: exit 3 with an error line.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"
#include "gguf.h"
#include "make_gguf.h"
#include "scratch.h"
#include "small_model.h"

enum { LIMIT_S = 120, MOST_SAID = 1 << 16 };

static const char *lamina;
static char said[MOST_SAID]; /* by the last run, on stderr */
static int n_failures, n_of_code[4];

static void fail(const char *case_name, const char *what) {
    printf("FAILED: %s: %s; it said:\n%s\n", case_name, what, said);
    n_failures++;
}

static void run_child(char *const arguments[], int said_fd) {
    int nothing = open("/dev/null", O_RDWR);
    dup2(nothing, STDIN_FILENO);
    dup2(nothing, STDOUT_FILENO);
    dup2(said_fd, STDERR_FILENO);
    execv(lamina, arguments);
    _exit(127);
}

/* Run to the end, or to the time limit: then it is killed. The status is waitpid's. */
static int run(const char *const arguments[]) {
    const char *path = scratch_path("said");
    int said_fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600), status = 0;
    pid_t child = fork();
    if (child == 0) run_child((char *const *)arguments, said_fd);
    struct deadline deadline = clock_deadline(LIMIT_S);
    while (waitpid(child, &status, WNOHANG) == 0) {
        if (clock_expired(deadline)) kill(child, SIGKILL);
        usleep(2000);
    }
    ssize_t n_said = pread(said_fd, said, sizeof said - 1, 0);
    said[n_said > 0 ? n_said : 0] = 0;
    close(said_fd);
    return status;
}

/* What was said is about this file, and no failure of ours. */
static bool names(const char *path) {
    const char *name = strstr(said, path);
    return name && strstr(said, "lamina: ") && !strstr(said, "internal error") &&
           !strstr(said, "Sanitizer");
}

static bool has_error_line(const char *path) {
    size_t n_bytes;
    unsigned char *bytes = scratch_read(path, &n_bytes);
    if (bytes) bytes[n_bytes ? n_bytes - 1 : 0] = 0;
    bool found = bytes && strstr((char *)bytes, "\"status_code\":400");
    free(bytes);
    return found;
}

static void judge(const char *case_name, const char *command, int status, const char *model,
                  const char *output) {
    char name[128];
    snprintf(name, sizeof name, "%s, lamina %s", case_name, command);
    if (!WIFEXITED(status)) {
        fail(name, WTERMSIG(status) == SIGKILL ? "it hung" : strsignal(WTERMSIG(status)));
        return;
    }
    int code = WEXITSTATUS(status);
    if (code == 2 ? !names(model) : code == 3 ? !has_error_line(output) : code != 0) {
        snprintf(name, sizeof name, "%s, lamina %s: exit code %d", case_name, command, code);
        fail(name, code == 2 ? "the message does not name the file" : "unexpected");
    }
    if (code < 4) n_of_code[code]++;
}

static void try(const char *case_name, const void *bytes, size_t n_bytes) {
    const char *model = scratch_path("damaged.gguf"), *output = scratch_path("out.jsonl");
    const char *input = scratch_path("in.txt");
    char kept_model[256], kept_output[256], kept_input[256];
    strcpy(kept_model, model);
    strcpy(kept_output, output);
    strcpy(kept_input, input);
    if (!scratch_write(kept_model, bytes, n_bytes)) abort();
    const char *const generate[] = {
        lamina, "generate",  "-m", kept_model,    "-i",  kept_input,    "-o", kept_output,   "-n",
        "4",    "--threads", "1",  "--kv-tokens", "256", "--max-batch", "2",  "--overwrite", NULL};
    const char *const inspect[] = {lamina, "inspect", kept_model, NULL};
    judge(case_name, "generate", run(generate), kept_model, kept_output);
    judge(case_name, "inspect", run(inspect), kept_model, kept_output);
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    lamina = argv[1];
    int n_cuts = atoi(argv[2]), n_corruptions = atoi(argv[3]);
    struct make_gguf_wish wish = small_model();
    struct fault fault = {0};
    struct gguf gguf;
    scratch_open(NULL);
    char good[256];
    strcpy(good, scratch_path("good.gguf"));
    scratch_write(scratch_path("in.txt"), "Hello\n", 6);
    if (!make_gguf_write(&wish, good, &fault) || !gguf_open(&gguf, good, &fault)) {
        printf("%s\n", fault.text);
        return 1;
    }
    size_t n_bytes, n_header = gguf.file_bytes;
    for (size_t tensor = 0; tensor < gguf.n_tensors; tensor++)
        n_header -= (gguf.tensor[tensor].n_bytes + 31) / 32 * 32;
    gguf_close(&gguf);
    unsigned char *bytes = scratch_read(good, &n_bytes);
    uint64_t random = 2025;
    char name[128];
    try("the whole file", bytes, n_bytes);
    if (n_of_code[0] != 2) fail("the whole file", "no answers");
    for (int cut = 0; cut < n_cuts; cut++) {
        size_t length = (size_t)(make_gguf_random(&random) % n_bytes);
        snprintf(name, sizeof name, "cut to %zu of %zu bytes", length, n_bytes);
        try(name, bytes, length);
    }
    if (n_of_code[0] != 2) fail("cut files", "not all were refused");
    for (int corruption = 0; corruption < n_corruptions; corruption++) {
        size_t at = (size_t)(make_gguf_random(&random) % n_header);
        unsigned char kept = bytes[at];
        bytes[at] ^= (unsigned char)(1 + make_gguf_random(&random) % 255);
        snprintf(name, sizeof name, "byte %zu is %d, not %d", at, bytes[at], kept);
        try(name, bytes, n_bytes);
        bytes[at] = kept;
    }
    free(bytes);
    scratch_close(NULL);
    printf("%d cuts, %d corruptions: exit code 0 %d times, 2 %d times, 3 %d times, %d failures\n",
           n_cuts, n_corruptions, n_of_code[0], n_of_code[2], n_of_code[3], n_failures);
    return n_failures > 0;
}
