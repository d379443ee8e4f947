#include "port.h"

#include <stdlib.h>
#include <string.h>

#define LONGEST_SLEEP_NS 5000000000u

pshm_port *pshm_port_open(pshm_process *process, uint32_t routine) {
    pshm_routine_record *record = pshm_control_routine(&process->control, routine);
    pshm_port *port = record == NULL ? NULL : calloc(1, sizeof *port);
    if (port == NULL) return NULL;
    port->process = process;
    port->record = record;
    port->routine = routine;
    return port;
}

void pshm_port_close(pshm_port *port) {
    free(port);
}

uint32_t pshm_port_add_out(pshm_port *port, uint32_t edge) {
    uint32_t place = 0;
    while (place < port->outs && port->out[place].record != NULL) place++;
    if (place >= PSHM_OUTS) return UINT32_MAX;
    if (!pshm_edge_attach(&port->out[place], &port->process->control, edge)) return UINT32_MAX;
    if (place == port->outs) port->outs++;
    return place;
}

uint32_t pshm_port_add_in(pshm_port *port, uint32_t edge) {
    if (port->ins >= PSHM_INS) return UINT32_MAX;
    if (!pshm_edge_attach(&port->in[port->ins], &port->process->control, edge)) return UINT32_MAX;
    return port->ins++;
}

void pshm_port_remove_out(pshm_port *port, uint32_t out) {
    if (out < PSHM_OUTS) memset(&port->out[out], 0, sizeof port->out[out]);
}

void pshm_port_notify(pshm_port *port) {
    atomic_store_explicit(&port->notice, 1, memory_order_seq_cst);
    pshm_bell_ring_always(&port->record->bell);
}

bool pshm_port_noticed(pshm_port *port) {
    return atomic_exchange_explicit(&port->notice, 0, memory_order_seq_cst) != 0;
}

static bool notice(pshm_port *port) {
    return atomic_load_explicit(&port->notice, memory_order_seq_cst) != 0;
}

static void ring_routine(pshm_port *port, uint32_t routine) {
    pshm_bell_ring(&port->process->control.routine[routine].bell);
}

/* The outgoing edge whose bit is the lowest in *outs, taken out of *outs. */
static uint32_t next_out(uint64_t *outs) {
    uint32_t out = (uint32_t)__builtin_ctzll(*outs);
    *outs &= *outs - 1;
    return out;
}

static bool has_ended(const pshm_edge *edge) {
    return __atomic_load_n(&edge->record->receiver_ended, __ATOMIC_SEQ_CST) != 0;
}

/* ---- what an edge holds of a message ---------------------------------- */

static const pshm_message *message_at(pshm_process *process, uint64_t cell,
                                      pshm_mapping **mapping) {
    *mapping = pshm_process_find(process, pshm_descriptor_ring(cell));
    if (*mapping == NULL) return NULL;
    uint32_t slot = pshm_descriptor_slot(cell);
    if (slot >= (*mapping)->ring.slots || (*mapping)->ring.slot_bytes < sizeof(pshm_message))
        return NULL;
    return (const pshm_message *)((*mapping)->read + slot * (*mapping)->ring.slot_bytes);
}

static uint32_t slots_of(const pshm_message *message) {
    uint32_t slots = message->slots;
    return slots < PSHM_MESSAGE_SLOTS ? slots : PSHM_MESSAGE_SLOTS;
}

/* Drops the edge's bits of a message that its receiver will not see. Payload
 * first: the message slot's bit keeps the list of them in being. */
static void drop_message(pshm_port *port, const pshm_edge *edge, uint64_t cell) {
    pshm_mapping *mapping;
    const pshm_message *message = message_at(port->process, cell, &mapping);
    if (message == NULL || !pshm_ring_holds(&mapping->ring, cell, edge->mask)) {
        pshm_count(&edge->record->protocol_errors, 1);
        return;
    }
    for (uint32_t k = 0, slots = slots_of(message); k < slots; k++)
        pshm_process_drop(port->process, message->slot[k], edge->mask);
    pshm_process_drop(port->process, cell, edge->mask);
}

static void lose_token(pshm_post *post, uint32_t out, uint64_t token) {
    post->lost_out[post->lost] = out;
    post->lost_token[post->lost++] = token;
}

