/* crash_launcher: forks the flows, and sees to it when they die: the steps of
 * pipert_shm/launcher (supervisor, recovery, incarnations), in their order.
 */
#include "crash.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define BITS 31u
#define BORROW_CAP 8u /* nobody copies here */
#define PATIENCE_MS 1

typedef struct flow {
    pid_t pid;
    int channel; /* -1 while it is down */
    bool ready;  /* it has its rings, and has done what it was told */
    bool due;    /* to be restarted */
    bool failed;
} flow;

static struct {
    pshm_process *process;
    pshm_control *control;
    flow flow[FLOWS];
    /* each edge's incarnations, oldest first, but for those that are swept */
    uint32_t of[EDGES][PSHM_CRASH_INCARNATIONS];
    uint32_t count[EDGES];
    /* sweeps that the senders were asked for, and have not answered for */
    uint32_t unswept[PSHM_CRASH_INCARNATIONS];
    bool asked; /* everybody, to be ready */
    uint32_t retired;
    uint32_t retired_ring[PSHM_CRASH_SERIALS];
} own;

static const struct {
    uint32_t sender;
    uint32_t receiver;
} ends[EDGES] = {[TO_MIDDLE] = {SOURCE, MIDDLE},
                 [TO_SINK] = {SOURCE, SINK},
                 [FORWARDED] = {MIDDLE, SINK},
                 [TO_LOCAL] = {SOURCE, LOCAL}};

uint32_t pshm_crash_sender(uint32_t edge) {
    return ends[edge].sender;
}

uint32_t pshm_crash_receiver(uint32_t edge) {
    return ends[edge].receiver;
}

uint32_t pshm_crash_flow_of(uint32_t routine) {
    return routine == LOCAL ? SOURCE : routine;
}

static flow *receiver_of(uint32_t edge) {
    return &own.flow[pshm_crash_flow_of(ends[edge].receiver)];
}

static flow *sender_of(uint32_t edge) {
    return &own.flow[ends[edge].sender];
}

static bool is_up(const flow *it) {
    return it->channel >= 0;
}

static bool is_over(uint32_t routine) {
    return __atomic_load_n(&own.control->routine[routine].state, __ATOMIC_SEQ_CST) != BUILT;
}

/* Nothing for a flow that is down: it is born with all that it needs to know. */
static void tell(const flow *to, uint32_t what, uint32_t about, uint32_t incarnation) {
    pshm_crash_letter letter = {what, about, incarnation};
    if (!is_up(to)) return;
    ssize_t sent = send(to->channel, &letter, sizeof letter, MSG_NOSIGNAL | MSG_DONTWAIT);
    CHECK(sent > 0 || errno == EPIPE || errno == ECONNRESET, "a letter is lost: %d", errno);
}

/* ---- incarnations ------------------------------------------------------- */

static uint32_t state_of(uint32_t incarnation) {
    const pshm_incarnation_record *record = pshm_control_incarnation(own.control, incarnation);
    return __atomic_load_n(&record->state, __ATOMIC_ACQUIRE);
}

static void set_state(uint32_t incarnation, uint32_t state) {
    pshm_incarnation_record *record = pshm_control_incarnation(own.control, incarnation);
    __atomic_store_n(&record->state, state, __ATOMIC_RELEASE);
}

/* Forgets those that are swept; how many there are left. */
static uint32_t count_of(uint32_t edge) {
    uint32_t kept = 0;
    for (uint32_t n = 0; n < own.count[edge]; n++) {
        uint32_t number = own.of[edge][n];
        if (state_of(number) == PSHM_SWEPT)
            set_state(number, PSHM_FREE);
        else
            own.of[edge][kept++] = number;
    }
    return own.count[edge] = kept;
}

static uint32_t live(uint32_t edge) {
    uint32_t count = count_of(edge);
    if (count == 0 || state_of(own.of[edge][count - 1]) != PSHM_LIVE) return UINT32_MAX;
    return own.of[edge][count - 1];
}

static uint32_t unused_bit(void) {
    uint32_t used = 0;
    for (uint32_t edge = 0; edge < EDGES; edge++)
        for (uint32_t n = 0, count = count_of(edge); n < count; n++)
            used |= 1u << pshm_control_incarnation(own.control, own.of[edge][n])->bit;
    for (uint32_t bit = 1; bit <= BITS; bit++)
        if ((used >> bit & 1) == 0) return bit;
    pshm_crash_fail("no bit is left: incarnations leak");
}

