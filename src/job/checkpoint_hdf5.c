/* checkpoint_hdf5.c - files, ids, attributes, tables. See checkpoint_hdf5.h.
 *
 * A close that fails is a write that failed: HDF5 keeps chunks back and then lets H5Fclose succeed
 * without them, so every close is looked at. What HDF5 prints of errors on its own is off; its
 * innermost message becomes the fault.
 *
 * Files are of HDF5 1.10's own format, in which all that describes the data has checksums: of the
 * format that older versions read, one changed bit is enough to end the process in H5Fopen or to
 * have another chunk read. That such a file cannot be opened when its writer was killed does not
 * matter, for it has no name then. Nothing is of variable length either: HDF5 keeps such things
 * without a checksum. Rejected: the high-level library (no checksums), and turning locks off for
 * users, who can do it with HDF5_USE_FILE_LOCKING.
 */
#include "checkpoint_hdf5.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint_manifest.h"
#include "clock.h"
#include "log.h"
#include "output.h"
#include "version.h"

enum { FORMAT_MINOR = 1, CHUNK_ROWS = 65536 };

/* ---- faults ---- */

bool hdf5_refuse(const struct hdf5_file *file, struct fault *fault, const char *format, ...) {
    char shown[512], text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return fault_world(fault, "%s: %s",
                       log_escape(shown, sizeof shown, file->place.path, strlen(file->place.path)),
                       text);
}

static herr_t take_innermost(unsigned number, const H5E_error2_t *error, void *argument) {
    char *text = argument;
    if (number == 0) log_escape(text, 256, error->desc, strlen(error->desc));
    return 0;
}

bool hdf5_good(const struct hdf5_file *file, int64_t result, struct fault *fault) {
    if (result >= 0) return true;
    char text[256] = "HDF5 does not say why";
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, take_innermost, text);
    const char *lock = strstr(text, "lock file")
                           ? " (HDF5_USE_FILE_LOCKING=FALSE in the environment turns locks off)"
                           : "";
    /* of "..., errno = 28, error message = 'No space left on device', ..." what the system says */
    char *begin = strstr(text, "error message = '");
    char *end = begin ? strchr(begin + 17, '\'') : NULL;
    if (end) *end = 0;
    return hdf5_refuse(file, fault, "%s%s", end ? begin + 17 : text, lock);
}

/* ---- ids ---- */

hid_t hdf5_keep(struct hdf5_file *file, hid_t id, struct fault *fault) {
    if (!hdf5_good(file, id, fault)) return -1;
    REQUIRE(file->n_kept < HDF5_MOST_KEPT, "too many HDF5 ids at a time");
    file->kept[file->n_kept++] = id;
    return id;
}

bool hdf5_release(struct hdf5_file *file, int n_kept, struct fault *fault) {
    bool good = true;
    while (file->n_kept > n_kept)
        good = hdf5_good(file, H5Idec_ref(file->kept[--file->n_kept]), fault) && good;
    return good;
}

/* ---- files ---- */

static void name_file(struct hdf5_file *file, const char *folder, const char *name) {
    size_t size = strlen(folder) + strlen(name) + sizeof "/.tmp";
    *file = (struct hdf5_file){.fd = -1, .inner_fd = -1, .id = -1};
    file->place.path = check_alloc(size, 1);
    file->place.temporary = check_alloc(size, 1);
    snprintf(file->place.path, size, "%s/%s", folder, name);
    snprintf(file->place.temporary, size, "%s.tmp", file->place.path);
    H5dont_atexit(); /* which trips over a file that could not be closed */
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

static void forget(struct hdf5_file *file) {
    replacement_close(&file->place);
    *file = (struct hdf5_file){0};
}

/* The file behind a descriptor, whatever its name leads to by now. */
static const char *name_descriptor(int fd, char name[32]) {
    snprintf(name, 32, "/proc/self/fd/%d", fd);
    return name;
}

bool hdf5_create(struct hdf5_file *file, const char *folder, const char *name,
                 struct fault *fault) {
    char opened[32];
    name_file(file, folder, name);
    file->fd = replacement_begin(&file->place);
    if (file->fd < 0) {
        hdf5_refuse(file, fault, "%s", strerror(errno));
        forget(file);
        return false;
    }
    hid_t access = hdf5_keep(file, H5Pcreate(H5P_FILE_ACCESS), fault);
    hdf5_good(file, H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110), fault);
    file->id = H5Fcreate(name_descriptor(file->fd, opened), H5F_ACC_TRUNC, H5P_DEFAULT, access);
    int *inner_fd;
    if (file->id >= 0 && H5Fget_vfd_handle(file->id, access, (void **)&inner_fd) >= 0)
        file->inner_fd = *inner_fd;
    return hdf5_good(file, file->id, fault) || hdf5_commit(file, false, NULL, fault);
}

