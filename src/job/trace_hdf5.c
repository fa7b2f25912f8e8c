/* trace_hdf5.c - a trace as an HDF5 file: writing. See trace_parts.h.
 *
 *   /                     format, format_version, creator, created, uuid, model,
 *                         model_fingerprint, config_json, world_size, layout (attributes)
 *   /role_map/            rank, role, host, head_index, owner: one element a rank
 *   /ranks/N/             role, host, clock_offset, ... (attributes)
 *   /ranks/N/spans/       begin, end, bytes, step, slice, slot, peer, kind, label, lane
 *   /ranks/N/turns/       begin, end, busy, wait, sent, received, step, slice, slot
 *   /ranks/N/steps/       begin, end, step, slot, rows, sequences, pages_used, ...
 *   /ranks/N/energy/      at, energy, package
 *
 * A table is a group of columns of equal length, each with its unit as an attribute: what numpy and
 * pandas take as it is. Kinds and labels are enumerations with the names in them, so that numbers
 * may change. Serial calls of the 1.10 API in its oldest format; a file is written whole, beside
 * its place, made durable and renamed. Rejected: one compound type a table, which costs readers in
 * other languages a struct, and a reader of one column the whole table.
 */
#include "trace_hdf5.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "log.h"

#define STRING(row, member, title)                                                                 \
    { title, offsetof(struct row, member), sizeof(((struct row *)0)->member) }
#define NUMBER(row, member, title)                                                                 \
    { title, offsetof(struct row, member), 0 }

const struct trace_hdf5_member trace_hdf5_head_members[] = {
    STRING(trace_head, uuid, "uuid"),
    STRING(trace_head, created, "created"),
    STRING(trace_head, creator, "creator"),
    STRING(trace_head, model, "model"),
    STRING(trace_head, fingerprint, "model_fingerprint"),
    STRING(trace_head, config, "config_json"),
    NUMBER(trace_head, n_ranks, "world_size"),
    NUMBER(trace_head, model_ranks, "model_ranks"),
    NUMBER(trace_head, attention_ranks, "attention_ranks"),
    NUMBER(trace_head, heads, "heads"),
    NUMBER(trace_head, sequences, "sequences"),
    NUMBER(trace_head, first_step, "first_step_of_spans"),
    NUMBER(trace_head, last_step, "last_step_of_spans"),
    {0},
};
const struct trace_hdf5_member trace_hdf5_rank_members[] = {
    NUMBER(trace_rank_head, rank, "rank"),
    STRING(trace_rank_head, host, "host"),
    NUMBER(trace_rank_head, head_index, "head_index"),
    NUMBER(trace_rank_head, owner, "owner"),
    STRING(trace_rank_head, energy_source, "energy_source"),
    {"clock_offset", offsetof(struct trace_rank_head, clock_offset_ns), -1},
    {"records_missing", offsetof(struct trace_rank_head, n_missing), -1},
    NUMBER(trace_rank_head, complete, "complete"),
    {0},
};

enum { CHUNK_ROWS = 1 << 16, DEFLATE_LEVEL = 1 };

struct trace_hdf5_writer {
    struct replacement place; /* borrowed */
    bool good;
    hid_t file, ranks, filters;
    struct trace_rank_head *role_map; /* (n_ranks), as far as they came */
    int n_ranks, most_ranks;
};

/* ---- both halves ------------------------------------------------------------------------------
 */

/* Why the first call since trace_hdf5_prepare failed; calls that tidy up clear the library's own
 * stack.
 */
static char first_reason[256];

/* The innermost entry is where it began. */
static herr_t take_reason(unsigned number, const H5E_error2_t *error, void *argument) {
    (void)argument;
    if (number == 0 && error->desc) snprintf(first_reason, sizeof first_reason, "%s", error->desc);
    return 0;
}

static herr_t on_failure(hid_t stack, void *argument) {
    if (!first_reason[0]) H5Ewalk2(stack, H5E_WALK_UPWARD, take_reason, argument);
    return 0;
}

void trace_hdf5_prepare(void) {
    static bool begun;
    if (!begun) H5dont_atexit();
    begun = true;
    first_reason[0] = 0;
    H5Eset_auto2(H5E_DEFAULT, on_failure, NULL);
}

