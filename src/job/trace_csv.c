/* trace_csv.c - a trace as CSV files in a folder of its own. See trace_parts.h.
 *
 * ranks.csv and one file a table; the first column is the rank, titles carry units where these are
 * not plain (begin_ns, energy_uJ). Nothing that is there is overwritten.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "log.h"
#include "output.h"
#include "trace_parts.h"

struct csv {
    char folder[512]; /* as typed, escaped */
    FILE *ranks, *table[TRACE_TABLES];
};

static FILE *make_file(const char *folder, const char *name, struct fault *fault) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s.csv", folder, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    FILE *file = fd >= 0 ? fdopen(fd, "w") : NULL;
    if (!file) output_fault(fault, "make", path);
    return file;
}

static void write_titles(FILE *file, const struct trace_table *table) {
    fprintf(file, "rank");
    for (int at = 0; at < table->n_columns; at++) {
        const struct trace_column *column = &table->column[at];
        bool measured = !strcmp(column->unit, "ns") || !strcmp(column->unit, "uJ");
        fprintf(file, ",%s%s%s", column->name, measured ? "_" : "", measured ? column->unit : "");
    }
    fputc('\n', file);
}

struct csv *csv_begin(const char *folder, struct fault *fault) {
    struct csv *csv = check_alloc(1, sizeof *csv);
    log_escape(csv->folder, sizeof csv->folder, folder, strlen(folder));
    bool good = mkdir(folder, 0777) == 0 || errno == EEXIST || output_fault(fault, "make", folder);
    if (good) csv->ranks = make_file(folder, "ranks", fault);
    good = good && csv->ranks;
    for (int at = 0; good && at < TRACE_TABLES; at++) {
        csv->table[at] = make_file(folder, trace_tables[at].name, fault);
        good = csv->table[at] != NULL;
        if (good) write_titles(csv->table[at], &trace_tables[at]);
    }
    if (!good) {
        csv_end(csv, fault);
        return NULL;
    }
    fprintf(csv->ranks, "rank,role,host,head_index,owner,clock_offset_ns,records_missing,complete,"
                        "energy_source\n");
    return csv;
}

/* In quotes, quotes doubled, and nothing in it that could drive a terminal. */
static void write_text(FILE *file, const char *text) {
    char shown[700];
    log_escape(shown, sizeof shown, text, strlen(text));
    fputc('"', file);
    for (const char *c = shown; *c; c++) {
        if (*c == '"') fputc('"', file);
        fputc(*c, file);
    }
    fputc('"', file);
}

static void write_value(FILE *file, const struct trace_column *column, const void *row) {
    int64_t number = trace_get(column, row);
    if (column->type == TRACE_KIND) {
        fprintf(file, ",%s", trace_kind_name(number));
    } else if (column->type == TRACE_LABEL) {
        fprintf(file, ",%s", trace_label_name(number));
    } else {
        fprintf(file, ",%lld", (long long)number);
    }
}

static void write_table(FILE *file, const struct trace_table *table, int rank, const void *row,
                        size_t n) {
    for (size_t index = 0; index < n; index++) {
        fprintf(file, "%d", rank);
        for (int at = 0; at < table->n_columns; at++)
            write_value(file, &table->column[at], (const char *)row + index * table->row_bytes);
        fputc('\n', file);
    }
}

void csv_put(struct csv *csv, const struct trace_rank *rank) {
    const struct trace_rank_head *head = &rank->head;
    size_t n_turns;
    struct trace_turn *turn = trace_turns(rank, &n_turns);
    const void *row[TRACE_TABLES] = {[TRACE_SPANS] = rank->span,
                                     [TRACE_STEPS] = rank->step,
                                     [TRACE_ENERGY] = rank->energy,
                                     [TRACE_TURNS] = turn};
    size_t n[TRACE_TABLES] = {[TRACE_SPANS] = rank->n_spans,
                              [TRACE_STEPS] = rank->n_steps,
                              [TRACE_ENERGY] = rank->n_energy,
                              [TRACE_TURNS] = n_turns};
    for (int at = 0; at < TRACE_TABLES; at++)
        write_table(csv->table[at], &trace_tables[at], head->rank, row[at], n[at]);
    fprintf(csv->ranks, "%d,%s,", head->rank, role_name((enum role)head->role));
    write_text(csv->ranks, head->host);
    fprintf(csv->ranks, ",%d,%d,%lld,%lld,%d,", head->head_index, head->owner,
            (long long)head->clock_offset_ns, (long long)head->n_missing, head->complete);
    write_text(csv->ranks, head->energy_source);
    fputc('\n', csv->ranks);
    free(turn);
}

bool csv_end(struct csv *csv, struct fault *fault) {
    FILE *file[TRACE_TABLES + 1];
    bool good = true;
    memcpy(file, csv->table, sizeof csv->table);
    file[TRACE_TABLES] = csv->ranks;
    for (int at = 0; at <= TRACE_TABLES; at++) {
        if (!file[at]) continue;
        bool lost = ferror(file[at]) != 0;
        good = fclose(file[at]) == 0 && !lost && good;
    }
    if (!good) fault_world(fault, "--csv %s: %s", csv->folder, strerror(errno));
    free(csv);
    return good;
}
