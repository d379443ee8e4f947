/* crash_burial: what the launcher does when a flow's process has died, in the order of
 * pipert_shm/launcher (supervisor, recovery).
 */
#include "crash_launcher.h"

#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void recover_receiver(uint32_t incarnation) {
    CHECK(pshm_recover_receiver(launched.process, incarnation, PSHM_NO_SLOT), "no memory");
    launched.unswept[incarnation] = 0;
}

/* Asks the edge's sender to recover the dead receiver. It will answer. */
static void ask(uint32_t edge, uint32_t what, uint32_t incarnation) {
    launched.unswept[incarnation]++;
    pshm_crash_tell(pshm_crash_sending_flow(edge), what, pshm_crash_sender(edge), incarnation);
}

/* Both ends are dead for good. */
static void give_up(uint32_t edge) {
    for (uint32_t n = 0, count = pshm_crash_count_of(edge); n < count; n++) {
        pshm_recover_edge(launched.process, launched.of[edge][n]);
        launched.unswept[launched.of[edge][n]] = 0;
    }
}

static void retire_rings(uint32_t routine) {
    pshm_crash_remove_unpublished(launched.process, routine);
    pshm_crash_open_every_ring(launched.process);
    for (uint32_t ring = 0; ring < PSHM_CRASH_SERIALS; ring++) {
        const pshm_mapping *mapping = pshm_process_find(launched.process, ring);
        bool known = mapping == NULL || mapping->ring.owner != routine;
        for (uint32_t n = 0; n < launched.retired; n++) known |= launched.retired_ring[n] == ring;
        if (known) continue;
        pshm_recover_owner(launched.process, ring);
        launched.retired_ring[launched.retired++] = ring;
    }
}

void pshm_crash_remove_retired(void) {
    uint32_t left = 0;
    for (uint32_t n = 0; n < launched.retired; n++)
        if (!pshm_crash_remove_if_free(launched.process, launched.retired_ring[n]))
            launched.retired_ring[left++] = launched.retired_ring[n];
    launched.retired = left;
}

/* Where nothing was dropped or lost, the queue has had the message of every ticket up to the
 * one that counts as pushed. */
static void check_tickets(uint32_t edge) {
    pshm_edge seen;
    uint32_t deaths = 0;
    for (uint32_t n = 0; n < FLOWS; n++) deaths += atomic_load(&pshm_crash_here.world->deaths[n]);
    if (!pshm_crash_is_lossless(edge) || deaths > 1) return;
    CHECK(pshm_edge_attach(&seen, launched.control, launched.of[edge][0]), "edge %u is unsound",
          edge);
    CHECK(pshm_tickets_pushed(seen.record) <= atomic_load(&seen.queue.words->tail),
          "edge %u: a ticket counts as pushed before its message is", edge);
}

static void recover_sender(uint32_t edge) {
    check_tickets(edge);
    pshm_tickets_settle(&launched.control->edge[edge]);
    for (uint32_t n = 0, count = pshm_crash_count_of(edge); n < count; n++) {
        uint32_t number = launched.of[edge][n];
        bool unswept = launched.unswept[number] != 0;
        pshm_recover_handing(launched.process, number);
        if (edge == TO_LOCAL)
            pshm_recover_edge(launched.process, number);
        else if (pshm_crash_state_of(number) == PSHM_LIVE)
            pshm_crash_set_state(number, PSHM_SENDER_DEAD);
        if (!unswept) continue;
        recover_receiver(number);
        pshm_crash_attach(edge, number);
    }
    pshm_crash_take_back(edge); /* at once, before the receiver has drained it */
    if (pshm_crash_receiving_flow(edge)->failed) give_up(edge);
    /* in any case: the sender may have died between push and ring */
    pshm_control_ring(launched.control, pshm_crash_receiver(edge));
    if (edge != TO_LOCAL)
        pshm_crash_tell(pshm_crash_receiving_flow(edge), TELL_SENDER_DIED,
                        pshm_crash_receiver(edge), 0);
}

static void recover_edge_receiver(uint32_t edge) {
    for (uint32_t n = 0, count = pshm_crash_count_of(edge); n < count; n++) {
        uint32_t number = launched.of[edge][n];
        if (pshm_crash_is_up(pshm_crash_sending_flow(edge)) &&
            pshm_crash_state_of(number) == PSHM_LIVE)
            ask(edge, TELL_RECEIVER_DIED, number);
        else
            recover_receiver(number);
    }
}

/* The flow is not restarted: its neighbours go on without it. */
static void fail(flow *it) {
    it->failed = true;
    for (uint32_t edge = 0; edge < EDGES; edge++) {
        pshm_edge_record *record = &launched.control->edge[edge];
        if (pshm_crash_sending_flow(edge) == it) {
            __atomic_store_n(&record->sender_failed, 1, __ATOMIC_SEQ_CST);
            if (pshm_crash_receiving_flow(edge)->failed) give_up(edge);
            pshm_control_ring(launched.control, pshm_crash_receiver(edge));
        }
        if (pshm_crash_receiving_flow(edge) == it) {
            __atomic_store_n(&record->receiver_ended, 1, __ATOMIC_SEQ_CST);
            if (!pshm_crash_is_up(pshm_crash_sending_flow(edge)))
                give_up(edge);
            else if (pshm_crash_live(edge) != UINT32_MAX && edge != TO_LOCAL)
                ask(edge, TELL_RECEIVER_FAILED, pshm_crash_live(edge));
            pshm_control_ring(launched.control, pshm_crash_sender(edge));
        }
    }
    for (uint32_t routine = 0; routine < ROUTINES; routine++)
        if (&launched.flow[pshm_crash_flow_of(routine)] == it)
            __atomic_store_n(&launched.control->routine[routine].state, FAILED, __ATOMIC_SEQ_CST);
}

void pshm_crash_bury(uint32_t number) {
    pshm_crash_world *world = pshm_crash_here.world;
    flow *it = &launched.flow[number];
    int status;
    CHECK(waitpid(it->pid, &status, 0) == it->pid, "no child to wait for");
    CHECK(pshm_crash_was_killed(number, status), "flow %u ended with status %#x", number,
          (unsigned)status);
    close(it->channel);
    it->channel = -1;
    it->ready = launched.asked = false;
    memset((void *)world->held[number], 0, sizeof world->held[number]);
    atomic_fetch_add(&world->deaths[number], 1);
    if (world->scenario.kill[0].actor == number) atomic_store(&world->buried, 1);

    for (uint32_t routine = 0; routine < ROUTINES; routine++)
        if (pshm_crash_flow_of(routine) == number) retire_rings(routine);
    for (uint32_t edge = 0; edge < EDGES; edge++)
        if (pshm_crash_sender(edge) == number) recover_sender(edge);
    for (uint32_t edge = 0; edge < EDGES; edge++)
        if (pshm_crash_receiving_flow(edge) == it && edge != TO_LOCAL)
            recover_edge_receiver(edge);
    if (world->scenario.final)
        fail(it);
    else
        it->due = true;
}
