/* kv.h - pages of the KV cache: who holds which.
 *
 * A page is room for 64 consecutive positions of one sequence, in all layers. Every attention rank
 * allocates its own pages from the step headers; the leader keeps the same books for every owner,
 * by this same code, so that no page table crosses the wire. Sequences are named by handle.
 */
#ifndef LAMINA_KV_H
#define LAMINA_KV_H

#include <stdint.h>

#include "device.h"
#include "options.h"

/* How a number of K or V is kept, on the wire and in the cache. */
enum element kv_element(enum kv_type type);

struct kv {
    int n_pages, n_free;
    int32_t *free_page;                           /* (n_pages) a stack */
    int max_sequences, max_pages;                 /* handles; pages a sequence can hold */
    int32_t *page;                                /* (max_sequences, max_pages) */
    int32_t *n_held;                              /* (max_sequences) */
    uint32_t *n_uses;                             /* (n_pages) how often each was handed out */
    void (*taking)(void *argument, int32_t page); /* called before one is; NULL: nobody asks */
    void *taking_argument;
};

/* Pages that hold `n_tokens` positions. */
int kv_pages_for(int n_tokens);

void kv_open(struct kv *kv, int n_pages, int max_sequences, int context);
void kv_close(struct kv *kv);

/* Pages missing for `sequence` to hold `n_tokens`. */
int kv_missing(const struct kv *kv, int sequence, int n_tokens);

/* Hold pages for `n_tokens` positions; REQUIREs that there are enough free. */
void kv_extend(struct kv *kv, int sequence, int n_tokens);

/* Give back all pages of `sequence`. */
void kv_release(struct kv *kv, int sequence);

/* Its page table, a view until kv_close. */
const int32_t *kv_pages(const struct kv *kv, int sequence);

#endif
