/* lease: which slots this process holds, and for how many users.
 *
 * A lease is one user's claim on a slot: a Python buffer, or a message that is being
 * encoded. Each slot's leases are counted, and the holder bits behind them are noted.
 * The end of the last lease drops those bits, and wakes the owner of the ring.
 *
 * A lease ends where Python's last view dies, which may be in any thread. The count is
 * therefore under the mutex of the tables; the bits are dropped after it is unlocked.
 *
 * Example, a received payload slot:
 *
 *     pshm_process_lease(process, mapping, slot, edge->mask, edge->number);
 *     void *copy = pshm_process_share(process, address, bytes);  // a second lease
 *     pshm_release(copy);
 *     pshm_release(address);               // the last one: the edge's bit is dropped
 */
#ifndef PSHM_LEASE_H
#define PSHM_LEASE_H

#include "edge.h"
#include "mapping.h"

/* Adds a lease with `bits`, which the caller owns in the slot's word. `incarnation` is
 * that of the edge whose bit it is; the producer's bit has none, and any number will do.
 * Any thread. */
void pshm_process_lease(pshm_process *process, pshm_mapping *mapping, uint64_t descriptor,
                        uint32_t bits, uint32_t incarnation);

/* Ends a lease. The last one drops the bits and wakes the ring's owner. Any thread. */
void pshm_process_release(pshm_process *process, uint64_t descriptor);

/* Ends a lease of the slot that `address` lies in, in whichever table of this process:
 * the destructor of Python's buffers. Any thread, at any time. */
void pshm_release(void *address);

/* Drops bits that are behind no lease, and wakes the ring's owner when the slot became
 * free. Any thread. Lock-free but for a system call. */
void pshm_process_drop(pshm_process *process, uint64_t descriptor, uint32_t bits);

/* ---- further leases on a slot that this process holds ---------------------------------- */

/* Adds a lease to the slot in which [address, address + bytes) lies whole. Any thread.
 * Returns false, with nothing done, when it lies in no slot that is held here. */
bool pshm_process_reference(pshm_process *process, const void *address, uint64_t bytes,
                            uint64_t *descriptor, uint64_t *offset);

/* The same; returns where to read [address, address + bytes) in the read-only mapping,
 * or NULL. pshm_release of that pointer ends the lease. Any thread. */
void *pshm_process_share(pshm_process *process, const void *address, uint64_t bytes);

/* Adds a lease to a slot that the caller has a lease of. Returns where to read it, and
 * its size in *bytes; NULL, with nothing done, when it is not held here. Any thread. */
void *pshm_process_lend(pshm_process *process, uint64_t descriptor, uint64_t *bytes);

/* Adds a lease to the slot in which [address, address + bytes) lies whole, if `routine`
 * is its only holder. Returns where to write to it. Only the thread of `routine` may call
 * this: nobody else can then become a holder but by a send of that same thread.
 * Returns NULL, with nothing done, when another holder exists, or when the ring is not
 * mapped writable here. In the last case *ring is the ring to map so; else it is
 * PSHM_RINGS. */
void *pshm_process_writable(pshm_process *process, uint32_t routine, const void *address,
                            uint64_t bytes, uint32_t *ring);

/* ---- counts ---------------------------------------------------------------------------- */

/* Returns how many leases stand on a ring. Any thread; a snapshot. */
uint32_t pshm_process_leases(pshm_process *process, uint32_t ring);

/* Returns on how many slots of a ring leases stand. Any thread; a snapshot. */
uint32_t pshm_process_leased(pshm_process *process, uint32_t ring);

/* Returns how many slots are held through an incarnation. Any thread; a snapshot.
 * Wait-free. */
uint32_t pshm_process_borrowed(const pshm_process *process, uint32_t incarnation);

/* ---- for recovery ---------------------------------------------------------------------- */

/* Clears the edge's bit in every slot of a ring on which no lease of this process has it,
 * provided that the edge reaches that ring; wakes the ring's owner. The receiver of an
 * edge whose sender is dead and whose queue is drained. */
void pshm_process_sweep_unleased(pshm_process *process, uint32_t ring, const pshm_edge *edge);

/* Marks an incarnation as swept as soon as no slot is held through it: now, or when the
 * bit of the last lease is dropped. The same receiver, afterwards. */
void pshm_process_linger(pshm_process *process, uint32_t incarnation);

#endif
