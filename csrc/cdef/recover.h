/* See csrc/recover.h. */
bool pshm_recover_receiver(pshm_process *process, uint32_t incarnation, uint64_t unsent);
void pshm_recover_edge(pshm_process *process, uint32_t incarnation);
void pshm_recover_handing(pshm_process *process, uint32_t incarnation);
bool pshm_recover_undrained(pshm_process *process, uint32_t incarnation);
void pshm_recover_owner(pshm_process *process, uint32_t ring);
bool pshm_port_recover_receiver(pshm_port *port, uint32_t incarnation);
void pshm_port_recover_sender(pshm_port *port, uint32_t place);
