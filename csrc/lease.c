#include "lease.h"

#include "points.h"

/* ---- taking and ending ----------------------------------------------------------------- */

void pshm_process_lease(pshm_process *process, pshm_mapping *mapping, uint64_t descriptor,
                        uint32_t bits, uint32_t incarnation) {
    pshm_lease *lease = &mapping->lease[pshm_descriptor_slot(descriptor) % mapping->ring.slots];
    pshm_process_hold_still();
    if (lease->count++ == 0) {
        lease->bits = 0;
        lease->generation = pshm_descriptor_generation(descriptor);
    }
    if ((bits & ~lease->bits & ~PSHM_PRODUCER) != 0) {
        mapping->incarnation_of_bit[__builtin_ctz(bits)] = incarnation;
        process->borrowed[incarnation]++;
    }
    lease->bits |= bits;
    pshm_process_go_on();
}

/* What is left to do, with the mutex unlocked, after a slot's last lease has ended. */
typedef struct ended_lease {
    pshm_mapping *mapping;
    uint64_t descriptor;
    uint32_t bits;
} ended_lease;

/* Counts a lease down, with the mutex locked. If it was the last one, its bits are left
 * to drop. */
static ended_lease end_lease(pshm_mapping *mapping, uint64_t descriptor) {
    pshm_lease *lease = &mapping->lease[pshm_descriptor_slot(descriptor)];
    ended_lease ended = {.mapping = mapping, .descriptor = descriptor, .bits = 0};
    if (lease->count == 0 || lease->generation != pshm_descriptor_generation(descriptor))
        return ended;
    if (--lease->count != 0) return ended;
    ended.bits = lease->bits;
    lease->bits = 0;
    return ended;
}

/* Drops bits and wakes the owner of a slot that became free. The slot's words stay mapped
 * meanwhile: with bits in a slot, its ring can't be gone, so nobody prunes its mapping. */
static void drop_bits(const pshm_process *process, pshm_mapping *mapping, uint64_t descriptor,
                      uint32_t bits) {
    uint32_t owner = mapping->ring.owner; /* the mapping may go with the drop */
    if (bits == 0) return;
    if (pshm_ring_drop(&mapping->ring, descriptor, bits) == 0)
        pshm_control_wake(&process->control, owner);
}

static void store_swept(pshm_process *process, uint32_t incarnation) {
    pshm_incarnation_record *record = pshm_control_incarnation(&process->control, incarnation);
    process->lingering[incarnation] = 0;
    PSHM_POINT();
    /* release: all drops of its bit come before the bit is given to another */
    if (record != NULL) __atomic_store_n(&record->state, PSHM_SWEPT, __ATOMIC_RELEASE);
}

/* Drops the bits, and counts the slot as given back only then: an incarnation is swept
 * when its last bit is gone, not before. */
static void finish_lease(pshm_process *process, const ended_lease *ended) {
    uint32_t bits = ended->bits & ~PSHM_PRODUCER;
    uint32_t incarnations[PSHM_HOLDERS], count = 0;
    if (ended->bits == 0) return;
    for (; bits != 0; bits &= bits - 1)
        incarnations[count++] = ended->mapping->incarnation_of_bit[__builtin_ctz(bits)];
    drop_bits(process, ended->mapping, ended->descriptor, ended->bits);
    if (count == 0) return;
    pshm_process_hold_still();
    while (count-- > 0) {
        uint32_t n = incarnations[count];
        if (--process->borrowed[n] == 0 && process->lingering[n]) store_swept(process, n);
    }
    pshm_process_go_on();
}

void pshm_process_release(pshm_process *process, uint64_t descriptor) {
    uint32_t ring = pshm_descriptor_ring(descriptor);
    if (ring >= PSHM_RINGS) return;
    ended_lease ended = {.bits = 0};
    pshm_process_hold_still();
    pshm_mapping *mapping = process->foreign ? NULL : process->mapping[ring];
    if (mapping != NULL && pshm_descriptor_slot(descriptor) < mapping->ring.slots)
        ended = end_lease(mapping, descriptor);
    pshm_process_go_on();
    finish_lease(process, &ended);
}

