/* trace: what a process did, event by event, while somebody traces its pipe.
 *
 * Each process that is traced has a ring of events in a segment of its own:
 *
 *     head    geometry, whose ring it is, counts, and the names that events refer to
 *     cells   an event each, behind the turn in which it was written
 *
 * Any thread of the process writes. It takes the next turn, claims that turn's cell, and
 * publishes the event by a second store to the cell's turn; so a reader in another process
 * sees whole events or none, whatever a writer was doing when it died. The oldest events are
 * overwritten.
 *
 * One pointer says where events go, or that nobody traces. Whoever has something to note
 * looks at it first:
 *
 *     if (pshm_trace_is_on()) ...
 *
 * There are no PSHM_POINTs here: nothing but a reader of the trace depends on these words.
 */
#ifndef PSHM_TRACE_H
#define PSHM_TRACE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bell.h"

#define PSHM_TRACE_EVENTS (1u << 24) /* the most of a ring */
#define PSHM_TRACE_NAMES 256u
#define PSHM_TRACE_NAME_BYTES 64u
#define PSHM_TRACE_NOBODY 0xffffu      /* in place of a routine or a flow: none, or unknown */
#define PSHM_TRACE_NO_FRAME UINT32_MAX /* in place of an origin */

/* What an event is about. `routine` did it; it took from began_ns to time_ns. */
enum pshm_trace_kind {
    PSHM_TRACE_NOTHING,
    PSHM_TRACE_CALL,    /* main_logic; the frame is what it got, or what it is to make */
    PSHM_TRACE_MEMBER,  /* one more frame of the call that follows: of a batch or a join */
    PSHM_TRACE_DECODE,  /* from the receipt to the payload */
    PSHM_TRACE_RECEIVE, /* from the send by `other` to the receipt */
    PSHM_TRACE_SEND,    /* to all wires */
    PSHM_TRACE_LOAN,    /* a slot was reserved */
    PSHM_TRACE_WAIT,    /* it slept until a message came */
    PSHM_TRACE_ROOM,    /* it slept until a queue had room */
    PSHM_TRACE_SLOT,    /* it slept until a slot was free */
    PSHM_TRACE_REST,    /* it slept until its next turn, or a command */
    PSHM_TRACE_DROP,    /* for `other`, by the sender; `detail` is the reason */
    PSHM_TRACE_DISCARD, /* of `other`'s, by the receiver; the same */
    PSHM_TRACE_TAKEN,   /* DROP of a message of the flow: the sequence is its token */
    PSHM_TRACE_TOKEN,   /* what that was: began_ns is the sequence, and the sequence the token */
    PSHM_TRACE_LOST,    /* began_ns messages to `other`, in a crash */
    PSHM_TRACE_SPAN,    /* user code; `other` is a name */
    PSHM_TRACE_THREAD,  /* the same on another thread, whose number is the sequence */
    PSHM_TRACE_COMMAND, /* a command was carried out; `other` is a name */
    PSHM_TRACE_EVENT,   /* an event was handled; `other` is a name */
    PSHM_TRACE_ERROR,   /* main_logic raised */
    PSHM_TRACE_FLOW     /* something happened to a flow, `routine`; `other` is a name */
};

typedef struct pshm_trace_event {
    uint64_t time_ns; /* CLOCK_MONOTONIC */
    uint64_t began_ns;
    uint64_t sequence; /* of the frame */
    uint32_t origin;   /* of the frame, as its message carries it */
    uint16_t routine;
    uint16_t other; /* the routine at the wire's other end, or an index of a name */
    uint32_t kind;
    uint32_t detail;
} pshm_trace_event;

#define PSHM_TRACE_WORDS (sizeof(pshm_trace_event) / sizeof(uint64_t))

typedef struct pshm_trace_cell {
    _Atomic uint64_t turn; /* 0: never written; odd: being written; else 2 * turn + 2 */
    _Atomic uint64_t word[PSHM_TRACE_WORDS];
} pshm_trace_cell;

typedef struct pshm_trace_head {
    uint32_t magic;
    uint32_t version;
    uint32_t cells; /* a power of two */
    uint32_t flow;  /* its number; PSHM_TRACE_NOBODY: the launcher's */
    int32_t pid;
    uint32_t reserved;
    uint64_t serial; /* of the trace */
    uint64_t begun_ns;
    _Alignas(PSHM_CACHE_LINE) _Atomic uint64_t next; /* the next turn */
    _Alignas(PSHM_CACHE_LINE) char name[PSHM_TRACE_NAMES][PSHM_TRACE_NAME_BYTES];
    _Alignas(PSHM_CACHE_LINE) pshm_trace_cell cell[];
} pshm_trace_head;

/* Where this process's events go; NULL: nobody traces it. Only trace.c writes to it. */
extern pshm_trace_head *pshm_trace_into;

/* Returns whether this process is traced. Any thread. Wait-free. */
static inline bool pshm_trace_is_on(void) {
    /* relaxed: pshm_trace_note looks again */
    return __builtin_expect(__atomic_load_n(&pshm_trace_into, __ATOMIC_RELAXED) != NULL, 0);
}

/* Returns when something begins that is to be noted; 0 where nobody traces. Any thread. */
static inline uint64_t pshm_trace_start(void) {
    return pshm_trace_is_on() ? pshm_now() : 0;
}

/* ---- the ring -------------------------------------------------------------------------- */

/* Returns the bytes of a ring; 0 when no ring can have so many cells. */
uint64_t pshm_trace_bytes(uint32_t cells);

/* Writes the head of a fresh, zeroed ring. Its process, before it writes events. */
void pshm_trace_format(void *memory, uint32_t cells, uint32_t flow, int32_t pid, uint64_t serial);

/* Returns the cells of a ring of `bytes`; 0 when that is none. Any process. */
uint32_t pshm_trace_cells(const void *memory, uint64_t bytes);

/* Copies whole events, the oldest first, `room` at most, from a ring that
 * pshm_trace_cells has found sound. Returns how many there are, and in *turns how many were
 * ever begun: the difference was overwritten, or was never finished. Any process, also while
 * others write. Order: acquire, so that what is copied belongs together. Wait-free. */
uint32_t pshm_trace_read(const void *memory, uint32_t cells, pshm_trace_event *events,
                         uint32_t room, uint64_t *turns);

/* ---- the process ----------------------------------------------------------------------- */

/* From now on events go to this ring, which stays mapped until pshm_trace_end has returned.
 * One thread at a time. */
void pshm_trace_begin(void *memory, uint32_t cells);

/* Events go nowhere any more. Returns when no thread writes to the ring, which none does for
 * longer than it is kept from running. One thread at a time. */
void pshm_trace_end(void);

/* For fork.c: the child is not traced. */
void pshm_trace_disown(void);

/* Notes an event, if this process is traced. Any thread. Order: release. Lock-free: a writer
 * that was kept from running for a whole round of the ring costs its event, and no other. */
void pshm_trace_note(const pshm_trace_event *event);

/* Gives name number `index` of the ring this text, if this process is traced. Any thread, before
 * an event that refers to it; one at a time for each index. Wait-free. */
void pshm_trace_name(uint32_t index, const void *text, uint32_t bytes);

#endif
