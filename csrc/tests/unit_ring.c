/* unit_ring: what each function of ring.h promises while no other thread is at work. */
#include "stress.h"

#include <inttypes.h>

#define SLOTS 3u
#define SLOT_BYTES 100u
#define INDEX 5u
#define A 2u
#define B 4u

static pshm_ring_head *make_head(void) {
    pshm_ring_head *head = pshm_test_memory(pshm_ring_bytes(SLOTS, SLOT_BYTES));
    pshm_ring_format(head, INDEX, 9, SLOTS, SLOT_BYTES);
    return head;
}

static pshm_ring make_ring(void) {
    pshm_ring ring = {0};
    EXPECT(pshm_ring_attach(&ring, make_head(), pshm_ring_bytes(SLOTS, SLOT_BYTES), INDEX));
    return ring;
}

static void descriptor(void) {
    uint64_t d = pshm_descriptor(0xffff, 0, 0xfffffffe);
    EXPECT(pshm_descriptor_ring(d) == 0xffff);
    EXPECT(pshm_descriptor_slot(d) == 0);
    EXPECT(pshm_descriptor_generation(d) == 0xfffffffe);
    d = pshm_descriptor(1, 0xfffe, 0);
    EXPECT(pshm_descriptor_ring(d) == 1);
    EXPECT(pshm_descriptor_slot(d) == 0xfffe);
    EXPECT(pshm_descriptor_generation(d) == 0);
}

static void slot_word(void) {
    uint64_t word = pshm_slot_word(0xfffffffe, 0x80000001);
    EXPECT(pshm_slot_generation(word) == 0xfffffffe);
    EXPECT(pshm_slot_holders(word) == 0x80000001);
}

static void ring_bytes(void) {
    EXPECT(pshm_ring_bytes(1, 1) == 4096 + 1);
    EXPECT(pshm_ring_bytes(63, 4096) == 4096 + 63 * 4096);
    EXPECT(pshm_ring_bytes(64, 4096) == 2 * 4096 + 64 * 4096);
    EXPECT(pshm_ring_bytes(0xffff, 1ull << 40) > 0xffffull << 40);
    EXPECT(pshm_ring_bytes(0, 1) == 0);
    EXPECT(pshm_ring_bytes(1, 0) == 0);
    EXPECT(pshm_ring_bytes(0x10000, 1) == 0);
    EXPECT(pshm_ring_bytes(UINT32_MAX, 1) == 0);
    EXPECT(pshm_ring_bytes(1, (1ull << 40) + 1) == 0);
    EXPECT(pshm_ring_bytes(2, UINT64_MAX / 2 + 2) == 0);
    EXPECT(pshm_ring_bytes(1, UINT64_MAX) == 0);
}

static void ring_attach(void) {
    uint64_t bytes = pshm_ring_bytes(SLOTS, SLOT_BYTES);
    pshm_ring_head *head = make_head();
    pshm_ring ring;
    EXPECT(pshm_ring_attach(&ring, head, bytes, INDEX));
    EXPECT(ring.slot == head->slot);
    EXPECT(ring.slots == SLOTS);
    EXPECT(ring.slot_bytes == SLOT_BYTES);
    EXPECT(ring.index == INDEX);
    EXPECT(ring.owner == 9);
    EXPECT(ring.payload_offset == 4096);
    EXPECT(pshm_ring_used(&ring) == 0);
    EXPECT(pshm_ring_attach(&ring, head, bytes + 1, INDEX));

    EXPECT(!pshm_ring_attach(&ring, head, bytes - 1, INDEX));
    EXPECT(!pshm_ring_attach(&ring, head, sizeof *head, INDEX));
    EXPECT(!pshm_ring_attach(&ring, head, sizeof *head - 1, INDEX));
    EXPECT(!pshm_ring_attach(&ring, head, 0, INDEX));
    EXPECT(!pshm_ring_attach(&ring, head, bytes, INDEX + 1));

    head->magic++;
    EXPECT(!pshm_ring_attach(&ring, head, bytes, INDEX));
    head->magic--;
    head->index++;
    EXPECT(!pshm_ring_attach(&ring, head, bytes, INDEX));
    head->index--;
    EXPECT(pshm_ring_attach(&ring, head, bytes, INDEX));
}

