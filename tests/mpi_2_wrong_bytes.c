/* `bench wire` sees a wrong byte: wires that change one, on either side, or leave out what should
 * have arrived, are told from one that is right.
 *
 * Ranks: the leader and one other, which takes several blocks of a message.
 */
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "../src/command/bench_parts.h"
#include "rig.h"

enum { N_SIZES = 2, N_FANS = 2, REPEAT = 3 };

enum damage { NONE, AT_LEADER, AT_OTHER, NOTHING_TAKEN };
static enum damage damage;
static bool leader;
static struct device *device;

static int n_blocks; /* of the step's messages */

static void noted_begin(struct wire *wire, int slot, int step, const struct fan *fan) {
    n_blocks = fan[MESSAGE_Q].n_blocks;
    wire_mpi.begin(wire, slot, step, fan);
}

/* What wire_mpi gathers, then the last byte of the last block changed; or what was there before. */
static size_t damaged_gather(struct wire *wire, struct address address, const struct value *value) {
    static unsigned char before[1 << 20];
    size_t n_bytes = (size_t)n_blocks * (size_t)value->stride * 4;
    REQUIRE(n_bytes <= sizeof before, "%zu bytes", n_bytes);
    device_cpu.download(device, before, value->buffer, value->offset, n_bytes);
    size_t gathered = wire_mpi.gather(wire, address, value);
    if (damage == NOTHING_TAKEN && leader)
        device_cpu.upload(device, value->buffer, value->offset, before, n_bytes);
    if ((damage == AT_LEADER && leader) || (damage == AT_OTHER && !leader)) {
        size_t last = value->offset + n_bytes - 1;
        unsigned char byte;
        device_cpu.download(device, &byte, value->buffer, last, 1);
        byte ^= 0x10;
        device_cpu.upload(device, value->buffer, last, &byte, 1);
    }
    return gathered;
}

static struct run open_run(struct options *options, int comm, int rank) {
    struct run run = {.options = options, .device_ops = &device_cpu};
    struct device_options opening = {.n_threads = 1};
    struct fault fault = {0};
    options_defaults(options, COMMAND_BENCH_WIRE);
    options->sizes = (struct number_list){N_SIZES, {16, 4096}};
    options->fan = (struct number_list){N_FANS, {1, 3}};
    options->repeat = REPEAT;
    options->warmup = 0;
    options->format = SHEET_JSONL;
    options->output = "wrong_bytes.jsonl";
    options->typed = "bench wire";
    run.topology = (struct topology){.rank = rank,
                                     .n_ranks = 2,
                                     .role = rank ? ROLE_ATTENTION : ROLE_MODEL,
                                     .leader = rank == 0,
                                     .layout = {1, 1, 1, 1},
                                     .deadline_s = 60,
                                     .comm = comm};
    if (!device_cpu.open(&run.device, &opening, &fault)) check_fail("%s", fault.text);
    device = run.device;
    return run;
}

/* Rows of the sheet, each of which must say `wrong`; -1: at least one. */
static bool rows_say(const char *path, int wrong) {
    FILE *file = fopen(path, "r");
    int n = 0;
    bool good = file != NULL;
    for (json_t *row; good && (row = json_loadf(file, JSON_DISABLE_EOF_CHECK, NULL)); n++) {
        json_int_t said = json_integer_value(json_object_get(row, "wrong"));
        good = wrong < 0 ? said > 0 : said == wrong;
        json_decref(row);
    }
    if (file) fclose(file);
    return good && n == N_SIZES * N_FANS;
}

/* `wrong` of each row: a byte in each of its rounds, or in all of them many. */
static bool passes(struct run *run, enum damage what, int wrong) {
    struct wire_ops ops = wire_mpi;
    struct sheet *sheet;
    struct fault fault = {0};
    ops.begin = noted_begin;
    ops.gather = damaged_gather;
    damage = what;
    if (!bench_wire_open_sheet(run, &sheet, &fault)) check_fail("%s", fault.text);
    int64_t all = bench_wire_measure(run, &ops, sheet, &fault);
    if (!sheet_close(sheet, true, &fault)) check_fail("%s", fault.text);
    if (!leader) return true;
    bool good = rows_say(run->options->output, wrong) &&
                (wrong < 0 ? all > 0 : all == (int64_t)wrong * N_SIZES * N_FANS);
    printf("damage %d: %lld wrong bytes%s\n", (int)what, (long long)all, good ? "" : ": FAILED");
    return good;
}

int main(int argc, char **argv) {
    int rank = rig_begin(&argc, &argv);
    leader = rank == 0;
    struct options options;
    struct run run = open_run(&options, rig_comm(0, 2), rank);
    bool good = passes(&run, NONE, 0);
    good = passes(&run, AT_LEADER, REPEAT) && good;
    good = passes(&run, AT_OTHER, REPEAT) && good;
    good = passes(&run, NOTHING_TAKEN, -1) && good;
    device_cpu.close(run.device);
    if (leader) unlink(options.output);
    return rig_end(good);
}
