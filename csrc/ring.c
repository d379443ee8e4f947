#include "ring.h"

#include "points.h"

#define PAGE 4096u
#define LOW_SLOTS 16u /* that are looked at first */

static uint64_t head_bytes(uint32_t slots) {
    uint64_t bytes = sizeof(pshm_ring_head) + (uint64_t)slots * sizeof(pshm_slot);
    return (bytes + PAGE - 1) / PAGE * PAGE;
}

uint64_t pshm_ring_bytes(uint32_t slots, uint64_t slot_bytes) {
    if (slots == 0 || slots > PSHM_SLOTS || slot_bytes == 0 || slot_bytes > (1ull << 40))
        return 0;
    return head_bytes(slots) + slots * slot_bytes;
}

void pshm_ring_format(pshm_ring_head *head, uint32_t index, uint32_t owner, uint32_t slots,
                      uint64_t slot_bytes) {
    PSHM_POINT();
    head->slots = slots;
    head->owner = owner;
    head->index = index;
    head->slot_bytes = slot_bytes;
    head->payload_offset = head_bytes(slots);
    PSHM_POINT();
    head->magic = PSHM_MAGIC;
}

bool pshm_ring_attach(pshm_ring *ring, pshm_ring_head *head, uint64_t bytes, uint32_t index) {
    if (bytes < sizeof(pshm_ring_head) || head->magic != PSHM_MAGIC) return false;
    pshm_ring seen = {.slot = head->slot,
                      .slots = __atomic_load_n(&head->slots, __ATOMIC_RELAXED), /* once */
                      .index = index,
                      .owner = head->owner,
                      .slot_bytes = __atomic_load_n(&head->slot_bytes, __ATOMIC_RELAXED)};
    uint64_t needed = pshm_ring_bytes(seen.slots, seen.slot_bytes);
    if (head->index != index || needed == 0 || needed > bytes) return false;
    seen.payload_offset = head_bytes(seen.slots);
    *ring = seen;
    return true;
}

/* Takes slot `n` if it is free; its descriptor, or PSHM_NO_SLOT. */
static uint64_t take_slot(pshm_ring *ring, uint32_t n) {
    _Atomic uint64_t *word = &ring->slot[n].word;
    PSHM_POINT();
    /* seq_cst: the owner may have set its bell's flag just before this look */
    uint64_t old = atomic_load_explicit(word, memory_order_seq_cst);
    if (pshm_slot_holders(old) != 0) return PSHM_NO_SLOT;
    uint32_t generation = pshm_slot_generation(old) + 1;
    uint64_t taken = pshm_slot_word(generation, PSHM_PRODUCER);
    PSHM_POINT();
    /* acquire: pairs with the release of the drop that freed it */
    if (!atomic_compare_exchange_strong_explicit(word, &old, taken, memory_order_acquire,
                                                 memory_order_relaxed))
        return PSHM_NO_SLOT;
    return pshm_descriptor(ring->index, n, generation);
}

/* Above the low slots the search goes on where it last found one: thousands may be held. */
uint64_t pshm_ring_alloc(pshm_ring *ring) {
    uint32_t low = ring->slots < LOW_SLOTS ? ring->slots : LOW_SLOTS, high = ring->slots - low;
    uint64_t descriptor = PSHM_NO_SLOT;
    for (uint32_t n = 0; n < low && descriptor == PSHM_NO_SLOT; n++)
        descriptor = take_slot(ring, n);
    if (descriptor != PSHM_NO_SLOT || high == 0) return descriptor;
    uint32_t start = __atomic_load_n(&ring->next, __ATOMIC_RELAXED);
    for (uint32_t i = 0; i < high && descriptor == PSHM_NO_SLOT; i++) {
        uint32_t n = (start + i) % high;
        descriptor = take_slot(ring, low + n);
        if (descriptor != PSHM_NO_SLOT) __atomic_store_n(&ring->next, n + 1, __ATOMIC_RELAXED);
    }
    return descriptor;
}

/* The word that a descriptor names; NULL when this ring has no such slot. */
static _Atomic uint64_t *word_of(const pshm_ring *ring, uint64_t descriptor) {
    uint32_t slot = pshm_descriptor_slot(descriptor);
    if (pshm_descriptor_ring(descriptor) != ring->index || slot >= ring->slots) return NULL;
    return &ring->slot[slot].word;
}

