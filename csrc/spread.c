/* Which of several receivers gets the next message: see pshm_port_choose in send.h. */
#include "port_parts.h"
#include "send.h"

/* How many messages a receiver has to do: those in this edge's queue, and those it has
 * received. A full queue counts for far more, an ended receiver for the most. */
static uint64_t load_of(const pshm_port *port, const pshm_edge *edge) {
    const pshm_routine_record *receiver = &port->process->control.routine[edge->receiver];
    uint64_t handled = __atomic_load_n(&receiver->handled, __ATOMIC_RELAXED);
    uint64_t received = __atomic_load_n(&receiver->received, __ATOMIC_RELAXED);
    uint64_t in_hand = received > handled ? received - handled : 0;
    uint32_t depth = pshm_queue_depth(&edge->queue);
    if (pshm_edge_has_ended(edge)) return UINT64_MAX;
    return depth + in_hand + (depth < edge->queue.capacity ? 0 : 1ull << 32);
}

uint32_t pshm_port_choose(pshm_port *port, uint64_t outs) {
    uint64_t least = UINT64_MAX, last = port->chosen & outs, later = outs & ~((last << 1) - 1);
    uint32_t best = PSHM_OUTS;
    for (int round = 0; round < 2;
         round++) { /* those after the one that was chosen last come first */
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
