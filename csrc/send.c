/* The sending half of a port: see port.h. */
#include <string.h>

#include "points.h"
#include "port_parts.h"

/* ---- what an edge holds of a message ---------------------------------- */

/* Drops the edge's bits of a message that its receiver will not see. Payload
 * first: the message slot's bit keeps the list of them in being. */
static void drop_message(pshm_port *port, const pshm_edge *edge, uint64_t cell) {
    pshm_mapping *mapping;
    const pshm_message *message = message_at(port->process, cell, &mapping);
    if (message == NULL || !pshm_ring_holds(&mapping->ring, cell, edge->mask)) {
        pshm_count(&edge->record->protocol_errors, 1);
        return;
    }
    for (uint32_t k = 0, slots = slots_of(message, mapping); k < slots; k++)
        pshm_process_drop(port->process, slot_of(message, k), edge->mask);
    pshm_process_drop(port->process, cell, edge->mask);
}

/* At most two of an edge, the new one and one that it evicts; more come of damage. */
static void lose_token(pshm_post *post, uint32_t out, uint64_t token) {
    if (post->lost >= 2 * PSHM_OUTS) return;
    post->lost_out[post->lost] = out;
    post->lost_token[post->lost++] = token;
}

/* Before the push: what may be pushed counts as such, also if we die now. */
static void announce(pshm_edge *edge, uint64_t ticket) {
    uint64_t *announced = &edge->record->ticket_announced;
    if (*announced == ticket) return; /* it has waited for room since */
    edge->ticket_before = *announced;
    PSHM_POINT();
    __atomic_store_n(announced, ticket, __ATOMIC_RELEASE);
}

/* After the push, and not before: whoever finds the queue empty then takes it
 * that the message is gone. */
static void confirm(pshm_edge *edge, uint64_t ticket) {
    PSHM_POINT();
    __atomic_store_n(&edge->record->ticket_pushed, ticket, __ATOMIC_RELEASE);
}

static void withdraw(pshm_edge *edge, uint64_t ticket) {
    if (ticket == 0 || edge->record->ticket_announced != ticket) return;
    PSHM_POINT();
    __atomic_store_n(&edge->record->ticket_announced, edge->ticket_before, __ATOMIC_RELEASE);
}

/* One edge gets this message no more. */
static void lose(pshm_port *port, pshm_post *post, uint32_t out, uint32_t reason) {
    pshm_edge *edge = &port->out[out];
    post->outs &= ~(1ull << out);
    withdraw(edge, post->ticket);
    if (edge->local)
        lose_token(post, out, post->token);
    else if (post->message != PSHM_NO_SLOT)
        drop_message(port, edge, post->message);
    PSHM_POINT();
    pshm_count(&edge->record->dropped[reason], 1);
    PSHM_POINT();
    pshm_count_own(&edge->incarnation->settled);
}

/* Takes the oldest cell back, for a newer one or for its slot. */
static bool evict_from(pshm_port *port, pshm_post *post, uint32_t out, pshm_edge *edge,
                       uint32_t reason) {
    uint64_t cell;
    if (!pshm_queue_pop(&edge->queue, &cell)) return false;
    if (edge->local)
        lose_token(post, out, cell);
    else
        drop_message(port, edge, cell);
    PSHM_POINT();
    pshm_count(&edge->record->dropped[reason], 1);
    PSHM_POINT();
    pshm_count_own(&edge->incarnation->evicted);
    return true;
}

static bool evict(pshm_port *port, pshm_post *post, uint32_t out, uint32_t reason) {
    return evict_from(port, post, out, &port->out[out], reason);
}

/* ---- slots ------------------------------------------------------------- */

/* Evicts from the drop_oldest edge with the longest queue; false if all are
 * empty. */
