/* stress_drop: two roles change the same slot words at the same time.
 *
 * In each round role 0 takes every slot and gives each two holders; then both
 * roles go through the slots in lockstep, each dropping its own bit. Of the
 * two drops of a slot, exactly one must see that no holder is left.
 */
#include "stress.h"

#include <inttypes.h>

#define SLOTS 32u
#define OWN 2u     /* role 0's bit */
#define OTHER 4u   /* role 1's bit */
#define FURTHER 8u /* added by role 1 while role 0 drops */
#define GENERATION 0xfffffffcu

/* What role 1 does in a round. */
enum { DROP, DROP_BACKWARDS, HOLD, SWEEP, KINDS };

typedef struct world {
    uint64_t rounds;
    pshm_ring ring;
    _Atomic uint32_t cursor;
    _Alignas(PSHM_CACHE_LINE) _Atomic uint64_t begun; /* rounds, by role 0 */
    _Alignas(PSHM_CACHE_LINE) _Atomic uint64_t ended; /* rounds, by role 1 */
    uint32_t last[2]; /* drops of this round that left no holder, by role */
    uint64_t descriptor[SLOTS];
} world;

static void drop(world *world, uint32_t role, uint64_t descriptor, uint32_t bit) {
    uint32_t left = pshm_ring_drop(&world->ring, descriptor, bit);
    CHECK(left != UINT32_MAX, "drop of bit %#" PRIx32 " refused", bit);
    if (left == 0) world->last[role]++;
}

static void owner(world *world) {
    for (uint64_t round = 0; round < world->rounds; round++) {
        for (uint32_t n = 0; n < SLOTS; n++) {
            uint64_t descriptor = pshm_ring_alloc(&world->ring, &world->cursor);
            CHECK(descriptor != PSHM_NO_SLOT, "no slot, round %" PRIu64, round);
            CHECK(pshm_ring_hold(&world->ring, descriptor, OWN | OTHER), "hold refused");
            world->descriptor[n] = descriptor;
        }
        CHECK(pshm_ring_alloc(&world->ring, &world->cursor) == PSHM_NO_SLOT, "a held slot taken");
        world->last[0] = world->last[1] = 0;
        atomic_store(&world->begun, round + 1);
        for (uint32_t n = 0; n < SLOTS; n++)
            drop(world, 0, world->descriptor[n], OWN | PSHM_PRODUCER);
        pshm_test_meet(&world->ended, round + 1);
        CHECK(round % KINDS == SWEEP || world->last[0] + world->last[1] == SLOTS,
              "%" PRIu32 " + %" PRIu32 " last holders of %u slots", world->last[0],
              world->last[1], SLOTS);
        CHECK(pshm_ring_used(&world->ring) == 0, "slots still held, round %" PRIu64, round);
    }
}

static void other(world *world) {
    for (uint64_t round = 0; round < world->rounds; round++) {
        pshm_test_meet(&world->begun, round + 1);
        uint64_t kind = round % KINDS;
        if (kind == SWEEP)
            CHECK(pshm_ring_sweep(&world->ring, OTHER) == SLOTS, "the sweep missed a slot");
        for (uint32_t n = 0; n < SLOTS && kind != SWEEP; n++) {
            uint64_t descriptor = world->descriptor[kind == DROP_BACKWARDS ? SLOTS - 1 - n : n];
            if (kind == HOLD)
                CHECK(pshm_ring_hold(&world->ring, descriptor, FURTHER), "hold refused");
            drop(world, 1, descriptor, OTHER);
            if (kind == HOLD) drop(world, 1, descriptor, FURTHER);
        }
        atomic_store(&world->ended, round + 1);
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
    world->rounds = pshm_test_option.count * PSHM_TEST_BUSY / SLOTS + KINDS;
    uint64_t bytes = pshm_ring_bytes(SLOTS, 1);
    pshm_ring_head *head = pshm_test_memory(bytes);
    pshm_ring_format(head, 0, 0, SLOTS, 1);
    for (uint32_t n = 0; n < SLOTS; n++)
        atomic_store(&head->slot[n].word, (uint64_t)GENERATION << 32);
    CHECK(pshm_ring_attach(&world->ring, head, bytes, 0), "attach refused");
    pshm_test_run(role, world, 2);
    pshm_test_passed();
}
