/* wake_receiver: arm, look, sleep against push, ring; and against close, ring.
 *
 * Proves: a receiver sleeps for ever only if its queue is empty and its stream open. The
 * bell's word is read before the look, so a ring in between ends the sleep at once.
 */
#include "cells.h"

#define SENDER 0u
#define RECEIVER 1u

const unsigned weak_threads = 2;
const unsigned weak_together = 0;

void weak_before(void) {
    cells_make(1);
    cells_queue(0, 1);
}

static void send(void) {
    CHECK(pshm_queue_push(&cells.queue[0], 7));
    pshm_bell_ring(cells.bell);
    pshm_queue_close(&cells.queue[0]);
    pshm_bell_ring(cells.bell);
}

static void receive(void) {
    uint64_t cell;
    while (!pshm_queue_pop(&cells.queue[0], &cell)) {
        CHECK(!pshm_queue_finished(&cells.queue[0])); /* the end comes after the last cell */
        uint32_t word = pshm_bell_arm(cells.bell);
        if (pshm_queue_depth(&cells.queue[0]) == 0) pshm_bell_wait(cells.bell, word, UINT64_MAX);
        pshm_bell_disarm(cells.bell);
    }
    CHECK(cell == 7);
    while (!pshm_queue_finished(&cells.queue[0])) {
        uint32_t word = pshm_bell_arm(cells.bell);
        if (!pshm_queue_finished(&cells.queue[0])) pshm_bell_wait(cells.bell, word, UINT64_MAX);
        pshm_bell_disarm(cells.bell);
    }
}

void weak_thread(unsigned self) {
    if (self == SENDER)
        send();
    else
        receive();
}

void weak_after(void) {
    CHECK(!weak_sleeps(RECEIVER));
}
