/* dead_receiver: a receiver dies at any point, and its sender sweeps while it goes on sending.
 *
 * The sender's routine and its control thread, which sweeps, are one process. What the kernel
 * and the launcher do between the death and the sweep is a flag.
 *
 * Shows: the sweep clears the bit of what the dead one held, and spares what waits in the
 * queue and what the sender is about to push. The next receiver gets all of it, in order and
 * whole, and then every slot is free. The sender sleeps only while there is no room or no slot.
 */
#include "world.h"

#define SENDER 0u
#define CONTROL 1u
#define RECEIVER 2u
#define MESSAGES 3u

const unsigned weak_threads = 3;
const unsigned weak_together = 2;

static pshm_port *port[2], *successor;
static pshm_post *post;
static pshm_delivery *delivery, *late;
static _Atomic uint64_t *death;
static uint64_t sent;

void weak_before(void) {
    world_make(2, 2);
    world_edge(0, 0, 1, PSHM_POLICY_BLOCK, 1);
    port[0] = world_port(0, 0);
    port[1] = world_port(1, 1);
    successor = world_port(1, 1);
    CHECK(pshm_port_add_out(port[0], 0) == 0);
    CHECK(world_add_in(port[1], 0) == 0);
    post = weak_memory(sizeof *post);
    delivery = weak_memory(sizeof *delivery);
    late = weak_memory(sizeof *late);
    death = weak_memory(sizeof *death);
    sent = 0;
}

static void send(void) {
    for (uint64_t n = 1; n <= MESSAGES; n++) {
        CHECK(world_send(port[0], post, 1, n) == PSHM_OK);
        sent = n;
    }
}

static void receive_and_die(void) {
    weak_mortal(death);
    CHECK(pshm_port_receive(port[1], delivery, PSHM_FOREVER) == PSHM_OK);
    CHECK(world_payload(delivery) == 1);
    pshm_process_release(port[1]->process, delivery->slot[0]);
    weak_tell(death);
}

void weak_thread(unsigned self) {
    if (self == SENDER) {
        send();
    } else if (self == CONTROL) {
        weak_await(death);
        CHECK(pshm_port_recover_receiver(port[0], 0));
    } else {
        receive_and_die();
    }
}

static bool is_free(void) {
    return world_is_free(WORLD_PAYLOADS) && world_is_free(WORLD_MESSAGES);
}

void weak_after(void) {
    if (!weak_returned(CONTROL)) return; /* it was not told of a death */
    if (weak_sleeps(SENDER)) {           /* with a message in hand, for which there is no room */
        CHECK(pshm_queue_depth(&port[0]->out[0].queue) == 1);
        CHECK(world_is_full(WORLD_PAYLOADS) && world_is_full(WORLD_MESSAGES));
    }
    if (!weak_returned(SENDER)) return;
    uint64_t before = 0;
    CHECK(world_add_in(successor, 0) == 0);
    while (pshm_queue_depth(&successor->in[0].queue) != 0) {
        CHECK(pshm_port_receive(successor, late, PSHM_FOREVER) == PSHM_OK);
        CHECK(world_payload(late) > before);
        before = late->sequence;
        pshm_process_release(successor->process, late->slot[0]);
    }
    CHECK(is_free());
}
