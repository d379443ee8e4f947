/* See csrc/tickets.h. */
void pshm_tickets_read(const pshm_edge_record *record, uint64_t *announced, uint64_t *done);
void pshm_tickets_done(pshm_edge_record *record, uint64_t ticket);
uint64_t pshm_tickets_pushed(const pshm_edge_record *record);
void pshm_tickets_settle(pshm_edge_record *record);
