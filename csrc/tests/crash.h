/* crash: a small pipe whose processes are killed at chosen points.
 *
 * Source, middle and sink are a process each. A launcher forks them, and buries, recovers
 * and restarts them as pipert_shm/launcher does:
 *
 *     source -> middle -> sink     middle forwards the source's slot by
 *     source ------------> sink    reference, with a packed slot of its own
 *     source -> local              within the source's process
 *
 * A run is one such pipe from birth to rest, with at most two deaths. Its processes share
 * a world. The worker that judges the run made it before it started them.
 */
#ifndef PSHM_CRASH_H
#define PSHM_CRASH_H

#include <sys/types.h>

#include "../points.h"
#include "../pshm.h"

enum { SOURCE, MIDDLE, SINK, LOCAL, ROUTINES };
enum { FLOWS = 3, LAUNCHER = 3, ACTORS = 4, NOBODY = ACTORS };
enum { TO_MIDDLE, TO_SINK, FORWARDED, TO_LOCAL, EDGES };
enum { BUILT, ENDED, FAILED }; /* a routine's state */

#define PSHM_CRASH_POINTS_MOST 256u
#define PSHM_CRASH_MESSAGES 8u
#define PSHM_CRASH_INCARNATIONS 24u
#define PSHM_CRASH_CELLS 4u
#define PSHM_CRASH_SERIALS 40u /* rings that a run can make */
#define PSHM_CRASH_SLOTS 8u    /* in a ring, at the most */
#define PSHM_CRASH_PAYLOAD 128u
#define PSHM_CRASH_MESSAGE 256u
#define PSHM_CRASH_BUDGET (1u << 20)

/* How the edges behave, and how short memory is. */
typedef struct pshm_crash_graph {
    const char *name;
    struct {
        uint32_t policy;
        uint32_t capacity;
        uint64_t timeout_ns;
    } edge[EDGES];
    uint32_t slots[2];    /* payload slots of source and middle */
    uint32_t messages[2]; /* message slots */
    uint32_t sink_takes;  /* the sink ends after so many messages; 0: never */
    bool resumes;         /* the source sends again what its death interrupted */
    bool takes_back;      /* the launcher gives up what receivers leave of dead senders */
} pshm_crash_graph;

extern const pshm_crash_graph pshm_crash_graphs[];
extern const uint32_t pshm_crash_graph_count;

/* SIGKILL for `actor`, just before it passes `point` for the `pass`th time. The first kill
 * counts passes from birth, the second one from the burial of the first victim. */
typedef struct pshm_crash_kill {
    uint32_t actor; /* NOBODY for no kill */
    uint32_t point;
    uint32_t pass;
} pshm_crash_kill;

typedef struct pshm_crash_scenario {
    uint32_t graph;
    bool final; /* a process that dies is not restarted */
    pshm_crash_kill kill[2];
} pshm_crash_scenario;

/* What all processes of a run share, apart from the control segment and the rings. */
typedef struct pshm_crash_world {
    pshm_crash_scenario scenario;
    _Atomic uint32_t killed[2];
    _Atomic uint32_t buried; /* the burial of the first victim has begun */
    _Atomic uint32_t failed;
    char failure[512];
    /* before and after that burial */
    _Atomic uint32_t passes[2][ACTORS][PSHM_CRASH_POINTS_MOST];
    /* slots that each flow is sure to hold, as {generation:32 | bits:32} */
    _Atomic uint64_t held[FLOWS][PSHM_CRASH_SERIALS][PSHM_CRASH_SLOTS];
    _Atomic uint64_t created[PSHM_CRASH_SERIALS]; /* bytes of the ring's segment */
    _Atomic uint32_t unlinked[PSHM_CRASH_SERIALS];
    _Atomic uint32_t deaths[FLOWS];
    /* per edge: one more than the last sequence number that its receiver saw; and all of them */
    uint64_t seen[EDGES];
    uint8_t got[EDGES][PSHM_CRASH_MESSAGES];
} pshm_crash_world;

