#include "recover.h"

#include <stdlib.h>

#include "handing.h"
#include "lease.h"
#include "message.h"
#include "points.h"
#include "send.h"
#include "trace.h"

/* Per place in the table of rings, a byte for each slot: whether an unread message names
 * it. */
typedef struct kept_slots {
    uint8_t *ring[PSHM_RINGS];
} kept_slots;

static bool prepare(kept_slots *kept, const pshm_process *process) {
    bool enough = true;
    for (uint32_t r = 0; r < process->places; r++) {
        const pshm_mapping *mapping = process->mapping[r];
        kept->ring[r] = mapping == NULL ? NULL : calloc(mapping->ring.slots, 1);
        enough &= mapping == NULL || kept->ring[r] != NULL;
    }
    return enough;
}

static void keep(kept_slots *kept, const pshm_process *process, uint64_t descriptor) {
    uint32_t ring = pshm_descriptor_ring(descriptor), slot = pshm_descriptor_slot(descriptor);
    if (ring >= process->places || kept->ring[ring] == NULL) return;
    if (slot < process->mapping[ring]->ring.slots) kept->ring[ring][slot] = 1;
}

static void keep_message(kept_slots *kept, pshm_process *process, uint64_t cell) {
    pshm_mapping *mapping;
    const pshm_message *message = pshm_message_at(process, cell, &mapping);
    if (message == NULL) return;
    keep(kept, process, cell);
    for (uint32_t k = 0, slots = pshm_message_slots(message, mapping); k < slots; k++)
        keep(kept, process, pshm_message_slot(message, k));
}

static void clear_others(const kept_slots *kept, pshm_process *process, const pshm_edge *edge) {
    for (uint32_t r = 0; r < process->places; r++) {
        pshm_mapping *mapping = process->mapping[r];
        if (mapping == NULL || kept->ring[r] == NULL) continue;
        if (!pshm_edge_reaches(edge, mapping->ring.owner)) continue;
        bool freed = false;
        for (uint32_t n = 0; n < mapping->ring.slots; n++)
            if (!kept->ring[r][n]) freed |= pshm_ring_clear(&mapping->ring, n, edge->mask);
        if (freed) pshm_control_wake(&process->control, mapping->ring.owner);
    }
}

static void trace_loss(const pshm_edge *edge, uint64_t messages) {
    if (messages == 0 || !pshm_trace_is_on()) return;
    pshm_trace_event event = {.time_ns = pshm_now(),
                              .began_ns = messages,
                              .kind = PSHM_TRACE_LOST,
                              .detail = PSHM_REASON_CRASH,
                              .routine = (uint16_t)edge->sender,
                              .other = (uint16_t)edge->receiver,
                              .origin = PSHM_TRACE_NO_FRAME};
    pshm_trace_note(&event);
}

/* Counts as lost the cells that left the queue and that neither end has counted. */
static void count_taken(pshm_edge *edge) {
    PSHM_POINT();
    uint64_t head = atomic_load_explicit(&edge->queue.words->head, memory_order_seq_cst);
    uint64_t counted = edge->incarnation->taken + edge->incarnation->evicted;
    if (head <= counted) return;
    trace_loss(edge, head - counted);
    PSHM_POINT();
    pshm_count(&edge->record->dropped[PSHM_REASON_CRASH], head - counted);
    PSHM_POINT();
    edge->incarnation->taken += head - counted;
}

/* Counts as lost the messages that a dead sender had begun to send on the edge. */
static void count_unsettled(pshm_edge *edge) {
    uint64_t unsettled = edge->incarnation->offered - edge->incarnation->settled;
    trace_loss(edge, unsettled);
    PSHM_POINT();
    pshm_count(&edge->record->dropped[PSHM_REASON_CRASH], unsettled);
    PSHM_POINT();
    edge->incarnation->settled += unsettled;
}

static void keep_unread(kept_slots *kept, pshm_process *process, const pshm_edge *edge) {
    pshm_queue_words *words = edge->queue.words;
    PSHM_POINT();
    uint64_t head = atomic_load_explicit(&words->head, memory_order_seq_cst);
    for (uint32_t n = 0, depth = pshm_queue_depth(&edge->queue); n < depth; n++) {
        _Atomic uint64_t *cell = &words->cell[(head + n) & edge->queue.mask];
        PSHM_POINT();
        keep_message(kept, process, atomic_load_explicit(cell, memory_order_relaxed));
    }
}

