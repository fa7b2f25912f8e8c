/* resources.c - processors and memory of a rank. See resources.h. */
#include "resources.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "log.h"

/* ---- memory -----------------------------------------------------------------------------------
 */

/* The number at the start of the first line of a file under `root`, or behind `key` at the start of
 * a line. -1: no such file or line, or a word ("max"). */
static int64_t read_number(const char *root, const char *path, const char *key) {
    char full[8400], line[256];
    snprintf(full, sizeof full, "%s%s", root, path);
    FILE *file = fopen(full, "r");
    size_t n = strlen(key);
    int64_t number = -1;
    while (file && fgets(line, sizeof line, file)) {
        if (strncmp(line, key, n) != 0) continue;
        const char *digits = line + n + strspn(line + n, " ");
        if (*digits >= '0' && *digits <= '9') number = (int64_t)strtoull(digits, NULL, 10);
        break;
    }
    if (file) fclose(file);
    return number;
}

static int64_t read_available(const char *root) {
    int64_t kib = read_number(root, "/proc/meminfo", "MemAvailable:");
    return kib < 0 ? -1 : kib * 1024;
}

/* This process's cgroup path for `controller` ("" is v2's) from /proc/self/cgroup. */
static bool read_cgroup(const char *root, const char *controller, char *path, size_t size) {
    char full[4096], line[4096];
    snprintf(full, sizeof full, "%s/proc/self/cgroup", root);
    FILE *file = fopen(full, "r");
    bool found = false;
    while (file && !found && fgets(line, sizeof line, file)) {
        char *names = strchr(line, ':'), *where = names ? strchr(names + 1, ':') : NULL;
        if (!where) continue;
        *where = 0;
        found = strcmp(names + 1, controller) == 0;
        if (found) snprintf(path, size, "%.*s", (int)strcspn(where + 1, "\n"), where + 1);
    }
    if (file) fclose(file);
    return found;
}

/* How a version of cgroups names things. */
struct hierarchy {
    const char *controller; /* in /proc/self/cgroup */
    const char *base;       /* where it is mounted */
    const char *limit, *usage, *inactive;
    const char *shown; /* to people */
};
static const struct hierarchy hierarchies[] = {
    {"", "/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file ", "cgroup memory.max"},
    {"memory", "/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
     "total_inactive_file ", "cgroup memory.limit_in_bytes"},
};

static int64_t cgroup_number(const char *root, const struct hierarchy *names, const char *path,
                             const char *file, const char *key) {
    char name[8300];
    snprintf(name, sizeof name, "%s%s/%s", names->base, path, file);
    return read_number(root, name, key);
}

/* What a cgroup's processes use and cannot be made to give back: files they have read stay in
 * memory and count as used until somebody needs the room. */
static int64_t cgroup_held(const char *root, const struct hierarchy *names, const char *path) {
    int64_t used = cgroup_number(root, names, path, names->usage, "");
    int64_t idle = cgroup_number(root, names, path, "memory.stat", names->inactive);
    if (idle < 0) idle = 0;
    return used > idle ? used - idle : 0;
}

/* The least of limit - held from a cgroup up to the root of its hierarchy; -1 when none is set. */
static int64_t cgroup_left(const char *root, const struct hierarchy *names, char *path) {
    int64_t least = -1;
    for (;;) {
        int64_t limit = cgroup_number(root, names, path, names->limit, "");
        if (limit >= 0 && limit < INT64_MAX / 2) {
            int64_t left = limit - cgroup_held(root, names, path);
            if (left < 0) left = 0;
            if (least < 0 || left < least) least = left;
        }
        char *slash = strrchr(path, '/');
        if (!slash) return least;
        *slash = 0;
    }
}

static void take_least(int64_t candidate, const char *name, int64_t *least, const char **from) {
    if (candidate < 0 || (*least >= 0 && candidate >= *least)) return;
    *least = candidate;
    *from = name;
}

int64_t resources_host_memory(const struct environment *environment, const char *root,
                              const char **from) {
    int64_t least = -1;
    char path[4096];
    *from = "nothing: no limit could be read";
    take_least(read_available(root), "MemAvailable", &least, from);
    for (size_t at = 0; at < sizeof hierarchies / sizeof *hierarchies; at++) {
        if (read_cgroup(root, hierarchies[at].controller, path, sizeof path))
            take_least(cgroup_left(root, &hierarchies[at], path), hierarchies[at].shown, &least,
                       from);
    }
    if (environment->slurm_mem_node_bytes > 0)
        take_least(environment->slurm_mem_node_bytes, "SLURM_MEM_PER_NODE", &least, from);
    return least < 0 ? (int64_t)1 << 30 : least;
}

