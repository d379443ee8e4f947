/* See csrc/receive.h and csrc/layout.h. Up to `body` all fields of a delivery are here, so that their offsets and
 * sizes can be asked of the binding. */
#define PSHM_LAYOUTS ...
#define PSHM_LAYOUT_BYTES ...
#define PSHM_HEAD_SHIFT ...

uint32_t pshm_array_layout(int status);
uint32_t pshm_array_head(int status);

typedef struct pshm_delivery {
    uint32_t place;
    uint32_t local;
    uint64_t token;
    uint64_t cell;
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
int pshm_port_receive(pshm_port *port, pshm_delivery *delivery, uint64_t timeout_ns);
int pshm_port_take(pshm_port *port, pshm_delivery *delivery);
void pshm_port_count_handed(pshm_port *port, const pshm_delivery *delivery, uint64_t sent_ns, uint64_t captured_ns);
void pshm_port_discard(pshm_port *port, pshm_delivery *delivery, uint32_t reason);
void pshm_port_disown(pshm_port *port, uint32_t edge, uint32_t reason);
uint32_t pshm_delivery_learn(pshm_delivery *delivery, uint32_t kind, const void *text, uint32_t bytes,
                             uint64_t array_bytes);
