/* ready_queue.c - a ring between two threads. See ready_queue.h.
 *
 * Owns the ring. The invariant: n_taken <= n_appended <= n_taken + capacity; a place is written
 * before n_appended counts it and read before n_taken does. Both only grow, so neither side can
 * mistake full for empty. Rejected: a lock, which a thread that is put aside would hold.
 */
#include "ready_queue.h"

#include <stdlib.h>

#include "check.h"

void ready_queue_open(struct ready_queue *queue, size_t capacity) {
    *queue = (struct ready_queue){.capacity = capacity};
    queue->generation = check_alloc(capacity, sizeof *queue->generation);
    queue->n_bytes = check_alloc(capacity, sizeof *queue->n_bytes);
}

void ready_queue_close(struct ready_queue *queue) {
    free(queue->generation);
    free(queue->n_bytes);
    *queue = (struct ready_queue){0};
}

size_t ready_queue_length(const struct ready_queue *queue) {
    /* n_taken first: read behind n_appended it could be ahead of it. */
    uint64_t n_taken = atomic_load(&queue->n_taken);
    return (size_t)(atomic_load(&queue->n_appended) - n_taken);
}

bool ready_queue_has_room(struct ready_queue *queue) {
    uint64_t n_taken = atomic_load(&queue->n_taken);
    while (queue->n_settled < n_taken)
        queue->bytes_ready -= queue->n_bytes[queue->n_settled++ % queue->capacity];
    size_t n_waiting = (size_t)(atomic_load(&queue->n_appended) - n_taken);
    return n_waiting < queue->capacity &&
           (n_waiting == 0 || queue->bytes_ready < READY_QUEUE_MOST_BYTES);
}

void ready_queue_append(struct ready_queue *queue, struct generation *generation, size_t n_bytes) {
    uint64_t n_appended = atomic_load(&queue->n_appended);
    queue->generation[n_appended % queue->capacity] = generation;
    queue->n_bytes[n_appended % queue->capacity] = n_bytes;
    queue->bytes_ready += n_bytes;
    atomic_store(&queue->n_appended, n_appended + 1);
}

struct generation *ready_queue_next(struct ready_queue *queue) {
    uint64_t n_taken = atomic_load(&queue->n_taken);
    if (atomic_load(&queue->n_appended) == n_taken) return NULL;
    struct generation *generation = queue->generation[n_taken % queue->capacity];
    atomic_store(&queue->n_taken, n_taken + 1);
    return generation;
}
