/* forward: producer -> middle -> last by reference, and the producer uses slots again.
 *
 * Proves: whoever has popped a descriptor reads the payload as it was written, also when it
 * came by way of a third party; and no slot is written anew before its last reader is done.
 */
#include "cells.h"

#define PRODUCER 0u
#define MIDDLE 1u
#define TO_MIDDLE 2u /* holder bits */
#define TO_LAST 4u
#define FRAMES 2u

const unsigned weak_threads = 3;
const unsigned weak_together = 0;

void weak_before(void) {
    cells_make(1);
    cells_queue(0, 2);
    cells_queue(1, 2);
}

static void produce(void) {
    for (uint64_t n = 1; n <= FRAMES; n++) {
        uint64_t frame = pshm_ring_alloc(&cells.ring);
        if (frame == PSHM_NO_SLOT) continue;
        cells_write(frame, n);
        CHECK(pshm_ring_hold(&cells.ring, frame, TO_MIDDLE));
        CHECK(pshm_queue_push(&cells.queue[0], frame));
        CHECK(pshm_ring_drop(&cells.ring, frame, PSHM_PRODUCER) != UINT32_MAX);
    }
}

static void pass_on(void) {
    uint64_t frame;
    for (unsigned look = 0; look < 2; look++) {
        if (!pshm_queue_pop(&cells.queue[0], &frame)) continue;
        CHECK(cells_read(frame) >= 1);
        CHECK(pshm_ring_hold(&cells.ring, frame, TO_LAST));
        CHECK(pshm_queue_push(&cells.queue[1], frame));
        CHECK(pshm_ring_drop(&cells.ring, frame, TO_MIDDLE) != UINT32_MAX);
    }
}

static void consume(void) {
    uint64_t frame, before = 0;
    for (unsigned look = 0; look < 2; look++) {
        if (!pshm_queue_pop(&cells.queue[1], &frame)) continue;
        uint64_t seen = cells_read(frame);
        CHECK(seen > before && seen <= FRAMES);
        before = seen;
        CHECK(pshm_ring_drop(&cells.ring, frame, TO_LAST) != UINT32_MAX);
    }
}

void weak_thread(unsigned self) {
    if (self == PRODUCER)
        produce();
    else if (self == MIDDLE)
        pass_on();
    else
        consume();
}

void weak_after(void) {
}
