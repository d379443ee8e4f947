/* handing: which message a sender puts on an edge, for the process after it.
 *
 * A source whose messages come again after its death (a receiver from another host) has to
 * know which wires got the one that it had in hand. So before each push the sender writes
 * one word to the edge's record:
 *
 *     {sequence + 1 : 47 | settled : 1 | the queue's tail before the push : 16}
 *
 * The push moves the tail, in one step. When the sender is dead, the launcher compares the
 * two, and writes down for good what it has found, before the queue is drained: see
 * pshm_recover_handing. The edge's next queue is another one, but the word stays.
 */
#ifndef PSHM_HANDING_H
#define PSHM_HANDING_H

#include "edge.h"

#define PSHM_HANDING_TAIL 0xffffull
#define PSHM_HANDING_SETTLED (1ull << 16)
#define PSHM_HANDING_SHIFT 17u

static inline uint64_t pshm_handing_tail(const pshm_queue_words *words) {
    /* relaxed: the sender reads what it wrote itself; the launcher reads after its death */
    return atomic_load_explicit(&words->tail, memory_order_relaxed) & PSHM_HANDING_TAIL;
}

/* Says which message is pushed next. The sender. Order: the push comes after it, and
 * releases it. Wait-free. */
static inline void pshm_handing_begin(const pshm_edge *edge, uint64_t sequence) {
    uint64_t word =
        (sequence + 1) << PSHM_HANDING_SHIFT | pshm_handing_tail(&edge->incarnation->queue);
    __atomic_store_n(&edge->record->handing, word, __ATOMIC_RELAXED);
}

/* Says that a message will not be pushed, and is done with. The sender. Wait-free. */
static inline void pshm_handing_settle(const pshm_edge *edge, uint64_t sequence) {
    uint64_t word = (sequence + 1) << PSHM_HANDING_SHIFT | PSHM_HANDING_SETTLED;
    __atomic_store_n(&edge->record->handing, word, __ATOMIC_RELAXED);
}

/* Says that the last message is in the queue, or was settled. The sender, when it is to send
 * no more on the edge: the tail of its next queue says nothing of this one. Wait-free. */
static inline void pshm_handing_end(const pshm_edge *edge) {
    uint64_t word = __atomic_load_n(&edge->record->handing, __ATOMIC_RELAXED);
    if (word != 0)
        __atomic_store_n(&edge->record->handing, word | PSHM_HANDING_SETTLED, __ATOMIC_RELAXED);
}

/* Returns the number after the last message that the edge is done with, by a word that is
 * settled. Wait-free. */
static inline uint64_t pshm_handing_done(const pshm_edge_record *record) {
    return __atomic_load_n(&record->handing, __ATOMIC_RELAXED) >> PSHM_HANDING_SHIFT;
}

#endif
