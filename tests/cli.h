/* cli.h - driving `lamina generate` from a test: a scratch folder with a made model, one command at
 * a time, and what it said. For programs that are started as `cli_<name> LAMINA MPIEXEC`; includes
 * nothing cmocka needs before it. */
#ifndef LAMINA_CLI_H
#define LAMINA_CLI_H

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "make_gguf.h"
#include "scratch.h"

static char *lamina; /* the program, an absolute path */
static const char *mpiexec;
static char *said, *printed; /* stderr and stdout of the last run */

/* The program's own arguments; false when they are not there. */
static inline bool cli_take(int argc, char **argv) {
    if (argc != 3) return false;
    lamina = realpath(argv[1], NULL);
    mpiexec = argv[2];
    setenv("OMP_NUM_THREADS", "1", 1);
    unsetenv("SLURM_CPUS_PER_TASK");
    return lamina != NULL;
}

/* Group setup: the folder, and in it model.gguf, the model of make_gguf_default. */
static inline int cli_open(void **state) {
    struct make_gguf_wish wish = make_gguf_default();
    struct fault fault = {0};
    if (scratch_open(state) != 0) return -1;
    return make_gguf_write(&wish, scratch_path("model.gguf"), &fault) ? 0 : -1;
}

static inline int cli_close(void **state) {
    free(said);
    free(printed);
    free(lamina);
    return scratch_close(state);
}

/* A file of the folder, terminated. */
static inline char *read_text(const char *name) {
    size_t n_bytes;
    char *text = (char *)scratch_read(scratch_path(name), &n_bytes);
    assert_non_null(text);
    text[n_bytes] = 0; /* scratch_read leaves room */
    return text;
}

/* Run `lamina generate -m model.gguf` with these options in the scratch folder; its exit code. */
static inline int generate(int n_ranks, const char *options) {
    char command[4096], launcher[1024] = "";
    if (n_ranks > 1) snprintf(launcher, sizeof launcher, "'%s' -n %d", mpiexec, n_ranks);
    snprintf(command, sizeof command,
             "cd %s && exec %s '%s' generate -m model.gguf %s >out 2>err </dev/null",
             scratch_folder, launcher, lamina, options);
    int status = system(command);
    assert_true(WIFEXITED(status));
    free(said);
    free(printed);
    said = read_text("err");
    printed = read_text("out");
    return WEXITSTATUS(status);
}

static inline void says(const char *text, const char *wanted) {
    if (!strstr(text, wanted)) fail_msg("'%s' is not in:\n%s", wanted, text);
}

/* A line with a prompt of token ids and an answer of known length. */
static inline void write_prompt(FILE *file, int request, int n_prompt, int n_new) {
    fprintf(file, "{\"custom_id\":\"r%d\",\"prompt\":[", request);
    for (int token = 0; token < n_prompt; token++)
        fprintf(file, "%s%d", token ? "," : "", 3 + (token * 7 + request) % 1000);
    fprintf(file, "],\"max_tokens\":%d,\"ignore_eos\":true}\n", n_new);
}

/* A JSON file of the folder. */
static inline json_t *load(const char *name) {
    json_error_t error;
    json_t *object = json_load_file(scratch_path(name), JSON_REJECT_DUPLICATES, &error);
    if (!object) fail_msg("%s: %s (line %d)", name, error.text, error.line);
    return object;
}

#endif
