/* last_lease: a slot that two threads of the receiver's process hold, in views.
 *
 * Shows: whichever of them ends the last lease, both have read before the producer writes
 * anew; the owner that waits for the slot is woken.
 */
#include "world.h"

#define ROUTINE 0u
#define OTHER 1u
#define SENDER 2u

const unsigned weak_threads = 3;
const unsigned weak_together = 2;

static pshm_port *port[2];
static pshm_post *post;
static pshm_delivery *delivery;
static _Atomic uint64_t *handed;

void weak_before(void) {
    world_make(1, 2);
    world_edge(0, 0, 1, PSHM_POLICY_BLOCK, 1);
    for (unsigned n = 0; n < 2; n++) port[n] = world_port(n, n);
    CHECK(pshm_port_add_out(port[0], 0) == 0);
    CHECK(world_add_in(port[1], 0) == 0);
    post = weak_memory(sizeof *post);
    delivery = weak_memory(sizeof *delivery);
    handed = weak_memory(sizeof *handed);
    CHECK(world_send(port[0], post, 1, 1) == PSHM_OK);
}

void weak_thread(unsigned self) {
    pshm_process *process = port[1]->process;
    if (self == ROUTINE) {
        uint64_t bytes;
        CHECK(pshm_port_receive(port[1], delivery, PSHM_FOREVER) == PSHM_OK);
        CHECK(pshm_process_lend(process, delivery->slot[0], &bytes) == delivery->address[0]);
        weak_tell(handed);
        CHECK(world_payload(delivery) == 1);
        pshm_process_release(process, delivery->slot[0]);
    } else if (self == OTHER) {
        weak_await(handed);
        CHECK(world_payload(delivery) == 1);
        pshm_process_release(process, delivery->slot[0]);
    } else {
        CHECK(world_send(port[0], post, 1, 2) == PSHM_OK);
    }
}

void weak_after(void) {
    if (weak_returned(ROUTINE) && weak_returned(OTHER)) CHECK(!weak_sleeps(SENDER));
}
