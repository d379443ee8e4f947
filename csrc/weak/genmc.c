/* Runs a program under GenMC, as one file: the core, the program, and threads.
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

#ifdef PSHM_WEAK_WORLD_H /* the rest, for programs that include world.h */
#include "control.c"
#include "counters.c"
#include "layout.c"
#include "lease.c"
#include "mapping.c"
#include "policy.c"
#include "port.c"
#include "process.c"
#include "receive.c"
#include "ring_table.c"
#include "send.c"

#define place_of recover_place_of
#include "recover.c"
#undef place_of
#define place_of reserve_place_of
#include "reserve.c"
#undef place_of
#endif

/* ---- the checker ----------------------------------------------------------------------- */

#define MAIN WEAK_THREADS

typedef struct sleep {
    _Atomic uint32_t *word;
    uint32_t expected;
} sleep_of;

static _Thread_local unsigned self = MAIN;
static sleep_of asleep[WEAK_THREADS];
static bool returned[WEAK_THREADS];
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

void weak_copy(void *to, const void *from, size_t bytes) {
    for (size_t n = 0; n < bytes / 8; n++) ((uint64_t *)to)[n] = ((const uint64_t *)from)[n];
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
    for (unsigned n = 0; n < weak_threads; n++) pthread_join(thread[n], NULL);
    weak_after();
    return 0;
}
