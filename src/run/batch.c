/* batch.c - from headers to a rank's own rows and fans. See batch.h.
 *
 * The same few lines turn a header into rows on every rank, so that no two ranks can disagree about
 * what crosses between them: rows of an owner are consecutive, a block is (its rows) x (its heads).
 */
#include "batch.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "leader.h"

struct batch {
    struct batch_options options;
    struct leader *leader; /* NULL elsewhere */
    struct slot *slot;     /* (n_slots) */
    struct header header;  /* as taken, on ranks other than the leader */
    unsigned char *bytes;  /* a header on the wire */
    bool holds_kv;         /* attention ranks, and the one rank of a colocated job */
    struct kv kv;
    int *first_row; /* (n_owners + 1) of each owner in the slot's rows */
};

static bool is_attention(const struct batch *batch) {
    return batch->options.topology->role == ROLE_ATTENTION;
}

static void open_slot(struct slot *slot, const struct batch *batch) {
    const struct batch_limits *limits = &batch->options.limits;
    size_t n_rows = (size_t)limits->max_rows, n_picked = (size_t)limits->max_picked;
    size_t n_blocks = (size_t)batch->options.topology->layout.attention_ranks + 1;
    slot->id = check_alloc(n_rows, sizeof *slot->id);
    slot->position = check_alloc(n_rows, sizeof *slot->position);
    slot->sequence = check_alloc(n_rows, sizeof *slot->sequence);
    slot->picked = check_alloc(n_picked, sizeof *slot->picked);
    slot->chunk = check_alloc((size_t)limits->max_batch, sizeof *slot->chunk);
    slot->wish = check_alloc(n_picked, sizeof *slot->wish);
    slot->q_block = check_alloc(n_blocks, sizeof *slot->q_block);
    slot->kv_block = check_alloc(n_blocks, sizeof *slot->kv_block);
    slot->rows = (struct rows){.id = slot->id,
                               .position = slot->position,
                               .sequence = slot->sequence,
                               .chunk = slot->chunk,
                               .picked = slot->picked,
                               .wish = slot->wish};
    slot->fan[MESSAGE_Q].block = slot->fan[MESSAGE_OUT].block = slot->q_block;
    slot->fan[MESSAGE_KV].block = slot->kv_block;
}

static void close_slot(struct slot *slot) {
    free(slot->id);
    free(slot->position);
    free(slot->sequence);
    free(slot->picked);
    free(slot->chunk);
    free(slot->wish);
    free(slot->q_block);
    free(slot->kv_block);
}

static void post_header(struct batch *batch, int slot) {
    if (!batch->options.control) return;
    size_t n_bytes = header_write(leader_header(batch->leader, slot), batch->bytes);
    control_post(batch->options.control, slot, batch->bytes, n_bytes);
}

void batch_open(struct batch **opened, const struct batch_options *options) {
    const struct batch_limits *limits = &options->limits;
    struct batch *batch = check_alloc(1, sizeof *batch);
    batch->options = *options;
    batch->slot = check_alloc((size_t)limits->n_slots, sizeof *batch->slot);
    batch->bytes = check_alloc(1, header_most_bytes(limits));
    batch->first_row = check_alloc((size_t)limits->n_owners + 1, sizeof *batch->first_row);
    header_open(&batch->header, limits);
    for (int slot = 0; slot < limits->n_slots; slot++)
        open_slot(&batch->slot[slot], batch);
    batch->holds_kv = is_attention(batch) || options->topology->layout.attention_ranks == 0;
    if (batch->holds_kv)
        kv_open(&batch->kv, limits->n_pages, limits->n_slots * limits->max_batch, limits->context);
    if (options->supply) leader_open(&batch->leader, options);
    *opened = batch;
}

void batch_start(struct batch *batch, int step) {
    for (int slot = 0; batch->leader && slot < batch->options.limits.n_slots; slot++) {
        leader_form(batch->leader, slot, step);
        post_header(batch, slot);
    }
}

