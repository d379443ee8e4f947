/* fuzz_flow: what routines do, as pipert_shm/ports.py does it. */
#include "fuzz.h"

#include <string.h>

/* ---- receiving ------------------------------------------------------------------------- */

static struct {
    const uint8_t *address;
    uint64_t bytes;
} held[ROUTINES][PSHM_FUZZ_HELD];

static pshm_delivery delivery[ROUTINES];

/* The sanitizer checks the whole range. */
void pshm_fuzz_look_at(const uint8_t *memory, uint64_t bytes) {
    static uint8_t copy[PSHM_FUZZ_RING_BYTES];
    if (bytes > sizeof copy) pshm_fuzz_fail("a slot is larger than its segment");
    memcpy(copy, memory, bytes);
    __asm__ volatile("" ::"r"(copy) : "memory");
}

void pshm_fuzz_look_at_held(void) {
    for (uint32_t routine = 0; routine < ROUTINES; routine++)
        for (uint32_t n = 0; n < PSHM_FUZZ_HELD; n++)
            if (held[routine][n].address != NULL)
                pshm_fuzz_look_at(held[routine][n].address, held[routine][n].bytes);
}

void pshm_fuzz_let_go(uint32_t routine, uint32_t place) {
    if (held[routine][place].address == NULL) return;
    pshm_release((void *)held[routine][place].address);
    held[routine][place].address = NULL;
    held[routine][place].bytes = 0;
}

static void keep(uint32_t routine, void *address, uint64_t bytes) {
    uint32_t place = 0;
    while (place < PSHM_FUZZ_HELD - 1 && held[routine][place].address != NULL) place++;
    pshm_fuzz_let_go(routine, place);
    held[routine][place].address = address;
    held[routine][place].bytes = bytes;
}

/* As in memory.py, a ring's segment is found by its serial. */
static bool open_ring(pshm_process *process, uint32_t ring) {
    uint64_t serial = pshm_control_serial(&process->control, ring);
    for (uint32_t n = 0; n < PSHM_FUZZ_RINGS; n++)
        if (serial != 0 && serial == pshm_fuzz_here.serial[n])
            return pshm_fuzz_map(process, ring, serial, n, false) == 0;
    return false;
}

void pshm_fuzz_open_every_ring(pshm_process *process) {
    for (uint32_t ring = 0; ring < PSHM_FUZZ_RINGS; ring++)
        if (pshm_process_find(process, ring) == NULL) open_ring(process, ring);
}

int pshm_fuzz_take(pshm_port *port, pshm_delivery *got) {
    pshm_port_noticed(port); /* else it would take nothing */
    int status = pshm_port_receive(port, got, 0);
    for (uint32_t n = 0; status == PSHM_UNMAPPED; n++) {
        if (n > PSHM_RINGS) pshm_fuzz_fail("a ring is never mapped enough");
        if (!open_ring(port->process, got->unmapped)) return status;
        status = pshm_port_take(port, got);
    }
    if (status == PSHM_DRAINED) {
        pshm_fuzz_open_every_ring(port->process);
        pshm_port_recover_sender(port, got->place);
    }
    return status;
}

void pshm_fuzz_receive(uint32_t routine, bool discard) {
    pshm_delivery *got = &delivery[routine];
    if (pshm_fuzz_take(pshm_fuzz_here.port[routine], got) != PSHM_OK) return;
    if (!got->local) pshm_fuzz_look_at(got->body, got->body_bytes);
    for (uint32_t k = 0; k < got->slots; k++) {
        pshm_fuzz_look_at(got->address[k], got->slot_bytes[k]);
        if (!discard) keep(routine, got->address[k], got->slot_bytes[k]);
    }
    if (discard) pshm_port_discard(pshm_fuzz_here.port[routine], got, PSHM_REASON_ENDED);
}

/* As the end of a routine in ports.py: takes no more, and receives until nothing is left. */
void pshm_fuzz_end(uint32_t routine) {
    int status;
    pshm_port_end_ins(pshm_fuzz_here.port[routine]);
    do status = pshm_fuzz_take(pshm_fuzz_here.port[routine], &delivery[routine]);
    while (status == PSHM_OK || status == PSHM_PROTOCOL);
}