/* Nothing is lost where that cannot be done: the fsync tells of errors. */
void hdf5_hurry(const struct hdf5_file *file) {
    sync_file_range(file->fd, 0, 0, SYNC_FILE_RANGE_WRITE);
}

/* Have room for all that HDF5 has yet to write: a flush of it that fails is the one thing after
 * which HDF5 1.10 cannot close a file. File systems that cannot say are taken at their word. */
static bool reserve(const struct hdf5_file *file, struct fault *fault) {
    hsize_t n_bytes;
    if (!hdf5_good(file, H5Fget_filesize(file->id, &n_bytes), fault)) return false;
    if (fallocate(file->fd, 0, 0, (off_t)n_bytes) == 0 || errno == EOPNOTSUPP || errno == ENOSYS)
        return true;
    return hdf5_refuse(file, fault, "%s", strerror(errno));
}

/* When all is written: give back what of that room was not needed, which HDF5 does not know of. */
static bool trim(const struct hdf5_file *file, struct fault *fault) {
    haddr_t end;
    if (!hdf5_good(file, H5Fget_eoa(file->id, &end), fault)) return false;
    return ftruncate(file->fd, (off_t)end) == 0 || hdf5_refuse(file, fault, "%s", strerror(errno));
}

/* HDF5 does not let go of what it cannot write, and the room on a full disk would be gone until the
 * process ends: what it still wants to write to a file that is given up goes to memory. */
static void divert(const struct hdf5_file *file) {
    struct stat ours, its;
    if (file->inner_fd < 0 || fstat(file->fd, &ours) != 0 || fstat(file->inner_fd, &its) != 0 ||
        ours.st_ino != its.st_ino || ours.st_dev != its.st_dev)
        return;
    int memory = memfd_create("lamina", MFD_CLOEXEC);
    if (memory < 0) return;
    dup2(memory, file->inner_fd);
    close(memory);
}

bool hdf5_commit(struct hdf5_file *file, bool good, int64_t *n_bytes, struct fault *fault) {
    struct stat status;
    struct fault ignored = {.kind = FAULT_WORLD};
    good = good && reserve(file, fault) &&
           hdf5_good(file, H5Fflush(file->id, H5F_SCOPE_LOCAL), fault) && trim(file, fault);
    if (!good) fault = &ignored;
    if (!good) divert(file);
    good = hdf5_release(file, 0, fault) && good;
    if (file->id >= 0) good = hdf5_good(file, H5Fclose(file->id), fault) && good;
    if (!good) divert(file);
    if (good && (fsync(file->fd) != 0 || fstat(file->fd, &status) != 0))
        good = hdf5_refuse(file, fault, "%s", strerror(errno));
    bool placed = replacement_end(&file->place, file->fd, good);
    if (good && !placed) good = hdf5_refuse(file, fault, "%s", strerror(errno));
    good = good && output_sync_folder(file->place.path, fault);
    if (good) *n_bytes = status.st_size;
    forget(file);
    return good;
}

