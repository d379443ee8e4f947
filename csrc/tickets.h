/* tickets: what is still to come on an edge to one of several replicas.
 *
 * Replicas of a flow finish in any order; a routine after them restores it. For that,
 * messages to replicas are numbered with tickets, and each edge tells how far it is:
 *
 *     announced   the last ticket that is pushed or is about to be; 0 for none
 *     pushed      the last ticket whose message is in the queue, or was
 *     done        the results of all tickets up to this one are pushed
 *
 * A ticket that is announced and not done can still yield a result. Whoever received
 * the result of one ticket sees every earlier one as announced.
 *
 * The sender, for each message:
 *
 *     pshm_tickets_announce(&edge, ticket);
 *     if (pshm_queue_push(&edge.queue, cell)) pshm_tickets_confirm(&edge, ticket);
 *     else ...                                // later, or pshm_tickets_withdraw
 *
 * All functions are wait-free.
 */
#ifndef PSHM_TICKETS_H
#define PSHM_TICKETS_H

#include "edge.h"

/* Before a push: from now on the ticket counts as pushed in case we die. The sender.
 * Order: release. */
void pshm_tickets_announce(pshm_edge *edge, uint64_t ticket);

/* After the push, never before it: whoever then finds the queue empty knows that the
 * message was taken. The sender. Order: release. */
void pshm_tickets_confirm(pshm_edge *edge, uint64_t ticket);

/* The ticket that was announced will not be pushed. The sender. Order: release. */
void pshm_tickets_withdraw(pshm_edge *edge, uint64_t ticket);

/* The results of all tickets up to this one are pushed. The replica, after that push.
 * Order: release. */
void pshm_tickets_done(pshm_edge_record *record, uint64_t ticket);

/* Reads how far the edge is. Any process. Order: acquire, first `done`. */
void pshm_tickets_read(const pshm_edge_record *record, uint64_t *announced, uint64_t *done);

/* Returns the last ticket whose message is in the queue, or was: if the queue is found
 * empty afterwards, the message was taken. Any process. Order: acquire. */
uint64_t pshm_tickets_pushed(const pshm_edge_record *record);

/* The sender is dead: what it announced is in the queue, or never will be. The launcher,
 * before it marks the incarnation. */
void pshm_tickets_settle(pshm_edge_record *record);

#endif
