#include "process.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "points.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pshm_process *processes;
static int guarded[PSHM_GUARDED];
static size_t guarded_count;

/* A lock held by another thread at fork would stay held in the child. */
static void before_fork(void) {
    pthread_mutex_lock(&lock);
}

static void after_fork_in_parent(void) {
    pthread_mutex_unlock(&lock);
}

static void after_fork_in_child(void) {
    for (pshm_process *p = processes; p != NULL; p = p->next) p->foreign = true;
    for (size_t i = 0; i < guarded_count; i++) close(guarded[i]);
    guarded_count = 0;
    pthread_mutex_unlock(&lock);
}

__attribute__((constructor)) static void watch_forks(void) {
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

bool pshm_guard(int fd) {
    pthread_mutex_lock(&lock);
    bool room = guarded_count < PSHM_GUARDED;
    if (room) guarded[guarded_count++] = fd;
    pthread_mutex_unlock(&lock);
    return room;
}

void pshm_unguard(int fd) {
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < guarded_count; i++) {
        if (guarded[i] != fd) continue;
        guarded[i] = guarded[--guarded_count];
        break;
    }
    pthread_mutex_unlock(&lock);
}

pshm_process *pshm_process_open(void *memory, uint64_t bytes) {
    pshm_process *process = calloc(1, sizeof *process);
    if (process == NULL) return NULL;
    if (!pshm_control_attach(&process->control, memory, bytes)) {
        free(process);
        return NULL;
    }
    size_t incarnations = (size_t)process->control.incarnations + 1;
    process->borrowed = calloc(incarnations, sizeof *process->borrowed);
    process->lingering = calloc(incarnations, sizeof *process->lingering);
    if (process->borrowed == NULL || process->lingering == NULL) {
        free(process->borrowed);
        free(process->lingering);
        free(process);
        return NULL;
    }
    pthread_mutex_lock(&lock);
    process->next = processes;
    processes = process;
    pthread_mutex_unlock(&lock);
    return process;
}

static void free_mapping(pshm_mapping *mapping) {
    munmap(mapping->head, mapping->ring.payload_offset);
    munmap(mapping->read, mapping->payload_bytes);
    if (mapping->write != NULL) munmap(mapping->write, mapping->payload_bytes);
    free(mapping);
}

static void unmap(pshm_process *process, uint32_t ring) {
    pshm_mapping *mapping = process->mapping[ring];
    __atomic_store_n(&process->mapping[ring], NULL, __ATOMIC_RELEASE);
    free_mapping(mapping);
}

static uint32_t leases(const pshm_mapping *mapping) {
    uint32_t count = 0;
    for (uint32_t n = 0; n < mapping->ring.slots; n++) count += mapping->lease[n].count;
    return count;
}

bool pshm_process_close(pshm_process *process) {
    pthread_mutex_lock(&lock);
    for (uint32_t r = 0; r < PSHM_RINGS && !process->foreign; r++) {
        if (process->mapping[r] != NULL && leases(process->mapping[r]) != 0) {
            pthread_mutex_unlock(&lock);
            return false;
        }
    }
    for (pshm_process **p = &processes; *p != NULL; p = &(*p)->next) {
        if (*p != process) continue;
        *p = process->next;
        break;
    }
    for (uint32_t r = 0; r < PSHM_RINGS; r++)
        if (process->mapping[r] != NULL) unmap(process, r);
    pthread_mutex_unlock(&lock);
    free(process->borrowed);
    free(process->lingering);
    free(process);
    return true;
}

static void *map_part(int fd, uint64_t bytes, uint64_t offset, int protection) {
    return mmap(NULL, bytes, protection, MAP_SHARED, fd, (off_t)offset);
}

/* Everything that can fail, before anything is put in place. */
static int map_ring(pshm_mapping **made, uint32_t ring, int fd, uint64_t bytes, bool writable) {
    uint64_t probe_bytes = sizeof(pshm_ring_head);
    if (bytes < probe_bytes) return EINVAL;
    pshm_ring_head *probe = map_part(fd, probe_bytes, 0, PROT_READ);
    if (probe == MAP_FAILED) return errno;
    pshm_ring geometry;
    bool sound = pshm_ring_attach(&geometry, probe, bytes, ring);
    munmap(probe, probe_bytes);
    if (!sound) return EINVAL;

    pshm_mapping *mapping = calloc(1, sizeof *mapping + geometry.slots * sizeof(pshm_lease));
    if (mapping == NULL) return ENOMEM;
    mapping->payload_bytes = geometry.slots * geometry.slot_bytes;
    mapping->head = map_part(fd, geometry.payload_offset, 0, PROT_READ | PROT_WRITE);
    mapping->read = map_part(fd, mapping->payload_bytes, geometry.payload_offset, PROT_READ);
    mapping->write = writable ? map_part(fd, mapping->payload_bytes, geometry.payload_offset,
                                         PROT_READ | PROT_WRITE)
                              : NULL;
    int error = errno;
    if (mapping->head == MAP_FAILED || (void *)mapping->read == MAP_FAILED ||
        (void *)mapping->write == MAP_FAILED) {
        if (mapping->head != MAP_FAILED) munmap(mapping->head, geometry.payload_offset);
        if ((void *)mapping->read != MAP_FAILED) munmap(mapping->read, mapping->payload_bytes);
        free(mapping);
        return error;
    }
    mapping->ring = geometry;
    mapping->ring.slot = ((pshm_ring_head *)mapping->head)->slot;
    *made = mapping;
    return 0;
}

