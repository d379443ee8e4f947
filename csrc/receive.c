/* The receiving half of a port: see port.h. */
#include <string.h>

#include "port_parts.h"

static bool poll_ins(pshm_port *port, pshm_delivery *delivery, uint32_t *finished) {
    *finished = 0;
    for (uint32_t i = 0; i < port->ins; i++) {
        uint32_t in = (port->next + i) % port->ins;
        pshm_edge *edge = &port->in[in];
        if (pshm_queue_pop(&edge->queue, &delivery->cell)) {
            delivery->place = in;
            port->next = in + 1;
            return true;
        }
        if (pshm_queue_finished(&edge->queue)) (*finished)++;
    }
    return false;
}

/* The look between arm and wait: nothing came, and no end came. */
static bool nothing_new(const pshm_port *port, uint32_t finished) {
    uint32_t now_finished = 0;
    for (uint32_t i = 0; i < port->ins; i++) {
        if (pshm_queue_depth(&port->in[i].queue) != 0) return false;
        if (pshm_queue_finished(&port->in[i].queue)) now_finished++;
    }
    return now_finished == finished;
}

static int protocol_error(pshm_edge *edge) {
    pshm_count(&edge->record->protocol_errors, 1);
    return PSHM_PROTOCOL;
}

/* Copies a message out of its slot, every field checked on the copy. */
static bool copy_message(pshm_delivery *delivery, const pshm_mapping *mapping,
                         const pshm_message *message) {
    pshm_message head;
    memcpy(&head, message, sizeof head);
    uint64_t table = sizeof head + head.slots * sizeof(uint64_t);
    if (head.slots > PSHM_MESSAGE_SLOTS || head.bytes > PSHM_MESSAGE_BYTES ||
        table + head.bytes > mapping->ring.slot_bytes)
        return false;
    delivery->sequence = head.sequence;
    delivery->captured_ns = head.captured_ns;
    delivery->sent_ns = head.sent_ns;
    delivery->origin = head.origin;
    delivery->kind = head.kind;
    delivery->hops = head.hops;
    delivery->slots = head.slots;
    delivery->body_bytes = head.bytes;
    memcpy(delivery->slot, message->slot, head.slots * sizeof(uint64_t));
    memcpy(delivery->body, (const uint8_t *)message + table, head.bytes);
    return true;
}

/* Finds every payload slot; PSHM_UNMAPPED with the first ring that is missing. */
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
    const pshm_message *message = message_at(port->process, delivery->cell, &mapping);
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
    pshm_count(&edge->record->received, 1);
    pshm_count(&port->record->received, 1);
    pshm_histogram_add(edge->record->hop, delivery->received_ns - delivery->sent_ns);
    pshm_histogram_add(port->record->age, delivery->received_ns - delivery->captured_ns);
    return PSHM_OK;
}

static int accept_cell(pshm_port *port, pshm_delivery *delivery) {
    pshm_edge *edge = &port->in[delivery->place];
    ring_routine(port, edge->sender); /* room for a sender that is blocked */
    delivery->local = edge->local;
    if (!edge->local) return pshm_port_take(port, delivery);
    delivery->token = delivery->cell;
    delivery->slots = 0;
    delivery->received_ns = pshm_now();
    pshm_count(&edge->record->received, 1);
    pshm_count(&port->record->received, 1);
    return PSHM_OK;
}

int pshm_port_receive(pshm_port *port, pshm_delivery *delivery, uint64_t timeout_ns) {
    pshm_bell *bell = &port->record->bell;
    pshm_process *process = port->process;
    uint64_t deadline = 0;
    uint32_t finished;
    if (process->seen_epoch !=
        atomic_load_explicit(&process->control.head->epoch, memory_order_relaxed))
        pshm_process_prune(process);
    for (;;) {
        if (notice(port)) return PSHM_NOTICE;
        if (poll_ins(port, delivery, &finished)) return accept_cell(port, delivery);
        if (finished == port->ins) return PSHM_CLOSED;
        uint64_t now = pshm_now();
        if (deadline == 0) deadline = after(now, timeout_ns);
        if (now >= deadline) return PSHM_TIMED_OUT;
        bool undisturbed = true;
        uint32_t word = pshm_bell_arm(bell);
        if (nothing_new(port, finished) && !notice(port))
            undisturbed = pshm_bell_wait(bell, word, sleep_until(now, deadline));
        pshm_bell_disarm(bell);
        if (!undisturbed) return PSHM_TIMED_OUT; /* Python's signal handlers run between calls */
    }
}

void pshm_port_discard(pshm_port *port, pshm_delivery *delivery, uint32_t reason) {
    pshm_edge_record *record = port->in[delivery->place].record;
    for (uint32_t k = 0; k < delivery->slots; k++)
        pshm_process_release(port->process, delivery->slot[k]);
    delivery->slots = 0;
    pshm_count(&record->received, UINT64_MAX); /* less one */
    pshm_count(&port->record->received, UINT64_MAX);
    pshm_count(&record->dropped[reason], 1);
}
