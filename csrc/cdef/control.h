/* See csrc/control.h. */
#define PSHM_VERSION ...
#define PSHM_RINGS ...
#define PSHM_ROUTINES ...
#define PSHM_COUNTERS ...
#define PSHM_FREE ...
#define PSHM_LIVE ...
#define PSHM_SENDER_DEAD ...
#define PSHM_SWEPT ...
#define PSHM_SWEEPING ...
#define PSHM_TAKING_BACK ...
#define PSHM_GIVEN_UP ...

typedef struct pshm_edge_record {
    uint32_t sender;
    uint32_t receiver;
    uint32_t local;
    uint32_t policy;
    uint32_t capacity;
    uint32_t borrow_cap;
    uint64_t timeout_ns;
    uint32_t receiver_ended;
    uint32_t removed;
    uint32_t sender_failed;
    uint64_t reach[...];
    uint64_t sent;
    uint64_t dropped[...];
    uint64_t received;
    uint64_t private_bytes;
    uint64_t protocol_errors;
    uint64_t hop[...];
    ...;
} pshm_edge_record;

typedef struct pshm_incarnation_record { uint32_t edge; uint32_t bit; ...; } pshm_incarnation_record;

typedef struct pshm_routine_record {
    uint32_t state;
    uint32_t flow;
    uint64_t received;
    uint64_t sent;
    uint64_t errors;
    uint64_t logs_lost;
    uint64_t copied_bytes;
    uint64_t in_band_bytes;
    uint64_t busy_ns;
    uint64_t busy_since_ns;
    uint64_t handled;
    uint64_t sequence;
    uint64_t tickets;
    uint64_t lost_in_crash;
    uint64_t handling_since_ns;
    uint64_t shows;
    uint64_t held;
    uint64_t resumes;
    uint64_t kept;
    uint64_t counter[...];
    uint64_t age[...];
    ...;
} pshm_routine_record;

typedef struct pshm_flow_record {
    uint32_t state; int32_t pid; int32_t last_exit; uint32_t last_reason; uint64_t restarts; uint64_t started; ...;
} pshm_flow_record;

typedef struct {
    uint32_t flows; uint32_t routines; uint32_t edges; uint32_t incarnations; uint32_t cells; uint32_t incarnation_stride; ...;
} pshm_control;
typedef struct { ...; } pshm_control_head;
typedef struct pshm_control_size {
    uint32_t flows; uint32_t routines; uint32_t edges; uint32_t incarnations; uint32_t cells;
} pshm_control_size;
uint64_t pshm_control_bytes(const pshm_control_size *size);
void pshm_control_format(void *memory, const pshm_control_size *size, uint64_t budget);
pshm_flow_record *pshm_control_flow(const pshm_control *control, uint32_t number);
pshm_routine_record *pshm_control_routine(const pshm_control *control, uint32_t number);
pshm_edge_record *pshm_control_edge(const pshm_control *control, uint32_t number);
pshm_incarnation_record *pshm_control_incarnation(const pshm_control *control, uint32_t number);
void pshm_control_use(const pshm_control *control, uint32_t edges, uint32_t incarnations);
uint32_t pshm_control_edges_used(const pshm_control *control);
uint32_t pshm_control_incarnations_used(const pshm_control *control);
void pshm_step_set(pshm_routine_record *record, uint32_t word, uint64_t value);
uint64_t pshm_step_get(const pshm_routine_record *record, uint32_t word);
void pshm_control_ring(const pshm_control *control, uint32_t number);