bool hdf5_open(struct hdf5_file *file, const char *folder, const char *name, struct fault *fault) {
    struct stat status;
    char opened[32];
    name_file(file, folder, name);
    file->fd = open(file->place.path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (file->fd < 0 || fstat(file->fd, &status) != 0) {
        hdf5_refuse(file, fault, "%s", strerror(errno));
    } else if (!S_ISREG(status.st_mode)) {
        hdf5_refuse(file, fault, "not a file");
    } else {
        file->n_bytes = status.st_size;
        file->id = H5Fopen(name_descriptor(file->fd, opened), H5F_ACC_RDONLY, H5P_DEFAULT);
        if (hdf5_good(file, file->id, fault)) return true;
    }
    hdf5_close(file);
    return false;
}

void hdf5_close(struct hdf5_file *file) {
    if (!file->place.path) return;
    struct fault ignored = {.kind = FAULT_WORLD};
    hdf5_release(file, 0, &ignored);
    if (file->id >= 0) H5Fclose(file->id);
    if (file->fd >= 0) close(file->fd);
    forget(file);
}

/* ---- types ---- */

static size_t number_bytes(enum hdf5_number type) {
    static const size_t n_bytes[] = {
        [HDF5_U8] = 1,  [HDF5_I32] = 4, [HDF5_I64] = 8,
        [HDF5_U64] = 8, [HDF5_F32] = 4, [HDF5_F64] = 8,
    };
    return n_bytes[type];
}

/* A copy, kept. Files are little-endian, as are the hosts. */
static hid_t number_type(struct hdf5_file *file, enum hdf5_number type, struct fault *fault) {
    const hid_t known[] = {
        [HDF5_U8] = H5T_STD_U8LE,   [HDF5_I32] = H5T_STD_I32LE,  [HDF5_I64] = H5T_STD_I64LE,
        [HDF5_U64] = H5T_STD_U64LE, [HDF5_F32] = H5T_IEEE_F32LE, [HDF5_F64] = H5T_IEEE_F64LE,
    };
    return hdf5_keep(file, H5Tcopy(known[type]), fault);
}

hid_t hdf5_element_type(struct hdf5_file *file, enum element element, struct fault *fault) {
    hid_t type = hdf5_keep(file, H5Tcopy(H5T_IEEE_F32LE), fault);
    if (element == ELEMENT_F32) return type;
    bool is_f16 = element == ELEMENT_F16;
    size_t fraction = is_f16 ? 10 : 7, exponent = is_f16 ? 5 : 8;
    bool good = hdf5_good(file, H5Tset_fields(type, 15, fraction, exponent, 0, fraction), fault) &&
                hdf5_good(file, H5Tset_precision(type, 16), fault) &&
                hdf5_good(file, H5Tset_size(type, 2), fault) &&
                hdf5_good(file, H5Tset_ebias(type, is_f16 ? 15 : 127), fault);
    return good ? type : -1;
}

/* ---- attributes ---- */

static hid_t create_attribute(struct hdf5_file *file, hid_t object, const char *name, hid_t type,
                              struct fault *fault) {
    hid_t space = hdf5_keep(file, H5Screate(H5S_SCALAR), fault);
    return hdf5_keep(file, H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT), fault);
}

bool hdf5_put(struct hdf5_file *file, const char *name, enum hdf5_number type, const void *value,
              struct fault *fault) {
    int n_kept = file->n_kept;
    hid_t number = number_type(file, type, fault);
    hid_t attribute = create_attribute(file, file->id, name, number, fault);
    bool good = hdf5_good(file, H5Awrite(attribute, number, value), fault);
    return hdf5_release(file, n_kept, fault) && good;
}

bool hdf5_put_text(struct hdf5_file *file, hid_t object, const char *name, const char *text,
                   struct fault *fault) {
    int n_kept = file->n_kept;
    hid_t type = hdf5_keep(file, H5Tcopy(H5T_C_S1), fault);
    hdf5_good(file, H5Tset_size(type, strlen(text) + 1), fault);
    hdf5_good(file, H5Tset_cset(type, H5T_CSET_UTF8), fault);
    hid_t attribute = create_attribute(file, object, name, type, fault);
    bool good = hdf5_good(file, H5Awrite(attribute, type, text), fault);
    return hdf5_release(file, n_kept, fault) && good;
}

/* An attribute that holds one value of the class. */
static hid_t open_attribute(struct hdf5_file *file, const char *name, H5T_class_t wanted,
                            size_t *n_bytes, struct fault *fault) {
    hid_t attribute = hdf5_keep(file, H5Aopen(file->id, name, H5P_DEFAULT), fault);
    hid_t space = hdf5_keep(file, H5Aget_space(attribute), fault);
    hid_t type = hdf5_keep(file, H5Aget_type(attribute), fault);
    if (type < 0) return -1;
    *n_bytes = H5Tget_size(type);
    bool is_one = H5Sget_simple_extent_npoints(space) == 1 && H5Tget_class(type) == wanted &&
                  H5Tis_variable_str(type) == 0;
    if (!is_one) hdf5_refuse(file, fault, "damaged: %s is not what it was", name);
    return is_one ? attribute : -1;
}

