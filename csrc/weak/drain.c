/* drain: the order of a dead sender's end, without the rest of the pipe.
 *
 * What dead_sender runs in the core's own functions stands here as its skeleton, for searches
 * to the end: the receiver asks whether the sender is dead, looks, sleeps, and sweeps; the
 * launcher settles the tickets and marks, and finds the incarnation swept.
 *
 * Proves: a receiver that has seen the mark sees the last push and the settled ticket. It does
 * not sleep through the mark. Who finds the incarnation swept finds no slot with its bit.
 */
#include "cells.h"
#include "tickets.h"

#define SENDER 0u
#define RECEIVER 1u
#define EDGE 2u /* the holder bit */

const unsigned weak_threads = 3;
const unsigned weak_together = 0;

static pshm_incarnation_record *incarnation;
static pshm_edge edge;
static _Atomic uint64_t *death;

void weak_before(void) {
    cells_make(1);
    incarnation = weak_memory(sizeof *incarnation + CELLS * sizeof(uint64_t));
    pshm_incarnation_format(incarnation, 0, 1);
    edge.record = weak_memory(sizeof *edge.record);
    edge.incarnation = incarnation;
    edge.queue.words = &incarnation->queue;
    edge.queue.capacity = CELLS;
    edge.queue.mask = CELLS - 1;
    death = weak_memory(sizeof *death);
}

static void send_and_die(void) {
    weak_mortal(death);
    uint64_t frame = pshm_ring_alloc(&cells.ring);
    cells_write(frame, 1);
    CHECK(pshm_ring_hold(&cells.ring, frame, EDGE));
    weak_may_die();
    pshm_tickets_announce(&edge, 1);
    weak_may_die();
    CHECK(pshm_queue_push(&edge.queue, frame));
    weak_may_die();
    pshm_bell_ring(cells.bell);
    pshm_tickets_confirm(&edge, 1);
    CHECK(pshm_ring_drop(&cells.ring, frame, PSHM_PRODUCER) != UINT32_MAX);
    weak_tell(death);
}

static bool is_dead(void) {
    return pshm_incarnation_state(incarnation) == PSHM_SENDER_DEAD;
}

static void receive(void) {
    uint64_t frame, announced, done;
    for (;;) {
        bool dead = is_dead(); /* asked before the look, which then is the last */
        if (pshm_queue_pop(&edge.queue, &frame)) {
            CHECK(cells_read(frame) == 1);
            CHECK(pshm_ring_drop(&cells.ring, frame, EDGE) != UINT32_MAX);
            continue;
        }
        if (dead) break;
        uint32_t word = pshm_bell_arm(cells.bell);
        if (!is_dead() && pshm_queue_depth(&edge.queue) == 0)
            pshm_bell_wait(cells.bell, word, UINT64_MAX);
        pshm_bell_disarm(cells.bell);
    }
    pshm_tickets_read(edge.record, &announced, &done);
    CHECK(pshm_tickets_pushed(edge.record) == announced);
    pshm_ring_sweep(&cells.ring, EDGE);
    pshm_incarnation_mark(incarnation, PSHM_SWEPT); /* lease.c: store_swept */
}

static void bury(void) {
    weak_await(death);
    pshm_ring_sweep(&cells.ring, PSHM_PRODUCER);
    pshm_tickets_settle(edge.record);
    pshm_incarnation_mark(incarnation, PSHM_SENDER_DEAD);
    pshm_bell_ring_always(cells.bell);
    if (pshm_incarnation_state(incarnation) == PSHM_SWEPT)
        CHECK((pshm_ring_holders(&cells.ring, 0) & EDGE) == 0);
}

void weak_thread(unsigned self) {
    if (self == SENDER)
        send_and_die();
    else if (self == RECEIVER)
        receive();
    else
        bury();
}

void weak_after(void) {
    CHECK(!weak_sleeps(RECEIVER) || pshm_incarnation_state(incarnation) == PSHM_LIVE);
    if (!weak_returned(RECEIVER)) return;
    CHECK(pshm_queue_depth(&edge.queue) == 0);
    CHECK(pshm_ring_holders(&cells.ring, 0) == 0);
}