int pshm_process_map(pshm_process *process, uint32_t ring, uint64_t serial, int fd,
                     uint64_t bytes, bool writable) {
    if (ring >= PSHM_RINGS) return EINVAL;
    pshm_mapping *mapping = NULL;
    int error = map_ring(&mapping, ring, fd, bytes, writable);
    if (error != 0) return error;
    mapping->serial = serial;
    pthread_mutex_lock(&lock);
    pshm_mapping *present = process->mapping[ring];
    if (present != NULL && present->serial == serial) {
        /* Another thread of ours was faster: its leases stand on that one. */
        if (present->write == NULL) {
            present->write = mapping->write;
            mapping->write = NULL;
        }
        free_mapping(mapping);
        pthread_mutex_unlock(&lock);
        return 0;
    }
    if (present != NULL && leases(present) != 0) {
        free_mapping(mapping);
        pthread_mutex_unlock(&lock);
        return EBUSY;
    }
    if (present != NULL) unmap(process, ring);
    __atomic_store_n(&process->mapping[ring], mapping, __ATOMIC_RELEASE);
    if (ring >= process->places) process->places = ring + 1;
    pthread_mutex_unlock(&lock);
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
    pthread_mutex_lock(&lock);
    if (process->seen_epoch != epoch) {
        process->seen_epoch = epoch;
        for (uint32_t r = 0; r < PSHM_RINGS; r++) {
            pshm_mapping *mapping = process->mapping[r];
            if (mapping == NULL || leases(mapping) != 0) continue;
            PSHM_POINT();
            /* published or not: another thread may be just making it */
            if (mapping->serial != atomic_load_explicit(&process->control.head->ring[r].serial,
                                                        memory_order_acquire))
                unmap(process, r);
        }
    }
    pthread_mutex_unlock(&lock);
}

void pshm_process_lease(pshm_process *process, pshm_mapping *mapping, uint64_t descriptor,
                        uint32_t bits, uint32_t incarnation) {
    pshm_lease *lease = &mapping->lease[pshm_descriptor_slot(descriptor) % mapping->ring.slots];
    pthread_mutex_lock(&lock);
    if (lease->count++ == 0) {
        lease->bits = 0;
        lease->generation = pshm_descriptor_generation(descriptor);
    }
    if ((bits & ~lease->bits & ~PSHM_PRODUCER) != 0) {
        mapping->incarnation_of_bit[__builtin_ctz(bits)] = incarnation;
        process->borrowed[incarnation]++;
    }
    lease->bits |= bits;
    pthread_mutex_unlock(&lock);
}

static void ring_owner(pshm_process *process, uint32_t owner) {
    pshm_routine_record *record = pshm_control_routine(&process->control, owner);
    if (record != NULL) pshm_bell_ring(&record->bell);
}

/* What the end of a slot's last lease leaves to do, outside of the lock. */
typedef struct ended_lease {
    pshm_mapping *mapping;
    uint64_t descriptor;
    uint32_t bits;
} ended_lease;

/* Counts a lease down, under the lock; its bits are left to drop if it was the
 * last. */
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

/* The slot's words stay mapped meanwhile: bits still stand in the slot, so the
 * ring can't be gone and nobody prunes its mapping. */
static void drop_bits(pshm_process *process, pshm_mapping *mapping, uint64_t descriptor,
                      uint32_t bits) {
    uint32_t owner = mapping->ring.owner;
    if (bits == 0) return;
    if (pshm_ring_drop(&mapping->ring, descriptor, bits) == 0) ring_owner(process, owner);
}