/* ---- processors -------------------------------------------------------------------------------
 */

/* What ranks compare: masks of one host that are equal share their processors. */
struct mask {
    char host[64];
    cpu_set_t cpus;
};

static int count_sharing(const struct topology *topology) {
    struct mask mine = {0};
    memcpy(mine.host, topology->host, sizeof mine.host);
    sched_getaffinity(0, sizeof mine.cpus, &mine.cpus);
    return topology_count_same(topology, &mine, sizeof mine, "comparison of affinity masks",
                               topology->deadline_s);
}

static void find_threads(struct resources *resources, const struct options *options,
                         const struct environment *environment) {
    int share = resources->n_cpus / resources->n_sharing;
    resources->n_threads = share > 0 ? share : 1;
    resources->threads_from = "affinity";
    if (environment->slurm_cpus_per_task > 0) {
        resources->n_threads = environment->slurm_cpus_per_task;
        resources->threads_from = "SLURM_CPUS_PER_TASK";
    }
    if (environment->omp_threads > 0) {
        resources->n_threads = environment->omp_threads;
        resources->threads_from = "OMP_NUM_THREADS";
    }
    if (options->threads > 0) {
        resources->n_threads = options->threads;
        resources->threads_from = "--threads";
    }
}

void resources_share(struct resources *resources, const struct options *options,
                     const struct environment *environment, int n_local, int n_sharing) {
    cpu_set_t cpus;
    *resources = (struct resources){.n_cpus = 1,
                                    .n_sharing = n_sharing,
                                    .memory_of = "host",
                                    .n_memory_sharing = n_local,
                                    .device_node = -1};
    if (sched_getaffinity(0, sizeof cpus, &cpus) == 0) resources->n_cpus = CPU_COUNT(&cpus);
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    resources->n_host_cpus = online > 0 ? (int)online : 1;
    find_threads(resources, options, environment);
    int64_t host = resources_host_memory(environment, "", &resources->memory_from);
    resources->memory_bytes = host / n_local / 10 * 9;
    if (environment->slurm_mem_cpu_bytes > 0) {
        int64_t own = environment->slurm_mem_cpu_bytes * resources->n_threads / 10 * 9;
        if (own < resources->memory_bytes) {
            resources->memory_bytes = own;
            resources->memory_from = "SLURM_MEM_PER_CPU";
        }
    }
}

void resources_use_device(struct resources *resources, int64_t free_bytes, int n_sharing) {
    resources->memory_bytes = free_bytes / n_sharing / 10 * 9;
    resources->memory_from = "free on the device";
    resources->memory_of = "device";
    resources->n_memory_sharing = n_sharing;
}

int resources_node_of(const char *bus, const char *root) {
    char path[128];
    snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/numa_node", bus);
    return *bus ? (int)read_number(root, path, "") : -1; /* the kernel writes -1 too */
}

bool resources_is_on_node(int node, const char *root) {
    cpu_set_t mine;
    char path[4200];
    int n = snprintf(path, sizeof path, "%s/sys/devices/system/node/node%d", root, node);
    if (access(path, F_OK) != 0 || sched_getaffinity(0, sizeof mine, &mine) != 0) return true;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        snprintf(path + n, sizeof path - (size_t)n, "/cpu%d", cpu);
        if (CPU_ISSET(cpu, &mine) && access(path, F_OK) == 0) return true;
    }
    return false;
}

void resources_locate_device(struct resources *resources, const char *bus) {
    int node = resources_node_of(bus, "");
    resources->device_node = node;
    if (node >= 0 && !resources_is_on_node(node, ""))
        log_warning("bound to processors that are all of other NUMA nodes than its GPU, %s on node "
                    "%d: bind the rank there (numactl --cpunodebind=%d --membind=%d), or have "
                    "Slurm choose the GPU (--gpu-bind=closest)",
                    bus, node, node, node);
}

void resources_find(struct resources *resources, const struct options *options,
                    const struct environment *environment, const struct topology *topology) {
    resources_share(resources, options, environment, topology->n_local, count_sharing(topology));
    int fair = resources->n_host_cpus / topology->n_local;
    if (resources->threads_from[0] == 'a' && resources->n_cpus < fair)
        log_warning("bound to %d of %d processors, though %d ranks share this host: start with "
                    "`mpirun --map-by ppr:%d:node:PE=%d --bind-to core`",
                    resources->n_cpus, resources->n_host_cpus, topology->n_local, topology->n_local,
                    fair);
    if (resources->n_threads > resources->n_cpus)
        log_warning("%d threads (%s) on %d processors: they will wait for each other",
                    resources->n_threads, resources->threads_from, resources->n_cpus);
}
