/* sheet.h - results of benches: rows of numbers under named columns, as a table, CSV, JSON or JSON
 * lines.
 *
 * Facts about all rows come first: in table and CSV as lines "# name: text", in JSON as members of
 * the one object beside "results", in JSON lines as members of every row, so that a line can be
 * read by itself. A sheet is written to standard output row by
 * row, or to a file that takes its place when the sheet is complete.
 */
#ifndef LAMINA_SHEET_H
#define LAMINA_SHEET_H

#include <stdbool.h>
#include <stdint.h>

#include "check.h"
#include "options.h"

enum sheet_kind { SHEET_WHOLE, SHEET_REAL, SHEET_TEXT };

struct sheet_column {
    const char *name; /* with its unit, in the form of a JSON key */
    enum sheet_kind kind;
    int digits; /* of SHEET_REAL, behind the point */
};

/* The member that the column's kind says. */
struct sheet_value {
    int64_t whole;
    double real;
    const char *text;
};

struct sheet;

/* As options->format and options->output say. False with a fault when there is no place for the
 * file. Columns are borrowed until sheet_close. */
bool sheet_open(struct sheet **sheet, const struct options *options,
                const struct sheet_column *column, int n_columns, struct fault *fault);
/* Before the first row. The text is one line. */
void sheet_fact(struct sheet *sheet, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The same, but one of several of that name: in JSON a list, of however many. */
void sheet_item(struct sheet *sheet, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void sheet_row(struct sheet *sheet, const struct sheet_value *value); /* (n_columns) */
/* A last fact, that can only be known at the end: behind all rows; JSON lines have none. */
void sheet_summary(struct sheet *sheet, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Write what is left and put a file in its place; with `good` false it is dropped. False with a
 * fault when something could not be written. */
bool sheet_close(struct sheet *sheet, bool good, struct fault *fault);

#endif
