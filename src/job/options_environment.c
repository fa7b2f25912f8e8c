/* options_environment.c - what the environment says. See options.h.
 *
 * The one place that reads environment variables, and all of them; ROLE of each is in the man page
 * (ENVIRONMENT). A variable that does not parse counts as not set: launchers and sites own these,
 * and a batch job should not stop over one it could do without.
 *
 * Whether a launcher started this process cannot be told from Slurm's variables alone: a batch
 * script has them too. PMIx and PMI ranks, Open MPI's world size, or a Slurm step with a process id
 * say it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "options.h"

static const char *first_of(const char *const *names) {
    for (; *names; names++) {
        const char *text = getenv(*names);
        if (text && *text) return text;
    }
    return NULL;
}

/* The first of the NULL-ended `names` that is set, as a number >= least; -1 when none is. */
static int number_of(const char *const *names, int64_t least) {
    const char *text = first_of(names);
    int64_t value;
    return text && parse_int(text, least, INT32_MAX, &value) ? (int)value : -1;
}

/* OMP_NUM_THREADS may list one number for each nesting level: the first is ours. */
static int omp_threads(void) {
    const char *text = getenv("OMP_NUM_THREADS");
    if (!text) return -1;
    char first[16];
    size_t n_bytes = strcspn(text, ",");
    if (n_bytes >= sizeof first) return -1;
    memcpy(first, text, n_bytes);
    first[n_bytes] = 0;
    int64_t value;
    return parse_int(first, 1, INT32_MAX, &value) ? (int)value : -1;
}

/* Slurm writes memory in MiB, without a unit. */
static int64_t slurm_memory(const char *name) {
    const char *text = getenv(name);
    int64_t value;
    if (text && parse_int(text, 1, INT64_MAX >> 20, &value)) return value << 20;
    if (text && parse_size(text, &value) && value > 0) return value;
    return -1;
}

/* Slurm's id of this job, or NULL where it does not look like one. */
static const char *slurm_job(void) {
    const char *text = getenv("SLURM_JOB_ID");
    bool good = text && *text && strlen(text) < 20 && strspn(text, "0123456789") == strlen(text);
    return good ? text : NULL;
}

static int64_t slurm_end_time(void) {
    const char *text = getenv("SLURM_JOB_END_TIME");
    int64_t value;
    return text && parse_int(text, 1, INT64_MAX, &value) ? value : -1;
}

/* Tasks of all parts of a heterogeneous job; -1 where it is none, or a part does not say. */
static int slurm_het_tasks(void) {
    const char *const size[] = {"SLURM_HET_SIZE", NULL};
    int n_parts = number_of(size, 1), n_tasks = 0;
    for (int part = 0; part < n_parts; part++) {
        char name[64];
        const char *const names[] = {name, NULL};
        snprintf(name, sizeof name, "SLURM_NTASKS_HET_GROUP_%d", part);
        int n = number_of(names, 1);
        if (n < 0) return -1;
        n_tasks += n;
    }
    return n_parts > 1 ? n_tasks : -1;
}

/* As the XDG Base Directory Specification has it: a relative path counts as not set. */
static void find_cache_folder(char *folder, size_t size) {
    const char *caches = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int n = 0;
    if (caches && *caches == '/') {
        n = snprintf(folder, size, "%s/lamina", caches);
    } else if (home && *home == '/') {
        n = snprintf(folder, size, "%s/.cache/lamina", home);
    }
    if (n == 0 || (size_t)n >= size) *folder = 0;
}

#define NAMES(...) ((const char *const[]){__VA_ARGS__, NULL})

void environment_read(struct environment *environment) {
    bool step = getenv("SLURM_STEP_ID") && getenv("SLURM_PROCID");
    bool launched = step || first_of(NAMES("OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"));
    *environment = (struct environment){
        .omp_threads = omp_threads(),
        .slurm_cpus_per_task = number_of(NAMES("SLURM_CPUS_PER_TASK"), 1),
        .slurm_tasks = number_of(NAMES("SLURM_NTASKS", "SLURM_NPROCS"), 1),
        .slurm_het_tasks = slurm_het_tasks(),
        .slurm_job = slurm_job(),
        .slurm_end_time = slurm_end_time(),
        .slurm_mem_node_bytes = slurm_memory("SLURM_MEM_PER_NODE"),
        .slurm_mem_cpu_bytes = slurm_memory("SLURM_MEM_PER_CPU"),
        .launched = launched,
        .launcher_size = -1,
        .launcher_rank = -1,
    };
    find_cache_folder(environment->cache_folder, sizeof environment->cache_folder);
    if (!launched) return;
    environment->launcher_size = number_of(NAMES("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"), 1);
    if (environment->launcher_size < 0 && step)
        environment->launcher_size = number_of(NAMES("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"), 1);
    environment->launcher_rank =
        number_of(NAMES("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"), 0);
}
