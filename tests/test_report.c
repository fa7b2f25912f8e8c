/* report: file names as shell words (a shell reads them back), and what a rank holds as text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "../src/command/report_parts.h"

/* What sh makes of a word. */
static void shell_reads(const char *word, const char *wanted) {
    char command[2048], read[1024] = "";
    snprintf(command, sizeof command, "printf %%s %s", word);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    size_t n_bytes = fread(read, 1, sizeof read - 1, pipe);
    read[n_bytes] = 0;
    assert_int_equal(pclose(pipe), 0);
    assert_string_equal(read, wanted);
}

static void names_survive_a_shell(void **state) {
    (void)state;
    static const char *const name[] = {
        "answers.jsonl", "a b.jsonl", "it's", "'", "''x'",         "$HOME `id` \"", "*?[a]",
        "~/x",           "a;b&c|d>",  "-n",   "",  "\xc3\xa4.txt", "#hash {brace}"};
    char word[1200];
    for (size_t at = 0; at < sizeof name / sizeof *name; at++)
        shell_reads(report_word(word, sizeof word, name[at]), name[at]);
    assert_string_equal(report_word(word, sizeof word, "run-1/answers.jsonl"),
                        "run-1/answers.jsonl");
    /* what would move a terminal's cursor is shown, not sent */
    assert_string_equal(report_word(word, sizeof word, "a\033[2J\n"), "'a\\x1b[2J\\x0a'");
}

static void short_buffers_are_not_overrun(void **state) {
    (void)state;
    char word[32];
    for (size_t size = 1; size < sizeof word; size++) {
        memset(word, '!', sizeof word);
        report_word(word, size, "a'b'c d e f g h i j k l m n o");
        assert_true(strlen(word) < size);
        for (size_t at = size; at < sizeof word; at++)
            assert_true(word[at] == '!');
    }
}

static void shares_are_named(void **state) {
    (void)state;
    char share[REPORT_SHARE_BYTES];
    struct layout two_by_two = {.model_ranks = 1, .attention_ranks = 4, .heads = 2, .sequences = 2};
    struct layout heads = {.model_ranks = 1, .attention_ranks = 2, .heads = 2, .sequences = 1};
    struct layout alone = {.model_ranks = 1, .heads = 1, .sequences = 1};
    assert_string_equal(report_share(share, &alone, 3, 0), "weights and KV");
    assert_string_equal(report_share(share, &heads, 3, 0), "weights");
    assert_string_equal(report_share(share, &heads, 3, 1), "KV heads 0-1");
    assert_string_equal(report_share(share, &heads, 3, 2), "KV head 2");
    assert_string_equal(report_share(share, &two_by_two, 4, 3),
                        "KV heads 0-1, sequences of owner 1");
    assert_string_equal(report_share(share, &two_by_two, 4, 4),
                        "KV heads 2-3, sequences of owner 1");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_survive_a_shell),
        cmocka_unit_test(short_buffers_are_not_overrun),
        cmocka_unit_test(shares_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
