/* fuzz: a small pipe whose shared words are damaged at random.
 *
 *     source -> middle -> sink
 *     source ------------> sink
 *     source -> local              tokens
 *
 * Source, middle, sink and launcher are four tables (pshm_process) in one
 * process, over one control segment and one segment per ring. An input is a
 * list of steps: damage to a shared word, now or some points later, in the
 * midst of what follows; or something that a process of a pipe does. Whatever
 * the words say, no step may touch memory that is not its own, or go on for
 * ever, and what is leased stays mapped.
 */
#ifndef PSHM_FUZZ_H
#define PSHM_FUZZ_H

#include "../points.h"
#include "../recover.h"

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
    void *control; /* ends where its page ends; no access before or after it */
    uint64_t control_bytes;
    int ring_fd[PSHM_FUZZ_RINGS];
    uint8_t *ring[PSHM_FUZZ_RINGS]; /* the whole of each segment */
    uint32_t words;
    pshm_fuzz_word word[PSHM_FUZZ_WORDS];
    /* of the input under way */
    uint64_t serial[PSHM_FUZZ_RINGS];
    pshm_process *process[TABLES];
    pshm_port *port[ROUTINES];
} pshm_fuzz_world;

extern pshm_fuzz_world pshm_fuzz_here;

/* fuzz_world.c. Once; then before and after each input. */
void pshm_fuzz_open(void);
void pshm_fuzz_build(void);
void pshm_fuzz_tear_down(void);

/* Closes a table, whatever leases it has: damage leaves some that nothing ends. */
void pshm_fuzz_close(pshm_process *process);

/* Maps segment `n` as ring `ring` of `serial`; what lies in its pages and is
 * not its own may not be touched. 0, or an errno. */
int pshm_fuzz_map(pshm_process *process, uint32_t ring, uint64_t serial, uint32_t n,
                  bool writable);

/* fuzz_flow.c. One message, by a receive that does not wait; kept, or discarded. */
void pshm_fuzz_receive(uint32_t routine, bool discard);

/* The receive by itself, rings mapped and the dead recovered as needed. */
int pshm_fuzz_take(pshm_port *port, pshm_delivery *delivery);
void pshm_fuzz_open_every_ring(pshm_process *process);

/* Takes no more: until nothing is left, however long. */
void pshm_fuzz_end(uint32_t routine);

/* Sends one message, whose make-up is in the bits of `shape`, or goes on with
 * one that waits. */
void pshm_fuzz_send(uint32_t routine, uint32_t shape);
void pshm_fuzz_abandon(uint32_t routine);
void pshm_fuzz_remove_out(uint32_t routine, uint32_t out);

/* What routines hold: whether anything, an end of it, and a look at all of it. */
bool pshm_fuzz_holds(uint32_t routine);
void pshm_fuzz_let_go(uint32_t routine, uint32_t place);
void pshm_fuzz_let_all_go(void);
void pshm_fuzz_look_at(const uint8_t *memory, uint64_t bytes);
void pshm_fuzz_look_at_held(void);

/* Ends the program, for libFuzzer to note the input. */
_Noreturn void pshm_fuzz_fail(const char *what);

#endif
