/* checkpoint_pages: what a sequence had in one layout's caches it has again in another's, from
 * files of several checkpoints, whatever becomes of the cache while they are written; what cannot
 * be read is told. Expected are the numbers that were made up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint_pages.h"
#include "clock.h"
#include "scratch.h"

enum { N_LAYERS = 3, N_HEADS = 3, HEAD_DIM = 40, N_PAGES = 24, MOST_KEPT = 4, MOST_FILES = 64 };

static const char uuid[] = "00000000-1111-2222-3333-444444444444";
static struct device *device;
static struct background *background;

static bool is_idle_within(double seconds) {
    struct deadline deadline = clock_deadline(seconds);
    while (!background_idle(background) && !clock_expired(deadline))
        usleep(1000);
    return background_idle(background);
}

/* A device whose background reads no page before the gate is opened, and that one late, so that
 * whoever does not wait for it has overwritten the page by then. */
enum gate { GATE_OPEN, GATE_SHUT, GATE_LATE };
static atomic_int gate, n_at_gate;
static pthread_t decoding;

static void gated_read_page(struct device *of, void *to, const struct kv_cache *cache, int page,
                            int n_tokens) {
    if (!pthread_equal(pthread_self(), decoding)) {
        n_at_gate += 1;
        while (gate == GATE_SHUT)
            usleep(1000);
        if (atomic_exchange(&gate, GATE_OPEN) == GATE_LATE) usleep(200000);
    }
    device_cpu.read_page(of, to, cache, page, n_tokens);
}

/* A rank's cache and books. */
struct rank {
    struct kv_cache cache;
    struct kv kv;
    struct checkpoint_pages *pages;
    int first_head, n_heads;
};

static struct device_ops gated;
static double patience_s = 60;

static void open_rank(struct rank *rank, int owner, int head_index, int first_head, int n_heads) {
    size_t page = 2 * (size_t)n_heads * PAGE_TOKENS * HEAD_DIM * sizeof(uint16_t);
    *rank = (struct rank){.first_head = first_head, .n_heads = n_heads};
    rank->cache = (struct kv_cache){.buffer = device_cpu.alloc(device, N_LAYERS * N_PAGES * page),
                                    .n_layers = N_LAYERS,
                                    .n_pages = N_PAGES,
                                    .n_kv_heads = n_heads,
                                    .head_dim = HEAD_DIM,
                                    .element = ELEMENT_BF16};
    kv_open(&rank->kv, N_PAGES, MOST_KEPT, N_PAGES * PAGE_TOKENS);
    struct checkpoint_pages_options options = {
        .folder = scratch_folder,
        .about = {.owner = owner,
                  .first_head = first_head,
                  .n_heads = n_heads,
                  .shape = {N_LAYERS, N_HEADS, HEAD_DIM, ELEMENT_BF16}},
        .head_index = head_index,
        .device_ops = &gated,
        .device = device,
        .cache = &rank->cache,
        .kv = &rank->kv,
        .background = background,
        .n_buffers = 2,
        .patience_s = patience_s};
    memcpy(options.about.uuid, uuid, sizeof uuid);
    checkpoint_pages_open(&rank->pages, &options);
    rank->kv.taking = checkpoint_pages_save;
    rank->kv.taking_argument = rank->pages;
}

static void close_rank(struct rank *rank) {
    checkpoint_pages_close(rank->pages);
    device_cpu.release(device, rank->cache.buffer);
    kv_close(&rank->kv);
}

/* The number of a place in the cache, whoever holds it. */
static uint16_t number_at(int64_t text, int layer, int head, int which, int position, int dim) {
    uint64_t value = (uint64_t)text * 1000003 + (uint64_t)layer;
    value = value * 31 + (uint64_t)(2 * head + which);
    value = (value * 4099 + (uint64_t)position) * 67 + (uint64_t)dim;
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
    return (uint16_t)(value >> 20);
}

