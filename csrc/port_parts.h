/* port_parts: what send.c and receive.c share. Not for anyone else. */
#ifndef PSHM_PORT_PARTS_H
#define PSHM_PORT_PARTS_H

#include "port.h"

#define LONGEST_SLEEP_NS 5000000000u

static inline bool notice(pshm_port *port) {
    return atomic_load_explicit(&port->notice, memory_order_seq_cst) != 0;
}

static inline void ring_routine(pshm_port *port, uint32_t routine) {
    pshm_bell_ring(&port->process->control.routine[routine].bell);
}

/* The outgoing edge whose bit is the lowest in *outs, taken out of *outs. */
static inline uint32_t next_out(uint64_t *outs) {
    uint32_t out = (uint32_t)__builtin_ctzll(*outs);
    *outs &= *outs - 1;
    return out;
}

static inline bool has_ended(const pshm_edge *edge) {
    return __atomic_load_n(&edge->record->receiver_ended, __ATOMIC_SEQ_CST) != 0;
}

static inline uint64_t after(uint64_t now, uint64_t duration) {
    return duration > PSHM_FOREVER - now ? PSHM_FOREVER : now + duration;
}

static inline uint64_t sleep_until(uint64_t now, uint64_t deadline) {
    uint64_t left = deadline > now ? deadline - now : 0;
    return left < LONGEST_SLEEP_NS ? left : LONGEST_SLEEP_NS;
}

/* The message that a cell names, in this process's mapping; NULL when that is
 * not there, or the cell is out of range or not of a ring of messages. */
static inline const pshm_message *message_at(pshm_process *process, uint64_t cell,
                                             pshm_mapping **mapping) {
    *mapping = pshm_process_find(process, pshm_descriptor_ring(cell));
    if (*mapping == NULL) return NULL;
    uint32_t slot = pshm_descriptor_slot(cell);
    uint64_t slot_bytes = (*mapping)->ring.slot_bytes;
    if (slot >= (*mapping)->ring.slots || slot_bytes < sizeof(pshm_message) ||
        slot_bytes % _Alignof(pshm_message) != 0)
        return NULL;
    return (const pshm_message *)((*mapping)->read + slot * slot_bytes);
}

/* Payload slots that a message names, at most as many as its own slot has room
 * for, and one of them. Each read once: what is checked is what is used. */
static inline uint32_t slots_of(const pshm_message *message, const pshm_mapping *mapping) {
    uint32_t slots = __atomic_load_n(&message->slots, __ATOMIC_RELAXED);
    uint64_t room = (mapping->ring.slot_bytes - sizeof *message) / sizeof(uint64_t);
    uint32_t most = room < PSHM_MESSAGE_SLOTS ? (uint32_t)room : PSHM_MESSAGE_SLOTS;
    return slots < most ? slots : most;
}

static inline uint64_t slot_of(const pshm_message *message, uint32_t k) {
    return __atomic_load_n(&message->slot[k], __ATOMIC_RELAXED);
}

/* A counter that one thread writes and others read. */
static inline void pshm_count_own(uint64_t *counter) {
    __atomic_store_n(counter, *counter + 1, __ATOMIC_RELAXED);
}

#endif
