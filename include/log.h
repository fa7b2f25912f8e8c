/* log.h - how lamina speaks.
 *
 * Data goes to files or stdout; talk goes to stderr, through here, one line a message. Text that
 * came from a file is escaped before it reaches a terminal. On a terminal one live line may stand
 * below the messages; in a log it is an ordinary line.
 */
#ifndef LAMINA_LOG_H
#define LAMINA_LOG_H

#include <stdbool.h>
#include <stddef.h>

enum log_level { LOG_QUIET, LOG_ERROR, LOG_WARNING, LOG_NOTE, LOG_INFO, LOG_DEBUG };

/* Messages above `level` are dropped; with `json` each message is one JSON object. Called once,
 * before threads start; until then LOG_NOTE and plain text. */
void log_setup(enum log_level level, bool json);

/* Name this process in front of errors and warnings ("rank 2 attention"); NULL or "" for none. */
void log_identity(const char *identity);

void log_error(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_warning(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_note(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_info(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_debug(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Replace the live line on a terminal, or print `text` as a note elsewhere. */
void log_live(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* True when stderr is a terminal, where log_live overwrites its last line. */
bool log_is_terminal(void);

/* Copy `n_bytes` of foreign text into out[size], control characters and bytes that are not valid
 * UTF-8 written as \xNN, cut with "..." where it does not fit. Returns out. */
char *log_escape(char *out, size_t size, const char *text, size_t n_bytes);

/* Name of a level ("warning"), and the level of a name; LOG_DEBUG + 1 when unknown. */
const char *log_level_name(enum log_level level);
enum log_level log_level_find(const char *name);

#endif
