/* ready_queue.h - generations on their way from the desk's thread to decode's.
 *
 * One thread appends, one takes; neither ever waits for the other. The appending side alone keeps
 * the books of the bytes that wait in the queue.
 */
#ifndef LAMINA_READY_QUEUE_H
#define LAMINA_READY_QUEUE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "generation.h"

/* Buffers of waiting generations, beyond which only an empty queue has room. */
#define READY_QUEUE_MOST_BYTES ((size_t)256 << 20)

struct ready_queue {
    struct generation **generation; /* (capacity) */
    size_t *n_bytes;                /* (capacity), the appending side's */
    size_t capacity;
    _Atomic uint64_t n_appended, n_taken; /* since ready_queue_open; each has one writer */
    uint64_t n_settled;                   /* of n_taken, those whose bytes are subtracted */
    size_t bytes_ready;
};

void ready_queue_open(struct ready_queue *queue, size_t capacity);
void ready_queue_close(struct ready_queue *queue);

/* The appending side: room for one more, and one more of so many bytes, for which there is room. */
bool ready_queue_has_room(struct ready_queue *queue);
void ready_queue_append(struct ready_queue *queue, struct generation *generation, size_t n_bytes);

/* The taking side: the oldest, or NULL. */
struct generation *ready_queue_next(struct ready_queue *queue);

/* Either side. */
size_t ready_queue_length(const struct ready_queue *queue);

#endif
