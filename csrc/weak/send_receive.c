/* send_receive: whole sends and receives on a wire that loses nothing, of one place.
 *
 * Proves: the receiver gets each message once, in order and whole, though message and payload
 * lie in slots that are used again; the sender, short of room or of slots, and the receiver,
 * short of messages, sleep only while there is nothing for them; at rest every slot is free.
 */
#include "world.h"

#ifndef MESSAGES
#define MESSAGES 2u
#endif
#define SENDER 0u
#define RECEIVER 1u

const unsigned weak_threads = 2;
const unsigned weak_together = 0;

static pshm_port *port[2];
static pshm_post *post;
static pshm_delivery *delivery;
static uint64_t sent, received;

void weak_before(void) {
    world_make(1, 1);
    world_edge(0, 0, 1, PSHM_POLICY_BLOCK, 1);
    port[SENDER] = world_port(0, 0);
    port[RECEIVER] = world_port(1, 1);
    CHECK(pshm_port_add_out(port[SENDER], 0) == 0);
    CHECK(pshm_port_add_in(port[RECEIVER], 0) == 0);
    post = weak_memory(sizeof *post);
    delivery = weak_memory(sizeof *delivery);
    sent = received = 0;
}

void weak_thread(unsigned self) {
    for (uint64_t n = 1; n <= MESSAGES; n++) {
        if (self == SENDER) {
            CHECK(world_send(port[SENDER], post, 1, n) == PSHM_OK);
            sent = n;
        } else {
            CHECK(pshm_port_receive(port[RECEIVER], delivery, PSHM_FOREVER) == PSHM_OK);
            CHECK(world_payload(delivery) == n);
            pshm_process_release(port[RECEIVER]->process, delivery->slot[0]);
            received = n;
        }
    }
}

void weak_after(void) {
    uint32_t waiting = pshm_queue_depth(&port[SENDER]->out[0].queue);
    if (weak_sleeps(RECEIVER)) CHECK(waiting == 0);
    if (weak_sleeps(SENDER))
        CHECK(!world_is_free(WORLD_PAYLOADS) || !world_is_free(WORLD_MESSAGES));
    if (received == MESSAGES)
        CHECK(world_is_free(WORLD_PAYLOADS) && world_is_free(WORLD_MESSAGES));
}
