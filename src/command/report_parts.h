/* report_parts.h - what the files of the report share: private to src/command. */
#ifndef LAMINA_REPORT_PARTS_H
#define LAMINA_REPORT_PARTS_H

#include "report.h"

/* A file name as a word to be typed to a shell: quoted where it must be, escaped where it cannot be
 * typed. Returns out. */
const char *report_word(char *out, size_t size, const char *name);

/* What of the model a rank holds: "KV heads 0-1, sequences of owner 0". Returns out. */
enum { REPORT_SHARE_BYTES = 96 };
const char *report_share(char out[REPORT_SHARE_BYTES], const struct layout *layout, int n_kv_heads,
                         int rank);

/* What the summary is made of, on the leader. */
struct report_totals {
    double start_s, load_s; /* before the loop, all and the weights */
    double loop_s, prefill_s, decode_s;
    const struct batch_counts *counts;
    const struct latencies *latencies;
    const struct desk_counts *desk;
};
void report_print_totals(const struct report_totals *totals);

/* Collective: the share of `loop_s` that each role spent on what, and the bytes of messages;
 * `n_rows` is the leader's. */
void report_print_roles(const struct report_run *run, double loop_s, int64_t n_rows);

#endif