bool trace_hdf5_fault(struct fault *fault, const char *path, const char *what) {
    char shown[512], text[600];
    /* the driver quotes errno among much else */
    char *message = strstr(first_reason, "error message = '");
    message = message ? message + strlen("error message = '") : first_reason;
    if (message != first_reason) message[strcspn(message, "'")] = 0;
    log_escape(shown, sizeof shown, path, strlen(path));
    log_escape(text, sizeof text, message, strlen(message));
    return fault_world(fault, "%s: %s: %s%s", shown, what, *text ? text : "HDF5 does not say why",
                       strstr(text, "lock") ? " (HDF5_USE_FILE_LOCKING=FALSE does without locks)"
                                            : "");
}

hid_t trace_hdf5_memory_type(enum trace_type type) {
    const char *(*name_of)(int64_t) = type == TRACE_KIND ? trace_kind_name : trace_label_name;
    if (type != TRACE_KIND && type != TRACE_LABEL) return H5Tcopy(H5T_NATIVE_INT64);
    hid_t names = H5Tenum_create(H5T_NATIVE_INT64);
    for (int64_t number = 0; name_of(number); number++)
        H5Tenum_insert(names, name_of(number), &number);
    return names;
}

/* ---- attributes -------------------------------------------------------------------------------
 */

/* HDF5 has no strings of no bytes. */
static bool put_string(hid_t object, const char *name, const char *text) {
    hid_t type = H5Tcopy(H5T_C_S1), space = H5Screate(H5S_SCALAR);
    H5Tset_size(type, strlen(text) + 1);
    H5Tset_cset(type, H5T_CSET_UTF8);
    hid_t attribute = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    bool good = attribute >= 0 && H5Awrite(attribute, type, text) >= 0;
    if (attribute >= 0) good = H5Aclose(attribute) >= 0 && good;
    H5Sclose(space);
    H5Tclose(type);
    return good;
}

static bool put_number(hid_t object, const char *name, int64_t number) {
    hid_t space = H5Screate(H5S_SCALAR);
    hid_t attribute = H5Acreate2(object, name, H5T_STD_I64LE, space, H5P_DEFAULT, H5P_DEFAULT);
    bool good = attribute >= 0 && H5Awrite(attribute, H5T_NATIVE_INT64, &number) >= 0;
    if (attribute >= 0) good = H5Aclose(attribute) >= 0 && good;
    H5Sclose(space);
    return good;
}

static bool put_members(hid_t object, const struct trace_hdf5_member *member, const void *row) {
    bool good = true;
    for (; good && member->name; member++) {
        const char *at = (const char *)row + member->offset;
        if (member->size > 0) {
            good = put_string(object, member->name, at);
        } else {
            int64_t number = member->size ? *(const int64_t *)at : *(const int32_t *)at;
            good = put_number(object, member->name, number);
        }
    }
    return good;
}

/* ---- columns ----------------------------------------------------------------------------------
 */

static hid_t file_type(enum trace_type type) {
    hid_t base = type == TRACE_INT64   ? H5T_STD_I64LE
                 : type == TRACE_INT32 ? H5T_STD_I32LE
                 : type == TRACE_INT16 ? H5T_STD_I16LE
                                       : H5T_STD_I8LE;
    if (type != TRACE_KIND && type != TRACE_LABEL) return H5Tcopy(base);
    hid_t names = H5Tenum_create(base);
    const char *(*name_of)(int64_t) = type == TRACE_KIND ? trace_kind_name : trace_label_name;
    for (int8_t number = 0; name_of(number); number++)
        H5Tenum_insert(names, name_of(number), &number);
    return names;
}