/* One edge gets this message no more. */
static void lose(pshm_port *port, pshm_post *post, uint32_t out, uint32_t reason) {
    pshm_edge *edge = &port->out[out];
    post->outs &= ~(1ull << out);
    pshm_count(&edge->record->dropped[reason], 1);
    if (edge->local)
        lose_token(post, out, post->token);
    else if (post->message != PSHM_NO_SLOT)
        drop_message(port, edge, post->message);
}

/* ---- slots ------------------------------------------------------------- */

/* Evicts from the drop_oldest edge with the longest queue; false if all are
 * empty. */
static bool evict_for_slot(pshm_port *port, uint64_t outs) {
    pshm_edge *longest = NULL;
    uint32_t depth = 0;
    while (outs != 0) {
        pshm_edge *edge = &port->out[next_out(&outs)];
        if (edge->local || edge->policy != PSHM_POLICY_DROP_OLDEST) continue;
        uint32_t waiting = pshm_queue_depth(&edge->queue);
        if (waiting > depth) {
            depth = waiting;
            longest = edge;
        }
    }
    uint64_t cell;
    if (longest == NULL) return false;
    if (pshm_queue_pop(&longest->queue, &cell)) {
        pshm_count(&longest->record->dropped[PSHM_REASON_NO_SLOT], 1);
        drop_message(port, longest, cell);
    }
    return true;
}

/* The latest time-out of the block edges, 0 where there is none. */
static uint64_t longest_wait(const pshm_port *port, uint64_t outs) {
    uint64_t longest = 0;
    while (outs != 0) {
        const pshm_edge *edge = &port->out[next_out(&outs)];
        if (edge->policy == PSHM_POLICY_BLOCK && edge->timeout_ns > longest)
            longest = edge->timeout_ns;
    }
    return longest;
}

static uint64_t after(uint64_t now, uint64_t duration) {
    return duration > PSHM_FOREVER - now ? PSHM_FOREVER : now + duration;
}

static uint64_t sleep_until(uint64_t now, uint64_t deadline) {
    uint64_t left = deadline > now ? deadline - now : 0;
    return left < LONGEST_SLEEP_NS ? left : LONGEST_SLEEP_NS;
}

static int allocate(pshm_port *port, uint64_t outs, pshm_mapping *mapping, bool wait,
                    uint64_t *descriptor) {
    pshm_bell *bell = &port->record->bell;
    uint64_t deadline = 0;
    for (;;) {
        *descriptor = pshm_ring_alloc(&mapping->ring, &mapping->cursor);
        if (*descriptor != PSHM_NO_SLOT) return PSHM_OK;
        if (evict_for_slot(port, outs)) continue;
        uint64_t patience = wait ? longest_wait(port, outs) : 0;
        if (patience == 0) return PSHM_FULL;
        uint64_t now = pshm_now();
        if (deadline == 0) deadline = after(now, patience);
        if (now >= deadline) return PSHM_TIMED_OUT;
        if (notice(port)) return PSHM_NOTICE;
        uint32_t word = pshm_bell_arm(bell);
        *descriptor = pshm_ring_alloc(&mapping->ring, &mapping->cursor);
        if (*descriptor == PSHM_NO_SLOT && !notice(port))
            pshm_bell_wait(bell, word, sleep_until(now, deadline));
        pshm_bell_disarm(bell);
        if (*descriptor != PSHM_NO_SLOT) return PSHM_OK;
    }
}

int pshm_port_reserve(pshm_port *port, uint64_t outs, uint32_t ring, bool wait,
                      uint64_t *descriptor, void **address) {
    pshm_mapping *mapping = pshm_process_find(port->process, ring);
    if (mapping == NULL || mapping->write == NULL) return PSHM_UNMAPPED;
    int status = allocate(port, outs, mapping, wait, descriptor);
    if (status != PSHM_OK) return status;
    pshm_process_lease(port->process, mapping, *descriptor, PSHM_PRODUCER, 0);
    *address = mapping->write + pshm_descriptor_slot(*descriptor) * mapping->ring.slot_bytes;
    return PSHM_OK;
}

bool pshm_port_reference(pshm_port *port, uint64_t outs, const void *address, uint64_t bytes,
                         uint64_t *descriptor, uint64_t *offset) {
    if (!pshm_process_reference(port->process, address, bytes, descriptor, offset)) return false;
    uint32_t bits = 0;
    while (outs != 0) bits |= port->out[next_out(&outs)].mask;
    pshm_mapping *mapping = pshm_process_find(port->process, pshm_descriptor_ring(*descriptor));
    /* These bits are set by this thread alone, so "clear" stays true. */
    if (mapping != NULL && !pshm_ring_holds(&mapping->ring, *descriptor, bits)) return true;
    pshm_process_release(port->process, *descriptor);
    return false;
}

