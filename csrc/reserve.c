/* The slots of a message before it is sent: see send.h. */
#include "points.h"
#include "port_parts.h"
#include "send.h"
#include "trace.h"

int pshm_port_allocate(pshm_port *port, uint64_t outs, pshm_mapping *mapping,
                       uint64_t *descriptor) {
    pshm_bell *bell = &port->record->bell;
    uint64_t deadline = 0;
    for (;;) {
        *descriptor = pshm_ring_alloc(&mapping->ring);
        if (*descriptor != PSHM_NO_SLOT) return PSHM_OK;
        if (pshm_policy_evict_for_slot(port, outs)) continue;
        uint64_t patience = pshm_policy_patience(port, outs);
        if (patience == 0) return PSHM_FULL;
        uint64_t now = pshm_now();
        if (deadline == 0) deadline = after(now, patience);
        if (now >= deadline) return PSHM_TIMED_OUT;
        if (must_not_sleep(port)) return PSHM_NOTICE;
        uint32_t word = pshm_bell_arm(bell);
        *descriptor = pshm_ring_alloc(&mapping->ring);
        if (*descriptor == PSHM_NO_SLOT && !has_notice(port)) {
            uint64_t asleep = pshm_trace_start();
            pshm_bell_wait(bell, word, sleep_until(now, deadline));
            pshm_port_trace_call(port, PSHM_TRACE_SLOT, 0, asleep);
        }
        pshm_bell_disarm(bell);
        if (*descriptor != PSHM_NO_SLOT) return PSHM_OK;
    }
}

int pshm_port_reserve(pshm_port *port, uint64_t outs, uint32_t ring, uint64_t *descriptor,
                      void **address) {
    pshm_port_end_call(port);
    pshm_mapping *mapping = pshm_process_find(port->process, ring);
    if (mapping == NULL || mapping->write == NULL) return PSHM_UNMAPPED;
    uint64_t began = pshm_trace_start();
    int status = pshm_port_allocate(port, outs, mapping, descriptor);
    pshm_port_trace_call(port, PSHM_TRACE_LOAN, 0, began);
    if (status != PSHM_OK) return status;
    pshm_process_lease(port->process, mapping, *descriptor, PSHM_PRODUCER, 0);
    *address = mapping->write + pshm_descriptor_slot(*descriptor) * mapping->ring.slot_bytes;
    return PSHM_OK;
}

/* Whether all of the edges can carry the slot, and none holds it yet. Only this thread sets
 * their bits, so the answer stays true. */
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

/* The place of a slot among the post's; post->slots when it is not one of them. */
static uint32_t place_of(const pshm_post *post, uint64_t descriptor) {
    uint32_t place = 0;
    while (place < post->slots && place < PSHM_MESSAGE_SLOTS && post->slot[place] != descriptor)
        place++;
    return place;
}

uint64_t pshm_port_refer(pshm_port *port, pshm_post *post, uint64_t outs, const void *address,
                         uint64_t bytes) {
    uint64_t descriptor, offset;
    if (!pshm_process_reference(port->process, address, bytes, &descriptor, &offset))
        return PSHM_NO_SLOT;
    uint32_t place = place_of(post, descriptor);
    if (place == post->slots && place < PSHM_MESSAGE_SLOTS - 1 &&
        can_carry(port, outs, descriptor)) {
        post->slot[post->slots++] = descriptor;
        return pshm_reference(place, offset);
    }
    pshm_process_release(port->process, descriptor);
    return place < post->slots ? pshm_reference(place, offset) : PSHM_NO_SLOT;
}
