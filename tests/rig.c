/* rig.c - whole runs inside a test program. See rig.h.
 *
 * Composes what src/command/generate.c composes, in the same order, with the sizes given instead of
 * derived and a list in the desk's place.
 */
#include "rig.h"

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "messages.h"

/* Other programs may use the machine while tests run. */
static const double patience_s = 240;

/* ---- the supply: a list -----------------------------------------------------------------------
 */

struct supplied {
    struct rig_list *list;
    int next;
};

static struct generation *list_next(void *of) {
    struct supplied *list = of;
    return list->next < list->list->n ? list->list->generation[list->next++] : NULL;
}

static bool list_exhausted(void *of) {
    const struct supplied *list = of;
    return list->next == list->list->n;
}

static int64_t list_n_ready(void *of) {
    const struct supplied *list = of;
    return list->list->n - list->next;
}

static void list_poke(void *of) {
    (void)of;
}

static void list_wait(void *of, double seconds) {
    (void)of, (void)seconds;
}

/* ---- who answers ------------------------------------------------------------------------------
 */

const struct device_ops *rig_device(void) {
    const char *name = getenv("LAMINA_TEST_DEVICE");
    return name && strcmp(name, device_cuda.name) == 0 ? &device_cuda : &device_cpu;
}

void rig_model_open_as(struct rig_model *model, const char *path, int context, bool joins_weights) {
    struct fault fault = {0};
    struct device_options loader = {.n_threads = 1};
    *model = (struct rig_model){.context = context};
    if (!source_open(&model->source, &model->model, path, 0, &fault) ||
        !rig_device()->open(&model->device, &loader, &fault))
        check_fail("%s", fault.text);
    int n_bytes = (int)element_bytes(rig_device()->activation);
    graph_open(&model->graph,
               (struct graph_options){.element_bytes = n_bytes, .joins_weights = joins_weights});
    model_write_graph(&model->graph, &model->model);
    program_open(&model->cut, &model->graph, false);
    program_open(&model->whole, &model->graph, true);
    weights_open(&model->weights, &model->graph, &model->source, rig_device(), model->device,
                 context);
}

void rig_model_open(struct rig_model *model, const char *path, int context) {
    rig_model_open_as(model, path, context, rig_device()->joins_weights);
}

void rig_model_close(struct rig_model *model) {
    weights_close(&model->weights);
    program_close(&model->cut);
    program_close(&model->whole);
    graph_close(&model->graph);
    rig_device()->close(model->device);
    source_close(&model->source);
}

/* Attention ranks learn the program's messages and shapes. */
static void share_service(struct rig_group *group) {
    topology_broadcast(&group->topology, &group->context, sizeof group->context, "context",
                       patience_s);
    struct service *service = &group->service;
    struct exchange *exchange = service->exchange;
    topology_broadcast(&group->topology, service, sizeof *service, "shapes", patience_s);
    service->exchange = exchange;
    size_t n_bytes = (size_t)service->n_exchanges * sizeof *exchange;
    if (!service->exchange) service->exchange = check_alloc(1, n_bytes);
    topology_broadcast(&group->topology, service->exchange, n_bytes, "messages", patience_s);
}

void rig_group_open(struct rig_group *group, int comm, int heads, int sequences,
                    const struct rig_model *model) {
    struct layout layout = {.model_ranks = 1,
                            .attention_ranks = heads * sequences,
                            .heads = heads ? heads : 1,
                            .sequences = sequences ? sequences : 1};
    int rank = 0;
    if (heads) CHECK_MPI(MPI_Comm_rank(MPI_Comm_f2c(comm), &rank));
    *group = (struct rig_group){.model = rank == 0 ? model : NULL,
                                .context = rank == 0 ? model->context : 0,
                                .topology = {.rank = rank,
                                             .n_ranks = 1 + layout.attention_ranks,
                                             .role = rank == 0 ? ROLE_MODEL : ROLE_ATTENTION,
                                             .leader = rank == 0,
                                             .layout = layout,
                                             .index = -1,
                                             .deadline_s = patience_s,
                                             .comm = comm}};
    topology_partition(&group->topology, &layout);
    if (rank == 0)
        service_open(&group->service, heads ? &model->cut : &model->whole,
                     rig_device()->activation);
    if (heads) share_service(group);
}

void rig_group_close(struct rig_group *group) {
    service_close(&group->service);
}

