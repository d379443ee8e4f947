/* dead_sender: a sender dies at any point; its receiver drains the queue and sweeps, and then
 * the launcher may give the bit to another.
 *
 * What the kernel tells the launcher is a flag.
 *
 * Shows: the receiver, once it has seen the mark, has seen the dead one's last push, and gets
 * it whole. When the launcher finds the incarnation swept, no slot has its bit any more, also
 * if a lease outlasted the sweep.
 */
#include "world.h"

#define SENDER 0u
#define RECEIVER 1u
#define LAUNCHER 2u
#define MESSAGES 2u
#define EDGE 2u /* the holder bit, as a mask */

const unsigned weak_threads = 3;
const unsigned weak_together = 0;

static pshm_port *port[3];
static pshm_post *post;
static pshm_delivery *delivery;
static _Atomic uint64_t *death;

void weak_before(void) {
    world_make(2, 2);
    world_edge(0, 0, 1, PSHM_POLICY_DROP_OLDEST, 1);
    for (unsigned n = 0; n < 3; n++) port[n] = world_port(n, n == RECEIVER);
    CHECK(pshm_port_add_out(port[SENDER], 0) == 0);
    CHECK(world_add_in(port[RECEIVER], 0) == 0);
    post = weak_memory(sizeof *post);
    delivery = weak_memory(sizeof *delivery);
    death = weak_memory(sizeof *death);
}

static void send_and_die(void) {
    weak_mortal(death);
    for (uint64_t n = 1; n <= MESSAGES; n++)
        if (world_send(port[SENDER], post, 1, n) == PSHM_FULL) break;
    weak_tell(death);
}

static void receive(void) {
    pshm_process *process = port[RECEIVER]->process;
    uint64_t last = 0, held = PSHM_NO_SLOT;
    int status;
    while ((status = pshm_port_receive(port[RECEIVER], delivery, PSHM_FOREVER)) == PSHM_OK) {
        CHECK(world_payload(delivery) > last);
        last = delivery->sequence;
        if (held != PSHM_NO_SLOT) pshm_process_release(process, held);
        held = delivery->slot[0];
    }
    CHECK(status == PSHM_DRAINED);
    pshm_port_recover_sender(port[RECEIVER], delivery->place);
    if (held != PSHM_NO_SLOT) pshm_process_release(process, held);
}

static bool has_bit(void) {
    for (uint32_t ring = 0; ring < 2; ring++)
        for (uint32_t n = 0; n < world.slots[ring]; n++)
            if ((pshm_ring_holders(&port[LAUNCHER]->process->mapping[ring]->ring, n) & EDGE) != 0)
                return true;
    return false;
}

static void bury(void) {
    pshm_control *control = &port[LAUNCHER]->process->control;
    pshm_incarnation_record *incarnation = pshm_control_incarnation(control, 0);
    weak_await(death);
    pshm_incarnation_mark(incarnation, PSHM_SENDER_DEAD);
    pshm_control_ring(control, 1);
    for (int look = 0; look < 8; look++)
        if (pshm_incarnation_state(incarnation) == PSHM_SWEPT) CHECK(!has_bit());
}

void weak_thread(unsigned self) {
    if (self == SENDER)
        send_and_die();
    else if (self == RECEIVER)
        receive();
    else
        bury();
}

void weak_after(void) {
    if (!weak_returned(LAUNCHER)) return;
    CHECK(!weak_sleeps(RECEIVER));
    if (!weak_returned(RECEIVER)) return;
    CHECK(pshm_queue_depth(&port[SENDER]->out[0].queue) == 0);
    CHECK(!has_bit());
}
