/* The controls: what no hand-over can beat.
 *
 * A ping from one process to others with nothing in it, by a futex and nothing
 * else: no hand-over that sleeps in the kernel between frames can be faster at
 * the same pace, or wake so many receivers on less processor time.
 *
 * Compiled and called by controls.py.
 */
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000

/* A page each, so that no two receivers share a cache line. */
typedef struct mailbox {
    _Atomic uint32_t word;
    _Atomic uint32_t over;
    char rest[4096 - 8];
} mailbox;

/* Points into the sheet of sheet.py. `first` is the number of the frame before which processor time is noted. */
typedef struct notes {
    _Atomic int64_t *sent;
    _Atomic int64_t *received; /* of all receivers */
    int64_t *sent_ns;
    int64_t *received_ns; /* of this receiver */
    int64_t *cpu_ns;      /* of this process: at `first`, and at the end */
    int64_t first;
} notes;

static int64_t clock_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * NS_PER_S + now.tv_nsec;
}

static void sleep_until(int64_t due_ns) {
    struct timespec due = {.tv_sec = due_ns / NS_PER_S, .tv_nsec = due_ns % NS_PER_S};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL) != 0) continue;
}

static void ring(mailbox *box) {
    atomic_fetch_add(&box->word, 1);
    syscall(SYS_futex, &box->word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static int all_received(const notes *n, int64_t receivers) {
    for (int64_t at = 0; at < receivers; at++) {
        if (n->received[at] < *n->sent) return 0;
    }
    return 1;
}

void control_send(mailbox *boxes, int64_t receivers, notes *n, int64_t ticks, int64_t fewest, int64_t period_ns) {
    int64_t due = clock_ns(CLOCK_MONOTONIC);
    for (int64_t tick = 0; tick < ticks || *n->sent < fewest; tick++) {
        due += period_ns;
        sleep_until(due);
        if (!all_received(n, receivers)) continue;
        int64_t number = *n->sent;
        if (number == n->first) n->cpu_ns[0] = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
        *n->sent = number + 1;
        n->sent_ns[number] = clock_ns(CLOCK_MONOTONIC);
        for (int64_t at = 0; at < receivers; at++) ring(&boxes[at]);
    }
    n->cpu_ns[1] = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    for (int64_t at = 0; at < receivers; at++) {
        boxes[at].over = 1;
        ring(&boxes[at]);
    }
}

void control_receive(mailbox *box, int64_t at, notes *n) {
    uint32_t seen = 0;
    for (;;) {
        while (box->word == seen) syscall(SYS_futex, &box->word, FUTEX_WAIT, seen, NULL, NULL, 0);
        int64_t now = clock_ns(CLOCK_MONOTONIC);
        seen = box->word;
        int64_t number = n->received[at];
        if (number < *n->sent) {
            if (number == n->first) n->cpu_ns[0] = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
            n->received_ns[number] = now;
            n->received[at] = number + 1;
        }
        if (box->over) break;
    }
    n->cpu_ns[1] = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
}
