/* What a port notes while somebody traces: see trace.h and port.h. */
#include "port.h"
#include "trace.h"

static uint16_t narrow(uint32_t routine) {
    return routine < PSHM_TRACE_NOBODY ? (uint16_t)routine : PSHM_TRACE_NOBODY;
}

void pshm_port_trace(const pshm_port *port, uint32_t kind, uint32_t other, uint32_t origin,
                     uint64_t sequence, uint64_t began_ns, uint64_t ended_ns) {
    if (began_ns == 0) return;
    pshm_trace_event event = {.time_ns = ended_ns != 0 ? ended_ns : pshm_now(),
                              .began_ns = began_ns,
                              .sequence = sequence,
                              .kind = kind,
                              .routine = narrow(port->routine),
                              .other = narrow(other),
                              .origin = origin};
    pshm_trace_note(&event);
}

void pshm_port_trace_drop(const pshm_port *port, uint32_t kind, uint32_t reason, uint32_t other,
                          uint32_t origin, uint64_t sequence) {
    pshm_trace_event event = {.time_ns = pshm_now(),
                              .sequence = sequence,
                              .kind = kind,
                              .detail = reason,
                              .routine = narrow(port->routine),
                              .other = narrow(other),
                              .origin = origin};
    pshm_trace_note(&event);
}