/* ---- a run ------------------------------------------------------------------------------------
 */

/* What the composing command holds of one run. */
struct run {
    const struct rig_group *group;
    const struct rig_case *what;
    struct batch_limits limits;
    struct device_ops device_ops;
    struct device *device;
    const struct wire_ops *wire_ops;
    struct wire *wire;
    struct control *control;
    struct supplied supplied;
    struct supply supply;
    struct batch *batch;
    struct decode *decode;
};

static int64_t rows_in_slot[SCHEDULE_MAX_SLOTS];
static void (*embed)(struct device *, const struct rows *, struct value, const struct weight *);

static void count_and_embed(struct device *device, const struct rows *rows, struct value out,
                            const struct weight *table) {
    rows_in_slot[rows->slot] += rows->n_rows;
    embed(device, rows, out, table);
}

static void progress(void *argument) {
    struct run *run = argument;
    if (run->wire) run->wire_ops->progress(run->wire);
}

static void open_limits(struct run *run) {
    const struct rig_case *what = run->what;
    const struct service *service = &run->group->service;
    int context = run->group->context;
    REQUIRE(what->max_batch <= what->max_rows, "every running sequence needs a row");
    run->limits = (struct batch_limits){
        .n_slots = what->n_slots,
        .max_batch = what->max_batch,
        .max_rows = what->max_rows,
        .max_picked = what->max_batch,
        .context = context,
        .n_owners = run->group->topology.layout.sequences,
        .n_pages =
            what->n_pages ? what->n_pages : what->n_slots * what->max_batch * kv_pages_for(context),
        .n_heads = service->n_heads,
        .n_kv_heads = service->n_kv_heads,
        .head_dim = service->head_dim,
    };
}

static void open_device(struct run *run) {
    const struct topology *topology = &run->group->topology;
    const struct rig_model *model = run->group->model;
    struct device_options options = {.n_threads = run->what->n_threads,
                                     .isa = (int)run->what->isa,
                                     .progress = topology->n_ranks > 1 ? progress : NULL,
                                     .progress_argument = run};
    struct device_limits limits = decode_device_limits(
        &run->limits, &topology->layout, topology->rank, model ? model->model.vocabulary : 0);
    struct fault fault = {0};
    run->device_ops = run->what->device_ops ? *run->what->device_ops : *rig_device();
    embed = run->device_ops.embed;
    run->device_ops.embed = count_and_embed;
    if (!run->device_ops.open(&run->device, &options, &fault)) check_fail("%s", fault.text);
    run->device_ops.prepare(run->device, &limits);
}

static void open_wire(struct run *run) {
    const struct topology *topology = &run->group->topology;
    if (topology->n_ranks == 1) return;
    struct messages messages;
    messages_open(&messages, topology, &run->group->service, run->limits.max_rows,
                  run->what->kv_type);
    struct wire_options wire = {.topology = topology,
                                .n_slots = run->limits.n_slots,
                                .n_layers = run->group->service.n_layers,
                                .deadline_s = patience_s,
                                .progress = !run->what->no_progress,
                                .device_ops = &run->device_ops,
                                .device = run->device,
                                .n_incoming = messages.n_incoming,
                                .n_outgoing = messages.n_outgoing,
                                .incoming = messages.incoming,
                                .outgoing = messages.outgoing};
    struct fault fault = {0};
    run->wire_ops = run->what->wire_ops ? run->what->wire_ops : &wire_mpi;
    if (!run->wire_ops->open(&run->wire, &wire, &fault)) check_fail("%s", fault.text);
    run->control = control_open(&wire, topology->n_ranks, header_most_bytes(&run->limits));
    messages_close(&messages);
}

static void open_decode(struct run *run) {
    static const volatile sig_atomic_t never;
    const struct rig_group *group = run->group;
    const struct rig_model *model = group->model;
    bool colocated = group->topology.layout.attention_ranks == 0;
    struct batch_options batch = {.limits = run->limits,
                                  .topology = &group->topology,
                                  .control = run->control,
                                  .supply = group->topology.leader ? &run->supply : NULL,
                                  .device_ops = &run->device_ops,
                                  .device = run->device,
                                  .stop = &never};
    struct decode_options decode = {.topology = &group->topology,
                                    .service = &group->service,
                                    .device_ops = &run->device_ops,
                                    .device = run->device,
                                    .wire_ops = run->wire_ops,
                                    .wire = run->wire,
                                    .limits = &run->limits,
                                    .kv_type = run->what->kv_type,
                                    .q_first = run->what->q_first};
    batch_open(&run->batch, &batch);
    decode.batch = run->batch;
    if (model) {
        decode.program = colocated ? &model->whole : &model->cut;
        decode.weights = &model->weights;
    }
    decode_open(&run->decode, &decode);
}

