/* line_reader.c - the input files as lines. See line_reader.h.
 *
 * Owns the file that is open now and one buffer. The invariant: [begin, end) of the buffer is what
 * was read and not given out, and no line end lies in [begin, scanned). What a line means is left
 * to requests.c. Rejected: getline(3), which can neither be bounded nor asked without waiting, and
 * a map of the file, which pipes do not have and which kills the process when the file shrinks.
 */
#include "line_reader.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "log.h"

enum { READ_BYTES = 1 << 18 };

struct line_reader {
    const char *const *file;
    int n_files, n_opened; /* the open file is file[n_opened - 1] */
    int fd;                /* -1: none open */
    bool may_wait;         /* a pipe, a terminal: reading it may wait */
    bool ended;            /* the open file has no more bytes */
    bool skipping;         /* the rest of a line that was too long is still to come */
    char *buffer;
    size_t capacity, begin, end, scanned;
    int64_t line; /* lines seen of this file */
};

static bool is_stdin(const char *name) {
    return strcmp(name, "-") == 0;
}

static bool is_text_name(const char *name) {
    size_t n_bytes = strlen(name);
    return n_bytes >= 4 && strcasecmp(name + n_bytes - 4, ".txt") == 0;
}

static bool check_file(const char *name, struct fault *fault) {
    char shown[256];
    log_escape(shown, sizeof shown, name, strlen(name));
    struct stat status;
    if (stat(name, &status) != 0 || access(name, R_OK) != 0)
        return fault_user(fault, "cannot read input %s: %s", shown, strerror(errno));
    if (S_ISDIR(status.st_mode))
        return fault_user(fault, "input %s is a folder: name the files in it", shown);
    return true;
}

bool line_reader_check(const char *const *file, int n_files, struct fault *fault) {
    int n_stdin = 0;
    for (int number = 0; number < n_files; number++) {
        if (is_stdin(file[number])) {
            n_stdin++;
        } else if (!check_file(file[number], fault)) {
            return false;
        }
    }
    if (n_files < 1) return fault_user(fault, "no input: name a file of prompts with -i");
    if (n_stdin > 1) return fault_user(fault, "stdin (-) is named %d times as input", n_stdin);
    return true;
}

bool line_reader_open(struct line_reader **reader, const char *const *file, int n_files,
                      struct fault *fault) {
    if (!line_reader_check(file, n_files, fault)) return false;
    struct line_reader *made = check_alloc(1, sizeof *made);
    *made = (struct line_reader){.file = file, .n_files = n_files, .fd = -1};
    made->capacity = READ_BYTES;
    made->buffer = check_alloc(made->capacity, 1);
    *reader = made;
    return true;
}

static void close_file(struct line_reader *reader) {
    if (reader->fd > STDIN_FILENO) close(reader->fd);
    reader->fd = -1;
}

void line_reader_close(struct line_reader *reader) {
    if (!reader) return;
    close_file(reader);
    free(reader->buffer);
    free(reader);
}

int line_reader_fd(const struct line_reader *reader) {
    return reader->fd;
}

static const char *name_now(const struct line_reader *reader) {
    const char *name = reader->file[reader->n_opened - 1];
    return is_stdin(name) ? "stdin" : name;
}

static bool fail(const struct line_reader *reader, const char *what, struct fault *fault) {
    char shown[256];
    const char *name = name_now(reader);
    return fault_world(fault, "%s:%lld: %s failed: %s",
                       log_escape(shown, sizeof shown, name, strlen(name)),
                       (long long)reader->line + 1, what, strerror(errno));
}

