/* control: the segment that all processes of a pipe map read-write.
 *
 * It holds what the size of a pipe fixes when it is built:
 *
 *     head           geometry, memory budget, and the table of rings (ring_table.h)
 *     flows          a record each, written by the launcher
 *     routines       a record each: bell, state, counters
 *     edges          a record each: both ends, policy, counters, tickets
 *     incarnations   a record each: holder bit, state, and the queue
 *
 * The creator formats it before any other process maps it. Geometry and names are never
 * written again, so each process copies and checks them once, in pshm_control_attach
 * and pshm_edge_attach. What follows the records in the segment is Python's.
 *
 * Example:
 *
 *     pshm_control_size size = {.flows = 2, .routines = 2, .edges = 1,
 *                               .incarnations = 4, .cells = 8};
 *     void *memory = ...;                       // pshm_control_bytes(&size), zeroed
 *     pshm_control_format(memory, &size, budget);
 *     pshm_control control;                     // then, in every process:
 *     if (pshm_control_attach(&control, memory, bytes)) ...
 */
#ifndef PSHM_CONTROL_H
#define PSHM_CONTROL_H

#include "bell.h"
#include "counters.h"
#include "policy.h"
#include "queue.h"

#define PSHM_VERSION 3u
#define PSHM_RINGS 4096u    /* rings that can exist at one time */
#define PSHM_ROUTINES 4096u /* the most routines of a pipe, taps included */
#define PSHM_COUNTERS 16u   /* of a routine: those that its class gives names to */
#define PSHM_STEPS 2u       /* words of a routine that others keep in step with */

/* One connection from a sender to a receiver, from its linking to its unlinking. */
typedef struct pshm_edge_record {
    uint32_t sender;   /* routine numbers */
    uint32_t receiver; /* the same */
    uint32_t local;    /* whether both ends are in one process: its cells are tokens */
    uint32_t policy;   /* enum pshm_policy */
    uint32_t capacity;
    uint32_t borrow_cap;     /* slots that the receiver may hold before it is handed copies */
    uint64_t timeout_ns;     /* how long a sender waits for room; PSHM_FOREVER for no limit */
    uint32_t receiver_ended; /* atomic: the receiver takes no more */
    uint32_t removed;        /* atomic: the edge is unlinked */
    uint32_t sender_failed;  /* atomic: the sender is dead and will not be restarted */
    uint32_t reserved;
    /* A bit per routine: the owners of the rings that messages of this edge can name.
     * In the rings of other routines, the same holder bit may belong to another edge. */
    uint64_t reach[PSHM_ROUTINES / 64];
    /* written by the sender */
    _Alignas(PSHM_CACHE_LINE) uint64_t sent;
    uint64_t dropped[PSHM_REASONS];
    uint64_t ticket_announced; /* see tickets.h */
    uint64_t ticket_pushed;
    uint64_t handing; /* see handing.h */
    /* written by the receiver */
    _Alignas(PSHM_CACHE_LINE) uint64_t received;
    uint64_t private_bytes;     /* payload bytes that were copied on receipt */
    uint64_t protocol_errors;   /* descriptors that did not match their slots */
    uint64_t ticket_done;       /* see tickets.h */
    uint64_t hop[PSHM_BUCKETS]; /* ns from publication to receipt */
} pshm_edge_record;

/* The life of an incarnation. When a sender dies and is restarted, each of its edges
 * gets a new incarnation, with a holder bit and a queue of its own, while the receiver
 * drains the old one. When a receiver dies, the incarnation stays: the next receiver
 * goes on where it was. An incarnation's bit may be given to another one only after
 * PSHM_SWEPT or PSHM_GIVEN_UP, its record only after PSHM_SWEPT.
 *
 * After SENDER_DEAD, receiver and launcher may both want to clear it: whoever moves the state
 * on, to SWEEPING or to TAKING_BACK, does. */
