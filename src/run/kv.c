/* kv.c - pages of the KV cache. See kv.h. */
#include "kv.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"

enum element kv_element(enum kv_type type) {
    return type == KV_F32 ? ELEMENT_F32 : type == KV_F16 ? ELEMENT_F16 : ELEMENT_BF16;
}

int kv_pages_for(int n_tokens) {
    return (n_tokens + PAGE_TOKENS - 1) / PAGE_TOKENS;
}

void kv_open(struct kv *kv, int n_pages, int max_sequences, int context) {
    *kv = (struct kv){.n_pages = n_pages,
                      .n_free = n_pages,
                      .max_sequences = max_sequences,
                      .max_pages = kv_pages_for(context)};
    kv->free_page = check_alloc((size_t)n_pages, sizeof *kv->free_page);
    kv->page = check_alloc((size_t)max_sequences * (size_t)kv->max_pages, sizeof *kv->page);
    kv->n_held = check_alloc((size_t)max_sequences, sizeof *kv->n_held);
    kv->n_uses = check_alloc((size_t)n_pages, sizeof *kv->n_uses);
    for (int page = 0; page < n_pages; page++) /* the first pages are given out first */
        kv->free_page[page] = n_pages - 1 - page;
}

void kv_close(struct kv *kv) {
    free(kv->free_page);
    free(kv->page);
    free(kv->n_held);
    free(kv->n_uses);
    *kv = (struct kv){0};
}

int kv_missing(const struct kv *kv, int sequence, int n_tokens) {
    int missing = kv_pages_for(n_tokens) - kv->n_held[sequence];
    return missing > 0 ? missing : 0;
}

void kv_extend(struct kv *kv, int sequence, int n_tokens) {
    int missing = kv_missing(kv, sequence, n_tokens);
    REQUIRE(missing <= kv->n_free, "sequence %d needs %d pages, %d are free", sequence, missing,
            kv->n_free);
    REQUIRE(kv->n_held[sequence] + missing <= kv->max_pages, "%d tokens are past the context",
            n_tokens);
    int32_t *page = kv->page + (size_t)sequence * (size_t)kv->max_pages;
    for (; missing > 0; missing--) {
        int32_t taken = kv->free_page[--kv->n_free];
        if (kv->taking) kv->taking(kv->taking_argument, taken);
        page[kv->n_held[sequence]++] = taken;
        kv->n_uses[taken] += 1;
    }
}

void kv_release(struct kv *kv, int sequence) {
    const int32_t *page = kv_pages(kv, sequence);
    while (kv->n_held[sequence] > 0)
        kv->free_page[kv->n_free++] = page[--kv->n_held[sequence]];
}

const int32_t *kv_pages(const struct kv *kv, int sequence) {
    return kv->page + (size_t)sequence * (size_t)kv->max_pages;
}
