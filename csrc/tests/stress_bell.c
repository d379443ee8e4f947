/* stress_bell: one role arms its bell and looks while another publishes and rings.
 *
 * Nobody sleeps here, so the two meet millions of times. In each round, either the waiter's
 * look sees what was published, or its bell was rung after it was armed. If neither is so, a
 * wake was lost.
 */
#include "stress.h"

#include <inttypes.h>

#define BIT 2u
#define SKEW 64u         /* spins */
#define WASTE (1u << 18) /* words of 8 bytes: more than a near cache holds */
#define STORES 8u

/* What is published, in turn. */
enum { PUSH, CLOSE, POP, DROP, KINDS };
static const char *const kind_name[] = {"push", "close", "pop", "drop"};

typedef struct world {
    uint64_t rounds;
    pshm_queue queue; /* of capacity 1 */
    pshm_ring ring;   /* of one slot */
    uint64_t descriptor;
    pshm_bell bell;
    _Atomic uint64_t *waste;
    _Alignas(PSHM_CACHE_LINE) _Atomic uint64_t begun; /* rounds, by the waiter */
    _Alignas(PSHM_CACHE_LINE) _Atomic uint64_t ended; /* rounds, by the ringer */
} world;

typedef struct place {
    world *world;
    uint64_t round;
} place;

static bool look_begun(void *context) {
    place *own = context;
    return atomic_load(&own->world->begun) == own->round;
}

static bool look_ended(void *context) {
    place *own = context;
    return atomic_load(&own->world->ended) == own->round;
}

/* Varies the moment at which the two meet. Fills the store buffer with stores that miss the
 * cache, so that a store which lacks the fence that it needs is surely late. */
static void skew(world *world, uint64_t *random) {
    uint64_t spins = (pshm_test_next(random) >> 20) % SKEW;
    for (volatile uint64_t n = 0; n < spins; n++) continue;
    for (uint32_t n = 0; n < STORES; n++)
        atomic_store_explicit(&world->waste[(pshm_test_next(random) >> 20) % WASTE], n,
                              memory_order_relaxed);
}

/* Before a round: makes sure that there is nothing to see yet. */
static void prepare(world *world, uint64_t kind) {
    if (kind == POP) EXPECT(pshm_queue_push(&world->queue, 1));
    if (kind != DROP) return;
    world->descriptor = pshm_ring_alloc(&world->ring);
    EXPECT(world->descriptor != PSHM_NO_SLOT);
    EXPECT(pshm_ring_hold(&world->ring, world->descriptor, BIT));
    EXPECT(pshm_ring_drop(&world->ring, world->descriptor, PSHM_PRODUCER) == BIT);
}

static void publish(world *world, uint64_t kind) {
    uint64_t cell;
    if (kind == PUSH) EXPECT(pshm_queue_push(&world->queue, 1));
    if (kind == CLOSE) pshm_queue_close(&world->queue);
    if (kind == POP) EXPECT(pshm_queue_pop(&world->queue, &cell));
    if (kind == DROP) EXPECT(pshm_ring_drop(&world->ring, world->descriptor, BIT) == 0);
}

static bool look(world *world, uint64_t kind, uint64_t *found) {
    if (kind == PUSH) return pshm_queue_pop(&world->queue, found);
    if (kind == CLOSE) return pshm_queue_finished(&world->queue);
    if (kind == POP) return pshm_test_has_room(&world->queue);
    *found = pshm_ring_alloc(&world->ring);
    return *found != PSHM_NO_SLOT;
}

/* After a round: restores what was before it. */
static void restore(world *world, uint64_t kind, uint64_t found) {
    if (kind == CLOSE) pshm_queue_reopen(&world->queue);
    if (kind == DROP) EXPECT(pshm_ring_drop(&world->ring, found, PSHM_PRODUCER) == 0);
}

static void waiter(world *world) {
    uint64_t random = pshm_test_random(0);
    for (place own = {world, 1}; own.round <= world->rounds; own.round++) {
        uint64_t kind = own.round % KINDS;
        uint64_t found = 0;
        prepare(world, kind);
        atomic_store(&world->begun, own.round);
        skew(world, &random);
        uint32_t word = pshm_bell_arm(&world->bell);
        bool seen = look(world, kind, &found);
        pshm_test_spin(look_ended, &own, "the ringer is not done");
        CHECK(seen || atomic_load(&world->bell.word) != word,
              "round %" PRIu64 ": a %s was neither seen nor rung for", own.round,
              kind_name[kind]);
        pshm_bell_disarm(&world->bell);
        CHECK(seen || look(world, kind, &found), "round %" PRIu64 ": a %s had no effect",
              own.round, kind_name[kind]);
        restore(world, kind, found);
    }
}

static void ringer(world *world) {
    uint64_t random = pshm_test_random(1);
    for (place own = {world, 1}; own.round <= world->rounds; own.round++) {
        pshm_test_spin(look_begun, &own, "no round begins");
        skew(world, &random);
        publish(world, own.round % KINDS);
        pshm_bell_ring(&world->bell);
        atomic_store(&world->ended, own.round);
    }
}

static void role(void *shared, uint32_t number) {
    if (number == 0)
        waiter(shared);
    else
        ringer(shared);
}

void pshm_stress_bell(pshm_test_mode mode) {
    pshm_test_begin("bell: a look against a ring", mode);
    world *world = pshm_test_memory(sizeof *world);
    world->rounds = pshm_test_option.count * 2;
    world->waste = pshm_test_memory(WASTE * sizeof *world->waste);
    world->queue = pshm_test_queue(1, 1, PSHM_TEST_START);
    uint64_t bytes = pshm_ring_bytes(1, 1);
    pshm_ring_head *head = pshm_test_memory(bytes);
    pshm_ring_format(head, 0, 0, 1, 1);
    CHECK(pshm_ring_attach(&world->ring, head, bytes, 0), "attach refused");
    pshm_test_run(role, world, 2);
    pshm_test_passed();
}
