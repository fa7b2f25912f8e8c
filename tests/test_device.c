/* Opening a device, its memory, and progress inside long operators. */
#include <fenv.h>
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

#include "device_plain.h"

static const struct device_limits limits = {.n_slots = 1, .max_rows = 8, .max_picked = 1};

static void every_device_opens_by_its_own_choice(void **state) {
    (void)state;
    for (size_t kind = 0; kind < sizeof tested / sizeof *tested; kind++) {
        const struct device_ops *ops = tested[kind].ops;
        if (ops->count() == 0) continue;
        struct device_options options = {.n_threads = 2};
        struct device *device;
        struct fault fault = {0};
        assert_true(ops->open(&device, &options, &fault));
        assert_int_equal(fault.kind, FAULT_NONE);
        assert_non_null(strstr(ops->describe(device), ops->name));
        ops->close(device); /* without prepare */
        ops->close(NULL);
    }
}

/* Plain C is always there; of the others each opens or says what the processor lacks. */
static void a_missing_instruction_set_is_the_users_fault(void **state) {
    (void)state;
    for (int isa = 1; isa <= 3; isa++) {
        struct device_options options = {.n_threads = 1, .isa = isa};
        struct device *device;
        struct fault fault = {0};
        if (device_cpu.open(&device, &options, &fault)) {
            assert_int_equal(fault.kind, FAULT_NONE);
            device_cpu.close(device);
        } else {
            assert_int_not_equal(isa, 1);
            assert_int_equal(fault.kind, FAULT_USER);
            assert_non_null(strstr(fault.text, "--cpu-isa"));
        }
    }
}

/* Bytes that are allocated, as the C library counts them. */
static size_t bytes_in_use(void) {
    struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
}

/* Of a rank that samples, of one that attends, of one that does both. */
static void prepare_takes_what_it_says(void **state) {
    (void)state;
    static const struct device_limits ranks[] = {
        {.n_slots = 2,
         .max_rows = 100,
         .max_picked = 30,
         .max_sequences = 60,
         .context = 1000,
         .vocabulary = 20000},
        {.n_slots = 2, .max_rows = 300, .n_heads = 6, .n_kv_heads = 2, .head_dim = 72},
        {.n_slots = 1,
         .max_rows = 7000,
         .max_picked = 40,
         .max_sequences = 40,
         .context = 3000,
         .vocabulary = 1031,
         .n_heads = 8,
         .n_kv_heads = 8,
         .head_dim = 128},
    };
    void *volatile probe = malloc(1 << 24);
    size_t with_probe = bytes_in_use();
    free(probe);
    if (with_probe < 1 << 24) skip(); /* another allocator, of a sanitizer */
    for (size_t at = 0; at < sizeof ranks / sizeof *ranks; at++) {
        for (int n_threads = 1; n_threads <= 3; n_threads += 2) {
            struct device_options options = {.n_threads = n_threads};
            struct device *device;
            struct fault fault = {0};
            assert_true(device_cpu.open(&device, &options, &fault));
            size_t before = bytes_in_use();
            device_cpu.prepare(device, &ranks[at]);
            size_t taken = bytes_in_use() - before;
            size_t said = device_cpu.prepare_bytes(&options, &ranks[at]);
            /* each allocation has less than 8 KiB of its own around it */
            if (taken < said || taken > said + (1 << 18))
                fail_msg("rank %zu: %zu bytes taken, %zu said", at, taken, said);
            device_cpu.close(device);
        }
    }
}

/* The same of a device with memory of its own, which rounds up what it is asked for. Products work
 * in more memory than all that a rank without weights needs. */
