/* bell: one futex word that a thread sleeps on, and that others ring.
 *
 * One waiter (a routine's thread) per bell; any number of ringers. The waiter
 * alone writes `waiting`, so a busy waiter costs its ringers no system call.
 * Waiter: arm, look at everything it waits for, wait(word), disarm.
 * Ringer: publish, then ring.
 * All accesses are seq_cst: either the waiter's look sees what was published,
 * or the ringer sees the flag; and the word is read before the look, so a ring
 * in between makes the wait return at once.
 */
#ifndef PSHM_BELL_H
#define PSHM_BELL_H

#include "ring.h"

typedef struct pshm_bell {
    _Alignas(PSHM_CACHE_LINE) _Atomic uint32_t word;
    _Atomic uint32_t waiting;
} pshm_bell;

/* Waiter only. Returns the word to wait on; look after this call. Wait-free. */
uint32_t pshm_bell_arm(pshm_bell *bell);

/* Waiter only, to sleep without being armed: then only pshm_bell_ring_always wakes it.
 * The word to wait on; look after this call. Wait-free. */
uint32_t pshm_bell_word(const pshm_bell *bell);

/* Waiter only. Wait-free. */
void pshm_bell_disarm(pshm_bell *bell);

/* Waiter only. Sleeps until rung since arm, `timeout_ns` at the most. Returns
 * false when a signal came: the caller's caller may have to handle it. The
 * caller looks again in any case. */
bool pshm_bell_wait(pshm_bell *bell, uint32_t word, uint64_t timeout_ns);

/* Any process or thread, after it published. A system call only when the
 * waiter sleeps or is about to. Wait-free but for that call. */
void pshm_bell_ring(pshm_bell *bell);

/* The same without asking the flag: for notices that a waiter can't see in a
 * queue. Any process or thread. */
void pshm_bell_ring_always(pshm_bell *bell);

/* CLOCK_MONOTONIC, ns. Any thread. */
uint64_t pshm_now(void);

#endif
