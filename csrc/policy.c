#include "policy.h"

#include "handing.h"
#include "points.h"
#include "port_parts.h"
#include "send.h"
#include "tickets.h"
#include "trace.h"

/* ---- dropping a message ---------------------------------------------------------------- */

void pshm_policy_drop_message(pshm_process *process, const pshm_edge *edge, uint64_t cell) {
    pshm_mapping *mapping;
    const pshm_message *message = pshm_message_at(process, cell, &mapping);
    if (message == NULL || !pshm_ring_holds(&mapping->ring, cell, edge->mask)) {
        pshm_count(&edge->record->protocol_errors, 1);
        return;
    }
    for (uint32_t k = 0, slots = pshm_message_slots(message, mapping); k < slots; k++)
        pshm_process_drop(process, pshm_message_slot(message, k), edge->mask);
    pshm_process_drop(process, cell, edge->mask);
}

/* Says which message it is that the sender takes back. */
static void trace_eviction(pshm_port *port, const pshm_edge *edge, uint64_t cell,
                           uint32_t reason) {
    pshm_mapping *mapping;
    const pshm_message *message =
        edge->local ? NULL : pshm_message_at(port->process, cell, &mapping);
    if (message != NULL)
        pshm_port_trace_drop(port, PSHM_TRACE_DROP, reason, edge->receiver, message->origin,
                             message->sequence);
    else
        pshm_port_trace_drop(port, edge->local ? PSHM_TRACE_TAKEN : PSHM_TRACE_DROP, reason,
                             edge->receiver, PSHM_TRACE_NO_FRAME, cell);
}

/* Each edge loses two at most, the new one and one that it takes back. Only damage makes
 * more of them. */
static void lose_token(pshm_post *post, uint32_t out, uint64_t token) {
    if (post->lost >= 2 * PSHM_OUTS) return;
    post->lost_out[post->lost] = out;
    post->lost_token[post->lost++] = token;
}

void pshm_policy_give_up(pshm_port *port, pshm_post *post, uint32_t out, uint32_t reason) {
    pshm_edge *edge = &port->out[out];
    post->outs &= ~(1ull << out);
    pshm_tickets_withdraw(edge, post->ticket);
    if (pshm_trace_is_on())
        pshm_port_trace_drop(port, PSHM_TRACE_DROP, reason, edge->receiver, post->origin,
                             post->sequence);
    if (edge->local)
        lose_token(post, out, post->token);
    else if (post->message != PSHM_NO_SLOT)
        pshm_policy_drop_message(port->process, edge, post->message);
    if (post->offered != 0) { /* else it is one that was not made, and has no number yet */
        PSHM_POINT();
        pshm_handing_settle(edge, post->sequence);
    }
    PSHM_POINT();
    pshm_count(&edge->record->dropped[reason], 1);
    PSHM_POINT();
    pshm_count_own(&edge->incarnation->settled);
}

bool pshm_policy_evict(pshm_port *port, pshm_post *post, uint32_t out, pshm_edge *edge,
                       uint32_t reason) {
    uint64_t cell;
    if (!pshm_queue_pop(&edge->queue, &cell)) return false;
    if (pshm_trace_is_on()) trace_eviction(port, edge, cell, reason);
    if (edge->local)
        lose_token(post, out, cell);
    else
        pshm_policy_drop_message(port->process, edge, cell);
    PSHM_POINT();
    pshm_count(&edge->record->dropped[reason], 1);
    PSHM_POINT();
    pshm_count_own(&edge->incarnation->evicted);
    return true;
}

/* ---- a full queue ---------------------------------------------------------------------- */

enum pshm_room pshm_policy_make_room(pshm_port *port, pshm_post *post, uint32_t out,
                                     uint64_t now) {
    pshm_edge *edge = &port->out[out];
    switch (edge->policy) {
    case PSHM_POLICY_DROP_NEWEST:
        pshm_policy_give_up(port, post, out, PSHM_REASON_NEWEST);
        return PSHM_ROOM_REFUSED;
    case PSHM_POLICY_BLOCK:
        if (now < post->deadline[out]) return PSHM_ROOM_AWAITED;
        pshm_policy_give_up(port, post, out, PSHM_REASON_TIMEOUT);
        return PSHM_ROOM_REFUSED;
    default: /* drop_oldest, and a number that damage has left */
        pshm_policy_evict(port, post, out, edge, PSHM_REASON_OLDEST);
        return PSHM_ROOM_MADE;
    }
}

uint64_t pshm_policy_first_deadline(const pshm_post *post) {
    uint64_t first = PSHM_FOREVER;
    for (uint64_t outs = post->outs; outs != 0;) {
        uint64_t deadline = post->deadline[next_out(&outs)];
        if (deadline < first) first = deadline;
    }
    return first;
}

bool pshm_policy_has_room(const pshm_port *port, uint64_t outs) {
    while (outs != 0) {
        const pshm_edge *edge = &port->out[next_out(&outs)];
        PSHM_POINT();
        if (pshm_edge_has_ended(edge) || pshm_queue_depth(&edge->queue) < edge->queue.capacity)
            return true;
    }
    return false;
}

int pshm_port_await_room(pshm_port *port, uint64_t outs, uint64_t timeout_ns) {
    pshm_bell *bell = &port->record->bell;
    uint64_t deadline = 0;
    pshm_port_end_call(port);
    for (;;) {
        if (outs == 0 || pshm_policy_has_room(port, outs)) return PSHM_OK;
        if (has_notice(port)) return PSHM_NOTICE;
        uint64_t now = pshm_now();
        if (deadline == 0) deadline = after(now, timeout_ns);
        if (now >= deadline) return PSHM_TIMED_OUT;
        bool undisturbed = true;
        uint32_t word = pshm_bell_arm(bell);
        if (!pshm_policy_has_room(port, outs) && !has_notice(port))
            undisturbed = pshm_bell_wait(bell, word, sleep_until(now, deadline));
        pshm_bell_disarm(bell);
        if (!undisturbed) return PSHM_TIMED_OUT; /* Python handles signals between calls */
    }
}

void pshm_port_discard_unread(pshm_port *port, uint32_t incarnation) {
    pshm_edge edge; /* not one in port->out[], which may be unlinked since */
    if (!pshm_edge_attach(&edge, &port->process->control, incarnation) || edge.local) return;
    pthread_mutex_lock(&port->sending);
    while (pshm_policy_evict(port, NULL, PSHM_OUTS, &edge, PSHM_REASON_ENDED)) continue;
    pthread_mutex_unlock(&port->sending);
}

/* ---- no free slot ---------------------------------------------------------------------- */

bool pshm_policy_evict_for_slot(pshm_port *port, uint64_t outs) {
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
    pshm_policy_evict(port, NULL, longest, &port->out[longest], PSHM_REASON_NO_SLOT);
    pthread_mutex_unlock(&port->sending);
    return true;
}

uint64_t pshm_policy_patience(const pshm_port *port, uint64_t outs) {
    uint64_t longest = 0;
    while (outs != 0) {
        const pshm_edge *edge = &port->out[next_out(&outs)];
        if (edge->policy == PSHM_POLICY_BLOCK && edge->timeout_ns > longest)
            longest = edge->timeout_ns;
    }
    return longest;
}
