/* edge: a process's own handle on one incarnation of an edge.
 *
 * Both ends attach to the incarnation, and check its record once. From then on the
 * sender pushes to `queue`, the receiver pops from it, and in the slots of a message
 * `mask` is the holder bit of this edge.
 */
#ifndef PSHM_EDGE_H
#define PSHM_EDGE_H

#include "control.h"

#define PSHM_LAST_BIT 31u /* holder bits of edges are numbered 1 to this */

typedef struct pshm_edge {
    pshm_edge_record *record;
    pshm_incarnation_record *incarnation;
    uint32_t number; /* the incarnation's */
    uint32_t sender;
    uint32_t receiver;
    uint32_t mask; /* 1 << bit; 0 for a local edge */
    bool local;
    uint32_t policy;
    uint32_t borrow_cap;
    uint64_t timeout_ns;
    uint64_t ticket_before; /* the sender's; see tickets.c */
    pshm_queue queue;
} pshm_edge;

/* Makes an incarnation live: its queue is empty, nothing is counted. The launcher or the
 * creator, before either end knows of it. Order: release, by the state. */
void pshm_incarnation_format(pshm_incarnation_record *record, uint32_t edge, uint32_t bit);

/* Marks an incarnation as sender-dead, free, and so on. The launcher.
 * Order: release, so that whoever sees the mark sees the dead sender's last push, and what
 * was settled for it. Wait-free. */
static inline void pshm_incarnation_mark(pshm_incarnation_record *record, uint32_t state) {
    __atomic_store_n(&record->state, state, __ATOMIC_RELEASE);
}

/* Returns an incarnation's state. Any process.
 * Order: acquire, so that the bit of one that is swept may be given to another. Wait-free. */
static inline uint32_t pshm_incarnation_state(const pshm_incarnation_record *record) {
    return __atomic_load_n(&record->state, __ATOMIC_ACQUIRE);
}

/* Returns which incarnation a record is now: {life:32 | number:32}, for pshm_port_add_in. The
 * creator or the launcher. Wait-free. */
static inline uint64_t pshm_incarnation_name(const pshm_incarnation_record *record,
                                             uint32_t number) {
    uint64_t reader = __atomic_load_n(&record->reader, __ATOMIC_RELAXED);
    return (reader >> 32) << 32 | number;
}

/* Notes that the receiver's process reads this life of the record. That process, when it
 * attaches. Order: acquire, so that it sees how the life began. Returns false when the
 * launcher has withdrawn it. Lock-free. */
bool pshm_incarnation_claim(pshm_incarnation_record *record, uint32_t life);

/* Makes sure that no process will claim this life. The launcher. Order: acquire. Returns false
 * when one has. Lock-free. */
bool pshm_incarnation_withdraw(pshm_incarnation_record *record);

/* Notes that the process which had claimed it is dead. Whoever recovers for it. Wait-free. */
void pshm_incarnation_unclaim(pshm_incarnation_record *record);

/* Moves the state on, if it is `from`. Order: acquire, as for state, and release, as for mark.
 * Returns whether it was. Lock-free. */
bool pshm_incarnation_move(pshm_incarnation_record *record, uint32_t from, uint32_t to);

/* Fills a handle on incarnation `number`. Any process. Returns false when a number in
 * its record is out of range. Wait-free. */
bool pshm_edge_attach(pshm_edge *edge, const pshm_control *control, uint32_t number);

/* Adds `owner` to the routines whose rings the messages of an edge can name. The creator
 * or the launcher, before either end knows of the edge. */
static inline void pshm_edge_record_reach(pshm_edge_record *record, uint32_t owner) {
    if (owner < PSHM_ROUTINES) record->reach[owner / 64] |= 1ull << owner % 64;
}

/* Returns whether the edge's bit can stand in the rings of routine `owner`. Any process.
 * Wait-free. */
static inline bool pshm_edge_reaches(const pshm_edge *edge, uint32_t owner) {
    return owner < PSHM_ROUTINES && (edge->record->reach[owner / 64] >> owner % 64 & 1) != 0;
}

/* Returns whether the receiver takes no more. Any process. Order: seq_cst, so that it
 * can be a blocked sender's look. Wait-free. */
static inline bool pshm_edge_has_ended(const pshm_edge *edge) {
    return __atomic_load_n(&edge->record->receiver_ended, __ATOMIC_SEQ_CST) != 0;
}

#endif
