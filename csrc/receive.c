#include "receive.h"

#include <string.h>

#include "points.h"
#include "port_parts.h"
#include "trace.h"

/* ---- the next cell --------------------------------------------------------------------- */

/* Whether a place must not be looked at now: it is vacant or paused, or an earlier
 * incarnation of its edge comes first. */
static bool must_wait(const pshm_port *port, uint32_t in) {
    return port->in[in].record == NULL || port->behind[in] != 0 || port->paused[in];
}

static bool sender_is_dead(const pshm_edge *edge) {
    /* acquire: whoever sees this sees the dead sender's last push. While the launcher takes
     * messages back, it is the sender, and rings when it is done. */
    uint32_t state = pshm_incarnation_state(edge->incarnation);
    return state == PSHM_SENDER_DEAD || state == PSHM_GIVEN_UP;
}

/* Whether an incoming stream has ended. A drained incarnation may be another edge's by now;
 * the stream goes on when its successor comes, unless the sender has failed for good. */
static bool stream_ended(const pshm_port *port, uint32_t in) {
    const pshm_edge *edge = &port->in[in];
    PSHM_POINT();
    if (port->drained[in])
        return __atomic_load_n(&edge->record->sender_failed, __ATOMIC_SEQ_CST) != 0;
    return pshm_queue_finished(&edge->queue);
}

/* Whether the launcher keeps the routine from ending: its wires are about to be others. To be
 * asked after the looks at the streams, since it is set before they are made to end. */
static uint32_t is_held(const pshm_port *port) {
    return __atomic_load_n(&port->record->held, __ATOMIC_SEQ_CST) != 0;
}

/* Returns PSHM_OK with a cell, PSHM_DRAINED with a place, or PSHM_TIMED_OUT; in the last
 * case port->open is how many streams have not ended. */
static int poll_ins(pshm_port *port, pshm_delivery *delivery) {
    uint32_t open = port->awaited;
    for (uint32_t i = 0; i < port->ins; i++) {
        uint32_t in = (port->next + i) % port->ins;
        pshm_edge *edge = &port->in[in];
        if (must_wait(port, in)) {
            open += edge->record != NULL;
            continue;
        }
        if (!port->drained[in]) {
            PSHM_POINT();
            bool dead = sender_is_dead(edge); /* asked before the look, which then is the last */
            bool popped = pshm_queue_pop(&edge->queue, &delivery->cell);
            if (popped || dead) {
                delivery->place = in;
                port->next = in + 1;
                return popped ? PSHM_OK : PSHM_DRAINED;
            }
        }
        open += !stream_ended(port, in);
    }
    port->open = open + is_held(port);
    return PSHM_TIMED_OUT;
}

/* The look between arming the bell and waiting: whether no message and no end has come. */
static bool nothing_new(const pshm_port *port) {
    uint32_t now_open = port->awaited;
    for (uint32_t in = 0; in < port->ins; in++) {
        const pshm_edge *edge = &port->in[in];
        if (must_wait(port, in)) {
            now_open += edge->record != NULL;
            continue;
        }
        PSHM_POINT();
        if (!port->drained[in] && (sender_is_dead(edge) || pshm_queue_depth(&edge->queue) != 0))
            return false;
        now_open += !stream_ended(port, in);
    }
    return now_open + is_held(port) == port->open;
}

/* Sleeps if nothing has come since the last look. Returns false when a signal ended it. */
static bool await_until(pshm_port *port, uint64_t now, uint64_t deadline) {
    pshm_bell *bell = &port->record->bell;
    bool undisturbed = true;
    uint32_t word = pshm_bell_arm(bell);
    if (nothing_new(port) && !has_notice(port)) {
        uint64_t asleep = pshm_trace_start();
        undisturbed = pshm_bell_wait(bell, word, sleep_until(now, deadline));
        pshm_port_trace_sleep(port, PSHM_TRACE_WAIT, asleep);
    }
    pshm_bell_disarm(bell);
    return undisturbed;
}

bool pshm_port_await(pshm_port *port) {
    return await_until(port, 0, PSHM_FOREVER);
}

