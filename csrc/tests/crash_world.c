/* crash_world: what the processes of a run share; and one run, from birth to verdict. */
#include "crash.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define RING_BYTES 8192u        /* a head and PSHM_CRASH_SLOTS slots, of either size */
#define LOOK_MS 250             /* between two looks at a run */
#define PATIENCE_NS 3000000000u /* less than the longest sleep, so that a lost wake shows */

pshm_crash_place pshm_crash_here = {.actor = NOBODY};

extern const pshm_point_site __start_pshm_points[];
extern const pshm_point_site __stop_pshm_points[];

static const char *const actor_name[] = {"source", "middle", "sink", "launcher", "driver"};

uint32_t pshm_crash_points(void) {
    return (uint32_t)(__stop_pshm_points - __start_pshm_points);
}

const pshm_point_site *pshm_crash_point(uint32_t number) {
    return &__start_pshm_points[number];
}

uint64_t pshm_crash_mix(uint64_t n) {
    n += 0x9e3779b97f4a7c15u;
    n = (n ^ n >> 30) * 0xbf58476d1ce4e5b9u;
    n = (n ^ n >> 27) * 0x94d049bb133111ebu;
    return n ^ n >> 31;
}

static void die(pshm_crash_world *world, uint32_t kill_number) {
    atomic_store(&world->killed[kill_number], 1);
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

void pshm_point(const pshm_point_site *site) {
    pshm_crash_world *world = pshm_crash_here.world;
    uint32_t actor = pshm_crash_here.actor;
    if (actor == NOBODY) return;
    uint32_t point = (uint32_t)(site - __start_pshm_points);
    uint32_t phase = atomic_load(&world->buried);
    uint32_t pass = atomic_fetch_add(&world->passes[phase][actor][point], 1) + 1;
    const pshm_crash_kill *kill = &world->scenario.kill[phase];
    if (kill->actor == actor && kill->point == point && kill->pass == pass) die(world, phase);
}

void pshm_crash_fail(const char *format, ...) {
    pshm_crash_world *world = pshm_crash_here.world;
    char text[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (world == NULL)
        fprintf(stderr, "crash points: %s\n", text);
    else if (atomic_exchange(&world->failed, 1) == 0)
        snprintf(world->failure, sizeof world->failure, "%s: %s",
                 actor_name[pshm_crash_here.actor], text);
    _exit(EXIT_FAILURE);
}

/* ---- memory ---------------------------------------------------------------------------- */

static void *shared(uint64_t bytes, int fd) {
    int flags = MAP_SHARED | (fd < 0 ? MAP_ANONYMOUS : 0);
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
    CHECK(memory != MAP_FAILED, "no memory: %d", errno);
    return memory;
}

void pshm_crash_open(void) {
    const pshm_control_size size = {.flows = FLOWS,
                                    .routines = ROUTINES,
                                    .edges = EDGES,
                                    .incarnations = PSHM_CRASH_INCARNATIONS,
                                    .cells = PSHM_CRASH_CELLS};
    pshm_crash_place *here = &pshm_crash_here;
    CHECK(pshm_crash_points() <= PSHM_CRASH_POINTS_MOST, "more points than there is room for");
    CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0, "orphans would get away");
    here->world = NULL;
    here->control_bytes = pshm_control_bytes(&size);
    here->control = shared(here->control_bytes, -1);
    for (uint32_t n = 0; n < PSHM_CRASH_SERIALS; n++) {
        here->ring_fd[n] = memfd_create("ring", MFD_CLOEXEC);
        CHECK(here->ring_fd[n] >= 0 && ftruncate(here->ring_fd[n], RING_BYTES) == 0, "no memfd");
        here->ring[n] = shared(RING_BYTES, here->ring_fd[n]);
    }
    here->world = shared(sizeof *here->world, -1);
}

static void reset(const pshm_crash_scenario *scenario) {
    pshm_crash_place *here = &pshm_crash_here;
    const pshm_control_head *head = here->control;
    uint64_t made = atomic_load(&head->next_serial);
    for (uint64_t n = 0; n <= made && n < PSHM_CRASH_SERIALS; n++)
        memset(here->ring[n], 0, RING_BYTES);
    memset(here->control, 0, here->control_bytes);
    memset(here->world, 0, sizeof *here->world);
    here->world->scenario = *scenario;
    here->graph = &pshm_crash_graphs[scenario->graph];
}

/* ---- one run --------------------------------------------------------------------------- */

/* How many points the flows have passed: while the number grows, they get on. */
static uint64_t progress(void) {
    uint64_t passed = 0;
    for (uint32_t phase = 0; phase < 2; phase++)
        for (uint32_t actor = 0; actor < FLOWS; actor++)
            for (uint32_t point = 0; point < pshm_crash_points(); point++)
                passed += atomic_load(&pshm_crash_here.world->passes[phase][actor][point]);
    return passed;
}

/* Describes a run that does not get on. */
static void describe_stuck(char *text, size_t bytes) {
    pshm_control control;
    int at = snprintf(text, bytes, "stuck:");
    if (!pshm_control_attach(&control, pshm_crash_here.control, pshm_crash_here.control_bytes))
        return;
    for (uint32_t n = 0; n < ROUTINES && at < (int)bytes; n++)
        at += snprintf(text + at, bytes - (size_t)at, " routine %u state %u waiting %u;", n,
                       control.routine[n].state, atomic_load(&control.routine[n].bell.waiting));
    for (uint32_t n = 0; n < PSHM_CRASH_INCARNATIONS && at < (int)bytes; n++) {
        const pshm_incarnation_record *record = pshm_control_incarnation(&control, n);
        if (record->state == PSHM_FREE) continue;
        at += snprintf(text + at, bytes - (size_t)at,
                       " edge %u state %u cells %" PRIu64 "-%" PRIu64 " closed %" PRId64 ";",
                       record->edge, record->state, atomic_load(&record->queue.head),
                       atomic_load(&record->queue.tail),
                       (int64_t)atomic_load(&record->queue.closed_at));
    }
}

/* Waits until the launcher has ended. Kills it when the flows do not get on. */
static void watch(pid_t launcher) {
    pshm_crash_world *world = pshm_crash_here.world;
    struct pollfd end = {.fd = (int)syscall(SYS_pidfd_open, launcher, 0), .events = POLLIN};
    uint64_t passed = 0, since = pshm_now();
    CHECK(end.fd >= 0, "no pidfd");
    while (poll(&end, 1, LOOK_MS) == 0) {
        uint64_t now = pshm_now(), seen = progress();
        if (seen != passed) since = now;
        passed = seen;
        if (now - since < PATIENCE_NS) continue;
        if (atomic_exchange(&world->failed, 1) == 0)
            describe_stuck(world->failure, sizeof world->failure);
        kill(launcher, SIGKILL);
    }
    close(end.fd);
}

/* Waits until all are gone: the flows die with the launcher. Returns its status. */
static int reap(pid_t launcher) {
    int status, verdict = 0;
    for (;;) {
        pid_t gone = waitpid(-1, &status, 0);
        if (gone < 0) return verdict;
        if (gone == launcher) verdict = status;
    }
}

static bool was_to_die(const pshm_crash_world *world) {
    for (uint32_t n = 0; n < 2; n++)
        if (world->killed[n] && world->scenario.kill[n].actor == LAUNCHER) return true;
    return false;
}

bool pshm_crash_run(const pshm_crash_scenario *scenario) {
    pshm_crash_world *world = pshm_crash_here.world;
    reset(scenario);
    fflush(stdout);
    pid_t worker = getpid(), launcher = fork();
    CHECK(launcher >= 0, "no process");
    if (launcher == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != worker) _exit(EXIT_FAILURE);
        pshm_crash_here.actor = LAUNCHER;
        pshm_crash_be_launcher();
    }
    watch(launcher);
    int status = reap(launcher);
    if (world->failed) return false;
    if (status == 0) return true;
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL && was_to_die(world))
        return pshm_crash_audit_in_the_midst(world->failure, sizeof world->failure);
    snprintf(world->failure, sizeof world->failure, "the launcher ended with status %#x",
             (unsigned)status);
    return false;
}