bool pshm_recover_receiver(pshm_process *process, uint32_t incarnation, uint64_t unsent) {
    pshm_edge edge;
    if (!pshm_edge_attach(&edge, &process->control, incarnation) || edge.local) return true;
    if (pshm_incarnation_state(edge.incarnation) == PSHM_GIVEN_UP) {
        pshm_recover_edge(process, incarnation);
        return true;
    }
    kept_slots *kept = calloc(1, sizeof *kept);
    if (kept == NULL) return false;
    pshm_process_hold_still();
    bool enough = prepare(kept, process);
    if (enough) {
        keep_unread(kept, process, &edge);
        if (unsent != PSHM_NO_SLOT) keep_message(kept, process, unsent);
        clear_others(kept, process, &edge);
        count_taken(&edge);
        pshm_incarnation_unclaim(edge.incarnation);
        /* it died in the midst of its sweep: the next receiver sweeps */
        pshm_incarnation_move(edge.incarnation, PSHM_SWEEPING, PSHM_SENDER_DEAD);
    }
    pshm_process_go_on();
    for (uint32_t r = 0; r < PSHM_RINGS; r++) free(kept->ring[r]);
    free(kept);
    return enough;
}

void pshm_recover_edge(pshm_process *process, uint32_t incarnation) {
    pshm_edge edge;
    if (!pshm_edge_attach(&edge, &process->control, incarnation)) return;
    /* of one that was given up the bit is another's by now */
    bool has_bit = !edge.local && pshm_incarnation_state(edge.incarnation) != PSHM_GIVEN_UP;
    pshm_process_hold_still();
    for (uint32_t r = 0; r < process->places && has_bit; r++) {
        pshm_mapping *mapping = process->mapping[r];
        if (mapping == NULL || !pshm_edge_reaches(&edge, mapping->ring.owner)) continue;
        if (pshm_ring_sweep(&mapping->ring, edge.mask) == 0) continue;
        pshm_control_wake(&process->control, mapping->ring.owner);
    }
    pshm_process_go_on();
    count_taken(&edge);
    count_unsettled(&edge);
    trace_loss(&edge, pshm_queue_depth(&edge.queue));
    PSHM_POINT();
    pshm_count(&edge.record->dropped[PSHM_REASON_CRASH], pshm_queue_depth(&edge.queue));
    PSHM_POINT();
    /* release: the sweep comes before the bit is given to another */
    __atomic_store_n(&edge.incarnation->state, PSHM_SWEPT, __ATOMIC_RELEASE);
}

/* What a dead sender that resumes had begun on the edge: it is in the queue, or was dropped and
 * counted, or comes again, and then was not sent. */
static void take_back_unsettled(pshm_edge *edge, uint64_t word, bool pushed, bool current) {
    pshm_incarnation_record *incarnation = edge->incarnation;
    if (incarnation->offered <= incarnation->settled) return;
    if (current && !pushed && (word & PSHM_HANDING_SETTLED) != 0) return; /* dropped: lost */
    if (!(current && pushed) && edge->record->sent > 0) {
        PSHM_POINT();
        pshm_count(&edge->record->sent, UINT64_MAX); /* less one */
    }
    PSHM_POINT();
    incarnation->settled = incarnation->offered;
}

void pshm_recover_handing(pshm_process *process, uint32_t incarnation) {
    pshm_edge edge;
    if (!pshm_edge_attach(&edge, &process->control, incarnation)) return;
    if (pshm_incarnation_state(edge.incarnation) != PSHM_LIVE) return;
    const pshm_routine_record *sender = &process->control.routine[edge.sender];
    uint64_t word = __atomic_load_n(&edge.record->handing, __ATOMIC_RELAXED);
    bool settled = (word & PSHM_HANDING_SETTLED) != 0;
    uint64_t tail = pshm_handing_tail(edge.queue.words);
    bool pushed = !settled && (word & PSHM_HANDING_TAIL) != tail;
    if (sender->resumes != 0)
        take_back_unsettled(&edge, word, pushed, word >> PSHM_HANDING_SHIFT == sender->sequence);
    if (settled || word == 0) return;
    if (!pushed) word -= 1ull << PSHM_HANDING_SHIFT; /* the one before is the last that is done */
    PSHM_POINT();
    __atomic_store_n(&edge.record->handing, word | PSHM_HANDING_SETTLED, __ATOMIC_RELAXED);
}

static bool is_held(pshm_process *process, const pshm_edge *edge) {
    bool held = false;
    pshm_process_hold_still();
    for (uint32_t r = 0; r < process->places && !held; r++) {
        const pshm_mapping *mapping = process->mapping[r];
        if (mapping == NULL || !pshm_edge_reaches(edge, mapping->ring.owner)) continue;
        for (uint32_t n = 0; n < mapping->ring.slots && !held; n++)
            held = (pshm_ring_holders(&mapping->ring, n) & edge->mask) != 0;
    }
    pshm_process_go_on();
    return held;
}

