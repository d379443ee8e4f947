#include "edge.h"

#include "points.h"

void pshm_incarnation_format(pshm_incarnation_record *record, uint32_t edge, uint32_t bit) {
    PSHM_POINT();
    record->edge = edge;
    record->bit = bit;
    PSHM_POINT();
    record->offered = record->settled = record->evicted = record->taken = 0;
    pshm_queue_format(&record->queue);
    PSHM_POINT();
    uint64_t life = (__atomic_load_n(&record->reader, __ATOMIC_RELAXED) >> 32) + 1;
    PSHM_POINT();
    /* release: who claims it sees all of the above */
    __atomic_store_n(&record->reader, life << 32 | PSHM_UNCLAIMED, __ATOMIC_RELEASE);
    PSHM_POINT();
    /* release: who sees the state sees all of the above */
    __atomic_store_n(&record->state, PSHM_LIVE, __ATOMIC_RELEASE);
}

bool pshm_incarnation_claim(pshm_incarnation_record *record, uint32_t life) {
    uint64_t unclaimed = (uint64_t)life << 32 | PSHM_UNCLAIMED;
    PSHM_POINT();
    return __atomic_compare_exchange_n(&record->reader, &unclaimed,
                                       (uint64_t)life << 32 | PSHM_CLAIMED, false,
                                       __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}

bool pshm_incarnation_withdraw(pshm_incarnation_record *record) {
    PSHM_POINT();
    uint64_t life = __atomic_load_n(&record->reader, __ATOMIC_RELAXED) >> 32;
    uint64_t unclaimed = life << 32 | PSHM_UNCLAIMED;
    PSHM_POINT();
    return __atomic_compare_exchange_n(&record->reader, &unclaimed, life << 32 | PSHM_WITHDRAWN,
                                       false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}

void pshm_incarnation_unclaim(pshm_incarnation_record *record) {
    uint64_t life = __atomic_load_n(&record->reader, __ATOMIC_RELAXED) >> 32;
    PSHM_POINT();
    __atomic_store_n(&record->reader, life << 32 | PSHM_UNCLAIMED, __ATOMIC_RELEASE);
}

bool pshm_incarnation_move(pshm_incarnation_record *record, uint32_t from, uint32_t to) {
    PSHM_POINT();
    return __atomic_compare_exchange_n(&record->state, &from, to, false, __ATOMIC_ACQ_REL,
                                       __ATOMIC_ACQUIRE);
}

bool pshm_edge_attach(pshm_edge *edge, const pshm_control *control, uint32_t number) {
    pshm_incarnation_record *incarnation = pshm_control_incarnation(control, number);
    pshm_edge_record *record =
        incarnation == NULL ? NULL
                            : pshm_control_edge(control, pshm_read_once(&incarnation->edge));
    if (record == NULL) return false;
    uint32_t bit = pshm_read_once(&incarnation->bit);
    pshm_edge seen = {.record = record,
                      .incarnation = incarnation,
                      .number = number,
                      .sender = pshm_read_once(&record->sender),
                      .receiver = pshm_read_once(&record->receiver),
                      .local = record->local != 0,
                      .policy = record->policy,
                      .borrow_cap = record->borrow_cap,
                      .timeout_ns = record->timeout_ns,
                      .queue = {.words = &incarnation->queue,
                                .capacity = pshm_read_once(&record->capacity),
                                .mask = control->cells - 1}};
    if (seen.sender >= control->routines || seen.receiver >= control->routines) return false;
    if (seen.queue.capacity == 0 || seen.queue.capacity > control->cells) return false;
    if (!seen.local) {
        if (bit == 0 || bit > PSHM_LAST_BIT) return false;
        seen.mask = 1u << bit;
    }
    *edge = seen;
    return true;
}
