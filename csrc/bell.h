/* bell: one futex word that a thread sleeps on and other threads ring.
 *
 * A bell has one waiter, which is a routine's thread, and any number of ringers.
 * Only the waiter writes `waiting`, so ringing costs no system call while the waiter
 * is busy.
 *
 *     The waiter:                              A ringer:
 *     word = pshm_bell_arm(bell);              publish;
 *     if (nothing to do)                       pshm_bell_ring(bell);
 *         pshm_bell_wait(bell, word, ns);
 *     pshm_bell_disarm(bell);
 *
 * Between arming and waiting, the waiter looks at everything that it waits for. All
 * accesses are seq_cst: either this look sees what was published, or the ringer sees
 * the flag. The word is read before the look, so a ring in between makes the wait
 * return at once.
 */
#ifndef PSHM_BELL_H
#define PSHM_BELL_H

#include "ring.h"

typedef struct pshm_bell {
    _Alignas(PSHM_CACHE_LINE) _Atomic uint32_t word;
    _Atomic uint32_t waiting;
} pshm_bell;

/* Announces that the waiter is about to sleep. Waiter only, before its look.
 * Returns the word to wait on. Wait-free. */
uint32_t pshm_bell_arm(pshm_bell *bell);

/* Returns the word to wait on without being armed: only pshm_bell_ring_always ends
 * such a wait. Waiter only, before its look. Wait-free. */
uint32_t pshm_bell_word(const pshm_bell *bell);

/* Takes the announcement back. Waiter only, after its wait or its look. Wait-free. */
void pshm_bell_disarm(pshm_bell *bell);

/* Sleeps until the bell was rung since `word` was read, for `timeout_ns` at most.
 * Waiter only; it looks again in any case.
 * Returns false when a signal ended the sleep: the program may have to handle it. */
bool pshm_bell_wait(pshm_bell *bell, uint32_t word, uint64_t timeout_ns);

/* Wakes the waiter if it sleeps or is about to. Any process or thread, after it has
 * published. Makes a system call only in that case. Wait-free but for that call. */
void pshm_bell_ring(pshm_bell *bell);

/* The same, without asking the flag: for a notice that no look at a queue shows, and
 * in the place of a process that died between publishing and ringing. Any process or
 * thread. Wait-free but for a system call. */
void pshm_bell_ring_always(pshm_bell *bell);

/* Returns CLOCK_MONOTONIC in ns. Any thread. */
uint64_t pshm_now(void);

#endif
