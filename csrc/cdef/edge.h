/* See csrc/edge.h. */
#define PSHM_LAST_BIT ...

typedef struct pshm_edge { uint32_t receiver; uint32_t mask; pshm_queue queue; ...; } pshm_edge;
void pshm_incarnation_format(pshm_incarnation_record *record, uint32_t edge, uint32_t bit);
void pshm_incarnation_mark(pshm_incarnation_record *record, uint32_t state);
uint32_t pshm_incarnation_state(const pshm_incarnation_record *record);
uint64_t pshm_handing_done(const pshm_edge_record *record);
uint64_t pshm_incarnation_name(const pshm_incarnation_record *record, uint32_t number);
bool pshm_edge_attach(pshm_edge *edge, const pshm_control *control, uint32_t number);
void pshm_edge_record_reach(pshm_edge_record *record, uint32_t owner);
bool pshm_edge_reaches(const pshm_edge *edge, uint32_t owner);