/* Bytes of the cache before the numbers of a head's K or V at a position. */
static size_t place_of(const struct rank *rank, int handle, int layer, int head, int which,
                       int position) {
    int32_t page = kv_pages(&rank->kv, handle)[position / PAGE_TOKENS];
    size_t row = ((size_t)layer * N_PAGES + (size_t)page) * (size_t)rank->n_heads;
    row = (row + (size_t)(head - rank->first_head)) * 2 + (size_t)which;
    return (row * PAGE_TOKENS + (size_t)(position % PAGE_TOKENS)) * HEAD_DIM * sizeof(uint16_t);
}

/* Positions from `first` on of a sequence whose numbers `text` tells. */
static void append(struct rank *rank, int handle, int64_t text, int first, int n_rows) {
    kv_extend(&rank->kv, handle, n_rows);
    for (int layer = 0; layer < N_LAYERS; layer++)
        for (int head = rank->first_head; head < rank->first_head + rank->n_heads; head++)
            for (int which = 0; which < 2; which++)
                for (int position = first; position < n_rows; position++) {
                    uint16_t number[HEAD_DIM];
                    for (int dim = 0; dim < HEAD_DIM; dim++)
                        number[dim] = number_at(text, layer, head, which, position, dim);
                    device_cpu.upload(device, rank->cache.buffer,
                                      place_of(rank, handle, layer, head, which, position), number,
                                      sizeof number);
                }
}

static bool holds(const struct rank *rank, int handle, int64_t text, int n_rows) {
    for (int layer = 0; layer < N_LAYERS; layer++)
        for (int head = rank->first_head; head < rank->first_head + rank->n_heads; head++)
            for (int which = 0; which < 2; which++)
                for (int position = 0; position < n_rows; position++) {
                    uint16_t number[HEAD_DIM];
                    device_cpu.download(device, number, rank->cache.buffer,
                                        place_of(rank, handle, layer, head, which, position),
                                        sizeof number);
                    for (int dim = 0; dim < HEAD_DIM; dim++)
                        if (number[dim] != number_at(text, layer, head, which, position, dim))
                            return false;
                }
    return true;
}

/* The attempt at a checkpoint that counts. */
static uint64_t attempt_at(int64_t number) {
    return 0xa0000000 + (uint64_t)number;
}

/* One checkpoint of one rank; what was written. */
static struct checkpoint_pages_written save(struct rank *rank, int64_t number,
                                            const struct kept *kept, int n_kept, bool counts) {
    struct checkpoint_pages_written written;
    struct fault fault = {0};
    checkpoint_pages_begin(rank->pages, number, attempt_at(number), kept, n_kept);
    assert_true(is_idle_within(60));
    if (!checkpoint_pages_result(rank->pages, &written, &fault)) fail_msg("%s", fault.text);
    checkpoint_pages_end(rank->pages, counts);
    return written;
}

/* What a manifest would say of the files in the folder, these the newest; close_source frees it. */
static struct checkpoint_pages_source source_of(int64_t number, const char *const *name,
                                                int n_names) {
    static struct manifest_file file[MOST_FILES];
    struct checkpoint_pages_source source = {.number = number,
                                             .attempt = attempt_at(number),
                                             .n_newest = n_names,
                                             .n_files = n_names,
                                             .file = file};
    struct stat status;
    for (int at = 0; at < n_names; at++)
        file[at].name = strdup(name[at]);
    DIR *entries = opendir(scratch_folder);
    for (struct dirent *entry; (entry = readdir(entries));) {
        if (entry->d_name[0] != 'c') continue;
        assert_true(source.n_files < MOST_FILES);
        file[source.n_files++].name = strdup(entry->d_name);
    }
    closedir(entries);
    for (int at = 0; at < source.n_files; at++)
        file[at].n_bytes = stat(scratch_path(file[at].name), &status) == 0 ? status.st_size : 0;
    return source;
}

static void close_source(struct checkpoint_pages_source *source) {
    for (int at = 0; at < source->n_files; at++)
        free(source->file[at].name);
}

