#include "port.h"

#include <stdlib.h>
#include <string.h>

#include "handing.h"
#include "points.h"
#include "port_parts.h"
#include "send.h"
#include "trace.h"

pshm_port *pshm_port_open(pshm_process *process, uint32_t routine, uint32_t awaited) {
    pshm_routine_record *record = pshm_control_routine(&process->control, routine);
    pshm_port *port = record == NULL ? NULL : calloc(1, sizeof *port);
    if (port == NULL) return NULL;
    port->process = process;
    port->record = record;
    port->routine = port->origin = routine;
    port->awaited = awaited;
    port->frame_origin = PSHM_TRACE_NO_FRAME;
    pthread_mutex_init(&port->sending, NULL);
    return port;
}

void pshm_port_close(pshm_port *port) {
    pthread_mutex_destroy(&port->sending);
    free(port);
}

uint32_t pshm_port_add_out(pshm_port *port, uint32_t incarnation) {
    uint32_t place = 0;
    while (place < port->outs && port->out[place].record != NULL) place++;
    if (place >= PSHM_OUTS) return UINT32_MAX;
    pshm_edge edge;
    if (!pshm_edge_attach(&edge, &port->process->control, incarnation)) return UINT32_MAX;
    pthread_mutex_lock(&port->sending);
    port->out[place] = edge;
    if (place == port->outs) port->outs++;
    pthread_mutex_unlock(&port->sending);
    return place;
}

void pshm_port_remove_out(pshm_port *port, uint32_t out) {
    if (out >= PSHM_OUTS) return;
    pthread_mutex_lock(&port->sending);
    pshm_post *post = port->post;
    if (post != NULL && (post->outs >> out & 1) != 0)
        pshm_policy_give_up(port, post, out, PSHM_REASON_ENDED);
    if (port->out[out].record != NULL) pshm_handing_end(&port->out[out]);
    memset(&port->out[out], 0, sizeof port->out[out]);
    pthread_mutex_unlock(&port->sending);
}

/* One that the launcher has withdrawn is as good as drained: its record may be another's by now,
 * and the stream goes on with its successor. */
static uint32_t add_withdrawn(pshm_port *port, pshm_edge_record *record) {
    uint32_t place = port->ins;
    for (uint32_t n = 0; n < port->ins; n++) {
        if (port->in[n].record == record) return n;
        if (port->in[n].record == NULL) place = n;
    }
    if (place >= PSHM_INS) return UINT32_MAX;
    if (port->awaited > 0) port->awaited--;
    port->in[place] = (pshm_edge){.record = record};
    port->behind[place] = 0;
    port->leaving[place] = port->paused[place] = false;
    port->drained[place] = true;
    if (place == port->ins) port->ins++;
    return place;
}

/* A successor takes the place of its edge's drained incarnation. If it comes before that is
 * drained, it takes another place and waits behind it. */
uint32_t pshm_port_add_in(pshm_port *port, uint32_t edge_number, uint64_t name) {
    const pshm_control *control = &port->process->control;
    pshm_edge_record *record = pshm_control_edge(control, edge_number);
    pshm_incarnation_record *incarnation = pshm_control_incarnation(control, (uint32_t)name);
    if (record == NULL || incarnation == NULL) return UINT32_MAX;
    if (!pshm_incarnation_claim(incarnation, (uint32_t)(name >> 32)))
        return add_withdrawn(port, record);
    pshm_edge edge; /* after the claim: from then on the record is this edge's */
    if (!pshm_edge_attach(&edge, control, (uint32_t)name) || edge.record != record)
        return UINT32_MAX;
    uint32_t place = port->ins, earlier = 0;
    bool known = false, succeeds = false;
    for (uint32_t n = 0; n < port->ins; n++) {
        bool same = port->in[n].record == edge.record;
        known |= same;
        if (same && port->drained[n]) {
            place = n;
            succeeds = true;
        }
        if (port->in[n].record == NULL && !succeeds) place = n;
        if (same && !port->drained[n]) earlier++;
    }
    if (place >= PSHM_INS) return UINT32_MAX;
    if (!known && port->awaited > 0) port->awaited--;
    port->in[place] = edge;
    port->behind[place] = earlier;
    port->drained[place] = port->leaving[place] = port->paused[place] = false;
    if (place == port->ins) port->ins++;
    return place;
}

