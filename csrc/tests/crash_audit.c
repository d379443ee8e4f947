/* crash_audit: checks that all is well in the segments. */
#include "crash.h"

#include <inttypes.h>
#include <stdio.h>

#define LIVE_RINGS 2u /* of each routine that sends to another process */

static uint32_t serial_of(const pshm_control *control, uint32_t place) {
    uint64_t serial = atomic_load(&control->head->ring[place].serial);
    return serial == 0 ? 0 : pshm_crash_serial_index(serial);
}

static uint64_t slot_word(uint32_t serial, uint32_t slot) {
    return atomic_load(&pshm_crash_here.ring[serial]->slot[slot].word);
}

/* ---- at rest --------------------------------------------------------------------------- */

/* Each ring has an owner, and no slot has a holder. */
static void audit_rings(const pshm_control *control) {
    uint32_t rings[ROUTINES] = {0};
    uint64_t bytes = 0;
    for (uint32_t place = 0; place < PSHM_RINGS; place++) {
        uint32_t serial = serial_of(control, place);
        if (serial == 0) continue;
        CHECK(atomic_load(&control->head->ring[place].ready), "ring %u is never given back",
              place);
        const pshm_ring_head *head = pshm_crash_here.ring[serial];
        CHECK(!pshm_crash_here.world->unlinked[serial], "ring %u has no segment", place);
        for (uint32_t n = 0; n < head->slots; n++)
            CHECK((uint32_t)slot_word(serial, n) == 0, "ring %u of %u: slot %u has holders %#x",
                  place, head->owner, n, (uint32_t)slot_word(serial, n));
        rings[head->owner]++;
        bytes += pshm_ring_bytes(head->slots, head->slot_bytes);
    }
    for (uint32_t n = 0; n < ROUTINES; n++) {
        bool has = (n == SOURCE || n == MIDDLE) && control->routine[n].state != FAILED;
        CHECK(rings[n] == (has ? LIVE_RINGS : 0), "routine %u has %u rings", n, rings[n]);
    }
    uint64_t left = pshm_control_left(control);
    CHECK(left + bytes == PSHM_CRASH_BUDGET, "%" PRIu64 " bytes of the budget are gone",
          PSHM_CRASH_BUDGET - bytes - left);
}

static void audit_queue(const pshm_control *control, uint32_t incarnation) {
    pshm_edge edge;
    CHECK(pshm_edge_attach(&edge, control, incarnation), "incarnation %u is unsound",
          incarnation);
    uint64_t head = atomic_load(&edge.queue.words->head);
    uint64_t tail = atomic_load(&edge.queue.words->tail);
    CHECK(head == tail, "edge %u: %" PRIu64 " to %" PRIu64 " wait for nobody",
          edge.incarnation->edge, head, tail);
    CHECK(atomic_load(&edge.queue.words->closed_at) == tail, "edge %u has no end",
          edge.incarnation->edge);
}

static void audit_incarnations(const pshm_control *control) {
    for (uint32_t n = 0; n < PSHM_CRASH_INCARNATIONS; n++) {
        uint32_t state = pshm_control_incarnation(control, n)->state;
        CHECK(state <= PSHM_SWEPT, "incarnation %u has state %u", n, state);
        if (state == PSHM_LIVE) audit_queue(control, n);
    }
}

static uint64_t deaths_of(uint32_t routine) {
    return atomic_load(&pshm_crash_here.world->deaths[pshm_crash_flow_of(routine)]);
}

static uint64_t assigned_to(const pshm_control *control, uint32_t edge) {
    return edge == FORWARDED ? control->edge[TO_MIDDLE].received
                             : control->routine[SOURCE].sequence;
}

bool pshm_crash_is_lossless(uint32_t edge) {
    const pshm_crash_graph *graph = pshm_crash_here.graph;
    return graph->edge[edge].policy == PSHM_POLICY_BLOCK &&
           graph->edge[edge].timeout_ns == PSHM_FOREVER && graph->sink_takes == 0;
}