/* ---- send -------------------------------------------------------------- */

static void release_leases(pshm_port *port, pshm_post *post) {
    for (uint32_t k = 0; k < post->slots; k++)
        pshm_process_release(port->process, post->slot[k]);
    post->slots = 0;
}

static bool hold_message(pshm_port *port, const pshm_post *post, const pshm_edge *edge,
                         pshm_mapping *messages) {
    uint32_t held = 0;
    for (; held < post->slots; held++) {
        pshm_mapping *m = pshm_process_find(port->process, pshm_descriptor_ring(post->slot[held]));
        if (m == NULL || !pshm_ring_hold(&m->ring, post->slot[held], edge->mask)) break;
    }
    if (held == post->slots && pshm_ring_hold(&messages->ring, post->message, edge->mask))
        return true;
    while (held-- > 0) pshm_process_drop(port->process, post->slot[held], edge->mask);
    return false;
}

/* Sets the bits of every remote edge; those that have no receiver lose it. */
static void hold_for_edges(pshm_port *port, pshm_post *post, pshm_mapping *messages) {
    for (uint64_t outs = post->outs; outs != 0;) {
        uint32_t out = next_out(&outs);
        pshm_edge *edge = &port->out[out];
        if (edge->local) continue;
        bool ended = has_ended(edge);
        if (!ended && hold_message(port, post, edge, messages)) continue;
        if (!ended) pshm_count(&edge->record->protocol_errors, 1);
        post->outs &= ~(1ull << out);
        pshm_count(&edge->record->dropped[ended ? PSHM_REASON_ENDED : PSHM_REASON_ERROR], 1);
    }
}

static int write_message(pshm_port *port, pshm_post *post, pshm_mapping *messages,
                         const pshm_message *head, const void *body) {
    uint64_t table = sizeof *head + post->slots * sizeof(uint64_t);
    if (table + head->bytes > messages->ring.slot_bytes) return PSHM_PROTOCOL;
    int status = allocate(port, post->outs, messages, true, &post->message);
    if (status != PSHM_OK) {
        post->message = PSHM_NO_SLOT;
        return status;
    }
    uint8_t *slot =
        messages->write + pshm_descriptor_slot(post->message) * messages->ring.slot_bytes;
    memcpy(slot, head, sizeof *head);
    memcpy(slot + sizeof *head, post->slot, post->slots * sizeof(uint64_t));
    if (head->bytes != 0) memcpy(slot + table, body, head->bytes);
    return PSHM_OK;
}

int pshm_port_send(pshm_port *port, pshm_post *post, uint32_t ring, uint64_t sequence,
                   uint64_t captured_ns, uint32_t origin, uint32_t kind, uint32_t hops,
                   const void *body, uint32_t bytes) {
    uint64_t remote = 0;
    post->message = PSHM_NO_SLOT;
    post->lost = 0;
    if (post->slots > PSHM_MESSAGE_SLOTS) return PSHM_PROTOCOL;
    for (uint64_t outs = post->outs; outs != 0;) {
        uint32_t out = next_out(&outs);
        if (!port->out[out].local) remote |= 1ull << out;
    }
    uint64_t now = pshm_now();
    if (remote != 0) {
        pshm_mapping *messages = pshm_process_find(port->process, ring);
        if (messages == NULL || messages->write == NULL) return PSHM_UNMAPPED;
        pshm_message head = {.sequence = sequence,
                             .captured_ns = captured_ns,
                             .sent_ns = now,
                             .origin = origin,
                             .bytes = bytes,
                             .slots = (uint16_t)post->slots,
                             .kind = (uint16_t)kind,
                             .hops = hops};
        int status = write_message(port, post, messages, &head, body);
        if (status != PSHM_OK) return status;
    }
    for (uint64_t outs = post->outs; outs != 0;) {
        uint32_t out = next_out(&outs);
        pshm_count(&port->out[out].record->sent, 1);
        post->deadline[out] = after(now, port->out[out].timeout_ns);
    }
    if (remote != 0)
        hold_for_edges(port, post, pshm_process_find(port->process, ring));
    release_leases(port, post);
    pshm_count(&port->record->sent, 1);
    return pshm_port_resume(port, post);
}

