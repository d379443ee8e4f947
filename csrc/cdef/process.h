/* See csrc/process.h and csrc/mapping.h. */
typedef struct { pshm_control control; ...; } pshm_process;
pshm_process *pshm_process_open(void *memory, uint64_t bytes);
bool pshm_process_close(pshm_process *process);

typedef struct pshm_mapping { pshm_ring ring; ...; } pshm_mapping;
int pshm_process_map(pshm_process *process, uint32_t ring, uint64_t serial, int fd, uint64_t bytes, bool writable);
void pshm_process_prune(pshm_process *process);
pshm_mapping *pshm_process_find(pshm_process *process, uint32_t ring);