static uint32_t open_incarnation(uint32_t edge) {
    uint32_t bit = edge == TO_LOCAL ? 0 : unused_bit();
    for (uint32_t number = 0; number < PSHM_CRASH_INCARNATIONS; number++) {
        if (state_of(number) != PSHM_FREE) continue;
        pshm_incarnation_format(pshm_control_incarnation(own.control, number), edge, bit);
        return own.of[edge][own.count[edge]++] = number;
    }
    pshm_crash_fail("no incarnation is left: they leak");
}

static pshm_queue queue_of(uint32_t incarnation) {
    pshm_edge edge;
    CHECK(pshm_edge_attach(&edge, own.control, incarnation), "no incarnation %u", incarnation);
    return edge.queue;
}

static void recover_receiver(uint32_t incarnation) {
    CHECK(pshm_recover_receiver(own.process, incarnation, PSHM_NO_SLOT), "no memory");
    own.unswept[incarnation] = 0;
}

/* The edge's sender, to recover its dead receiver; it answers. */
static void ask(uint32_t edge, uint32_t what, uint32_t incarnation) {
    own.unswept[incarnation]++;
    tell(sender_of(edge), what, ends[edge].sender, incarnation);
}

/* The next receiver may have it, and has it if it is up. */
static void attach(uint32_t edge, uint32_t incarnation) {
    tell(receiver_of(edge), TELL_ADD_IN, edge, incarnation);
}

/* Both ends are dead for good. */
static void give_up(uint32_t edge) {
    for (uint32_t n = 0, count = count_of(edge); n < count; n++) {
        pshm_recover_edge(own.process, own.of[edge][n]);
        own.unswept[own.of[edge][n]] = 0;
    }
}

/* ---- processes ------------------------------------------------------------ */

static void be_born(pshm_crash_birth *birth, int theirs, pid_t launcher) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != launcher) _exit(EXIT_FAILURE); /* it died before */
    pshm_crash_here.actor = birth->flow;
    for (uint32_t n = 0; n < FLOWS; n++)
        if (is_up(&own.flow[n])) close(own.flow[n].channel);
    birth->channel = theirs;
    pshm_crash_be_flow(birth);
}

static void fork_flow(uint32_t number) {
    static pshm_crash_birth birth;
    flow *it = &own.flow[number];
    int pair[2];
    birth = (pshm_crash_birth){.flow = number};
    for (uint32_t edge = 0; edge < EDGES; edge++) {
        if (ends[edge].sender == number && live(edge) != UINT32_MAX)
            birth.out[birth.outs++] = live(edge);
        if (receiver_of(edge) != it) continue;
        for (uint32_t n = 0, count = count_of(edge); n < count; n++)
            if (own.unswept[own.of[edge][n]] == 0) birth.in[birth.ins++] = own.of[edge][n];
    }
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0, "no channel");
    pid_t launcher = getpid();
    it->pid = fork();
    CHECK(it->pid >= 0, "no process");
    if (it->pid == 0) {
        close(pair[0]);
        be_born(&birth, pair[1], launcher);
    }
    close(pair[1]);
    it->channel = pair[0];
    it->due = it->ready = false;
}

static void restart(uint32_t number) {
    for (uint32_t edge = 0; edge < EDGES; edge++) {
        if (ends[edge].sender != number || live(edge) != UINT32_MAX) continue;
        uint32_t incarnation = open_incarnation(edge);
        pshm_queue queue = queue_of(incarnation);
        if (is_over(ends[edge].sender)) pshm_queue_close(&queue);
        if (edge != TO_LOCAL) attach(edge, incarnation);
    }
    fork_flow(number);
}

/* ---- death ------------------------------------------------------------------ */

static void retire_rings(uint32_t routine) {
    pshm_crash_remove_unpublished(own.process, routine);
    pshm_crash_open_every_ring(own.process);
    for (uint32_t ring = 0; ring < PSHM_CRASH_SERIALS; ring++) {
        const pshm_mapping *mapping = pshm_process_find(own.process, ring);
        bool known = mapping == NULL || mapping->ring.owner != routine;
        for (uint32_t n = 0; n < own.retired; n++) known |= own.retired_ring[n] == ring;
        if (known) continue;
        pshm_recover_owner(own.process, ring);
        own.retired_ring[own.retired++] = ring;
    }
}

static void remove_retired(void) {
    uint32_t left = 0;
    for (uint32_t n = 0; n < own.retired; n++)
        if (!pshm_crash_remove_if_free(own.process, own.retired_ring[n]))
            own.retired_ring[left++] = own.retired_ring[n];
    own.retired = left;
}

/* Where nothing was dropped or lost, the queue has had the messages of all
 * tickets up to the last one: none counts as pushed before its message is. */
