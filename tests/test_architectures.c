/* test_architectures.c - which GPUs run what a program was compiled for: rows of the table in the
 * CUDA C++ Programming Guide's section on compatibility, as machine code (cubin), PTX,
 * architecture- and family-specific code. Whether a GPU is told so is cli/mixed_devices.sh's and
 * bad_options.sh's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h> /* needs those above */

#include "../cuda/architectures.h"

struct row {
    const char *list;
    const char *runs, *not ; /* compute capabilities */
};

static void code_runs_where_the_guide_says(void **state) {
    (void)state;
    static const struct row rows[] = {
        {"90a-real", "9.0", "7.5 8.0 8.6 8.9 9.1 10.0 10.3 12.0"},
        {"90a", "9.0", "8.9 9.1 10.0 12.0"},
        {"100a-real", "10.0", "8.0 9.0 10.1 10.3 11.0 12.0"},
        {"100f-real", "10.0 10.3", "9.0 11.0 12.0"},
        {"103f", "10.3", "10.0 9.0 11.0 12.1"},
        {"90-real", "9.0 9.1", "8.0 8.9 10.0 12.0"},
        {"86-real", "8.6 8.9", "8.0 9.0"},
        {"90-virtual", "9.0 9.1 10.0 10.3 12.1", "7.5 8.0 8.9"},
        {"90", "9.0 10.0 12.0", "8.0 8.9"},
        {"120", "12.0 12.1", "9.0 10.0 11.0"},
        {"90a-real,100f-real", "9.0 10.0 10.3", "8.0 11.0 12.0"},
        {"80-real,90a-real,120-virtual", "8.0 8.6 9.0 12.0 13.0", "7.5 10.0 11.0"},
        {"", "9.0 8.0", ""}, /* not known: taken at its word */
        {"native", "9.0 8.0", ""},
        {"all-major", "9.0 8.0", ""},
    };
    for (size_t at = 0; at < sizeof rows / sizeof *rows; at++) {
        for (int runs = 0; runs < 2; runs++) {
            const char *text = runs ? rows[at].runs : rows[at].not ;
            int major, minor, n = 0;
            for (; sscanf(text, "%d.%d%n", &major, &minor, &n) == 2; text += n)
                if (architectures_run(rows[at].list, major, minor) != runs)
                    fail_msg("%s on %d.%d", rows[at].list, major, minor);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(code_runs_where_the_guide_says)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
