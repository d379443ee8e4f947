#include "port.h"

#include <stdlib.h>
#include <string.h>

#include "port_parts.h"

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
