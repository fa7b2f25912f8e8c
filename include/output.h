/* output.h - one file that answers are appended to, line by line.
 *
 * Each line is one write; a write that does not succeed whole (disk full) is cut back, so that the
 * file ends with a whole line. What an earlier run left half written is repaired by output_scan and
 * output_cut. Pipes, terminals and devices are streams: they are written to and nothing else.
 */
#ifndef LAMINA_OUTPUT_H
#define LAMINA_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "check.h"

/* Zeroed is closed. */
struct output {
    const char *name; /* as typed, borrowed */
    char *path;       /* links resolved, so that a replacement lands where the file is */
    bool exists, is_stream;
    bool made;          /* by output_open */
    struct stat status; /* when it exists */
    int fd;             /* -1: closed */
    int64_t n_bytes;    /* of whole lines; what lies behind is not ours */
    bool dirty;         /* written since the last sync */
};

/* Find where `name` ("-" is stdout) is or would be made, without touching it. False with a user's
 * fault for a folder, a place that cannot be, and a folder that may not be written. Either way to
 * be released with output_close. */
bool output_find(struct output *output, const char *name, struct fault *fault);

/* Open what is there, for reading and for appending, and make nothing: fd stays -1 where nothing is
 * there, and of streams. False with a fault when output_open would fail. */
bool output_look(struct output *output, struct fault *fault);

/* Open for appending, made when it is not there; with `must_be_new` an existing one is a fault. */
bool output_open(struct output *output, bool must_be_new, struct fault *fault);

/* Give every line to `visit`, without its newline (none of a file that is not there); n_bytes
 * becomes the end of the last one that `visit` called good. Bad lines behind that are what a crash
 * tore; a bad line before a good one is a user's fault. */
struct output_line {
    const char *text;
    size_t n_bytes;
    int64_t number; /* from 1 */
};
typedef bool output_visit(void *context, const struct output_line *line);
bool output_scan(struct output *output, output_visit *visit, void *context, struct fault *fault);

/* Cut off what lies behind n_bytes. */
bool output_cut(struct output *output, struct fault *fault);

/* Keep only the lines `visit` calls good, in a new file put in the old one's place. */
bool output_filter(struct output *output, output_visit *visit, void *context, struct fault *fault);

/* Append `text`, which ends with a newline. False with the world's fault, and the file cut back. */
bool output_write(struct output *output, const char *text, size_t n_bytes, struct fault *fault);

/* fsync, when there is something to. Of streams nothing. */
bool output_sync(struct output *output, struct fault *fault);

void output_close(struct output *output);

/* Close, and take away a file that output_open made. */
void output_discard(struct output *output);

/* Whether files can be made beside `path`, of which faults say `name`. */
bool output_check_folder(const char *path, const char *name, struct fault *fault);

/* Make the entries of the folder that holds `path` durable. */
bool output_sync_folder(const char *path, struct fault *fault);

/* A failed call on a file, by errno: the user's fault for a place that cannot be or is forbidden,
 * else the world's, with no_room where that is the reason. Returns false. */
bool output_fault(struct fault *fault, const char *what, const char *name);

#endif