static void store_swept(pshm_process *process, uint32_t incarnation) {
    pshm_incarnation_record *record = pshm_control_incarnation(&process->control, incarnation);
    process->lingering[incarnation] = 0;
    PSHM_POINT();
    /* release: every drop of its bit comes before the bit is given away */
    if (record != NULL) __atomic_store_n(&record->state, PSHM_SWEPT, __ATOMIC_RELEASE);
}

/* Drops the bits, and only then counts the slot as given back: an incarnation
 * is swept when its last bit is gone, not before. */
static void finish_lease(pshm_process *process, const ended_lease *ended) {
    uint32_t bits = ended->bits & ~PSHM_PRODUCER;
    uint32_t incarnations[32], count = 0;
    if (ended->bits == 0) return;
    for (; bits != 0; bits &= bits - 1)
        incarnations[count++] = ended->mapping->incarnation_of_bit[__builtin_ctz(bits)];
    drop_bits(process, ended->mapping, ended->descriptor, ended->bits);
    if (count == 0) return;
    pthread_mutex_lock(&lock);
    while (count-- > 0) {
        uint32_t n = incarnations[count];
        if (--process->borrowed[n] == 0 && process->lingering[n]) store_swept(process, n);
    }
    pthread_mutex_unlock(&lock);
}

void pshm_process_linger(pshm_process *process, uint32_t incarnation) {
    if (incarnation >= process->control.incarnations) return;
    pthread_mutex_lock(&lock);
    process->lingering[incarnation] = 1;
    if (process->borrowed[incarnation] == 0) store_swept(process, incarnation);
    pthread_mutex_unlock(&lock);
}

void pshm_process_sweep_unleased(pshm_process *process, uint32_t ring, const pshm_edge *edge) {
    bool freed = false;
    uint32_t owner = UINT32_MAX;
    pthread_mutex_lock(&lock);
    pshm_mapping *mapping = pshm_process_find(process, ring);
    if (mapping != NULL && pshm_edge_reaches(edge, mapping->ring.owner)) {
        owner = mapping->ring.owner;
        for (uint32_t n = 0; n < mapping->ring.slots; n++) {
            const pshm_lease *lease = &mapping->lease[n];
            if (lease->count == 0 || (lease->bits & edge->mask) == 0)
                freed |= pshm_ring_clear(&mapping->ring, n, edge->mask);
        }
    }
    pthread_mutex_unlock(&lock);
    if (freed) ring_owner(process, owner);
}

void pshm_process_hold_still(void) {
    pthread_mutex_lock(&lock);
}

void pshm_process_go_on(void) {
    pthread_mutex_unlock(&lock);
}

void pshm_process_release(pshm_process *process, uint64_t descriptor) {
    uint32_t ring = pshm_descriptor_ring(descriptor);
    if (ring >= PSHM_RINGS) return;
    ended_lease ended = {.bits = 0};
    pthread_mutex_lock(&lock);
    pshm_mapping *mapping = process->foreign ? NULL : process->mapping[ring];
    if (mapping != NULL && pshm_descriptor_slot(descriptor) < mapping->ring.slots)
        ended = end_lease(mapping, descriptor);
    pthread_mutex_unlock(&lock);
    finish_lease(process, &ended);
}

void pshm_process_drop(pshm_process *process, uint64_t descriptor, uint32_t bits) {
    pshm_mapping *mapping = pshm_process_find(process, pshm_descriptor_ring(descriptor));
    if (mapping != NULL) drop_bits(process, mapping, descriptor, bits);
}

uint32_t pshm_process_leases(pshm_process *process, uint32_t ring) {
    pthread_mutex_lock(&lock);
    uint32_t count = 0;
    if (ring < PSHM_RINGS && process->mapping[ring] != NULL)
        count = leases(process->mapping[ring]);
    pthread_mutex_unlock(&lock);
    return count;
}

uint32_t pshm_process_borrowed(const pshm_process *process, uint32_t incarnation) {
    if (incarnation >= process->control.incarnations) return 0;
    return __atomic_load_n(&process->borrowed[incarnation], __ATOMIC_RELAXED);
}

/* Offset of an address in a ring's payload, by either mapping; or UINT64_MAX. */
static uint64_t payload_offset(const pshm_mapping *mapping, const void *address) {
    uintptr_t at = (uintptr_t)address;
    uintptr_t read = (uintptr_t)mapping->read, write = (uintptr_t)mapping->write;
    if (at >= read && at - read < mapping->payload_bytes) return at - read;
    if (write != 0 && at >= write && at - write < mapping->payload_bytes) return at - write;
    return UINT64_MAX;
}

