/* crash_launcher: forks the flows, hears what they report, and restarts them when they have
 * died, as pipert_shm/launcher does (supervisor, loop).
 */
#include "crash_launcher.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define BORROW_CAP 8u /* more than anybody holds: nobody is handed copies */
#define PATIENCE_MS 1

struct launched launched;

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

flow *pshm_crash_receiving_flow(uint32_t edge) {
    return &launched.flow[pshm_crash_flow_of(ends[edge].receiver)];
}

flow *pshm_crash_sending_flow(uint32_t edge) {
    return &launched.flow[ends[edge].sender];
}

bool pshm_crash_is_up(const flow *it) {
    return it->channel >= 0;
}

bool pshm_crash_is_over(uint32_t routine) {
    return __atomic_load_n(&launched.control->routine[routine].state, __ATOMIC_SEQ_CST) != BUILT;
}

void pshm_crash_tell(const flow *to, uint32_t what, uint32_t about, uint32_t incarnation) {
    pshm_crash_letter letter = {what, about, incarnation, pshm_crash_name_of(incarnation)};
    if (!pshm_crash_is_up(to)) return;
    ssize_t sent = send(to->channel, &letter, sizeof letter, MSG_NOSIGNAL | MSG_DONTWAIT);
    CHECK(sent > 0 || errno == EPIPE || errno == ECONNRESET, "a letter is lost: %d", errno);
}

bool pshm_crash_was_killed(uint32_t number, int status) {
    const pshm_crash_world *world = pshm_crash_here.world;
    bool planned = false;
    for (uint32_t n = 0; n < 2; n++)
        planned |= world->killed[n] && world->scenario.kill[n].actor == number;
    return planned && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
}

/* ---- processes ------------------------------------------------------------------------- */

static void be_born(pshm_crash_birth *birth, int theirs, pid_t launcher) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != launcher) _exit(EXIT_FAILURE); /* the launcher died before that */
    pshm_crash_here.actor = birth->flow;
    for (uint32_t n = 0; n < FLOWS; n++)
        if (pshm_crash_is_up(&launched.flow[n])) close(launched.flow[n].channel);
    birth->channel = theirs;
    pshm_crash_be_flow(birth);
}

static void fork_flow(uint32_t number) {
    static pshm_crash_birth birth;
    flow *it = &launched.flow[number];
    int pair[2];
    birth = (pshm_crash_birth){.flow = number};
    for (uint32_t edge = 0; edge < EDGES; edge++) {
        if (pshm_crash_sender(edge) == number && pshm_crash_live(edge) != UINT32_MAX)
            birth.out[birth.outs++] = pshm_crash_live(edge);
        if (pshm_crash_receiving_flow(edge) != it) continue;
        for (uint32_t n = 0, count = pshm_crash_count_of(edge); n < count; n++) {
            if (launched.unswept[launched.of[edge][n]] != 0) continue;
            birth.in_edge[birth.ins] = edge;
            birth.in[birth.ins++] = pshm_crash_name_of(launched.of[edge][n]);
        }
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
        if (pshm_crash_sender(edge) != number || pshm_crash_live(edge) != UINT32_MAX) continue;
        uint32_t incarnation = pshm_crash_open_incarnation(edge);
        pshm_queue queue = pshm_crash_queue_of(incarnation);
        if (pshm_crash_is_over(pshm_crash_sender(edge))) pshm_queue_close(&queue);
        if (edge != TO_LOCAL) pshm_crash_attach(edge, incarnation);
    }
    fork_flow(number);
}

static void hear(uint32_t number) {
    pshm_crash_letter letter;
    ssize_t got = recv(launched.flow[number].channel, &letter, sizeof letter, 0);
    if (got < 0 && errno == ECONNRESET) return; /* it died with letters unread: the end follows */
    CHECK(got == 0 || got == sizeof letter, "a letter of %zd bytes", got);
    if (got == 0) {
        pshm_crash_bury(number);
    } else if (letter.what == TELL_READY) {
        launched.flow[number].ready = true;
    } else if (letter.what == TELL_RECOVERED && --launched.unswept[letter.incarnation] == 0) {
        pshm_crash_attach(pshm_control_incarnation(launched.control, letter.incarnation)->edge,
                          letter.incarnation);
    }
}

/* ---- the whole ------------------------------------------------------------------------- */

