/* crash_launcher: what the files that make up the launcher share. */
#ifndef PSHM_CRASH_LAUNCHER_H
#define PSHM_CRASH_LAUNCHER_H

#include "crash.h"

typedef struct flow {
    pid_t pid;
    int channel; /* -1 while it is down */
    bool ready;  /* it has its rings, and has done what it was told */
    bool due;    /* for a restart */
    bool failed;
} flow;

/* All that the launcher knows. */
extern struct launched {
    pshm_process *process;
    pshm_control *control;
    flow flow[FLOWS];
    /* each edge's incarnations, the oldest first, without those that are swept */
    uint32_t of[EDGES][PSHM_CRASH_INCARNATIONS];
    uint32_t count[EDGES];
    /* sweeps that senders were asked for and have not answered */
    uint32_t unswept[PSHM_CRASH_INCARNATIONS];
    bool asked; /* all flows, to be ready */
    uint32_t retired;
    uint32_t retired_ring[PSHM_CRASH_SERIALS];
} launched;

/* crash_launcher.c. */
flow *pshm_crash_sending_flow(uint32_t edge);
flow *pshm_crash_receiving_flow(uint32_t edge);
bool pshm_crash_is_up(const flow *it);
bool pshm_crash_is_over(uint32_t routine);
bool pshm_crash_was_killed(uint32_t number, int status);

/* Tells a flow something. A flow that is down is told nothing: from birth it knows all that
 * it needs. */
void pshm_crash_tell(const flow *to, uint32_t what, uint32_t about, uint32_t incarnation);

/* crash_incarnations.c. The first forgets the edge's incarnations that are swept, and returns
 * how many are left; the second returns the live one, or UINT32_MAX. */
uint32_t pshm_crash_count_of(uint32_t edge);
uint32_t pshm_crash_live(uint32_t edge);
uint32_t pshm_crash_open_incarnation(uint32_t edge);
uint32_t pshm_crash_state_of(uint32_t incarnation);
uint64_t pshm_crash_name_of(uint32_t incarnation);

/* Whether its receiver has still to do something about a dead sender's incarnation. */
bool pshm_crash_is_drained_by_receiver(uint32_t incarnation);

/* Where the graph asks for it, takes back what the edge's receiver leaves of dead senders. */
void pshm_crash_take_back(uint32_t edge);
void pshm_crash_set_state(uint32_t incarnation, uint32_t state);
pshm_queue pshm_crash_queue_of(uint32_t incarnation);

/* Tells the edge's receiver of an incarnation, if it is up. If it is down, its successor is
 * told at birth. */
void pshm_crash_attach(uint32_t edge, uint32_t incarnation);

/* crash_burial.c. Does all that a flow's death asks for, then notes whether it is due for a
 * restart; unlinks rings of the dead that have become free. */
void pshm_crash_bury(uint32_t number);
void pshm_crash_remove_retired(void);

#endif
