/* notice: another thread wants a routine's thread, which is about to sleep.
 *
 * Shows: a routine does not sleep through a notice, and what was put up before it is seen by
 * the thread that takes the notice back.
 */
#include "world.h"

#define ROUTINE 0u

const unsigned weak_threads = 2;
const unsigned weak_together = 2;

static pshm_port *port;
static pshm_delivery *delivery;
static uint64_t *command;

void weak_before(void) {
    world_make(1, 1);
    world_edge(0, 0, 1, PSHM_POLICY_BLOCK, 1);
    port = world_port(1, 1);
    CHECK(world_add_in(port, 0) == 0);
    delivery = weak_memory(sizeof *delivery);
    command = weak_memory(sizeof *command);
    weak_payload(command, sizeof *command, sizeof *command);
}

void weak_thread(unsigned self) {
    if (self != ROUTINE) {
        weak_write(command, 7);
        pshm_port_notify(port);
        return;
    }
    CHECK(pshm_port_receive(port, delivery, PSHM_FOREVER) == PSHM_NOTICE);
    CHECK(pshm_port_noticed(port));
    CHECK(weak_read(command) == 7);
    CHECK(pshm_port_rest(port, 0) == PSHM_TIMED_OUT); /* it is taken back */
}

void weak_after(void) {
    CHECK(!weak_sleeps(ROUTINE));
}
