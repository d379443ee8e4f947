/* See csrc/ring.h. */
#define PSHM_PRODUCER ...
#define PSHM_HOLDERS ...
#define PSHM_SLOTS ...
#define PSHM_NO_SLOT ...

uint32_t pshm_descriptor_ring(uint64_t descriptor);
uint32_t pshm_descriptor_slot(uint64_t descriptor);
uint32_t pshm_descriptor_generation(uint64_t descriptor);

typedef struct pshm_ring_head pshm_ring_head;
uint64_t pshm_ring_bytes(uint32_t slots, uint64_t slot_bytes);
void pshm_ring_format(pshm_ring_head *head, uint32_t index, uint32_t owner, uint32_t slots, uint64_t slot_bytes);

typedef struct { uint32_t slots; uint32_t owner; uint64_t slot_bytes; uint64_t payload_offset; ...; } pshm_ring;
bool pshm_ring_attach(pshm_ring *ring, pshm_ring_head *head, uint64_t bytes, uint32_t index);
uint32_t pshm_ring_sweep(pshm_ring *ring, uint32_t bits);
uint32_t pshm_ring_holders(const pshm_ring *ring, uint32_t slot);
uint32_t pshm_ring_used(const pshm_ring *ring);
uint32_t pshm_ring_count_holders(const pshm_ring *ring, uint32_t *counts);
