/* fuzz: a small pipe whose shared words are damaged at random.
 *
 *     source -> middle -> sink
 *     source ------------> sink
 *     source -> local              tokens
 *
 * Source, middle, sink and launcher are four tables (pshm_process) in one process, over
 * one control segment and one segment per ring. An input is a list of steps. A step either
 * does what a process of a pipe does, or damages a shared word: at once, or some points
 * later, in the middle of another step. Whatever the words say, no step may touch memory
 * that is not its own, or go on for ever; and what is leased stays mapped.
 */
#ifndef PSHM_FUZZ_H
#define PSHM_FUZZ_H

#include "../points.h"
#include "../pshm.h"

enum { SOURCE, MIDDLE, SINK, LOCAL, ROUTINES };
enum { LAUNCHER = 3, TABLES = 4 };
enum { TO_MIDDLE, TO_SINK, FORWARDED, TO_LOCAL, EDGES };

#define PSHM_FUZZ_INCARNATIONS 6u
#define PSHM_FUZZ_CELLS 4u
#define PSHM_FUZZ_RINGS 4u /* payload and messages of source, then of middle */
#define PSHM_FUZZ_RING_BYTES 12288u
#define PSHM_FUZZ_WORDS 512u
#define PSHM_FUZZ_HELD 16u /* slots that a routine keeps */

/* A shared word worth damaging. */
typedef struct pshm_fuzz_word {
    void *at;
    uint32_t bytes;
} pshm_fuzz_word;

typedef struct pshm_fuzz_world {
    void *control; /* ends where its page ends; memory before and after it is out of bounds */
    uint64_t control_bytes;
    int ring_fd[PSHM_FUZZ_RINGS];
    uint8_t *ring[PSHM_FUZZ_RINGS]; /* the whole of each segment */
    uint32_t words;
    pshm_fuzz_word word[PSHM_FUZZ_WORDS];
    /* of the present input */
    uint64_t serial[PSHM_FUZZ_RINGS];
    pshm_process *process[TABLES];
    pshm_port *port[ROUTINES];
} pshm_fuzz_world;

extern pshm_fuzz_world pshm_fuzz_here;

/* fuzz_world.c. Once; then before and after each input. */
void pshm_fuzz_open(void);
void pshm_fuzz_build(void);
void pshm_fuzz_tear_down(void);

/* Closes a table, no matter what leases it has: after damage, some are never ended. */
void pshm_fuzz_add_in(pshm_port *port, uint32_t number); /* its incarnation, as it is now */
void pshm_fuzz_close(pshm_process *process);

/* Maps segment `n` as ring `ring` of `serial`. What lies in its pages and is not a part of
 * the ring is out of bounds. Returns 0, or an errno. */
int pshm_fuzz_map(pshm_process *process, uint32_t ring, uint64_t serial, uint32_t n,
                  bool writable);

/* fuzz_flow.c. Receives one message, without waiting; keeps or discards it. */
void pshm_fuzz_receive(uint32_t routine, bool discard);

/* The receive alone. Maps rings and recovers dead senders as needed. */
int pshm_fuzz_take(pshm_port *port, pshm_delivery *delivery);
void pshm_fuzz_open_every_ring(pshm_process *process);

/* Ends the incoming edges, and receives until nothing is left. */
void pshm_fuzz_end(uint32_t routine);

/* Sends one message, which the bits of `shape` describe; or goes on with one that waits. */
void pshm_fuzz_send(uint32_t routine, uint32_t shape);
void pshm_fuzz_abandon(uint32_t routine);
void pshm_fuzz_remove_out(uint32_t routine, uint32_t out);

/* Ask whether a routine holds anything, end its hold, and look at all that is held. */
bool pshm_fuzz_holds(uint32_t routine);
void pshm_fuzz_let_go(uint32_t routine, uint32_t place);
void pshm_fuzz_let_all_go(void);
void pshm_fuzz_look_at(const uint8_t *memory, uint64_t bytes);
void pshm_fuzz_look_at_held(void);

/* Ends the program, so that libFuzzer notes the input. */
_Noreturn void pshm_fuzz_fail(const char *what);

#endif