static void check_tickets(uint32_t edge) {
    pshm_edge seen;
    uint32_t deaths = 0;
    for (uint32_t n = 0; n < FLOWS; n++) deaths += atomic_load(&pshm_crash_here.world->deaths[n]);
    if (!pshm_crash_is_lossless(edge) || deaths > 1) return;
    CHECK(pshm_edge_attach(&seen, own.control, own.of[edge][0]), "edge %u is unsound", edge);
    CHECK(pshm_tickets_pushed(seen.record) <= atomic_load(&seen.queue.words->tail),
          "edge %u: a ticket counts as pushed before its message is", edge);
}

static void recover_sender(uint32_t edge) {
    check_tickets(edge);
    pshm_tickets_settle(&own.control->edge[edge]);
    for (uint32_t n = 0, count = count_of(edge); n < count; n++) {
        uint32_t number = own.of[edge][n];
        bool unswept = own.unswept[number] != 0;
        if (edge == TO_LOCAL)
            pshm_recover_edge(own.process, number);
        else if (state_of(number) == PSHM_LIVE)
            set_state(number, PSHM_SENDER_DEAD);
        if (!unswept) continue;
        recover_receiver(number);
        attach(edge, number);
    }
    if (receiver_of(edge)->failed) give_up(edge);
    /* without asking its flag: the sender may have died between push and ring */
    pshm_control_ring(own.control, ends[edge].receiver);
    if (edge != TO_LOCAL) tell(receiver_of(edge), TELL_SENDER_DIED, ends[edge].receiver, 0);
}

static void recover_edge_receiver(uint32_t edge) {
    for (uint32_t n = 0, count = count_of(edge); n < count; n++) {
        uint32_t number = own.of[edge][n];
        if (is_up(sender_of(edge)) && state_of(number) == PSHM_LIVE)
            ask(edge, TELL_RECEIVER_DIED, number);
        else
            recover_receiver(number);
    }
}

/* The flow does not come back: its neighbours go on without it. */
static void fail(flow *it) {
    it->failed = true;
    for (uint32_t edge = 0; edge < EDGES; edge++) {
        pshm_edge_record *record = &own.control->edge[edge];
        if (sender_of(edge) == it) {
            __atomic_store_n(&record->sender_failed, 1, __ATOMIC_SEQ_CST);
            if (receiver_of(edge)->failed) give_up(edge);
            pshm_control_ring(own.control, ends[edge].receiver);
        }
        if (receiver_of(edge) == it) {
            __atomic_store_n(&record->receiver_ended, 1, __ATOMIC_SEQ_CST);
            if (!is_up(sender_of(edge)))
                give_up(edge);
            else if (live(edge) != UINT32_MAX && edge != TO_LOCAL)
                ask(edge, TELL_RECEIVER_FAILED, live(edge));
            pshm_control_ring(own.control, ends[edge].sender);
        }
    }
    for (uint32_t routine = 0; routine < ROUTINES; routine++)
        if (&own.flow[pshm_crash_flow_of(routine)] == it)
            __atomic_store_n(&own.control->routine[routine].state, FAILED, __ATOMIC_SEQ_CST);
}

static bool was_killed(uint32_t number, int status) {
    const pshm_crash_world *world = pshm_crash_here.world;
    bool planned = false;
    for (uint32_t n = 0; n < 2; n++)
        planned |= world->killed[n] && world->scenario.kill[n].actor == number;
    return planned && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
}

static void bury(uint32_t number) {
    pshm_crash_world *world = pshm_crash_here.world;
    flow *it = &own.flow[number];
    int status;
    CHECK(waitpid(it->pid, &status, 0) == it->pid, "no child to wait for");
    CHECK(was_killed(number, status), "flow %u ended with status %#x", number, (unsigned)status);
    close(it->channel);
    it->channel = -1;
    it->ready = own.asked = false;
    memset((void *)world->held[number], 0, sizeof world->held[number]);
    atomic_fetch_add(&world->deaths[number], 1);
    if (world->scenario.kill[0].actor == number) atomic_store(&world->buried, 1);

    for (uint32_t routine = 0; routine < ROUTINES; routine++)
        if (pshm_crash_flow_of(routine) == number) retire_rings(routine);
    for (uint32_t edge = 0; edge < EDGES; edge++)
        if (ends[edge].sender == number) recover_sender(edge);
    for (uint32_t edge = 0; edge < EDGES; edge++)
        if (receiver_of(edge) == it && edge != TO_LOCAL) recover_edge_receiver(edge);
    if (world->scenario.final)
        fail(it);
    else
        it->due = true;
}

