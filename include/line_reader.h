/* line_reader.h - the lines of the input files, one after another.
 *
 * Files are read as a stream: what is held is one line. The end of a line is LF or CR LF, the last
 * line needs none; lines of white space only are counted and skipped; a byte order mark at the
 * beginning of a file is dropped. Pipes and terminals can be read without waiting for them.
 */
#ifndef LAMINA_LINE_READER_H
#define LAMINA_LINE_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "check.h"

enum { LINE_MOST_BYTES = 64 << 20 };

struct line_reader;

struct input_line {
    const char *file; /* as named by the user, "stdin" for "-"; borrowed until line_reader_close */
    int file_number;  /* K from 1, or 0 with a single input */
    int64_t line;     /* from 1 */
    const char *text; /* without its end, valid until the next call; may hold any bytes */
    size_t n_bytes;
    bool is_text;  /* from a .txt file */
    bool too_long; /* longer than LINE_MOST_BYTES; text is cut there */
};

/* Whether the inputs are there and can be read, without opening one. False with a user's fault as
 * line_reader_open has. */
bool line_reader_check(const char *const *file, int n_files, struct fault *fault);

/* `file` (n_files names, "-" is stdin) is borrowed. False with a user's fault when one is missing,
 * unreadable, a folder, or stdin is named twice; then nothing is held. */
bool line_reader_open(struct line_reader **reader, const char *const *file, int n_files,
                      struct fault *fault);
void line_reader_close(struct line_reader *reader);

/* The next line, waiting for it where the input is a pipe. False at the end of all input, and, with
 * a fault, when a file cannot be read. */
bool line_reader_next(struct line_reader *reader, struct input_line *line, struct fault *fault);

/* The same without waiting. LINE_NOT_YET: poll line_reader_fd for input, then ask again. */
enum line_state { LINE_READ, LINE_NOT_YET, LINE_END, LINE_FAILED };
enum line_state line_reader_poll(struct line_reader *reader, struct input_line *line,
                                 struct fault *fault);
int line_reader_fd(const struct line_reader *reader);

#endif