static bool evict_for_slot(pshm_port *port, uint64_t outs) {
    uint32_t longest = PSHM_OUTS, depth = 0;
    while (outs != 0) {
        uint32_t out = next_out(&outs);
        pshm_edge *edge = &port->out[out];
        if (edge->local || edge->policy != PSHM_POLICY_DROP_OLDEST) continue;
        uint32_t waiting = pshm_queue_depth(&edge->queue);
        if (waiting <= depth) continue;
        depth = waiting;
        longest = out;
    }
    if (longest == PSHM_OUTS) return false;
    pthread_mutex_lock(&port->sending);
    evict(port, NULL, longest, PSHM_REASON_NO_SLOT);
    pthread_mutex_unlock(&port->sending);
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

static int allocate(pshm_port *port, uint64_t outs, pshm_mapping *mapping, uint64_t *descriptor) {
    pshm_bell *bell = &port->record->bell;
    uint64_t deadline = 0;
    for (;;) {
        *descriptor = pshm_ring_alloc(&mapping->ring, &mapping->cursor);
        if (*descriptor != PSHM_NO_SLOT) return PSHM_OK;
        if (evict_for_slot(port, outs)) continue;
        uint64_t patience = longest_wait(port, outs);
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

int pshm_port_reserve(pshm_port *port, uint64_t outs, uint32_t ring, uint64_t *descriptor,
                      void **address) {
    pshm_port_end_call(port);
    pshm_mapping *mapping = pshm_process_find(port->process, ring);
    if (mapping == NULL || mapping->write == NULL) return PSHM_UNMAPPED;
    int status = allocate(port, outs, mapping, descriptor);
    if (status != PSHM_OK) return status;
    pshm_process_lease(port->process, mapping, *descriptor, PSHM_PRODUCER, 0);
    *address = mapping->write + pshm_descriptor_slot(*descriptor) * mapping->ring.slot_bytes;
    return PSHM_OK;
}

/* Whether the edges can carry the slot. Their bits are set by this thread alone, so
 * "none of them holds it" stays true. */
static bool can_carry(const pshm_port *port, uint64_t outs, uint64_t descriptor) {
    const pshm_mapping *mapping =
        pshm_process_find(port->process, pshm_descriptor_ring(descriptor));
    uint32_t bits = 0;
    if (mapping == NULL) return false;
    while (outs != 0) {
        const pshm_edge *edge = &port->out[next_out(&outs)];
        if (edge->local) continue;
        if (!pshm_edge_reaches(edge, mapping->ring.owner)) return false;
        bits |= edge->mask;
    }
    return !pshm_ring_holds(&mapping->ring, descriptor, bits);
}

uint64_t pshm_port_refer(pshm_port *port, pshm_post *post, uint64_t outs, const void *address,
                         uint64_t bytes) {
    uint64_t descriptor, offset;
    if (!pshm_process_reference(port->process, address, bytes, &descriptor, &offset))
        return PSHM_NO_SLOT;
    uint32_t place = 0;
    while (place < post->slots && place < PSHM_MESSAGE_SLOTS && post->slot[place] != descriptor)
        place++;
    if (place == post->slots && place < PSHM_MESSAGE_SLOTS - 1 &&
        can_carry(port, outs, descriptor)) {
        post->slot[post->slots++] = descriptor;
        return (uint64_t)place << PSHM_OFFSET_BITS | offset;
    }
    pshm_process_release(port->process, descriptor);
    return place < post->slots ? (uint64_t)place << PSHM_OFFSET_BITS | offset : PSHM_NO_SLOT;
}

/* ---- send -------------------------------------------------------------- */

/* From here on the message counts: sent = received + dropped + waiting. */
static void offer(pshm_edge *edge) {
    PSHM_POINT();
    pshm_count_own(&edge->incarnation->offered);
    PSHM_POINT();
    pshm_count(&edge->record->sent, 1);
}

/* What it was made of is in nobody's hands any more. */
static void count_handled(pshm_port *port, pshm_post *post) {
    PSHM_POINT();
    pshm_count(&port->record->handled, post->handled);
    post->handled = 0;
}

static void release_leases(pshm_port *port, pshm_post *post) {
    for (uint32_t k = 0; k < post->slots; k++) pshm_process_release(port->process, post->slot[k]);
    post->slots = 0;
}

static bool hold_message(pshm_port *port, const pshm_post *post, const pshm_edge *edge,
                         pshm_mapping *messages) {
    uint32_t held = 0;
    for (; held < post->slots; held++) {
        pshm_mapping *m =
            pshm_process_find(port->process, pshm_descriptor_ring(post->slot[held]));
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
        PSHM_POINT();
        bool ended = has_ended(edge);
        if (!ended && hold_message(port, post, edge, messages)) continue;
        if (!ended) pshm_count(&edge->record->protocol_errors, 1);
        post->outs &= ~(1ull << out);
        PSHM_POINT();
        pshm_count(&edge->record->dropped[ended ? PSHM_REASON_ENDED : PSHM_REASON_ERROR], 1);
        PSHM_POINT();
        pshm_count_own(&edge->incarnation->settled);
    }
}

static int write_message(pshm_port *port, pshm_post *post, pshm_mapping *messages,
                         const pshm_message *head, const void *body) {
    uint64_t table = sizeof *head + post->slots * sizeof(uint64_t);
    if (table + head->bytes > messages->ring.slot_bytes) return PSHM_PROTOCOL;
    int status = allocate(port, post->outs, messages, &post->message);
    if (status != PSHM_OK) {
        post->message = PSHM_NO_SLOT;
        return status;
    }
    uint8_t *slot =
        messages->write + pshm_descriptor_slot(post->message) * messages->ring.slot_bytes;
    PSHM_POINT();
    memcpy(slot, head, sizeof *head);
    PSHM_POINT();
    memcpy(slot + sizeof *head, post->slot, post->slots * sizeof(uint64_t));
    PSHM_POINT();
    if (head->bytes != 0) memcpy(slot + table, body, head->bytes);
    return PSHM_OK;
}

int pshm_port_send(pshm_port *port, pshm_post *post, uint32_t ring, uint64_t sequence,
                   uint64_t captured_ns, uint32_t origin, uint32_t kind, uint32_t head_bytes,
                   const void *body, uint32_t bytes) {
    uint64_t remote = 0;
    pshm_mapping *messages = NULL;
    pshm_port_end_call(port);
    post->message = PSHM_NO_SLOT;
    post->lost = 0;
    if (post->slots > PSHM_MESSAGE_SLOTS) return PSHM_PROTOCOL;
    for (uint64_t outs = post->outs; outs != 0;) {
        uint32_t out = next_out(&outs);
        if (!port->out[out].local) remote |= 1ull << out;
    }
    uint64_t now = pshm_now();
    if (remote != 0) {
        messages = pshm_process_find(port->process, ring);
        if (messages == NULL || messages->write == NULL) return PSHM_UNMAPPED;
        pshm_message head = {.sequence = sequence,
                             .captured_ns = captured_ns,
                             .sent_ns = now,
                             .origin = origin,
                             .bytes = bytes,
                             .slots = (uint16_t)post->slots,
                             .kind = (uint16_t)kind,
                             .head = head_bytes};
        int status = write_message(port, post, messages, &head, body);
        if (status != PSHM_OK) return status;
    }
    pthread_mutex_lock(&port->sending);
    for (uint64_t outs = post->outs; outs != 0;) {
        uint32_t out = next_out(&outs);
        offer(&port->out[out]);
        post->deadline[out] = after(now, port->out[out].timeout_ns);
    }
    post->offered = 1;
    count_handled(port, post);
    if (remote != 0) hold_for_edges(port, post, messages);
    port->post = post;
    pthread_mutex_unlock(&port->sending);
    release_leases(port, post);
    PSHM_POINT();
    return pshm_port_resume(port, post);
}

int pshm_port_hand_over(pshm_port *port, pshm_post *post, uint64_t outs, uint64_t token,
                        uint32_t handled) {
    post->outs = outs;
    post->token = token;
    post->handled = handled;
    return pshm_port_send(port, post, 0, 0, 0, 0, 0, 0, NULL, 0);
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
    evict(port, post, out, PSHM_REASON_OLDEST);
    return false;
}

static void serve(pshm_port *port, pshm_post *post, uint32_t out, uint64_t now) {
    pshm_edge *edge = &port->out[out];
    uint64_t cell = edge->local ? post->token : post->message;
    /* Twice at the most: only this thread pushes, so room that an eviction or
     * the receiver made is there for it. */
    for (int attempt = 0; attempt < 2; attempt++) {
        PSHM_POINT();
        if (has_ended(edge)) {
            lose(port, post, out, PSHM_REASON_ENDED);
            return;
        }
        if (post->ticket != 0) announce(edge, post->ticket);
        if (pshm_queue_push(&edge->queue, cell)) {
            post->outs &= ~(1ull << out);
            if (post->ticket != 0) confirm(edge, post->ticket);
            PSHM_POINT();
            pshm_count_own(&edge->incarnation->settled);
            PSHM_POINT();
            /* A receiver that has ended since the look above may have looked at its
             * queue for the last time before the push: then this is all there is. */
            if (has_ended(edge)) evict(port, post, out, PSHM_REASON_ENDED);
            ring_routine(port, edge->receiver);
            return;
        }
        if (settle_full(port, post, out, now)) return;
        if (edge->policy == PSHM_POLICY_BLOCK) return;
    }
}

/* Whether a message could be pushed on any of the edges, or has nowhere to go. */
static bool any_has_room(const pshm_port *port, uint64_t outs) {
    while (outs != 0) {
        const pshm_edge *edge = &port->out[next_out(&outs)];
        PSHM_POINT();
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
    port->post = NULL;
    post->offered = 0;
    post->ticket = 0;
    if (post->message == PSHM_NO_SLOT) return;
    pshm_process_drop(port->process, post->message, PSHM_PRODUCER);
    post->message = PSHM_NO_SLOT;
}

int pshm_port_resume(pshm_port *port, pshm_post *post) {
    pshm_bell *bell = &port->record->bell;
    pshm_port_end_call(port);
    for (;;) {
        uint64_t now = pshm_now();
        pthread_mutex_lock(&port->sending);
        for (uint64_t outs = post->outs; outs != 0;) serve(port, post, next_out(&outs), now);
        if (post->outs == 0) end_post(port, post);
        pthread_mutex_unlock(&port->sending);
        if (post->outs == 0) return post->lost == 0 ? PSHM_OK : PSHM_LOST;
        if (notice(port)) return PSHM_NOTICE;
        uint32_t word = pshm_bell_arm(bell);
        if (!any_has_room(port, post->outs) && !notice(port))
            pshm_bell_wait(bell, word, sleep_until(now, first_deadline(post)));
        pshm_bell_disarm(bell);
    }
}

/* What a receiver has before it on an edge, and in its hands; far more when there
 * is no room for more. */
static uint64_t load_of(const pshm_port *port, const pshm_edge *edge) {
    const pshm_routine_record *receiver = &port->process->control.routine[edge->receiver];
    uint64_t handled = __atomic_load_n(&receiver->handled, __ATOMIC_RELAXED);
    uint64_t received = __atomic_load_n(&receiver->received, __ATOMIC_RELAXED);
    uint64_t in_hand = received > handled ? received - handled : 0;
    uint32_t depth = pshm_queue_depth(&edge->queue);
    if (has_ended(edge)) return UINT64_MAX;
    return depth + in_hand + (depth < edge->queue.capacity ? 0 : 1ull << 32);
}

uint32_t pshm_port_choose(pshm_port *port, uint64_t outs) {
    uint64_t least = UINT64_MAX, last = port->chosen & outs, later = outs & ~((last << 1) - 1);
    uint32_t best = PSHM_OUTS;
    for (int round = 0; round < 2; round++) { /* those after the last one first */
        for (uint64_t some = round == 0 ? later : outs & ~later; some != 0;) {
            uint32_t out = next_out(&some);
            uint64_t load = load_of(port, &port->out[out]);
            if (best != PSHM_OUTS && load >= least) continue;
            best = out;
            least = load;
        }
    }
    port->chosen &= ~outs;
    if (best != PSHM_OUTS) port->chosen |= 1ull << best;
    return best;
}

int pshm_port_await_room(pshm_port *port, uint64_t outs, uint64_t timeout_ns) {
    pshm_bell *bell = &port->record->bell;
    uint64_t deadline = 0;
    pshm_port_end_call(port);
    for (;;) {
        if (outs == 0 || any_has_room(port, outs)) return PSHM_OK;
        if (notice(port)) return PSHM_NOTICE;
        uint64_t now = pshm_now();
        if (deadline == 0) deadline = after(now, timeout_ns);
        if (now >= deadline) return PSHM_TIMED_OUT;
        bool undisturbed = true;
        uint32_t word = pshm_bell_arm(bell);
        if (!any_has_room(port, outs) && !notice(port))
            undisturbed = pshm_bell_wait(bell, word, sleep_until(now, deadline));
        pshm_bell_disarm(bell);
        if (!undisturbed) return PSHM_TIMED_OUT; /* Python's signal handlers run between calls */
    }
}

int pshm_port_rest(pshm_port *port, uint64_t timeout_ns) {
    uint64_t now = pshm_now(), deadline = after(now, timeout_ns);
    pshm_port_end_call(port);
    for (;;) {
        uint32_t word = pshm_bell_word(&port->record->bell); /* before the look: see bell.h */
        if (notice(port)) return PSHM_NOTICE;
        if (now >= deadline) return PSHM_TIMED_OUT;
        bool undisturbed = pshm_bell_wait(&port->record->bell, word, sleep_until(now, deadline));
        if (!undisturbed) return PSHM_TIMED_OUT;
        now = pshm_now();
    }
}

void pshm_port_abandon(pshm_port *port, pshm_post *post, uint32_t reason) {
    pthread_mutex_lock(&port->sending);
    for (uint64_t outs = post->outs; outs != 0;) {
        uint32_t out = next_out(&outs);
        if (post->offered == 0) offer(&port->out[out]);
        lose(port, post, out, reason);
    }
    count_handled(port, post);
    end_post(port, post);
    pthread_mutex_unlock(&port->sending);
    release_leases(port, post);
}

void pshm_port_discard_unread(pshm_port *port, uint32_t incarnation) {
    pshm_edge edge; /* of its own: the wire may have been unlinked since */
    if (!pshm_edge_attach(&edge, &port->process->control, incarnation) || edge.local) return;
    pthread_mutex_lock(&port->sending);
    while (evict_from(port, NULL, PSHM_OUTS, &edge, PSHM_REASON_ENDED)) continue;
    pthread_mutex_unlock(&port->sending);
}

void pshm_port_remove_out(pshm_port *port, uint32_t out) {
    if (out >= PSHM_OUTS) return;
    pthread_mutex_lock(&port->sending);
    pshm_post *post = port->post;
    if (post != NULL && (post->outs >> out & 1) != 0) lose(port, post, out, PSHM_REASON_ENDED);
    memset(&port->out[out], 0, sizeof port->out[out]);
    pthread_mutex_unlock(&port->sending);
}
