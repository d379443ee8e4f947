/* wake_owner: an owner that is short of slots against the last reader's drop, and against the
 * sweep of a dead reader's bit.
 *
 * Proves: the owner sleeps for ever only while every slot is held, and writes to the slot only
 * after the reader has read it.
 */
#include "cells.h"

#define OWNER 0u
#define READER 1u
#define BITS(reader) (2u << (reader))

const unsigned weak_threads = 3;
const unsigned weak_together = 0;

static uint64_t frame;

void weak_before(void) {
    cells_make(1);
    frame = pshm_ring_alloc(&cells.ring);
    cells_write(frame, 1);
    CHECK(pshm_ring_hold(&cells.ring, frame, BITS(0) | BITS(1)));
    CHECK(pshm_ring_drop(&cells.ring, frame, PSHM_PRODUCER) == (BITS(0) | BITS(1)));
}

static void own(void) {
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

static void read_and_drop(void) {
    CHECK(cells_read(frame) == 1);
    if (pshm_ring_drop(&cells.ring, frame, BITS(0)) == 0) pshm_bell_ring(cells.bell);
}

static void read_and_sweep(void) {
    CHECK(cells_read(frame) == 1);
    if (pshm_ring_clear(&cells.ring, pshm_descriptor_slot(frame), BITS(1)))
        pshm_bell_ring(cells.bell);
}

void weak_thread(unsigned self) {
    if (self == OWNER)
        own();
    else if (self == READER)
        read_and_drop();
    else
        read_and_sweep();
}

void weak_after(void) {
    CHECK(!weak_sleeps(OWNER));
}
