#include "ring_table.h"

#include "points.h"

/* The bytes of the budget that rings have taken. */
static uint64_t taken(const pshm_control *control) {
    uint64_t sum = 0;
    for (uint32_t n = 0; n < PSHM_RINGS; n++)
        /* seq_cst: of two that spend at the same time, one sees the other */
        sum += atomic_load_explicit(&control->head->ring[n].bytes, memory_order_seq_cst);
    return sum;
}

uint64_t pshm_control_left(const pshm_control *control) {
    uint64_t bytes = taken(control), budget = control->head->budget;
    return bytes < budget ? budget - bytes : 0;
}

bool pshm_control_spend(const pshm_control *control, uint32_t ring, uint64_t bytes) {
    if (ring >= PSHM_RINGS || bytes > pshm_control_left(control)) return false;
    PSHM_POINT();
    atomic_store_explicit(&control->head->ring[ring].bytes, bytes, memory_order_seq_cst);
    return taken(control) <= control->head->budget;
}

uint32_t pshm_control_claim_ring(const pshm_control *control, uint32_t owner, uint64_t *serial) {
    pshm_control_head *head = control->head;
    PSHM_POINT();
    /* relaxed: serials only have to differ */
    *serial = pshm_serial(atomic_fetch_add_explicit(&head->next_serial, 1, memory_order_relaxed),
                          owner);
    for (uint32_t n = 0; n < PSHM_RINGS; n++) {
        uint64_t none = 0;
        PSHM_POINT();
        /* acq_rel: the place's last user is done with it */
        if (atomic_compare_exchange_strong_explicit(&head->ring[n].serial, &none, *serial,
                                                    memory_order_acq_rel, memory_order_relaxed))
            return n;
    }
    return PSHM_RINGS;
}

void pshm_control_publish_ring(const pshm_control *control, uint32_t ring) {
    if (ring >= PSHM_RINGS) return;
    PSHM_POINT();
    /* release: the segment is formatted before it is found */
    atomic_store_explicit(&control->head->ring[ring].ready, 1, memory_order_release);
}

void pshm_control_release_ring(const pshm_control *control, uint32_t ring) {
    if (ring >= PSHM_RINGS) return;
    PSHM_POINT();
    atomic_store_explicit(&control->head->ring[ring].ready, 0, memory_order_relaxed);
    PSHM_POINT();
    atomic_store_explicit(&control->head->ring[ring].bytes, 0, memory_order_relaxed);
    PSHM_POINT();
    /* release: the place is claimed again only after the above */
    atomic_store_explicit(&control->head->ring[ring].serial, 0, memory_order_release);
    PSHM_POINT();
    atomic_fetch_add_explicit(&control->head->epoch, 1, memory_order_release);
}

uint64_t pshm_control_unclaim_ring(const pshm_control *control, uint32_t owner) {
    for (uint32_t n = 0; n < PSHM_RINGS; n++) {
        pshm_ring_entry *entry = &control->head->ring[n];
        PSHM_POINT();
        uint64_t serial = atomic_load_explicit(&entry->serial, memory_order_acquire);
        if (serial == 0 || pshm_serial_owner(serial) != owner) continue;
        PSHM_POINT();
        if (atomic_load_explicit(&entry->ready, memory_order_acquire) != 0) continue;
        pshm_control_release_ring(control, n);
        return serial;
    }
    return 0;
}

uint64_t pshm_control_serial(const pshm_control *control, uint32_t ring) {
    if (ring >= PSHM_RINGS) return 0;
    PSHM_POINT();
    /* acquire: pairs with publish */
    if (atomic_load_explicit(&control->head->ring[ring].ready, memory_order_acquire) == 0)
        return 0;
    PSHM_POINT();
    return atomic_load_explicit(&control->head->ring[ring].serial, memory_order_acquire);
}

uint32_t pshm_control_next_ring(const pshm_control *control, uint32_t ring) {
    while (ring < PSHM_RINGS &&
           /* acquire: pairs with publish */
           atomic_load_explicit(&control->head->ring[ring].ready, memory_order_acquire) == 0)
        ring++;
    return ring < PSHM_RINGS ? ring : PSHM_RINGS;
}
