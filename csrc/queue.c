#include "queue.h"

#include "points.h"

uint32_t pshm_queue_cells(uint32_t capacity) {
    if (capacity == 0 || capacity > PSHM_CELLS) return 0;
    uint32_t cells = 1;
    while (cells < capacity) cells *= 2;
    return cells;
}

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
    /* seq_cst: a blocked sender may have set its bell's flag just before this look.
     * The head comes first: a tail that is read later is never behind it. */
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
    /* acquire: the receiver has read the cell that we overwrite */
    uint64_t head = atomic_load_explicit(&queue->words->head, memory_order_acquire);
    if (tail - head >= queue->capacity) return false;
    PSHM_POINT();
    atomic_store_explicit(&queue->words->cell[tail & queue->mask], cell, memory_order_relaxed);
    PSHM_POINT();
    /* seq_cst: publishes the cell; the look at the bell's flag comes after it */
    atomic_store_explicit(&queue->words->tail, tail + 1, memory_order_seq_cst);
    return true;
}

/* For indexes that are further apart than the queue is long: moves the head to the
 * oldest cell that can still be there. What these cells name, the caller has to check;
 * but the queue has an end again, and goes on. */
static void mend(pshm_queue *queue, uint64_t *head, uint64_t tail) {
    /* Only damage leads here, so there is no point to die at. It may also be that *head
     * was read long ago. Then the CAS fails: a head that is sound never goes back, so it
     * was this far behind when the tail was read. seq_cst: as for the head in pop. */
    if (atomic_compare_exchange_strong_explicit(&queue->words->head, head, tail - queue->capacity,
                                                memory_order_seq_cst, memory_order_acquire))
        *head = tail - queue->capacity;
}

bool pshm_queue_pop(pshm_queue *queue, uint64_t *cell) {
    PSHM_POINT();
    uint64_t head = atomic_load_explicit(&queue->words->head, memory_order_acquire);
    for (;;) {
        PSHM_POINT();
        /* seq_cst: the receiver may have set its bell's flag just before this look */
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
        /* seq_cst: releases our read of the cell, which the sender may then overwrite;
         * the look at a blocked sender's flag comes after it. If the CAS fails, the
         * other end took this cell. */
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
    /* seq_cst: as for the tail; the bell is rung after it */
    atomic_store_explicit(&queue->words->closed_at, tail, memory_order_seq_cst);
}

void pshm_queue_reopen(pshm_queue *queue) {
    PSHM_POINT();
    atomic_store_explicit(&queue->words->closed_at, PSHM_OPEN, memory_order_seq_cst);
}

bool pshm_queue_finished(const pshm_queue *queue) {
    PSHM_POINT();
    /* seq_cst: the receiver may have set its bell's flag just before this look */
    uint64_t end = atomic_load_explicit(&queue->words->closed_at, memory_order_seq_cst);
    return end != PSHM_OPEN &&
           atomic_load_explicit(&queue->words->head, memory_order_seq_cst) >= end;
}