/* A process's way to all of it. It is inherited; after the fork only `actor` is written. */
typedef struct pshm_crash_place {
    pshm_crash_world *world;
    void *control;
    uint64_t control_bytes;
    const pshm_crash_graph *graph;
    int ring_fd[PSHM_CRASH_SERIALS];
    pshm_ring_head *ring[PSHM_CRASH_SERIALS];
    uint32_t actor; /* this process */
} pshm_crash_place;

extern pshm_crash_place pshm_crash_here;

/* What the launcher tells a flow, and a flow the launcher. */
enum {
    TELL_ADD_IN,          /* edge, incarnation */
    TELL_SENDER_DIED,     /* routine */
    TELL_RECEIVER_DIED,   /* routine, incarnation */
    TELL_RECEIVER_FAILED, /* routine, incarnation */
    TELL_ANSWER,          /* with TELL_READY, when all of the above is done */
    TELL_QUIT,
    TELL_RECOVERED, /* -, incarnation; to the launcher */
    TELL_READY,     /* to the launcher */
    TELL_STATE      /* to the launcher: some routine has ended */
};
typedef struct pshm_crash_letter {
    uint32_t what;
    uint32_t about;
    uint32_t incarnation;
    uint64_t name; /* of the incarnation, at the time of the letter */
} pshm_crash_letter;

/* What a flow's process knows from birth. */
typedef struct pshm_crash_birth {
    uint32_t flow;
    int channel;
    uint32_t outs; /* incarnations it sends on */
    uint32_t out[EDGES];
    uint32_t ins; /* incarnations it receives from; of each edge the oldest first */
    uint32_t in_edge[PSHM_CRASH_INCARNATIONS];
    uint64_t in[PSHM_CRASH_INCARNATIONS]; /* their names */
} pshm_crash_birth;

#define CHECK(condition, ...)                                                                    \
    do {                                                                                         \
        if (!(condition)) pshm_crash_fail(__VA_ARGS__);                                          \
    } while (0)

/* Notes what is wrong with the run, if nothing was noted yet, and ends this process. */
_Noreturn void pshm_crash_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* crash_world.c. Makes the place; then runs one scenario in it, and returns whether all was
 * well. If not, world->failure says what was wrong. */
void pshm_crash_open(void);
bool pshm_crash_run(const pshm_crash_scenario *scenario);
uint32_t pshm_crash_points(void);
const pshm_point_site *pshm_crash_point(uint32_t number);
uint64_t pshm_crash_mix(uint64_t n);

/* crash_rings.c: rings in the memory of the place. */
uint32_t pshm_crash_make_ring(pshm_process *process, uint32_t owner, uint32_t slots,
                              uint64_t slot_bytes);
void pshm_crash_open_ring(pshm_process *process, uint32_t ring);
void pshm_crash_open_every_ring(pshm_process *process);
bool pshm_crash_remove_if_free(pshm_process *process, uint32_t ring);
void pshm_crash_remove_unpublished(pshm_process *process, uint32_t owner);
uint32_t pshm_crash_serial_index(uint64_t serial);

/* The two ends of an edge. */
uint32_t pshm_crash_sender(uint32_t edge);
uint32_t pshm_crash_receiver(uint32_t edge);
uint32_t pshm_crash_flow_of(uint32_t routine);

/* crash_launcher.c, crash_flow.c: the whole life of a process that was just forked. */
_Noreturn void pshm_crash_be_launcher(void);
_Noreturn void pshm_crash_be_flow(const pshm_crash_birth *birth);

/* crash_audit.c. At rest: every process has ended its work and given everything back, but
 * still lives. In the midst: all died at once. */
void pshm_crash_audit_at_rest(const pshm_control *control);
bool pshm_crash_audit_in_the_midst(char *failure, size_t bytes);
bool pshm_crash_is_lossless(uint32_t edge);

#endif
