/* crash_rings: rings in a worker's memory, with the steps of pipert_shm's memory.py. There, a
 * ring's serial gives the segment's name; here, it gives the piece of memory.
 */
#include "crash.h"

uint32_t pshm_crash_serial_index(uint64_t serial) {
    CHECK(serial != 0 && serial >> 16 < PSHM_CRASH_SERIALS, "serial %llu",
          (unsigned long long)serial);
    return (uint32_t)(serial >> 16);
}

static void map(pshm_process *process, uint32_t ring, uint64_t serial, bool writable) {
    uint32_t index = pshm_crash_serial_index(serial);
    const pshm_ring_head *head = pshm_crash_here.ring[index];
    uint64_t bytes = pshm_ring_bytes(head->slots, head->slot_bytes);
    int error =
        pshm_process_map(process, ring, serial, pshm_crash_here.ring_fd[index], bytes, writable);
    CHECK(error == 0, "ring %u (serial %u) can't be mapped: %d", ring, index, error);
}

uint32_t pshm_crash_make_ring(pshm_process *process, uint32_t owner, uint32_t slots,
                              uint64_t slot_bytes) {
    uint64_t serial, bytes = pshm_ring_bytes(slots, slot_bytes);
    uint32_t ring = pshm_control_claim_ring(&process->control, owner, &serial);
    CHECK(ring < PSHM_RINGS, "no place for a ring");
    CHECK(pshm_control_spend(&process->control, ring, bytes), "the budget leaks");
    pshm_crash_here.world->created[pshm_crash_serial_index(serial)] = bytes;
    pshm_ring_format(pshm_crash_here.ring[pshm_crash_serial_index(serial)], ring, owner, slots,
                     slot_bytes);
    map(process, ring, serial, true);
    pshm_control_publish_ring(&process->control, ring);
    return ring;
}

void pshm_crash_open_ring(pshm_process *process, uint32_t ring) {
    uint64_t serial = pshm_control_serial(&process->control, ring);
    CHECK(serial != 0, "a message names ring %u, which does not exist", ring);
    CHECK(!pshm_crash_here.world->unlinked[pshm_crash_serial_index(serial)],
          "a message names ring %u, which is unlinked", ring);
    map(process, ring, serial, false);
}

void pshm_crash_open_every_ring(pshm_process *process) {
    for (uint32_t ring = 0; ring < PSHM_CRASH_SERIALS; ring++) {
        uint64_t serial = pshm_control_serial(&process->control, ring);
        if (serial == 0 || pshm_process_find(process, ring) != NULL) continue;
        if (!pshm_crash_here.world->unlinked[pshm_crash_serial_index(serial)])
            map(process, ring, serial, false);
    }
}

bool pshm_crash_remove_if_free(pshm_process *process, uint32_t ring) {
    pshm_mapping *mapping = pshm_process_find(process, ring);
    CHECK(mapping != NULL, "ring %u, retired, went on its own", ring);
    if (pshm_ring_used(&mapping->ring) != 0) return false;
    pshm_crash_here.world->unlinked[pshm_crash_serial_index(mapping->serial)] = 1;
    pshm_control_release_ring(&process->control, ring);
    pshm_process_prune(process);
    return true;
}

void pshm_crash_remove_unpublished(pshm_process *process, uint32_t owner) {
    uint64_t serial;
    while ((serial = pshm_control_unclaim_ring(&process->control, owner)) != 0) {
        uint32_t index = pshm_crash_serial_index(serial);
        if (pshm_crash_here.world->created[index] == 0) continue;
        pshm_crash_here.world->unlinked[index] = 1;
    }
}
