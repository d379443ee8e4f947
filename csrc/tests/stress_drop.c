/* stress_drop: two roles change the same slot words at the same time.
 *
 * In each round, role 0 takes every slot and gives it two holders. Then both roles go through
 * the slots in lockstep, and each drops its own bit. Of the two drops of a slot, exactly one
 * must see that no holder is left.
 */
#include "stress.h"

#include <inttypes.h>

#define SLOTS 32u
#define OWN 2u     /* role 0's bit */
#define OTHER 4u   /* role 1's bit */
#define FURTHER 8u /* added by role 1 while role 0 drops */
#define GENERATION 0xfffffffcu

/* What role 1 does in a round. */
enum { DROP, HOLD, SWEEP, KINDS };

typedef struct world {
    uint64_t rounds;
    pshm_ring ring;
    _Alignas(PSHM_CACHE_LINE) _Atomic uint64_t begun; /* rounds, by role 0 */
    /* by role 1: rounds, and its drops of the latest that left no holder */
    _Alignas(PSHM_CACHE_LINE) _Atomic uint64_t ended;
    /* not atomic: only the slot words order its use in the next round */
    uint64_t descriptor[SLOTS];
} world;

/* The roles change their directions at different rates, so that they meet in every way. */
static uint32_t nth(uint64_t round, uint32_t role, uint32_t n) {
    bool backwards = round / KINDS >> role & 1;
    return backwards ? SLOTS - 1 - n : n;
}

/* Where a role is: the round, counted from 1. */
typedef struct place {
    world *world;
    uint64_t round;
    uint32_t last; /* own drops of this round that left no holder */
} place;

static void drop(place *own, uint64_t descriptor, uint32_t bit) {
    uint32_t left = pshm_ring_drop(&own->world->ring, descriptor, bit);
    CHECK(left != UINT32_MAX, "drop of bit %#" PRIx32 " refused", bit);
    if (left == 0) own->last++;
}

static bool look_begun(void *context) {
    place *own = context;
    return atomic_load(&own->world->begun) == own->round;
}

static bool look_ended(void *context) {
    place *own = context;
    /* relaxed, so as not to hide a slot word that orders too little */
    return atomic_load_explicit(&own->world->ended, memory_order_relaxed) / (SLOTS + 1) ==
           own->round;
}

static bool look_free(void *context) {
    place *own = context;
    return pshm_ring_used(&own->world->ring) == 0;
}

static void owner(world *world) {
    uint64_t random = pshm_test_random(0);
    for (place own = {world, 1, 0}; own.round <= world->rounds; own.round++, own.last = 0) {
        for (uint32_t n = 0; n < SLOTS; n++) {
            uint64_t descriptor = pshm_ring_alloc(&world->ring);
            CHECK(descriptor != PSHM_NO_SLOT, "no slot, round %" PRIu64, own.round);
            CHECK(pshm_ring_hold(&world->ring, descriptor, OWN | OTHER), "hold refused");
            world->descriptor[n] = descriptor;
        }
        CHECK(pshm_ring_alloc(&world->ring) == PSHM_NO_SLOT, "a held slot was taken");
        atomic_store(&world->begun, own.round);
        pshm_test_pause(&random);
        for (uint32_t n = 0; n < SLOTS; n++)
            drop(&own, world->descriptor[nth(own.round, 0, n)], OWN | PSHM_PRODUCER);
        pshm_test_spin(look_ended, &own, "role 1 is not done");
        pshm_test_spin(look_free, &own, "slots are held that all have dropped");
        uint64_t ended = atomic_load_explicit(&world->ended, memory_order_relaxed);
        uint32_t others = (uint32_t)(ended % (SLOTS + 1));
        CHECK(own.round % KINDS == SWEEP || own.last + others == SLOTS,
              "%" PRIu32 " + %" PRIu32 " last holders of %u slots", own.last, others, SLOTS);
    }
}

static void other(world *world) {
    for (place own = {world, 1, 0}; own.round <= world->rounds; own.round++, own.last = 0) {
        pshm_test_spin(look_begun, &own, "no round begins");
        uint64_t kind = own.round % KINDS;
        for (uint32_t n = 0; n < SLOTS; n++) {
            uint64_t descriptor = world->descriptor[nth(own.round, 1, n)];
            if (kind == SWEEP) {
                CHECK(pshm_ring_holds(&world->ring, descriptor, OTHER), "a bit is not set");
                continue;
            }
            if (kind == HOLD)
                CHECK(pshm_ring_hold(&world->ring, descriptor, FURTHER), "hold refused");
            drop(&own, descriptor, OTHER);
            if (kind == HOLD) drop(&own, descriptor, FURTHER);
        }
        if (kind == SWEEP)
            CHECK(pshm_ring_sweep(&world->ring, OTHER) == SLOTS, "the sweep missed a slot");
        atomic_store_explicit(&world->ended, own.round * (SLOTS + 1) + own.last,
                              memory_order_relaxed);
    }
}

static void role(void *shared, uint32_t number) {
    if (number == 0)
        owner(shared);
    else
        other(shared);
}

void pshm_stress_drop(pshm_test_mode mode) {
    pshm_test_begin("ring: two holders change one word", mode);
    world *world = pshm_test_memory(sizeof *world);
    world->rounds = pshm_test_option.count / 2 + KINDS;
    uint64_t bytes = pshm_ring_bytes(SLOTS, 1);
    pshm_ring_head *head = pshm_test_memory(bytes);
    pshm_ring_format(head, 0, 0, SLOTS, 1);
    for (uint32_t n = 0; n < SLOTS; n++)
        atomic_store(&head->slot[n].word, (uint64_t)GENERATION << 32);
    CHECK(pshm_ring_attach(&world->ring, head, bytes, 0), "attach refused");
    pshm_test_run(role, world, 2);
    pshm_test_passed();
}
