/* stress_queue: cells go through queues, with a bell at each end.
 *
 * Role 0 receives from all queues, with one bell; each other role sends on a queue of its own.
 * Only the queue orders the accesses to the notes that go with the cells. If it orders too
 * little, the thread sanitizer reports a race.
 */
#include "stress.h"

#include <inttypes.h>

#define SENDERS 2u
#define NOTES 16u

typedef struct shape {
    const char *name;
    uint32_t senders;
    uint32_t capacity;
    uint32_t cells;
    bool evict; /* drop_oldest; else block */
} shape;

static const shape shapes[] = {
    {"queue: block, capacity 1", 1, 1, 1, false},
    {"queue: block, capacity 3 of 4 cells", 1, 3, 4, false},
    {"queue: block, two senders on one bell", 2, 4, 4, false},
    {"queue: drop_oldest, capacity 1", 1, 1, 1, true},
    {"queue: drop_oldest, capacity 5 of 8 cells", 1, 5, 8, true},
    {"queue: drop_oldest, two senders on one bell", 2, 2, 2, true},
};

typedef struct wire {
    pshm_queue queue;
    _Atomic uint8_t *taken;
    uint64_t evicted;
    uint64_t received;
    /* note[n % (capacity + 2)] goes with cell n, and is not atomic. When cell n - 1 was pushed,
     * cell n - 1 - capacity had been popped, and the note before that had been read. */
    uint64_t note[NOTES];
} wire;

typedef struct world {
    const shape *shape;
    uint64_t count; /* per sender */
    pshm_bell bell[SENDERS + 1];
    wire wire[SENDERS];
    _Atomic uint64_t begun; /* streams, by their sender */
    _Atomic uint64_t ended; /* streams, by their receiver */
} world;

static void send_blocking(wire *wire, pshm_bell *own, uint64_t n, uint64_t *random) {
    wire->note[n % (wire->queue.capacity + 2)] = pshm_test_pattern(n, 0);
    while (!pshm_queue_push(&wire->queue, n))
        pshm_test_await(own, pshm_test_has_room, &wire->queue, random);
}

static void send_evicting(wire *wire, uint64_t n, uint64_t *next_evicted) {
    while (!pshm_queue_push(&wire->queue, n)) {
        uint64_t oldest;
        if (!pshm_queue_pop(&wire->queue, &oldest)) continue; /* the receiver was quicker */
        CHECK(oldest >= *next_evicted && oldest < n,
              "evicted %" PRIu64 " before %" PRIu64 ", after %" PRIu64, oldest, n, *next_evicted);
        *next_evicted = oldest + 1;
        pshm_test_take(wire->taken, oldest);
        wire->evicted++;
    }
}

static void sender(world *world, uint32_t number) {
    wire *wire = &world->wire[number - 1];
    uint64_t random = pshm_test_random(number);
    uint64_t next_evicted = 0;
    for (uint64_t n = 0; n < world->count; n++) {
        if (world->shape->evict)
            send_evicting(wire, n, &next_evicted);
        else
            send_blocking(wire, &world->bell[number], n, &random);
        pshm_bell_ring(&world->bell[0]);
        pshm_test_pause(&random);
    }
    pshm_queue_close(&wire->queue);
    pshm_bell_ring(&world->bell[0]);
}

/* What the receiver's look found: a cell of a wire, or the end of all streams. */
typedef struct inbox {
    world *world;
    uint32_t from;
    uint64_t cell;
    bool ended;
} inbox;

static bool look(void *context) {
    inbox *in = context;
    in->ended = true;
    for (uint32_t n = 0; n < in->world->shape->senders; n++) {
        pshm_queue *queue = &in->world->wire[n].queue;
        in->from = n;
        if (pshm_queue_pop(queue, &in->cell)) {
            in->ended = false;
            return true;
        }
        if (!pshm_queue_finished(queue)) in->ended = false;
    }
    return in->ended;
}

static void receiver(world *world) {
    inbox in = {.world = world};
    uint64_t next[SENDERS] = {0};
    uint64_t random = pshm_test_random(0);
    for (;;) {
        pshm_test_await(&world->bell[0], look, &in, &random);
        if (in.ended) return;
        wire *wire = &world->wire[in.from];
        pshm_bell_ring(&world->bell[in.from + 1]);
        bool evict = world->shape->evict;
        CHECK(evict ? in.cell >= next[in.from] : in.cell == next[in.from],
              "cell %" PRIu64 " came where %" PRIu64 " was due", in.cell, next[in.from]);
        CHECK(in.cell < world->count, "cell %" PRIu64 " was never sent", in.cell);
        CHECK(evict || wire->note[in.cell % (wire->queue.capacity + 2)] ==
                           pshm_test_pattern(in.cell, 0),
              "the note of cell %" PRIu64 " is another's", in.cell);
        pshm_test_take(wire->taken, in.cell);
        wire->received++;
        next[in.from] = in.cell + 1;
        pshm_test_pause(&random);
    }
}