static void prepare_takes_what_it_says_of_a_gpu(void **state) {
    (void)state;
    static const struct device_limits ranks[] = {
        {.n_slots = 2,
         .max_rows = 128,
         .max_picked = 64,
         .max_sequences = 64,
         .context = 4096,
         .vocabulary = 100000},
        {.n_slots = 2,
         .max_rows = 128,
         .context = 4096,
         .n_heads = 8,
         .n_kv_heads = 2,
         .head_dim = 64},
    };
    enum { ROUNDING = 64 << 20, LESS_THAN_PRODUCTS = 128 << 20 };
    struct device_options options = {.n_threads = 1};
    if (device_cuda.count() == 0) skip();
    for (size_t at = 0; at < sizeof ranks / sizeof *ranks; at++) {
        int64_t taken = 0, said = (int64_t)device_cuda.prepare_bytes(&options, &ranks[at]);
        for (int time = 0; time < 2; time++) { /* the first time includes what starts once */
            struct device *device;
            struct fault fault = {0};
            assert_true(device_cuda.open(&device, &options, &fault));
            int64_t before = device_cuda.free_bytes(&options);
            device_cuda.prepare(device, &ranks[at]);
            taken = before - device_cuda.free_bytes(&options);
            device_cuda.close(device);
        }
        bool small = taken < LESS_THAN_PRODUCTS && said < LESS_THAN_PRODUCTS;
        if (taken > said + ROUNDING || taken + ROUNDING < said || small != (at == 1))
            fail_msg("rank %zu: %lld bytes taken, %lld said", at, (long long)taken,
                     (long long)said);
    }
}

/* Links go both ways, no GPU has one to itself, and the kernel knows an NVIDIA device at its place.
 */
static void devices_say_where_they_sit(void **state) {
    (void)state;
    struct device_options options = {.n_threads = 1};
    struct device_place place[64];
    memset(place, 0xff, sizeof place);
    device_cpu.locate(&options, &place[0]);
    assert_true(place[0].bus[0] == 0 && place[0].links == 0);
    int n = device_cuda.count() < 64 ? device_cuda.count() : 64;
    for (int index = 0; index < n; index++) {
        char path[128], vendor[16] = "";
        options.index = index;
        device_cuda.locate(&options, &place[index]);
        assert_true(place[index].index == index && place[index].n_visible == device_cuda.count());
        assert_false(place[index].links >> index & 1);
        for (int other = 0; other < index; other++) {
            assert_int_equal(place[index].links >> other & 1, place[other].links >> index & 1);
            assert_string_not_equal(place[index].bus, place[other].bus);
        }
        snprintf(path, sizeof path, "/sys/bus/pci/devices/%.23s/vendor", place[index].bus);
        FILE *file = fopen(path, "r");
        if (access("/sys/bus/pci/devices", F_OK) != 0) continue; /* hidden, as by a sandbox */
        assert_non_null(file);
        assert_non_null(fgets(vendor, sizeof vendor, file));
        assert_string_equal(vendor, "0x10de\n");
        fclose(file);
    }
}

static void memory_is_zeroed_and_keeps_what_it_is_given(void **state) {
    (void)state;
    struct subjects subjects = subjects_open(&limits);
    for (int at = 0; at < subjects.n; at++) {
        const struct device_ops *ops = subjects.at[at].ops;
        struct device *device = subjects.at[at].device;
        unsigned char bytes[100];
        struct buffer *buffer = ops->alloc(device, sizeof bytes);
        ops->download(device, bytes, buffer, 0, sizeof bytes);
        for (size_t k = 0; k < sizeof bytes; k++)
            assert_int_equal(bytes[k], 0);
        ops->upload(device, buffer, 7, "lamina", 6);
        ops->download(device, bytes, buffer, 5, 10);
        assert_memory_equal(bytes, "\0\0lamina\0\0", 10);
        ops->release(device, buffer);
        ops->release(device, NULL);
        ops->unload(device, NULL);
    }
    subjects_close(&subjects);
}

