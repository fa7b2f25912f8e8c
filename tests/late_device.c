/* late_device.c - see late_device.h. */
#include "late_device.h"

#include <string.h>

#include "check.h"

enum { MOST_COPIES = 64 };

static struct {
    struct copy {
        bool read;
        void *packed;
        enum element as;
        struct value value;
        struct rectangle part;
    } copy[MOST_COPIES];
    int n_copies, n_settled;
    struct value q, out; /* f32, for attend */
    void *wide;          /* as many floats */
} late;

static void add_copy(struct copy copy) {
    REQUIRE(late.n_copies < MOST_COPIES, "more than %d copies", MOST_COPIES);
    late.copy[late.n_copies++] = copy;
}

static void late_read_rows(struct device *device, void *to, enum element as,
                           const struct value *from, struct rectangle part) {
    (void)device;
    memset(to, 0xa5, (size_t)part.n_rows * (size_t)part.n_columns * element_bytes(as));
    add_copy((struct copy){true, to, as, *from, part});
}

static void late_write_rows(struct device *device, const struct value *to, struct rectangle part,
                            const void *from, enum element as) {
    (void)device;
    add_copy((struct copy){false, (void *)(uintptr_t)from, as, *to, part});
}

static void late_settle(struct device *device) {
    for (int at = 0; at < late.n_copies; at++) {
        struct copy *copy = &late.copy[at];
        if (copy->read) {
            device_cpu.read_rows(device, copy->packed, copy->as, &copy->value, copy->part);
        } else {
            device_cpu.write_rows(device, &copy->value, copy->part, copy->packed, copy->as);
        }
    }
    late.n_copies = 0;
    late.n_settled += 1;
}

/* Operators stand behind the copies that were asked for before them. */
static void late_append_kv(struct device *device, const struct rows *rows,
                           const struct kv_cache *cache, int layer, struct value kv) {
    late_settle(device);
    device_cpu.append_kv(device, rows, cache, layer, kv);
}

static void late_prepare(struct device *device, const struct device_limits *limits) {
    int columns = limits->n_heads * limits->head_dim;
    size_t n_bytes = (size_t)limits->max_rows * (size_t)columns * sizeof(float);
    device_cpu.prepare(device, limits);
    late.q = late.out =
        (struct value){.columns = columns, .stride = columns, .element = ELEMENT_F32};
    late.q.buffer = device_cpu.alloc(device, n_bytes);
    late.out.buffer = device_cpu.alloc(device, n_bytes);
    late.wide = device_cpu.alloc_host(device, n_bytes);
}

static void late_close(struct device *device) {
    device_cpu.release(device, late.q.buffer);
    device_cpu.release(device, late.out.buffer);
    device_cpu.release_host(device, late.wide);
    device_cpu.close(device);
}

static void late_attend(struct device *device, const struct rows *rows,
                        const struct kv_cache *cache, struct attend_shape shape,
                        enum attend_part part, struct value q, struct value out) {
    struct rectangle all = {0, rows->n_rows, 0, q.columns};
    late_settle(device);
    REQUIRE(q.element == ELEMENT_BF16 && out.element == ELEMENT_BF16, "values are bf16 here");
    device_cpu.read_rows(device, late.wide, ELEMENT_F32, &q, all);
    device_cpu.write_rows(device, &late.q, all, late.wide, ELEMENT_F32);
    device_cpu.attend(device, rows, cache, shape, part, late.q, late.out);
    if (part == ATTEND_CACHED) return;
    device_cpu.read_rows(device, late.wide, ELEMENT_F32, &late.out, all);
    device_cpu.write_rows(device, &out, all, late.wide, ELEMENT_F32);
}

struct device_ops late_device(void) {
    struct device_ops ops = device_cpu;
    ops.name = "late";
    ops.activation = ELEMENT_BF16;
    ops.read_rows = late_read_rows;
    ops.write_rows = late_write_rows;
    ops.settle = late_settle;
    ops.append_kv = late_append_kv;
    ops.attend = late_attend;
    ops.prepare = late_prepare;
    ops.close = late_close;
    return ops;
}

int late_n_settled(void) {
    return late.n_settled;
}