static void close_run(struct run *run) {
    decode_close(run->decode);
    batch_close(run->batch);
    control_close(run->control);
    if (run->wire) run->wire_ops->close(run->wire);
    run->device_ops.close(run->device);
}

/* Generations as the desk hands them out, with nothing left of an earlier run. */
static void renew(struct rig_list *list) {
    for (int at = 0; at < list->n; at++) {
        struct generation *generation = list->generation[at];
        atomic_store(&generation->n_tokens, generation->n_prompt);
        atomic_store(&generation->finish, FINISH_NONE);
        memset(generation->token + generation->n_prompt, 0xff,
               (size_t)generation->max_new * sizeof *generation->token);
        if (generation->score)
            memset(generation->score, 0xff, rig_n_scores(generation) * sizeof *generation->score);
    }
}

struct rig_counts rig_run(const struct rig_group *group, const struct rig_case *what,
                          struct rig_list *list) {
    struct run run = {.group = group, .what = what, .supplied = {.list = list}};
    run.supply = (struct supply){list_next, list_exhausted, list_n_ready,
                                 list_poke, list_wait,      &run.supplied};
    struct rig_counts counts = {.n_rows = {0}};
    if (list) renew(list);
    memset(rows_in_slot, 0, sizeof rows_in_slot);
    open_limits(&run);
    open_device(&run);
    open_wire(&run);
    open_decode(&run);
    if (what->kv_noise) decode_fill_cache(run.decode, what->kv_noise, what->n_threads);
    decode_run(run.decode);
    if (group->topology.leader) counts.batch = batch_counts(run.batch);
    memcpy(counts.n_rows, rows_in_slot, sizeof rows_in_slot);
    close_run(&run);
    return counts;
}

/* ---- instruction sets -------------------------------------------------------------------------
 */

bool rig_has_isa(enum isa_wish isa) {
    struct fault fault = {0};
    struct device *device;
    struct device_options options = {.n_threads = 1, .isa = (int)isa};
    if (!device_cpu.open(&device, &options, &fault)) return false;
    device_cpu.close(device);
    return true;
}

const char *rig_isa_name(enum isa_wish isa) {
    static const char *const name[] = {"auto", "plain", "avx2", "avx512"};
    return name[isa];
}

/* ---- MPI test programs ------------------------------------------------------------------------
 */

int rig_begin(int *argc, char ***argv) {
    int provided, rank;
    MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided);
    CHECK_MPI(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
    CHECK_MPI(MPI_Comm_rank(MPI_COMM_WORLD, &rank));
    REQUIRE(provided >= MPI_THREAD_FUNNELED, "MPI gives thread level %d", provided);
    setvbuf(stdout, NULL, _IOLBF, 0);
    return rank;
}

int rig_comm(int first, int n) {
    MPI_Comm comm;
    int rank;
    CHECK_MPI(MPI_Comm_rank(MPI_COMM_WORLD, &rank));
    bool member = rank >= first && rank < first + n;
    CHECK_MPI(MPI_Comm_split(MPI_COMM_WORLD, member ? 0 : MPI_UNDEFINED, rank, &comm));
    if (member) CHECK_MPI(MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN));
    return MPI_Comm_c2f(comm);
}

static void wait_sleeping(MPI_Request *request) {
    for (int done = 0; !done;) {
        CHECK_MPI(MPI_Test(request, &done, MPI_STATUS_IGNORE));
        if (!done) nanosleep(&(struct timespec){0, 2000000}, NULL);
    }
}

void rig_wait_all(void) {
    MPI_Request request;
    CHECK_MPI(MPI_Ibarrier(MPI_COMM_WORLD, &request));
    wait_sleeping(&request);
}

int rig_end(bool good) {
    int mine = good, all;
    MPI_Request request;
    CHECK_MPI(MPI_Iallreduce(&mine, &all, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD, &request));
    wait_sleeping(&request);
    MPI_Finalize();
    return all ? 0 : 1;
}