bool hdf5_get(struct hdf5_file *file, const char *name, enum hdf5_number type, void *value,
              struct fault *fault) {
    int n_kept = file->n_kept;
    size_t n_bytes;
    H5T_class_t class = type == HDF5_F64 ? H5T_FLOAT : H5T_INTEGER;
    hid_t attribute = open_attribute(file, name, class, &n_bytes, fault);
    hid_t number = number_type(file, type, fault);
    bool good = attribute >= 0 && hdf5_good(file, H5Aread(attribute, number, value), fault);
    return hdf5_release(file, n_kept, fault) && good;
}

bool hdf5_get_count(struct hdf5_file *file, const char *name, int low, int high, int *value,
                    struct fault *fault) {
    int64_t number;
    if (!hdf5_get(file, name, HDF5_I64, &number, fault)) return false;
    if (number < low || number > high)
        return hdf5_refuse(file, fault, "damaged: %s is %lld, not from %d to %d", name,
                           (long long)number, low, high);
    *value = (int)number;
    return true;
}

bool hdf5_get_text(struct hdf5_file *file, const char *name, char *text, size_t size,
                   struct fault *fault) {
    int n_kept = file->n_kept;
    size_t n_bytes;
    hid_t attribute = open_attribute(file, name, H5T_STRING, &n_bytes, fault);
    bool good = attribute >= 0;
    if (good && n_bytes > size)
        good = hdf5_refuse(file, fault, "damaged: %s has %zu bytes", name, n_bytes);
    hid_t type = hdf5_keep(file, H5Tcopy(H5T_C_S1), fault);
    hdf5_good(file, H5Tset_size(type, size), fault);
    hdf5_good(file, H5Tset_cset(type, H5T_CSET_UTF8), fault);
    good = good && hdf5_good(file, H5Aread(attribute, type, text), fault);
    text[size - 1] = 0;
    return hdf5_release(file, n_kept, fault) && good;
}

bool hdf5_put_root(struct hdf5_file *file, const struct hdf5_root *root, struct fault *fault) {
    char version[16], created[32];
    snprintf(version, sizeof version, "%d.%d", CHECKPOINT_FORMAT, FORMAT_MINOR);
    if (*root->created) {
        snprintf(created, sizeof created, "%s", root->created);
    } else {
        clock_stamp(created);
    }
    return hdf5_put_text(file, file->id, "format", root->format, fault) &&
           hdf5_put_text(file, file->id, "format_version", version, fault) &&
           hdf5_put_text(file, file->id, "creator", "lamina " LAMINA_VERSION, fault) &&
           hdf5_put_text(file, file->id, "created", created, fault) &&
           hdf5_put_text(file, file->id, "uuid", root->uuid, fault) &&
           hdf5_put(file, "number", HDF5_I64, &root->number, fault) &&
           hdf5_put(file, "attempt", HDF5_U64, &root->attempt, fault);
}

bool hdf5_get_root(struct hdf5_file *file, struct hdf5_root *root, struct fault *fault) {
    char format[64], version[16];
    if (!hdf5_get_text(file, "format", format, sizeof format, fault)) return false;
    if (strcmp(format, root->format) != 0)
        return hdf5_refuse(file, fault, "not a %s", root->format);
    return hdf5_get_text(file, "format_version", version, sizeof version, fault) &&
           manifest_check_version(version, file->place.path, fault) &&
           hdf5_get_text(file, "created", root->created, sizeof root->created, fault) &&
           hdf5_get_text(file, "uuid", root->uuid, sizeof root->uuid, fault) &&
           hdf5_get(file, "number", HDF5_I64, &root->number, fault) &&
           (H5Aexists(file->id, "attempt") == 0 ||
            hdf5_get(file, "attempt", HDF5_U64, &root->attempt, fault));
}

/* ---- tables ---- */

hid_t hdf5_chunks(struct hdf5_file *file, int n_dimensions, const hsize_t *chunk,
                  struct fault *fault) {
    hid_t list = hdf5_keep(file, H5Pcreate(H5P_DATASET_CREATE), fault);
    bool good = hdf5_good(file, H5Pset_chunk(list, n_dimensions, chunk), fault) &&
                hdf5_good(file, H5Pset_fletcher32(list), fault) &&
                hdf5_good(file, H5Pset_fill_time(list, H5D_FILL_TIME_NEVER), fault);
    return good ? list : -1;
}