/* As the sender would evict them, one by one: the receiver may pop them at the same time. */
static void take_back(pshm_process *process, pshm_edge *edge) {
    uint64_t cell, count = 0;
    /* no longer than it can be, whatever damage says */
    while (count < edge->queue.capacity && pshm_queue_pop(&edge->queue, &cell)) {
        pshm_policy_drop_message(process, edge, cell);
        PSHM_POINT();
        pshm_count(&edge->record->dropped[PSHM_REASON_CRASH], 1);
        PSHM_POINT();
        pshm_count_own(&edge->incarnation->evicted);
        count++;
    }
    trace_loss(edge, count);
}

bool pshm_recover_undrained(pshm_process *process, uint32_t incarnation) {
    pshm_edge edge;
    if (!pshm_edge_attach(&edge, &process->control, incarnation) || edge.local) return false;
    if (!pshm_incarnation_move(edge.incarnation, PSHM_SENDER_DEAD, PSHM_TAKING_BACK))
        return false;
    if (pshm_incarnation_withdraw(edge.incarnation)) {
        pshm_recover_edge(process, incarnation);
        return true;
    }
    take_back(process, &edge);
    bool held = is_held(process, &edge);
    if (!held) count_unsettled(&edge);
    PSHM_POINT();
    /* release: what was counted, and that no slot has the bit, comes before it is another's */
    pshm_incarnation_mark(edge.incarnation, held ? PSHM_SENDER_DEAD : PSHM_GIVEN_UP);
    pshm_control_ring(&process->control, edge.receiver);
    return !held;
}

void pshm_recover_owner(pshm_process *process, uint32_t ring) {
    pshm_mapping *mapping = pshm_process_find(process, ring);
    if (mapping != NULL) pshm_ring_sweep(&mapping->ring, PSHM_PRODUCER);
}

/* The message that carries an edge's bits and is not in its queue yet; PSHM_NO_SLOT for
 * none. */
static uint64_t unsent_on(const pshm_port *port, uint32_t out) {
    const pshm_post *post = port->post;
    bool pending = post != NULL && (post->outs >> out & 1) != 0;
    return pending ? post->message : PSHM_NO_SLOT;
}

static uint32_t place_of(const pshm_port *port, uint32_t incarnation) {
    for (uint32_t out = 0; out < port->outs; out++)
        if (port->out[out].record != NULL && port->out[out].number == incarnation) return out;
    return PSHM_OUTS;
}

bool pshm_port_recover_receiver(pshm_port *port, uint32_t incarnation) {
    pthread_mutex_lock(&port->sending);
    uint32_t out = place_of(port, incarnation); /* none if the edge was unlinked since */
    uint64_t unsent = out < PSHM_OUTS ? unsent_on(port, out) : PSHM_NO_SLOT;
    bool done = pshm_recover_receiver(port->process, incarnation, unsent);
    pthread_mutex_unlock(&port->sending);
    return done;
}

void pshm_port_recover_sender(pshm_port *port, uint32_t place) {
    pshm_process *process = port->process;
    if (place >= port->ins || port->drained[place] || port->in[place].record == NULL) return;
    pshm_edge *edge = &port->in[place];
    bool sweeps = pshm_incarnation_move(edge->incarnation, PSHM_SENDER_DEAD, PSHM_SWEEPING) ||
                  pshm_incarnation_move(edge->incarnation, PSHM_LIVE, PSHM_SWEEPING);
    if (!sweeps && pshm_incarnation_state(edge->incarnation) != PSHM_GIVEN_UP)
        return; /* the launcher takes messages back: it rings when it is done */
    for (uint32_t r = 0; r < process->places && sweeps && !edge->local; r++)
        pshm_process_sweep_unleased(process, r, edge);
    count_taken(edge);
    if (sweeps) count_unsettled(edge);
    uint32_t incarnation = edge->number, later = 0;
    for (uint32_t n = 0; n < port->ins; n++) {
        if (n == place || port->in[n].record != edge->record || port->drained[n]) continue;
        later++;
        if (port->behind[n] > 0) port->behind[n]--;
    }
    if (later > 0 || port->leaving[place])
        edge->record = NULL; /* vacant: its successor is here, or none will come */
    else
        port->drained[place] = true;
    pshm_process_linger(process, incarnation);
}