void batch_close(struct batch *batch) {
    if (!batch) return;
    leader_close(batch->leader);
    for (int slot = 0; slot < batch->options.limits.n_slots; slot++)
        close_slot(&batch->slot[slot]);
    header_close(&batch->header);
    kv_close(&batch->kv);
    free(batch->slot);
    free(batch->bytes);
    free(batch->first_row);
    free(batch);
}

/* ---- rows and fans ----------------------------------------------------------------------------
 */

/* This rank's rows of the header's chunks; on an attention rank those of its own sequences, from 0.
 */
static void make_rows(struct batch *batch, struct slot *slot, const struct header *header) {
    struct rows *rows = &slot->rows;
    rows->n_rows = rows->n_chunks = 0;
    int header_row = 0, owner = 0;
    batch->first_row[0] = 0;
    for (int at = 0; at < header->n_chunks; at++) {
        const struct header_chunk *chunk = &header->chunk[at];
        while (owner < chunk->owner)
            batch->first_row[++owner] = header_row;
        header_row += chunk->n_rows;
        if (is_attention(batch) && chunk->owner != batch->options.topology->owner) continue;
        int end = chunk->first_position + chunk->n_rows;
        if (batch->holds_kv) kv_extend(&batch->kv, chunk->sequence, end);
        slot->chunk[rows->n_chunks++] = (struct chunk){
            .first_row = rows->n_rows,
            .n_rows = chunk->n_rows,
            .first_position = chunk->first_position,
            .page = batch->holds_kv ? kv_pages(&batch->kv, chunk->sequence) : NULL,
        };
        for (int row = 0; row < chunk->n_rows; row++) {
            slot->id[rows->n_rows] = header->id[header_row - chunk->n_rows + row];
            slot->position[rows->n_rows] = chunk->first_position + row;
            slot->sequence[rows->n_rows] = chunk->sequence;
            rows->n_rows += 1;
        }
    }
    while (owner < batch->options.limits.n_owners)
        batch->first_row[++owner] = header_row;
}

static void make_picks(struct batch *batch, struct slot *slot, const struct header *header) {
    slot->rows.n_picked = is_attention(batch) ? 0 : header->n_picked;
    for (int at = 0; at < slot->rows.n_picked; at++)
        slot->picked[at] = header->pick[at].row;
    if (batch->leader) leader_wishes(batch->leader, slot->rows.slot, slot->wish);
}

static void set_blocks(struct slot *slot, int n_blocks) {
    for (int message = MESSAGE_Q; message <= MESSAGE_OUT; message++)
        slot->fan[message].n_blocks = n_blocks;
}

/* One attention rank's share, in rows and columns of the model rank's value or of its own. */
static void put_block(struct slot *slot, const struct batch_limits *limits, int peer,
                      struct block rows, struct head_share heads) {
    int group = limits->n_heads / limits->n_kv_heads;
    int q_head = group * limits->head_dim, kv_head = 2 * limits->head_dim;
    int at = slot->fan[MESSAGE_Q].n_blocks;
    slot->q_block[at] =
        (struct block){peer, rows.row, rows.n_rows, heads.first * q_head, heads.n * q_head};
    slot->kv_block[at] =
        (struct block){peer, rows.row, rows.n_rows, heads.first * kv_head, heads.n * kv_head};
    set_blocks(slot, at + 1);
}

static void make_fans(struct batch *batch, struct slot *slot) {
    const struct topology *topology = batch->options.topology;
    const struct layout *layout = &topology->layout;
    const struct batch_limits *limits = &batch->options.limits;
    set_blocks(slot, 0);
    if (layout->attention_ranks == 0 || slot->rows.n_rows == 0) return;
    if (is_attention(batch)) { /* all of its own value goes to and comes from the model rank */
        struct head_share heads = layout_heads(layout, limits->n_kv_heads, topology->head_index);
        heads.first = 0;
        put_block(slot, limits, 0, (struct block){.n_rows = slot->rows.n_rows}, heads);
        return;
    }
    for (int owner = 0; owner < layout->sequences; owner++) {
        struct block rows = {.row = batch->first_row[owner],
                             .n_rows = batch->first_row[owner + 1] - batch->first_row[owner]};
        if (rows.n_rows == 0) continue;
        for (int share = 0; share < layout->heads; share++)
            put_block(slot, limits, layout_attention_rank(layout, owner, share), rows,
                      layout_heads(layout, limits->n_kv_heads, share));
    }
}

