/* port: a routine's end of all its edges; one call to send, one to receive.
 *
 * A port belongs to its routine's thread: every function but pshm_port_notify
 * and pshm_port_recover_receiver is for that thread alone. The functions that
 * can sleep return with PSHM_NOTICE as soon as pshm_port_notify was called, until
 * pshm_port_noticed. With the notice up nothing sleeps: pshm_port_send, _resume,
 * _reserve and _await_room still do what needs no waiting, pshm_port_receive takes
 * nothing, _rest returns at once.
 *
 * A message lies in a slot of its sender's message ring: the head below, then
 * the descriptors of the payload slots that it names, then a body that C does
 * not look into. On each edge the message slot and every payload slot carry
 * the edge's bit from before the push until the receiver, or an eviction,
 * drops it. On a local edge (both routines in one process) the cell is a token
 * that stands for a Python object.
 */
#ifndef PSHM_PORT_H
#define PSHM_PORT_H

#include <pthread.h>

#include "process.h"

#define PSHM_OUTS 64u
#define PSHM_INS 256u
#define PSHM_MESSAGE_BYTES 4096u
#define PSHM_MESSAGE_SLOTS 32u
#define PSHM_OFFSET_BITS 48
#define PSHM_LAYOUTS 8u
#define PSHM_LAYOUT_BYTES 128u
#define PSHM_HEAD_SHIFT 16

enum pshm_status {
    PSHM_OK,
    PSHM_NOTICE,    /* the routine's thread is wanted elsewhere */
    PSHM_TIMED_OUT, /* nothing came, or no slot became free, in time */
    PSHM_CLOSED,    /* every incoming stream has ended and was consumed */
    PSHM_UNMAPPED,  /* map ring delivery.unmapped, then pshm_port_take */
    PSHM_FULL,      /* no slot, and the policies say drop */
    PSHM_PROTOCOL,  /* a message that contradicts its slots: counted, skipped */
    PSHM_DRAINED,   /* delivery.place's sender is dead and its queue is empty */
    PSHM_LOST,      /* sent, and there are tokens in post.lost */
    PSHM_ARRAY = 16 /* and up to PSHM_LAYOUTS more: PSHM_OK, with what the port was taught of */
};

typedef struct pshm_message {
    uint64_t sequence;
    uint64_t captured_ns;
    uint64_t sent_ns;
    uint32_t origin; /* routine number of the source */
    uint32_t bytes;  /* of the body */
    uint16_t slots;
    uint16_t kind; /* Python's */
    uint32_t head; /* bytes of the body that say nothing of the payload */
    uint64_t slot[];
} pshm_message;

/* One message on its way out. `outs` are bits of the port's outgoing edges. Between
 * messages `message` is PSHM_NO_SLOT, and all but `token` and `deadline` is 0: so the end
 * of one leaves it, and the next needs only what it is to carry. */
typedef struct pshm_post {
    uint64_t outs;    /* still to be served */
    uint64_t token;   /* for the local ones */
    uint64_t message; /* its slot, held while any is to be served */
    uint64_t ticket;  /* see pshm_tickets_read; 0 for none */
    uint32_t offered; /* whether its edges have counted it as sent */
    uint32_t
        handled; /* received messages that it is the result of: done with when it is offered */
    uint64_t deadline[PSHM_OUTS];
    uint32_t slots; /* payload slots, one lease each, ended by the send */
    uint64_t slot[PSHM_MESSAGE_SLOTS];
    uint32_t lost; /* local tokens that no receiver will ask for */
    uint32_t lost_out[2 * PSHM_OUTS];
    uint64_t lost_token[2 * PSHM_OUTS];
} pshm_post;

/* How an array lies in its slot, in Python's words. */
typedef struct pshm_layout {
    uint32_t kind;
    uint32_t bytes;       /* of the text; 0 where there is none */
    uint64_t array_bytes; /* from where it begins */
    uint8_t text[PSHM_LAYOUT_BYTES];
} pshm_layout;

