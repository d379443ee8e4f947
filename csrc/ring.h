/* ring: N slots of equal size in shared memory, each owned by whoever holds it.
 *
 * A slot is one 64-bit word {generation:32 | holders:32}. It is free when no
 * holder bit is set. Bit 0 is the producer's; each other bit belongs to one
 * edge incarnation (see edge.h). Only a holder may add a holder, so a slot
 * that is held can't be taken, whatever dies in between: a dead holder's bit
 * stays until somebody sweeps it.
 *
 * All functions are lock-free: a CAS that fails means that another process
 * made progress on the same word.
 */
#ifndef PSHM_RING_H
#define PSHM_RING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PSHM_CACHE_LINE 64
#define PSHM_MAGIC 0x70697065u /* "pipe" */
#define PSHM_PRODUCER 1u       /* holder bit 0 */
#define PSHM_NO_SLOT UINT64_MAX

typedef struct pshm_slot {
    _Alignas(PSHM_CACHE_LINE) _Atomic uint64_t word;
} pshm_slot;

/* Head of a ring's segment; the payload starts at payload_offset, page
 * aligned, so that it can be mapped apart from these words. Everything but
 * the slot words is written once, before the ring is published. */
typedef struct pshm_ring_head {
    uint32_t magic;
    uint32_t slots;
    uint32_t owner; /* routine number of the producer */
    uint32_t index; /* the ring's place in the pipe's table */
    uint64_t slot_bytes;
    uint64_t payload_offset;
    pshm_slot slot[];
} pshm_ring_head;

/* A process's own handle on a ring. The geometry is copied out of shared
 * memory once, checked, so that nothing written there later can lead a
 * reader out of bounds. */
typedef struct pshm_ring {
    pshm_slot *slot;
    uint32_t slots;
    uint32_t index;
    uint32_t owner;
    uint64_t slot_bytes;
    uint64_t payload_offset;
} pshm_ring;

/* Descriptor {ring:16 | slot:16 | generation:32}: what a queue carries. */
static inline uint64_t pshm_descriptor(uint32_t ring, uint32_t slot, uint32_t generation) {
    return (uint64_t)ring << 48 | (uint64_t)(slot & 0xffffu) << 32 | generation;
}
static inline uint32_t pshm_descriptor_ring(uint64_t d) {
    return (uint32_t)(d >> 48);
}
static inline uint32_t pshm_descriptor_slot(uint64_t d) {
    return (uint32_t)(d >> 32) & 0xffffu;
}
static inline uint32_t pshm_descriptor_generation(uint64_t d) {
    return (uint32_t)d;
}

/* Bytes of a segment for `slots` slots of `slot_bytes`, 0 if that overflows. */
uint64_t pshm_ring_bytes(uint32_t slots, uint64_t slot_bytes);

/* Writes the head of a fresh, zeroed segment. Creator only, before any other
 * process knows of it. */
void pshm_ring_format(pshm_ring_head *head, uint32_t index, uint32_t owner, uint32_t slots,
                      uint64_t slot_bytes);

/* Fills a handle from the mapped head of a segment of `bytes`. Any process.
 * Returns false when the head is not that of ring `index`, or does not fit. */
bool pshm_ring_attach(pshm_ring *ring, pshm_ring_head *head, uint64_t bytes, uint32_t index);

/* Takes a free slot for the producer: next generation, producer bit. Walks the
 * ring once from *cursor. Any thread of the owner; *cursor is private to it.
 * Order: acquire, so that the last reader's drop comes before our writes.
 * Returns a descriptor, or PSHM_NO_SLOT when every slot is held. */
uint64_t pshm_ring_alloc(pshm_ring *ring, _Atomic uint32_t *cursor);

/* Adds holder bits. The caller must hold the slot. Order: relaxed, since the
 * queue's push publishes it. Returns false when the generation has moved on
 * (a protocol error) or one of the bits is already set. */
bool pshm_ring_hold(pshm_ring *ring, uint64_t descriptor, uint32_t bits);

/* Clears holder bits. The caller must own them. Order: seq_cst, so that our
 * reads of the payload come before the next producer's writes (release), and
 * a later look at the owner's bell can't pass it. Returns the holders that are
 * left, or UINT32_MAX when the generation does not match or none of the bits
 * was set; the word is then untouched. */
uint32_t pshm_ring_drop(pshm_ring *ring, uint64_t descriptor, uint32_t bits);

/* Clears `bits` in one slot, or in every slot, whatever its generation: the
 * sweep of what a dead process held. Only the one recoverer of those bits may
 * call it; idempotent. Order: as for drop. Returns whether the slot became
 * free by it, or how many slots had one of them. */
bool pshm_ring_clear(pshm_ring *ring, uint32_t slot, uint32_t bits);
uint32_t pshm_ring_sweep(pshm_ring *ring, uint32_t bits);

/* The slot's holders now, and whether its generation is the descriptor's.
 * Any process; a snapshot. */
uint32_t pshm_ring_holders(const pshm_ring *ring, uint32_t slot);
bool pshm_ring_holds(const pshm_ring *ring, uint64_t descriptor, uint32_t bits);

/* How many slots are held now. Any process; a snapshot. */
uint32_t pshm_ring_used(const pshm_ring *ring);

#endif