/* If we die between the pop and the second count, the message counts as lost. */
static void count_receipt(pshm_edge *edge) {
    PSHM_POINT();
    pshm_count(&edge->record->received, 1);
    PSHM_POINT();
    pshm_count_own(&edge->incarnation->taken);
}

static int protocol_error(pshm_edge *edge) {
    count_receipt(edge);
    pshm_count(&edge->record->protocol_errors, 1);
    return PSHM_PROTOCOL;
}

static void begin_call(pshm_port *port, const pshm_delivery *delivery) {
    __atomic_store_n(&port->record->busy_since_ns, delivery->received_ns, __ATOMIC_RELAXED);
}

static void trace_receipt(const pshm_port *port, const pshm_delivery *delivery,
                          uint64_t sent_ns) {
    pshm_port_trace(port, PSHM_TRACE_RECEIVE, port->in[delivery->place].sender, delivery->origin,
                    delivery->sequence, sent_ns, delivery->received_ns);
}

/* ---- the message ----------------------------------------------------------------------- */

/* Copies a message out of its slot. Its fields are checked on the copy. */
static bool copy_message(pshm_delivery *delivery, const pshm_mapping *mapping,
                         const pshm_message *message) {
    pshm_message head;
    memcpy(&head, message, sizeof head);
    uint64_t table = sizeof head + head.slots * sizeof(uint64_t);
    if (head.slots > PSHM_MESSAGE_SLOTS || head.bytes > PSHM_MESSAGE_BYTES ||
        head.head > head.bytes || table + head.bytes > mapping->ring.slot_bytes)
        return false;
    delivery->sequence = head.sequence;
    delivery->captured_ns = head.captured_ns;
    delivery->sent_ns = head.sent_ns;
    delivery->origin = head.origin;
    delivery->kind = head.kind;
    delivery->head = head.head;
    delivery->slots = head.slots;
    delivery->body_bytes = head.bytes;
    memcpy(delivery->slot, message->slot, head.slots * sizeof(uint64_t));
    memcpy(delivery->body, (const uint8_t *)message + table, head.bytes);
    return true;
}

/* Finds every payload slot. Returns PSHM_OK, PSHM_PROTOCOL, or PSHM_UNMAPPED with the first
 * ring that is missing. */
static int locate_slots(pshm_port *port, const pshm_edge *edge, pshm_delivery *delivery,
                        pshm_mapping **found) {
    for (uint32_t k = 0; k < delivery->slots; k++) {
        uint64_t descriptor = delivery->slot[k];
        uint32_t slot = pshm_descriptor_slot(descriptor);
        found[k] = pshm_process_find(port->process, pshm_descriptor_ring(descriptor));
        if (found[k] == NULL) {
            delivery->unmapped = pshm_descriptor_ring(descriptor);
            return PSHM_UNMAPPED;
        }
        if (slot >= found[k]->ring.slots ||
            !pshm_ring_holds(&found[k]->ring, descriptor, edge->mask))
            return PSHM_PROTOCOL;
        delivery->address[k] = found[k]->read + slot * found[k]->ring.slot_bytes;
        delivery->slot_bytes[k] = found[k]->ring.slot_bytes;
    }
    return PSHM_OK;
}

int pshm_port_take(pshm_port *port, pshm_delivery *delivery) {
    pshm_edge *edge = &port->in[delivery->place];
    pshm_mapping *mapping, *found[PSHM_MESSAGE_SLOTS];
    const pshm_message *message = pshm_message_at(port->process, delivery->cell, &mapping);
    if (mapping == NULL) {
        delivery->unmapped = pshm_descriptor_ring(delivery->cell);
        return PSHM_UNMAPPED;
    }
    if (message == NULL || !pshm_ring_holds(&mapping->ring, delivery->cell, edge->mask) ||
        !copy_message(delivery, mapping, message))
        return protocol_error(edge);
    int status = locate_slots(port, edge, delivery, found);
    if (status == PSHM_UNMAPPED) return status;
    if (status != PSHM_OK) return protocol_error(edge);

    delivery->over_cap = pshm_process_borrowed(port->process, edge->number) >= edge->borrow_cap;
    for (uint32_t k = 0; k < delivery->slots; k++)
        pshm_process_lease(port->process, found[k], delivery->slot[k], edge->mask, edge->number);
    pshm_process_drop(port->process, delivery->cell, edge->mask);

    delivery->received_ns = pshm_now();
    count_receipt(edge);
    PSHM_POINT();
    pshm_count(&port->record->received, 1);
    pshm_histogram_add(edge->record->hop, delivery->received_ns - delivery->sent_ns);
    pshm_histogram_add(port->record->age, pshm_age(delivery->received_ns, delivery->captured_ns));
    if (pshm_trace_is_on()) trace_receipt(port, delivery, delivery->sent_ns);
    begin_call(port, delivery);
    return pshm_delivery_recognise(delivery);
}