/* Reads of every size give the XOR of what was uploaded, and of nothing beside it. */
static void a_stream_reads_every_word_once(void **state) {
    (void)state;
    static const size_t lines[] = {0, 1, 2, 3, 64, 1000, 9999, 600001};
    enum { BYTES = 600002 * 64, OFFSET = 64 };
    uint64_t *word = take(BYTES, 1);
    for (size_t at = 0; at < BYTES / 8; at++)
        word[at] = at * 0x9E3779B97F4A7C15ull + 1;
    for (size_t kind = 0; kind < sizeof tested / sizeof *tested; kind++) {
        const struct device_ops *ops = tested[kind].ops;
        if (ops->count() == 0) continue;
        for (int n_threads = 1; n_threads <= 3; n_threads++) {
            struct device_options options = {.n_threads = n_threads};
            struct device *device;
            struct fault fault = {0};
            assert_true(ops->open(&device, &options, &fault));
            struct buffer *from = ops->alloc(device, BYTES), *sum = ops->alloc(device, 64);
            ops->upload(device, from, 0, word, BYTES);
            for (size_t size = 0; size < sizeof lines / sizeof *lines; size++) {
                uint64_t expected = 0, found[2] = {~0ull, ~0ull};
                for (size_t at = 0; at < lines[size] * 8; at++)
                    expected ^= word[OFFSET / 8 + at];
                for (int way = 0; ops->read_ways[way]; way++) {
                    ops->upload(device, sum, 0, found, sizeof found);
                    ops->read_stream(device, way, sum, from, OFFSET, lines[size] * 64);
                    uint64_t back[2];
                    ops->download(device, back, sum, 0, sizeof back);
                    assert_true(back[0] == expected && back[1] == ~0ull);
                }
            }
            ops->release(device, from);
            ops->release(device, sum);
            ops->close(device);
        }
    }
    free(word);
}

static void a_copy_is_equal_and_no_longer(void **state) {
    (void)state;
    enum { BYTES = 1003 * 64, COPIED = 1001 * 64 };
    unsigned char *given = take(BYTES, 1), *back = take(BYTES, 1);
    for (size_t at = 0; at < BYTES; at++)
        given[at] = (unsigned char)(at * 37 + at / 251 + 1);
    for (size_t kind = 0; kind < sizeof tested / sizeof *tested; kind++) {
        const struct device_ops *ops = tested[kind].ops;
        if (ops->count() == 0) continue;
        struct device_options options = {.n_threads = 3};
        struct device *device;
        struct fault fault = {0};
        assert_true(ops->open(&device, &options, &fault));
        struct buffer *from = ops->alloc(device, BYTES), *to = ops->alloc(device, BYTES);
        ops->upload(device, from, 0, given, BYTES);
        ops->lap(device);
        ops->copy(device, to, from, COPIED);
        assert_true(ops->lap(device) > 0);
        ops->download(device, back, to, 0, BYTES);
        assert_memory_equal(back, given, COPIED);
        for (size_t at = COPIED; at < BYTES; at++)
            assert_int_equal(back[at], 0);
        ops->release(device, from);
        ops->release(device, to);
        ops->close(device);
    }
    free(given);
    free(back);
}

static void elements_have_their_sizes(void **state) {
    (void)state;
    assert_int_equal(element_bytes(ELEMENT_F32), 4);
    assert_int_equal(element_bytes(ELEMENT_I32), 4);
    assert_int_equal(element_bytes(ELEMENT_F16), 2);
    assert_int_equal(element_bytes(ELEMENT_BF16), 2);
}

