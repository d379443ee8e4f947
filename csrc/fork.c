#include "fork.h"

#include <pthread.h>
#include <stddef.h>
#include <unistd.h>

#include "process.h"
#include "trace.h"

/* Under the mutex of the tables. Static, since the handler in the child must not
 * allocate. */
static int guarded[PSHM_GUARDED];
static size_t guarded_count;

static void before_fork(void) {
    pshm_process_hold_still();
}

static void after_fork_in_parent(void) {
    pshm_process_go_on();
}

static void after_fork_in_child(void) {
    pshm_process_disown_all();
    pshm_trace_disown();
    for (size_t i = 0; i < guarded_count; i++) close(guarded[i]);
    guarded_count = 0;
    pshm_process_go_on();
}

__attribute__((constructor)) static void watch_forks(void) {
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

bool pshm_guard(int fd) {
    pshm_process_hold_still();
    bool room = guarded_count < PSHM_GUARDED;
    if (room) guarded[guarded_count++] = fd;
    pshm_process_go_on();
    return room;
}

void pshm_unguard(int fd) {
    pshm_process_hold_still();
    for (size_t i = 0; i < guarded_count; i++) {
        if (guarded[i] != fd) continue;
        guarded[i] = guarded[--guarded_count];
        break;
    }
    pshm_process_go_on();
}
