/* peers_template VOCABULARY.gguf TEMPLATE|- NAME|none: is a chat template text recognised? TEMPLATE
 * is a file with a text that takes the place of the vocabulary file's own; - leaves that. NAME is
 * the name it should be recognised by; none: it should be refused. Exit 0: so it is; 1: not.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gguf.h"
#include "template.h"

static char *read_file(const char *path, size_t *n_bytes) {
    static char text[1 << 20];
    FILE *file = fopen(path, "rb");
    if (!file) {
        fprintf(stderr, "%s cannot be read\n", path);
        exit(1);
    }
    *n_bytes = fread(text, 1, sizeof text, file);
    fclose(file);
    return text;
}

/* Give the file a chat template: its first string key becomes one where it has none. */
static void set_template(struct gguf *gguf, struct gguf_string *text) {
    struct gguf_key *taken = NULL;
    for (size_t key = 0; key < gguf->n_keys; key++) {
        struct gguf_string name = gguf->key[key].name;
        bool is_template = name.n_bytes == 23 && !memcmp(name.text, "tokenizer.chat_template", 23);
        if (is_template || (!taken && gguf->key[key].value.kind == GGUF_STRING)) {
            taken = &gguf->key[key];
        }
    }
    if (!taken) return;
    taken->name = (struct gguf_string){"tokenizer.chat_template", 23};
    *(struct gguf_string *)taken->value.string = *text;
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: peers_template VOCABULARY.gguf TEMPLATE|- NAME|none\n");
        return 1;
    }
    struct gguf gguf;
    struct fault fault = {0};
    if (!gguf_open(&gguf, argv[1], &fault)) {
        printf("%s\n", fault.text);
        return 1;
    }
    if (strcmp(argv[2], "-") != 0) {
        struct gguf_string text;
        text.text = read_file(argv[2], &text.n_bytes);
        set_template(&gguf, &text);
    }
    const struct chat_template *found;
    const char *name = template_find(&found, &gguf, &fault) ? template_name(found) : "none";
    printf("%s %s\n", name, fault.text);
    gguf_close(&gguf);
    return strcmp(name, argv[3]) != 0;
}
