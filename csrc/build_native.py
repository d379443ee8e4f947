"""Builds `pipert_shm._native`, the binding of csrc/ (cffi, API mode).

The declarations below are the part of the headers that Python uses; the C compiler checks them against the headers.
"""

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
SOURCES = ["ring.c", "queue.c", "bell.c", "control.c", "process.c", "port.c", "send.c", "receive.c", "recover.c"]

DECLARATIONS = """
#define PSHM_PRODUCER ...
#define PSHM_GUARDED ...
#define PSHM_RINGS ...
#define PSHM_OUTS ...
#define PSHM_INS ...
#define PSHM_BUCKETS ...
#define PSHM_MESSAGE_BYTES ...
#define PSHM_MESSAGE_SLOTS ...
#define PSHM_OFFSET_BITS ...
#define PSHM_COUNTERS ...
#define PSHM_REASONS ...
#define PSHM_POLICY_DROP_OLDEST ...
#define PSHM_POLICY_DROP_NEWEST ...
#define PSHM_POLICY_BLOCK ...
#define PSHM_REASON_OLDEST ...
#define PSHM_REASON_NEWEST ...
#define PSHM_REASON_TIMEOUT ...
#define PSHM_REASON_NO_SLOT ...
#define PSHM_REASON_ENDED ...
#define PSHM_REASON_STOPPED ...
#define PSHM_REASON_ERROR ...
#define PSHM_REASON_CRASH ...
#define PSHM_REASON_EXPIRED ...
#define PSHM_REASON_JOIN ...
#define PSHM_FREE ...
#define PSHM_LIVE ...
#define PSHM_SENDER_DEAD ...
#define PSHM_SWEPT ...
#define PSHM_DRAINED ...
#define PSHM_LOST ...
#define PSHM_ARRAY ...
#define PSHM_LAYOUTS ...
#define PSHM_HEAD_SHIFT ...
#define PSHM_OK ...
#define PSHM_NOTICE ...
#define PSHM_TIMED_OUT ...
#define PSHM_CLOSED ...
#define PSHM_UNMAPPED ...
#define PSHM_FULL ...
#define PSHM_PROTOCOL ...

uint64_t pshm_histogram_value(uint32_t bucket);
void pshm_histogram_add(uint64_t *histogram, uint64_t ns);

uint64_t pshm_ring_bytes(uint32_t slots, uint64_t slot_bytes);
typedef struct pshm_ring_head pshm_ring_head;
void pshm_ring_format(pshm_ring_head *head, uint32_t index, uint32_t owner, uint32_t slots, uint64_t slot_bytes);

typedef struct { ...; } pshm_queue_words;
void pshm_queue_format(pshm_queue_words *words);

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

typedef struct pshm_incarnation_record { uint32_t state; uint32_t edge; uint32_t bit; ...; } pshm_incarnation_record;
void pshm_incarnation_format(pshm_incarnation_record *record, uint32_t edge, uint32_t bit);

typedef struct pshm_routine_record {
    uint32_t state;
    uint32_t flow;
    uint64_t received;
    uint64_t sent;
    uint64_t errors;
    uint64_t logs_lost;
    uint64_t copied_bytes;
    uint64_t in_band_bytes;
    uint64_t tickets;
    uint64_t busy_ns;
    uint64_t busy_since_ns;
    uint64_t handled;
    uint64_t sequence;
    uint64_t lost_in_crash;
    uint64_t handling_since_ns;
    uint64_t shows;
    uint64_t counter[...];
    uint64_t age[...];
    ...;
} pshm_routine_record;

typedef struct { ...; } pshm_queue;
typedef struct pshm_edge { uint32_t receiver; uint32_t mask; pshm_queue queue; ...; } pshm_edge;
typedef struct {
    uint32_t flows; uint32_t routines; uint32_t edges; uint32_t incarnations; uint32_t cells; ...;
} pshm_control;
typedef struct pshm_control_size {
    uint32_t flows; uint32_t routines; uint32_t edges; uint32_t incarnations; uint32_t cells;
} pshm_control_size;
uint64_t pshm_control_bytes(const pshm_control_size *size);
void pshm_control_format(void *memory, const pshm_control_size *size, uint64_t budget);
uint64_t pshm_control_left(const pshm_control *control);
bool pshm_control_spend(const pshm_control *control, uint32_t ring, uint64_t bytes);
pshm_incarnation_record *pshm_control_incarnation(const pshm_control *control, uint32_t number);
pshm_edge_record *pshm_control_edge(const pshm_control *control, uint32_t number);
pshm_routine_record *pshm_control_routine(const pshm_control *control, uint32_t number);
typedef struct pshm_flow_record {
    uint32_t state; int32_t pid; int32_t last_exit; uint64_t restarts; ...;
} pshm_flow_record;
pshm_flow_record *pshm_control_flow(const pshm_control *control, uint32_t number);
uint64_t pshm_control_unclaim_ring(const pshm_control *control, uint32_t owner);
void pshm_control_ring(const pshm_control *control, uint32_t number);
bool pshm_edge_attach(pshm_edge *edge, const pshm_control *control, uint32_t number);
bool pshm_edge_reaches(const pshm_edge *edge, uint32_t owner);
uint32_t pshm_control_claim_ring(const pshm_control *control, uint32_t owner, uint64_t *serial);
void pshm_control_publish_ring(const pshm_control *control, uint32_t ring);
void pshm_control_release_ring(const pshm_control *control, uint32_t ring);
uint64_t pshm_control_serial(const pshm_control *control, uint32_t ring);
uint32_t pshm_queue_depth(const pshm_queue *queue);
void pshm_queue_close(pshm_queue *queue);
void pshm_queue_reopen(pshm_queue *queue);

typedef struct { uint32_t slots; uint32_t owner; uint64_t slot_bytes; uint64_t payload_offset; ...; } pshm_ring;
bool pshm_ring_attach(pshm_ring *ring, pshm_ring_head *head, uint64_t bytes, uint32_t index);
typedef struct pshm_mapping { pshm_ring ring; ...; } pshm_mapping;
typedef struct { pshm_control control; ...; } pshm_process;
pshm_process *pshm_process_open(void *memory, uint64_t bytes);
bool pshm_process_close(pshm_process *process);
int pshm_process_map(pshm_process *process, uint32_t ring, uint64_t serial, int fd, uint64_t bytes, bool writable);
void pshm_process_prune(pshm_process *process);
pshm_mapping *pshm_process_find(pshm_process *process, uint32_t ring);
void pshm_process_release(pshm_process *process, uint64_t descriptor);
uint32_t pshm_process_borrowed(const pshm_process *process, uint32_t incarnation);
uint32_t pshm_process_leases(pshm_process *process, uint32_t ring);
uint32_t pshm_ring_used(const pshm_ring *ring);
uint32_t pshm_ring_sweep(pshm_ring *ring, uint32_t bits);
uint32_t pshm_ring_holders(const pshm_ring *ring, uint32_t slot);
void *pshm_process_writable(pshm_process *process, uint32_t routine, const void *address, uint64_t bytes, uint32_t *ring);
void *pshm_process_share(pshm_process *process, const void *address, uint64_t bytes);
void *pshm_process_lend(pshm_process *process, uint64_t descriptor, uint64_t *bytes);
uint32_t pshm_process_leased(pshm_process *process, uint32_t ring);
void pshm_release(void *address);
bool pshm_guard(int fd);
void pshm_unguard(int fd);

typedef struct pshm_post {
    uint64_t outs;
    uint64_t token;
    uint64_t message;
    uint32_t offered;
    uint32_t handled;
    uint64_t ticket;
    uint32_t slots;
    uint64_t slot[...];
    uint32_t lost;
    uint32_t lost_out[...];
    uint64_t lost_token[...];
    ...;
} pshm_post;

typedef struct pshm_delivery {
    uint32_t place;
    uint32_t local;
    uint64_t token;
    uint32_t unmapped;
    uint32_t over_cap;
    uint64_t received_ns;
    uint64_t sequence;
    uint64_t captured_ns;
    uint64_t sent_ns;
    uint32_t origin;
    uint32_t kind;
    uint32_t head;
    uint32_t slots;
    uint32_t body_bytes;
    uint8_t body[...];
    uint64_t slot[...];
    void *address[...];
    uint64_t slot_bytes[...];
    ...;
} pshm_delivery;

typedef struct { ...; } pshm_port;
pshm_port *pshm_port_open(pshm_process *process, uint32_t routine, uint32_t awaited);
void pshm_port_close(pshm_port *port);
uint32_t pshm_port_add_out(pshm_port *port, uint32_t incarnation);
void pshm_port_expect_in(pshm_port *port, uint32_t edge);
void pshm_port_remove_in(pshm_port *port, uint32_t edge);
uint32_t pshm_port_add_in(pshm_port *port, uint32_t incarnation);
void pshm_port_remove_out(pshm_port *port, uint32_t out);
void pshm_port_notify(pshm_port *port);
void pshm_port_end_call(pshm_port *port);
bool pshm_port_noticed(pshm_port *port);
int pshm_port_reserve(pshm_port *port, uint64_t outs, uint32_t ring, uint64_t *descriptor, void **address);
uint64_t pshm_port_refer(pshm_port *port, pshm_post *post, uint64_t outs, const void *address, uint64_t bytes);
bool pshm_process_reference(pshm_process *process, const void *address, uint64_t bytes, uint64_t *descriptor,
                            uint64_t *offset);
void pshm_tickets_read(const pshm_edge_record *record, uint64_t *announced, uint64_t *done);
void pshm_tickets_done(pshm_edge_record *record, uint64_t ticket);
uint64_t pshm_tickets_pushed(const pshm_edge_record *record);
void pshm_tickets_settle(pshm_edge_record *record);
void pshm_port_pause(pshm_port *port, uint32_t place, bool paused);
uint32_t pshm_port_choose(pshm_port *port, uint64_t outs);
int pshm_port_rest(pshm_port *port, uint64_t timeout_ns);
int pshm_port_await_room(pshm_port *port, uint64_t outs, uint64_t timeout_ns);
int pshm_port_send(pshm_port *port, pshm_post *post, uint32_t ring, uint64_t sequence, uint64_t captured_ns,
                   uint32_t origin, uint32_t kind, uint32_t head, const void *body, uint32_t bytes);
int pshm_port_resume(pshm_port *port, pshm_post *post);
int pshm_port_hand_over(pshm_port *port, pshm_post *post, uint64_t outs, uint64_t token, uint32_t handled);
void pshm_port_count_handed(pshm_port *port, const pshm_delivery *delivery, uint64_t sent_ns, uint64_t captured_ns);
void pshm_port_abandon(pshm_port *port, pshm_post *post, uint32_t reason);
int pshm_port_receive(pshm_port *port, pshm_delivery *delivery, uint64_t timeout_ns);
int pshm_port_take(pshm_port *port, pshm_delivery *delivery);
uint32_t pshm_delivery_learn(pshm_delivery *delivery, uint32_t kind, const void *text, uint32_t bytes,
                             uint64_t array_bytes);
void pshm_port_discard(pshm_port *port, pshm_delivery *delivery, uint32_t reason);
void pshm_port_disown(pshm_port *port, uint32_t edge, uint32_t reason);
void pshm_port_recover_sender(pshm_port *port, uint32_t place);
bool pshm_port_recover_receiver(pshm_port *port, uint32_t incarnation);
void pshm_port_discard_unread(pshm_port *port, uint32_t incarnation);
bool pshm_recover_receiver(pshm_process *process, uint32_t incarnation, uint64_t unsent);
void pshm_recover_edge(pshm_process *process, uint32_t incarnation);
void pshm_recover_owner(pshm_process *process, uint32_t ring);
void pshm_port_close_outs(pshm_port *port);
void pshm_port_end_ins(pshm_port *port);

void *mmap(void *address, size_t length, int protection, int flags, int fd, long offset);
int munmap(void *address, size_t length);
#define PROT_READ ...
#define PROT_WRITE ...
#define MAP_SHARED ...
"""

ffibuilder = FFI()
ffibuilder.cdef(DECLARATIONS)
ffibuilder.set_source(
    "pipert_shm._native",
    '#include <sys/mman.h>\n#include "recover.h"\n',
    sources=[f"csrc/{source}" for source in SOURCES],
    include_dirs=["csrc"],
    depends=[f"csrc/{header.name}" for header in HERE.glob("*.h")],
    extra_compile_args=["-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra"],
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
