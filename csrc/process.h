/* process: what one process has mapped of a pipe, and which slots it holds.
 *
 * A lease is one Python buffer exporter (or one message being encoded) that
 * stands on a slot. The table here counts the leases of each slot and the
 * holder bits that stand behind them; the last lease drops the bits. Leases
 * die wherever Python's last view dies, on any thread, so the table is behind
 * one process-local mutex, never held across a system call that can block.
 *
 * A forked child inherits the mappings but no lease: pthread_atfork marks every
 * table that exists as foreign, and releases through a foreign table do
 * nothing.
 */
#ifndef PSHM_PROCESS_H
#define PSHM_PROCESS_H

#include "control.h"

#define PSHM_GUARDED 65536u /* file descriptors that may be kept out of forked children */

typedef struct pshm_lease {
    uint32_t count;
    uint32_t bits;
    uint32_t generation;
} pshm_lease;

typedef struct pshm_mapping {
    pshm_ring ring;
    uint64_t serial;
    void *head;
    uint64_t payload_bytes;
    uint8_t *read;  /* read-only mapping of the payload */
    uint8_t *write; /* read-write mapping; NULL but in the owner */
    _Atomic uint32_t cursor;
    uint32_t incarnation_of_bit[32];
    pshm_lease lease[];
} pshm_mapping;

typedef struct pshm_process {
    pshm_control control;
    pshm_mapping *mapping[PSHM_RINGS];
    uint32_t places;    /* no mapping stands past these */
    uint32_t *borrowed; /* per incarnation: slots held through it */
    uint8_t *lingering; /* per incarnation: swept as soon as none is held */
    uint64_t seen_epoch;
    bool foreign; /* made before a fork, by the parent */
    struct pshm_process *next;
} pshm_process;

/* A table for the control segment mapped at `memory`; NULL when that is not
 * sound or memory is short. Once per pipe and process. */
pshm_process *pshm_process_open(void *memory, uint64_t bytes);

/* Unmaps and frees. Returns false, and does nothing, while a lease lives. */
bool pshm_process_close(pshm_process *process);

/* Maps ring `ring` (of `serial`) from `fd`, `bytes` long: head read-write,
 * payload read-only, and a second time read-write where `writable`. A mapping
 * of an earlier serial in that place goes; the protocol leaves no lease on it
 * (else, EBUSY: what is held stays mapped). Returns 0, or an errno. Any thread. */
int pshm_process_map(pshm_process *process, uint32_t ring, uint64_t serial, int fd,
                     uint64_t bytes, bool writable);

/* The mapping of a ring that is still the published one, else NULL. */
pshm_mapping *pshm_process_find(pshm_process *process, uint32_t ring);

/* Unmaps the rings that are gone. Called by receivers when the epoch moved. */
void pshm_process_prune(pshm_process *process);

/* Adds a lease with `bits`, which the caller owns in the slot's word;
 * `incarnation` is the number of that behind them (any for the producer's bit). */
void pshm_process_lease(pshm_process *process, pshm_mapping *mapping, uint64_t descriptor,
                        uint32_t bits, uint32_t incarnation);

/* Ends a lease; the last one drops the bits and rings the ring's owner. */
void pshm_process_release(pshm_process *process, uint64_t descriptor);

/* Drops bits that are behind no lease, and rings the ring's owner. */
void pshm_process_drop(pshm_process *process, uint64_t descriptor, uint32_t bits);

/* Leases in being on a ring. For tests, statistics and retirement. */
uint32_t pshm_process_leases(pshm_process *process, uint32_t ring);

/* Slots held through an incarnation. Any thread; a snapshot. */
uint32_t pshm_process_borrowed(const pshm_process *process, uint32_t incarnation);

/* Clears the edge's bit in every slot of a mapped ring, if that is one that the
 * edge reaches, on which this process has no lease with it, and rings the
 * ring's owner. For recovery: the edge's sender is dead and its queue drained. */
void pshm_process_sweep_unleased(pshm_process *process, uint32_t ring, const pshm_edge *edge);

/* Marks an incarnation swept as soon as no slot is held through it: now, or
 * after the drop of the last lease. */
void pshm_process_linger(pshm_process *process, uint32_t incarnation);

/* Keeps every thread of this process from mapping, unmapping and leasing, while
 * recovery looks at the mappings. Short: sends and receives wait for it. */
void pshm_process_hold_still(void);
void pshm_process_go_on(void);

/* Where [address, address + bytes) lies whole in one slot that `process`
 * holds: adds a lease to it and returns true. */
bool pshm_process_reference(pshm_process *process, const void *address, uint64_t bytes,
                            uint64_t *descriptor, uint64_t *offset);

/* The same, by the read-only mapping: where to read [address, address + bytes). NULL, and
 * no lease, where it lies in no slot that `process` holds. The lease is ended by pshm_release
 * of what is returned. Any thread. */
void *pshm_process_share(pshm_process *process, const void *address, uint64_t bytes);

/* Adds a lease to a slot that the caller has one of already; where to read it, `*bytes` long.
 * NULL, and no lease, where this process holds no such slot. Any thread. */
void *pshm_process_lend(pshm_process *process, uint64_t descriptor, uint64_t *bytes);

/* Slots of a ring on which this process has leases. Any thread; a snapshot. */
uint32_t pshm_process_leased(pshm_process *process, uint32_t ring);

/* Where to write to [address, address + bytes), which lies whole in one slot
 * that nobody but `routine`, of this process, holds: adds a lease to it. NULL
 * when somebody else holds it too, or it can't be written to through this
 * mapping: then *ring is the one to map writable, or PSHM_RINGS. Nobody can
 * become a holder afterwards but by a send of the routine's own thread, whose
 * call this must be. */
void *pshm_process_writable(pshm_process *process, uint32_t routine, const void *address,
                            uint64_t bytes, uint32_t *ring);

/* Ends the lease of the slot at `address`, in whichever table of this process
 * it lies: the destructor of Python's exporters. Any thread, any time. */
void pshm_release(void *address);

/* Keeps `fd` out of forked children: closed in each by pthread_atfork, which must not
 * allocate, so the table is static. Returns false when it has PSHM_GUARDED already.
 * pshm_unguard takes it back. Any thread. */
bool pshm_guard(int fd);
void pshm_unguard(int fd);

#endif
