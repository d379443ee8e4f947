/* evict: a sender that takes its oldest cell back when the queue is full (drop_oldest).
 *
 * Proves: a cell belongs to one of the two ends only, and what the receiver pops it reads
 * whole and in order, while the sender goes on in the slots that it took back.
 */
#include "cells.h"

#define SENDER 0u
#define EDGE 2u /* the holder bit */
#define FRAMES 3u

const unsigned weak_threads = 2;
const unsigned weak_together = 0;

void weak_before(void) {
    cells_make(2);
    cells_queue(0, 1);
}

static void send(void) {
    uint64_t oldest;
    for (uint64_t n = 1; n <= FRAMES; n++) {
        uint64_t frame = pshm_ring_alloc(&cells.ring);
        if (frame == PSHM_NO_SLOT) continue;
        cells_write(frame, n);
        CHECK(pshm_ring_hold(&cells.ring, frame, EDGE));
        while (!pshm_queue_push(&cells.queue[0], frame))
            if (pshm_queue_pop(&cells.queue[0], &oldest))
                CHECK(pshm_ring_drop(&cells.ring, oldest, EDGE) != UINT32_MAX);
        CHECK(pshm_ring_drop(&cells.ring, frame, PSHM_PRODUCER) != UINT32_MAX);
    }
}

static void receive(void) {
    uint64_t frame, before = 0;
    for (unsigned look = 0; look < 2; look++) {
        if (!pshm_queue_pop(&cells.queue[0], &frame)) continue;
        CHECK(pshm_ring_holds(&cells.ring, frame, EDGE));
        uint64_t seen = cells_read(frame);
        CHECK(seen > before && seen <= FRAMES);
        before = seen;
        CHECK(pshm_ring_drop(&cells.ring, frame, EDGE) != UINT32_MAX);
    }
}

void weak_thread(unsigned self) {
    if (self == SENDER)
        send();
    else
        receive();
}

void weak_after(void) {
}
