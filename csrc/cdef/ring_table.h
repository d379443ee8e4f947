/* See csrc/ring_table.h. */
uint32_t pshm_serial_owner(uint64_t serial);
uint64_t pshm_control_left(const pshm_control *control);
bool pshm_control_spend(const pshm_control *control, uint32_t ring, uint64_t bytes);
uint32_t pshm_control_claim_ring(const pshm_control *control, uint32_t owner, uint64_t *serial);
void pshm_control_publish_ring(const pshm_control *control, uint32_t ring);
void pshm_control_release_ring(const pshm_control *control, uint32_t ring);
uint64_t pshm_control_unclaim_ring(const pshm_control *control, uint32_t owner);
uint32_t pshm_control_next_ring(const pshm_control *control, uint32_t ring);
uint64_t pshm_control_serial(const pshm_control *control, uint32_t ring);
