/* queue: a bounded ring of 8-byte cells, from one sender to one receiver.
 *
 * Indexes are 64 bits wide and only ever grow, so in practice they never wrap, and
 * a full queue differs from an empty one. The sender may take the oldest cell back
 * (that is how drop_oldest makes room). Both ends therefore move `head`, by CAS, and
 * a cell belongs to the end that moved it.
 *
 * One sender and one receiver, as a `_spsc` of Concurrency Kit; the comment of each
 * function says which end may call it. All are wait-free except pshm_queue_pop, which
 * is lock-free when both ends call it.
 *
 * Example:
 *
 *     pshm_queue_push(&queue, cell);     // the sender; then it rings the bell
 *     pshm_queue_pop(&queue, &cell);     // the receiver
 *     pshm_queue_close(&queue);          // the sender, after its last push
 *     pshm_queue_finished(&queue);       // the receiver: true when all was taken
 */
#ifndef PSHM_QUEUE_H
#define PSHM_QUEUE_H

#include "ring.h"

#define PSHM_CELLS 0x10000u  /* the most cells of a queue */
#define PSHM_OPEN UINT64_MAX /* closed_at of a stream that has not ended */

typedef struct pshm_queue_words {
    _Alignas(PSHM_CACHE_LINE) _Atomic uint64_t tail; /* moved by the sender */
    _Atomic uint64_t closed_at;                      /* the tail at which the stream ended */
    _Alignas(PSHM_CACHE_LINE) _Atomic uint64_t head; /* moved by both ends */
    _Alignas(PSHM_CACHE_LINE) _Atomic uint64_t cell[];
} pshm_queue_words;

/* A process's own handle. Its geometry is read from shared memory only once. */
typedef struct pshm_queue {
    pshm_queue_words *words;
    uint32_t capacity; /* the most cells that may wait */
    uint32_t mask;     /* cells that exist, less one; their number is a power of two */
} pshm_queue;

/* Returns the cells that a queue of this capacity needs: the least power of two; 0
 * when no queue can be that long. Wait-free. */
uint32_t pshm_queue_cells(uint32_t capacity);

/* Makes a queue empty and open. Creator only, before either end knows of it. */
void pshm_queue_format(pshm_queue_words *words);

/* Returns how many cells wait, never more than the capacity. Any process; a
 * snapshot. Order: seq_cst, so that it can be a sender's look between arming its bell
 * and waiting. Wait-free. */
uint32_t pshm_queue_depth(const pshm_queue *queue);

/* Appends a cell. Sender only.
 * Order: the tail is stored seq_cst after the cell, so that a look at the
 * receiver's bell that follows can't be reordered before it.
 * Returns false when the queue is full. Wait-free. */
bool pshm_queue_push(pshm_queue *queue, uint64_t cell);

/* Takes the oldest cell. Either end: the receiver to read it, the sender to evict it.
 * The cell belongs to the end whose CAS moved the head.
 * Order: acquire on the tail. The head is moved seq_cst, so that a look at a blocked
 * sender's bell that follows can't be reordered before it.
 * Returns false when the queue is empty. Lock-free.
 * After damage to the indexes it yields at most `capacity` cells, some of which may
 * name nothing. */
bool pshm_queue_pop(pshm_queue *queue, uint64_t *cell);

/* Ends the stream at the present tail. Sender only, or the launcher for a sender that
 * does not run. The end stands until pshm_queue_reopen. Wait-free. */
void pshm_queue_close(pshm_queue *queue);

/* Takes the end of the stream back. Launcher only, while neither end runs. Wait-free. */
void pshm_queue_reopen(pshm_queue *queue);

/* Returns whether the stream has ended and every cell of it was taken. Receiver.
 * Order: seq_cst, as for the depth. Wait-free. */
bool pshm_queue_finished(const pshm_queue *queue);

#endif
