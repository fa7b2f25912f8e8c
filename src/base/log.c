/* log.c - messages to stderr. See log.h. */
#include "log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <utf8proc.h>

static struct {
    enum log_level level;
    bool json;
    /* A live line stands on the terminal and must be cleared before the next message. Any thread
     * may send that. */
    _Atomic bool live;
    char identity[64];
} talk = {.level = LOG_NOTE};

static const char *const level_names[] = {
    [LOG_QUIET] = "quiet", [LOG_ERROR] = "error", [LOG_WARNING] = "warning",
    [LOG_NOTE] = "note",   [LOG_INFO] = "info",   [LOG_DEBUG] = "debug",
};

void log_setup(enum log_level level, bool json) {
    talk.level = level;
    talk.json = json;
}

void log_identity(const char *identity) {
    snprintf(talk.identity, sizeof talk.identity, "%s", identity ? identity : "");
}

bool log_is_terminal(void) {
    return isatty(STDERR_FILENO) && !talk.json;
}

const char *log_level_name(enum log_level level) {
    return level_names[level];
}

enum log_level log_level_find(const char *name) {
    for (enum log_level level = LOG_QUIET; level <= LOG_DEBUG; level++) {
        if (strcmp(name, level_names[level]) == 0) return level;
    }
    return LOG_DEBUG + 1;
}

/* JSON string body: quotes, backslashes and control characters escaped. */
static void put_json(char *out, size_t size, const char *text) {
    size_t at = 0;
    for (const unsigned char *c = (const unsigned char *)text; *c && at + 7 < size; c++) {
        if (*c == '"' || *c == '\\') {
            out[at++] = '\\';
            out[at++] = (char)*c;
        } else if (*c < 0x20) {
            at += (size_t)snprintf(out + at, size - at, "\\u%04x", *c);
        } else {
            out[at++] = (char)*c;
        }
    }
    out[at] = 0;
}

/* One write per message, so that lines of several ranks do not interleave. */
static void say(enum log_level level, const char *format, va_list arguments) {
    if (level > talk.level) return;
    char text[4096], line[9000];
    vsnprintf(text, sizeof text, format, arguments);
    bool live = atomic_exchange(&talk.live, false);
    int length;
    if (talk.json) {
        char body[8600];
        put_json(body, sizeof body, text);
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        length = snprintf(line, sizeof line,
                          "{\"time\": %lld.%03ld, \"level\": \"%s\", \"who\": \"%s\", "
                          "\"text\": \"%s\"}\n",
                          (long long)now.tv_sec, now.tv_nsec / 1000000, level_names[level],
                          talk.identity, body);
    } else {
        bool named = level <= LOG_WARNING;
        length = snprintf(line, sizeof line, "%slamina: %s%s%s%s%s\n", live ? "\r\033[K" : "",
                          named && talk.identity[0] ? "[" : "", named ? talk.identity : "",
                          named && talk.identity[0] ? "] " : "",
                          level == LOG_WARNING ? "warning: " : "", text);
    }
    if (length >= (int)sizeof line) length = sizeof line - 1;
    ssize_t written = write(STDERR_FILENO, line, (size_t)length);
    (void)written; /* nobody is left to tell when stderr itself is gone */
}

#define SAY(level)                                                                                 \
    va_list arguments;                                                                             \
    va_start(arguments, format);                                                                   \
    say(level, format, arguments);                                                                 \
    va_end(arguments)

void log_error(const char *format, ...) {
    SAY(LOG_ERROR);
}
void log_warning(const char *format, ...) {
    SAY(LOG_WARNING);
}
void log_note(const char *format, ...) {
    SAY(LOG_NOTE);
}
void log_info(const char *format, ...) {
    SAY(LOG_INFO);
}
void log_debug(const char *format, ...) {
    SAY(LOG_DEBUG);
}

void log_live(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    if (!log_is_terminal()) {
        say(LOG_NOTE, format, arguments);
    } else if (talk.level >= LOG_NOTE) {
        char text[1024], line[1100];
        vsnprintf(text, sizeof text, format, arguments);
        int length = snprintf(line, sizeof line, "\r\033[K%s", text);
        ssize_t written = write(STDERR_FILENO, line, (size_t)length);
        (void)written;
        talk.live = true;
    }
    va_end(arguments);
}

char *log_escape(char *out, size_t size, const char *text, size_t n_bytes) {
    size_t at = 0;
    const char *cut = "...";
    for (size_t i = 0; i < n_bytes;) {
        utf8proc_int32_t code;
        utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)text + i,
                                              (utf8proc_ssize_t)(n_bytes - i), &code);
        bool plain = n > 0 && code >= 0x20 && !(code >= 0x7f && code < 0xa0) && code != '\\';
        size_t width = plain ? (size_t)n : (n > 0 && code == '\\') ? 2 : 4;
        if (at + width + strlen(cut) + 1 > size) {
            if (at + strlen(cut) + 1 <= size)
                at += (size_t)snprintf(out + at, size - at, "%s", cut);
            break;
        }
        if (plain) {
            memcpy(out + at, text + i, (size_t)n);
            at += (size_t)n;
            i += (size_t)n;
        } else if (width == 2) {
            out[at++] = '\\';
            out[at++] = '\\';
            i += 1;
        } else {
            at += (size_t)snprintf(out + at, size - at, "\\x%02x", (unsigned char)text[i]);
            i += 1;
        }
    }
    if (size) out[at] = 0;
    return out;
}
