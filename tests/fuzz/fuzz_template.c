/* fuzz_template: byte 0 picks a template by its place in the list of names, then messages, each a
 * role, byte 0xfe, content, byte 0xff. Rendering must end in a text or a reason, the same twice;
 * the rest of the input is also offered as a template text.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gguf.h"
#include "template.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                        \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

enum { MAX_MESSAGES = 32, MAX_NAMES = 64 };

/* The names out of the message that lists them. */
static int read_names(char name[MAX_NAMES][32]) {
    struct fault fault = {0};
    const struct chat_template *found;
    MUST(!template_find_name(&found, "", &fault));
    int n_names = 0;
    for (char *at = strstr(fault.text, "known are: ") + 11; at && *at && n_names < MAX_NAMES;) {
        size_t length = strcspn(at, ",");
        MUST(length < 32);
        memcpy(name[n_names], at, length);
        name[n_names++][length] = 0;
        at += length;
        at += strspn(at, ", ");
    }
    return n_names;
}

static size_t read_messages(const char *text, size_t n_bytes, struct chat_message *message) {
    size_t n_messages = 0;
    const char *at = text, *last = text + n_bytes;
    while (at < last && n_messages < MAX_MESSAGES) {
        const char *end = memchr(at, 0xff, (size_t)(last - at));
        if (!end) end = last;
        const char *middle = memchr(at, 0xfe, (size_t)(end - at));
        if (!middle) middle = end;
        const char *content = middle < end ? middle + 1 : end;
        message[n_messages++] =
            (struct chat_message){at, (size_t)(middle - at), content, (size_t)(end - content)};
        at = end < last ? end + 1 : last;
    }
    return n_messages;
}

static void render_twice(const struct chat_template *chat_template, const char *bytes,
                         size_t n_bytes, bool prompt) {
    struct chat_message message[MAX_MESSAGES];
    struct template_text text[2] = {{0}, {0}};
    bool rendered[2];
    size_t n_messages = read_messages(bytes, n_bytes, message);
    for (int turn = 0; turn < 2; turn++) {
        struct fault fault = {0};
        rendered[turn] =
            template_render(chat_template, message, n_messages, prompt, &text[turn], &fault);
        MUST(rendered[turn] == (fault.kind == FAULT_NONE));
        MUST(rendered[turn] || text[turn].n_bytes == 0);
        if (rendered[turn]) MUST(text[turn].text[text[turn].n_bytes] == 0);
    }
    MUST(rendered[0] == rendered[1] && text[0].n_bytes == text[1].n_bytes);
    MUST(!rendered[0] || memcmp(text[0].text, text[1].text, text[0].n_bytes) == 0);
    free(text[0].text);
    free(text[1].text);
}

static void offer_text(const char *text, size_t n_bytes) {
    struct gguf_string string = {text, n_bytes};
    struct gguf_key key = {.name = {"tokenizer.chat_template", 23},
                           .value = {.kind = GGUF_STRING, .n_elements = 1, .string = &string}};
    struct gguf gguf = {.path = "input", .n_keys = 1, .key = &key};
    const struct chat_template *found;
    struct fault fault = {0};
    MUST(template_find(&found, &gguf, &fault) == (fault.kind == FAULT_NONE));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static char name[MAX_NAMES][32];
    static int n_names;
    if (n_names == 0) n_names = read_names(name);
    if (size == 0) return 0;
    char *bytes = malloc(size);
    memcpy(bytes, data + 1, size - 1);
    const struct chat_template *found;
    struct fault fault = {0};
    MUST(template_find_name(&found, name[data[0] / 2 % n_names], &fault));
    render_twice(found, bytes, size - 1, data[0] & 1);
    offer_text(bytes, size - 1);
    free(bytes);
    return 0;
}
