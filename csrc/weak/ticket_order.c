/* ticket_order: what a join reads of an edge to a replica, while the replica works.
 *
 * Proves: a ticket that is done was announced, and its result is in the replica's queue or was
 * taken; a ticket that is pushed, on a queue that is found empty, was taken.
 */
#include "cells.h"
#include "tickets.h"

#define SENDER 0u
#define REPLICA 1u
#define LOOKS 3u

const unsigned weak_threads = 3;
const unsigned weak_together = 0;

static pshm_edge edge;

void weak_before(void) {
    cells_make(1);
    cells_queue(0, 2);
    cells_queue(1, 2);
    edge.record = weak_memory(sizeof *edge.record);
}

static void send(void) {
    pshm_tickets_announce(&edge, 1);
    CHECK(pshm_queue_push(&cells.queue[0], 7));
    pshm_tickets_confirm(&edge, 1);
}

static void work(void) {
    uint64_t cell;
    for (unsigned look = 0; look < LOOKS; look++) {
        if (!pshm_queue_pop(&cells.queue[0], &cell)) continue;
        CHECK(pshm_queue_push(&cells.queue[1], cell));
        pshm_tickets_done(edge.record, 1);
    }
}

static void join(void) {
    uint64_t announced, done, cell;
    for (unsigned look = 0; look < LOOKS; look++) {
        pshm_tickets_read(edge.record, &announced, &done);
        CHECK(announced >= done);
        if (done == 0) continue;
        CHECK(pshm_queue_pop(&cells.queue[1], &cell) && cell == 7);
        return;
    }
    if (pshm_tickets_pushed(edge.record) == 1 && pshm_queue_depth(&cells.queue[0]) == 0)
        CHECK(atomic_load_explicit(&cells.queue[0].words->head, memory_order_seq_cst) == 1);
}

void weak_thread(unsigned self) {
    if (self == SENDER)
        send();
    else if (self == REPLICA)
        work();
    else
        join();
}

void weak_after(void) {
}