static void hear(uint32_t number) {
    pshm_crash_letter letter;
    ssize_t got = recv(own.flow[number].channel, &letter, sizeof letter, 0);
    if (got < 0 && errno == ECONNRESET) return; /* it left letters unread: the end follows */
    CHECK(got == 0 || got == sizeof letter, "a letter of %zd bytes", got);
    if (got == 0) {
        bury(number);
    } else if (letter.what == TELL_READY) {
        own.flow[number].ready = true;
    } else if (letter.what == TELL_RECOVERED && --own.unswept[letter.incarnation] == 0) {
        attach(pshm_control_incarnation(own.control, letter.incarnation)->edge,
               letter.incarnation);
    }
}

/* ---- the whole ---------------------------------------------------------------- */

static void create(void) {
    const pshm_control_size size = {.flows = FLOWS,
                                    .routines = ROUTINES,
                                    .edges = EDGES,
                                    .incarnations = PSHM_CRASH_INCARNATIONS,
                                    .cells = PSHM_CRASH_CELLS};
    pshm_control_format(pshm_crash_here.control, &size, PSHM_CRASH_BUDGET);
    own.process = pshm_process_open(pshm_crash_here.control, pshm_crash_here.control_bytes);
    CHECK(own.process != NULL, "no control segment");
    own.control = &own.process->control;
    for (uint32_t edge = 0; edge < EDGES; edge++) {
        pshm_edge_record *record = &own.control->edge[edge];
        record->sender = ends[edge].sender;
        record->receiver = ends[edge].receiver;
        record->local = edge == TO_LOCAL;
        record->policy = pshm_crash_here.graph->edge[edge].policy;
        record->capacity = pshm_crash_here.graph->edge[edge].capacity;
        record->timeout_ns = pshm_crash_here.graph->edge[edge].timeout_ns;
        record->borrow_cap = BORROW_CAP;
        record->reach[0] = 1u << SOURCE | 1u << ends[edge].sender;
        pshm_queue queue = queue_of(open_incarnation(edge));
        pshm_queue_reopen(&queue); /* as each start does */
    }
}

/* Whether everybody has ended, and nothing is left of the dead. */
static bool is_at_rest(void) {
    bool rest = own.retired == 0;
    for (uint32_t routine = 0; routine < ROUTINES; routine++) rest &= is_over(routine);
    for (uint32_t n = 0; n < FLOWS; n++) rest &= own.flow[n].ready || own.flow[n].failed;
    for (uint32_t n = 0; n < PSHM_CRASH_INCARNATIONS; n++)
        rest &= state_of(n) != PSHM_SENDER_DEAD && own.unswept[n] == 0;
    return rest;
}

/* Nobody tells when the last slot of the dead is free, or their last bit gone. */
static bool must_look_again(void) {
    bool again = own.retired != 0;
    for (uint32_t n = 0; n < PSHM_CRASH_INCARNATIONS; n++)
        again |= state_of(n) == PSHM_SENDER_DEAD;
    return again;
}

/* What they were told last, they may not have done yet. */
static void ask_everybody(void) {
    own.asked = true;
    for (uint32_t n = 0; n < FLOWS; n++) {
        own.flow[n].ready = false;
        tell(&own.flow[n], TELL_ANSWER, 0, 0);
    }
}

static void serve(void) {
    struct pollfd polled[FLOWS];
    for (;;) {
        for (uint32_t n = 0; n < FLOWS; n++)
            if (own.flow[n].due) restart(n);
        remove_retired();
        if (is_at_rest() && own.asked) return;
        if (is_at_rest()) ask_everybody();
        for (uint32_t n = 0; n < FLOWS; n++)
            polled[n] = (struct pollfd){.fd = own.flow[n].channel, .events = POLLIN};
        poll(polled, FLOWS, must_look_again() ? PATIENCE_MS : -1);
        for (uint32_t n = 0; n < FLOWS; n++)
            if (polled[n].revents != 0) hear(n);
    }
}

static void end(void) {
    for (uint32_t n = 0; n < FLOWS; n++) tell(&own.flow[n], TELL_QUIT, 0, 0);
    for (uint32_t n = 0; n < FLOWS; n++) {
        int status;
        if (!is_up(&own.flow[n])) continue;
        CHECK(waitpid(own.flow[n].pid, &status, 0) == own.flow[n].pid, "no child to wait for");
        CHECK(status == 0 || was_killed(n, status), "flow %u ended with status %#x", n,
              (unsigned)status);
    }
    CHECK(pshm_process_close(own.process), "the launcher has a lease");
}

void pshm_crash_be_launcher(void) {
    for (uint32_t n = 0; n < FLOWS; n++) own.flow[n].channel = -1;
    create();
    for (uint32_t n = 0; n < FLOWS; n++) fork_flow(n);
    serve();
    pshm_crash_here.actor = NOBODY;
    pshm_crash_audit_at_rest(own.control);
    end();
    exit(EXIT_SUCCESS);
}
