/* wake_sender: a sender with a full queue against a receiver that pops.
 *
 * Proves: a blocked sender is woken by the pop that makes room, and then has it.
 */
#include "cells.h"

#define SENDER 0u

const unsigned weak_threads = 2;
const unsigned weak_together = 0;

void weak_before(void) {
    cells_make(1);
    cells_queue(0, 1);
    CHECK(pshm_queue_push(&cells.queue[0], 7));
}

static void send(void) {
    while (!pshm_queue_push(&cells.queue[0], 8)) {
        uint32_t word = pshm_bell_arm(cells.bell);
        if (pshm_queue_depth(&cells.queue[0]) == 1) pshm_bell_wait(cells.bell, word, UINT64_MAX);
        pshm_bell_disarm(cells.bell);
    }
}

static void receive(void) {
    uint64_t cell;
    CHECK(pshm_queue_pop(&cells.queue[0], &cell) && cell == 7);
    pshm_bell_ring(cells.bell);
}

void weak_thread(unsigned self) {
    if (self == SENDER)
        send();
    else
        receive();
}

void weak_after(void) {
    CHECK(!weak_sleeps(SENDER));
    if (weak_returned(SENDER)) CHECK(pshm_queue_depth(&cells.queue[0]) == 1);
}
