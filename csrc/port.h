/* port: a routine's end of all its edges.
 *
 * A port belongs to its routine's thread. Every function is for that thread alone, unless
 * its comment says otherwise. Sending is in send.h, receiving in receive.h, and what
 * happens when there is no room in policy.h.
 *
 * Another thread can get the routine's thread out of a sleep: pshm_port_notify puts up a
 * notice, which stands until pshm_port_noticed takes it back. While it stands, no function
 * sleeps. pshm_port_send, _resume, _reserve and _await_room still do what needs no waiting;
 * pshm_port_receive takes nothing, and pshm_port_rest returns at once. Each of them says
 * PSHM_NOTICE when the notice kept it from its work.
 *
 * Example, the loop of a routine that forwards:
 *
 *     pshm_port *port = pshm_port_open(process, routine, 1);
 *     pshm_port_add_in(port, edge, incoming);
 *     uint64_t outs = 1ull << pshm_port_add_out(port, outgoing);
 *     for (;;) {
 *         int status = pshm_port_receive(port, &delivery, PSHM_FOREVER);
 *         if (status == PSHM_NOTICE) ...      // pshm_port_noticed, and do what is wanted
 *         if (status == PSHM_CLOSED) break;
 *         ...                                 // pshm_port_refer, pshm_port_send
 *     }
 *     pshm_port_close_outs(port);
 *     pshm_port_end_ins(port);
 *     pshm_port_close(port);
 */
#ifndef PSHM_PORT_H
#define PSHM_PORT_H

#include <pthread.h>

#include "edge.h"
#include "process.h"
#include "trace.h"

#define PSHM_OUTS 64u /* the most outgoing edges: a set of them is a 64-bit word */
#define PSHM_INS 256u /* the most places for incoming edges */

enum pshm_status {
    PSHM_OK,
    PSHM_NOTICE,    /* the routine's thread is wanted elsewhere */
    PSHM_TIMED_OUT, /* nothing came, or no slot became free, in time */
    PSHM_CLOSED,    /* every incoming stream has ended, and all of it was taken */
    PSHM_UNMAPPED,  /* ring delivery.unmapped must be mapped; then pshm_port_take */
    PSHM_FULL,      /* no slot was free, and the policies do not wait */
    PSHM_PROTOCOL,  /* a message contradicts its slots: it was counted and skipped */
    PSHM_DRAINED,   /* the sender at delivery.place is dead, and its queue is empty */
    PSHM_LOST,      /* it was sent, and tokens of local edges are in post.lost */
    PSHM_ARRAY = 16 /* and up to PSHM_LAYOUTS above it: PSHM_OK, see layout.h */
};

struct pshm_post;

typedef struct pshm_port {
    pshm_process *process;
    pshm_routine_record *record;
    uint32_t routine;
    uint32_t
        origin; /* what its messages carry as their origin, and its hops; by default `routine` */
    _Atomic uint32_t notice;
    bool hurried; /* the caller must not be kept: a send says PSHM_NOTICE where it would sleep */
    pthread_mutex_t sending; /* around a send's holds and pushes; never across a wait */
    struct pshm_post *post;  /* the post that has bits in slots and is not pushed yet */
    uint32_t outs;           /* places in out[]; the place of an unlinked edge is vacant */
    uint32_t ins;            /* places in in[], vacant ones included */
    uint32_t next;           /* the incoming edge whose turn it is */
    uint32_t open;           /* incoming streams that had not ended at the last look */
    uint64_t chosen;         /* the outgoing edges that pshm_port_choose returned last */
    pshm_edge out[PSHM_OUTS];
    pshm_edge in[PSHM_INS];
    uint32_t awaited;          /* incoming edges without an incarnation here yet */
    uint32_t behind[PSHM_INS]; /* earlier incarnations of that edge which are not drained */
    bool drained[PSHM_INS];    /* that incarnation is empty, and must not be looked at again */
    bool paused[PSHM_INS];     /* nothing is to be taken from that place now */
    bool leaving[PSHM_INS];    /* its edge is unlinked: the place is vacant when it is drained */
    /* The frame of the call that is under way, or was the last. It is noted only while somebody
     * traces. */
    uint64_t frame;
    uint32_t frame_origin;
} pshm_port;

/* Opens a port for a routine with `awaited` incoming edges. Returns NULL when memory is
 * short, or there is no such routine. */
pshm_port *pshm_port_open(pshm_process *process, uint32_t routine, uint32_t awaited);

