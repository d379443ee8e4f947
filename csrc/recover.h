/* recover: what the living do about what a dead process held.
 *
 * The kernel says who is dead; the launcher says who has to act:
 *
 *     the receiver of an edge died     its sender:    pshm_port_recover_receiver
 *     the sender of an edge died       its receiver:  drains the queue, then
 *                                                     pshm_port_recover_sender
 *     both died                        the launcher:  pshm_recover_receiver, if there will
 *                                                     be another receiver to drain it;
 *                                                     else pshm_recover_edge
 *     the owner of a ring died         the launcher:  pshm_recover_owner
 *     the sender died, bits are short,
 *     and the receiver does not drain  the launcher:  pshm_recover_undrained
 *
 * Each function clears only bits that nobody else can set or clear at the time. It may be
 * repeated, so its caller may die half-way. Every ring that can have the bit must be mapped.
 */
#ifndef PSHM_RECOVER_H
#define PSHM_RECOVER_H

#include "port.h"

/* Clears the bit of an edge whose receiver is dead in every slot, except in those that an
 * unread message is or names. The message `unsent`, which the sender has not pushed yet, is
 * spared as well; PSHM_NO_SLOT for none. What the receiver took and did not count is counted
 * as lost. The next receiver goes on with the queue.
 * The sender, with its `sending` locked; or the launcher, when the sender is dead too.
 * Returns false, with nothing done, when memory is short. */
bool pshm_recover_receiver(pshm_process *process, uint32_t incarnation, uint64_t unsent);

/* Clears the bit of an incarnation that nobody will drain in every slot, counts what it had
 * as lost, and marks it as swept. Also for a local edge. Launcher only; both ends are
 * dead. */
void pshm_recover_edge(pshm_process *process, uint32_t incarnation);

/* Finds out which message a dead sender was handing over on an incarnation, and whether it is
 * in the queue, and writes that to the edge's record for good: see handing.h. Where the
 * sender resumes, a message that is not there counts as not sent, since it comes again.
 * Launcher only; before the incarnation is marked as dead or recovered. */
void pshm_recover_handing(pshm_process *process, uint32_t incarnation);

/* Takes back what a receiver, which may live and may go on at any time, leaves unread of an
 * incarnation whose sender is dead or has let go of it; counts it as lost. Launcher only; no
 * sweep of a living sender may be under way.
 *
 * If the receiver never attached, it never will, and the incarnation is swept. Else, if it
 * holds no slot by this bit, the incarnation is given up: the bit may be given to another, the
 * record not before the receiver has looked at it once more. Returns false where the receiver
 * holds a slot, or is in its sweep: then it has to let go itself. */
bool pshm_recover_undrained(pshm_process *process, uint32_t incarnation);

/* Clears the producer's bit in every slot of a ring whose owner is dead. Launcher only. */
void pshm_recover_owner(pshm_process *process, uint32_t ring);

/* pshm_recover_receiver by the sender of `incarnation`, with its sends held off and its
 * unsent message spared. Also for an edge that was unlinked since. Any thread of the
 * sender's process. The next receiver may attach afterwards. */
bool pshm_port_recover_receiver(pshm_port *port, uint32_t incarnation);

/* After PSHM_DRAINED, or when the sender has let go of the edge: clears the dead sender's bit
 * wherever this process has no lease with it, and gives the incarnation back when its last
 * lease has ended. Of an incarnation that was given up it clears nothing. Does nothing while
 * the launcher takes messages back, which rings afterwards. The receiver's thread. */
void pshm_port_recover_sender(pshm_port *port, uint32_t place);

#endif