static void ring_attach_geometry(void) {
    static const struct {
        uint32_t slots;
        uint64_t slot_bytes;
    } unsound[] = {
        {0, SLOT_BYTES},
        {SLOTS + 1, SLOT_BYTES},
        {0x10000, SLOT_BYTES},
        {UINT32_MAX, SLOT_BYTES},
        {SLOTS, 0},
        {SLOTS, SLOT_BYTES + 1},
        {SLOTS, UINT64_MAX},
        {2, UINT64_MAX / 2 + 2},
        {0x8000, 1ull << 49},
        {UINT32_MAX, UINT64_MAX},
        {0xffff, 1ull << 40},
    };
    uint64_t bytes = pshm_ring_bytes(SLOTS, SLOT_BYTES);
    pshm_ring_head *head = make_head();
    pshm_ring ring;
    for (uint32_t n = 0; n < sizeof unsound / sizeof unsound[0]; n++) {
        head->slots = unsound[n].slots;
        head->slot_bytes = unsound[n].slot_bytes;
        CHECK(!pshm_ring_attach(&ring, head, bytes, INDEX), "%" PRIu32 " slots of %" PRIu64,
              unsound[n].slots, unsound[n].slot_bytes);
    }
    head->slots = SLOTS;
    head->slot_bytes = SLOT_BYTES;
    head->payload_offset = UINT64_MAX;
    if (pshm_ring_attach(&ring, head, bytes, INDEX)) EXPECT(ring.payload_offset == 4096);
}

static void ring_alloc(void) {
    pshm_ring ring = make_ring();
    uint64_t taken[SLOTS];
    for (uint32_t n = 0; n < SLOTS; n++) {
        taken[n] = pshm_ring_alloc(&ring);
        EXPECT(taken[n] == pshm_descriptor(INDEX, n, 1));
        EXPECT(pshm_ring_holders(&ring, n) == PSHM_PRODUCER);
        EXPECT(pshm_ring_used(&ring) == n + 1);
    }
    EXPECT(pshm_ring_alloc(&ring) == PSHM_NO_SLOT);
    EXPECT(pshm_ring_drop(&ring, taken[1], PSHM_PRODUCER) == 0);
    EXPECT(pshm_ring_used(&ring) == SLOTS - 1);
    EXPECT(pshm_ring_alloc(&ring) == pshm_descriptor(INDEX, 1, 2));
    EXPECT(pshm_ring_alloc(&ring) == PSHM_NO_SLOT);
    /* a reader's bit alone keeps a slot, too */
    EXPECT(pshm_ring_hold(&ring, taken[0], A));
    EXPECT(pshm_ring_drop(&ring, taken[0], PSHM_PRODUCER) == A);
    EXPECT(pshm_ring_alloc(&ring) == PSHM_NO_SLOT);
}

static void ring_hold(void) {
    pshm_ring ring = make_ring();
    uint64_t d = pshm_ring_alloc(&ring);
    EXPECT(!pshm_ring_hold(&ring, d + 1, A));
    EXPECT(!pshm_ring_hold(&ring, d - 1, A));
    EXPECT(pshm_ring_holders(&ring, 0) == PSHM_PRODUCER);
    EXPECT(pshm_ring_hold(&ring, d, A));
    EXPECT(!pshm_ring_hold(&ring, d, A));
    EXPECT(!pshm_ring_hold(&ring, d, A | B));
    EXPECT(!pshm_ring_hold(&ring, d, PSHM_PRODUCER));
    EXPECT(pshm_ring_holders(&ring, 0) == (PSHM_PRODUCER | A));
    EXPECT(pshm_ring_hold(&ring, d, B | 1u << 31));
    EXPECT(pshm_ring_holders(&ring, 0) == (PSHM_PRODUCER | A | B | 1u << 31));

    EXPECT(pshm_ring_holds(&ring, d, A));
    EXPECT(!pshm_ring_holds(&ring, d, 8));
    EXPECT(!pshm_ring_holds(&ring, d + 1, A));
    EXPECT(!pshm_ring_hold(&ring, pshm_descriptor(INDEX, 1, 0), A)); /* no holder */
    EXPECT(pshm_ring_used(&ring) == 1);
}