/* Read into new pages of handles that are turned round. */
static void restore_from(struct rank *rank, const struct checkpoint_pages_source *source,
                         const struct kept *kept, int n_kept, unsigned char *failed,
                         struct fault *fault) {
    struct kept turned[MOST_KEPT];
    kv_extend(&rank->kv, MOST_KEPT - 1, 3 * PAGE_TOKENS); /* so that pages are others */
    for (int at = 0; at < n_kept; at++) {
        turned[at] = kept[at];
        turned[at].handle = n_kept - 1 - at;
        kv_extend(&rank->kv, turned[at].handle, turned[at].n_rows);
    }
    checkpoint_pages_restore(rank->pages, source, turned, n_kept, failed, fault);
}

static void restore(struct rank *rank, int64_t number, const char *const *name, int n_names,
                    const struct kept *kept, int n_kept, unsigned char *failed,
                    struct fault *fault) {
    struct checkpoint_pages_source source = source_of(number, name, n_names);
    restore_from(rank, &source, kept, n_kept, failed, fault);
    close_source(&source);
}

static struct kept kept_of(int64_t saved, int handle, int n_rows) {
    return (struct kept){.saved = saved, .handle = handle, .n_rows = n_rows};
}

/* From one rank with all heads to two with some. */
static void pages_move_between_layouts(void **state) {
    (void)state;
    struct rank one, first, second;
    struct kept kept[] = {kept_of(5, 0, 130), kept_of(2, 1, 64), kept_of(9, 2, 5)};
    char name[CHECKPOINT_NAME_BYTES], *names[] = {name};
    open_rank(&one, 0, 0, 0, N_HEADS);
    for (int at = 0; at < 3; at++)
        append(&one, at, 70 + at, 0, kept[at].n_rows);
    struct checkpoint_pages_written written = save(&one, 1, kept, 3, true);
    assert_int_equal(written.n_pages, 5);
    assert_int_equal(written.n_new, 5);
    checkpoint_pages_name(name, 1, 0, 0);
    open_rank(&first, 0, 0, 0, 2);
    open_rank(&second, 0, 1, 2, 1);
    struct rank *rank[] = {&first, &second};
    for (int at = 0; at < 2; at++) {
        unsigned char failed[3] = {1, 1, 1};
        struct fault fault = {0};
        restore(rank[at], 1, (const char *const *)names, 1, kept, 3, failed, &fault);
        for (int own = 0; own < 3; own++) {
            assert_false(failed[own]);
            assert_true(holds(rank[at], 2 - own, 70 + own, kept[own].n_rows));
        }
    }
    close_rank(&one);
    close_rank(&first);
    close_rank(&second);
}

/* From two ranks by heads to one; a file that is not there fails all that had heads in it. */
static void heads_come_from_several_files(void **state) {
    (void)state;
    struct rank first, second, one;
    struct kept kept[] = {kept_of(0, 0, 70), kept_of(1, 1, 200)};
    char name[2][CHECKPOINT_NAME_BYTES], *names[] = {name[0], name[1]};
    open_rank(&first, 0, 0, 0, 2);
    open_rank(&second, 0, 1, 2, 1);
    struct rank *rank[] = {&first, &second};
    for (int at = 0; at < 2; at++) {
        for (int own = 0; own < 2; own++)
            append(rank[at], own, 30 + own, 0, kept[own].n_rows);
        save(rank[at], 7, kept, 2, true);
        checkpoint_pages_name(name[at], 7, 0, at);
    }
    for (int n_names = 1; n_names <= 2; n_names++) {
        unsigned char failed[2];
        struct fault fault = {0};
        open_rank(&one, 0, 0, 0, N_HEADS);
        restore(&one, 7, (const char *const *)names, n_names, kept, 2, failed, &fault);
        for (int own = 0; own < 2; own++) {
            assert_int_equal(failed[own], n_names == 1);
            assert_int_equal(holds(&one, 1 - own, 30 + own, kept[own].n_rows), n_names == 2);
        }
        assert_int_equal(fault.kind, n_names == 1 ? FAULT_WORLD : FAULT_NONE);
        close_rank(&one);
    }
    close_rank(&first);
    close_rank(&second);
}

