/* message: how a message lies in its slot.
 *
 * A message takes a slot of its sender's message ring:
 *
 *     the head below | descriptors of the payload slots that it names | the body
 *
 * C does not look into the body. On each edge, the message slot and every payload slot
 * carry the edge's holder bit, from before the push until the receiver, or an eviction,
 * drops it. On a local edge no message lies anywhere: the cell is a token that stands
 * for a Python object.
 *
 * The words of a message may be damaged. Functions here read each of them once, so that
 * the value which was checked is the value that is used.
 */
#ifndef PSHM_MESSAGE_H
#define PSHM_MESSAGE_H

#include "mapping.h"

#define PSHM_MESSAGE_BYTES 4096u /* the longest body */
#define PSHM_MESSAGE_SLOTS 32u   /* the most payload slots of a message */

typedef struct pshm_message {
    uint64_t sequence;
    uint64_t captured_ns;
    uint64_t sent_ns;
    uint32_t origin; /* the source's routine number */
    uint32_t bytes;  /* of the body */
    uint16_t slots;
    uint16_t kind; /* its values are Python's */
    uint32_t head; /* bytes at the body's beginning that do not describe the payload */
    uint64_t slot[];
} pshm_message;

/* Returns the message that a cell names, in this process's mapping. Returns NULL when
 * that ring is not mapped here (then *mapping is NULL, too), or the cell does not name a
 * slot for messages. The caller must hold the slot. Wait-free. */
static inline const pshm_message *pshm_message_at(pshm_process *process, uint64_t cell,
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

/* Returns how many payload slots a message names: no more than its own slot has room
 * for. Wait-free. */
static inline uint32_t pshm_message_slots(const pshm_message *message,
                                          const pshm_mapping *mapping) {
    uint32_t slots = __atomic_load_n(&message->slots, __ATOMIC_RELAXED);
    uint64_t room = (mapping->ring.slot_bytes - sizeof *message) / sizeof(uint64_t);
    uint32_t most = room < PSHM_MESSAGE_SLOTS ? (uint32_t)room : PSHM_MESSAGE_SLOTS;
    return slots < most ? slots : most;
}

/* Returns the descriptor of the k-th of them. Wait-free. */
static inline uint64_t pshm_message_slot(const pshm_message *message, uint32_t k) {
    return __atomic_load_n(&message->slot[k], __ATOMIC_RELAXED);
}

#endif
