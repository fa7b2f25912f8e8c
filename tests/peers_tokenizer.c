/* peers_tokenizer VOCABULARY.gguf TEXTS.inp IDS.out: does the tokenizer give the ids another engine
 * published? TEXTS holds texts between separator lines, IDS one line of ids for each. No BOS or EOS
 * is added and special tokens are not parsed. Exit 0: all equal; 1: not; 77: not a supported
 * tokenizer.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gguf.h"
#include "tokenizer.h"

static const char separator[] = "\n__ggml_vocab_test__\n";

static char *read_file(const char *path, size_t *n_bytes) {
    FILE *file = fopen(path, "rb");
    if (!file) {
        fprintf(stderr, "%s cannot be read\n", path);
        exit(1);
    }
    fseek(file, 0, SEEK_END);
    *n_bytes = (size_t)ftell(file);
    rewind(file);
    char *text = calloc(*n_bytes + 1, 1);
    if (!text || fread(text, 1, *n_bytes, file) != *n_bytes) exit(1);
    fclose(file);
    return text;
}

/* Compare with the ids of one line; moves *line to the next. */
static bool ids_equal(const struct token_list *list, char **line) {
    char *at = *line, *end = strchr(at, '\n');
    if (!end) end = at + strlen(at);
    size_t token = 0;
    bool equal = true;
    while (true) {
        while (at < end && *at == ' ')
            at++;
        if (at == end) break;
        long id = strtol(at, &at, 10);
        if (token >= list->n || list->id[token] != id) equal = false;
        token++;
    }
    *line = *end ? end + 1 : end;
    return equal && token == list->n;
}

static int compare(struct tokenizer *tokenizer, const char *texts_path, const char *ids_path) {
    size_t n_texts_bytes, n_ids_bytes;
    char *texts = read_file(texts_path, &n_texts_bytes), *ids = read_file(ids_path, &n_ids_bytes);
    char *text = texts, *line = ids, *last = texts + n_texts_bytes;
    int n_texts = 0, n_wrong = 0;
    while (text) {
        char *end = memmem(text, (size_t)(last - text), separator, sizeof separator - 1);
        size_t n_bytes = (size_t)((end ? end : last) - text);
        struct token_list list = {0};
        struct fault fault = {0};
        n_texts++;
        if (!tokenizer_encode(tokenizer, text, n_bytes, false, &list, &fault) ||
            !ids_equal(&list, &line)) {
            n_wrong++;
            printf("text %d differs: \"%.*s\" %s\n", n_texts, (int)n_bytes, text, fault.text);
        }
        free(list.id);
        text = end ? end + sizeof separator - 1 : NULL;
    }
    free(texts);
    free(ids);
    printf("%d texts, %d differ\n", n_texts, n_wrong);
    return n_wrong > 0;
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: peers_tokenizer VOCABULARY.gguf TEXTS.inp IDS.out\n");
        return 1;
    }
    struct gguf gguf;
    struct fault fault = {0};
    struct tokenizer *tokenizer;
    if (!gguf_open(&gguf, argv[1], &fault)) {
        printf("%s\n", fault.text);
        return 1;
    }
    int result = 77;
    if (tokenizer_open(&tokenizer, &gguf, &fault)) {
        result = compare(tokenizer, argv[2], argv[3]);
        tokenizer_close(tokenizer);
    } else {
        printf("%s\n", fault.text);
    }
    gguf_close(&gguf);
    return result;
}
