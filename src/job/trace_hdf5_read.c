/* trace_hdf5_read.c - a trace as an HDF5 file: reading. See trace_hdf5.c for what is in it.
 *
 * The file may be damaged or another's: every name, type and length is asked for before it is used,
 * and what does not fit is a user's fault with the name of the dataset. Turns are not read: they
 * are derived from the spans again.
 */
#include <stdlib.h>
#include <string.h>

#include "log.h"
#include "trace_hdf5.h"

struct trace_hdf5_reader {
    const char *path; /* borrowed */
    char shown[512];
    hid_t file;
};

/* ---- attributes -------------------------------------------------------------------------------
 */

static bool get_string(hid_t object, const char *name, char *text, size_t size) {
    hid_t attribute = H5Aopen(object, name, H5P_DEFAULT);
    hid_t type = attribute >= 0 ? H5Aget_type(attribute) : -1;
    bool good = type >= 0 && H5Tget_class(type) == H5T_STRING && H5Tis_variable_str(type) == 0 &&
                H5Tget_size(type) <= size && H5Aget_storage_size(attribute) <= size;
    text[0] = 0;
    if (good) good = H5Aread(attribute, type, text) >= 0;
    text[size - 1] = 0;
    if (type >= 0) H5Tclose(type);
    if (attribute >= 0) H5Aclose(attribute);
    return good;
}

static bool get_number(hid_t object, const char *name, int64_t *number) {
    hid_t attribute = H5Aopen(object, name, H5P_DEFAULT);
    hid_t space = attribute >= 0 ? H5Aget_space(attribute) : -1;
    bool good = space >= 0 && H5Sget_simple_extent_npoints(space) == 1 &&
                H5Aread(attribute, H5T_NATIVE_INT64, number) >= 0;
    if (space >= 0) H5Sclose(space);
    if (attribute >= 0) H5Aclose(attribute);
    return good;
}

static bool get_members(const struct trace_hdf5_reader *reader, hid_t object, const char *of,
                        const struct trace_hdf5_member *member, void *row, struct fault *fault) {
    for (; member->name; member++) {
        char *at = (char *)row + member->offset;
        int64_t number = 0;
        bool good = member->size > 0 ? get_string(object, member->name, at, (size_t)member->size)
                                     : get_number(object, member->name, &number);
        if (member->size == 0) good = good && number >= INT32_MIN && number <= INT32_MAX;
        if (!good)
            return fault_user(fault, "%s: attribute %s of %s is missing or damaged", reader->shown,
                              member->name, of);
        if (member->size == 0) *(int32_t *)at = (int32_t)number;
        if (member->size < 0) *(int64_t *)at = number;
    }
    return true;
}

/* ---- opening ----------------------------------------------------------------------------------
 */

static bool check_version(const struct trace_hdf5_reader *reader, struct fault *fault) {
    char format[64], version[32], shown[160];
    int major = 0;
    if (!get_string(reader->file, "format", format, sizeof format) ||
        strcmp(format, trace_hdf5_format) != 0)
        return fault_user(
            fault, "%s: an HDF5 file, but not a trace of lamina (attribute format: %s)",
            reader->shown,
            *format ? log_escape(shown, sizeof shown, format, strlen(format)) : "none");
    if (!get_string(reader->file, "format_version", version, sizeof version) ||
        sscanf(version, "%d.", &major) != 1 || major < 1)
        return fault_user(fault, "%s: attribute format_version is missing or damaged",
                          reader->shown);
    if (major > TRACE_MAJOR)
        return fault_user(fault, "%s: format_version %s is newer than this lamina reads (%d.x)",
                          reader->shown, log_escape(shown, sizeof shown, version, strlen(version)),
                          TRACE_MAJOR);
    return true;
}

struct trace_hdf5_reader *trace_hdf5_open(const char *path, struct trace_head *head,
                                          struct fault *fault) {
    struct trace_hdf5_reader *reader = check_alloc(1, sizeof *reader);
    reader->path = path;
    log_escape(reader->shown, sizeof reader->shown, path, strlen(path));
    trace_hdf5_prepare();
    reader->file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    *head = (struct trace_head){.n_ranks = 0};
    bool good = reader->file >= 0 || trace_hdf5_fault(fault, path, "cannot be opened as HDF5");
    if (!good && fault->kind == FAULT_WORLD) fault->kind = FAULT_USER; /* it is the file's */
    good = good && check_version(reader, fault) &&
           get_members(reader, reader->file, "the file", trace_hdf5_head_members, head, fault);
    if (good && head->n_ranks < 1)
        good = fault_user(fault, "%s: a trace of %d ranks", reader->shown, head->n_ranks);
    if (good) return reader;
    trace_hdf5_close(reader);
    return NULL;
}

