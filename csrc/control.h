/* control: the one segment that all processes of a pipe map read-write.
 *
 * It holds what a pipe's size fixes at build time: a record per routine (bell,
 * counters), a record per edge incarnation (policy, counters, queue) and the
 * table of rings. The creator formats it before anyone else maps it; geometry
 * and names are never written again, so each process copies and checks them
 * once (pshm_control_attach, pshm_edge_attach).
 *
 * Counters are plain 64-bit words, written with relaxed atomics and read by
 * anyone at any time: they cost their writer one store.
 */
#ifndef PSHM_CONTROL_H
#define PSHM_CONTROL_H

#include "bell.h"
#include "queue.h"

#define PSHM_VERSION 1u
#define PSHM_RINGS 1024u    /* rings that exist at one time */
#define PSHM_ROUTINES 1024u /* of a pipe, taps included */
#define PSHM_BUCKETS 608u   /* of a latency histogram, see pshm_histogram_add */
#define PSHM_COUNTERS 8u    /* of a routine, that its class gives names to */
#define PSHM_FOREVER UINT64_MAX

enum pshm_policy { PSHM_POLICY_DROP_OLDEST, PSHM_POLICY_DROP_NEWEST, PSHM_POLICY_BLOCK };

/* Why a message was not delivered on an edge. */
enum pshm_reason {
    PSHM_REASON_OLDEST,  /* evicted by a newer one */
    PSHM_REASON_NEWEST,  /* came to a full queue */
    PSHM_REASON_TIMEOUT, /* a blocked sender's time ran out */
    PSHM_REASON_NO_SLOT, /* no free slot in the sender's ring */
    PSHM_REASON_ENDED,   /* the receiver had ended */
    PSHM_REASON_STOPPED, /* the pipe was killed with it unsent */
    PSHM_REASON_ERROR,   /* it could not be encoded or decoded */
    PSHM_REASON_CRASH,   /* a process died with it half sent or half received */
    PSHM_REASON_EXPIRED, /* it was older than the wire's max_age when it came */
    PSHM_REASON_JOIN,    /* nothing to join it with came */
    PSHM_REASONS
};

typedef struct pshm_edge_record {
    uint32_t sender;
    uint32_t receiver;
    uint32_t local; /* both ends in one process: cells are tokens */
    uint32_t policy;
    uint32_t capacity;
    uint32_t borrow_cap;     /* slots that the receiver may hold at a time */
    uint64_t timeout_ns;     /* of a blocked sender; PSHM_FOREVER for none */
    uint32_t receiver_ended; /* atomic: the receiver takes no more */
    uint32_t removed;        /* atomic: the sender has unlinked it */
    uint32_t sender_failed;  /* atomic: the sender is dead for good */
    uint32_t reserved;
    /* a bit per routine: whose rings its messages can name. In the rings of
     * others, the same holder bit may be another edge's. */
    uint64_t reach[PSHM_ROUTINES / 64];
    /* written by the sender */
    _Alignas(PSHM_CACHE_LINE) uint64_t sent;
    uint64_t dropped[PSHM_REASONS];
    uint64_t ticket_announced; /* the last one that is pushed, or about to be; 0 for none */
    uint64_t ticket_pushed;    /* the last one that is for certain; else as above */
    /* written by the receiver */
    _Alignas(PSHM_CACHE_LINE) uint64_t received;
    uint64_t private_bytes;     /* buffer bytes copied on receipt */
    uint64_t protocol_errors;   /* a descriptor that did not match its slot */
    uint64_t ticket_done;       /* its results, up to this one, are pushed */
    uint64_t hop[PSHM_BUCKETS]; /* ns from publish to receipt */
} pshm_edge_record;

/* What becomes of an edge when its sender dies and comes back: a new
 * incarnation, with a fresh bit and queue, while the old one is drained. A
 * receiver that dies leaves the incarnation in being; its successor goes on
 * where it was. Only `swept` frees the bit, and nobody sweeps after it. */
enum pshm_incarnation_state {
    PSHM_FREE,
    PSHM_LIVE,
    PSHM_SENDER_DEAD, /* the receiver drains it */
    PSHM_SWEPT        /* no slot has its bit any more */
};

