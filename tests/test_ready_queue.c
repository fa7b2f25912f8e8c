/* The queue keeps order, and is full by number or by bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "ready_queue.h"

static struct generation generation[8];

static void order_is_kept_around_the_ring(void **state) {
    (void)state;
    struct ready_queue queue;
    ready_queue_open(&queue, 3);
    assert_null(ready_queue_next(&queue));
    for (int number = 0; number < 1000; number++) {
        ready_queue_append(&queue, &generation[number % 8], 1);
        if (number < 2) continue;
        assert_false(ready_queue_has_room(&queue));
        assert_int_equal(ready_queue_length(&queue), 3);
        assert_ptr_equal(ready_queue_next(&queue), &generation[(number - 2) % 8]);
        assert_true(ready_queue_has_room(&queue));
    }
    ready_queue_close(&queue);
}

static void bytes_bound_it_but_never_below_one(void **state) {
    (void)state;
    struct ready_queue queue;
    ready_queue_open(&queue, 4);
    ready_queue_append(&queue, &generation[0], READY_QUEUE_MOST_BYTES - 1);
    assert_true(ready_queue_has_room(&queue));
    ready_queue_append(&queue, &generation[1], 2 * READY_QUEUE_MOST_BYTES);
    assert_false(ready_queue_has_room(&queue));
    ready_queue_next(&queue);
    assert_false(ready_queue_has_room(&queue));
    ready_queue_next(&queue);
    assert_true(ready_queue_has_room(&queue));
    ready_queue_close(&queue);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(order_is_kept_around_the_ring),
        cmocka_unit_test(bytes_bound_it_but_never_below_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
