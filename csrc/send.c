#include "send.h"

#include <string.h>

#include "handing.h"
#include "points.h"
#include "port_parts.h"
#include "tickets.h"
#include "trace.h"

/* ---- counts and leases ----------------------------------------------------------------- */

/* From here on the edge accounts for the message: sent = received + dropped + waiting. */
static void offer(pshm_edge *edge) {
    PSHM_POINT();
    pshm_count_own(&edge->incarnation->offered);
    PSHM_POINT();
    pshm_count(&edge->record->sent, 1);
}

/* The routine is done with the messages that this one is made of. */
static void count_handled(pshm_port *port, pshm_post *post) {
    PSHM_POINT();
    pshm_count(&port->record->handled, post->handled);
    post->handled = 0;
}

static void release_leases(pshm_port *port, pshm_post *post) {
    for (uint32_t k = 0; k < post->slots; k++) pshm_process_release(port->process, post->slot[k]);
    post->slots = 0;
}

/* ---- step 1: the message slot ---------------------------------------------------------- */

static int write_message(pshm_port *port, pshm_post *post, pshm_mapping *messages,
                         const pshm_message *head, const void *body) {
    uint64_t table = sizeof *head + post->slots * sizeof(uint64_t);
    if (table + head->bytes > messages->ring.slot_bytes) return PSHM_PROTOCOL;
    int status = pshm_port_allocate(port, post->outs, messages, &post->message);
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

/* ---- steps 2 and 3: the holder bits ---------------------------------------------------- */

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

/* Sets the bits of every remote edge. An edge whose receiver has ended drops the message. */
static void hold_for_edges(pshm_port *port, pshm_post *post, pshm_mapping *messages) {
    for (uint64_t outs = post->outs; outs != 0;) {
        uint32_t out = next_out(&outs);
        pshm_edge *edge = &port->out[out];
        if (edge->local) continue;
        PSHM_POINT();
        bool ended = pshm_edge_has_ended(edge);
        if (!ended && hold_message(port, post, edge, messages)) continue;
        if (!ended) pshm_count(&edge->record->protocol_errors, 1);
        post->outs &= ~(1ull << out);
        uint32_t reason = ended ? PSHM_REASON_ENDED : PSHM_REASON_ERROR;
        if (pshm_trace_is_on())
            pshm_port_trace_drop(port, PSHM_TRACE_DROP, reason, edge->receiver, post->origin,
                                 post->sequence);
        PSHM_POINT();
        pshm_handing_settle(edge, post->sequence);
        PSHM_POINT();
        pshm_count(&edge->record->dropped[reason], 1);
        PSHM_POINT();
        pshm_count_own(&edge->incarnation->settled);
    }
}

static bool any_is_remote(const pshm_port *port, uint64_t outs) {
    while (outs != 0)
        if (!port->out[next_out(&outs)].local) return true;
    return false;
}

/* One section of `sending`: a recovery in another thread finds all of the bits, and the
 * post that they belong to, or none. */
static void offer_and_hold(pshm_port *port, pshm_post *post, pshm_mapping *messages,
                           uint64_t now) {
    pthread_mutex_lock(&port->sending);
    for (uint64_t outs = post->outs; outs != 0;) {
        uint32_t out = next_out(&outs);
        offer(&port->out[out]);
        post->deadline[out] = after(now, port->out[out].timeout_ns);
    }
    post->offered = 1;
    count_handled(port, post);
    if (messages != NULL) hold_for_edges(port, post, messages);
    port->post = post;
    pthread_mutex_unlock(&port->sending);
}

/* ---- steps 4 and 5: the pushes --------------------------------------------------------- */

/* Pushes the post on one edge, if there is room or its policy makes some. */
static void serve(pshm_port *port, pshm_post *post, uint32_t out, uint64_t now) {
    pshm_edge *edge = &port->out[out];
    uint64_t cell = edge->local ? post->token : post->message;
    /* Twice at most: only this thread pushes, so the room that was made is there for us. */
    for (int attempt = 0; attempt < 2; attempt++) {
        PSHM_POINT();
        if (pshm_edge_has_ended(edge)) {
            pshm_policy_give_up(port, post, out, PSHM_REASON_ENDED);
            return;
        }
        if (post->ticket != 0) pshm_tickets_announce(edge, post->ticket);
        PSHM_POINT();
        pshm_handing_begin(edge, post->sequence);
        if (pshm_queue_push(&edge->queue, cell)) {
            post->outs &= ~(1ull << out);
            if (post->ticket != 0) pshm_tickets_confirm(edge, post->ticket);
            PSHM_POINT();
            pshm_count_own(&edge->incarnation->settled);
            PSHM_POINT();
            /* A receiver that has ended since the look above may have looked at its queue
             * for the last time before this push. Then our message is all that is in it. */
            if (pshm_edge_has_ended(edge))
                pshm_policy_evict(port, post, out, edge, PSHM_REASON_ENDED);
            ring_routine(port, edge->receiver);
            return;
        }
        if (pshm_policy_make_room(port, post, out, now) != PSHM_ROOM_MADE) return;
    }
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
        if (post->outs == 0) {
            if (pshm_trace_is_on())
                pshm_port_trace(port, PSHM_TRACE_SEND, 0, post->origin, post->sequence,
                                post->began_ns, 0);
            return post->lost == 0 ? PSHM_OK : PSHM_LOST;
        }
        if (must_not_sleep(port)) return PSHM_NOTICE;
        uint32_t word = pshm_bell_arm(bell);
        if (!pshm_policy_has_room(port, post->outs) && !has_notice(port)) {
            uint64_t asleep = pshm_trace_start();
            pshm_bell_wait(bell, word, sleep_until(now, pshm_policy_first_deadline(post)));
            pshm_port_trace(port, PSHM_TRACE_ROOM, 0, post->origin, post->sequence, asleep, 0);
        }
        pshm_bell_disarm(bell);
    }
}

/* ---- the whole ------------------------------------------------------------------------- */

int pshm_port_send(pshm_port *port, pshm_post *post, uint32_t ring, uint64_t sequence,
                   uint64_t captured_ns, uint32_t origin, uint32_t kind, uint32_t head_bytes,
                   const void *body, uint32_t bytes) {
    pshm_mapping *messages = NULL;
    pshm_port_end_call(port);
    post->message = PSHM_NO_SLOT;
    post->lost = 0;
    if (post->slots > PSHM_MESSAGE_SLOTS) return PSHM_PROTOCOL;
    uint64_t now = pshm_now();
    post->began_ns = now;
    post->sequence = sequence;
    post->origin = origin;
    if (any_is_remote(port, post->outs)) {
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
    offer_and_hold(port, post, messages, now);
    release_leases(port, post);
    PSHM_POINT();
    return pshm_port_resume(port, post);
}

int pshm_port_hand_over(pshm_port *port, pshm_post *post, uint64_t outs, uint64_t token,
                        uint32_t handled, uint64_t sequence, uint32_t origin) {
    post->outs = outs;
    post->token = token;
    post->handled = handled;
    return pshm_port_send(port, post, 0, sequence, 0, origin, 0, 0, NULL, 0);
}

void pshm_port_abandon(pshm_port *port, pshm_post *post, uint32_t reason) {
    pthread_mutex_lock(&port->sending);
    for (uint64_t outs = post->outs; outs != 0;) {
        uint32_t out = next_out(&outs);
        if (post->offered == 0) offer(&port->out[out]);
        pshm_policy_give_up(port, post, out, reason);
    }
    count_handled(port, post);
    end_post(port, post);
    pthread_mutex_unlock(&port->sending);
    release_leases(port, post);
}