/* Of a row in memory; *packed_bytes is its size in a file. */
static hid_t row_type(struct hdf5_file *file, const struct hdf5_table *table, size_t *packed_bytes,
                      struct fault *fault) {
    *packed_bytes = number_bytes(table->column->type);
    if (!table->column->name) return number_type(file, table->column->type, fault);
    *packed_bytes = 0;
    hid_t type = hdf5_keep(file, H5Tcreate(H5T_COMPOUND, table->row_bytes), fault);
    for (const struct hdf5_column *column = table->column;
         column < table->column + table->n_columns; column++) {
        int n_kept = file->n_kept;
        hid_t number = number_type(file, column->type, fault);
        bool good = hdf5_good(file, H5Tinsert(type, column->name, column->offset, number), fault);
        if (!hdf5_release(file, n_kept, fault) || !good) return -1;
        *packed_bytes += number_bytes(column->type);
    }
    return type;
}

/* An attribute that says "tokens", or "n_prompt: tokens, n_rows: positions". */
static bool put_units(struct hdf5_file *file, const struct hdf5_table *table, hid_t set,
                      struct fault *fault) {
    char units[512] = "";
    size_t n_bytes = 0;
    for (const struct hdf5_column *column = table->column;
         column < table->column + table->n_columns; column++) {
        if (!column->units) continue;
        n_bytes += (size_t)snprintf(units + n_bytes, sizeof units - n_bytes, "%s%s%s%s",
                                    n_bytes ? ", " : "", column->name ? column->name : "",
                                    column->name ? ": " : "", column->units);
        REQUIRE(n_bytes < sizeof units, "no room for the units of %s", table->name);
    }
    return !*units || hdf5_put_text(file, set, "units", units, fault);
}

bool hdf5_put_table(struct hdf5_file *file, const struct hdf5_table *table, const void *row,
                    size_t n_rows, struct fault *fault) {
    int n_kept = file->n_kept;
    size_t packed_bytes;
    hsize_t extent = n_rows, most = n_rows ? n_rows : 1;
    hsize_t chunk = most < CHUNK_ROWS ? most : CHUNK_ROWS;
    hid_t type = row_type(file, table, &packed_bytes, fault);
    hid_t packed = hdf5_keep(file, H5Tcopy(type), fault);
    if (table->column->name) hdf5_good(file, H5Tpack(packed), fault);
    hid_t space = hdf5_keep(file, H5Screate_simple(1, &extent, &most), fault);
    hid_t chunks = hdf5_chunks(file, 1, &chunk, fault);
    hid_t set = hdf5_keep(
        file, H5Dcreate2(file->id, table->name, packed, space, H5P_DEFAULT, chunks, H5P_DEFAULT),
        fault);
    bool good = set >= 0 && put_units(file, table, set, fault);
    if (good && n_rows > 0)
        good = hdf5_good(file, H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, row), fault);
    good = good && hdf5_good(file, H5Dflush(set), fault);
    return good && hdf5_release(file, n_kept, fault); /* else hdf5_commit knows how to */
}

/* A length that the file has room for. */
static bool get_length(struct hdf5_file *file, const struct hdf5_table *table, hid_t set,
                       size_t packed_bytes, size_t *n_rows, struct fault *fault) {
    hsize_t extent[H5S_MAX_RANK];
    size_t n_bytes;
    hid_t space = hdf5_keep(file, H5Dget_space(set), fault);
    if (space < 0) return false;
    if (H5Sget_simple_extent_dims(space, extent, NULL) != 1 ||
        !check_multiply(extent[0], packed_bytes, &n_bytes) || n_bytes > (size_t)file->n_bytes)
        return hdf5_refuse(file, fault, "damaged: the length of %s cannot be", table->name);
    *n_rows = extent[0];
    return true;
}

bool hdf5_get_table(struct hdf5_file *file, const struct hdf5_table *table, void **row,
                    size_t *n_rows, struct fault *fault) {
    int n_kept = file->n_kept;
    size_t packed_bytes;
    *row = NULL;
    *n_rows = 0;
    hid_t type = row_type(file, table, &packed_bytes, fault);
    hid_t set = hdf5_keep(file, H5Dopen2(file->id, table->name, H5P_DEFAULT), fault);
    bool good = set >= 0 && get_length(file, table, set, packed_bytes, n_rows, fault);
    if (good) *row = check_alloc(*n_rows, table->row_bytes);
    if (good && *n_rows > 0)
        good = hdf5_good(file, H5Dread(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, *row), fault);
    return hdf5_release(file, n_kept, fault) && good;
}
