/* unit_queue: what each function of queue.h and bell.h promises while no other thread is at
 * work. */
#include "stress.h"

#include <signal.h>
#include <sys/time.h>

#define NS_PER_MS 1000000u

static void queue_cells(void) {
    EXPECT(pshm_queue_cells(0) == 0);
    EXPECT(pshm_queue_cells(1) == 1);
    EXPECT(pshm_queue_cells(2) == 2);
    EXPECT(pshm_queue_cells(3) == 4);
    EXPECT(pshm_queue_cells(PSHM_CELLS - 1) == PSHM_CELLS);
    EXPECT(pshm_queue_cells(PSHM_CELLS) == PSHM_CELLS);
    EXPECT(pshm_queue_cells(PSHM_CELLS + 1) == 0);
}

static void queue_fill(uint32_t capacity, uint32_t cells, uint64_t start) {
    pshm_queue queue = pshm_test_queue(capacity, cells, start);
    uint64_t cell = 77;
    EXPECT(!pshm_queue_pop(&queue, &cell));
    EXPECT(cell == 77);
    for (uint64_t round = 0; round < 3; round++) {
        for (uint32_t n = 0; n < capacity; n++) {
            EXPECT(pshm_queue_depth(&queue) == n);
            EXPECT(pshm_queue_push(&queue, round << 32 | n));
        }
        EXPECT(pshm_queue_depth(&queue) == capacity);
        EXPECT(!pshm_queue_push(&queue, UINT64_MAX));
        EXPECT(pshm_queue_depth(&queue) == capacity);
        for (uint32_t n = 0; n < capacity; n++)
            EXPECT(pshm_queue_pop(&queue, &cell) && cell == (round << 32 | n));
        EXPECT(!pshm_queue_pop(&queue, &cell));
        EXPECT(pshm_queue_depth(&queue) == 0);
    }
}

static void queue_full_and_empty(void) {
    queue_fill(1, 1, 0);
    queue_fill(3, 4, 0);
    queue_fill(4, 4, UINT32_MAX - 1);
    queue_fill(5, 8, UINT32_MAX - 2);
    queue_fill(4, 4, UINT64_MAX - 1);
}

static void queue_evict(void) {
    pshm_queue queue = pshm_test_queue(2, 2, 0);
    uint64_t cell;
    for (uint64_t n = 1; n <= 2; n++) EXPECT(pshm_queue_push(&queue, n));
    EXPECT(pshm_queue_pop(&queue, &cell) && cell == 1);
    EXPECT(pshm_queue_push(&queue, 3));
    EXPECT(!pshm_queue_push(&queue, 4));
    EXPECT(pshm_queue_pop(&queue, &cell) && cell == 2);
    EXPECT(pshm_queue_pop(&queue, &cell) && cell == 3);
}

static void queue_close(void) {
    pshm_queue queue = pshm_test_queue(2, 2, PSHM_TEST_START);
    uint64_t cell;
    EXPECT(!pshm_queue_finished(&queue));
    EXPECT(pshm_queue_push(&queue, 1) && pshm_queue_push(&queue, 2));
    pshm_queue_close(&queue);
    EXPECT(!pshm_queue_finished(&queue));
    EXPECT(pshm_queue_pop(&queue, &cell) && cell == 1);
    EXPECT(!pshm_queue_finished(&queue));
    EXPECT(pshm_queue_pop(&queue, &cell) && cell == 2);
    EXPECT(pshm_queue_finished(&queue));
    EXPECT(pshm_queue_finished(&queue)); /* sticky */
    pshm_queue_reopen(&queue);
    EXPECT(!pshm_queue_finished(&queue));
    EXPECT(pshm_queue_push(&queue, 3));
    EXPECT(pshm_queue_pop(&queue, &cell) && cell == 3);
    EXPECT(!pshm_queue_finished(&queue));
    pshm_queue_close(&queue);
    EXPECT(pshm_queue_finished(&queue)); /* an empty stream ends at once */
    pshm_queue_format(queue.words);
    EXPECT(!pshm_queue_finished(&queue) && pshm_queue_depth(&queue) == 0);
}

static void bell(void) {
    pshm_bell *bell = pshm_test_memory(sizeof *bell);
    pshm_bell_ring(bell); /* nobody waits, so the word stays as it is */
    EXPECT(atomic_load(&bell->word) == 0);
    pshm_bell_ring_always(bell);
    EXPECT(atomic_load(&bell->word) == 1);

    void (*const ringer[])(pshm_bell *) = {pshm_bell_ring, pshm_bell_ring_always};
    for (uint32_t n = 0; n < 2; n++) {
        uint32_t word = pshm_bell_arm(bell);
        ringer[n](bell);
        uint64_t started = pshm_now();
        EXPECT(pshm_bell_wait(bell, word, PSHM_TEST_PATIENCE_NS));
        CHECK(pshm_now() - started < PSHM_TEST_PATIENCE_NS, "slept through a ring");
        pshm_bell_disarm(bell);
    }
    EXPECT(atomic_load(&bell->word) == 3);
    pshm_bell_ring(bell);
    EXPECT(atomic_load(&bell->word) == 3);

    atomic_store(&bell->word, UINT32_MAX);
    uint32_t word = pshm_bell_arm(bell);
    EXPECT(word == UINT32_MAX);
    pshm_bell_ring(bell);
    EXPECT(atomic_load(&bell->word) == 0);
    EXPECT(pshm_bell_wait(bell, 0, NS_PER_MS)); /* nobody rings: the time runs out */
    EXPECT(pshm_bell_wait(bell, 0, 0));
}

static void on_alarm(int number) {
    (void)number;
}

static void bell_signal(void) {
    pshm_bell *bell = pshm_test_memory(sizeof *bell);
    struct sigaction action = {.sa_handler = on_alarm};
    struct sigaction before;
    struct itimerval often = {{0, 1000},
                              {0, 1000}}; /* more than one, since the first may come too early */
    struct itimerval never = {{0, 0}, {0, 0}};
    EXPECT(sigaction(SIGALRM, &action, &before) == 0);
    EXPECT(setitimer(ITIMER_REAL, &often, NULL) == 0);
    bool undisturbed = pshm_bell_wait(bell, pshm_bell_arm(bell), PSHM_TEST_PATIENCE_NS);
    EXPECT(setitimer(ITIMER_REAL, &never, NULL) == 0);
    EXPECT(sigaction(SIGALRM, &before, NULL) == 0);
    EXPECT(!undisturbed);
}

void pshm_unit_queue(void) {
    pshm_test_unit("queue: cells", queue_cells);
    pshm_test_unit("queue: full and empty", queue_full_and_empty);
    pshm_test_unit("queue: evict", queue_evict);
    pshm_test_unit("queue: close", queue_close);
    pshm_test_unit("bell: arm, ring, wait", bell);
    pshm_test_unit("bell: a signal", bell_signal);
}