typedef struct pshm_incarnation_record {
    uint32_t state; /* enum pshm_incarnation_state, atomic */
    uint32_t edge;
    uint32_t bit; /* holder bit number, 1 to 31; 0 for a local edge */
    uint32_t reserved;
    /* What a death leaves unaccounted for shows in these: see pshm_lost. */
    uint64_t offered; /* messages that the sender began to serve this edge with */
    uint64_t settled; /* of these: pushed, or dropped and counted */
    uint64_t evicted; /* cells that the sender took back, dropped and counted */
    _Alignas(PSHM_CACHE_LINE) uint64_t taken; /* cells that the receiver counted */
    pshm_queue_words queue;
} pshm_incarnation_record;

typedef struct pshm_routine_record {
    pshm_bell bell;
    uint32_t state; /* atomic, the launcher's and the flow's word */
    uint32_t flow;
    uint64_t received;
    uint64_t sent;
    uint64_t errors;
    uint64_t logs_lost;
    uint64_t copied_bytes;           /* buffer bytes copied into a slot to send them */
    uint64_t in_band_bytes;          /* pickled bytes that stood in messages */
    uint64_t busy_ns;                /* spent in main_logic */
    uint64_t busy_since_ns;          /* when main_logic was called; 0 outside */
    uint64_t handled;                /* received messages that are done with */
    uint64_t sequence;               /* of a source's next message */
    uint64_t tickets;                /* that were given to its messages */
    uint64_t lost_in_crash;          /* messages that a dead process had taken */
    uint64_t handling_since_ns;      /* when an event handler was called; 0 outside */
    uint64_t shows;                  /* whether log_data is on: outlives its process */
    uint64_t counter[PSHM_COUNTERS]; /* its class's own */
    uint64_t age[PSHM_BUCKETS];      /* ns from capture to receipt */
} pshm_routine_record;

/* Written by the launcher only. */
typedef struct pshm_flow_record {
    uint32_t state; /* Python's */
    int32_t pid;
    int32_t last_exit; /* status, or negative signal, of the last death */
    uint32_t reserved;
    uint64_t restarts;
} pshm_flow_record;

/* serial is 0 while the place is free; a ring's segment is named by it, so
 * names never repeat though places do. {count:48 | owner:16}: who claimed the
 * place is known as soon as it is claimed, however soon they die. */
typedef struct pshm_ring_entry {
    _Atomic uint64_t serial;
    _Atomic uint64_t bytes; /* of the memory budget */
    _Atomic uint32_t ready;
    uint32_t reserved;
} pshm_ring_entry;

