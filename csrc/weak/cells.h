/* cells: a ring of slots and two queues, for the programs that need no whole pipe. */
#ifndef PSHM_WEAK_CELLS_H
#define PSHM_WEAK_CELLS_H

#include "bell.h"
#include "queue.h"
#include "ring.h"
#include "weak.h"

#define CELLS_SLOT_BYTES 64u
#define CELLS 2u /* of each queue */

static struct {
    pshm_ring ring;
    uint8_t *payload;
    pshm_queue queue[2];
    pshm_bell *bell;
} cells;

/* Makes a ring of so many slots, and a bell. */
static void cells_make(uint32_t slots) {
    cells.ring.slot = weak_memory(slots * sizeof(pshm_slot));
    cells.ring.slots = slots;
    cells.ring.slot_bytes = CELLS_SLOT_BYTES;
    cells.payload = weak_memory(slots * CELLS_SLOT_BYTES);
    weak_payload(cells.payload, slots * CELLS_SLOT_BYTES, CELLS_SLOT_BYTES);
    cells.bell = weak_memory(sizeof *cells.bell);
}

static inline void cells_queue(unsigned n, uint32_t capacity) {
    pshm_queue_words *words = weak_memory(sizeof *words + CELLS * sizeof(uint64_t));
    pshm_queue_format(words);
    cells.queue[n].words = words;
    cells.queue[n].capacity = capacity;
    cells.queue[n].mask = CELLS - 1;
}

static inline uint64_t *cells_at(uint64_t descriptor) {
    return (uint64_t *)(cells.payload + pshm_descriptor_slot(descriptor) * CELLS_SLOT_BYTES);
}

static inline void cells_write(uint64_t descriptor, uint64_t value) {
    weak_write(cells_at(descriptor), value);
}

static inline uint64_t cells_read(uint64_t descriptor) {
    return weak_read(cells_at(descriptor));
}

#endif