bool pshm_ring_hold(pshm_ring *ring, uint64_t descriptor, uint32_t bits) {
    _Atomic uint64_t *word = word_of(ring, descriptor);
    if (word == NULL) return false;
    PSHM_POINT();
    uint64_t old = atomic_load_explicit(word, memory_order_relaxed);
    do {
        if (pshm_slot_generation(old) != pshm_descriptor_generation(descriptor)) return false;
        uint32_t holders = pshm_slot_holders(old);
        if (holders == 0 || (holders & bits) != 0) return false;
        PSHM_POINT();
        /* relaxed: the push that names the slot publishes the bit */
    } while (!atomic_compare_exchange_weak_explicit(word, &old, old | bits, memory_order_relaxed,
                                                    memory_order_relaxed));
    return true;
}

uint32_t pshm_ring_drop(pshm_ring *ring, uint64_t descriptor, uint32_t bits) {
    _Atomic uint64_t *word = word_of(ring, descriptor);
    if (word == NULL) return UINT32_MAX;
    PSHM_POINT();
    uint64_t old = atomic_load_explicit(word, memory_order_relaxed);
    do {
        if (pshm_slot_generation(old) != pshm_descriptor_generation(descriptor))
            return UINT32_MAX;
        if ((pshm_slot_holders(old) & bits) == 0) return UINT32_MAX;
        PSHM_POINT();
        /* seq_cst: releases our reads; the look at the bell's flag comes after it */
    } while (!atomic_compare_exchange_weak_explicit(word, &old, old & ~(uint64_t)bits,
                                                    memory_order_seq_cst, memory_order_relaxed));
    return pshm_slot_holders(old) & ~bits;
}

bool pshm_ring_clear(pshm_ring *ring, uint32_t slot, uint32_t bits) {
    PSHM_POINT();
    /* seq_cst: as for drop */
    uint64_t old = atomic_fetch_and_explicit(&ring->slot[slot % ring->slots].word,
                                             ~(uint64_t)bits, memory_order_seq_cst);
    uint32_t holders = pshm_slot_holders(old);
    return (holders & bits) != 0 && (holders & ~bits) == 0;
}

uint32_t pshm_ring_sweep(pshm_ring *ring, uint32_t bits) {
    uint32_t found = 0;
    for (uint32_t n = 0; n < ring->slots; n++) {
        PSHM_POINT();
        /* seq_cst: as for drop, one slot at a time */
        uint64_t old =
            atomic_fetch_and_explicit(&ring->slot[n].word, ~(uint64_t)bits, memory_order_seq_cst);
        if ((pshm_slot_holders(old) & bits) != 0) found++;
    }
    return found;
}

uint32_t pshm_ring_holders(const pshm_ring *ring, uint32_t slot) {
    PSHM_POINT();
    /* acquire: the readers of a slot that is seen free are done with it */
    return pshm_slot_holders(
        atomic_load_explicit(&ring->slot[slot % ring->slots].word, memory_order_acquire));
}

bool pshm_ring_holds(const pshm_ring *ring, uint64_t descriptor, uint32_t bits) {
    _Atomic uint64_t *at = word_of(ring, descriptor);
    if (at == NULL) return false;
    uint64_t word = atomic_load_explicit(at, memory_order_acquire);
    return pshm_slot_generation(word) == pshm_descriptor_generation(descriptor) &&
           (pshm_slot_holders(word) & bits) != 0;
}

uint32_t pshm_ring_used(const pshm_ring *ring) {
    uint32_t used = 0;
    for (uint32_t n = 0; n < ring->slots; n++)
        if (pshm_ring_holders(ring, n) != 0) used++;
    return used;
}

uint32_t pshm_ring_count_holders(const pshm_ring *ring, uint32_t counts[PSHM_HOLDERS]) {
    uint32_t used = 0;
    for (uint32_t bit = 0; bit < PSHM_HOLDERS; bit++) counts[bit] = 0;
    for (uint32_t n = 0; n < ring->slots; n++) {
        uint32_t holders = pshm_ring_holders(ring, n);
        used += holders != 0;
        for (; holders != 0; holders &= holders - 1) counts[__builtin_ctz(holders)]++;
    }
    return used;
}