/* Only what is new or has grown is written again; all of it is read. */
static void later_files_build_on_earlier_ones(void **state) {
    (void)state;
    struct rank one, other;
    struct kept kept[] = {kept_of(0, 0, 130), kept_of(1, 1, 640)};
    char name[CHECKPOINT_NAME_BYTES], *names[] = {name};
    open_rank(&one, 0, 0, 0, N_HEADS);
    append(&one, 0, 1, 0, 130);
    append(&one, 1, 2, 0, 640);
    save(&one, 1, kept, 2, true);
    /* a file that does not count is as if it had never been */
    append(&one, 0, 1, 130, 140);
    kept[0].n_rows = 140;
    struct checkpoint_pages_written written = save(&one, 2, kept, 2, false);
    assert_int_equal(written.n_new, 1);
    checkpoint_pages_name(name, 2, 0, 0);
    assert_int_not_equal(access(scratch_path(name), F_OK), 0);
    append(&one, 0, 1, 140, 200);
    kept[0].n_rows = 200;
    kept[0].saved = 8; /* numbers are each checkpoint's own */
    written = save(&one, 3, kept, 2, true);
    assert_int_equal(written.n_pages, 4 + 10);
    assert_int_equal(written.n_new, 2);
    /* a page given to another sequence is new, however many positions it holds */
    kv_release(&one.kv, 0);
    append(&one, 2, 3, 0, 200);
    kept[0].handle = 2;
    written = save(&one, 4, kept, 2, true);
    assert_int_equal(written.n_new, 4);
    checkpoint_pages_name(name, 4, 0, 0);
    open_rank(&other, 0, 0, 1, 2);
    unsigned char failed[2];
    struct fault fault = {0};
    restore(&other, 4, (const char *const *)names, 1, kept, 2, failed, &fault);
    assert_false(failed[0] || failed[1]);
    assert_true(holds(&other, 1, 3, 200));
    assert_true(holds(&other, 0, 2, 640));
    close_rank(&other);
    /* what lives in a file that is mostly dead is written again, and the file not read any more */
    kv_release(&one.kv, 1);
    append(&one, 1, 5, 0, 640);
    save(&one, 5, kept, 2, true);
    checkpoint_pages_name(name, 1, 0, 0);
    assert_int_equal(unlink(scratch_path(name)), 0);
    checkpoint_pages_name(name, 3, 0, 0);
    assert_int_equal(unlink(scratch_path(name)), 0);
    checkpoint_pages_name(name, 5, 0, 0);
    open_rank(&other, 0, 0, 0, N_HEADS);
    restore(&other, 5, (const char *const *)names, 1, kept, 2, failed, &fault);
    if (failed[0] || failed[1]) fail_msg("%s", fault.text);
    assert_true(holds(&other, 0, 5, 640));
    close_rank(&other);
    /* after a checkpoint without KV nothing older counts */
    checkpoint_pages_forget(one.pages);
    assert_int_equal(save(&one, 7, kept, 2, true).n_new, 14);
    close_rank(&one);
}

/* A file of the right name that another attempt has left, or that has not the size it was written
 * with, is as good as none: its own, and one that it refers to. */
