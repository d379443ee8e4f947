/* views: two threads of a process share a slot, and the last one to be done drops its bit.
 *
 * The skeleton of last_lease: the count of lease.c under its mutex, with the core's ring and
 * bell. The mutex and the count are modelled.
 *
 * Proves: what both have read comes before the owner's next write, and the owner is woken.
 */
#include "cells.h"

#define OWNER 2u
#define EDGE 2u /* the holder bit */

const unsigned weak_threads = 3;
const unsigned weak_together = 2;

static pthread_mutex_t *mutex;
static uint64_t *count;
static uint64_t frame;

void weak_before(void) {
    cells_make(1);
    mutex = weak_memory(sizeof *mutex);
    count = weak_memory(sizeof *count);
    *count = 2;
    frame = pshm_ring_alloc(&cells.ring);
    cells_write(frame, 1);
    CHECK(pshm_ring_hold(&cells.ring, frame, EDGE));
    CHECK(pshm_ring_drop(&cells.ring, frame, PSHM_PRODUCER) == EDGE);
}

static void read_and_release(void) {
    CHECK(cells_read(frame) == 1);
    pthread_mutex_lock(mutex);
    bool last = --*count == 0;
    pthread_mutex_unlock(mutex);
    if (last && pshm_ring_drop(&cells.ring, frame, EDGE) == 0) pshm_bell_ring(cells.bell);
}

static void write_anew(void) {
    uint64_t mine;
    while ((mine = pshm_ring_alloc(&cells.ring)) == PSHM_NO_SLOT) {
        uint32_t word = pshm_bell_arm(cells.bell);
        mine = pshm_ring_alloc(&cells.ring);
        if (mine == PSHM_NO_SLOT) pshm_bell_wait(cells.bell, word, UINT64_MAX);
        pshm_bell_disarm(cells.bell);
        if (mine != PSHM_NO_SLOT) break;
    }
    cells_write(mine, 2);
}

void weak_thread(unsigned self) {
    if (self == OWNER)
        write_anew();
    else
        read_and_release();
}

void weak_after(void) {
    CHECK(!weak_sleeps(OWNER));
}
