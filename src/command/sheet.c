/* sheet.c - rows of results in four formats. See sheet.h. */
#include "sheet.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "replacement.h"
#include "shape.h"

enum { TEXT_BYTES = 4096 };

struct sheet {
    enum sheet_format format;
    const struct sheet_column *column;
    int n_columns;
    FILE *out;
    int fd; /* of the file that is to take its place; -1 */
    struct replacement place;
    json_t *facts; /* strings and lists of strings */
    json_t *rows;  /* JSON: all of them */
    bool begun;    /* a row was written */
};

static bool find_place(struct sheet *sheet, const struct options *options, struct fault *fault) {
    if (!options->output || strcmp(options->output, "-") == 0) {
        sheet->out = stdout;
        return true;
    }
    struct options others = *options; /* what the file must not be */
    others.output = NULL;
    if (others.model && shape_is(others.model)) others.model = strchr(others.model, ':') + 1;
    if (!replacement_find(&sheet->place, "--output", options->output, &others, fault)) return false;
    sheet->fd = replacement_begin(&sheet->place);
    sheet->out = sheet->fd < 0 ? NULL : fdopen(dup(sheet->fd), "w");
    return sheet->out ||
           fault_world(fault, "--output: cannot make %s: %s", sheet->place.path, strerror(errno));
}

bool sheet_open(struct sheet **opened, const struct options *options,
                const struct sheet_column *column, int n_columns, struct fault *fault) {
    struct sheet *sheet = check_alloc(1, sizeof *sheet);
    *sheet = (struct sheet){.format = options->format,
                            .column = column,
                            .n_columns = n_columns,
                            .fd = -1,
                            .facts = json_object(),
                            .rows = json_array()};
    REQUIRE(sheet->facts && sheet->rows, "no memory for results");
    for (int at = 0; at < n_columns; at++)
        REQUIRE(column[at].name, "column %d of %d has no name", at, n_columns);
    *opened = sheet;
    if (find_place(sheet, options, fault)) return true;
    sheet_close(sheet, false, fault);
    *opened = NULL;
    return false;
}

/* ---- facts ------------------------------------------------------------------------------------
 */

static bool is_json(const struct sheet *sheet) {
    return sheet->format == SHEET_JSON || sheet->format == SHEET_JSONL;
}

static void put_fact(struct sheet *sheet, const char *name, bool item, const char *format,
                     va_list arguments) {
    char text[TEXT_BYTES];
    vsnprintf(text, sizeof text, format, arguments);
    if (!is_json(sheet)) {
        fprintf(sheet->out, "# %s: %s\n", name, text);
        return;
    }
    json_t *string = json_string(text);
    REQUIRE(string, "a fact that is no UTF-8: %s", name);
    if (item && !json_object_get(sheet->facts, name))
        json_object_set_new(sheet->facts, name, json_array());
    if (item) {
        json_array_append_new(json_object_get(sheet->facts, name), string);
    } else {
        json_object_set_new(sheet->facts, name, string);
    }
}

void sheet_fact(struct sheet *sheet, const char *name, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    put_fact(sheet, name, false, format, arguments);
    va_end(arguments);
}

void sheet_item(struct sheet *sheet, const char *name, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    put_fact(sheet, name, true, format, arguments);
    va_end(arguments);
}

void sheet_summary(struct sheet *sheet, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    if (sheet->format != SHEET_JSONL) put_fact(sheet, "summary", false, format, arguments);
    va_end(arguments);
}

/* ---- rows -------------------------------------------------------------------------------------
 */

/* What a table and CSV show. */
static const char *show(char text[64], const struct sheet_column *column,
                        const struct sheet_value *value) {
    if (column->kind == SHEET_TEXT) return value->text;
    if (column->kind == SHEET_WHOLE) {
        snprintf(text, 64, "%lld", (long long)value->whole);
    } else {
        snprintf(text, 64, "%.*f", column->digits, value->real);
    }
    return text;
}

static int width_of(const struct sheet_column *column) {
    int width = (int)strlen(column->name);
    return width < 10 ? 10 : width;
}

static void write_names(struct sheet *sheet) {
    for (int at = 0; at < sheet->n_columns; at++) {
        const struct sheet_column *column = &sheet->column[at];
        if (sheet->format == SHEET_CSV) {
            fprintf(sheet->out, "%s%s", at ? "," : "", column->name);
        } else { /* "#" stands in place of a blank of the first column */
            fprintf(sheet->out, at ? "  %*s" : "# %*s", width_of(column), column->name);
        }
    }
    fputc('\n', sheet->out);
}

static void write_text_row(struct sheet *sheet, const struct sheet_value *value) {
    char text[64];
    if (!sheet->begun) write_names(sheet);
    for (int at = 0; at < sheet->n_columns; at++) {
        const struct sheet_column *column = &sheet->column[at];
        const char *shown = show(text, column, &value[at]);
        if (sheet->format == SHEET_CSV) {
            fprintf(sheet->out, "%s%s", at ? "," : "", shown);
        } else {
            fprintf(sheet->out, "  %*s", width_of(column), shown);
        }
    }
    fputc('\n', sheet->out);
}

/* Facts (JSON lines) and values. */
static json_t *object_of(const struct sheet *sheet, const struct sheet_value *value) {
    json_t *object = sheet->format == SHEET_JSONL ? json_copy(sheet->facts) : json_object();
    for (int at = 0; at < sheet->n_columns; at++) {
        const struct sheet_column *column = &sheet->column[at];
        json_t *member = column->kind == SHEET_TEXT    ? json_string(value[at].text)
                         : column->kind == SHEET_WHOLE ? json_integer(value[at].whole)
                         : isfinite(value[at].real)    ? json_real(value[at].real)
                                                       : json_null();
        REQUIRE(member && json_object_set_new(object, column->name, member) == 0,
                "column %s has no value", column->name);
    }
    return object;
}

void sheet_row(struct sheet *sheet, const struct sheet_value *value) {
    if (sheet->format == SHEET_JSON) {
        json_array_append_new(sheet->rows, object_of(sheet, value));
    } else if (sheet->format == SHEET_JSONL) {
        json_t *object = object_of(sheet, value);
        json_dumpf(object, sheet->out, JSON_COMPACT | JSON_REAL_PRECISION(9));
        fputc('\n', sheet->out);
        json_decref(object);
    } else {
        write_text_row(sheet, value);
    }
    sheet->begun = true;
    fflush(sheet->out);
}

bool sheet_close(struct sheet *sheet, bool good, struct fault *fault) {
    if (!sheet) return true;
    bool written = true;
    if (sheet->out && good && sheet->format == SHEET_JSON) {
        json_object_set(sheet->facts, "results", sheet->rows);
        json_dumpf(sheet->facts, sheet->out, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
        fputc('\n', sheet->out);
    }
    if (sheet->out) written = fflush(sheet->out) == 0 && !ferror(sheet->out);
    if (sheet->out && sheet->out != stdout) written = fclose(sheet->out) == 0 && written;
    if (sheet->fd >= 0)
        written = replacement_end(&sheet->place, sheet->fd, good && written) || (!good && written);
    if (!written)
        fault_world(fault, "cannot write the results to %s: %s",
                    sheet->place.path ? sheet->place.path : "standard output", strerror(errno));
    replacement_close(&sheet->place);
    json_decref(sheet->facts);
    json_decref(sheet->rows);
    free(sheet);
    return written;
}
