/* crash_incarnations: the launcher's account of each edge's incarnations, as
 * pipert_shm/launcher/incarnations.py keeps it.
 */
#include "crash_launcher.h"

#define BITS PSHM_LAST_BIT

uint32_t pshm_crash_state_of(uint32_t incarnation) {
    const pshm_incarnation_record *record =
        pshm_control_incarnation(launched.control, incarnation);
    return __atomic_load_n(&record->state, __ATOMIC_ACQUIRE);
}

uint64_t pshm_crash_name_of(uint32_t incarnation) {
    const pshm_incarnation_record *record =
        pshm_control_incarnation(launched.control, incarnation);
    return pshm_incarnation_name(record, incarnation);
}

bool pshm_crash_is_drained_by_receiver(uint32_t incarnation) {
    uint32_t state = pshm_crash_state_of(incarnation);
    return state == PSHM_SENDER_DEAD || state == PSHM_SWEEPING || state == PSHM_GIVEN_UP;
}

void pshm_crash_take_back(uint32_t edge) {
    if (!pshm_crash_here.graph->takes_back || edge == TO_LOCAL) return;
    pshm_crash_open_every_ring(launched.process);
    for (uint32_t n = 0, count = pshm_crash_count_of(edge); n < count; n++)
        if (launched.unswept[launched.of[edge][n]] == 0)
            pshm_recover_undrained(launched.process, launched.of[edge][n]);
}

void pshm_crash_set_state(uint32_t incarnation, uint32_t state) {
    pshm_incarnation_record *record = pshm_control_incarnation(launched.control, incarnation);
    __atomic_store_n(&record->state, state, __ATOMIC_RELEASE);
}

uint32_t pshm_crash_count_of(uint32_t edge) {
    uint32_t kept = 0;
    for (uint32_t n = 0; n < launched.count[edge]; n++) {
        uint32_t number = launched.of[edge][n];
        if (pshm_crash_state_of(number) == PSHM_SWEPT)
            pshm_crash_set_state(number, PSHM_FREE);
        else
            launched.of[edge][kept++] = number;
    }
    return launched.count[edge] = kept;
}

uint32_t pshm_crash_live(uint32_t edge) {
    uint32_t count = pshm_crash_count_of(edge);
    if (count == 0 || pshm_crash_state_of(launched.of[edge][count - 1]) != PSHM_LIVE)
        return UINT32_MAX;
    return launched.of[edge][count - 1];
}

static uint32_t unused_bit(void) {
    uint32_t used = 0;
    for (uint32_t edge = 0; edge < EDGES; edge++)
        for (uint32_t n = 0, count = pshm_crash_count_of(edge); n < count; n++) {
            uint32_t number = launched.of[edge][n];
            if (pshm_crash_state_of(number) != PSHM_GIVEN_UP)
                used |= 1u << pshm_control_incarnation(launched.control, number)->bit;
        }
    for (uint32_t bit = 1; bit <= BITS; bit++)
        if ((used >> bit & 1) == 0) return bit;
    pshm_crash_fail("no bit is left: incarnations leak");
}

uint32_t pshm_crash_open_incarnation(uint32_t edge) {
    uint32_t bit = edge == TO_LOCAL ? 0 : unused_bit();
    for (uint32_t number = 0; number < PSHM_CRASH_INCARNATIONS; number++) {
        if (pshm_crash_state_of(number) != PSHM_FREE) continue;
        pshm_incarnation_format(pshm_control_incarnation(launched.control, number), edge, bit);
        return launched.of[edge][launched.count[edge]++] = number;
    }
    pshm_crash_fail("no incarnation is left: they leak");
}

pshm_queue pshm_crash_queue_of(uint32_t incarnation) {
    pshm_edge edge;
    CHECK(pshm_edge_attach(&edge, launched.control, incarnation), "no incarnation %u",
          incarnation);
    return edge.queue;
}

void pshm_crash_attach(uint32_t edge, uint32_t incarnation) {
    pshm_crash_tell(pshm_crash_receiving_flow(edge), TELL_ADD_IN, edge, incarnation);
}