/* ---- sending --------------------------------------------------------------------------- */

static pshm_post post[ROUTINES];
static bool posted[ROUTINES]; /* a post waits to be resumed or abandoned */

static uint64_t outs_of(const pshm_port *port) {
    uint64_t outs = 0;
    for (uint32_t n = 0; n < port->outs; n++)
        if (port->out[n].record != NULL) outs |= 1ull << n;
    return outs;
}

/* As Post.take_lost in binding/port.py. */
static void take_lost(pshm_post *it) {
    for (uint32_t n = 0; n < it->lost; n++)
        if (it->lost_out[n] >= PSHM_OUTS) pshm_fuzz_fail("a token of no edge is lost");
    it->lost = 0;
}

void pshm_fuzz_abandon(uint32_t routine) {
    if (!posted[routine]) return;
    pshm_port_abandon(pshm_fuzz_here.port[routine], &post[routine], PSHM_REASON_STOPPED);
    take_lost(&post[routine]);
    posted[routine] = false;
}

static void add_slot(pshm_port *port, pshm_post *it, uint32_t payloads) {
    void *address;
    uint64_t *descriptor = &it->slot[it->slots];
    if (pshm_port_reserve(port, it->outs, payloads, descriptor, &address) != PSHM_OK) return;
    memset(address, 0x5a, port->process->mapping[payloads]->ring.slot_bytes);
    it->slots++;
}

/* Passes on what the routine holds, by reference. */
static void add_held(uint32_t routine, pshm_port *port, pshm_post *it) {
    for (uint32_t n = 0; n < PSHM_FUZZ_HELD && it->slots < 2; n++)
        if (held[routine][n].address != NULL)
            pshm_port_refer(port, it, it->outs, held[routine][n].address, held[routine][n].bytes);
}

/* As Outbox._hand_over in ports.py: a post that has no message slot yet is sent again. */
static void hand_over(uint32_t routine) {
    static const uint8_t body[16];
    pshm_port *port = pshm_fuzz_here.port[routine];
    pshm_post *it = &post[routine];
    uint32_t shape = (uint32_t)it->token, messages = routine == SOURCE ? 1 : 3;
    posted[routine] = true;
    int status = it->offered != 0 ? pshm_port_resume(port, it)
                                  : pshm_port_send(port, it, messages, shape, pshm_now(), routine,
                                                   1, 0, body, shape >> 5 & 7);
    take_lost(it);
    if (status == PSHM_NOTICE) return;
    if (status == PSHM_OK || status == PSHM_LOST)
        posted[routine] = false;
    else
        pshm_fuzz_abandon(routine);
}

/* Puts a notice up, so that nothing sleeps. */
void pshm_fuzz_send(uint32_t routine, uint32_t shape) {
    pshm_port *port = pshm_fuzz_here.port[routine];
    pshm_post *it = &post[routine];
    pshm_port_notify(port);
    if (posted[routine]) {
        hand_over(routine);
        return;
    }
    memset(it, 0, sizeof *it);
    it->outs = outs_of(port);
    it->message = PSHM_NO_SLOT;
    it->token = shape;
    if (it->outs == 0) return;
    for (uint32_t n = 0; n < shape % 3; n++) add_slot(port, it, routine == SOURCE ? 0 : 2);
    if (shape & 0x10) add_held(routine, port, it);
    hand_over(routine);
}

/* As Outbox.remove in ports.py. */
void pshm_fuzz_remove_out(uint32_t routine, uint32_t out) {
    pshm_port *port = pshm_fuzz_here.port[routine];
    pshm_port_remove_out(port, out);
    post[routine].outs &= outs_of(port);
    take_lost(&post[routine]);
}

bool pshm_fuzz_holds(uint32_t routine) {
    return held[routine][0].address != NULL;
}

void pshm_fuzz_let_all_go(void) {
    for (uint32_t routine = 0; routine < ROUTINES; routine++) {
        pshm_fuzz_abandon(routine);
        for (uint32_t n = 0; n < PSHM_FUZZ_HELD; n++) pshm_fuzz_let_go(routine, n);
    }
}