typedef struct pshm_control_head {
    uint32_t magic;
    uint32_t version;
    uint32_t flows;
    uint32_t routines;
    uint32_t edges;
    uint32_t incarnations;
    uint32_t cells; /* per queue, a power of two */
    uint32_t reserved;
    _Atomic uint64_t next_serial;
    _Atomic uint64_t epoch; /* moves whenever a ring goes */
    uint64_t budget;        /* bytes that rings may take; never written again */
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

/* A process's own handle on an incarnation of an edge. */
typedef struct pshm_edge {
    pshm_edge_record *record;
    pshm_incarnation_record *incarnation;
    uint32_t number; /* of the incarnation */
    uint32_t sender;
    uint32_t receiver;
    uint32_t mask; /* 1 << bit, 0 for a local edge */
    bool local;
    uint32_t policy;
    uint32_t borrow_cap;
    uint64_t timeout_ns;
    uint64_t ticket_before; /* the sender's: to be restored if it is not pushed */
    pshm_queue queue;
} pshm_edge;

/* What a control segment has room for. */
typedef struct pshm_control_size {
    uint32_t flows;
    uint32_t routines;
    uint32_t edges;
    uint32_t incarnations;
    uint32_t cells;
} pshm_control_size;

/* Bytes of a control segment; 0 if the counts are out of range. */
uint64_t pshm_control_bytes(const pshm_control_size *size);

/* Writes the head of a fresh, zeroed segment. Creator only. */
void pshm_control_format(void *memory, const pshm_control_size *size, uint64_t budget);

/* Fills a handle; false when the memory is not a sound control segment. */
bool pshm_control_attach(pshm_control *control, void *memory, uint64_t bytes);

/* The record of a flow, an edge, an incarnation or a routine, NULL when out of range. */
pshm_flow_record *pshm_control_flow(const pshm_control *control, uint32_t number);
pshm_incarnation_record *pshm_control_incarnation(const pshm_control *control, uint32_t number);
pshm_edge_record *pshm_control_edge(const pshm_control *control, uint32_t number);
pshm_routine_record *pshm_control_routine(const pshm_control *control, uint32_t number);

/* Makes a routine look at its queues again, whether it seems to sleep or not.
 * Any process. */
void pshm_control_ring(const pshm_control *control, uint32_t number);

/* Fills a handle on an incarnation; false when its record is out of range. */
bool pshm_edge_attach(pshm_edge *edge, const pshm_control *control, uint32_t number);

/* Whether the edge's bit can stand in the rings of a routine. Any process. */
static inline bool pshm_edge_reaches(const pshm_edge *edge, uint32_t owner) {
    return owner < PSHM_ROUTINES && (edge->record->reach[owner / 64] >> owner % 64 & 1) != 0;
}

/* The tickets of an edge to one of the replicas of a flow whose order is restored
 * after it. What was announced and is not done can still yield a result. `done`
 * is set by the replica, after the push of the results. Whoever got the result
 * of a ticket sees all earlier ones as announced. */
void pshm_tickets_read(const pshm_edge_record *record, uint64_t *announced, uint64_t *done);
void pshm_tickets_done(pshm_edge_record *record, uint64_t ticket);
/* The last ticket of which the message is in the queue, or has been: where the
 * queue is found empty afterwards, it was taken. Any process. */
uint64_t pshm_tickets_pushed(const pshm_edge_record *record);
/* The sender is dead: what it announced is in the queue, or never will be. The
 * launcher, before it marks the incarnation. */
void pshm_tickets_settle(pshm_edge_record *record);

/* Bytes of the memory budget that no ring has taken. Any process. */
uint64_t pshm_control_left(const pshm_control *control);

/* Takes `bytes` of the budget for a ring that was claimed; false when that much
 * is not left, and the ring must be released. They stand in the ring's entry, so
 * whoever gives back the place gives them back, also for a claimer that died.
 * Any process; of two that together want too much, both may be refused. */
bool pshm_control_spend(const pshm_control *control, uint32_t ring, uint64_t bytes);

/* Claims a place and a serial for a new ring; its number, or PSHM_RINGS when
 * all are taken. Any process; lock-free. */
uint32_t pshm_control_claim_ring(const pshm_control *control, uint32_t owner, uint64_t *serial);

/* Makes a claimed ring known (its segment exists and is formatted), or gives a
 * place back (its segment is unlinked). The ring's creator. */
void pshm_control_publish_ring(const pshm_control *control, uint32_t ring);
void pshm_control_release_ring(const pshm_control *control, uint32_t ring);

/* Gives back a place that `owner`, who is dead, has claimed and not published;
 * returns the serial that its segment may have, or 0 when there is none left.
 * The launcher. */
uint64_t pshm_control_unclaim_ring(const pshm_control *control, uint32_t owner);

/* The serial of a published ring, 0 where there is none. Any process. */
uint64_t pshm_control_serial(const pshm_control *control, uint32_t ring);

/* Makes an incarnation live: empty queue, nothing counted. The launcher, or the
 * creator, before either end knows of it. */
void pshm_incarnation_format(pshm_incarnation_record *record, uint32_t edge, uint32_t bit);

/* Adds to a counter that others only read, or that others add to as well. */
static inline void pshm_count(uint64_t *counter, uint64_t n) {
    __atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}

/* Adds a duration to a histogram: 16 linear steps per power of two, so a
 * bucket is at most 1/16 wide of its value. The last bucket is open. */
void pshm_histogram_add(uint64_t *histogram, uint64_t ns);

/* The duration, ns, in the middle of a bucket. */
uint64_t pshm_histogram_value(uint32_t bucket);

#endif