static void role(void *shared, uint32_t number) {
    if (number == 0)
        receiver(shared);
    else
        sender(shared, number);
}

static void run(const shape *shape) {
    world *world = pshm_test_memory(sizeof *world);
    world->shape = shape;
    uint64_t times = shape->evict ? PSHM_TEST_BUSY : 1;
    world->count = pshm_test_option.count * times / shape->senders;
    for (uint32_t n = 0; n < shape->senders; n++) {
        world->wire[n].queue = pshm_test_queue(shape->capacity, shape->cells, PSHM_TEST_START);
        world->wire[n].taken = pshm_test_memory(world->count + 1);
    }
    pshm_test_run(role, world, shape->senders + 1);
    for (uint32_t n = 0; n < shape->senders; n++) {
        wire *wire = &world->wire[n];
        CHECK(wire->received + wire->evicted == world->count,
              "%" PRIu64 " received and %" PRIu64 " evicted of %" PRIu64, wire->received,
              wire->evicted, world->count);
        CHECK(pshm_queue_depth(&wire->queue) == 0, "cells are left in queue %" PRIu32, n);
        pshm_test_all_taken(wire->taken, world->count);
    }
}

/* A role's look for the next step of the other role, in a row of short streams. */
typedef struct step {
    const _Atomic uint64_t *streams;
    uint64_t due;
} step;

static bool look_for_step(void *context) {
    step *own = context;
    return atomic_load(own->streams) == own->due;
}

static void send_streams(world *world) {
    pshm_queue *queue = &world->wire[0].queue;
    uint64_t random = pshm_test_random(1);
    for (uint64_t stream = 1; stream <= world->count; stream++) {
        atomic_store(&world->begun, stream);
        pshm_bell_ring(&world->bell[0]);
        for (uint64_t n = 0; n < stream % 3; n++) {
            CHECK(pshm_queue_push(queue, n), "an empty queue is full");
            pshm_bell_ring(&world->bell[0]);
        }
        pshm_test_pause(&random);
        pshm_queue_close(queue);
        pshm_bell_ring(&world->bell[0]);
        step ended = {&world->ended, stream};
        pshm_test_await(&world->bell[1], look_for_step, &ended, &random);
        pshm_queue_reopen(queue); /* both ends rest */
    }
}

static void receive_streams(world *world) {
    inbox in = {.world = world};
    uint64_t random = pshm_test_random(0);
    for (uint64_t stream = 1; stream <= world->count; stream++) {
        step begun = {&world->begun, stream};
        pshm_test_await(&world->bell[0], look_for_step, &begun, &random);
        for (uint64_t n = 0;; n++) {
            pshm_test_await(&world->bell[0], look, &in, &random);
            if (in.ended) {
                CHECK(n == stream % 3, "stream %" PRIu64 " ended after %" PRIu64, stream, n);
                break;
            }
            CHECK(in.cell == n, "cell %" PRIu64 " came where %" PRIu64 " was due", in.cell, n);
        }
        atomic_store(&world->ended, stream);
        pshm_bell_ring(&world->bell[1]);
    }
}

static void stream_role(void *shared, uint32_t number) {
    if (number == 0)
        receive_streams(shared);
    else
        send_streams(shared);
}

static void run_streams(void) {
    static const shape one = {.senders = 1};
    world *world = pshm_test_memory(sizeof *world);
    world->shape = &one;
    world->count = pshm_test_option.count / 2;
    world->wire[0].queue = pshm_test_queue(2, 2, PSHM_TEST_START);
    pshm_test_run(stream_role, world, 2);
}

void pshm_stress_queue(pshm_test_mode mode) {
    for (uint32_t n = 0; n < sizeof shapes / sizeof shapes[0]; n++) {
        pshm_test_begin(shapes[n].name, mode);
        run(&shapes[n]);
        pshm_test_passed();
    }
    pshm_test_begin("queue: close and reopen", mode);
    run_streams();
    pshm_test_passed();
}
