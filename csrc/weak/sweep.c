/* sweep: a dead receiver's bit is cleared while its sender goes on.
 *
 * The skeleton of dead_receiver: of recover.c (keep_unread, clear_others), of send.c (the holds
 * and the push are sections of one mutex) and of a receiver that dies, with the core's ring,
 * queue and bell.
 *
 * Proves: the sweep spares what waits in the queue, the next receiver reads it whole, and then
 * every slot is free. The dead one's last reads come before the owner's next write.
 */
#include "cells.h"

#define SENDER 0u
#define CONTROL 1u
#define EDGE 2u /* the holder bit */
#define SLOTS 2u

const unsigned weak_threads = 3;
const unsigned weak_together = 2;

static pthread_mutex_t *sending;
static _Atomic uint64_t *death;

static void hand_in(uint64_t value) {
    uint64_t frame = pshm_ring_alloc(&cells.ring);
    if (frame == PSHM_NO_SLOT) return; /* the dead one's slot is not swept yet */
    cells_write(frame, value);
    pthread_mutex_lock(sending);
    CHECK(pshm_ring_hold(&cells.ring, frame, EDGE));
    CHECK(pshm_queue_push(&cells.queue[0], frame));
    pthread_mutex_unlock(sending);
    pshm_bell_ring(cells.bell);
    CHECK(pshm_ring_drop(&cells.ring, frame, PSHM_PRODUCER) != UINT32_MAX);
}

void weak_before(void) {
    cells_make(SLOTS);
    cells_queue(0, 2);
    sending = weak_memory(sizeof *sending);
    death = weak_memory(sizeof *death);
    hand_in(1);
}

static void receive_and_die(void) {
    uint64_t frame;
    weak_mortal(death);
    weak_may_die();
    if (pshm_queue_pop(&cells.queue[0], &frame)) {
        weak_may_die();
        CHECK(cells_read(frame) >= 1);
        weak_may_die();
        CHECK(pshm_ring_drop(&cells.ring, frame, EDGE) != UINT32_MAX);
    }
    weak_tell(death);
}

static void sweep(void) {
    bool kept[SLOTS] = {false, false};
    pshm_queue *queue = &cells.queue[0];
    weak_await(death);
    pthread_mutex_lock(sending);
    uint64_t head = atomic_load_explicit(&queue->words->head, memory_order_seq_cst);
    for (uint32_t n = 0, depth = pshm_queue_depth(queue); n < depth; n++) {
        uint64_t cell = atomic_load_explicit(&queue->words->cell[(head + n) & queue->mask],
                                             memory_order_relaxed);
        kept[pshm_descriptor_slot(cell)] = true;
    }
    for (uint32_t n = 0; n < SLOTS; n++)
        if (!kept[n]) pshm_ring_clear(&cells.ring, n, EDGE);
    pthread_mutex_unlock(sending);
}

void weak_thread(unsigned self) {
    if (self == SENDER) {
        hand_in(2);
        hand_in(3);
    } else if (self == CONTROL) {
        sweep();
    } else {
        receive_and_die();
    }
}

void weak_after(void) {
    uint64_t frame, before = 0;
    if (!weak_returned(CONTROL)) return; /* it was not told of a death */
    while (pshm_queue_pop(&cells.queue[0], &frame)) {
        CHECK(cells_read(frame) > before);
        before = cells_read(frame);
        CHECK(pshm_ring_drop(&cells.ring, frame, EDGE) == 0);
    }
    CHECK(pshm_ring_used(&cells.ring) == 0);
}