static void audit_tickets(const pshm_control *control, uint32_t edge) {
    uint64_t announced, done;
    pshm_tickets_read(&control->edge[edge], &announced, &done);
    CHECK(pshm_tickets_pushed(&control->edge[edge]) == announced,
          "edge %u: ticket %" PRIu64 " is still about to be pushed", edge, announced);
}

static void audit_counters(const pshm_control *control, uint32_t edge) {
    const pshm_edge_record *record = &control->edge[edge];
    const pshm_crash_graph *graph = pshm_crash_here.graph;
    bool final = pshm_crash_here.world->scenario.final;
    uint64_t senders = deaths_of(pshm_crash_sender(edge));
    uint64_t receivers = deaths_of(pshm_crash_receiver(edge));
    uint64_t dropped = 0, got = 0, crash = record->dropped[PSHM_REASON_CRASH];
    for (uint32_t n = 0; n < PSHM_REASONS; n++) dropped += record->dropped[n];
    for (uint32_t n = 0; n < PSHM_CRASH_MESSAGES; n++) got += pshm_crash_here.world->got[edge][n];
    CHECK(record->protocol_errors == 0, "edge %u: protocol errors", edge);
    /* A process that dies between the two stores of a count leaves one of them undone: the sum
     * is off by at most one per death, and by one for a recoverer that died. */
    uint64_t counted = record->received + dropped, slack = senders + receivers + 1;
    CHECK(record->sent <= counted + slack && counted <= record->sent + slack,
          "edge %u: sent %" PRIu64 ", received %" PRIu64 ", dropped %" PRIu64 " (%" PRIu64
          " in a crash)",
          edge, record->sent, record->received, dropped, crash);
    /* `got` is noted after the count, and stays when an ended routine discards the message */
    CHECK(record->received <= got + receivers && got <= record->received,
          "edge %u: received %" PRIu64 ", seen %" PRIu64, edge, record->received, got);
    /* A dead sender had one message in hand, and maybe one that it had evicted; a dead receiver
     * had one. The messages in a queue are lost only when both ends are dead. */
    bool evicts = graph->edge[edge].policy == PSHM_POLICY_DROP_OLDEST;
    uint64_t most = senders * (evicts ? 2 : 1) + receivers;
    if (senders && receivers)
        most++; /* a recoverer counted it and died, and the next one counted it again */
    if (graph->takes_back) most += senders * graph->edge[edge].capacity;
    if ((final && senders && receivers) || edge == TO_LOCAL) most += graph->edge[edge].capacity;
    CHECK(crash <= most, "edge %u: %" PRIu64 " lost in a crash", edge, crash);
    /* a sender may have died with a message in hand that it had not counted yet */
    uint64_t assigned = assigned_to(control, edge);
    uint64_t uncounted = graph->resumes ? 2 * senders : senders; /* and it may be taken back */
    CHECK(record->sent <= assigned && assigned <= record->sent + uncounted,
          "edge %u: %" PRIu64 " sent of %" PRIu64, edge, record->sent, assigned);
    CHECK(!pshm_crash_is_lossless(edge) || final || dropped == crash,
          "edge %u: %" PRIu64 " dropped", edge, dropped);
    if (!graph->resumes || final || pshm_crash_sender(edge) != SOURCE || edge == TO_LOCAL) return;
    /* only what a dead receiver had in hand is lost */
    CHECK(crash <= receivers + (senders && receivers),
          "edge %u: %" PRIu64 " lost by a source that resumes", edge, crash);
    CHECK(got + receivers >= PSHM_CRASH_MESSAGES, "edge %u: only %" PRIu64 " messages came", edge,
          got);
}

void pshm_crash_audit_at_rest(const pshm_control *control) {
    audit_rings(control);
    audit_incarnations(control);
    for (uint32_t edge = 0; edge < EDGES; edge++) {
        audit_counters(control, edge);
        audit_tickets(control, edge);
    }
    if (!pshm_crash_here.world->scenario.final)
        CHECK(control->routine[SOURCE].sequence == PSHM_CRASH_MESSAGES, "the source gave up");
}