static bool open_file(struct line_reader *reader, struct fault *fault) {
    const char *name = reader->file[reader->n_opened++];
    reader->line = 0;
    reader->ended = reader->skipping = false;
    reader->begin = reader->end = reader->scanned = 0;
    /* Without O_NONBLOCK opening a named pipe would wait for its writer. */
    reader->fd = is_stdin(name) ? STDIN_FILENO : open(name, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    struct stat status;
    if (reader->fd < 0 || fstat(reader->fd, &status) != 0) return fail(reader, "opening", fault);
    reader->may_wait = !S_ISREG(status.st_mode);
    return true;
}

static bool is_blank(const char *text, size_t n_bytes) {
    for (size_t at = 0; at < n_bytes; at++) {
        if (text[at] != ' ' && text[at] != '\t' && text[at] != '\r') return false;
    }
    return true;
}

static void make_line(const struct line_reader *reader, struct input_line *line, size_t n_bytes) {
    const char *text = reader->buffer + reader->begin;
    if (reader->line == 1 && n_bytes >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) {
        text += 3;
        n_bytes -= 3;
    }
    if (n_bytes && text[n_bytes - 1] == '\r') n_bytes--;
    *line = (struct input_line){
        .file = name_now(reader),
        .file_number = reader->n_files > 1 ? reader->n_opened : 0,
        .line = reader->line,
        .text = text,
        .n_bytes = n_bytes,
        .is_text = is_text_name(reader->file[reader->n_opened - 1]),
    };
}

/* Give out a line that lies whole in the buffer, or the beginning of one that is too long. */
static bool take_line(struct line_reader *reader, struct input_line *line) {
    while (reader->begin < reader->end) {
        const char *from = reader->buffer + reader->scanned;
        const char *newline = memchr(from, '\n', reader->end - reader->scanned);
        size_t stop = newline ? (size_t)(newline - reader->buffer) : reader->end;
        size_t n_bytes = stop - reader->begin;
        reader->scanned = stop;
        if (!newline && !reader->ended && !reader->skipping && n_bytes <= LINE_MOST_BYTES)
            return false;
        bool skipped = reader->skipping;
        bool too_long = n_bytes > LINE_MOST_BYTES;
        reader->skipping = !newline && (skipped || too_long);
        if (!skipped) {
            reader->line++;
            make_line(reader, line, too_long ? LINE_MOST_BYTES : n_bytes);
            line->too_long = too_long;
        }
        reader->begin = reader->scanned = newline ? stop + 1 : stop;
        if (!skipped && !is_blank(line->text, line->n_bytes)) return true;
    }
    return false;
}

/* Room for a read behind what is held; take_line keeps that below LINE_MOST_BYTES and a read. */
static void make_room(struct line_reader *reader) {
    size_t n_held = reader->end - reader->begin;
    if (reader->begin > 0) {
        memmove(reader->buffer, reader->buffer + reader->begin, n_held);
        reader->scanned -= reader->begin;
        reader->begin = 0;
        reader->end = n_held;
    }
    if (reader->capacity - n_held >= READ_BYTES) return;
    char *larger = check_alloc(2 * reader->capacity, 1);
    memcpy(larger, reader->buffer, n_held);
    free(reader->buffer);
    reader->buffer = larger;
    reader->capacity *= 2;
}

/* Bring more bytes, or the next file, without waiting. */
static enum line_state advance(struct line_reader *reader, struct fault *fault) {
    if (reader->fd < 0 || reader->ended) {
        close_file(reader);
        if (reader->n_opened == reader->n_files) return LINE_END;
        return open_file(reader, fault) ? LINE_READ : LINE_FAILED;
    }
    if (reader->may_wait) {
        struct pollfd input = {.fd = reader->fd, .events = POLLIN};
        if (poll(&input, 1, 0) == 0) return LINE_NOT_YET;
    }
    make_room(reader);
    ssize_t n_bytes = read(reader->fd, reader->buffer + reader->end, READ_BYTES);
    if (n_bytes < 0) {
        if (errno == EAGAIN || errno == EINTR) return LINE_NOT_YET;
        fail(reader, "reading", fault);
        return LINE_FAILED;
    }
    reader->end += (size_t)n_bytes;
    reader->ended = n_bytes == 0;
    return LINE_READ;
}

enum line_state line_reader_poll(struct line_reader *reader, struct input_line *line,
                                 struct fault *fault) {
    while (!take_line(reader, line)) {
        enum line_state state = advance(reader, fault);
        if (state != LINE_READ) return state;
    }
    return LINE_READ;
}

bool line_reader_next(struct line_reader *reader, struct input_line *line, struct fault *fault) {
    enum line_state state;
    while ((state = line_reader_poll(reader, line, fault)) == LINE_NOT_YET) {
        struct pollfd input = {.fd = reader->fd, .events = POLLIN};
        poll(&input, 1, -1);
    }
    return state == LINE_READ;
}