/* Full queue: makes room, or gives up this edge. True when it is settled. */
static bool settle_full(pshm_port *port, pshm_post *post, uint32_t out, uint64_t now) {
    pshm_edge *edge = &port->out[out];
    if (edge->policy == PSHM_POLICY_DROP_NEWEST) {
        lose(port, post, out, PSHM_REASON_NEWEST);
        return true;
    }
    if (edge->policy == PSHM_POLICY_BLOCK) {
        if (now < post->deadline[out]) return false;
        lose(port, post, out, PSHM_REASON_TIMEOUT);
        return true;
    }
    uint64_t cell;
    if (pshm_queue_pop(&edge->queue, &cell)) {
        pshm_count(&edge->record->dropped[PSHM_REASON_OLDEST], 1);
        if (edge->local)
            lose_token(post, out, cell);
        else
            drop_message(port, edge, cell);
    }
    return false;
}

static void serve(pshm_port *port, pshm_post *post, uint32_t out, uint64_t now) {
    pshm_edge *edge = &port->out[out];
    uint64_t cell = edge->local ? post->token : post->message;
    /* Twice at the most: only this thread pushes, so room that an eviction or
     * the receiver made is there for it. */
    for (int attempt = 0; attempt < 2; attempt++) {
        if (has_ended(edge)) {
            lose(port, post, out, PSHM_REASON_ENDED);
            return;
        }
        if (pshm_queue_push(&edge->queue, cell)) {
            post->outs &= ~(1ull << out);
            ring_routine(port, edge->receiver);
            return;
        }
        if (settle_full(port, post, out, now)) return;
        if (edge->policy == PSHM_POLICY_BLOCK) return;
    }
}

/* Whether any edge that is still to be served could be, after the bell is armed. */
static bool can_go_on(const pshm_port *port, const pshm_post *post) {
    for (uint64_t outs = post->outs; outs != 0;) {
        const pshm_edge *edge = &port->out[next_out(&outs)];
        if (has_ended(edge) || pshm_queue_depth(&edge->queue) < edge->queue.capacity) return true;
    }
    return false;
}

static uint64_t first_deadline(const pshm_post *post) {
    uint64_t first = PSHM_FOREVER;
    for (uint64_t outs = post->outs; outs != 0;) {
        uint64_t deadline = post->deadline[next_out(&outs)];
        if (deadline < first) first = deadline;
    }
    return first;
}

static void end_post(pshm_port *port, pshm_post *post) {
    if (post->message == PSHM_NO_SLOT) return;
    pshm_process_drop(port->process, post->message, PSHM_PRODUCER);
    post->message = PSHM_NO_SLOT;
}

int pshm_port_resume(pshm_port *port, pshm_post *post) {
    pshm_bell *bell = &port->record->bell;
    for (;;) {
        uint64_t now = pshm_now();
        for (uint64_t outs = post->outs; outs != 0;) serve(port, post, next_out(&outs), now);
        if (post->outs == 0) break;
        if (notice(port)) return PSHM_NOTICE;
        uint32_t word = pshm_bell_arm(bell);
        if (!can_go_on(port, post) && !notice(port))
            pshm_bell_wait(bell, word, sleep_until(now, first_deadline(post)));
        pshm_bell_disarm(bell);
    }
    end_post(port, post);
    return PSHM_OK;
}

void pshm_port_abandon(pshm_port *port, pshm_post *post, uint32_t reason) {
    bool sent = post->message != PSHM_NO_SLOT;
    for (uint64_t outs = post->outs; outs != 0;) {
        uint32_t out = next_out(&outs);
        /* every offered message counts as sent, so that sent = received +
         * dropped + waiting */
        if (!sent) pshm_count(&port->out[out].record->sent, 1);
        lose(port, post, out, reason);
    }
    release_leases(port, post);
    end_post(port, post);
}

/* ---- receive ----------------------------------------------------------- */

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

/* ---- end of stream ----------------------------------------------------- */

void pshm_port_close_outs(pshm_port *port) {
    for (uint32_t out = 0; out < port->outs; out++) {
        pshm_edge *edge = &port->out[out];
        if (edge->record == NULL) continue;
        pshm_queue_close(&edge->queue);
        ring_routine(port, edge->receiver);
    }
}

void pshm_port_end_ins(pshm_port *port) {
    for (uint32_t in = 0; in < port->ins; in++) {
        pshm_edge *edge = &port->in[in];
        /* seq_cst, before the bell: a blocked sender looks at it */
        __atomic_store_n(&edge->record->receiver_ended, 1, __ATOMIC_SEQ_CST);
        ring_routine(port, edge->sender);
    }
}