static void create(void) {
    const pshm_control_size size = {.flows = FLOWS,
                                    .routines = ROUTINES,
                                    .edges = EDGES,
                                    .incarnations = PSHM_CRASH_INCARNATIONS,
                                    .cells = PSHM_CRASH_CELLS};
    pshm_control_format(pshm_crash_here.control, &size, PSHM_CRASH_BUDGET);
    launched.process = pshm_process_open(pshm_crash_here.control, pshm_crash_here.control_bytes);
    CHECK(launched.process != NULL, "no control segment");
    launched.control = &launched.process->control;
    for (uint32_t edge = 0; edge < EDGES; edge++) {
        pshm_edge_record *record = &launched.control->edge[edge];
        record->sender = pshm_crash_sender(edge);
        record->receiver = pshm_crash_receiver(edge);
        record->local = edge == TO_LOCAL;
        record->policy = pshm_crash_here.graph->edge[edge].policy;
        record->capacity = pshm_crash_here.graph->edge[edge].capacity;
        record->timeout_ns = pshm_crash_here.graph->edge[edge].timeout_ns;
        record->borrow_cap = BORROW_CAP;
        record->reach[0] = 1u << SOURCE | 1u << pshm_crash_sender(edge);
        pshm_queue queue = pshm_crash_queue_of(pshm_crash_open_incarnation(edge));
        pshm_queue_reopen(&queue); /* as each start does */
    }
}

/* Whether all have ended, and nothing is left of the dead. */
static bool is_at_rest(void) {
    bool rest = launched.retired == 0;
    for (uint32_t routine = 0; routine < ROUTINES; routine++) rest &= pshm_crash_is_over(routine);
    for (uint32_t n = 0; n < FLOWS; n++)
        rest &= launched.flow[n].ready || launched.flow[n].failed;
    for (uint32_t n = 0; n < PSHM_CRASH_INCARNATIONS; n++)
        rest &= !pshm_crash_is_drained_by_receiver(n) && launched.unswept[n] == 0;
    return rest;
}

/* Whether something may change that nobody reports: the last slot of a dead process gets
 * free, or its last bit is dropped. */
static bool must_look_again(void) {
    bool again = launched.retired != 0;
    for (uint32_t n = 0; n < PSHM_CRASH_INCARNATIONS; n++)
        again |= pshm_crash_is_drained_by_receiver(n);
    return again;
}

/* They may not have done yet what they were told last. */
static void ask_everybody(void) {
    launched.asked = true;
    for (uint32_t n = 0; n < FLOWS; n++) {
        launched.flow[n].ready = false;
        pshm_crash_tell(&launched.flow[n], TELL_ANSWER, 0, 0);
    }
}

static void serve(void) {
    struct pollfd polled[FLOWS];
    for (;;) {
        for (uint32_t n = 0; n < FLOWS; n++)
            if (launched.flow[n].due) restart(n);
        pshm_crash_remove_retired();
        if (is_at_rest() && launched.asked) return;
        if (is_at_rest()) ask_everybody();
        for (uint32_t n = 0; n < FLOWS; n++)
            polled[n] = (struct pollfd){.fd = launched.flow[n].channel, .events = POLLIN};
        poll(polled, FLOWS, must_look_again() ? PATIENCE_MS : -1);
        for (uint32_t n = 0; n < FLOWS; n++)
            if (polled[n].revents != 0) hear(n);
    }
}

static void end(void) {
    for (uint32_t n = 0; n < FLOWS; n++) pshm_crash_tell(&launched.flow[n], TELL_QUIT, 0, 0);
    for (uint32_t n = 0; n < FLOWS; n++) {
        int status;
        if (!pshm_crash_is_up(&launched.flow[n])) continue;
        CHECK(waitpid(launched.flow[n].pid, &status, 0) == launched.flow[n].pid,
              "no child to wait for");
        CHECK(status == 0 || pshm_crash_was_killed(n, status), "flow %u ended with status %#x", n,
              (unsigned)status);
    }
    CHECK(pshm_process_close(launched.process), "the launcher has a lease");
}

void pshm_crash_be_launcher(void) {
    for (uint32_t n = 0; n < FLOWS; n++) launched.flow[n].channel = -1;
    create();
    for (uint32_t n = 0; n < FLOWS; n++) fork_flow(n);
    serve();
    pshm_crash_here.actor = NOBODY;
    pshm_crash_audit_at_rest(launched.control);
    end();
    exit(EXIT_SUCCESS);
}