static pshm_mapping *mapping_at(pshm_process *process, const void *address, uint64_t *offset) {
    for (uint32_t r = 0; r < process->places; r++) {
        pshm_mapping *mapping = process->mapping[r];
        if (mapping == NULL) continue;
        *offset = payload_offset(mapping, address);
        if (*offset != UINT64_MAX) return mapping;
    }
    return NULL;
}

bool pshm_process_reference(pshm_process *process, const void *address, uint64_t bytes,
                            uint64_t *descriptor, uint64_t *offset) {
    bool held = false;
    pthread_mutex_lock(&lock);
    uint64_t at = 0;
    pshm_mapping *mapping = process->foreign ? NULL : mapping_at(process, address, &at);
    if (mapping != NULL) {
        uint32_t slot = (uint32_t)(at / mapping->ring.slot_bytes);
        uint64_t in_slot = at % mapping->ring.slot_bytes;
        pshm_lease *lease = &mapping->lease[slot];
        if (lease->count != 0 && bytes <= mapping->ring.slot_bytes - in_slot) {
            lease->count++;
            *descriptor = pshm_descriptor(mapping->ring.index, slot, lease->generation);
            *offset = in_slot;
            held = true;
        }
    }
    pthread_mutex_unlock(&lock);
    return held;
}

void *pshm_process_share(pshm_process *process, const void *address, uint64_t bytes) {
    uint64_t descriptor, offset;
    if (!pshm_process_reference(process, address, bytes, &descriptor, &offset)) return NULL;
    /* the lease keeps the mapping */
    const pshm_mapping *mapping = process->mapping[pshm_descriptor_ring(descriptor)];
    return mapping->read + pshm_descriptor_slot(descriptor) * mapping->ring.slot_bytes + offset;
}

void *pshm_process_lend(pshm_process *process, uint64_t descriptor, uint64_t *bytes) {
    uint32_t ring = pshm_descriptor_ring(descriptor), slot = pshm_descriptor_slot(descriptor);
    uint8_t *there = NULL;
    if (ring >= PSHM_RINGS) return NULL;
    pthread_mutex_lock(&lock);
    pshm_mapping *mapping = process->foreign ? NULL : process->mapping[ring];
    if (mapping != NULL && slot < mapping->ring.slots) {
        pshm_lease *lease = &mapping->lease[slot];
        if (lease->count != 0 && lease->generation == pshm_descriptor_generation(descriptor)) {
            lease->count++;
            *bytes = mapping->ring.slot_bytes;
            there = mapping->read + slot * mapping->ring.slot_bytes;
        }
    }
    pthread_mutex_unlock(&lock);
    return there;
}

uint32_t pshm_process_leased(pshm_process *process, uint32_t ring) {
    uint32_t count = 0;
    pthread_mutex_lock(&lock);
    const pshm_mapping *mapping = ring < PSHM_RINGS ? process->mapping[ring] : NULL;
    for (uint32_t n = 0; mapping != NULL && n < mapping->ring.slots; n++)
        count += mapping->lease[n].count != 0;
    pthread_mutex_unlock(&lock);
    return count;
}

/* Whether all bits behind a lease are those of one routine's incoming edges, or
 * of its own ring. */
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
    uint64_t at = 0;
    *ring = PSHM_RINGS;
    pthread_mutex_lock(&lock);
    pshm_mapping *mapping = process->foreign ? NULL : mapping_at(process, address, &at);
    if (mapping != NULL) {
        uint32_t slot = (uint32_t)(at / mapping->ring.slot_bytes);
        pshm_lease *lease = &mapping->lease[slot];
        if (lease->count != 0 &&
            bytes <= mapping->ring.slot_bytes - at % mapping->ring.slot_bytes &&
            leased_by(process, mapping, lease->bits, routine) &&
            pshm_ring_holders(&mapping->ring, slot) == lease->bits) {
            if (mapping->write == NULL) {
                *ring = mapping->ring.index;
            } else {
                lease->count++;
                there = mapping->write + at;
            }
        }
    }
    pthread_mutex_unlock(&lock);
    return there;
}

void pshm_release(void *address) {
    ended_lease ended = {.bits = 0};
    uint64_t at = 0;
    pthread_mutex_lock(&lock);
    pshm_process *process = processes;
    for (; process != NULL; process = process->next) {
        pshm_mapping *mapping = mapping_at(process, address, &at);
        if (mapping == NULL) continue;
        uint32_t slot = (uint32_t)(at / mapping->ring.slot_bytes);
        uint32_t generation = mapping->lease[slot].generation;
        if (!process->foreign)
            ended = end_lease(mapping, pshm_descriptor(mapping->ring.index, slot, generation));
        break;
    }
    pthread_mutex_unlock(&lock);
    if (process != NULL) finish_lease(process, &ended);
}
