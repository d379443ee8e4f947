/* fan_out: one producer, two readers of the same slots.
 *
 * Proves: each reader gets every frame that it pops whole and in order, and the slot is
 * written anew only when both are done, whichever of them drops its bit last.
 */
#include "cells.h"

#define PRODUCER 2u
#define FRAMES 2u

const unsigned weak_threads = 3;
const unsigned weak_together = 0;

void weak_before(void) {
    cells_make(1);
    cells_queue(0, 2);
    cells_queue(1, 2);
}

static uint32_t bit_of(unsigned reader) {
    return 2u << reader;
}

static void produce(void) {
    for (uint64_t n = 1; n <= FRAMES; n++) {
        uint64_t frame = pshm_ring_alloc(&cells.ring);
        if (frame == PSHM_NO_SLOT) continue;
        cells_write(frame, n);
        CHECK(pshm_ring_hold(&cells.ring, frame, bit_of(0) | bit_of(1)));
        for (unsigned reader = 0; reader < 2; reader++)
            CHECK(pshm_queue_push(&cells.queue[reader], frame));
        CHECK(pshm_ring_drop(&cells.ring, frame, PSHM_PRODUCER) != UINT32_MAX);
    }
}

static void consume(unsigned reader) {
    uint64_t frame, before = 0;
    for (unsigned look = 0; look < 2; look++) {
        if (!pshm_queue_pop(&cells.queue[reader], &frame)) continue;
        uint64_t seen = cells_read(frame);
        CHECK(seen > before && seen <= FRAMES);
        before = seen;
        CHECK(pshm_ring_drop(&cells.ring, frame, bit_of(reader)) != UINT32_MAX);
    }
}

void weak_thread(unsigned self) {
    if (self == PRODUCER)
        produce();
    else
        consume(self);
}

void weak_after(void) {
}
