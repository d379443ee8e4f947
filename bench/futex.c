/* The control of the hand-over benchmark: a ping from one process to another
 * with nothing in it, by a futex and nothing else. No hand-over that sleeps in
 * the kernel between frames can be faster at the same pace.
 *
 * One sender, one receiver; compiled and called by hand_over.py.
 */
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000

typedef struct mailbox {
    _Atomic uint32_t word;
    _Atomic uint32_t over;
    _Atomic int64_t sent_ns;
} mailbox;

/* hand_over.Sheet's words */
typedef struct sheet {
    _Atomic int64_t sent;
    _Atomic int64_t received;
    int64_t wrong;
    int64_t latency_ns[];
} sheet;

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
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

void futex_send(mailbox *box, sheet *sheet, int64_t ticks, int64_t fewest, int64_t period_ns) {
    int64_t due = now_ns();
    for (int64_t tick = 0; tick < ticks || sheet->sent < fewest; tick++) {
        due += period_ns;
        sleep_until(due);
        if (sheet->received < sheet->sent) continue;
        sheet->sent++;
        box->sent_ns = now_ns();
        ring(box);
    }
    box->over = 1;
    ring(box);
}

void futex_receive(mailbox *box, sheet *sheet) {
    uint32_t seen = 0;
    for (;;) {
        while (box->word == seen) syscall(SYS_futex, &box->word, FUTEX_WAIT, seen, NULL, NULL, 0);
        int64_t now = now_ns();
        seen = box->word;
        if (sheet->received < sheet->sent) {
            sheet->latency_ns[sheet->received] = now - box->sent_ns;
            sheet->received++;
        }
        if (box->over) return;
    }
}