void trace_hdf5_close(struct trace_hdf5_reader *reader) {
    if (!reader) return;
    if (reader->file >= 0) H5Fclose(reader->file);
    free(reader);
}

/* ---- tables -----------------------------------------------------------------------------------
 */

/* Elements of a one-dimensional dataset; -1: it is none. */
static int64_t length_of(hid_t data_set) {
    hsize_t rows = 0;
    hid_t space = H5Dget_space(data_set);
    bool line = space >= 0 && H5Sget_simple_extent_ndims(space) == 1 &&
                H5Sget_simple_extent_dims(space, &rows, NULL) == 1 && rows <= INT32_MAX;
    if (space >= 0) H5Sclose(space);
    return line ? (int64_t)rows : -1;
}

/* All columns of a table, of equal length, into rows: (*n), to be freed. */
static void *get_table(const struct trace_hdf5_reader *reader, int rank,
                       const struct trace_table *table, size_t *n, struct fault *fault) {
    char *row = NULL;
    int64_t *number = NULL, n_rows = -1;
    bool good = true;
    char name[128];
    for (int at = 0; good && at < table->n_columns; at++) {
        const struct trace_column *column = &table->column[at];
        snprintf(name, sizeof name, "/ranks/%d/%s/%s", rank, table->name, column->name);
        hid_t data_set = H5Dopen2(reader->file, name, H5P_DEFAULT);
        hid_t memory = trace_hdf5_memory_type(column->type);
        int64_t length = data_set >= 0 ? length_of(data_set) : -1;
        if (at == 0 && length >= 0) {
            n_rows = length;
            row = check_alloc((size_t)n_rows, table->row_bytes);
            number = check_alloc((size_t)n_rows, sizeof *number);
        }
        good =
            length >= 0 && length == n_rows &&
            (length == 0 || H5Dread(data_set, memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, number) >= 0);
        for (int64_t index = 0; good && index < n_rows; index++)
            trace_set(column, row + (size_t)index * table->row_bytes, number[index]);
        H5Tclose(memory);
        if (data_set >= 0) H5Dclose(data_set);
    }
    free(number);
    *n = good ? (size_t)n_rows : 0;
    if (good) return row;
    free(row);
    fault_user(fault, "%s: dataset %s is missing or damaged", reader->shown, name);
    return NULL;
}

/* An attention rank's role decides how its part is read: it has no default. */
static bool get_role(const struct trace_hdf5_reader *reader, hid_t group, int rank,
                     struct trace_rank_head *head, struct fault *fault) {
    char text[64];
    if (get_string(group, "role", text, sizeof text)) {
        for (int role = ROLE_MODEL; role <= ROLE_ATTENTION; role++) {
            head->role = role;
            if (strcmp(text, role_name((enum role)role)) == 0) return true;
        }
    }
    return fault_user(fault, "%s: attribute role of /ranks/%d is missing or damaged", reader->shown,
                      rank);
}

bool trace_hdf5_get(struct trace_hdf5_reader *reader, int number, struct trace_rank *rank,
                    struct fault *fault) {
    char name[64];
    *rank = (struct trace_rank){.head = {.rank = number}};
    snprintf(name, sizeof name, "/ranks/%d", number);
    hid_t group = H5Gopen2(reader->file, name, H5P_DEFAULT);
    bool good = group >= 0 || fault_user(fault, "%s: group %s is missing", reader->shown, name);
    good = good && get_role(reader, group, number, &rank->head, fault) &&
           get_members(reader, group, name, trace_hdf5_rank_members, &rank->head, fault);
    if (group >= 0) H5Gclose(group);
    if (good && rank->head.rank != number)
        good = fault_user(fault, "%s: %s holds rank %d", reader->shown, name, rank->head.rank);
    rank->span =
        good ? get_table(reader, number, &trace_tables[TRACE_SPANS], &rank->n_spans, fault) : NULL;
    rank->step = rank->span
                     ? get_table(reader, number, &trace_tables[TRACE_STEPS], &rank->n_steps, fault)
                     : NULL;
    rank->energy =
        rank->step ? get_table(reader, number, &trace_tables[TRACE_ENERGY], &rank->n_energy, fault)
                   : NULL;
    if (rank->energy && trace_rank_sound(rank)) return true;
    if (rank->energy) fault_user(fault, "%s: numbers of %s that cannot be", reader->shown, name);
    trace_rank_close(rank);
    return false;
}
