/* process: what one process has of one pipe.
 *
 * That is a handle on the control segment, the rings that it has mapped (mapping.h), and
 * the slots that it holds (lease.h). A process has one such table per pipe; the launcher
 * of several pipes has several.
 *
 * All tables of a process share one mutex, since a lease may end in any thread and need
 * not know its pipe. It is held for short sections only, and never across a call that can block.
 */
#ifndef PSHM_PROCESS_H
#define PSHM_PROCESS_H

#include "control.h"

typedef struct pshm_mapping pshm_mapping;

typedef struct pshm_process {
    pshm_control control;
    pshm_mapping *mapping[PSHM_RINGS];
    uint32_t places;    /* no mapping stands in this place or after it */
    uint32_t *borrowed; /* per incarnation: slots that are held through it */
    uint8_t *lingering; /* per incarnation: whether it is swept when none is held */
    uint64_t seen_epoch;
    bool foreign; /* inherited by a fork; see fork.h */
    struct pshm_process *next;
} pshm_process;

/* Makes a table for the control segment that is mapped at `memory`. Once per pipe and
 * process, by any thread. Returns NULL when the segment is not sound, or memory is
 * short. */
pshm_process *pshm_process_open(void *memory, uint64_t bytes);

/* Unmaps every ring and frees the table. The control segment is the caller's to unmap.
 * Any thread, when no other one uses the table. Returns false, with nothing done, while
 * a lease lives. */
bool pshm_process_close(pshm_process *process);

/* Lock and unlock the mutex of all tables, so that no thread of this process maps,
 * unmaps or leases meanwhile: for recovery and for fork(). Sends and receives wait for
 * it, so the section must be short. */
void pshm_process_hold_still(void);
void pshm_process_go_on(void);

/* For fork.c: marks every table as inherited. The mutex must be locked. */
void pshm_process_disown_all(void);

/* Returns the first table of this process; the others follow by `next`. The mutex must
 * be locked. */
pshm_process *pshm_process_first(void);

#endif