static void files_of_other_attempts_are_refused(void **state) {
    (void)state;
    struct rank one;
    struct kept kept[] = {kept_of(0, 0, 64), kept_of(1, 1, 128)};
    char name[2][CHECKPOINT_NAME_BYTES], *newest[] = {name[1]};
    open_rank(&one, 0, 0, 0, N_HEADS);
    append(&one, 0, 1, 0, 64);
    save(&one, 30, kept, 1, true);
    append(&one, 1, 2, 0, 128);
    assert_int_equal(save(&one, 31, kept, 2, true).n_new, 2);
    checkpoint_pages_name(name[0], 30, 0, 0);
    checkpoint_pages_name(name[1], 31, 0, 0);
    close_rank(&one);
    enum { WELL, NEWEST, NUMBER, OLDER, SIZE, UNLISTED, CASES };
    static const char *const reason[CASES] = {"",
                                              "is of another attempt",
                                              "is of checkpoint 31, not 30",
                                              "is of another attempt",
                                              "bytes, not the",
                                              "is in no list"};
    for (int row = 0; row < CASES; row++) {
        struct checkpoint_pages_source source = source_of(31, (const char *const *)newest, 1);
        struct manifest_file *file = (struct manifest_file *)source.file;
        unsigned char failed[2];
        struct fault fault = {0};
        source.attempt += row == NEWEST;
        source.number -= row == NUMBER;
        if (row == SIZE) file[0].n_bytes += 1;
        if (row == OLDER) { /* the same pages, by another attempt at the same number */
            struct rank again;
            open_rank(&again, 0, 0, 0, N_HEADS);
            append(&again, 0, 9, 0, 64);
            checkpoint_pages_begin(again.pages, 30, attempt_at(30) + 1, kept, 1);
            assert_true(is_idle_within(60));
            close_rank(&again);
            close_source(&source);
            source = source_of(31, (const char *const *)newest, 1);
        }
        int n_files = source.n_files;
        if (row == UNLISTED) source.n_files = 1;
        open_rank(&one, 0, 0, 0, N_HEADS);
        restore_from(&one, &source, kept, 2, failed, &fault);
        assert_int_equal(failed[0], row != WELL);
        assert_int_equal(failed[1], row == NEWEST || row == NUMBER || row == SIZE);
        if (!strstr(fault.text, reason[row])) fail_msg("%d: %s", row, fault.text);
        if (row == OLDER || row == UNLISTED) assert_true(holds(&one, 0, 2, 128));
        close_rank(&one);
        source.n_files = n_files;
        close_source(&source);
    }
}

/* Begin a checkpoint of the two sequences, and come back when the background stands at the gate,
 * about to read the first page. */
static void begin_at_gate(struct rank *rank, int64_t number, const struct kept *kept) {
    append(rank, 0, 1, 0, kept[0].n_rows);
    append(rank, 1, 2, 0, kept[1].n_rows);
    gate = GATE_SHUT;
    n_at_gate = 0;
    checkpoint_pages_begin(rank->pages, number, attempt_at(number), kept, 2);
    struct deadline deadline = clock_deadline(60);
    while (n_at_gate == 0 && !clock_expired(deadline))
        usleep(1000);
    assert_int_equal(n_at_gate, 1);
}

/* Decode goes on while the pages of a checkpoint have yet to be read: one sequence grows, the other
 * is released and its pages are handed out at once: the page at the gate first (0), or more than
 * there are buffers while the background is at another (1). What is read back is what there was,
 * and what came after is new for the next checkpoint. */
