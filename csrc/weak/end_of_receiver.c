/* end_of_receiver: the order of a receiver's end against a send, without the rest of the pipe.
 *
 * The skeleton of receiver_ends: of port.c (pshm_port_end_ins), of send.c (serve) and of the
 * receiver's last looks, with the core's ring, queue, edge and bell.
 *
 * Proves: a message that was pushed around the end is taken by one of the two, so its slot
 * becomes free; and a sender that waits for room is woken.
 */
#include "cells.h"
#include "edge.h"

#define SENDER 0u
#define EDGE 2u /* the holder bit */

const unsigned weak_threads = 2;
const unsigned weak_together = 0;

static pshm_edge edge;

static void hand_in(uint64_t value) {
    uint64_t frame = pshm_ring_alloc(&cells.ring);
    CHECK(frame != PSHM_NO_SLOT);
    cells_write(frame, value);
    CHECK(pshm_ring_hold(&cells.ring, frame, EDGE));
    CHECK(pshm_ring_drop(&cells.ring, frame, PSHM_PRODUCER) == EDGE);
    CHECK(pshm_queue_push(&cells.queue[0], frame));
}

void weak_before(void) {
    cells_make(2);
    cells_queue(0, 1);
    edge.record = weak_memory(sizeof *edge.record);
    hand_in(1);
}

static bool take(void) {
    uint64_t frame;
    if (!pshm_queue_pop(&cells.queue[0], &frame)) return false;
    CHECK(pshm_ring_drop(&cells.ring, frame, EDGE) != UINT32_MAX);
    return true;
}

static void send(void) {
    uint64_t frame = pshm_ring_alloc(&cells.ring);
    CHECK(frame != PSHM_NO_SLOT);
    cells_write(frame, 2);
    CHECK(pshm_ring_hold(&cells.ring, frame, EDGE));
    bool pushed = false;
    while (!pshm_edge_has_ended(&edge) && !(pushed = pshm_queue_push(&cells.queue[0], frame))) {
        uint32_t word = pshm_bell_arm(cells.bell);
        if (!pshm_edge_has_ended(&edge) && pshm_queue_depth(&cells.queue[0]) == 1)
            pshm_bell_wait(cells.bell, word, UINT64_MAX);
        pshm_bell_disarm(cells.bell);
    }
    if (!pushed)
        CHECK(pshm_ring_drop(&cells.ring, frame, EDGE) != UINT32_MAX);
    else if (pshm_edge_has_ended(&edge))
        take(); /* what the receiver's last look did not see */
    CHECK(pshm_ring_drop(&cells.ring, frame, PSHM_PRODUCER) != UINT32_MAX);
}

static void end(void) {
    __atomic_store_n(&edge.record->receiver_ended, 1, __ATOMIC_SEQ_CST);
    pshm_bell_ring(cells.bell);
    while (take()) continue;
}

void weak_thread(unsigned self) {
    if (self == SENDER)
        send();
    else
        end();
}

void weak_after(void) {
    CHECK(!weak_sleeps(SENDER));
    if (!weak_returned(SENDER)) return;
    CHECK(pshm_queue_depth(&cells.queue[0]) == 0);
    CHECK(pshm_ring_used(&cells.ring) == 0);
}
