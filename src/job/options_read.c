/* options_read.c - the value of one option, checked and stored where its row says. See options.h.
 *
 * One reader a kind of value. Each refusal names the option, quotes what was given and says what is
 * expected; a value of a part that is not built is refused by what that part is to do.
 */
#include <stdlib.h>
#include <string.h>

#include "options_table.h"

/* An option while its value is read. */
struct reading {
    struct options *options;
    const struct option_row *row;
    struct fault *fault;
};

struct option_quoted options_quote(const char *text) {
    struct option_quoted quoted;
    log_escape(quoted.text, sizeof quoted.text, text, strlen(text));
    return quoted;
}

bool options_refuse_unbuilt(const struct option_row *row, const char *value, const char *unbuilt,
                            struct fault *fault) {
    return fault_user(fault, "--%s%s%s is not built yet; it is to %s", row->name, value ? " " : "",
                      value ? options_quote(value).text : "", unbuilt);
}

static bool refuse(const struct reading *reading, const char *value, const char *allowed) {
    return fault_user(reading->fault, "--%s %s: expected %s", reading->row->name,
                      options_quote(value).text, allowed);
}

static bool read_text(const struct reading *reading, const char *value, const char **out) {
    if (!*value) return refuse(reading, value, "something that is not empty");
    *out = value;
    return true;
}

static bool read_choice(const struct reading *reading, const char *value, int *out) {
    char allowed[256] = "one of";
    for (const struct option_choice *choice = reading->row->choice; choice->word; choice++) {
        if (!strcmp(value, choice->word)) {
            if (choice->unbuilt)
                return options_refuse_unbuilt(reading->row, value, choice->unbuilt, reading->fault);
            *out = choice->value;
            return true;
        }
        if (choice->unbuilt) continue;
        size_t n_bytes = strlen(allowed);
        snprintf(allowed + n_bytes, sizeof allowed - n_bytes, "%s %s",
                 choice == reading->row->choice ? "" : ",", choice->word);
    }
    if (reading->row->beyond)
        return options_refuse_unbuilt(reading->row, value, reading->row->beyond, reading->fault);
    return refuse(reading, value, allowed);
}

/* One NAME=NUMBER of a partition; each name once. */
static bool read_part(const struct reading *reading, char *part, int64_t *heads,
                      int64_t *sequences) {
    char *number = strchr(part, '=');
    if (!number) return false;
    *number++ = 0;
    if (!strcmp(part, "tokens"))
        return options_refuse_unbuilt(reading->row, "tokens=", "share the cache by token ranges",
                                      reading->fault);
    if (!strcmp(part, "heads") && *heads < 0) return parse_int(number, 1, 1000000, heads);
    if (!strcmp(part, "sequences") && *sequences < 0)
        return parse_int(number, 1, 1000000, sequences);
    return false;
}

/* auto, or heads=H,sequences=S with one left out. */
static bool read_partition(const struct reading *reading, const char *value) {
    int64_t heads = -1, sequences = -1;
    bool good = true;
    if (strcmp(value, "auto") != 0) {
        char text[128] = "";
        good = strlen(value) < sizeof text;
        if (good) strcpy(text, value);
        for (char *rest = text, *part; good && (part = strsep(&rest, ","));)
            good = read_part(reading, part, &heads, &sequences);
        if (heads < 0) heads = 1;
        if (sequences < 0) sequences = 1;
    }
    if (!good) /* keeps a refusal that read_part left */
        return refuse(reading, value,
                      "auto, or heads=H,sequences=S with numbers from 1; one of "
                      "the two may be left out");
    reading->options->heads = (int)heads;
    reading->options->sequences = (int)sequences;
    return true;
}

static bool read_whole(const struct reading *reading, const char *value, int64_t *out) {
    const struct option_row *row = reading->row;
    int64_t whole;
    if (!parse_int(value, (int64_t)row->least, (int64_t)row->most, &whole)) {
        char allowed[96];
        double most = row->built_most > 0 ? row->built_most : row->most;
        if (most > row->least) {
            snprintf(allowed, sizeof allowed, "a whole number from %.0f to %.0f", row->least, most);
        } else {
            snprintf(allowed, sizeof allowed, "%.0f", most);
        }
        return refuse(reading, value, allowed);
    }
    if (row->built_most > 0 && (double)whole > row->built_most)
        return options_refuse_unbuilt(row, value, row->beyond, reading->fault);
    *out = whole;
    return true;
}

static bool read_int(const struct reading *reading, const char *value, int *out) {
    int64_t whole;
    if (!read_whole(reading, value, &whole)) return false;
    *out = (int)whole;
    return true;
}

static bool read_seed(const struct reading *reading, const char *value, uint64_t *out) {
    static const char most[] = "18446744073709551615";
    size_t n_digits = strspn(value, "0123456789"), n_most = strlen(most);
    if (n_digits == 0 || value[n_digits] || n_digits > n_most ||
        (n_digits == n_most && strcmp(value, most) > 0))
        return refuse(reading, value, "a whole number from 0 to 18446744073709551615");
    *out = strtoull(value, NULL, 10);
    return true;
}

