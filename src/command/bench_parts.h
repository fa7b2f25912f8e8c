/* bench_parts.h - what the benches share: private to src/command. */
#ifndef LAMINA_BENCH_PARTS_H
#define LAMINA_BENCH_PARTS_H

#include "compose.h"
#include "sheet.h"

/* Open the leader's sheet; collective, the fault is agreed. *sheet is NULL elsewhere. */
bool bench_open_sheet(struct run *run, struct sheet **sheet, const struct sheet_column *column,
                      int n_columns, struct fault *fault);
/* Version, command and who runs where. Collective, when the devices are open. */
void bench_tell(struct run *run, struct sheet *sheet);
/* Close the sheet and the run. Collective; returns the exit code: `code`, or what `fault` says
 * (agreed; said here once). */
int bench_end(struct run *run, struct sheet *sheet, int code, struct fault *fault);

/* Lengths of `n` sequences between mean / spread and mean * spread, the total n * mean, in an order
 * that the seed makes. `mean` is at least `spread`; a spread of 1 makes all alike. */
void bench_lengths(int32_t *length, int n, int mean, int spread, uint64_t seed);

/* The largest number of a list. */
int64_t bench_largest(const struct number_list *list);

/* Middle and ends of `n` measured values, which are sorted; percentiles are interpolated. */
struct spread {
    double median, p10, p90, least, most;
};
struct spread bench_spread(double *value, int n);

/* Something to be timed, again and again. */
struct work {
    void (*enqueue)(void *of);
    void *of;
};
/* How often `work` is to be enqueued so that a measurement lasts a hundredth of a second or more,
 * in which its start, when the device waits for the host, is little. Does it three times first, by
 * when a device that keeps runs has this one. */
int bench_fit(struct run *run, struct work work);
/* Seconds that it takes when enqueued `times` times, the mean. */
double bench_time(struct run *run, struct work work, int times);

/* Memory to be read as fast as the device can: made-up numbers, laid out by the threads that will
 * read them. */
struct ceiling {
    struct run *run;
    size_t n_bytes;
    struct buffer *buffer, *sum;
    size_t next;             /* offset of the next read */
    int way;                 /* of reading; the best one after a measurement */
    double copy_bytes_per_s; /* of all of it to elsewhere, best of the repeats; read and written
                                bytes both count */
};
/* `n_bytes`, a multiple of 64; takes as much again for a moment. False with the user's fault when
 * this rank may not use that much. Local. */
bool bench_ceiling_open(struct ceiling *ceiling, struct run *run, size_t n_bytes,
                        struct fault *fault);
/* The best rate of reads of `n_bytes`, each way that the device has measured eight times; a read is
 * of memory that was not read for as long as there is other. Bytes a second. */
double bench_ceiling_read(struct ceiling *ceiling, size_t n_bytes);
void bench_ceiling_close(struct ceiling *ceiling);

/* Made-up numbers into a buffer of the device, from offset 0 on; returns the XOR of their 64-bit
 * words. `n_bytes` is a multiple of 64. */
uint64_t bench_fill(struct run *run, struct buffer *buffer, enum element element, const char *name,
                    size_t n_bytes);

/* bench_wire.c: the sheet with its columns; every fan and size on one wire. Returns the bytes that
 * came back wrong (the leader's). Collective. */
bool bench_wire_open_sheet(struct run *run, struct sheet **sheet, struct fault *fault);
int64_t bench_wire_measure(struct run *run, const struct wire_ops *ops, struct sheet *sheet,
                           struct fault *fault);

#endif