enum pshm_incarnation_state {
    PSHM_FREE,
    PSHM_LIVE,
    PSHM_SENDER_DEAD, /* the receiver drains it */
    PSHM_SWEPT,       /* no slot has its bit any more */
    PSHM_SWEEPING,    /* the receiver has drained it, and clears its bit, or still has leases */
    PSHM_TAKING_BACK, /* the launcher takes back what the receiver leaves unread */
    PSHM_GIVEN_UP     /* no slot has its bit any more, but the receiver still looks at it */
};

/* Whether a receiver's process reads an incarnation. It claims the life of the record that it
 * was told of, when it attaches; the launcher withdraws one that nobody has claimed. So a
 * process that wakes up late can't attach to what has been another incarnation since. */
enum pshm_reader {
    PSHM_UNCLAIMED, /* none has attached yet, or the one that had is dead */
    PSHM_CLAIMED,
    PSHM_WITHDRAWN
};

typedef struct pshm_incarnation_record {
    uint32_t state; /* enum pshm_incarnation_state, atomic */
    uint32_t edge;
    uint32_t bit; /* the holder bit's number, 1 to 31; 0 for a local edge */
    uint32_t reserved;
    /* After a death, recover.c finds in these what was left unaccounted for. */
    uint64_t offered; /* messages that the sender has begun to send on this edge */
    uint64_t settled; /* those of them that were pushed, or dropped and counted */
    uint64_t evicted; /* cells that the sender has taken back, dropped and counted */
    uint64_t reader;  /* atomic: {life:32 | enum pshm_reader:32}; see edge.h */
    _Alignas(PSHM_CACHE_LINE) uint64_t taken; /* cells that the receiver has counted */
    pshm_queue_words queue;
} pshm_incarnation_record;

typedef struct pshm_routine_record {
    pshm_bell bell;
    uint32_t state; /* atomic; its values are Python's */
    uint32_t flow;
    uint64_t received;
    uint64_t sent;
    uint64_t errors;
    uint64_t logs_lost;
    uint64_t copied_bytes;      /* payload bytes that were copied into a slot for sending */
    uint64_t in_band_bytes;     /* pickled bytes that were sent within messages */
    uint64_t busy_ns;           /* time spent in main_logic */
    uint64_t busy_since_ns;     /* when main_logic was called; 0 outside of a call */
    uint64_t handled;           /* received messages that the routine is done with */
    uint64_t sequence;          /* the number of a source's next message */
    uint64_t tickets;           /* how many its messages were given */
    uint64_t lost_in_crash;     /* messages that a process had received when it died */
    uint64_t handling_since_ns; /* when an event handler was called; 0 outside of a call */
    uint64_t shows;             /* whether log_data is on; outlives the process */
    uint64_t held;    /* atomic: not 0 while it does not end, if its streams do; see port.h */
    uint64_t resumes; /* whether it sends again what its death interrupted */
    uint64_t kept;    /* which message in hand it has put in safety; see records.py */
    uint64_t counter[PSHM_COUNTERS]; /* those that its class gives names to */
    uint64_t age[PSHM_BUCKETS];      /* ns from capture to receipt */
    uint64_t step[PSHM_STEPS];       /* atomic: how far it is, for those that keep step with it */
} pshm_routine_record;

/* Written by the launcher only. */
typedef struct pshm_flow_record {
    uint32_t state; /* its values are Python's */
    int32_t pid;
    int32_t last_exit;    /* how its last process died: exit status, or minus the signal */
    uint32_t last_reason; /* why it ended; its values are Python's */
    uint64_t restarts;
    uint64_t started; /* when its process began, as /proc tells: a pid alone may be another's */
} pshm_flow_record;

/* One place in the table of rings; see ring_table.h. */
typedef struct pshm_ring_entry {
    _Atomic uint64_t serial; /* 0 while the place is free */
    _Atomic uint64_t bytes;  /* that the ring takes of the memory budget */
    _Atomic uint32_t ready;  /* whether the ring is published */
    uint32_t reserved;
} pshm_ring_entry;