/* One message that came in. */
typedef struct pshm_delivery {
    uint32_t place; /* index of the incoming edge */
    uint32_t local; /* then token is all there is */
    uint64_t token;
    uint64_t cell;
    uint32_t unmapped; /* with PSHM_UNMAPPED: the ring to map */
    uint32_t over_cap; /* the receiver holds its share: hand out copies */
    uint64_t received_ns;
    uint64_t sequence;
    uint64_t captured_ns;
    uint64_t sent_ns;
    uint32_t origin;
    uint32_t kind;
    uint32_t head;
    uint32_t slots; /* one lease each, ended by the receiver's exporters */
    uint32_t body_bytes;
    uint8_t body[PSHM_MESSAGE_BYTES];
    uint64_t slot[PSHM_MESSAGE_SLOTS];
    void *address[PSHM_MESSAGE_SLOTS];
    uint64_t slot_bytes[PSHM_MESSAGE_SLOTS];
    uint32_t learnt; /* layouts so far */
    pshm_layout layout[PSHM_LAYOUTS];
} pshm_delivery;

typedef struct pshm_port {
    pshm_process *process;
    pshm_routine_record *record;
    uint32_t routine;
    _Atomic uint32_t notice;
    pthread_mutex_t sending; /* a send's holds and pushes; never across a wait */
    pshm_post *post;         /* whose slots carry bits but are not pushed yet */
    uint32_t outs;           /* edges in out[]; a removed one leaves its place free */
    uint32_t ins;            /* places in in[], vacant ones included */
    uint32_t next;           /* incoming edge whose turn it is */
    uint64_t chosen;         /* outgoing edges that pshm_port_choose returned last */
    pshm_edge out[PSHM_OUTS];
    pshm_edge in[PSHM_INS];
    uint32_t awaited;          /* incoming edges of which no incarnation is here yet */
    uint32_t behind[PSHM_INS]; /* earlier incarnations of the same edge, not drained yet */
    bool drained[PSHM_INS];    /* its incarnation is not ours to look at any more */
    bool paused[PSHM_INS];     /* nothing is to be taken from it now */
    bool leaving[PSHM_INS];    /* its edge was unlinked: the place is vacant once drained */
} pshm_port;

/* For a routine with `awaited` incoming edges. NULL when memory is short or there
 * is no such routine. */
pshm_port *pshm_port_open(pshm_process *process, uint32_t routine, uint32_t awaited);
void pshm_port_close(pshm_port *port);

/* Adds an incarnation of an edge; its index, or UINT32_MAX when the edge is not sound or there is
 * no place. */
uint32_t pshm_port_add_out(pshm_port *port, uint32_t incarnation);
uint32_t pshm_port_add_in(pshm_port *port, uint32_t incarnation);

/* Takes nothing from an incoming edge's place until it is told to go on. */
void pshm_port_pause(pshm_port *port, uint32_t place, bool paused);

/* An edge was linked: its stream is open, though no incarnation of it may be here
 * yet. Or it was unlinked: its stream ends with what is still to be drained. */
void pshm_port_expect_in(pshm_port *port, uint32_t edge);
void pshm_port_remove_in(pshm_port *port, uint32_t edge);

/* Frees an outgoing edge's place. What is still to be served on it is dropped, as
 * ended; post->lost as ever. */
void pshm_port_remove_out(pshm_port *port, uint32_t out);

/* A call of main_logic is over, if there was one. */
void pshm_port_end_call(pshm_port *port);

/* Asks the port's thread out of whatever it sleeps in. Any thread. */
void pshm_port_notify(pshm_port *port);

/* Takes the notice back; whether there was one. */
bool pshm_port_noticed(pshm_port *port);

/* A slot of ring `ring`, which this process owns, under one new lease. Short
 * of slots, by the policies of `outs`: evicts the oldest unread message of a
 * drop_oldest edge, else waits for a block edge (until the latest of their
 * time-outs), else PSHM_FULL. Edges that lose a message count it as no_slot. */
int pshm_port_reserve(pshm_port *port, uint64_t outs, uint32_t ring, uint64_t *descriptor,
                      void **address);

/* Where [address, +bytes) lies in one slot held by this process that can be sent
 * on `outs` as it is: makes that slot one of the post's, under one lease however
 * often it is referred to. Returns its index among them << PSHM_OFFSET_BITS | the offset
 * in the slot; or PSHM_NO_SLOT where it has to be copied: when it lies elsewhere, one of
 * the edges still holds that slot or can't carry its ring's, or only one place is left,
 * which is kept for what is copied. */
uint64_t pshm_port_refer(pshm_port *port, pshm_post *post, uint64_t outs, const void *address,
                         uint64_t bytes);

/* Of edges whose receivers do the same work, the one whose receiver has the least
 * before it, in its queue and in its hands; those that have ended come last. */
uint32_t pshm_port_choose(pshm_port *port, uint64_t outs);