static void ring_drop(void) {
    pshm_ring ring = make_ring();
    uint64_t d = pshm_ring_alloc(&ring);
    EXPECT(pshm_ring_hold(&ring, d, A));
    EXPECT(pshm_ring_drop(&ring, d, B) == UINT32_MAX);
    EXPECT(pshm_ring_drop(&ring, d + 1, A) == UINT32_MAX);
    EXPECT(pshm_ring_drop(&ring, d - 1, A) == UINT32_MAX);
    EXPECT(pshm_ring_holds(&ring, d, A));
    EXPECT(pshm_ring_holders(&ring, 0) == (PSHM_PRODUCER | A));
    EXPECT(pshm_ring_drop(&ring, d, PSHM_PRODUCER) == A);
    EXPECT(pshm_ring_drop(&ring, d, PSHM_PRODUCER) == UINT32_MAX);
    EXPECT(pshm_ring_drop(&ring, d, A) == 0);
    EXPECT(pshm_ring_drop(&ring, d, A) == UINT32_MAX);
    EXPECT(pshm_ring_used(&ring) == 0);
}

static void ring_sweep(void) {
    pshm_ring ring = make_ring();
    uint64_t taken[SLOTS];
    for (uint32_t n = 0; n < SLOTS; n++) taken[n] = pshm_ring_alloc(&ring);
    EXPECT(pshm_ring_hold(&ring, taken[0], A));
    EXPECT(pshm_ring_hold(&ring, taken[2], A | B));
    EXPECT(pshm_ring_drop(&ring, taken[0], PSHM_PRODUCER) == A);
    EXPECT(pshm_ring_sweep(&ring, A) == 2);
    EXPECT(pshm_ring_sweep(&ring, A) == 0);
    EXPECT(pshm_ring_holders(&ring, 0) == 0);
    EXPECT(pshm_ring_holders(&ring, 1) == PSHM_PRODUCER);
    EXPECT(pshm_ring_holds(&ring, taken[2], B)); /* its generation stands */
    EXPECT(pshm_ring_sweep(&ring, PSHM_PRODUCER | B) == 2);
    EXPECT(pshm_ring_used(&ring) == 0);
}

static void ring_count_holders(void) {
    pshm_ring ring = make_ring();
    uint32_t counts[PSHM_HOLDERS];
    uint64_t first = pshm_ring_alloc(&ring), second = pshm_ring_alloc(&ring);
    EXPECT(pshm_ring_hold(&ring, first, A | 1u << 31));
    EXPECT(pshm_ring_hold(&ring, second, A));
    EXPECT(pshm_ring_drop(&ring, second, PSHM_PRODUCER) == A);
    EXPECT(pshm_ring_count_holders(&ring, counts) == 2);
    for (uint32_t bit = 0; bit < PSHM_HOLDERS; bit++)
        EXPECT(counts[bit] == (bit == 1 ? 2 : bit == 0 || bit == 31 ? 1 : 0));
}

static void ring_generation_wrap(void) {
    pshm_ring ring = make_ring();
    atomic_store(&ring.slot[0].word, (uint64_t)UINT32_MAX << 32);
    uint64_t d = pshm_ring_alloc(&ring);
    EXPECT(d == pshm_descriptor(INDEX, 0, 0));
    EXPECT(!pshm_ring_hold(&ring, pshm_descriptor(INDEX, 0, UINT32_MAX), A));
    EXPECT(pshm_ring_hold(&ring, d, A));
    EXPECT(pshm_ring_holders(&ring, 0) == (PSHM_PRODUCER | A));
    EXPECT(pshm_ring_drop(&ring, d, PSHM_PRODUCER | A) == 0);
}

void pshm_unit_ring(void) {
    pshm_test_unit("descriptor", descriptor);
    pshm_test_unit("slot word", slot_word);
    pshm_test_unit("ring: bytes", ring_bytes);
    pshm_test_unit("ring: attach", ring_attach);
    pshm_test_unit("ring: attach, unsound geometry", ring_attach_geometry);
    pshm_test_unit("ring: alloc", ring_alloc);
    pshm_test_unit("ring: hold", ring_hold);
    pshm_test_unit("ring: drop", ring_drop);
    pshm_test_unit("ring: sweep", ring_sweep);
    pshm_test_unit("ring: count holders", ring_count_holders);
    pshm_test_unit("ring: generation wrap", ring_generation_wrap);
}