static void overwrite(int released) {
    int grows = 1 - released, n_rows[] = {400, 300};
    int64_t number = 40 + 2 * released;
    struct kept kept[] = {kept_of(0, 0, n_rows[0]), kept_of(1, 1, n_rows[1])};
    struct rank one, other;
    struct checkpoint_pages_written written;
    struct fault fault = {0};
    unsigned char failed[2];
    char name[CHECKPOINT_NAME_BYTES], *names[] = {name};
    checkpoint_pages_name(name, number, 0, 0);
    open_rank(&one, 0, 0, 0, N_HEADS);
    begin_at_gate(&one, number, kept);
    append(&one, grows, 1 + grows, n_rows[grows], n_rows[grows] + 100);
    kv_release(&one.kv, released);
    gate = GATE_LATE;
    append(&one, 2, 3, 0, 64);
    append(&one, 2, 3, 64, 640);
    assert_true(is_idle_within(60));
    if (!checkpoint_pages_result(one.pages, &written, &fault)) fail_msg("%s", fault.text);
    assert_int_equal(written.n_new, 7 + 5);
    assert_true(written.held_s > 0);
    checkpoint_pages_end(one.pages, true);
    for (int later = 0; later < 2; later++) {
        open_rank(&other, 0, 0, 0, N_HEADS);
        restore(&other, number + later, (const char *const *)names, 1, kept, 2, failed, &fault);
        if (failed[0] || failed[1]) fail_msg("%s", fault.text);
        assert_true(holds(&other, 1, later && released == 0 ? 3 : 1, kept[0].n_rows));
        assert_true(holds(&other, 0, later && released == 1 ? 3 : 2, kept[1].n_rows));
        close_rank(&other);
        if (later) break;
        kept[grows].n_rows += 100;
        kept[released].n_rows = 640;
        kept[released].handle = 2;
        save(&one, number + 1, kept, 2, true);
        kept[released].handle = released;
        checkpoint_pages_name(name, number + 1, 0, 0);
    }
    close_rank(&one);
}

static void decode_overwrites_nothing_that_is_kept(void **state) {
    (void)state;
    overwrite(0);
    overwrite(1);
}

/* With every buffer in use and the disk at a stand decode waits no longer than it may, once for all
 * pages of a step; the checkpoint fails, and nothing of it is there. */
static void decode_waits_no_longer_than_it_may(void **state) {
    (void)state;
    struct kept kept[] = {kept_of(0, 0, 400), kept_of(1, 1, 100)};
    struct rank one;
    struct checkpoint_pages_written written;
    struct fault fault = {0};
    char name[CHECKPOINT_NAME_BYTES];
    patience_s = 0.2;
    open_rank(&one, 0, 0, 0, N_HEADS);
    patience_s = 60;
    begin_at_gate(&one, 50, kept);
    kv_release(&one.kv, 0);
    append(&one, 2, 3, 0, 640);
    gate = GATE_OPEN;
    assert_true(is_idle_within(60));
    assert_false(checkpoint_pages_result(one.pages, &written, &fault));
    assert_true(written.held_s >= 0.2);
    if (!strstr(fault.text, "is written too slowly")) fail_msg("%s", fault.text);
    checkpoint_pages_end(one.pages, false);
    checkpoint_pages_name(name, 50, 0, 0);
    assert_int_not_equal(access(scratch_path(name), F_OK), 0);
    assert_int_equal(save(&one, 51, &kept[1], 1, true).n_new, 2);
    close_rank(&one);
}

/* Sequences of other owners are left alone, as are those without rows. */
static void ranks_keep_to_their_own(void **state) {
    (void)state;
    struct rank one;
    struct kept kept[] = {kept_of(0, 0, 64), kept_of(1, 1, 64), kept_of(2, 2, 0)};
    kept[1].owner = 1;
    open_rank(&one, 0, 0, 0, N_HEADS);
    append(&one, 0, 1, 0, 64);
    append(&one, 1, 2, 0, 64);
    assert_int_equal(save(&one, 20, kept, 3, true).n_pages, 1);
    close_rank(&one);
}

static int open_all(void **state) {
    struct fault fault = {0};
    struct device_options options = {.n_threads = 1};
    decoding = pthread_self();
    gated = device_cpu;
    gated.read_page = gated_read_page;
    return scratch_open(state) || !device_cpu.open(&device, &options, &fault) ||
           !background_open(&background, "test", &fault);
}

static int close_all(void **state) {
    background_close(background);
    device_cpu.close(device);
    return scratch_close(state);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages_move_between_layouts),
        cmocka_unit_test(heads_come_from_several_files),
        cmocka_unit_test(later_files_build_on_earlier_ones),
        cmocka_unit_test(files_of_other_attempts_are_refused),
        cmocka_unit_test(decode_overwrites_nothing_that_is_kept),
        cmocka_unit_test(decode_waits_no_longer_than_it_may),
        cmocka_unit_test(ranks_keep_to_their_own),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