typedef struct pshm_control_head {
    uint32_t magic;
    uint32_t version;
    uint32_t flows;
    uint32_t routines;
    uint32_t edges;
    uint32_t incarnations;
    uint32_t cells;              /* of each queue, a power of two */
    _Atomic uint32_t edges_used; /* none from this number on is in use, but for those of taps */
    _Atomic uint64_t next_serial;
    _Atomic uint64_t epoch;             /* grows whenever a ring is removed */
    uint64_t budget;                    /* bytes that all rings may take together */
    _Atomic uint32_t incarnations_used; /* none from this number on is in use */
    uint32_t reserved;
    pshm_ring_entry ring[PSHM_RINGS];
} pshm_control_head;

/* A process's own handle. */
typedef struct pshm_control {
    pshm_control_head *head;
    uint32_t flows;
    uint32_t routines;
    uint32_t edges;
    uint32_t incarnations;
    uint32_t cells;
    uint32_t incarnation_stride;
    pshm_flow_record *flow;
    pshm_routine_record *routine;
    pshm_edge_record *edge;
    uint8_t *incarnation_base;
} pshm_control;

/* How many of each a control segment has room for. */
typedef struct pshm_control_size {
    uint32_t flows;
    uint32_t routines;
    uint32_t edges;
    uint32_t incarnations;
    uint32_t cells;
} pshm_control_size;

/* Returns the bytes of such a segment's records; 0 if a count is out of range. */
uint64_t pshm_control_bytes(const pshm_control_size *size);

/* Writes the head of a fresh, zeroed segment. Creator only, before any other process
 * knows of it. */
void pshm_control_format(void *memory, const pshm_control_size *size, uint64_t budget);

/* Fills a handle from a segment of `bytes`. Any process. Returns false when that is not
 * a sound control segment of this version. Wait-free. */
bool pshm_control_attach(pshm_control *control, void *memory, uint64_t bytes);

/* Return the record of that number; NULL when it is out of range. Any process.
 * Wait-free. */
pshm_flow_record *pshm_control_flow(const pshm_control *control, uint32_t number);
pshm_routine_record *pshm_control_routine(const pshm_control *control, uint32_t number);
pshm_edge_record *pshm_control_edge(const pshm_control *control, uint32_t number);
pshm_incarnation_record *pshm_control_incarnation(const pshm_control *control, uint32_t number);

/* Notes how many edges and incarnations are in use, which is all of them at first. The others
 * need no memory: nobody touches them. The creator or the launcher, before anybody knows
 * of those that are new. Order: release. Wait-free. */
void pshm_control_use(const pshm_control *control, uint32_t edges, uint32_t incarnations);

/* Return how many edges, and incarnations, may be touched: see above. Any process.
 * Order: acquire. Wait-free. */
uint32_t pshm_control_edges_used(const pshm_control *control);
uint32_t pshm_control_incarnations_used(const pshm_control *control);

/* Ring a routine's bell, if there is a routine of that number. Any process. The first
 * does so only if the routine sleeps or is about to; the second in any case. Wait-free but
 * for a system call. */
void pshm_control_wake(const pshm_control *control, uint32_t number);
void pshm_control_ring(const pshm_control *control, uint32_t number);

/* Write and read a routine's word for those that keep step with it. The routine alone writes,
 * and rings the others afterwards; they read between pshm_port_word and pshm_port_nap.
 * `word` is below PSHM_STEPS. Any process. Order: seq_cst, as a bell wants it. Wait-free. */
void pshm_step_set(pshm_routine_record *record, uint32_t word, uint64_t value);
uint64_t pshm_step_get(const pshm_routine_record *record, uint32_t word);

/* Reads a word of geometry exactly once, so that the value which was checked is the
 * value that is used. Any process. Wait-free. */
static inline uint32_t pshm_read_once(const uint32_t *word) {
    return __atomic_load_n(word, __ATOMIC_RELAXED);
}

#endif