/* ---- in the midst ---------------------------------------------------------------------- */

/* Whether the slot that a descriptor names has the bits, under its generation. */
static bool has_bits(const pshm_control *control, uint64_t descriptor, uint32_t bits) {
    uint32_t place = pshm_descriptor_ring(descriptor), slot = pshm_descriptor_slot(descriptor);
    if (place >= PSHM_RINGS || slot >= PSHM_CRASH_SLOTS) return false;
    uint32_t serial = serial_of(control, place);
    if (serial == 0 || pshm_crash_here.world->unlinked[serial]) return false;
    uint64_t word = slot_word(serial, slot);
    return (uint32_t)(word >> 32) == pshm_descriptor_generation(descriptor) &&
           ((uint32_t)word & bits) == bits;
}

static bool message_has_bits(const pshm_control *control, uint64_t cell, uint32_t bits) {
    if (!has_bits(control, cell, bits)) return false;
    const pshm_ring_head *head =
        pshm_crash_here.ring[serial_of(control, pshm_descriptor_ring(cell))];
    const uint8_t *payload = (const uint8_t *)head + head->payload_offset;
    const pshm_message *message =
        (const pshm_message *)(payload + pshm_descriptor_slot(cell) * head->slot_bytes);
    for (uint32_t k = 0; k < message->slots; k++)
        if (!has_bits(control, message->slot[k], bits)) return false;
    return true;
}

/* Whether nobody will read the edge any more. */
static bool is_given_up(const pshm_control *control, const pshm_edge *edge) {
    return edge->record->receiver_ended &&
           (edge->record->sender_failed || control->routine[edge->receiver].state == FAILED);
}

static bool queued_are_held(const pshm_control *control, uint32_t incarnation) {
    pshm_edge edge;
    uint32_t state = pshm_control_incarnation(control, incarnation)->state;
    if (state != PSHM_LIVE && state != PSHM_SENDER_DEAD) return true;
    if (!pshm_edge_attach(&edge, control, incarnation)) return false;
    if (edge.local || is_given_up(control, &edge)) return true;
    uint64_t head = atomic_load(&edge.queue.words->head);
    uint64_t tail = atomic_load(&edge.queue.words->tail);
    if (tail - head > edge.queue.capacity) return false;
    for (; head != tail; head++)
        if (!message_has_bits(control, edge.queue.words->cell[head & edge.queue.mask], edge.mask))
            return false;
    return true;
}

/* Whatever a queue names or a process holds has its bits, no matter who died and when. */
bool pshm_crash_audit_in_the_midst(char *failure, size_t bytes) {
    pshm_control control;
    if (!pshm_control_attach(&control, pshm_crash_here.control, pshm_crash_here.control_bytes))
        return true; /* the launcher died before it had made anything */
    for (uint32_t n = 0; n < PSHM_CRASH_INCARNATIONS; n++) {
        if (queued_are_held(&control, n)) continue;
        snprintf(failure, bytes, "a message waits on edge %u whose slots are free",
                 pshm_control_incarnation(&control, n)->edge);
        return false;
    }
    for (uint32_t flow = 0; flow < FLOWS; flow++)
        for (uint32_t serial = 0; serial < PSHM_CRASH_SERIALS; serial++)
            for (uint32_t slot = 0; slot < PSHM_CRASH_SLOTS; slot++) {
                uint64_t held = atomic_load(&pshm_crash_here.world->held[flow][serial][slot]);
                uint64_t word = held == 0 ? 0 : slot_word(serial, slot);
                if (held >> 32 == word >> 32 && ((uint32_t)held & ~(uint32_t)word) == 0) continue;
                snprintf(failure, bytes, "flow %u holds a slot of ring serial %u that is not its",
                         flow, serial);
                return false;
            }
    return true;
}
