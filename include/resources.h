/* resources.h - what a rank may use of its host: processors and memory. */
#ifndef LAMINA_RESOURCES_H
#define LAMINA_RESOURCES_H

#include <stdbool.h>
#include <stdint.h>

#include "options.h"
#include "topology.h"

struct resources {
    int n_cpus;      /* in this rank's affinity mask */
    int n_sharing;   /* ranks of this host with the same mask, this one included */
    int n_host_cpus; /* online */
    int n_threads;   /* to use */
    const char
        *threads_from;    /* "--threads", "OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK", "affinity" */
    int64_t memory_bytes; /* this rank's part of what the host, cgroup and Slurm allow, less 10 % */
    const char *memory_from;
    const char *memory_of; /* "host", or "device" where that has memory of its own */
    int n_memory_sharing;  /* ranks that it is divided among */
    int device_node; /* NUMA node of the device it computes on; -1: not known, or the host itself */
};

/* Collective over the group: masks are compared over the ranks of each host. Threads: --threads,
 * else OMP_NUM_THREADS, else SLURM_CPUS_PER_TASK, else the mask shared among ranks with the same
 * mask. */
void resources_find(struct resources *resources, const struct options *options,
                    const struct environment *environment, const struct topology *topology);

/* The same for a rank that shares its host with `n_local` ranks and its processors with
 * `n_sharing`, itself included. Local. */
void resources_share(struct resources *resources, const struct options *options,
                     const struct environment *environment, int n_local, int n_sharing);

/* The rank computes on a device with memory of its own, of which this much is free and which it
 * shares with so many ranks, itself included. */
void resources_use_device(struct resources *resources, int64_t free_bytes, int n_sharing);

/* It sits at `bus` on PCI (struct device_place), "" for none. Warns when every processor of this
 * rank's mask belongs to another NUMA node. */
void resources_locate_device(struct resources *resources, const char *bus);

/* The NUMA node of what sits at `bus`; -1: not known. `root` as below. */
int resources_node_of(const char *bus, const char *root);

/* False when no processor of this process's affinity mask belongs to NUMA node `node`; true where
 * that cannot be told. */
bool resources_is_on_node(int node, const char *root);

/* Bytes the smallest of cgroup v1/v2 limit, Slurm's limits and MemAvailable leaves on this host;
 * *from names it. Pages of files that a cgroup has read and not looked at again are not in use:
 * they go when room is needed. `root` stands in front of /proc and /sys (tests); "" is the host's.
 */
int64_t resources_host_memory(const struct environment *environment, const char *root,
                              const char **from);

#endif
