/* Runs a program under GenMC, as one file: the core, the program, and threads.
 *
 * GenMC 0.11 copies no structures and sees no part of a word, so it can't run the core's ports:
 * the programs that include world.h are for relacy alone.
 *
 *     genmc --rc11 -- -I<copy of csrc> -DPROGRAM=forward.c genmc.c
 */
#include <assert.h>

#include "weak.h"

#define QUOTED(name) #name
#define FILE_OF(name) QUOTED(name)
#include FILE_OF(PROGRAM)

/* ---- the core -------------------------------------------------------------------------- */

#include "bell.c"
#include "edge.c"
#include "queue.c"
#include "ring.c"
#include "tickets.c"

/* ---- the checker ----------------------------------------------------------------------- */

#define MAIN WEAK_THREADS

typedef struct sleep {
    _Atomic uint32_t *word;
    uint32_t expected;
} sleep_of;

static _Thread_local unsigned self = MAIN;
static sleep_of asleep[WEAK_THREADS];
static bool returned[WEAK_THREADS];
static _Thread_local _Atomic uint64_t *mortal;
static _Atomic uint64_t kill_mark;
static _Alignas(64) unsigned char memory[WEAK_THREADS + 1][0x8000];
static size_t used[WEAK_THREADS + 1];

long weak_futex(_Atomic uint32_t *word, int operation, uint32_t expected,
                const struct timespec *timeout) {
    (void)timeout; /* it never comes */
    if (operation == FUTEX_WAKE) return 0;
    /* seq_cst: the kernel compares under a lock, with full barriers */
    if (atomic_load_explicit(word, memory_order_seq_cst) != expected) return 0;
    asleep[self].word = word;
    asleep[self].expected = expected;
    weak_die();
}

bool weak_sleeps(unsigned thread) {
    const sleep_of *it = &asleep[thread];
    return it->word != NULL &&
           atomic_load_explicit(it->word, memory_order_seq_cst) == it->expected;
}

bool weak_returned(unsigned thread) {
    return returned[thread];
}

int weak_clock(struct timespec *now) {
    now->tv_sec = 0;
    now->tv_nsec = 1;
    return 0;
}

void *weak_memory(size_t bytes) {
    void *place = &memory[self][used[self]];
    used[self] += (bytes + 63) / 64 * 64;
    assert(used[self] <= sizeof memory[0]);
    return place;
}

#undef pthread_mutex_lock
#undef pthread_mutex_unlock

void weak_lock(pthread_mutex_t *mutex) {
    if (self < weak_together) pthread_mutex_lock(mutex);
}

void weak_unlock(pthread_mutex_t *mutex) {
    if (self < weak_together) pthread_mutex_unlock(mutex);
}

void weak_payload(void *memory_, size_t bytes, size_t slot_bytes) {
    (void)memory_, (void)bytes, (void)slot_bytes; /* all plain accesses are looked at */
}

void weak_write(uint64_t *at, uint64_t value) {
    *at = value;
}

uint64_t weak_read(const uint64_t *at) {
    return *at;
}

void weak_die(void) {
    pthread_exit(NULL);
    __builtin_unreachable();
}

/* Dies where it reads the mark: GenMC tries both. */
void weak_mortal(_Atomic uint64_t *death) {
    mortal = death;
}

void weak_may_die(void) {
    if (atomic_load_explicit(&kill_mark, memory_order_relaxed) == 0) return;
    weak_tell(mortal);
    weak_die();
}

void weak_tell(_Atomic uint64_t *flag) {
    atomic_store_explicit(flag, 1, memory_order_release);
}

void weak_await(_Atomic uint64_t *flag) {
    __VERIFIER_assume(atomic_load_explicit(flag, memory_order_acquire) != 0);
}

void weak_check(bool holds, const char *what, const char *file, int line) {
    (void)what, (void)file, (void)line;
    assert(holds);
}

static void *run(void *number) {
    self = (unsigned)(uintptr_t)number;
    weak_thread(self);
    returned[self] = true;
    return NULL;
}

int main(void) {
    pthread_t thread[WEAK_THREADS];
    weak_before();
    for (uintptr_t n = 0; n < weak_threads; n++) pthread_create(&thread[n], NULL, run, (void *)n);
    atomic_store_explicit(&kill_mark, 1, memory_order_relaxed);
    for (unsigned n = 0; n < weak_threads; n++) pthread_join(thread[n], NULL);
    weak_after();
    return 0;
}
