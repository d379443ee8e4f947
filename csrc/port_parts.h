/* port_parts: what the files that make up a port share. No other file includes it. */
#ifndef PSHM_PORT_PARTS_H
#define PSHM_PORT_PARTS_H

#include "mapping.h"
#include "port.h"

#define LONGEST_SLEEP_NS 5000000000u /* then a sleeper looks again in any case */

static inline bool has_notice(pshm_port *port) {
    /* seq_cst: a look between arming the bell and waiting */
    return atomic_load_explicit(&port->notice, memory_order_seq_cst) != 0;
}

/* Whether a send is to come back where it would sleep. */
static inline bool must_not_sleep(pshm_port *port) {
    return port->hurried || has_notice(port);
}

/* For the other end of an edge, whose number was checked on attaching. */
static inline void ring_routine(pshm_port *port, uint32_t routine) {
    pshm_bell_ring(&port->process->control.routine[routine].bell);
}

/* Takes the edge with the lowest number out of a set, which must not be empty. */
static inline uint32_t next_out(uint64_t *outs) {
    uint32_t out = (uint32_t)__builtin_ctzll(*outs);
    *outs &= *outs - 1;
    return out;
}

/* `duration` after `now`, or PSHM_FOREVER. */
static inline uint64_t after(uint64_t now, uint64_t duration) {
    return duration > PSHM_FOREVER - now ? PSHM_FOREVER : now + duration;
}

static inline uint64_t sleep_until(uint64_t now, uint64_t deadline) {
    uint64_t left = deadline > now ? deadline - now : 0;
    return left < LONGEST_SLEEP_NS ? left : LONGEST_SLEEP_NS;
}

/* Takes a slot of an own ring, without a lease; reserve.c. The policies of `outs` decide
 * when none is free. Returns what pshm_port_reserve does. */
int pshm_port_allocate(pshm_port *port, uint64_t outs, pshm_mapping *mapping,
                       uint64_t *descriptor);

#endif
