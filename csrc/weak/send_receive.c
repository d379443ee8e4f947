/* send_receive: whole sends and receives on a wire that loses nothing, of one place.
 *
 * Shows: the receiver gets each message once, in order and whole, though message and payload
 * lie in slots that are used again. The sender, short of room or of slots, and the receiver,
 * short of messages, are woken. At rest every slot is free.
 */
#include "world.h"

#define MESSAGES 3u
#define SENDER 0u
#define RECEIVER 1u

const unsigned weak_threads = 2;
const unsigned weak_together = 0;

static pshm_port *port[2];
static pshm_post *post;
static pshm_delivery *delivery;

void weak_before(void) {
    world_make(2, 2);
    world_edge(0, 0, 1, PSHM_POLICY_BLOCK, 1);
    port[SENDER] = world_port(0, 0);
    port[RECEIVER] = world_port(1, 1);
    CHECK(pshm_port_add_out(port[SENDER], 0) == 0);
    CHECK(world_add_in(port[RECEIVER], 0) == 0);
    post = weak_memory(sizeof *post);
    delivery = weak_memory(sizeof *delivery);
}

void weak_thread(unsigned self) {
    for (uint64_t n = 1; n <= MESSAGES; n++) {
        if (self == SENDER) {
            CHECK(world_send(port[SENDER], post, 1, n) == PSHM_OK);
        } else {
            CHECK(pshm_port_receive(port[RECEIVER], delivery, PSHM_FOREVER) == PSHM_OK);
            CHECK(world_payload(delivery) == n);
            pshm_process_release(port[RECEIVER]->process, delivery->slot[0]);
        }
    }
}

void weak_after(void) {
    CHECK(weak_returned(SENDER) && weak_returned(RECEIVER)); /* else one of them missed a wake */
    CHECK(world_is_free(WORLD_PAYLOADS) && world_is_free(WORLD_MESSAGES));
}
