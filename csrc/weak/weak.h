/* weak: programs that a checker runs in every order which a weak memory model allows.
 *
 * A program is one file here. It puts two or three threads, each of them in the place of a
 * process, to the core's own functions, and says with CHECK what must hold. A checker runs
 * them: GenMC searches every execution (genmc.c), relacy draws many of them (relacy.cpp).
 * check.py builds and runs the programs, and with them the mutants of mutants.txt: the same
 * core with one order weakened, which a program must find.
 *
 * Payload is written and read by weak_write and weak_read: plain accesses, so that two of
 * them without an order between them are an error, whatever was read.
 */
#ifndef PSHM_WEAK_H
#define PSHM_WEAK_H

#include "hooks.h"

#define WEAK_THREADS 3u /* the most of a program */

#ifdef __cplusplus
#define _Noreturn [[noreturn]]
extern "C" {
#endif

/* ---- what a program defines ------------------------------------------------------------ */

/* How many threads it has. */
extern const unsigned weak_threads;

/* How many of them are in the same process, the first ones; mutexes are real there. */
extern const unsigned weak_together;

void weak_before(void);          /* makes what the threads share; alone */
void weak_thread(unsigned self); /* the threads, numbered from 0 */
void weak_after(void);           /* looks at the end; alone */

/* ---- what a checker defines ------------------------------------------------------------ */

/* Declares `bytes` at `memory` to be payload, in slots of `slot_bytes`. Before the threads. */
void weak_payload(void *memory, size_t bytes, size_t slot_bytes);
void weak_write(uint64_t *at, uint64_t value);
uint64_t weak_read(const uint64_t *at);

/* Ends the calling thread: its process is dead. */
_Noreturn void weak_die(void);

/* From now on the calling thread may die, in relacy at every point of the core (see points.h),
 * in GenMC where it calls weak_may_die. Then `death` is told. */
void weak_mortal(_Atomic uint64_t *death);
void weak_may_die(void);

/* After the threads: whether one stopped in a sleep that nobody has ended, and whether one has
 * returned. Neither is true of a thread that died. GenMC also stops a thread in a sleep which
 * is ended later: there is another execution in which it goes on. */
bool weak_sleeps(unsigned thread);
bool weak_returned(unsigned thread);

/* Waits for a flag: what the kernel or the control plane tells a process. Order: release
 * and acquire. */
void weak_tell(_Atomic uint64_t *flag);
void weak_await(_Atomic uint64_t *flag);

void weak_check(bool holds, const char *what, const char *file, int line);

#ifdef __cplusplus
}
#endif

#define CHECK(condition) weak_check(condition, #condition, __FILE__, __LINE__)

#endif
