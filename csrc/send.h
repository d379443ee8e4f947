/* send: a message on its way out of a port.
 *
 * A post is one message and the outgoing edges that it still has to go to. Sending it
 * takes these steps, in this order:
 *
 *     1. take a slot for the message, and write it        (pshm_port_send)
 *     2. set each edge's bit in the message slot and in every payload slot
 *     3. end the caller's own leases of the payload slots
 *     4. push on each edge, then ring the receiver's bell  (pshm_port_resume)
 *     5. drop the producer's bit of the message slot
 *
 * After step 2 each receiver may be a slot's only holder, and a message in a queue has its
 * bits. Steps 2 and 4 are sections of port->sending, so that the recovery of a receiver,
 * in another thread, finds either none or all of a post's bits.
 *
 * Example:
 *
 *     pshm_post post = {.outs = outs, .message = PSHM_NO_SLOT};
 *     pshm_port_reserve(port, outs, payloads, &post.slot[0], &address);
 *     post.slots = 1;
 *     memcpy(address, frame, bytes);
 *     int status = pshm_port_send(port, &post, messages, sequence, captured_ns, origin,
 *                                 kind, 0, body, body_bytes);
 *     while (status == PSHM_NOTICE) {
 *         ...                             // pshm_port_noticed, and do what is wanted
 *         status = pshm_port_resume(port, &post);
 *     }
 *     if (status != PSHM_OK && status != PSHM_LOST)
 *         pshm_port_abandon(port, &post, PSHM_REASON_NO_SLOT);
 */
#ifndef PSHM_SEND_H
#define PSHM_SEND_H

#include "lease.h"
#include "message.h"
#include "port.h"

#define PSHM_OFFSET_BITS 48 /* a reference {index:16 | offset:48} */
#define PSHM_OFFSET_MASK ((1ull << PSHM_OFFSET_BITS) - 1)

/* `outs` is a set of the port's outgoing edges, a bit each. Between two messages
 * `message` is PSHM_NO_SLOT, and everything is 0 but `token`, `deadline` and what a trace says:
 * the end of a send leaves it so, and the next message sets only what it carries. */
typedef struct pshm_post {
    uint64_t outs;    /* edges that it still has to go to */
    uint64_t token;   /* what the local ones of them are sent */
    uint64_t message; /* its slot, which is held while any edge is left */
    uint64_t ticket;  /* see tickets.h; 0 for none */
    uint32_t offered; /* whether its edges have counted it as sent */
    uint32_t handled; /* received messages that it is made of: done with when it is offered */
    uint64_t deadline[PSHM_OUTS];
    uint32_t slots; /* payload slots, with one lease each, which the send ends */
    uint64_t slot[PSHM_MESSAGE_SLOTS];
    /* What a trace says of it; it stays after the send: */
    uint64_t began_ns;
    uint64_t sequence;
    uint32_t origin;
    uint32_t lost; /* tokens of local edges that no receiver will ask for */
    uint32_t lost_out[2 * PSHM_OUTS];
    uint64_t lost_token[2 * PSHM_OUTS];
} pshm_post;

/* A reference: the index of one of a post's payload slots, and an offset in it. */
static inline uint64_t pshm_reference(uint32_t index, uint64_t offset) {
    return (uint64_t)index << PSHM_OFFSET_BITS | offset;
}
static inline uint32_t pshm_reference_index(uint64_t reference) {
    return (uint32_t)(reference >> PSHM_OFFSET_BITS);
}
static inline uint64_t pshm_reference_offset(uint64_t reference) {
    return reference & PSHM_OFFSET_MASK;
}

/* Takes a slot of ring `ring`, which this process owns, with one new lease. When no slot
 * is free, the policies of `outs` decide (see policy.h); an edge whose message was taken
 * back for it counts that as no_slot.
 * Returns PSHM_OK, PSHM_FULL, PSHM_TIMED_OUT, PSHM_NOTICE or PSHM_UNMAPPED. May sleep. */
int pshm_port_reserve(pshm_port *port, uint64_t outs, uint32_t ring, uint64_t *descriptor,
                      void **address);

/* Sends [address, address + bytes) as it lies, without a copy: makes the slot that holds
 * it one of the post's, with one lease, however often it is referred to.
 * Returns a reference, or PSHM_NO_SLOT when it has to be copied: it lies in no slot that is
 * held here, an edge holds this slot already or can't carry its ring's slots, or only the
 * last of the post's places is left, which is kept for what is copied. */
uint64_t pshm_port_refer(pshm_port *port, pshm_post *post, uint64_t outs, const void *address,
                         uint64_t bytes);

/* Sends a message: the steps above. Where an edge's queue is full, its policy decides.
 * Returns PSHM_OK or PSHM_LOST when it is sent. PSHM_NOTICE: it is not sent to all of
 * post->outs yet; go on with pshm_port_resume once post->offered is set, and before that
 * with pshm_port_send. On any other status it was neither sent nor counted, and the caller
 * abandons the post: PSHM_FULL and PSHM_TIMED_OUT (no message slot was free), PSHM_UNMAPPED,
 * PSHM_PROTOCOL (it does not fit into a slot). May sleep. */
int pshm_port_send(pshm_port *port, pshm_post *post, uint32_t ring, uint64_t sequence,
                   uint64_t captured_ns, uint32_t origin, uint32_t kind, uint32_t head,
                   const void *body, uint32_t bytes);

/* Goes on with a post that is offered: step 4. Returns PSHM_OK, PSHM_LOST or PSHM_NOTICE,
 * as pshm_port_send does. May sleep. */
int pshm_port_resume(pshm_port *port, pshm_post *post);

/* Sends a message that stays in this process: to `outs`, all of them local, as `token`.
 * Returns what pshm_port_resume does. May sleep. */
int pshm_port_hand_over(pshm_port *port, pshm_post *post, uint64_t outs, uint64_t token,
                        uint32_t handled, uint64_t sequence, uint32_t origin);

/* Gives a post up on all edges that are left, counted under `reason`. It may have a message
 * slot and leases, or not. Never sleeps. */
void pshm_port_abandon(pshm_port *port, pshm_post *post, uint32_t reason);

/* Returns which of `outs`, whose receivers do the same work, is to get the next message: the
 * one whose receiver has the least to do, in its queue and in its hands. Receivers that have
 * ended come last; where several have as little to do, they take turns. Wait-free. */
uint32_t pshm_port_choose(pshm_port *port, uint64_t outs);

#endif