struct slot *batch_begin(struct batch *batch, int at) {
    struct slot *slot = &batch->slot[at];
    const struct header *header = &batch->header;
    if (batch->leader) {
        header = leader_header(batch->leader, at);
        header_check(header, &batch->options.limits);
    } else {
        size_t n_bytes = control_take(batch->options.control, at, batch->bytes);
        header_read(&batch->header, &batch->options.limits, batch->bytes, n_bytes);
    }
    slot->rows.slot = at;
    slot->rows.step = header->step;
    slot->last = header->last;
    if (batch->holds_kv) {
        for (int released = 0; released < header->n_released; released++)
            kv_release(&batch->kv, header->released[released]);
    }
    make_rows(batch, slot, header);
    make_picks(batch, slot, header);
    make_fans(batch, slot);
    return slot;
}

void batch_end(struct batch *batch, int at) {
    if (batch->leader) leader_end_step(batch->leader, at);
    if (batch->leader && !batch->slot[at].last) {
        leader_form(batch->leader, at, batch->slot[at].rows.step + 1);
        post_header(batch, at);
    }
    if (batch->options.tick) batch->options.tick(batch->options.tick_argument);
}

struct step_span batch_step_span(const struct batch *batch, int at) {
    const struct rows *rows = &batch->slot[at].rows;
    struct step_span step = {.step = rows->step,
                             .slot = at,
                             .n_rows = rows->n_rows,
                             .n_sequences = rows->n_chunks,
                             .n_pages_used = batch->kv.n_pages - batch->kv.n_free,
                             .n_prompt_rows = -1,
                             .n_decode_rows = -1,
                             .n_recomputed_rows = -1};
    if (batch->leader) leader_count_step(batch->leader, &step);
    return step;
}

/* ---- between two walks ------------------------------------------------------------------------
 */

bool batch_over(const struct batch *batch) {
    return leader_over(batch->leader);
}

void batch_stop(struct batch *batch) {
    leader_end(batch->leader);
}

int batch_keep(struct batch *batch, struct kept *kept) {
    return leader_keep(batch->leader, kept);
}

int batch_restore(struct batch *batch, bool with_kv, int n_restored, struct kept *kept) {
    return leader_restore(batch->leader, with_kv, n_restored, kept);
}

static bool is_own(const struct batch *batch, const struct kept *kept) {
    return batch->holds_kv && kept->n_rows > 0 &&
           (!is_attention(batch) || kept->owner == batch->options.topology->owner);
}

void batch_hold(struct batch *batch, const struct kept *kept, int n_kept) {
    for (int at = 0; at < n_kept; at++) {
        if (is_own(batch, &kept[at])) kv_extend(&batch->kv, kept[at].handle, kept[at].n_rows);
    }
}

void batch_forget(struct batch *batch, const struct kept *forgotten, int n_forgotten) {
    for (int at = 0; at < n_forgotten; at++) {
        if (is_own(batch, &forgotten[at])) kv_release(&batch->kv, forgotten[at].handle);
        if (batch->leader) leader_forget(batch->leader, forgotten[at].handle);
    }
}

const struct kv *batch_kv(const struct batch *batch) {
    return batch->holds_kv ? &batch->kv : NULL;
}

void batch_watch(struct batch *batch, void (*taking)(void *argument, int32_t page),
                 void *argument) {
    batch->kv.taking = taking;
    batch->kv.taking_argument = argument;
}

struct batch_counts batch_counts(const struct batch *batch) {
    return leader_counts(batch->leader);
}

const struct latencies *batch_latencies(const struct batch *batch) {
    return leader_latencies(batch->leader);
}
