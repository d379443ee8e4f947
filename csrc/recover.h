/* recover: what the living do about what a dead process held.
 *
 * Death is what the kernel says; the launcher tells who has to act. Both
 * functions only clear bits that nobody else can set or clear at the time, and
 * may be repeated when their caller dies half-way.
 */
#ifndef PSHM_RECOVER_H
#define PSHM_RECOVER_H

#include "port.h"

/* The receiver of `incarnation` is dead: clears its bit wherever no unread
 * message, nor the one that the sender has not pushed yet (`unsent`, or
 * PSHM_NO_SLOT), names the slot, and counts what was taken and not counted as
 * lost in the crash. The queue goes on for the next receiver. The sender, its
 * sends held off; or the launcher, when the sender is dead too. Every ring that
 * can have the bit must be mapped. Returns false, with nothing done, when memory
 * is short. */
bool pshm_recover_receiver(pshm_process *process, uint32_t incarnation, uint64_t unsent);

/* Both ends of `incarnation` are dead, and nobody will drain it: clears its bit
 * everywhere, counts what it had as lost, and marks it swept. Also for a local
 * edge. The launcher. */
void pshm_recover_edge(pshm_process *process, uint32_t incarnation);

/* The owner of a ring is dead: clears the producer's bit in it. The launcher. */
void pshm_recover_owner(pshm_process *process, uint32_t ring);

#endif