void pshm_port_pause(pshm_port *port, uint32_t place, bool paused) {
    if (place < port->ins) port->paused[place] = paused;
}

static bool knows_in(const pshm_port *port, const pshm_edge_record *record) {
    for (uint32_t n = 0; n < port->ins; n++)
        if (port->in[n].record == record) return true;
    return false;
}

void pshm_port_expect_in(pshm_port *port, uint32_t edge) {
    const pshm_edge_record *record = pshm_control_edge(&port->process->control, edge);
    if (record != NULL && !knows_in(port, record)) port->awaited++;
}

void pshm_port_remove_in(pshm_port *port, uint32_t edge) {
    const pshm_edge_record *record = pshm_control_edge(&port->process->control, edge);
    if (record == NULL) return;
    if (!knows_in(port, record)) {
        if (port->awaited > 0) port->awaited--;
        return;
    }
    for (uint32_t n = 0; n < port->ins; n++) {
        if (port->in[n].record != record) continue;
        port->leaving[n] = true;
        if (port->drained[n]) port->in[n].record = NULL;
    }
}

void pshm_port_let_end(pshm_port *port, uint64_t hold) {
    PSHM_POINT();
    __atomic_compare_exchange_n(&port->record->held, &hold, 0, false, __ATOMIC_SEQ_CST,
                                __ATOMIC_RELAXED);
    ring_routine(port, port->routine);
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
        if (edge->record == NULL) continue;
        PSHM_POINT();
        /* seq_cst, and before the bell: a blocked sender looks at it */
        __atomic_store_n(&edge->record->receiver_ended, 1, __ATOMIC_SEQ_CST);
        ring_routine(port, edge->sender);
    }
}

void pshm_port_end_call(pshm_port *port) {
    uint64_t since = port->record->busy_since_ns;
    if (since == 0) return;
    __atomic_store_n(&port->record->busy_since_ns, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&port->record->busy_ns, port->record->busy_ns + pshm_now() - since,
                     __ATOMIC_RELAXED);
}

int pshm_port_rest(pshm_port *port, uint64_t timeout_ns) {
    uint64_t now = pshm_now(), deadline = after(now, timeout_ns);
    pshm_port_end_call(port);
    for (;;) {
        uint32_t word = pshm_bell_word(&port->record->bell); /* before the look: see bell.h */
        if (has_notice(port)) return PSHM_NOTICE;
        if (now >= deadline) return PSHM_TIMED_OUT;
        uint64_t asleep = pshm_trace_start();
        bool undisturbed = pshm_bell_wait(&port->record->bell, word, sleep_until(now, deadline));
        pshm_port_trace_sleep(port, PSHM_TRACE_REST, asleep);
        if (!undisturbed) return PSHM_TIMED_OUT;
        now = pshm_now();
    }
}

uint32_t pshm_port_word(const pshm_port *port) {
    return pshm_bell_word(&port->record->bell);
}

void pshm_port_nap(pshm_port *port, uint32_t word, uint64_t timeout_ns) {
    if (has_notice(port)) return;
    pshm_bell_wait(&port->record->bell, word, sleep_until(0, timeout_ns));
}

void pshm_port_notify(pshm_port *port) {
    /* seq_cst, and before the bell: the routine's thread looks at it before it sleeps */
    atomic_store_explicit(&port->notice, 1, memory_order_seq_cst);
    pshm_bell_ring_always(&port->record->bell);
}

bool pshm_port_noticed(pshm_port *port) {
    return atomic_exchange_explicit(&port->notice, 0, memory_order_seq_cst) != 0;
}