/* Whatever a library has done to the mode of rounding before. */
static void results_are_rounded_to_nearest(void **state) {
    (void)state;
    enum { N_ROWS = 64, COLUMNS = 1031, N = N_ROWS * COLUMNS };
    struct dice dice = {9};
    float *a = roll_floats(&dice, N, -1, 1), *b = roll_floats(&dice, N, -3e-3f, 3e-3f);
    float *expected = take(N, sizeof(float)), *got = take(N, sizeof(float));
    for (int k = 0; k < N; k++)
        expected[k] = a[k] + b[k];
    int mode = fegetround();
    fesetround(FE_UPWARD);
    struct subjects subjects = subjects_open(&limits);
    for (int at = 0; at < subjects.n; at++) {
        const struct subject *subject = &subjects.at[at];
        struct value left = value_of(subject, N_ROWS, COLUMNS, a);
        struct value right = value_of(subject, N_ROWS, COLUMNS, b);
        struct value out = value_alloc(subject, N_ROWS, COLUMNS);
        subject->ops->add(subject->device, N_ROWS, out, left, right);
        value_read(subject, &out, N_ROWS, got);
        check_floats(subject, "add", expected, got, N, 1e-6f);
        value_release(subject, &left);
        value_release(subject, &right);
        value_release(subject, &out);
    }
    subjects_close(&subjects);
    fesetround(mode);
    free(a);
    free(b);
    free(expected);
    free(got);
}

struct watch {
    pthread_t opener;
    int n_calls, n_by_others;
};

static void look(void *argument) {
    struct watch *watch = argument;
    watch->n_calls += 1;
    watch->n_by_others += !pthread_equal(pthread_self(), watch->opener);
}

/* Progress is called by the opening thread, inside matmul, and changes nothing. */
static void long_operators_let_the_wire_move(void **state) {
    (void)state;
    enum { ROWS = 1031, COLUMNS = 96, N_ROWS = 3 };
    struct dice dice = {5};
    float *x = roll_floats(&dice, N_ROWS * COLUMNS, -1, 1);
    float *w = roll_floats(&dice, ROWS * COLUMNS, -1, 1);
    float *expected = take(N_ROWS * ROWS, sizeof(float)), *got = take(N_ROWS * ROWS, sizeof(float));
    for (int n_threads = 1; n_threads <= 2; n_threads++) {
        for (int watched = 0; watched < 2; watched++) {
            struct watch watch = {.opener = pthread_self()};
            struct device_options options = {.n_threads = n_threads};
            if (watched) options.progress = look, options.progress_argument = &watch;
            struct subject subject = {.ops = &device_cpu, .exact = true};
            struct fault fault = {0};
            assert_true(device_cpu.open(&subject.device, &options, &fault));
            device_cpu.prepare(subject.device, &limits);
            struct weight *weight = load_floats(&subject, ROWS, COLUMNS, w);
            struct value from = value_of(&subject, N_ROWS, COLUMNS, x);
            struct value out = value_alloc(&subject, N_ROWS, ROWS);
            device_cpu.matmul(subject.device, N_ROWS, out, from, weight, NULL);
            value_read(&subject, &out, N_ROWS, watched ? got : expected);
            assert_true(watched ? watch.n_calls > 1 : watch.n_calls == 0);
            assert_int_equal(watch.n_by_others, 0);
            if (watched) check_floats(&subject, "with progress", expected, got, N_ROWS * ROWS, 0);
            value_release(&subject, &from);
            value_release(&subject, &out);
            device_cpu.unload(subject.device, weight);
            device_cpu.close(subject.device);
        }
    }
    free(x);
    free(w);
    free(expected);
    free(got);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_device_opens_by_its_own_choice),
        cmocka_unit_test(a_missing_instruction_set_is_the_users_fault),
        cmocka_unit_test(prepare_takes_what_it_says),
        cmocka_unit_test(prepare_takes_what_it_says_of_a_gpu),
        cmocka_unit_test(devices_say_where_they_sit),
        cmocka_unit_test(memory_is_zeroed_and_keeps_what_it_is_given),
        cmocka_unit_test(a_stream_reads_every_word_once),
        cmocka_unit_test(a_copy_is_equal_and_no_longer),
        cmocka_unit_test(elements_have_their_sizes),
        cmocka_unit_test(results_are_rounded_to_nearest),
        cmocka_unit_test(long_operators_let_the_wire_move),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