static bool read_real(const struct reading *reading, const char *value, float *out) {
    const struct option_row *row = reading->row;
    double real;
    if (parse_real(value, row->least, row->most, &real) &&
        !(row->above_least && (float)real <= (float)row->least)) {
        *out = (float)real;
        return true;
    }
    char allowed[96];
    snprintf(allowed, sizeof allowed, "a number %s %g %s %g", row->above_least ? "above" : "from",
             row->least, row->above_least ? "up to" : "to", row->most);
    return refuse(reading, value, allowed);
}

static bool read_size(const struct reading *reading, const char *value, int64_t *out) {
    int64_t bytes;
    if (!parse_size(value, &bytes) || bytes == 0)
        return refuse(reading, value, "a size: bytes, or 512M, 40G (powers of 1024)");
    *out = bytes;
    return true;
}

static bool read_duration(const struct reading *reading, const char *value, double *out) {
    double seconds;
    const struct option_choice *word = reading->row->choice;
    if (word && !strcmp(value, word->word)) {
        *out = word->value;
        return true;
    }
    if (!parse_duration(value, &seconds) || seconds == 0) {
        char allowed[96];
        snprintf(allowed, sizeof allowed,
                 "%s%sa duration above 0: 90, 90s, 10m, 1h30m or D-HH:MM:SS",
                 word ? word->word : "", word ? ", or " : "");
        return refuse(reading, value, allowed);
    }
    *out = seconds;
    return true;
}

static bool read_switch(const struct reading *reading, const char *value, bool *out) {
    if (strcmp(value, "on") && strcmp(value, "off")) return refuse(reading, value, "on or off");
    *out = !strcmp(value, "on");
    return true;
}

/* all, A or A-B. */
static bool read_steps(const struct reading *reading, const char *value, struct step_range *out) {
    char first[24] = "";
    const char *dash = strchr(value, '-'), *last = dash ? dash + 1 : value;
    size_t n_bytes = dash ? (size_t)(dash - value) : strlen(value);
    int64_t from = 0, to = INT32_MAX;
    bool good = !strcmp(value, "all");
    if (!good && n_bytes < sizeof first) {
        memcpy(first, value, n_bytes);
        good =
            parse_int(first, 0, INT32_MAX - 1, &from) && parse_int(last, from, INT32_MAX - 1, &to);
    }
    if (!good)
        return refuse(reading, value, "all, a step (7), or the first and the last one (100-199)");
    *out = (struct step_range){(int32_t)from, (int32_t)to};
    return true;
}

static bool read_list(const struct reading *reading, const char *value, struct number_list *out) {
    const struct option_row *row = reading->row;
    bool sizes = row->kind == OPTION_SIZES;
    int64_t least = (int64_t)row->least, most = (int64_t)row->most;
    if (parse_list(value, sizes, least, most, out)) return true;
    char allowed[160];
    snprintf(allowed, sizeof allowed, "%s from %lld to %lld, at most %d: %s",
             sizes ? "sizes" : "whole numbers", (long long)least, (long long)most, LIST_MOST,
             sizes ? "4K,1M, 4K-64K+4K or 16-64M*4" : "1,8,32, 1-8, 0-100+25 or 512-8192*2");
    return refuse(reading, value, allowed);
}

bool options_read(struct options *options, const struct option_row *row, const char *value,
                  struct fault *fault) {
    const struct reading reading = {options, row, fault};
    int dropped; /* takes the choices that have no target */
    void *target = row->target == NO_TARGET ? (void *)&dropped : (char *)options + row->target;
    REQUIRE(row->target != NO_TARGET || row->kind == OPTION_CHOICE || row->kind == OPTION_PARTITION,
            "--%s has no target", row->name);
    switch (row->kind) {
    case OPTION_FLAG: *(bool *)target = row->constant; return true;
    case OPTION_CONSTANT: *(int *)target = row->constant; return true;
    case OPTION_TEXT: return read_text(&reading, value, target);
    case OPTION_INT: return read_int(&reading, value, target);
    case OPTION_COUNT: return read_whole(&reading, value, target);
    case OPTION_SEED: return read_seed(&reading, value, target);
    case OPTION_REAL: return read_real(&reading, value, target);
    case OPTION_SIZE: return read_size(&reading, value, target);
    case OPTION_DURATION: return read_duration(&reading, value, target);
    case OPTION_SWITCH: return read_switch(&reading, value, target);
    case OPTION_CHOICE: return read_choice(&reading, value, target);
    case OPTION_LIST:
    case OPTION_SIZES: return read_list(&reading, value, target);
    case OPTION_PARTITION: return read_partition(&reading, value);
    case OPTION_STEPS: return read_steps(&reading, value, target);
    case OPTION_FILES: break; /* several words: the walk over argv takes them */
    }
    REQUIRE(false, "--%s has no reader", row->name);
    return false;
}
