/* options_values.c - numbers, sizes, durations and lists as people type them. See options.h.
 *
 * Every parser takes the whole text or nothing: no leading blanks, no trailing words, no silent
 * wrap. strtod and strtoll alone are too lenient (blanks, hexadecimal, inf, nan), so the alphabet
 * is checked first. A size is in powers of 1024, as Slurm and most HPC tools count; "GB" is
 * refused, since half of its readers mean powers of 1000.
 */
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "options.h"

bool parse_int(const char *text, int64_t least, int64_t most, int64_t *out) {
    const char *digits = text + (*text == '-' || *text == '+');
    if (!*digits || strspn(digits, "0123456789") != strlen(digits)) return false;
    errno = 0;
    long long value = strtoll(text, NULL, 10);
    if (errno || value < least || value > most) return false;
    *out = value;
    return true;
}

bool parse_real(const char *text, double least, double most, double *out) {
    if (!*text || strspn(text, "+-.0123456789eE") != strlen(text)) return false;
    char *end;
    double value = strtod(text, &end);
    if (*end || end == text || !isfinite(value) || value < least || value > most) return false;
    *out = value;
    return true;
}

/* Digits with at most one point and at least one digit, as a number; *text moves behind them. */
static bool read_decimal(const char **text, double *value) {
    size_t n_whole = strspn(*text, "0123456789");
    size_t n_bytes = n_whole;
    if ((*text)[n_whole] == '.') n_bytes += 1 + strspn(*text + n_whole + 1, "0123456789");
    if (n_bytes == 0 || n_bytes > 40 || (n_bytes == 1 && n_whole == 0)) return false;
    char digits[48];
    memcpy(digits, *text, n_bytes);
    digits[n_bytes] = 0;
    *value = strtod(digits, NULL);
    *text += n_bytes;
    return true;
}

bool parse_size(const char *text, int64_t *bytes) {
    double value;
    int64_t whole;
    if (parse_int(text, 0, INT64_MAX, &whole) && isdigit((unsigned char)*text)) {
        *bytes = whole;
        return true;
    }
    if (!read_decimal(&text, &value)) return false;
    static const char units[] = "KMGTP";
    const char *unit = *text ? strchr(units, toupper((unsigned char)*text)) : NULL;
    if (!unit) return false;
    text += 1;
    if (*text && strcasecmp(text, "i") != 0 && strcasecmp(text, "iB") != 0) return false;
    value = ldexp(value, 10 * (int)(unit - units + 1));
    if (value >= 0x1p63) return false;
    *bytes = (int64_t)value;
    return true;
}

/* Two digits below `limit`, and the mark behind them. */
static bool read_clock_part(const char **text, int limit, double *value) {
    const char *at = *text;
    if (!isdigit((unsigned char)at[0]) || !isdigit((unsigned char)at[1])) return false;
    int number = (at[0] - '0') * 10 + (at[1] - '0');
    *text += 2;
    *value = number;
    return number < limit;
}

/* [D-]HH:MM:SS */
static bool parse_clock(const char *text, double *seconds) {
    double days = 0, part[3];
    const char *dash = strchr(text, '-');
    if (dash) {
        if (!read_decimal(&text, &days) || text != dash || days != floor(days)) return false;
        text += 1;
    }
    static const int limits[3] = {100, 60, 60};
    for (int position = 0; position < 3; position++) {
        if (position > 0 && *text++ != ':') return false;
        if (!read_clock_part(&text, position == 0 && dash ? 24 : limits[position], &part[position]))
            return false;
    }
    if (*text) return false;
    *seconds = days * 86400 + part[0] * 3600 + part[1] * 60 + part[2];
    return true;
}

bool parse_duration(const char *text, double *seconds) {
    static const struct {
        const char *name;
        double seconds;
    } units[] = {{"d", 86400}, {"h", 3600}, {"ms", 1e-3}, {"m", 60}, {"s", 1}};
    double total = 0, value, least = INFINITY;
    if (strchr(text, ':')) {
        if (!parse_clock(text, &total)) return false;
    } else {
        if (!*text) return false;
        while (*text) {
            if (!read_decimal(&text, &value)) return false;
            if (!*text && isinf(least)) {
                total = value; /* a bare number is seconds */
                break;
            }
            size_t unit = 0, n_units = sizeof units / sizeof *units;
            while (unit < n_units && strncmp(text, units[unit].name, strlen(units[unit].name)))
                unit += 1;
            if (unit == n_units || units[unit].seconds >= least) return false;
            text += strlen(units[unit].name);
            least = units[unit].seconds;
            total += value * least;
        }
    }
    if (total > DURATION_MOST_S) return false;
    *seconds = total;
    return true;
}

/* A number of a list: text up to one of `ends`, which *text is moved to. */
static bool read_number(const char **text, const char *ends, bool sizes, int64_t *out) {
    char number[32] = "";
    size_t n_bytes = strcspn(*text, ends);
    if (n_bytes >= sizeof number) return false;
    memcpy(number, *text, n_bytes);
    *text += n_bytes;
    return sizes ? parse_size(number, out)
                 : isdigit((unsigned char)*number) && parse_int(number, 0, INT64_MAX, out);
}

/* FIRST, FIRST-LAST, FIRST-LAST+STEP or FIRST-LAST*FACTOR, put behind what is in the list. */
static bool read_range(const char **text, bool sizes, int64_t least, int64_t most,
                       struct number_list *list) {
    int64_t first, last, step = 1;
    bool multiplied = false;
    if (!read_number(text, ",-", sizes, &first)) return false;
    last = first;
    if (**text == '-') {
        *text += 1;
        if (!read_number(text, ",+*", sizes, &last)) return false;
        multiplied = **text == '*';
        if (multiplied || **text == '+') {
            *text += 1;
            if (!read_number(text, ",", sizes && !multiplied, &step)) return false;
        }
    }
    if (first < least || last > most || first > last || step < (multiplied ? 2 : 1)) return false;
    for (int64_t value = first;;) { /* 0 times any factor is ended by the list's length */
        if (list->n == LIST_MOST) return false;
        list->value[list->n++] = value;
        if (multiplied ? value > last / step : value > last - step) return true;
        value = multiplied ? value * step : value + step;
    }
}

bool parse_list(const char *text, bool sizes, int64_t least, int64_t most,
                struct number_list *out) {
    struct number_list list = {0};
    for (;; text++) {
        if (!read_range(&text, sizes, least, most, &list)) return false;
        if (*text != ',') break;
    }
    *out = list;
    return true;
}
