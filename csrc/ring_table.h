/* ring_table: which rings a pipe has, and how much memory they take.
 *
 * The table stands in the head of the control segment. A ring takes a place in it, and
 * a serial that no ring had before; its segment is named by the serial. Names therefore
 * never repeat, although places do.
 *
 * A ring's creator goes through these steps:
 *
 *     ring = pshm_control_claim_ring(&control, owner, &serial);
 *     if (!pshm_control_spend(&control, ring, bytes)) ...      // release it, give up
 *     ...                                                      // create, pshm_ring_format
 *     pshm_control_publish_ring(&control, ring);               // others may find it now
 *     ...                                                      // unlink the segment
 *     pshm_control_release_ring(&control, ring);
 *
 * When the creator dies on the way, the launcher calls pshm_control_unclaim_ring. The
 * owner is a part of the serial, so it is known from the first step on.
 */
#ifndef PSHM_RING_TABLE_H
#define PSHM_RING_TABLE_H

#include "control.h"

/* A serial {count:48 | owner:16}. */
static inline uint64_t pshm_serial(uint64_t count, uint32_t owner) {
    return count << 16 | (owner & 0xffffu);
}
static inline uint64_t pshm_serial_count(uint64_t serial) {
    return serial >> 16;
}
static inline uint32_t pshm_serial_owner(uint64_t serial) {
    return (uint32_t)serial & 0xffffu;
}

/* Takes a free place and a new serial. Any process.
 * Order: acq_rel, so that the place's last user is done with it.
 * Returns the place, or PSHM_RINGS when none is free. Wait-free. */
uint32_t pshm_control_claim_ring(const pshm_control *control, uint32_t owner, uint64_t *serial);

/* Takes `bytes` of the memory budget for a ring that was claimed. They are noted in the
 * ring's place, so they come back with it, no matter who releases it. Any process.
 * Order: seq_cst, so that of two which spend at the same time, one sees the other.
 * Returns false when less is left; then the ring must be released. Where two together
 * want too much, both may be refused. Wait-free. */
bool pshm_control_spend(const pshm_control *control, uint32_t ring, uint64_t bytes);

/* Makes a claimed ring known. Its creator only, when the segment is formatted.
 * Order: release, so that the segment is formatted before it is found. Wait-free. */
void pshm_control_publish_ring(const pshm_control *control, uint32_t ring);

/* Gives a place and its bytes back. The ring's owner, or the launcher for a dead one,
 * when the segment is unlinked. Order: release. Wait-free. */
void pshm_control_release_ring(const pshm_control *control, uint32_t ring);

/* Gives back one place that `owner`, who is dead, claimed and never published. Launcher
 * only. Returns the serial, whose segment may exist; 0 when there is no such place.
 * Wait-free. */
uint64_t pshm_control_unclaim_ring(const pshm_control *control, uint32_t owner);

/* Returns the serial of a published ring; 0 if there is none in that place. Any process.
 * Order: acquire, which pairs with publication. Wait-free. */
uint64_t pshm_control_serial(const pshm_control *control, uint32_t ring);

/* Returns the first place from `ring` on with a published ring; PSHM_RINGS when there is
 * none. Any process. Order: as pshm_control_serial. Wait-free. */
uint32_t pshm_control_next_ring(const pshm_control *control, uint32_t ring);

/* Returns the bytes of the memory budget that no ring has taken. Any process; a
 * snapshot. Wait-free. */
uint64_t pshm_control_left(const pshm_control *control);

#endif