/* Frees a port. Its streams are not ended by that, and nothing is given back. */
void pshm_port_close(pshm_port *port);

/* ---- edges ----------------------------------------------------------------------------- */

/* Add an incarnation of an edge. Return its place, or UINT32_MAX when the edge is not
 * sound or no place is free. The second takes a pshm_incarnation_name; one that the launcher
 * has withdrawn counts as drained. */
uint32_t pshm_port_add_out(pshm_port *port, uint32_t incarnation);
uint32_t pshm_port_add_in(pshm_port *port, uint32_t edge, uint64_t name);

/* Vacates an outgoing edge's place. A post that it is still a part of is given up there,
 * as ended; a token goes to post->lost. */
void pshm_port_remove_out(pshm_port *port, uint32_t out);

/* Notes that an edge to this routine was linked: its stream is open, although no
 * incarnation of it may be here yet. */
void pshm_port_expect_in(pshm_port *port, uint32_t edge);

/* Notes that an edge to this routine was unlinked: its stream ends when its incarnations
 * here are drained. */
void pshm_port_remove_in(pshm_port *port, uint32_t edge);

/* Lets the routine end again which the launcher has held, with this number. A later hold, of
 * which the routine has not heard yet, stays. Any thread of the process. Lock-free. */
void pshm_port_let_end(pshm_port *port, uint64_t hold);

/* Takes nothing from an incoming edge's place until it is called with false. */
void pshm_port_pause(pshm_port *port, uint32_t place, bool paused);

/* Ends every outgoing stream after its last message. Order: the end, then the bell. */
void pshm_port_close_outs(pshm_port *port);

/* Takes no more: senders drop what they have for this routine, and blocked ones go on.
 * The caller receives and discards what still waits. Order: seq_cst, before the bell. */
void pshm_port_end_ins(pshm_port *port);

/* ---- the routine's thread -------------------------------------------------------------- */

/* Notes the end of a call of main_logic, if one is under way. A receipt begins the call;
 * every function that may sleep ends it. */
void pshm_port_end_call(pshm_port *port);

/* Sleeps until a notice is up, for `timeout_ns` at most; messages do not wake it. Returns
 * PSHM_NOTICE or PSHM_TIMED_OUT; a signal ends the sleep early, with PSHM_TIMED_OUT. */
int pshm_port_rest(pshm_port *port, uint64_t timeout_ns);

/* Sleeps within a call of the routine until its bell is rung once, by whomever, or a notice is
 * up, or `timeout_ns` are over. `word` is what pshm_port_word gave before the caller looked at
 * what it waits for: a ring in between ends the nap at once. The routine's thread. Wait-free, and
 * blocking. */
uint32_t pshm_port_word(const pshm_port *port);
void pshm_port_nap(pshm_port *port, uint32_t word, uint64_t timeout_ns);

/* Puts a notice up, and wakes the port's thread. Any thread. Order: the notice, then the
 * bell. Wait-free but for a system call. */
void pshm_port_notify(pshm_port *port);

/* Takes the notice back; call it before you look at what is wanted. Returns whether it
 * was up. Wait-free. */
bool pshm_port_noticed(pshm_port *port);

/* ---- tracing: see trace.h. The routine's thread ---------------------------------------- */

/* Notes something that the routine did, from `began_ns` to `ended_ns` (0: until now). Nothing
 * where it began at 0: before anybody traced. */
void pshm_port_trace(const pshm_port *port, uint32_t kind, uint32_t other, uint32_t origin,
                     uint64_t sequence, uint64_t began_ns, uint64_t ended_ns);

/* The same, until now: about the frame of the call that is under way, and about none. */
static inline void pshm_port_trace_call(const pshm_port *port, uint32_t kind, uint32_t other,
                                        uint64_t began_ns) {
    if (began_ns != 0)
        pshm_port_trace(port, kind, other, port->frame_origin, port->frame, began_ns, 0);
}
static inline void pshm_port_trace_sleep(const pshm_port *port, uint32_t kind,
                                         uint64_t asleep_ns) {
    if (asleep_ns != 0) pshm_port_trace(port, kind, 0, PSHM_TRACE_NO_FRAME, 0, asleep_ns, 0);
}

/* Notes that a frame was dropped, by this sender or this receiver. */
void pshm_port_trace_drop(const pshm_port *port, uint32_t kind, uint32_t reason, uint32_t other,
                          uint32_t origin, uint64_t sequence);

#endif
