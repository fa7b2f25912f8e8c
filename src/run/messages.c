/* messages.c - the list of a rank's messages. See messages.h. */
#include "messages.h"

#include <stdlib.h>

#include "check.h"

static void add_incoming(struct messages *messages, struct incoming incoming) {
    messages->incoming[messages->n_incoming++] = incoming;
}

static void add_outgoing(struct messages *messages, struct outgoing outgoing) {
    messages->outgoing[messages->n_outgoing++] = outgoing;
}

/* Largest bytes of Q (and OUT) and of KV between a model rank and one attention rank. */
struct most {
    size_t q, kv;
};

static struct most most_of(const struct service *service, struct head_share heads, int max_rows,
                           enum kv_type kv_type) {
    size_t columns = (size_t)heads.n * (size_t)service->head_dim; /* of K, likewise of V */
    size_t group = (size_t)(service->n_heads / service->n_kv_heads);
    return (struct most){.q = (size_t)max_rows * group * columns *
                              element_bytes((enum element)service->activation),
                         .kv = (size_t)max_rows * 2 * columns * element_bytes(kv_element(kv_type))};
}

void messages_open(struct messages *messages, const struct topology *topology,
                   const struct service *service, int max_rows, enum kv_type kv_type) {
    const struct layout *layout = &topology->layout;
    bool is_model = topology->role == ROLE_MODEL;
    int first = is_model ? layout->model_ranks : 0;
    int end = is_model ? topology->n_ranks : layout->model_ranks;
    enum element q = (enum element)service->activation, kv = kv_element(kv_type);
    size_t n_most = 2 * (size_t)topology->n_ranks * (size_t)service->n_lanes;
    *messages = (struct messages){.incoming = check_alloc(n_most, sizeof *messages->incoming),
                                  .outgoing = check_alloc(n_most, sizeof *messages->outgoing)};
    for (int peer = first; peer < end; peer++) {
        int attention = is_model ? peer : topology->rank;
        struct head_share heads = layout_rank_heads(layout, service->n_kv_heads, attention);
        struct most most = most_of(service, heads, max_rows, kv_type);
        for (int lane = 0; lane < service->n_lanes; lane++) {
            if (is_model) {
                add_outgoing(messages, (struct outgoing){MESSAGE_Q, lane, peer, most.q, q});
                add_outgoing(messages, (struct outgoing){MESSAGE_KV, lane, peer, most.kv, kv});
                add_incoming(messages, (struct incoming){MESSAGE_OUT, lane, peer, most.q, q});
            } else {
                add_incoming(messages, (struct incoming){MESSAGE_Q, lane, peer, most.q, q});
                add_incoming(messages, (struct incoming){MESSAGE_KV, lane, peer, most.kv, kv});
                add_outgoing(messages, (struct outgoing){MESSAGE_OUT, lane, peer, most.q, q});
            }
        }
    }
}

size_t messages_bytes(const struct messages *messages, const struct wire_ops *wire_ops) {
    size_t sum = 0;
    for (int at = 0; at < messages->n_incoming; at++)
        sum += wire_ops->message_bytes(messages->incoming[at].most_bytes, true);
    for (int at = 0; at < messages->n_outgoing; at++)
        sum += wire_ops->message_bytes(messages->outgoing[at].most_bytes, false);
    return sum;
}

size_t messages_largest(const struct messages *messages) {
    size_t largest = 0;
    for (int at = 0; at < messages->n_incoming; at++)
        if (messages->incoming[at].most_bytes > largest)
            largest = messages->incoming[at].most_bytes;
    for (int at = 0; at < messages->n_outgoing; at++)
        if (messages->outgoing[at].most_bytes > largest)
            largest = messages->outgoing[at].most_bytes;
    return largest;
}

void messages_close(struct messages *messages) {
    free(messages->incoming);
    free(messages->outgoing);
    *messages = (struct messages){0};
}
