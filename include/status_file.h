/* status_file.h - the --status file: texts that one thread gives and another puts in its place.
 *
 * Decode gives, the desk's thread writes; before there is a desk and after it one thread does both.
 * Neither side waits for the other, so a file system that hangs never holds up decode. A text that
 * is not written when a newer one is given never will be: the newest wins.
 */
#ifndef LAMINA_STATUS_FILE_H
#define LAMINA_STATUS_FILE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "check.h"
#include "options.h"
#include "replacement.h"

enum { STATUS_FILE_MOST_BYTES = 8192 };

/* Zeroed is closed. */
struct status_file {
    struct replacement place;
    struct {
        size_t n_bytes;
        char bytes[STATUS_FILE_MOST_BYTES];
    } text[3];
    int giving, writing; /* the text of each side; the third lies between them */
    _Atomic int between; /* its number, and whether it is newer than what was written */
    bool lost;           /* the writing side's: it could not be written once */
};

/* Find the place of options->status; nothing is made. False with a user's fault as
 * replacement_find. */
bool status_file_open(struct status_file *file, const struct options *options, struct fault *fault);
void status_file_close(struct status_file *file);

/* The giving side: where the next text is to be laid out, at most STATUS_FILE_MOST_BYTES of it, and
 * to hand over its first `n_bytes`; with 0 it did not fit, which is the writing side's to tell. A
 * few atomics, no allocation, no file. */
char *status_file_text(struct status_file *file);
void status_file_give(struct status_file *file, size_t n_bytes);

/* The writing side: replace the file with the newest text, if that was not written yet. False with
 * errno. */
bool status_file_write(struct status_file *file);

/* The same, where a file that cannot be written is no reason to stop: it is said once, and the file
 * left alone from then on. */
void status_file_renew(struct status_file *file);

#endif