void pshm_process_drop(pshm_process *process, uint64_t descriptor, uint32_t bits) {
    pshm_mapping *mapping = pshm_process_find(process, pshm_descriptor_ring(descriptor));
    if (mapping != NULL) drop_bits(process, mapping, descriptor, bits);
}

/* ---- by address ------------------------------------------------------------------------ */

/* A slot that this process holds, and where in it an address lies. */
typedef struct held_slot {
    pshm_mapping *mapping;
    pshm_lease *lease;
    uint32_t slot;
    uint64_t offset;
} held_slot;

/* Finds the held slot in which [address, address + bytes) lies whole. */
static bool find_held(pshm_process *process, const void *address, uint64_t bytes,
                      held_slot *found) {
    uint64_t at;
    pshm_mapping *mapping =
        process->foreign ? NULL : pshm_process_mapping_at(process, address, &at);
    if (mapping == NULL) return false;
    uint64_t slot_bytes = mapping->ring.slot_bytes;
    found->mapping = mapping;
    found->slot = (uint32_t)(at / slot_bytes);
    found->offset = at % slot_bytes;
    found->lease = &mapping->lease[found->slot];
    return found->lease->count != 0 && bytes <= slot_bytes - found->offset;
}

static uint64_t descriptor_of(const held_slot *it) {
    return pshm_descriptor(it->mapping->ring.index, it->slot, it->lease->generation);
}

void pshm_release(void *address) {
    ended_lease ended = {.bits = 0};
    held_slot found;
    pshm_process_hold_still();
    pshm_process *process = pshm_process_first();
    while (process != NULL && !find_held(process, address, 0, &found)) process = process->next;
    if (process != NULL) ended = end_lease(found.mapping, descriptor_of(&found));
    pshm_process_go_on();
    if (process != NULL) finish_lease(process, &ended);
}

bool pshm_process_reference(pshm_process *process, const void *address, uint64_t bytes,
                            uint64_t *descriptor, uint64_t *offset) {
    held_slot found;
    pshm_process_hold_still();
    bool held = find_held(process, address, bytes, &found);
    if (held) {
        found.lease->count++;
        *descriptor = descriptor_of(&found);
        *offset = found.offset;
    }
    pshm_process_go_on();
    return held;
}

void *pshm_process_share(pshm_process *process, const void *address, uint64_t bytes) {
    uint64_t descriptor, offset;
    if (!pshm_process_reference(process, address, bytes, &descriptor, &offset)) return NULL;
    /* the lease that we just added keeps the mapping */
    const pshm_mapping *mapping = process->mapping[pshm_descriptor_ring(descriptor)];
    return mapping->read + pshm_descriptor_slot(descriptor) * mapping->ring.slot_bytes + offset;
}

void *pshm_process_lend(pshm_process *process, uint64_t descriptor, uint64_t *bytes) {
    uint32_t ring = pshm_descriptor_ring(descriptor), slot = pshm_descriptor_slot(descriptor);
    uint8_t *there = NULL;
    if (ring >= PSHM_RINGS) return NULL;
    pshm_process_hold_still();
    pshm_mapping *mapping = process->foreign ? NULL : process->mapping[ring];
    if (mapping != NULL && slot < mapping->ring.slots) {
        pshm_lease *lease = &mapping->lease[slot];
        if (lease->count != 0 && lease->generation == pshm_descriptor_generation(descriptor)) {
            lease->count++;
            *bytes = mapping->ring.slot_bytes;
            there = mapping->read + slot * mapping->ring.slot_bytes;
        }
    }
    pshm_process_go_on();
    return there;
}

