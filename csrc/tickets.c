#include "tickets.h"

#include "points.h"

void pshm_tickets_announce(pshm_edge *edge, uint64_t ticket) {
    uint64_t *announced = &edge->record->ticket_announced;
    if (*announced == ticket) return; /* it has waited for room since */
    edge->ticket_before = *announced;
    PSHM_POINT();
    __atomic_store_n(announced, ticket, __ATOMIC_RELEASE);
}

void pshm_tickets_confirm(pshm_edge *edge, uint64_t ticket) {
    PSHM_POINT();
    __atomic_store_n(&edge->record->ticket_pushed, ticket, __ATOMIC_RELEASE);
}

void pshm_tickets_withdraw(pshm_edge *edge, uint64_t ticket) {
    if (ticket == 0 || edge->record->ticket_announced != ticket) return;
    PSHM_POINT();
    __atomic_store_n(&edge->record->ticket_announced, edge->ticket_before, __ATOMIC_RELEASE);
}

void pshm_tickets_read(const pshm_edge_record *record, uint64_t *announced, uint64_t *done) {
    *done = __atomic_load_n(&record->ticket_done, __ATOMIC_ACQUIRE);
    *announced = __atomic_load_n(&record->ticket_announced, __ATOMIC_ACQUIRE);
}

uint64_t pshm_tickets_pushed(const pshm_edge_record *record) {
    /* acquire: a look at the queue that follows finds the message, unless it was taken */
    return __atomic_load_n(&record->ticket_pushed, __ATOMIC_ACQUIRE);
}

void pshm_tickets_settle(pshm_edge_record *record) {
    PSHM_POINT();
    uint64_t announced = __atomic_load_n(&record->ticket_announced, __ATOMIC_RELAXED);
    PSHM_POINT();
    __atomic_store_n(&record->ticket_pushed, announced,
                     __ATOMIC_RELAXED); /* the mark that follows releases it */
}

void pshm_tickets_done(pshm_edge_record *record, uint64_t ticket) {
    if (ticket > __atomic_load_n(&record->ticket_done, __ATOMIC_RELAXED))
        __atomic_store_n(&record->ticket_done, ticket, __ATOMIC_RELEASE);
}