static int accept_cell(pshm_port *port, pshm_delivery *delivery) {
    pshm_edge *edge = &port->in[delivery->place];
    ring_routine(port, edge->sender); /* a blocked sender has room now */
    delivery->local = edge->local;
    if (!edge->local) return pshm_port_take(port, delivery);
    delivery->token = delivery->cell;
    delivery->slots = 0;
    delivery->received_ns = pshm_now();
    count_receipt(edge);
    PSHM_POINT();
    pshm_count(&port->record->received, 1);
    begin_call(port, delivery);
    return PSHM_OK;
}

int pshm_port_receive(pshm_port *port, pshm_delivery *delivery, uint64_t timeout_ns) {
    pshm_process *process = port->process;
    uint64_t deadline = 0;
    PSHM_POINT();
    pshm_port_end_call(port);
    if (process->seen_epoch !=
        atomic_load_explicit(&process->control.head->epoch, memory_order_relaxed))
        pshm_process_prune(process);
    for (;;) {
        if (has_notice(port)) return PSHM_NOTICE;
        int found = poll_ins(port, delivery);
        if (found == PSHM_OK) return accept_cell(port, delivery);
        if (found == PSHM_DRAINED) return PSHM_DRAINED;
        if (port->open == 0) return PSHM_CLOSED;
        uint64_t now = pshm_now();
        if (deadline == 0) deadline = after(now, timeout_ns);
        if (now >= deadline) return PSHM_TIMED_OUT;
        /* Python handles signals between calls */
        if (!await_until(port, now, deadline)) return PSHM_TIMED_OUT;
    }
}

void pshm_port_count_handed(pshm_port *port, const pshm_delivery *delivery, uint64_t sent_ns,
                            uint64_t captured_ns) {
    pshm_histogram_add(port->in[delivery->place].record->hop, delivery->received_ns - sent_ns);
    pshm_histogram_add(port->record->age, pshm_age(delivery->received_ns, captured_ns));
    if (pshm_trace_is_on()) trace_receipt(port, delivery, sent_ns);
}

/* ---- not received after all ------------------------------------------------------------ */

static void move_to_dropped(pshm_port *port, pshm_edge_record *record, uint32_t reason) {
    PSHM_POINT();
    pshm_count(&record->received, UINT64_MAX); /* less one */
    PSHM_POINT();
    pshm_count(&port->record->received, UINT64_MAX);
    PSHM_POINT();
    pshm_count(&record->dropped[reason], 1);
}

void pshm_port_discard(pshm_port *port, pshm_delivery *delivery, uint32_t reason) {
    for (uint32_t k = 0; k < delivery->slots; k++)
        pshm_process_release(port->process, delivery->slot[k]);
    delivery->slots = 0;
    if (pshm_trace_is_on())
        pshm_port_trace_drop(port, PSHM_TRACE_DISCARD, reason, port->in[delivery->place].sender,
                             delivery->origin, delivery->sequence);
    move_to_dropped(port, port->in[delivery->place].record, reason);
}

void pshm_port_disown(pshm_port *port, uint32_t edge, uint32_t reason) {
    pshm_edge_record *record = pshm_control_edge(&port->process->control, edge);
    if (record != NULL && reason < PSHM_REASONS) move_to_dropped(port, record, reason);
}