/* Whether each bit behind a lease belongs to an edge into `routine`, or to its own ring. */
static bool leased_by(const pshm_process *process, const pshm_mapping *mapping, uint32_t bits,
                      uint32_t routine) {
    if ((bits & PSHM_PRODUCER) != 0 && mapping->ring.owner != routine) return false;
    for (bits &= ~PSHM_PRODUCER; bits != 0; bits &= bits - 1) {
        uint32_t number = mapping->incarnation_of_bit[__builtin_ctz(bits)];
        const pshm_incarnation_record *incarnation =
            pshm_control_incarnation(&process->control, number);
        const pshm_edge_record *edge =
            incarnation == NULL ? NULL : pshm_control_edge(&process->control, incarnation->edge);
        if (edge == NULL || edge->receiver != routine) return false;
    }
    return true;
}

void *pshm_process_writable(pshm_process *process, uint32_t routine, const void *address,
                            uint64_t bytes, uint32_t *ring) {
    uint8_t *there = NULL;
    held_slot found;
    *ring = PSHM_RINGS;
    pshm_process_hold_still();
    if (find_held(process, address, bytes, &found)) {
        const pshm_mapping *mapping = found.mapping;
        uint32_t bits = found.lease->bits;
        bool alone = leased_by(process, mapping, bits, routine) &&
                     pshm_ring_holders(&mapping->ring, found.slot) == bits;
        if (alone && mapping->write == NULL) *ring = mapping->ring.index;
        if (alone && mapping->write != NULL) {
            found.lease->count++;
            there = mapping->write + found.slot * mapping->ring.slot_bytes + found.offset;
        }
    }
    pshm_process_go_on();
    return there;
}

/* ---- counts ---------------------------------------------------------------------------- */

uint32_t pshm_process_leases(pshm_process *process, uint32_t ring) {
    pshm_process_hold_still();
    uint32_t count = 0;
    if (ring < PSHM_RINGS && process->mapping[ring] != NULL)
        count = pshm_mapping_leases(process->mapping[ring]);
    pshm_process_go_on();
    return count;
}

uint32_t pshm_process_leased(pshm_process *process, uint32_t ring) {
    uint32_t count = 0;
    pshm_process_hold_still();
    const pshm_mapping *mapping = ring < PSHM_RINGS ? process->mapping[ring] : NULL;
    for (uint32_t n = 0; mapping != NULL && n < mapping->ring.slots; n++)
        count += mapping->lease[n].count != 0;
    pshm_process_go_on();
    return count;
}

uint32_t pshm_process_borrowed(const pshm_process *process, uint32_t incarnation) {
    if (incarnation >= process->control.incarnations) return 0;
    return __atomic_load_n(&process->borrowed[incarnation], __ATOMIC_RELAXED);
}

/* ---- for recovery ---------------------------------------------------------------------- */

void pshm_process_sweep_unleased(pshm_process *process, uint32_t ring, const pshm_edge *edge) {
    bool freed = false;
    uint32_t owner = UINT32_MAX;
    pshm_process_hold_still();
    pshm_mapping *mapping = pshm_process_find(process, ring);
    if (mapping != NULL && pshm_edge_reaches(edge, mapping->ring.owner)) {
        owner = mapping->ring.owner;
        for (uint32_t n = 0; n < mapping->ring.slots; n++) {
            const pshm_lease *lease = &mapping->lease[n];
            if (lease->count == 0 || (lease->bits & edge->mask) == 0)
                freed |= pshm_ring_clear(&mapping->ring, n, edge->mask);
        }
    }
    pshm_process_go_on();
    if (freed) pshm_control_wake(&process->control, owner);
}

void pshm_process_linger(pshm_process *process, uint32_t incarnation) {
    if (incarnation >= process->control.incarnations) return;
    pshm_process_hold_still();
    process->lingering[incarnation] = 1;
    if (process->borrowed[incarnation] == 0) store_swept(process, incarnation);
    pshm_process_go_on();
}
