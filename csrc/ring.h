/* ring: slots of equal size in shared memory, each kept by its holders.
 *
 * One 64-bit word stands for each slot: {generation:32 | holders:32}. A slot is
 * free while no holder bit is set. Bit 0 belongs to the producer, who owns the
 * ring; every other bit belongs to one incarnation of an edge (see edge.h). Only
 * a holder can add a holder. A slot that is held is therefore never taken, no
 * matter which process dies: a dead holder's bit stays set until it is swept.
 *
 * Every function that changes a word is lock-free: when its CAS fails, another
 * process has made progress on the same word.
 *
 * Example, a frame's way from its producer to one reader (bit 1):
 *
 *     uint64_t slot = pshm_ring_alloc(&ring);  // held by the producer
 *     ...                                               // write the payload
 *     pshm_ring_hold(&ring, slot, 2);                   // for the reader
 *     pshm_queue_push(&queue, slot);
 *     pshm_ring_drop(&ring, slot, PSHM_PRODUCER);
 *     ...                                               // in the reader's process:
 *     pshm_queue_pop(&queue, &slot);
 *     ...                                               // read the payload
 *     pshm_ring_drop(&ring, slot, 2);                   // 0 is left: it is free
 */
#ifndef PSHM_RING_H
#define PSHM_RING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PSHM_CACHE_LINE 64
#define PSHM_MAGIC 0x70697065u /* "pipe" */
#define PSHM_PRODUCER 1u       /* holder bit 0, as a mask */
#define PSHM_HOLDERS 32u       /* holder bits of a slot */
#define PSHM_SLOTS 0xffffu     /* the most slots of a ring: what a descriptor can number */
#define PSHM_NO_SLOT UINT64_MAX

typedef struct pshm_slot {
    _Alignas(PSHM_CACHE_LINE) _Atomic uint64_t word;
} pshm_slot;

/* The head of a ring's segment. The payload starts at payload_offset, on a page
 * of its own, so that it can be mapped apart from these words. Everything but the
 * slot words is written once, before the ring is published. */
typedef struct pshm_ring_head {
    uint32_t magic;
    uint32_t slots;
    uint32_t owner; /* the producer's routine number */
    uint32_t index; /* the ring's place in the pipe's table of rings */
    uint64_t slot_bytes;
    uint64_t payload_offset;
    pshm_slot slot[];
} pshm_ring_head;

/* A process's own handle on a ring. The geometry is copied out of shared memory
 * once and checked, so that nothing written there later can lead a reader out of
 * bounds. */
typedef struct pshm_ring {
    pshm_slot *slot;
    uint32_t slots;
    uint32_t index;
    uint32_t owner;
    uint64_t slot_bytes;
    uint64_t payload_offset;
    uint32_t next; /* the owner's: where the search above the low slots goes on */
} pshm_ring;

/* The two halves of a slot's word. */
static inline uint64_t pshm_slot_word(uint32_t generation, uint32_t holders) {
    return (uint64_t)generation << 32 | holders;
}
static inline uint32_t pshm_slot_generation(uint64_t word) {
    return (uint32_t)(word >> 32);
}
static inline uint32_t pshm_slot_holders(uint64_t word) {
    return (uint32_t)word;
}

/* A descriptor {ring:16 | slot:16 | generation:32} names a slot in one of its
 * lives. A queue carries descriptors. */
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

/* Returns the bytes of a segment with `slots` slots of `slot_bytes`; 0 if no ring
 * can have that geometry. Wait-free. */
uint64_t pshm_ring_bytes(uint32_t slots, uint64_t slot_bytes);

/* Writes the head of a fresh, zeroed segment. Creator only, before any other
 * process knows of it. */
void pshm_ring_format(pshm_ring_head *head, uint32_t index, uint32_t owner, uint32_t slots,
                      uint64_t slot_bytes);

/* Fills a handle from the mapped head of a segment of `bytes`. Any process.
 * Returns false when this is not the head of ring `index`, or its slots do not fit
 * into `bytes`. Wait-free. */
bool pshm_ring_attach(pshm_ring *ring, pshm_ring_head *head, uint64_t bytes, uint32_t index);

/* Takes a free slot for the producer: next generation, producer bit. Goes round the
 * ring once: the low slots come first, so that frames go to few slots, whose memory is in
 * the caches of whoever wrote and read it last. Any thread of the owner.
 * Order: acquire, so that the last reader's drop comes before our writes.
 * Returns a descriptor, or PSHM_NO_SLOT when every slot was held. Lock-free. */
uint64_t pshm_ring_alloc(pshm_ring *ring);

/* Adds holder bits. The caller must hold the slot.
 * Order: relaxed, since the push that names the slot publishes the bits.
 * Returns false when the generation is another one, nobody holds the slot (both are
 * protocol errors), or one of the bits is set already. Lock-free. */
bool pshm_ring_hold(pshm_ring *ring, uint64_t descriptor, uint32_t bits);

/* Clears holder bits that the caller owns.
 * Order: seq_cst. It releases our reads of the payload to the next producer, and a
 * look at the owner's bell that follows can't be reordered before it.
 * Returns the holders that are left. Returns UINT32_MAX, with the word untouched,
 * when the generation is another one or none of the bits was set. Lock-free. */
uint32_t pshm_ring_drop(pshm_ring *ring, uint64_t descriptor, uint32_t bits);

/* Clear the bits of a dead process, whatever the generation: in one slot, or in
 * every slot. Only the one process that recovers these bits may call them; it may
 * repeat them. Order: as for drop. Wait-free.
 * pshm_ring_clear returns whether this made the slot free, pshm_ring_sweep how many
 * slots had one of the bits. */
bool pshm_ring_clear(pshm_ring *ring, uint32_t slot, uint32_t bits);
uint32_t pshm_ring_sweep(pshm_ring *ring, uint32_t bits);

/* Returns a slot's holders. Any process; a snapshot. Wait-free. */
uint32_t pshm_ring_holders(const pshm_ring *ring, uint32_t slot);

/* Returns whether the slot is in the life that the descriptor names, and has one of
 * the bits. Any process; a snapshot. Wait-free. */
bool pshm_ring_holds(const pshm_ring *ring, uint64_t descriptor, uint32_t bits);

/* Returns how many slots are held. Any process; a snapshot. Wait-free. */
uint32_t pshm_ring_used(const pshm_ring *ring);

/* Fills counts[bit] with the number of slots that this holder bit is set in.
 * Returns how many slots are held. Any process; a snapshot. Wait-free. */
uint32_t pshm_ring_count_holders(const pshm_ring *ring, uint32_t counts[PSHM_HOLDERS]);

#endif