/* A column with its unit. Empty ones are there too, so that readers need not ask. */
static bool put_column(const struct trace_hdf5_writer *writer, hid_t group, const char *name,
                       const char *unit, hid_t file, hid_t memory, const void *data, size_t n) {
    hsize_t rows = n, chunk = n < CHUNK_ROWS ? (n ? n : 1) : CHUNK_ROWS;
    hid_t space = H5Screate_simple(1, &rows, NULL), filters = H5Pcopy(writer->filters);
    if (n > 0) H5Pset_chunk(filters, 1, &chunk);
    hid_t data_set = H5Dcreate2(group, name, file, space, H5P_DEFAULT,
                                n > 0 ? filters : H5P_DEFAULT, H5P_DEFAULT);
    bool good = data_set >= 0 && put_string(data_set, "unit", unit) &&
                (n == 0 || H5Dwrite(data_set, memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0);
    if (data_set >= 0) good = H5Dclose(data_set) >= 0 && good;
    H5Pclose(filters);
    H5Sclose(space);
    return good;
}

static bool put_table(const struct trace_hdf5_writer *writer, hid_t parent,
                      const struct trace_table *table, const void *row, size_t n) {
    hid_t group = H5Gcreate2(parent, table->name, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    int64_t *number = check_alloc(n, sizeof *number);
    bool good = group >= 0;
    for (int at = 0; good && at < table->n_columns; at++) {
        const struct trace_column *column = &table->column[at];
        hid_t file = file_type(column->type), memory = trace_hdf5_memory_type(column->type);
        for (size_t index = 0; index < n; index++)
            number[index] = trace_get(column, (const char *)row + index * table->row_bytes);
        good = put_column(writer, group, column->name, column->unit, file, memory, number, n);
        H5Tclose(file);
        H5Tclose(memory);
    }
    if (group >= 0) good = H5Gclose(group) >= 0 && good;
    free(number);
    return good;
}

/* ---- the role map -----------------------------------------------------------------------------
 */

static bool put_names(const struct trace_hdf5_writer *writer, hid_t group, const char *name,
                      bool host) {
    size_t width = sizeof writer->role_map->host;
    char *text = check_alloc((size_t)writer->n_ranks, width);
    for (int at = 0; at < writer->n_ranks; at++) {
        const struct trace_rank_head *rank = &writer->role_map[at];
        snprintf(text + (size_t)at * width, width, "%s",
                 host ? rank->host : role_name((enum role)rank->role));
    }
    hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, width);
    H5Tset_cset(type, H5T_CSET_UTF8);
    bool good = put_column(writer, group, name, "name", type, type, text, (size_t)writer->n_ranks);
    H5Tclose(type);
    free(text);
    return good;
}

static bool put_numbers(const struct trace_hdf5_writer *writer, hid_t group, const char *name,
                        const char *unit, size_t offset) {
    int64_t *number = check_alloc((size_t)writer->n_ranks, sizeof *number);
    for (int at = 0; at < writer->n_ranks; at++)
        number[at] = *(const int32_t *)((const char *)&writer->role_map[at] + offset);
    bool good = put_column(writer, group, name, unit, H5T_STD_I32LE, H5T_NATIVE_INT64, number,
                           (size_t)writer->n_ranks);
    free(number);
    return good;
}

static bool put_role_map(const struct trace_hdf5_writer *writer) {
    hid_t group = H5Gcreate2(writer->file, "role_map", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    bool good =
        group >= 0 &&
        put_numbers(writer, group, "rank", "rank", offsetof(struct trace_rank_head, rank)) &&
        put_names(writer, group, "role", false) && put_names(writer, group, "host", true) &&
        put_numbers(writer, group, "head_index", "index",
                    offsetof(struct trace_rank_head, head_index)) &&
        put_numbers(writer, group, "owner", "index", offsetof(struct trace_rank_head, owner));
    if (group >= 0) good = H5Gclose(group) >= 0 && good;
    return good;
}

/* ---- the file ---------------------------------------------------------------------------------
 */

static bool put_head(hid_t file, const struct trace_head *head) {
    char version[32];
    snprintf(version, sizeof version, "%d.%d", TRACE_MAJOR, TRACE_MINOR);
    return put_string(file, "format", trace_hdf5_format) &&
           put_string(file, "format_version", version) &&
           put_string(file, "time", "ns since `created`, on the clock of rank 0") &&
           put_members(file, trace_hdf5_head_members, head);
}

static hid_t make_filters(void) {
    hid_t filters = H5Pcreate(H5P_DATASET_CREATE);
    if (H5Zfilter_avail(H5Z_FILTER_DEFLATE) > 0) {
        hsize_t chunk = 1; /* filters ask for chunks first; put_column sets their size */
        H5Pset_chunk(filters, 1, &chunk);
        H5Pset_shuffle(filters);
        H5Pset_deflate(filters, DEFLATE_LEVEL);
    }
    H5Pset_fletcher32(filters);
    return filters;
}

struct trace_hdf5_writer *trace_hdf5_begin(const struct replacement *place,
                                           const struct trace_head *head, struct fault *fault) {
    struct trace_hdf5_writer *writer = check_alloc(1, sizeof *writer);
    writer->place = *place;
    writer->file = writer->ranks = writer->filters = -1;
    writer->role_map = check_alloc((size_t)head->n_ranks, sizeof *writer->role_map);
    writer->most_ranks = head->n_ranks;
    int fd = replacement_begin(place); /* a new file of ours, which HDF5 opens by name */
    if (fd >= 0) close(fd);
    trace_hdf5_prepare();
    if (fd >= 0) {
        writer->file = H5Fcreate(place->temporary, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
        writer->filters = make_filters();
    }
    writer->good = writer->file >= 0 && put_head(writer->file, head);
    if (writer->good)
        writer->ranks = H5Gcreate2(writer->file, "ranks", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    writer->good = writer->good && writer->ranks >= 0;
    if (fd < 0) {
        char shown[512];
        log_escape(shown, sizeof shown, place->path, strlen(place->path));
        fault_world(fault, "%s %s: %s", place->option, shown, strerror(errno));
    } else if (!writer->good) {
        trace_hdf5_fault(fault, place->path, "cannot be written");
    }
    return writer;
}

static bool put_rank(struct trace_hdf5_writer *writer, const struct trace_rank *rank) {
    char name[32];
    size_t n_turns;
    snprintf(name, sizeof name, "%d", rank->head.rank);
    hid_t group = H5Gcreate2(writer->ranks, name, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    struct trace_turn *turn = trace_turns(rank, &n_turns);
    bool good = group >= 0 && put_string(group, "role", role_name((enum role)rank->head.role)) &&
                put_members(group, trace_hdf5_rank_members, &rank->head) &&
                put_table(writer, group, &trace_tables[TRACE_SPANS], rank->span, rank->n_spans) &&
                put_table(writer, group, &trace_tables[TRACE_TURNS], turn, n_turns) &&
                put_table(writer, group, &trace_tables[TRACE_STEPS], rank->step, rank->n_steps) &&
                put_table(writer, group, &trace_tables[TRACE_ENERGY], rank->energy, rank->n_energy);
    if (group >= 0) good = H5Gclose(group) >= 0 && good;
    free(turn);
    return good;
}

bool trace_hdf5_put(struct trace_hdf5_writer *writer, const struct trace_rank *rank,
                    struct fault *fault) {
    if (!writer->good) return false;
    if (writer->n_ranks < writer->most_ranks) writer->role_map[writer->n_ranks++] = rank->head;
    writer->good = put_rank(writer, rank);
    return writer->good || trace_hdf5_fault(fault, writer->place.path, "cannot be written");
}

/* HDF5 syncs nothing itself. */
static bool make_durable(const char *path) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool good = fd >= 0 && fsync(fd) == 0;
    if (fd >= 0) close(fd);
    return good;
}

bool trace_hdf5_end(struct trace_hdf5_writer *writer, struct fault *fault) {
    const struct replacement *place = &writer->place;
    bool good = writer->good && put_role_map(writer);
    if (writer->ranks >= 0) good = H5Gclose(writer->ranks) >= 0 && good;
    if (writer->filters >= 0) H5Pclose(writer->filters);
    if (writer->file >= 0) good = H5Fclose(writer->file) >= 0 && good;
    if (!good && writer->good) trace_hdf5_fault(fault, place->path, "cannot be written");
    bool durable = good && make_durable(place->temporary);
    if (!replacement_end(place, -1, durable) && good) {
        char shown[512];
        int error = errno;
        log_escape(shown, sizeof shown, place->path, strlen(place->path));
        good = fault_world(fault, "%s %s: %s", place->option, shown, strerror(error));
    }
    free(writer->role_map);
    free(writer);
    return good;
}
