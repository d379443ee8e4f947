/* receiver_ends: a receiver takes no more while its sender is in the midst of a send.
 *
 * Shows: what was pushed after the receiver's last look is taken back by the sender, so that
 * no slot stays held; and a sender that waits for room is woken.
 */
#include "world.h"

#define SENDER 0u
#define MESSAGES 3u

const unsigned weak_threads = 2;
const unsigned weak_together = 0;

static pshm_port *port[2];
static pshm_post *post;
static pshm_delivery *delivery;

void weak_before(void) {
    world_make(2, 2);
    world_edge(0, 0, 1, PSHM_POLICY_BLOCK, 1);
    for (unsigned n = 0; n < 2; n++) port[n] = world_port(n, n);
    CHECK(pshm_port_add_out(port[0], 0) == 0);
    CHECK(world_add_in(port[1], 0) == 0);
    post = weak_memory(sizeof *post);
    delivery = weak_memory(sizeof *delivery);
}

/* Takes one, and then does as a routine does that ends: it drains what waits. */
static void take_one_and_end(void) {
    CHECK(pshm_port_receive(port[1], delivery, PSHM_FOREVER) == PSHM_OK);
    pshm_process_release(port[1]->process, delivery->slot[0]);
    pshm_port_end_ins(port[1]);
    while (pshm_port_receive(port[1], delivery, 0) == PSHM_OK)
        pshm_port_discard(port[1], delivery, PSHM_REASON_ENDED);
}

void weak_thread(unsigned self) {
    if (self != SENDER) {
        take_one_and_end();
        return;
    }
    for (uint64_t n = 1; n <= MESSAGES; n++) CHECK(world_send(port[0], post, 1, n) == PSHM_OK);
}

void weak_after(void) {
    CHECK(!weak_sleeps(SENDER));
    if (!weak_returned(SENDER)) return;
    CHECK(pshm_queue_depth(&port[0]->out[0].queue) == 0);
    CHECK(world_is_free(WORLD_PAYLOADS) && world_is_free(WORLD_MESSAGES));
}
