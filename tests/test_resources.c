/* resources: what is left of a host's memory, read under made-up roots; amounts by hand. */
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "resources.h"
#include "scratch.h"

static const struct environment nothing_said = {.slurm_mem_node_bytes = -1,
                                                .slurm_mem_cpu_bytes = -1};

/* The file `path` of the root `name`, its folders made. */
static void put(const char *name, const char *path, const char *text) {
    char full[512], command[600];
    snprintf(full, sizeof full, "%s%s", scratch_path(name), path);
    snprintf(command, sizeof command, "mkdir -p $(dirname %s)", full);
    assert_int_equal(system(command), 0);
    assert_true(scratch_write(full, text, strlen(text)));
}

static void left(const char *name, const struct environment *environment, int64_t bytes,
                 const char *wanted) {
    const char *from;
    assert_int_equal(resources_host_memory(environment, scratch_path(name), &from), bytes);
    assert_string_equal(from, wanted);
}

static void nothing_known(void **state) {
    (void)state;
    left("bare", &nothing_said, (int64_t)1 << 30, "nothing: no limit could be read");
}

static void available_memory(void **state) {
    (void)state;
    put("host", "/proc/meminfo", "MemTotal:       64 kB\nMemAvailable:      48 kB\n");
    left("host", &nothing_said, 48 * 1024, "MemAvailable");
    struct environment slurm = {.slurm_mem_node_bytes = 40000, .slurm_mem_cpu_bytes = -1};
    left("host", &slurm, 40000, "SLURM_MEM_PER_NODE");
}

/* The group of the job has read a file of 8 GB, which stays in memory as long as nobody needs the
 * room. The group above it has none of that, and more left. */
static void files_read_are_not_in_use(void **state) {
    (void)state;
    put("v2", "/proc/meminfo", "MemAvailable:  99999999 kB\n");
    put("v2", "/proc/self/cgroup", "1:name=systemd:/x\n0::/slurm/job\n");
    put("v2", "/sys/fs/cgroup/slurm/job/memory.max", "8589934592\n");
    put("v2", "/sys/fs/cgroup/slurm/job/memory.current", "8500000000\n");
    put("v2", "/sys/fs/cgroup/slurm/job/memory.stat",
        "anon 400000000\nfile 8100000000\ninactive_anon 7\ninactive_file 8000000000\n"
        "active_file 100000000\n");
    put("v2", "/sys/fs/cgroup/slurm/memory.max", "20000000000\n");
    put("v2", "/sys/fs/cgroup/slurm/memory.current", "9000000000\n");
    left("v2", &nothing_said, 8589934592 - 500000000, "cgroup memory.max");
    /* no statistics: all that is used counts */
    put("v2", "/sys/fs/cgroup/slurm/job/memory.stat", "anon 400000000\n");
    left("v2", &nothing_said, 8589934592 - 8500000000, "cgroup memory.max");
    /* read between two changes: not less than nothing is held */
    put("v2", "/sys/fs/cgroup/slurm/job/memory.stat", "inactive_file 8600000000\n");
    left("v2", &nothing_said, 8589934592, "cgroup memory.max");
    put("v2", "/sys/fs/cgroup/slurm/job/memory.max", "max\n");
    left("v2", &nothing_said, 11000000000, "cgroup memory.max");
}

/* Version 1 counts a group's own pages, and with those of the groups below it as the limit does. */
static void version_1_counts_whole_trees(void **state) {
    (void)state;
    put("v1", "/proc/self/cgroup", "4:memory:/job\n3:cpuset:/job\n");
    put("v1", "/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    put("v1", "/sys/fs/cgroup/memory/job/memory.limit_in_bytes", "1000000\n");
    put("v1", "/sys/fs/cgroup/memory/job/memory.usage_in_bytes", "900000\n");
    put("v1", "/sys/fs/cgroup/memory/job/memory.stat",
        "cache 1\ninactive_file 50000\nactive_file 2\ntotal_inactive_file 600000\n");
    left("v1", &nothing_said, 700000, "cgroup memory.limit_in_bytes");
}

/* Of 1000000 bytes a third each, less a tenth. */
static void ranks_of_a_device_divide_its_memory(void **state) {
    (void)state;
    struct options options;
    struct resources resources;
    options_defaults(&options, COMMAND_GENERATE);
    resources_share(&resources, &options, &nothing_said, 2, 1);
    assert_string_equal(resources.memory_of, "host");
    assert_int_equal(resources.n_memory_sharing, 2);
    resources_use_device(&resources, 1000000, 3);
    assert_int_equal(resources.memory_bytes, 299997);
    assert_string_equal(resources.memory_of, "device");
    assert_int_equal(resources.n_memory_sharing, 3);
}

static void devices_have_nodes(void **state) {
    (void)state;
    const char *root = scratch_path("numa");
    put("numa", "/sys/bus/pci/devices/0000:1b:00.0/numa_node", "1\n");
    put("numa", "/sys/bus/pci/devices/0000:43:00.0/numa_node", "-1\n"); /* as the kernel has it */
    assert_int_equal(resources_node_of("0000:1b:00.0", root), 1);
    assert_int_equal(resources_node_of("0000:43:00.0", root), -1);
    assert_int_equal(resources_node_of("0000:77:00.0", root), -1);
    assert_int_equal(resources_node_of("", root), -1);
}

/* Node 1 has one of this process's processors, node 2 one that it has not, node 3 none at all. */
static void masks_and_nodes(void **state) {
    (void)state;
    char path[128];
    cpu_set_t mine;
    int cpu = 0, other = 0;
    assert_int_equal(sched_getaffinity(0, sizeof mine, &mine), 0);
    while (!CPU_ISSET(cpu, &mine))
        cpu++;
    while (CPU_ISSET(other, &mine))
        other++;
    snprintf(path, sizeof path, "/sys/devices/system/node/node1/cpu%d/online", cpu);
    put("numa", path, "1\n");
    snprintf(path, sizeof path, "/sys/devices/system/node/node2/cpu%d/online", other);
    put("numa", path, "1\n");
    put("numa", "/sys/devices/system/node/node3/cpulist", "\n");
    const char *root = scratch_path("numa");
    assert_true(resources_is_on_node(1, root));
    assert_false(resources_is_on_node(2, root));
    assert_false(resources_is_on_node(3, root));
    assert_true(resources_is_on_node(4, root)); /* not told of */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_known),
        cmocka_unit_test(available_memory),
        cmocka_unit_test(files_read_are_not_in_use),
        cmocka_unit_test(version_1_counts_whole_trees),
        cmocka_unit_test(ranks_of_a_device_divide_its_memory),
        cmocka_unit_test(devices_have_nodes),
        cmocka_unit_test(masks_and_nodes),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
