#include "queue.h"

#include "points.h"

void pshm_queue_format(pshm_queue_words *words) {
    PSHM_POINT();
    atomic_store_explicit(&words->head, 0, memory_order_relaxed);
    PSHM_POINT();
    atomic_store_explicit(&words->tail, 0, memory_order_relaxed);
    PSHM_POINT();
    atomic_store_explicit(&words->closed_at, PSHM_OPEN, memory_order_relaxed);
}

uint32_t pshm_queue_depth(const pshm_queue *queue) {
    PSHM_POINT();
    /* seq_cst: part of the blocked sender's check after it set its flag.
     * head first: a tail read later is never behind it. */
    uint64_t head = atomic_load_explicit(&queue->words->head, memory_order_seq_cst);
    PSHM_POINT();
    uint64_t tail = atomic_load_explicit(&queue->words->tail, memory_order_seq_cst);
    uint64_t depth = tail - head;
    return depth < queue->capacity ? (uint32_t)depth : queue->capacity;
}

bool pshm_queue_push(pshm_queue *queue, uint64_t cell) {
    PSHM_POINT();
    uint64_t tail = atomic_load_explicit(&queue->words->tail, memory_order_relaxed);
    PSHM_POINT();
    /* acquire: the receiver's read of the cell that we overwrite came first */
    uint64_t head = atomic_load_explicit(&queue->words->head, memory_order_acquire);
    if (tail - head >= queue->capacity) return false;
    PSHM_POINT();
    atomic_store_explicit(&queue->words->cell[tail & queue->mask], cell, memory_order_relaxed);
    PSHM_POINT();
    /* seq_cst: publishes the cell, and orders the bell's flag after it */
    atomic_store_explicit(&queue->words->tail, tail + 1, memory_order_seq_cst);
    return true;
}

/* Indexes this far apart are damaged, unless *head is old news: sets head to the
 * oldest cell that the queue can still have. Its cells, if nobody's, are for
 * the caller to see through; but the queue has an end, and goes on. */
static void mend(pshm_queue *queue, uint64_t *head, uint64_t tail) {
    /* No point: only damage leads here. seq_cst: as for the head in pop. It only
     * succeeds on damage, since the head never goes back: it was this far behind
     * when the tail was read. */
    if (atomic_compare_exchange_strong_explicit(&queue->words->head, head, tail - queue->capacity,
                                                memory_order_seq_cst, memory_order_acquire))
        *head = tail - queue->capacity;
}

bool pshm_queue_pop(pshm_queue *queue, uint64_t *cell) {
    PSHM_POINT();
    uint64_t head = atomic_load_explicit(&queue->words->head, memory_order_acquire);
    for (;;) {
        PSHM_POINT();
        /* seq_cst: part of the receiver's check after it set its flag */
        uint64_t tail = atomic_load_explicit(&queue->words->tail, memory_order_seq_cst);
        if (head == tail) return false;
        if (tail - head > queue->capacity) {
            mend(queue, &head, tail);
            continue;
        }
        PSHM_POINT();
        uint64_t taken =
            atomic_load_explicit(&queue->words->cell[head & queue->mask], memory_order_relaxed);
        PSHM_POINT();
        /* seq_cst: releases the read of the cell, so that the sender may
         * overwrite it, and orders a blocked sender's flag after it. A CAS that
         * fails means that the other end took this cell. */
        if (atomic_compare_exchange_strong_explicit(&queue->words->head, &head, head + 1,
                                                    memory_order_seq_cst, memory_order_acquire)) {
            *cell = taken;
            return true;
        }
    }
}

void pshm_queue_close(pshm_queue *queue) {
    PSHM_POINT();
    uint64_t tail = atomic_load_explicit(&queue->words->tail, memory_order_relaxed);
    PSHM_POINT();
    /* seq_cst: as for the tail, the bell is rung after it */
    atomic_store_explicit(&queue->words->closed_at, tail, memory_order_seq_cst);
}

void pshm_queue_reopen(pshm_queue *queue) {
    PSHM_POINT();
    atomic_store_explicit(&queue->words->closed_at, PSHM_OPEN, memory_order_seq_cst);
}

bool pshm_queue_finished(const pshm_queue *queue) {
    PSHM_POINT();
    /* seq_cst: part of the receiver's check after it set its flag */
    uint64_t end = atomic_load_explicit(&queue->words->closed_at, memory_order_seq_cst);
    return end != PSHM_OPEN &&
           atomic_load_explicit(&queue->words->head, memory_order_seq_cst) >= end;
}
