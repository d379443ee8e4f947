#include "mapping.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "points.h"

static bool is_mapped(const void *part) {
    return part != NULL && part != MAP_FAILED;
}

/* Frees a mapping, or as much of it as there is. */
static void free_mapping(pshm_mapping *mapping) {
    if (is_mapped(mapping->head)) munmap(mapping->head, mapping->ring.payload_offset);
    if (is_mapped(mapping->read)) munmap(mapping->read, mapping->payload_bytes);
    if (is_mapped(mapping->write)) munmap(mapping->write, mapping->payload_bytes);
    free(mapping);
}

void pshm_process_unmap(pshm_process *process, uint32_t ring) {
    pshm_mapping *mapping = process->mapping[ring];
    __atomic_store_n(&process->mapping[ring], NULL, __ATOMIC_RELEASE);
    free_mapping(mapping);
}

uint32_t pshm_mapping_leases(const pshm_mapping *mapping) {
    uint32_t count = 0;
    for (uint32_t n = 0; n < mapping->ring.slots; n++) count += mapping->lease[n].count;
    return count;
}

static void *map_part(int fd, uint64_t bytes, uint64_t offset, int protection) {
    return mmap(NULL, bytes, protection, MAP_SHARED, fd, (off_t)offset);
}

/* Reads a ring's geometry from its segment. Returns 0, or an errno. */
static int read_geometry(pshm_ring *geometry, uint32_t ring, int fd, uint64_t bytes) {
    uint64_t probe_bytes = sizeof(pshm_ring_head);
    if (bytes < probe_bytes) return EINVAL;
    pshm_ring_head *probe = map_part(fd, probe_bytes, 0, PROT_READ);
    if (probe == MAP_FAILED) return errno;
    bool sound = pshm_ring_attach(geometry, probe, bytes, ring);
    munmap(probe, probe_bytes);
    return sound ? 0 : EINVAL;
}

/* Does all that can fail, before anything is put in place. Returns 0, or an errno. */
static int make_mapping(pshm_mapping **made, uint32_t ring, int fd, uint64_t bytes,
                        bool writable) {
    pshm_ring geometry;
    int error = read_geometry(&geometry, ring, fd, bytes);
    if (error != 0) return error;
    pshm_mapping *mapping = calloc(1, sizeof *mapping + geometry.slots * sizeof(pshm_lease));
    if (mapping == NULL) return ENOMEM;
    mapping->ring = geometry;
    mapping->payload_bytes = geometry.slots * geometry.slot_bytes;
    mapping->head = map_part(fd, geometry.payload_offset, 0, PROT_READ | PROT_WRITE);
    mapping->read = map_part(fd, mapping->payload_bytes, geometry.payload_offset, PROT_READ);
    if (writable)
        mapping->write =
            map_part(fd, mapping->payload_bytes, geometry.payload_offset, PROT_READ | PROT_WRITE);
    error = errno;
    if (!is_mapped(mapping->head) || !is_mapped(mapping->read) ||
        (writable && !is_mapped(mapping->write))) {
        free_mapping(mapping);
        return error;
    }
    mapping->ring.slot = ((pshm_ring_head *)mapping->head)->slot;
    *made = mapping;
    return 0;
}

int pshm_process_map(pshm_process *process, uint32_t ring, uint64_t serial, int fd,
                     uint64_t bytes, bool writable) {
    if (ring >= PSHM_RINGS) return EINVAL;
    pshm_mapping *mapping = NULL;
    int error = make_mapping(&mapping, ring, fd, bytes, writable);
    if (error != 0) return error;
    mapping->serial = serial;
    pshm_process_hold_still();
    pshm_mapping *present = process->mapping[ring];
    if (present != NULL && present->serial == serial) {
        /* Another thread of ours was faster, and leases may stand on its mapping. */
        if (present->write == NULL) {
            present->write = mapping->write;
            mapping->write = NULL;
        }
        free_mapping(mapping);
        pshm_process_go_on();
        return 0;
    }
    if (present != NULL && pshm_mapping_leases(present) != 0) {
        free_mapping(mapping);
        pshm_process_go_on();
        return EBUSY;
    }
    if (present != NULL) pshm_process_unmap(process, ring);
    __atomic_store_n(&process->mapping[ring], mapping, __ATOMIC_RELEASE);
    if (ring >= process->places) process->places = ring + 1;
    pshm_process_go_on();
    return 0;
}

pshm_mapping *pshm_process_find(pshm_process *process, uint32_t ring) {
    if (ring >= PSHM_RINGS) return NULL;
    pshm_mapping *mapping = __atomic_load_n(&process->mapping[ring], __ATOMIC_ACQUIRE);
    if (mapping == NULL || mapping->serial != pshm_control_serial(&process->control, ring))
        return NULL;
    return mapping;
}

void pshm_process_prune(pshm_process *process) {
    PSHM_POINT();
    uint64_t epoch = atomic_load_explicit(&process->control.head->epoch, memory_order_acquire);
    pshm_process_hold_still();
    if (process->seen_epoch != epoch) {
        process->seen_epoch = epoch;
        for (uint32_t r = 0; r < process->places; r++) {
            pshm_mapping *mapping = process->mapping[r];
            if (mapping == NULL || pshm_mapping_leases(mapping) != 0) continue;
            PSHM_POINT();
            /* the serial, published or not: another thread may just be making this ring */
            if (mapping->serial != atomic_load_explicit(&process->control.head->ring[r].serial,
                                                        memory_order_acquire))
                pshm_process_unmap(process, r);
        }
    }
    pshm_process_go_on();
}

/* The offset of an address in a ring's payload, by either mapping of it; UINT64_MAX when
 * it lies in neither. */
static uint64_t payload_offset(const pshm_mapping *mapping, const void *address) {
    uintptr_t at = (uintptr_t)address;
    uintptr_t read = (uintptr_t)mapping->read, write = (uintptr_t)mapping->write;
    if (at >= read && at - read < mapping->payload_bytes) return at - read;
    if (write != 0 && at >= write && at - write < mapping->payload_bytes) return at - write;
    return UINT64_MAX;
}

pshm_mapping *pshm_process_mapping_at(pshm_process *process, const void *address,
                                      uint64_t *offset) {
    for (uint32_t r = 0; r < process->places; r++) {
        pshm_mapping *mapping = process->mapping[r];
        if (mapping == NULL) continue;
        *offset = payload_offset(mapping, address);
        if (*offset != UINT64_MAX) return mapping;
    }
    return NULL;
}
