/* receive: a message on its way into a port.
 *
 * Receiving takes these steps, all of them in the routine's thread:
 *
 *     1. pop a cell from one of the incoming edges, and ring its sender's bell
 *     2. check the message against its slots, and copy it out
 *     3. take a lease on each payload slot
 *     4. drop the edge's bit of the message slot
 *     5. count the receipt
 *
 * When a ring that a message names is not mapped yet, step 2 stops with PSHM_UNMAPPED. The
 * caller maps it and calls pshm_port_take.
 *
 * Example:
 *
 *     int status = pshm_port_receive(port, &delivery, timeout_ns);
 *     while (status == PSHM_UNMAPPED) {
 *         ...                                     // map ring delivery.unmapped
 *         status = pshm_port_take(port, &delivery);
 *     }
 *     if (status == PSHM_OK)
 *         for (uint32_t k = 0; k < delivery.slots; k++) {
 *             ...                                 // read delivery.address[k]
 *             pshm_release(delivery.address[k]);
 *         }
 */
#ifndef PSHM_RECEIVE_H
#define PSHM_RECEIVE_H

#include "layout.h"
#include "lease.h"
#include "message.h"
#include "port.h"

typedef struct pshm_delivery {
    uint32_t place; /* index of the incoming edge */
    uint32_t local; /* whether it is local: then only the token counts */
    uint64_t token;
    uint64_t cell;
    uint32_t unmapped; /* with PSHM_UNMAPPED: the ring to map */
    uint32_t over_cap; /* the receiver holds its share of slots: hand out copies */
    uint64_t received_ns;
    uint64_t sequence;
    uint64_t captured_ns;
    uint64_t sent_ns;
    uint32_t origin;
    uint32_t kind;
    uint32_t head;
    uint32_t slots; /* payload slots, with one lease each, which are the caller's to end */
    uint32_t body_bytes;
    uint8_t body[PSHM_MESSAGE_BYTES];
    uint64_t slot[PSHM_MESSAGE_SLOTS];
    void *address[PSHM_MESSAGE_SLOTS];
    uint64_t slot_bytes[PSHM_MESSAGE_SLOTS];
    uint32_t learnt; /* how many layouts were learnt so far */
    pshm_layout layout[PSHM_LAYOUTS];
} pshm_delivery;

/* How old a message was on receipt. One whose source dates it later, as a replay that runs
 * ahead of the recorded pace does, is new. */
static inline uint64_t pshm_age(uint64_t received_ns, uint64_t captured_ns) {
    return received_ns > captured_ns ? received_ns - captured_ns : 0;
}

/* Takes the next message; the incoming edges take turns. Sleeps for `timeout_ns` at most; a
 * signal ends the sleep early, with PSHM_TIMED_OUT.
 * Returns PSHM_OK or PSHM_ARRAY + … (see layout.h) with a message; a call of main_logic
 * begins with it. Else PSHM_NOTICE, PSHM_TIMED_OUT, PSHM_CLOSED, PSHM_UNMAPPED,
 * PSHM_PROTOCOL, or PSHM_DRAINED, after which the caller maps every ring and calls
 * pshm_port_recover_sender. */
int pshm_port_receive(pshm_port *port, pshm_delivery *delivery, uint64_t timeout_ns);

/* Sleeps, for a few seconds at most, until there may be something that pshm_port_receive,
 * which has just said PSHM_TIMED_OUT, would find now. Touches no delivery. Returns false when
 * a signal ended the sleep. */
bool pshm_port_await(pshm_port *port);

/* Goes on with a receipt that stopped with PSHM_UNMAPPED. Returns what pshm_port_receive
 * returns with a message, PSHM_UNMAPPED for the next ring, or PSHM_PROTOCOL. */
int pshm_port_take(pshm_port *port, pshm_delivery *delivery);

/* Counts the times of a local message, which Python knows. */
void pshm_port_count_handed(pshm_port *port, const pshm_delivery *delivery, uint64_t sent_ns,
                            uint64_t captured_ns);

/* Ends the leases of a delivery that nobody has looked at, and moves it from received to
 * dropped, under `reason`. */
void pshm_port_discard(pshm_port *port, pshm_delivery *delivery, uint32_t reason);

/* Moves an earlier delivery on an edge from received to dropped, under `reason`. The caller
 * ends its leases. */
void pshm_port_disown(pshm_port *port, uint32_t edge, uint32_t reason);

#endif
