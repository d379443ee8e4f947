/* See csrc/lease.h. */
void pshm_process_release(pshm_process *process, uint64_t descriptor);
void pshm_release(void *address);
bool pshm_process_reference(pshm_process *process, const void *address, uint64_t bytes, uint64_t *descriptor,
                            uint64_t *offset);
void *pshm_process_share(pshm_process *process, const void *address, uint64_t bytes);
void *pshm_process_lend(pshm_process *process, uint64_t descriptor, uint64_t *bytes);
void *pshm_process_writable(pshm_process *process, uint32_t routine, const void *address, uint64_t bytes, uint32_t *ring);
uint32_t pshm_process_leases(pshm_process *process, uint32_t ring);
uint32_t pshm_process_leased(pshm_process *process, uint32_t ring);
uint32_t pshm_process_borrowed(const pshm_process *process, uint32_t incarnation);
