/* mapping: the rings that one process has mapped.
 *
 * A ring's segment is mapped in two or three parts: its head read-write, since every
 * holder changes slot words; its payload read-only; and the payload a second time
 * read-write, in the owner, and in a receiver that was allowed to write to a slot.
 *
 * A ring goes when its owner unlinks it. The control segment's epoch then grows, and a
 * receiver that sees it calls pshm_process_prune.
 */
#ifndef PSHM_MAPPING_H
#define PSHM_MAPPING_H

#include "process.h"
#include "ring_table.h"

/* How this process holds one slot; see lease.h. */
typedef struct pshm_lease {
    uint32_t count;
    uint32_t bits; /* the holder bits that stand behind the leases */
    uint32_t generation;
} pshm_lease;

struct pshm_mapping {
    pshm_ring ring;
    uint64_t serial;
    void *head;
    uint64_t payload_bytes;
    uint8_t *read;  /* the payload, read-only */
    uint8_t *write; /* the payload, read-write; NULL while it is not mapped so */
    uint32_t incarnation_of_bit[PSHM_HOLDERS];
    pshm_lease lease[]; /* one per slot */
};

/* Maps ring `ring` of that serial from `fd`, whose segment is `bytes` long. With
 * `writable`, the payload is mapped read-write as well. Takes the place of a ring that
 * stood there earlier; the protocol leaves no lease on that one. Any thread.
 * Returns 0, or an errno: EINVAL when the segment is not that ring, EBUSY when a lease
 * does stand on the earlier one, which then stays mapped. */
int pshm_process_map(pshm_process *process, uint32_t ring, uint64_t serial, int fd,
                     uint64_t bytes, bool writable);

/* Returns the mapping of a ring, if it is mapped here and still the published one in
 * its place; else NULL. Any thread. Order: acquire. Wait-free. */
pshm_mapping *pshm_process_find(pshm_process *process, uint32_t ring);

/* Unmaps the rings that are gone and on which no lease stands. Any thread; receivers
 * call it when the epoch has grown. */
void pshm_process_prune(pshm_process *process);

/* Unmaps one place. The mutex must be locked, and no lease stand on it. */
void pshm_process_unmap(pshm_process *process, uint32_t ring);

/* Returns how many leases stand on a mapping. The mutex must be locked. */
uint32_t pshm_mapping_leases(const pshm_mapping *mapping);

/* Returns the mapping in which an address lies, and the address's offset in its payload;
 * NULL when it lies in none. The mutex must be locked. */
pshm_mapping *pshm_process_mapping_at(pshm_process *process, const void *address,
                                      uint64_t *offset);

#endif