/* Sleeps until a queue of `outs` has room or its receiver has ended, `timeout_ns`
 * at the most; PSHM_OK, PSHM_NOTICE or PSHM_TIMED_OUT. A signal ends it early,
 * with the last. */
int pshm_port_await_room(pshm_port *port, uint64_t outs, uint64_t timeout_ns);

/* Sleeps `timeout_ns`, or until there is a notice: PSHM_TIMED_OUT or PSHM_NOTICE. What
 * comes in meanwhile wakes nobody. A signal ends it early. */
int pshm_port_rest(pshm_port *port, uint64_t timeout_ns);

/* Sends a message: slot, holds, end of the caller's leases, push, ring; in this
 * order, so that a receiver may be the only holder. Blocks by the policy.
 * PSHM_NOTICE: post->outs are still to be served, by pshm_port_resume.
 * PSHM_FULL: there was no message slot; nothing was sent, all is counted. */
int pshm_port_send(pshm_port *port, pshm_post *post, uint32_t ring, uint64_t sequence,
                   uint64_t captured_ns, uint32_t origin, uint32_t kind, uint32_t head,
                   const void *body, uint32_t bytes);
int pshm_port_resume(pshm_port *port, pshm_post *post);

/* The same for a message that stays in this process: to `outs`, all of them local, as `token`. */
int pshm_port_hand_over(pshm_port *port, pshm_post *post, uint64_t outs, uint64_t token,
                        uint32_t handled);

/* Gives up what is still to be served, counted under `reason`; post->lost as
 * ever. With a message slot or without, with leases or without. */
void pshm_port_abandon(pshm_port *port, pshm_post *post, uint32_t reason);

/* The next message of the incoming edges, in turn. Sleeps `timeout_ns` at the
 * most; a signal ends it early, with PSHM_TIMED_OUT.
 *
 * With a message, a call of main_logic begins (busy_since_ns); every function here that may
 * sleep ends it.
 *
 * For an array alone, within its receiver's share, whose layout was learnt: PSHM_ARRAY + the
 * layout's index | bytes of the head << PSHM_HEAD_SHIFT. Then address[0] is where the array
 * begins, and the lease is the caller's: `slots` is 0. */
int pshm_port_receive(pshm_port *port, pshm_delivery *delivery, uint64_t timeout_ns);

/* What the receiver of a local message counts of it, by times that C does not know. */
void pshm_port_count_handed(pshm_port *port, const pshm_delivery *delivery, uint64_t sent_ns,
                            uint64_t captured_ns);

/* From now on an array whose message ends with `text` comes as PSHM_ARRAY + the index that
 * is returned, in the place of the one that was learnt longest ago; PSHM_LAYOUTS, and nothing
 * done, where the text is too long. */
uint32_t pshm_delivery_learn(pshm_delivery *delivery, uint32_t kind, const void *text,
                             uint32_t bytes, uint64_t array_bytes);

/* The rest of a receive, after PSHM_UNMAPPED. */
int pshm_port_take(pshm_port *port, pshm_delivery *delivery);

/* Ends the leases of a delivery that nobody will look at, and moves it from
 * received to dropped, under `reason`. */
void pshm_port_discard(pshm_port *port, pshm_delivery *delivery, uint32_t reason);

/* Moves an earlier delivery of an incoming edge from received to dropped. Its
 * leases are the caller's to end. */
void pshm_port_disown(pshm_port *port, uint32_t edge, uint32_t reason);

/* After PSHM_DRAINED: clears the dead sender's bit wherever this process has no
 * lease, and gives the incarnation back when the last lease has ended. Every
 * ring that its messages could reach must be mapped. */
void pshm_port_recover_sender(pshm_port *port, uint32_t place);

/* For a receiver that died, while `incarnation` is an outgoing one of this port:
 * clears its bit wherever no unread message names the slot. Any thread; the
 * next receiver may attach afterwards. False when memory is short. */
bool pshm_port_recover_receiver(pshm_port *port, uint32_t incarnation);

/* Takes back what waits for a receiver that will not come, counted as ended. Any
 * thread. */
void pshm_port_discard_unread(pshm_port *port, uint32_t incarnation);

/* Ends every outgoing stream, in order. */
void pshm_port_close_outs(pshm_port *port);

/* Takes no more: senders drop what they have for this port, blocked ones go on.
 * What waits in the queues is the caller's to receive and discard. */
void pshm_port_end_ins(pshm_port *port);

#endif
