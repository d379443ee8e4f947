/* policy: what happens to a message for which there is no room.
 *
 * Two things can be short: a cell in an edge's queue, and a slot in the sender's ring.
 *
 *                     the queue is full                   no slot is free
 *     drop_oldest     takes the oldest message back,      takes the oldest message of the
 *                     and sends this one                  longest queue back for its slot
 *     drop_newest     drops this message                  drops this message
 *     block           waits for room, timeout_ns long,    waits for a slot, timeout_ns long,
 *                     then drops this message             then drops this message
 *
 * Where one message goes to several edges, each settles its own queue by its own policy.
 * For a slot they act together: first the drop_oldest edges give, then the sender waits as
 * long as the most patient of the block edges, then all drop the message.
 *
 * Whatever is dropped is counted, on its edge, under a reason.
 *
 * To add a policy: give it a number here, its two answers in policy.c
 * (pshm_policy_make_room and pshm_policy_evict_for_slot or pshm_policy_patience), and a
 * name in Python.
 */
#ifndef PSHM_POLICY_H
#define PSHM_POLICY_H

#include <stdbool.h>
#include <stdint.h>

#define PSHM_FOREVER UINT64_MAX

enum pshm_policy { PSHM_POLICY_DROP_OLDEST, PSHM_POLICY_DROP_NEWEST, PSHM_POLICY_BLOCK };

/* Why a message was not delivered on an edge. */
enum pshm_reason {
    PSHM_REASON_OLDEST,  /* the sender took it back to make room for a newer one */
    PSHM_REASON_NEWEST,  /* the queue was full when it came */
    PSHM_REASON_TIMEOUT, /* the queue stayed full for as long as the sender waits */
    PSHM_REASON_NO_SLOT, /* no slot of the sender's ring was free */
    PSHM_REASON_ENDED,   /* the receiver had ended */
    PSHM_REASON_STOPPED, /* the pipe was killed before it was sent */
    PSHM_REASON_ERROR,   /* it could not be encoded or decoded */
    PSHM_REASON_CRASH,   /* a process died while it sent or received it */
    PSHM_REASON_EXPIRED, /* it was older than the wire's max_age on receipt */
    PSHM_REASON_JOIN,    /* nothing came that it could be joined with */
    PSHM_REASONS
};

/* What became of a full queue. */
enum pshm_room {
    PSHM_ROOM_MADE,    /* push again */
    PSHM_ROOM_AWAITED, /* the message waits until the receiver makes room */
    PSHM_ROOM_REFUSED  /* this edge does not get the message */
};

struct pshm_edge;
struct pshm_process;
struct pshm_port;
struct pshm_post;

/* ---- for the sender's thread, with `sending` locked (see port.h) ----------------------- */

/* Answers a full queue, by the edge's policy: takes the oldest message back, lets this one
 * wait, or gives this one up. Returns which. Lock-free. */
enum pshm_room pshm_policy_make_room(struct pshm_port *port, struct pshm_post *post, uint32_t out,
                                     uint64_t now);

/* Gives this edge's part of a post up: drops its bits, and counts it under `reason`.
 * A local edge's token goes to post->lost. Lock-free. */
void pshm_policy_give_up(struct pshm_port *port, struct pshm_post *post, uint32_t out,
                         uint32_t reason);

/* Takes the oldest message of an edge back, and counts it under `reason`. A local edge's
 * token goes to post->lost, as one of edge `out`; other edges need no post.
 * Order: the head is moved before the bits are dropped, so that a message in a queue
 * has its bits. Returns false when the queue is empty. Lock-free. */
bool pshm_policy_evict(struct pshm_port *port, struct pshm_post *post, uint32_t out,
                       struct pshm_edge *edge, uint32_t reason);

/* Drops the edge's bits of a message that its receiver will not see: first those of the
 * payload, since the bit of the message slot keeps the list of them. For whoever took its cell
 * out of the queue; any thread. Lock-free but for a system call. */
void pshm_policy_drop_message(struct pshm_process *process, const struct pshm_edge *edge,
                              uint64_t cell);

/* ---- for the sender's thread ----------------------------------------------------------- */

/* Answers a lack of slots: takes back the oldest message of that drop_oldest edge whose
 * queue is longest. Locks `sending`. Returns false when all their queues are empty. */
bool pshm_policy_evict_for_slot(struct pshm_port *port, uint64_t outs);

/* Returns how long to wait for a slot: the longest time-out of the block edges, 0 if
 * there are none. Wait-free. */
uint64_t pshm_policy_patience(const struct pshm_port *port, uint64_t outs);

/* Returns the first time at which one of the post's edges stops waiting. Wait-free. */
uint64_t pshm_policy_first_deadline(const struct pshm_post *post);

/* Returns whether a push on any of the edges could get on: its queue has room, or its
 * receiver has ended. The sender's look between arming its bell and waiting.
 * Order: seq_cst. Wait-free. */
bool pshm_policy_has_room(const struct pshm_port *port, uint64_t outs);

/* Sleeps until that is so, for `timeout_ns` at most. Returns PSHM_OK, PSHM_NOTICE or
 * PSHM_TIMED_OUT; a signal ends the sleep early, with PSHM_TIMED_OUT. */
int pshm_port_await_room(struct pshm_port *port, uint64_t outs, uint64_t timeout_ns);

/* ---- for any thread of the sender's process -------------------------------------------- */

/* Takes back everything that waits for a receiver which will not come, counted as ended.
 * The launcher asks for it. Locks `sending`. */
void pshm_port_discard_unread(struct pshm_port *port, uint32_t incarnation);

#endif
