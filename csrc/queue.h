/* queue: a bounded single-producer single-consumer ring of 8-byte cells.
 *
 * Indexes are 64-bit and monotonic, so they never wrap in practice and full
 * and empty differ. The sender may evict the oldest cell (real-time wires), so
 * `head` is moved by CAS from both ends and a cell belongs to whoever moves it.
 *
 * Suffix: every function is _spsc in spirit; the comment says which end may
 * call it. All are wait-free but pop and evict, which are lock-free against
 * each other.
 */
#ifndef PSHM_QUEUE_H
#define PSHM_QUEUE_H

#include "ring.h"

#define PSHM_OPEN UINT64_MAX /* closed_at of a queue whose stream goes on */

typedef struct pshm_queue_words {
    _Alignas(PSHM_CACHE_LINE) _Atomic uint64_t tail; /* moved by the sender */
    _Atomic uint64_t closed_at;                      /* sticky end of stream */
    _Alignas(PSHM_CACHE_LINE) _Atomic uint64_t head; /* moved by both ends */
    _Alignas(PSHM_CACHE_LINE) _Atomic uint64_t cell[];
} pshm_queue_words;

/* A process's own handle: its geometry never comes from shared memory twice. */
typedef struct pshm_queue {
    pshm_queue_words *words;
    uint32_t capacity; /* cells in use at the most */
    uint32_t mask;     /* cells there are, less one: a power of two */
} pshm_queue;

/* Empty and open. Creator only, before either end knows of it. */
void pshm_queue_format(pshm_queue_words *words);

/* Cells that wait now. Any process; a snapshot, never above the capacity. */
uint32_t pshm_queue_depth(const pshm_queue *queue);

/* Appends a cell. Sender only. Order: the tail is stored seq_cst after the
 * cell, so that a look at the bell's flag can't pass it. Returns false when
 * the queue is full. Wait-free. */
bool pshm_queue_push(pshm_queue *queue, uint64_t cell);

/* Takes the oldest cell. Receiver (pop) or sender (evict): whoever wins the
 * CAS on head owns the cell. Order: acquire on tail, seq_cst on head, so that
 * a look at a blocked sender's flag can't pass it. Returns false when empty.
 * Lock-free. Indexes that are damaged give at most `capacity` cells, some of
 * which may be nobody's. */
bool pshm_queue_pop(pshm_queue *queue, uint64_t *cell);

/* Ends the stream at the present tail. Sender only (or the launcher, for a
 * sender that is dead). Sticky until reopened. */
void pshm_queue_close(pshm_queue *queue);

/* Takes the end back. The launcher only, while both ends rest. */
void pshm_queue_reopen(pshm_queue *queue);

/* Whether the stream has ended and all of it was taken. Receiver. */
bool pshm_queue_finished(const pshm_queue *queue);

#endif
