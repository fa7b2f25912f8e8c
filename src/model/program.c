/* program.c - a program's life, from graph to steps and places. See program.h.
 *
 * Owns the order in which the parts are made: the cut (convert.c), the steps (convert.c),
 * which of them are fused (fuse.c), the places (places.c). Printing is program_print.c. Holds
 * nothing of devices, ranks or messages beyond their place in the order of steps.
 */
#include "program.h"

#include <stdlib.h>

#include "check.h"
#include "convert.h"

static const char *const step_names[] = {
    [STEP_COMPUTE] = "compute", [STEP_GATHER_OUT] = "gather OUT", [STEP_SCATTER_Q] = "scatter Q",
    [STEP_PACK] = "pack",       [STEP_SCATTER_KV] = "scatter KV", [STEP_APPEND] = "append",
    [STEP_ATTEND] = "attend",
};

const char *step_name(enum step_kind kind) {
    REQUIRE(kind >= 0 && kind < (int)(sizeof step_names / sizeof *step_names), "step kind %d",
            (int)kind);
    return step_names[kind];
}

void program_open(struct program *program, const struct graph *graph, bool colocated) {
    *program = (struct program){.graph = graph, .colocated = colocated};
    if (colocated) {
        convert_whole(program);
    } else {
        struct cut cut;
        convert_cut(&cut, graph);
        convert_order(program, &cut);
        convert_close(&cut);
    }
    fuse_steps(program);
    places_assign(program);
}

void program_close(struct program *program) {
    for (int slice = 0; slice < program->n_slices; slice++) {
        free(program->slice[slice].step);
        free(program->slice[slice].attention);
        free(program->slice[slice].kept);
    }
    free(program->slice);
    free(program->place);
    *program = (struct program){0};
}
